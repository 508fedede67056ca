//! One `--sample` argument, and the classes that all of them make.

use std::{fmt, str::FromStr};

use super::{Filter, FilterError, Sampling, SamplingError};
use crate::adaptive::{Budget, BudgetError};

/// Filters of a run at most: with the rest they are 32 classes.
pub const MAX_FILTERS: usize = 31;

/// How a class of packets is sampled.
#[derive(Clone, Copy, Debug, PartialEq)]
pub enum Rate {
    /// At a rate that stays until somebody changes it.
    Fixed(Sampling),
    /// At the rate that keeps the cost within a budget.
    Auto(Budget),
}

/// A rate, and the packets that it is for.
#[derive(Clone, Debug, PartialEq)]
pub struct Rated {
    /// Which packets; all others without one.
    pub filter: Option<Filter>,
    /// How they are sampled.
    pub rate: Rate,
}

/// Why a `--sample` does not parse.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum RatedError {
    /// What stands before the `=`.
    #[error(transparent)]
    Filter(#[from] FilterError),
    /// What stands behind it.
    #[error(transparent)]
    Rate(#[from] SamplingError),
    /// A budget.
    #[error(transparent)]
    Budget(#[from] BudgetError),
    /// A filter alone.
    #[error("{0:?} has a filter but no rate: write for example \"{0} = 1/100\"")]
    NoRate(String),
}

/// Why the classes do not go together.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum ClassesError {
    /// Two rates for the rest.
    #[error(
        "--sample {0} and --sample {1} are both without a filter: one rate is for all packets that \
         no filter matches"
    )]
    TwoRests(String, String),
    /// A filter twice.
    #[error("--sample has the filter \"{0}\" twice: the second one would never match")]
    Twice(String),
    /// More than the kernel half keeps.
    #[error("--sample has {0} filters: at most {MAX_FILTERS} are possible")]
    TooMany(usize),
    /// A budget is for everything.
    #[error("--sample {0} is for all packets: a budget cannot have a filter, or stand beside one")]
    AutoBesides(String),
}

impl Rate {
    /// Whether it begins as a budget does.
    fn is_auto(text: &str) -> bool {
        text == "auto" || text.starts_with("auto:")
    }
}

impl FromStr for Rate {
    type Err = RatedError;

    fn from_str(text: &str) -> Result<Self, RatedError> {
        if Self::is_auto(text) {
            Ok(Self::Auto(text.parse()?))
        } else {
            Ok(Self::Fixed(text.parse()?))
        }
    }
}

impl fmt::Display for Rate {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Fixed(sampling) => write!(f, "{sampling}"),
            Self::Auto(budget) => write!(f, "{budget}"),
        }
    }
}

impl FromStr for Rated {
    type Err = RatedError;

    fn from_str(text: &str) -> Result<Self, RatedError> {
        // A budget has a `=` of its own, an interface's name may have one.
        let before_budget = text.find("auto:").unwrap_or(text.len());
        let (filter, rate) = match text[..before_budget].rfind('=') {
            Some(at) => (Some(text[..at].parse()?), text[at + 1..].trim()),
            None => (None, text.trim()),
        };
        // A filter has no slash but that of a prefix, and a rate has no blank.
        if filter.is_none() && rate.contains(char::is_whitespace) && rate.parse::<Filter>().is_ok()
        {
            return Err(RatedError::NoRate(rate.to_owned()));
        }
        Ok(Self {
            filter,
            rate: rate.parse()?,
        })
    }
}

impl fmt::Display for Rated {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match &self.filter {
            Some(filter) => write!(f, "{filter} = {}", self.rate),
            None => write!(f, "{}", self.rate),
        }
    }
}

/// The classes that these make: first the rest, then each filter in the order given, of which the
/// first that matches a packet has it. The rest is metered whole unless a rate says otherwise.
///
/// # Errors
/// What does not go together.
pub fn classes(rated: &[Rated]) -> Result<Vec<Rated>, ClassesError> {
    let mut rest: Option<&Rated> = None;
    let mut filters: Vec<Rated> = Vec::new();
    for one in rated {
        let budget = matches!(one.rate, Rate::Auto(_));
        if budget && (one.filter.is_some() || rated.len() > 1) {
            return Err(ClassesError::AutoBesides(one.to_string()));
        }
        match (&one.filter, rest) {
            (None, None) => rest = Some(one),
            (None, Some(first)) => {
                return Err(ClassesError::TwoRests(first.to_string(), one.to_string()));
            }
            (Some(filter), _) => {
                if filters.iter().any(|class| class.filter == one.filter) {
                    return Err(ClassesError::Twice(filter.to_string()));
                }
                filters.push(one.clone());
            }
        }
    }
    if filters.len() > MAX_FILTERS {
        return Err(ClassesError::TooMany(filters.len()));
    }
    let rest = Rated {
        filter: None,
        rate: rest.map_or(Rate::Fixed(Sampling::All), |rest| rest.rate),
    };
    filters.insert(0, rest);
    Ok(filters)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn rated(texts: &[&str]) -> Vec<Rated> {
        let parse = |text: &&str| {
            text.parse()
                .unwrap_or_else(|error| panic!("{text}: {error}"))
        };
        texts.iter().map(parse).collect()
    }

    #[test]
    fn arguments_read_back() {
        for text in [
            "1/1000",
            "udp port 53 = 1/1",
            "net 10.0.0.0/8 = random:1/100",
            "interface eth0 = time:100/900",
            "auto:cpu=5%",
            "udp = auto:flows=10",
        ] {
            assert_eq!(rated(&[text])[0].to_string(), text);
        }
        assert_eq!(rated(&["udp port 53=1/2"]), rated(&["udp port 53 = 1/2"]));
    }

    #[test]
    fn arguments_that_are_none_say_why() {
        for (text, part) in [
            ("udp port 53", "has a filter but no rate"),
            ("udp port 53 = ", "sampling is written"),
            ("= 1/2", "empty"),
            ("udp prot 53 = 1/2", "\"prot\""),
            ("1/0", "would select nothing"),
            ("udp = hash:0/4", "hash values is empty"),
            ("auto", "auto:cpu=5%"),
        ] {
            let error = text.parse::<Rated>().expect_err(text).to_string();
            assert!(error.contains(part), "{text}: {error}");
        }
    }

    #[test]
    fn the_rest_comes_first_and_the_filters_in_order() {
        let classes = classes(&rated(&["udp port 53 = 1/1", "1/1000", "tcp = 1/10"]));
        let names: Vec<_> = classes
            .expect("classes")
            .iter()
            .map(|class| (class.filter.as_ref().map(Filter::to_string), class.rate))
            .collect();
        let fixed = |text: &str| Rate::Fixed(text.parse().expect("a rate"));
        assert_eq!(
            names,
            [
                (None, fixed("1/1000")),
                (Some("udp port 53".to_owned()), fixed("1/1")),
                (Some("tcp".to_owned()), fixed("1/10")),
            ]
        );
    }

    #[test]
    fn nothing_asked_is_everything_metered() {
        let rest = Rated {
            filter: None,
            rate: Rate::Fixed(Sampling::All),
        };
        assert_eq!(classes(&[]), Ok(vec![rest]));
    }

    #[test]
    fn classes_that_do_not_go_together_say_so() {
        let many: Vec<_> = (1..=32).map(|port| format!("port {port} = 1/2")).collect();
        let many: Vec<_> = many.iter().map(String::as_str).collect();
        assert_eq!(classes(&rated(&many)), Err(ClassesError::TooMany(32)));
        assert_eq!(classes(&rated(&many[1..])).map(|all| all.len()), Ok(32));
        for texts in [
            &["1/2", "1/3"][..],
            &["udp and port 53 = 1/2", "port 53 udp = 1/3"],
            &["auto:cpu=5%", "udp = 1/2"],
            &["udp = 1/2", "auto:cpu=5%"],
            &["udp = auto:cpu=5%"],
        ] {
            let error = classes(&rated(texts)).expect_err("refused");
            assert!(error.to_string().contains("--sample"), "{error}");
        }
    }
}
