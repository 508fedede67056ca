//! Where a collector is, as the user writes it.

use std::{
    fmt,
    net::{Ipv4Addr, Ipv6Addr},
    str::FromStr,
};

/// Port of IPFIX over UDP (RFC 7011 §10.1).
const DEFAULT_PORT: u16 = 4739;

/// A collector: `udp://host:port`, an IPv6 address in brackets, port 4739 if none is given.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct Collector {
    host: String,
    port: u16,
}

/// Why a collector's address does not parse.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum CollectorError {
    /// No `://`.
    #[error("a collector is written udp://HOST:PORT, for example udp://10.0.0.9:4739")]
    Scheme,
    /// Another transport.
    #[error("transport {0:?} is not supported: write udp://HOST:PORT")]
    Transport(String),
    /// Nothing before the port.
    #[error("the host is missing: write udp://HOST:PORT")]
    Host,
    /// A character that no host name has.
    #[error("{0:?} is not a host name or address: write udp://HOST:PORT and nothing behind it")]
    HostName(String),
    /// Numbers and dots that are no IPv4 address; a resolver would take it for a name, and ask.
    #[error("{0:?} is not an IPv4 address: four numbers from 0 to 255, for example 10.0.0.9")]
    Ipv4(String),
    /// What is in brackets is no IPv6 address.
    #[error("{0:?} is not an IPv6 address: write udp://[2001:db8::1]:4739")]
    Ipv6(String),
    /// An IPv6 address without brackets, or brackets that do not close.
    #[error("an IPv6 address is written in brackets: udp://[2001:db8::1]:4739")]
    Brackets,
    /// Not a port.
    #[error("{0:?} is not a port: 1 to 65535")]
    Port(String),
}

impl Collector {
    /// Host name or address, without brackets.
    #[must_use]
    pub fn host(&self) -> &str {
        &self.host
    }

    /// Port.
    #[must_use]
    pub fn port(&self) -> u16 {
        self.port
    }
}

impl FromStr for Collector {
    type Err = CollectorError;

    fn from_str(text: &str) -> Result<Self, CollectorError> {
        let (transport, rest) = text.split_once("://").ok_or(CollectorError::Scheme)?;
        if transport != "udp" {
            return Err(CollectorError::Transport(transport.to_owned()));
        }
        let (host, port) = match rest.strip_prefix('[') {
            Some(rest) => {
                let (host, port) = rest.split_once(']').ok_or(CollectorError::Brackets)?;
                match port.strip_prefix(':') {
                    _ if !host.contains(':') => return Err(CollectorError::Brackets),
                    None if !port.is_empty() => return Err(CollectorError::Port(port.to_owned())),
                    port => (host, port),
                }
            }
            None => match rest.split_once(':') {
                Some((_, port)) if port.contains(':') => return Err(CollectorError::Brackets),
                Some((host, port)) => (host, Some(port)),
                None => (rest, None),
            },
        };
        if host.is_empty() {
            return Err(CollectorError::Host);
        }
        let named = |c: char| c.is_alphanumeric() || ".-_:%".contains(c);
        if !host.chars().all(named) {
            return Err(CollectorError::HostName(host.to_owned()));
        }
        if host.contains(':') && !is_ipv6(host) {
            return Err(CollectorError::Ipv6(host.to_owned()));
        }
        // RFC 1123 §2.1: no host name ends in a label of digits only, so that it can be told
        // from an address.
        let last_label = host.trim_end_matches('.').rsplit('.').next();
        let number = |label: &str| label.bytes().all(|c| c.is_ascii_digit());
        if last_label.is_some_and(number) && host.parse::<Ipv4Addr>().is_err() {
            return Err(CollectorError::Ipv4(host.to_owned()));
        }
        let port = match port {
            None => DEFAULT_PORT,
            Some(port) => match port.parse() {
                Ok(0) | Err(_) => return Err(CollectorError::Port(port.to_owned())),
                Ok(port) => port,
            },
        };
        Ok(Self {
            host: host.to_owned(),
            port,
        })
    }
}

/// Whether this is an IPv6 address, with the zone that a link-local one needs or without
/// (RFC 4007 §11).
fn is_ipv6(host: &str) -> bool {
    let (address, zone) = host.split_once('%').unwrap_or((host, "_"));
    !zone.is_empty() && address.parse::<Ipv6Addr>().is_ok()
}

impl fmt::Display for Collector {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { host, port } = self;
        if host.contains(':') {
            write!(f, "udp://[{host}]:{port}")
        } else {
            write!(f, "udp://{host}:{port}")
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn urls_come_back_as_written() {
        for (text, host, port) in [
            ("udp://10.0.0.9:4739", "10.0.0.9", 4739),
            (
                "udp://collector.example.net:2055",
                "collector.example.net",
                2055,
            ),
            ("udp://4.example:9995", "4.example", 9995),
            ("udp://[2001:db8::1]:9995", "2001:db8::1", 9995),
            ("udp://[fe80::1%eth0]:9995", "fe80::1%eth0", 9995),
        ] {
            let collector: Collector = text.parse().expect(text);
            assert_eq!((collector.host(), collector.port()), (host, port));
            assert_eq!(collector.to_string(), text);
        }
    }

    #[test]
    fn port_defaults_to_that_of_ipfix() {
        for text in ["udp://localhost", "udp://10.0.0.9", "udp://[::1]"] {
            let collector: Collector = text.parse().expect(text);
            assert_eq!(collector.to_string(), format!("{text}:4739"));
        }
    }

    #[test]
    fn errors_say_what_is_wrong() {
        let error = |text: &str| text.parse::<Collector>().expect_err(text);
        assert_eq!(error("10.0.0.9:4739"), CollectorError::Scheme);
        assert_eq!(
            error("tcp://10.0.0.9:4739"),
            CollectorError::Transport("tcp".to_owned())
        );
        assert_eq!(error("udp://:4739"), CollectorError::Host);
        assert_eq!(error("udp://"), CollectorError::Host);
        for text in [
            "udp://2001:db8::1:4739",
            "udp://[::1",
            "udp://[host]:1",
            "udp://[]:1",
        ] {
            assert_eq!(error(text), CollectorError::Brackets, "{text}");
        }
        for (text, port) in [
            ("udp://host:0", "0"),
            ("udp://host:65536", "65536"),
            ("udp://host:", ""),
            ("udp://host:4739/x", "4739/x"),
            ("udp://[::1]4739", "4739"),
        ] {
            assert_eq!(error(text), CollectorError::Port(port.to_owned()), "{text}");
        }
        for host in [
            "10.0.0.999",
            "10.0.0",
            "1.2.3.4.5",
            "10",
            "010.0.0.9",
            "4.",
            "a.1",
        ] {
            assert_eq!(
                error(&format!("udp://{host}:1")),
                CollectorError::Ipv4(host.to_owned())
            );
        }
        for host in ["2001:db8::g", "1::2::3", "fe80::1%", "10.0.0.9:1"] {
            assert_eq!(
                error(&format!("udp://[{host}]:1")),
                CollectorError::Ipv6(host.to_owned())
            );
        }
        for host in ["user@host", "host/path", "two words"] {
            assert_eq!(
                error(&format!("udp://{host}:1")),
                CollectorError::HostName(host.to_owned())
            );
        }
    }
}
