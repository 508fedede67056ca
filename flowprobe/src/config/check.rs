//! `flowprobe config check`.

use std::path::Path;

use super::{
    CommandLineError, Origin,
    merge::{merge, names_only, without_required},
};
use crate::cli::{Cli, Command, pcap_settings, run_settings};

/// Finds out what is wrong with a file, without looking at the machine. What has to be given for a
/// run (an interface) may be missing from it. Returns what is right and does nothing, a line each.
///
/// # Errors
/// All that is wrong, or else the first thing that does not go together.
pub fn check(path: &Path) -> Result<Vec<String>, CommandLineError> {
    let arguments = ["flowprobe", "run", "--config"].map(Into::into);
    let arguments = [&arguments[..], &[path.into()]].concat();
    let given = names_only().try_get_matches_from(&arguments)?;
    let (arguments, origin) = merge(&arguments, &given)?;
    let (_, cli) = without_required(arguments)?;
    go_together(cli, &origin)
}

/// Refuses options that do not go together, at their place in the file if they are from there.
/// Returns those that do nothing, a line each.
pub(super) fn go_together(cli: Cli, origin: &Origin) -> Result<Vec<String>, CommandLineError> {
    match cli.command {
        Command::Run(options) => match run_settings(*options) {
            Ok(settings) => Ok(origin.idle_templates(&settings.export)),
            Err(refusal) => Err(origin.blame(refusal)),
        },
        Command::Pcap(options) => match pcap_settings(*options) {
            Ok(settings) => Ok(origin.idle_templates(&settings.export)),
            Err(refusal) => Err(origin.blame(refusal)),
        },
        _ => Ok(Vec::new()),
    }
}
