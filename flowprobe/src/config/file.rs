//! From a text in TOML to settings, each judged by its option.

use std::{
    fs,
    io::Read as _,
    path::{Path, PathBuf},
};

use toml::{
    Spanned,
    de::{DeTable, DeValue},
};

use super::{
    Error, Errors, Place, Problem,
    error::Span,
    keys::{Form, Key, Keys, Kind, PartKind, many, refusal},
};
use crate::nearest::nearest;

/// A file of this length has every key, and a thousand collectors. What is longer is none.
pub(super) const MAX_OCTETS: u64 = 1 << 20;

/// A file that is right as far as each key goes.
#[derive(Clone, Debug)]
pub struct File {
    /// Its name.
    pub path: PathBuf,
    /// In the order of the file.
    pub settings: Vec<Setting>,
}

/// A key and its values.
#[derive(Clone, Debug)]
pub struct Setting {
    /// The key.
    pub key: String,
    /// Where the key stands.
    pub place: Place,
    /// What it is set to.
    pub item: Item,
    /// Where each of its values stands, in the order of the item.
    pub values: Vec<Place>,
}

/// What a key is set to.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Item {
    /// A switch.
    Switch(bool),
    /// Values as the option takes them; several where it may be given several times.
    Values(Vec<String>),
}

impl File {
    /// Reads a file.
    ///
    /// # Errors
    /// All that is wrong with it.
    pub fn read(path: &Path) -> Result<Self, Errors> {
        let fail = |place, problem| {
            let file = path.to_owned();
            Errors(vec![Error {
                file,
                place,
                problem,
            }])
        };
        let mut octets = Vec::new();
        let read = fs::File::open(path)
            .and_then(|file| file.take(MAX_OCTETS + 1).read_to_end(&mut octets));
        read.map_err(|error| fail(None, error.into()))?;
        if octets.len() as u64 > MAX_OCTETS {
            return Err(fail(None, Problem::TooLong));
        }
        let text = String::from_utf8(octets).map_err(|error| {
            let good = error.utf8_error().valid_up_to();
            let before = String::from_utf8_lossy(&error.as_bytes()[..good]);
            fail(Some(Place::of(&before, good)), Problem::NotText)
        })?;
        Self::parse(path, &text)
    }

    /// Reads the text of a file.
    ///
    /// # Errors
    /// All that is wrong with it.
    pub fn parse(path: &Path, text: &str) -> Result<Self, Errors> {
        let mut reader = Reader {
            keys: Keys::all(),
            problems: Vec::new(),
        };
        let (table, errors) = DeTable::parse_recoverable(text);
        for error in &errors {
            let words: Vec<_> = error.message().split_whitespace().collect();
            let mut message = words.join(" ");
            let at = error.span().unwrap_or(0..0);
            if message == "duplicate key" {
                message = format!("{message} \"{}\"", &text[at.clone()]);
            }
            reader.problems.push((at, Problem::Toml(message)));
        }
        // What is not TOML would be guessed at.
        let mut found = Vec::new();
        if errors.is_empty() {
            found = reader.table(table.get_ref());
            reader.refuse_together(&found);
        }
        if reader.problems.is_empty() {
            let place = |at: &Span| Place::of(text, at.start);
            let settings = found.into_iter().map(|found| Setting {
                key: found.key.name,
                place: place(&found.at),
                item: found.item,
                values: found.values.iter().map(place).collect(),
            });
            return Ok(Self {
                path: path.to_owned(),
                settings: settings.collect(),
            });
        }
        reader.problems.sort_by_key(|(at, _)| at.start);
        let errors = reader.problems.into_iter().map(|(at, problem)| Error {
            file: path.to_owned(),
            place: Some(Place::of(text, at.start)),
            problem,
        });
        Err(Errors(errors.collect()))
    }
}

/// A key that is right, and where it stands.
struct Found {
    at: Span,
    key: Key,
    item: Item,
    /// Where each value stands.
    values: Vec<Span>,
}

/// A part of a table, as the option has it.
struct Word {
    key: String,
    kind: PartKind,
    text: String,
    at: Span,
}

/// Goes through the keys of a file, and notes all that is wrong.
struct Reader {
    keys: Keys,
    problems: Vec<(Span, Problem)>,
}

impl Reader {
    fn table(&mut self, table: &DeTable<'_>) -> Vec<Found> {
        let mut found = Vec::new();
        for (name, value) in table {
            let key = self.keys.find(name.get_ref()).cloned();
            let Some(key) = key else {
                let nearest = self.keys.nearest(name.get_ref());
                let key = name.get_ref().clone().into_owned();
                self.problems
                    .push((name.span(), Problem::Unknown { key, nearest }));
                continue;
            };
            if let Some((item, values)) = self.item(&key, value) {
                found.push(Found {
                    at: name.span(),
                    key,
                    item,
                    values,
                });
            }
        }
        // The parser has them by name.
        found.sort_by_key(|found| found.at.start);
        found
    }

    /// What a key is set to, and where each value of it stands.
    fn item(&mut self, key: &Key, value: &Spanned<DeValue<'_>>) -> Option<(Item, Vec<Span>)> {
        let (kind, many) = (Kind::of(key.option()), many(key.option()));
        let before = self.problems.len();
        let mut values = Vec::new();
        let mut places = vec![value.span()];
        match (kind, value.get_ref()) {
            (Kind::Switch, DeValue::Boolean(on)) => return Some((Item::Switch(*on), places)),
            (_, DeValue::Array(list)) if many => {
                places = list.iter().map(Spanned::span).collect();
                for one in list {
                    values.extend(self.value(key, kind, one, many));
                }
            }
            (Kind::Ports, DeValue::Array(list)) => {
                let ports = list.iter();
                let ports: Option<Vec<_>> = ports
                    .map(|port| self.scalar(key, Kind::Integer, port, false))
                    .collect();
                values.extend(self.judge(key, ports?.join(","), value.span()));
            }
            (Kind::Names, DeValue::Array(list)) => {
                let names = list.iter();
                let names: Option<Vec<_>> = names
                    .map(|name| self.scalar(key, Kind::Text, name, false))
                    .collect();
                values.extend(self.judge(key, names?.join(","), value.span()));
            }
            _ => values.extend(self.value(key, kind, value, many)),
        }
        (self.problems.len() == before).then_some((Item::Values(values), places))
    }

    /// One value, in the form of the option, if the option takes it.
    fn value(
        &mut self,
        key: &Key,
        kind: Kind,
        value: &Spanned<DeValue<'_>>,
        many: bool,
    ) -> Option<String> {
        if let (Kind::Words(form), DeValue::Table(table)) = (kind, value.get_ref()) {
            let words = self.words(key, form, table, value.span())?;
            let texts: Vec<_> = words.iter().map(|word| word.text.as_str()).collect();
            let text = texts.join(form.between);
            // The option says what is wrong with them; they know where it is.
            let wrong = words.into_iter().find(|word| !word.kind.takes(&word.text));
            let (name, at) = match wrong {
                Some(word) => (word.key, word.at),
                None => (key.name.clone(), value.span()),
            };
            return self.judge(&key.called(name), text, at);
        }
        let text = self.scalar(key, kind, value, many)?;
        self.judge(key, text, value.span())
    }

    /// The words of a table, in the order in which the option has them.
    fn words(
        &mut self,
        key: &Key,
        form: &Form,
        table: &DeTable<'_>,
        at: Span,
    ) -> Option<Vec<Word>> {
        let parts = form.parts;
        let before = self.problems.len();
        for (name, _) in table {
            if !parts.iter().any(|part| part.name == name.get_ref()) {
                let known = parts.iter().map(|part| part.name);
                let nearest = nearest(name.get_ref(), known).map(ToOwned::to_owned);
                let key = name.get_ref().clone().into_owned();
                self.problems
                    .push((name.span(), Problem::Unknown { key, nearest }));
            }
        }
        let mut words = Vec::new();
        for part in parts {
            let Some(value) = table.get(part.name) else {
                if part.needed {
                    let (key, part) = (key.name.clone(), part.name);
                    self.problems
                        .push((at.clone(), Problem::Missing { key, part }));
                }
                continue;
            };
            let kind = match part.kind {
                PartKind::Number => Kind::Seconds,
                PartKind::Fields => Kind::Names,
                PartKind::Word | PartKind::Words | PartKind::Name => Kind::Text,
            };
            let of_part = key.called(format!("{}.{}", key.name, part.name));
            let mut scalar = |kind, value| self.scalar(&of_part, kind, value, false);
            let texts: Vec<_> = match (part.kind, value.get_ref()) {
                (PartKind::Words, DeValue::Array(list)) => {
                    list.iter().map(|value| scalar(kind, value)).collect()
                }
                (PartKind::Fields, DeValue::Array(list)) => {
                    let names: Option<Vec<_>> =
                        list.iter().map(|value| scalar(Kind::Text, value)).collect();
                    vec![names.map(|names| names.join(","))]
                }
                _ => vec![scalar(kind, value)],
            };
            words.extend(texts.into_iter().flatten().map(|text| Word {
                key: of_part.name.clone(),
                kind: part.kind,
                text: format!("{}{text}", part.prefix),
                at: value.span(),
            }));
        }
        (self.problems.len() == before).then_some(words)
    }

    /// One value, in the form of the option, if it is of the right type.
    fn scalar(
        &mut self,
        key: &Key,
        kind: Kind,
        value: &Spanned<DeValue<'_>>,
        many: bool,
    ) -> Option<String> {
        use Kind::{Integer, Names, Ports, Rate, Seconds, Text, Words};
        match (kind, value.get_ref()) {
            (Text | Ports | Names | Rate | Words(_), DeValue::String(text)) => {
                Some(text.clone().into_owned())
            }
            (Integer | Seconds | Ports | Rate, DeValue::Integer(number)) => {
                match i64::from_str_radix(number.as_str(), number.radix()) {
                    Ok(number) => Some(number.to_string()),
                    // Too large for any option, which says so itself.
                    Err(_) => Some(number.as_str().to_owned()),
                }
            }
            (Seconds, DeValue::Float(number)) => Some(number.as_str().to_owned()),
            (_, other) => {
                let problem = Problem::Type {
                    key: key.name.clone(),
                    wanted: kind.wanted(many),
                    found: described(other),
                };
                self.problems.push((value.span(), problem));
                None
            }
        }
    }

    /// Asks the options of all commands that have this key.
    fn judge(&mut self, key: &Key, text: String, at: Span) -> Option<String> {
        let options = key.options.iter();
        let refusal = options
            .filter_map(|(_, option)| refusal(option, &text))
            .next();
        let Some(why) = refusal else {
            return Some(text);
        };
        let key = key.name.clone();
        self.problems.push((at, Problem::Value { key, why }));
        None
    }

    /// Notes keys that exclude each other, at the later one.
    fn refuse_together(&mut self, found: &[Found]) {
        let set: Vec<_> = found
            .iter()
            .filter(|found| !found.item.is_unset())
            .collect();
        for (i, later) in set.iter().enumerate() {
            for earlier in &set[..i] {
                if exclude(&later.key, &earlier.key) {
                    let (key, other) = (later.key.name.clone(), earlier.key.name.clone());
                    self.problems
                        .push((later.at.clone(), Problem::Together { key, other }));
                }
            }
        }
    }
}

impl Item {
    /// Whether it leaves everything as it is without it.
    pub(super) fn is_unset(&self) -> bool {
        match self {
            Self::Switch(on) => !on,
            Self::Values(values) => values.is_empty(),
        }
    }
}

/// Whether these options exclude each other.
pub(super) fn exclude(one: &Key, other: &Key) -> bool {
    one.options.iter().any(|(of, option)| {
        let command = of.command();
        let declared = |a: &clap::Arg, b: &clap::Arg| {
            let conflicts = command.get_arg_conflicts_with(a);
            conflicts.iter().any(|found| found.get_id() == b.get_id())
        };
        other
            .option_of(*of)
            .is_some_and(|other| declared(option, other) || declared(other, option))
    })
}

fn described(value: &DeValue<'_>) -> &'static str {
    match value {
        DeValue::String(_) => "text",
        DeValue::Integer(_) => "a whole number",
        DeValue::Float(_) => "a number with decimals",
        DeValue::Boolean(_) => "true or false",
        DeValue::Datetime(_) => "a date",
        DeValue::Array(_) => "a list",
        DeValue::Table(_) => "a table",
    }
}
