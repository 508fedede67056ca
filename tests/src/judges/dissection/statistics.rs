//! tshark's own statistics of conversations, read from its tables.

use std::{collections::BTreeMap, net::IpAddr};

use anyhow::{Context as _, Result};

use super::Direction;

/// A statistic, and a direction of it.
pub type Key = (&'static str, Direction);

/// Packets that tshark counts.
pub type Statistics = BTreeMap<Key, u64>;

/// Reads the statistics. Their octets are rounded to kilobytes, so only packets are read.
pub(super) fn statistics(text: &str) -> Result<Statistics> {
    let mut statistics = Statistics::new();
    let mut current = None;
    for line in text.lines() {
        if let Some(title) = line.strip_suffix(" Conversations") {
            let names = [
                ("IPv4", "ip"),
                ("IPv6", "ipv6"),
                ("TCP", "tcp"),
                ("UDP", "udp"),
            ];
            let known = names.iter().find(|(shown, _)| *shown == title);
            current = known.map(|(_, name)| *name);
        } else if let (Some(statistic), Some((one, rest))) = (current, line.split_once(" <-> ")) {
            let words: Vec<_> = rest.split_whitespace().collect();
            // Other end; to the left: frames, octets, their unit; to the right: the same.
            let [other, left, _, _, right, ..] = words[..] else {
                continue;
            };
            let ports = matches!(statistic, "tcp" | "udp");
            let (one, other) = (end(one, ports)?, end(other, ports)?);
            for (source, destination, frames) in [(one, other, right), (other, one, left)] {
                let frames: u64 = frames.parse().with_context(|| line.to_owned())?;
                let direction = Direction {
                    source,
                    destination,
                };
                if frames > 0 {
                    *statistics.entry((statistic, direction)).or_insert(0) += frames;
                }
            }
        }
    }
    Ok(statistics)
}

fn end(text: &str, port: bool) -> Result<(IpAddr, u16)> {
    let text = text.trim();
    let (address, port) = match port {
        true => text.rsplit_once(':').context("no port")?,
        false => (text, "0"),
    };
    let address = address.parse().with_context(|| text.to_owned())?;
    Ok((address, port.parse().with_context(|| text.to_owned())?))
}
