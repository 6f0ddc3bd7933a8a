//! Adapters to and from PEFT: the half of `scripts/check_peft.py` that is not PEFT's.
//!
//!     lora make BASE TO RANK ALPHA TARGET,TARGET,... RSLORA ID,ID,...
//!     lora load BASE FROM ID,ID,...
//!
//! `make` writes an adapter of random `A` and `B` for the folder BASE, `load` reads one. Both print one JSON object: `logits`
//! `[tokens][vocab]` or the `rewards` of every beginning of the text from two tokens on, computed with the adapter `beside` the
//! base and `merged` into it.

use candle_core::{Device, Tensor};
use rand::Rng;
use rto::seed::SeedTree;
use rto_bridge::batch::Batch;
use rto_bridge::learner::NeuralScorer;
use rto_bridge::lora::LoraConfig;
use rto_bridge::model::{Model, REWARD_WEIGHT, Request};
use serde_json::{Value, json};
use std::path::Path;

type Outcome<T> = Result<T, Box<dyn std::error::Error>>;

fn main() -> Outcome<()> {
    let arguments: Vec<String> = std::env::args().skip(1).collect();
    let arguments: Vec<&str> = arguments.iter().map(String::as_str).collect();
    let base = |folder: &str| -> Outcome<Model> {
        let scorer = NeuralScorer::load(Path::new(folder), false, &Device::Cpu)?;
        Ok(scorer.model().snapshot()?)
    };
    let (model, ids) = match arguments[..] {
        ["make", from, to, rank, alpha, targets, rslora, ids] => {
            let config = LoraConfig {
                rank: rank.parse()?,
                alpha: alpha.parse()?,
                target_modules: targets.split(',').map(String::from).collect(),
                use_rslora: rslora.parse()?,
            };
            let model = with_random_adapter(base(from)?, config)?;
            model.save_adapter(Path::new(to), from)?;
            (model, ids)
        }
        ["load", from, adapter, ids] => (base(from)?.load_adapter(Path::new(adapter))?, ids),
        _ => {
            return Err(
                "expected make BASE TO RANK ALPHA TARGETS RSLORA IDS or load BASE FROM IDS".into(),
            );
        }
    };
    let ids: Vec<u32> = ids.split(',').map(str::parse).collect::<Result<_, _>>()?;
    let beside = computed(&model, &ids)?;
    let merged = computed(&model.merge()?, &ids)?;
    println!("{}", json!({"beside": beside, "merged": merged}));
    Ok(())
}

fn with_random_adapter(model: Model, config: LoraConfig) -> Outcome<Model> {
    let fresh = model
        .snapshot()?
        .with_adapter(config.clone(), &SeedTree::new(1))?;
    let mut weights = fresh.params().tensors();
    weights.retain(|name, _| fresh.params().is_trained(name));
    let mut rng = SeedTree::new(2).child("up").rng();
    for (name, tensor) in &mut weights {
        if name.contains("lora_B") || name == REWARD_WEIGHT {
            let values = (0..tensor.elem_count()).map(|_| rng.random_range(-0.3f32..0.3));
            let values: Vec<f32> = values.collect();
            *tensor = Tensor::from_vec(values, tensor.shape(), &Device::Cpu)?;
        }
    }
    Ok(model.with_adapter_weights(config, &weights)?)
}

fn computed(model: &Model, ids: &[u32]) -> Outcome<Value> {
    let texts: Vec<_> = (2..=ids.len()).map(|n| (&ids[..1], &ids[1..n])).collect();
    let batch = Batch::new(&texts[texts.len() - 1..])?;
    if !model.params().contains(REWARD_WEIGHT) {
        return Ok(json!({"logits": model.logits(&batch)?.to_vec2::<f32>()?}));
    }
    let request = Request {
        rewards: true,
        ..Request::default()
    };
    let scores = model.scores(&Batch::new(&texts)?, &request)?;
    Ok(json!({"rewards": scores.rewards}))
}
