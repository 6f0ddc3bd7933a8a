//! The bridge between the seam's ragged channels and the packed scores of a model.

use std::ops::Range;

use rto::seq::{Channel, Episode, PerToken, Ragged};
use rto::{Error, Result, Token};

use crate::batch::Batch;
use crate::family::ModelConfig;
use crate::model::{Model, Request, Scores};

/// The request that computes some channels.
pub(crate) fn request<'a>(
    channels: &[Channel],
    reference: Option<&'a Model>,
) -> Result<Request<'a>> {
    let mut request = Request::default();
    for &channel in channels {
        match channel {
            Channel::LogProb => request.log_probs = true,
            Channel::Entropy => request.entropy = true,
            Channel::KlToReference | Channel::KlFromReference => {
                let missing = || {
                    let must = "given to the policy for an exact divergence";
                    Error::config("reference", "none", must)
                };
                request.reference = Some(reference.ok_or_else(missing)?);
                request.kl_from |= channel == Channel::KlFromReference;
            }
            Channel::Value | Channel::FinalValue => request.values = true,
            Channel::Reward => request.rewards = true,
            other => {
                let must = "log_prob, entropy, kl_to_reference, kl_from_reference, value, final_value or reward";
                return Err(Error::config("channel", other.name(), must));
            }
        }
    }
    Ok(request)
}

/// Prompts and responses, packed.
pub(crate) fn pack(episodes: &[Episode]) -> crate::Result<Batch> {
    let texts: Vec<_> = episodes
        .iter()
        .map(|e| (&*e.prompt, &e.response[..]))
        .collect();
    Batch::new(&texts)
}

/// [`pack`] for some channels of a network. A reward alone is read as sequence classification in `transformers` reads it: at
/// the last token that is not the padding token, which is not the end of the text where the two are one token.
pub(crate) fn pack_for(
    episodes: &[Episode],
    channels: &[Channel],
    config: &ModelConfig,
) -> crate::Result<Batch> {
    let Some(pad) = config.pad_token().filter(|_| channels == [Channel::Reward]) else {
        return pack(episodes);
    };
    let real = |tokens: &[Token]| tokens.iter().rposition(|t| *t != pad).map_or(0, |i| i + 1);
    let texts: Vec<(&[Token], &[Token])> = episodes
        .iter()
        .map(|e| match real(&e.response) {
            // Of padding alone the first token is read.
            0 => (
                &e.prompt[..real(&e.prompt).max(1).min(e.prompt.len())],
                &[][..],
            ),
            n => (&e.prompt[..], &e.response[..n]),
        })
        .collect();
    Batch::new(&texts)
}

/// Adds the scores of the next rows to the packed channels.
pub(crate) fn append(all: &mut Scores, part: Scores) {
    let join = |all: &mut Option<Vec<f64>>, part: Option<Vec<f64>>| {
        if let Some(part) = part {
            all.get_or_insert_default().extend(part);
        }
    };
    join(&mut all.log_probs, part.log_probs);
    join(&mut all.entropy, part.entropy);
    join(&mut all.kl, part.kl);
    join(&mut all.kl_from, part.kl_from);
    join(&mut all.values, part.values);
    join(&mut all.final_values, part.final_values);
    join(&mut all.rewards, part.rewards);
}

/// The channels asked for, from packed scores of the whole batch.
pub(crate) fn per_token(
    batch: &[Episode],
    channels: &[Channel],
    scores: &Scores,
) -> Result<PerToken> {
    let mut out = PerToken::new(batch);
    for &channel in channels {
        let ragged = match channel {
            Channel::Reward => at_last(batch, values(scores, channel)),
            Channel::FinalValue => Ragged::from_rows(values(scores, channel).chunks(1)),
            _ => {
                let mut ragged = Ragged::zeros(batch);
                ragged.values_mut().copy_from_slice(values(scores, channel));
                ragged
            }
        };
        out = out.with(channel, ragged)?;
    }
    Ok(out)
}

/// r(x, y) at the last token of every response, 0 elsewhere.
fn at_last(batch: &[Episode], rewards: &[f64]) -> Ragged {
    let mut ragged = Ragged::zeros(batch);
    for (i, r) in rewards.iter().enumerate() {
        if let Some(last) = ragged.row_mut(i).last_mut() {
            *last = *r;
        }
    }
    ragged
}

fn values(scores: &Scores, channel: Channel) -> &[f64] {
    let part = match channel {
        Channel::LogProb => &scores.log_probs,
        Channel::Entropy => &scores.entropy,
        Channel::KlToReference => &scores.kl,
        Channel::KlFromReference => &scores.kl_from,
        Channel::Value => &scores.values,
        Channel::FinalValue => &scores.final_values,
        Channel::Reward => &scores.rewards,
        _ => &None,
    };
    // An empty batch appends nothing.
    part.as_deref().unwrap_or_default()
}

/// ∂ℒ/∂score of some rows, packed. A channel that is not among `channels` is zero.
///
/// The reward of a response is one number that the seam shows at its last token, so only that token's gradient counts.
pub(crate) fn gradient(grad: &PerToken, channels: &[Channel], rows: Range<usize>) -> Scores {
    let mut out = Scores::default();
    for &channel in channels {
        let packed = |last: bool| {
            let row = |i: usize| {
                let row = grad.row(channel, i);
                if last { &row[row.len() - 1..] } else { row }
            };
            Some(rows.clone().flat_map(row).copied().collect::<Vec<f64>>())
        };
        match channel {
            Channel::LogProb => out.log_probs = packed(false),
            Channel::Entropy => out.entropy = packed(false),
            Channel::KlToReference => out.kl = packed(false),
            Channel::KlFromReference => out.kl_from = packed(false),
            Channel::Value => out.values = packed(false),
            Channel::FinalValue => out.final_values = packed(false),
            Channel::Reward => out.rewards = packed(true),
            _ => {}
        }
    }
    out
}
