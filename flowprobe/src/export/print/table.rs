//! The table: fits a terminal of 80 columns, and shows every address in full.

use std::net::IpAddr;

use flowprobe_ebpf::wire::protocol;

use crate::record::{EndReason, FlowKey, FlowRecord};

/// Columns assumed where the terminal does not say.
const DEFAULT_SIZE: (usize, usize) = (80, 24);
/// `255.255.255.255:65535`.
const V4_WIDTH: usize = 21;
/// An IPv6 address in brackets and a port.
const V6_WIDTH: usize = 47;
/// Columns beside the two endpoints, with their spaces.
const FIXED_WIDTH: usize = 8 + 1 + 5 + 1 + 1 + 1 + 7 + 1 + 7 + 1 + 5;

/// Formats rows, and repeats the header once a screen.
#[derive(Debug)]
pub(super) struct Table {
    /// Columns of an endpoint.
    endpoint: usize,
    /// Lines between two headers.
    screen: usize,
    /// Lines since the last header; none before the first.
    lines: Option<usize>,
}

impl Table {
    /// A table as wide as the terminal on standard output.
    pub(super) fn for_terminal() -> Self {
        let (columns, rows) = terminal_size().unwrap_or(DEFAULT_SIZE);
        Self::new(columns, rows)
    }

    fn new(columns: usize, rows: usize) -> Self {
        let spare = columns.saturating_sub(FIXED_WIDTH) / 2;
        Self {
            endpoint: spare.clamp(V4_WIDTH, V6_WIDTH),
            // The line of the prompt stays free.
            screen: rows.saturating_sub(1).max(8),
            lines: None,
        }
    }

    /// Appends a flow, and the header before it where one is due.
    pub(super) fn row(&mut self, record: &FlowRecord, to: &mut Vec<u8>) {
        let key = &record.key;
        let (source_port, destination_port) = ports(key);
        let source = endpoint(key.source(), source_port);
        let destination = endpoint(key.destination(), destination_port);
        let width = self.endpoint;
        let wraps = source.len() > width || destination.len() > width;
        let height = if wraps { 2 } else { 1 };
        self.header(height, to);

        let seconds = record.start_ms / 1000 % 86_400;
        let (h, m, s) = (seconds / 3600, seconds / 60 % 60, seconds % 60);
        let protocol = protocol_name(key.protocol());
        let mut line = format!("{h:02}:{m:02}:{s:02} {protocol:<5} ");
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

    /// Appends the header if the next `height` lines would leave the screen without one.
    fn header(&mut self, height: usize, to: &mut Vec<u8>) {
        let lines = self.lines.map(|lines| lines + height);
        self.lines = match lines {
            Some(lines) if lines <= self.screen => Some(lines),
            _ => {
                let width = self.endpoint;
                let header = format!(
                    "{:<8} {:<5} {:<width$} {:<width$} {:>7} {:>7} {:<5}\n",
                    "UTC", "PROTO", "SOURCE", "DESTINATION", "PACKETS", "OCTETS", "END"
                );
                to.extend_from_slice(header.as_bytes());
                Some(1 + height)
            }
        };
    }
}

/// Address and port, or the address alone for a protocol without ports.
fn endpoint(address: IpAddr, port: Option<String>) -> String {
    match (address, port) {
        (address, None) => address.to_string(),
        (IpAddr::V4(address), Some(port)) => format!("{address}:{port}"),
        (IpAddr::V6(address), Some(port)) => format!("[{address}]:{port}"),
    }
}

/// Source and destination port; for ICMP type/code at the destination.
fn ports(key: &FlowKey) -> (Option<String>, Option<String>) {
    let (source, destination) = (key.source_port(), key.destination_port());
    match key.protocol() {
        protocol::TCP | protocol::UDP | protocol::SCTP | protocol::UDP_LITE | protocol::DCCP => {
            (Some(source.to_string()), Some(destination.to_string()))
        }
        protocol::ICMP | protocol::ICMPV6 => {
            let [kind, code] = destination.to_be_bytes();
            (None, Some(format!("{kind}/{code}")))
        }
        _ => (None, None),
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

/// flowEndReason in five letters.
fn end(reason: EndReason) -> &'static str {
    match reason {
        EndReason::IdleTimeout => "idle",
        EndReason::ActiveTimeout => "activ",
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
