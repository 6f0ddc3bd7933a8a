//! A user's own instance in, everything the theory says about it out.

use anyhow::{Context, Result, bail};
use clap::Parser;
use rto::estimate::FitOptions;
use rto_harness::cli::{Reporter, note, parse, run_main};
use rto_harness::run_dir::RunDir;
use rto_harness::say;
use rto_solve::{Data, Instance, fit_data, render, solve};
use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use std::process::ExitCode;

/// Solve one KL-regularised token MDP of your own, exactly.
///
/// Reads an instance from JSON and prints its soft values and policies (3.2)-(3.4), suboptimalities
/// (3.5), the Bradley-Terry estimate (4.1) with its confidence radii, Algorithm 1 and Theorem 4.2,
/// Theorem B.1 plain and baselined, Remark B.2, what DPO and RTO converge to, and how the data cover the
/// optimum (C_sa, C_tau, chi2, C_lin). What the instance does not determine is null, and `notes` says why.
#[derive(Debug, Parser)]
#[command(version, after_help = EXAMPLES)]
struct Cli {
    /// The instance; paths inside it are relative to it
    #[arg(value_name = "INSTANCE.json", required_unless_present = "data")]
    instance: Option<PathBuf>,
    /// Only fit (4.1) to rows x_i, features of the winner less those of the loser: NPY [n, d] of any size, which is read a stretch at a
    /// time, or sparse rows (.npz of scipy.sparse.save_npz, .json)
    #[arg(long, value_name = "X.npy", conflicts_with = "instance")]
    data: Option<PathBuf>,
    /// y of each row of --data, an NPY vector of n numbers: 1 where the row is as said there, 0 or -1 where it is the other way round
    #[arg(long, value_name = "Y.npy", requires = "data")]
    labels: Option<PathBuf>,
    /// The column of --data that is y and no feature, from 0
    #[arg(long, value_name = "J", requires = "data", conflicts_with = "labels")]
    label_column: Option<usize>,
    /// B: |theta| <= B [default: no bound]
    #[arg(long, value_name = "B", requires = "data")]
    param_bound: Option<f64>,
    /// Adds -(P/2) |theta|^2 to the likelihood
    #[arg(long, value_name = "P", requires = "data", default_value_t = 0.0)]
    penalty: f64,
    /// Of the Newton decrement, which is at most 2 T sqrt(n d) at the end
    #[arg(long, value_name = "T", requires = "data", default_value = "1e-12")]
    tolerance: f64,
    /// MiB of rows that are read together; changes no bit of the result [default: 2 for each thread]
    #[arg(long, value_name = "MIB", requires = "data")]
    stretch: Option<usize>,
    /// Draw no progress bar
    #[arg(long)]
    quiet: bool,
    /// Print the results as JSON on standard output; text for people goes to standard error
    #[arg(long)]
    json: bool,
    /// Also write the results here: a new or empty directory
    #[arg(long, value_name = "DIR")]
    out: Option<PathBuf>,
}

const EXAMPLES: &str = "\
Examples:
  solve experiments/data/g0.json               one prompt, two tokens, a known reward
  solve experiments/data/g1.json --json        preferences, pessimism and every bound
  solve experiments/data/propc2.json           a stochastic table (Proposition C.2)
  solve experiments/data/robust.json           counted transitions (Remark B.2)
  solve --data x.npy --json                    (4.1) alone, from 100 GB of differences of features
  solve --data x.npy --labels y.npy --param-bound 10
  solve --data counts.npz --penalty 1          differences of token counts in CSR, by scipy.sparse.save_npz

--data: rows on disk may be larger than the memory (float64 or float32, C order, at most 4096 columns, 2048 of more than 8,388,608 numbers); sparse rows in JSON are
  {\"dim\": d, \"indptr\": [n + 1], \"indices\": [m], \"values\": [m]}, where arrays may be paths.

A token tree has P prompts, A actions and S = (A^H - 1)/(A - 1) states for each prompt; the state after
the tokens y_1 ... y_{h-1} is (A^{h-1} - 1)/(A - 1) + the base-A number y_1 ... y_{h-1}:
  {\"beta\": 0.5, \"initial\": [P], \"n_actions\": A, \"horizon\": H, \"eos\": action or null,
   \"reference\": [P][S][A] or \"reference_logits\": ..., (null as a logit: probability 0)
   \"reward\": [P][S][A] or \"features\": [P][S][A][d] and, where known, \"theta\": [d],
   \"policy_logits\": [P][S][A],
   \"preferences\": [{\"prompt\": 0, \"winner\": [tokens], \"loser\": [tokens]}, ...] or \"pairs.jsonl\"
      or \"pairs.csv\" (columns prompt, winner, loser; tokens apart by spaces),
   \"estimation\": {\"param_bound\": B, \"feature_bound\": L, \"ridge\": 1, \"fail_prob\": 0.05,
      \"bonus_scale\": a number, printed, theory, theory_kappa, wald (the default), wald_ridge, likelihood_ratio,
      likelihood_ratio_asymptotic or self_concordant, \"printed_constant\": C of (A.2), 1 by default,
      \"metric\": sigma_d or fisher},
   \"behaviour\": [P][S][A] or \"behaviour_logits\": the policy that the data come from, for coverage; without it
      the preferences are the law of the data,
   \"dpo\": {\"beta\": 0.1, \"pairs\": \"reference\" or \"uniform\", the law of infinitely many pairs, which matters with
      stochastic transitions}, \"rto\": {\"beta1\": 0.1, \"beta2\": 0.03, \"source\": \"dpo\" or \"optimal\"}}

A general table has \"states\": S, \"initial\": [S], \"horizon\": H and
   \"transition\": [S][A] of a next state or [[next, probability], ...] (null ends the episode),
   \"terminal\": [states], \"transition_counts\": [S][A] of a number of visits or [[next, count], ...],
   \"zeta\": radius of the likelihood set, \"layered\": true to declare that no state is met twice in an
   episode (a layered graph; transitions with a cycle are then refused); its other arrays are [S][A], its responses
   [[state, action], ...] (in CSV state:action, apart by spaces).

An array may be a path: \"r.npy\", \"all.npz:reward\", \"all.safetensors:reward\".
rto.source is dpo by default where the instance has preferences, and otherwise optimal.
Every key of the output is defined in paper-notes/solve.md.";

fn main() -> ExitCode {
    run_main("solve", || run(&parse("")))
}

fn run(cli: &Cli) -> Result<()> {
    // Refused before the work and not after it.
    if let Some(out) = cli.out.as_ref().filter(|out| out.exists()) {
        RunDir::create("solve", Some(out))?;
    }
    match (&cli.instance, &cli.data) {
        (Some(instance), _) => run_instance(cli, instance),
        (None, Some(rows)) => run_data(cli, rows),
        (None, None) => unreachable!("the arguments need one of them"),
    }
}

fn run_instance(cli: &Cli, path: &Path) -> Result<()> {
    let reporter = Reporter::new(cli.json);
    let file = path.display();
    let instance = Instance::read(path)?;
    let report = solve(&instance).with_context(|| file.to_string())?;
    for warning in &report.warnings {
        note(&format!("warning: {file}: {warning}"));
    }
    write(cli, &report)?;
    say!(reporter, "{}", render(&report, &instance.initial()))?;
    reporter.json(&report)
}

fn run_data(cli: &Cli, rows: &Path) -> Result<()> {
    let reporter = Reporter::new(cli.json);
    if cli.stretch.is_some() && rows.extension().is_none_or(|e| e != "npy") {
        bail!(
            "--stretch: {} is read whole, expected a .npy file",
            rows.display()
        );
    }
    let data = Data {
        rows: rows.to_path_buf(),
        labels: cli.labels.clone(),
        label_column: cli.label_column,
        options: FitOptions {
            param_bound: cli.param_bound.unwrap_or(f64::INFINITY),
            penalty: cli.penalty,
            tolerance: cli.tolerance,
            ..FitOptions::default()
        },
        // Short enough that what was read is still in a cache when it is used.
        stretch: match cli.stretch {
            Some(stretch) => stretch.saturating_mul(1 << 20),
            None => rayon::current_num_threads() << 21,
        },
        quiet: cli.quiet,
    };
    let report = fit_data(&data)?;
    write(cli, &report)?;
    let first: Vec<String> = report
        .theta
        .iter()
        .take(8)
        .map(|t| format!("{t:.6}"))
        .collect();
    let more = if report.d > first.len() { " ..." } else { "" };
    say!(reporter, "n = {}, d = {}", report.n, report.d)?;
    say!(reporter, "theta_MLE (4.1): {}{more}", first.join(" "))?;
    let active = if report.at_bound { " (the bound)" } else { "" };
    say!(
        reporter,
        "|theta| = {:.6}{active}, L = {:.6}",
        report.norm,
        report.log_likelihood
    )?;
    let certificate = &report.certificate;
    say!(
        reporter,
        "residual {:.3e}, Newton decrement asked to be at most {:.3e}, {} readings",
        certificate.residual,
        certificate.decrement_asked,
        certificate.readings
    )?;
    reporter.json(&report)
}

fn write(cli: &Cli, report: &impl serde::Serialize) -> Result<()> {
    if let Some(out) = &cli.out {
        let dir = RunDir::create("solve", Some(out))?;
        dir.write_versions(&BTreeMap::new())?;
        dir.write_json("results.json", report)?;
    }
    Ok(())
}
