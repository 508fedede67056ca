//! What metering may cost, as a user writes it.

use std::{fmt, num::NonZeroU64, str::FromStr};

/// What metering may cost.
#[derive(Clone, Copy, Debug, PartialEq)]
pub enum Budget {
    /// CPU time of the program, in percent of one CPU, summed over all CPUs as top does: 5 is 50 ms
    /// in each second, and with 8 CPUs there are 800.
    Cpu {
        /// Percent, more than 0.
        percent: f64,
    },
    /// New flow entries a second.
    Flows(NonZeroU64),
    /// Metered packets a second.
    Packets(NonZeroU64),
}

/// More than any machine has CPUs: 4,096 of them.
const MAX_PERCENT: f64 = 409_600.0;

/// Why a budget does not parse.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum BudgetError {
    /// Not of the form.
    #[error(
        "{0:?} is no budget: write auto:cpu=5% (of one CPU, summed over all), auto:flows=10000 \
         (new flows a second) or auto:packets=100000 (metered packets a second)"
    )]
    Form(String),
    /// Something else is to be kept low.
    #[error("{0:?} cannot be budgeted: write auto:cpu=…%, auto:flows=… or auto:packets=…")]
    Unknown(String),
    /// Not a share of a CPU.
    #[error(
        "auto:cpu={0} is no budget: write a percentage of one CPU above 0, for example auto:cpu=5%"
    )]
    Percent(String),
    /// Not a number of things a second.
    #[error("auto:{0}={1} is no budget: write a whole number a second of at least 1")]
    Number(&'static str, String),
}

impl FromStr for Budget {
    type Err = BudgetError;

    fn from_str(text: &str) -> Result<Self, BudgetError> {
        let form = || BudgetError::Form(text.to_owned());
        let (what, limit) = text
            .strip_prefix("auto:")
            .and_then(|rest| rest.split_once('='))
            .ok_or_else(form)?;
        let a_second = |name| {
            limit
                .parse()
                .map_err(|_| BudgetError::Number(name, limit.to_owned()))
        };
        match what {
            "cpu" => limit
                .strip_suffix('%')
                .and_then(|number| number.parse().ok())
                .filter(|percent| *percent > 0.0 && *percent <= MAX_PERCENT)
                .map(|percent| Self::Cpu { percent })
                .ok_or_else(|| BudgetError::Percent(limit.to_owned())),
            "flows" => a_second("flows").map(Self::Flows),
            "packets" => a_second("packets").map(Self::Packets),
            _ => Err(BudgetError::Unknown(what.to_owned())),
        }
    }
}

impl fmt::Display for Budget {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Cpu { percent } => write!(f, "auto:cpu={percent}%"),
            Self::Flows(flows) => write!(f, "auto:flows={flows}"),
            Self::Packets(packets) => write!(f, "auto:packets={packets}"),
        }
    }
}

impl Budget {
    /// The limit in the unit of the load: CPU seconds, flows or packets in a second.
    #[must_use]
    pub fn a_second(self) -> f64 {
        match self {
            Self::Cpu { percent } => percent / 100.0,
            Self::Flows(limit) | Self::Packets(limit) => limit.get() as f64,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn budgets_read_back() {
        for text in [
            "auto:cpu=5%",
            "auto:cpu=0.5%",
            "auto:cpu=250%",
            "auto:flows=10000",
            "auto:packets=100000",
        ] {
            let budget: Budget = text.parse().expect(text);
            assert_eq!(budget.to_string(), text);
        }
        let five: Budget = "auto:cpu=5%".parse().expect("a budget");
        assert_eq!(five.a_second(), 0.05);
    }

    #[test]
    fn bad_budgets_are_named() {
        for (text, part) in [
            ("auto", "\"auto\" is no budget"),
            ("auto:", "\"auto:\" is no budget"),
            ("auto:5%", "is no budget"),
            ("auto:cpu=5", "percentage"),
            ("auto:cpu=0%", "percentage"),
            ("auto:cpu=nan%", "percentage"),
            ("auto:cpu=inf%", "percentage"),
            ("auto:cpu=-1%", "percentage"),
            ("auto:flows=0", "at least 1"),
            ("auto:packets=many", "auto:packets=many"),
            ("auto:bytes=7", "\"bytes\" cannot be budgeted"),
        ] {
            let error = text.parse::<Budget>().expect_err(text).to_string();
            assert!(error.contains(part), "{text}: {error}");
        }
    }
}
