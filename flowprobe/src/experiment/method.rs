//! The sampling methods that are compared, and the rates.

use std::{fmt, str::FromStr};

use crate::sampling::MAX_RANDOM_N;

/// How packets are selected.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Method {
    /// Systematic count-based (RFC 5475): n packets in a row of each N, from a random phase.
    Count,
    /// Uniform probabilistic (RFC 5475): each packet by itself.
    Random,
    /// Random n-out-of-N (RFC 5475): n packets drawn of each N.
    NofN,
    /// Systematic time-based (RFC 5475): all packets of windows of time.
    Time,
    /// Hash-based (RFC 5475): packets by a keyed hash of what stays the same on their way.
    Hash,
    /// Whole flows by a keyed hash of their key.
    Flow,
}

impl Method {
    /// All of them.
    pub const ALL: [Self; 6] = [
        Self::Count,
        Self::Random,
        Self::NofN,
        Self::Time,
        Self::Hash,
        Self::Flow,
    ];

    /// Its name on the command line and in files.
    #[must_use]
    pub fn name(self) -> &'static str {
        match self {
            Self::Count => "count",
            Self::Random => "random",
            Self::NofN => "nofn",
            Self::Time => "time",
            Self::Hash => "hash",
            Self::Flow => "flow",
        }
    }
}

/// Why a method does not parse.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error(
    "there is no method {name:?}: did you mean {nearest}? There are count, random, nofn, time, \
     hash and flow"
)]
pub struct MethodError {
    name: String,
    nearest: &'static str,
}

impl FromStr for Method {
    type Err = MethodError;

    fn from_str(text: &str) -> Result<Self, MethodError> {
        let name = text.trim();
        if let Some(&method) = Self::ALL.iter().find(|method| method.name() == name) {
            return Ok(method);
        }
        let distance = |method: &Self| distance(method.name(), name);
        let nearest = Self::ALL.into_iter().min_by_key(distance);
        Err(MethodError {
            name: name.to_owned(),
            nearest: nearest.unwrap_or(Self::Count).name(),
        })
    }
}

/// Edits from one word to the other (Levenshtein).
fn distance(a: &str, b: &str) -> usize {
    let mut row: Vec<usize> = (0..=b.chars().count()).collect();
    for (i, x) in a.chars().enumerate() {
        let mut diagonal = row[0];
        row[0] = i + 1;
        for (j, y) in b.chars().enumerate() {
            let replaced = diagonal + usize::from(x != y);
            diagonal = row[j + 1];
            row[j + 1] = replaced.min(diagonal + 1).min(row[j] + 1);
        }
    }
    row.last().copied().unwrap_or(0)
}

/// `n` packets of `of` are selected.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Rate {
    n: u32,
    of: u32,
}

/// Why a rate does not parse.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum RateError {
    /// Not of the form.
    #[error("a rate is a number, as 100 for 1 packet in 100, or n/N, as 5/100")]
    Form,
    /// 0, 1/0 or 0/100.
    #[error("a rate of 0 would select nothing: give 1 or more")]
    Zero,
    /// 100/5.
    #[error("{0}/{1} would select more packets than there are: write {1}/{0}")]
    More(u32, u32),
    /// Beyond [`MAX_RANDOM_N`].
    #[error("that is too rare: give at most {MAX_RANDOM_N}")]
    TooRare,
}

impl Rate {
    /// The share of packets that is selected, 0 to 1.
    #[must_use]
    pub fn share(self) -> f64 {
        f64::from(self.n) / f64::from(self.of)
    }

    /// What a sampled counter is multiplied by.
    #[must_use]
    pub fn scale(self) -> f64 {
        f64::from(self.of) / f64::from(self.n)
    }

    /// Packets that are selected of [`Rate::of`].
    #[must_use]
    pub fn n(self) -> u32 {
        self.n
    }

    /// Packets of which [`Rate::n`] are selected.
    #[must_use]
    pub fn of(self) -> u32 {
        self.of
    }
}

impl FromStr for Rate {
    type Err = RateError;

    fn from_str(text: &str) -> Result<Self, RateError> {
        let number = |text: &str| text.trim().parse::<u32>().map_err(|_| RateError::Form);
        let (n, of) = match text.split_once('/') {
            Some((n, of)) => (number(n)?, number(of)?),
            None => (1, number(text)?),
        };
        match (n, of) {
            (0, _) | (_, 0) => Err(RateError::Zero),
            (n, of) if n > of => Err(RateError::More(n, of)),
            (_, of) if of > MAX_RANDOM_N => Err(RateError::TooRare),
            (n, of) => Ok(Self { n, of }),
        }
    }
}

impl fmt::Display for Rate {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.pad(&format!("{}/{}", self.n, self.of))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn rates_are_one_in_n_or_n_of_n() {
        assert_eq!("100".parse(), Ok(Rate { n: 1, of: 100 }));
        assert_eq!("1/100".parse(), Ok(Rate { n: 1, of: 100 }));
        assert_eq!(" 5/100".parse(), Ok(Rate { n: 5, of: 100 }));
        assert_eq!("7/7".parse(), Ok(Rate { n: 7, of: 7 }));
        let cases = [
            ("", RateError::Form),
            ("x", RateError::Form),
            ("1e3", RateError::Form),
            ("-1", RateError::Form),
            ("1/", RateError::Form),
            ("0", RateError::Zero),
            ("1/0", RateError::Zero),
            ("0/5", RateError::Zero),
            ("6/5", RateError::More(6, 5)),
            ("268435457", RateError::TooRare),
        ];
        for (text, error) in cases {
            assert_eq!(text.parse::<Rate>(), Err(error), "{text}");
        }
    }

    #[test]
    fn unknown_methods_are_told_the_nearest_one() {
        for method in Method::ALL {
            assert_eq!(method.name().parse(), Ok(method));
        }
        for (text, nearest) in [
            ("cuont", "count"),
            ("rnd", "random"),
            ("flows", "flow"),
            ("n-of-n", "nofn"),
            ("Hash", "hash"),
        ] {
            let error = text.parse::<Method>().expect_err(text);
            assert_eq!(error.nearest, nearest, "{text}");
        }
    }
}
