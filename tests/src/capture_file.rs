//! Writes captures, octet by octet as the drafts of pcap and pcapng say.

/// Byte order of a file or section.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Order {
    /// Least significant octet first.
    Little,
    /// Most significant octet first.
    Big,
}

/// Both.
pub const ORDERS: [Order; 2] = [Order::Little, Order::Big];

impl Order {
    fn u16(self, value: u16) -> [u8; 2] {
        match self {
            Self::Little => value.to_le_bytes(),
            Self::Big => value.to_be_bytes(),
        }
    }

    fn u32(self, value: u32) -> [u8; 4] {
        match self {
            Self::Little => value.to_le_bytes(),
            Self::Big => value.to_be_bytes(),
        }
    }

    /// Eight octets of this order.
    #[must_use]
    pub fn u64(self, value: u64) -> [u8; 8] {
        match self {
            Self::Little => value.to_le_bytes(),
            Self::Big => value.to_be_bytes(),
        }
    }
}

/// A captured frame.
#[derive(Clone, Debug)]
pub struct Record {
    /// Nanoseconds since 1970, or whatever a pcapng interface counts in.
    pub at: u64,
    /// What was kept.
    pub octets: Vec<u8>,
    /// Octets on the wire.
    pub len: u32,
}

impl Record {
    /// A frame of which all was kept.
    #[must_use]
    pub fn whole(at: u64, octets: &[u8]) -> Self {
        Self::cut(at, octets, usize::MAX)
    }

    /// A frame of which at most `snaplen` octets were kept.
    #[must_use]
    pub fn cut(at: u64, octets: &[u8], snaplen: usize) -> Self {
        Self {
            at,
            octets: octets[..snaplen.min(octets.len())].to_vec(),
            len: octets.len() as u32,
        }
    }
}

/// A file of the classic format. Times are in nanoseconds, and written as the file has them.
#[must_use]
pub fn pcap(order: Order, nanoseconds: bool, link: u32, records: &[Record]) -> Vec<u8> {
    let (magic, unit) = match nanoseconds {
        true => (0xa1b2_3c4d, 1),
        false => (0xa1b2_c3d4, 1000),
    };
    let mut file = order.u32(magic).to_vec();
    file.extend([order.u16(2), order.u16(4)].concat());
    for word in [0, 0, 262_144, link] {
        file.extend(order.u32(word));
    }
    for record in records {
        let (seconds, rest) = (record.at / 1_000_000_000, record.at % 1_000_000_000);
        let kept = record.octets.len() as u32;
        for word in [seconds as u32, rest as u32 / unit, kept, record.len] {
            file.extend(order.u32(word));
        }
        file.extend(&record.octets);
    }
    file
}

/// A file of blocks.
#[derive(Clone, Debug)]
pub struct PcapNg {
    order: Order,
    octets: Vec<u8>,
}

impl PcapNg {
    /// One with an empty section.
    #[must_use]
    pub fn new(order: Order) -> Self {
        let octets = Vec::new();
        Self { order, octets }.section(order)
    }

    /// Begins another section.
    #[must_use]
    pub fn section(mut self, order: Order) -> Self {
        self.order = order;
        let versions = [order.u16(1), order.u16(0)].concat();
        let length = order.u64(u64::MAX);
        let body = [&order.u32(0x1a2b_3c4d)[..], &versions, &length].concat();
        self.block(0x0a0d_0d0a, &body)
    }

    /// Describes an interface; options are numbers and values.
    #[must_use]
    pub fn interface(self, link: u16, snaplen: u32, options: &[(u16, &[u8])]) -> Self {
        let order = self.order;
        let mut body = [order.u16(link), order.u16(0)].concat();
        body.extend(order.u32(snaplen));
        for (number, value) in options {
            body.extend(order.u16(*number));
            body.extend(order.u16(value.len() as u16));
            body.extend(*value);
            pad(&mut body);
        }
        self.block(1, &body)
    }

    /// A packet in an Enhanced Packet Block.
    #[must_use]
    pub fn enhanced(self, interface: u32, record: &Record) -> Self {
        let order = self.order;
        let body = order.u32(interface).to_vec();
        self.packet(6, body, record)
    }

    /// A packet in a Packet Block, which is obsolete.
    #[must_use]
    pub fn obsolete(self, interface: u16, record: &Record) -> Self {
        let order = self.order;
        let body = [order.u16(interface), order.u16(7)].concat();
        self.packet(2, body, record)
    }

    /// A packet in a Simple Packet Block.
    #[must_use]
    pub fn simple(self, record: &Record) -> Self {
        let mut body = self.order.u32(record.len).to_vec();
        body.extend(&record.octets);
        pad(&mut body);
        self.block(3, &body)
    }

    fn packet(self, kind: u32, mut body: Vec<u8>, record: &Record) -> Self {
        let order = self.order;
        let (high, low) = ((record.at >> 32) as u32, record.at as u32);
        for word in [high, low, record.octets.len() as u32, record.len] {
            body.extend(order.u32(word));
        }
        body.extend(&record.octets);
        pad(&mut body);
        self.block(kind, &body)
    }

    /// Any block.
    #[must_use]
    pub fn block(mut self, kind: u32, body: &[u8]) -> Self {
        let len = self.order.u32(body.len() as u32 + 12);
        self.octets.extend(self.order.u32(kind));
        self.octets.extend(len);
        self.octets.extend(body);
        self.octets.extend(len);
        self
    }

    /// The file.
    #[must_use]
    pub fn octets(&self) -> &[u8] {
        &self.octets
    }
}

fn pad(octets: &mut Vec<u8>) {
    octets.resize(octets.len().next_multiple_of(4), 0);
}
