//! The datagrams below a DTLS session.

use std::{
    collections::VecDeque,
    io::{self, ErrorKind, Read, Write},
    net::{Ipv4Addr, Ipv6Addr, SocketAddr, UdpSocket},
};

use crate::export::link::{icmp, path};

/// A connected socket. What DTLS writes waits here for the socket, each datagram by itself.
#[derive(Debug)]
pub(super) struct Datagrams {
    pub(super) socket: UdpSocket,
    pub(super) outbox: VecDeque<Vec<u8>>,
}

impl Datagrams {
    /// To a collector.
    pub(super) fn connected(address: SocketAddr) -> io::Result<Self> {
        let any = match address {
            SocketAddr::V4(_) => SocketAddr::from((Ipv4Addr::UNSPECIFIED, 0)),
            SocketAddr::V6(_) => SocketAddr::from((Ipv6Addr::UNSPECIFIED, 0)),
        };
        let socket = UdpSocket::bind(any)?;
        socket.set_nonblocking(true)?;
        path::never_fragment(&socket, address)?;
        icmp::report(&socket, address)?;
        socket.connect(address)?;
        Ok(Self {
            socket,
            outbox: VecDeque::new(),
        })
    }

    /// Hands on what the kernel takes; whether that is all.
    pub(super) fn push(&mut self) -> io::Result<bool> {
        while let Some(datagram) = self.outbox.front() {
            match self.socket.send(datagram) {
                Ok(_) => {}
                Err(error) if error.kind() == ErrorKind::Interrupted => continue,
                Err(error) if is_full(&error) => return Ok(false),
                Err(error) => return Err(error),
            }
            self.outbox.pop_front();
        }
        Ok(true)
    }
}

/// Whether it may be tried again.
fn is_full(error: &io::Error) -> bool {
    error.kind() == ErrorKind::WouldBlock
        || matches!(error.raw_os_error(), Some(libc::ENOBUFS | libc::ENOMEM))
}

impl Write for Datagrams {
    /// Takes a datagram.
    fn write(&mut self, datagram: &[u8]) -> io::Result<usize> {
        self.outbox.push_back(datagram.to_vec());
        Ok(datagram.len())
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

impl Read for Datagrams {
    fn read(&mut self, octets: &mut [u8]) -> io::Result<usize> {
        self.socket.recv(octets)
    }
}
