use super::*;
use flate2::{Compression, write::GzEncoder};
use proptest::prelude::*;
use std::io::Write;

fn gzip(bytes: &[u8]) -> Vec<u8> {
    let mut encoder = GzEncoder::new(Vec::new(), Compression::default());
    encoder.write_all(bytes).unwrap();
    encoder.finish().unwrap()
}

fn error(name: &str, bytes: &[u8]) -> String {
    let text = format!("{:#}", parse_documents(name, bytes).unwrap_err());
    assert!(!text.contains('\n'), "{text}");
    text
}

#[test]
fn plain_text_splits_on_blank_lines() {
    let text = "\u{feff}one\r\nmore\r\n\r\n  \r\n\ntwo\n";
    assert_eq!(
        parse_documents("a.txt", text.as_bytes()).unwrap(),
        ["one\nmore", "two"]
    );
    assert_eq!(
        parse_documents("a", &gzip(text.as_bytes())).unwrap().len(),
        2
    );
}

#[test]
fn every_jsonl_form() {
    let lines = [
        r#"{"text": "t", "chosen": 3}"#,
        r#"{"prompt": "p", "response": "r"}"#,
        r#"{"prompt": "p", "completion": " c"}"#,
        r#"{"chosen": "\n\nHuman: h", "rejected": "no"}"#,
        r#"{"prompt": "p", "chosen": [{"role": "user", "content": "u"}, {"role": "assistant", "content": "a"}]}"#,
        "",
        r#"{"messages": [{"role": "system", "content": "s"}]}"#,
        r#"{"text": "  "}"#,
    ]
    .join("\n");
    let expected = [
        "t",
        "p\nr",
        "p c",
        "\n\nHuman: h",
        "\n\nHuman: u\n\nAssistant: a",
        "\n\nSystem: s",
    ];
    assert_eq!(
        parse_documents("a.jsonl", lines.as_bytes()).unwrap(),
        expected
    );
    // By content, without a telling name, and gzipped under a plain name.
    assert_eq!(parse_documents("a", lines.as_bytes()).unwrap(), expected);
    assert_eq!(
        parse_documents("a.jsonl", &gzip(lines.as_bytes())).unwrap(),
        expected
    );
}

#[test]
fn a_bad_line_names_file_line_and_field() {
    let at = |line: &str| {
        error(
            "a.jsonl",
            format!("{{\"text\": \"ok\"}}\n\n{line}").as_bytes(),
        )
    };
    assert_eq!(
        at(r#"{"body": "x", "id": 1}"#),
        format!("a.jsonl:3: found fields `body`, `id`, expected {FIELDS}")
    );
    assert_eq!(
        at("[1]"),
        "a.jsonl:3: found an array, expected a JSON object"
    );
    assert_eq!(
        at(r#"{"text": null}"#),
        "a.jsonl:3: field `text` is null, expected a string"
    );
    assert_eq!(
        at(r#"{"messages": [{"role": "user"}]}"#),
        "a.jsonl:3: field `messages[0].content` is missing, expected a string"
    );
    let text = at(r#"{"text": "x""#);
    assert!(
        text.starts_with("a.jsonl:3: not valid JSON (column "),
        "{text}"
    );
    assert!(!text.contains("at line"), "{text}");
}

#[test]
fn unreadable_files_are_one_clear_error() {
    assert_eq!(
        error("a.txt", b""),
        "a.txt: empty file, expected text or JSONL"
    );
    assert_eq!(
        error("a.txt", b" \n\n "),
        "a.txt: no text in it, expected at least one document"
    );
    assert_eq!(
        error("a.txt", b"ok\nab\xff"),
        "a.txt:2: not valid UTF-8 at byte 5, expected text or JSONL"
    );
    let whole = gzip(b"some text that is long enough to be cut");
    let cut = &whole[..whole.len() - 12];
    assert_eq!(
        error("a.gz", cut),
        "a.gz: gzip data end too early, expected a whole file"
    );
    let mut broken = whole.clone();
    broken[15] ^= 0xff;
    assert!(error("a.gz", &broken).starts_with("a.gz: "));
    let dir = tempfile::tempdir().unwrap();
    let text = read_documents(dir.path()).unwrap_err().to_string();
    assert!(text.ends_with("is a directory, expected a file"), "{text}");
    let text = read_documents(&dir.path().join("none"))
        .unwrap_err()
        .to_string();
    assert!(text.ends_with("none: no such file"), "{text}");
}

proptest! {
    #[test]
    fn random_bytes_never_panic(bytes in proptest::collection::vec(any::<u8>(), 0..200), magic in any::<bool>()) {
        let mut bytes = bytes;
        if magic {
            bytes.splice(0..0, [0x1f, 0x8b, 8, 0]);
        }
        for name in ["a.txt", "a.jsonl", "a.gz", ""] {
            parse_documents(name, &bytes).ok();
        }
    }

    #[test]
    fn text_survives_json(text in "\\PC{1,40}") {
        let line = serde_json::json!({ "text": text }).to_string();
        let read = parse_documents("a.jsonl", line.as_bytes());
        if text.trim().is_empty() {
            prop_assert!(read.is_err());
        } else {
            prop_assert_eq!(read.unwrap(), [text]);
        }
    }
}

/// Small files that unfold into a line without an end, or into lines without an end.
#[test]
fn text_that_unfolds_into_a_memory_is_refused() {
    let mut line = vec![b' '; 16 << 20];
    let endless = gzip(&line).repeat(18);
    assert!(endless.len() < 1 << 20);
    let said = error("a.gz", &endless);
    assert!(said.contains("a line of more than 256 MiB"), "{said}");
    line.iter_mut()
        .step_by(1 << 10)
        .for_each(|byte| *byte = b'\n');
    let said = error("a.gz", &gzip(&line).repeat(18));
    assert!(said.contains("more than 300 times its size"), "{said}");
}
