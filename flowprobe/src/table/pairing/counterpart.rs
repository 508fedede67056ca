//! Which flow is the way back of which, and which of them was first.

use std::net::IpAddr;

use flowprobe_ebpf::{Around, parse::tunnel::kind, wire::protocol};

use crate::record::{FlowKey, FlowRecord};

/// Questions of ICMP and their answers (RFC 792, RFC 950).
const ICMP: [(u8, u8); 4] = [(8, 0), (13, 14), (15, 16), (17, 18)];
/// The same of ICMPv6 (RFC 4443, RFC 4620).
const ICMPV6: [(u8, u8); 2] = [(128, 129), (139, 140)];

/// Whether a flow of this key can have a way back.
pub(super) fn can_have_one(key: &FlowKey) -> bool {
    let to_many = match key.destination() {
        IpAddr::V4(to) => to.is_multicast() || to.is_broadcast(),
        IpAddr::V6(to) => to.is_multicast(),
    };
    // From itself to itself, there and back are the same.
    let to_itself =
        key.source() == key.destination() && key.source_port() == key.destination_port();
    !to_many && !to_itself && (!is_icmp(key) || message(key).is_some())
}

/// Whether `a` and `b` are the two directions of one conversation.
///
/// What routers may change on the way (traffic class, MPLS labels) says nothing, nor does the
/// identifier that GTP-U has for each direction. VLANs do on one interface; on two, as behind and in
/// front of a router, they are different networks.
pub(super) fn is_counterpart(a: &FlowKey, b: &FlowKey) -> bool {
    a.source() == b.destination()
        && a.destination() == b.source()
        && a.protocol() == b.protocol()
        && a.sampled() == b.sampled()
        && ports_match(a, b)
        && around_matches(a, b)
}

fn ports_match(a: &FlowKey, b: &FlowKey) -> bool {
    if is_icmp(a) {
        return match (message(a), message(b)) {
            (Some(a), Some(b)) => a.question == b.question && a.asks != b.asks,
            _ => false,
        };
    }
    a.source_port() == b.destination_port() && a.destination_port() == b.source_port()
}

fn around_matches(a: &FlowKey, b: &FlowKey) -> bool {
    let [around_a, around_b] = [a, b].map(|key| key.around().unwrap_or(Around::EMPTY));
    let tags = |key: &FlowKey, around: &Around| (key.vlan(), around.inner_vlans);
    if a.ifindex() == b.ifindex() && tags(a, &around_a) != tags(b, &around_b) {
        return false;
    }
    let network = |around: &Around| {
        let id = match around.tunnel {
            kind::GTPU => 0,
            _ => around.tunnel_id,
        };
        (around.tunnel, id, around.outer_version)
    };
    network(&around_a) == network(&around_b) && around_a.outer == back(&around_b)
}

/// The outer addresses of the way back.
fn back(around: &Around) -> [u64; 4] {
    let [a, b, c, d] = around.outer;
    match around.outer_version {
        // Two addresses of four octets each in one word.
        4 => [a.rotate_left(32), b, c, d],
        _ => [c, d, a, b],
    }
}

fn is_icmp(key: &FlowKey) -> bool {
    matches!(key.protocol(), protocol::ICMP | protocol::ICMPV6)
}

/// Whether its beginning is told by flags.
pub(super) fn is_connection(key: &FlowKey) -> bool {
    key.protocol() == protocol::TCP
}

/// A question of ICMP, or an answer.
struct Message {
    /// Type of the question.
    question: u8,
    asks: bool,
}

fn message(key: &FlowKey) -> Option<Message> {
    let [kind, _] = key.destination_port().to_be_bytes();
    let known = match key.protocol() {
        protocol::ICMP => &ICMP[..],
        protocol::ICMPV6 => &ICMPV6[..],
        _ => &[],
    };
    let (question, _) = known
        .iter()
        .find(|(question, answer)| [*question, *answer].contains(&kind))?;
    Some(Message {
        question: *question,
        asks: kind == *question,
    })
}

/// How a flow began, as far as its first packet says.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(super) enum Opening {
    /// It answered: SYN with ACK, or an answer of ICMP.
    Answered,
    /// Its first packet says nothing.
    Unknown,
    /// It began the conversation: SYN alone, or a question of ICMP.
    Began,
}

impl Opening {
    fn of(record: &FlowRecord) -> Self {
        if let Some(message) = message(&record.key) {
            return if message.asks {
                Self::Began
            } else {
                Self::Answered
            };
        }
        match (record.marks.began_with_syn(), record.marks.began_with_ack()) {
            (true, false) => Self::Began,
            (true, true) => Self::Answered,
            (false, _) => Self::Unknown,
        }
    }

    /// Whether `a` began a conversation with `b`; nothing where neither shows more than the other.
    pub(super) fn by(a: &FlowRecord, b: &FlowRecord) -> Option<bool> {
        let [a, b] = [a, b].map(Self::of);
        (a != b).then_some(a > b)
    }
}
