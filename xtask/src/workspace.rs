//! Where things are, and how commands are run.

use std::{
    env,
    ffi::{OsStr, OsString},
    fmt::Write as _,
    path::{Path, PathBuf},
    process::{Command, Stdio},
};

use anyhow::{Context as _, Result, bail, ensure};

/// The root of the workspace.
pub(crate) fn root() -> &'static Path {
    Path::new(env!("CARGO_MANIFEST_DIR"))
        .parent()
        .expect("xtask is a member of the workspace")
}

/// Where cargo writes what it builds.
pub(crate) fn target() -> PathBuf {
    env::var_os("CARGO_TARGET_DIR").map_or_else(|| root().join("target"), PathBuf::from)
}

/// Where cargo keeps downloaded sources and installed commands.
pub(crate) fn cargo_home() -> PathBuf {
    env::var_os("CARGO_HOME").map_or_else(
        || PathBuf::from(env::var_os("HOME").unwrap_or_default()).join(".cargo"),
        PathBuf::from,
    )
}

/// The cargo that runs this program, in the workspace.
///
/// Its own directory comes first on the path: a Debian machine with the eBPF toolchain has a
/// second rustc in /usr/bin, which must not become the one that builds for the host.
pub(crate) fn cargo() -> Command {
    let cargo = env::var_os("CARGO").unwrap_or_else(|| env!("CARGO").into());
    let mut command = Command::new(&cargo);
    command.current_dir(root());
    // What `cargo run` set for this program is not meant for the next build.
    for name in ["CARGO_MANIFEST_DIR", "CARGO_PKG_NAME"] {
        command.env_remove(name);
    }
    if let Some(bin) = Path::new(&cargo).parent().filter(|bin| bin.is_absolute()) {
        let path = prepend(&command, &[bin.to_owned(), cargo_home().join("bin")]);
        command.env("PATH", path);
    }
    command
}

/// The `PATH` that `command` would run with, with `first` before it.
pub(crate) fn prepend(command: &Command, first: &[PathBuf]) -> OsString {
    let set = command.get_envs().find(|(name, _)| *name == "PATH");
    let rest = match set {
        Some((_, Some(path))) => path.to_owned(),
        _ => env::var_os("PATH").unwrap_or_default(),
    };
    let all = first.iter().cloned().chain(env::split_paths(&rest));
    env::join_paths(all).unwrap_or(rest)
}

/// Looks a command up on the path and in cargo's directory of installed commands.
pub(crate) fn find(name: &str) -> Option<PathBuf> {
    let path = env::var_os("PATH").unwrap_or_default();
    env::split_paths(&path)
        .chain([cargo_home().join("bin")])
        .map(|directory| directory.join(name))
        .find(|file| file.is_file())
}

/// Runs a command; its output goes where ours goes.
pub(crate) fn run(command: &mut Command) -> Result<()> {
    let status = command
        .status()
        .with_context(|| format!("cannot run {}", shown(command)))?;
    ensure!(status.success(), "{} failed: {status}", shown(command));
    Ok(())
}

/// Runs a command and returns what it printed.
pub(crate) fn output(command: &mut Command) -> Result<String> {
    let output = command
        .stderr(Stdio::inherit())
        .output()
        .with_context(|| format!("cannot run {}", shown(command)))?;
    if !output.status.success() {
        bail!("{} failed: {}", shown(command), output.status);
    }
    Ok(String::from_utf8(output.stdout)?.trim_end().to_owned())
}

fn shown(command: &Command) -> String {
    let name = Path::new(command.get_program());
    let name = name.file_name().unwrap_or(name.as_os_str());
    let mut text = name.to_string_lossy().into_owned();
    for arg in command.get_args().map(OsStr::to_string_lossy) {
        let _ = write!(text, " {arg}");
    }
    text
}
