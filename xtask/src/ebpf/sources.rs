//! The manifest beside the object: a hash of each thing that it is made from.
//!
//! Lines as sha256sum writes them; what is not a whole file has a name that says which part it
//! is. Comment lines carry the versions of the toolchain.

use std::{
    collections::{BTreeMap, BTreeSet},
    fmt::Write as _,
    fs,
    path::{Path, PathBuf},
};

use anyhow::{Context as _, Result};
use sha2::{Digest as _, Sha256};

use crate::workspace::root;

const TOOLCHAIN: &str = "# toolchain: ";
const OBJECT: &str = "flowprobe.bpf.o";

/// The manifest of `object` and today's sources.
pub(super) fn manifest(toolchain: &str, object: &[u8]) -> Result<String> {
    let mut text = String::from("# Written by `cargo xtask build-ebpf`.\n");
    let _ = writeln!(text, "{TOOLCHAIN}{toolchain}");
    for (name, hash) in hashes(object)? {
        let _ = writeln!(text, "{hash}  {name}");
    }
    Ok(text)
}

/// The versions that a manifest records.
pub(super) fn toolchain(manifest: &str) -> Option<&str> {
    manifest
        .lines()
        .find_map(|line| line.strip_prefix(TOOLCHAIN))
}

/// What a manifest has recorded otherwise than it is now, or not at all, or is there no more.
pub(super) fn differing(manifest: &str, object: &[u8]) -> Result<Vec<String>> {
    let now = hashes(object)?;
    let recorded: BTreeMap<_, _> = manifest
        .lines()
        .filter(|line| !line.starts_with('#'))
        .filter_map(|line| line.split_once("  "))
        .map(|(hash, name)| (name, hash))
        .collect();
    let names: BTreeSet<&str> = now
        .keys()
        .map(String::as_str)
        .chain(recorded.keys().copied())
        .collect();
    Ok(names
        .into_iter()
        .filter(|name| now.get(*name).map(String::as_str) != recorded.get(name).copied())
        .map(String::from)
        .collect())
}

/// Names and hashes of all that decides about the object, but the toolchain.
fn hashes(object: &[u8]) -> Result<BTreeMap<String, String>> {
    let mut hashes = BTreeMap::new();
    let mut add = |name: String, octets: &[u8]| {
        let hash = Sha256::digest(octets);
        let hash = hash.iter().map(|octet| format!("{octet:02x}")).collect();
        hashes.insert(name, hash);
    };
    add(OBJECT.into(), object);

    let crate_root = root().join("flowprobe-ebpf");
    let mut files = vec![crate_root.join("Cargo.toml")];
    collect(&crate_root.join("src"), &mut files)?;
    for file in files {
        let octets = fs::read(&file).with_context(|| file.display().to_string())?;
        let name = file.strip_prefix(root())?;
        add(name.display().to_string(), &octets);
    }

    let workspace = fs::read_to_string(root().join("Cargo.toml"))?;
    for table in ["[profile.release]", "[profile.bpf]"] {
        let text = section(&workspace, table);
        add(format!("Cargo.toml {table}"), text.as_bytes());
    }
    let lock = fs::read_to_string(root().join("Cargo.lock"))?;
    let locked = locked(&lock, "flowprobe-ebpf");
    add("Cargo.lock of flowprobe-ebpf".into(), locked.as_bytes());
    Ok(hashes)
}

fn collect(directory: &Path, files: &mut Vec<PathBuf>) -> Result<()> {
    for entry in fs::read_dir(directory).with_context(|| directory.display().to_string())? {
        let path = entry?.path();
        if path.is_dir() {
            collect(&path, files)?;
        } else if path.extension().is_some_and(|extension| extension == "rs") {
            files.push(path);
        }
    }
    Ok(())
}

/// The lines of one table of a TOML file that mean something.
fn section(toml: &str, table: &str) -> String {
    toml.lines()
        .skip_while(|line| *line != table)
        .take_while(|line| *line == table || !line.starts_with('['))
        .filter(|line| !line.is_empty() && !line.starts_with('#'))
        .fold(String::new(), |text, line| text + line + "\n")
}

/// The entries of Cargo.lock of a package and of all that it depends on.
fn locked(lock: &str, package: &str) -> String {
    // A name may stand for several versions; all of them count.
    let mut entries: BTreeMap<&str, Vec<&str>> = BTreeMap::new();
    for entry in lock.split("[[package]]\n") {
        let name = entry.strip_prefix("name = \"");
        if let Some(name) = name.and_then(|rest| rest.split('"').next()) {
            entries.entry(name).or_default().push(entry.trim());
        }
    }
    let mut wanted = vec![package];
    let mut found = BTreeSet::new();
    while let Some(name) = wanted.pop() {
        for entry in entries.remove(name).unwrap_or_default() {
            // Dependencies stand on lines of their own: ` "name",` or ` "name version",`.
            let names = entry.lines().filter_map(|line| line.strip_prefix(" \""));
            wanted.extend(names.filter_map(|name| name.split(['"', ' ']).next()));
            found.insert(entry);
        }
    }
    found
        .into_iter()
        .fold(String::new(), |text, entry| text + entry + "\n\n")
}
