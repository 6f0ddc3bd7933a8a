//! (d) How coverage coefficients grow with H on layered graphs: over states, over trajectories, for additive rewards, and for
//! comparisons of features.

use anyhow::Result;
use nalgebra::{DMatrix, DVector};
use rand::Rng;
use rto::plan::LinearCoverage;
use rto::preference::additive_coverage;
use rto_harness::stats::Sample;
use rto_harness::sweep::Task;
use rto_harness::table::{Cell, Table};

use crate::Study;

const COLUMNS: &[&str] = &[
    "family", "horizon", "run", "c_sa", "c_tau", "c_add", "c_lin",
];

/// Random rows, and the deterministic target of which C_sa = 16, C_τ = 4^H and C_add = 12H − 8 (H ≥ 2).
pub const FAMILIES: [&str; 2] = ["random", "deterministic"];

/// A cell for each family and H.
pub fn tasks(study: &Study) -> Vec<Task<'_>> {
    let mut tasks = Vec::new();
    for family in FAMILIES {
        for &horizon in &study.config.horizons {
            let id = format!("bench/e/{}", tasks.len());
            tasks.push(Task::new(id, COLUMNS, move || {
                let runs = if family == "random" {
                    study.config.coverage_seeds
                } else {
                    1
                };
                let mut rows = Vec::new();
                for run in 0..runs {
                    let mut rng = study.seeds.child("coverage").child(family).index(run).rng();
                    // Probability of action 1 at each (layer, state): the data's, and the target's.
                    let row = |law: &mut dyn FnMut() -> f64| {
                        (0..2 * horizon).map(|_| law()).collect::<Vec<f64>>()
                    };
                    let (mu, pi) = match family {
                        // Two draws of Dirichlet(1, 1).
                        "random" => (row(&mut || rng.random()), row(&mut || rng.random())),
                        _ => (row(&mut || 0.25), row(&mut || 1.0)),
                    };
                    let [c_sa, c_tau, c_add, c_lin] = coefficients(horizon, &mu, &pi)?;
                    rows.push(vec![
                        family.into(),
                        horizon.into(),
                        run.into(),
                        c_sa.into(),
                        c_tau.into(),
                        c_add.into(),
                        c_lin.into(),
                    ]);
                }
                Ok(rows)
            }));
        }
    }
    tasks
}

/// Two states a layer, the next state is the action: C_sa, C_τ, C_add and C_lin(E_π ψ − E_μ ψ) of a target under the data, ψ the sum
/// of one-hot features of (layer, state, action) along a response, pairs drawn from μ × μ.
pub fn coefficients(horizon: usize, mu: &[f64], pi: &[f64]) -> Result<[f64; 4]> {
    let (words, dim) = (1usize << horizon, 4 * horizon);
    let mut features = vec![0.0; words * dim];
    let (mut data, mut target) = (vec![1.0; words], vec![1.0; words]);
    let (mut met_data, mut met_target) = (vec![0.0; dim], vec![0.0; dim]);
    for w in 0..words {
        let mut state = 0;
        for h in 0..horizon {
            let a = w >> (horizon - 1 - h) & 1;
            let share = |law: &[f64]| {
                if a == 1 {
                    law[2 * h + state]
                } else {
                    1.0 - law[2 * h + state]
                }
            };
            data[w] *= share(mu);
            target[w] *= share(pi);
            features[w * dim + 4 * h + 2 * state + a] = 1.0;
            state = a;
        }
        for (k, x) in features[w * dim..(w + 1) * dim].iter().enumerate() {
            met_data[k] += x * data[w];
            met_target[k] += x * target[w];
        }
    }
    let worst = |p: &[f64], q: &[f64]| {
        p.iter()
            .zip(q)
            .filter(|(p, _)| **p > 0.0)
            .map(|(p, q)| p / q)
            .fold(0.0, f64::max)
    };
    // E[xxᵀ] = 2 Cov_μ(ψ) for x = ψ(τ) − ψ(τ′).
    let mut moment = DMatrix::<f64>::zeros(dim, dim);
    for (row, p) in features.chunks(dim).zip(&data) {
        let centred = DVector::from_iterator(dim, row.iter().zip(&met_data).map(|(x, m)| x - m));
        moment.ger(2.0 * p, &centred, &centred, 1.0);
    }
    let direction: Vec<f64> = (0..dim).map(|k| met_target[k] - met_data[k]).collect();
    Ok([
        worst(&met_target, &met_data),
        worst(&target, &data),
        additive_coverage(&features, dim, &target, &data)?,
        LinearCoverage::new(moment)?.at(&direction)?.value,
    ])
}

/// Medians over the graphs, and the largest C_add/C_sa.
pub fn summarise(runs: &Table) -> Result<Table> {
    let columns = [
        "family",
        "horizon",
        "graphs",
        "c_sa",
        "c_tau",
        "c_add",
        "c_lin",
        "largest_add_over_sa",
    ];
    let mut table = Table::new("coverage", &columns);
    for family in FAMILIES {
        let rows = runs.filter("family", family)?;
        for horizon in rows.distinct("horizon")? {
            let rows = rows.filter("horizon", &horizon)?;
            let columns = ["c_sa", "c_tau", "c_add", "c_lin"].map(|c| rows.floats(c));
            let [sa, tau, add, lin] = columns.map(|c| c.map(Sample));
            let (sa, tau, add, lin) = (sa?, tau?, add?, lin?);
            let largest = add
                .0
                .iter()
                .zip(&sa.0)
                .map(|(a, s)| a / s)
                .fold(0.0, f64::max);
            let mut row: Vec<Cell> = vec![
                family.into(),
                horizon.parse::<usize>()?.into(),
                rows.len().into(),
            ];
            row.extend(
                [
                    sa.quantile(0.5),
                    tau.quantile(0.5),
                    add.quantile(0.5),
                    lin.quantile(0.5),
                    largest,
                ]
                .map(Cell::from),
            );
            table.push(row);
        }
    }
    Ok(table)
}
