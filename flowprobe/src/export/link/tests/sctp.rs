//! Where the kernel has no SCTP these tests say so, and only look at what a user is told; `cargo
//! xtask vm` runs them in a guest that has it.

mod expiry;

use std::{mem::MaybeUninit, net::SocketAddr};

use socket2::{Domain, MaybeUninitSlice, Protocol, Socket, Type};

use super::*;
use crate::export::link::sctp::Sctp;

struct Bench {
    listener: Socket,
    link: Sctp,
}

impl Bench {
    /// None where there is no SCTP.
    fn new() -> Option<Self> {
        Self::with(None)
    }

    /// With messages that are given up after `lifetime`.
    fn with(lifetime: Option<Duration>) -> Option<Self> {
        let protocol = Protocol::from(libc::IPPROTO_SCTP);
        let Ok(listener) = Socket::new(Domain::IPV4, Type::STREAM, Some(protocol)) else {
            let error = no_session(&mut Sctp::new("127.0.0.1", 4739, None)).to_string();
            assert_eq!(
                error,
                "no connection to 127.0.0.1:4739: this kernel has no SCTP: load its module \
                 (modprobe sctp), or use TCP"
            );
            eprintln!("skipped: this kernel has no SCTP");
            return None;
        };
        let any = SocketAddr::from(([127, 0, 0, 1], 0));
        listener.bind(&any.into()).expect("a port");
        listener.listen(8).expect("a listener");
        let address = listener.local_addr().expect("an address");
        let port = address.as_socket_ipv4().expect("IPv4").port();
        Some(Self {
            listener,
            link: Sctp::new("127.0.0.1", port, lifetime),
        })
    }

    fn session(&mut self) -> Socket {
        up(&mut self.link);
        assert_eq!(self.link.acknowledged(), 0);
        let (peer, _) = self.listener.accept().expect("a session");
        peer.set_read_timeout(Some(LIMIT)).expect("a timeout");
        peer
    }
}

/// The next SCTP message, which is empty at the end. One that is in several packets may come in
/// parts.
fn receive(peer: &Socket) -> Vec<u8> {
    let mut message = Vec::new();
    let mut buffer = [MaybeUninit::uninit(); 1 << 16];
    loop {
        let mut part = [MaybeUninitSlice::new(&mut buffer)];
        let (octets, flags) = peer.recv_vectored(&mut part).expect("a message");
        // SAFETY: recv_vectored has written this many octets.
        let read = buffer[..octets]
            .iter()
            .map(|octet| unsafe { octet.assume_init() });
        message.extend(read);
        if octets == 0 || flags.is_end_of_record() {
            return message;
        }
    }
}

/// Checks that all messages are there up to the end of the session, one in each of SCTP.
fn receive_all(peer: &Socket, octets: u16) -> u32 {
    for number in 0.. {
        let found = receive(peer);
        if found.is_empty() {
            return number;
        }
        assert!(found == message(number, octets), "message {number}");
    }
    unreachable!("more messages than numbers");
}

#[test]
fn sctp_messages_arrive_and_the_end_is_in_order() {
    for octets in [100, 1400, 16_384] {
        let Some(mut bench) = Bench::new() else {
            return;
        };
        let peer = bench.session();
        let reader = thread::spawn(move || receive_all(&peer, octets));
        for number in 0..600 {
            wait_for(|| bench.link.send(&message(number, octets)).ok());
        }
        all_arrive(&mut bench.link, 600);
        wait_for(|| bench.link.send(&message(600, octets)).ok());
        bench.link.close(Instant::now() + LIMIT).expect("an end");
        assert_eq!(bench.link.acknowledged(), 601);
        assert_eq!(reader.join().expect("messages"), 601);
    }
}

#[test]
fn an_sctp_reader_that_stops_is_waited_for() {
    let Some(mut bench) = Bench::new() else {
        return;
    };
    let listener = &bench.listener;
    listener.set_recv_buffer_size(32 << 10).expect("a buffer");
    let peer = bench.session();
    let sent = fill(&mut bench.link, 16_384);
    thread::sleep(Duration::from_millis(500));
    assert!(bench.link.acknowledged() < u64::from(sent));
    let error = bench
        .link
        .close(Instant::now() + Duration::from_millis(100));
    let error = error.expect_err("not all has arrived");
    assert_eq!(error.kind(), ErrorKind::WouldBlock);
    let reader = thread::spawn(move || receive_all(&peer, 16_384));
    bench.link.close(Instant::now() + LIMIT).expect("an end");
    assert_eq!(bench.link.acknowledged(), u64::from(sent));
    assert_eq!(reader.join().expect("messages"), sent);
}

/// An association that is aborted forgets its messages: that is no acknowledgement.
#[test]
fn an_sctp_abort_acknowledges_nothing() {
    let Some(mut bench) = Bench::new() else {
        return;
    };
    let peer = bench.session();
    bench.link.send(&message(0, 100)).expect("a session");
    all_arrive(&mut bench.link, 1);
    let sent = fill(&mut bench.link, 16_384);
    assert!(sent > 1);
    peer.set_linger(Some(Duration::ZERO)).expect("an option");
    drop(peer);
    thread::sleep(Duration::from_millis(500));
    assert_eq!(bench.link.acknowledged(), 1);
    let error = ended(&mut bench.link);
    assert_eq!(error.kind(), ErrorKind::ConnectionReset, "{error}");
    assert_eq!(bench.link.acknowledged(), 1);

    let peer = bench.session();
    bench.link.send(&message(0, 100)).expect("a session");
    bench.link.close(Instant::now() + LIMIT).expect("an end");
    assert_eq!(receive_all(&peer, 100), 1);
}

#[test]
fn an_sctp_collector_that_closes_or_is_not_there_is_told() {
    let Some(mut bench) = Bench::new() else {
        return;
    };
    let peer = bench.session();
    bench.link.send(&message(0, 100)).expect("a session");
    assert!(receive(&peer) == message(0, 100));
    all_arrive(&mut bench.link, 1);
    drop(peer);
    let error = ended(&mut bench.link).to_string();
    assert_eq!(error, "the collector closed the connection");
    assert_eq!(bench.link.acknowledged(), 1);
    drop(bench.listener);
    let error = no_session(&mut bench.link);
    assert_eq!(error.kind(), ErrorKind::ConnectionRefused, "{error}");
}
