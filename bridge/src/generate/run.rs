//! Sampling, greedy decoding and scoring with [`Engine`].

use super::engine::{Buffers, Cache, Engine, Row};
use super::kernels::LANES;
use crate::decoder::Truncated;
use crate::family::{EndTokens, Head, ModelConfig};
use crate::{Error, Result, sampler};
use rand::Rng;
use rand_chacha::ChaCha8Rng;
use rayon::prelude::*;
use rto::Token;
use rto::seq::{Decoder, Episode, Finish, StreamKey};
use std::sync::Arc;

/// Rows of one forward pass while prompts are read.
const ROWS: usize = 256;

/// How responses are drawn.
#[derive(Debug, Clone, PartialEq)]
pub struct Sampling {
    /// Longest response. The context may cut one shorter; both end as [`Finish::Length`].
    pub max_new_tokens: usize,
    /// The policy's own temperature T: π = softmax(logits / T).
    pub temperature: f64,
    /// Truncation for evaluation; none in training.
    pub decoder: Option<Decoder>,
    /// Tokens any of which ends a response, and is its last token; none to write on to the length.
    pub ends: EndTokens,
    /// Responses written side by side. Changes time and memory, no text.
    pub batch: usize,
}

impl Default for Sampling {
    fn default() -> Self {
        Self {
            max_new_tokens: 64,
            temperature: 1.0,
            decoder: None,
            ends: EndTokens::default(),
            batch: 16,
        }
    }
}

/// A response and log π of each of its tokens in the distribution it was drawn from.
#[derive(Debug, Clone, PartialEq)]
pub struct Sampled {
    /// Prompt, response and how it ended.
    pub episode: Episode,
    /// One number per response token.
    pub log_probs: Vec<f64>,
}

impl Sampling {
    pub(super) fn check(&self) -> Result<()> {
        if !(self.temperature.is_finite() && self.temperature > 0.0) {
            return Err(Error::request(
                "temperature",
                format!("found {}, must be finite and > 0", self.temperature),
            ));
        }
        if self.max_new_tokens == 0 || self.batch == 0 {
            return Err(Error::request(
                "max_new_tokens and batch",
                "must be at least 1",
            ));
        }
        self.decoder
            .map_or(Ok(()), |d| d.check().map(|_| ()).map_err(Error::from))
    }

    /// One token from logits: `rng` is asked for exactly one number, none when greedy.
    pub(super) fn choose(
        &self,
        logits: &[f32],
        written: usize,
        rng: Option<&mut ChaCha8Rng>,
        truncated: &mut Truncated,
    ) -> Result<(Token, f64)> {
        let Some(decoder) = &self.decoder else {
            return match rng {
                Some(rng) => sampler::sample(logits, self.temperature, rng.random()),
                None => {
                    let token = sampler::argmax(logits);
                    let normaliser = sampler::normaliser(logits, self.temperature)?;
                    Ok((
                        token as Token,
                        normaliser.log_prob(logits[token], self.temperature),
                    ))
                }
            };
        };
        let forbidden = match written < decoder.min_new_tokens {
            true => self.ends.all(),
            false => &[],
        };
        truncated.set(logits, self.temperature, decoder, forbidden)?;
        Ok(match rng {
            Some(rng) => truncated.draw(rng.random()),
            None => truncated.most_likely(logits),
        })
    }
}

/// Prompt and response in one, checked; the last token is not fed and may stand one past the context.
pub(super) fn joined(
    config: &ModelConfig,
    pairs: &[(&[Token], &[Token])],
) -> Result<Vec<Vec<Token>>> {
    let join = |(i, (prompt, response)): (usize, &(&[Token], &[Token]))| {
        let (vocab, context) = (config.vocab_size(), config.max_positions());
        check_tokens(&format!("prompt {i}"), prompt, vocab, context)?;
        let text = [*prompt, *response].concat();
        check_tokens(
            &format!("prompt and response {i}"),
            &text,
            vocab,
            context + 1,
        )?;
        Ok(text)
    };
    pairs.iter().enumerate().map(join).collect()
}

/// Refuses a sequence that the network cannot read.
pub(super) fn check_tokens(
    what: &str,
    tokens: &[Token],
    vocab_size: usize,
    room: usize,
) -> Result<()> {
    if tokens.is_empty() {
        return Err(Error::request(
            what,
            "is empty, expected at least one token",
        ));
    }
    if let Some((i, token)) = tokens
        .iter()
        .enumerate()
        .find(|(_, t)| **t as usize >= vocab_size)
    {
        return Err(Error::request(
            what,
            format!("token {i} is {token}, the vocabulary has {vocab_size}"),
        ));
    }
    if tokens.len() > room {
        let n = tokens.len();
        return Err(Error::request(
            what,
            format!("has {n} tokens, the context has room for {room}"),
        ));
    }
    Ok(())
}

/// A response being written.
struct Writing {
    index: usize,
    slot: usize,
    /// Tokens not fed yet.
    queue: Vec<Token>,
    /// Tokens fed.
    position: usize,
    rng: Option<ChaCha8Rng>,
    response: Vec<Token>,
    log_probs: Vec<f64>,
    limit: usize,
    truncated: Truncated,
}

impl Engine {
    /// One response per prompt, drawn with that prompt's key. Neither the batch nor the threads change a response.
    ///
    /// # Errors
    /// [`Error::Request`]: a prompt that is empty, has unknown tokens or fills the context; lists of different lengths;
    /// settings out of range; logits that are not finite.
    pub fn sample(
        &self,
        prompts: &[Arc<[Token]>],
        keys: &[StreamKey],
        sampling: &Sampling,
    ) -> Result<Vec<Sampled>> {
        if prompts.len() != keys.len() {
            return Err(Error::request(
                "keys",
                format!(
                    "found {}, expected one per prompt ({})",
                    keys.len(),
                    prompts.len()
                ),
            ));
        }
        self.write(prompts, Some(keys), sampling)
    }

    /// The most likely token at every step (the lowest of equals), with the log-probabilities of the policy.
    ///
    /// # Errors
    /// As [`Engine::sample`].
    pub fn greedy(&self, prompts: &[Arc<[Token]>], sampling: &Sampling) -> Result<Vec<Sampled>> {
        self.write(prompts, None, sampling)
    }

    fn write(
        &self,
        prompts: &[Arc<[Token]>],
        keys: Option<&[StreamKey]>,
        sampling: &Sampling,
    ) -> Result<Vec<Sampled>> {
        sampling.check()?;
        self.needs(Head::CausalLm)?;
        let context = self.config.max_positions();
        for (i, prompt) in prompts.iter().enumerate() {
            // One position must be left to write the first token's successor; the last token written is never fed.
            check_tokens(
                &format!("prompt {i}"),
                prompt,
                self.config.vocab_size(),
                context,
            )?;
        }
        self.install(|| self.write_all(prompts, keys, sampling))
    }

    fn write_all(
        &self,
        prompts: &[Arc<[Token]>],
        keys: Option<&[StreamKey]>,
        sampling: &Sampling,
    ) -> Result<Vec<Sampled>> {
        let batch = sampling.batch.min(prompts.len());
        let longest = prompts.iter().map(|p| p.len()).max().unwrap_or(0);
        let capacity = longest
            .saturating_add(sampling.max_new_tokens)
            .min(self.config.max_positions());
        let mut cache = self.cache(batch, capacity);
        let mut pass = Pass::default();
        let mut done: Vec<Option<Sampled>> = vec![None; prompts.len()];
        let mut writing: Vec<Writing> = Vec::new();
        let mut next = 0;
        loop {
            while writing.len() < batch && next < prompts.len() {
                let slot = (0..batch)
                    .find(|s| writing.iter().all(|w| w.slot != *s))
                    .expect("fewer than the batch");
                let rng = keys.map(|keys| keys[next].rng());
                writing.push(self.begin(next, slot, &prompts[next], rng, sampling));
                next += 1;
            }
            if writing.is_empty() {
                break;
            }
            self.advance(&mut writing, &mut cache, &mut pass, sampling)?;
            for finished in writing.extract_if(.., |w| finish(w, sampling).is_some()) {
                let finish = finish(&finished, sampling).expect("just asked");
                let episode =
                    Episode::try_new(prompts[finished.index].clone(), finished.response, finish)?;
                done[finished.index] = Some(Sampled {
                    episode,
                    log_probs: finished.log_probs,
                });
            }
        }
        Ok(done
            .into_iter()
            .map(|d| d.expect("every prompt was written"))
            .collect())
    }

    fn begin(
        &self,
        index: usize,
        slot: usize,
        prompt: &[Token],
        rng: Option<ChaCha8Rng>,
        sampling: &Sampling,
    ) -> Writing {
        // The last token of a response is never fed, so it may stand one past the context.
        let limit = sampling
            .max_new_tokens
            .min(self.config.max_positions() + 1 - prompt.len());
        Writing {
            index,
            slot,
            queue: prompt.to_vec(),
            position: 0,
            rng,
            response: Vec::new(),
            log_probs: Vec::new(),
            limit,
            truncated: Truncated::default(),
        }
    }

    /// Feeds what is queued, and draws a token for each response whose queue ran empty.
    fn advance(
        &self,
        writing: &mut [Writing],
        cache: &mut Cache,
        pass: &mut Pass,
        sampling: &Sampling,
    ) -> Result<()> {
        pass.rows.clear();
        pass.wanted.clear();
        let mut ready = Vec::new();
        let budget = ROWS.max(writing.len());
        let mut reserved = writing.len();
        for (i, w) in writing.iter_mut().enumerate() {
            reserved -= 1;
            let n = w.queue.len().min(budget - pass.rows.len() - reserved);
            for token in w.queue.drain(..n) {
                pass.rows.push(Row {
                    slot: w.slot,
                    position: w.position,
                    token,
                });
                w.position += 1;
            }
            if w.queue.is_empty() {
                pass.wanted.push(pass.rows.len() - 1);
                ready.push(i);
            }
        }
        self.forward(&pass.rows, cache, &mut pass.buffers);
        let vocab = self.config.vocab_size();
        let mut at = 0;
        for rows in pass.wanted.chunks(LANES) {
            pass.logits.resize(LANES * vocab, 0.0);
            self.apply_head(
                &pass.buffers.hidden,
                rows,
                &mut pass.input,
                &mut pass.logits,
            );
            let mut group: Vec<&mut Writing> = select(writing, &ready[at..at + rows.len()]);
            at += rows.len();
            let one = |(w, logits): (&mut &mut Writing, &[f32])| -> Result<()> {
                let (token, log_prob) =
                    sampling.choose(logits, w.response.len(), w.rng.as_mut(), &mut w.truncated)?;
                w.response.push(token);
                w.log_probs.push(log_prob);
                w.queue.push(token);
                Ok(())
            };
            if self.threads() > 1 {
                group
                    .par_iter_mut()
                    .zip(pass.logits.par_chunks_exact(vocab))
                    .try_for_each(one)?;
            } else {
                group
                    .iter_mut()
                    .zip(pass.logits.chunks_exact(vocab))
                    .try_for_each(one)?;
            }
        }
        Ok(())
    }

    /// log π(y_h | x, y_{1:h−1}) of every response token at `temperature`, for (prompt, response) pairs; a response may
    /// be empty. Bit for bit what [`Engine::sample`] reports for its own text when no decoder is used.
    ///
    /// # Errors
    /// As [`Engine::sample`].
    pub fn log_probs(
        &self,
        pairs: &[(&[Token], &[Token])],
        temperature: f64,
    ) -> Result<Vec<Vec<f64>>> {
        self.needs(Head::CausalLm)?;
        Sampling {
            temperature,
            ..Sampling::default()
        }
        .check()?;
        let mut all = Vec::with_capacity(pairs.len());
        let texts = joined(&self.config, pairs)?;
        for (text, (prompt, response)) in texts.iter().zip(pairs) {
            let mut row = Vec::with_capacity(response.len());
            let fed = &text[..text.len() - 1];
            self.install(|| {
                self.read(fed, prompt.len() - 1, |position, logits| {
                    let normaliser = sampler::normaliser(logits, temperature)?;
                    let target = text[position + 1] as usize;
                    row.push(normaliser.log_prob(logits[target], temperature));
                    Ok(())
                })
            })?;
            all.push(row);
        }
        Ok(all)
    }

    /// Logits `[tokens][vocab]` after every token of a text (of a classification head, `[tokens][labels]`).
    ///
    /// # Errors
    /// As [`Engine::sample`].
    pub fn logits(&self, text: &[Token]) -> Result<Vec<Vec<f32>>> {
        check_tokens(
            "text",
            text,
            self.config.vocab_size(),
            self.config.max_positions(),
        )?;
        let mut all = Vec::with_capacity(text.len());
        self.install(|| {
            self.read(text, 0, |_, logits| {
                all.push(logits.to_vec());
                Ok(())
            })
        })?;
        Ok(all)
    }

    /// Scores of the last token of each text, `[texts][labels]`: a reward model's reward where there is one label.
    ///
    /// # Errors
    /// As [`Engine::sample`]; a network with a head for text.
    pub fn classify(&self, texts: &[&[Token]]) -> Result<Vec<Vec<f32>>> {
        let labels = self.weights.head.outputs();
        self.needs(Head::Classification { labels })?;
        let one = |(i, text): (usize, &&[Token])| {
            check_tokens(
                &format!("text {i}"),
                text,
                self.config.vocab_size(),
                self.config.max_positions(),
            )?;
            let mut last = Vec::new();
            self.install(|| {
                self.read(text, text.len() - 1, |_, scores| {
                    last = scores.to_vec();
                    Ok(())
                })
            })?;
            Ok(last)
        };
        texts.iter().enumerate().map(one).collect()
    }

    /// Feeds a text and calls `visit` with the head's output at each position from `first` on.
    fn read(
        &self,
        text: &[Token],
        first: usize,
        mut visit: impl FnMut(usize, &[f32]) -> Result<()> + Send,
    ) -> Result<()> {
        let mut cache = self.cache(1, text.len());
        let mut pass = Pass::default();
        let outputs = self.weights.head.outputs();
        pass.logits.resize(LANES * outputs, 0.0);
        for (chunk, tokens) in text.chunks(ROWS).enumerate() {
            let start = chunk * ROWS;
            let rows = tokens.iter().enumerate().map(|(i, &token)| Row {
                slot: 0,
                position: start + i,
                token,
            });
            pass.rows.clear();
            pass.rows.extend(rows);
            self.forward(&pass.rows, &mut cache, &mut pass.buffers);
            let wanted: Vec<usize> = (first.saturating_sub(start)..tokens.len()).collect();
            for rows in wanted.chunks(LANES) {
                self.apply_head(
                    &pass.buffers.hidden,
                    rows,
                    &mut pass.input,
                    &mut pass.logits,
                );
                for (row, logits) in rows.iter().zip(pass.logits.chunks_exact(outputs)) {
                    visit(start + row, logits)?;
                }
            }
        }
        Ok(())
    }

    fn needs(&self, head: Head) -> Result<()> {
        if self.head == head {
            return Ok(());
        }
        Err(Error::request(
            "model",
            format!("has the head {:?}, this needs {head:?}", self.head),
        ))
    }
}

/// Buffers of a run.
#[derive(Default)]
struct Pass {
    rows: Vec<Row>,
    wanted: Vec<usize>,
    buffers: Buffers,
    input: Vec<f32>,
    logits: Vec<f32>,
}

fn finish(w: &Writing, sampling: &Sampling) -> Option<Finish> {
    match w.response.last() {
        None => None,
        Some(last) if sampling.ends.contains(*last) => Some(Finish::Eos),
        _ if w.response.len() == w.limit => Some(Finish::Length),
        _ => None,
    }
}

/// The elements at ascending indices.
fn select<'a, T>(all: &'a mut [T], indices: &[usize]) -> Vec<&'a mut T> {
    let mut wanted = indices.iter().peekable();
    let take = |(i, item)| wanted.next_if(|w| **w == i).map(|_| item);
    all.iter_mut().enumerate().filter_map(take).collect()
}
