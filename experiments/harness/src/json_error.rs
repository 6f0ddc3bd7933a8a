//! JSON syntax errors in one line, as every binary that reads JSON prints them.

use crate::serde_words::in_users_words;
use anyhow::{Error, anyhow};

/// Literals that other languages write for numbers and JSON does not have.
const NOT_NUMBERS: [&str; 6] = ["NaN", "nan", "Infinity", "infinity", "Inf", "inf"];

/// The error of parsing `text` in one line of plain words, with its line and column: an empty file, a file that was cut
/// off, a literal such as `NaN` or `-Infinity`, a number that no float holds, a value of the wrong kind.
pub fn explain(text: &str, error: &serde_json::Error) -> Error {
    if text.trim_start_matches('\u{feff}').trim().is_empty() {
        return anyhow!("empty, expected JSON");
    }
    let (line, column) = (error.line(), error.column());
    let whole = error.to_string();
    let said = whole
        .strip_suffix(&format!(" at line {line} column {column}"))
        .unwrap_or(&whole);
    let place = if line == 0 {
        String::new()
    } else {
        format!("line {line} column {column}: ")
    };
    if error.is_eof() {
        let inside = said
            .strip_prefix("EOF while parsing ")
            .unwrap_or("the file");
        let inside = inside.replace("a string", "a text");
        return anyhow!(
            "{place}the text ends inside {inside}; it is cut off, or a bracket or quote is not closed"
        );
    }
    if error.is_data() {
        let words = in_users_words(said);
        return anyhow!("{place}{words}");
    }
    if let Some(name) = literal_at(text, line, column) {
        return anyhow!("{place}found {name}, expected a finite number");
    }
    anyhow!("{place}{}", syntax(said))
}

/// Syntax errors of the parser in plain words.
fn syntax(said: &str) -> String {
    match said {
        "number out of range" => {
            "a number is out of range: beyond about 1.8e308, or with too many places".into()
        }
        "expected value" => {
            "expected a value: a number, text, list, object, true, false or null".into()
        }
        "expected ident" => "found a word that is neither true, false nor null".into(),
        "trailing comma" => "a comma before a closing bracket".into(),
        "trailing characters" => "more text after the end of the JSON value".into(),
        "key must be a string" => "expected a key in quotes".into(),
        "recursion limit exceeded" => "lists or objects are nested too deeply".into(),
        "invalid number" => "not a number as JSON writes them".into(),
        other => other.replace('`', ""),
    }
}

/// The literal that the (1-based) byte column lies in or just before, if it is one of [`NOT_NUMBERS`].
fn literal_at(text: &str, line: usize, column: usize) -> Option<&'static str> {
    let line = text.lines().nth(line.checked_sub(1)?)?;
    let letter = |c: char| c.is_ascii_alphabetic();
    // The parser stops at the sign, at the first letter, or inside the word.
    let at = (0..=column.min(line.len()))
        .rev()
        .find(|i| line.is_char_boundary(*i))?;
    let start = line[..at].rfind(|c| !letter(c)).map_or(0, |i| {
        i + line[i..].chars().next().map_or(1, char::len_utf8)
    });
    let rest = line[start..].trim_start_matches('-');
    let end = rest.find(|c| !letter(c)).unwrap_or(rest.len());
    NOT_NUMBERS.into_iter().find(|name| *name == &rest[..end])
}

#[cfg(test)]
mod tests;
