//! What the values of elements look like: in messages, and as people read them.

use std::{
    io::Write,
    net::{Ipv4Addr, Ipv6Addr},
};

/// The value of an information element.
pub trait Value: Copy {
    /// Encoded octets.
    const LENGTH: u16;

    /// Writes the value in network order into `to`, which is [`Self::LENGTH`] octets long.
    fn put(self, to: &mut [u8]);
}

/// The value as people read it.
pub trait Show: Value {
    /// Appends the value as JSON.
    fn show(self, to: &mut Vec<u8>);
}

/// Appends formatted text; memory does not fail to take it.
pub(super) fn append(to: &mut Vec<u8>, text: std::fmt::Arguments<'_>) {
    to.write_fmt(text).expect("a Vec takes all it is given");
}

/// Appends what is in front of a value of this name.
pub(super) fn append_name(name: &str, to: &mut Vec<u8>) {
    to.extend_from_slice(b",\"");
    to.extend_from_slice(name.as_bytes());
    to.extend_from_slice(b"\":");
}

macro_rules! unsigned {
    ($($kind:ty),+) => {$(
        impl Value for $kind {
            const LENGTH: u16 = size_of::<Self>() as u16;

            #[inline(always)]
            fn put(self, to: &mut [u8]) {
                to.copy_from_slice(&self.to_be_bytes());
            }
        }

        impl Show for $kind {
            fn show(self, to: &mut Vec<u8>) {
                append(to, format_args!("{self}"));
            }
        }
    )+};
}
unsigned!(u8, u16, u32, u64);

macro_rules! address {
    ($($kind:ty),+) => {$(
        impl Value for $kind {
            const LENGTH: u16 = size_of::<Self>() as u16;

            #[inline(always)]
            fn put(self, to: &mut [u8]) {
                to.copy_from_slice(&self.octets());
            }
        }

        impl Show for $kind {
            fn show(self, to: &mut Vec<u8>) {
                append(to, format_args!("\"{self}\""));
            }
        }
    )+};
}
address!(Ipv4Addr, Ipv6Addr);

/// A MAC address.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Mac(pub [u8; 6]);

impl Value for Mac {
    const LENGTH: u16 = 6;

    #[inline(always)]
    fn put(self, to: &mut [u8]) {
        to.copy_from_slice(&self.0);
    }
}

impl Show for Mac {
    fn show(self, to: &mut Vec<u8>) {
        let [a, b, c, d, e, f] = self.0;
        append(
            to,
            format_args!("\"{a:02x}:{b:02x}:{c:02x}:{d:02x}:{e:02x}:{f:02x}\""),
        );
    }
}

/// An MPLS label stack entry without its TTL: label, traffic class, bottom of stack.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Label(pub(super) u32);

impl Value for Label {
    const LENGTH: u16 = 3;

    #[inline(always)]
    fn put(self, to: &mut [u8]) {
        to.copy_from_slice(&self.0.to_be_bytes()[1..]);
    }
}

impl Show for Label {
    fn show(self, to: &mut Vec<u8>) {
        append(to, format_args!("{}", self.0));
    }
}
