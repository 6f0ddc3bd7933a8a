//! What the tests of training share: fixtures written by Hugging Face, and small random models.
#![allow(dead_code, missing_docs)]

use candle_core::{DType, Device, Tensor};
use rto::seed::SeedTree;
use rto_bridge::batch::{Batch, Positions};
use rto_bridge::checkpoint;
use rto_bridge::family::GptNeoXConfig;
use rto_bridge::model::{Forward, Heads, Keep, Model, Request, Scores};
use rto_bridge::params::{Gradients, Init, Params};
use serde_json::Value;
use std::collections::HashMap;
use std::path::{Path, PathBuf};

/// Our own fixtures, and every folder (one with `policy/`, `ref/`, `io.json`, `io.safetensors`) of the folder that
/// `RTO_FIXTURES` names.
pub fn fixtures() -> Vec<PathBuf> {
    let own = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/fixtures");
    let mut all = vec![
        own.join("neox_parallel_rot25"),
        own.join("neox_sequential_rot100"),
        own.join("llama_grouped_tied"),
        own.join("llama_scaled_untied"),
        own.join("mistral_window"),
        own.join("qwen2_tied"),
        own.join("qwen2_windows"),
        own.join("qwen3_tied"),
        own.join("gpt2_tied"),
        own.join("gemma2_tied"),
        own.join("gemma2_scalar"),
        own.join("gemma3_tied"),
        own.join("gemma3_scaled"),
        own.join("olmo2_untied"),
        own.join("phi3_partial"),
    ];
    if let Ok(root) = std::env::var("RTO_FIXTURES") {
        let model = |folder: &PathBuf| folder.join("policy/config.json").is_file();
        let folders = std::fs::read_dir(&root).unwrap().map(|e| e.unwrap().path());
        let mut more: Vec<PathBuf> = folders.filter(model).collect();
        assert!(!more.is_empty(), "no fixture in {root}");
        more.sort();
        all.extend(more);
    }
    all
}

pub struct Fixture {
    pub name: String,
    pub folder: PathBuf,
    pub tensors: HashMap<String, Tensor>,
    pub numbers: Value,
}

impl Fixture {
    pub fn load(folder: &Path) -> Self {
        let numbers = std::fs::read_to_string(folder.join("io.json")).unwrap();
        Self {
            name: folder.file_name().unwrap().to_string_lossy().into(),
            folder: folder.into(),
            tensors: candle_core::safetensors::load(folder.join("io.safetensors"), &Device::Cpu)
                .unwrap(),
            numbers: serde_json::from_str(&numbers).unwrap(),
        }
    }

    /// The network as a user loads it, whatever the layout of the folder and the type in it.
    pub fn model(&self, part: &str, dtype: DType) -> Model {
        let folder = self.folder.join(part);
        let loaded = checkpoint::load(&folder, Some(dtype), &Device::Cpu).unwrap();
        Model::try_new(&loaded.config, Params::new(loaded.weights).unwrap()).unwrap()
    }

    pub fn rows(&self, name: &str) -> Vec<Vec<i64>> {
        self.tensors[name].to_vec2().unwrap()
    }

    pub fn flat(&self, name: &str) -> Vec<f64> {
        self.tensors[name]
            .flatten_all()
            .unwrap()
            .to_dtype(DType::F64)
            .unwrap()
            .to_vec1()
            .unwrap()
    }

    pub fn number(&self, name: &str) -> f64 {
        self.numbers[name].as_f64().unwrap()
    }

    /// Everything after the first real token is the response.
    pub fn padded(&self, side: &str, positions: Positions) -> Batch {
        let mask = self.rows(&format!("{side}.attention_mask"));
        let mut response = mask.clone();
        for row in &mut response {
            let first = row.iter().position(|&m| m == 1).unwrap();
            row[first] = 0;
        }
        from_rows(
            &self.rows(&format!("{side}.input_ids")),
            &mask,
            &response,
            positions,
        )
    }

    pub fn plain(&self) -> Batch {
        let ids = self.rows("plain.input_ids");
        let ones: Vec<Vec<i64>> = ids.iter().map(|r| vec![1; r.len()]).collect();
        let mut response = ones.clone();
        response.iter_mut().for_each(|r| r[0] = 0);
        from_rows(&ids, &ones, &response, Positions::FromMask)
    }

    /// Chosen rows, then rejected ones.
    pub fn pairs(&self) -> Batch {
        let stack = |part: &str| {
            let mut rows = self.rows(&format!("dpo.chosen.{part}"));
            rows.extend(self.rows(&format!("dpo.rejected.{part}")));
            rows
        };
        from_rows(
            &stack("input_ids"),
            &stack("attention_mask"),
            &stack("response_mask"),
            Positions::FromMask,
        )
    }
}

pub fn from_rows(
    ids: &[Vec<i64>],
    mask: &[Vec<i64>],
    response: &[Vec<i64>],
    positions: Positions,
) -> Batch {
    let tokens: Vec<Vec<u32>> = ids
        .iter()
        .map(|r| r.iter().map(|&t| t as u32).collect())
        .collect();
    let flags = |m: &[Vec<i64>]| {
        m.iter()
            .map(|r| r.iter().map(|&x| x == 1).collect())
            .collect::<Vec<Vec<bool>>>()
    };
    Batch::from_padded(&tokens, &flags(mask), &flags(response), positions).unwrap()
}

/// `max |a − b| / max |b|`.
pub fn distance(a: &[f64], b: &[f64]) -> f64 {
    assert_eq!(a.len(), b.len());
    assert!(a.iter().all(|x| x.is_finite()), "not finite");
    let top = |v: &mut dyn Iterator<Item = f64>| v.fold(0.0f64, |m, x| m.max(x.abs()));
    top(&mut a.iter().zip(b).map(|(x, y)| x - y)) / top(&mut b.iter().copied()).max(1e-30)
}

pub fn wide(values: &[f32]) -> Vec<f64> {
    values.iter().map(|&x| f64::from(x)).collect()
}

/// `−log σ(β (w − w_ref − l + l_ref))` averaged over pairs, and its gradient per token (Rafailov et al. 2023, eq. 7).
pub fn dpo(batch: &Batch, policy: &[f64], reference: &[f64], beta: f64) -> (f64, Vec<f64>) {
    let offsets = batch.offsets();
    let pairs = batch.rows().len() / 2;
    let ratio = |row: usize| {
        (offsets[row]..offsets[row + 1])
            .map(|i| policy[i] - reference[i])
            .sum::<f64>()
    };
    let (mut loss, mut grad) = (0.0, vec![0.0; policy.len()]);
    for pair in 0..pairs {
        let margin = beta * (ratio(pair) - ratio(pair + pairs));
        loss += (-margin).exp().ln_1p() / pairs as f64;
        let slope = -beta / (1.0 + margin.exp()) / pairs as f64;
        grad[offsets[pair]..offsets[pair + 1]].fill(slope);
        grad[offsets[pair + pairs]..offsets[pair + pairs + 1]].fill(-slope);
    }
    (loss, grad)
}

pub fn log_probs(model: &Model, batch: &Batch) -> Vec<f64> {
    model
        .scores(batch, &Request::log_probs())
        .unwrap()
        .log_probs
        .unwrap()
}

/// Gradients of `Σ_i g_i log p_i`.
pub fn pull(model: &Model, batch: &Batch, g: Vec<f64>, keep: Keep) -> Gradients {
    pull_all(
        model,
        batch,
        &Request::log_probs(),
        &Scores {
            log_probs: Some(g),
            ..Scores::default()
        },
        keep,
    )
}

pub fn pull_all(
    model: &Model,
    batch: &Batch,
    request: &Request<'_>,
    grad: &Scores,
    keep: Keep,
) -> Gradients {
    let forward: Forward = model.forward(batch, request, keep).unwrap();
    let mut gradients = Gradients::zeros(model.params());
    model
        .backward(batch, request, forward, grad, &mut gradients)
        .unwrap();
    gradients
}

pub fn small_config(parallel: bool) -> GptNeoXConfig {
    GptNeoXConfig {
        hidden_size: 24,
        n_layers: 3,
        intermediate_size: 40,
        rotary_dims: 6,
        max_positions: 64,
        parallel_residual: parallel,
        bos_token: Some(0),
        pad_token: Some(1),
        ..GptNeoXConfig::tiny(37, 0)
    }
}

pub const ALL_HEADS: Heads = Heads {
    language_model: true,
    value: true,
    reward: true,
};

pub fn small_model(config: &GptNeoXConfig, heads: Heads, seed: u64) -> Model {
    Model::random(
        config,
        heads,
        Init::Normal { std: 0.3 },
        &SeedTree::new(seed),
        &Device::Cpu,
    )
    .unwrap()
}

/// The same weights as candle expressions in `f64`: the other of the two implementations.
pub fn in_f64(model: &Model, config: &GptNeoXConfig) -> Model {
    let weights = model
        .params()
        .tensors()
        .into_iter()
        .map(|(name, w)| (name, w.to_dtype(DType::F64).unwrap()))
        .collect();
    Model::try_new(config, Params::new(weights).unwrap()).unwrap()
}

/// Texts of several lengths.
pub fn texts(vocabulary: u32, lengths: &[(usize, usize)], seed: u64) -> Batch {
    use rand::Rng;
    let mut rng = SeedTree::new(seed).child("texts").rng();
    let mut draw = |n: usize| {
        (0..n)
            .map(|_| rng.random_range(0..vocabulary))
            .collect::<Vec<u32>>()
    };
    let rows: Vec<(Vec<u32>, Vec<u32>)> =
        lengths.iter().map(|&(p, r)| (draw(p), draw(r))).collect();
    let views: Vec<(&[u32], &[u32])> = rows
        .iter()
        .map(|(p, r)| (p.as_slice(), r.as_slice()))
        .collect();
    Batch::new(&views).unwrap()
}
