//! Sending kept messages again, to a judge that is to see them otherwise than they were.

use std::{net::SocketAddr, thread, time::Duration};

use anyhow::{Context as _, Result};

use crate::{collector::Datagram, netns::Netns};

/// Messages between two pauses: fewer than a socket of the usual size holds.
const BURST: usize = 16;
/// Octets of the message header.
const HEADER: usize = 16;
/// The set of templates of data records.
const TEMPLATES: u16 = 2;
const SAMPLING_INTERVAL: u16 = 34;
/// paddingOctets, of any length: no collector makes anything of it.
const PADDING: u16 = 210;

/// The messages with the samplingInterval of flow records renamed to padding, so that a collector
/// knows the rate from options alone.
///
/// # Errors
/// Where a message is cut off.
pub fn without_intervals(datagrams: &[Datagram]) -> Result<Vec<Datagram>> {
    let mut datagrams = datagrams.to_vec();
    for datagram in &mut datagrams {
        blank(&mut datagram.octets).context("a message that is cut off")?;
    }
    Ok(datagrams)
}

/// RFC 7011 §3.3, §3.4.1: sets, and in them template records with four octets for each field, or
/// eight with an enterprise number.
fn blank(octets: &mut [u8]) -> Option<()> {
    let mut start = HEADER;
    while start < octets.len() {
        let end = start + usize::from(word(octets, start + 2)?);
        let mut at = start + 4;
        while word(octets, start)? == TEMPLATES && at < end {
            let fields = word(octets, at + 2)?;
            at += 4;
            for _ in 0..fields {
                let id = word(octets, at)?;
                if id == SAMPLING_INTERVAL {
                    octets[at..at + 2].copy_from_slice(&PADDING.to_be_bytes());
                }
                at += if id & 0x8000 == 0 { 4 } else { 8 };
            }
        }
        start = end;
    }
    Some(())
}

fn word(octets: &[u8], at: usize) -> Option<u16> {
    let octets = octets.get(at..)?.first_chunk()?;
    Some(u16::from_be_bytes(*octets))
}

/// Sends messages from one socket to a UDP port at 127.0.0.1 in a namespace.
///
/// # Errors
/// Where the port is closed.
pub fn replay(namespace: &Netns, datagrams: &[Datagram], port: u16) -> Result<()> {
    let socket = namespace.udp("127.0.0.1:0".parse::<SocketAddr>()?)?;
    socket.connect(("127.0.0.1", port))?;
    for burst in datagrams.chunks(BURST) {
        for datagram in burst {
            socket.send(&datagram.octets)?;
        }
        thread::sleep(Duration::from_millis(1));
    }
    Ok(())
}
