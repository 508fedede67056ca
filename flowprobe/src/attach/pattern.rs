//! Which interfaces are wanted: a name, or a shell pattern for the names of some.

use std::{fmt, str::FromStr};

/// A name of an interface, or a pattern with `*`, `?` or `[...]` for many.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Pattern {
    text: String,
    /// None for a plain name.
    parts: Option<Vec<Part>>,
}

/// What one or more characters of a name have to be.
#[derive(Clone, Debug, PartialEq, Eq)]
enum Part {
    /// This one.
    Is(char),
    /// Any one.
    One,
    /// Any, and any number of them.
    Many,
    /// One of these ranges, or none of them.
    Set {
        ranges: Vec<(char, char)>,
        within: bool,
    },
}

/// What is no pattern.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum PatternError {
    /// Nothing.
    #[error("give the name of an interface, or a pattern such as 'veth*'")]
    Empty,
    /// A set without an end.
    #[error("the [ has no ] behind it: give the characters in between, as in 'eth[0-3]'")]
    Open,
}

impl Pattern {
    /// Whether it is the name of one interface, and no pattern.
    #[must_use]
    pub fn is_plain(&self) -> bool {
        self.parts.is_none()
    }

    /// As the user wrote it.
    #[must_use]
    pub fn as_str(&self) -> &str {
        &self.text
    }

    /// Whether an interface of this name is wanted.
    #[must_use]
    pub fn matches(&self, name: &str) -> bool {
        let Some(parts) = &self.parts else {
            return self.text == name;
        };
        let name: Vec<char> = name.chars().collect();
        let (mut part, mut at) = (0, 0);
        // The last `*`, and where what it stands for ends so far: to go back further is of no use,
        // since any earlier `*` could only take what this one can.
        let mut last = None;
        while at < name.len() {
            match parts.get(part) {
                Some(Part::Many) => {
                    part += 1;
                    last = Some((part, at));
                }
                Some(one) if one.is(name[at]) => {
                    part += 1;
                    at += 1;
                }
                _ => match &mut last {
                    Some((behind, end)) => {
                        *end += 1;
                        (part, at) = (*behind, *end);
                    }
                    None => return false,
                },
            }
        }
        parts[part..].iter().all(|part| *part == Part::Many)
    }
}

impl Part {
    /// Whether one character is as this says.
    fn is(&self, c: char) -> bool {
        match self {
            Self::Is(wanted) => *wanted == c,
            Self::One => true,
            Self::Many => false,
            Self::Set { ranges, within } => {
                ranges.iter().any(|(from, to)| (*from..=*to).contains(&c)) == *within
            }
        }
    }
}

impl FromStr for Pattern {
    type Err = PatternError;

    fn from_str(text: &str) -> Result<Self, PatternError> {
        if text.is_empty() {
            return Err(PatternError::Empty);
        }
        let mut parts = Vec::new();
        let mut rest: Vec<char> = text.chars().rev().collect();
        while let Some(c) = rest.pop() {
            parts.push(match c {
                '*' => Part::Many,
                '?' => Part::One,
                '[' => set(&mut rest)?,
                c => Part::Is(c),
            });
        }
        let is_plain = parts.iter().all(|part| matches!(part, Part::Is(_)));
        Ok(Self {
            text: text.to_owned(),
            parts: (!is_plain).then_some(parts),
        })
    }
}

/// What stands behind a `[`; the next character is the last of `rest`. As in shells, a `]` that comes
/// first is one of the set, and so is a `-` at either end.
fn set(rest: &mut Vec<char>) -> Result<Part, PatternError> {
    let within = rest.pop_if(|c| matches!(c, '!' | '^')).is_none();
    let mut ranges = Vec::new();
    loop {
        let from = match rest.pop().ok_or(PatternError::Open)? {
            ']' if !ranges.is_empty() => return Ok(Part::Set { ranges, within }),
            from => from,
        };
        let to = match rest[..] {
            [.., to, '-'] if to != ']' => {
                rest.truncate(rest.len() - 2);
                to
            }
            _ => from,
        };
        ranges.push((from, to));
    }
}

impl fmt::Display for Pattern {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.text)
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn pattern(text: &str) -> Pattern {
        text.parse().expect(text)
    }

    #[test]
    fn a_plain_name_is_itself_only() {
        assert!(pattern("eth0").is_plain() && pattern("eth0").matches("eth0"));
        for other in ["eth00", "eth", "", "Eth0"] {
            assert!(!pattern("eth0").matches(other), "{other}");
        }
    }

    #[test]
    fn patterns_are_those_of_shells() {
        for (text, of, not_of) in [
            (
                "veth*",
                &["veth", "veth0", "veth1a"][..],
                &["vet", "xveth0"][..],
            ),
            ("*", &["lo", "eth0"], &[]),
            ("*0", &["eth0", "0", "00", "e010"], &["eth1", "01"]),
            ("e*h*0", &["eth0", "ehh0", "eh00"], &["eth1", "th0", "e0"]),
            ("eth?", &["eth0", "ethx"], &["eth", "eth10"]),
            ("eth[0-35]", &["eth0", "eth3", "eth5"], &["eth4", "eth"]),
            ("eth[!0-3]", &["eth4", "ethx"], &["eth0", "eth"]),
            ("eth[^0]", &["eth4"], &["eth0"]),
            ("a[]x]b", &["a]b", "axb"], &["ab", "a[b"]),
            ("a[-x]b", &["a-b", "axb"], &["ayb"]),
            ("a[x-]b", &["a-b", "axb"], &["ayb"]),
            ("br-??*", &["br-12", "br-123"], &["br-1"]),
        ] {
            assert!(!pattern(text).is_plain(), "{text}");
            for name in of {
                assert!(pattern(text).matches(name), "{text} {name}");
            }
            for name in not_of {
                assert!(!pattern(text).matches(name), "{text} {name}");
            }
        }
    }

    #[test]
    fn what_is_no_pattern_is_refused() {
        for (text, error) in [
            ("", PatternError::Empty),
            ("eth[", PatternError::Open),
            ("eth[]", PatternError::Open),
            ("eth[0-", PatternError::Open),
            ("eth[!", PatternError::Open),
        ] {
            assert_eq!(text.parse::<Pattern>(), Err(error), "{text}");
        }
    }

    /// The plain definition, which tries everything.
    fn slow(parts: &[Part], name: &[char]) -> bool {
        match parts {
            [] => name.is_empty(),
            [Part::Many, rest @ ..] => (0..=name.len()).any(|end| slow(rest, &name[end..])),
            [one, rest @ ..] => name.first().is_some_and(|c| one.is(*c)) && slow(rest, &name[1..]),
        }
    }

    proptest! {
        #[test]
        fn matching_is_as_by_trying_everything(text in "[ab*?]{1,8}", name in "[ab]{0,8}") {
            let pattern = pattern(&text);
            let chars: Vec<char> = name.chars().collect();
            let expected = match &pattern.parts {
                Some(parts) => slow(parts, &chars),
                None => text == name,
            };
            prop_assert_eq!(pattern.matches(&name), expected);
        }
    }
}
