//! Several collectors that have the flows together, as the user writes it.

use std::{fmt, str::FromStr, time::Duration};

use super::{Collector, CollectorError};

/// How collectors have the flows together.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Mode {
    /// Each of them gets every flow.
    All,
    /// The first one that can be reached gets all flows.
    Failover,
    /// Each gets a part: all flows of a conversation, of both directions, go to the same one.
    Balance,
}

impl Mode {
    /// All of them.
    pub const ALL: [Self; 3] = [Self::All, Self::Failover, Self::Balance];

    /// As the user writes it.
    #[must_use]
    pub fn name(self) -> &'static str {
        match self {
            Self::All => "all",
            Self::Failover => "failover",
            Self::Balance => "balance",
        }
    }
}

/// `MODE [hold-down=SECONDS] URL URL…`.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Group {
    /// How.
    pub mode: Mode,
    /// For how long a collector that has come back has to be there before it gets flows again.
    pub hold_down: Duration,
    /// In the order of preference.
    pub collectors: Vec<Collector>,
}

/// Why it does not parse.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum GroupError {
    /// No mode, or another.
    #[error("a group is written MODE URL URL…, and {0:?} is no mode: all, failover or balance")]
    Mode(String),
    /// Not a time.
    #[error("hold-down={0} is no time in seconds: 0 to 86400")]
    HoldDown(String),
    /// Not a collector.
    #[error("{0}: {1}")]
    Collector(String, CollectorError),
    /// One or none.
    #[error("a group has at least two collectors, and this one has {0}")]
    TooFew(usize),
    /// It would get the same flows twice, or stand in for itself.
    #[error("{0} is in the group twice")]
    Twice(Collector),
}

impl Group {
    /// Where nothing else is said.
    pub const HOLD_DOWN: Duration = Duration::from_secs(30);
}

impl FromStr for Group {
    type Err = GroupError;

    fn from_str(text: &str) -> Result<Self, GroupError> {
        let mut words = text.split_whitespace();
        let mode = words.next().unwrap_or_default();
        let mode = Mode::ALL
            .into_iter()
            .find(|one| one.name() == mode)
            .ok_or_else(|| GroupError::Mode(mode.to_owned()))?;
        let mut group = Self {
            mode,
            hold_down: Self::HOLD_DOWN,
            collectors: Vec::new(),
        };
        for word in words {
            if let Some(seconds) = word.strip_prefix("hold-down=") {
                let wrong = || GroupError::HoldDown(seconds.to_owned());
                let time = seconds.parse::<f64>().ok();
                let time = time.filter(|time| (0.0..=86_400.0).contains(time));
                group.hold_down = Duration::from_secs_f64(time.ok_or_else(wrong)?);
                continue;
            }
            let collector: Collector = word
                .parse()
                .map_err(|error| GroupError::Collector(word.to_owned(), error))?;
            if group.collectors.contains(&collector) {
                return Err(GroupError::Twice(collector));
            }
            group.collectors.push(collector);
        }
        match group.collectors.len() {
            few @ (0 | 1) => Err(GroupError::TooFew(few)),
            _ => Ok(group),
        }
    }
}

impl fmt::Display for Group {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.mode.name())?;
        if self.hold_down != Self::HOLD_DOWN {
            write!(f, " hold-down={}", self.hold_down.as_secs_f64())?;
        }
        for collector in &self.collectors {
            write!(f, " {collector}")?;
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn groups_come_back_as_written() {
        for text in [
            "all udp://a:1 tcp://b:2",
            "failover hold-down=2.5 tcp://a:1 udp://b:2?format=v9 unix:///c",
            "balance udp://[::1]:1 udp://[::1]:2",
        ] {
            let group: Group = text.parse().expect(text);
            assert_eq!(group.to_string(), text);
        }
    }

    #[test]
    fn errors_say_what_is_wrong() {
        for (text, message) in [
            (
                "",
                "a group is written MODE URL URL…, and \"\" is no mode: all, failover or balance",
            ),
            (
                "udp://a",
                "a group is written MODE URL URL…, and \"udp://a\" is no mode: all, failover or balance",
            ),
            (
                "failover",
                "a group has at least two collectors, and this one has 0",
            ),
            (
                "all udp://a",
                "a group has at least two collectors, and this one has 1",
            ),
            ("balance udp://a udp://a", "udp://a is in the group twice"),
            (
                "failover hold-down=-1 udp://a udp://b",
                "hold-down=-1 is no time in seconds: 0 to 86400",
            ),
            (
                "failover udp://a udp://",
                "udp://: the host is missing: write udp://HOST:PORT",
            ),
        ] {
            let error = text.parse::<Group>().expect_err(text);
            assert_eq!(error.to_string(), message);
        }
    }
}
