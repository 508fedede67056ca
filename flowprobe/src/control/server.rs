//! The side of the run.

use std::{
    fs, io,
    os::unix::{
        fs::{FileTypeExt as _, MetadataExt as _},
        net::{UnixListener as StdListener, UnixStream as StdStream},
    },
    path::{Path, PathBuf},
    sync::Arc,
    time::Duration,
};

use tokio::{
    net::{UnixListener, UnixStream},
    sync::{Semaphore, mpsc, oneshot},
    task::JoinHandle,
    time::{sleep, timeout},
};

use super::{MAX_LINE, Reply, Request};

/// Owner and group may give commands.
const MODE: u32 = 0o660;
/// Clients at once; more wait until one has gone.
const MAX_CLIENTS: usize = 64;
/// For a whole request, and for a reply to be taken.
const PATIENCE: Duration = Duration::from_secs(10);
/// Where accepting fails (too many open files), it is tried again so much later.
const RETRY: Duration = Duration::from_millis(100);

/// The socket cannot be made.
#[derive(Debug, thiserror::Error)]
pub enum ControlError {
    /// Another flowprobe has it.
    #[error(
        "a running flowprobe answers at {0}: give this one another --control PATH, or --no-control"
    )]
    Live(PathBuf),
    /// Something that is no socket.
    #[error("{0} is there and is no socket: give another --control PATH, or remove it")]
    NoSocket(PathBuf),
    /// The system refuses.
    #[error(
        "cannot make the control socket {path}: {source}; give another --control PATH, or --no-control"
    )]
    Io {
        /// Where.
        path: PathBuf,
        /// Why.
        source: io::Error,
    },
}

/// The socket, and the requests that come. Dropping it removes the socket.
#[derive(Debug)]
pub struct Control {
    file: SocketFile,
    requests: mpsc::Receiver<(Request, Handle)>,
    accept: JoinHandle<()>,
}

/// Takes the answer to one request. Where it is dropped, the client is told so.
#[derive(Debug)]
pub struct Handle(oneshot::Sender<Reply>);

impl Handle {
    /// Answers. Whether the client is still there does not matter.
    pub fn reply(self, reply: Reply) {
        drop(self.0.send(reply));
    }
}

/// Removes the file, if it is still this one.
#[derive(Debug)]
struct SocketFile {
    path: PathBuf,
    identity: (u64, u64),
}

impl Drop for SocketFile {
    fn drop(&mut self) {
        if identity(&self.path).is_ok_and(|identity| identity == self.identity) {
            drop(fs::remove_file(&self.path));
        }
    }
}

fn identity(path: &Path) -> io::Result<(u64, u64)> {
    let file = fs::symlink_metadata(path)?;
    Ok((file.dev(), file.ino()))
}

impl Control {
    /// Makes the socket and begins to listen. A socket at which nobody answers is replaced.
    ///
    /// # Errors
    /// Whatever else is at `path`, or that it cannot be made.
    pub fn bind(path: &Path) -> Result<Self, ControlError> {
        let io = |source| ControlError::Io {
            path: path.to_owned(),
            source,
        };
        match fs::symlink_metadata(path) {
            Err(error) if error.kind() == io::ErrorKind::NotFound => {}
            Err(error) => return Err(io(error)),
            Ok(file) if !file.file_type().is_socket() => {
                return Err(ControlError::NoSocket(path.to_owned()));
            }
            Ok(_) => match StdStream::connect(path) {
                Ok(_) => return Err(ControlError::Live(path.to_owned())),
                Err(error) if error.kind() == io::ErrorKind::ConnectionRefused => {}
                Err(error) => return Err(io(error)),
            },
        }
        let (listener, file) = listen(path).map_err(io)?;
        let (sender, requests) = mpsc::channel(1);
        let listener = UnixListener::from_std(listener).map_err(io)?;
        Ok(Self {
            file,
            requests,
            accept: tokio::spawn(accept(listener, sender)),
        })
    }

    /// Where it is.
    #[must_use]
    pub fn path(&self) -> &Path {
        &self.file.path
    }

    /// The next request. May be dropped at any time without losing one.
    pub async fn next(&mut self) -> (Request, Handle) {
        match self.requests.recv().await {
            Some(request) => request,
            // The task that accepts never ends.
            None => std::future::pending().await,
        }
    }
}

impl Drop for Control {
    fn drop(&mut self) {
        self.accept.abort();
    }
}

/// The file has its mode from its first moment on, and takes the place of a stale one at once.
fn listen(path: &Path) -> io::Result<(StdListener, SocketFile)> {
    let name = path.file_name().unwrap_or_default().to_string_lossy();
    let hidden = path.with_file_name(format!(".{name}.{}", std::process::id()));
    // Of a process with our number, which is gone.
    if fs::symlink_metadata(&hidden).is_ok_and(|file| file.file_type().is_socket()) {
        fs::remove_file(&hidden)?;
    }
    // SAFETY: plain system calls. The mask is the process's; other threads make no files meanwhile,
    // as there are none that do before packets are metered.
    let listener = unsafe {
        let before = libc::umask(0o777 & !MODE);
        let listener = StdListener::bind(&hidden);
        libc::umask(before);
        listener?
    };
    let mut file = SocketFile {
        identity: identity(&hidden)?,
        path: hidden,
    };
    fs::rename(&file.path, path)?;
    file.path = path.to_owned();
    listener.set_nonblocking(true)?;
    Ok((listener, file))
}

async fn accept(listener: UnixListener, requests: mpsc::Sender<(Request, Handle)>) {
    let places = Arc::new(Semaphore::new(MAX_CLIENTS));
    loop {
        let Ok(place) = Arc::clone(&places).acquire_owned().await else {
            return;
        };
        match listener.accept().await {
            Ok((stream, _)) => {
                let requests = requests.clone();
                tokio::spawn(async move {
                    // What a client does wrong, or that it has gone, is no concern of metering.
                    drop(serve(stream, requests).await);
                    drop(place);
                });
            }
            Err(_) => sleep(RETRY).await,
        }
    }
}

async fn serve(stream: UnixStream, requests: mpsc::Sender<(Request, Handle)>) -> io::Result<()> {
    let mut unread = Vec::new();
    loop {
        let line = match timeout(PATIENCE, read_line(&stream, &mut unread)).await {
            Ok(Ok(Some(line))) => line,
            Ok(Ok(None)) => return Ok(()),
            Ok(Err(error)) if error.kind() == io::ErrorKind::InvalidData => {
                let reply = Reply::Error(format!("a request has at most {MAX_LINE} octets"));
                return timeout(PATIENCE, write(&stream, &reply)).await?;
            }
            Ok(Err(error)) => return Err(error),
            Err(late) => return Err(late.into()),
        };
        let reply = match Request::parse(&line) {
            Ok(request) => {
                let (answer, answered) = oneshot::channel();
                if requests.send((request, Handle(answer))).await.is_err() {
                    return Ok(());
                }
                let ending = || Reply::Error("flowprobe is about to end".to_owned());
                answered.await.unwrap_or_else(|_| ending())
            }
            Err(error) => Reply::Error(error),
        };
        timeout(PATIENCE, write(&stream, &reply)).await??;
    }
}

/// The next line, without its end; nothing at the end of the stream.
async fn read_line(stream: &UnixStream, unread: &mut Vec<u8>) -> io::Result<Option<Vec<u8>>> {
    loop {
        let end = unread.iter().position(|&octet| octet == b'\n');
        if end.unwrap_or(unread.len()) > MAX_LINE {
            return Err(io::ErrorKind::InvalidData.into());
        }
        if let Some(end) = end {
            let mut line: Vec<_> = unread.drain(..=end).collect();
            line.pop();
            return Ok(Some(line));
        }
        stream.readable().await?;
        let mut octets = [0; MAX_LINE];
        match stream.try_read(&mut octets) {
            Ok(0) => return Ok(None),
            Ok(read) => unread.extend_from_slice(&octets[..read]),
            Err(error) if error.kind() == io::ErrorKind::WouldBlock => {}
            Err(error) => return Err(error),
        }
    }
}

async fn write(stream: &UnixStream, reply: &Reply) -> io::Result<()> {
    let mut octets = serde_json::to_vec(reply)?;
    octets.push(b'\n');
    let mut rest = &octets[..];
    while !rest.is_empty() {
        stream.writable().await?;
        match stream.try_write(rest) {
            Ok(written) => rest = &rest[written..],
            Err(error) if error.kind() == io::ErrorKind::WouldBlock => {}
            Err(error) => return Err(error),
        }
    }
    Ok(())
}
