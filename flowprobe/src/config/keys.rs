//! The keys that a file may have: the long options of the commands.

use std::{any::TypeId, num::NonZeroU32, time::Duration};

use clap::{
    Arg, ArgAction, Command, CommandFactory as _,
    builder::Resettable,
    error::{ContextKind, ContextValue},
};

use crate::{
    cli::{Cli, Ports},
    export::{Group, NamedTemplate, TemplateName},
    ipfix::Fields,
    nearest::nearest,
    sampling::{SampleKey, Sampling},
};

/// The option that names the file; it cannot stand in one.
pub(super) const CONFIG: &str = "config";

/// A command whose options a file may have.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Of {
    /// `flowprobe run`.
    Run,
    /// `flowprobe pcap`.
    Pcap,
}

impl Of {
    /// All of them.
    pub const ALL: [Self; 2] = [Self::Run, Self::Pcap];

    /// Its name on the command line.
    #[must_use]
    pub fn name(self) -> &'static str {
        match self {
            Self::Run => "run",
            Self::Pcap => "pcap",
        }
    }

    /// The command of this name.
    pub(super) fn named(name: &str) -> Option<Self> {
        Self::ALL.into_iter().find(|of| of.name() == name)
    }

    /// Its options.
    pub(super) fn command(self) -> Command {
        let cli = Cli::command();
        let found = cli.find_subcommand(self.name());
        found.expect("commands have these names").clone()
    }
}

/// What is written behind a key.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Kind {
    Switch,
    Integer,
    Seconds,
    /// A port, several, or text as the option has it.
    Ports,
    /// Names with commas between them, or a list.
    Names,
    /// A rate, or just its N.
    Rate,
    /// Text, or a table of its words.
    Words(&'static Form),
    Text,
}

/// A table that stands for a value of several words.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Form {
    /// Its keys, in the order of the words.
    pub(super) parts: &'static [Part],
    /// What is between the words.
    pub(super) between: &'static str,
    /// What it is, for a message.
    wanted: &'static str,
}

/// A key of such a table.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Part {
    pub(super) name: &'static str,
    /// What its words begin with in the option's value.
    pub(super) prefix: &'static str,
    pub(super) kind: PartKind,
    /// Whether the message is clearer if the option does not get to judge a value without it.
    pub(super) needed: bool,
}

/// What is written behind such a key.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum PartKind {
    Word,
    Number,
    /// A list.
    Words,
    /// The name of a template.
    Name,
    /// Elements, in a list or with commas between them: one word.
    Fields,
}

impl PartKind {
    /// Whether this word is not what is wrong with the value.
    pub(super) fn takes(self, word: &str) -> bool {
        match self {
            Self::Name => word.parse::<TemplateName>().is_ok(),
            Self::Fields => word.parse::<Fields>().is_ok(),
            Self::Word | Self::Number | Self::Words => true,
        }
    }
}

/// A group of collectors.
const GROUP: &Form = &Form {
    parts: &[
        Part {
            name: "mode",
            prefix: "",
            kind: PartKind::Word,
            needed: false,
        },
        Part {
            name: "hold-down",
            prefix: "hold-down=",
            kind: PartKind::Number,
            needed: false,
        },
        Part {
            name: "collectors",
            prefix: "",
            kind: PartKind::Words,
            needed: false,
        },
    ],
    between: " ",
    wanted: "tables, [[group]] with mode and collectors, or text in quotes",
};

/// A template.
const TEMPLATE: &Form = &Form {
    parts: &[
        Part {
            name: "name",
            prefix: "",
            kind: PartKind::Name,
            needed: true,
        },
        Part {
            name: "fields",
            prefix: "",
            kind: PartKind::Fields,
            needed: true,
        },
    ],
    between: "=",
    wanted: "tables, [[template]] with name and fields, or text in quotes",
};

impl Kind {
    pub(super) fn of(option: &Arg) -> Self {
        let kind = option.get_value_parser().type_id();
        let is = |types: &[TypeId]| types.iter().any(|one| kind == *one);
        let integers = [
            TypeId::of::<u16>(),
            TypeId::of::<u32>(),
            TypeId::of::<u64>(),
            TypeId::of::<NonZeroU32>(),
        ];
        match () {
            () if is(&[TypeId::of::<bool>()]) => Self::Switch,
            () if is(&integers) => Self::Integer,
            () if is(&[TypeId::of::<Duration>()]) => Self::Seconds,
            () if is(&[TypeId::of::<Ports>()]) => Self::Ports,
            () if is(&[TypeId::of::<Sampling>()]) => Self::Rate,
            () if is(&[TypeId::of::<Fields>()]) => Self::Names,
            () if is(&[TypeId::of::<Group>()]) => Self::Words(GROUP),
            () if is(&[TypeId::of::<NamedTemplate>()]) => Self::Words(TEMPLATE),
            () => Self::Text,
        }
    }

    /// What it takes, for a message.
    pub(super) fn wanted(self, many: bool) -> &'static str {
        match self {
            Self::Switch => "true or false",
            Self::Integer => "a whole number, without quotes",
            Self::Seconds => "a number of seconds, without quotes",
            Self::Ports => "a port or a list of ports, for example [4789, 8472]",
            Self::Names => "a list of names in quotes",
            Self::Rate => "a number, or a rate in quotes",
            Self::Words(form) => form.wanted,
            Self::Text if many => "text in quotes, or a list of it: [\"…\", \"…\"]",
            Self::Text => "text in quotes",
        }
    }
}

/// Whether an option may be given several times.
pub(super) fn many(option: &Arg) -> bool {
    matches!(option.get_action(), ArgAction::Append)
}

/// Whether an option's value must not be shown.
pub(super) fn secret(option: &Arg) -> bool {
    option.get_value_parser().type_id() == TypeId::of::<SampleKey>()
}

/// What an option says to a value that it does not take.
pub(super) fn refusal(option: &Arg, value: &str) -> Option<String> {
    let alone = option
        .clone()
        .required(false)
        .conflicts_with(Resettable::Reset);
    let argument = format!("--{}={value}", option.get_long()?);
    let mut command = Command::new("flowprobe").no_binary_name(true).arg(alone);
    let error = command.try_get_matches_from_mut([argument]).err()?;
    if let Some(source) = std::error::Error::source(&error) {
        return Some(source.to_string());
    }
    match error.get(ContextKind::ValidValue) {
        Some(ContextValue::Strings(valid)) if !valid.is_empty() => {
            Some(format!("give one of {}", valid.join(", ")))
        }
        _ if value.is_empty() => Some("it is empty".to_owned()),
        // None of the parsers that options have comes here.
        _ => Some("the option does not take this".to_owned()),
    }
}

/// A key, with the option of each command that has it.
#[derive(Clone, Debug)]
pub(super) struct Key {
    pub(super) name: String,
    pub(super) options: Vec<(Of, Arg)>,
}

impl Key {
    /// Any of its options, where they have to be alike.
    pub(super) fn option(&self) -> &Arg {
        &self.options[0].1
    }

    /// The same options under another name, which messages have: that of a part.
    pub(super) fn called(&self, name: String) -> Self {
        Self {
            name,
            options: self.options.clone(),
        }
    }

    /// The option of this command.
    pub(super) fn option_of(&self, of: Of) -> Option<&Arg> {
        let option = self.options.iter().find(|(one, _)| *one == of);
        option.map(|(_, option)| option)
    }
}

/// All keys, in the order of the help.
#[derive(Clone, Debug)]
pub(super) struct Keys(pub(super) Vec<Key>);

impl Keys {
    /// Those of all commands.
    pub(super) fn all() -> Self {
        let mut keys: Vec<Key> = Vec::new();
        for of in Of::ALL {
            for option in of.command().get_arguments() {
                let Some(name) = option.get_long().filter(|name| *name != CONFIG) else {
                    continue;
                };
                let option = (of, option.clone());
                match keys.iter_mut().find(|key| key.name == name) {
                    Some(key) => key.options.push(option),
                    None => keys.push(Key {
                        name: name.to_owned(),
                        options: vec![option],
                    }),
                }
            }
        }
        Self(keys)
    }

    /// The key of this name.
    pub(super) fn find(&self, name: &str) -> Option<&Key> {
        self.0.iter().find(|key| key.name == name)
    }

    /// The name that may have been meant.
    pub(super) fn nearest(&self, name: &str) -> Option<String> {
        let names = self.0.iter().map(|key| key.name.as_str());
        nearest(name, names).map(ToOwned::to_owned)
    }
}
