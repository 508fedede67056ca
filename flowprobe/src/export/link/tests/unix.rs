use std::{
    env, fs,
    os::unix::net::{UnixDatagram, UnixListener},
    path::PathBuf,
    process,
};

use super::*;
use crate::export::link::unix::Unix;

/// A path of a test's own, gone at its end.
struct Place(PathBuf);

impl Place {
    fn new(name: &str) -> Self {
        let place = env::temp_dir().join(format!("flowprobe-{}-{name}", process::id()));
        let _ = fs::remove_file(&place);
        Self(place)
    }

    fn receiver(&self) -> UnixDatagram {
        let _ = fs::remove_file(&self.0);
        let receiver = UnixDatagram::bind(&self.0).expect("a socket");
        receiver.set_read_timeout(Some(LIMIT)).expect("a timeout");
        receiver
    }
}

impl Drop for Place {
    fn drop(&mut self) {
        let _ = fs::remove_file(&self.0);
    }
}

fn receive(receiver: &UnixDatagram, number: u32) {
    let mut found = vec![0; 1 << 16];
    let octets = receiver.recv(&mut found).expect("a datagram");
    assert!(
        found[..octets] == message(number, octets as u16),
        "{number}"
    );
}

#[test]
fn a_full_queue_takes_no_more_and_loses_nothing() {
    let place = Place::new("full");
    let receiver = place.receiver();
    let mut link = Unix::new(&place.0);
    let sent = fill(&mut link, u16::MAX);
    for number in 0..sent {
        receive(&receiver, number);
    }
    link.send(&message(sent, 100)).expect("room again");
    receive(&receiver, sent);
}

#[test]
fn a_collector_that_comes_goes_and_comes_back_is_found() {
    let place = Place::new("comes");
    let mut link = Unix::new(&place.0);
    let error = link.send(&message(0, 100)).expect_err("nobody is there");
    assert_eq!(error.kind(), ErrorKind::NotFound);
    assert_eq!(
        error.to_string(),
        format!(
            "cannot reach the socket {}: No such file or directory (os error 2)",
            place.0.display()
        )
    );
    let receiver = place.receiver();
    link.send(&message(0, 100)).expect("a collector");
    receive(&receiver, 0);
    drop(receiver);
    let error = link.send(&message(1, 100)).expect_err("nobody is there");
    assert_eq!(error.kind(), ErrorKind::ConnectionRefused, "{error}");
    let error = link.send(&message(1, 100)).expect_err("nobody is there");
    assert_eq!(error.kind(), ErrorKind::ConnectionRefused, "{error}");
    let receiver = place.receiver();
    link.send(&message(2, 100)).expect("a collector");
    receive(&receiver, 2);
}

#[test]
fn a_datagram_that_is_too_large_is_told_as_such() {
    let place = Place::new("large");
    let _receiver = place.receiver();
    let mut link = Unix::new(&place.0);
    let error = link.send(&vec![0; 1 << 24]).expect_err("too large");
    assert_eq!(error.raw_os_error(), Some(libc::EMSGSIZE));
    link.send(&message(0, 100)).expect("it is still there");
}

#[test]
fn a_socket_of_another_kind_is_told() {
    let place = Place::new("kind");
    let _listener = UnixListener::bind(&place.0).expect("a socket");
    let error = Unix::new(&place.0).send(&message(0, 100));
    let error = error.expect_err("it is a stream").to_string();
    assert!(
        error.ends_with("is a socket, but not of datagrams (SOCK_DGRAM)"),
        "{error}"
    );
}
