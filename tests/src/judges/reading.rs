//! A flow record as a judge prints it, brought into one form.

use std::net::IpAddr;

use anyhow::{Context as _, Result};
use serde_json::Value;

use crate::flow::{Counts, Flow, Key};

/// What nfdump and tshark both print of a record.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct Reading {
    /// Key.
    pub key: Key,
    /// First packet, milliseconds since 1970.
    pub start_ms: u64,
    /// Last packet.
    pub end_ms: u64,
    /// Packets.
    pub packets: u64,
    /// Octets.
    pub octets: u64,
    /// TCP control bits.
    pub tcp_flags: u8,
    /// Ingress interface.
    pub interface: u32,
}

impl From<&Flow> for Reading {
    fn from(flow: &Flow) -> Self {
        let Counts { packets, octets } = flow.counts;
        Self {
            key: flow.key,
            start_ms: flow.start_ms,
            end_ms: flow.end_ms,
            packets,
            octets,
            tcp_flags: flow.tcp_flags,
            interface: flow.interface,
        }
    }
}

impl Reading {
    /// From an object of `nfdump -o json`.
    ///
    /// # Errors
    /// Where it is not as nfdump 1.7.1 prints it.
    pub fn from_nfdump(record: &Value) -> Result<Self> {
        // What has no ports, nfdump prints without.
        let number = |name: &str| record.get(name).and_then(Value::as_u64).unwrap_or(0);
        let text = |name: &str| {
            let text = record.get(name).and_then(Value::as_str);
            text.with_context(|| format!("no {name} in {record}"))
        };
        let address = |v4: &str, v6: &str| -> Result<IpAddr> {
            let text = text(v4).or_else(|_| text(v6))?;
            text.parse().with_context(|| text.to_owned())
        };
        // nfdump prints type and code of ICMP instead of ports.
        let icmp = number("icmp_type") * 256 + number("icmp_code");
        // One letter for each bit, the highest first: CEUAPRSF.
        let flags = record.get("tcp_flags").and_then(Value::as_str);
        let flags = flags.unwrap_or_default().chars();
        Ok(Self {
            key: Key {
                source: address("src4_addr", "src6_addr")?,
                destination: address("dst4_addr", "dst6_addr")?,
                source_port: number("src_port").try_into()?,
                destination_port: (number("dst_port") + icmp).try_into()?,
                protocol: number("proto").try_into()?,
                traffic_class: number("src_tos").try_into()?,
                vlan: number("src_vlan").try_into()?,
            },
            start_ms: iso(text("first")?)?,
            end_ms: iso(text("last")?)?,
            packets: number("in_packets"),
            octets: number("in_bytes"),
            tcp_flags: flags.fold(0, |bits, letter| bits << 1 | u8::from(letter != '.')),
            interface: number("input_snmp").try_into()?,
        })
    }

    /// From a flow of `tshark -T json`.
    ///
    /// # Errors
    /// Where it is not as tshark 4.0 prints it.
    pub fn from_tshark(flow: &Value) -> Result<Self> {
        let text = |name: &str| {
            let name = format!("cflow.{name}");
            let text = flow.get(&name).and_then(Value::as_str);
            text.with_context(|| format!("no {name} in {flow}"))
        };
        let number = |name: &str| {
            let text = text(name)?;
            match text.strip_prefix("0x") {
                Some(digits) => u64::from_str_radix(digits, 16),
                None => text.parse(),
            }
            .with_context(|| format!("{name}: {text}"))
        };
        let address = |v4: &str, v6: &str| -> Result<IpAddr> {
            let text = text(v4).or_else(|_| text(v6))?;
            text.parse().with_context(|| text.to_owned())
        };
        let times = flow.get("cflow.timedelta_tree").context("no times")?;
        let time = |name: &str| {
            let text = times.get(name).and_then(Value::as_str);
            written(text.with_context(|| format!("no {name} in {times}"))?)
        };
        Ok(Self {
            key: Key {
                source: address("srcaddr", "srcaddrv6")?,
                destination: address("dstaddr", "dstaddrv6")?,
                source_port: number("srcport")?.try_into()?,
                destination_port: number("dstport")?.try_into()?,
                protocol: number("protocol")?.try_into()?,
                traffic_class: number("tos")?.try_into()?,
                vlan: number("vlanid")?.try_into()?,
            },
            start_ms: time("cflow.abstimestart")?,
            end_ms: time("cflow.abstimeend")?,
            packets: number("packets")?,
            octets: number("octets")?,
            tcp_flags: number("tcpflags")?.try_into()?,
            interface: number("inputint")?.try_into()?,
        })
    }
}

/// `2026-11-24T02:54:13.313`
fn iso(text: &str) -> Result<u64> {
    let parts: Vec<u64> = text
        .split(['-', 'T', ':', '.'])
        .map(str::parse)
        .collect::<Result<_, _>>()
        .with_context(|| text.to_owned())?;
    let [year, month, day, hour, minute, second, millisecond] = parts[..] else {
        anyhow::bail!("not a time: {text}");
    };
    let days = days(year, month, day);
    Ok((((days * 24 + hour) * 60 + minute) * 60 + second) * 1000 + millisecond)
}

/// `Nov 24, 2026 02:54:43.789000000 UTC`
fn written(text: &str) -> Result<u64> {
    const MONTHS: &str = "JanFebMarAprMayJunJulAugSepOctNovDec";
    let parts: Vec<&str> = text.split_whitespace().collect();
    let [month, day, year, time, "UTC"] = parts[..] else {
        anyhow::bail!("not a time: {text}");
    };
    let month = MONTHS.find(month).context("not a month")? / 3 + 1;
    let day = day.trim_end_matches(',');
    let (time, fraction) = time.split_once('.').context("no fraction")?;
    iso(&format!("{year}-{month}-{day}T{time}.{}", &fraction[..3]))
}

/// Days since 1970 (Gregorian, as of Howard Hinnant's `days_from_civil`).
fn days(year: u64, month: u64, day: u64) -> u64 {
    let year = if month <= 2 { year - 1 } else { year };
    let (era, of_era) = (year / 400, year % 400);
    let of_year = (153 * ((month + 9) % 12) + 2) / 5 + day - 1;
    era * 146_097 + of_era * 365 + of_era / 4 - of_era / 100 + of_year - 719_468
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn both_forms_of_a_time_are_the_same_moment() {
        assert_eq!(iso("1970-01-01T00:00:00.001").unwrap(), 1);
        assert_eq!(iso("2024-02-29T12:00:00.000").unwrap(), 1_709_208_000_000);
        assert_eq!(
            written("Nov 24, 2026 02:54:43.789000000 UTC").unwrap(),
            iso("2026-11-24T02:54:43.789").unwrap()
        );
    }
}
