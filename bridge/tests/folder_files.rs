//! What stands beside the weights in a policy's folder: a tokenizer trained here, and a model card.

use std::path::{Path, PathBuf};

use rto_bridge::model_card::{Metric, ModelCard};
use rto_bridge::tokenizer_training::{END_OF_TEXT, PADDING, TrainingOptions, train};

const TEXTS: [&str; 6] = [
    "\n\nHuman: What do cats eat?\n\nAssistant: Cats eat fish, and they eat mice.",
    "\n\nHuman: What do owls eat?\n\nAssistant: Owls eat mice.",
    "\n\nHuman: Where do cats live?\n\nAssistant: Cats live in houses.",
    "\n\nHuman: Where do owls live?\n\nAssistant: Owls live in trees, héhé.",
    "\n\nHuman: What do cats do?\n\nAssistant: They sleep.",
    "",
];

fn options(vocab_size: usize) -> TrainingOptions {
    TrainingOptions {
        vocab_size,
        min_frequency: 2,
        max_positions: 128,
    }
}

#[test]
fn every_text_survives_and_merges_shorten_it() {
    let trained = train(TEXTS.iter(), &options(300)).unwrap();
    assert_eq!(trained.vocab_size(), 300);
    let inner = trained.inner();
    assert_eq!(inner.token_to_id(END_OF_TEXT), Some(0));
    assert_eq!(inner.token_to_id(PADDING), Some(1));
    let strange = "Ünknown 🦉 words\t\u{0}\n\n Human:x";
    for text in TEXTS.iter().copied().chain([strange]) {
        let ids = inner.encode(text, false).unwrap();
        assert_eq!(inner.decode(ids.get_ids(), false).unwrap(), text);
        assert!(
            ids.get_ids().iter().all(|id| *id > 1),
            "special tokens come from no text"
        );
    }
    let ids = inner.encode(TEXTS[0], false).unwrap();
    assert!(2 * ids.len() < TEXTS[0].len(), "{} tokens", ids.len());
    let ids = inner.encode("eat<|endoftext|>", false).unwrap();
    assert_eq!(ids.get_ids().last(), Some(&0));
}

/// BPE from its definition: count pairs over words, merge the most frequent, ties to the pair of smaller ids.
#[test]
fn the_merges_are_those_of_the_definition() {
    // Ids of the letters: two special tokens, then the byte alphabet in order of its characters.
    let trained = train(["ab ab ab abc bc", "bc bcd cd"].iter(), &options(262)).unwrap();
    let merges = |json: &str| -> Vec<String> {
        let value: serde_json::Value = serde_json::from_str(json).unwrap();
        let list = value["model"]["merges"].as_array().unwrap().clone();
        let side = |m: &serde_json::Value, i: usize| m[i].as_str().unwrap().to_string();
        list.iter()
            .map(|m| side(m, 0) + "+" + &side(m, 1))
            .collect()
    };
    let found = merges(&trained.files().unwrap()[0].1);
    // Words: "ab" 1, "Ġab" 2, "Ġabc" 1, "Ġbc" 1 | "bc" 1, "Ġbcd" 1, "Ġcd" 1.
    // a+b 4, b+c 4, Ġ+a 3, c+d 2, Ġ+b 2: a+b first (the tie goes to the smaller ids); then Ġ+ab 3 and b+c 3
    // ("Ġabc" no longer counts for b+c), of which b+c has the smaller ids; then Ġ+ab 3; then Ġ+bc 2.
    assert_eq!(found, ["a+b", "b+c", "Ġ+ab", "Ġ+bc"]);
}

#[test]
fn the_same_texts_give_the_same_bytes() {
    let files = |texts: &[&str]| train(texts.iter(), &options(300)).unwrap().files().unwrap();
    let first = files(&TEXTS);
    let mut turned = TEXTS;
    turned.reverse();
    for _ in 0..5 {
        assert_eq!(files(&TEXTS), first);
        assert_eq!(
            files(&turned),
            first,
            "the order of texts changed something"
        );
    }
}

#[test]
fn hopeless_training_is_refused() {
    let said = |texts: &[&str], n| train(texts.iter(), &options(n)).unwrap_err().to_string();
    assert_eq!(
        said(&TEXTS, 258),
        "vocab_size: found 258, expected more than 258, which the bytes and special tokens take"
    );
    assert!(said(&[], 300).contains("expected texts with words"));
    assert!(said(&["a", "b"], 300).contains("expected texts with words"));
    // Short texts give a small vocabulary and say so.
    assert!(train(TEXTS.iter(), &options(5000)).unwrap().vocab_size() < 500);
}

fn card() -> ModelCard {
    ModelCard {
        family: "gpt_neox".into(),
        name: "rto-tiny-seed1".into(),
        method: "rto".into(),
        preset: "tiny".into(),
        seed: 1,
        base_model: None,
        datasets: vec!["hh: \"quoted\"\n- x".into()],
        evaluated_on: "400 held-out prompts".into(),
        caution: None,
        metrics: vec![
            Metric {
                name: "win rate against sft".into(),
                value: 0.629,
                interval: Some((0.58, 0.675)),
            },
            Metric {
                name: "KL | nats".into(),
                value: 6.25,
                interval: None,
            },
        ],
        settings: vec![
            ("beta1".into(), "0.1".into()),
            ("beta2".into(), "0.03".into()),
        ],
        made_by: "rto_llm 0.1.0 (revision 0123abc)".into(),
    }
}

#[test]
fn a_card_says_what_the_model_is() {
    let text = card().to_markdown().unwrap();
    let (front, body) = text
        .strip_prefix("---\n")
        .unwrap()
        .split_once("---\n")
        .unwrap();
    assert!(front.contains("library_name: transformers\n"));
    // A name cannot begin a line of its own.
    assert!(front.contains("- \"hh: \\\"quoted\\\"\\n- x\"\n"));
    assert!(body.contains("# rto-tiny-seed1") && body.contains("Reinforced Token Optimization"));
    assert!(body.contains("- Preset: `tiny`\n- Seed: 1\n"));
    assert!(body.contains("| win rate against sft | 0.6290 | 0.5800 to 0.6750 |"));
    assert!(body.contains("| KL \\| nats | 6.2500 | – |") && body.contains("| beta2 | 0.03 |"));
    let dppo = ModelCard {
        method: "dppo".into(),
        base_model: Some("EleutherAI/pythia-14m".into()),
        ..card()
    };
    let text = dppo.to_markdown().unwrap();
    assert!(
        text.contains("not divergence PPO")
            && text.contains("base_model: \"EleutherAI/pythia-14m\"")
    );
    // A caution stands before the results, on one line.
    assert!(!text.contains("> **"));
    let small = ModelCard {
        caution: Some("two\niterations".into()),
        ..card()
    };
    let text = small.to_markdown().unwrap();
    let [caution, results] =
        ["> **two iterations**", "## Results"].map(|part| text.find(part).unwrap());
    assert!(caution < results && !text.contains("model-index"));
    let bad = Metric {
        name: "loss".into(),
        value: f64::NAN,
        interval: None,
    };
    let refused = ModelCard {
        metrics: vec![bad],
        ..card()
    };
    assert!(
        refused
            .to_markdown()
            .unwrap_err()
            .to_string()
            .starts_with("model card: metric loss")
    );
    assert!(ModelCard::default().to_markdown().is_err());
}

/// `RTO_PYTHON` names a Python with `transformers` and `huggingface_hub`.
#[test]
fn the_hugging_face_libraries_read_both() {
    let Some(python) = std::env::var_os("RTO_PYTHON") else {
        println!("skipped: RTO_PYTHON does not name a Python with transformers");
        return;
    };
    let dir = PathBuf::from(env!("CARGO_TARGET_TMPDIR")).join("folder_files");
    let trained = train(TEXTS.iter(), &options(300)).unwrap();
    trained.save(&dir).unwrap();
    card().save(&dir).unwrap();
    assert!(Path::new(&dir).join("README.md").is_file());
    let program = r#"
import json, sys
from transformers import AutoTokenizer
from huggingface_hub import ModelCard
t = AutoTokenizer.from_pretrained(sys.argv[1])
texts = json.loads(sys.argv[2])
card = ModelCard.load(sys.argv[1] + "/README.md")
m = card.data.eval_results
front = card.data.to_dict()
print(json.dumps({"ids": [t(x)["input_ids"] for x in texts], "back": [t.decode(t(x)["input_ids"]) for x in texts],
  "special": [t.eos_token_id, t.pad_token_id, t.bos_token_id], "n": len(t), "max": t.model_max_length,
  "card": [front["library_name"], front["datasets"], m[0].metric_value, m[0].dataset_name, front["tags"]]}))
"#;
    let texts = serde_json::to_string(&TEXTS).unwrap();
    let output = std::process::Command::new(python)
        .args(["-c", program])
        .arg(&dir)
        .arg(&texts)
        .env("HF_HUB_OFFLINE", "1")
        .output()
        .unwrap();
    assert!(
        output.status.success(),
        "{}",
        String::from_utf8_lossy(&output.stderr)
    );
    let found: serde_json::Value = serde_json::from_slice(&output.stdout).unwrap();
    let ids = |text: &&str| {
        trained
            .inner()
            .encode(*text, false)
            .unwrap()
            .get_ids()
            .to_vec()
    };
    let ours: Vec<Vec<u32>> = TEXTS.iter().map(ids).collect();
    assert_eq!(found["ids"], serde_json::json!(ours));
    assert_eq!(found["back"], serde_json::json!(TEXTS));
    assert_eq!(found["special"], serde_json::json!([0, 1, 0]));
    assert_eq!(
        (&found["n"], &found["max"]),
        (&serde_json::json!(300), &serde_json::json!(128))
    );
    let card = serde_json::json!([
        "transformers",
        ["hh: \"quoted\"\n- x"],
        0.629,
        "400 held-out prompts",
        ["rlhf", "gpt_neox", "rto"]
    ]);
    assert_eq!(found["card"], card);
}

/// A vocabulary for `hh-scratch` from the training conversations of the published test set, where `RTO_HH_RLHF` names it.
#[test]
fn real_dialogues_give_a_tokenizer_in_seconds() {
    use rto::seed::SeedTree;
    use rto_bridge::data::{self, CleanOptions, ReadOptions, Rule};
    let Some(path) = std::env::var_os("RTO_HH_RLHF") else {
        println!("skipped: RTO_HH_RLHF does not name harmless-base/test.jsonl.gz");
        return;
    };
    let pairs = data::read_pairs(&[PathBuf::from(path)], &ReadOptions::default()).unwrap();
    let clean = CleanOptions::default().with(Rule::HumanInReply);
    let (pairs, _) = data::clean_pairs(pairs, &clean).unwrap();
    let roles = data::roles(pairs, 0.2, &SeedTree::new(1)).unwrap();
    let sizes = [roles.train.len(), roles.held_out.len(), roles.oracle.len()];
    println!("train, held out, oracle: {sizes:?}");
    assert!(roles.held_out.len() >= 400);
    let texts = roles
        .train
        .iter()
        .flat_map(|p| [&p.chosen, &p.rejected].map(|reply| format!("{}{reply}", p.prompt)));
    let texts: Vec<String> = texts.collect();
    let start = std::time::Instant::now();
    let trained = train(texts.iter(), &options(4096)).unwrap();
    println!(
        "{} texts, {:.2} s",
        texts.len(),
        start.elapsed().as_secs_f64()
    );
    assert_eq!(trained.vocab_size(), 4096);
    let again = train(texts.iter().rev(), &options(4096)).unwrap();
    assert!(again.files().unwrap() == trained.files().unwrap());
    // Held-out text is shorter in tokens too, and comes back byte for byte.
    let (mut bytes, mut tokens) = (0, 0);
    for pair in &roles.held_out {
        let ids = trained.inner().encode(pair.prompt.as_str(), false).unwrap();
        assert_eq!(
            trained.inner().decode(ids.get_ids(), false).unwrap(),
            pair.prompt
        );
        bytes += pair.prompt.len();
        tokens += ids.len();
    }
    println!(
        "held out: {:.2} bytes a token",
        bytes as f64 / tokens as f64
    );
    assert!(bytes > 3 * tokens);
}
