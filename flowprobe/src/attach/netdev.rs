//! What a driver tells XDP programs beside the packet: NETDEV_CMD_DEV_GET of the generic netlink
//! family "netdev", which the kernel has since 6.3.

use super::netlink::{Attribute, HEADER, NetlinkError, ask, attributes, message, u16_at, u32_at};

const GENERIC: usize = 4; // struct genlmsghdr
const ATTRIBUTE: usize = 4; // struct nlattr

// linux/genetlink.h.
const GENL_ID_CTRL: u16 = 16;
const CTRL_CMD_GETFAMILY: u8 = 3;
const CTRL_ATTR_FAMILY_ID: u16 = 1;
const CTRL_ATTR_FAMILY_NAME: u16 = 2;

// linux/netdev.h.
const FAMILY_NAME: &[u8] = b"netdev\0";
const NETDEV_CMD_DEV_GET: u8 = 1;
const NETDEV_A_DEV_IFINDEX: u16 = 1;
/// 64 bits, since 6.6.
const NETDEV_A_DEV_XDP_RX_METADATA_FEATURES: u16 = 5;
/// Since 6.8.
const NETDEV_XDP_RX_METADATA_VLAN_TAG: u32 = 1 << 2;

/// Whether the driver of an interface tells a program in native mode the VLAN tag that it has taken
/// out of a packet. Never so before Linux 6.8.
///
/// # Errors
/// There is no such interface, or the kernel has nobody to be asked.
pub fn tells_vlan_tag(ifindex: u32) -> Result<bool, NetlinkError> {
    let question = request(
        GENL_ID_CTRL,
        CTRL_CMD_GETFAMILY,
        CTRL_ATTR_FAMILY_NAME,
        FAMILY_NAME,
    );
    let family = family(&ask(libc::NETLINK_GENERIC, &question)?)?;
    let question = request(
        family,
        NETDEV_CMD_DEV_GET,
        NETDEV_A_DEV_IFINDEX,
        &ifindex.to_ne_bytes(),
    );
    has_vlan_tag(&ask(libc::NETLINK_GENERIC, &question)?, family)
}

/// A request with one attribute.
fn request(family: u16, command: u8, attribute: u16, value: &[u8]) -> Vec<u8> {
    let attribute_len = ATTRIBUTE + value.len();
    let length = HEADER + GENERIC + attribute_len.next_multiple_of(ATTRIBUTE);
    let mut request = Vec::with_capacity(length);
    request.extend((length as u32).to_ne_bytes());
    request.extend(family.to_ne_bytes());
    request.extend((libc::NLM_F_REQUEST as u16).to_ne_bytes());
    // Sequence and sender, which the kernel fills in; then command, version 1, padding.
    request.extend([0; 8]);
    request.extend([command, 1, 0, 0]);
    request.extend((attribute_len as u16).to_ne_bytes());
    request.extend(attribute.to_ne_bytes());
    request.extend(value);
    request.resize(length, 0);
    request
}

/// The number of the family in an answer to CTRL_CMD_GETFAMILY.
fn family(reply: &[u8]) -> Result<u16, NetlinkError> {
    let message = message(reply, GENL_ID_CTRL)?;
    for attribute in attributes(message, HEADER + GENERIC, message.len()) {
        let Attribute { kind, start, end } = attribute?;
        if kind == CTRL_ATTR_FAMILY_ID {
            return u16_at(&message[..end], start);
        }
    }
    Err(NetlinkError::Malformed(message.len()))
}

fn has_vlan_tag(reply: &[u8], family: u16) -> Result<bool, NetlinkError> {
    let message = message(reply, family)?;
    for attribute in attributes(message, HEADER + GENERIC, message.len()) {
        let Attribute { kind, start, end } = attribute?;
        if kind == NETDEV_A_DEV_XDP_RX_METADATA_FEATURES {
            let first = u32_at(&message[..end], start)?;
            let second = u32_at(&message[..end], start + 4)?;
            let low = if cfg!(target_endian = "little") {
                first
            } else {
                second
            };
            return Ok(low & NETDEV_XDP_RX_METADATA_VLAN_TAG != 0);
        }
    }
    Ok(false)
}

#[cfg(test)]
mod tests {
    use super::*;

    const FAMILY: u16 = 0x1d;

    /// An answer about a device, with these attributes.
    fn answer(list: &[(u16, &[u8])]) -> Vec<u8> {
        let mut answer = request(FAMILY, NETDEV_CMD_DEV_GET, 1, &7_u32.to_ne_bytes());
        for (kind, value) in list {
            answer.extend(((ATTRIBUTE + value.len()) as u16).to_ne_bytes());
            answer.extend(kind.to_ne_bytes());
            answer.extend(*value);
        }
        let length = answer.len() as u32;
        answer[..4].copy_from_slice(&length.to_ne_bytes());
        answer
    }

    #[test]
    fn a_driver_tells_tags_where_the_kernel_says_so() {
        // XDP_FEATURES has the same bits for something else.
        let features = (3, &7_u64.to_ne_bytes()[..]);
        let told = |bits: u64| {
            let metadata = (5, &bits.to_ne_bytes()[..]);
            has_vlan_tag(&answer(&[features, metadata]), FAMILY).unwrap()
        };
        assert!(told(4) && told(7));
        assert!(!told(0) && !told(3) && !told(4 << 32));
        assert!(!has_vlan_tag(&answer(&[features]), FAMILY).unwrap());
    }

    #[test]
    fn an_answer_that_is_cut_is_an_error() {
        let whole = answer(&[(5, &4_u64.to_ne_bytes())]);
        for length in 0..whole.len() {
            assert!(has_vlan_tag(&whole[..length], FAMILY).is_err(), "{length}");
        }
        let short = answer(&[(5, &4_u32.to_ne_bytes())]);
        assert!(has_vlan_tag(&short, FAMILY).is_err());
    }

    #[test]
    fn requests_are_aligned_and_as_long_as_they_say() {
        let request = request(16, 3, 2, FAMILY_NAME);
        assert_eq!(request.len(), 32);
        assert_eq!(u32_at(&request, 0).unwrap(), 32);
        assert_eq!(u16_at(&request, 20).unwrap(), 11);
    }
}
