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
}

/// IPv4 header fields (RFC 791 §3.1).
pub mod ipv4 {
    /// Octets of the header without options.
    pub const MIN_LEN: usize = 20;
    /// Type of service; before it stand version and header length in words.
    pub const TOS: usize = 1;
    /// Octets of the packet, 2 octets.
    pub const TOTAL_LEN: usize = 2;
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
}

/// IPv6 header fields (RFC 8200 §3).
pub mod ipv6 {
    /// Octets of the fixed header.
    pub const LEN: usize = 40;
    /// Source address, 16 octets; the destination address follows.
    pub const ADDRESSES: usize = 8;
    /// The fragment offset, in units of 8 octets, in the Fragment header (RFC 8200 §4.5).
    pub const FRAGMENT_OFFSET_MASK: u16 = 0xfff8;
}

/// IP protocol numbers and IPv6 next headers.
pub mod protocol {
    /// IPv6 Hop-by-Hop Options.
    pub const HOP_BY_HOP: u8 = 0;
    /// ICMP.
    pub const ICMP: u8 = 1;
    /// TCP.
    pub const TCP: u8 = 6;
    /// UDP.
    pub const UDP: u8 = 17;
    /// DCCP.
    pub const DCCP: u8 = 33;
    /// IPv6 Routing header.
    pub const ROUTING: u8 = 43;
    /// IPv6 Fragment header.
    pub const FRAGMENT: u8 = 44;
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
