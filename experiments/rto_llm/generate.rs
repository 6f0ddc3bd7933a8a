//! `rto_llm generate`: responses drawn from a model.

use crate::input::{self, Line};
use crate::model::{Common, Model, Reader};
use crate::run::choices::SamplingWeights;
use anyhow::{Result, bail};
use rto::seed::SeedTree;
use rto::seq::{Decoder, Finish, StreamKey};
use rto_bridge::generate::{Sampled, Sampling};
use rto_harness::cli::{print, reader_is_gone};
use serde_json::json;
use std::path::PathBuf;
use std::sync::Arc;

/// Draws responses. The same seed gives the same text whatever the batch and the threads.
///
/// With --json one object per response, in input order: {"prompt_ids", "token_ids", "tokens", "text", "finish",
/// "log_probs"}; "finish" is "eos" or "length", and "log_probs" are those of the distribution that was sampled.
#[derive(Debug, clap::Args)]
#[command(after_help = EXAMPLES)]
pub struct Args {
    /// Folder of the model (or a hub id, in a build with the feature hub)
    #[arg(long, value_name = "DIR")]
    model: String,
    /// Text to go on from
    #[arg(
        long,
        value_name = "TEXT",
        required_unless_present = "input",
        conflicts_with = "input"
    )]
    prompt: Option<String>,
    /// JSON lines {"prompt"} or {"prompt_ids"}
    #[arg(long, value_name = "FILE")]
    input: Option<PathBuf>,
    /// Longest response
    #[arg(long, value_name = "N", default_value_t = 64)]
    max_new_tokens: usize,
    /// Temperature of the distribution
    #[arg(long, value_name = "T", default_value_t = 1.0)]
    temperature: f64,
    /// Keep the most likely tokens whose mass reaches P
    #[arg(long, value_name = "P", default_value_t = 1.0)]
    top_p: f64,
    /// Keep the K most likely tokens; 0 keeps all
    #[arg(long, value_name = "K", default_value_t = 0)]
    top_k: usize,
    /// Forbid the end before N tokens
    #[arg(long, value_name = "N", default_value_t = 0)]
    min_new_tokens: usize,
    /// Always the most likely token
    #[arg(long, conflicts_with_all = ["seed", "samples"])]
    greedy: bool,
    /// Responses to each prompt
    #[arg(long, value_name = "N", default_value_t = 1)]
    samples: usize,
    /// Responses written side by side
    #[arg(long, value_name = "N", default_value_t = 16)]
    batch: usize,
    /// Seed of every draw
    #[arg(long, value_name = "N", default_value_t = 0)]
    seed: u64,
    /// How the weights of products are read while text is written: bf16 and int8 are quicker for a few texts at a time, and write from a
    /// distribution q near the model's; a note says how far
    #[arg(long, value_name = "TYPE", value_enum, default_value = "f32")]
    sampling_weights: SamplingWeights,
    /// Id of the token that ends a response [default: all that config.json, generation_config.json and the tokenizer name]
    #[arg(long, value_name = "ID")]
    eos: Option<u32>,
    /// Print JSON lines instead of text
    #[arg(long)]
    json: bool,
    #[command(flatten)]
    common: Common,
}

/// Responses that are held at once, at most.
const MOST_AT_ONCE: usize = 1 << 12;

const EXAMPLES: &str = "\
Examples:
  rto_llm generate --model pythia-14m --prompt 'Once upon a time'
  rto_llm generate --model sft --input prompts.jsonl --top-p 0.99 --samples 4
  rto_llm generate --model sft --prompt 'Human: Hi' --greedy --max-new-tokens 20";

pub fn run(args: &Args) -> Result<()> {
    check(args)?;
    let lines = match (&args.input, &args.prompt) {
        (Some(path), _) => input::read(path)?,
        (None, Some(text)) => vec![Line::of_text(text)],
        (None, None) => bail!("expected --prompt or --input"),
    };
    let total = lines.len().saturating_mul(args.samples);
    let batch = args.batch.min(total);
    let reader = Reader::open(&args.model, &args.common)?;
    let vocabulary = reader.config.vocab_size();
    if let Some(eos) = args.eos.filter(|eos| *eos as usize >= vocabulary) {
        bail!("--eos: found {eos}, expected a token below the vocabulary's {vocabulary}");
    }
    // Every prompt is read before anything is printed or loaded.
    let prompts: Vec<Arc<[u32]>> = lines
        .iter()
        .map(|line| Ok(line.prompt(&reader, 1)?.into()))
        .collect::<Result<_>>()?;
    let stored = args.sampling_weights.of();
    let model = Model::load(reader, batch, None, stored, &args.common)?;
    let (mut gap, mut written) = (0.0, 0);
    let sampling = sampling(args, &model);
    let seeds = SeedTree::new(args.seed).child("generate");
    let key = |i: usize| {
        let prompt = seeds.index((i / args.samples) as u64);
        StreamKey::new(prompt.index((i % args.samples) as u64))
    };
    // Some at a time, and printed as they come: no number depends on how many, and any number of samples has room.
    let some = args.batch.saturating_mul(16).min(MOST_AT_ONCE);
    for first in (0..total).step_by(some) {
        let places = first..total.min(first.saturating_add(some));
        let asked = places.clone().map(|i| prompts[i / args.samples].clone());
        let asked: Vec<Arc<[u32]>> = asked.collect();
        let keys = (!args.greedy).then(|| places.map(key).collect::<Vec<_>>());
        let writer = model.narrow.as_ref().unwrap_or(&model.engine);
        for sampled in &writer.write(&asked, keys.as_deref(), &sampling)? {
            print(&shown(args, &model, sampled)?)?;
            let (prompt, response) = (&sampled.episode.prompt, &sampled.episode.response);
            if let Some(narrow) = &model.narrow {
                let [q, p] = [narrow, &model.engine]
                    .map(|engine| engine.log_probs(prompt, response, args.temperature));
                gap += q?.iter().sum::<f64>() - p?.iter().sum::<f64>();
                written += response.len();
            }
        }
        if reader_is_gone() {
            break;
        }
    }
    if model.narrow.is_some() {
        args.common.say(&format!(
            "weights in {} for writing: log q - log p = {:.2e} nats a token over {written} tokens, with q what wrote and p the model in f32",
            args.sampling_weights.name(),
            gap / written.max(1) as f64
        ));
    }
    Ok(())
}

/// What needs no model to be seen.
fn check(args: &Args) -> Result<()> {
    for (flag, n) in [
        ("max-new-tokens", args.max_new_tokens),
        ("samples", args.samples),
        ("batch", args.batch),
    ] {
        if n == 0 {
            bail!("--{flag}: found 0, expected at least 1");
        }
    }
    let (device, dtype) = (&args.common.device, &args.common.dtype);
    if args.sampling_weights != SamplingWeights::F32 && (device != "cpu" || dtype != "f32") {
        bail!(
            "--sampling-weights: found {} with --device {device} --dtype {dtype}, expected f32: only a network in f32 on the processor is written with other weights",
            args.sampling_weights.name()
        );
    }
    if !(args.temperature.is_finite() && args.temperature > 0.0) {
        let found = args.temperature;
        bail!(
            "--temperature: found {found}, expected finite and > 0 (--greedy takes the most likely token)"
        );
    }
    if !(args.top_p > 0.0 && args.top_p <= 1.0) {
        bail!("--top-p: found {}, expected in (0, 1]", args.top_p);
    }
    if args.min_new_tokens > args.max_new_tokens {
        bail!(
            "--min-new-tokens: found {}, expected at most --max-new-tokens {}",
            args.min_new_tokens,
            args.max_new_tokens
        );
    }
    Ok(())
}

fn sampling(args: &Args, model: &Model) -> Sampling {
    let decoder = Decoder {
        temperature: 1.0,
        top_p: args.top_p,
        top_k: args.top_k,
        min_new_tokens: args.min_new_tokens,
    };
    Sampling {
        max_new_tokens: args.max_new_tokens,
        temperature: args.temperature,
        decoder: (decoder != Decoder::default()).then_some(decoder),
        ends: match args.eos {
            Some(eos) => eos.into(),
            None => model.engine.config().end_tokens().clone(),
        },
        batch: args.batch.min(MOST_AT_ONCE),
    }
}

fn shown(args: &Args, model: &Model, sampled: &Sampled) -> Result<String> {
    let episode = &sampled.episode;
    let finish = match episode.finish {
        Finish::Eos => "eos",
        Finish::Length => "length",
    };
    let (mut tokens, mut text) = (None, None);
    if let Some(tokenizer) = &model.reader.tokenizer {
        tokens = Some(tokenizer.pieces(&episode.response)?);
        text = Some(tokenizer.reply_text(&episode.prompt, &episode.response)?);
    }
    if args.json {
        let (prompt, ids) = (json!(episode.prompt.to_vec()), json!(episode.response));
        let (tokens, text, log_probs) = (json!(tokens), json!(text), json!(sampled.log_probs));
        return Ok(format!(
            "{{\"prompt_ids\":{prompt},\"token_ids\":{ids},\"tokens\":{tokens},\"text\":{text},\"finish\":\"{finish}\",\"log_probs\":{log_probs}}}\n"
        ));
    }
    let shown = text.unwrap_or_else(|| format!("{:?}", episode.response));
    let total: f64 = sampled.log_probs.iter().sum();
    Ok(format!(
        "{shown}\n[{} tokens, {finish}, log-prob {total:.4}]\n\n",
        episode.response.len()
    ))
}
