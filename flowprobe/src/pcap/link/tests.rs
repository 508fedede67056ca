use super::*;

const IPV4: [u8; 20] = [
    0x45, 0, 0, 20, 0, 0, 0, 0, 64, 47, 0, 0, 192, 0, 2, 1, 192, 0, 2, 2,
];
const SENDER: [u8; 8] = [2, 0, 0, 0, 0, 9, 0, 0];

fn ipv6() -> Vec<u8> {
    let mut octets = vec![0; 40];
    octets[0] = 0x60;
    octets[6] = 59;
    octets
}

fn protocol(link: u16, frame: &[u8]) -> Result<u8, Skip> {
    let link = Link::of(LinkType(link)).expect("can be read");
    let parsed = link.parse(frame, &Tunnels::OUTER);
    parsed.map(|parsed| parsed.packet.protocol)
}

#[test]
fn raw_packets_are_what_their_version_says() {
    for link in [12, 14, 101, 228, 229] {
        assert_eq!(protocol(link, &IPV4), Ok(47));
        assert_eq!(protocol(link, &ipv6()), Ok(59));
        assert_eq!(protocol(link, &[0x50, 0]), Err(Skip::BadVersion));
        assert_eq!(protocol(link, &[]), Err(Skip::TruncatedLink));
    }
}

#[test]
fn address_families_come_in_either_order() {
    for link in [0, 108] {
        for order in [u32::to_be_bytes, u32::to_le_bytes] {
            let packet = |family: u32, packet: &[u8]| [&order(family), packet].concat();
            assert_eq!(protocol(link, &packet(2, &IPV4)), Ok(47));
            for family in [10, 24, 28, 30] {
                assert_eq!(protocol(link, &packet(family, &ipv6())), Ok(59));
            }
            let other = protocol(link, &packet(7, &IPV4));
            assert_eq!(other, Err(Skip::OtherEthertype));
        }
        assert_eq!(protocol(link, &[2, 0, 0]), Err(Skip::TruncatedLink));
    }
}

#[test]
fn cooked_frames_name_their_payload() {
    let v1 = |ethertype: u16, payload: &[u8]| {
        let head = [&[0, 4, 0, 1, 0, 6][..], &SENDER, &ethertype.to_be_bytes()];
        [&head.concat(), payload].concat()
    };
    let v2 = |ethertype: u16, payload: &[u8]| {
        let head = [&ethertype.to_be_bytes()[..], &[0; 9], &[6], &SENDER];
        [&head.concat(), payload].concat()
    };
    let tagged = [&[0x60, 7, 0x08, 0][..], &IPV4].concat();
    type Frame<'a> = &'a dyn Fn(u16, &[u8]) -> Vec<u8>;
    let frames: [(u16, Frame<'_>); 2] = [(113, &v1), (276, &v2)];
    for (link, frame) in frames {
        assert_eq!(protocol(link, &frame(0x0800, &IPV4)), Ok(47));
        assert_eq!(protocol(link, &frame(0x86dd, &ipv6())), Ok(59));
        assert_eq!(protocol(link, &frame(0x0806, &IPV4)), Err(Skip::Arp));
        let short = frame(0x0800, &[]);
        let short = &short[..short.len() - 9];
        assert!(protocol(link, short).is_err());

        let link = Link::of(LinkType(link)).expect("can be read");
        let parsed = link.parse(&frame(0x8100, &tagged)[..], &Tunnels::OUTER);
        let packet = parsed.expect("a packet").packet;
        assert_eq!((packet.protocol, packet.vlan), (47, 7));
        let macs = link.macs(&frame(0x0800, &IPV4)[..]);
        assert_eq!(macs.octets(), [0, 0, 0, 0, 0, 0, 2, 0, 0, 0, 0, 9]);
    }
}

#[test]
fn other_link_types_are_named() {
    assert_eq!(Link::of(LinkType(249)), None);
    assert_eq!(LinkType(249).to_string(), "249 (USBPCAP)");
    assert_eq!(LinkType(150).to_string(), "150 (USER3)");
    assert_eq!(LinkType(999).to_string(), "999");
}

/// Cases of a link layer: what stands before an IPv4 packet.
#[track_caller]
fn carries(link: u16, header: &[u8]) {
    let frame = [header, &IPV4].concat();
    assert_eq!(protocol(link, &frame), Ok(47), "{header:02x?}");
    for cut in 0..header.len() {
        assert!(protocol(link, &frame[..cut]).is_err(), "{cut} octets");
    }
}

const SNAP: [u8; 8] = [0xaa, 0xaa, 3, 0, 0, 0, 0x08, 0];

fn with_snap(header: &[u8]) -> Vec<u8> {
    [header, &SNAP].concat()
}

#[test]
fn ppp_comes_with_and_without_its_framing() {
    for link in [9, 50, 166] {
        carries(link, &[0xff, 3, 0, 0x21]);
        carries(link, &[0xff, 3, 0x21]);
        carries(link, &[0, 0x21]);
        carries(link, &[0x21]);
        carries(link, &[0x0f, 0, 0x08, 0]);
        // A bottom label.
        carries(link, &[0xff, 3, 0x02, 0x81, 0, 1, 1, 64]);
        assert_eq!(
            protocol(link, &[0xff, 3, 0xc0, 0x21, 1]),
            Err(Skip::PppControl)
        );
        let six = [&[0xff, 3, 0, 0x57][..], &ipv6()].concat();
        assert_eq!(protocol(link, &six), Ok(59));
    }
    carries(166, &[1, 3, 0, 0x21]);
    carries(204, &[1, 0xff, 3, 0, 0x21]);
    carries(204, &[0, 0, 0x21]);
    carries(51, &[0x11, 0, 0, 7, 0, 22, 0, 0x21]);
    carries(104, &[0x8f, 0, 0x08, 0]);
}

#[test]
fn frame_relay_names_its_payload_in_three_ways() {
    carries(107, &[0x18, 0x41, 3, 0xcc]);
    carries(107, &[0x18, 0x40, 0x02, 0x41, 3, 0xcc]);
    carries(107, &[0x18, 0x41, 3, 0, 0x80, 0, 0, 0, 0x08, 0]);
    carries(107, &[0x18, 0x41, 0x08, 0]);
    let six = [&[0x18, 0x41, 3, 0x8e][..], &ipv6()].concat();
    assert_eq!(protocol(107, &six), Ok(59));
    let bridged = [0x18, 0x41, 3, 0, 0x80, 0, 0x80, 0xc2, 0, 7];
    assert_eq!(protocol(107, &bridged), Err(Skip::Llc));
    let endless = [0x18, 0x40, 0x40, 0x40, 0x40, 0x41, 3, 0xcc];
    assert_eq!(protocol(107, &endless), Err(Skip::OtherEthertype));
}

#[test]
fn rings_and_cells_carry_llc() {
    carries(100, &SNAP);
    carries(122, &with_snap(&[0; 16]));
    carries(10, &with_snap(&[&[0x50][..], &[2; 12]].concat()));
    assert_eq!(protocol(10, &[0x41; 40]), Err(Skip::OtherEthertype));
    carries(6, &with_snap(&[&[0x10, 0x40][..], &[2; 12]].concat()));
    let source = [0x82, 2, 2, 2, 2, 2];
    let routed = [&[0x10, 0x40][..], &[2; 6], &source, &[0x06, 0, 0, 1, 0, 2]];
    carries(6, &with_snap(&routed.concat()));
    assert_eq!(protocol(6, &[0x10; 40]), Err(Skip::OtherEthertype));
}

#[test]
fn headers_of_fixed_length_name_an_ethertype() {
    carries(138, &[&[1; 16][..], &[0x08, 0]].concat());
    carries(242, &[&[1; 40][..], &[0x08, 0, 0, 0]].concat());
    carries(219, &[0, 1, 0, 64, 0, 1, 1, 64]);
    let ethernet = [&[2; 12][..], &[0x08, 0]].concat();
    let preamble = [0x55, 0x55, 0x55, 0x55, 0x55, 0x55, 0x55, 0xd5];
    let mpacket = [&preamble[..], &ethernet].concat();
    carries(274, &mpacket);
    let macs = Link::Mpacket.macs(&mpacket[..]);
    assert_eq!(macs.octets(), [2; 12]);
}

#[test]
fn what_packet_filters_log_is_read() {
    carries(109, &[2, 0, 0, 0, 0, 0, 1, 0, 0, 0, 0, 1]);
    let mut pflog = [0; 64];
    (pflog[0], pflog[1]) = (61, 2);
    carries(117, &pflog);
    pflog[1] = 7;
    assert_eq!(protocol(117, &pflog), Err(Skip::OtherEthertype));
    let nflog = |len: fn(u16) -> [u8; 2]| {
        // A mark of one octet, which is padded; then the payload.
        let mark = [&len(5)[..], &len(3), &[9, 0, 0, 0]].concat();
        let payload = [&len(24)[..], &len(9)].concat();
        [&[2, 0, 0, 1][..], &mark, &payload].concat()
    };
    carries(239, &nflog(u16::to_le_bytes));
    carries(239, &nflog(u16::to_be_bytes));
    // A field that never ends, and none that is the packet.
    assert_eq!(
        protocol(239, &[2, 0, 0, 1, 0, 0, 3, 0]),
        Err(Skip::OtherEthertype)
    );
    let none = [&[2, 0, 0, 1][..], &[4, 0, 3, 0].repeat(40)].concat();
    assert_eq!(protocol(239, &none), Err(Skip::OtherEthertype));
}

#[test]
fn radio_frames_in_the_clear_are_read() {
    let radio = |control: u8, flags: u8, more: &[u8]| {
        let head = [&[control, flags][..], &[0; 22], more].concat();
        with_snap(&head)
    };
    let plain = radio(0x08, 1, &[]);
    carries(105, &plain);
    carries(105, &radio(0x08, 3, &[7; 6]));
    carries(105, &radio(0x88, 2, &[0, 0]));
    carries(105, &radio(0x88, 0x81, &[0, 0, 1, 2, 3, 4]));
    let refused = [
        radio(0x80, 0, &[]),
        radio(0x48, 1, &[]),
        radio(0x08, 0x41, &[]),
        radio(0x08, 0x05, &[]),
        radio(0x88, 1, &[0x80, 0]),
    ];
    for frame in refused {
        let frame = [&frame[..], &IPV4].concat();
        assert_eq!(protocol(105, &frame), Err(Skip::OtherEthertype));
    }
    let mut fragment = [&plain[..], &IPV4].concat();
    fragment[22] = 1;
    assert_eq!(protocol(105, &fragment), Err(Skip::OtherEthertype));

    carries(
        127,
        &[&[0, 0, 10, 0, 0, 0, 0, 0, 1, 2][..], &plain].concat(),
    );
    carries(119, &[&[0; 144][..], &plain].concat());
    let avs = [&[0x80, 0x21, 0x10, 1, 0, 0, 0, 64][..], &[0; 56]].concat();
    for link in [119, 163] {
        carries(link, &[&avs[..], &plain].concat());
    }
    let huge = [0x80, 0x21, 0x10, 1, 0xff, 0xff, 0xff, 0xff];
    assert_eq!(protocol(163, &huge), Err(Skip::TruncatedLink));
}

#[test]
fn ppi_carries_any_other() {
    let ppi = |number: u32, header: &[u8]| {
        let head = [&[0, 0, 12, 0][..], &number.to_le_bytes(), &[1; 4]].concat();
        [&head, header].concat()
    };
    carries(
        192,
        &ppi(105, &with_snap(&[&[0x08, 1][..], &[0; 22]].concat())),
    );
    carries(192, &ppi(1, &[&[2; 12][..], &[0x08, 0]].concat()));
    carries(192, &ppi(101, &[]));
    for number in [192, 249, 65_537] {
        let frame = ppi(number, &IPV4);
        assert_eq!(protocol(192, &frame), Err(Skip::OtherEthertype));
    }
}

#[test]
fn no_packet_is_found_in_too_few_octets() {
    for number in 0..300 {
        let Some(link) = Link::of(LinkType(number)) else {
            continue;
        };
        for octet in [0, 1, 2, 3, 8, 0x45, 0x80, 0xff] {
            for len in 0..80 {
                let frame = vec![octet; len];
                let parsed = link.parse(&frame[..], &Tunnels::OUTER);
                assert!(parsed.is_err() || len >= IPV4.len(), "{link:?}");
            }
        }
    }
}
