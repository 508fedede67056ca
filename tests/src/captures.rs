//! Captures of the wild: those that `cargo xtask setup` fetched, and others of one's own.

use std::{
    env, fs,
    path::{Path, PathBuf},
};

use anyhow::{Context as _, Result, ensure};

/// Directories with further captures, separated by colons.
pub const MORE: &str = "FLOWPROBE_CAPTURES";

/// Where the fetched ones are.
#[must_use]
pub fn directory() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("../target/captures")
}

/// All captures, sorted.
///
/// # Errors
/// Where none were fetched.
pub fn all() -> Result<Vec<PathBuf>> {
    let fetched = directory();
    ensure!(
        fetched.is_dir(),
        "no captures in {}: run `cargo xtask setup`",
        fetched.display()
    );
    let more = env::var_os(MORE).unwrap_or_default();
    let mut open: Vec<PathBuf> = env::split_paths(&more).chain([fetched]).collect();
    open.retain(|directory| !directory.as_os_str().is_empty());
    let mut found = Vec::new();
    while let Some(path) = open.pop() {
        for entry in fs::read_dir(&path).with_context(|| path.display().to_string())? {
            let path = entry?.path();
            let extension = path.extension().and_then(|name| name.to_str());
            if path.is_dir() {
                open.push(path);
            } else if matches!(extension, Some("pcap" | "pcapng" | "cap")) {
                found.push(path);
            }
        }
    }
    found.sort_unstable();
    Ok(found)
}
