//! The engine against Hugging Face, the samplers against their distributions and against brute force.
//!
//! `RTO_FIXTURES=DIR cargo test -p rto-bridge --test generate` also checks folders of larger fixtures, each with
//! `policy/` and `io.safetensors`.

#[path = "generate/samplers.rs"]
mod samplers;

use candle_core::{DType, Device, Tensor};
use rto::seed::SeedTree;
use rto::seq::{Decoder, Finish, StreamKey};
use rto_bridge::batch::Batch;
use rto_bridge::checkpoint::{self, Checkpoint};
use rto_bridge::decoder::Truncated;
use rto_bridge::family::Head;
use rto_bridge::generate::{Engine, Sampled, Sampling, TensorEngine};
use rto_bridge::model::{Model, Request};
use rto_bridge::params::Params;
use rto_bridge::sampler;
use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use std::sync::Arc;

/// Largest |difference| over largest |reference| (the project's parity bound).
const PARITY: f64 = 1e-4;

fn fixture(name: &str) -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR"))
        .join("tests/fixtures/generation")
        .join(name)
}

fn open(folder: &Path) -> (Checkpoint, Engine) {
    let loaded = checkpoint::load(folder, Some(DType::F32), &Device::Cpu).unwrap();
    let engine = Engine::new(&loaded.config, loaded.head, &loaded.weights).unwrap();
    (loaded, engine)
}

/// Every tensor of a file, integers included.
fn tensors(path: &Path) -> BTreeMap<String, Tensor> {
    let all = candle_core::safetensors::load(path, &Device::Cpu).unwrap();
    all.into_iter().collect()
}

fn ids(tensor: &Tensor) -> Vec<Vec<u32>> {
    tensor.to_dtype(DType::U32).unwrap().to_vec2().unwrap()
}

fn deviation(ours: &[f32], theirs: &[f32]) -> f64 {
    assert_eq!(ours.len(), theirs.len());
    let difference = |(a, b): (&f32, &f32)| f64::from((a - b).abs());
    let largest = ours.iter().zip(theirs).map(difference).fold(0.0, f64::max);
    let scale = theirs
        .iter()
        .map(|v| f64::from(v.abs()))
        .fold(0.0, f64::max);
    assert!(largest.is_finite());
    largest / scale
}

/// Tokens without the padding, by a mask.
fn ragged(rows: &[Vec<u32>], mask: &[Vec<u32>]) -> Vec<Arc<[u32]>> {
    let keep = |(row, mask): (&Vec<u32>, &Vec<u32>)| {
        row.iter()
            .zip(mask)
            .filter(|(_, m)| **m == 1)
            .map(|(t, _)| *t)
            .collect()
    };
    rows.iter().zip(mask).map(keep).collect()
}

fn key(i: u64) -> StreamKey {
    StreamKey::new(SeedTree::new(9).index(i))
}

fn parity(folder: &Path, ids_name: &str, expected: &BTreeMap<String, Tensor>) -> f64 {
    let (loaded, engine) = open(folder);
    let slow = TensorEngine::new(&loaded.config, &loaded.weights).unwrap();
    let theirs: Vec<Vec<Vec<f32>>> = expected[&ids_name
        .replace("input_ids", "logits")
        .replace("ids", "logits")]
        .to_vec3()
        .unwrap();
    let mut worst = 0.0_f64;
    for (text, theirs) in ids(&expected[ids_name]).iter().zip(&theirs) {
        let ours = engine.logits(text).unwrap().concat();
        worst = worst.max(deviation(&ours, &theirs.concat()));
        worst = worst.max(deviation(
            &slow.logits(text).unwrap().concat(),
            &theirs.concat(),
        ));
    }
    worst
}

/// Greedy text with every token from a pass over the whole prefix.
fn greedy_without_cache(engine: &Engine, prompt: &[u32], n: usize) -> Vec<u32> {
    let mut text = prompt.to_vec();
    for _ in 0..n {
        let logits = engine.logits(&text).unwrap().pop().unwrap();
        let best = (0..logits.len()).max_by(|&a, &b| logits[a].total_cmp(&logits[b]));
        text.push(best.unwrap() as u32);
    }
    text.split_off(prompt.len())
}

#[test]
fn logits_and_greedy_text_are_those_of_hugging_face() {
    for name in ["plain", "sharded", "half", "llama", "mistral"] {
        let folder = fixture(name);
        let expected = tensors(&folder.join("expected.safetensors"));
        let worst = parity(&folder, "ids", &expected);
        assert!(worst < PARITY, "{name}: {worst:e}");
        println!("{name}: logits deviate by {worst:.1e}");

        let (loaded, engine) = open(&folder);
        let prompts = ragged(&ids(&expected["left.ids"]), &ids(&expected["left.mask"]));
        let theirs = ids(&expected["left.greedy"]);
        let sampling = Sampling {
            max_new_tokens: theirs[0].len(),
            ..Sampling::default()
        };
        let ours = engine.greedy(&prompts, &sampling).unwrap();
        let slow = TensorEngine::new(&loaded.config, &loaded.weights).unwrap();
        let slow = slow.sample(&prompts, None, &sampling).unwrap();
        for ((ours, slow), theirs) in ours.iter().zip(&slow).zip(&theirs) {
            assert_eq!(&ours.episode.response, theirs, "{name}");
            let again = greedy_without_cache(&engine, &ours.episode.prompt, theirs.len());
            assert_eq!(&again, theirs, "{name}, without cache");
            assert_eq!(&slow.episode.response, theirs, "{name}, tensors");
            assert_eq!(ours.episode.finish, Finish::Length);
        }
    }
}

#[test]
fn larger_fixtures_agree_where_given() {
    let Ok(root) = std::env::var("RTO_FIXTURES") else {
        return;
    };
    let mut checked = 0;
    for entry in std::fs::read_dir(root).unwrap().flatten() {
        let folder = entry.path();
        let policy = folder.join("policy");
        if !policy.join("config.json").is_file() {
            continue;
        }
        checked += 1;
        let io = tensors(&folder.join("io.safetensors"));
        let plain = parity(&policy, "plain.input_ids", &io);
        let (_, engine) = open(&policy);
        let mut padded = 0.0_f64;
        let mut prompts = Vec::new();
        for side in ["right", "left"] {
            let get = |name: &str| &io[&format!("{side}.{name}")];
            let mask = ids(get("attention_mask"));
            let theirs: Vec<Vec<Vec<f32>>> = get("logits_mask_pos").to_vec3().unwrap();
            prompts = ragged(&ids(get("input_ids")), &mask);
            for ((text, mask), theirs) in prompts.iter().zip(&mask).zip(&theirs) {
                let kept: Vec<Vec<f32>> = theirs
                    .iter()
                    .zip(mask)
                    .filter(|(_, m)| **m == 1)
                    .map(|(l, _)| l.clone())
                    .collect();
                padded = padded.max(deviation(
                    &engine.logits(text).unwrap().concat(),
                    &kept.concat(),
                ));
            }
        }
        let theirs = ids(&io["greedy.new_tokens"]);
        let sampling = Sampling {
            max_new_tokens: theirs[0].len(),
            ..Sampling::default()
        };
        let ours = engine.greedy(&prompts, &sampling).unwrap();
        for (ours, theirs) in ours.iter().zip(&theirs) {
            assert_eq!(&ours.episode.response, theirs, "{}", folder.display());
            let again = greedy_without_cache(&engine, &ours.episode.prompt, theirs.len());
            assert_eq!(&again, theirs, "{}, without cache", folder.display());
        }
        let warped = [("warp.t09_p09.probs", 0), ("warp.t09_k20_p09.probs", 20)];
        let z: Vec<Vec<f32>> = io["warp.in"].to_vec2().unwrap();
        let warp = warped.map(|(name, top_k)| warp_deviation(&z, &io[name], 0.9, 0.9, top_k));
        println!(
            "{}: logits {plain:.1e}, padded {padded:.1e}, warped {:.1e}",
            folder.display(),
            warp[0].max(warp[1])
        );
        assert!(plain.max(padded) < PARITY && warp[0].max(warp[1]) < PARITY);
    }
    assert!(checked > 0, "no fixture found");
}

fn warp_deviation(
    z: &[Vec<f32>],
    expected: &Tensor,
    temperature: f64,
    top_p: f64,
    top_k: usize,
) -> f64 {
    let decoder = Decoder {
        temperature,
        top_p,
        top_k,
        min_new_tokens: 0,
    };
    let mut truncated = Truncated::default();
    let mut worst = 0.0_f64;
    for (z, theirs) in z.iter().zip(expected.to_vec2::<f32>().unwrap()) {
        truncated.set(z, 1.0, &decoder, &[]).unwrap();
        let mut ours = vec![0.0_f32; z.len()];
        for (token, p) in truncated.support() {
            ours[token as usize] = p as f32;
        }
        worst = worst.max(deviation(&ours, &theirs));
    }
    worst
}

#[test]
fn truncated_distributions_are_those_of_hugging_face() {
    for name in ["plain", "sharded", "half", "llama", "mistral"] {
        let expected = tensors(&fixture(name).join("expected.safetensors"));
        let logits: Vec<Vec<Vec<f32>>> = expected["logits"].to_vec3().unwrap();
        let z: Vec<Vec<f32>> = logits
            .iter()
            .map(|row| row.last().unwrap().clone())
            .collect();
        for (tensor, top_k) in [("warp.p", 0), ("warp.k_p", 7)] {
            let worst = warp_deviation(&z, &expected[tensor], 0.9, 0.9, top_k);
            assert!(worst < PARITY, "{name} {tensor}: {worst:e}");
        }
    }
}

#[test]
fn rewards_are_those_of_hugging_face() {
    for name in ["reward", "judge", "reward_qwen2", "reward_gpt2"] {
        rewards(&fixture(name));
    }
}

fn rewards(folder: &Path) {
    let expected = tensors(&folder.join("expected.safetensors"));
    let (loaded, engine) = open(folder);
    assert_eq!(loaded.head, Head::Classification { labels: 1 });
    let texts = ids(&expected["ids"]);
    let whole: Vec<&[u32]> = texts.iter().map(Vec::as_slice).collect();
    let short: Vec<&[u32]> = texts.iter().zip([9, 5, 1]).map(|(t, n)| &t[..n]).collect();
    for (texts, name) in [(whole, "scores"), (short, "short.scores")] {
        let ours = engine.classify(&texts).unwrap().concat();
        let theirs: Vec<Vec<f32>> = expected[name].to_vec2().unwrap();
        assert!(deviation(&ours, &theirs.concat()) < PARITY, "{name}");
    }
    // The model that is trained reads the same rewards, at the last token of every text.
    let params = Params::new(loaded.weights.clone()).unwrap();
    let model = Model::try_new(&loaded.config, params).unwrap();
    let request = Request {
        rewards: true,
        ..Request::default()
    };
    for (lengths, name) in [([14, 14, 14], "scores"), ([9, 5, 1], "short.scores")] {
        let rows: Vec<(&[u32], &[u32])> = texts
            .iter()
            .zip(lengths)
            .map(|(t, n)| t[..n].split_at(1))
            .collect();
        let scores = model.scores(&Batch::new(&rows).unwrap(), &request).unwrap();
        let ours: Vec<f32> = scores.rewards.unwrap().iter().map(|&r| r as f32).collect();
        let theirs: Vec<Vec<f32>> = expected[name].to_vec2().unwrap();
        assert!(
            deviation(&ours, &theirs.concat()) < PARITY,
            "trained {name}"
        );
    }
    let error = engine
        .log_probs(&[(&[2], &[3])], 1.0)
        .unwrap_err()
        .to_string();
    assert!(
        error.contains("Classification") && error.contains("CausalLm"),
        "{error}"
    );
}

/// Prompts of many lengths, one of them as long as several passes' worth of rows would not be.
fn prompts(n: usize) -> Vec<Arc<[u32]>> {
    (0..n)
        .map(|i| {
            (0..1 + i * 5 % 23)
                .map(|j| (2 + (i * 7 + j * 11) % 59) as u32)
                .collect()
        })
        .collect()
}

fn sample(engine: &Engine, sampling: &Sampling, n: usize) -> Vec<Sampled> {
    let keys: Vec<StreamKey> = (0..n as u64).map(key).collect();
    engine.sample(&prompts(n), &keys, sampling).unwrap()
}

#[test]
fn text_does_not_depend_on_the_batch_the_threads_the_order_or_the_cache() {
    for (name, decoder) in [
        ("plain", None),
        ("llama", None),
        ("mistral", None),
        (
            "sharded",
            Some(Decoder {
                top_p: 0.9,
                top_k: 9,
                ..Decoder::default()
            }),
        ),
    ] {
        let (_, engine) = open(&fixture(name));
        let sampling = |batch| Sampling {
            max_new_tokens: 20,
            temperature: 0.8,
            decoder,
            ends: 0.into(),
            batch,
        };
        let one = sample(&engine, &sampling(1), 16);
        assert!(
            one.iter().any(|s| s.episode.finish == Finish::Eos)
                && one.iter().any(|s| s.episode.finish == Finish::Length)
        );
        for batch in [3, 16] {
            // Bit for bit: log-probabilities are compared as they are.
            assert_eq!(one, sample(&engine, &sampling(batch), 16), "batch {batch}");
        }
        let (_, engine) = open(&fixture(name));
        let engine = engine.with_threads(2).unwrap();
        for batch in [1, 3, 16] {
            assert_eq!(
                one,
                sample(&engine, &sampling(batch), 16),
                "two threads, batch {batch}"
            );
        }
        let reversed: Vec<_> = prompts(16).into_iter().rev().collect();
        let keys: Vec<_> = (0..16).rev().map(key).collect();
        let mut other = engine.sample(&reversed, &keys, &sampling(5)).unwrap();
        other.reverse();
        assert_eq!(one, other);
        if decoder.is_none() {
            without_cache(&engine, &one, 0.8);
        }
    }
}

/// The log-probabilities of the text, each from a pass over the whole prefix.
fn without_cache(engine: &Engine, sampled: &[Sampled], temperature: f64) {
    let pairs: Vec<(&[u32], &[u32])> = sampled
        .iter()
        .map(|s| (&s.episode.prompt[..], &s.episode.response[..]))
        .collect();
    let scored = engine.log_probs(&pairs, temperature).unwrap();
    for ((sampled, scored), (prompt, response)) in sampled.iter().zip(&scored).zip(&pairs) {
        assert_eq!(&sampled.log_probs, scored);
        for (h, log_prob) in scored.iter().enumerate() {
            let prefix = [prompt, &response[..h]].concat();
            let logits = engine.logits(&prefix).unwrap().pop().unwrap();
            let normaliser = sampler::normaliser(&logits, temperature).unwrap();
            assert_eq!(
                *log_prob,
                normaliser.log_prob(logits[response[h] as usize], temperature)
            );
        }
    }
}

#[test]
fn the_tensor_path_writes_the_same_text() {
    let (loaded, engine) = open(&fixture("plain"));
    let slow = TensorEngine::new(&loaded.config, &loaded.weights).unwrap();
    for decoder in [
        None,
        Some(Decoder {
            min_new_tokens: 6,
            ..Decoder::paper()
        }),
    ] {
        let sampling = Sampling {
            max_new_tokens: 15,
            temperature: 0.9,
            decoder,
            ends: 0.into(),
            batch: 4,
        };
        let fast = sample(&engine, &sampling, 12);
        let keys: Vec<StreamKey> = (0..12).map(key).collect();
        let slow = slow.sample(&prompts(12), Some(&keys), &sampling).unwrap();
        for (fast, slow) in fast.iter().zip(&slow) {
            assert_eq!(fast.episode, slow.episode);
            for (a, b) in fast.log_probs.iter().zip(&slow.log_probs) {
                assert!((a - b).abs() < 1e-4, "{a} {b}");
            }
            let limit = decoder.map_or(1, |d| d.min_new_tokens + 1);
            assert!(fast.episode.finish == Finish::Length || fast.episode.response.len() >= limit);
        }
    }
}

/// Prompts of unequal lengths stand in one batch: each is written as it is alone, to the end of the context.
#[test]
fn on_tensors_text_does_not_depend_on_the_batch() {
    let (loaded, engine) = open(&fixture("plain"));
    let context = engine.config().max_positions();
    let mut prompts = prompts(11);
    let long: Vec<u32> = (0..context as u32).map(|t| (t * 7 + 3) % 50).collect();
    prompts.extend([long[..context - 3].into(), long.clone().into()]);
    let keys: Vec<StreamKey> = (0..prompts.len() as u64).map(key).collect();
    for dtype in [DType::F64, DType::BF16] {
        let turned = loaded.weights.iter();
        let turned = turned.map(|(name, t)| (name.clone(), t.to_dtype(dtype).unwrap()));
        let tensors = TensorEngine::new(&loaded.config, &turned.collect()).unwrap();
        let written = |batch: usize, keys: Option<&[StreamKey]>| {
            let sampling = Sampling {
                max_new_tokens: 9,
                ends: 0.into(),
                batch,
                ..Sampling::default()
            };
            tensors.sample(&prompts, keys, &sampling).unwrap()
        };
        for keys in [Some(&keys[..]), None] {
            let alone = written(1, keys);
            // No room but for one more, which is never fed.
            assert_eq!(alone[12].episode.response.len(), 1);
            for batch in [4, 13] {
                for (one, other) in alone.iter().zip(written(batch, keys)) {
                    assert_eq!(one.episode, other.episode, "{dtype:?}, {batch} at once");
                    for (a, b) in one.log_probs.iter().zip(&other.log_probs) {
                        assert!((a - b).abs() < 1e-6, "{dtype:?}, {batch} at once: {a} {b}");
                    }
                }
            }
        }
    }
}

#[test]
fn requests_that_cannot_be_served_are_refused_in_one_line() {
    let (_, engine) = open(&fixture("plain"));
    let context = engine.config().max_positions();
    let say = |prompt: Vec<u32>, sampling: &Sampling| {
        engine
            .sample(&[prompt.into()], &[key(0)], sampling)
            .unwrap_err()
            .to_string()
    };
    let usual = Sampling::default();
    assert_eq!(
        say(vec![], &usual),
        "prompt 0: is empty, expected at least one token"
    );
    assert_eq!(
        say(vec![2, 61], &usual),
        "prompt 0: token 1 is 61, the vocabulary has 61"
    );
    assert_eq!(
        say(vec![2; context + 1], &usual),
        "prompt 0: has 65 tokens, the context has room for 64"
    );
    for temperature in [0.0, f64::NAN, -1.0] {
        assert!(
            say(
                vec![2],
                &Sampling {
                    temperature,
                    ..usual.clone()
                }
            )
            .starts_with("temperature: found")
        );
    }
    let decoder = Some(Decoder {
        top_p: 0.0,
        ..Decoder::default()
    });
    assert!(
        say(
            vec![2],
            &Sampling {
                decoder,
                ..usual.clone()
            }
        )
        .starts_with("top_p: found 0")
    );
    assert!(engine.sample(&prompts(2), &[key(0)], &usual).is_err());
    assert!(engine.log_probs(&[(&[], &[2])], 1.0).is_err());
    // A full context still has room to choose one token, and a long wish is cut by the context.
    let full = engine
        .sample(
            &[vec![2; context].into(), vec![2; 60].into()],
            &[key(0), key(1)],
            &usual,
        )
        .unwrap();
    assert_eq!(full[0].episode.response.len(), 1);
    assert_eq!(
        (full[1].episode.response.len(), full[1].episode.finish),
        (5, Finish::Length)
    );
    assert!(engine.sample(&[], &[], &usual).unwrap().is_empty());
    assert_eq!(
        engine.log_probs(&[(&[2], &[])], 1.0).unwrap(),
        [Vec::<f64>::new()]
    );
}
