use super::*;

/// RTM_NEWLINK of a veth that is a bridge's port, with XDP program 161 in native mode, two
/// receive queues and some traffic; from Linux 6.18, little-endian.
const VETH_IN_BRIDGE: &[u8] = include_bytes!("veth_in_bridge.bin");

fn malformed(reply: &[u8]) -> Option<usize> {
    match parse(reply) {
        Err(NetlinkError::Malformed(at)) => Some(at),
        _ => None,
    }
}

fn message(kind: u16, body: &[u8]) -> Vec<u8> {
    let mut message = vec![0; HEADER];
    message[0..4].copy_from_slice(&((HEADER + body.len()) as u32).to_ne_bytes());
    message[4..6].copy_from_slice(&kind.to_ne_bytes());
    message.extend_from_slice(body);
    message
}

fn attribute(kind: u16, value: &[u8]) -> Vec<u8> {
    let mut attribute = Vec::new();
    attribute.extend_from_slice(&((ATTRIBUTE + value.len()) as u16).to_ne_bytes());
    attribute.extend_from_slice(&kind.to_ne_bytes());
    attribute.extend_from_slice(value);
    attribute.resize(attribute.len().next_multiple_of(4), 0);
    attribute
}

fn link_with(attributes: &[u8]) -> Vec<u8> {
    message(libc::RTM_NEWLINK, &[&[0; INFO], attributes].concat())
}

#[test]
fn a_real_answer_is_read_in_full() {
    let link = parse(VETH_IN_BRIDGE).unwrap();
    assert_eq!(
        link,
        LinkInfo {
            index: 2,
            hardware: 1,
            // Its peer, here or elsewhere.
            lower: link.lower,
            lower_is_elsewhere: link.lower_is_elsewhere,
            // As `ip link` printed: UP, LOWER_UP, BROADCAST, MULTICAST, here with RUNNING
            // and, from the bridge, PROMISC and ALLMULTI inside the kernel only.
            flags: link.flags,
            name: "v1".to_owned(),
            mtu: 1500,
            master: Some(3),
            kind: Some("veth".to_owned()),
            master_kind: Some("bridge".to_owned()),
            rx_queues: Some(2),
            xdp: XdpPrograms {
                native: Some(161),
                ..XdpPrograms::default()
            },
            stats: InterfaceStats {
                rx_packets: 56,
                rx_octets: 3624,
                ..InterfaceStats::default()
            },
        }
    );
    let named = libc::IFF_UP | libc::IFF_LOWER_UP | libc::IFF_BROADCAST | libc::IFF_MULTICAST;
    let not = libc::IFF_LOOPBACK | libc::IFF_PROMISC;
    assert_eq!(link.flags & (named | not) as u32, named as u32);
}

#[test]
fn an_answer_cut_anywhere_is_malformed() {
    for length in 0..VETH_IN_BRIDGE.len() {
        assert!(malformed(&VETH_IN_BRIDGE[..length]).is_some(), "{length}");
    }
}

/// Each octet set to each of some values: the parser answers or refuses, and does not panic.
#[test]
fn no_octet_makes_the_parser_panic() {
    for at in 0..VETH_IN_BRIDGE.len() {
        for value in [0, 1, 3, 4, 0x7f, 0x80, 0xff] {
            let mut reply = VETH_IN_BRIDGE.to_vec();
            reply[at] = value;
            drop(parse(&reply));
        }
    }
}

#[test]
fn the_kernels_error_is_handed_on() {
    let mut body = (-libc::ENODEV).to_ne_bytes().to_vec();
    body.resize(20, 0);
    match parse(&message(libc::NLMSG_ERROR as u16, &body)) {
        Err(NetlinkError::Kernel(error)) => assert_eq!(error.raw_os_error(), Some(libc::ENODEV)),
        other => panic!("{other:?}"),
    }
}

#[test]
fn another_kind_of_message_is_refused() {
    assert_eq!(malformed(&message(libc::RTM_NEWADDR, &[0; INFO])), Some(4));
}

#[test]
fn an_attribute_beyond_its_container_is_refused() {
    let mut attributes = attribute(libc::IFLA_MTU, &1500_u32.to_ne_bytes());
    attributes[0] = 12;
    assert_eq!(malformed(&link_with(&attributes)), Some(HEADER + INFO));
    // Shorter than its own header: would never end.
    attributes[0] = 3;
    assert_eq!(malformed(&link_with(&attributes)), Some(HEADER + INFO));
    // A value shorter than its type does not read into what follows.
    let attributes = [
        attribute(libc::IFLA_MTU, &[1, 2]),
        attribute(libc::IFLA_MASTER, &[0; 4]),
    ];
    assert!(malformed(&link_with(&attributes.concat())).is_some());
}

fn xdp_of(attributes: &[Vec<u8>]) -> XdpPrograms {
    let nested = attribute(
        libc::IFLA_XDP | libc::NLA_F_NESTED as u16,
        &attributes.concat(),
    );
    parse(&link_with(&nested)).unwrap().xdp
}

#[test]
fn xdp_programs_are_told_by_mode() {
    let id = |kind, id: u32| attribute(kind, &id.to_ne_bytes());
    let mode = |mode| attribute(IFLA_XDP_ATTACHED, &[mode]);
    assert_eq!(xdp_of(&[mode(0)]), XdpPrograms::default());
    // XDP_ATTACHED_MULTI: one id per mode, and no id for all.
    assert_eq!(
        xdp_of(&[
            mode(4),
            id(IFLA_XDP_DRV_PROG_ID, 1),
            id(IFLA_XDP_HW_PROG_ID, 3),
        ]),
        XdpPrograms {
            native: Some(1),
            generic: None,
            offloaded: Some(3),
        }
    );
    assert_eq!(
        xdp_of(&[mode(2), id(IFLA_XDP_PROG_ID, 7)]),
        XdpPrograms {
            generic: Some(7),
            ..XdpPrograms::default()
        }
    );
}

#[test]
fn counters_are_read_from_their_places() {
    let fields: Vec<u8> = (0..25_u64).flat_map(u64::to_ne_bytes).collect();
    let link = parse(&link_with(&attribute(libc::IFLA_STATS64, &fields))).unwrap();
    // linux/if_link.h: struct rtnl_link_stats64.
    let expected = InterfaceStats {
        rx_packets: 0,
        rx_octets: 2,
        rx_errors: 4,
        rx_dropped: 6,
        rx_fifo_errors: 14,
        rx_missed: 15,
        rx_nohandler: 23,
    };
    assert_eq!(link.stats, expected);
    assert!(malformed(&link_with(&attribute(libc::IFLA_STATS64, &fields[..184]))).is_some());
}

#[test]
fn the_request_is_of_its_own_length() {
    let request = request(7, 0);
    assert_eq!(u32_at(&request, 0).unwrap() as usize, request.len());
    assert_eq!(u16_at(&request, 4).unwrap(), libc::RTM_GETLINK);
    assert_eq!(u32_at(&request, HEADER + 4).unwrap(), 7);
}
