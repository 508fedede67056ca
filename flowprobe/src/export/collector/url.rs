//! From a URL to a collector.

use std::{
    net::{Ipv4Addr, Ipv6Addr},
    path::PathBuf,
    str::FromStr,
    time::Duration,
};

use super::{At, Collector, Format, Identity, Transport};
use crate::{export::template::TemplateNameError, nearest::nearest};

/// Why a collector's URL does not parse.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum CollectorError {
    /// No `://`.
    #[error("a collector is written udp://HOST:PORT, for example udp://10.0.0.9:4739")]
    Scheme,
    /// Another transport.
    #[error("transport {0:?} is not known: write {transports}", transports = transports())]
    Transport(String),
    /// The transport does not carry the format.
    #[error(
        "{0} does not carry NetFlow {format}: write udp:// or unix://, or format=ipfix",
        format = .1.name()
    )]
    Pair(&'static str, Format),
    /// Nothing before the port.
    #[error("the host is missing: write {0}://HOST:PORT")]
    Host(&'static str),
    /// No path, or not one from the root.
    #[error("the path is missing: write {0}:///PATH, from the root on")]
    Path(&'static str),
    /// A character that no host name has.
    #[error("{0:?} is not a host name or address: write HOST, HOST:PORT or [ADDRESS]:PORT")]
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
    /// A parameter that is not known for this transport.
    #[error("{}", unknown_parameter(.0, .1))]
    Parameter(String, &'static str),
    /// A parameter without a value, or twice.
    #[error("parameter {0:?} needs one value: ?{0}=…")]
    Value(String),
    /// A format that is not known.
    #[error("format {0:?} is not known: write ipfix, v9 or v5")]
    Format(String),
    /// What cannot be the name of a template.
    #[error(transparent)]
    Template(#[from] TemplateNameError),
    /// A template, in a format whose records have one form.
    #[error(
        "NetFlow v5 has no templates: leave out the template, or write format=v9 or format=ipfix"
    )]
    Fixed,
    /// Not a time, or none that SCTP can tell.
    #[error("lifetime={0} is no time in seconds: 0.001 to 86400, for example lifetime=5")]
    Lifetime(String),
}

/// All that can stand in front of `://`.
fn transports() -> String {
    let schemes = Transport::ALL.map(|transport| format!("{}://", transport.scheme()));
    schemes.join(", ")
}

/// Parameters that a transport has.
fn parameters(transport: Transport) -> &'static [&'static str] {
    match transport {
        Transport::Tls | Transport::Dtls => &["format", "template", "ca", "cert", "key", "name"],
        Transport::Sctp => &["format", "template", "lifetime"],
        _ => &["format", "template"],
    }
}

fn unknown_parameter(name: &str, scheme: &str) -> String {
    let transport = Transport::ALL.into_iter().find(|t| t.scheme() == scheme);
    let known = transport.map_or(&[][..], parameters);
    let hint = match nearest(name, known.iter().copied()) {
        Some(one) => format!("did you mean {one}?"),
        None => format!("it has {}", known.join(", ")),
    };
    format!("{scheme}:// has no parameter {name:?}: {hint}")
}

impl FromStr for Format {
    type Err = CollectorError;

    fn from_str(text: &str) -> Result<Self, CollectorError> {
        let found = Self::ALL.into_iter().find(|format| format.name() == text);
        found.ok_or_else(|| CollectorError::Format(text.to_owned()))
    }
}

impl FromStr for Collector {
    type Err = CollectorError;

    fn from_str(text: &str) -> Result<Self, CollectorError> {
        let (scheme, rest) = text.split_once("://").ok_or(CollectorError::Scheme)?;
        let transport = Transport::ALL.into_iter().find(|t| t.scheme() == scheme);
        let transport = transport.ok_or_else(|| CollectorError::Transport(scheme.to_owned()))?;
        let (place, query) = match rest.split_once('?') {
            Some((place, query)) => (place, Some(query)),
            None => (rest, None),
        };
        let at = if transport.is_local() {
            path(place, transport)?
        } else {
            host(place, transport)?
        };
        let mut collector = Self {
            transport,
            at,
            format: None,
            template: None,
            identity: Identity::default(),
            lifetime: None,
        };
        for parameter in query.into_iter().flat_map(|query| query.split('&')) {
            collector.set(parameter)?;
        }
        match collector.format {
            // The port goes with it.
            Some(format) => collector.or_format(format),
            None => Ok(collector),
        }
    }
}

impl Collector {
    fn set(&mut self, parameter: &str) -> Result<(), CollectorError> {
        let (name, value) = parameter.split_once('=').unwrap_or((parameter, ""));
        if !parameters(self.transport).contains(&name) {
            let scheme = self.transport.scheme();
            return Err(CollectorError::Parameter(name.to_owned(), scheme));
        }
        let again = || CollectorError::Value(name.to_owned());
        if value.is_empty() {
            return Err(again());
        }
        let file = |place: &mut Option<PathBuf>| match place.replace(value.into()) {
            Some(_) => Err(again()),
            None => Ok(()),
        };
        match name {
            "ca" => file(&mut self.identity.ca),
            "cert" => file(&mut self.identity.cert),
            "key" => file(&mut self.identity.key),
            "name" => match self.identity.name.replace(value.to_owned()) {
                Some(_) => Err(again()),
                None => Ok(()),
            },
            "template" => match self.template.replace(value.parse()?) {
                Some(_) => Err(again()),
                None => Ok(()),
            },
            "lifetime" => match self.lifetime.replace(lifetime(value)?) {
                Some(_) => Err(again()),
                None => Ok(()),
            },
            _ => match self.format.replace(value.parse()?) {
                Some(_) => Err(again()),
                None => Ok(()),
            },
        }
    }
}

/// A time in seconds, or with its unit: `s` or `ms`.
fn lifetime(text: &str) -> Result<Duration, CollectorError> {
    let (number, of_second) = match (text.strip_suffix("ms"), text.strip_suffix('s')) {
        (Some(number), _) => (number, 0.001),
        (None, Some(number)) => (number, 1.0),
        (None, None) => (text, 1.0),
    };
    let seconds = number.parse::<f64>().ok().map(|number| number * of_second);
    let seconds = seconds.filter(|seconds| (0.001..=86_400.0).contains(seconds));
    let seconds = seconds.ok_or_else(|| CollectorError::Lifetime(text.to_owned()))?;
    // SCTP counts milliseconds (RFC 6458 §5.3.7).
    Ok(Duration::from_millis((seconds * 1000.0).round() as u64))
}

fn path(place: &str, transport: Transport) -> Result<At, CollectorError> {
    if place.len() < 2 || !place.starts_with('/') {
        return Err(CollectorError::Path(transport.scheme()));
    }
    Ok(At::Path(place.into()))
}

fn host(place: &str, transport: Transport) -> Result<At, CollectorError> {
    let (host, port) = match place.strip_prefix('[') {
        Some(rest) => {
            let (host, port) = rest.split_once(']').ok_or(CollectorError::Brackets)?;
            match port.strip_prefix(':') {
                _ if !host.contains(':') => return Err(CollectorError::Brackets),
                None if !port.is_empty() => return Err(CollectorError::Port(port.to_owned())),
                port => (host, port),
            }
        }
        None => match place.split_once(':') {
            Some((_, port)) if port.contains(':') => return Err(CollectorError::Brackets),
            Some((host, port)) => (host, Some(port)),
            None => (place, None),
        },
    };
    if host.is_empty() {
        return Err(CollectorError::Host(transport.scheme()));
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
    let port = match port.map(|port| (port, port.parse())) {
        None => None,
        Some((port, Ok(0) | Err(_))) => return Err(CollectorError::Port(port.to_owned())),
        Some((_, Ok(port))) => Some(port),
    };
    Ok(At::Host(host.to_owned(), port))
}

/// Whether this is an IPv6 address, with the zone that a link-local one needs or without
/// (RFC 4007 §11).
fn is_ipv6(host: &str) -> bool {
    let (address, zone) = host.split_once('%').unwrap_or((host, "_"));
    !zone.is_empty() && address.parse::<Ipv6Addr>().is_ok()
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
            ("tcp://[2001:db8::1]:9995", "2001:db8::1", 9995),
            ("udp://[fe80::1%eth0]:9995?format=v9", "fe80::1%eth0", 9995),
            (
                "tls://h:1?template=wide&ca=/etc/ca.pem&cert=c.pem&key=k.pem&name=nms",
                "h",
                1,
            ),
            ("udp://h:1?format=v9&template=w-2.x_y", "h", 1),
            ("sctp://h:1?lifetime=2.5", "h", 1),
        ] {
            let collector: Collector = text.parse().expect(text);
            assert_eq!((collector.host(), collector.port()), (host, port));
            assert_eq!(collector.to_string(), text);
        }
        for text in ["unix:///run/collector.sock?format=v5", "file:///var/flows"] {
            let collector: Collector = text.parse().expect(text);
            assert_eq!(collector.to_string(), text);
            assert!(collector.path().is_absolute());
        }
    }

    #[test]
    fn ports_default_to_those_of_format_and_transport() {
        for (text, default, port) in [
            ("udp://localhost", Format::Ipfix, 4739),
            ("udp://[::1]", Format::V9, 2055),
            ("udp://h?format=v5", Format::Ipfix, 2055),
            ("udp://h?format=ipfix", Format::V9, 4739),
            ("tcp://h", Format::Ipfix, 4739),
            ("sctp://h", Format::Ipfix, 4739),
            ("tls://h", Format::Ipfix, 4740),
            ("dtls://h", Format::Ipfix, 4740),
            ("udp://h:7?format=v5", Format::Ipfix, 7),
        ] {
            let collector: Collector = text.parse().expect(text);
            let collector = collector.or_format(default).expect(text);
            assert_eq!(collector.port(), port, "{text}");
            assert!(
                collector.to_string().contains(&format!(":{port}")),
                "{text}"
            );
        }
    }

    fn error(text: &str) -> CollectorError {
        text.parse::<Collector>().expect_err(text)
    }

    #[test]
    fn netflow_goes_by_datagrams_only() {
        for scheme in ["tcp", "tls", "dtls", "sctp"] {
            for format in [Format::V9, Format::V5] {
                let wrong = CollectorError::Pair(scheme, format);
                let text = format!("{scheme}://h?format={}", format.name());
                assert_eq!(error(&text), wrong);
                let open: Collector = format!("{scheme}://h").parse().expect("a collector");
                assert_eq!(open.or_format(format), Err(wrong));
            }
        }
        assert_eq!(
            error("sctp://h?format=v5").to_string(),
            "sctp does not carry NetFlow v5: write udp:// or unix://, or format=ipfix"
        );
    }

    #[test]
    fn a_format_without_templates_has_none() {
        for text in [
            "udp://h?format=v5&template=a",
            "unix:///s?template=a&format=v5",
        ] {
            assert_eq!(error(text), CollectorError::Fixed);
        }
        let open: Collector = "udp://h?template=a".parse().expect("a collector");
        assert_eq!(
            open.clone().or_format(Format::V5),
            Err(CollectorError::Fixed)
        );
        assert!(open.or_format(Format::V9).is_ok());
        assert_eq!(
            CollectorError::Fixed.to_string(),
            "NetFlow v5 has no templates: leave out the template, or write format=v9 or format=ipfix"
        );
    }

    #[test]
    fn lifetimes_are_of_milliseconds_and_of_sctp() {
        for (text, milliseconds) in [
            ("5", 5000),
            ("5s", 5000),
            ("0.25", 250),
            ("100ms", 100),
            ("0.001", 1),
            ("86400", 86_400_000),
        ] {
            let collector: Collector = format!("sctp://h?lifetime={text}").parse().expect(text);
            let lifetime = collector.lifetime().expect(text);
            assert_eq!(lifetime, Duration::from_millis(milliseconds), "{text}");
        }
        for text in ["0", "0.4ms", "-1", "86401", "nan", "inf", "5m", "s"] {
            let wrong = CollectorError::Lifetime(text.to_owned());
            assert_eq!(error(&format!("sctp://h?lifetime={text}")), wrong);
        }
        assert_eq!(
            error("tcp://h?lifetime=5").to_string(),
            "tcp:// has no parameter \"lifetime\": it has format, template"
        );
    }

    #[test]
    fn parameters_are_those_of_the_transport() {
        for (text, message) in [
            (
                "udp://h?formt=v9",
                "udp:// has no parameter \"formt\": did you mean format?",
            ),
            (
                "tcp://h?ca=x",
                "tcp:// has no parameter \"ca\": it has format, template",
            ),
            (
                "tls://h?zz=x",
                "tls:// has no parameter \"zz\": it has format, template, ca, cert, key, name",
            ),
            ("tls://h?ca", "parameter \"ca\" needs one value: ?ca=…"),
            (
                "tls://h?ca=a&ca=b",
                "parameter \"ca\" needs one value: ?ca=…",
            ),
            (
                "udp://h?format=v10",
                "format \"v10\" is not known: write ipfix, v9 or v5",
            ),
            (
                "udp://h?template=a&template=a",
                "parameter \"template\" needs one value: ?template=…",
            ),
            (
                "udp://h?template=a/b",
                "\"a/b\" is no name of a template: 1 to 64 letters, digits, dashes, dots and underscores",
            ),
            (
                "file://x",
                "the path is missing: write file:///PATH, from the root on",
            ),
            (
                "unix:///",
                "the path is missing: write unix:///PATH, from the root on",
            ),
        ] {
            assert_eq!(error(text).to_string(), message);
        }
    }

    #[test]
    fn errors_say_what_is_wrong() {
        assert_eq!(error("10.0.0.9:4739"), CollectorError::Scheme);
        let wrong = error("http://10.0.0.9:4739");
        assert_eq!(wrong, CollectorError::Transport("http".to_owned()));
        assert!(wrong.to_string().ends_with("unix://, file://"), "{wrong}");
        assert_eq!(error("udp://:4739"), CollectorError::Host("udp"));
        assert_eq!(error("tcp://"), CollectorError::Host("tcp"));
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
