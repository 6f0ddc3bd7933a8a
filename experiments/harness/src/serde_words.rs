//! What serde says of a value of the wrong kind, in a user's words: no type of Rust, no word of the parser.

/// `invalid type: floating point `2.5`, expected usize` becomes `found 2.5, expected a whole number of at least 0`.
/// A message that serde did not make stays as it is.
pub fn in_users_words(message: &str) -> String {
    for start in ["invalid type: ", "invalid value: "] {
        if let Some(rest) = message.strip_prefix(start)
            && let Some((found, expected)) = rest.rsplit_once(", expected ")
        {
            return format!(
                "found {}, expected {}",
                found_in(found),
                expected_in(expected)
            );
        }
    }
    if let Some(rest) = message.strip_prefix("invalid length ")
        && let Some((found, expected)) = rest.split_once(", expected ")
    {
        return format!("found {found} values, expected {}", expected_in(expected));
    }
    if let Some((name, rest)) = quoted_after(message, "unknown field `") {
        let expected = rest.trim_start_matches(", ").replace('`', "");
        return format!("{name}: unknown key, {expected}");
    }
    if let Some((name, rest)) = quoted_after(message, "unknown variant `") {
        let expected = rest.trim_start_matches(", ").replace('`', "");
        return format!("found {name:?}, {expected}");
    }
    if let Some((name, _)) = quoted_after(message, "missing field `") {
        return format!("{name}: missing");
    }
    if let Some((name, _)) = quoted_after(message, "duplicate field `") {
        return format!("{name}: given twice");
    }
    message.to_string()
}

/// The name between a prefix and the next backtick, and what follows.
fn quoted_after<'a>(message: &'a str, prefix: &str) -> Option<(&'a str, &'a str)> {
    message.strip_prefix(prefix)?.split_once('`')
}

fn found_in(found: &str) -> String {
    let value = found
        .split_once('`')
        .and_then(|(_, rest)| rest.rsplit_once('`'));
    match (found, value) {
        (_, Some((value, _))) => value.to_string(),
        ("map" | "Option value" | "struct", _) => "an object".into(),
        ("sequence" | "tuple", _) => "a list".into(),
        ("null" | "unit value", _) => "null".into(),
        (other, _) => other.strip_prefix("string ").unwrap_or(other).to_string(),
    }
}

fn expected_in(expected: &str) -> String {
    let plain = expected.trim_matches('`');
    let words = match plain {
        "usize" | "u8" | "u16" | "u32" | "u64" | "u128" => "a whole number of at least 0",
        "a nonzero usize" | "a nonzero u32" | "a nonzero u64" => "a whole number of at least 1",
        "isize" | "i8" | "i16" | "i32" | "i64" | "i128" => "a whole number",
        "f32" | "f64" => "a number",
        "a boolean" | "bool" => "true or false",
        "a string" | "string" | "str" | "a borrowed string" | "path string" => "a text",
        "a map" | "map" => "an object",
        "a sequence" | "sequence" | "array" => "a list",
        "any valid JSON value" => "a value",
        other if other.starts_with("struct ") => "an object",
        other if other.starts_with("tuple struct ") || other.starts_with("a tuple of size") => {
            "a list"
        }
        other if other.starts_with("enum ") => "one of its names",
        other => other,
    };
    words.to_string()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn no_type_of_rust_is_left() {
        for (message, words) in [
            (
                "invalid type: floating point `2.5`, expected usize",
                "found 2.5, expected a whole number of at least 0",
            ),
            (
                "invalid value: integer `-3`, expected u64",
                "found -3, expected a whole number of at least 0",
            ),
            (
                "invalid type: sequence, expected struct TreeFile",
                "found a list, expected an object",
            ),
            (
                "invalid type: map, expected a sequence",
                "found an object, expected a list",
            ),
            (
                "invalid type: string \"x, expected y\", expected f64",
                "found \"x, expected y\", expected a number",
            ),
            (
                "invalid type: null, expected a string",
                "found null, expected a text",
            ),
            (
                "unknown field `leaf`, expected `leaf_weights` or `xi`",
                "leaf: unknown key, expected leaf_weights or xi",
            ),
            ("missing field `horizon`", "horizon: missing"),
            (
                "invalid length 3, expected a tuple of size 2",
                "found 3 values, expected a list",
            ),
            ("the seed is odd", "the seed is odd"),
        ] {
            assert_eq!(in_users_words(message), words);
        }
    }
}
