//! Preference files in the layouts that users have. `tests/fixtures/data` is written by `scripts/make_data_fixtures.py`; what its files
//! mean was read with `datasets` and `trl`.

use rto_bridge::data::{self, Columns, LabelledText, ReadOptions, TextPair};
use serde_json::{Value, json};
use std::io::Write;
use std::path::{Path, PathBuf};

fn fixtures() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/fixtures/data")
}

fn expected() -> serde_json::Map<String, Value> {
    let text = std::fs::read_to_string(fixtures().join("expected.json")).unwrap();
    serde_json::from_str(&text).unwrap()
}

fn options(case: &Value) -> ReadOptions {
    let prompt = case["columns"]["prompt"].as_str().unwrap_or("prompt");
    let columns = Columns {
        prompt: prompt.into(),
        ..Default::default()
    };
    ReadOptions {
        columns,
        ..Default::default()
    }
}

fn of_pair(pair: TextPair) -> Value {
    assert_eq!(pair.rejected_prompt, None);
    json!([pair.prompt, pair.chosen, pair.rejected])
}

fn of_labelled(item: LabelledText) -> Value {
    json!([item.prompt, item.completion, item.desirable])
}

fn read_text(name: &str, text: &[u8], options: &ReadOptions) -> Result<Vec<Value>, String> {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join(name);
    std::fs::write(&path, text).unwrap();
    let pairs = data::read_pairs(&[&path], options).map_err(|e| {
        let said = e
            .to_string()
            .replace(&format!("{}/", dir.path().display()), "");
        assert!(!said.contains('\n'), "{said}");
        said
    })?;
    Ok(pairs.into_iter().map(of_pair).collect())
}

fn refused(text: &str) -> String {
    read_text("f.jsonl", text.as_bytes(), &ReadOptions::default()).unwrap_err()
}

#[test]
fn every_layout_reads_as_users_libraries_read_it() {
    let mut read = 0;
    for (name, case) in expected() {
        let (unpaired, file) = match name.strip_prefix("unpaired:") {
            Some(file) => (true, file),
            None => (case.get("labelled").is_some(), &name[..]),
        };
        if file.ends_with(".parquet") && cfg!(not(feature = "parquet")) {
            continue;
        }
        let path = fixtures().join(file);
        let options = options(&case);
        let (found, wanted): (Vec<Value>, _) = if unpaired {
            let (items, report) = data::read_labelled(&[path], &options).unwrap();
            assert!(report.bad.is_empty());
            (
                items.into_iter().map(of_labelled).collect(),
                &case["labelled"],
            )
        } else {
            let pairs = data::read_pairs(&[path], &options).unwrap();
            (pairs.into_iter().map(of_pair).collect(), &case["pairs"])
        };
        assert_eq!(&Value::from(found), wanted, "{name}");
        read += 1;
    }
    assert!(read >= 18);
}

#[test]
fn the_report_says_what_the_layout_made_of_the_columns() {
    let report_of = |name: &str| {
        let options = options(&expected()[name]);
        let (_, report) = data::read_pairs_with_report(&[fixtures().join(name)], &options).unwrap();
        report.to_string()
    };
    let said = report_of("texts_again.jsonl");
    assert!(
        said.contains(
            "5 of 5 pairs of replies begin with the text of column \"prompt\", which counts once"
        ),
        "{said}"
    );
    let said = report_of("orca.jsonl");
    assert!(
        said.contains("column \"system\" stands in front as a system message"),
        "{said}"
    );
    assert_eq!(report_of("texts.jsonl"), "");
    let unsaid = r#"{"prompt":"id-7","chosen":[{"role":"user","content":"u"},{"role":"assistant","content":"c"}],"rejected":[{"role":"user","content":"u"},{"role":"assistant","content":"r"}]}"#;
    let mut file = tempfile::NamedTempFile::new().unwrap();
    writeln!(file, "{unsaid}").unwrap();
    let (pairs, report) =
        data::read_pairs_with_report(&[file.path()], &ReadOptions::default()).unwrap();
    assert_eq!(pairs[0].prompt, "\n\nHuman: u\n\nAssistant:");
    assert!(
        report
            .to_string()
            .contains("says what no message of the conversation does"),
        "{report}"
    );
}

#[test]
fn columns_that_are_not_there_are_named_with_the_flags_that_name_others() {
    let orca = data::read_pairs(&[fixtures().join("orca.jsonl")], &ReadOptions::default());
    let said = orca.unwrap_err().to_string();
    for part in [
        "no column \"prompt\"",
        "the columns found are chosen, question, rejected, system; expected prompt, chosen and rejected",
        "--prompt-column, --chosen-column, --rejected-column",
    ] {
        assert!(said.contains(part), "{said}");
    }
    let said = refused(r#"{"instruction":"a","output":"b"}"#);
    assert!(
        said.contains(
            "no column \"chosen\"; the columns found are instruction, output; expected prompt"
        ),
        "{said}"
    );
    let said =
        data::read_pairs(&[fixtures().join("kto.jsonl")], &ReadOptions::default()).unwrap_err();
    assert!(
        said.to_string()
            .contains("unpaired data (completion, label, prompt): expected pairs"),
        "{said}"
    );
    // A file of dialogues in which one has no turn of the assistant is HH-RLHF all the same: a defect that is counted.
    let rows = "{\"chosen\":\"x\",\"rejected\":\"x\"}\n{\"chosen\":\"\\n\\nHuman: a\\n\\nAssistant: b\",\"rejected\":\"\\n\\nHuman: a\\n\\nAssistant: c\"}";
    assert_eq!(
        read_text("f", rows.as_bytes(), &ReadOptions::default())
            .unwrap()
            .len(),
        2
    );
}

/// A reply alone answers nothing: its prompt lies in a column of another name, or is lost.
#[test]
fn replies_without_a_prompt_are_refused() {
    let reply = |text: &str| json!([{"role": "assistant", "content": text}]);
    let mut row = json!({"conversations": [{"from": "human", "value": "q"}], "chosen": reply("c"), "rejected": reply("r")});
    let said = refused(&row.to_string());
    let columns = "the columns found are chosen, conversations, rejected; expected prompt, chosen and rejected";
    assert!(
        said.contains("holds a reply alone, and there is no column \"prompt\"")
            && said.contains(columns)
            && said.contains("--prompt-column"),
        "{said}"
    );
    let named = ReadOptions {
        columns: Columns {
            prompt: "conversations".into(),
            ..Default::default()
        },
        ..Default::default()
    };
    let read = read_text("f.jsonl", row.to_string().as_bytes(), &named).unwrap();
    assert_eq!(read[0], json!(["\n\nHuman: q\n\nAssistant:", " c", " r"]));
    row["system"] = json!("Be brief.");
    assert!(refused(&row.to_string()).contains("no column \"prompt\""));
    for empty in [json!(null), json!([])] {
        row["prompt"] = empty;
        assert!(refused(&row.to_string()).contains("an empty column \"prompt\""));
    }
}

/// OpenAI's preference files hold the prompt's messages in an object.
#[test]
fn requests_hold_messages() {
    let reply = |text: &str| json!([{"role": "assistant", "content": text}]);
    let row = json!({"input": {"messages": [{"role": "user", "content": "q"}], "tools": []}, "preferred_output": reply("c"), "non_preferred_output": reply("r")});
    let options = ReadOptions {
        columns: Columns {
            prompt: "input".into(),
            chosen: "preferred_output".into(),
            rejected: "non_preferred_output".into(),
            ..Default::default()
        },
        ..Default::default()
    };
    let read = |row: &Value| read_text("f.jsonl", row.to_string().as_bytes(), &options);
    let expected = json!(["\n\nHuman: q\n\nAssistant:", " c", " r"]);
    assert_eq!(read(&row).unwrap()[0], expected);
    let mut wrong = row;
    wrong["input"]["messages"] = json!({"messages": 3});
    assert!(
        read(&wrong)
            .unwrap_err()
            .contains("expected a list of messages")
    );
}

#[test]
fn many_columns_are_counted() {
    let keyed: serde_json::Map<_, _> = (10..99).map(|i| (i.to_string(), json!({}))).collect();
    let said = refused(&Value::Object(keyed).to_string());
    assert!(said.contains("28, 29 and 69 more; expected"), "{said}");
}

/// Booleans as JSON, Python and pandas write them; a text is none.
#[test]
fn labels_are_booleans_or_their_numbers() {
    let dir = tempfile::tempdir().unwrap();
    let read = |label: &str| {
        let file = dir.path().join("f.jsonl");
        let row = format!("{{\"prompt\": \"q\", \"completion\": \"c\", \"label\": {label}}}");
        std::fs::write(&file, row).unwrap();
        data::read_labelled(&[&file], &ReadOptions::default()).map(|(all, _)| all[0].desirable)
    };
    for (label, means) in [("true", true), ("0", false), ("1.0", true), ("0.0", false)] {
        assert_eq!(read(label).unwrap(), means);
    }
    for label in ["0.5", "2", "-1", "\"true\"", "null"] {
        assert!(read(label).is_err(), "{label}");
    }
}

#[test]
fn system_columns_stand_in_front_once() {
    let read = |text: &str, system: &str| {
        let columns = Columns {
            system: system.into(),
            ..Default::default()
        };
        let options = ReadOptions {
            columns,
            ..Default::default()
        };
        read_text("f", text.as_bytes(), &options).unwrap()[0][0].clone()
    };
    let texts = r#"{"system":"S. ","prompt":"q","chosen":"c","rejected":"r"}"#;
    assert_eq!(read(texts, "system"), "S. \n\nHuman: q\n\nAssistant:");
    assert_eq!(read(texts, ""), "q");
    let hh = r#"{"system":"S.","prompt":"\n\nHuman: q\n\nAssistant:","chosen":"c","rejected":"r"}"#;
    assert_eq!(read(hh, "system"), "S.\n\nHuman: q\n\nAssistant:");
    let list = r#"{"rules":"S.","prompt":[{"role":"user","content":"q"}],"chosen":[{"role":"assistant","content":"c"}],"rejected":[{"role":"assistant","content":"r"}]}"#;
    assert_eq!(read(list, "rules"), "S.\n\nHuman: q\n\nAssistant:");
    let own = r#"{"system":"S.","chosen":[{"role":"system","content":"T."},{"role":"user","content":"q"},{"role":"assistant","content":"c"}],"rejected":[{"role":"system","content":"T."},{"role":"user","content":"q"},{"role":"assistant","content":"r"}]}"#;
    assert_eq!(read(own, "system"), "T.\n\nHuman: q\n\nAssistant:");
    // A text in place of messages is what the assistant says.
    let mixed = r#"{"prompt":[{"role":"user","content":"q"}],"chosen":"c","rejected":"r"}"#;
    let pair = read_text("f", mixed.as_bytes(), &ReadOptions::default()).unwrap();
    assert_eq!(pair[0], json!(["\n\nHuman: q\n\nAssistant:", " c", " r"]));
}

#[test]
fn unreadable_records_are_counted_and_named_up_to_a_limit() {
    let good = r#"{"prompt":"p","chosen":"c","rejected":"r"}"#;
    let text = format!(
        "{good}\n{{\"prompt\": oops}}\n{good}\n{{\"prompt\":\"p\",\"chosen\":3,\"rejected\":\"r\"}}\n\u{fffd}[]\n"
    );
    let bytes = text.replace('\u{fffd}', "").into_bytes();
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("f.jsonl");
    std::fs::write(&path, bytes).unwrap();
    let read = |max_bad_lines| {
        let options = ReadOptions {
            max_bad_lines,
            ..Default::default()
        };
        data::read_pairs_with_report(&[&path], &options).map_err(|e| e.to_string())
    };
    let said = read(0).unwrap_err();
    assert!(
        said.contains("f.jsonl:2: malformed JSON:") && said.contains("max_bad_lines"),
        "{said}"
    );
    let said = read(2).unwrap_err();
    assert!(
        said.contains("f.jsonl:5: 3 unreadable records, more than 2; the last: found a list"),
        "{said}"
    );
    let (pairs, report) = read(3).unwrap();
    assert_eq!((pairs.len(), report.bad.len()), (2, 3));
    assert!(
        report.to_string().contains("passed over")
            && report.bad[1].contains("f.jsonl:4: column \"chosen\": found a number")
    );
    // A limit does not make an empty data set of a file of another kind.
    std::fs::write(&path, "{\"a\":1}\n{\"a\":2}\n").unwrap();
    let said = read(9).unwrap_err();
    assert!(
        said.contains("no record can be read; the first:") && said.contains("no column \"chosen\""),
        "{said}"
    );
}

#[test]
fn arrays_end_and_hold_records() {
    let read = |text: &str| read_text("a.json", text.as_bytes(), &ReadOptions::default());
    let one = r#"{"prompt":"a ] } , \" [","chosen":"c","rejected":"r"}"#;
    let wanted = json!(["a ] } , \" [", "c", "r"]);
    for text in [
        format!("[{one},{one}]"),
        format!("\n [\n{one}\n,\r\n{one}\n]\n\n"),
    ] {
        assert_eq!(read(&text).unwrap(), [wanted.clone(), wanted.clone()]);
    }
    for (text, said) in [
        (
            format!("[{one},{one}"),
            "a.json: the array of records has no end",
        ),
        (
            format!("[{one}]\n{one}"),
            "a.json: something follows the array of records",
        ),
        (format!("[{one},7]"), "a.json, record 2: found a number"),
        (format!("[{one},]"), "a.json, record 2: malformed JSON"),
        (format!("[{one} {one}]"), "a.json, record 1: malformed JSON"),
        ("[]".into(), "a.json: holds no record"),
        (
            "{\n \"data\": []\n}".into(),
            "a.json:1: an object over several lines",
        ),
    ] {
        let found = read(&text).unwrap_err();
        assert!(found.starts_with(said), "{found}");
    }
}

#[test]
fn other_formats_are_named() {
    let read = |bytes: &[u8]| read_text("f.jsonl", bytes, &ReadOptions::default()).unwrap_err();
    for (start, said) in [
        (
            &b"\xfd7zXZ\0\0"[..],
            "compressed by xz, which is not read; unpack it with xz -d",
        ),
        (b"PK\x03\x04....", "a zip archive"),
        (b"ARROW1\0\0....", "an Arrow file"),
        (b"\x80\x04\x95....", "a Python pickle"),
        (b"\xff\xfe{\0", "UTF-16 text, expected UTF-8"),
        (b"\x04\x22\x4d\x18....", "compressed by lz4"),
        (
            b"version https://git-lfs.github.com/spec/v1\noid sha256:0\nsize 9\n",
            "a pointer of Git LFS",
        ),
        (b"\n<!doctype HTML>\n<html>", "an HTML page"),
        (b"prompt,chosen,rejected\n\"a, b\",c,d\n", "CSV or TSV"),
        (
            b"\xef\xbb\xbfprompt\tchosen\trejected\r\na\tb\tc\r\n",
            "CSV or TSV",
        ),
        (b"\"prompt\",\"chosen\"\n", "CSV or TSV"),
        // Damaged lines are no tables.
        (b"\"prompt\": \"a\", \"chosen\": \"b\"}", "malformed JSON"),
        (b"prompt", "malformed JSON"),
        (
            b"made by hand, 2024\n{\"prompt\": \"a\"}\n",
            "f.jsonl:1: malformed JSON",
        ),
    ] {
        assert!(read(start).contains(said), "{}", read(start));
    }
    for packing in ["zst", "bz2", "gz"] {
        let whole =
            std::fs::read(fixtures().join(format!("ultrafeedback.jsonl.{packing}"))).unwrap();
        let said = read(&whole[..whole.len() - 9]);
        assert!(
            said.contains("stream stops before its end") || said.contains("stream is damaged"),
            "{said}"
        );
        let mut bent = whole.clone();
        bent[whole.len() / 2] ^= 0x55;
        let said = read(&bent);
        assert!(said.starts_with("f.jsonl"), "{said}");
    }
}

#[test]
fn messages_that_cannot_be_read_are_shown() {
    let row = |message: &str| format!(r#"{{"chosen":[{message}],"rejected":[{message}]}}"#);
    for (message, said) in [
        (
            r#"{"role":"user","content":[{"type":"image_url","image_url":"x"}]}"#,
            r#"found a part of type "image_url", expected "text""#,
        ),
        (
            r#"{"role":"user","content":null}"#,
            r#"expected {"role": text, "content": text}"#,
        ),
        (
            r#"{"role":"user","content":3}"#,
            "content: found a number, expected a text",
        ),
        (r#"{"from":"human"}"#, r#"found {"from":"human"}, expected"#),
        (
            r#"{"role":"user","content":[{"type":"text"}]}"#,
            r#"expected {"type": "text", "text": text}"#,
        ),
        (
            r#"{"role":"wizard","content":"x"}"#,
            r#"found role "wizard""#,
        ),
    ] {
        let found = refused(&row(message));
        assert!(found.contains(said), "{found}");
    }
}
