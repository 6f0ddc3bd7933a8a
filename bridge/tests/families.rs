//! The families from Qwen2 on against Hugging Face: text of both engines, folders written back, adapters of PEFT, GGUF files, and what is
//! refused. Losses and gradients are in `parity_train`.
//!
//! With `RTO_FIXTURES=DIR`, the fixtures that `make_fixtures.py --out DIR` made, too; `--nocapture` prints the deviations.

mod common;

use candle_core::{DType, Device, Tensor};
use common::*;
use rto_bridge::batch::Batch;
use rto_bridge::checkpoint::{self, Checkpoint, Contents};
use rto_bridge::family::{FAMILIES, ModelConfig};
use rto_bridge::generate::{Engine, Sampling, TensorEngine};
use rto_bridge::lora::{ADAPTER_CONFIG, LoraConfig};
use rto_bridge::model::Model;
use rto_bridge::params::Params;
use serde_json::{Value, json};
use std::collections::{BTreeMap, BTreeSet};
use std::path::{Path, PathBuf};
use std::sync::Arc;

/// Largest |difference| over largest |reference| (the project's parity bound).
const PARITY: f64 = 1e-4;

/// Fixtures with an adapter: those of these families.
fn ours() -> Vec<Fixture> {
    let all: Vec<PathBuf> = fixtures();
    let all = all.iter().filter(|folder| folder.join("lora").is_dir());
    all.map(|folder| Fixture::load(folder)).collect()
}

fn open(path: &Path) -> Checkpoint {
    checkpoint::load(path, Some(DType::F32), &Device::Cpu).unwrap()
}

fn config(folder: &Path) -> ModelConfig {
    checkpoint::read_config(folder).unwrap().0
}

fn tokens(row: &[i64]) -> Vec<u32> {
    row.iter().map(|&t| t as u32).collect()
}

fn flat(rows: Vec<Vec<f32>>) -> Vec<f64> {
    wide(&rows.concat())
}

#[test]
fn every_family_has_a_fixture() {
    let with: BTreeSet<&str> = fixtures()
        .iter()
        .map(|folder| config(&folder.join("policy")).model_type())
        .collect();
    let all: BTreeSet<&str> = FAMILIES.iter().map(|f| f.model_type).collect();
    assert_eq!(with, all);
}

#[test]
fn logits_and_greedy_text_of_both_engines_are_those_of_hugging_face() {
    for fixture in ours() {
        let loaded = open(&fixture.folder.join("policy"));
        let engine = Engine::new(&loaded.config, loaded.head, &loaded.weights).unwrap();
        let slow = TensorEngine::new(&loaded.config, &loaded.weights).unwrap();
        let theirs = fixture.flat("plain.logits");
        let rows = fixture.rows("plain.input_ids");
        let size = theirs.len() / rows.len();
        for (row, theirs) in rows.iter().zip(theirs.chunks(size)) {
            let ids = tokens(row);
            let fast = distance(&flat(engine.logits(&ids).unwrap()), theirs);
            let slow = distance(&flat(slow.logits(&ids).unwrap()), theirs);
            println!("{} engines: {:.1e}", fixture.name, fast.max(slow));
            assert!(
                fast.max(slow) < PARITY,
                "{}: {fast:e} {slow:e}",
                fixture.name
            );
        }
        let texts = fixture.rows("left.input_ids");
        let masks = fixture.rows("left.attention_mask");
        let prompts: Vec<Arc<[u32]>> = texts
            .iter()
            .zip(&masks)
            .map(|(row, mask)| {
                let kept = row.iter().zip(mask).filter(|(_, m)| **m == 1);
                kept.map(|(&t, _)| t as u32).collect()
            })
            .collect();
        let theirs = fixture.rows("greedy.new_tokens");
        let sampling = Sampling {
            max_new_tokens: theirs[0].len(),
            ..Sampling::default()
        };
        let fast = engine.greedy(&prompts, &sampling).unwrap();
        let slow = slow.sample(&prompts, None, &sampling).unwrap();
        for ((fast, slow), theirs) in fast.iter().zip(&slow).zip(&theirs) {
            assert_eq!(fast.episode.response, tokens(theirs), "{}", fixture.name);
            assert_eq!(slow.episode.response, tokens(theirs), "{}", fixture.name);
        }
    }
}

fn bits(weights: &BTreeMap<String, Tensor>) -> BTreeMap<String, (Vec<usize>, Vec<u32>)> {
    let of = |t: &Tensor| {
        let t = t.to_dtype(DType::F32).unwrap();
        let values = t.flatten_all().unwrap().to_vec1::<f32>().unwrap();
        (
            t.dims().to_vec(),
            values.into_iter().map(f32::to_bits).collect(),
        )
    };
    weights.iter().map(|(n, t)| (n.clone(), of(t))).collect()
}

/// Names and shapes in a file, as they lie there.
fn stored(path: &Path) -> BTreeMap<String, Vec<usize>> {
    let all = checkpoint::load_tensors(path, None, &Device::Cpu).unwrap();
    all.into_iter()
        .map(|(n, t)| (n, t.dims().to_vec()))
        .collect()
}

#[test]
fn a_folder_written_back_is_the_same_network() {
    let dir = tempfile::tempdir().unwrap();
    for fixture in ours() {
        let from = fixture.folder.join("policy");
        let loaded = checkpoint::load(&from, None, &Device::Cpu).unwrap();
        let to = dir.path().join(&fixture.name);
        let contents = Contents {
            config: &loaded.config,
            head: loaded.head,
            weights: &loaded.weights,
            dtype: DType::BF16,
            shard_bytes: u64::MAX,
            carry: None,
        };
        checkpoint::save(&to, &contents).unwrap();
        let again = checkpoint::load(&to, None, &Device::Cpu).unwrap();
        assert_eq!(again.config, loaded.config, "{}", fixture.name);
        assert_eq!(again.head, loaded.head);
        assert_eq!(bits(&again.weights), bits(&loaded.weights));
        assert!(
            again.notes.is_empty(),
            "{}: {:?}",
            fixture.name,
            again.notes
        );
        let weights = |folder: &Path| stored(&folder.join("model.safetensors"));
        assert_eq!(weights(&to), weights(&from), "{}", fixture.name);
    }
}

fn logits(model: &Model, ids: &[u32]) -> Vec<f64> {
    let batch = Batch::new(&[(&ids[..1], &ids[1..])]).unwrap();
    let logits = model.logits(&batch).unwrap().flatten_all().unwrap();
    wide(&logits.to_dtype(DType::F32).unwrap().to_vec1().unwrap())
}

#[test]
fn adapters_go_both_ways() {
    let dir = tempfile::tempdir().unwrap();
    for fixture in ours() {
        let ids = tokens(&fixture.rows("plain.input_ids")[0]);
        let theirs = fixture.flat("lora.logits");
        let to = dir.path().join(&fixture.name);
        for dtype in [DType::F32, DType::F64] {
            let model = fixture.model("policy", dtype);
            assert!(
                distance(&logits(&model, &ids), &theirs) > 0.05,
                "{}",
                fixture.name
            );
            let model = model.load_adapter(&fixture.folder.join("lora")).unwrap();
            let beside = distance(&logits(&model, &ids), &theirs);
            let merged = model.snapshot().unwrap().merge().unwrap();
            let merged = distance(&logits(&merged, &ids), &theirs);
            println!("{} adapter: {:.1e}", fixture.name, beside.max(merged));
            assert!(
                beside.max(merged) < PARITY,
                "{}: {beside:e} {merged:e}",
                fixture.name
            );
            if dtype == DType::F32 {
                model.save_adapter(&to, &fixture.name).unwrap();
            }
        }
        // By the names and settings of PEFT, and every layer by default.
        let weights = |folder: &Path| stored(&folder.join("adapter_model.safetensors"));
        assert_eq!(weights(&to), weights(&fixture.folder.join("lora")));
        let setting = |folder: &Path| {
            let text = std::fs::read(folder.join(ADAPTER_CONFIG)).unwrap();
            serde_json::from_slice::<Value>(&text).unwrap()["fan_in_fan_out"].clone()
        };
        assert_eq!(setting(&to), setting(&fixture.folder.join("lora")));
        let network = config(&fixture.folder.join("policy"));
        let every = LoraConfig::every_layer(&network, 2, 3.0);
        let model = fixture.model("policy", DType::F32);
        let fresh = model
            .with_adapter(every, &rto::seed::SeedTree::new(1))
            .unwrap();
        fresh.save_adapter(&to, &fixture.name).unwrap();
        assert_eq!(weights(&to), weights(&fixture.folder.join("lora")));
    }
}

#[test]
fn gguf_files_are_the_same_network() {
    let mut architectures = BTreeSet::new();
    for fixture in ours() {
        let path = fixture.folder.join("policy.gguf");
        if !path.is_file() {
            continue;
        }
        let (folder, file) = (open(&fixture.folder.join("policy")), open(&path));
        architectures.insert(file.config.model_type());
        assert_eq!(file.config.end_tokens(), &None.into());
        let (ours, theirs) = (&file.weights, &folder.weights);
        assert!(ours.keys().eq(theirs.keys()), "{}", fixture.name);
        for (name, tensor) in ours {
            let values = |t: &Tensor| {
                let flat = t.flatten_all().unwrap();
                wide(&flat.to_vec1::<f32>().unwrap())
            };
            let apart = distance(&values(tensor), &values(&theirs[name]));
            // A gain of 1 + w is rounded in the file.
            assert!(apart < 1e-6, "{} {name}: {apart:e}", fixture.name);
        }
        let engine = Engine::new(&file.config, file.head, &file.weights).unwrap();
        let ids = tokens(&fixture.rows("plain.input_ids")[0]);
        let ours = flat(engine.logits(&ids).unwrap());
        let apart = distance(&ours, &fixture.flat("plain.logits")[..ours.len()]);
        println!("{} GGUF: {apart:.1e}", fixture.name);
        assert!(apart < PARITY, "{}: {apart:e}", fixture.name);
    }
    // Llama's files are those of `gguf`.
    architectures.insert("llama");
    let all = FAMILIES.iter().filter(|f| f.gguf.is_some());
    let all: BTreeSet<&str> = all.map(|f| f.model_type).collect();
    assert_eq!(architectures, all);
}

#[test]
fn mixtures_of_experts_are_refused_by_name() {
    let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/fixtures/experts");
    for (file, model_type) in [
        ("mistral", "mixtral"),
        ("qwen2", "qwen2_moe"),
        ("qwen3", "qwen3_moe"),
        ("phi3", "phimoe"),
        ("olmo2", "olmoe"),
    ] {
        let path = folder.join(format!("{file}.json"));
        let said = ModelConfig::read(&path).unwrap_err().to_string();
        assert!(
            said.contains(&format!("\"{model_type}\" is a mixture of experts")),
            "{said}"
        );
        assert_eq!(said.lines().count(), 1, "{said}");
    }
}

/// A fixture's `config.json` with some keys changed, or taken away where null is given.
fn changed(fixture: &str, changes: &[(&str, Value)]) -> Result<ModelConfig, String> {
    let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/fixtures");
    let path = folder.join(fixture).join("policy/config.json");
    let mut value: Value = serde_json::from_slice(&std::fs::read(&path).unwrap()).unwrap();
    let object = value.as_object_mut().unwrap();
    for (key, new) in changes {
        match new {
            Value::Null => drop(object.remove(*key)),
            new => drop(object.insert((*key).into(), new.clone())),
        }
    }
    let read = ModelConfig::parse(Path::new("config.json"), value.to_string().as_bytes());
    read.map(|(config, _)| config).map_err(|e| e.to_string())
}

#[test]
fn what_a_plan_cannot_say_is_refused_by_its_key() {
    let longrope = json!({"rope_type": "longrope", "rope_theta": 1e4, "short_factor": [1.0, 1.0], "long_factor": [2.0, 3.0]});
    for (fixture, key, value, said) in [
        (
            "phi3_partial",
            "rope_parameters",
            longrope,
            "rope_parameters.rope_type: found \"longrope\", expected \"default\", \"linear\" or \"llama3\"",
        ),
        (
            "phi3_partial",
            "rope_parameters",
            json!({"partial_rotary_factor": 0.4}),
            "partial_rotary_factor: rotates 3 of the 8 dimensions of a head, must be an even number",
        ),
        (
            "gpt2_tied",
            "scale_attn_by_inverse_layer_idx",
            json!(true),
            "scale_attn_by_inverse_layer_idx: found true, expected false",
        ),
        (
            "gpt2_tied",
            "n_embd",
            json!(25),
            "n_embd: found 25, expected a multiple of n_head (3)",
        ),
        (
            "gemma2_tied",
            "use_bidirectional_attention",
            json!(true),
            "use_bidirectional_attention: found true, expected false",
        ),
        (
            "gemma2_tied",
            "final_logit_softcapping",
            json!(0.0),
            "final_logit_softcapping: found 0.0, expected a number above 0 or null",
        ),
        (
            "gemma3_tied",
            "layer_types",
            json!(["full_attention"]),
            "layer_types: found [\"full_attention\"], expected 7 times \"full_attention\" or \"sliding_attention\", one a block",
        ),
        (
            "qwen2_windows",
            "layer_types",
            json!(["full_attention", "linear_attention"]),
            "layer_types: found [\"full_attention\",\"linear_attention\"], expected 2 times \"full_attention\" or \"sliding_attention\", one a block",
        ),
    ] {
        assert_eq!(
            changed(fixture, &[(key, value)]),
            Err(format!("config.json: {said}"))
        );
    }
}

/// The keys of files written before `layer_types` and one object of `rope_parameters` for each kind of block.
#[test]
fn older_files_mean_the_same() {
    let windows = |config: &ModelConfig| -> Vec<_> {
        (0..config.n_layers())
            .map(|layer| config.window(layer))
            .collect()
    };
    let gone = Value::Null;
    let new = changed("gemma3_scaled", &[]).unwrap();
    let old = [
        ("rope_parameters", gone.clone()),
        ("rope_theta", json!(1000.0)),
        (
            "rope_scaling",
            json!({"rope_type": "linear", "factor": 8.0}),
        ),
        ("rope_local_base_freq", json!(100.0)),
    ];
    assert_eq!(changed("gemma3_scaled", &old).unwrap(), new);
    assert_eq!(windows(&new), [Some(5), None, Some(5)]);
    for (fixture, seen) in [
        ("qwen2_windows", vec![None, Some(5)]),
        ("gemma2_tied", vec![Some(5), None]),
        (
            "gemma3_tied",
            vec![Some(5), Some(5), Some(5), Some(5), Some(5), None, Some(5)],
        ),
    ] {
        let old = changed(fixture, &[("layer_types", gone.clone())]).unwrap();
        assert_eq!(old, changed(fixture, &[]).unwrap(), "{fixture}");
        assert_eq!(windows(&old), seen, "{fixture}");
    }
}

/// The first GPT-2 as it was published is read: no `transformer.` in front, masks beside the weights.
#[test]
fn names_without_the_trunk_and_masks_are_read() {
    let fixture = Fixture::load(&fixtures()[0].with_file_name("gpt2_tied"));
    let from = fixture.folder.join("policy");
    let path = from.join("model.safetensors");
    let all = checkpoint::load_tensors(&path, None, &Device::Cpu).unwrap();
    let bare = |name: String| name.trim_start_matches("transformer.").to_string();
    let mut all: BTreeMap<String, Tensor> = all.into_iter().map(|(n, t)| (bare(n), t)).collect();
    for layer in 0..2 {
        let mask = Tensor::ones((1, 1, 4, 4), DType::F32, &Device::Cpu).unwrap();
        all.insert(format!("h.{layer}.attn.bias"), mask);
    }
    let dir = tempfile::tempdir().unwrap();
    let weights = dir.path().join("model.safetensors");
    checkpoint::write_tensors(&weights, &all, DType::BF16).unwrap();
    std::fs::copy(from.join("config.json"), dir.path().join("config.json")).unwrap();
    let (published, plain) = (open(dir.path()), open(&from));
    assert_eq!(bits(&published.weights), bits(&plain.weights));
    let said = "skipped attn.bias (which the network computes itself)";
    assert_eq!(published.notes, [said]);
    let params = Params::new(published.weights).unwrap();
    Model::try_new(&published.config, params).unwrap();
}
