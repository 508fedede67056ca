//! Joins the options of a file with those of the command line.

use std::{ffi::OsString, path::PathBuf};

use clap::{
    Arg, ArgMatches, CommandFactory as _, FromArgMatches as _, Parser as _, parser::ValueSource,
};

use super::{
    Errors, File, Item, Of, Place, Setting,
    error::{Error, Problem},
    file::exclude,
    keys::{CONFIG, Key, Keys},
};
use crate::{
    cli::{Cli, SettingsError},
    export,
};

/// What was asked for, by command line and file together.
#[derive(Debug)]
pub struct CommandLine {
    /// As if all of it had been on the command line.
    pub cli: Cli,
    /// What of it is in a file.
    pub origin: Origin,
}

/// What comes from a file.
#[derive(Debug, Default)]
pub struct Origin {
    /// The file.
    pub file: Option<PathBuf>,
    /// What of it counts.
    pub taken: Vec<Setting>,
    /// What of it is for another command.
    pub idle: Vec<Setting>,
}

/// Why it is not clear what was asked for.
#[derive(Debug, thiserror::Error)]
pub enum CommandLineError {
    /// The command line; or a call for help.
    #[error(transparent)]
    Options(#[from] clap::Error),
    /// The file.
    #[error(transparent)]
    File(#[from] Errors),
    /// Options that do not go together.
    #[error(transparent)]
    Settings(#[from] SettingsError),
}

/// Reads a command line, its own name first, and the file that it names.
///
/// # Errors
/// Bad options, bad files, and --help.
pub fn command_line(arguments: &[OsString]) -> Result<CommandLine, CommandLineError> {
    let given = match names_only().try_get_matches_from(arguments) {
        Ok(given) => given,
        // With all that is required, for the usage in --help.
        Err(error) => return Err(Cli::try_parse_from(arguments).err().unwrap_or(error).into()),
    };
    let (arguments, origin) = merge(arguments, &given)?;
    let cli = Cli::try_parse_from(arguments)?;
    Ok(CommandLine { cli, origin })
}

/// The command line's definition, without what is required: a file may have it.
fn relaxed(each: impl Fn(Arg) -> Arg) -> clap::Command {
    let mut cli = Cli::command();
    for of in Of::ALL {
        cli = cli.mut_subcommand(of.name(), |command| {
            command.mut_args(|option| each(option.required(false)))
        });
    }
    cli
}

/// The same, to see which options are given: their values are not judged yet. A parser may read a
/// pipe (`--sample-key @/dev/stdin`), which can be done once.
pub(super) fn names_only() -> clap::Command {
    relaxed(|option| match option.get_action().takes_values() {
        true => option.value_parser(clap::value_parser!(OsString)),
        false => option,
    })
}

/// Puts what the file has and the command line has not in front of the command's options.
pub(super) fn merge(
    arguments: &[OsString],
    given: &ArgMatches,
) -> Result<(Vec<OsString>, Origin), Errors> {
    let command = given.subcommand();
    let command = command.and_then(|(name, given)| Some((Of::named(name)?, given)));
    let path =
        command.and_then(|(of, given)| Some((of, given, given.get_one::<OsString>(CONFIG)?)));
    let Some((of, given, path)) = path else {
        return Ok((arguments.to_vec(), Origin::default()));
    };
    let path = PathBuf::from(path);
    let (keys, file) = (Keys::all(), File::read(&path)?);
    let by_hand: Vec<&Key> = keys
        .0
        .iter()
        .filter(|key| is_given(key, of, given))
        .collect();
    let mut origin = Origin {
        file: Some(path),
        ..Origin::default()
    };
    let mut options = Vec::new();
    for setting in file.settings {
        let key = keys.find(&setting.key).expect("the file has been checked");
        if key.option_of(of).is_none() {
            // A switch that is off does nothing anywhere.
            if !matches!(setting.item, Item::Switch(false)) {
                origin.idle.push(setting);
            }
            continue;
        }
        let wins = |other: &&Key| other.name == key.name || exclude(other, key);
        if by_hand.iter().any(wins) {
            continue;
        }
        match &setting.item {
            Item::Switch(on) => options.extend(on.then(|| format!("--{}", key.name))),
            Item::Values(values) => {
                options.extend(values.iter().map(|value| format!("--{}={value}", key.name)));
            }
        }
        origin.taken.push(setting);
    }
    // No option stands before the command: clap takes --help and --version only, and ends there.
    // The first word is the program, whatever its name.
    let at = arguments.iter().skip(1).position(|word| word == of.name());
    let (before, behind) = arguments.split_at(at.map_or(arguments.len(), |at| at + 2));
    let options = options.into_iter().map(OsString::from);
    let all = before.iter().cloned().chain(options);
    Ok((all.chain(behind.iter().cloned()).collect(), origin))
}

/// Whether it is on the command line.
pub(super) fn is_given(key: &Key, of: Of, given: &ArgMatches) -> bool {
    key.option_of(of).is_some_and(|option| {
        given.value_source(option.get_id().as_str()) == Some(ValueSource::CommandLine)
    })
}

/// What these options would be, though what is required may be missing.
pub(super) fn without_required(arguments: Vec<OsString>) -> Result<(ArgMatches, Cli), clap::Error> {
    let matches = relaxed(|option| option).try_get_matches_from(arguments)?;
    let cli = Cli::from_arg_matches(&matches)?;
    Ok((matches, cli))
}

impl Origin {
    /// The setting of this key, where the file has it and it counts.
    #[must_use]
    pub fn setting(&self, key: &str) -> Option<&Setting> {
        self.taken.iter().find(|setting| setting.key == key)
    }

    /// Says which keys of the file are for another command, in one line.
    #[must_use]
    pub fn idle(&self) -> Option<String> {
        let file = self.file.as_ref()?.display();
        let keys: Vec<_> = self.idle.iter().map(|one| one.key.as_str()).collect();
        (!keys.is_empty()).then(|| format!("{file}: not for this command: {}", keys.join(", ")))
    }

    /// Names the place in the file, where a refusal is about what stands there.
    #[must_use]
    pub fn blame(&self, refusal: SettingsError) -> CommandLineError {
        match (&self.file, self.place(refusal.option(), refusal.value())) {
            (Some(file), Some(place)) => CommandLineError::File(Errors(vec![Error {
                file: file.clone(),
                place: Some(place),
                problem: Problem::Settings { refusal },
            }])),
            _ => CommandLineError::Settings(refusal),
        }
    }

    /// Where a key stands, or one of its values, if the file has it and it counts.
    fn place(&self, key: &str, value: Option<usize>) -> Option<Place> {
        let setting = self.setting(key)?;
        let value = value.and_then(|value| setting.values.get(value));
        Some(*value.unwrap_or(&setting.place))
    }

    /// Says which templates no collector asks for, in one line each.
    #[must_use]
    pub fn idle_templates(&self, settings: &export::Settings) -> Vec<String> {
        let said = |i: usize| {
            let name = &settings.content.templates[i].name;
            let cure = format!("write ?template={name} behind a URL, or leave it out");
            let idle = format!("no collector asks for template {name}: {cure}");
            match (&self.file, self.place("template", Some(i))) {
                (Some(file), Some(Place { line, column })) => {
                    format!("{}:{line}:{column}: template: {idle}", file.display())
                }
                _ => idle,
            }
        };
        settings.idle_templates().map(said).collect()
    }
}
