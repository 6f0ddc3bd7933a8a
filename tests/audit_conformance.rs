//! The code that trains against the vectors of `conformance/`, which the functions of other frameworks are held to as well: rewards,
//! advantages, returns, losses, slopes.

use std::ops::Range;

use rto::Result;
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

/// A number that the recipe cannot do without.
fn need(config: &Value, key: &str) -> f64 {
    number(config, key).unwrap_or_else(|| panic!("{key} in {config}"))
}

fn text<'a>(config: &'a Value, key: &str) -> &'a str {
    config[key].as_str().unwrap_or("")
}

/// The reward per token with its KL term.
fn token_rewards(set: &Set, config: &Value) -> Result<Ragged> {
    let reference = set.input("ref_log_prob");
    // A token that was not chosen has no log-ratio.
    let chosen = |p: Ragged| {
        let d = p.zip("ref", &reference, |p, q| p - q).unwrap();
        set.masked(d).zip("ref", &reference, |d, q| d + q).unwrap()
    };
    let dpo = || {
        DpoReward::try_new(
            Known(Channel::LogProb, chosen(set.input("dpo_log_prob"))),
            Known(Channel::LogProb, reference.clone()),
            need(config, "beta1"),
        )
    };
    // The score is paid at the last token that is not masked.
    let mut at_end = Ragged::zeros(&set.batch);
    for (i, s) in set.rows("scores").iter().enumerate() {
        let last = match &set.mask {
            Some(m) => m.row(i).iter().rposition(|m| *m != 0.0).unwrap(),
            None => set.batch[i].len() - 1,
        };
        at_end.row_mut(i)[last] = *s;
    }
    let sentence = || SentenceReward::new(Known(Channel::Reward, at_end.clone()));
    let paid = match text(config, "reward") {
        "dpo" => dpo()?.rewards(&set.batch)?,
        "dpo_at_end" => PaidAtEnd(dpo()?).rewards(&set.batch)?,
        "released" => {
            released(dpo()?, need(config, "dpo_clip"), sentence())?.rewards(&set.batch)?
        }
        "sentence" => match number(config, "score_clip") {
            Some(c) => sentence().clipped(c)?.rewards(&set.batch)?,
            None => sentence().rewards(&set.batch)?,
        },
        other => panic!("reward {other}"),
    };
    if text(config, "kl_placement") != "reward" {
        return Ok(paid);
    }
    assert_eq!(text(config, "kl_estimator"), "k1");
    let old = PerToken::new(&set.batch).with(Channel::LogProb, set.input("old_log_prob"))?;
    let kl = KlEstimator::K1.per_token(&old, &reference)?;
    add_kl_penalty(&paid, &set.masked(kl), need(config, "beta"))
}

/// Advantages before whitening, and returns where there is a critic.
fn advantages(set: &Set, config: &Value, rewards: &Ragged) -> Result<(Ragged, Option<Ragged>)> {
    let (mask, n) = (set.mask.as_ref(), set.batch.len());
    let per = need(config, "group_size") as usize;
    let groups: Vec<Range<usize>> = (0..n / per).map(|k| k * per..(k + 1) * per).collect();
    let sums = set.masked(rewards.clone()).row_sums();
    let eps = || need(config, "eps");
    let spread = || match text(config, "std") {
        "group" => Spread::Group { eps: eps() },
        "batch" => Spread::Batch { eps: eps() },
        "" => Spread::One,
        other => panic!("std {other}"),
    };
    let rule = text(config, "mask_rule");
    let per_row = match text(config, "advantage") {
        "gae" => {
            let values = set.input("old_values");
            let (gamma, lambda) = (need(config, "gamma"), need(config, "lam"));
            let last = vec![0.0; n];
            let rule = match rule {
                "step_of_value_zero" => MaskRule::StepOfValueZero,
                "step" => MaskRule::Step,
                "pass_over" => MaskRule::PassOver,
                other => panic!("mask_rule {other}"),
            };
            let out = match mask {
                None => gae(rewards, &values, &last, gamma, lambda)?,
                Some(m) => gae_masked(rewards, &values, (m, rule), &last, gamma, lambda)?,
            };
            return Ok((out.advantages, Some(out.returns)));
        }
        "remax" => return Ok((remax(rewards, &set.rows("greedy_scores"), mask)?, None)),
        "leave_one_out_of_score" => {
            let out = leave_one_out_of_score(rewards, &set.rows("scores"), &groups, mask)?;
            return Ok((out, None));
        }
        "leave_one_out" => leave_one_out(&sums, &groups)?,
        "group" => group_relative_by(&sums, &groups, spread())?,
        "reward_to_go" => {
            let gamma = need(config, "gamma");
            let rule = match rule {
                "reset" => ReturnRule::Reset,
                "pass_over" => ReturnRule::Carry,
                other => panic!("mask_rule {other}"),
            };
            let out = match mask {
                None => reward_to_go(rewards, gamma)?,
                Some(m) => reward_to_go_masked(rewards, m, rule, gamma)?,
            };
            return Ok((out, None));
        }
        other => panic!("advantage {other}"),
    };
    Ok((set.masked(broadcast(&per_row, rewards)?), None))
}

fn aggregation(config: &Value) -> Aggregation {
    let length = || need(config, "length") as usize;
    match text(config, "aggregation") {
        "token_mean" => Aggregation::TokenMean,
        "sequence_mean" => Aggregation::SequenceMean,
        "constant" => Aggregation::Constant { length: length() },
        "per_batch" => Aggregation::PerBatch { length: length() },
        "sequence_sum" => Aggregation::SequenceSum,
        other => panic!("aggregation {other}"),
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
    let ratio = match text(config, "ratio") {
        "log_prob" => {
            let loss = Nll::policy_gradient(batch, advantages, how, mask)?;
            return taken(loss_and_score_grad(&loss, &scores)?);
        }
        "sequence" => Ratio::Sequence,
        "geometric_mean" => Ratio::GeometricMean,
        "capped" => Ratio::Capped {
            low: need(config, "cap_low"),
            high: need(config, "cap_high"),
        },
        "token" => Ratio::Token,
        other => panic!("ratio {other}"),
    };
    let low = number(config, "clip_low").unwrap_or(0.2);
    let behaviour = set.input("old_log_prob");
    let mut loss = PpoClip::new(batch, behaviour, advantages.clone(), low, how, mask)?
        .with_clip_high(number(config, "clip_high").unwrap_or(0.2))?
        .with_ratio(ratio)?;
    if let Some(c) = number(config, "dual_clip") {
        loss = loss.with_dual_clip(c)?;
    }
    if text(config, "kl_placement") == "loss" {
        let kind = match text(config, "kl_estimator") {
            "k1" => SampledKl::K1,
            "k2" => SampledKl::K2,
            "k3" => SampledKl::K3,
            "k3_corrected" => SampledKl::K3Corrected,
            "k3_plus" => SampledKl::K3Plus,
            other => panic!("kl_estimator {other}"),
        };
        loss = loss.with_sampled_kl(kind, need(config, "beta"), set.input("ref_log_prob"))?;
    }
    taken(loss_and_score_grad(&loss, &scores)?)
}

/// What a gap is judged by: 1, or the largest number where that is more.
fn scale(rows: &Value) -> f64 {
    let all = rows.as_array().unwrap().iter();
    let numbers = all.flat_map(|row| row.as_array().unwrap());
    numbers.fold(1.0, |m: f64, v| m.max(v.as_f64().unwrap().abs()))
}

fn check(what: &str, set: &Set, got: &Ragged, want: &Value, tolerance: f64) {
    let tolerance = tolerance * scale(want);
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

fn vectors() -> Value {
    let path = concat!(env!("CARGO_MANIFEST_DIR"), "/conformance/vectors.json");
    serde_json::from_str(&std::fs::read_to_string(path).unwrap()).unwrap()
}

fn hold(single: bool, tolerance: f64) {
    let mut held = 0;
    for s in vectors()["sets"].as_array().unwrap() {
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
            inputs: s["inputs"].clone(),
            single,
        };
        if s["name"].as_str().unwrap().ends_with("masked") {
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
            let std = match text(config, "whitening") {
                "biased" => Some(WhitenStd::Biased),
                "unbiased" => Some(WhitenStd::Unbiased),
                "biased_clamped" => Some(WhitenStd::BiasedClamped),
                "" => None,
                other => panic!("whitening {other}"),
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
            let expected = want["loss"].as_f64().unwrap();
            let gap = (loss - expected).abs() / expected.abs().max(1.0);
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
                let clip = number(config, "value_clip");
                let targets = (returns, set.input("old_values"));
                let how = aggregation(config);
                let mask = set.mask.as_ref();
                let loss = ValueLoss::masked(&set.batch, targets, 1.0, clip, how, mask).unwrap();
                let now = PerToken::new(&set.batch)
                    .with(Channel::Value, set.input("values"))
                    .unwrap();
                let (value, mut slope) = loss_and_score_grad(&loss, &now).unwrap();
                let expected = want["value_loss"].as_f64().unwrap();
                let gap = (value - expected).abs() / expected.abs().max(1.0);
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
    assert_eq!(held, 138);
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

/// Vectors that never reach a branch say nothing about it.
#[test]
fn every_branch_is_reached_and_left() {
    let file = vectors();
    let mut most = std::collections::BTreeMap::new();
    for s in file["sets"].as_array().unwrap() {
        for (name, e) in s["recipes"].as_object().unwrap() {
            for (branch, n) in e["reached"].as_object().unwrap() {
                let most = most.entry(branch.clone()).or_insert(0);
                *most = n.as_u64().unwrap().max(*most);
            }
            let reached = |branch: &str| e["reached"][branch].as_u64();
            if s["name"] == "far" {
                // Each clip of the recipe has tokens on both of its sides.
                for branch in ["clipped_high", "clipped_low", "live"] {
                    assert_ne!(reached(branch), Some(0), "{name}: {branch}");
                }
                for branch in [
                    "dual_clip",
                    "cap_high",
                    "value_clip",
                    "score_clip",
                    "dpo_clip",
                ] {
                    assert_ne!(reached(branch), Some(0), "{name}: {branch}");
                }
            }
        }
    }
    let branches: Vec<&str> = most.keys().map(String::as_str).collect();
    let all = [
        "cap_high",
        "cap_low",
        "clipped_high",
        "clipped_low",
        "dpo_clip",
        "dual_clip",
        "live",
        "score_clip",
        "value_clip",
    ];
    assert_eq!(branches, all);
    assert!(most.values().all(|n| *n > 0));
}

/// The safetensors file has the numbers of the JSON file, bit for bit: a header of names, shapes and places, then the numbers.
#[test]
fn both_files_hold_the_same_numbers() {
    let path = concat!(
        env!("CARGO_MANIFEST_DIR"),
        "/conformance/vectors.safetensors"
    );
    let bytes = std::fs::read(path).unwrap();
    let (head, rest) = bytes.split_at(8);
    let length = u64::from_le_bytes(head.try_into().unwrap()) as usize;
    let (header, data) = rest.split_at(length);
    let header: Value = serde_json::from_slice(header).unwrap();
    let tensor = |name: &str| -> Vec<f64> {
        let entry = &header[name];
        assert_eq!(entry["dtype"], "F64", "{name}");
        let place = |k: usize| entry["data_offsets"][k].as_u64().unwrap() as usize;
        let cut = data[place(0)..place(1)].chunks_exact(8);
        cut.map(|b| f64::from_le_bytes(b.try_into().unwrap()))
            .collect()
    };
    fn flat(v: &Value) -> Vec<f64> {
        match v {
            Value::Array(rows) => rows.iter().flat_map(flat).collect(),
            v => vec![v.as_f64().unwrap()],
        }
    }
    let mut tensors = 0;
    for s in vectors()["sets"].as_array().unwrap() {
        let set = s["name"].as_str().unwrap();
        let mut same = |name: String, want: &Value| {
            assert_eq!(tensor(&name), flat(want), "{name}");
            tensors += 1;
        };
        same(format!("{set}/mask"), &s["mask"]);
        for (key, v) in s["inputs"].as_object().unwrap() {
            same(format!("{set}/inputs/{key}"), v);
        }
        for (name, e) in s["recipes"].as_object().unwrap() {
            for (key, v) in e.as_object().unwrap() {
                if key != "config" && key != "reached" {
                    same(format!("{set}/recipes/{name}/{key}"), v);
                }
            }
        }
    }
    let named = header.as_object().unwrap().len() - 1;
    assert_eq!(tensors, named, "and nothing else");
}
