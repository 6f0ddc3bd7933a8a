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
fn other_errors_are_in_plain_words() {
    for (text, part) in [
        (
            r#"{"a": 1"#,
            "line 1 column 7: the text ends inside an object",
        ),
        (r#"{"a": "x"#, "the text ends inside a text"),
        (r#"{"a": 1e999}"#, "out of range"),
        (r#"{"a": nancy}"#, "found a word that is neither"),
        (r#"["NaN", x]"#, "line 1 column 9: expected a value"),
        (r#"{"NaN": }"#, "expected a value"),
        (r#"{a: 1}"#, "expected a key in quotes"),
        ("[1] 2", "more text after the end"),
        ("", "empty, expected JSON"),
        (" \n", "empty, expected JSON"),
    ] {
        let line = explained::<serde_json::Value>(text);
        assert!(
            line.contains(part) && !line.contains("finite number"),
            "{text}: {line}"
        );
    }
    // An error of the data, not of the syntax, beside a text that spells a literal.
    let line = explained::<Vec<u32>>(r#"["NaN"]"#);
    assert_eq!(
        line,
        "line 1 column 6: found \"NaN\", expected a whole number of at least 0"
    );
}
