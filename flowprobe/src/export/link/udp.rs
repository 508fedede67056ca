//! A connected UDP socket that sends many datagrams at once, and reports which came back with an
//! ICMP error.

mod burst;

use std::{
    io,
    net::{Ipv4Addr, Ipv6Addr, SocketAddr, UdpSocket},
    os::fd::AsRawFd,
};

use self::burst::Burst;
use super::{Link, Undelivered, icmp, path};

/// A UDP socket to one collector. It stays the same until the end, so that all messages come
/// from one port.
#[derive(Debug)]
pub(in crate::export) struct Socket {
    socket: UdpSocket,
    collector: SocketAddr,
    connected: bool,
    burst: Burst,
}

impl Socket {
    /// Opens the socket. It is connected with the first datagram, since there may be no route
    /// yet.
    pub(in crate::export) fn open(collector: SocketAddr) -> io::Result<Self> {
        let any = match collector {
            SocketAddr::V4(_) => SocketAddr::from((Ipv4Addr::UNSPECIFIED, 0)),
            SocketAddr::V6(_) => SocketAddr::from((Ipv6Addr::UNSPECIFIED, 0)),
        };
        let socket = UdpSocket::bind(any)?;
        socket.set_nonblocking(true)?;
        icmp::report(&socket, collector)?;
        path::never_fragment(&socket, collector)?;
        Ok(Self {
            socket,
            collector,
            connected: false,
            burst: Burst::default(),
        })
    }
}

impl Socket {
    fn connect(&mut self) -> io::Result<()> {
        if !self.connected {
            self.socket.connect(self.collector)?;
            self.connected = true;
        }
        Ok(())
    }
}

impl Link for Socket {
    fn send(&mut self, datagram: &[u8]) -> io::Result<()> {
        self.connect()?;
        self.socket.send(datagram).map(drop)
    }

    fn send_all(&mut self, messages: &mut dyn Iterator<Item = &[u8]>) -> (usize, io::Result<()>) {
        if let Err(error) = self.connect() {
            // With nothing to send there is nothing that fails.
            let failed = messages.next().map_or(Ok(()), |_| Err(error));
            return (0, failed);
        }
        self.burst.send(self.socket.as_raw_fd(), messages)
    }

    fn path_octets(&mut self) -> Option<u16> {
        self.connect().ok()?;
        path::datagram_octets(&self.socket, self.collector)
    }

    fn undelivered(&mut self) -> Option<Undelivered> {
        icmp::next(&self.socket)
    }
}
