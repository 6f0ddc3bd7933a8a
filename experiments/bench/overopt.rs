//! (c) Over-optimisation of a proxy: true reward against KL for best-of-N, its soft form, tilts and χPO, under five families of
//! proxy error, with the exact frontier and the two published functional forms.

use anyhow::Result;
use rand_chacha::ChaCha8Rng;
use rand_distr::{Distribution, StandardNormal, StudentT};
use rto::mdp::Beta;
use rto::preference::{Responses, best_of_n, chi_plan, kl, soft_best_of_n, tilt};
use rto_harness::stats::{Sample, Support};
use rto_harness::sweep::Task;
use rto_harness::table::{Cell, Table};

use crate::Study;
use crate::offline::{Family, random_tree};

const COLUMNS: &[&str] = &["error", "run", "method", "root_kl", "gain", "proxy_gain"];
const FIT_COLUMNS: &[&str] = &[
    "error",
    "run",
    "method",
    "linear_residual",
    "log_residual",
    "interior_peak",
];

/// The families of proxy error.
pub const ERRORS: [&str; 5] = ["gaussian", "student", "rare_trap", "length", "token"];
/// What optimises the proxy; the frontier optimises the truth.
pub const METHODS: [&str; 5] = ["frontier", "best_of_n", "soft_best_of_n", "tilt", "chipo"];
/// √KL at which curves are read.
const GRID: usize = 23;
const STEP: f64 = 0.1;

fn grid() -> impl Iterator<Item = f64> {
    (0..GRID).map(|k| k as f64 * STEP)
}

/// True and proxy reward of 256 responses (127 of unequal length for the length error).
fn instance(error: &str, rng: &mut ChaCha8Rng) -> Result<(Responses, Vec<f64>)> {
    let family = match error {
        "length" => Family {
            name: "length",
            actions: 3,
            horizon: 6,
            eos: Some(0),
        },
        _ => Family {
            name: "flat",
            actions: 4,
            horizon: 4,
            eos: None,
        },
    };
    let responses = random_tree(&family, rng)?;
    let normal = |rng: &mut ChaCha8Rng| -> f64 { StandardNormal.sample(rng) };
    let n = responses.len();
    let noise: Vec<f64> = match error {
        "gaussian" => (0..n).map(|_| normal(rng)).collect(),
        "student" => {
            let law = StudentT::new(2.0).expect("two degrees of freedom");
            (0..n).map(|_| law.sample(rng)).collect()
        }
        "rare_trap" => {
            let mut sorted = responses.log_reference().to_vec();
            sorted.sort_by(f64::total_cmp);
            let cut = sorted[n / 10];
            // The proxy gains 4 on the tenth of responses that the reference writes least; the truth loses 2 there.
            let trap: Vec<bool> = responses.log_reference().iter().map(|u| *u < cut).collect();
            let truth: Vec<f64> = responses
                .rewards()
                .iter()
                .zip(&trap)
                .map(|(r, t)| r - if *t { 2.0 } else { 0.0 })
                .collect();
            let noise: Vec<f64> = trap
                .iter()
                .map(|t| 0.3 * normal(rng) + if *t { 4.0 } else { 0.0 })
                .collect();
            let proxy = truth.iter().zip(&noise).map(|(r, e)| r + e).collect();
            return Ok((responses.with_rewards(&truth)?, proxy));
        }
        "length" => responses.lengths().iter().map(|l| 0.5 * l).collect(),
        _ => {
            // A token-level error: one normal number for each (prefix, token), summed along the response.
            let cells = responses.prefixes().len() * responses.n_actions();
            let table: Vec<f64> = (0..cells).map(|_| normal(rng) / 2.0).collect();
            let total = |y: usize| {
                responses
                    .path(y)
                    .iter()
                    .map(|&(s, a)| table[s * responses.n_actions() + a])
                    .sum()
            };
            (0..n).map(total).collect()
        }
    };
    let proxy = responses
        .rewards()
        .iter()
        .zip(&noise)
        .map(|(r, e)| r + e)
        .collect();
    Ok((responses, proxy))
}

/// Points (√KL, true gain, proxy gain) of a method, by increasing √KL.
fn curve(method: &str, responses: &Responses, proxy: &[f64]) -> Result<Vec<[f64; 3]>> {
    let reference = responses.log_reference();
    let expect = |u: &[f64], r: &[f64]| -> f64 { u.iter().zip(r).map(|(u, r)| u.exp() * r).sum() };
    let (truth, base) = (
        responses.rewards(),
        [
            expect(reference, responses.rewards()),
            expect(reference, proxy),
        ],
    );
    let spaced = |low: f64, high: f64| {
        (0..40).map(move |k| (low.ln() + (high.ln() - low.ln()) * k as f64 / 39.0).exp())
    };
    let scaled = |r: &[f64], b: f64| r.iter().map(|r| r / b).collect::<Vec<_>>();
    let mut policies = vec![reference.to_vec()];
    match method {
        "best_of_n" => {
            for n in spaced(1.05, 2000.0) {
                policies.push(best_of_n(reference, proxy, n)?.log_policy);
            }
        }
        "soft_best_of_n" => {
            for n in spaced(1.05, 2000.0) {
                policies.push(soft_best_of_n(reference, proxy, 0.5, n)?.0);
            }
        }
        "tilt" => {
            for b in spaced(20.0, 0.12) {
                policies.push(tilt(responses, &scaled(proxy, b))?);
            }
        }
        "chipo" => {
            for b in spaced(20.0, 0.002) {
                policies.push(chi_plan(responses, proxy, Beta::try_new(b)?)?.0);
            }
        }
        _ => {
            for b in spaced(20.0, 0.05) {
                policies.push(tilt(responses, &scaled(truth, b))?);
            }
        }
    }
    let point = |u: &Vec<f64>| {
        [
            kl(u, reference).max(0.0).sqrt(),
            expect(u, truth) - base[0],
            expect(u, proxy) - base[1],
        ]
    };
    Ok(policies.iter().map(point).collect())
}

/// The value of a curve at √KL = d, linear between its points; nothing beyond its end.
fn at(curve: &[[f64; 3]], d: f64, channel: usize) -> Option<f64> {
    let k = curve
        .windows(2)
        .position(|w| w[0][0] <= d && d <= w[1][0])?;
    let (a, b) = (curve[k], curve[k + 1]);
    let share = if b[0] > a[0] {
        (d - a[0]) / (b[0] - a[0])
    } else {
        0.0
    };
    Some(a[channel] + share * (b[channel] - a[channel]))
}

/// The largest residual of least squares of the gain on two regressors, relative to the gain's range.
pub fn residual(points: &[[f64; 3]], regressors: impl Fn(f64) -> [f64; 2]) -> f64 {
    let (mut m, mut v) = ([[0.0; 2]; 2], [0.0; 2]);
    for p in points {
        let x = regressors(p[0]);
        for i in 0..2 {
            v[i] += x[i] * p[1];
            for j in 0..2 {
                m[i][j] += x[i] * x[j];
            }
        }
    }
    let det = m[0][0] * m[1][1] - m[0][1] * m[1][0];
    let c = [
        (v[0] * m[1][1] - v[1] * m[0][1]) / det,
        (v[1] * m[0][0] - v[0] * m[1][0]) / det,
    ];
    let gap = |p: &[f64; 3]| {
        let x = regressors(p[0]);
        (x[0] * c[0] + x[1] * c[1] - p[1]).abs()
    };
    let worst = points.iter().map(gap).fold(0.0, f64::max);
    let (low, high) = points
        .iter()
        .fold((f64::MAX, f64::MIN), |(l, h), p| (l.min(p[1]), h.max(p[1])));
    worst / (high - low)
}

/// A cell for each family and run: curves, and fits of best-of-N and the tilt.
pub fn tasks(study: &Study) -> Vec<Task<'_>> {
    cells(study, 'c', COLUMNS, |error, run, method, curve| {
        let row = |d: f64| -> Vec<Cell> {
            vec![
                error.into(),
                run.into(),
                method.into(),
                d.into(),
                at(curve, d, 1).into(),
                at(curve, d, 2).into(),
            ]
        };
        grid().map(row).collect()
    })
}

/// The same instances under the two functional forms d(a − bd) and d(a − b log d), on 0 < √KL < 2.2.
pub fn fit_tasks(study: &Study) -> Vec<Task<'_>> {
    cells(study, 'd', FIT_COLUMNS, |error, run, method, curve| {
        let points: Vec<[f64; 3]> = curve
            .iter()
            .copied()
            .filter(|p| p[0] > 0.0 && p[0] < 2.2)
            .collect();
        if points.len() < 5 {
            return Vec::new();
        }
        let (best, last) = (
            points.iter().map(|p| p[1]).fold(f64::MIN, f64::max),
            points[points.len() - 1][1],
        );
        vec![vec![
            error.into(),
            run.into(),
            method.into(),
            residual(&points, |d| [d, -d * d]).into(),
            residual(&points, |d| [d, -d * d.ln()]).into(),
            u64::from(best - last > 0.05 * best.abs()).into(),
        ]]
    })
}

type Rows = Vec<Vec<Cell>>;

fn cells<'a>(
    study: &'a Study,
    letter: char,
    columns: &'static [&'static str],
    read: impl Fn(&str, u64, &str, &[[f64; 3]]) -> Rows + Send + Sync + Copy + 'a,
) -> Vec<Task<'a>> {
    let mut tasks = Vec::new();
    for error in ERRORS {
        for run in 0..study.config.overopt_seeds {
            let id = format!("bench/{letter}/{}", tasks.len());
            tasks.push(Task::new(id, columns, move || {
                let mut rng = study.seeds.child("overopt").child(error).index(run).rng();
                let (responses, proxy) = instance(error, &mut rng)?;
                let mut rows = Vec::new();
                for method in METHODS {
                    rows.extend(read(
                        error,
                        run,
                        method,
                        &curve(method, &responses, &proxy)?,
                    ));
                }
                Ok(rows)
            }));
        }
    }
    tasks
}

/// Means over runs at each √KL that all of them reach.
pub fn summarise(study: &Study, runs: &Table) -> Result<Table> {
    let columns = [
        "error",
        "method",
        "root_kl",
        "runs",
        "gain",
        "gain_low",
        "gain_high",
        "proxy_gain",
        "proxy_gain_low",
        "proxy_gain_high",
    ];
    let mut table = Table::new("overopt", &columns);
    for error in ERRORS {
        let of_error = runs.filter("error", error)?;
        for method in METHODS {
            let rows = of_error.filter("method", method)?;
            let (d, gain, proxy) = (
                rows.floats("root_kl")?,
                rows.floats("gain")?,
                rows.floats("proxy_gain")?,
            );
            for x in grid() {
                let at: Vec<usize> = (0..d.len())
                    .filter(|&i| d[i] == x && gain[i].is_finite())
                    .collect();
                if (at.len() as u64) < study.config.overopt_seeds {
                    continue;
                }
                let mut row: Vec<Cell> =
                    vec![error.into(), method.into(), x.into(), at.len().into()];
                for values in [&gain, &proxy] {
                    let sample = Sample(at.iter().map(|&i| values[i]).collect());
                    let (mean, low, high) = sample.interval(Support::Real);
                    row.extend([Cell::from(mean), low.into(), high.into()]);
                }
                table.push(row);
            }
        }
    }
    Ok(table)
}

/// Which functional form fits better, and how often the true reward turns before the end.
pub fn summarise_fits(runs: &Table) -> Result<Table> {
    let columns = [
        "error",
        "method",
        "runs",
        "linear_residual",
        "log_residual",
        "linear_better",
        "interior_peak",
    ];
    let mut table = Table::new("overopt_laws", &columns);
    for error in ERRORS {
        let of_error = runs.filter("error", error)?;
        for method in METHODS {
            let rows = of_error.filter("method", method)?;
            if rows.is_empty() {
                continue;
            }
            let (linear, log) = (
                rows.floats("linear_residual")?,
                rows.floats("log_residual")?,
            );
            let better =
                linear.iter().zip(&log).filter(|(a, b)| a < b).count() as f64 / linear.len() as f64;
            let peak = Sample(rows.floats("interior_peak")?).mean();
            table.push([
                error.into(),
                method.into(),
                rows.len().into(),
                Sample(linear).quantile(0.5).into(),
                Sample(log).quantile(0.5).into(),
                better.into(),
                peak.into(),
            ]);
        }
    }
    Ok(table)
}
