use std::{
    fs,
    io::Write as _,
    net::{TcpListener, TcpStream},
    thread::JoinHandle,
};

use openssl::{
    pkey::PKey,
    ssl::{
        HandshakeError, Ssl, SslContext, SslContextBuilder, SslMethod, SslStream, SslVerifyMode,
        SslVersion,
    },
    symm::Cipher,
    x509::store::X509StoreBuilder,
};

use super::{
    pki::{Files, Pair, Request, authority},
    *,
};
use crate::export::{Identity, link::tls::Tls};

/// How a collector of the test's own is set up.
pub(super) struct Collector {
    pub(super) own: Pair,
    /// Which authorities it wants a certificate from.
    pub(super) asks: Option<Pair>,
    pub(super) version: SslVersion,
    pub(super) tickets: usize,
}

impl Collector {
    pub(super) fn context(&self, method: SslMethod) -> SslContext {
        let mut context = SslContextBuilder::new(method).expect("a context");
        (|| {
            context.set_min_proto_version(Some(self.version))?;
            context.set_max_proto_version(Some(self.version))?;
            context.set_certificate(&self.own.cert)?;
            context.set_private_key(&self.own.key)?;
            context.set_num_tickets(self.tickets)?;
            if let Some(authority) = &self.asks {
                let mut store = X509StoreBuilder::new()?;
                store.add_cert(authority.cert.clone())?;
                context.set_verify_cert_store(store.build())?;
                context.set_verify(SslVerifyMode::PEER | SslVerifyMode::FAIL_IF_NO_PEER_CERT);
                context.set_session_id_context(b"test")?;
            }
            Ok::<_, openssl::error::ErrorStack>(())
        })()
        .expect("a context");
        context.build()
    }
}

pub(super) struct Bench {
    pub(super) files: Files,
    pub(super) ours: Pair,
    pub(super) theirs: Pair,
    pub(super) collector: Collector,
    pub(super) identity: Identity,
    pub(super) host: &'static str,
}

impl Bench {
    /// A collector and an exporter that trust each other.
    pub(super) fn new(version: SslVersion) -> Self {
        let files = Files::new();
        let theirs = authority("their authority");
        let ours = authority("our authority");
        let us = Request {
            common_name: "exporter",
            names: &["exporter"],
            ..Request::default()
        };
        let us = us.issued_by(Some(&ours));
        Self {
            identity: Identity {
                ca: Some(theirs.cert_file(&files, "ca.pem")),
                cert: Some(us.cert_file(&files, "cert.pem")),
                key: Some(us.key_file(&files, "key.pem")),
                name: None,
            },
            collector: Collector {
                own: Request::default().issued_by(Some(&theirs)),
                asks: Some(ours.clone()),
                version,
                tickets: 2,
            },
            files,
            ours,
            theirs,
            host: "localhost",
        }
    }

    /// The collector's certificate, of another kind.
    pub(super) fn certify(&mut self, request: &Request<'_>) {
        self.collector.own = request.issued_by(Some(&self.theirs));
    }

    fn link(&self, listener: &TcpListener) -> Tls {
        let port = listener.local_addr().expect("an address").port();
        Tls::new(self.host, port, &self.identity).expect("settings")
    }

    /// The next session of the collector, as far as it comes.
    fn accept(&self, listener: &TcpListener) -> JoinHandle<Result<SslStream<TcpStream>, String>> {
        let listener = listener.try_clone().expect("a listener");
        let context = self.collector.context(SslMethod::tls_server());
        thread::spawn(move || {
            let (peer, _) = listener.accept().expect("a session");
            peer.set_read_timeout(Some(LIMIT)).expect("a timeout");
            let ssl = Ssl::new(&context).expect("a session");
            match ssl.accept(peer) {
                Ok(stream) => Ok(stream),
                Err(HandshakeError::Failure(failed)) => Err(failed.error().to_string()),
                Err(error) => panic!("{error}"),
            }
        })
    }

    /// What a session that must not come about says, and whether the collector got anything.
    fn refusal(&self) -> String {
        let listener = listener();
        let mut link = self.link(&listener);
        let collector = self.accept(&listener);
        let error = no_session(&mut link);
        assert!(!error.to_string().contains('\n'));
        let error = error.to_string();
        drop(link);
        if let Ok(mut stream) = collector.join().expect("a collector") {
            // With TLS 1.3 it may have thought that all is well, but nothing follows.
            let mut octets = Vec::new();
            let _ = stream.read_to_end(&mut octets);
            assert!(octets.is_empty());
        }
        error
    }
}

pub(super) fn listener() -> TcpListener {
    TcpListener::bind("127.0.0.1:0").expect("a port")
}

const VERSIONS: [SslVersion; 2] = [SslVersion::TLS1_2, SslVersion::TLS1_3];

#[test]
fn messages_arrive_and_both_ends_know_each_other() {
    for version in VERSIONS {
        for (tickets, octets) in [(2, 1400), (0, u16::MAX)] {
            let mut bench = Bench::new(version);
            bench.collector.tickets = tickets;
            let listener = listener();
            let mut link = bench.link(&listener);
            let collector = bench.accept(&listener);
            up(&mut link);
            let stream = collector.join().expect("a collector").expect("a session");
            let us = stream.ssl().peer_certificate().expect("our certificate");
            assert_eq!(us.subject_name().entries().count(), 1);
            let reader = thread::spawn(|| read_all(stream));
            for number in 0..100 {
                wait_for(|| link.send(&message(number, octets)).ok());
            }
            all_arrive(&mut link, 100);
            link.send(&message(100, octets)).expect("a session");
            link.close(Instant::now() + LIMIT).expect("an end");
            assert_eq!(link.acknowledged(), 101);
            assert_eq!(reader.join().expect("messages"), 101);
        }
    }
}

#[test]
fn only_records_that_have_arrived_count() {
    let bench = Bench::new(SslVersion::TLS1_3);
    let listener = listener();
    let socket = socket2::SockRef::from(&listener);
    socket.set_recv_buffer_size(32 << 10).expect("a buffer");
    let mut link = bench.link(&listener);
    let collector = bench.accept(&listener);
    up(&mut link);
    let stream = collector.join().expect("a collector").expect("a session");
    let sent = fill(&mut link, 1000);
    // The receive buffer has less than 64 KiB.
    assert!(link.acknowledged() < 70, "{}", link.acknowledged());
    assert!(sent > 150, "{sent}");
    let reader = thread::spawn(|| read_all(stream));
    link.close(Instant::now() + LIMIT).expect("an end");
    assert_eq!(link.acknowledged(), u64::from(sent));
    assert_eq!(reader.join().expect("messages"), sent);
}

#[test]
fn a_collector_is_called_by_its_address_or_by_a_name_that_is_set() {
    let mut bench = Bench::new(SslVersion::TLS1_3);
    bench.host = "127.0.0.1";
    for name in [None, Some("one.collectors.example")] {
        if let Some(name) = name {
            bench.identity.name = Some(name.to_owned());
            bench.certify(&Request {
                names: &["*.collectors.example"],
                ..Request::default()
            });
        }
        let listener = listener();
        let mut link = bench.link(&listener);
        let collector = bench.accept(&listener);
        up(&mut link);
        let stream = collector.join().expect("a collector").expect("a session");
        // RFC 6066 §3: no address is sent as a name.
        let called = stream.ssl().servername(openssl::ssl::NameType::HOST_NAME);
        assert_eq!(called, name);
    }
}

#[test]
fn a_collector_that_is_not_who_it_should_be_gets_nothing() {
    for version in VERSIONS {
        let mut bench = Bench::new(version);
        bench.certify(&Request {
            names: &["collector.example", "192.0.2.1", "2001:db8::1"],
            ..Request::default()
        });
        assert_eq!(
            bench.refusal(),
            "the collector's certificate is for collector.example, 192.0.2.1, 2001:db8::1, \
             and not for localhost"
        );
        bench.host = "127.0.0.1";
        assert!(bench.refusal().ends_with("and not for 127.0.0.1"));
        bench.host = "localhost";
        bench.certify(&Request {
            common_name: "old.example",
            names: &[],
            ..Request::default()
        });
        assert!(bench.refusal().contains("is for old.example, and not"));

        bench.certify(&Request {
            valid: (-3, -1),
            ..Request::default()
        });
        let error = bench.refusal();
        let start = "the collector's certificate has expired: it was valid until ";
        assert!(error.starts_with(start), "{error}");
        bench.certify(&Request {
            valid: (1, 3),
            ..Request::default()
        });
        let error = bench.refusal();
        let start = "the collector's certificate is not valid yet: it will be from ";
        assert!(error.starts_with(start), "{error}");

        let ca = bench.identity.ca.clone().expect("a file");
        bench.collector.own = Request::default().issued_by(Some(&authority("another")));
        assert_eq!(
            bench.refusal(),
            format!(
                "the collector's certificate is from the authority \"another\", which is not in {}",
                ca.display()
            )
        );
        bench.collector.own = Request::default().issued_by(None);
        assert_eq!(
            bench.refusal(),
            format!(
                "the collector's certificate is self-signed, and not in {}",
                ca.display()
            )
        );
        // The authorities of the system do not know the test's.
        bench.identity.ca = None;
        bench.certify(&Request::default());
        let error = bench.refusal();
        let end = "which is not in the authorities of this system";
        assert!(error.ends_with(end), "{error}");
    }
}

#[test]
fn a_self_signed_certificate_that_is_trusted_is_enough() {
    let mut bench = Bench::new(SslVersion::TLS1_3);
    bench.collector.own = Request::default().issued_by(None);
    bench.identity.ca = Some(bench.collector.own.cert_file(&bench.files, "self.pem"));
    let listener = listener();
    let mut link = bench.link(&listener);
    let collector = bench.accept(&listener);
    up(&mut link);
    collector.join().expect("a collector").expect("a session");
}

/// With TLS 1.3 our handshake is over before the collector refuses us; nothing may be sent then.
#[test]
fn a_collector_that_does_not_accept_us_gets_nothing() {
    for version in VERSIONS {
        let mut bench = Bench::new(version);
        bench.collector.asks = Some(authority("another"));
        let error = bench.refusal();
        let expected = "the collector does not trust the authority of our certificate";
        assert_eq!(error, expected);

        bench.collector.asks = Some(bench.ours.clone());
        let old = Request {
            valid: (-3, -1),
            ..Request::default()
        };
        let old = old.issued_by(Some(&bench.ours));
        bench.identity.cert = Some(old.cert_file(&bench.files, "old.pem"));
        bench.identity.key = Some(old.key_file(&bench.files, "old.key"));
        let error = bench.refusal();
        assert_eq!(error, "the collector says that our certificate has expired");

        bench.identity.cert = None;
        bench.identity.key = None;
        let error = bench.refusal();
        let expected = match version {
            SslVersion::TLS1_3 => "asks for a certificate, and none is given",
            _ => "it may ask for a certificate, and none is given",
        };
        assert!(error.contains(expected), "{error}");
    }
}

#[test]
fn what_is_not_tls_or_too_old_is_told() {
    let bench = Bench::new(SslVersion::TLS1_3);
    let listener = listener();
    let mut link = bench.link(&listener);
    let peer = thread::spawn(move || {
        let (mut peer, _) = listener.accept().expect("a session");
        peer.write_all(b"220 mail.example ESMTP\r\n")
            .expect("a session");
        peer
    });
    let error = no_session(&mut link).to_string();
    assert_eq!(error, "what answers there does not speak TLS");
    drop(peer.join());

    let mut bench = Bench::new(SslVersion::TLS1_1);
    bench.collector.asks = None;
    let error = bench.refusal();
    assert!(
        error.contains("speaks no version of TLS that is safe"),
        "{error}"
    );
}

#[test]
fn a_handshake_that_nobody_answers_is_not_waited_for_without_end() {
    let bench = Bench::new(SslVersion::TLS1_3);
    let listener = listener();
    let mut link = bench.link(&listener);
    let start = Instant::now();
    while start.elapsed() < Duration::from_millis(300) {
        assert!(!opened(&mut link).expect("a try"));
    }
    let error = link.open(start + Duration::from_secs(15));
    let error = error.expect_err("too late").to_string();
    let end = "is not done after 10 s";
    assert!(
        error.starts_with("the TLS handshake with 127.0.0.1:"),
        "{error}"
    );
    assert!(error.ends_with(end), "{error}");
}

#[test]
fn the_end_by_the_collector_is_noticed_and_certificates_are_read_again() {
    let mut bench = Bench::new(SslVersion::TLS1_3);
    let listener = listener();
    let mut link = bench.link(&listener);
    let collector = bench.accept(&listener);
    up(&mut link);
    let mut stream = collector.join().expect("a collector").expect("a session");
    link.send(&message(0, 100)).expect("a session");
    read_message(&mut stream, 0).expect("a message");
    all_arrive(&mut link, 1);
    let _ = stream.shutdown();
    let error = ended(&mut link).to_string();
    assert_eq!(error, "the collector closed the connection");
    assert_eq!(link.acknowledged(), 1);
    drop(stream);

    // Both have new certificates, of other authorities.
    let theirs = authority("their next authority");
    theirs.cert_file(&bench.files, "ca.pem");
    bench.collector.own = Request::default().issued_by(Some(&theirs));
    let next = authority("our next authority");
    bench.collector.asks = Some(next.clone());
    let us = Request::default().issued_by(Some(&next));
    us.cert_file(&bench.files, "cert.pem");
    us.key_file(&bench.files, "key.pem");
    let collector = bench.accept(&listener);
    up(&mut link);
    let stream = collector.join().expect("a collector").expect("a session");
    // A file that cannot be used leaves those of before in use.
    fs::write(bench.identity.key.as_ref().expect("a file"), "").expect("a file");
    drop(stream);
    ended(&mut link);
    let collector = bench.accept(&listener);
    up(&mut link);
    collector.join().expect("a collector").expect("a session");
}

#[test]
fn files_that_cannot_be_used_are_told_before_anything_is_sent() {
    let bench = Bench::new(SslVersion::TLS1_3);
    let file = |name: &str| bench.files.put(name, b"");
    let directory = file("x").parent().expect("a directory").to_owned();
    let said = |change: &dyn Fn(&mut Identity)| {
        let mut identity = bench.identity.clone();
        change(&mut identity);
        let error = Tls::new("localhost", 4740, &identity).expect_err("an error");
        error
            .to_string()
            .replace(&format!("{}/", directory.display()), "")
    };
    let missing = directory.join("missing");
    assert_eq!(
        said(&|identity| identity.ca = Some(missing.clone())),
        "cannot read missing: No such file or directory (os error 2)"
    );
    let garbage = bench.files.put("garbage", b"\x30\x82 not PEM\n");
    assert_eq!(
        said(&|identity| identity.ca = Some(garbage.clone())),
        "garbage has no certificate in it (PEM)"
    );
    assert_eq!(
        said(&|identity| identity.cert = Some(garbage.clone())),
        "garbage has no certificate in it (PEM)"
    );
    assert_eq!(
        said(&|identity| identity.key = Some(garbage.clone())),
        "garbage has no private key in it (PEM)"
    );
    assert_eq!(
        said(&|identity| identity.key = None),
        "cert.pem has no private key in it (PEM)"
    );
    assert_eq!(
        said(&|identity| identity.cert = None),
        "the key key.pem is of no use without a certificate"
    );
    let other = bench.theirs.key_file(&bench.files, "other.pem");
    assert_eq!(
        said(&|identity| identity.key = Some(other.clone())),
        "the key in other.pem is not that of the certificate in cert.pem"
    );
    let key = PKey::ec_gen("prime256v1").expect("a key");
    let locked = key.private_key_to_pem_pkcs8_passphrase(Cipher::aes_128_cbc(), b"secret");
    let locked = bench.files.put("locked.pem", &locked.expect("PEM"));
    assert_eq!(
        said(&|identity| identity.key = Some(locked.clone())),
        "the key in locked.pem is encrypted: decrypt it with `openssl pkey` and keep the file \
         from others"
    );
    // Both in one file.
    let mut both = fs::read(bench.identity.cert.as_ref().expect("a file")).expect("a file");
    both.extend(fs::read(bench.identity.key.as_ref().expect("a file")).expect("a file"));
    let both = Identity {
        cert: Some(bench.files.put("both.pem", &both)),
        key: None,
        ..bench.identity.clone()
    };
    Tls::new("localhost", 4740, &both).expect("settings");
}
