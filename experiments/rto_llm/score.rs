//! `rto_llm score`: log π of every response token, and β(log π − log π_ref), equation (4.5).

use crate::html::{self, Scored};
use crate::input::{self, Line};
use crate::model::{Common, Model, Reader};
use anyhow::{Context, Result, bail};
use rto_bridge::generate::Stored;
use rto_bridge::tokenizer::Tokenizer;
use rto_harness::cli::{print, reader_is_gone};
use serde_json::json;
use std::path::PathBuf;

/// Log-probabilities of given responses, one number per response token (temperature 1, full softmax).
///
/// With --reference also the DPO token rewards beta · (log pi − log pi_ref), equation (4.5). With --json one object a
/// line, in input order: {"token_ids", "tokens", "log_probs", "token_rewards", "prompt_ids"}; "tokens" is null where the folder has
/// no tokenizer, "token_rewards" where there is no reference. The key token_rewards of a run reads such lines.
#[derive(Debug, clap::Args)]
#[command(after_help = EXAMPLES)]
pub struct Args {
    /// Folder of the model (or a hub id, in a build with the feature hub)
    #[arg(long, value_name = "DIR")]
    model: String,
    /// Folder of the reference model of the token rewards
    #[arg(long, value_name = "DIR")]
    reference: Option<String>,
    /// JSON lines {"prompt", "response"} or {"prompt_ids", "response_ids"}
    #[arg(long, value_name = "FILE")]
    input: PathBuf,
    /// beta of the token rewards
    #[arg(long, value_name = "X", default_value_t = 0.1, requires = "reference")]
    beta: f64,
    /// Print JSON lines instead of text
    #[arg(long)]
    json: bool,
    /// Draw the token rewards (the log-probabilities without a reference) as coloured text
    #[arg(long, value_name = "FILE")]
    html: Option<PathBuf>,
    #[command(flatten)]
    common: Common,
}

const EXAMPLES: &str = "\
Examples:
  rto_llm score --model dpo --reference sft --input pairs.jsonl --json
  rto_llm score --model dpo --reference sft --input pairs.jsonl --html page.html
  echo '{\"prompt_ids\": [5, 6], \"response_ids\": [7, 0]}' > ids.jsonl
  rto_llm score --model dpo --input ids.jsonl --json";

pub fn run(args: &Args) -> Result<()> {
    if !args.beta.is_finite() || args.beta <= 0.0 {
        bail!("--beta: found {}, must be finite and > 0", args.beta);
    }
    let lines = input::read(&args.input)?;
    let model = Reader::open(&args.model, &args.common)?;
    let open = |name: &String| Reader::open(name, &args.common);
    let reference = args.reference.as_ref().map(open).transpose()?;
    if let Some(reference) = &reference {
        let (ours, theirs) = (model.config.vocab_size(), reference.config.vocab_size());
        if ours != theirs {
            bail!(
                "{}: vocabulary of {theirs}, but {} has {ours}",
                reference.name,
                model.name
            );
        }
        same_tokens(&model, reference)?;
    }
    // Every line is read before anything is printed or loaded: a bad last line costs no time.
    let pairs = lines
        .iter()
        .map(|line| pair(line, &model, reference.as_ref()))
        .collect::<Result<Vec<_>>>()?;
    // A folder that cannot be made is known before the work, not after it.
    if let Some(path) = &args.html
        && let Some(folder) = path.parent()
    {
        let made = std::fs::create_dir_all(folder);
        made.with_context(|| format!("--html {}: cannot make its folder", path.display()))?;
    }
    let load = |reader| Model::load(reader, 1, None, Stored::F32, &args.common);
    let model = load(model)?;
    let reference = reference.map(load).transpose()?;
    let mut drawn = Vec::new();
    for (prompt, response) in &pairs {
        let scored = score(args.beta, prompt, response, &model, reference.as_ref())?;
        if args.json {
            print(&format!("{}\n", json_line(&scored)))?;
        } else if args.html.is_none() {
            print(&text(&scored))?;
        }
        if args.html.is_some() {
            drawn.push(scored);
        } else if reader_is_gone() {
            // There is no page to be written, and nobody reads the rest.
            return Ok(());
        }
    }
    if let Some(path) = &args.html {
        html::write(
            path,
            &drawn,
            &args.model,
            args.reference.as_deref().map(|r| (r, args.beta)),
        )?;
        args.common.say(&format!("wrote {}", path.display()));
    }
    Ok(())
}

/// Two tokenizers that read texts otherwise give rewards that mean nothing, however equal the sizes of their vocabularies.
fn same_tokens(model: &Reader, reference: &Reader) -> Result<()> {
    let (Some(ours), Some(theirs)) = (&model.tokenizer, &reference.tokenizer) else {
        return Ok(());
    };
    // Padded vocabularies have ids without a token.
    let piece = |tokenizer: &Tokenizer, id: u32| tokenizer.pieces(&[id]).ok();
    let vocabulary = model.config.vocab_size() as u32;
    for id in 0..vocabulary {
        let (a, b) = (piece(ours, id), piece(theirs, id));
        if a != b {
            let shown = |piece: Option<Vec<String>>| match piece.as_deref() {
                Some([piece]) => format!("{piece:?}"),
                _ => "nothing".into(),
            };
            bail!(
                "--reference {}: its tokenizer is another one: token {id} is {} there and {} in {}; token rewards need one tokenizer",
                reference.name,
                shown(b),
                shown(a),
                model.name
            );
        }
    }
    Ok(())
}

/// The tokens of a prompt and of a response.
type PromptAndResponse = (Vec<u32>, Vec<u32>);

fn pair(line: &Line, model: &Reader, reference: Option<&Reader>) -> Result<PromptAndResponse> {
    let (prompt, response) = line.pair(model)?;
    if let Some(reference) = reference {
        // Equal tokens may still be joined by other rules.
        if reference.tokenizer.is_some() && model.tokenizer.is_some() {
            let (their_prompt, their_response) = line.tokens_of_both(reference)?;
            if (&their_prompt, &their_response) != (&prompt, &response) {
                bail!(
                    "{}: the tokenizer of {} reads this text in other tokens than that of {}; token rewards need one tokenizer",
                    line.place,
                    reference.name,
                    model.name
                );
            }
        }
        let context = reference.config.max_positions();
        if prompt.len() + response.len() > context + 1 {
            let (p, r) = (prompt.len(), response.len());
            bail!(
                "{}: {p} prompt and {r} response tokens, the context of {} has room for {context}",
                line.place,
                reference.name
            );
        }
    }
    Ok((prompt, response))
}

fn score(
    beta: f64,
    prompt: &[u32],
    response: &[u32],
    model: &Model,
    reference: Option<&Model>,
) -> Result<Scored> {
    let ours = model.engine.log_probs(prompt, response, 1.0)?;
    let token_rewards = match reference {
        None => None,
        Some(reference) => {
            let theirs = reference.engine.log_probs(prompt, response, 1.0)?;
            Some(
                ours.iter()
                    .zip(&theirs)
                    .map(|(a, b)| beta * (a - b))
                    .collect(),
            )
        }
    };
    let (prompt_text, tokens) = match &model.reader.tokenizer {
        None => (None, None),
        Some(tokenizer) => (
            Some(tokenizer.decode(prompt, true)?),
            Some(tokenizer.pieces(response)?),
        ),
    };
    Ok(Scored {
        prompt_text,
        prompt: prompt.to_vec(),
        token_ids: response.to_vec(),
        tokens,
        log_probs: ours,
        token_rewards,
    })
}

fn json_line(scored: &Scored) -> String {
    // Keys in the order of the contract.
    let value = |v: serde_json::Value| v.to_string();
    format!(
        "{{\"token_ids\":{},\"tokens\":{},\"log_probs\":{},\"token_rewards\":{},\"prompt_ids\":{}}}",
        value(json!(scored.token_ids)),
        value(json!(scored.tokens)),
        value(json!(scored.log_probs)),
        value(json!(scored.token_rewards)),
        value(json!(scored.prompt)),
    )
}

fn text(scored: &Scored) -> String {
    let mut text = String::from("   token id    log-prob      reward  text\n");
    for (i, (id, log_prob)) in scored.token_ids.iter().zip(&scored.log_probs).enumerate() {
        let reward = scored
            .token_rewards
            .as_ref()
            .map_or("-".to_string(), |r| format!("{:.5}", r[i]));
        let piece = scored
            .tokens
            .as_ref()
            .map_or(String::new(), |t| format!("{:?}", t[i]));
        text += &format!("{id:>11} {log_prob:>11.5} {reward:>11}  {piece}\n");
    }
    let total: f64 = scored.log_probs.iter().sum();
    let reward = scored
        .token_rewards
        .as_ref()
        .map_or("-".to_string(), |r| format!("{:.5}", r.iter().sum::<f64>()));
    text + &format!("{:>11} {total:>11.5} {reward:>11}\n\n", "sum")
}
