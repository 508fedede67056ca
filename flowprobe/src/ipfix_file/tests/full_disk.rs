//! A disk that is full: nothing but the message that did not fit is missing, and later messages
//! are written again.

use std::{ffi::CString, fs, io, os::unix::fs::MetadataExt as _, path::Path, ptr, thread};

use super::{Scratch, session};
use crate::{
    ipfix::tests::sample::many,
    ipfix_file::{Part, Pattern, Reader, Rotation, Series},
};

/// Runs `test` in a mount namespace with a file system of `octets` at the path it is given.
/// Returns false where that takes a privilege that is not there.
pub(crate) fn on_small_disk(octets: u64, test: impl FnOnce(&Path) + Send + 'static) -> bool {
    let run = move || {
        let scratch = Scratch::new();
        // SAFETY: this thread leaves the namespace of the others; nothing else changes.
        if unsafe { libc::unshare(libc::CLONE_NEWNS) } != 0 {
            let error = io::Error::last_os_error();
            eprintln!("skipped: no mount namespace can be made: {error}");
            return false;
        }
        let (root, tmpfs) = (c"/".as_ptr(), c"tmpfs".as_ptr());
        let target = CString::new(scratch.path().to_str().expect("UTF-8")).expect("no zero");
        let options = CString::new(format!("size={octets}")).expect("no zero");
        let private = libc::MS_REC | libc::MS_PRIVATE;
        // SAFETY: all strings end in a zero octet and outlive the calls.
        unsafe {
            let done = libc::mount(ptr::null(), root, ptr::null(), private, ptr::null());
            assert_eq!(done, 0, "{}", io::Error::last_os_error());
            let (target, options) = (target.as_ptr(), options.as_ptr().cast());
            let done = libc::mount(tmpfs, target, tmpfs, 0, options);
            assert_eq!(done, 0, "{}", io::Error::last_os_error());
        }
        test(scratch.path());
        // SAFETY: as above.
        unsafe { libc::umount2(target.as_ptr(), libc::MNT_DETACH) };
        true
    };
    thread::spawn(run).join().expect("the test")
}

fn count(path: &Path) -> usize {
    let mut reader = Reader::open(path).expect("there");
    let mut count = 0;
    while reader.advance().expect("no damage").is_some() {
        count += 1;
    }
    count
}

#[test]
fn a_full_disk_takes_whole_messages_only() {
    on_small_disk(1 << 20, |directory| {
        let message = &session(7, &many(600), 60_000)[0];
        assert!(message.len() > 40_000 && !message.len().is_multiple_of(4096));
        let mut part = Part::create(directory.join("x.part")).expect("room");
        let mut written = 0;
        let error = loop {
            match part.append(message) {
                Ok(()) => written += 1,
                Err(error) => break error,
            }
        };
        assert_eq!(error.kind(), io::ErrorKind::StorageFull);
        let octets = message.len() * written;
        let length = fs::metadata(part.path()).expect("there").len();
        assert_eq!(length, octets as u64, "the rest is cut off");
        assert!(octets + message.len() > (1 << 20) - 8192 && written > 10);
        // A smaller one, or one that comes when there is room again, goes on behind.
        let small = &session(7, &[], 1000)[0];
        part.append(small).expect("room");
        let names = [directory.join("x")];
        let file = part
            .finish(names.into_iter())
            .expect("ends")
            .expect("messages");
        assert_eq!(count(&file), written + 1);
    });
}

#[test]
fn no_file_is_begun_on_a_full_disk() {
    on_small_disk(1 << 20, |directory| {
        let ballast = directory.join("ballast");
        fs::write(&ballast, vec![0; 900_000]).expect("room");
        let pattern = Pattern::parse(directory).expect("a pattern");
        let mut series = Series::new(pattern, Rotation::default());
        for _ in 0..3 {
            let error = series.begin(0).expect_err("no room").to_string();
            assert!(
                error.ends_with("No space left on device (os error 28)"),
                "{error}"
            );
            assert!(
                error.starts_with(&directory.display().to_string()),
                "{error}"
            );
        }
        assert_eq!(
            fs::read_dir(directory).expect("there").count(),
            1,
            "ballast alone"
        );
        fs::remove_file(&ballast).expect("there");
        series.begin(0).expect("room");
        series.append(&session(7, &[], 1000)[0]).expect("room");
        let file = series.finish().expect("ends").expect("messages");
        let disk = fs::metadata(&file).expect("there").blocks() * 512;
        assert!(disk <= 4096, "what was reserved is given back: {disk}");
    });
}
