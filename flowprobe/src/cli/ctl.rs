//! `flowprobe ctl`: what it asks, and how it shows the answer.

use std::{fmt::Write as _, path::PathBuf};

use clap::{Args, Subcommand};

use crate::{
    control::{self, Class, ClientError, Reply, Request, Status},
    sampling::{Filter, Sampling},
};

/// Options of `flowprobe ctl`.
#[derive(Debug, Args)]
pub struct Ctl {
    /// Control socket of the flowprobe that is meant
    #[arg(long, value_name = "PATH", default_value = control::DEFAULT_PATH, global = true)]
    pub control: PathBuf,

    /// What to ask.
    #[command(subcommand)]
    pub command: CtlCommand,
}

/// What to ask.
#[derive(Debug, Subcommand)]
pub enum CtlCommand {
    /// Change a sampling rate, or show all of them
    Sample {
        /// The new rate, as `run --sample` has it
        #[arg(value_name = "RATE")]
        rate: Option<Sampling>,

        /// Change it for the class with this filter, and not for the rest
        #[arg(long, value_name = "FILTER", requires = "rate")]
        class: Option<Filter>,
    },
    /// Show how it is going
    Status {
        /// As JSON
        #[arg(long)]
        json: bool,
    },
}

/// Asks, and returns what is to be printed.
///
/// # Errors
/// No answer, or a refusal.
pub fn ctl(options: &Ctl) -> Result<String, ClientError> {
    let request = match &options.command {
        CtlCommand::Sample {
            rate: Some(sampling),
            class,
        } => Request::Sample {
            sampling: *sampling,
            class: class.clone(),
        },
        CtlCommand::Sample { rate: None, .. } => Request::Rates,
        CtlCommand::Status { .. } => Request::Status,
    };
    let reply = control::ask(&options.control, &request)?;
    Ok(match (&options.command, &reply) {
        (_, Reply::Class(class)) => rates(std::slice::from_ref(class)),
        (_, Reply::Classes(classes)) => rates(classes),
        (CtlCommand::Status { json: true }, _) => {
            let text = serde_json::to_string_pretty(&reply);
            let foreign = |error| ClientError::Foreign(options.control.clone(), error);
            text.map_err(foreign)? + "\n"
        }
        (_, Reply::Status(status)) => overview(status),
        (_, Reply::Error(error)) => return Err(ClientError::Refused(error.clone())),
    })
}

/// A block of three lines for each class: a filter may be as long as a line.
fn rates(classes: &[Class]) -> String {
    let mut text = String::new();
    for class in classes {
        let _ = writeln!(
            text,
            "{}\n  {}, domain {}, epoch {}\n  {} of {} packets ({:.4} %)",
            class.name,
            class.rate,
            class.domain,
            class.epoch,
            class.selected,
            class.observed,
            class.measured_ratio * 100.0,
        );
    }
    text
}

fn overview(status: &Status) -> String {
    let packets = |term: &serde_json::Value| term["packets"].as_u64().unwrap_or_default();
    let sum = |term: &str| {
        let reasons = status.ledger[term].as_object();
        reasons.map_or(0, |reasons| reasons.values().map(packets).sum())
    };
    let ledger = |term: &str| packets(&status.ledger[term]);
    let mut text = format!(
        "process {}, for {:.0} s, on {}\n",
        status.pid,
        status.uptime_s,
        status.interfaces.join(", ")
    );
    for (term, packets) in [
        ("seen", ledger("seen")),
        ("  unsampled", ledger("unsampled")),
        ("  ignored", sum("ignored")),
        ("  lost", sum("lost")),
        ("  accounted", ledger("accounted")),
        ("    exported", ledger("exported")),
        ("    held", ledger("held")),
    ] {
        let _ = writeln!(text, "{term:<16}{packets:>20} packets");
    }
    text + &rates(&status.classes)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_class_fits_a_terminal() {
        let class = Class {
            name: "rest".to_owned(),
            domain: 1,
            rate: "random:1/1000000".to_owned(),
            epoch: 12,
            since_ms: 0,
            observed: 10_000_000,
            selected: 10,
            measured_ratio: 1e-6,
        };
        let status = Status {
            pid: 7,
            uptime_s: 61.4,
            interfaces: vec!["eth0".to_owned(), "eth1".to_owned()],
            classes: vec![class],
            ledger: serde_json::json!({
                "seen": { "packets": u64::MAX, "octets": 0 },
                "ignored": { "arp": { "packets": 3 }, "ipx": { "packets": 4 } },
            }),
        };
        let text = overview(&status);
        assert!(text.starts_with("process 7, for 61 s, on eth0, eth1\nseen "));
        assert!(
            text.contains("  ignored                          7 packets\n"),
            "{text}"
        );
        let class = "rest\n  random:1/1000000, domain 1, epoch 12\n  10 of 10000000 packets";
        assert!(text.contains(class), "{text}");
        assert!(text.lines().all(|line| line.len() <= 80), "{text}");
    }
}
