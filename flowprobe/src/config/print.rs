//! Settings as a file: all defaults, or those that are in force.

use std::{ffi::OsString, fmt::Write as _};

use clap::Arg;

use super::{
    CommandLineError, Of,
    check::go_together,
    keys::{Keys, Kind, many, secret},
    merge::{is_given, merge, names_only, without_required},
};

/// Columns of a comment, its mark included.
const WIDTH: usize = 80;

const PREAMBLE: &str = "\
Settings of flowprobe, for `flowprobe run --config FILE` and `flowprobe pcap --config FILE`. A key \
is an option's long name without its dashes. What the command line has wins over this file, and \
this file over the defaults; of an option that may be given several times, the command line's list \
replaces the one here.

Keys that are commented out have no default, or one for each command.";

/// A file with every key, its default and its help.
#[must_use]
pub fn default() -> String {
    let mut text = comment(PREAMBLE);
    for key in Keys::all().0 {
        text.push('\n');
        let same = |(_, option): &(Of, Arg)| described(option) == described(key.option());
        if key.options.iter().all(same) {
            let only = match &key.options[..] {
                [(of, _)] => format!("Of `{}` only.\n\n", of.name()),
                _ => String::new(),
            };
            text += &comment(&format!("{only}{}", help(key.option())));
            text += &assignment(&key.name, key.option());
        } else {
            for (of, option) in &key.options {
                text += &comment(&format!("With `{}`: {}", of.name(), help(option)));
                text += &format!(
                    "# {}",
                    assignment(&key.name, option).trim_start_matches("# ")
                );
            }
        }
    }
    text
}

/// The settings that these options of `flowprobe run` make, or those of the command that is named
/// before them, each with where it comes from.
///
/// # Errors
/// Bad options and files, and --help.
pub fn show(options: &[OsString]) -> Result<String, CommandLineError> {
    let named = options.first().and_then(|word| Of::named(word.to_str()?));
    let options = &options[usize::from(named.is_some())..];
    let of = named.unwrap_or(Of::Run);
    let arguments = [&["flowprobe".into(), of.name().into()], options].concat();
    let given = names_only().try_get_matches_from(&arguments)?;
    let (arguments, origin) = merge(&arguments, &given)?;
    let (settings, cli) = without_required(arguments)?;
    go_together(cli, &origin)?;
    let (_, given) = given.subcommand().expect("it is required");
    let (_, settings) = settings.subcommand().expect("it is required");

    let file = origin.file.clone().unwrap_or_default();
    let mut text = String::new();
    for key in Keys::all().0 {
        let Some(option) = key.option_of(of) else {
            continue;
        };
        let from = match (is_given(&key, of, given), origin.setting(&key.name)) {
            (true, _) => "flag".to_owned(),
            (false, Some(setting)) => {
                format!("{}:{}", file.display(), setting.place.line)
            }
            (false, None) => "default".to_owned(),
        };
        let id = option.get_id().as_str();
        let raw = settings.get_raw(id).into_iter().flatten();
        let values: Vec<_> = raw
            .map(|value| value.to_string_lossy().into_owned())
            .collect();
        let line = match &values[..] {
            [] => format!("# {} is not set", key.name),
            _ if secret(option) => format!("# {} is set, and not shown", key.name),
            values => format!("{} = {}", key.name, literal(option, values)),
        };
        let _ = writeln!(text, "{line:<38}  # {from}");
    }
    for setting in &origin.idle {
        let (line, key) = (setting.place.line, &setting.key);
        let idle = format!("# {key} does nothing with `{}`", of.name());
        let _ = writeln!(text, "{idle:<38}  # {}:{line}", file.display());
    }
    Ok(text)
}

/// What is said of an option in a file.
fn described(option: &Arg) -> (String, Vec<String>) {
    (help(option), defaults(option))
}

/// Help text, with the values that are possible.
fn help(option: &Arg) -> String {
    let help = option.get_long_help().or(option.get_help());
    let mut help = help.map(ToString::to_string).unwrap_or_default();
    let values = option.get_possible_values();
    let values: Vec<_> = values
        .iter()
        .map(clap::builder::PossibleValue::get_name)
        .collect();
    if !values.is_empty() && Kind::of(option) != Kind::Switch {
        let _ = write!(help, "\n\nOne of: {}", values.join(", "));
    }
    help
}

fn defaults(option: &Arg) -> Vec<String> {
    if Kind::of(option) == Kind::Switch {
        return vec!["false".to_owned()];
    }
    let values = option.get_default_values().iter();
    values
        .map(|value| value.to_string_lossy().into_owned())
        .collect()
}

/// A line that sets the option to its default, or a comment with what it may be set to.
fn assignment(name: &str, option: &Arg) -> String {
    let defaults = defaults(option);
    if !defaults.is_empty() {
        return format!("{name} = {}\n", literal(option, &defaults));
    }
    let names = option.get_value_names().unwrap_or_default();
    let example = names.first().map_or("VALUE", |name| name.as_str());
    let example = match Kind::of(option) {
        Kind::Integer | Kind::Seconds => example.to_owned(),
        _ if many(option) => format!("[{}]", quoted(example)),
        _ => quoted(example),
    };
    format!("# {name} = {example}\n")
}

/// These values of an option, in TOML.
fn literal(option: &Arg, values: &[String]) -> String {
    let kind = Kind::of(option);
    let each = |value: &String| {
        let digits = |text: &str| !text.is_empty() && text.bytes().all(|c| c.is_ascii_digit());
        match (kind, value.parse::<f64>()) {
            (Kind::Switch, _) => value.clone(),
            (Kind::Integer | Kind::Seconds, Ok(number)) => number.to_string(),
            (Kind::Ports | Kind::Rate, Ok(number)) if digits(value) => number.to_string(),
            (Kind::Ports, _) => format!("[{}]", value.replace(' ', "").replace(',', ", ")),
            (Kind::Names, _) => {
                let names: Vec<_> = value.split(',').map(|name| quoted(name.trim())).collect();
                format!("[{}]", names.join(", "))
            }
            _ => quoted(value),
        }
    };
    let literals: Vec<_> = values.iter().map(each).collect();
    match many(option) {
        true => format!("[{}]", literals.join(", ")),
        false => literals.join(", "),
    }
}

/// A basic string of TOML.
fn quoted(text: &str) -> String {
    let mut quoted = String::from('"');
    for c in text.chars() {
        match c {
            '"' | '\\' => quoted.extend(['\\', c]),
            c if c.is_control() => {
                let _ = write!(quoted, "\\u{:04X}", u32::from(c));
            }
            c => quoted.push(c),
        }
    }
    quoted.push('"');
    quoted
}

/// These paragraphs as comment lines.
fn comment(text: &str) -> String {
    let mut lines = String::new();
    for (i, paragraph) in text.split("\n\n").enumerate() {
        if i > 0 {
            lines += "#\n";
        }
        let mut line = String::from("#");
        for word in paragraph.split_whitespace() {
            if line.chars().count() + 1 + word.chars().count() > WIDTH {
                lines += &line;
                lines.push('\n');
                line.truncate(1);
            }
            line.push(' ');
            line += word;
        }
        lines += &line;
        lines.push('\n');
    }
    lines
}
