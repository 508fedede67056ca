//! Sends frames exactly as they are, through a packet socket.

use std::{
    io, mem,
    os::fd::{AsRawFd as _, OwnedFd},
};

use anyhow::{Context as _, Result, ensure};

use crate::{netns::Netns, socket::packet};

/// Frames in one system call.
const BATCH: usize = 64;

/// A packet socket on one interface.
#[derive(Debug)]
pub struct Sender {
    socket: OwnedFd,
}

impl Sender {
    /// Opens one.
    ///
    /// # Errors
    /// Without CAP_NET_RAW, or where there is no such interface.
    pub fn new(namespace: &Netns, interface: &str) -> Result<Self> {
        let socket = namespace.run(|| packet(interface, 0))?;
        let socket = socket.with_context(|| format!("a packet socket on {interface}"))?;
        Ok(Self { socket })
    }

    /// Sends frames in order and returns when the interface has taken every one.
    ///
    /// # Errors
    /// Where the kernel refuses a frame, for example one longer than the MTU.
    pub fn send<F: AsRef<[u8]>>(&self, frames: &[F]) -> Result<()> {
        for batch in frames.chunks(BATCH) {
            self.send_batch(batch)?;
        }
        Ok(())
    }

    fn send_batch<F: AsRef<[u8]>>(&self, frames: &[F]) -> Result<()> {
        let mut vectors: Vec<libc::iovec> = frames
            .iter()
            .map(|frame| libc::iovec {
                iov_base: frame.as_ref().as_ptr().cast_mut().cast(),
                iov_len: frame.as_ref().len(),
            })
            .collect();
        let mut messages: Vec<libc::mmsghdr> = vectors
            .iter_mut()
            .map(|vector| {
                // SAFETY: a message header of zeroes is a valid one, with no address.
                let mut message: libc::mmsghdr = unsafe { mem::zeroed() };
                message.msg_hdr.msg_iov = vector;
                message.msg_hdr.msg_iovlen = 1;
                message
            })
            .collect();
        let mut sent = 0;
        while sent < messages.len() {
            let rest = &mut messages[sent..];
            // SAFETY: `rest` points to headers whose vectors point to `frames`, all alive here.
            let count = unsafe {
                libc::sendmmsg(
                    self.socket.as_raw_fd(),
                    rest.as_mut_ptr(),
                    rest.len() as u32,
                    0,
                )
            };
            if count < 0 {
                let error = io::Error::last_os_error();
                // The interface's queue was full, and the frame not taken.
                if matches!(error.raw_os_error(), Some(libc::ENOBUFS | libc::EAGAIN)) {
                    continue;
                }
                return Err(error).context("sendmmsg on a packet socket");
            }
            for (message, frame) in rest.iter().zip(&frames[sent..]).take(count as usize) {
                let length = frame.as_ref().len();
                ensure!(message.msg_len as usize == length, "a frame was cut");
            }
            sent += count as usize;
        }
        Ok(())
    }
}
