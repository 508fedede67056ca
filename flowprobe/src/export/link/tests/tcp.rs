use std::{
    io::Write as _,
    net::{TcpListener, TcpStream},
};

use socket2::{SockFilter, SockRef};

use super::*;
use crate::export::link::{connection::Session, tcp::Tcp};

/// A BPF program (`ret #0`) that lets nothing through: with it a socket is as if its cable were cut.
const NOTHING: SockFilter = SockFilter::new(0x06, 0, 0, 0);

struct Bench {
    listener: TcpListener,
    link: Tcp,
}

impl Bench {
    fn new() -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").expect("a port");
        // So that senders feel what readers do; accepted sockets inherit it.
        let socket = SockRef::from(&listener);
        socket.set_recv_buffer_size(32 << 10).expect("a buffer");
        let port = listener.local_addr().expect("an address").port();
        Self {
            link: Tcp::new("localhost", port),
            listener,
        }
    }

    fn session(&mut self) -> TcpStream {
        up(&mut self.link);
        assert_eq!(self.link.acknowledged(), 0);
        let (peer, _) = self.listener.accept().expect("a session");
        peer.set_read_timeout(Some(LIMIT)).expect("a timeout");
        peer
    }

    fn patience(&mut self, patience: Duration) {
        let Session::Up(stream) = &mut self.link.session else {
            panic!("no session");
        };
        stream.patience = patience;
    }
}

/// Octets that the kernel has for the reader, once no more come.
fn unread(peer: &TcpStream) -> usize {
    let mut buffer = vec![0; 16 << 20];
    let mut before = 0;
    wait_for(|| {
        thread::sleep(Duration::from_millis(50));
        let octets = peer.peek(&mut buffer).expect("octets");
        (std::mem::replace(&mut before, octets) == octets).then_some(before)
    })
}

#[test]
fn messages_arrive_and_the_end_is_in_order() {
    let mut bench = Bench::new();
    let peer = bench.session();
    let reader = thread::spawn(|| read_all(peer));
    for number in 0..100 {
        wait_for(|| bench.link.send(&message(number, 1400)).ok());
    }
    all_arrive(&mut bench.link, 100);
    wait_for(|| bench.link.send(&message(100, u16::MAX)).ok());
    bench.link.close(Instant::now() + LIMIT).expect("an end");
    assert_eq!(bench.link.acknowledged(), 101);
    assert_eq!(reader.join().expect("messages"), 101);
    let error = bench.link.send(&message(0, 20)).expect_err("it is over");
    assert_eq!(error.kind(), ErrorKind::NotConnected);
}

#[test]
fn a_reader_that_stops_gets_whole_messages_later() {
    let mut bench = Bench::new();
    let peer = bench.session();
    let sent = fill(&mut bench.link, 50_000);
    let Session::Up(stream) = &mut bench.link.session else {
        panic!("no session");
    };
    assert!(!stream.push().expect("a session"), "one is half written");
    let arrived = bench.link.acknowledged();
    assert!(arrived < sent.into(), "{arrived} of {sent}");
    // The half-written one is finished, although nobody flushes but the end.
    let reader = thread::spawn(|| read_all(peer));
    bench.link.close(Instant::now() + LIMIT).expect("an end");
    assert_eq!(bench.link.acknowledged(), u64::from(sent));
    assert_eq!(reader.join().expect("messages"), sent);
}

#[test]
fn the_end_waits_for_a_reader_that_stops_only_as_long_as_it_may() {
    let mut bench = Bench::new();
    let peer = bench.session();
    let sent = fill(&mut bench.link, 50_000);
    let start = Instant::now();
    let error = bench.link.close(start + Duration::from_millis(200));
    let error = error.expect_err("not all has arrived");
    assert_eq!(error.kind(), ErrorKind::WouldBlock);
    assert!((200..5000).contains(&start.elapsed().as_millis()));
    assert!(bench.link.acknowledged() < u64::from(sent));
    // It may be asked again.
    let reader = thread::spawn(|| read_all(peer));
    let done = bench.link.close(Instant::now() + LIMIT);
    done.expect("an end");
    assert_eq!(bench.link.acknowledged(), u64::from(sent));
    assert_eq!(reader.join().expect("messages"), sent);
}

#[test]
fn a_close_by_the_collector_is_noticed_and_the_next_session_is_new() {
    let mut bench = Bench::new();
    let mut peer = bench.session();
    for number in 0..3 {
        bench.link.send(&message(number, 100)).expect("a session");
    }
    for number in 0..3 {
        read_message(&mut peer, number).expect("a message");
    }
    all_arrive(&mut bench.link, 3);
    // What a collector says is not heard.
    peer.write_all(b"hello").expect("a session");
    bench.link.flush().expect("a session");
    drop(peer);
    let error = ended(&mut bench.link);
    assert_eq!(error.to_string(), "the collector closed the connection");
    assert_eq!(bench.link.acknowledged(), 3);

    let peer = bench.session();
    bench.link.send(&message(0, 100)).expect("a session");
    bench.link.close(Instant::now() + LIMIT).expect("an end");
    assert_eq!(read_all(peer), 1);
}

/// SIOCOUTQ has to tell the truth about a connection that is no more.
#[test]
fn a_reset_in_mid_message_leaves_exactly_what_had_arrived() {
    const OCTETS: u16 = 50_000;
    let mut bench = Bench::new();
    let mut peer = bench.session();
    let sent = fill(&mut bench.link, OCTETS);
    read_message(&mut peer, 0).expect("a message");
    let received = usize::from(OCTETS) + unread(&peer);
    let arrived = (received / usize::from(OCTETS)) as u64;
    assert!(arrived > 0 && arrived < u64::from(sent));
    assert_eq!(bench.link.acknowledged(), arrived);

    let socket = SockRef::from(&peer);
    socket.set_linger(Some(Duration::ZERO)).expect("an option");
    drop(peer);
    let error = ended(&mut bench.link);
    assert_eq!(error.kind(), ErrorKind::ConnectionReset, "{error}");
    assert_eq!(bench.link.acknowledged(), arrived);

    // Nothing of the half message comes in front of the next session.
    let peer = bench.session();
    let reader = thread::spawn(|| read_all(peer));
    bench.link.send(&message(0, OCTETS)).expect("a session");
    bench.link.close(Instant::now() + LIMIT).expect("an end");
    assert_eq!(reader.join().expect("messages"), 1);
}

#[test]
fn a_reset_is_noticed_by_send_too() {
    let mut bench = Bench::new();
    let peer = bench.session();
    let socket = SockRef::from(&peer);
    socket.set_linger(Some(Duration::ZERO)).expect("an option");
    drop(peer);
    let error = wait_for(|| bench.link.send(&message(0, 100)).err());
    assert_ne!(error.kind(), ErrorKind::WouldBlock);
    assert_eq!(bench.link.acknowledged(), 0);
}

#[test]
fn nobody_there_is_told_with_the_address() {
    let mut bench = Bench::new();
    let address = bench.listener.local_addr().expect("an address");
    let mut link = Tcp::new("127.0.0.1", address.port());
    drop(bench.listener);
    let error = no_session(&mut link);
    assert_eq!(error.kind(), ErrorKind::ConnectionRefused);
    assert_eq!(
        error.to_string(),
        format!("no connection to {address}: Connection refused (os error 111)")
    );
    // By name there may be two addresses, and both are tried.
    let error = no_session(&mut bench.link);
    assert_eq!(error.kind(), ErrorKind::ConnectionRefused);
}

#[test]
fn a_host_that_does_not_answer_is_not_waited_for_without_end() {
    let bench = Bench::new();
    let socket = SockRef::from(&bench.listener);
    socket.attach_filter(&[NOTHING]).expect("a filter");
    let address = bench.listener.local_addr().expect("an address");
    let mut link = Tcp::new("127.0.0.1", address.port());
    let start = Instant::now();
    assert!(!link.open(start).expect("a try"));
    assert!(start.elapsed() < Duration::from_secs(5));
    let later = start + Duration::from_millis(9900);
    assert!(!link.open(later).expect("a try"));
    let later = start + Duration::from_secs(10);
    let error = link.open(later).expect_err("too late");
    assert_eq!(
        error.to_string(),
        format!("the connection with {address} is not done after 10 s")
    );
    socket.detach_filter().expect("no filter");
    up(&mut link);
}

#[test]
fn a_name_that_does_not_resolve_is_told() {
    let mut link = Tcp::new("collector.invalid", 4739);
    let error = no_session(&mut link).to_string();
    let start = "the host name \"collector.invalid\" does not resolve: ";
    assert!(error.starts_with(start), "{error}");
}

#[test]
fn a_peer_that_is_gone_without_a_word_is_noticed() {
    let mut bench = Bench::new();
    let peer = bench.session();
    bench.patience(Duration::from_secs(1));
    bench.link.send(&message(0, 1000)).expect("a session");
    all_arrive(&mut bench.link, 1);
    let socket = SockRef::from(&peer);
    socket.attach_filter(&[NOTHING]).expect("a filter");
    bench.link.send(&message(1, 1000)).expect("a session");
    let error = ended(&mut bench.link);
    assert_eq!(error.kind(), ErrorKind::TimedOut);
    assert_eq!(error.to_string(), "the collector has not answered for 1 s");
    assert_eq!(bench.link.acknowledged(), 1);
}

#[test]
fn a_peer_that_reads_nothing_is_not_taken_for_gone() {
    let mut bench = Bench::new();
    let peer = bench.session();
    bench.patience(Duration::from_millis(500));
    let sent = fill(&mut bench.link, 50_000);
    let until = Instant::now() + Duration::from_secs(3);
    while Instant::now() < until {
        bench.link.flush().expect("a session");
        thread::sleep(Duration::from_millis(10));
    }
    let reader = thread::spawn(|| read_all(peer));
    bench.link.close(Instant::now() + LIMIT).expect("an end");
    assert_eq!(reader.join().expect("messages"), sent);
}
