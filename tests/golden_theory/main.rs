//! Every value of the audit's G0, G1, vacuity and Proposition C.2 tables (`tests/golden/theory.json`,
//! computed there by an independent NumPy/SciPy program), to 1e-9, or 1e-6 where the entry is the
//! output of an iterative solver.

mod g0;
mod g1;
mod g1_maxmin;
mod tables;

use rto::algorithm1::{Baseline, ConfidenceSet, MaxMin, TheoremB1, maxmin, theorem_b1};
use rto::estimate::{BtFit, Design, FitOptions, Metric, RadiusInputs, fit_bradley_terry};
use rto::mdp::{StateIx, TabularMdp, TabularPolicy, TokenTree, for_each_trajectory};
use rto::zoo;
use serde_json::Value;

/// Closed-form entries.
const EXACT: f64 = 1e-9;

/// Entries that come from an iterative solver on the other side.
const ITERATIVE: f64 = 1e-6;

fn golden() -> Value {
    serde_json::from_str(include_str!("../golden/theory.json")).expect("the golden file is JSON")
}

fn numbers(value: &Value) -> Vec<f64> {
    match value {
        Value::Array(items) => items.iter().flat_map(numbers).collect(),
        Value::Bool(b) => vec![f64::from(u8::from(*b))],
        other => vec![
            other
                .as_f64()
                .unwrap_or_else(|| panic!("not a number: {other}")),
        ],
    }
}

#[track_caller]
fn close(what: &str, got: &[f64], want: &Value, tolerance: f64) {
    let want = numbers(want);
    assert_eq!(got.len(), want.len(), "{what}: number of values");
    for (i, (g, w)) in got.iter().zip(&want).enumerate() {
        assert!(
            (g - w).abs() <= tolerance * w.abs().max(1.0),
            "{what}[{i}]: got {g:.16e}, golden {w:.16e}"
        );
    }
}

/// Visits every key of an object, so that an entry without a check fails the test.
fn keys(value: &Value) -> Vec<&str> {
    value
        .as_object()
        .expect("an object")
        .keys()
        .map(String::as_str)
        .collect()
}

fn leaf_probs(mdp: &TabularMdp, policy: &TabularPolicy, root: StateIx) -> Vec<f64> {
    let mut out = Vec::new();
    for_each_trajectory(mdp, root, |steps| {
        out.push(
            steps
                .iter()
                .map(|&(s, a)| policy.log_prob(s, a))
                .sum::<f64>()
                .exp(),
        );
    })
    .unwrap();
    out
}

fn root_policies(tree: &TokenTree, policy: &TabularPolicy) -> Vec<f64> {
    (0..tree.n_prompts())
        .flat_map(|x| policy.probs(tree.root(x)))
        .collect()
}

/// G1 with its data and estimate.
struct G1 {
    tree: TokenTree,
    g: zoo::Instance,
    design: Design,
    fit: BtFit,
    sigma: Metric,
}

impl G1 {
    fn new() -> Self {
        let (tree, g) = zoo::g1().unwrap();
        let pairs = zoo::g1_preferences().unwrap();
        let design = Design::from_pairs(&g.mdp, &g.features, &pairs).unwrap();
        let options = FitOptions {
            param_bound: 2.0,
            ..FitOptions::default()
        };
        Self {
            fit: fit_bradley_terry(&design, &options).unwrap(),
            sigma: Metric::sigma_d(&design, 1.0).unwrap(),
            tree,
            g,
            design,
        }
    }

    fn inputs() -> RadiusInputs {
        RadiusInputs {
            horizon: 3,
            feature_bound: 1.0,
            param_bound: 2.0,
            ridge: 1.0,
            fail_prob: 0.05,
        }
    }

    /// The golden ellipsoid is centred at the estimate inside the ball of radius 2, or `param_bound`.
    fn maxmin(&self, radius: f64, param_bound: f64, baseline: Baseline) -> (MaxMin, TheoremB1) {
        let options = FitOptions {
            param_bound,
            ..FitOptions::default()
        };
        let fit = fit_bradley_terry(&self.design, &options).unwrap();
        let set = ConfidenceSet::try_new(&fit.theta, &self.sigma, radius, param_bound).unwrap();
        let g = &self.g;
        let solved = maxmin(g.problem(), &g.features, &set, baseline).unwrap();
        let theorem = theorem_b1(&g.truth().unwrap(), &g.features, &set, &solved);
        (solved, theorem.unwrap())
    }
}
