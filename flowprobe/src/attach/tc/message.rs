//! Messages of rtnetlink about the clsact qdisc and filters in it.

use super::Way;
use crate::attach::netlink::{self, ATTRIBUTE, Attribute, HEADER, attributes, u32_at};

const MESSAGE: usize = 20; // struct tcmsg

// linux/rtnetlink.h.
const RTM_NEWTFILTER: u16 = 44;
const RTM_DELTFILTER: u16 = 45;
const RTM_GETTFILTER: u16 = 46;
const RTM_NEWQDISC: u16 = 36;
const RTM_DELQDISC: u16 = 37;
const RTM_GETQDISC: u16 = 38;
const TCA_KIND: u16 = 1;
const TCA_OPTIONS: u16 = 2;
// linux/pkt_cls.h.
const TCA_BPF_FD: u16 = 6;
const TCA_BPF_NAME: u16 = 7;
const TCA_BPF_FLAGS: u16 = 8;
const TCA_BPF_ID: u16 = 11;
const TCA_BPF_FLAG_ACT_DIRECT: u32 = 1;
// linux/pkt_sched.h.
const TC_H_CLSACT: u32 = 0xffff_fff1;
const CLSACT_HANDLE: u32 = 0xffff_0000;
const TC_H_INGRESS: u32 = 0xffff_fff2;
const TC_H_EGRESS: u32 = 0xffff_fff3;

const KIND: &[u8] = b"bpf\0";

/// Where a filter is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Place {
    pub(super) ifindex: u32,
    pub(super) way: Way,
    pub(super) handle: u32,
    /// Priority and protocol.
    info: u32,
}

/// A filter.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Filter {
    pub(super) place: Place,
    /// Id of its program, and its name; 0 and nothing of filters of other kinds.
    pub(super) program: u32,
    pub(super) name: String,
}

/// struct tcmsg behind the header, then attributes.
fn request(
    kind: u16,
    flags: libc::c_int,
    fields: [u32; 4],
    attributes: &[(u16, &[u8])],
) -> Vec<u8> {
    let mut request = vec![0; HEADER + MESSAGE];
    request[4..6].copy_from_slice(&kind.to_ne_bytes());
    let flags = (libc::NLM_F_REQUEST | flags) as u16;
    request[6..8].copy_from_slice(&flags.to_ne_bytes());
    // Behind the family and its padding: ifindex, handle, parent, info.
    for (i, field) in fields.iter().enumerate() {
        let at = HEADER + 4 + 4 * i;
        request[at..at + 4].copy_from_slice(&field.to_ne_bytes());
    }
    for (kind, value) in attributes {
        put(&mut request, *kind, value);
    }
    let length = request.len() as u32;
    request[..4].copy_from_slice(&length.to_ne_bytes());
    request
}

fn put(to: &mut Vec<u8>, kind: u16, value: &[u8]) {
    to.extend(((ATTRIBUTE + value.len()) as u16).to_ne_bytes());
    to.extend(kind.to_ne_bytes());
    to.extend(value);
    to.resize(to.len().next_multiple_of(4), 0);
}

fn parent(way: Way) -> u32 {
    match way {
        Way::In => TC_H_INGRESS,
        Way::Out => TC_H_EGRESS,
    }
}

pub(super) fn add_qdisc(ifindex: u32) -> Vec<u8> {
    let flags = libc::NLM_F_ACK | libc::NLM_F_CREATE | libc::NLM_F_EXCL;
    let fields = [ifindex, CLSACT_HANDLE, TC_H_CLSACT, 0];
    request(RTM_NEWQDISC, flags, fields, &[(TCA_KIND, b"clsact\0")])
}

pub(super) fn remove_qdisc(ifindex: u32) -> Vec<u8> {
    let fields = [ifindex, CLSACT_HANDLE, TC_H_CLSACT, 0];
    request(
        RTM_DELQDISC,
        libc::NLM_F_ACK,
        fields,
        &[(TCA_KIND, b"clsact\0")],
    )
}

/// Asks which qdisc there is in the place of clsact. The kernel answers by the echo alone.
pub(super) fn get_qdisc(ifindex: u32) -> Vec<u8> {
    let fields = [ifindex, 0, TC_H_CLSACT, 0];
    request(
        RTM_GETQDISC,
        libc::NLM_F_ACK | libc::NLM_F_ECHO,
        fields,
        &[],
    )
}

/// Reads the kind of a qdisc; none where it is about something else.
pub(super) fn qdisc_kind(message: &[u8]) -> Option<String> {
    if netlink::u16_at(message, 4).ok()? != RTM_NEWQDISC {
        return None;
    }
    let mut attributes = attributes(message, HEADER + MESSAGE, message.len()).map_while(Result::ok);
    let kind = attributes.find(|attribute| attribute.kind == TCA_KIND)?;
    Some(netlink::text(&message[kind.start..kind.end]))
}

/// The priority in front of all others. A program that is added there is in front of others there.
pub(super) const FIRST: u16 = 1;
/// One that the kernel chooses, behind all that somebody has chosen.
pub(super) const ANY: u16 = 0;

/// Adds a program. The kernel says by the echo where it is then.
pub(super) fn add_filter(
    ifindex: u32,
    way: Way,
    priority: u16,
    program: i32,
    name: &str,
) -> Vec<u8> {
    let flags = libc::NLM_F_ACK | libc::NLM_F_CREATE | libc::NLM_F_EXCL | libc::NLM_F_ECHO;
    let protocol = u32::from((libc::ETH_P_ALL as u16).to_be());
    let mut options = Vec::new();
    put(&mut options, TCA_BPF_FD, &program.to_ne_bytes());
    put(
        &mut options,
        TCA_BPF_NAME,
        &[name.as_bytes(), &[0]].concat(),
    );
    put(
        &mut options,
        TCA_BPF_FLAGS,
        &TCA_BPF_FLAG_ACT_DIRECT.to_ne_bytes(),
    );
    request(
        RTM_NEWTFILTER,
        flags,
        [
            ifindex,
            0,
            parent(way),
            u32::from(priority) << 16 | protocol,
        ],
        &[(TCA_KIND, KIND), (TCA_OPTIONS, &options)],
    )
}

pub(super) fn remove_filter(place: &Place) -> Vec<u8> {
    request(
        RTM_DELTFILTER,
        libc::NLM_F_ACK,
        [place.ifindex, place.handle, parent(place.way), place.info],
        &[(TCA_KIND, KIND)],
    )
}

pub(super) fn list_filters(ifindex: u32, way: Way) -> Vec<u8> {
    let fields = [ifindex, 0, parent(way), 0];
    request(RTM_GETTFILTER, libc::NLM_F_DUMP, fields, &[])
}

/// Reads a message about a filter; none where it is about something else.
pub(super) fn filter(message: &[u8]) -> Option<Filter> {
    if netlink::u16_at(message, 4).ok()? != RTM_NEWTFILTER {
        return None;
    }
    let field = |i: usize| u32_at(message, HEADER + 4 + 4 * i).ok();
    let way = match field(2)? {
        TC_H_INGRESS => Way::In,
        TC_H_EGRESS => Way::Out,
        _ => return None,
    };
    let mut filter = Filter {
        place: Place {
            ifindex: field(0)?,
            handle: field(1)?,
            way,
            info: field(3)?,
        },
        program: 0,
        name: String::new(),
    };
    for attribute in attributes(message, HEADER + MESSAGE, message.len()) {
        let Attribute { kind, start, end } = attribute.ok()?;
        if kind != TCA_OPTIONS {
            continue;
        }
        for option in attributes(message, start, end) {
            // Other kinds of filters have other options, which need not look like these.
            let Ok(Attribute { kind, start, end }) = option else {
                break;
            };
            match kind {
                TCA_BPF_ID => filter.program = u32_at(&message[..end], start).unwrap_or_default(),
                TCA_BPF_NAME => filter.name = netlink::text(&message[start..end]),
                _ => {}
            }
        }
    }
    Some(filter)
}

#[cfg(test)]
mod tests {
    use super::*;

    /// What is added is what is read, but for the program's id, which the kernel puts in.
    #[test]
    fn a_filter_is_read_as_it_was_written() {
        for way in [Way::In, Way::Out] {
            let message = add_filter(7, way, FIRST, 3, "flowprobe/1/2/3/qdisc");
            let filter = filter(&message).expect("a filter");
            assert_eq!(filter.name, "flowprobe/1/2/3/qdisc");
            assert_eq!((filter.place.ifindex, filter.place.way), (7, way));
            let removal = remove_filter(&filter.place);
            // The same place: interface, handle, parent, priority and protocol.
            let place = HEADER + 4..HEADER + MESSAGE;
            assert_eq!(removal[place.clone()], message[place]);
        }
    }

    #[test]
    fn a_qdisc_says_its_kind() {
        let whole = add_qdisc(7);
        assert_eq!(qdisc_kind(&whole).as_deref(), Some("clsact"));
        for length in 0..whole.len() - 1 {
            assert_eq!(qdisc_kind(&whole[..length]), None, "{length}");
        }
        assert_eq!(qdisc_kind(&add_filter(7, Way::In, ANY, 3, "x")), None);
    }

    #[test]
    fn filters_elsewhere_and_messages_cut_are_none() {
        let whole = add_filter(7, Way::In, ANY, 3, "x");
        for length in 0..HEADER + MESSAGE {
            assert_eq!(filter(&whole[..length]), None, "{length}");
        }
        // Of a class of another qdisc.
        let mut other = whole;
        other[HEADER + 12..HEADER + 16].copy_from_slice(&0x0001_0000_u32.to_ne_bytes());
        assert_eq!(filter(&other), None);
    }
}
