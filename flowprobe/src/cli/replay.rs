//! Options of `flowprobe replay`.

use std::{path::PathBuf, time::Duration};

use clap::Args;

use super::{LogLevel, Tls, seconds};
use crate::export::{Collector, MIN_MTU, replay::ReplaySettings};

/// Options of `flowprobe replay`.
#[derive(Debug, Args)]
pub struct Replay {
    /// IPFIX file to send (RFC 5655), of any exporter; several are sent one after the
    /// other
    #[arg(value_name = "FILE", required = true)]
    pub files: Vec<PathBuf>,

    /// Collector, as for `run`, of IPFIX and without a template; each one given gets
    /// every record. file:///PATH makes one file of all
    #[arg(short, long = "collector", value_name = "URL", required = true)]
    pub collectors: Vec<Collector>,

    /// Who is who in secure transports.
    #[command(flatten)]
    pub tls: Tls,

    /// Largest IP packet to a collector, in octets; 512 where the path is unknown
    #[arg(long, value_name = "OCTETS", default_value_t = 1400,
          value_parser = clap::value_parser!(u16).range(i64::from(MIN_MTU)..))]
    pub mtu: u16,

    /// Send templates again this often over UDP, in seconds
    #[arg(long, value_name = "SECONDS", default_value = "60", value_parser = seconds)]
    pub template_refresh: Duration,

    /// Most records a second to each collector; 0 does not limit
    #[arg(long, value_name = "RECORDS", default_value_t = 200_000)]
    pub export_rate: u32,

    /// Write what was sent to FILE as JSON at the end
    #[arg(long, value_name = "FILE")]
    pub summary: Option<PathBuf>,

    /// Log this and what is worse
    #[arg(long, value_name = "LEVEL", default_value = "info")]
    pub log: LogLevel,
}

impl From<Replay> for ReplaySettings {
    fn from(options: Replay) -> Self {
        Self {
            files: options.files,
            collectors: options.collectors,
            identity: options.tls.into(),
            mtu: options.mtu,
            template_refresh: options.template_refresh,
            export_rate: options.export_rate,
            summary: options.summary,
        }
    }
}
