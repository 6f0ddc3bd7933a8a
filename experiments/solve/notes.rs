//! Why something is null: every null of the report has an entry, key path to reason.

use crate::instance::Instance;
use serde_json::Value;
use std::collections::BTreeMap;

/// Reasons that came up on the way, by key path, as in `radii.rho_theory_kappa` or `root_policy[2]`.
#[derive(Debug, Default)]
pub struct Notes(BTreeMap<String, String>);

pub const NO_TRUTH: &str =
    "unknown: the instance gives neither reward nor theta, so the true reward is not known";

/// Why a number that is rounding times a large factor is null.
pub const LOST: &str = "not determined in floating point: what is left of a difference is of the size of its rounding, and a large factor multiplies it";

/// Why an expected bonus is null.
pub const LOST_BONUS: &str = "not determined in floating point: rounding of the features is not small beside the bonus, so ill conditioned is the metric";

impl Notes {
    /// The key is null because of `why`.
    pub fn say(&mut self, key: impl Into<String>, why: impl Into<String>) {
        self.0.insert(key.into(), why.into());
    }

    /// A part that failed is null, and its error the reason; the other parts go on.
    pub fn part<T>(&mut self, key: &str, part: anyhow::Result<Option<T>>) -> Option<T> {
        part.unwrap_or_else(|error| {
            self.say(key, format!("failed: {error:#}"));
            None
        })
    }

    /// An infinite number is null in JSON; this says which infinity it is, or that the number is undefined.
    pub fn finite(&mut self, key: &str, x: f64, why: &str) -> Option<f64> {
        let kind = if x.is_nan() {
            "undefined"
        } else if x > 0.0 {
            "infinite"
        } else {
            "minus infinite"
        };
        if !x.is_finite() {
            self.say(key, format!("{kind}: {why}"));
        }
        x.is_finite().then_some(x)
    }

    /// One entry for each null of the report: what was said, or what the instance lacks.
    pub fn complete(&self, report: &Value, instance: &Instance) -> BTreeMap<String, String> {
        let mut nulls = Vec::new();
        collect(report, String::new(), &mut nulls);
        let why = |key: &String| match self.0.get(key) {
            Some(why) => why.clone(),
            None => lacking(key, instance),
        };
        nulls
            .into_iter()
            .map(|key| (key.clone(), why(&key)))
            .collect()
    }
}

fn collect(value: &Value, key: String, out: &mut Vec<String>) {
    match value {
        Value::Null => out.push(key),
        Value::Array(items) => {
            for (i, item) in items.iter().enumerate() {
                collect(item, format!("{key}[{i}]"), out);
            }
        }
        Value::Object(fields) => {
            for (name, item) in fields {
                let inner = if key.is_empty() {
                    name.clone()
                } else {
                    format!("{key}.{name}")
                };
                collect(item, inner, out);
            }
        }
        _ => {}
    }
}

/// What the instance does not give, where nothing else was said.
fn lacking(key: &str, instance: &Instance) -> String {
    let (part, entry) = match key.split_once('[') {
        Some((part, rest)) => (part, rest.split(']').next()),
        None => (key, None),
    };
    if let Some(entry) = entry {
        let root = entry
            .parse()
            .ok()
            .and_then(|i: usize| instance.world.roots.get(i));
        return match root {
            Some(None) => format!("state {entry} is terminal: no episode starts in it"),
            _ => "infinite or undefined in floating point".into(),
        };
    }
    let last = part.rsplit('.').next().unwrap_or(part);
    let no_truth = instance.reward.is_none();
    match part {
        "policy_value" | "suboptimality.policy" if instance.policy.is_none() => {
            "the instance has no policy_logits".into()
        }
        "mle" | "sigma_d" | "log_det_sigma" | "radii" | "algorithm1" | "theorem_b1"
        | "baselined"
            if instance.pairs.is_none() =>
        {
            "the instance has no preferences".into()
        }
        "feature_expectation" if !no_truth => "the instance has no features".into(),
        "robust" if instance.counts.is_none() => "the instance has no transition_counts".into(),
        "rto" if instance.rto.is_none() => "the instance has no rto".into(),
        "dpo" => "the instance has neither preferences with features nor a true reward".into(),
        "dpo.loss" => "the instance has no preferences".into(),
        _ if last == "theta_star_in_set" => "unknown: theta of the true reward is not given".into(),
        _ if no_truth => NO_TRUTH.into(),
        _ => "infinite or undefined in floating point".into(),
    }
}
