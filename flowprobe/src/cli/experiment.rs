//! Options of `flowprobe experiment`.

use std::{path::PathBuf, time::Duration};

use clap::{Args, ValueEnum};

use super::{LogLevel, Parsing, seconds};
use crate::experiment::{self, Method, PrefixBits, Rate, Source, Target};

/// Options of `flowprobe experiment`.
#[derive(Debug, Args)]
pub struct Experiment {
    /// Capture to read, pcap or pcapng; - is standard input; may be given several
    /// times
    #[arg(long = "pcap", value_name = "FILE", required_unless_present = "interface",
          num_args = 1..)]
    pub files: Vec<PathBuf>,

    /// Interface whose received packets are read, instead of captures; needs
    /// CAP_NET_RAW
    #[arg(short, long, value_name = "NAME", conflicts_with = "files")]
    pub interface: Option<String>,

    /// Read the interface for this long, in seconds [default: until Ctrl-C]
    #[arg(long, value_name = "SECONDS", value_parser = seconds, conflicts_with = "files")]
    pub duration: Option<Duration>,

    /// Rates: N for 1 packet in N, or n/N
    #[arg(
        long,
        value_name = "RATES",
        value_delimiter = ',',
        default_value = "10,100,1000"
    )]
    pub rates: Vec<Rate>,

    /// Methods: count (every N-th), random (each by itself), nofn (n drawn of each
    /// N), time (windows of time), hash (by packet content), flow (whole flows)
    #[arg(
        long,
        value_name = "METHODS",
        value_delimiter = ',',
        default_value = "count,random,hash"
    )]
    pub methods: Vec<Method>,

    /// Samplers of each method and rate, each with a seed of its own; from 59 on
    /// bounds assume nothing on how errors are distributed
    #[arg(long, value_name = "RUNS", default_value_t = 30,
          value_parser = clap::value_parser!(u32).range(1..=10_000))]
    pub runs: u32,

    /// Number that all seeds come from; the same one gives the same result
    /// [default: drawn, and printed]
    #[arg(long, value_name = "NUMBER")]
    pub seed: Option<u64>,

    /// Directory for index.html, CSV, JSON and SVG files; made where it is missing
    #[arg(long, value_name = "DIRECTORY")]
    pub out: Option<PathBuf>,

    /// What the answer is about: packets, octets or flows in all, or the octets of the
    /// top flows, prefixes or ports
    #[arg(long, value_name = "OF", default_value = "top")]
    pub error: ErrorOf,

    /// Largest error that is wanted, in percent
    #[arg(long, value_name = "PERCENT", default_value = "10", value_parser = percent)]
    pub within: f64,

    /// How many of the largest flows, prefixes and ports are compared
    #[arg(long, value_name = "K", default_value_t = 100,
          value_parser = clap::value_parser!(u32).range(1..))]
    pub top: u32,

    /// Length of IPv4 prefixes, in bits
    #[arg(long, value_name = "BITS", default_value_t = 24,
          value_parser = clap::value_parser!(u8).range(0..=32))]
    pub prefix_v4: u8,

    /// Length of IPv6 prefixes, in bits
    #[arg(long, value_name = "BITS", default_value_t = 48,
          value_parser = clap::value_parser!(u8).range(0..=128))]
    pub prefix_v6: u8,

    /// Length of the windows of method time, in milliseconds; a rate of 1 in N selects
    /// one window in N
    #[arg(long, value_name = "MS", default_value_t = 10,
          value_parser = clap::value_parser!(u32).range(1..=3_600_000))]
    pub time_window: u32,

    /// Memory that flows may take, in MiB: 200 octets each, and up to 39 for each
    /// sampler that has seen it; with more the experiment ends
    #[arg(long, value_name = "MIB", default_value_t = 4096,
          value_parser = clap::value_parser!(u32).range(1..))]
    pub max_memory: u32,

    /// Which headers make the flow.
    #[command(flatten)]
    pub parsing: Parsing,

    /// Log this and what is worse
    #[arg(long, value_name = "LEVEL", default_value = "info")]
    pub log: LogLevel,
}

/// What the answer is about.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub enum ErrorOf {
    /// All packets.
    Packets,
    /// All octets.
    Octets,
    /// Octets of the largest flows.
    Top,
    /// Octets of the largest prefixes.
    Prefix,
    /// Octets of the largest ports.
    Port,
    /// The number of flows.
    Flows,
}

impl From<ErrorOf> for Target {
    fn from(of: ErrorOf) -> Self {
        match of {
            ErrorOf::Packets => Self::Packets,
            ErrorOf::Octets => Self::Octets,
            ErrorOf::Top => Self::Top,
            ErrorOf::Prefix => Self::Prefix,
            ErrorOf::Port => Self::Port,
            ErrorOf::Flows => Self::Flows,
        }
    }
}

impl From<Experiment> for experiment::Settings {
    fn from(options: Experiment) -> Self {
        let tunnels = (&options.parsing).into();
        let mut rates = options.rates;
        rates.sort_by(|a, b| {
            let by_scale = a.scale().total_cmp(&b.scale());
            by_scale.then(a.of().cmp(&b.of()))
        });
        rates.dedup();
        let mut methods = Vec::new();
        for method in options.methods {
            if !methods.contains(&method) {
                methods.push(method);
            }
        }
        let source = match options.interface {
            Some(name) => Source::Interface {
                name,
                duration: options.duration,
            },
            None => Source::Captures(options.files),
        };
        Self {
            source,
            tunnels,
            methods,
            rates,
            runs: options.runs,
            seed: options.seed,
            top: options.top as usize,
            prefix_bits: PrefixBits {
                v4: options.prefix_v4,
                v6: options.prefix_v6,
            },
            window_ns: u64::from(options.time_window) * 1_000_000,
            error: options.error.into(),
            within: options.within / 100.0,
            max_memory_mib: options.max_memory.into(),
            out: options.out,
        }
    }
}

/// Parses an error in percent.
fn percent(text: &str) -> Result<f64, String> {
    let wanted = || "give a number of percent above 0, for example 10 or 0.5".to_owned();
    let number: f64 = text
        .trim_end_matches('%')
        .trim()
        .parse()
        .map_err(|_| wanted())?;
    match number > 0.0 && number.is_finite() {
        true => Ok(number),
        false => Err(wanted()),
    }
}
