//! Why a packet is in no flow: one counter each, none without a name.

macro_rules! reasons {
    ($(#[$doc:meta])* $name:ident { $($(#[$variant_doc:meta])* $variant:ident = $label:literal,)+ }) => {
        $(#[$doc])*
        #[derive(Clone, Copy, Debug, PartialEq, Eq)]
        #[repr(u8)]
        pub enum $name { $($(#[$variant_doc])* $variant,)+ }

        impl $name {
            /// Every reason, in the order of its counters.
            pub const ALL: &[Self] = &[$(Self::$variant,)+];
            /// How many reasons there are.
            pub const COUNT: usize = Self::ALL.len();

            /// The name of the counter in the ledger.
            #[must_use]
            pub const fn label(self) -> &'static str {
                match self { $(Self::$variant => $label,)+ }
            }
        }
    };
}

reasons! {
    /// Why the parser found no flow in a frame. The value is the index of its counter.
    Skip {
        /// Shorter than its link layer: Ethernet header, tags, LLC, PPPoE, MPLS.
        TruncatedLink = "truncated_link",
        /// More VLAN tags than [`crate::parse::MAX_TAGS`].
        TooManyTags = "too_many_tags",
        /// More MPLS labels than [`crate::parse::MAX_LABELS`].
        TooManyLabels = "too_many_labels",
        /// No IP behind the MPLS labels: a pseudowire or the like.
        MplsPayload = "mpls_payload",
        /// PPPoE discovery, or a PPP session's own control protocols.
        PppControl = "ppp_control",
        /// LLC without SNAP, or SNAP of another organisation: spanning tree, IS-IS.
        Llc = "llc",
        /// ARP or RARP.
        Arp = "arp",
        /// LLDP.
        Lldp = "lldp",
        /// A slow protocol: LACP, Ethernet OAM.
        SlowProtocol = "slow_protocol",
        /// 802.1X.
        Eapol = "eapol",
        /// 802.1AE: encrypted, so nothing can be said of what is inside.
        Macsec = "macsec",
        /// PTP over Ethernet.
        Ptp = "ptp",
        /// 802.1ag.
        Cfm = "cfm",
        /// Any other EtherType.
        OtherEthertype = "other_ethertype",
        /// The version field of the IP header contradicts the EtherType.
        BadVersion = "bad_version",
        /// An IPv4 header length below 20 octets or above the total length.
        BadHeaderLength = "bad_header_length",
        /// The IP packet claims more octets than the frame has.
        TruncatedNetwork = "truncated_network",
        /// The headers above IP end before their ports, or cannot be read.
        TruncatedTransport = "truncated_transport",
        /// More IPv6 extension headers than [`crate::parse::MAX_EXTENSIONS`].
        TooManyExtensions = "too_many_extensions",
        /// Not the parser's: it goes out, and was seen when it came in, where each packet is to be
        /// counted once.
        SeenComingIn = "seen_coming_in",
    }
}

reasons! {
    /// Why a packet that belongs to a flow could not be accounted. The value is the index of its
    /// counter.
    Lost {
        /// The bucket was full and the ring to userspace too.
        RingFull = "ring_full",
        /// It arrived on a CPU that has no partition of the flow table.
        NoPartition = "no_partition",
        /// To be handed over, but nobody takes packets of its queue: there is no worker, or none that
        /// is alive.
        WorkerStalled = "worker_stalled",
        /// To be handed over, but there is no place in front of the frame for what is to be said of
        /// it.
        NoMetadata = "no_metadata",
        /// Handed over, but the ring that it should have come through was full: the worker is too
        /// slow.
        RxRingFull = "rx_ring_full",
        /// Handed over, but no buffer was left to put it in: all wait for the worker.
        FillRingEmpty = "fill_ring_empty",
        /// Handed over, but dropped in front of the ring for another reason: too long for a buffer.
        TooLong = "too_long",
        /// Handed over and never seen again, for a reason that the kernel does not tell.
        Redirect = "redirect",
    }
}
