//! Where a collector is, how messages get there, and what they are written in, as the user says it
//! in a URL.

mod url;

use std::{fmt, path::PathBuf, time::Duration};

pub use self::url::CollectorError;
use super::TemplateName;

/// What messages are written in.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash)]
pub enum Format {
    /// IPFIX (RFC 7011).
    #[default]
    Ipfix,
    /// NetFlow version 9 (RFC 3954).
    V9,
    /// NetFlow version 5, which has IPv4 only.
    V5,
}

impl Format {
    /// All of them.
    pub const ALL: [Self; 3] = [Self::Ipfix, Self::V9, Self::V5];

    /// As in a URL.
    #[must_use]
    pub fn name(self) -> &'static str {
        match self {
            Self::Ipfix => "ipfix",
            Self::V9 => "v9",
            Self::V5 => "v5",
        }
    }
}

/// How messages get to a collector.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Transport {
    /// UDP (RFC 7011 §10.3).
    Udp,
    /// TCP (§10.4).
    Tcp,
    /// TLS over TCP (§11.1).
    Tls,
    /// DTLS over UDP (§11.1).
    Dtls,
    /// SCTP (§10.2).
    Sctp,
    /// A Unix datagram socket.
    Unix,
    /// Files in a directory (RFC 5655).
    File,
}

impl Transport {
    /// All of them.
    pub const ALL: [Self; 7] = [
        Self::Udp,
        Self::Tcp,
        Self::Tls,
        Self::Dtls,
        Self::Sctp,
        Self::Unix,
        Self::File,
    ];

    /// The scheme of its URLs.
    #[must_use]
    pub fn scheme(self) -> &'static str {
        match self {
            Self::Udp => "udp",
            Self::Tcp => "tcp",
            Self::Tls => "tls",
            Self::Dtls => "dtls",
            Self::Sctp => "sctp",
            Self::Unix => "unix",
            Self::File => "file",
        }
    }

    /// Whether each message has to fit into a packet.
    #[must_use]
    pub fn has_packets(self) -> bool {
        matches!(self, Self::Udp | Self::Dtls)
    }

    /// Whether it can carry this format: NetFlow knows datagrams only. (RFC 3954 §3.3 leaves version
    /// 9 the choice of its transport; no collector is known that takes it by another.)
    #[must_use]
    pub fn carries(self, format: Format) -> bool {
        format == Format::Ipfix || matches!(self, Self::Udp | Self::Unix)
    }

    fn is_secure(self) -> bool {
        matches!(self, Self::Tls | Self::Dtls)
    }

    fn is_local(self) -> bool {
        matches!(self, Self::Unix | Self::File)
    }

    /// The port of a URL that has none.
    fn port(self, format: Format) -> u16 {
        match format {
            // RFC 7011 §10.1.
            Format::Ipfix if self.is_secure() => 4740,
            Format::Ipfix => 4739,
            // None is registered; most collectors listen here.
            Format::V9 | Format::V5 => 2055,
        }
    }
}

/// Where a collector is.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
enum At {
    /// Host name or address without brackets, and port.
    Host(String, Option<u16>),
    Path(PathBuf),
}

/// Files with which a secure transport shows who is who; each may be left to the general option.
#[derive(Clone, Debug, Default, PartialEq, Eq, Hash)]
pub struct Identity {
    /// Certificates of the authorities that sign collectors' certificates, in PEM.
    pub ca: Option<PathBuf>,
    /// Our certificate and its chain, in PEM.
    pub cert: Option<PathBuf>,
    /// Its private key, in PEM.
    pub key: Option<PathBuf>,
    /// The name that the collector's certificate has to have, in place of the URL's host.
    pub name: Option<String>,
}

impl Identity {
    /// Fills in what is not said.
    #[must_use]
    pub fn or(&self, others: &Self) -> Self {
        Self {
            ca: self.ca.clone().or_else(|| others.ca.clone()),
            cert: self.cert.clone().or_else(|| others.cert.clone()),
            key: self.key.clone().or_else(|| others.key.clone()),
            name: self.name.clone().or_else(|| others.name.clone()),
        }
    }
}

/// A collector, `TRANSPORT://HOST[:PORT][?KEY=VALUE…]` or `TRANSPORT:///PATH[?…]`.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct Collector {
    transport: Transport,
    at: At,
    format: Option<Format>,
    template: Option<TemplateName>,
    identity: Identity,
    lifetime: Option<Duration>,
}

impl Collector {
    /// How messages get there.
    #[must_use]
    pub fn transport(&self) -> Transport {
        self.transport
    }

    /// What they are written in, where the URL says so.
    #[must_use]
    pub fn format(&self) -> Option<Format> {
        self.format
    }

    /// The template that its flow records have, where the URL says so.
    #[must_use]
    pub fn template(&self) -> Option<&TemplateName> {
        self.template.as_ref()
    }

    /// The collector with what its URL leaves open, a format and the port that goes with it.
    ///
    /// # Errors
    /// If the transport does not carry the format, or the format has no templates.
    pub fn or_format(mut self, default: Format) -> Result<Self, CollectorError> {
        let format = *self.format.get_or_insert(default);
        if !self.transport.carries(format) {
            return Err(CollectorError::Pair(self.transport.scheme(), format));
        }
        if format == Format::V5 && self.template.is_some() {
            return Err(CollectorError::Fixed);
        }
        if let At::Host(_, port) = &mut self.at {
            port.get_or_insert(self.transport.port(format));
        }
        Ok(self)
    }

    /// Whether it is another process, that can be away.
    #[must_use]
    pub fn has_host(&self) -> bool {
        matches!(self.at, At::Host(..))
    }

    /// Host name or address without brackets; empty where there is none.
    #[must_use]
    pub fn host(&self) -> &str {
        match &self.at {
            At::Host(host, _) => host,
            At::Path(_) => "",
        }
    }

    /// Port; that of the transport and format where the URL has none.
    #[must_use]
    pub fn port(&self) -> u16 {
        match &self.at {
            At::Host(_, Some(port)) => *port,
            _ => self.transport.port(self.format.unwrap_or_default()),
        }
    }

    /// Path of a socket or a directory; empty where there is none.
    #[must_use]
    pub fn path(&self) -> PathBuf {
        match &self.at {
            At::Host(..) => PathBuf::new(),
            At::Path(path) => path.clone(),
        }
    }

    /// How long messages of flows are worth having, where the URL says so: milliseconds at least.
    #[must_use]
    pub fn lifetime(&self) -> Option<Duration> {
        self.lifetime
    }

    /// Who is who, as far as the URL says.
    #[must_use]
    pub fn identity(&self) -> &Identity {
        &self.identity
    }
}

impl fmt::Display for Collector {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}://", self.transport.scheme())?;
        match &self.at {
            At::Host(host, port) => {
                if host.contains(':') {
                    write!(f, "[{host}]")?;
                } else {
                    f.write_str(host)?;
                }
                if let Some(port) = port {
                    write!(f, ":{port}")?;
                }
            }
            At::Path(path) => write!(f, "{}", path.display())?,
        }
        let mut mark = '?';
        let mut say = |key: &str, value: &dyn fmt::Display| {
            let said = write!(f, "{mark}{key}={value}");
            mark = '&';
            said
        };
        if let Some(format) = self.format.filter(|format| *format != Format::Ipfix) {
            say("format", &format.name())?;
        }
        if let Some(template) = &self.template {
            say("template", template)?;
        }
        for (key, path) in [
            ("ca", &self.identity.ca),
            ("cert", &self.identity.cert),
            ("key", &self.identity.key),
        ] {
            if let Some(path) = path {
                say(key, &path.display())?;
            }
        }
        if let Some(name) = &self.identity.name {
            say("name", name)?;
        }
        if let Some(lifetime) = self.lifetime {
            say("lifetime", &lifetime.as_secs_f64())?;
        }
        Ok(())
    }
}
