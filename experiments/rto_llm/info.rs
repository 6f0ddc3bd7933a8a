//! `rto_llm info`: what a folder holds and what running it takes.

use crate::model::{Common, resolve};
use anyhow::{Result, bail};
use candle_core::Device;
use rto_bridge::checkpoint;
use rto_bridge::family::{Activation, Head, ModelConfig, NormKind, RopeScaling, Rotary};
use rto_bridge::memory_plan::{MemoryPlan, Workload};
use rto_bridge::tokenizer::Tokenizer;
use rto_harness::cli::{Reporter, print};
use serde_json::json;

/// Architecture, parameter count and memory plan of a folder; its files are read through and checked.
#[derive(Debug, clap::Args)]
#[command(after_help = EXAMPLES)]
pub struct Args {
    /// Folder of the model (or a hub id, in a build with the feature hub)
    #[arg(long, value_name = "DIR")]
    model: String,
    /// Type of the plan: f32, f16 or bf16
    #[arg(long, value_name = "TYPE", default_value = "f32", value_parser = ["f32", "f16", "bf16"])]
    dtype: String,
    /// Sequences side by side in the plan
    #[arg(long, value_name = "N", default_value_t = 16)]
    batch: usize,
    /// Tokens of a sequence in the plan [default: 512 or the context]
    #[arg(long, value_name = "N")]
    sequence: Option<usize>,
    /// Plan without activation checkpointing
    #[arg(long)]
    no_checkpointing: bool,
    /// Print JSON instead of text
    #[arg(long)]
    json: bool,
}

const EXAMPLES: &str = "\
Examples:
  rto_llm info --model pythia-14m
  rto_llm info --model pythia-2.8b --dtype bf16 --batch 4 --json";

pub fn run(args: &Args) -> Result<()> {
    let common = Common {
        threads: 1,
        device: "cpu".into(),
        dtype: args.dtype.clone(),
        quiet: false,
    };
    let folder = resolve(&args.model, &common)?;
    let (config, head) = checkpoint::read_config(&folder)?;
    let dtype = common.dtype();
    for (flag, n) in [("batch", Some(args.batch)), ("sequence", args.sequence)] {
        if n == Some(0) {
            bail!("--{flag}: found 0, expected at least 1");
        }
    }
    let sequence = args.sequence.unwrap_or(512).min(config.max_positions());
    let work = |training: bool| Workload {
        dtype,
        batch: args.batch,
        sequence,
        training,
        checkpointing: !args.no_checkpointing,
        ..Workload::default()
    };
    let plans = [false, true].map(|training| MemoryPlan::new(&config, head, &work(training)));
    if !args.json {
        let shape = describe(&args.model, &config, head, plans[0].parameters);
        let size = format!("{} × {sequence} tokens, {}", args.batch, args.dtype);
        Reporter::new(false).say(format_args!(
            "{shape}\nmemory, forward only ({size})\n{}\n\nmemory, training ({size})\n{}",
            plans[0], plans[1]
        ))?;
    }
    // The plan is printed before anything large is read.
    let loaded = checkpoint::load(&folder, None, &Device::Cpu)?;
    let has_tokenizer = Tokenizer::is_in(&folder);
    if has_tokenizer {
        Tokenizer::load(&folder, &config)?;
    }
    let stored = checkpoint::dtype_name(loaded.stored_dtype);
    if args.json {
        let plan = |p: &MemoryPlan| {
            json!({"weights": p.weights, "master": p.master, "gradients": p.gradients, "moments": p.moments,
            "activations": p.activations, "cache": p.cache, "head_tile": p.head_tile, "total": p.total()})
        };
        let value = json!({"config": config.to_json(head, stored), "parameters": plans[0].parameters, "tensors": loaded.weights.len(),
            "stored_dtype": stored, "tokenizer": has_tokenizer, "notes": loaded.notes,
            "memory_bytes": {"forward": plan(&plans[0]), "training": plan(&plans[1])}});
        return print(&format!("{value}\n"));
    }
    let tokenizer = if has_tokenizer {
        "fits the network"
    } else {
        "no file of it, so token ids only"
    };
    print(&format!(
        "\nfiles: {} tensors of type {stored}, all finite and of the right shape\ntokenizer: {tokenizer}\n",
        loaded.weights.len()
    ))?;
    for note in &loaded.notes {
        print(&format!("note: {note}\n"))?;
    }
    Ok(())
}

fn rotary(rotary: &Rotary, head_dim: usize) -> String {
    let scaling = match rotary.scaling {
        None => String::new(),
        Some(RopeScaling::Linear { factor }) => format!(" divided by {factor}"),
        Some(RopeScaling::Llama3 { factor, .. }) => format!(" scaled by {factor} as in Llama 3"),
    };
    let (dims, base) = (rotary.dims, rotary.base);
    format!("rotary {dims} of {head_dim} dimensions at base {base}{scaling}")
}

fn describe(name: &str, c: &ModelConfig, head: Head, parameters: u64) -> String {
    let head = match head {
        Head::CausalLm if c.tied_embeddings() => "next token, tied to the embedding".to_string(),
        Head::CausalLm => "next token".to_string(),
        Head::Classification { labels } => format!("classification, {labels} label(s)"),
    };
    let heads = match c.n_kv_heads() {
        kv if kv == c.n_heads() => format!("heads {}", c.n_heads()),
        kv => format!("heads {} ({kv} of keys and values)", c.n_heads()),
    };
    let plan = c.plan();
    let activation = match (plan.activation, plan.gated) {
        (Activation::Gelu, false) => "GELU (erf)",
        (Activation::GeluTanh, false) => "GELU (tanh)",
        (Activation::Silu, false) => "SiLU",
        (Activation::Silu, true) => "SwiGLU",
        (Activation::Gelu, true) => "GEGLU (erf)",
        (Activation::GeluTanh, true) => "GEGLU (tanh)",
    };
    let norms = match plan.norm.kind {
        NormKind::Layer => "layer norms",
        NormKind::Rms => "RMS norms",
    };
    let residual = match plan.parallel {
        true => "parallel",
        false => "sequential",
    };
    let details = format!(
        "MLP {} with {activation}\n  {norms}, {residual} residual, {}{}",
        c.intermediate_size(),
        plan.rotary
            .map_or("learned positions".into(), |r| rotary(&r, c.head_dim())),
        plan.window
            .as_ref()
            .map_or(String::new(), |w| format!(", window of {}", w.size)),
    );
    let token = |t: Option<u32>| t.map_or("-".to_string(), |t| t.to_string());
    format!(
        "{name}: {}, {parameters} parameters\n  layers {}, width {}, {heads} of {}, {details}, context {}\n  \
         vocabulary {}, bos {}, eos {}, pad {}\n  head: {head}\n",
        c.family(),
        c.n_layers(),
        c.hidden_size(),
        c.head_dim(),
        c.max_positions(),
        c.vocab_size(),
        token(c.bos_token()),
        token(c.eos_token()),
        token(c.pad_token())
    )
}
