//! A disk that is full, and has room again.

use std::{
    fs::{self, File, OpenOptions, Permissions},
    io::{self, Write as _},
    os::{fd::AsRawFd as _, unix::fs::PermissionsExt as _},
    path::{Path, PathBuf},
    thread,
    time::Duration,
};

use flowprobe_tests::{
    collector::Received,
    judges::Directory,
    probe::{Probe, binary},
    sender::Sender,
    topology::{Pair, Wire},
};

use crate::{Result, SOON, assert_once, burst, bursts, send};

/// More than there is room for in a file that has just begun.
const BURSTS: u16 = 20;

/// Runs flowprobe with a small file system at a place, in the mount namespace that `ip netns exec`
/// gives it.
fn script(directory: &Directory, place: &Path) -> Result<PathBuf> {
    let path = directory.path().join("flowprobe.sh");
    let (place, binary) = (place.display(), binary()?);
    let text = format!(
        "#!/bin/sh\nmount -t tmpfs -o size=2m tmpfs {place}\nexec {} \"$@\"\n",
        binary.display()
    );
    fs::write(&path, text)?;
    fs::set_permissions(&path, Permissions::from_mode(0o755))?;
    Ok(path)
}

/// Takes all the room there is.
fn fill(path: &Path) -> Result {
    let mut file = OpenOptions::new().create_new(true).write(true).open(path)?;
    loop {
        match file.write(&[0; 4096]) {
            Ok(_) => {}
            Err(error) if error.kind() == io::ErrorKind::StorageFull => return Ok(()),
            Err(error) => return Err(error.into()),
        }
    }
}

#[test]
fn files_go_on_when_there_is_room_again_and_lose_nothing() -> Result {
    let pair = Pair::new(Wire::default())?;
    let sender = Sender::new(&pair.generator, Pair::GENERATOR)?;
    let place = Directory::new(&format!("{}-disk", pair.sensor.name()))?;
    let scripts = Directory::new(&format!("{}-scripts", pair.sensor.name()))?;
    let program = script(&scripts, place.path())?;
    let url = format!("file://{}/flows.ipfix", place.path().display());
    let to = ["-i", Pair::SENSOR, "-c", &url];
    let arguments = [&to[..], &SOON].concat();
    let mut probe = Probe::start_binary(&program, &pair.sensor, &arguments)?;
    // Its file system, which stays as long as this is open.
    let inside = place.path().strip_prefix("/")?;
    let disk = Path::new("/proc")
        .join(probe.pid().to_string())
        .join("root")
        .join(inside);
    let disk = File::open(disk)?;
    let disk = Path::new("/proc/self/fd").join(disk.as_raw_fd().to_string());
    // The file that is begun has room for the first ones of these.
    fill(&disk.join("ballast"))?;
    for number in 0..BURSTS {
        send(&sender, &burst(number))?;
        thread::sleep(Duration::from_millis(50));
    }
    probe.wait_for_log("No space left on device")?;
    fs::remove_file(disk.join("ballast"))?;
    probe.wait_for_log("collector can be reached again")?;
    send(&sender, &burst(BURSTS))?;
    let finished = probe.stop()?;
    finished.summary.assert_balanced();
    finished.summary.assert_nothing_lost();
    let report = &finished.summary.ledger.collectors[0];
    assert_eq!(report.sent, finished.summary.ledger.exported, "{report:?}");
    assert!(report.outages > 0, "{report:?}");
    let mut files = Vec::new();
    for entry in fs::read_dir(&disk)? {
        files.push(fs::read(entry?.path())?);
    }
    assert!(files.len() > 1, "a file for each session");
    assert_once(&Received::of_sessions(&files), &bursts(BURSTS + 1));
    Ok(())
}
