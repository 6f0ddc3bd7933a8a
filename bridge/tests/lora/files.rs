//! PEFT's files, read and written.

use super::*;
use rto_bridge::learner::NeuralScorer;
use rto_bridge::lora::{ADAPTER_CONFIG, ADAPTER_WEIGHTS};
use serde_json::{Value, json};
use std::path::{Path, PathBuf};

fn fixtures() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/fixtures")
}

fn base(folder: &str) -> Model {
    let scorer = NeuralScorer::load(&fixtures().join(folder), false, &Device::Cpu).unwrap();
    scorer.model().snapshot().unwrap()
}

/// Logits of a text, or its reward.
fn numbers(model: &Model, ids: &[u32]) -> Vec<f64> {
    let batch = Batch::new(&[(&ids[..1], &ids[1..])]).unwrap();
    if !model.params().contains(REWARD_WEIGHT) {
        let logits = model.logits(&batch).unwrap().flatten_all().unwrap();
        return wide(&logits.to_vec1::<f32>().unwrap());
    }
    let request = Request {
        rewards: true,
        ..Request::default()
    };
    model.scores(&batch, &request).unwrap().rewards.unwrap()
}

#[test]
fn adapters_of_peft_give_its_numbers() {
    for name in ["causal", "sequential", "reward", "llama"] {
        let folder = fixtures().join("lora").join(name);
        let text = std::fs::read_to_string(folder.with_extension("json")).unwrap();
        let expected: Value = serde_json::from_str(&text).unwrap();
        let ids: Vec<u32> = expected["ids"]
            .as_array()
            .unwrap()
            .iter()
            .map(|t| t.as_u64().unwrap() as u32)
            .collect();
        let flat = |v: &Value| -> Vec<f64> {
            let rows = v.as_array().unwrap().iter();
            rows.flat_map(|v| {
                v.as_array().map_or_else(
                    || vec![v.as_f64().unwrap()],
                    |row| row.iter().map(|x| x.as_f64().unwrap()).collect(),
                )
            })
            .collect()
        };
        let part = if name == "reward" { "reward" } else { "logits" };
        let expected_numbers = flat(&expected[part]);
        let base = base(expected["base"].as_str().unwrap());
        let plain = numbers(&base, &ids);
        let model = base.load_adapter(&folder).unwrap();
        assert!(distance(&plain, &expected_numbers) > 0.1, "{name}");
        let apart = distance(&numbers(&model, &ids), &expected_numbers);
        assert!(apart < 1e-5, "{name}: {apart:e}");
        let apart = distance(&numbers(&model.merge().unwrap(), &ids), &expected_numbers);
        assert!(apart < 1e-5, "{name} merged: {apart:e}");
    }
}

#[test]
fn a_written_adapter_comes_back_bit_for_bit() {
    let dir = tempfile::tempdir().unwrap();
    for (folder, reward) in [
        ("neox_parallel_rot25/policy", false),
        ("generation/reward", true),
    ] {
        let config = LoraConfig {
            use_rslora: reward,
            alpha: 2.5,
            ..lora(3, &["query_key_value", "mlp.dense_4h_to_h"])
        };
        let model = adapted(&base(folder), &config, 4);
        let to = dir.path().join("adapter");
        // Over one that is there, with a file of the user's own beside it.
        model.save_adapter(&to, folder).unwrap();
        std::fs::write(to.join("notes.txt"), "mine").unwrap();
        model.save_adapter(&to, folder).unwrap();
        assert_eq!(
            std::fs::read_to_string(to.join("notes.txt")).unwrap(),
            "mine"
        );
        let text = std::fs::read_to_string(to.join(ADAPTER_CONFIG)).unwrap();
        let written: Value = serde_json::from_str(&text).unwrap();
        assert_eq!(
            written["task_type"],
            if reward { "SEQ_CLS" } else { "CAUSAL_LM" }
        );
        assert_eq!(
            written["modules_to_save"],
            if reward {
                json!(["score"])
            } else {
                Value::Null
            }
        );
        assert_eq!(
            (&written["r"], &written["lora_alpha"]),
            (&json!(3), &json!(2.5))
        );
        let again = base(folder).load_adapter(&to).unwrap();
        assert_eq!(again.adapter(), Some(&config));
        for (name, tensor) in again.params().tensors() {
            assert!(
                same_bits(&tensor, model.params().get(&name).unwrap()),
                "{name}"
            );
        }
        assert_eq!(
            again.params().trained_count(),
            model.params().trained_count()
        );
    }
    // A folder of other things stays, and a network without adapter has nothing to write.
    let model = adapted(&base("neox_parallel_rot25/policy"), &lora(2, &EVERY), 4);
    std::fs::write(dir.path().join("thesis.tex"), "mine").unwrap();
    let error = model.save_adapter(dir.path(), "x").unwrap_err().to_string();
    assert!(error.contains("nothing was replaced"), "{error}");
    assert!(
        model
            .without_adapter()
            .unwrap()
            .save_adapter(&dir.path().join("y"), "x")
            .is_err()
    );
}

#[test]
fn files_that_ask_for_something_else_are_refused_in_one_line() {
    let dir = tempfile::tempdir().unwrap();
    let (good, to) = (fixtures().join("lora/causal"), dir.path().to_path_buf());
    let text = std::fs::read_to_string(good.join(ADAPTER_CONFIG)).unwrap();
    let weights = std::fs::read(good.join(ADAPTER_WEIGHTS)).unwrap();
    let config: Value = serde_json::from_str(&text).unwrap();
    let load = || base("neox_parallel_rot25/policy").load_adapter(&to);
    let refused = |file: &str, part: &str| {
        let error = load().unwrap_err().to_string();
        assert!(
            error.starts_with(to.join(file).to_str().unwrap()),
            "{error}"
        );
        assert!(error.contains(part), "{part}: {error}");
        assert_eq!(error.lines().count(), 1, "{error}");
    };
    refused(ADAPTER_CONFIG, "cannot read");
    std::fs::write(to.join(ADAPTER_CONFIG), &text).unwrap();
    refused(ADAPTER_WEIGHTS, "");
    std::fs::write(to.join(ADAPTER_WEIGHTS), &weights).unwrap();
    load().unwrap();
    for (key, value) in [
        ("peft_type", json!("IA3")),
        ("peft_type", json!(null)),
        ("task_type", json!("SEQ_CLS")),
        ("r", json!(0)),
        ("r", json!("8")),
        ("r", json!(4)),
        ("lora_alpha", json!(null)),
        ("lora_alpha", json!(-1)),
        ("target_modules", json!("all-linear")),
        ("target_modules", json!([])),
        ("target_modules", json!(["q_proj"])),
        ("use_rslora", json!("yes")),
        ("bias", json!("lora_only")),
        ("use_dora", json!(true)),
        ("fan_in_fan_out", json!(true)),
        ("rank_pattern", json!({"dense": 4})),
        ("alpha_pattern", json!({"dense": 4})),
        ("layers_to_transform", json!([0])),
        ("modules_to_save", json!(["embed_in"])),
        ("init_lora_weights", json!("pissa")),
        ("lora_bias", json!(true)),
        ("trainable_token_indices", json!([1])),
        ("of_next_year", json!(3)),
    ] {
        let mut config = config.clone();
        config[key] = value;
        std::fs::write(to.join(ADAPTER_CONFIG), config.to_string()).unwrap();
        match key {
            // A rank that is only not that of the tensors.
            "r" if config["r"] == 4 => refused(ADAPTER_WEIGHTS, "expected [4, 32]"),
            "r" if config["r"] == 0 => refused(ADAPTER_CONFIG, "rank"),
            "lora_alpha" if config["lora_alpha"] == -1 => refused(ADAPTER_CONFIG, "alpha"),
            _ => refused(ADAPTER_CONFIG, key),
        }
    }
    for bad in ["", "{", "[]", "{}"] {
        std::fs::write(to.join(ADAPTER_CONFIG), bad).unwrap();
        refused(ADAPTER_CONFIG, "");
    }
    // A target that matches nothing is PEFT's to name beside one that does.
    let mut more = config.clone();
    more["target_modules"]
        .as_array_mut()
        .unwrap()
        .push(json!("q_proj"));
    std::fs::write(to.join(ADAPTER_CONFIG), more.to_string()).unwrap();
    assert_eq!(load().unwrap().adapter().unwrap().target_modules.len(), 4);
    // Fewer targets than tensors.
    let mut fewer = config.clone();
    fewer["target_modules"] = json!(["query_key_value"]);
    std::fs::write(to.join(ADAPTER_CONFIG), fewer.to_string()).unwrap();
    refused(ADAPTER_WEIGHTS, "belongs to no layer");
    std::fs::write(to.join(ADAPTER_CONFIG), &text).unwrap();
    for cut in [0, 9, weights.len() / 2, weights.len() - 1] {
        std::fs::write(to.join(ADAPTER_WEIGHTS), &weights[..cut]).unwrap();
        refused(ADAPTER_WEIGHTS, "");
    }
}

#[test]
fn tensors_that_are_missing_misshapen_or_not_finite_are_named() {
    let dir = tempfile::tempdir().unwrap();
    let to = dir.path();
    let good = fixtures().join("lora/causal");
    std::fs::copy(good.join(ADAPTER_CONFIG), to.join(ADAPTER_CONFIG)).unwrap();
    let tensors = candle_core::safetensors::load(good.join(ADAPTER_WEIGHTS), &Device::Cpu).unwrap();
    let name = "base_model.model.gpt_neox.layers.0.attention.dense.lora_B.weight";
    let shape = |rows, cols| Tensor::zeros((rows, cols), DType::F32, &Device::Cpu).unwrap();
    let nan = (shape(32, 3) * f64::NAN).unwrap();
    for (tensor, part) in [
        (None, "not there, expected shape [32, 3]"),
        (Some(shape(3, 32)), "found shape [3, 32], expected [32, 3]"),
        (Some(nan), "NaN"),
    ] {
        let mut tensors = tensors.clone();
        tensors.remove(name);
        if let Some(tensor) = tensor {
            tensors.insert(name.into(), tensor);
        }
        candle_core::safetensors::save(&tensors, to.join(ADAPTER_WEIGHTS)).unwrap();
        let error = base("neox_parallel_rot25/policy")
            .load_adapter(to)
            .unwrap_err()
            .to_string();
        assert!(error.contains(name) && error.contains(part), "{error}");
    }
}
