//! End tokens and rewards, as a model's folder says.

use crate::{cases, folder_of, ids};
use candle_core::Device;
use rto::seq::{Channel, Episode, Finish, TokenScorer};
use rto_bridge::checkpoint::{self, Contents};
use rto_bridge::generate::{Engine, Sampling};
use rto_bridge::learner::NeuralScorer;
use serde_json::{Value, json};
use std::sync::Arc;

/// A response ends at any token that `config.json`, `generation_config.json` or the tokenizer names; what is saved keeps the set.
#[test]
fn a_response_ends_at_any_of_the_set() {
    let root = tempfile::tempdir().unwrap();
    let mut short = 0;
    for case in cases()["ends"].as_array().unwrap() {
        let folder = folder_of(case, root.path());
        let loaded = checkpoint::load(&folder, None, &Device::Cpu).unwrap();
        let mut ends = loaded.config.end_tokens().all().to_vec();
        ends.sort_unstable();
        assert_eq!(ends, ids(&case["ends"]), "{case}");
        assert_eq!(
            loaded.config.eos_token(),
            Some(case["reply"].as_u64().unwrap() as u32),
            "{case}"
        );
        let engine = Engine::new(&loaded.config, loaded.head, &loaded.weights).unwrap();
        let sampling = Sampling {
            max_new_tokens: 24,
            ends: loaded.config.end_tokens().clone(),
            ..Sampling::default()
        };
        let prompt: Arc<[u32]> = ids(&case["prompt_ids"]).into();
        let written = engine.greedy(&[prompt], &sampling).unwrap().remove(0);
        assert_eq!(written.episode.response, ids(&case["greedy"]), "{case}");
        short += usize::from(written.episode.finish == Finish::Eos);
        // A trained network is saved with the whole set, and stops there when it is read again.
        let saved = root
            .path()
            .join(format!("{}-saved", case["name"].as_str().unwrap()));
        let contents = Contents {
            config: &loaded.config,
            head: loaded.head,
            weights: &loaded.weights,
            dtype: loaded.stored_dtype,
            shard_bytes: 1 << 30,
            carry: Some(&folder),
        };
        checkpoint::save(&saved, &contents).unwrap();
        assert_eq!(checkpoint::read_config(&saved).unwrap().0, loaded.config);
        let generation = std::fs::read(saved.join("generation_config.json")).unwrap();
        let generation: Value = serde_json::from_slice(&generation).unwrap();
        let named = |value: &Value| {
            value
                .as_array()
                .map_or_else(|| vec![value.clone()], Clone::clone)
        };
        let config: Value =
            serde_json::from_slice(&std::fs::read(saved.join("config.json")).unwrap()).unwrap();
        for end in ends {
            let all = [
                named(&generation["eos_token_id"]),
                named(&config["eos_token_id"]),
            ]
            .concat();
            assert!(all.contains(&json!(end)), "{generation} {config}");
        }
    }
    assert!(short >= 4, "{short} responses end before the length");
}

/// Sequence classification reads the last token that is not padding: not the end, where the two are one token.
#[test]
fn rewards_are_read_where_transformers_reads_them() {
    let root = tempfile::tempdir().unwrap();
    for case in cases()["scores"].as_array().unwrap() {
        let folder = folder_of(
            &json!({"name": case["name"], "base": case["base"]}),
            root.path(),
        );
        let path = folder.join("config.json");
        let mut config: Value = serde_json::from_slice(&std::fs::read(&path).unwrap()).unwrap();
        for (key, value) in case["config"].as_object().unwrap() {
            config[key] = value.clone();
        }
        std::fs::write(&path, config.to_string()).unwrap();
        let scorer = NeuralScorer::load(&folder, false, &Device::Cpu).unwrap();
        let rows = case["rows"].as_array().unwrap().iter().map(ids);
        let episodes: Vec<Episode> = rows
            .map(|ids| {
                Episode::try_new(ids[..1].into(), ids[1..].to_vec(), Finish::Length).unwrap()
            })
            .collect();
        let ours = scorer.scores(&episodes).unwrap();
        let ours = ours.get(Channel::Reward).unwrap().row_sums();
        for (ours, theirs) in ours.iter().zip(case["scores"].as_array().unwrap()) {
            let theirs = theirs.as_f64().unwrap();
            assert!(
                (ours - theirs).abs() < 1e-5 * theirs.abs().max(1.0),
                "{}: {ours} {theirs}",
                case["name"]
            );
        }
    }
}
