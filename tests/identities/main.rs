//! The identities of Sections 3.1–4.2 and the appendices on random instances: token trees with and
//! without an end-of-sentence action, layered graphs, stochastic tables; zeros in the reference.

mod planning;
mod responses;
mod rewards;
mod theorems;

use ndarray::Array2;
use rto::mdp::{ActionIx, StateIx, TabularMdp, TabularPolicy};
use rto::plan::{SoftOptimum, soft_value_iteration};
use rto::seed::SeedTree;
use rto::zoo::{Instance, Kind, RandomSpec, random_instance, random_policy};

const TOLERANCE: f64 = 1e-10;

const INSTANCES: u64 = 1200;

fn spec(i: u64) -> RandomSpec {
    let kind = match i % 4 {
        0 => Kind::Tree { eos: false },
        1 => Kind::Tree { eos: true },
        2 => Kind::Layered {
            width: 3 + (i % 3) as usize,
        },
        _ => Kind::Stochastic {
            width: 3 + (i % 3) as usize,
        },
    };
    let tree = matches!(kind, Kind::Tree { .. });
    RandomSpec {
        kind,
        prompts: 1 + (i / 4 % 2) as usize,
        actions: 2 + (i / 8 % 3) as usize,
        horizon: if tree {
            1 + (i / 24 % 4) as usize
        } else {
            1 + (i / 24 % 7) as usize
        },
        dim: 2 + (i % 4) as usize,
        beta: [0.1, 0.3, 1.0, 2.5][(i / 3 % 4) as usize],
        theta_norm: 1.0,
        zeros: if i.is_multiple_of(5) { 0.25 } else { 0.0 },
    }
}

struct Case {
    g: Instance,
    star: SoftOptimum,
    /// Absolutely continuous with respect to the reference.
    policy: TabularPolicy,
    seeds: SeedTree,
}

fn case(i: u64) -> Case {
    let seeds = SeedTree::new(7).child("identities").index(i);
    let g = random_instance(&spec(i), &seeds).unwrap();
    let star = soft_value_iteration(g.problem(), &g.reward()).unwrap();
    let policy = supported(&g, &seeds.child("policy"));
    Case {
        g,
        star,
        policy,
        seeds,
    }
}

/// A random policy restricted to the support of the reference.
fn supported(g: &Instance, seeds: &SeedTree) -> TabularPolicy {
    let free = random_policy(g.mdp.n_states(), g.mdp.n_actions(), 0.0, seeds);
    let logits = Array2::from_shape_fn(free.log_probs().dim(), |ix| {
        if g.reference.log_probs()[ix].is_finite() {
            free.log_probs()[ix]
        } else {
            f64::NEG_INFINITY
        }
    });
    TabularPolicy::from_logits(logits).unwrap()
}

#[track_caller]
fn same(i: u64, what: &str, a: f64, b: f64) {
    assert!(
        (a - b).abs() <= TOLERANCE * a.abs().max(1.0),
        "instance {i}, {what}: {a:.15e} and {b:.15e}"
    );
}

fn pairs(mdp: &TabularMdp) -> impl Iterator<Item = (StateIx, ActionIx)> + '_ {
    let states = 0..mdp.n_states() as u32;
    states.flat_map(|s| (0..mdp.n_actions() as u32).map(move |a| (StateIx(s), ActionIx(a))))
}
