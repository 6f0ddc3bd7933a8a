//! `rto_llm --lora`: adapters in every stage, on one base.

use super::ok;
use super::training::{contents, same};
use candle_core::{DType, Device, Tensor};
use rto::seed::SeedTree;
use rto_bridge::batch::Batch;
use rto_bridge::family::{LlamaConfig, LlamaFamily};
use rto_bridge::learner::NeuralScorer;
use rto_bridge::model::{Heads, Model, Request};
use rto_bridge::params::{Init, Params};
use rto_bridge::world::{EOS, PAD, WORDS};
use std::fs;
use std::path::Path;
use std::process::Command;

fn run(out: &Path, model: &str, more: &[&str], nan: Option<&str>) -> bool {
    let mut command = Command::new(env!("CARGO_BIN_EXE_rto_llm"));
    command
        .args(["--smoke", "--quiet", "--lora", "4", "--methods", "ppo,rto"])
        .args(["--model", model, "--out", out.to_str().unwrap()])
        .args(more);
    if let Some(at) = nan {
        command.env("RTO_LLM_NAN", at);
    }
    command.output().unwrap().status.success()
}

fn tensors(folder: &Path, file: &str) -> Vec<(String, Tensor)> {
    let all = candle_core::safetensors::load(folder.join(file), &Device::Cpu).unwrap();
    all.into_iter().collect()
}

#[test]
fn a_run_with_adapters_stops_goes_on_and_leaves_what_peft_reads() {
    let dir = tempfile::tempdir().unwrap();
    let first = dir.path().join("first");
    let start = ["--smoke", "--quiet", "--stage", "sft", "--out"];
    ok(&[&start[..], &[first.to_str().unwrap()]].concat());
    let base = first.join("policies/sft");
    let model = base.to_str().unwrap();
    let (whole, struck) = (dir.path().join("whole"), dir.path().join("struck"));
    assert!(run(&whole, model, &[], None));
    for at in ["sft:3", "reward:2", "dpo:2", "rto:2"] {
        // One after the other, so that a neighbour is not done before its turn to fail.
        assert!(!run(&struck, model, &["--jobs", "1"], Some(at)), "{at}");
    }
    assert!(run(&struck, model, &[], None));
    same(&contents(&whole), &contents(&struck));

    // A checkpoint holds the adapter, and the head of a critic, but no weight of the base.
    for part in ["rto/checkpoint/policy", "rto/checkpoint/critic"] {
        for (name, _) in tensors(&whole.join("stages").join(part), "weights.safetensors") {
            let trained = name.contains(".lora_") || name.starts_with("v_head");
            assert!(trained, "{part}: {name}");
        }
    }

    // The merged policy is the base with the adapter beside it.
    let text = [(&[5, 6, 7][..], &[8, 9, 0][..])];
    let batch = Batch::new(&text).unwrap();
    let log_probs = |scorer: &NeuralScorer| {
        let scores = scorer.model().scores(&batch, &Request::log_probs());
        scores.unwrap().log_probs.unwrap()
    };
    for (stage, on) in [
        ("sft", base.clone()),
        ("dpo", whole.join("policies/sft")),
        ("rto", whole.join("policies/sft")),
    ] {
        let adapter = whole.join("adapters").join(stage);
        let config = fs::read_to_string(adapter.join("adapter_config.json")).unwrap();
        let named = if stage == "sft" {
            model
        } else {
            "policies/sft"
        };
        assert!(config.contains(&format!("{named:?}")), "{config}");
        let plain = NeuralScorer::load(&on, false, &Device::Cpu).unwrap();
        let before = log_probs(&plain);
        let beside = log_probs(&plain.load_adapter(&adapter).unwrap());
        let merged = whole.join("policies").join(stage);
        let merged = log_probs(&NeuralScorer::load(&merged, false, &Device::Cpu).unwrap());
        let apart = |a: &[f64], b: &[f64]| {
            let gaps = a.iter().zip(b).map(|(a, b)| (a - b).abs());
            gaps.fold(0.0, f64::max)
        };
        assert!(apart(&beside, &merged) < 1e-4, "{stage}");
        assert!(apart(&before, &merged) > 1e-4, "{stage} learned nothing");
    }
    // The base is as it was.
    let weights = |folder: &Path| {
        let all = rto_bridge::checkpoint::load(folder, Some(DType::F32), &Device::Cpu).unwrap();
        all.weights["gpt_neox.embed_in.weight"]
            .to_vec2::<f32>()
            .unwrap()
    };
    assert_eq!(weights(&base), weights(&whole.join("policies/rto")));
}

#[test]
fn adapters_that_fit_no_layer_are_refused() {
    let dir = tempfile::tempdir().unwrap();
    let out = dir.path().join("run");
    let said = super::error(&[
        "--smoke",
        "--quiet",
        "--lora",
        "--set",
        "lora_targets=[\"q_proj\"]",
        "--out",
        out.to_str().unwrap(),
    ]);
    assert!(
        said.contains("lora_targets")
            && said.contains("q_proj")
            && said.contains("query_key_value"),
        "{said}"
    );
    assert!(!out.exists());
    let plan = ok(&["--smoke", "--lora", "2", "--dry-run"]);
    assert!(plan.contains("lora_rank = 2"), "{plan}");
}

/// Tied embeddings, queries in groups, a window shorter than a dialogue; the critic on a trunk of its own and on the policy's.
#[test]
fn a_network_of_the_llama_family_goes_through_every_stage() {
    let dir = tempfile::tempdir().unwrap();
    let config = LlamaConfig {
        family: LlamaFamily::Mistral,
        vocab_size: WORDS.len(),
        hidden_size: 16,
        n_layers: 2,
        n_heads: 4,
        n_kv_heads: 2,
        head_dim: 4,
        intermediate_size: 24,
        rope_base: 1e4,
        rope_scaling: None,
        max_positions: 48,
        rms_norm_eps: 1e-5,
        window: Some(6),
        attention_bias: false,
        mlp_bias: false,
        tied_embeddings: true,
        bos_token: None,
        eos_tokens: EOS.into(),
        pad_token: Some(PAD),
    };
    let heads = Heads {
        language_model: true,
        ..Heads::default()
    };
    let seeds = SeedTree::new(1);
    let model = Model::random(&config, heads, Init::Small, &seeds, &Device::Cpu).unwrap();
    let params = Params::frozen(model.params().tensors()).unwrap();
    let base = dir.path().join("base");
    let scorer = NeuralScorer::try_new(&config, params).unwrap();
    scorer.save_hugging_face(&base, None).unwrap();
    let base = base.to_str().unwrap();
    for (i, more) in [
        &["--set", "critic=separate"][..],
        &["--set", "critic=shared"],
        &["--set", "critic=shared", "--lora", "2"],
    ]
    .iter()
    .enumerate()
    {
        let out = dir.path().join(format!("run{i}"));
        let args = [
            "--smoke",
            "--quiet",
            "--methods",
            "ppo,rto",
            "--model",
            base,
        ];
        ok(&[&args[..], more, &["--out", out.to_str().unwrap()]].concat());
        for (policy, class) in [
            ("rto", "MistralForCausalLM"),
            ("reward", "MistralForSequenceClassification"),
        ] {
            let config = out.join("policies").join(policy).join("config.json");
            let config = fs::read_to_string(config).unwrap();
            assert!(config.contains(class), "{config}");
        }
    }
}

#[test]
fn a_model_is_not_converted_onto_itself() {
    let dir = tempfile::tempdir().unwrap();
    let model = dir.path().join("model");
    let fixture = super::fixture("plain");
    let to = |from: &str, out: &Path| {
        ["convert", "--model", from, "--out", out.to_str().unwrap()].map(String::from)
    };
    let words = |v: &[String]| v.iter().map(String::as_str).collect::<Vec<_>>().join(" ");
    let made = to(&fixture, &model);
    ok(&made.iter().map(String::as_str).collect::<Vec<_>>());
    let before = fs::read(model.join("model.safetensors")).unwrap();
    // The same folder by another name.
    let other = dir.path().join("model/../model");
    let again = to(model.to_str().unwrap(), &other);
    let said = super::error(&again.iter().map(String::as_str).collect::<Vec<_>>());
    assert!(
        said.contains("is the model itself"),
        "{} {said}",
        words(&again)
    );
    assert_eq!(fs::read(model.join("model.safetensors")).unwrap(), before);
}
