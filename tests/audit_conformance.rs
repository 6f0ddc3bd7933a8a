//! The code that trains against 26 × 2 conformance vectors of other frameworks' formulas: rewards, advantages, returns, losses, slopes.

use std::ops::Range;

use rto::advantage::{
    MaskRule, ReturnRule, Spread, WhitenStd, broadcast, gae, gae_masked, group_relative_by,
    leave_one_out, leave_one_out_of_score, remax, reward_to_go, reward_to_go_masked, whiten_by,
};
use rto::objective::{Aggregation, Nll, PpoClip, Ratio, SampledKl, ValueLoss};
use rto::seq::{
    Channel, Episode, Finish, PerToken, Ragged, TokenReward, TokenScorer, loss_and_score_grad,
};
use rto::token_reward::{
    DpoReward, KlEstimator, PaidAtEnd, SentenceReward, add_kl_penalty, released,
};
use rto::{Error, Result};
use serde_json::Value;

/// A scorer that knows the numbers of one batch.
struct Known(Channel, Ragged);

impl TokenScorer for Known {
    fn channels(&self) -> &[Channel] {
        std::slice::from_ref(&self.0)
    }

    fn scores(&self, batch: &[Episode]) -> Result<PerToken> {
        PerToken::new(batch).with(self.0, self.1.clone())
    }
}

/// The numbers of a set, cut to the lengths of its rows.
struct Set {
    batch: Vec<Episode>,
    mask: Option<Ragged>,
    inputs: Value,
    single: bool,
}

impl Set {
    fn round(&self, v: f64) -> f64 {
        if self.single { f64::from(v as f32) } else { v }
    }

    fn tokens(&self, v: &Value) -> Ragged {
        let rows = v.as_array().unwrap().iter().zip(&self.batch);
        let row = |(r, e): (&Value, &Episode)| -> Vec<f64> {
            let row = r.as_array().unwrap().iter().take(e.len());
            row.map(|x| self.round(x.as_f64().unwrap())).collect()
        };
        Ragged::from_rows(rows.map(row))
    }

    fn input(&self, key: &str) -> Ragged {
        self.tokens(&self.inputs[key])
    }

    fn rows(&self, key: &str) -> Vec<f64> {
        let all = self.inputs[key].as_array().unwrap().iter();
        all.map(|v| self.round(v.as_f64().unwrap())).collect()
    }

    fn masked(&self, x: Ragged) -> Ragged {
        match &self.mask {
            Some(m) => x.zip("mask", m, |a, b| a * b).unwrap(),
            None => x,
        }
    }
}

fn number(config: &Value, key: &str) -> Option<f64> {
    config[key].as_f64()
}

fn text<'a>(config: &'a Value, key: &str) -> &'a str {
    config[key].as_str().unwrap_or("")
}

/// The reward per token with its KL term.
fn token_rewards(set: &Set, config: &Value) -> Result<Ragged> {
    let beta = number(config, "beta").unwrap_or(0.0);
    let reference = set.input("ref_log_prob");
    // A token that was not chosen has no log-ratio.
    let chosen = |p: Ragged| {
        let d = p.zip("ref", &reference, |p, q| p - q).unwrap();
        set.masked(d).zip("ref", &reference, |d, q| d + q).unwrap()
    };
    let dpo = || {
        let beta1 = number(config, "beta1").unwrap();
        DpoReward::try_new(
            Known(Channel::LogProb, chosen(set.input("dpo_log_prob"))),
            Known(Channel::LogProb, reference.clone()),
            beta1,
        )
    };
    let scores = set.rows("scores");
    let mut at_end = Ragged::zeros(&set.batch);
    for (i, s) in scores.iter().enumerate() {
        *at_end.row_mut(i).last_mut().unwrap() = *s;
    }
    let sentence = || SentenceReward::new(Known(Channel::Reward, at_end.clone()));
    let paid = match text(config, "reward") {
        "rto" => dpo()?.rewards(&set.batch)?,
        "dppo" => PaidAtEnd(dpo()?).rewards(&set.batch)?,
        "released" => {
            let c = number(config, "clip_c").unwrap();
            released(dpo()?, c, sentence())?.rewards(&set.batch)?
        }
        _ => sentence().rewards(&set.batch)?,
    };
    if config["kl"][0] != "reward" {
        return Ok(paid);
    }
    let old = PerToken::new(&set.batch).with(Channel::LogProb, set.input("old_log_prob"))?;
    let kl = KlEstimator::K1.per_token(&old, &reference)?;
    add_kl_penalty(&paid, &set.masked(kl), beta)
}

/// Advantages before whitening, and returns where there is a critic.
fn advantages(set: &Set, config: &Value, rewards: &Ragged) -> Result<(Ragged, Option<Ragged>)> {
    let (mask, n) = (set.mask.as_ref(), set.batch.len());
    let prompts = number(config, "B").unwrap_or(1.0) as usize;
    let per = n / prompts;
    let groups: Vec<Range<usize>> = (0..prompts).map(|k| k * per..(k + 1) * per).collect();
    let sums = set.masked(rewards.clone()).row_sums();
    let spread = match config["std"].as_bool() {
        Some(true) => Spread::Group {
            eps: number(config, "eps").unwrap_or(1e-4),
        },
        _ => Spread::One,
    };
    let per_row = match text(config, "adv") {
        "gae" => {
            let values = set.input("old_values");
            let lambda = number(config, "lam").unwrap_or(1.0);
            let last = vec![0.0; n];
            let rule = match &config["skip"] {
                Value::String(_) => MaskRule::StepOfValueZero,
                Value::Bool(false) => MaskRule::Step,
                _ => MaskRule::PassOver,
            };
            let out = match mask {
                None => gae(rewards, &values, &last, 1.0, lambda)?,
                Some(m) => gae_masked(rewards, &values, (m, rule), &last, 1.0, lambda)?,
            };
            return Ok((out.advantages, Some(out.returns)));
        }
        "remax" => return Ok((remax(rewards, &set.rows("greedy_scores"), mask)?, None)),
        "rloo_raw" => {
            let out = leave_one_out_of_score(rewards, &set.rows("scores"), &groups, mask)?;
            return Ok((out, None));
        }
        "rloo" => leave_one_out(&sums, &groups)?,
        "group" => group_relative_by(&sums, &groups, spread)?,
        _ => {
            let rule = match config["reset"].as_bool() {
                Some(true) => ReturnRule::Reset,
                _ => ReturnRule::Carry,
            };
            let out = match mask {
                None => reward_to_go(rewards, 1.0)?,
                Some(m) => reward_to_go_masked(rewards, m, rule, 1.0)?,
            };
            return Ok((out, None));
        }
    };
    Ok((set.masked(broadcast(&per_row, rewards)?), None))
}

fn aggregation(config: &Value) -> Aggregation {
    match text(config, "agg") {
        "token_mean" => Aggregation::TokenMean,
        "seq_mean" => Aggregation::SequenceMean,
        "const" => Aggregation::Constant { length: 6 },
        "sum_norm" => Aggregation::PerBatch { length: 6 },
        _ => Aggregation::SequenceSum,
    }
}

/// Loss and slope of the policy term.
fn policy_loss(set: &Set, config: &Value, advantages: &Ragged) -> Result<(f64, Ragged)> {
    let how = aggregation(config);
    let (batch, mask) = (&set.batch, set.mask.as_ref());
    let scores = PerToken::new(batch).with(Channel::LogProb, set.input("log_prob"))?;
    let taken = |(loss, mut grad): (f64, PerToken)| {
        let slope = grad.take(Channel::LogProb);
        Ok((loss, slope.expect("the channel of a policy loss")))
    };
    if text(config, "ratio") == "pg" {
        let loss = Nll::policy_gradient(batch, advantages, how, mask)?;
        return taken(loss_and_score_grad(&loss, &scores)?);
    }
    let low = number(config, "lo").unwrap_or(0.2);
    let behaviour = set.input("old_log_prob");
    let mut loss = PpoClip::new(batch, behaviour, advantages.clone(), low, how, mask)?
        .with_clip_high(number(config, "hi").unwrap_or(0.2))?
        .with_ratio(match text(config, "ratio") {
            "seq_sum" => Ratio::Sequence,
            "seq_mean" => Ratio::GeometricMean,
            "cispo" => Ratio::Capped {
                low: number(config, "cap_lo").unwrap(),
                high: number(config, "cap_hi").unwrap(),
            },
            _ => Ratio::Token,
        })?;
    if let Some(c) = number(config, "dual") {
        loss = loss.with_dual_clip(c)?;
    }
    if config["kl"][0] == "loss" {
        let kind = match config["kl"][1].as_str().unwrap() {
            "k2" => SampledKl::K2,
            "k3" => SampledKl::K3,
            "k3is" => SampledKl::K3Corrected,
            other => return Err(Error::config("kl", other, "known")),
        };
        let beta = number(config, "beta").unwrap();
        loss = loss.with_sampled_kl(kind, beta, set.input("ref_log_prob"))?;
    }
    taken(loss_and_score_grad(&loss, &scores)?)
}

fn check(what: &str, set: &Set, got: &Ragged, want: &Value, tolerance: f64) {
    for (i, row) in want.as_array().unwrap().iter().enumerate() {
        for (h, w) in row.as_array().unwrap().iter().enumerate() {
            let g = got.row(i).get(h).copied().unwrap_or(0.0);
            // The last rule for values off the mask is that they do not matter.
            let on = h < set.batch[i].len() && set.mask.as_ref().is_none_or(|m| m.row(i)[h] != 0.0);
            let gap = if on {
                (g - w.as_f64().unwrap()).abs()
            } else {
                0.0
            };
            assert!(
                gap <= tolerance,
                "{what} row {i} token {h}: {g}, expected {w}"
            );
        }
    }
}

fn hold(single: bool, tolerance: f64) {
    let path = concat!(env!("CARGO_MANIFEST_DIR"), "/tests/golden/estimators.json");
    let file: Value = serde_json::from_str(&std::fs::read_to_string(path).unwrap()).unwrap();
    let all = &file["conformance"];
    let mut held = 0;
    for s in all["sets"].as_array().unwrap() {
        let lengths = s["lengths"].as_array().unwrap().iter();
        let batch: Vec<Episode> = lengths
            .map(|n| {
                let response = vec![1; n.as_u64().unwrap() as usize];
                Episode::try_new([7].into(), response, Finish::Eos).unwrap()
            })
            .collect();
        let mut set = Set {
            batch,
            mask: None,
            inputs: all["inputs"].clone(),
            single,
        };
        if s["name"] != "padding" {
            set.mask = Some(set.tokens(&s["mask"]));
        }
        for (name, want) in s["recipes"].as_object().unwrap() {
            let what = |part: &str| format!("{}, {name}: {part}", s["name"]);
            let config = &want["config"];
            let rewards = token_rewards(&set, config).unwrap();
            check(
                &what("rewards"),
                &set,
                &rewards,
                &want["token_rewards"],
                tolerance,
            );
            let (raw, returns) = advantages(&set, config, &rewards).unwrap();
            let std = match text(config, "whiten") {
                "biased+eps" => Some(WhitenStd::Biased),
                "unbiased+eps" => Some(WhitenStd::Unbiased),
                "biased clamp" => Some(WhitenStd::BiasedClamped),
                _ => None,
            };
            let advantages = match std {
                Some(std) => whiten_by(&raw, set.mask.as_ref(), true, std).unwrap(),
                None => raw,
            };
            check(
                &what("advantages"),
                &set,
                &advantages,
                &want["advantages"],
                tolerance,
            );
            let (loss, slope) = policy_loss(&set, config, &advantages).unwrap();
            let gap = (loss - want["loss"].as_f64().unwrap()).abs();
            assert!(gap <= tolerance, "{}: {gap:e}", what("loss"));
            check(
                &what("slope"),
                &set,
                &slope,
                &want["dloss_dlogprob"],
                tolerance,
            );
            if let Some(returns) = returns {
                check(
                    &what("returns"),
                    &set,
                    &returns,
                    &want["returns"],
                    tolerance,
                );
                let clip = number(want, "value_clip");
                let targets = (returns, set.input("old_values"));
                let how = aggregation(config);
                let mask = set.mask.as_ref();
                let loss = ValueLoss::masked(&set.batch, targets, 1.0, clip, how, mask).unwrap();
                let now = PerToken::new(&set.batch)
                    .with(Channel::Value, set.input("values"))
                    .unwrap();
                let (value, mut slope) = loss_and_score_grad(&loss, &now).unwrap();
                let gap = (value - want["value_loss"].as_f64().unwrap()).abs();
                assert!(gap <= tolerance, "{}: {gap:e}", what("value loss"));
                let slope = slope.take(Channel::Value).unwrap();
                check(
                    &what("value slope"),
                    &set,
                    &slope,
                    &want["dvalueloss_dvalue"],
                    tolerance,
                );
            }
            held += 1;
        }
    }
    assert_eq!(held, 52);
}

#[test]
fn all_vectors_hold_in_double_precision() {
    hold(false, 1e-10);
}

/// The same with inputs that a framework would hold in 32 bits.
#[test]
fn all_vectors_hold_from_single_precision_inputs() {
    hold(true, 1e-5);
}

#[test]
fn a_ratio_of_the_response_asks_for_one_advantage() {
    let batch = [Episode::try_new([7].into(), vec![1, 1], Finish::Eos).unwrap()];
    let old = Ragged::from_rows([[-1.0, -1.0]]);
    let loss = |a: [f64; 2]| {
        let how = Aggregation::SequenceSum;
        PpoClip::new(&batch, old.clone(), Ragged::from_rows([a]), 0.2, how, None)?
            .with_ratio(Ratio::Sequence)
    };
    assert!(loss([0.5, 0.5]).is_ok());
    let said = loss([0.5, 0.4]).unwrap_err().to_string();
    assert!(
        said.starts_with("advantages of row 0: found 0.5 and 0.4"),
        "{said}"
    );
}
