//! Messages that come too late.

use std::{
    os::fd::AsRawFd as _,
    sync::{Arc, Mutex},
};

use super::*;

/// Longer than a busy machine keeps anything waiting.
const LIFETIME: Duration = Duration::from_millis(400);
const STEP: Duration = Duration::from_millis(100);
/// Of the test's own messages, one in so many must arrive.
const LASTING: u32 = 7;

/// Sets an option of IPPROTO_SCTP for the sessions that a listener is going to have.
fn set<const N: usize>(listener: &Socket, option: libc::c_int, value: [u32; N]) {
    // SAFETY: the kernel reads no more than the given length, which is that of the value.
    let done = unsafe {
        libc::setsockopt(
            listener.as_raw_fd(),
            libc::IPPROTO_SCTP,
            option,
            value.as_ptr().cast(),
            size_of_val(&value) as libc::socklen_t,
        )
    };
    assert_eq!(done, 0, "{}", io::Error::last_os_error());
}

/// Whether it was taken.
fn send(link: &mut Sctp, number: u32, octets: u16) -> bool {
    let message = message(number, octets);
    let taken = if number.is_multiple_of(LASTING) {
        link.send(&message)
    } else {
        link.send_flows(&mut [&message[..]].into_iter()).1
    };
    match taken {
        Ok(()) => true,
        Err(error) if error.kind() == ErrorKind::WouldBlock => false,
        Err(error) => panic!("{error}"),
    }
}

/// Sends until the link takes no more; returns how many messages there are then.
fn send_all(link: &mut Sctp, from: u32, octets: u16) -> u32 {
    (from..)
        .find(|number| !send(link, *number, octets))
        .expect("an end")
}

/// The numbers of all messages up to the end, each checked to be whole.
fn numbers(peer: &Socket, octets: u16) -> Vec<u32> {
    let mut numbers = Vec::new();
    loop {
        let found = receive(peer);
        if found.is_empty() {
            return numbers;
        }
        let number = found[8..12].try_into().expect("four octets");
        let number = u32::from_be_bytes(number);
        assert!(found == message(number, octets), "message {number}");
        numbers.push(number);
    }
}

fn given_up(link: &mut Sctp, sent: u32) -> Vec<u32> {
    (0..sent)
        .filter(|number| link.gave_up((*number).into()))
        .collect()
}

/// The collector falls silent, twice. It gets what was not given up, and that exactly.
#[test]
fn what_comes_too_late_is_given_up_and_known() {
    for octets in [300, 1300] {
        let Some(mut bench) = Bench::with(Some(LIFETIME)) else {
            return;
        };
        // A window for a few messages.
        bench
            .listener
            .set_recv_buffer_size(40_000)
            .expect("a buffer");
        let peer = bench.session();
        let mut sent = 0;
        for _ in 0..20 {
            let some =
                (sent..sent + 30).take_while(|number| send(&mut bench.link, *number, octets));
            sent += some.count() as u32;
            thread::sleep(STEP);
        }
        let reader = thread::spawn(move || numbers(&peer, octets));
        all_arrive(&mut bench.link, sent);
        bench.link.close(Instant::now() + LIMIT).expect("an end");
        let given_up = given_up(&mut bench.link, sent);
        let read = reader.join().expect("messages");
        eprintln!(
            "{octets} octets: {sent} sent, {} read, {} given up",
            read.len(),
            given_up.len()
        );
        assert!(!given_up.is_empty());
        assert!(
            given_up
                .iter()
                .all(|number| !number.is_multiple_of(LASTING))
        );
        let expected: Vec<u32> = (0..sent)
            .filter(|number| !given_up.contains(number))
            .collect();
        assert_eq!(read, expected);
    }
}

/// An acknowledgement may be delayed for longer than the lifetime, unless it is asked for.
#[test]
fn what_arrives_in_time_is_not_given_up() {
    let Some(mut bench) = Bench::with(Some(LIFETIME)) else {
        return;
    };
    // `struct sctp_sack_info`: whatever session; milliseconds; of so many packets.
    set(&bench.listener, libc::SCTP_DELAYED_SACK, [0, 500, 2]);
    let peer = bench.session();
    let reader = thread::spawn(move || numbers(&peer, 200));
    for number in 1..LASTING {
        assert!(send(&mut bench.link, number, 200));
        all_arrive(&mut bench.link, number);
    }
    bench.link.close(Instant::now() + LIMIT).expect("an end");
    assert_eq!(given_up(&mut bench.link, LASTING), [0; 0]);
    let read = reader.join().expect("messages");
    assert!(read.into_iter().eq(1..LASTING));
}

/// What is logged.
#[derive(Clone, Default)]
struct Log(Arc<Mutex<Vec<u8>>>);

impl io::Write for Log {
    fn write(&mut self, octets: &[u8]) -> io::Result<usize> {
        self.0.lock().expect("no panic").extend_from_slice(octets);
        Ok(octets.len())
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

/// It gets everything, and the log says why, once.
#[test]
fn a_peer_without_partial_reliability_gets_everything() {
    const SCTP_PR_SUPPORTED: libc::c_int = 113;
    let Some(mut bench) = Bench::with(Some(LIFETIME)) else {
        return;
    };
    let listener = &bench.listener;
    listener.set_recv_buffer_size(40_000).expect("a buffer");
    // `struct sctp_assoc_value`: whatever session, and no.
    set(listener, SCTP_PR_SUPPORTED, [0, 0]);
    let log = Log::default();
    let to = log.clone();
    let subscriber = tracing_subscriber::fmt().with_writer(move || to.clone());
    let logs = tracing::subscriber::set_default(subscriber.finish());
    for _ in 0..2 {
        let peer = bench.session();
        let sent = send_all(&mut bench.link, 0, 1300);
        thread::sleep(LIFETIME * 3);
        let reader = thread::spawn(move || numbers(&peer, 1300));
        all_arrive(&mut bench.link, sent);
        bench.link.close(Instant::now() + LIMIT).expect("an end");
        assert_eq!(given_up(&mut bench.link, sent), [0; 0]);
        assert_eq!(reader.join().expect("messages").len(), sent as usize);
    }
    drop(logs);
    let log = log.0.lock().expect("no panic");
    let log = String::from_utf8_lossy(&log);
    assert_eq!(log.matches("no partial reliability").count(), 1, "{log}");
}

/// An association that ends returns what it had: that is not given up, and comes again.
#[test]
fn an_abort_gives_nothing_up() {
    let Some(mut bench) = Bench::with(Some(Duration::from_secs(60))) else {
        return;
    };
    bench
        .listener
        .set_recv_buffer_size(40_000)
        .expect("a buffer");
    let peer = bench.session();
    let sent = send_all(&mut bench.link, 0, 1300);
    peer.set_linger(Some(Duration::ZERO)).expect("an option");
    drop(peer);
    thread::sleep(Duration::from_millis(500));
    assert_eq!(bench.link.acknowledged(), 0);
    let error = ended(&mut bench.link);
    assert_eq!(error.kind(), ErrorKind::ConnectionReset, "{error}");
    assert_eq!(bench.link.acknowledged(), 0);
    assert_eq!(given_up(&mut bench.link, sent), [0; 0]);
}
