//! JSON syntax errors in one line, as every binary that reads JSON prints them.

use anyhow::{Error, anyhow};

/// Literals that other languages write for numbers and JSON does not have.
const NOT_NUMBERS: [&str; 6] = ["NaN", "nan", "Infinity", "infinity", "Inf", "inf"];

/// The error of parsing `text`, with its line and column; a literal such as `NaN` or `-Infinity` at the
/// place is called by its name.
pub fn explain(text: &str, error: &serde_json::Error) -> Error {
    match (
        error.is_syntax(),
        literal_at(text, error.line(), error.column()),
    ) {
        (true, Some(name)) => anyhow!(
            "line {} column {}: found {name}, expected a finite number",
            error.line(),
            error.column()
        ),
        _ => anyhow!("{error}"),
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
mod tests {
    use super::*;

    fn explained<'a, T: serde::Deserialize<'a> + std::fmt::Debug>(text: &'a str) -> String {
        let error = serde_json::from_str::<T>(text).unwrap_err();
        explain(text, &error).to_string()
    }

    #[test]
    fn literals_that_json_does_not_have_are_named() {
        for (text, part) in [
            (
                r#"{"a": NaN}"#,
                "line 1 column 7: found NaN, expected a finite number",
            ),
            ("{\"a\": 1,\n \"b\": nan}", "line 2 column 8: found nan"),
            (r#"[1, -Infinity, 2]"#, "found Infinity"),
            (r#"["é", "日本", Infinity]"#, "found Infinity"),
            ("[inf", "found inf"),
            ("[-inf]", "found inf"),
            ("NaN", "line 1 column 1: found NaN"),
        ] {
            let line = explained::<serde_json::Value>(text);
            assert!(
                line.contains(part) && !line.contains('\n'),
                "{text}: {line}"
            );
        }
    }

    #[test]
    fn other_errors_keep_their_own_words() {
        for (text, part) in [
            (r#"{"a": 1"#, "EOF"),
            (r#"{"a": 1e999}"#, "out of range"),
            (r#"{"a": nancy}"#, "expected"),
            (r#"["NaN", x]"#, "expected value at line 1 column 9"),
            (r#"{"NaN": }"#, "expected value"),
            ("", "EOF"),
        ] {
            let line = explained::<serde_json::Value>(text);
            assert!(
                line.contains(part) && !line.contains("finite number"),
                "{text}: {line}"
            );
        }
        // An error of the data, not of the syntax, beside a text that spells a literal.
        let line = explained::<Vec<u32>>(r#"["NaN"]"#);
        assert!(line.contains("invalid type"), "{line}");
    }
}
