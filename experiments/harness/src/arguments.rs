//! Reading the command line, in the same way in every binary.
//!
//! What clap does not do by itself: help that fits 80 columns and shows the defaults of settings that a config file holds; negative
//! numbers and lists of them as values of any flag, so that our own checks see them; numbers that are refused in words; and a word
//! that is the name of a flag gets the hint that it is one.

use std::collections::BTreeSet;
use std::ffi::{OsStr, OsString};

use clap::builder::ValueParser;
use clap::error::{ContextKind, ContextValue, ErrorKind};
use clap::{Arg, Command, Parser};
use toml::{Table, Value};

use crate::list::{self, Number};

/// Widest help.
const COLUMNS: usize = 80;

/// Reads the command line; ends the process with clap's message where it cannot be read.
///
/// `defaults` is the config whose keys the ids of flags are, dotted in tables; their help shows its values.
pub fn parse<P: Parser>(defaults: &str) -> P {
    try_parse(defaults, std::env::args_os()).unwrap_or_else(|error| error.exit())
}

/// [`parse`] of given words, the first of which is the program.
///
/// # Errors
/// clap's, with our hints.
pub fn try_parse<P: Parser>(
    defaults: &str,
    words: impl IntoIterator<Item = OsString>,
) -> Result<P, clap::Error> {
    // A broken default config is reported when the config is read.
    let defaults = defaults.parse::<Table>().unwrap_or_default();
    let mut command = prepared(P::command(), &defaults);
    // Short flags and help are clap's own; they are there once it is built.
    command.build();
    let mut flags = Flags::default();
    flags.collect(&command);
    let words = joined(words.into_iter().collect(), &flags);
    let matches = command.try_get_matches_from_mut(words);
    matches
        .and_then(|matches| P::from_arg_matches(&matches).map_err(|e| e.format(&mut command)))
        .map_err(|error| hinted(error, &flags, &defaults))
}

fn prepared(command: Command, defaults: &Table) -> Command {
    command
        .max_term_width(COLUMNS)
        .mut_args(|arg| numbers(with_default(arg, defaults)))
        .mut_subcommands(|sub| prepared(sub, defaults))
}

fn with_default(arg: Arg, defaults: &Table) -> Arg {
    let names: Vec<&str> = arg.get_id().as_str().split('.').collect();
    let (key, tables) = names.split_last().expect("a split has a part");
    let table = tables
        .iter()
        .try_fold(defaults, |table, name| table.get(*name)?.as_table());
    let Some(value) = table.and_then(|table| table.get(*key)) else {
        return arg;
    };
    let Some(default) = shown(value).filter(|_| arg.get_default_values().is_empty()) else {
        return arg;
    };
    // Where the default is something else than a value, the help says so itself.
    let says = |text: &clap::builder::StyledStr| match text.to_string() {
        text if text.contains("[default: ") => text,
        text => format!("{text} [default: {default}]"),
    };
    let (help, long) = (arg.get_help().map(says), arg.get_long_help().map(says));
    let arg = match help {
        Some(help) => arg.help(help),
        None => arg,
    };
    match long {
        Some(long) => arg.long_help(long),
        None => arg,
    }
}

/// A default as it is typed; `None` for an empty text, which stands for none.
fn shown(value: &Value) -> Option<String> {
    match value {
        Value::String(text) if text.is_empty() => None,
        Value::String(text) if text.contains([' ', '\n']) => Some(format!("{text:?}")),
        Value::String(text) => Some(text.clone()),
        Value::Float(number) => Some(format!("{number}")),
        Value::Array(items) if items.is_empty() => None,
        Value::Array(items) => {
            let items: Vec<String> = items.iter().map(shown).collect::<Option<_>>()?;
            Some(match &items[..] {
                // A long list would fill the page, and does not break.
                [a, b, c, .., z] if items.len() > 8 => format!("{a},{b},{c},…,{z}"),
                _ => items.join(","),
            })
        }
        other => Some(other.to_string()),
    }
}

/// Numbers are refused in words.
fn numbers(arg: Arg) -> Arg {
    use std::any::TypeId;
    fn parser<T: Number + Send + Sync + 'static>() -> ValueParser {
        ValueParser::new(|text: &str| list::number::<T>(text))
    }
    let is = |id: TypeId| arg.get_value_parser().type_id() == id;
    if is(TypeId::of::<usize>()) {
        arg.value_parser(parser::<usize>())
    } else if is(TypeId::of::<u64>()) {
        arg.value_parser(parser::<u64>())
    } else if is(TypeId::of::<u32>()) {
        arg.value_parser(parser::<u32>())
    } else if is(TypeId::of::<f64>()) {
        arg.value_parser(parser::<f64>())
    } else {
        arg
    }
}

/// Long names, of this command and of those below it.
#[derive(Debug, Default)]
struct Flags {
    all: BTreeSet<String>,
    with_value: BTreeSet<String>,
}

impl Flags {
    fn collect(&mut self, command: &Command) {
        for arg in command.get_arguments() {
            let Some(name) = arg.get_long() else { continue };
            self.all.insert(name.into());
            if arg.get_action().takes_values() {
                self.with_value.insert(name.into());
            }
        }
        command.get_subcommands().for_each(|sub| self.collect(sub));
    }
}

/// `--flag -1` as `--flag=-1`: what begins with a minus and a number is a value.
fn joined(words: Vec<OsString>, flags: &Flags) -> Vec<OsString> {
    let mut out: Vec<OsString> = Vec::new();
    let mut open = true;
    for word in words {
        let flag = out
            .last()
            .and_then(|last| last.to_str()?.strip_prefix("--"))
            .is_some_and(|name| open && flags.with_value.contains(name));
        match out.last_mut() {
            Some(last) if flag && is_negative(&word) => {
                last.push("=");
                last.push(word);
            }
            _ => {
                // What stands after `--` are words.
                open &= word != "--";
                out.push(word);
            }
        }
    }
    out
}

/// `-1`, `-.5`, `-1e-3`, `-1,2`, `-inf`, `-NaN`.
fn is_negative(word: &OsStr) -> bool {
    let Some(rest) = word.to_str().and_then(|w| w.strip_prefix('-')) else {
        return false;
    };
    let first = rest
        .split([',', ' '])
        .next()
        .unwrap_or("")
        .to_ascii_lowercase();
    let digits = first.strip_prefix('.').unwrap_or(&first);
    digits.starts_with(|c: char| c.is_ascii_digit())
        || ["inf", "infinity", "nan"].contains(&first.as_str())
}

/// What other programs call the number of threads.
const THREADS: [&str; 5] = [
    "--threads",
    "--num-threads",
    "--n-threads",
    "--workers",
    "--cores",
];

/// Keys of that name, with their tables.
fn keys(table: &Table, name: &str, within: &str) -> Vec<String> {
    let mut found = Vec::new();
    for (key, value) in table {
        let path = format!("{within}{key}");
        match value {
            toml::Value::Table(inner) => found.extend(keys(inner, name, &format!("{path}."))),
            _ if key == name => found.push(path),
            _ => {}
        }
    }
    found
}

/// `rto_llm smoke`: the word is the name of a flag; `--beta2 0.1`: it is a key of the config; `--threads 4`: what says it here is no flag.
fn hinted(mut error: clap::Error, flags: &Flags, defaults: &Table) -> clap::Error {
    let kinds = [ErrorKind::UnknownArgument, ErrorKind::InvalidSubcommand];
    let context = [ContextKind::InvalidArg, ContextKind::InvalidSubcommand];
    let word = context.into_iter().find_map(|kind| match error.get(kind) {
        Some(ContextValue::String(word)) => Some(word.clone()),
        _ => None,
    });
    let Some(word) = word.filter(|_| kinds.contains(&error.kind())) else {
        return error;
    };
    let keys = match word.strip_prefix("--") {
        Some(name) if flags.all.contains("set") => keys(defaults, &name.replace('-', "_"), ""),
        _ => Vec::new(),
    };
    let hint = if flags.all.contains(&word) {
        format!("a flag of that name exists: '--{word}'")
    } else if THREADS.contains(&word.as_str()) {
        "the environment variable RAYON_NUM_THREADS=N says how many threads".to_string()
    } else if !keys.is_empty() {
        let given: Vec<String> = keys
            .iter()
            .map(|key| format!("'--set {key}=VALUE'"))
            .collect();
        format!("a setting of that name is given as {}", given.join(" or "))
    } else {
        return error;
    };
    error.insert(
        ContextKind::Suggested,
        ContextValue::StyledStrs(vec![hint.into()]),
    );
    error
}

#[cfg(test)]
mod tests;
