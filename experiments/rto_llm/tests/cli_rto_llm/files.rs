//! `rto_llm --data`: preference files in place of the synthetic world.

use super::training::{contents, same};
use super::{error, fixture, objects, ok};
use std::fs;
use std::path::Path;

/// Dialogues in the form of HH-RLHF, with one identical pair and one that was there before.
pub fn dialogues(n: usize) -> String {
    let mut lines = Vec::new();
    for i in 0..n {
        let (town, colour) = (["Rome", "Oslo", "Lima"][i % 3], ["red", "blue"][i % 2]);
        let prompt =
            format!("\n\nHuman: I saw {colour} doors in {town}, what now, {i}?\n\nAssistant:");
        let line = serde_json::json!({
            "chosen": format!("{prompt} You could count the {colour} ones again."),
            "rejected": format!("{prompt} I do not care about {town}."),
        });
        lines.push(line.to_string());
    }
    lines.push(lines[0].clone());
    let same = "\n\nHuman: Hello?\n\nAssistant: Yes.";
    lines.push(serde_json::json!({"chosen": same, "rejected": same}).to_string());
    lines.join("\n") + "\n"
}

fn write(folder: &Path, name: &str, text: &str) -> String {
    let path = folder.join(name);
    fs::write(&path, text).unwrap();
    path.to_str().unwrap().into()
}

#[test]
fn a_run_on_preference_files_ends_with_everything_that_they_allow() {
    let dir = tempfile::tempdir().unwrap();
    let data = write(dir.path(), "pairs.jsonl", &dialogues(80));
    let out = dir.path().join("run");
    let arguments = |out: &Path| -> Vec<String> {
        [
            "--preset",
            "hh-scratch",
            "--data",
            &data,
            "--smoke",
            "--quiet",
            "--methods",
            "ppo,rto",
            "--out",
        ]
        .into_iter()
        .map(String::from)
        .chain([out.to_str().unwrap().into()])
        .collect()
    };
    let all = arguments(&out);
    let all: Vec<&str> = all.iter().map(String::as_str).collect();
    let text = ok(&all);
    assert!(text.contains("82 records read, 80 kept"), "{text}");

    let read = |name: &str| fs::read_to_string(out.join(name)).unwrap();
    let account: serde_json::Value = serde_json::from_str(&read("data.json")).unwrap();
    let count = |key: &str| account[key].as_u64().unwrap();
    assert_eq!(
        count("kept"),
        count("train_pairs") + count("held_out_pairs") + count("oracle_pairs")
    );
    for (rule, removed) in [("identical-pair", 1), ("duplicate", 1), ("overlong", 0)] {
        let rules = account["rules"].as_array().unwrap();
        let row = rules.iter().find(|r| r["rule"] == rule).unwrap();
        assert_eq!(row["removed"], removed, "{rule}");
    }

    // No conversation trains a policy and the oracle, or is trained on and evaluated.
    let responses = objects(&read("responses.jsonl"));
    assert_eq!(
        responses.len(),
        4 * 10,
        "sft, dpo, ppo and rto on ten prompts"
    );
    for line in &responses {
        assert!(line["prompt"].as_str().unwrap().ends_with("Assistant:"));
        assert!(line["reward"].is_f64() && line["kl"].is_f64() && line["length"].is_u64());
    }
    for name in [
        "pretrain",
        "sft",
        "reward",
        "dpo",
        "oracle_pretrain",
        "oracle",
        "ppo",
        "rto",
    ] {
        assert!(
            out.join("policies")
                .join(name)
                .join("tokenizer.json")
                .is_file(),
            "{name}"
        );
    }
    let card = read("policies/rto/README.md");
    assert!(
        card.contains("reward by the oracle") && card.contains("`pairs.jsonl`"),
        "{card}"
    );
    let agreement = read("agreement.csv");
    assert_eq!(
        agreement.lines().count(),
        4,
        "oracle, reward and dpo: {agreement}"
    );
    assert!(!out.join("exact.csv").exists(), "nothing can be enumerated");
    let page = read("report.html");
    assert!(page.contains("Agreement with people") && !page.contains("true reward"));
    assert!(read("metrics/rto.jsonl").contains("objective/oracle_reward"));

    let again = dir.path().join("again");
    let second = arguments(&again);
    ok(&second.iter().map(String::as_str).collect::<Vec<_>>());
    same(&contents(&out), &contents(&again));

    // A trained policy as the start, its own reward model as the oracle.
    let (sft, oracle) = (out.join("policies/sft"), out.join("policies/oracle"));
    let third = dir.path().join("third");
    let [sft, oracle, third] = [&sft, &oracle, &third].map(|p| p.to_str().unwrap());
    ok(&[
        "--smoke",
        "--quiet",
        "--data",
        &data,
        "--model",
        sft,
        "--oracle",
        oracle,
        "--methods",
        "dppo",
        "--set",
        "max_prompt_tokens=32",
        "--set",
        "cut_replies=true",
        "--set",
        "held_out_share=0.25",
        "--out",
        third,
    ]);
    assert!(
        Path::new(third)
            .join("policies/dppo/model.safetensors")
            .is_file()
    );
    assert!(
        !Path::new(third).join("policies/oracle").exists(),
        "one was given"
    );

    // The run does not go on with other data.
    let before = contents(&out);
    // As many records, other words.
    let other = dialogues(80).replace("count the", "paint the");
    write(dir.path(), "pairs.jsonl", &other);
    let said = error(&all);
    assert!(said.contains("data.json"), "{said}");
    same(&before, &contents(&out));
}

#[test]
fn bad_data_is_one_clear_line_and_nothing_is_written() {
    let dir = tempfile::tempdir().unwrap();
    let good = write(dir.path(), "good.jsonl", &dialogues(80));
    let bad = |name: &str, text: &str| write(dir.path(), name, text);
    let broken = bad("broken.jsonl", &(dialogues(3) + "{\"chosen\": \n"));
    let column = bad("column.jsonl", "{\"text\": \"a\", \"rejected\": \"b\"}\n");
    let empty = bad("empty.jsonl", "");
    let none = dir.path().join("none");
    fs::create_dir(&none).unwrap();
    // HH-RLHF as it is published: a folder of folders.
    let above = dir.path().join("hh-rlhf");
    fs::create_dir_all(above.join("helpful-base")).unwrap();
    fs::write(above.join("helpful-base/test.jsonl.gz"), "").unwrap();
    let model = fixture("plain");
    let other = dir.path().join("other");
    fs::create_dir(&other).unwrap();
    for entry in fs::read_dir(&model).unwrap().flatten() {
        fs::copy(entry.path(), other.join(entry.file_name())).unwrap();
    }
    let tokenizer = fs::read_to_string(other.join("tokenizer.json")).unwrap();
    let mut tokenizer: serde_json::Value = serde_json::from_str(&tokenizer).unwrap();
    tokenizer["model"]["vocab"]["too far"] = 99_999.into();
    fs::write(other.join("tokenizer.json"), tokenizer.to_string()).unwrap();
    let (other, none) = (other.to_str().unwrap(), none.to_str().unwrap());
    let above = above.to_str().unwrap();
    let cases: [(&[&str], &[&str]); 15] = [
        (&[], &["--data"]),
        (
            &[
                "--data",
                &good,
                "--model",
                &model,
                "--set",
                "max_new_tokens=5000",
            ],
            &["max_new_tokens: found 5000, expected at most"],
        ),
        (&["--data", "nowhere.jsonl"], &["nowhere.jsonl"]),
        (&["--data", &broken], &["broken.jsonl:6"]),
        (
            &["--data", &column],
            &["column.jsonl:1", "\"chosen\"", "text"],
        ),
        (&["--data", &empty], &["empty.jsonl", "empty"]),
        (&["--data", none], &["holds no .jsonl"]),
        (
            &["--data", above],
            &[
                "holds no .jsonl",
                "folders in it do: --data",
                "helpful-base",
            ],
        ),
        (&["--data", "world", &good], &["\"world\" beside files"]),
        (
            &[
                "--data",
                &good,
                "--set",
                "max_prompt_tokens=4",
                "--set",
                "cut_prompts=false",
            ],
            &["overlong"],
        ),
        (
            &["--data", &good, "--set", "max_new_tokens=100"],
            &["max_positions: found 160"],
        ),
        (
            &["--data", &good, "--set", "rules=[\"long\"]"],
            &["rules", "long", "overlong"],
        ),
        (
            &["--data", &good, "--model", other],
            &["tokenizer.json", "99999"],
        ),
        (
            &["--data", &good, "--oracle", &model],
            &["--oracle", "sequence-classification"],
        ),
        (
            &["--data", &good, "--set", "eval_prompts=1000"],
            &["eval_prompts: found 1000"],
        ),
    ];
    let out = dir.path().join("out");
    for (arguments, expected) in cases {
        let mut all = vec![
            "--preset",
            "hh-scratch",
            "--smoke",
            "--quiet",
            "--out",
            out.to_str().unwrap(),
        ];
        all.extend(arguments);
        let said = error(&all);
        for word in expected {
            assert!(said.contains(word), "{arguments:?}: {said}");
        }
        assert!(!out.exists(), "{arguments:?} left something behind");
    }
}

/// The preset that runs by default is made for the synthetic world: whoever brings data is told which one is made for them.
#[test]
fn data_without_a_preset_are_told_theirs() {
    let dir = tempfile::tempdir().unwrap();
    let data = write(dir.path(), "good.jsonl", &dialogues(80));
    let said = error(&["--data", &data, "--dry-run"]);
    assert!(said.contains("--preset hh-scratch"), "{said}");
    let said = error(&[
        "--preset",
        "hh-scratch",
        "--data",
        &data,
        "--set",
        "max_new_tokens=1000",
        "--dry-run",
    ]);
    assert!(
        said.contains("max_positions") && !said.contains("--preset"),
        "{said}"
    );
}

#[test]
fn every_preset_resolves() {
    let dir = tempfile::tempdir().unwrap();
    let data = write(dir.path(), "pairs.jsonl", &dialogues(80));
    let made = dir.path().join("made");
    let out = made.to_str().unwrap();
    ok(&[
        "--preset",
        "hh-scratch",
        "--data",
        &data,
        "--smoke",
        "--quiet",
        "--stage",
        "sft",
        "--out",
        out,
    ]);
    let model = made.join("policies/sft").to_str().unwrap().to_string();
    let names = [
        "pythia-14m",
        "pythia-70m",
        "pythia-160m",
        "pythia-410m",
        "pythia-1b",
        "pythia-1.4b",
        "pythia-2.8b-hh",
        "smollm2-135m-hh",
    ];
    let resolve = |name: &str, more: &[&str]| {
        let sets = [
            "eval_prompts=1",
            "cut_prompts=true",
            "cut_replies=true",
            "max_prompt_tokens=24",
            "max_new_tokens=24",
            "held_out_share=0.2",
        ];
        let mut args = vec!["--preset", name, "--dry-run", "--quiet"];
        args.extend(["--data", &data, "--model", &model]);
        args.extend(sets.iter().flat_map(|set| ["--set", *set]));
        args.extend(more);
        ok(&args)
    };
    // Another model and the rates of the code that was released for it; adapters on every preset that is asked for them.
    let text = resolve("llama3-8b-ultrafeedback", &[]);
    for line in [
        "methods = [\"ppo\", \"rto_released\"]",
        "method.rto_released.beta1 = 0.05",
        "method.rto_released.clip = 0.05",
        "method.rto_released.beta2 = 0.01",
        "ppo.prompts_per_iteration = 1024",
        "ppo.minibatch_size = 128",
        "ppo.epochs = 1",
        "ppo.aggregation = \"sequence_mean\"",
        "sft.aggregation = \"sequence_mean\"",
        "ppo.schedule.cosine.warmup = 0.03",
        "moments = \"8bit\"",
        "lora_rank = 16",
    ] {
        assert!(settings(&text).iter().any(|l| l == line), "no line {line}");
    }
    let plan = |text: &str| {
        let line = text.lines().find(|l| l.contains("MB at once")).unwrap();
        let digits: String = line.chars().filter(char::is_ascii_digit).collect();
        digits.parse::<u64>().unwrap()
    };
    let [full, adapted] = [&[][..], &["--lora", "4"]].map(|more| resolve("pythia-14m", more));
    assert!(adapted.contains("lora_rank = 4"));
    assert!(plan(&adapted) <= plan(&full));
    for name in names {
        // The paper's own numbers: Tables 2 to 5.
        let text = resolve(name, &[]);
        for line in [
            "sft.learning_rate = 0.00001",
            "sft.batch_size = 32",
            "dpo.fit.learning_rate = 0.000005",
            "dpo.beta = 0.1",
            "dpo.fit.batch_size = 32",
            "reward.batch_size = 128",
            "reward.learning_rate = 0.00001",
            "ppo.prompts_per_iteration = 256",
            "ppo.minibatch_size = 16",
            "ppo.epochs = 2",
            "ppo.learning_rate = 0.000005",
            "beta1 = 0.1",
            "method.rto_printed.beta2 = 0.03",
            "ppo.beta2 = 0.05",
        ] {
            let found = settings(&text).iter().any(|l| l == line);
            assert!(found, "{name}: no line {line}");
        }
    }
}

/// The settings that a dry run prints, a line each with the tables in its key.
fn settings(text: &str) -> Vec<String> {
    let mut table = String::new();
    let mut all = Vec::new();
    for line in text.lines() {
        match line.strip_prefix('[').and_then(|l| l.strip_suffix(']')) {
            Some(name) => table = format!("{name}."),
            None => all.push(format!("{table}{line}")),
        }
    }
    all
}

/// Columns under other names, a system message beside them, an array, and lines that cannot be read.
#[test]
fn columns_have_flags_and_unreadable_lines_a_limit() {
    let dir = tempfile::tempdir().unwrap();
    let row = |i: usize| {
        serde_json::json!({
            "system": "You help.", "question": format!("Where is door {i}?"), "best": format!("Behind wall {i}."), "worst": "No.", "score": 1.5,
        })
    };
    let rows: Vec<serde_json::Value> = (0..80).map(row).collect();
    let mut lines: Vec<String> = rows
        .iter()
        .map(|r| r.to_string().replace("1.5", "NaN"))
        .collect();
    lines.insert(2, "{\"question\": ".into());
    let data = write(dir.path(), "d.jsonl", &lines.join("\n"));
    let array = write(dir.path(), "d.json", &serde_json::to_string(&rows).unwrap());
    let plain = ["--preset", "hh-scratch", "--smoke", "--dry-run", "--data"];
    let flags = [
        "--prompt-column",
        "question",
        "--chosen-column",
        "best",
        "--rejected-column",
        "worst",
    ];
    let said = error(&[&plain[..], &[&*data]].concat());
    assert!(
        said.contains("the columns found are best, question, score, system, worst")
            && said.contains("--prompt-column"),
        "{said}"
    );
    let said = error(&[&plain[..], &[&*data], &flags[..]].concat());
    assert!(
        said.contains("d.jsonl:3: malformed JSON") && said.contains("max_bad_lines"),
        "{said}"
    );
    let text = ok(&[
        &plain[..],
        &[&*data],
        &flags[..],
        &["--set", "max_bad_lines=1"],
    ]
    .concat());
    assert!(
        text.contains("passed over") && text.contains("d.jsonl:3: malformed JSON"),
        "{text}"
    );
    assert!(
        text.contains("column \"system\" stands in front as a system message")
            && text.contains("80 records read, 80 kept"),
        "{text}"
    );
    let text = ok(&[&plain[..], &[&*array], &flags[..], &["--system-column", ""]].concat());
    assert!(
        text.contains("80 records read, 80 kept") && !text.contains("stands in front"),
        "{text}"
    );
}

/// KTO-style files, (prompt, completion, label), from SFT to the last method; a loss that compares two replies is refused by name.
#[test]
fn replies_with_a_label_train_every_stage() {
    let dir = tempfile::tempdir().unwrap();
    let mut rows = String::new();
    for pair in objects(&dialogues(80)) {
        for (side, label) in [("chosen", true), ("rejected", false)] {
            let text = pair[side].as_str().unwrap();
            let cut = text.rfind("Assistant:").unwrap() + "Assistant:".len();
            let row = serde_json::json!({"prompt": text[..cut], "completion": text[cut..], "label": label});
            rows += &format!("{row}\n");
        }
    }
    let data = write(dir.path(), "labels.jsonl", &rows);
    let settings = [
        "--preset",
        "hh-scratch",
        "--data",
        &data,
        "--smoke",
        "--quiet",
        "--methods",
        "ppo,rto",
    ];
    let kto = ["--set", "dpo.loss=\"kto\""];
    let whole = dir.path().join("whole");
    let out = ["--out", whole.to_str().unwrap()];
    let text = ok(&[&settings[..], &kto, &out].concat());
    assert!(text.contains("labelled replies to train on"), "{text}");
    for stage in ["sft", "reward", "oracle", "dpo", "ppo", "rto"] {
        assert!(whole.join("policies").join(stage).is_dir(), "{stage}");
    }
    // Held-out replies, a wanted beside an unwanted one: oracle, reward and dpo.
    let agreement = fs::read_to_string(whole.join("agreement.csv")).unwrap();
    let counts = agreement
        .lines()
        .skip(1)
        .map(|line| line.rsplit(',').next());
    let counts: Vec<u64> = counts.map(|n| n.unwrap().parse().unwrap()).collect();
    assert_eq!(counts.len(), 3, "{agreement}");
    assert!(
        counts.iter().all(|n| *n == counts[0] && *n > 0),
        "{agreement}"
    );
    let page = fs::read_to_string(whole.join("report.html")).unwrap();
    assert!(page.contains("the i-th wanted one above the i-th unwanted one"));
    assert!(!page.contains("Exact suboptimality"));
    let metrics = fs::read_to_string(whole.join("metrics/dpo.jsonl")).unwrap();
    let first = &objects(&metrics)[0];
    // π = π_ref at the first step: every log-ratio and z₀ are 0, and the loss is λ σ(0).
    let number = |key: &str| first[key].as_f64().unwrap();
    assert!((number("loss") - 0.5).abs() < 1e-6, "{first}");
    assert!(number("rewards/chosen").abs() < 1e-4, "{first}");

    // Stopped after SFT and after DPO, and gone on with: the same bytes.
    let parts = dir.path().join("parts");
    let out = ["--out", parts.to_str().unwrap()];
    for last in [&["--stage", "sft"][..], &["--stage", "dpo"], &[]] {
        ok(&[&settings[..], &kto, &out, last].concat());
    }
    same(&contents(&whole), &contents(&parts));

    let refused = dir.path().join("refused");
    let out = ["--out", refused.to_str().unwrap()];
    let said = error(&[&settings[..], &out].concat());
    assert!(said.contains("dpo.loss: found \"dpo\""), "{said}");
    assert!(!refused.exists());
}
