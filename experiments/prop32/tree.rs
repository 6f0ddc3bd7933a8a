//! `--tree FILE`: one given tree, searched exactly.

use anyhow::{Context, Result, anyhow, bail};
use num_bigint::BigUint;
use rto::search::best_first::{BestFirst, Pick, best_first};
use rto::search::bounds::{
    XI_SLACK, chains_for_xi, frontier_size, minimax, paper_bound, sentence_worst_case,
};
use rto::search::check_size;
use rto::search::evaluator::{Evaluator, EvaluatorOracle, LeafWeights};
use rto::search::mass::Mass;
use rto::search::oracle::CountingOracle;
use rto::search::paper::paper_search;
use rto::search::profile::heavy_profile;
use rto_harness::config::is_close;
use rto_harness::json_error::explain;
use rto_harness::table::{Cell, Table};
use serde::de::{Deserializer, MapAccess, Visitor};
use serde::{Deserialize, Serialize};
use serde_json::value::RawValue;
use std::fmt;
use std::fs;
use std::iter::Sum;
use std::path::Path;

/// The file, as `--help` shows it. Values are kept as text: decimals are read exactly.
#[derive(Default)]
struct TreeFile<'a> {
    n_actions: Option<&'a RawValue>,
    horizon: Option<&'a RawValue>,
    leaf_weights: Option<&'a RawValue>,
    xi: Option<&'a RawValue>,
}

const KEYS: [&str; 4] = ["n_actions", "horizon", "leaf_weights", "xi"];

/// The entries of an object in the order of the file, a repeated key twice.
struct Entries<'a>(Vec<(String, &'a RawValue)>);

impl<'de: 'a, 'a> Deserialize<'de> for Entries<'a> {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> std::result::Result<Self, D::Error> {
        struct Object;
        impl<'de> Visitor<'de> for Object {
            type Value = Entries<'de>;

            fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                write!(f, "an object with the keys {}", KEYS.join(", "))
            }

            fn visit_map<A: MapAccess<'de>>(
                self,
                mut map: A,
            ) -> std::result::Result<Self::Value, A::Error> {
                let mut entries = Vec::new();
                while let Some(entry) = map.next_entry()? {
                    entries.push(entry);
                }
                Ok(Entries(entries))
            }
        }
        deserializer.deserialize_map(Object)
    }
}

impl<'a> TreeFile<'a> {
    fn parse(text: &'a str) -> Result<Self> {
        let Entries(entries) = serde_json::from_str(text).map_err(|e| explain(text, &e))?;
        let mut file = Self::default();
        for (key, value) in entries {
            let slot = match key.as_str() {
                "n_actions" => &mut file.n_actions,
                "horizon" => &mut file.horizon,
                "leaf_weights" => &mut file.leaf_weights,
                "xi" => &mut file.xi,
                _ => bail!("{}", unknown(&key)),
            };
            if slot.replace(value).is_some() {
                bail!("{key}: given twice");
            }
        }
        Ok(file)
    }
}

fn unknown(key: &str) -> String {
    let close: Vec<&str> = KEYS.into_iter().filter(|k| is_close(key, k)).collect();
    let meant = if close.is_empty() {
        String::new()
    } else {
        format!("; did you mean {}?", close.join(" or "))
    };
    format!(
        "{}: unknown key, expected one of {}{meant}",
        key.escape_debug(),
        KEYS.join(", ")
    )
}

/// A required count.
fn count(value: Option<&RawValue>, key: &str) -> Result<usize> {
    let text = value.with_context(|| format!("{key}: missing"))?.get();
    text.parse().map_err(|_| {
        anyhow!(
            "{key}: found {}, expected a whole number of at least 1",
            shorten(text)
        )
    })
}

/// What is known of the tree; probabilities in \[0, 1\], counts exact.
#[derive(Debug, Serialize)]
pub struct TreeReport {
    /// ξ as given, or log_A(W / w_max).
    xi: f64,
    /// m_h, h = 0..=H.
    heavy_profile: Vec<u64>,
    /// |N| of (3.7).
    frontier_size: u128,
    /// Queries of the paper's algorithm.
    paper_queries: u64,
    /// Queries of best-first search.
    best_first: BestFirstReport,
    /// The lexicographically smallest most probable response.
    optimal_response: Vec<u32>,
    /// The probability of that response.
    optimal_probability: f64,
    /// min(A^{ξ+1}, A^H).
    paper_bound: f64,
    /// M(A, H, K).
    minimax_bound: u128,
    /// A^H − 1.
    sentence_worst_case: u64,
}

#[derive(Debug, Serialize)]
struct BestFirstReport {
    lowest: u64,
    highest: u64,
    lowest_without_inference: u64,
}

/// Reads and searches the tree in `file`.
pub fn run(file: &Path) -> Result<TreeReport> {
    let bytes = fs::read(file).with_context(|| format!("{}: cannot read", file.display()))?;
    report(&bytes).with_context(|| file.display().to_string())
}

fn report(bytes: &[u8]) -> Result<TreeReport> {
    let text = std::str::from_utf8(bytes).context("not UTF-8 text")?;
    let file = TreeFile::parse(text)?;
    let (n_actions, horizon) = (
        count(file.n_actions, "n_actions")?,
        count(file.horizon, "horizon")?,
    );
    check_size(n_actions, horizon)?;
    let xi = match file.xi.map(RawValue::get) {
        None | Some("null") => None,
        Some(text) => match text.parse::<f64>() {
            Ok(xi) if xi >= 0.0 && xi.is_finite() => Some(xi),
            _ => bail!(
                "xi: found {}, expected a non-negative number",
                shorten(text)
            ),
        },
    };
    let list = file.leaf_weights.context("leaf_weights: missing")?.get();
    let leaf_weights: Vec<&RawValue> = serde_json::from_str(list).map_err(|_| {
        anyhow!(
            "leaf_weights: found {}, expected a list of numbers",
            shorten(list)
        )
    })?;
    let decimals = leaf_weights.iter().enumerate().map(|(i, raw)| {
        Decimal::parse(raw.get()).map_err(|expected| {
            let found = shorten(raw.get());
            anyhow!("leaf_weights[{i}]: found {found}, expected {expected}")
        })
    });
    let weights = to_integers(&decimals.collect::<Result<Vec<_>>>()?);
    // Most trees fit machine integers, which are much faster; the results are the same.
    match narrow(&weights) {
        Some(weights) => search(LeafWeights::new(n_actions, horizon, weights)?, xi),
        None => search(LeafWeights::new(n_actions, horizon, weights)?, xi),
    }
}

fn shorten(text: &str) -> String {
    if text.chars().count() <= 40 {
        text.to_string()
    } else {
        text.chars().take(37).chain("...".chars()).collect()
    }
}

/// digits · 10^{−places}, exactly.
struct Decimal {
    digits: BigUint,
    places: i64,
}

/// The most digits, and the largest exponent: more than any `f64` needs, and a bound on the work a file can ask for.
const MOST_PLACES: i64 = 400;

impl Decimal {
    /// The number, or what was expected in its place.
    fn parse(text: &str) -> std::result::Result<Self, String> {
        let other = || "a non-negative integer or decimal".to_string();
        let places = || format!("a number of at most {MOST_PLACES} places");
        let (mantissa, exponent) = match text.split_once(['e', 'E']) {
            Some((mantissa, exponent)) => (mantissa, exponent),
            None => (text, "0"),
        };
        let mantissa = mantissa
            .strip_prefix("-")
            .filter(|rest| rest.bytes().all(|b| b == b'0' || b == b'.'))
            .unwrap_or(mantissa);
        let (whole, fraction) = mantissa.split_once('.').unwrap_or((mantissa, ""));
        let fraction = fraction.trim_end_matches('0');
        let digits = format!("{whole}{fraction}");
        let sign = exponent.strip_prefix(['+', '-']).unwrap_or(exponent);
        let is_number = |s: &str| !s.is_empty() && s.bytes().all(|b| b.is_ascii_digit());
        if !is_number(&digits) || !is_number(sign) {
            return Err(other());
        }
        if digits.bytes().all(|b| b == b'0') {
            let digits = BigUint::ZERO;
            return Ok(Self { digits, places: 0 });
        }
        let exponent: i64 = exponent.parse().map_err(|_| places())?;
        let shift = (fraction.len() as i64)
            .checked_sub(exponent)
            .ok_or_else(places)?;
        if digits.len() as i64 > MOST_PLACES || shift.unsigned_abs() > MOST_PLACES as u64 {
            return Err(places());
        }
        let digits: BigUint = digits.parse().map_err(|_| other())?;
        Ok(Self {
            digits,
            places: shift,
        })
    }
}

/// All weights times one power of ten.
fn to_integers(weights: &[Decimal]) -> Vec<BigUint> {
    let scale = weights.iter().map(|w| w.places).max().unwrap_or(0).max(0);
    weights
        .iter()
        .map(|w| &w.digits * BigUint::from(10u8).pow((scale - w.places) as u32))
        .collect()
}

fn narrow(weights: &[BigUint]) -> Option<Vec<u128>> {
    let total: BigUint = weights.iter().sum();
    u128::try_from(total).ok()?;
    weights.iter().map(|w| u128::try_from(w).ok()).collect()
}

fn search<M: Mass + for<'a> Sum<&'a M>>(
    tree: LeafWeights<M>,
    xi: Option<f64>,
) -> Result<TreeReport> {
    let (a, h, total) = (tree.n_actions(), tree.horizon(), tree.total().clone());
    let (code, best) = tree.best();
    let optimal_probability = best.ratio(&total);
    let threshold = xi.map(|xi| (a as f64).powf(-xi) * (1.0 - XI_SLACK));
    let is_heavy = |m: &M| match threshold {
        Some(threshold) => !m.is_zero() && m.ratio(&total) >= threshold,
        None => *m >= *best,
    };
    let profile = heavy_profile(&tree, is_heavy)?;
    let mut oracle = CountingOracle::new(EvaluatorOracle::new(&tree));
    let needed = -best.log_ratio(&total) / (a as f64).ln() + 0.0;
    if let Some(xi) = xi.filter(|_| !is_heavy(best)) {
        bail!(
            "xi: found {xi}, but Assumption 3.1 does not hold for it: no response has probability at least {a}^(-{xi}); the smallest xi for which it holds is {}",
            least_xi(needed, |xi| best.ratio(&total)
                >= (a as f64).powf(-xi) * (1.0 - XI_SLACK))
        );
    }
    paper_search(&mut oracle, is_heavy, Pick::Lowest, |_| {})?;
    let k = match xi {
        Some(xi) => chains_for_xi(a, xi, tree.has_zeros()),
        None => chains_for_best(&tree, best),
    };
    let xi = xi.unwrap_or(needed);
    let count = |pick, infer_last_leaf| -> Result<u64> {
        let mut oracle = CountingOracle::new(EvaluatorOracle::new(&tree));
        best_first(
            &mut oracle,
            &BestFirst {
                pick,
                infer_last_leaf,
            },
        )?;
        Ok(oracle.queries())
    };
    Ok(TreeReport {
        xi,
        frontier_size: frontier_size(a, &profile),
        heavy_profile: profile,
        paper_queries: oracle.queries(),
        best_first: BestFirstReport {
            lowest: count(Pick::Lowest, true)?,
            highest: count(Pick::Highest, true)?,
            lowest_without_inference: count(Pick::Lowest, false)?,
        },
        optimal_response: tree.tokens(code, h),
        optimal_probability,
        paper_bound: paper_bound(a, h, xi),
        minimax_bound: minimax(a, h, k),
        sentence_worst_case: sentence_worst_case(a, h, true)
            .try_into()
            .context("A^H does not fit 64 bits")?,
    })
}

/// ξ in a few digits, rounded up so that the assumption holds for what is printed.
fn least_xi(needed: f64, holds: impl Fn(f64) -> bool) -> f64 {
    let up = |digits: f64| (needed * digits).ceil() / digits;
    let short = [1e6, 1e9, 1e12].map(up);
    short.into_iter().find(|xi| holds(*xi)).unwrap_or(needed)
}

/// K = max{k ≥ 1 : k·w_max < W}, or ≤ W when some weight is zero.
fn chains_for_best<M: Mass + for<'a> Sum<&'a M>>(tree: &LeafWeights<M>, best: &M) -> u128 {
    let mut left = tree.total().residual();
    let mut k = 0;
    // At most A^H steps: every step takes one response's worth of mass.
    loop {
        let remaining = M::left(&left, tree.total(), 0.0);
        let fits = if tree.has_zeros() {
            remaining >= *best
        } else {
            remaining > *best
        };
        if !fits {
            return k.max(1);
        }
        M::subtract(&mut left, tree.total(), best);
        k += 1;
    }
}

impl TreeReport {
    /// The report as people read it.
    pub fn render(&self) -> String {
        let mut table = Table::new("tree", &["quantity", "value"]);
        let response = self
            .optimal_response
            .iter()
            .map(u32::to_string)
            .collect::<Vec<_>>()
            .join(" ");
        let profile = self
            .heavy_profile
            .iter()
            .map(u64::to_string)
            .collect::<Vec<_>>()
            .join(" ");
        let rows: [(&str, Cell); 12] = [
            ("optimal response", response.into()),
            ("its probability", self.optimal_probability.into()),
            ("xi", self.xi.into()),
            ("heavy nodes by depth", profile.into()),
            ("|N|", self.frontier_size.into()),
            ("queries, paper's algorithm", self.paper_queries.into()),
            (
                "queries, best-first, lowest child first",
                self.best_first.lowest.into(),
            ),
            (
                "queries, best-first, highest child first",
                self.best_first.highest.into(),
            ),
            (
                "queries, best-first, no inference",
                self.best_first.lowest_without_inference.into(),
            ),
            ("paper's bound A^min(xi+1,H)", self.paper_bound.into()),
            ("exact minimax M(A,H,K)", self.minimax_bound.into()),
            (
                "sentence feedback, worst case A^H-1",
                self.sentence_worst_case.into(),
            ),
        ];
        for (name, value) in rows {
            table.push([name.into(), value]);
        }
        table.render()
    }
}

#[cfg(test)]
#[path = "../../bridge/tests/common/mutate.rs"]
mod mutate;

#[cfg(test)]
mod tests;
