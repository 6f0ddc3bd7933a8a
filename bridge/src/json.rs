//! JSON as Python writes it.

use crate::files::stray;
use crate::{Error, Result};
use serde::de::DeserializeOwned;
use serde_json::Value;
use std::path::Path;

/// What stands for `NaN` and the infinities, which JSON has no words for and Python writes all the same.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum NotFinite {
    /// `null`: a value of a record that is missing, as in a table.
    Missing,
    /// The word as a text, so that whoever reads the value as a number refuses it by name.
    Named,
}

/// Parses bytes with or without a byte-order mark, and with numbers that are not finite.
///
/// # Errors
/// Those of `serde_json`; the columns are those of the text as it stands.
pub(crate) fn parse<T: DeserializeOwned>(
    bytes: &[u8],
    not_finite: NotFinite,
) -> serde_json::Result<T> {
    let bytes = bytes.strip_prefix(b"\xef\xbb\xbf").unwrap_or(bytes);
    let strict = serde_json::from_slice(bytes);
    let Err(error) = strict else { return strict };
    match in_words(bytes, not_finite) {
        // What is wrong otherwise is said where it stands: the error of the text as it is comes first only where
        // nothing was exchanged.
        Some(changed) => serde_json::from_slice(&changed),
        None => Err(error),
    }
}

/// What a file of settings holds: numbers that are not finite are kept by name, so that whoever reads one refuses it.
///
/// # Errors
/// [`Error::File`]: no JSON, with its place, or another thing altogether.
pub(crate) fn of_file(path: &Path, bytes: &[u8]) -> Result<Value> {
    parse(bytes, NotFinite::Named).map_err(|e| {
        let why = match stray(bytes) {
            Some(what) => what.to_string(),
            None => format!("not valid JSON: {e}"),
        };
        Error::file(path, why)
    })
}

/// The text with each bare `NaN`, `Infinity` and `-Infinity` outside of strings exchanged; none where there is none.
fn in_words(bytes: &[u8], not_finite: NotFinite) -> Option<Vec<u8>> {
    const WORDS: [&str; 3] = ["NaN", "-Infinity", "Infinity"];
    let mut out = Vec::new();
    let (mut copied, mut at, mut quoted) = (0, 0, false);
    while at < bytes.len() {
        match bytes[at] {
            b'\\' if quoted => at += 1,
            b'"' => quoted = !quoted,
            b'N' | b'I' | b'-' if !quoted => {
                let rest = &bytes[at..];
                if let Some(word) = WORDS.iter().find(|w| rest.starts_with(w.as_bytes())) {
                    out.extend_from_slice(&bytes[copied..at]);
                    match not_finite {
                        NotFinite::Missing => out.extend_from_slice(b"null"),
                        NotFinite::Named => out.extend(format!("{word:?}").bytes()),
                    }
                    at += word.len();
                    copied = at;
                    continue;
                }
            }
            _ => {}
        }
        at += 1;
    }
    (copied > 0).then(|| {
        out.extend_from_slice(&bytes[copied..]);
        out
    })
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    #[test]
    fn words_that_json_has_not_are_read_outside_of_strings_alone() {
        let text = br#"{"a": NaN, "b": [-Infinity, Infinity, "NaN \" NaN"], "Infinity": 1}"#;
        assert_eq!(
            parse::<Value>(text, NotFinite::Missing).unwrap(),
            json!({"a": null, "b": [null, null, "NaN \" NaN"], "Infinity": 1})
        );
        assert_eq!(
            parse::<Value>(text, NotFinite::Named).unwrap(),
            json!({"a": "NaN", "b": ["-Infinity", "Infinity", "NaN \" NaN"], "Infinity": 1})
        );
        assert_eq!(
            parse::<Value>(b"\xef\xbb\xbf[1]", NotFinite::Missing).unwrap(),
            json!([1])
        );
        for bad in [
            &b"{\"a\": nan}"[..],
            b"{\"a\": NaNa}",
            b"{\"a\": NaN",
            b"\"\\",
            b"",
        ] {
            assert!(parse::<Value>(bad, NotFinite::Missing).is_err());
        }
    }
}
