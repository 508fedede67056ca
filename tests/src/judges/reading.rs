//! A flow record as a judge prints it, brought into one form.

use std::net::IpAddr;

use anyhow::{Context as _, Result};
use serde_json::Value;

use crate::flow::{Around, Counts, Flow, Key, Tunnel};

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
            let parse = |text: &str| text.parse().with_context(|| text.to_owned());
            let (v4, v6) = (text(v4), text(v6));
            match (v4, v6) {
                // Where the packet and the tunnel around it are of different versions, nfdump
                // 1.7.1 prints the packet's address, which comes last in the record, in both
                // forms: of IPv6 also the last four octets, of IPv4 also with zeroes before it.
                (Ok(v4), Ok(v6)) => match v6.strip_prefix("::") {
                    Some(rest) if rest == v4 => parse(v4),
                    _ => parse(v6),
                },
                (Ok(one), Err(_)) | (Err(_), Ok(one)) => parse(one),
                (Err(error), Err(_)) => Err(error),
            }
        };
        let mut around = Around {
            inner_vlan: number("dst_vlan").try_into()?,
            ..Around::default()
        };
        for (i, label) in around.labels.iter_mut().enumerate() {
            // Label, traffic class, bottom of stack.
            let Ok(text) = text(&format!("mpls_{}", i + 1)) else {
                continue;
            };
            let parts: Vec<u32> = text.split('-').map(str::parse).collect::<Result<_, _>>()?;
            let [value, class, bottom] = parts[..] else {
                anyhow::bail!("not a label: {text}");
            };
            *label = value << 4 | class << 1 | bottom;
        }
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
                around,
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
        // What is there twice is a list, in the order of the record.
        let texts = |name: &str| -> Vec<&str> {
            match flow.get(format!("cflow.{name}")) {
                Some(Value::Array(values)) => values.iter().filter_map(Value::as_str).collect(),
                Some(value) => value.as_str().into_iter().collect(),
                None => Vec::new(),
            }
        };
        let text = |name: &str| {
            let last = texts(name).pop();
            last.with_context(|| format!("no cflow.{name} in {flow}"))
        };
        let number = |name: &str| digits(text(name)?).with_context(|| name.to_owned());
        let v6 = number("ip_version")? == 6;
        let addresses = |v6: bool, end: &str| {
            let name = if v6 { "addrv6" } else { "addr" };
            texts(&format!("{end}{name}"))
        };
        let address = |end: &str| -> Result<IpAddr> {
            let text = addresses(v6, end).pop();
            let text = text.with_context(|| format!("no {end} in {flow}"))?;
            text.parse().with_context(|| text.to_owned())
        };
        let mut around = Around::default();
        if flow.get("cflow.post_vlanid").is_some() {
            around.inner_vlan = number("post_vlanid")?.try_into()?;
            around.labels = labels(flow)?;
        }
        if let [outer, _] = texts("protocol")[..] {
            let outer_address = |end: &str| -> Result<IpAddr> {
                let mut all = addresses(v6, end);
                all.pop();
                // Of the other version, where there is no second one of this.
                all.extend(addresses(!v6, end));
                let [text] = all[..] else {
                    anyhow::bail!("no outer {end} in {flow}");
                };
                text.parse().with_context(|| text.to_owned())
            };
            around.tunnel = Some(Tunnel {
                source: outer_address("src")?,
                destination: outer_address("dst")?,
                protocol: digits(outer)?.try_into()?,
                gre_key: number("gre_key")?.try_into()?,
                segment: number("layer2_segment_id")?,
                // tshark 4.0 does not know gtpuTEid (IE 507), and shows its octets.
                teid: octets(text("enterprise_private_entry")?)?.try_into()?,
            });
        }
        let times = flow.get("cflow.timedelta_tree").context("no times")?;
        let time = |name: &str| {
            let text = times.get(name).and_then(Value::as_str);
            written(text.with_context(|| format!("no {name} in {times}"))?)
        };
        Ok(Self {
            key: Key {
                source: address("src")?,
                destination: address("dst")?,
                source_port: number("srcport")?.try_into()?,
                destination_port: number("dstport")?.try_into()?,
                protocol: number("protocol")?.try_into()?,
                traffic_class: number("tos")?.try_into()?,
                vlan: number("vlanid")?.try_into()?,
                around,
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

/// A number in decimal or with `0x` before it.
fn digits(text: &str) -> Result<u64> {
    match text.strip_prefix("0x") {
        Some(digits) => u64::from_str_radix(digits, 16),
        None => text.parse(),
    }
    .with_context(|| text.to_owned())
}

/// `00:00:03:e8` as a number.
fn octets(text: &str) -> Result<u64> {
    let mut octets = text.split(':').map(|octet| u64::from_str_radix(octet, 16));
    octets.try_fold(0, |sum, octet| Ok(sum << 8 | octet?))
}

/// The label stack, which tshark shows as `MPLS-Label1: …` and so on.
fn labels(flow: &Value) -> Result<[u32; 6]> {
    let mut labels = [0; 6];
    for (name, tree) in flow.as_object().into_iter().flatten() {
        let Some(rest) = name.strip_prefix("MPLS-Label") else {
            continue;
        };
        let number = |field: &str| -> Result<u32> {
            let text = tree.get(format!("cflow.mpls_{field}"));
            let text = text.and_then(Value::as_str).context("a label's field")?;
            text.parse().with_context(|| text.to_owned())
        };
        let (place, _) = rest.split_once(':').context("a label's place")?;
        let place: usize = place.parse()?;
        let label = labels.get_mut(place - 1).context("six labels")?;
        *label = number("label")? << 4 | number("exp")? << 1 | number("bos")?;
    }
    Ok(labels)
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
