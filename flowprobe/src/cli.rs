//! The command line.

mod config;
mod ctl;
mod experiment;
mod parsing;
mod replay;
mod settings;

use std::{num::NonZeroU32, path::PathBuf, str::FromStr as _, time::Duration};

use clap::{ArgAction, Args, Parser, Subcommand, ValueEnum};

use crate::{
    attach::{Hook, XdpMode},
    bypass::Poll,
    export::{Collector, Format, Group, Identity, NamedTemplate, Output},
    ipfix::Fields,
    load::MAX_FLOWS,
    sampling::{Profile, Rated, SampleKey, Sampling},
    table,
    xsk::ZeroCopy,
};

pub use config::{Config, ConfigCommand};
pub use ctl::{Ctl, CtlCommand, ctl};
pub use experiment::{ErrorOf, Experiment};
pub use parsing::{Parsing, Ports};
pub use replay::Replay;
pub use settings::{SettingsError, pcap_settings, run_settings};

/// A flow exporter for Linux: counts every packet in the kernel, exports flows as IPFIX.
#[derive(Debug, Parser)]
#[command(version, max_term_width = 80)]
pub struct Cli {
    /// What to do.
    #[command(subcommand)]
    pub command: Command,
}

/// What to do.
#[derive(Debug, Subcommand)]
pub enum Command {
    /// Meter live interfaces until SIGINT or SIGTERM
    ///
    /// Packets are counted by an XDP program, or one of traffic control, and always
    /// pass on untouched. Flows that end, go idle or last long go to every collector,
    /// or to standard output where none is given. At the end the ledger is printed:
    /// every packet that was seen, in exactly one of its terms.
    Run(Box<Run>),
    /// Meter the packets of captures, with the times that they have
    ///
    /// Reads pcap and pcapng files of Ethernet, raw IP, Linux cooked and loopback
    /// packets one after the other, as one run. Parser, output and ledger are those
    /// of `run`; timeouts go by the time of the captures. It needs no privileges.
    Pcap(Box<Pcap>),
    /// Find out which sampling rate is enough for the traffic of captures
    ///
    /// One pass over the packets: the truth, and beside it samplers of each method
    /// and rate, with different seeds. Says the highest rate whose error stays within
    /// a bound, then all errors beside theory. It needs no privileges.
    Experiment(Box<Experiment>),
    /// Send IPFIX files on to collectors
    ///
    /// Files as a collector of `run` and `pcap` or another program wrote them (RFC
    /// 5655). Records, template ids and observation domains stay as they are; messages
    /// are made anew, for the transport of each collector. A file that is damaged is
    /// refused before anything is sent.
    Replay(Replay),
    /// Ask a running flowprobe how it is going, or change its sampling rate
    Ctl(Ctl),
    /// Check a configuration file, or show all settings
    ///
    /// A file for --config of `run` and `pcap` is in TOML. A key is the name of an
    /// option without its dashes: idle-timeout = 15.
    Config(Config),
}

/// Options of `flowprobe run`.
#[derive(Debug, Args)]
pub struct Run {
    /// Interface to watch; may be given several times
    #[arg(short, long = "interface", value_name = "NAME", required = true)]
    pub interfaces: Vec<String>,

    /// Where flows go.
    #[command(flatten)]
    pub export: Export,

    /// Meter 1 packet in N, of those that FILTER names or else of the rest; may be
    /// given several times, and the first filter that matches counts
    ///
    /// RATE is 1/N count-based, random:1/N probabilistic, nofn:n/N for n of each N,
    /// time:ON/OFF in microseconds, hash:1/N by packet content (needs --sample-key),
    /// flow:1/N for whole flows. Or auto:cpu=P%, auto:flows=N, auto:packets=N (a
    /// second), which chooses N so that metering costs no more.
    ///
    /// FILTER is made of tcp, udp, icmp, proto N; port N[-M]; net PREFIX, with src or
    /// dst before them; interface NAME. Each filter is an observation domain of its
    /// own, counted up from --observation-domain.
    #[arg(short, long, value_name = "[FILTER =] RATE")]
    pub sample: Vec<Rated>,

    /// Key of hash: and flow:, the same on all sensors that are to select the same
    /// packets; better @FILE, which `ps` does not show
    #[arg(long, value_name = "KEY|@FILE", value_parser = SampleKey::from_str)]
    pub sample_key: Option<SampleKey>,

    /// Meter all packets, and beside that sample 1 packet in N, to see at the end what
    /// sampling would have cost; takes twice the tables
    #[arg(long, value_name = "N|RATE", value_parser = shadow)]
    pub shadow: Option<Sampling>,

    /// Unix socket for `flowprobe ctl` [default: /run/flowprobe.sock, if nobody else
    /// has it]
    #[arg(long, value_name = "PATH")]
    pub control: Option<PathBuf>,

    /// No socket for `flowprobe ctl`
    #[arg(long, conflicts_with = "control")]
    pub no_control: bool,

    /// How collectors are told the rate
    #[arg(long, value_name = "PROFILE", default_value = "default")]
    pub sampling_profile: SamplingProfile,

    /// Which headers make the flow.
    #[command(flatten)]
    pub parsing: Parsing,

    /// How long flows are kept.
    #[command(flatten)]
    pub timeouts: Timeouts,

    /// Look at every flow this often, in seconds
    #[arg(long, value_name = "SECONDS", default_value = "1", value_parser = interval)]
    pub sweep_interval: Duration,

    /// Flows in each table of each CPU, rounded up to a power of two, at least 8; takes
    /// 294 octets a flow on each possible CPU, IPv4, IPv6 and encapsulated together.
    /// With --mode afxdp, in the table of each queue, up to 16777216; a flow takes about
    /// 150 octets, 215 of IPv6, once it is there
    #[arg(long, value_name = "N", default_value_t = 65536,
          value_parser = clap::value_parser!(u32).range(1..=i64::from(MAX_FLOWS)))]
    pub max_flows: u32,

    /// Flows kept in userspace where the kernel's tables are full [default: 8 times
    /// --max-flows]
    #[arg(long, value_name = "N")]
    pub max_overflow_flows: Option<u32>,

    /// Records that wait for each collector at most; what is more is dropped and
    /// counted
    #[arg(long, value_name = "RECORDS", default_value = "1048576")]
    pub export_queue: NonZeroU32,

    /// Where packets are metered: xdp, in the kernel, which they pass; or afxdp, in
    /// userspace, which takes them past the stack: for taps with many flows, a worker
    /// and a table of --max-flows for each receive queue
    #[arg(long, value_name = "MODE", default_value = "xdp")]
    pub mode: RunMode,

    /// With --mode afxdp, take packets of an interface even if this machine needs
    /// them: it has an address or a route, or is part of a bridge. They are gone then
    #[arg(long, value_name = "false",
          default_value_t = false, default_missing_value = "true", num_args = 0..=1,
          require_equals = true, hide_default_value = true, hide_possible_values = true,
          action = ArgAction::Set)]
    pub take_packets: bool,

    /// With --mode afxdp, how workers wait for packets: adaptive, by short sleeps;
    /// wakeup, woken by the kernel; busy, without a sleep [default: adaptive]
    #[arg(long, value_name = "HOW")]
    pub poll: Option<Poll>,

    /// With --mode afxdp, packets that may wait in each queue, a power of two [default:
    /// 16384]
    #[arg(long, value_name = "PACKETS")]
    pub ring: Option<u32>,

    /// With --mode afxdp, buffers for the packets of each queue [default: --ring]
    #[arg(long, value_name = "BUFFERS")]
    pub umem: Option<u32>,

    /// With --mode afxdp, octets of such a buffer, 2048 or 4096 [default: 2048]
    #[arg(long, value_name = "OCTETS")]
    pub frame_size: Option<u32>,

    /// With --mode afxdp, whether the device itself writes into the buffers: auto,
    /// where the driver can; always; or never [default: auto]
    #[arg(long, value_name = "WHEN")]
    pub zero_copy: Option<ZeroCopy>,

    /// Where packets are counted as they come in: xdp, before anything else, or tc
    /// (traffic control, Linux 6.6), where another XDP program sits or frames are not
    /// Ethernet, as on tun, wg and ppp interfaces
    #[arg(long, value_name = "HOOK", default_value = "xdp")]
    pub hook: Hook,

    /// Count what goes out of the interfaces too (by traffic control, Linux 6.6), in
    /// flows of their own: flowDirection is 1, egressInterface the interface
    #[arg(long, value_name = "false",
          default_value_t = false, default_missing_value = "true", num_args = 0..=1,
          require_equals = true, hide_default_value = true, hide_possible_values = true,
          action = ArgAction::Set)]
    pub egress: bool,

    /// With --egress, count a packet that comes in on one of the interfaces and is
    /// forwarded to one of them once, as it comes in
    #[arg(long, value_name = "false",
          default_value_t = false, default_missing_value = "true", num_args = 0..=1,
          require_equals = true, hide_default_value = true, hide_possible_values = true,
          action = ArgAction::Set)]
    pub dedup: bool,

    /// How to attach by XDP: in the driver (native), behind it (generic), or auto
    #[arg(long, value_name = "MODE", default_value = "auto")]
    pub xdp_mode: XdpMode,

    /// Receive frames for other hosts too, as on a tap or SPAN port [default: false;
    /// true with --mode afxdp]
    #[arg(long, value_name = "false",
          default_missing_value = "true", num_args = 0..=1,
          require_equals = true, hide_possible_values = true,
          action = ArgAction::Set)]
    pub promisc: Option<bool>,

    /// Stop after this long, in seconds
    #[arg(long, value_name = "SECONDS", value_parser = seconds)]
    pub duration: Option<Duration>,

    /// What is said.
    #[command(flatten)]
    pub report: Report,

    /// Load this BPF object instead of the built-in one (for development)
    #[arg(long, value_name = "FILE")]
    pub object: Option<PathBuf>,

    /// Options in a file.
    #[command(flatten)]
    pub file: ConfigFile,
}

/// Where packets are metered.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub enum RunMode {
    /// In the kernel.
    Xdp,
    /// In userspace.
    Afxdp,
}

/// Options of `flowprobe pcap`.
#[derive(Debug, Args)]
pub struct Pcap {
    /// Capture to read, pcap or pcapng, also compressed with gzip or zstd; - is standard input
    #[arg(value_name = "FILE", required = true)]
    pub files: Vec<PathBuf>,

    /// Merge the packets of all captures by their time, as where several taps or queues
    /// wrote one each; otherwise one is read after the other
    #[arg(long)]
    pub merge: bool,

    /// Which headers make the flow.
    #[command(flatten)]
    pub parsing: Parsing,

    /// Where flows go.
    #[command(flatten)]
    pub export: Export,

    /// How long flows are kept.
    #[command(flatten)]
    pub timeouts: Timeouts,

    /// Flows in the table; when it is full, the one that was silent for longest is
    /// exported. A flow takes about 150 octets, 215 of IPv6
    #[arg(long, value_name = "N", default_value_t = 1 << 20,
          value_parser = clap::value_parser!(u32).range(1..=i64::from(MAX_FLOWS)))]
    pub max_flows: u32,

    /// What is said.
    #[command(flatten)]
    pub report: Report,

    /// Options in a file.
    #[command(flatten)]
    pub file: ConfigFile,
}

/// The option that names a file with others.
#[derive(Debug, Args)]
pub struct ConfigFile {
    /// Take options from this TOML file; those of the command line win over it (see
    /// `flowprobe config`)
    #[arg(long, value_name = "FILE")]
    pub config: Option<PathBuf>,
}

/// Options for where flows go, and how.
#[derive(Debug, Args)]
pub struct Export {
    /// Collector that gets every flow; may be given several times
    ///
    /// udp://HOST[:PORT], tcp://, tls://, dtls://, sctp://; unix:///PATH of a datagram
    /// socket; file:///DIRECTORY of IPFIX files, or file:///PATH of which the name may
    /// have fields of the time (%Y%m%dT%H%M%S). Behind it ?format=v9 (or v5, ipfix),
    /// template=NAME; with tls:// and dtls:// ca=FILE, cert=FILE, key=FILE, name=NAME;
    /// with sctp:// lifetime=SECONDS, after which flows are given up; joined by &. Ports
    /// are 4739, 4740 with TLS, 2055 with NetFlow.
    #[arg(short, long = "collector", value_name = "URL")]
    pub collectors: Vec<Collector>,

    /// Collectors that have the flows together; may be given several times
    ///
    /// 'all URL URL', as if each were given alone; 'failover URL URL', the first that
    /// can be reached gets them; 'balance URL URL', each gets a part, both directions
    /// of a conversation the same. One that comes back has to be there for 30 s, or
    /// hold-down=SECONDS in front of the URLs, before flows go to it again.
    #[arg(short, long = "group", value_name = "MODE URL URL...", value_parser = Group::from_str)]
    pub groups: Vec<Group>,

    /// What collectors get, where the URL does not say: ipfix, v9 or v5 (NetFlow)
    #[arg(long, value_name = "FORMAT", default_value = "ipfix", value_parser = Format::from_str)]
    pub format: Format,

    /// Who is who in secure transports.
    #[command(flatten)]
    pub tls: Tls,

    /// Where flows wait for collectors of tcp://, tls:// and sctp:// that are away, or for
    /// a group that fails over and of which none is there, once half of --export-queue is
    /// full of them (three quarters, for one that is too slow), and at the end; they are
    /// sent when one is back, or by the next run
    #[arg(long, value_name = "DIRECTORY")]
    pub spool: Option<PathBuf>,

    /// Octets in the spool of each collector, or group that fails over; when they are
    /// used up the oldest flows are dropped, and counted
    #[arg(long, value_name = "OCTETS", default_value_t = 1 << 30,
          value_parser = clap::value_parser!(u64).range(crate::export::MIN_SPOOL..))]
    pub spool_octets: u64,

    /// With file://: begin the next file once this one has so many octets
    #[arg(long, value_name = "OCTETS", value_parser = clap::value_parser!(u64).range(1..))]
    pub rotate_octets: Option<u64>,

    /// With file://: begin the next file this often, in seconds, at multiples of it
    #[arg(long, value_name = "SECONDS", default_value = "300", value_parser = seconds)]
    pub rotate_interval: Duration,

    /// Print flows to standard output; without a collector they are printed in any
    /// case, as a table on a terminal and else as json
    #[arg(short, long, value_name = "FORMAT")]
    pub output: Option<OutputFormat>,

    /// Largest IP packet to a collector, in octets; where the path is known to take less,
    /// packets are smaller. 512 if routers on it drop what is too large without a word
    #[arg(long, value_name = "OCTETS", default_value_t = 1400,
          value_parser = clap::value_parser!(u16).range(i64::from(crate::export::MIN_MTU)..))]
    pub mtu: u16,

    /// Send templates and options again this often, in seconds
    #[arg(long, value_name = "SECONDS", default_value = "60", value_parser = seconds)]
    pub template_refresh: Duration,

    /// And over UDP after so many messages; 0 goes by time alone
    #[arg(long, value_name = "MESSAGES", default_value_t = 0)]
    pub template_refresh_packets: u32,

    /// Fields of flow records in IPFIX and NetFlow v9, in this order, by their IANA names
    /// with commas between them [default: all]
    #[arg(long, value_name = "ELEMENT,ELEMENT...", value_parser = Fields::from_str)]
    pub fields: Option<Fields>,

    /// Fields by a name, for collectors with ?template=NAME, in the place of --fields;
    /// may be given several times
    #[arg(long = "template", value_name = "NAME=ELEMENT,ELEMENT...", value_parser = NamedTemplate::from_str)]
    pub templates: Vec<NamedTemplate>,

    /// Export both directions of a conversation as one record, a biflow (RFC 5103), where
    /// the format has it (ipfix). A flow waits for its other direction for an idle timeout
    #[arg(long)]
    pub biflow: bool,

    /// Most records a second to each collector; 0 does not limit, and nothing limits files
    #[arg(long, value_name = "RECORDS", default_value_t = 200_000)]
    pub export_rate: u32,

    /// Observation domain of the records
    #[arg(long, value_name = "ID", default_value_t = 1)]
    pub observation_domain: u32,

    /// Tell VLAN tags to collectors as vlanId alone, or as dot1qVlanId and
    /// dot1qPriority too
    #[arg(long, value_name = "ELEMENTS", default_value = "vlan")]
    pub vlan_elements: VlanElements,
}

/// Options for who is who in secure transports.
#[derive(Debug, Args)]
pub struct Tls {
    /// Certificates of the authorities that collectors' certificates are signed by, for
    /// tls:// and dtls:// [default: those of the system]
    #[arg(long, value_name = "FILE")]
    pub tls_ca: Option<PathBuf>,

    /// Certificate that this exporter shows, and its chain, in PEM
    #[arg(long, value_name = "FILE")]
    pub tls_cert: Option<PathBuf>,

    /// Its private key, in PEM
    #[arg(long, value_name = "FILE")]
    pub tls_key: Option<PathBuf>,
}

impl From<Tls> for Identity {
    fn from(options: Tls) -> Self {
        Self {
            ca: options.tls_ca,
            cert: options.tls_cert,
            key: options.tls_key,
            name: None,
        }
    }
}

/// Options for how long flows are kept.
#[derive(Debug, Args)]
pub struct Timeouts {
    /// Export a flow that had no packet for this long, in seconds
    #[arg(long, value_name = "SECONDS", default_value = "15", value_parser = seconds)]
    pub idle_timeout: Duration,

    /// Report a flow that goes on this often, in seconds
    #[arg(long, value_name = "SECONDS", default_value = "60", value_parser = seconds)]
    pub active_timeout: Duration,

    /// Wait this long for stragglers after a TCP FIN or RST, in seconds
    #[arg(long, value_name = "SECONDS", default_value = "1", value_parser = seconds)]
    pub tcp_linger: Duration,
}

impl From<Timeouts> for table::Timeouts {
    fn from(options: Timeouts) -> Self {
        Self {
            idle: options.idle_timeout,
            active: options.active_timeout,
            linger: options.tcp_linger,
        }
    }
}

/// Options for what is said of the run.
#[derive(Debug, Args)]
pub struct Report {
    /// Write the ledger and all figures to FILE as JSON at the end
    #[arg(long, value_name = "FILE")]
    pub summary: Option<PathBuf>,

    /// Log this and what is worse
    #[arg(long, value_name = "LEVEL", default_value = "info")]
    pub log: LogLevel,
}

/// How collectors are told the sampling rate, beside samplingInterval in each record.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub enum SamplingProfile {
    /// samplingInterval (34) in options, and the selector report of PSAMP
    Default,
    /// The selector report of PSAMP alone
    Psamp,
    /// samplingInterval and samplingAlgorithm (34, 35) in options
    Legacy,
    /// samplerId, samplerMode, samplerRandomInterval (48, 49, 50) in options
    Sampler,
}

impl From<SamplingProfile> for Profile {
    fn from(profile: SamplingProfile) -> Self {
        match profile {
            SamplingProfile::Default => Self::Default,
            SamplingProfile::Psamp => Self::Psamp,
            SamplingProfile::Legacy => Self::Legacy,
            SamplingProfile::Sampler => Self::Sampler,
        }
    }
}

/// Elements that tell a single VLAN tag. Several are always told by all of them.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub enum VlanElements {
    /// vlanId (58).
    Vlan,
    /// And dot1qVlanId, dot1qPriority (243, 244).
    Dot1q,
}

/// How flows are printed.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub enum OutputFormat {
    /// For people.
    Table,
    /// One object a line, with IANA element names.
    Json,
}

impl From<OutputFormat> for Output {
    fn from(format: OutputFormat) -> Self {
        match format {
            OutputFormat::Table => Self::Table,
            OutputFormat::Json => Self::Json,
        }
    }
}

/// How much is logged.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub enum LogLevel {
    /// What stops something from working.
    Error,
    /// And what may surprise.
    Warn,
    /// And what happens.
    Info,
    /// And what helps to find faults.
    Debug,
    /// And everything else.
    Trace,
}

impl From<LogLevel> for tracing::Level {
    fn from(level: LogLevel) -> Self {
        match level {
            LogLevel::Error => Self::ERROR,
            LogLevel::Warn => Self::WARN,
            LogLevel::Info => Self::INFO,
            LogLevel::Debug => Self::DEBUG,
            LogLevel::Trace => Self::TRACE,
        }
    }
}

/// Parses a time in seconds, decimals allowed.
fn seconds(text: &str) -> Result<Duration, String> {
    let seconds: f64 = text
        .parse()
        .map_err(|_| "give a number of seconds, for example 60 or 0.5".to_owned())?;
    // 30 days: beyond any use, and below the 52 days that a flow's last packet is counted in.
    const LONGEST: f64 = 2_592_000.0;
    if seconds > 0.0 && seconds <= LONGEST {
        // At least a nanosecond, or a tiny number would become the 0 that is refused here.
        Ok(Duration::from_secs_f64(seconds).max(Duration::from_nanos(1)))
    } else {
        Err("give more than 0 and at most 2592000 seconds (30 days)".to_owned())
    }
}

/// Parses what is sampled beside the metering of everything: a rate, or just its N.
fn shadow(text: &str) -> Result<Sampling, String> {
    let rate = match text.parse::<u32>() {
        Ok(n) => format!("random:1/{n}"),
        Err(_) => text.to_owned(),
    };
    match rate.parse::<Sampling>() {
        Ok(Sampling::All) => Err("a sample of all packets is no sample: give 2 or more".to_owned()),
        Ok(sampling) if sampling.asks_for_packet() => Err(
            "hash: and flow: cannot be compared live; `flowprobe experiment` compares them"
                .to_owned(),
        ),
        Ok(sampling) => Ok(sampling),
        Err(error) => Err(error.to_string()),
    }
}

/// Parses the time of a sweep, which delays every expiry.
fn interval(text: &str) -> Result<Duration, String> {
    const LONGEST: Duration = Duration::from_secs(3600);
    match seconds(text)? {
        interval if interval <= LONGEST => Ok(interval),
        _ => Err("give at most 3600 seconds: flows are exported this much too late".to_owned()),
    }
}

#[cfg(test)]
mod tests {
    use clap::CommandFactory;

    use super::*;

    #[test]
    fn the_definition_is_consistent() {
        Cli::command().debug_assert();
    }

    #[test]
    fn times_are_positive_seconds() {
        assert_eq!(seconds("0.05"), Ok(Duration::from_millis(50)));
        assert_eq!(seconds("60"), Ok(Duration::from_secs(60)));
        for bad in ["0", "-1", "nan", "inf", "1e99", "", "5s"] {
            assert!(seconds(bad).is_err(), "{bad}");
        }
    }
}
