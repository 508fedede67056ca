//! Captures of the wild for the tests: those that Debian's packages have, in `target/captures`, and
//! kept for all clones.

use std::{
    fs,
    path::{Path, PathBuf},
    process::Command,
};

use anyhow::{Context as _, Result, bail, ensure};

use crate::{
    cache,
    workspace::{self, find},
};

/// Packages with captures: 1.5 MB of pcapng in every form, 0.2 MB of HTTP and DNS, 0.2 MB of RTP.
const PACKAGES: &[&str] = &[
    "golang-github-gopacket-gopacket-dev",
    "python3-dpkt",
    "sip-tester",
];

/// Sources with captures: 1.9 MB of protocols and link layers of all kinds.
const SOURCES: &[&str] = &["tcpdump"];

/// Of sources, captures of at least this many octets: tcpdump has hundreds with a packet or two.
const LEAST: u64 = 2048;

/// What the names of captures say that no network has sent, but a fuzzer has made.
const FUZZED: &[&str] = &[
    "asan", "bad", "corrupt", "crash", "heap", "invalid", "loop", "oobr", "overflow", "segv",
    "trunc", "uaf",
];

/// Fetches what is not there yet.
pub(crate) fn fetch() -> Result<()> {
    let cache = cache::directory().join("captures");
    fetch_to(&cache)?;
    let directory = workspace::root().join("target/captures");
    for name in [PACKAGES, SOURCES].concat() {
        let place = directory.join(name);
        if !place.is_dir() {
            let part = directory.join("part");
            let _ = fs::remove_dir_all(&part);
            fs::create_dir_all(&directory)?;
            workspace::run(
                Command::new("cp")
                    .arg("-r")
                    .arg(cache.join(name))
                    .arg(&part),
            )?;
            fs::rename(&part, &place)?;
        }
    }
    Ok(())
}

fn fetch_to(directory: &Path) -> Result<()> {
    let is_missing = |name: &&&str| !directory.join(name).is_dir();
    let packages: Vec<_> = PACKAGES.iter().filter(is_missing).collect();
    let sources: Vec<_> = SOURCES.iter().filter(is_missing).collect();
    if packages.is_empty() && sources.is_empty() {
        return Ok(());
    }
    if find("apt-get").is_none() {
        bail!(
            "the tests need the captures of {}; there is no apt-get here to fetch them",
            [PACKAGES, SOURCES].concat().join(" ")
        );
    }
    // What was broken off starts anew.
    let work = directory.join("work");
    let _ = fs::remove_dir_all(&work);
    for package in packages {
        println!("fetching captures of the package {package}");
        let files = work.join(package);
        fs::create_dir_all(&files)?;
        download(package, &work)?;
        let archive = fetched(&work, &format!("{package}_"), ".deb")?;
        workspace::run(Command::new("dpkg-deb").arg("-x").arg(archive).arg(&files))?;
        keep(&files, &directory.join(package), |_, _| true)?;
    }
    if !sources.is_empty() {
        let apt = lists_of_sources(&work)?;
        for source in sources {
            println!("fetching captures of the source of {source}");
            let files = work.join(source);
            fs::create_dir_all(&files)?;
            let mut get = Command::new("apt-get");
            get.args(&apt)
                .args(["source", "--quiet", "--download-only", source]);
            workspace::run(get.current_dir(&work))?;
            let archive = fetched(&work, &format!("{source}_"), ".orig.tar.")?;
            let mut tar = Command::new("tar");
            workspace::run(tar.arg("-xf").arg(archive).arg("-C").arg(&files))?;
            keep(&files, &directory.join(source), |name, octets| {
                octets >= LEAST && !FUZZED.iter().any(|word| name.contains(word))
            })?;
        }
    }
    Ok(fs::remove_dir_all(&work)?)
}

/// Downloads a package; with newer lists if those at hand are of no use.
fn download(package: &str, to: &Path) -> Result<()> {
    let get = || {
        let mut get = Command::new("apt-get");
        get.args(["download", "--quiet", package]).current_dir(to);
        workspace::run(&mut get)
    };
    if get().is_ok() {
        return Ok(());
    }
    workspace::run(Command::new("apt-get").args(["update", "--quiet"]))?;
    get()
}

/// The machine's lists are of packages only. These arguments give apt-get lists of sources, from
/// the same places, that the machine does not keep.
fn lists_of_sources(work: &Path) -> Result<Vec<String>> {
    let lists = work.join("lists");
    fs::create_dir_all(lists.join("partial"))?;
    let parts = work.join("sources.list.d");
    fs::create_dir_all(&parts)?;
    let mut given = vec![PathBuf::from("/etc/apt/sources.list")];
    if let Ok(entries) = fs::read_dir("/etc/apt/sources.list.d") {
        given.extend(entries.flatten().map(|entry| entry.path()));
    }
    for (number, path) in given.iter().enumerate() {
        let Ok(text) = fs::read_to_string(path) else {
            continue;
        };
        let (text, extension) = match path.extension().and_then(|name| name.to_str()) {
            Some("sources") => (of_stanzas(&text), "sources"),
            Some("list") => (of_lines(&text), "list"),
            _ => continue,
        };
        fs::write(parts.join(format!("{number}.{extension}")), text)?;
    }
    let arguments = vec![
        format!("-oDir::State::Lists={}", lists.display()),
        "-oDir::Etc::sourcelist=/dev/null".to_owned(),
        format!("-oDir::Etc::sourceparts={}", parts.display()),
        format!("-oDir::Cache={}", work.join("cache").display()),
    ];
    let mut update = Command::new("apt-get");
    workspace::run(update.args(&arguments).args(["update", "--quiet"]))?;
    Ok(arguments)
}

/// Whether a place is one of Debian's: others hardly have sources.
fn is_debian(place: &&str) -> bool {
    place.contains("/debian")
}

/// In the form of deb822: the line `Types`.
fn of_stanzas(text: &str) -> String {
    let line = |line: &str| match line.starts_with("Types:") {
        true => "Types: deb-src\n".to_owned(),
        false => format!("{line}\n"),
    };
    let stanza = |stanza: &str| stanza.lines().map(line).collect::<String>() + "\n";
    text.split("\n\n").filter(is_debian).map(stanza).collect()
}

/// In the form of lines: the first word.
fn of_lines(text: &str) -> String {
    let places = text.lines().filter(is_debian);
    let packages = places.filter_map(|line| line.strip_prefix("deb "));
    packages.map(|rest| format!("deb-src {rest}\n")).collect()
}

/// The file in `directory` of which this is the start and that a part.
fn fetched(directory: &Path, start: &str, part: &str) -> Result<PathBuf> {
    for entry in fs::read_dir(directory)? {
        let path = entry?.path();
        let name = path.file_name().unwrap_or_default().to_string_lossy();
        if name.starts_with(start) && name.contains(part) && !name.ends_with(".asc") {
            return Ok(path);
        }
    }
    bail!("apt-get did not fetch {start}…{part}")
}

/// Copies the captures in `from` to a new directory.
fn keep(from: &Path, to: &Path, wanted: impl Fn(&str, u64) -> bool) -> Result<()> {
    let unfinished = from.join("captures-kept");
    fs::create_dir_all(&unfinished)?;
    let mut open = vec![from.to_owned()];
    let mut kept = 0;
    while let Some(directory) = open.pop() {
        for entry in fs::read_dir(directory)? {
            let entry = entry?;
            let path = entry.path();
            if entry.file_type()?.is_dir() && path != unfinished {
                open.push(path);
                continue;
            }
            let extension = path.extension().and_then(|name| name.to_str());
            let is_capture = matches!(extension, Some("pcap" | "pcapng" | "cap"));
            let name = entry.file_name().to_string_lossy().into_owned();
            if is_capture && entry.file_type()?.is_file() && wanted(&name, entry.metadata()?.len())
            {
                // The directories of a suite have files of the same name.
                fs::copy(&path, unfinished.join(format!("{kept:03}-{name}")))?;
                kept += 1;
            }
        }
    }
    ensure!(kept > 0, "there is no capture in {}", from.display());
    fs::rename(&unfinished, to).with_context(|| format!("cannot make {}", to.display()))
}
