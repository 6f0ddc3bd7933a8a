//! (e) What figures need besides: a field on the simplex of three responses, fixed points over β, the length bias over G.

use anyhow::Result;
use rto::advantage::Spread;
use rto::audit::{Estimator, FixedPoint, Problem, Recipe, ResponseTree, Summary, named};
use rto::objective::Aggregation;
use rto_harness::sweep::Task;
use rto_harness::table::Cell;

use crate::Study;
use rto_audit::problem::{fixed, one_prompt};
use rto_audit::report::status;

const FIELD: &[&str] = &["recipe", "p1", "p2", "p3", "v1", "v2", "v3"];
const BETAS: &[&str] = &["recipe", "beta", "status", "subopt", "subopt_reference"];
const LENGTHS: &[&str] = &["aggregation", "baseline", "group", "cosine", "bias"];

/// ∇J, then recipes whose fields are drawn beside it.
pub const DRAWN: [(&str, &str); 3] = [
    ("reinforce.k1", "the gradient of J (k1 in the reward)"),
    ("grpo", "GRPO (paper), k3 in the loss"),
    ("reinforce.exact", "exact KL in the reward"),
];

/// The recipes whose fixed points are drawn over β.
pub const OVER_BETA: [&str; 6] = [
    "trl.grpo",
    "grpo",
    "dr_grpo",
    "openrlhf.ppo",
    "openrlhf.reinforce++",
    "centred.exact",
];

pub fn field_tasks(study: &Study) -> Vec<Task<'_>> {
    vec![Task::new("audit/e/0", FIELD, move || simplex(study))]
}

pub fn beta_tasks(study: &Study) -> Vec<Task<'_>> {
    vec![Task::new("audit/f/0", BETAS, move || over_beta(study))]
}

pub fn length_tasks(study: &Study) -> Vec<Task<'_>> {
    vec![Task::new("audit/g/0", LENGTHS, move || lengths(study))]
}

/// Three responses of lengths 1, 2 and 2: `end`, `0 0` and `0 end`.
fn triangle(beta: f64) -> Result<(Problem, f64)> {
    let tree = ResponseTree::try_new(2, 2, Some(1), &[1.0])?;
    // Pairs: (start, 0), (start, end), (0, 0), (0, end).
    let problem = Problem::try_new(tree, &[0.0, 0.35, 0.7, -0.5], &[0.6, 0.0, 0.0, 0.0])?;
    Ok((problem, beta))
}

/// Where π(y) moves at logits that follow E\[g\]: Ṗ(y) = P(y) Σ_h ∇ℓ_h · g.
fn simplex(study: &Study) -> Result<Vec<Vec<Cell>>> {
    let c = &study.config;
    let (problem, beta) = triangle(c.beta)?;
    let tree = problem.tree();
    let mut rows = Vec::new();
    for (id, label) in DRAWN {
        let all = named(beta, c.group, c.batch, tree.horizon());
        let Some(n) = all.into_iter().find(|n| n.id == id) else {
            continue;
        };
        let steps = 14;
        for i in 1..steps {
            for j in 1..steps - i {
                let share = |k: usize| k as f64 / steps as f64;
                // Responses in order: 0 0, 0 end, end.
                let p = [share(i), share(j), share(steps - i - j)];
                let theta = [(p[0] + p[1]).ln(), p[2].ln(), p[0].ln(), p[1].ln()];
                let at = Summary::at(&problem, &n.recipe, &theta, None, None)?;
                let g = &at.field;
                let pi = |s: usize, a: usize| {
                    let z: f64 = (0..2).map(|b| theta[2 * s + b].exp()).sum();
                    theta[2 * s + a].exp() / z
                };
                let along = |s: usize, a: usize| {
                    let mean: f64 = (0..2).map(|b| pi(s, b) * g[2 * s + b]).sum();
                    g[2 * s + a] - mean
                };
                let v = [
                    p[0] * (along(0, 0) + along(1, 0)),
                    p[1] * (along(0, 0) + along(1, 1)),
                    p[2] * along(0, 1),
                ];
                let mut row: Vec<Cell> = vec![label.into()];
                row.extend(p.iter().chain(&v).map(|x| Cell::from(*x)));
                rows.push(row);
            }
        }
        // Where the flow ends, without a velocity.
        let end = FixedPoint::find(&problem, &n.recipe, None)?;
        let p = &end.policy;
        let at = [p[0] * p[2], p[0] * p[3], p[1]];
        let mut row: Vec<Cell> = vec![label.into()];
        row.extend(at.iter().map(|x| Cell::from(*x)));
        row.extend([Cell::Empty, Cell::Empty, Cell::Empty]);
        rows.push(row);
    }
    Ok(rows)
}

fn over_beta(study: &Study) -> Result<Vec<Vec<Cell>>> {
    let c = &study.config;
    let mut rows = Vec::new();
    for &beta in &c.drawn_betas {
        let Some(instance) = fixed(beta)?.pop() else {
            continue;
        };
        let problem = &instance.problem;
        for n in named(beta, c.group, c.batch, problem.tree().horizon()) {
            if !OVER_BETA.contains(&n.id) {
                continue;
            }
            let end = FixedPoint::find(problem, &n.recipe, None)?;
            let start = problem.suboptimality(&n.recipe, problem.reference())?;
            rows.push(vec![
                n.name.into(),
                beta.into(),
                status(end.status).into(),
                end.suboptimality.into(),
                start.into(),
            ]);
        }
    }
    Ok(rows)
}

/// The reward part alone on the first prompt of the third fixed tree, whose responses have one to three tokens.
fn lengths(study: &Study) -> Result<Vec<Vec<Cell>>> {
    let c = &study.config;
    let mut rows = Vec::new();
    let instance = one_prompt(c.beta)?;
    for (name, aggregation) in [
        ("sum", Aggregation::SequenceSum),
        ("token mean", Aggregation::TokenMean),
        ("sequence mean", Aggregation::SequenceMean),
    ] {
        for (baseline, advantage) in [
            ("leave-one-out", Estimator::LeaveOneOut),
            (
                "z-score",
                Estimator::Group {
                    spread: Spread::Group { eps: 1e-4 },
                },
            ),
        ] {
            for &group in &c.groups {
                let recipe = Recipe {
                    aggregation,
                    advantage: advantage.clone(),
                    responses: group,
                    ..Recipe::default()
                };
                let at = Summary::at(&instance.problem, &recipe, &instance.theta, None, None)?;
                rows.push(vec![
                    name.into(),
                    baseline.into(),
                    (group as u64).into(),
                    at.cosine.into(),
                    at.scaled().bias2.sqrt().into(),
                ]);
            }
        }
    }
    Ok(rows)
}
