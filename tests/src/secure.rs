//! Certificates of a test's own, and OpenSSL's server as a collector over TLS and DTLS.

use std::{
    fs::{self, File},
    path::{Path, PathBuf},
    process::{Child, ChildStdin, Command, Stdio},
    thread,
    time::{Duration, Instant},
};

use anyhow::{Context as _, Result, ensure};

use crate::{collector::Received, judges::Directory, netns::Netns, probe::end_with_parent};

/// How long something may take that does come.
const PATIENCE: Duration = Duration::from_secs(30);

/// An authority, and files of certificates that it signs.
#[derive(Debug)]
pub struct Authority(Directory);

/// A certificate and its key, in files.
#[derive(Clone, Debug)]
pub struct Certificate {
    /// PEM.
    pub cert: PathBuf,
    /// PEM.
    pub key: PathBuf,
}

impl Authority {
    /// Makes one.
    ///
    /// # Errors
    /// Where there is no openssl.
    pub fn new(name: &str) -> Result<Self> {
        let authority = Self(Directory::new(name)?);
        let subject = format!("/CN={name}");
        let mut request = openssl("req -x509 -days 2 -addext basicConstraints=critical,CA:TRUE");
        request.args(["-subj", &subject]);
        new_key(&mut request, &authority.file("ca.key"));
        run(request.arg("-out").arg(authority.file("ca.pem")))?;
        Ok(authority)
    }

    /// A file of its directory.
    #[must_use]
    pub fn file(&self, name: &str) -> PathBuf {
        self.0.path().join(name)
    }

    /// Its own certificate.
    #[must_use]
    pub fn ca(&self) -> PathBuf {
        self.file("ca.pem")
    }

    /// Signs a certificate for an alternative name, such as `IP:127.0.0.1`, that is valid for so
    /// many days from now; -1 is since yesterday no more.
    ///
    /// # Errors
    /// Where openssl fails.
    pub fn sign(&self, name: &str, alternative: &str, days: i32) -> Result<Certificate> {
        let file = |ending: &str| self.file(&format!("{name}.{ending}"));
        let mut request = openssl("req -addext");
        request.arg(format!("subjectAltName={alternative}"));
        request.args(["-subj", "/CN=collector"]);
        new_key(&mut request, &file("key"));
        run(request.arg("-out").arg(file("csr")))?;
        let mut sign = openssl("x509 -req -CAcreateserial -copy_extensions copy");
        sign.args(["-days", &days.to_string()]);
        sign.arg("-CA").arg(self.ca());
        sign.arg("-CAkey").arg(self.file("ca.key"));
        sign.arg("-in").arg(file("csr"));
        run(sign.arg("-out").arg(file("pem")))?;
        Ok(Certificate {
            cert: file("pem"),
            key: file("key"),
        })
    }
}

fn openssl(arguments: &str) -> Command {
    let mut command = Command::new("openssl");
    command.args(arguments.split(' '));
    command
}

fn new_key(request: &mut Command, file: &Path) {
    let kind = "-newkey ec -pkeyopt ec_paramgen_curve:P-256 -nodes -keyout";
    request.args(kind.split(' ')).arg(file);
}

fn run(command: &mut Command) -> Result<()> {
    let output = command.output().context("cannot run openssl")?;
    let said = String::from_utf8_lossy(&output.stderr);
    ensure!(output.status.success(), "{command:?}: {said}");
    Ok(())
}

/// `openssl s_server`, which writes what it decrypts into a file.
#[derive(Debug)]
pub struct SecureCollector {
    child: Child,
    /// At its end it would end.
    _stdin: ChildStdin,
    url: String,
    octets: PathBuf,
    log: PathBuf,
    _directory: Directory,
}

impl SecureCollector {
    /// Listens at 127.0.0.1 in a namespace, over DTLS or TLS, with a certificate; with an
    /// authority, exporters have to show one of that.
    ///
    /// # Errors
    /// Where it does not start.
    pub fn start(
        namespace: &Netns,
        scheme: &str,
        port: u16,
        own: &Certificate,
        authority: Option<&Authority>,
    ) -> Result<Self> {
        let directory = Directory::new(&format!("{}-{scheme}-{port}", namespace.name()))?;
        let (octets, log) = (
            directory.path().join("octets"),
            directory.path().join("log"),
        );
        let mut command = namespace.command("openssl");
        command.args(["s_server", "-quiet", "-accept"]);
        command.arg(format!("127.0.0.1:{port}"));
        command.arg("-cert").arg(&own.cert);
        command.arg("-key").arg(&own.key);
        if scheme == "dtls" {
            command.args(["-dtls", "-mtu", "1400"]);
        }
        if let Some(authority) = authority {
            command.args(["-Verify", "1", "-verify_return_error", "-CAfile"]);
            command.arg(authority.ca());
        }
        command.stdin(Stdio::piped());
        command.stdout(File::create(&octets)?);
        command.stderr(File::create(&log)?);
        end_with_parent(&mut command);
        let mut child = command.spawn().context("cannot run openssl")?;
        let stdin = child.stdin.take().context("no stdin")?;
        let collector = Self {
            child,
            _stdin: stdin,
            url: format!("{scheme}://127.0.0.1:{port}"),
            octets,
            log,
            _directory: directory,
        };
        collector.wait_until_it_listens(namespace, port, scheme == "dtls")?;
        Ok(collector)
    }

    fn wait_until_it_listens(&self, namespace: &Netns, port: u16, udp: bool) -> Result<()> {
        let table = if udp { "udp" } else { "tcp" };
        let path = format!("/proc/thread-self/net/{table}");
        let deadline = Instant::now() + PATIENCE;
        loop {
            let sockets = namespace.run(|| fs::read_to_string(&path))??;
            if sockets.contains(&format!(":{port:04X} ")) {
                return Ok(());
            }
            ensure!(
                Instant::now() < deadline,
                "it does not listen: {}",
                self.log()
            );
            thread::sleep(Duration::from_millis(5));
        }
    }

    /// As `--collector` takes it.
    #[must_use]
    pub fn url(&self) -> &str {
        &self.url
    }

    /// What it logged.
    #[must_use]
    pub fn log(&self) -> String {
        fs::read_to_string(&self.log).unwrap_or_default()
    }

    /// What it has decrypted, all of it one session.
    ///
    /// # Errors
    /// Where its file cannot be read.
    pub fn received(&self) -> Result<Received> {
        Ok(Received::of_sessions(&[fs::read(&self.octets)?]))
    }

    /// Waits until it has decrypted so many flows, and one look more, in which nothing came.
    ///
    /// # Errors
    /// Where it does not within half a minute.
    pub fn wait_for_flows(&self, flows: usize) -> Result<Received> {
        let deadline = Instant::now() + PATIENCE;
        let mut before = 0;
        loop {
            let received = self.received()?;
            if received.flows.len() >= flows && received.messages == before {
                return Ok(received);
            }
            ensure!(
                Instant::now() < deadline,
                "{} flows of {flows} came: {:?}\n{}",
                received.flows.len(),
                received.errors,
                self.log()
            );
            before = received.messages;
            thread::sleep(Duration::from_millis(20));
        }
    }
}

impl Drop for SecureCollector {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}
