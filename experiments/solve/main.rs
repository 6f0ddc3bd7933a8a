//! A user's own instance in, everything the theory says about it out.

use anyhow::{Context, Result};
use clap::Parser;
use rto_harness::cli::{Reporter, note, parse, run_main};
use rto_harness::run_dir::RunDir;
use rto_harness::say;
use rto_solve::{Instance, render, solve};
use std::collections::BTreeMap;
use std::path::PathBuf;
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
    #[arg(value_name = "INSTANCE.json")]
    instance: PathBuf,
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
    let reporter = Reporter::new(cli.json);
    let file = cli.instance.display();
    let instance = Instance::read(&cli.instance)?;
    let report = solve(&instance).with_context(|| file.to_string())?;
    for warning in &report.warnings {
        note(&format!("warning: {file}: {warning}"));
    }
    if let Some(out) = &cli.out {
        let dir = RunDir::create("solve", Some(out))?;
        dir.write_versions(&BTreeMap::new())?;
        dir.write_json("results.json", &report)?;
    }
    say!(reporter, "{}", render(&report, &instance.initial()))?;
    reporter.json(&report)
}
