//! Loads a model folder, writes it again, and prints what the network computes: the half of
//! `scripts/roundtrip.py` that is not Hugging Face's.
//!
//!     roundtrip FROM TO f32|f16|bf16 SHARD_BYTES ID,ID,...
//!
//! prints one JSON object: `logits` `[tokens][vocab]`, or `scores` of the whole text for a classification head, of the
//! folder as it was written.

use candle_core::{DType, Device};
use rto_bridge::checkpoint::{self, Contents};
use rto_bridge::family::Head;
use rto_bridge::generate::Engine;
use std::path::Path;

fn main() -> Result<(), Box<dyn std::error::Error>> {
    let arguments: Vec<String> = std::env::args().skip(1).collect();
    let [from, to, dtype, shard_bytes, ids] = &arguments[..] else {
        return Err("expected FROM TO f32|f16|bf16 SHARD_BYTES ID,ID,...".into());
    };
    let dtype = match dtype.as_str() {
        "f32" => DType::F32,
        "f16" => DType::F16,
        "bf16" => DType::BF16,
        other => return Err(format!("found {other}, expected f32, f16 or bf16").into()),
    };
    let loaded = checkpoint::load(Path::new(from), None, &Device::Cpu)?;
    let contents = Contents {
        config: &loaded.config,
        head: loaded.head,
        weights: &loaded.weights,
        dtype,
        shard_bytes: shard_bytes.parse()?,
        carry: Some(Path::new(from)),
    };
    checkpoint::save(Path::new(to), &contents)?;
    let written = checkpoint::load(Path::new(to), Some(DType::F32), &Device::Cpu)?;
    let engine = Engine::new(&written.config, written.head, &written.weights)?;
    let ids: Vec<u32> = ids.split(',').map(str::parse).collect::<Result<_, _>>()?;
    let value = match written.head {
        Head::CausalLm => serde_json::json!({"logits": engine.logits(&ids)?}),
        Head::Classification { .. } => serde_json::json!({"scores": engine.classify(&[&ids])?}),
    };
    println!("{value}");
    Ok(())
}
