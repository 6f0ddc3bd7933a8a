//! Preference data: reading, cleaning, splitting, and the one clear line that bad files get.

use std::collections::HashSet;
use std::io::Write;
use std::path::{Path, PathBuf};

use flate2::{Compression, write::GzEncoder};
use rto::seed::SeedTree;
use rto_bridge::data::{
    self, ChatTemplate, CleanOptions, Columns, HasPrompt, Lengths, ReadOptions, Report, Rule,
    Split, SplitKey, TextPair,
};

const HH: &str = concat!(
    r#"{"chosen":"\n\nHuman: hi\n\nAssistant: hello\n\nHuman: bye\n\nAssistant: so long","rejected":"\n\nHuman: hi\n\nAssistant: hello\n\nHuman: bye\n\nAssistant: go"}"#,
    "\n\n",
    r#"{"chosen":"\n\nHuman: a\n\nAssistant: b","rejected":"\n\nHuman: a\n\nAssistant:"}"#,
    "\n"
);

fn file(dir: &Path, name: &str, bytes: &[u8]) -> PathBuf {
    let path = dir.join(name);
    std::fs::write(&path, bytes).unwrap();
    path
}

fn gzip(bytes: &[u8]) -> Vec<u8> {
    let mut encoder = GzEncoder::new(Vec::new(), Compression::default());
    encoder.write_all(bytes).unwrap();
    encoder.finish().unwrap()
}

fn read(text: &str) -> rto_bridge::Result<Vec<TextPair>> {
    let dir = tempfile::tempdir().unwrap();
    data::read_pairs(
        &[file(dir.path(), "d.jsonl", text.as_bytes())],
        &ReadOptions::default(),
    )
}

fn error_of(name: &str, bytes: &[u8]) -> String {
    let dir = tempfile::tempdir().unwrap();
    let path = file(dir.path(), name, bytes);
    let error = data::read_pairs(&[path], &ReadOptions::default())
        .unwrap_err()
        .to_string();
    assert!(!error.contains('\n'), "{error}");
    let prefix = format!("{}/", dir.path().display());
    error.replacen(&prefix, "", 1)
}

fn count(report: &Report, rule: Rule) -> (usize, usize) {
    let row = report.rules.iter().find(|row| row.rule == rule).unwrap();
    (row.found, row.removed)
}

#[test]
fn dialogues_are_cut_at_the_last_turn_plain_or_compressed() {
    let dir = tempfile::tempdir().unwrap();
    let plain = file(dir.path(), "a.jsonl", HH.as_bytes());
    // A wrong name does not matter, nor does a file of several gzip members.
    let mut members = gzip(&HH.as_bytes()[..50]);
    members.extend(gzip(&HH.as_bytes()[50..]));
    let packed = file(dir.path(), "b.jsonl", &members);
    let pairs = data::read_pairs(&[plain, packed], &ReadOptions::default()).unwrap();
    assert_eq!(pairs.len(), 4);
    let first = &pairs[0];
    assert!(first.prompt.ends_with("Human: bye\n\nAssistant:"));
    assert_eq!(
        (first.chosen.as_str(), first.rejected.as_str()),
        (" so long", " go")
    );
    assert_eq!(pairs[1].rejected, "");
    assert_eq!(pairs[1].place.line, 3);
    for (a, b) in pairs[..2].iter().zip(&pairs[2..]) {
        assert_eq!(
            (&a.prompt, &a.chosen, &a.rejected),
            (&b.prompt, &b.chosen, &b.rejected)
        );
    }
}

#[test]
fn prompts_conversations_and_named_columns() {
    let pairs = read(r#"{"prompt":"p","chosen":"c","rejected":"r","score":1}"#).unwrap();
    assert_eq!(
        (pairs[0].prompt.as_str(), pairs[0].chosen.as_str()),
        ("p", "c")
    );
    let lists = r#"{"chosen":[{"role":"user","content":"u"},{"role":"assistant","content":"c"}],"rejected":[{"role":"user","content":"u"},{"role":"assistant","content":"r"}]}"#;
    let pairs = read(lists).unwrap();
    assert_eq!(pairs[0].prompt, "\n\nHuman: u\n\nAssistant:");
    assert_eq!(
        (pairs[0].chosen.as_str(), pairs[0].rejected.as_str()),
        (" c", " r")
    );
    let apart = r#"{"prompt":[{"role":"user","content":"u"}],"chosen":[{"role":"assistant","content":"c"}],"rejected":[{"role":"assistant","content":"r"}]}"#;
    assert_eq!(read(apart).unwrap()[0].prompt, pairs[0].prompt);

    let dir = tempfile::tempdir().unwrap();
    let path = file(dir.path(), "d", br#"{"question":"q","good":"g","bad":"b"}"#);
    let columns = Columns {
        prompt: "question".into(),
        chosen: "good".into(),
        rejected: "bad".into(),
        ..Default::default()
    };
    let options = ReadOptions {
        columns,
        ..Default::default()
    };
    assert_eq!(
        data::read_pairs(&[&path], &options).unwrap()[0].rejected,
        "b"
    );
    assert_eq!(data::read_prompts(&[&path], &options).unwrap()[0].text, "q");
    let hh = file(dir.path(), "hh", HH.as_bytes());
    let prompts = data::read_prompts(&[hh], &ReadOptions::default()).unwrap();
    assert_eq!(prompts[1].text, "\n\nHuman: a\n\nAssistant:");
}

#[test]
fn bad_files_get_one_line_that_names_the_place() {
    let good = r#"{"chosen":"x\n\nAssistant: b","rejected":"x\n\nAssistant: c"}"#;
    let broken = format!("{good}\n{{\"chosen\": \"a\" \"rejected\": 1}}\n");
    let said = error_of("m.jsonl", broken.as_bytes());
    assert!(
        said.starts_with("m.jsonl:2: malformed JSON: expected `,` or `}` at column"),
        "{said}"
    );
    let said = error_of("c.jsonl", br#"{"winner":"a","loser":"b"}"#);
    assert_eq!(
        said,
        r#"c.jsonl:1: no column "chosen"; the columns found are loser, winner; expected prompt, chosen and rejected, or name others (--prompt-column, --chosen-column, --rejected-column) (max_bad_lines allows so many unreadable records: 0)"#
    );
    assert_eq!(
        error_of("e.jsonl", b"\n \n"),
        "e.jsonl: holds no record: an empty dataset"
    );
    assert_eq!(
        error_of("e.gz", &gzip(b"")),
        "e.gz: holds no record: an empty dataset"
    );
    let said = error_of(
        "u.jsonl",
        &[good.as_bytes(), b"\n{\"chosen\":\"\xff\"}"].concat(),
    );
    assert!(
        said.starts_with("u.jsonl:2: not valid UTF-8 text (max_bad_lines"),
        "{said}"
    );
    let many = format!("{good}\n").repeat(500);
    let packed = gzip(many.as_bytes());
    let said = error_of("t.jsonl.gz", &packed[..packed.len() - 12]);
    assert!(
        said.contains("the gzip stream stops before its end"),
        "{said}"
    );
    assert!(said.starts_with("t.jsonl.gz:"), "{said}");
    let said = error_of("l", b"[1]");
    assert!(
        said.starts_with("l, record 1: found a number, expected one JSON object per line ("),
        "{said}"
    );
    let said = error_of("n", br#"{"chosen":3,"rejected":"b"}"#);
    assert!(
        said.starts_with(r#"n:1: column "chosen": found a number, expected a text ("#),
        "{said}"
    );
    let said = error_of("r", br#"{"chosen":[{"role":"user"}],"rejected":[]}"#);
    assert!(
        said.starts_with(r#"r:1: column "chosen", message 0: found {"role":"user"}, expected"#)
    );
    let missing = data::read_pairs(&["/nowhere/x.jsonl"], &ReadOptions::default());
    assert_eq!(
        missing.unwrap_err().to_string(),
        "/nowhere/x.jsonl: no such file"
    );
    assert!(data::read_pairs::<&str>(&[], &ReadOptions::default()).is_err());
}

#[test]
fn defects_are_counted_and_each_rule_can_be_switched_off() {
    let row = |c: &str, r: &str| format!(r#"{{"prompt":"p","chosen":"{c}","rejected":"{r}"}}"#);
    let rows = [
        row("a", "b"),
        row("a", "b"),
        row("b", "a"),
        row("a", " a"),
        row("", "b"),
        row("long long long", "b"),
    ];
    let pairs = read(&rows.join("\n")).unwrap();
    let words = |text: &str| Ok(text.split_whitespace().count());
    let lengths = Lengths {
        tokens: &words,
        prompt: 4,
        reply: 2,
        total: 6,
    };
    let options = CleanOptions {
        lengths: Some(lengths),
        ..Default::default()
    };
    let (kept, report) = data::clean_pairs(pairs.clone(), &options).unwrap();
    let removed: Vec<usize> = report.rules.iter().map(|r| r.removed).collect();
    assert_eq!((kept.len(), report.read), (2, 6));
    assert_eq!(removed.iter().sum::<usize>(), 4);
    for rule in [
        Rule::Duplicate,
        Rule::IdenticalPair,
        Rule::EmptyReply,
        Rule::Overlong,
    ] {
        assert_eq!(count(&report, rule), (1, 1), "{}", rule.name());
        let (more, again) =
            data::clean_pairs(pairs.clone(), &options.clone().without(rule)).unwrap();
        assert_eq!((more.len(), count(&again, rule)), (3, (1, 0)));
        assert_eq!(Rule::from_name(rule.name()).unwrap(), rule);
    }
    assert_eq!(count(&report, Rule::Reversed), (1, 0));
    assert!(report.to_string().contains("6 records read, 2 kept"));
    let diverging =
        r#"{"chosen":"\n\nHuman: a\n\nAssistant: b","rejected":"\n\nHuman: c\n\nAssistant: d"}"#;
    let said = data::clean_pairs(read(diverging).unwrap(), &CleanOptions::default()).unwrap_err();
    assert!(
        said.to_string()
            .ends_with("most fell to rule diverging-histories"),
        "{said}"
    );
    assert!(Rule::from_name("nonsense").is_err());
}

#[test]
fn no_prompt_lands_in_two_parts_and_shares_are_right() {
    let rows: Vec<String> = (0..3000)
        .map(|i| {
            format!(
                r#"{{"prompt":"p{}","chosen":"a{i}","rejected":"b"}}"#,
                i / 2
            )
        })
        .collect();
    let pairs = read(&rows.join("\n")).unwrap();
    let seeds = SeedTree::new(3);
    let parts = Split::thirds()
        .parts(pairs.clone(), &seeds, SplitKey::Prompt)
        .unwrap();
    let sets: Vec<HashSet<&str>> = parts
        .iter()
        .map(|p| p.iter().map(HasPrompt::prompt).collect())
        .collect();
    assert!(
        sets[0].is_disjoint(&sets[1])
            && sets[1].is_disjoint(&sets[2])
            && sets[0].is_disjoint(&sets[2])
    );
    // 1500 prompts at probability 1/3: 5 standard deviations are 91.
    assert!(sets.iter().all(|s| s.len().abs_diff(500) < 91));
    // The part of a prompt does not depend on what else is there.
    let alone = Split::thirds().part("p7", &seeds, SplitKey::Prompt);
    assert!(sets[alone].contains("p7"));
    let grown = [
        "\n\nHuman: a\n\nAssistant:",
        "\n\nHuman: a\n\nAssistant: b\n\nHuman: c\n\nAssistant:",
    ];
    let of = |s: u64, x: &str| Split::thirds().part(x, &SeedTree::new(s), SplitKey::FirstTurn);
    assert!((0..50).all(|s| of(s, grown[0]) == of(s, grown[1])));
    assert!(Split::try_new(&[]).is_err() && Split::try_new(&[1.0, f64::NAN]).is_err());
    assert!(
        Split::thirds()
            .parts(pairs[..1].to_vec(), &seeds, SplitKey::Prompt)
            .is_err()
    );

    let order = data::shuffled(100, &seeds, 0);
    assert_eq!(order, data::shuffled(100, &seeds, 0));
    assert_ne!(order, data::shuffled(100, &seeds, 1));
    assert_eq!(order.iter().collect::<HashSet<_>>().len(), 100);
}

/// Expected texts: `apply_chat_template` of transformers 5.24.0 on the same template and messages.
#[test]
fn a_tokenizers_template_is_followed() {
    let dir = tempfile::tempdir().unwrap();
    let template = "{{ bos_token }}{% for m in messages %}\n<{{ m['role'] }}>{{ m['content'].strip() }}{% if m.role == 'assistant' %}{{ eos_token }}{% endif %}\n{% endfor %}\n{% if add_generation_prompt %}\n<assistant>{% endif %}";
    let config = serde_json::json!({"chat_template": template, "bos_token": "<s>", "eos_token": {"content": "</s>"}});
    file(
        dir.path(),
        "tokenizer_config.json",
        config.to_string().as_bytes(),
    );
    let lists = r#"{"chosen":[{"role":"user","content":" u "},{"role":"assistant","content":"c"}],"rejected":[{"role":"user","content":" u "},{"role":"assistant","content":"r"}]}"#;
    let path = file(dir.path(), "d.jsonl", lists.as_bytes());
    let template = ChatTemplate::from_tokenizer(dir.path()).unwrap();
    let options = ReadOptions {
        template,
        ..Default::default()
    };
    let pairs = data::read_pairs(&[path], &options).unwrap();
    assert_eq!(pairs[0].prompt, "<s><user>u<assistant>");
    assert_eq!(
        (pairs[0].chosen.as_str(), pairs[0].rejected.as_str()),
        ("c</s>", "r</s>")
    );
    assert!(pairs[0].templated);

    std::fs::write(dir.path().join("chat_template.jinja"), "{% for %}").unwrap();
    let said = ChatTemplate::from_tokenizer(dir.path())
        .unwrap_err()
        .to_string();
    assert!(
        said.contains("chat_template.jinja: chat_template: line 1:"),
        "{said}"
    );
    assert!(ChatTemplate::from_tokenizer(Path::new("/nowhere")).is_err());
}

/// The published test set of harmless-base, where `RTO_HH_RLHF` names the file.
#[test]
fn the_published_test_set_reads_whole() {
    let Some(path) = std::env::var_os("RTO_HH_RLHF") else {
        println!("skipped: RTO_HH_RLHF does not name harmless-base/test.jsonl.gz");
        return;
    };
    let pairs = data::read_pairs(&[PathBuf::from(path)], &ReadOptions::default()).unwrap();
    // The label stands in as many preferred as rejected replies: why `human-in-reply` is off by default.
    let label = |reply: &String| reply.trim_start().starts_with("Human:");
    let labels = |side: fn(&TextPair) -> &String| pairs.iter().filter(|p| label(side(p))).count();
    assert_eq!((labels(|p| &p.chosen), labels(|p| &p.rejected)), (17, 17));
    let (kept, report) = data::clean_pairs(pairs, &CleanOptions::default()).unwrap();
    println!("{report}");
    assert_eq!((report.read, report.kept, kept.len()), (2312, 2303, 2303));
    assert_eq!(count(&report, Rule::DivergingHistories), (5, 5));
    assert_eq!(count(&report, Rule::EmptyReply), (4, 4));
    // Counted apart in Python: 28 pairs with a reply whose stripped text starts with "Human:".
    assert_eq!(count(&report, Rule::HumanInReply), (28, 0));
    let parts = Split::thirds()
        .parts(kept, &SeedTree::new(1), SplitKey::FirstTurn)
        .unwrap();
    println!(
        "thirds: {:?}",
        parts.iter().map(Vec::len).collect::<Vec<_>>()
    );
}

/// Texts, a nested conversation and a column that is no data, written by the crate's own writer.
#[cfg(feature = "parquet")]
#[test]
fn parquet_rows_read_like_lines() {
    use parquet::data_type::{ByteArray, ByteArrayType, Int32Type};
    use parquet::file::{properties::WriterProperties, writer::SerializedFileWriter};
    let schema = "message d { required binary chosen (UTF8); required binary rejected (UTF8); \
        required int32 score; required group prompt (LIST) { repeated group list { \
        required group element { required binary role (UTF8); required binary content (UTF8); } } } }";
    let schema = parquet::schema::parser::parse_message_type(schema).unwrap();
    let properties = WriterProperties::builder()
        .set_compression(parquet::basic::Compression::SNAPPY)
        .build();
    let mut writer =
        SerializedFileWriter::new(Vec::new(), schema.into(), properties.into()).unwrap();
    let mut group = writer.next_row_group().unwrap();
    let text = |words: &[&str]| {
        words
            .iter()
            .map(|w| ByteArray::from(*w))
            .collect::<Vec<_>>()
    };
    // Column order of the schema; the last two are lists of two and one messages.
    let texts = [
        &["a", "b"][..],
        &["c", "d"],
        &[],
        &["user", "assistant", "user"],
        &["u", "v", "w"],
    ];
    for (i, words) in texts.into_iter().enumerate() {
        let mut column = group.next_column().unwrap().unwrap();
        if i == 2 {
            column
                .typed::<Int32Type>()
                .write_batch(&[1, 2], None, None)
                .unwrap();
        } else {
            let (depth, from) = ([1, 1, 1], [0, 1, 0]);
            let levels = (i > 2).then_some((&depth[..], &from[..]));
            let (def, rep) = (levels.map(|l| l.0), levels.map(|l| l.1));
            column
                .typed::<ByteArrayType>()
                .write_batch(&text(words), def, rep)
                .unwrap();
        }
        column.close().unwrap();
    }
    group.close().unwrap();
    let bytes = writer.into_inner().unwrap();
    let dir = tempfile::tempdir().unwrap();
    let path = file(dir.path(), "d.parquet", &bytes);
    let pairs = data::read_pairs(&[&path], &ReadOptions::default()).unwrap();
    assert_eq!(pairs.len(), 2);
    assert_eq!(
        pairs[0].prompt,
        "\n\nHuman: u\n\nAssistant: v\n\nAssistant:"
    );
    assert_eq!(
        (pairs[1].chosen.as_str(), pairs[1].rejected.as_str()),
        (" b", " d")
    );
    assert_eq!(pairs[1].place.line, 2);
    let said = error_of("cut.parquet", &bytes[..bytes.len() / 2]);
    assert!(said.starts_with("cut.parquet: as Parquet: "), "{said}");
    let columns = Columns {
        chosen: "best".into(),
        ..Default::default()
    };
    let options = ReadOptions {
        columns,
        ..Default::default()
    };
    let said = data::read_pairs(&[&path], &options)
        .unwrap_err()
        .to_string();
    assert!(
        said.contains(r#"no column "best"; the columns found are chosen, prompt, rejected, score"#),
        "{said}"
    );
}

#[test]
fn the_oracle_and_the_held_out_prompts_share_no_conversation_with_training() {
    let pair = |first: usize, turn: usize| TextPair {
        prompt: format!(
            "\n\nHuman: question {first}\n\nAssistant: a\n\nHuman: turn {turn}\n\nAssistant:"
        ),
        chosen: " yes".into(),
        rejected: " no".into(),
        rejected_prompt: None,
        templated: false,
        place: data::Place {
            file: Path::new("made.jsonl").into(),
            line: 1,
            unit: data::Unit::Line,
        },
    };
    let pairs: Vec<TextPair> = (0..9000).map(|i| pair(i / 3, i % 3)).collect();
    let seeds = SeedTree::new(2);
    let roles = data::roles(pairs.clone(), 0.2, &seeds).unwrap();
    let parts = [&roles.train, &roles.held_out, &roles.oracle];
    // Shares of 3000 conversations within four standard errors.
    for (part, share) in parts.iter().zip([7.0 / 15.0, 0.2, 1.0 / 3.0]) {
        let found = part.len() as f64 / 9000.0;
        assert!(
            (found - share).abs() < 4.0 * (share * (1.0 - share) / 3000.0f64).sqrt(),
            "{found} for {share}"
        );
    }
    let turns = |part: &[TextPair]| -> HashSet<String> {
        part.iter()
            .map(|p| data::first_turn(&p.prompt).to_string())
            .collect()
    };
    let [a, b, c] = parts.map(|part| turns(part));
    assert!(a.is_disjoint(&b) && a.is_disjoint(&c) && b.is_disjoint(&c));
    assert_eq!(a.len() + b.len() + c.len(), 3000);
    // Neither order nor other pairs move a pair.
    let backwards: Vec<TextPair> = pairs.iter().rev().take(3000).cloned().collect();
    let fewer = data::roles(backwards, 0.2, &seeds).unwrap();
    assert!(turns(&fewer.oracle).is_subset(&c) && turns(&fewer.held_out).is_subset(&b));
    for share in [0.0, -0.1, 0.7, f64::NAN] {
        assert!(data::roles(pairs.clone(), share, &seeds).is_err());
    }
    assert!(data::roles(pairs[..1].to_vec(), 0.2, &seeds).is_err());
}
