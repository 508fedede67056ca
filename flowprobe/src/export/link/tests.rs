//! Links against real peers, on loopback.

mod dtls;
mod pki;
mod sctp;
mod tcp;
mod tls;
mod unix;

use std::{
    io::{self, ErrorKind, Read},
    thread,
    time::{Duration, Instant},
};

use super::Link;

/// Longer than anything here takes on a busy machine.
const LIMIT: Duration = Duration::from_secs(20);

/// Tries again until there is a value.
fn wait_for<T>(mut attempt: impl FnMut() -> Option<T>) -> T {
    let until = Instant::now() + LIMIT;
    loop {
        if let Some(value) = attempt() {
            return value;
        }
        assert!(Instant::now() < until, "it does not come about");
        thread::sleep(Duration::from_millis(1));
    }
}

/// Brings a session up.
fn up(link: &mut impl Link) {
    wait_for(|| opened(link).expect("a session").then_some(()));
}

fn opened(link: &mut impl Link) -> io::Result<bool> {
    link.open(Instant::now())
}

/// What a link says in the end, where no session is to be had.
fn no_session(link: &mut impl Link) -> io::Error {
    wait_for(|| match opened(link) {
        Ok(is_up) => {
            assert!(!is_up, "a session");
            None
        }
        Err(error) => Some(error),
    })
}

/// Flushes until the session is over, and returns why.
fn ended(link: &mut impl Link) -> io::Error {
    wait_for(|| link.flush().err())
}

/// An IPFIX message (RFC 7011 §3.1) of `octets`, all of them `number` behind the header.
fn message(number: u32, octets: u16) -> Vec<u8> {
    let mut message = vec![number as u8; octets.into()];
    message[..2].copy_from_slice(&10u16.to_be_bytes());
    message[2..4].copy_from_slice(&octets.to_be_bytes());
    message[8..12].copy_from_slice(&number.to_be_bytes());
    message
}

/// Reads messages up to the end, and checks that each is whole and follows the one before; returns
/// how many there are.
fn read_all(mut stream: impl Read) -> u32 {
    for number in 0.. {
        match read_message(&mut stream, number) {
            Ok(()) => {}
            Err(error) if error.kind() == ErrorKind::UnexpectedEof => return number,
            Err(error) => panic!("{error}"),
        }
    }
    unreachable!("more messages than numbers");
}

fn read_message(stream: &mut impl Read, number: u32) -> io::Result<()> {
    let mut found = vec![0; 16];
    stream.read_exact(&mut found[..1])?;
    let rest = "the rest of a message";
    stream.read_exact(&mut found[1..]).expect(rest);
    let octets = u16::from_be_bytes([found[2], found[3]]);
    found.resize(octets.into(), 0);
    stream.read_exact(&mut found[16..]).expect(rest);
    assert!(found == message(number, octets), "message {number}");
    Ok(())
}

/// Sends messages until the link takes no more; returns how many it took.
fn fill(link: &mut impl Link, octets: u16) -> u32 {
    for number in 0..1 << 20 {
        match link.send(&message(number, octets)) {
            Ok(()) => {}
            Err(error) if error.kind() == ErrorKind::WouldBlock => return number,
            Err(error) => panic!("{error}"),
        }
    }
    panic!("the link takes everything");
}

/// Waits until all of the `sent` messages are acknowledged.
fn all_arrive(link: &mut impl Link, sent: u32) {
    wait_for(|| {
        link.flush().expect("a session");
        (link.acknowledged() == u64::from(sent)).then_some(())
    });
}
