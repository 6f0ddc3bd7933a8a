//! Core-seconds of soft value iteration and of Bradley–Terry estimation, one JSON line per run, for
//! `benches/speed.py`.
//!
//! `theory_rate soft-vi A H [REPETITIONS]` | `theory_rate bt-fit N D FILE < TOLERANCES` |
//! `theory_rate sparse-fit N D FOLDER < TOLERANCES` | `theory_rate reports A H [REPETITIONS]`
//!
//! The number of threads is RAYON_NUM_THREADS. Times are medians, data generation excluded; `floor` is what
//! reading both tables and writing one takes, over the same buffers, in turn with the planner.

use ndarray::Array2;
use rand::Rng;
use rayon::prelude::*;
use rto::estimate::{BtFit, Design, FitOptions, SparseDesign, fit_bradley_terry, fit_sparse};
use rto::features::SparseRows;
use rto::mdp::{Beta, TabularPolicy, TokenTree};
use rto::numerics::log_sum_exp;
use rto::plan::tree_kernel::tree_soft_values;
use rto::policy::{ExactEvaluator, StateMap};
use rto::reward::TabularReward;
use rto::seed::SeedTree;
use rto::{Error, Result};
use std::io::Read;
use std::time::Instant;

fn main() -> Result<()> {
    let args: Vec<String> = std::env::args().skip(1).collect();
    let number = |i: usize, default: Option<f64>| -> Result<f64> {
        match (args.get(i), default) {
            (None, Some(value)) => Ok(value),
            (text, _) => {
                let text = text.map(String::as_str).unwrap_or("");
                text.parse()
                    .map_err(|_| Error::config(format!("argument {i}"), text, "a number"))
            }
        }
    };
    let count = |i, default: Option<f64>| number(i, default).map(|x| x as usize);
    match args.first().map(String::as_str) {
        Some("soft-vi") => soft_vi(count(1, None)?, count(2, None)?, count(3, Some(9.0))?),
        Some("bt-fit") => bt_fit(
            count(1, None)?,
            count(2, None)?,
            args.get(3).map(String::as_str).unwrap_or(""),
        ),
        Some("sparse-fit") => sparse_fit(
            count(1, None)?,
            count(2, None)?,
            args.get(3).map(String::as_str).unwrap_or(""),
        ),
        Some("reports") => reports(count(1, None)?, count(2, None)?, count(3, Some(9.0))?),
        other => Err(Error::config(
            "work",
            other.unwrap_or("nothing"),
            "soft-vi, bt-fit, sparse-fit or reports",
        )),
    }
}

/// Wall and core seconds of every call of `work`, after one that is not counted.
struct Clock {
    wall: Vec<f64>,
    core: Vec<f64>,
}

impl Clock {
    const fn new() -> Self {
        Self {
            wall: Vec::new(),
            core: Vec::new(),
        }
    }

    fn time(&mut self, work: impl FnOnce()) {
        let (wall, core) = (Instant::now(), core_seconds());
        work();
        self.core.push(core_seconds() - core);
        self.wall.push(wall.elapsed().as_secs_f64());
    }

    fn medians(&mut self) -> (f64, f64) {
        (median(&mut self.wall), median(&mut self.core))
    }
}

fn median(values: &mut [f64]) -> f64 {
    values.sort_by(f64::total_cmp);
    values[values.len() / 2]
}

/// Seconds all threads of this process have run on a core, where the system tells (Linux); wall time
/// elsewhere.
fn core_seconds() -> f64 {
    static START: std::sync::OnceLock<Instant> = std::sync::OnceLock::new();
    let wall = START.get_or_init(Instant::now).elapsed().as_secs_f64();
    let Ok(tasks) = std::fs::read_dir("/proc/self/task") else {
        return wall;
    };
    let on_core = |task: std::fs::DirEntry| -> Option<f64> {
        let text = std::fs::read_to_string(task.path().join("schedstat")).ok()?;
        text.split(' ').next()?.parse().ok()
    };
    let total: f64 = tasks.flatten().filter_map(on_core).sum();
    if total > 0.0 { total * 1e-9 } else { wall }
}

/// Rewards uniform on [0, 1), reference logits uniform on [0, 2), β = ½.
fn soft_vi(actions: usize, horizon: usize, repetitions: usize) -> Result<()> {
    let tree = TokenTree::try_new(1, actions, horizon, None)?;
    let pairs = tree.n_states() * actions;
    let mut rng = SeedTree::new(0).child("soft_vi").rng();
    let reward: Vec<f64> = (0..pairs).map(|_| rng.random()).collect();
    let mut log_reference: Vec<f64> = (0..pairs).map(|_| 2.0 * rng.random::<f64>()).collect();
    for row in log_reference.chunks_exact_mut(actions) {
        let norm = log_sum_exp(row);
        row.iter_mut().for_each(|l| *l -= norm);
    }
    let mut out = vec![0.0; pairs];
    let beta = Beta::try_new(0.5)?;
    let (mut plan, mut floor) = (Clock::new(), Clock::new());
    let mut root = tree_soft_values(&tree, &reward, &log_reference, beta, Some(&mut out))?;
    for _ in 0..repetitions {
        floor.time(|| read_two_write_one(&reward, &log_reference, &mut out));
        let mut result = Ok(Vec::new());
        plan.time(|| {
            result = tree_soft_values(&tree, &reward, &log_reference, beta, Some(&mut out))
        });
        root = result?;
    }
    let mut ratios: Vec<f64> = plan
        .wall
        .iter()
        .zip(&floor.wall)
        .map(|(a, b)| a / b)
        .collect();
    let scale = 1e9 / pairs as f64;
    let ((wall, core), (floor_wall, floor_core)) = (plan.medians(), floor.medians());
    println!(
        "{{\"pairs\": {pairs}, \"root\": {}, \"ns_per_pair\": {}, \"cpu_ns_per_pair\": {}, \"floor_ns_per_pair\": {}, \
         \"floor_cpu_ns_per_pair\": {}, \"wall_over_floor\": {}, \"peak_mb\": {}}}",
        root[0],
        wall * scale,
        core * scale,
        floor_wall * scale,
        floor_core * scale,
        median(&mut ratios),
        peak_mb()
    );
    Ok(())
}

fn read_two_write_one(x: &[f64], y: &[f64], out: &mut [f64]) {
    let run = 1 << 17;
    out.par_chunks_mut(run)
        .zip(x.par_chunks(run).zip(y.par_chunks(run)))
        .for_each(|(o, (x, y))| {
            for ((o, x), y) in o.iter_mut().zip(x).zip(y) {
                *o = x + y;
            }
        });
}

/// The largest resident memory so far, where the system tells (Linux); 0 elsewhere.
fn peak_mb() -> f64 {
    let status = std::fs::read_to_string("/proc/self/status").unwrap_or_default();
    let line = status.lines().find(|l| l.starts_with("VmHWM:"));
    let kb = line.and_then(|l| l.split_whitespace().nth(1)?.parse::<f64>().ok());
    kb.unwrap_or(0.0) / 1024.0
}

/// V, SubOpt, KL and entropy of one policy under four rewards: a walk over the states for each, and one for all.
fn reports(actions: usize, horizon: usize, repetitions: usize) -> Result<()> {
    let tree = TokenTree::try_new(1, actions, horizon, None)?;
    let map = StateMap::tree(&tree, &[1.0])?;
    let mut rng = SeedTree::new(0).child("reports").rng();
    let mut table = || Array2::from_shape_fn((tree.n_states(), actions), |_| rng.random::<f64>());
    let reference = TabularPolicy::from_logits(table())?;
    let policy = TabularPolicy::from_logits(table())?;
    let mut evaluators = Vec::new();
    for _ in 0..4 {
        let reward = TabularReward::try_new(table())?;
        let beta = Beta::try_new(0.5)?;
        evaluators.push(ExactEvaluator::try_new(
            map.clone(),
            &reward,
            reference.clone(),
            beta,
        )?);
    }
    let four: [&ExactEvaluator; 4] = std::array::from_fn(|k| &evaluators[k]);
    let (mut apart, mut together) = (Clock::new(), Clock::new());
    let (mut one, mut all) = (Vec::new(), Vec::new());
    for _ in 0..repetitions {
        apart.time(|| one = four.iter().map(|e| e.report(&policy)).collect());
        together.time(|| all = vec![ExactEvaluator::reports(four, &policy)]);
    }
    let one = one.into_iter().collect::<Result<Vec<_>>>()?;
    let all = all.remove(0)?;
    let ratios = apart.core.iter().zip(&together.core).map(|(a, t)| a / t);
    let mut ratios: Vec<f64> = ratios.collect();
    let (ratio, pairs) = (median(&mut ratios), tree.n_states() * actions);
    println!(
        "{{\"pairs\": {pairs}, \"same\": {}, \"apart_s\": {}, \"together_s\": {}, \"ratio\": {ratio}, \"least\": {}, \"most\": {}}}",
        one == all,
        apart.medians().1,
        together.medians().1,
        ratios[0],
        ratios[ratios.len() - 1]
    );
    Ok(())
}

/// The numbers of eight or four bytes in a file.
fn read<const N: usize, T>(file: &str, count: usize, number: fn([u8; N]) -> T) -> Result<Vec<T>> {
    let unread = |why: String| Error::config("file", file, why);
    let mut from = std::fs::File::open(file).map_err(|e| unread(e.to_string()))?;
    let bytes = from.metadata().map_err(|e| unread(e.to_string()))?.len() as usize;
    if !bytes.is_multiple_of(N) || count > 0 && bytes != N * count {
        return Err(unread(format!("expected {} bytes", N * count)));
    }
    let each = |b: &[u8]| number(b.try_into().expect("as many bytes"));
    let mut out = Vec::with_capacity(bytes / N);
    // By pieces: the bytes of all beside the numbers would take the memory twice.
    let mut piece = vec![0; (1 << 20).min(bytes)];
    while out.len() < bytes / N {
        let length = piece.len().min(bytes - N * out.len());
        let piece = &mut piece[..length];
        from.read_exact(piece).map_err(|e| unread(e.to_string()))?;
        out.extend(piece.chunks_exact(N).map(each));
    }
    Ok(out)
}

/// Fits the rows in `file`, `[n, d]` as little-endian doubles; penalty 1e-6.
fn bt_fit(n: usize, d: usize, file: &str) -> Result<()> {
    let design = Design::try_new(d, read(file, n * d, f64::from_le_bytes)?)?;
    answer(n, 1e-6, |options| fit_bradley_terry(&design, options))
}

/// Fits the CSR rows in a folder: `indptr` of eight bytes each, `indices` of four, `values` as doubles; penalty 1.
fn sparse_fit(n: usize, d: usize, folder: &str) -> Result<()> {
    let of = |name: &str| format!("{folder}/{name}");
    let indptr = read(&of("indptr"), n + 1, |b| u64::from_le_bytes(b) as usize)?;
    let indices = read(&of("indices"), 0, u32::from_le_bytes)?;
    let values = read(&of("values"), indices.len(), f64::from_le_bytes)?;
    let design = SparseDesign::new(SparseRows::try_new(d, indptr, indices, values)?);
    answer(n, 1.0, |options| fit_sparse(&design, options))
}

/// Fits once for every tolerance that standard input has a line with. Each answer is one line.
fn answer(n: usize, penalty: f64, fit: impl Fn(&FitOptions) -> Result<BtFit>) -> Result<()> {
    println!("{{}}");
    for line in std::io::stdin().lines() {
        let line = line.map_err(|e| Error::config("standard input", "nothing", e.to_string()))?;
        let tolerance = line.trim().parse();
        let options = FitOptions {
            tolerance: tolerance.map_err(|_| Error::config("tolerance", &line, "a number"))?,
            penalty,
            ..FitOptions::default()
        };
        let mut clock = Clock::new();
        let mut result = None;
        clock.time(|| result = Some(fit(&options)));
        let fit = result.expect("the clock ran it")?;
        println!(
            "{{\"cpu_s\": {}, \"passes\": {}, \"gnorm_over_n\": {:e}, \"theta\": {:?}}}",
            clock.core[0],
            fit.passes,
            fit.residual / n as f64,
            fit.theta
        );
    }
    Ok(())
}
