//! The whole exporter over SCTP, to a collector that falls silent. Where the kernel has no SCTP it says
//! so; `cargo xtask vm` runs it in a guest that has it.

use std::mem::MaybeUninit;

use socket2::{Protocol, Socket, Type};

use super::*;

fn listener() -> Option<(Socket, u16)> {
    let protocol = Protocol::from(libc::IPPROTO_SCTP);
    let Ok(listener) = Socket::new(socket2::Domain::IPV4, Type::STREAM, Some(protocol)) else {
        eprintln!("skipped: this kernel has no SCTP");
        return None;
    };
    let any = SocketAddr::from(([127, 0, 0, 1], 0));
    listener.bind(&any.into()).expect("a port");
    // A window for a few messages.
    listener.set_recv_buffer_size(40_000).expect("a buffer");
    listener.listen(8).expect("a listener");
    let address = listener.local_addr().expect("an address");
    let port = address.as_socket_ipv4().expect("IPv4").port();
    Some((listener, port))
}

/// All messages up to the end. The decoder wants the template of each record.
fn read(peer: &Socket) -> Collected {
    let mut collected = Collected::default();
    let mut buffer = [MaybeUninit::uninit(); 1 << 16];
    loop {
        let octets = peer.recv(&mut buffer).expect("a message");
        if octets == 0 {
            return collected;
        }
        let message = buffer[..octets].iter();
        // SAFETY: recv has written this many octets.
        let message: Vec<u8> = message.map(|o| unsafe { o.assume_init() }).collect();
        collected.message(&message);
    }
}

#[test]
fn flows_that_come_too_late_over_sctp_are_the_gap_that_is_seen() {
    let Some((listener, port)) = listener() else {
        return;
    };
    let mut settings = settings(&[]);
    let url = format!("sctp://127.0.0.1:{port}?lifetime=500ms");
    settings.collectors = vec![url.parse().expect("a collector")];
    // Templates are said once; options often, among what is given up.
    settings.template_refresh = Duration::from_millis(300);
    let exporter = start(&settings);
    let (peer, _) = listener.accept().expect("a session");
    for _ in 0..12 {
        exporter.send(many(100));
        thread::sleep(Duration::from_millis(100));
    }
    thread::sleep(Duration::from_secs(2));
    let reader = thread::spawn(move || read(&peer));
    let patience = Instant::now() + Duration::from_secs(20);
    while exporter.reports()[0].queued.records > 0 {
        assert!(Instant::now() < patience, "{:?}", exporter.reports());
        thread::sleep(Duration::from_millis(10));
    }
    exporter.send(many(100));
    let [report] = <[_; 1]>::try_from(exporter.finish()).expect("one collector");
    let collected = reader.join().expect("messages");
    let expired = dropped(&report, "expired");
    eprintln!(
        "{} sent, {expired} expired, a gap of {}",
        report.sent.records, collected.gap
    );
    let exported = Volume::of(&[(); 13].map(|()| many(100)).concat());
    assert_eq!(report.total(), exported, "{report:?}");
    assert_eq!(report.sent.records + expired, exported.records);
    assert_eq!(collected.flows() as u64, report.sent.records);
    // Options are in no message that may be given up.
    assert_eq!(collected.gap, expired);
    assert!(expired > 0 && report.sent.records > 0);
    assert_eq!(
        collected.records.len() as u64 + collected.gap,
        report.encoded
    );
    assert_eq!(report.outages, 0);
}
