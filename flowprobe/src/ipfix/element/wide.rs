//! Wide keys, seen as what their records are: of one version in none or in another.

use std::net::{Ipv4Addr, Ipv6Addr};

use flowprobe_ebpf::{Around, KeyWide, parse::tunnel::kind};

use super::value::Label;

/// A wide key seen as one of packets of version `INNER`, out of a tunnel of version `OUTER`, or of
/// none where that is 0.
pub(super) struct Wide<'a, const INNER: u8, const OUTER: u8> {
    pub(super) key: &'a KeyWide,
    pub(super) around: Around,
}

/// Which of the six kinds a wide key is.
macro_rules! as_wide {
    ($key:expr, |$wide:ident| $then:expr) => {{
        let key = $key;
        let around = key.around();
        match (around.version, around.outer_version) {
            (4, 4) => {
                let $wide = $crate::ipfix::element::wide::Wide::<4, 4> { key, around };
                $then
            }
            (4, 6) => {
                let $wide = $crate::ipfix::element::wide::Wide::<4, 6> { key, around };
                $then
            }
            (4, _) => {
                let $wide = $crate::ipfix::element::wide::Wide::<4, 0> { key, around };
                $then
            }
            (_, 4) => {
                let $wide = $crate::ipfix::element::wide::Wide::<6, 4> { key, around };
                $then
            }
            (_, 6) => {
                let $wide = $crate::ipfix::element::wide::Wide::<6, 6> { key, around };
                $then
            }
            _ => {
                let $wide = $crate::ipfix::element::wide::Wide::<6, 0> { key, around };
                $then
            }
        }
    }};
}

pub(super) use as_wide;

macro_rules! delegate {
    ($($name:ident -> $kind:ty),+) => {
        impl<const INNER: u8, const OUTER: u8> Wide<'_, INNER, OUTER> {
            $(pub(super) fn $name(&self) -> $kind {
                self.key.$name()
            })+
        }
    };
}

delegate!(
    source_port -> u16, destination_port -> u16, protocol -> u8, traffic_class -> u8, vlan -> u16,
    ingress -> u32, is_egress -> bool
);

impl<const OUTER: u8> Wide<'_, 4, OUTER> {
    pub(super) fn source(&self) -> [u8; 4] {
        self.key.v4().unwrap_or_default()[0]
    }

    pub(super) fn destination(&self) -> [u8; 4] {
        self.key.v4().unwrap_or_default()[1]
    }
}

impl<const OUTER: u8> Wide<'_, 6, OUTER> {
    pub(super) fn source(&self) -> [u8; 16] {
        self.key.v6().unwrap_or_default()[0]
    }

    pub(super) fn destination(&self) -> [u8; 16] {
        self.key.v6().unwrap_or_default()[1]
    }
}

impl<const INNER: u8> Wide<'_, INNER, 4> {
    pub(super) fn outer_addresses(&self) -> [Ipv4Addr; 2] {
        let [a, b, c, d, e, f, g, h] = self.around.outer[0].to_ne_bytes();
        [[a, b, c, d].into(), [e, f, g, h].into()]
    }
}

impl<const INNER: u8> Wide<'_, INNER, 6> {
    pub(super) fn outer_addresses(&self) -> [Ipv6Addr; 2] {
        let [a, b, c, d] = self.around.outer;
        [[a, b], [c, d]].map(|[high, low]| {
            let high = u64::from_be_bytes(high.to_ne_bytes());
            let low = u64::from_be_bytes(low.to_ne_bytes());
            (u128::from(high) << 64 | u128::from(low)).into()
        })
    }
}

impl<const INNER: u8, const OUTER: u8> Wide<'_, INNER, OUTER> {
    /// Another key, seen in the same way.
    pub(super) fn likewise<'a>(&self, key: &'a KeyWide) -> Wide<'a, INNER, OUTER> {
        Wide {
            key,
            around: key.around(),
        }
    }

    pub(super) fn inner_vlan(&self) -> u16 {
        self.around.inner_vlans[0]
    }

    pub(super) fn label(&self, i: usize) -> Label {
        Label(self.around.label_stack[i])
    }

    /// The identifier, if the tunnel is of this kind.
    pub(super) fn id(&self, kind: u8) -> u32 {
        if self.around.tunnel == kind {
            self.around.tunnel_id
        } else {
            0
        }
    }

    /// layer2SegmentId (IE 351): the kind of overlay in the first octet, the identifier in the
    /// last three. The registry has kinds for VXLAN and NVGRE; GENEVE has none, and so is 0.
    pub(super) fn segment(&self) -> u64 {
        let overlay = match self.around.tunnel {
            kind::VXLAN => 1,
            kind::NVGRE => 2,
            kind::GENEVE => 0,
            _ => return 0,
        };
        overlay << 56 | u64::from(self.around.tunnel_id)
    }
}
