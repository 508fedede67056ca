use std::{
    net::{SocketAddr, UdpSocket},
    thread::JoinHandle,
};

use openssl::ssl::{ErrorCode, Ssl, SslMethod, SslStream, SslVersion};

use super::{
    pki::{Request, authority},
    tls::Bench,
    *,
};
use crate::export::link::dtls::Dtls;

const MTU: u16 = 1400;
const LIFETIME: Duration = Duration::from_secs(300);

/// A connected socket, and how large its datagrams have been.
#[derive(Debug)]
struct Peer {
    socket: UdpSocket,
    largest: usize,
}

impl Read for Peer {
    fn read(&mut self, octets: &mut [u8]) -> io::Result<usize> {
        let read = self.socket.recv(octets)?;
        self.largest = self.largest.max(read);
        Ok(read)
    }
}

impl io::Write for Peer {
    fn write(&mut self, octets: &[u8]) -> io::Result<usize> {
        self.socket.send(octets)
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

fn socket() -> UdpSocket {
    let socket = UdpSocket::bind("127.0.0.1:0").expect("a port");
    socket.set_read_timeout(Some(LIMIT)).expect("a timeout");
    socket
}

impl Bench {
    fn dtls(&self, port: u16, lifetime: Duration) -> Dtls {
        Dtls::new("127.0.0.1", port, &self.identity, MTU, lifetime).expect("settings")
    }

    /// The next session of the collector on `socket`, as far as it comes.
    fn accept_dtls(&self, socket: UdpSocket) -> JoinHandle<Result<SslStream<Peer>, String>> {
        let context = self.collector.context(SslMethod::dtls_server());
        thread::spawn(move || {
            let (_, from) = socket.peek_from(&mut [0; 1]).expect("a datagram");
            socket.connect(from).expect("a way back");
            let ssl = Ssl::new(&context).expect("a session");
            let quick = Some(Duration::from_millis(50));
            socket.set_read_timeout(quick).expect("a timeout");
            let mut stream = SslStream::new(ssl, Peer { socket, largest: 0 }).expect("a session");
            wait_for(|| match stream.accept() {
                // It sends again what is lost when it is called again.
                Err(error) if error.code() == ErrorCode::WANT_READ => None,
                done => Some(done.map_err(|error| error.to_string())),
            })?;
            let socket = &stream.get_ref().socket;
            socket.set_read_timeout(Some(LIMIT)).expect("a timeout");
            Ok(stream)
        })
    }
}

fn bench() -> Bench {
    Bench::new(SslVersion::DTLS1_2)
}

fn port(socket: &UdpSocket) -> u16 {
    socket.local_addr().expect("an address").port()
}

fn receive(stream: &mut SslStream<Peer>, number: u32, octets: u16) {
    let mut found = vec![0; 1 << 14];
    let length = stream.ssl_read(&mut found).expect("a message");
    assert!(found[..length] == message(number, octets), "{number}");
}

fn is_closed(stream: &mut SslStream<Peer>) -> bool {
    let end = stream.ssl_read(&mut [0; 1 << 14]);
    end.is_err_and(|error| error.code() == ErrorCode::ZERO_RETURN)
}

#[test]
fn messages_arrive_each_in_a_datagram_that_the_path_takes() {
    let bench = bench();
    let socket = socket();
    let mut link = bench.dtls(port(&socket), LIFETIME);
    let collector = bench.accept_dtls(socket);
    up(&mut link);
    let mut stream = collector.join().expect("a collector").expect("a session");
    assert!(stream.ssl().peer_certificate().is_some());
    assert_eq!(stream.ssl().version_str(), "DTLSv1.2");
    let largest = Dtls::max_message(MTU);
    assert_eq!(largest, 1400 - 48 - 37);
    for number in 0..20 {
        link.send(&message(number, largest)).expect("a session");
        receive(&mut stream, number, largest);
    }
    assert_eq!(stream.get_ref().largest, usize::from(MTU) - 48);
    let error = link.send(&message(20, largest + 1)).expect_err("too large");
    assert_eq!(error.raw_os_error(), Some(libc::EMSGSIZE));
    all_arrive(&mut link, 20);
    link.send(&message(20, 100)).expect("a session");
    assert_eq!(link.acknowledged(), 20);
    link.close(Instant::now() + LIMIT).expect("an end");
    assert_eq!(link.acknowledged(), 21);
    receive(&mut stream, 20, 100);
    assert!(is_closed(&mut stream));
}

/// Handshake messages that get lost are sent again by both sides.
#[test]
fn a_handshake_gets_through_where_datagrams_are_lost() {
    let bench = bench();
    let (front, back, server) = (socket(), socket(), socket());
    let to = server.local_addr().expect("an address");
    let mut link = bench.dtls(port(&front), LIFETIME);
    let collector = bench.accept_dtls(server);
    thread::spawn(move || carry(&front, &back, to));
    up(&mut link);
    drop(collector.join().expect("a collector").expect("a session"));
}

/// Carries datagrams between whoever sends to `front` and the collector; the first ones of each way
/// get lost.
fn carry(front: &UdpSocket, back: &UdpSocket, to: SocketAddr) {
    let quick = Some(Duration::from_millis(1));
    for socket in [front, back] {
        socket.set_read_timeout(quick).expect("a timeout");
    }
    let mut buffer = [0; 1 << 11];
    let mut from = None;
    let mut lost = [2, 2];
    let until = Instant::now() + LIMIT;
    while Instant::now() < until {
        if let Ok((octets, sender)) = front.recv_from(&mut buffer) {
            from = Some(sender);
            if lost[0] > 0 {
                lost[0] -= 1;
            } else {
                back.send_to(&buffer[..octets], to).expect("a way");
            }
        }
        if let (Ok((octets, _)), Some(from)) = (back.recv_from(&mut buffer), from) {
            if lost[1] > 0 {
                lost[1] -= 1;
            } else {
                // The exporter may have ended.
                let _ = front.send_to(&buffer[..octets], from);
            }
        }
    }
}

#[test]
fn nobody_there_is_told_in_the_handshake_and_later() {
    let bench = bench();
    let socket = socket();
    let port = port(&socket);
    let mut link = bench.dtls(port, LIFETIME);
    let again = socket.try_clone().expect("a socket");
    drop(socket);
    drop(again);
    let error = no_session(&mut link);
    assert_eq!(error.kind(), ErrorKind::ConnectionRefused);
    assert_eq!(
        error.to_string(),
        format!("no connection to 127.0.0.1:{port}: Connection refused (os error 111)")
    );

    let socket = UdpSocket::bind(("127.0.0.1", port)).expect("the port");
    socket.set_read_timeout(Some(LIMIT)).expect("a timeout");
    let collector = bench.accept_dtls(socket);
    up(&mut link);
    let mut stream = collector.join().expect("a collector").expect("a session");
    link.send(&message(0, 100)).expect("a session");
    receive(&mut stream, 0, 100);
    all_arrive(&mut link, 1);
    // Gone without a word.
    drop(stream);
    link.send(&message(1, 100)).expect("a session");
    assert_eq!(link.acknowledged(), 1);
    let error = ended(&mut link);
    assert_eq!(error.kind(), ErrorKind::ConnectionRefused, "{error}");
    // What came back does not count as arrived.
    assert_eq!(link.acknowledged(), 1);
}

/// What came before a datagram that is refused has arrived: it need not be sent again.
#[test]
fn what_was_sent_before_a_refusal_has_arrived() {
    let bench = bench();
    let socket = socket();
    let mut link = bench.dtls(port(&socket), LIFETIME);
    let collector = bench.accept_dtls(socket);
    up(&mut link);
    let mut stream = collector.join().expect("a collector").expect("a session");
    for number in 0..3 {
        link.send(&message(number, 100)).expect("a session");
        receive(&mut stream, number, 100);
    }
    drop(stream);
    link.send(&message(3, 100)).expect("a session");
    let error = ended(&mut link);
    assert_eq!(error.kind(), ErrorKind::ConnectionRefused, "{error}");
    assert_eq!(link.acknowledged(), 3);
}

#[test]
fn who_is_not_trusted_gets_nothing() {
    let mut bench = bench();
    let said = |bench: &Bench| {
        let socket = socket();
        let mut link = bench.dtls(port(&socket), LIFETIME);
        let collector = bench.accept_dtls(socket);
        let error = no_session(&mut link).to_string();
        collector
            .join()
            .expect("a collector")
            .expect_err("no session");
        error
    };
    bench.certify(&Request {
        names: &["collector.example"],
        ..Request::default()
    });
    assert_eq!(
        said(&bench),
        "the collector's certificate is for collector.example, and not for 127.0.0.1"
    );
    bench.certify(&Request::default());
    bench.collector.asks = Some(authority("another"));
    let expected = "the collector does not trust the authority of our certificate";
    assert_eq!(said(&bench), expected);
    bench.identity.cert = None;
    bench.identity.key = None;
    assert!(said(&bench).contains("it may ask for a certificate"));
}

#[test]
fn the_end_by_the_collector_is_noticed() {
    let bench = bench();
    let socket = socket();
    let mut link = bench.dtls(port(&socket), LIFETIME);
    let collector = bench.accept_dtls(socket);
    up(&mut link);
    let mut stream = collector.join().expect("a collector").expect("a session");
    let _ = stream.shutdown();
    let error = ended(&mut link).to_string();
    assert_eq!(error, "the collector closed the connection");
}

#[test]
fn a_session_is_due_after_its_lifetime() {
    let bench = bench();
    let socket = socket();
    let mut link = bench.dtls(port(&socket), Duration::from_secs(60));
    let collector = bench.accept_dtls(socket);
    assert!(!link.is_due(Instant::now() + LIFETIME));
    up(&mut link);
    drop(collector.join());
    assert!(!link.is_due(Instant::now()));
    assert!(link.is_due(Instant::now() + Duration::from_secs(60)));
}

#[test]
fn a_handshake_that_nobody_answers_is_not_waited_for_without_end() {
    let bench = bench();
    let socket = socket();
    let mut link = bench.dtls(port(&socket), LIFETIME);
    let start = Instant::now();
    assert!(!opened(&mut link).expect("a try"));
    let error = link.open(start + Duration::from_secs(15));
    let error = error.expect_err("too late").to_string();
    assert!(
        error.starts_with("the DTLS handshake with 127.0.0.1:"),
        "{error}"
    );
}
