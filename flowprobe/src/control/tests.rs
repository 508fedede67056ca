use std::{
    fs,
    io::{BufRead as _, BufReader, Write as _},
    os::unix::{
        fs::PermissionsExt as _,
        net::{UnixListener, UnixStream},
    },
    path::PathBuf,
    sync::atomic::{AtomicU32, Ordering},
    thread,
};

use super::*;

/// A directory of this test's own.
struct Place(PathBuf);

impl Place {
    fn new() -> Self {
        static NEXT: AtomicU32 = AtomicU32::new(0);
        let number = NEXT.fetch_add(1, Ordering::Relaxed);
        let name = format!("flowprobe-control-{}-{number}", std::process::id());
        let place = std::env::temp_dir().join(name);
        fs::create_dir(&place).expect("a directory");
        Self(place)
    }

    fn socket(&self) -> PathBuf {
        self.0.join("socket")
    }
}

impl Drop for Place {
    fn drop(&mut self) {
        drop(fs::remove_dir_all(&self.0));
    }
}

fn class() -> Class {
    Class {
        name: "rest".to_owned(),
        domain: 1,
        rate: "1/500".to_owned(),
        epoch: 2,
        since_ms: 3,
        observed: 1000,
        selected: 2,
        measured_ratio: 0.002,
    }
}

/// Answers one request after the other while `client` is at work.
fn serve(place: &Place, client: impl FnOnce(PathBuf) + Send + 'static) -> Vec<Request> {
    let runtime = tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .build()
        .expect("a runtime");
    runtime.block_on(async {
        let mut control = Control::bind(&place.socket()).expect("a socket");
        let path = place.socket();
        let mut client = tokio::task::spawn_blocking(move || client(path));
        let mut requests = Vec::new();
        loop {
            tokio::select! {
                end = &mut client => {
                    end.expect("the client panicked");
                    return requests;
                }
                (request, handle) = control.next() => {
                    requests.push(request);
                    handle.reply(Reply::Class(class()));
                }
            }
        }
    })
}

fn exchange(stream: &mut UnixStream, text: &[u8]) -> String {
    stream.write_all(text).expect("written");
    let mut answer = String::new();
    let stream = stream.try_clone().expect("a stream");
    BufReader::new(stream).read_line(&mut answer).expect("read");
    answer
}

#[test]
fn a_request_arrives_and_is_answered() {
    let place = Place::new();
    let request = Request::Sample {
        sampling: "1/500".parse().expect("a rate"),
        class: Some("udp port 53".parse().expect("a filter")),
    };
    let asked = request.clone();
    let requests = serve(&place, move |path| {
        assert_eq!(ask(&path, &asked).expect("a reply"), Reply::Class(class()));
        assert_eq!(
            ask(&path, &Request::Status).expect("a reply"),
            Reply::Class(class())
        );
    });
    assert_eq!(requests, [request, Request::Status]);
    assert!(!place.socket().exists(), "removed");
    assert_eq!(fs::read_dir(&place.0).expect("a directory").count(), 0);
}

#[test]
fn bad_lines_are_answered_and_clients_that_hang_delay_nobody() {
    let place = Place::new();
    let requests = serve(&place, |path| {
        let connect = || UnixStream::connect(&path).expect("connected");
        let hanging: Vec<_> = (0..20).map(|_| connect()).collect();
        (&hanging[0]).write_all(b"{\"command\":").expect("written");
        let mut one = connect();
        for bad in [
            &b"hello\n"[..],
            b"\xff\xfe\n",
            b"{\"command\":\"stop\"}\n",
            b"{\"command\":\"sample\"}\n",
            b"{\"command\":\"sample\",\"rate\":\"1/0\"}\n",
            b"{\"command\":\"sample\",\"rate\":\"1/2\",\"class\":\"upd\"}\n",
        ] {
            let answer = exchange(&mut one, bad);
            assert!(answer.starts_with("{\"ok\":false,\"error\":\""), "{answer}");
        }
        let answer = exchange(&mut one, b"{\"command\":\"status\"}\n");
        assert!(answer.starts_with("{\"ok\":true,\"class\":{"), "{answer}");
        let answer = exchange(&mut connect(), &[b'x'; MAX_LINE + 1]);
        assert!(answer.contains("at most 4096 octets"), "{answer}");
        // One that goes before its answer has come.
        connect()
            .write_all(b"{\"command\":\"status\"}\n")
            .expect("written");
        ask(&path, &Request::Status).expect("a reply");
    });
    assert!(requests.iter().all(|request| *request == Request::Status));
    assert!(requests.len() >= 2, "{requests:?}");
}

fn bind(path: &std::path::Path) -> Result<(), ControlError> {
    let runtime = tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .build()
        .expect("a runtime");
    runtime.block_on(async {
        let control = Control::bind(path)?;
        let mode = fs::metadata(control.path())
            .expect("a socket")
            .permissions();
        assert_eq!(mode.mode() & 0o777, 0o660);
        Ok(())
    })
}

#[test]
fn only_a_socket_at_which_nobody_answers_is_replaced() {
    let place = Place::new();
    let path = place.socket();
    bind(&path).expect("nothing there");

    fs::write(&path, "mine").expect("a file");
    assert!(matches!(bind(&path), Err(ControlError::NoSocket(_))));
    assert_eq!(fs::read(&path).expect("a file"), b"mine");
    fs::remove_file(&path).expect("removed");

    let live = UnixListener::bind(&path).expect("a socket");
    let error = bind(&path).expect_err("taken").to_string();
    assert!(error.contains(&path.display().to_string()), "{error}");
    drop(live);
    bind(&path).expect("a stale one is replaced");
}

#[test]
fn a_socket_that_another_has_replaced_stays() {
    let place = Place::new();
    let runtime = tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .build()
        .expect("a runtime");
    runtime.block_on(async {
        let control = Control::bind(&place.socket()).expect("a socket");
        fs::rename(place.socket(), place.0.join("moved")).expect("moved");
        fs::write(place.socket(), "theirs").expect("a file");
        drop(control);
    });
    assert_eq!(fs::read(place.socket()).expect("a file"), b"theirs");
}

#[test]
fn the_client_says_why_there_is_no_answer() {
    let place = Place::new();
    let path = place.socket();
    let error = ask(&path, &Request::Status)
        .expect_err("nobody")
        .to_string();
    assert!(error.contains("is it running?"), "{error}");

    let listener = UnixListener::bind(&path).expect("a socket");
    let answering = thread::spawn(move || {
        for answer in [
            "{\"ok\":false,\"error\":\"no such class\"}\n",
            "what?\n",
            "",
        ] {
            let (mut stream, _) = listener.accept().expect("a client");
            let mut line = String::new();
            let reader = stream.try_clone().expect("a stream");
            BufReader::new(reader).read_line(&mut line).expect("a line");
            stream.write_all(answer.as_bytes()).expect("written");
        }
    });
    let refused = ask(&path, &Request::Status).expect_err("refused");
    assert_eq!(refused.to_string(), "no such class");
    let foreign = ask(&path, &Request::Status).expect_err("garbage");
    assert!(matches!(foreign, ClientError::Foreign(..)), "{foreign}");
    let ended = ask(&path, &Request::Status).expect_err("nothing");
    assert!(matches!(ended, ClientError::Ended(..)), "{ended}");
    answering.join().expect("answered");
}

#[test]
fn replies_read_back() {
    let status = Status {
        pid: 1,
        uptime_s: 1.5,
        interfaces: vec!["eth0".to_owned()],
        classes: vec![class()],
        ledger: serde_json::json!({"balanced": true}),
    };
    for reply in [
        Reply::Status(status),
        Reply::Class(class()),
        Reply::Classes(vec![class(), class()]),
        Reply::Error("no".to_owned()),
    ] {
        let text = serde_json::to_string(&reply).expect("JSON");
        assert!(!text.contains('\n'));
        assert_eq!(
            serde_json::from_str::<Reply>(&text).expect("a reply"),
            reply
        );
    }
}
