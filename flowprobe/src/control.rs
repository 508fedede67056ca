//! The control socket of a running flowprobe: a Unix stream socket with mode 0660.
//!
//! One JSON object a line, one reply a line, in the order of the requests:
//!
//! ```text
//! {"command":"sample","rate":"1/500","class":"udp port 53"}    without class: the rest
//! {"command":"rates"}
//! {"command":"status"}
//!
//! {"ok":true,"class":{…}}      the class as it is from now on
//! {"ok":true,"classes":[…]}    all of them, the rest first
//! {"ok":true,"status":{…}}
//! {"ok":false,"error":"…"}
//! ```
//!
//! A line has at most 4,096 octets, and the whole of it has to come within 10 s. At most 64 clients
//! are served at once; each has a task of its own, so that one that hangs delays nobody. Metering waits
//! for none: requests are handed to it one at a time.

mod client;
mod server;

use serde::{Deserialize, Serialize};

pub use self::{
    client::{ClientError, ask},
    server::{Control, ControlError, Handle},
};
use crate::sampling::{Filter, Sampling};

/// Where the socket is unless one says otherwise.
pub const DEFAULT_PATH: &str = "/run/flowprobe.sock";

/// Octets of a request at most.
const MAX_LINE: usize = 4096;

/// A request as it is on the wire.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(tag = "command", rename_all = "lowercase")]
enum Line {
    Sample {
        rate: String,
        #[serde(default, skip_serializing_if = "Option::is_none")]
        class: Option<String>,
    },
    Rates,
    Status,
}

/// What is asked of the run.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Request {
    /// Begin an epoch with another rate.
    Sample {
        /// The rate.
        sampling: Sampling,
        /// For these packets; the rest without.
        class: Option<Filter>,
    },
    /// Say all rates.
    Rates,
    /// Say how it is going. All flows are counted for that, which may take seconds.
    Status,
}

impl Request {
    fn parse(line: &[u8]) -> Result<Self, String> {
        let line = serde_json::from_slice(line).map_err(|error| format!("no request: {error}"))?;
        match line {
            Line::Rates => Ok(Self::Rates),
            Line::Status => Ok(Self::Status),
            Line::Sample { rate, class } => Ok(Self::Sample {
                sampling: rate.parse().map_err(|error| format!("{error}"))?,
                class: class
                    .map(|class| class.parse())
                    .transpose()
                    .map_err(|error| format!("{error}"))?,
            }),
        }
    }

    fn line(&self) -> Line {
        match self {
            Self::Rates => Line::Rates,
            Self::Status => Line::Status,
            Self::Sample { sampling, class } => Line::Sample {
                rate: sampling.to_string(),
                class: class.as_ref().map(Filter::to_string),
            },
        }
    }
}

/// The answer to a request.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(from = "Answer", into = "Answer")]
pub enum Reply {
    /// A class as it is now.
    Class(Class),
    /// All classes as they are, the rest first.
    Classes(Vec<Class>),
    /// How it is going.
    Status(Status),
    /// What was wrong, on one line.
    Error(String),
}

/// A reply as it is on the wire.
#[derive(Clone, Debug, Default, Serialize, Deserialize)]
struct Answer {
    ok: bool,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    class: Option<Class>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    classes: Option<Vec<Class>>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    status: Option<Status>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    error: Option<String>,
}

impl From<Reply> for Answer {
    fn from(reply: Reply) -> Self {
        let mut answer = Self {
            ok: !matches!(reply, Reply::Error(_)),
            ..Self::default()
        };
        match reply {
            Reply::Class(class) => answer.class = Some(class),
            Reply::Classes(classes) => answer.classes = Some(classes),
            Reply::Status(status) => answer.status = Some(status),
            Reply::Error(error) => answer.error = Some(error),
        }
        answer
    }
}

impl From<Answer> for Reply {
    fn from(answer: Answer) -> Self {
        match answer {
            Answer {
                ok: true,
                class: Some(class),
                ..
            } => Self::Class(class),
            Answer {
                ok: true,
                classes: Some(classes),
                ..
            } => Self::Classes(classes),
            Answer {
                ok: true,
                status: Some(status),
                ..
            } => Self::Status(status),
            Answer { error, .. } => {
                Self::Error(error.unwrap_or_else(|| "an answer of another version".to_owned()))
            }
        }
    }
}

/// A class of packets, and how it is sampled.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Class {
    /// Its filter, or `rest`.
    pub name: String,
    /// Its observation domain.
    pub domain: u32,
    /// Its rate, as `--sample` has it.
    pub rate: String,
    /// Its epoch.
    pub epoch: u32,
    /// When that began, in milliseconds since 1970.
    pub since_ms: u64,
    /// Packets in this epoch.
    pub observed: u64,
    /// Of these, metered.
    pub selected: u64,
    /// The share of them.
    pub measured_ratio: f64,
}

/// How a run is going.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Status {
    /// Its process.
    pub pid: u32,
    /// Seconds since it began.
    pub uptime_s: f64,
    /// What it watches.
    pub interfaces: Vec<String>,
    /// The rest first, then the filters in their order.
    pub classes: Vec<Class>,
    /// The ledger, as in the summary.
    pub ledger: serde_json::Value,
}

#[cfg(test)]
mod tests;
