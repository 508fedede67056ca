//! Numbers of the wire formats: EtherTypes, protocols, field offsets, flag bits.

/// EtherTypes (IEEE 802 numbers at IANA).
pub mod ethertype {
    /// IPv4.
    pub const IPV4: u16 = 0x0800;
    /// IPv6.
    pub const IPV6: u16 = 0x86dd;
    /// 802.1Q customer tag.
    pub const VLAN: u16 = 0x8100;
    /// 802.1ad service tag.
    pub const SERVICE_VLAN: u16 = 0x88a8;
    /// Stacked tags from before 802.1ad.
    pub const OLD_QINQ: u16 = 0x9100;
    /// PPPoE, discovery stage (RFC 2516 §4).
    pub const PPPOE_DISCOVERY: u16 = 0x8863;
    /// PPPoE, session stage.
    pub const PPPOE_SESSION: u16 = 0x8864;
    /// MPLS (RFC 3032 §5).
    pub const MPLS: u16 = 0x8847;
    /// MPLS with an upstream-assigned label (RFC 5332 §3).
    pub const MPLS_UPSTREAM: u16 = 0x8848;
    /// Ethernet in GRE or GENEVE (Transparent Ethernet Bridging).
    pub const BRIDGED: u16 = 0x6558;
    /// ARP.
    pub const ARP: u16 = 0x0806;
    /// Reverse ARP.
    pub const RARP: u16 = 0x8035;
    /// Link Layer Discovery Protocol.
    pub const LLDP: u16 = 0x88cc;
    /// Slow protocols: LACP, Ethernet OAM.
    pub const SLOW: u16 = 0x8809;
    /// Port authentication (802.1X).
    pub const EAPOL: u16 = 0x888e;
    /// Encrypted frames (802.1AE).
    pub const MACSEC: u16 = 0x88e5;
    /// Precision Time Protocol over Ethernet.
    pub const PTP: u16 = 0x88f7;
    /// Connectivity fault management (802.1ag).
    pub const CFM: u16 = 0x8902;
}

/// Ethernet header fields.
pub mod ethernet {
    /// Destination address, 6 octets; the source address follows.
    pub const ADDRESSES: usize = 0;
    /// EtherType, 2 octets.
    pub const TYPE: usize = 12;
    /// Octets of the header without tags.
    pub const LEN: usize = 14;
    /// Octets that one 802.1Q or 802.1ad tag adds.
    pub const TAG_LEN: usize = 4;
    /// The VLAN identifier in the tag control information (802.1Q §9.6).
    pub const VLAN_ID_MASK: u16 = 0x0fff;
    /// Where its priority is.
    pub const PRIORITY_SHIFT: u32 = 13;
}

/// LLC and SNAP (IEEE 802.2, RFC 1042).
pub mod llc {
    /// Largest value of the EtherType field that is a length.
    pub const MAX_LENGTH: u16 = 1500;
    /// Octets of LLC and SNAP header, EtherType included.
    pub const SNAP_LEN: usize = 8;
    /// Both, before the EtherType.
    pub const SNAP_ETHERNET: [u8; 6] = [0xaa, 0xaa, 0x03, 0, 0, 0];
}

/// PPPoE and the PPP in it (RFC 2516 §4, RFC 1661 §2).
pub mod ppp {
    /// Octets of the PPPoE header; the PPP protocol follows.
    pub const PPPOE_LEN: usize = 6;
    /// Version 1, type 1.
    pub const PPPOE_VERSION_TYPE: u8 = 0x11;
    /// The code of session data.
    pub const PPPOE_SESSION_DATA: u8 = 0;
    /// IPv4.
    pub const IPV4: u16 = 0x0021;
    /// IPv6.
    pub const IPV6: u16 = 0x0057;
    /// MPLS.
    pub const MPLS: u16 = 0x0281;
}

/// Label stack entries of MPLS (RFC 3032 §2.1).
pub mod mpls {
    /// Octets of an entry.
    pub const ENTRY_LEN: usize = 4;
    /// Bottom of stack, in the entry without its TTL.
    pub const BOTTOM: u32 = 1;
}

/// IPv4 header fields (RFC 791 §3.1).
pub mod ipv4 {
    /// Octets of the header without options.
    pub const MIN_LEN: usize = 20;
    /// Type of service; before it stand version and header length in words.
    pub const TOS: usize = 1;
    /// Octets of the packet, 2 octets.
    pub const TOTAL_LEN: usize = 2;
    /// Identification, 2 octets.
    pub const ID: usize = 4;
    /// Flags and fragment offset, 2 octets.
    pub const FRAGMENT: usize = 6;
    /// Time to live, then the protocol.
    pub const TTL: usize = 8;
    /// Source and destination address, 8 octets.
    pub const ADDRESSES: usize = 12;
    /// The first octet of a header without options: version 4, five words.
    pub const PLAIN: u8 = 0x45;
    /// The fragment offset, in units of 8 octets.
    pub const FRAGMENT_OFFSET_MASK: u16 = 0x1fff;
    /// More Fragments, in the same 2 octets.
    pub const MORE_FRAGMENTS: u16 = 0x2000;
    /// Don't Fragment and More Fragments in the first of them, and in fragmentFlags (IE 197).
    pub const FRAGMENT_FLAGS: u8 = 0x60;
    /// More Fragments there.
    pub const MORE_FRAGMENTS_FLAG: u8 = 0x20;
    /// The most octets that the length field can say.
    pub const MAX_LEN: usize = 0xffff;
    /// The number of an option in its first octet.
    pub const OPTION_NUMBER: u8 = 0x1f;
    /// The option that ends the list, one octet.
    pub const END_OF_OPTIONS: u8 = 0;
    /// The option that fills, one octet.
    pub const NO_OPERATION: u8 = 1;
}

/// IPv6 header fields (RFC 8200 §3).
pub mod ipv6 {
    /// Octets of the fixed header.
    pub const LEN: usize = 40;
    /// Source address, 16 octets; the destination address follows.
    pub const ADDRESSES: usize = 8;
    /// The flow label in the first 4 octets.
    pub const FLOW_LABEL_MASK: u32 = 0x000f_ffff;
    /// The fragment offset, in units of 8 octets, in the Fragment header (RFC 8200 §4.5).
    pub const FRAGMENT_OFFSET_MASK: u16 = 0xfff8;
    /// More Fragments, in the same 2 octets.
    pub const MORE_FRAGMENTS: u16 = 0x0001;
    /// The most octets of header and payload that the length field can say.
    pub const MAX_LEN: usize = LEN + 0xffff;
}

/// IP protocol numbers and IPv6 next headers.
pub mod protocol {
    /// IPv6 Hop-by-Hop Options.
    pub const HOP_BY_HOP: u8 = 0;
    /// ICMP.
    pub const ICMP: u8 = 1;
    /// IPv4 in IP.
    pub const IPV4: u8 = 4;
    /// TCP.
    pub const TCP: u8 = 6;
    /// UDP.
    pub const UDP: u8 = 17;
    /// DCCP.
    pub const DCCP: u8 = 33;
    /// IPv6 in IP.
    pub const IPV6: u8 = 41;
    /// IPv6 Routing header.
    pub const ROUTING: u8 = 43;
    /// IPv6 Fragment header.
    pub const FRAGMENT: u8 = 44;
    /// Generic Routing Encapsulation.
    pub const GRE: u8 = 47;
    /// Encapsulating Security Payload (RFC 4303).
    pub const ESP: u8 = 50;
    /// Authentication Header (RFC 4302).
    pub const AH: u8 = 51;
    /// ICMPv6.
    pub const ICMPV6: u8 = 58;
    /// IPv6 Destination Options.
    pub const DESTINATION: u8 = 60;
    /// SCTP.
    pub const SCTP: u8 = 132;
    /// Mobility Header (RFC 6275).
    pub const MOBILITY: u8 = 135;
    /// UDP-Lite.
    pub const UDP_LITE: u8 = 136;
    /// Host Identity Protocol (RFC 7401).
    pub const HIP: u8 = 139;
    /// Shim6 (RFC 5533).
    pub const SHIM6: u8 = 140;
}

/// TCP header fields (RFC 9293 §3.1).
pub mod tcp {
    /// Offset of the octet whose upper half is the length of the header, in words of 4 octets.
    pub const DATA_OFFSET: usize = 12;
    /// Offset of the octet of control bits.
    pub const FLAGS: usize = 13;
    /// No more data from the sender.
    pub const FIN: u8 = 0x01;
    /// Synchronise sequence numbers.
    pub const SYN: u8 = 0x02;
    /// Reset the connection.
    pub const RST: u8 = 0x04;
    /// Push.
    pub const PSH: u8 = 0x08;
    /// The acknowledgement field counts.
    pub const ACK: u8 = 0x10;
}

/// UDP (RFC 768).
pub mod udp {
    /// Octets of the header.
    pub const LEN: usize = 8;
}

/// SCTP (RFC 9260 §3.1).
pub mod sctp {
    /// Octets of the common header, which is in front of the chunks.
    pub const COMMON_LEN: u64 = 12;
}

/// GRE (RFC 2784 §2.1, RFC 2890 §2).
pub mod gre {
    /// Octets of the header without its optional fields.
    pub const LEN: usize = 4;
    /// Octets of each optional field.
    pub const FIELD_LEN: usize = 4;
    /// A checksum is there.
    pub const CHECKSUM: u16 = 0x8000;
    /// A source route is there (RFC 1701).
    pub const ROUTING: u16 = 0x4000;
    /// A key is there.
    pub const KEY: u16 = 0x2000;
    /// A sequence number is there.
    pub const SEQUENCE: u16 = 0x1000;
    /// The version, 0.
    pub const VERSION: u16 = 0x0007;
}

/// VXLAN (RFC 7348 §5).
pub mod vxlan {
    /// Octets of the header.
    pub const LEN: usize = 8;
    /// The network identifier is valid.
    pub const HAS_VNI: u8 = 0x08;
    /// UDP port at IANA.
    pub const PORT: u16 = 4789;
}

/// GENEVE (RFC 8926 §3.4).
pub mod geneve {
    /// Octets of the header without options.
    pub const LEN: usize = 8;
    /// The version, 0.
    pub const VERSION: u8 = 0xc0;
    /// Words of 4 octets that the options have.
    pub const OPTION_WORDS: u8 = 0x3f;
    /// UDP port at IANA.
    pub const PORT: u16 = 6081;
}

/// GTP-U (3GPP TS 29.281 §5.1).
pub mod gtpu {
    /// Octets of the header without its optional part.
    pub const LEN: usize = 8;
    /// Octets of the optional part.
    pub const OPTIONAL_LEN: usize = 4;
    /// Version and protocol type.
    pub const VERSION_TYPE: u8 = 0xf0;
    /// Version 1, protocol type GTP.
    pub const VERSION_1: u8 = 0x30;
    /// Any of extension header, sequence number, N-PDU number: the optional part is there.
    pub const OPTIONAL: u8 = 0x07;
    /// Extension headers are there.
    pub const EXTENSION: u8 = 0x04;
    /// The message that carries a packet.
    pub const G_PDU: u8 = 255;
    /// UDP port at IANA.
    pub const PORT: u16 = 2152;
}
