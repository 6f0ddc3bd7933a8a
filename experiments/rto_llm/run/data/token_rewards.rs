//! A file of replies with a reward of every token: JSON lines with `prompt_ids` (or `prompt`, a text), `token_ids` and `token_rewards`.

use std::fs;
use std::path::Path;

use anyhow::{Context, Result, bail, ensure};
use rto::Token;
use rto::seed::SeedTree;
use rto::seq::{Episode, Finish};
use rto_bridge::data::shuffled;
use serde_json::{Map, Value, json};

use super::codec::Codec;
use super::set::Data;

/// A reply with a reward of each of its tokens.
pub struct Paid {
    pub episode: Episode,
    pub rewards: Vec<f64>,
}

/// The rows of a file.
#[derive(Default)]
pub struct TokenRewards {
    pub train: Vec<Paid>,
    /// One row in ten, at least one, on which nothing is fitted.
    pub held_out: Vec<Paid>,
}

impl TokenRewards {
    pub fn is_empty(&self) -> bool {
        self.train.is_empty()
    }
}

/// Reads the file into the data of a run.
///
/// # Errors
/// The first bad line: its file, its number, what was found and what was expected.
pub fn read(name: &str, data: &mut Data, seeds: &SeedTree) -> Result<()> {
    let text =
        fs::read_to_string(Path::new(name)).with_context(|| format!("token_rewards: {name}"))?;
    let mut rows = Vec::new();
    for (i, line) in text.trim_start_matches('\u{feff}').lines().enumerate() {
        if !line.trim().is_empty() {
            rows.push(Some(
                row(line, data).with_context(|| format!("{name}:{}", i + 1))?,
            ));
        }
    }
    let n = rows.len();
    ensure!(
        n >= 2,
        "{name}: found {n} row{}, expected at least 2: one in ten, and one at least, is held out",
        if n == 1 { "" } else { "s" }
    );
    let seeds = seeds.child("token rewards");
    let last = shuffled(n, &seeds, 0).into_iter().take(n.div_ceil(10));
    let held_out: Vec<Paid> = last.filter_map(|i| rows[i].take()).collect();
    let train: Vec<Paid> = rows.into_iter().flatten().collect();
    let digest = SeedTree::new(0).child(&text).key64();
    data.account["token_rewards"] = json!({
        "file": name, "digest": format!("{digest:016x}"), "rows": train.len(), "held_out": held_out.len(),
    });
    if !data.said.is_empty() {
        data.said.push('\n');
    }
    data.said += &format!(
        "token rewards of {} replies to fit, {} held out",
        train.len(),
        held_out.len()
    );
    data.token_rewards = TokenRewards { train, held_out };
    Ok(())
}

fn row(line: &str, data: &Data) -> Result<Paid> {
    let value: Value = serde_json::from_str(line).map_err(|e| {
        anyhow::anyhow!(
            "not valid JSON (column {}); NaN and infinity are none",
            e.column()
        )
    })?;
    let Value::Object(row) = value else {
        bail!("found {}, expected a JSON object", short(&value));
    };
    let vocabulary = data.network.vocab_size();
    let prompt = match (row.get("prompt_ids"), row.get("prompt")) {
        (Some(ids), _) => tokens("prompt_ids", ids, vocabulary)?,
        (None, Some(Value::String(text))) => match &data.codec {
            Codec::Pieces(tokenizer) => tokenizer.encode_prompt(text)?,
            Codec::Words => {
                bail!("prompt: found a text, expected prompt_ids: the world reads token ids")
            }
        },
        (None, Some(other)) => bail!("prompt: found {}, expected a text", short(other)),
        (None, None) => bail!(
            "found neither prompt_ids nor prompt, expected one: a reward depends on what is answered"
        ),
    };
    ensure!(
        !prompt.is_empty(),
        "prompt: is empty, expected at least one token"
    );
    let reply = tokens("token_ids", of(&row, "token_ids")?, vocabulary)?;
    ensure!(
        !reply.is_empty(),
        "token_ids: is empty, expected at least one token"
    );
    let rewards = numbers("token_rewards", of(&row, "token_rewards")?)?;
    ensure!(
        rewards.len() == reply.len(),
        "found {} token_rewards, expected {}, one for each of token_ids",
        rewards.len(),
        reply.len()
    );
    let (read, room) = (prompt.len() + reply.len(), data.network.max_positions());
    ensure!(
        read <= room,
        "found {} prompt and {} reply tokens, the network has room for {room}",
        prompt.len(),
        reply.len()
    );
    let ended = reply
        .last()
        .is_some_and(|last| data.network.end_tokens().contains(*last));
    let finish = if ended { Finish::Eos } else { Finish::Length };
    Ok(Paid {
        episode: Episode::try_new(prompt.into(), reply, finish)?,
        rewards,
    })
}

fn of<'a>(row: &'a Map<String, Value>, key: &str) -> Result<&'a Value> {
    row.get(key).with_context(|| {
        format!("found no {key}, expected prompt_ids, token_ids and token_rewards")
    })
}

fn tokens(key: &str, value: &Value, vocabulary: usize) -> Result<Vec<Token>> {
    let list = value.as_array().with_context(|| {
        format!(
            "{key}: found {}, expected a list of token ids",
            short(value)
        )
    })?;
    let token = |(h, value): (usize, &Value)| {
        let id = value.as_u64().and_then(|id| Token::try_from(id).ok());
        id.filter(|id| (*id as usize) < vocabulary)
            .with_context(|| {
                format!(
                    "{key}[{h}]: found {}, expected a token id below the vocabulary's {vocabulary}",
                    short(value)
                )
            })
    };
    list.iter().enumerate().map(token).collect()
}

fn numbers(key: &str, value: &Value) -> Result<Vec<f64>> {
    let list = value
        .as_array()
        .with_context(|| format!("{key}: found {}, expected a list of numbers", short(value)))?;
    let number = |(h, value): (usize, &Value)| {
        let number = value.as_f64().filter(|x| x.is_finite());
        number.with_context(|| {
            format!(
                "{key}[{h}]: found {}, expected a finite number",
                short(value)
            )
        })
    };
    list.iter().enumerate().map(number).collect()
}

/// A value as an error shows it.
fn short(value: &Value) -> String {
    let text = value.to_string();
    match text.char_indices().nth(40) {
        None => text,
        Some((end, _)) => format!("{}…", &text[..end]),
    }
}
