//! IPFIX over TCP (RFC 7011 §10.4): messages one after the other, each as long as it says.

use std::{
    io::{self, Write as _},
    net::SocketAddr,
    time::Instant,
};

use super::{
    connection::{Connection, Protocol, Speaker},
    dial::Peer,
    stream::Stream,
};

/// TCP without anything around the messages.
#[derive(Debug)]
pub(in crate::export) struct Plain;

/// A TCP connection to a collector.
pub(in crate::export) type Tcp = Connection<Plain>;

impl Tcp {
    /// A link to `port` of `host`, a name or an address without brackets. Nothing is sent yet.
    pub(in crate::export) fn new(host: &str, port: u16) -> Self {
        Self::with(Plain, Peer::new(host, port))
    }
}

impl Protocol for Plain {
    type Speaker = Stream;

    fn begin(&mut self, stream: Stream, _address: SocketAddr) -> io::Result<Stream> {
        Ok(stream)
    }
}

impl Speaker for Stream {
    fn set_up(&mut self, _now: Instant) -> io::Result<bool> {
        Ok(true)
    }

    fn say(&mut self, message: &[u8]) -> io::Result<()> {
        self.write_all(message)
    }

    fn listen(&mut self) -> io::Result<()> {
        self.hear_nothing()
    }

    fn stream(&mut self) -> &mut Stream {
        self
    }
}
