//! What each direction of a conversation has to count, in flows and in tshark's statistics.

use std::{cmp::Ordering, collections::BTreeMap};

use flowprobe_tests::{
    flow::Counts,
    judges::dissection::{Direction, Dissected, Header, Key},
};

use super::expected::{Case, Counted, Firsts, judge};

/// What one direction has to count.
#[derive(Debug, Default)]
pub(crate) struct Expected {
    /// In its flows.
    pub(crate) flows: Counts,
    /// Packets of these that the statistic does not count here.
    elsewhere: u64,
    /// Packets that it counts beyond these, each with its number.
    pub(crate) beyond: Vec<(Case, u64)>,
    /// Packets that it may miss.
    unfinished: u64,
}

impl Expected {
    fn count(&mut self, octets: u64) {
        self.flows.add(Counts { packets: 1, octets });
    }

    /// How many packets the statistic misses, if it may: it has counted `frames`.
    pub(crate) fn missed(&self, frames: u64) -> Option<u64> {
        let all = self.flows.packets - self.elsewhere + self.beyond.len() as u64;
        let missed = all.checked_sub(frames)?;
        (missed <= self.unfinished).then_some(missed)
    }
}

/// All directions of a capture's conversations, packet by packet.
#[derive(Default)]
pub(crate) struct Conversations {
    pub(crate) directions: BTreeMap<Key, Expected>,
    pub(crate) firsts: Firsts,
    /// Packets of which it is not known what they have to be.
    pub(crate) unknown: Vec<String>,
}

impl Conversations {
    /// Counts the packets of a capture, with tunnels opened or closed.
    pub(crate) fn of(packets: &[Dissected], inner: bool) -> Self {
        let mut conversations = Self::default();
        for packet in packets {
            conversations.add(packet, inner);
        }
        conversations
    }

    fn add(&mut self, packet: &Dissected, inner: bool) {
        let headers = packet.headers();
        if headers.is_empty() {
            return;
        }
        let verdict = judge(packet, inner);
        match verdict {
            Ok(counted) => self.follow(packet, counted),
            Err(Case::Unknown) => {
                let text = format!("packet {}: {:?}", packet.number, packet.layers);
                self.unknown.push(text);
            }
            Err(_) => {}
        }
        for header in headers {
            self.add_header(packet, &header, verdict);
        }
    }

    /// Counts a later fragment where its first one is, of which the statistic knows nothing.
    fn follow(&mut self, packet: &Dissected, counted: Counted) {
        if let Some(key) = self.firsts.follow(packet, counted) {
            let expected = self.at(key);
            expected.count(counted.octets);
            expected.elsewhere += 1;
        }
    }

    fn add_header(&mut self, packet: &Dissected, header: &Header, verdict: Result<Counted, Case>) {
        // tshark's statistic of IPv6 has first fragments only.
        let later = packet.fragment(header.level).is_some_and(|part| part.later);
        let uncounted = header.statistic == "ipv6" && later;
        let expected = self.at((header.statistic, header.direction));
        expected.unfinished += u64::from(packet.is_unfinished());
        let case = match verdict {
            Err(case) => case,
            Ok(counted) => match header.level.cmp(&counted.level) {
                Ordering::Greater => Case::Inner,
                Ordering::Less => Case::Around,
                Ordering::Equal => {
                    expected.count(counted.octets);
                    expected.elsewhere += u64::from(uncounted);
                    return self.route(packet, header);
                }
            },
        };
        if !uncounted {
            expected.beyond.push((case, packet.number));
        }
    }

    /// Moves a packet to where a Routing header leads, as the statistics of ports do.
    fn route(&mut self, packet: &Dissected, header: &Header) {
        let Some(last) = packet.final_destination() else {
            return;
        };
        let Direction {
            source,
            destination: (destination, port),
        } = header.direction;
        if matches!(header.statistic, "tcp" | "udp") && last != destination {
            self.at((header.statistic, header.direction)).elsewhere += 1;
            let led = Direction {
                source,
                destination: (last, port),
            };
            let beyond = &mut self.at((header.statistic, led)).beyond;
            beyond.push((Case::Routed, packet.number));
        }
    }

    fn at(&mut self, key: Key) -> &mut Expected {
        self.directions.entry(key).or_default()
    }
}
