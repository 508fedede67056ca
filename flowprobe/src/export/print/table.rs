//! The table: fits a terminal of 80 columns, and shows every address in full.

use std::net::SocketAddr;

use flowprobe_ebpf::wire::protocol;

use crate::record::{EndReason, FlowKey, FlowRecord};

/// Columns assumed where the terminal does not say.
const DEFAULT_SIZE: (usize, usize) = (80, 24);
/// `255.255.255.255:65535`.
const V4_WIDTH: usize = 21;
/// An IPv6 address in brackets and a port.
const V6_WIDTH: usize = 47;
/// Least columns of an endpoint where the domain takes its share; longer ones wrap.
const NARROW_WIDTH: usize = 15;
/// Columns beside the two endpoints, with their spaces.
const FIXED_WIDTH: usize = 8 + 1 + 5 + 1 + 1 + 1 + 7 + 1 + 7 + 1 + 5;

/// Formats rows, and repeats the header once a screen.
#[derive(Debug)]
pub(super) struct Table {
    /// Columns of an endpoint.
    endpoint: usize,
    /// Columns of the observation domain; none where there is only one.
    domain: Option<usize>,
    /// Lines between two headers.
    screen: usize,
    /// Lines since the last header; none before the first.
    lines: Option<usize>,
}

impl Table {
    /// A table as wide as the terminal on standard output, of flows in these domains.
    pub(super) fn for_terminal(domains: &[u32]) -> Self {
        let (columns, rows) = terminal_size().unwrap_or(DEFAULT_SIZE);
        Self::new(columns, rows, domains)
    }

    fn new(columns: usize, rows: usize, domains: &[u32]) -> Self {
        let digits = domains.iter().map(|id| id.to_string().len()).max();
        // An odd number, so that with its space it takes as much from each endpoint.
        let domain = digits
            .filter(|_| domains.len() > 1)
            .map(|digits| digits.max("DOM".len()) | 1);
        let (fixed, narrowest) = match domain {
            Some(width) => (FIXED_WIDTH + width + 1, NARROW_WIDTH),
            None => (FIXED_WIDTH, V4_WIDTH),
        };
        let spare = columns.saturating_sub(fixed) / 2;
        Self {
            endpoint: spare.clamp(narrowest, V6_WIDTH),
            domain,
            // The line of the prompt stays free.
            screen: rows.saturating_sub(1).max(8),
            lines: None,
        }
    }

    /// Appends a flow of a domain, and the header before it where one is due.
    pub(super) fn row(&mut self, record: &FlowRecord, domain: u32, to: &mut Vec<u8>) {
        let key = &record.key;
        let (source, destination) = endpoints(key);
        let width = self.endpoint;
        let wraps = source.len() > width || destination.len() > width;
        let height = if wraps { 2 } else { 1 };
        self.header(height, to);

        let seconds = record.start_ms / 1000 % 86_400;
        let (h, m, s) = (seconds / 3600, seconds / 60 % 60, seconds % 60);
        let protocol = protocol_name(key.protocol());
        let mut line = format!("{h:02}:{m:02}:{s:02} {protocol:<5} ");
        line += &self.domain(&domain.to_string());
        if wraps {
            // Each endpoint on a line of its own, the counters still in their columns.
            let end = line.len() + 2 * width + 1;
            line += &source;
            line.push('\n');
            let second = format!("{:>10} {destination}", "->");
            line += &format!("{second:<end$}");
        } else {
            line += &format!("{source:<width$} {destination:<width$}");
        }
        line += &format!(
            " {:>7} {:>7} {:<5}\n",
            count(record.packets),
            count(record.octets),
            end(record.reason)
        );
        to.extend_from_slice(line.as_bytes());
    }

    /// The column of the domain, where there are several.
    fn domain(&self, text: &str) -> String {
        let column = self.domain.map(|width| format!("{text:<width$} "));
        column.unwrap_or_default()
    }

    /// Appends the header if the next `height` lines would leave the screen without one.
    fn header(&mut self, height: usize, to: &mut Vec<u8>) {
        let lines = self.lines.map(|lines| lines + height);
        self.lines = match lines {
            Some(lines) if lines <= self.screen => Some(lines),
            _ => {
                let width = self.endpoint;
                let domain = self.domain("DOM");
                let header = format!(
                    "{:<8} {:<5} {domain}{:<width$} {:<width$} {:>7} {:>7} {:<5}\n",
                    "UTC", "PROTO", "SOURCE", "DESTINATION", "PACKETS", "OCTETS", "END"
                );
                to.extend_from_slice(header.as_bytes());
                Some(1 + height)
            }
        };
    }
}

/// Source and destination as people write them: with ports; for ICMP with type/code at the
/// destination; or the addresses alone.
fn endpoints(key: &FlowKey) -> (String, String) {
    let (source, destination) = (key.source(), key.destination());
    match key.protocol() {
        protocol::TCP | protocol::UDP | protocol::SCTP | protocol::UDP_LITE | protocol::DCCP => (
            SocketAddr::new(source, key.source_port()).to_string(),
            SocketAddr::new(destination, key.destination_port()).to_string(),
        ),
        protocol::ICMP | protocol::ICMPV6 => {
            let [kind, code] = key.destination_port().to_be_bytes();
            (source.to_string(), format!("{destination} {kind}/{code}"))
        }
        _ => (source.to_string(), destination.to_string()),
    }
}

/// The usual name of a protocol, or its number.
fn protocol_name(number: u8) -> String {
    let name = match number {
        protocol::TCP => "TCP",
        protocol::UDP => "UDP",
        protocol::SCTP => "SCTP",
        protocol::UDP_LITE => "UDPL",
        protocol::DCCP => "DCCP",
        protocol::ICMP => "ICMP",
        protocol::ICMPV6 => "ICMP6",
        number => return number.to_string(),
    };
    name.to_owned()
}

/// flowEndReason in at most five letters.
fn end(reason: EndReason) -> &'static str {
    match reason {
        EndReason::IdleTimeout => "idle",
        EndReason::ActiveTimeout => "live",
        EndReason::EndOfFlow => "fin",
        EndReason::ForcedEnd => "force",
        EndReason::LackOfResources => "full",
    }
}

/// A count in at most seven characters: exact below ten million, then cut to two digits
/// after the point of a decimal multiple.
fn count(value: u64) -> String {
    if value < 10_000_000 {
        return value.to_string();
    }
    let mut unit = 1_000_000;
    for name in ["M", "G", "T", "P"] {
        if value / unit < 1000 {
            return hundredths(value, unit, name);
        }
        unit *= 1000;
    }
    hundredths(value, unit, "E")
}

fn hundredths(value: u64, unit: u64, name: &str) -> String {
    format!("{}.{:02}{name}", value / unit, value / (unit / 100) % 100)
}

/// Columns and rows of the terminal on standard output.
fn terminal_size() -> Option<(usize, usize)> {
    let mut size = libc::winsize {
        ws_row: 0,
        ws_col: 0,
        ws_xpixel: 0,
        ws_ypixel: 0,
    };
    // SAFETY: TIOCGWINSZ writes a winsize, and `size` is one.
    let failed = unsafe { libc::ioctl(libc::STDOUT_FILENO, libc::TIOCGWINSZ, &raw mut size) };
    (failed == 0 && size.ws_col > 0 && size.ws_row > 0)
        .then(|| (usize::from(size.ws_col), usize::from(size.ws_row)))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::ipfix::tests::sample::{key, nth};

    fn rows(columns: usize, rows: usize, records: &[FlowRecord]) -> Vec<String> {
        rows_of(&[1], columns, rows, records)
    }

    /// The rows of flows in the last of the domains.
    fn rows_of(
        domains: &[u32],
        columns: usize,
        rows: usize,
        records: &[FlowRecord],
    ) -> Vec<String> {
        let mut table = Table::new(columns, rows, domains);
        let mut text = Vec::new();
        for record in records {
            table.row(record, *domains.last().expect("one"), &mut text);
        }
        let text = String::from_utf8(text).expect("text");
        text.lines().map(str::to_owned).collect()
    }

    /// The widest record of each family.
    fn widest(v6: bool, protocol: u8) -> FlowRecord {
        let octet = if v6 { 0xee } else { 0xff };
        FlowRecord {
            key: key(v6, [[octet; 16]; 2], protocol, [u16::MAX; 2], 0, 0, 1),
            packets: u64::MAX,
            octets: 999_999_999,
            ..nth(0)
        }
    }

    #[test]
    fn eighty_columns_hold_every_row() {
        for v6 in [false, true] {
            for protocol in 0..=255 {
                for domains in [&[1][..], &[1, 2], &[1, 2000], &[1, u32::MAX]] {
                    let lines = rows_of(domains, 80, 24, &[widest(v6, protocol)]);
                    for line in &lines {
                        assert!(line.len() <= 80, "{line}");
                    }
                    let [first, last] = [lines.first(), lines.last()].map(|l| l.map(String::len));
                    assert_eq!(first, last, "counters in their columns: {lines:?}");
                }
            }
        }
    }

    #[test]
    fn addresses_are_never_cut() {
        let source = "[eeee:eeee:eeee:eeee:eeee:eeee:eeee:eeee]:65535";
        let narrow = rows(80, 24, &[widest(true, 6)]);
        assert_eq!(narrow.len(), 3);
        assert!(narrow[1].ends_with(source) && narrow[2].contains(&format!("-> {source}")));
        let wide = rows(132, 24, &[widest(true, 6)]);
        assert_eq!(wide.len(), 2);
        assert!(wide[1].contains(&format!("{source} {source}")));
    }

    #[test]
    fn counters_stay_in_their_columns() {
        let lines = rows(80, 24, &[nth(0), nth(4), widest(true, 17)]);
        assert_eq!(
            lines,
            [
                "UTC      PROTO SOURCE                DESTINATION           PACKETS  OCTETS END  ",
                "22:13:20 UDP   10.0.0.0:1024         192.0.2.1:443               1     100 idle ",
                "22:13:20 UDP   [2001:db8::4]:1028    [2001:db8:0:1::1]:443       5     500 idle ",
                "22:13:20 UDP   [eeee:eeee:eeee:eeee:eeee:eeee:eeee:eeee]:65535",
                "        -> [eeee:eeee:eeee:eeee:eeee:eeee:eeee:eeee]:65535  18.44E 999.99M idle ",
            ]
        );
    }

    #[test]
    fn several_domains_have_a_column() {
        let lines = rows_of(&[1, 20], 80, 24, &[nth(0), nth(4), widest(true, 17)]);
        assert_eq!(
            lines,
            [
                "UTC      PROTO DOM SOURCE              DESTINATION         PACKETS  OCTETS END  ",
                "22:13:20 UDP   20  10.0.0.0:1024       192.0.2.1:443             1     100 idle ",
                "22:13:20 UDP   20  [2001:db8::4]:1028",
                "        -> [2001:db8:0:1::1]:443                                 5     500 idle ",
                "22:13:20 UDP   20  [eeee:eeee:eeee:eeee:eeee:eeee:eeee:eeee]:65535",
                "        -> [eeee:eeee:eeee:eeee:eeee:eeee:eeee:eeee]:65535  18.44E 999.99M idle ",
            ]
        );
    }

    #[test]
    fn every_screen_has_a_header() {
        let records: Vec<_> = (0..200).map(nth).collect();
        let lines = rows(80, 24, &records);
        let headers: Vec<_> = (0..lines.len())
            .filter(|i| lines[*i].starts_with("UTC"))
            .collect();
        assert_eq!(headers[0], 0);
        let apart = headers.windows(2).map(|pair| pair[1] - pair[0]);
        assert!(
            apart.clone().all(|lines| (22..=23).contains(&lines)),
            "{headers:?}"
        );
        assert!(headers.len() > 5);
    }

    #[test]
    fn large_counts_keep_three_digits() {
        assert_eq!(count(9_999_999), "9999999");
        assert_eq!(count(10_000_000), "10.00M");
        assert_eq!(count(999_999_999), "999.99M");
        assert_eq!(count(1_000_000_000), "1.00G");
        assert_eq!(count(u64::MAX), "18.44E");
    }

    #[test]
    fn icmp_shows_type_and_code() {
        let icmp = FlowRecord {
            key: key(false, [[10; 16]; 2], 1, [0, 0x0301], 0, 0, 1),
            ..nth(0)
        };
        assert!(rows(80, 24, &[icmp])[1].contains("10.10.10.10 3/1"));
    }
}
