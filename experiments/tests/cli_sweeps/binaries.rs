//! The binaries made of sweeps, and what each has of tables, figures and flags.

use crate::common;
use crate::common::{assert_success, files};
use std::collections::BTreeMap;
use std::path::Path;
use std::process::{Command, Output};

/// A binary made of sweeps.
pub struct Sweep {
    pub name: &'static str,
    pub binary: &'static str,
    /// The figures of a run, each as SVG and PNG.
    pub figures: &'static [&'static str],
    /// What `report.html` of a smoke run says, which ranks nothing; none where a run has no page.
    pub page: Option<&'static str>,
    /// Tables of a run, each as CSV.
    pub tables: &'static [&'static str],
    /// A number among its settings.
    pub setting: &'static str,
    /// Flags that make a run of some hundred milliseconds at least, so that kills find some cells done and some in flight.
    pub longer: &'static [&'static str],
    /// Flags that no run can use, and what the error says.
    pub bad: &'static [(&'static [&'static str], &'static [&'static str])],
}

pub const THM42: Sweep = Sweep {
    name: "thm42",
    binary: env!("CARGO_BIN_EXE_thm42"),
    figures: &[
        "constant",
        "coverage",
        "curves",
        "inconsistency",
        "regimes",
        "sweeps",
    ],
    page: None,
    tables: &[
        "constant",
        "coverage",
        "coverage_runs",
        "curve_runs",
        "curves",
        "inconsistency",
        "inconsistency_runs",
        "regime_runs",
        "regimes",
        "setting",
        "slopes",
        "sweep_runs",
        "sweeps",
    ],
    setting: "beta",
    longer: &["--replicates", "40", "--coverage-replicates", "300"],
    bad: &[
        (&["--actions", "1"], &["actions", "1"]),
        (&["--horizon", "40"], &["horizon", "40"]),
        (&["--horizons", "2,30"], &["horizons", "30"]),
        (&["--beta", "0"], &["beta", "0"]),
        (&["--beta", "NaN"], &["beta", "NaN"]),
        (&["--ridges", "0.1,0.1"], &["ridges", "0.1", "increasing"]),
        (&["--ridge", "0"], &["ridge", "0"]),
        (&["--theta-norm", "2"], &["theta_norm", "2"]),
        (&["--fail-prob", "1"], &["fail_prob", "1"]),
        (&["--printed-constant", "0"], &["printed_constant", "0"]),
        (&["--sizes", "100,50"], &["sizes", "50 after 100"]),
        (&["--fit-points", "99"], &["fit_points", "99"]),
        (&["--replicates", "1"], &["replicates", "1"]),
        (&["--exact-sizes", "10.5"], &["exact_sizes", "10.5"]),
        (&["--regime-param-bound", "1"], &["regime_param_bound", "1"]),
    ],
};

pub const ALGORITHM2: Sweep = Sweep {
    name: "algorithm2",
    binary: env!("CARGO_BIN_EXE_algorithm2"),
    figures: &["credit", "curves", "figure3", "frontier", "map", "sweeps"],
    page: None,
    tables: &[
        "against_dppo",
        "credit",
        "curve_runs",
        "curves",
        "exact",
        "figure3",
        "figure3_optima",
        "figure3_runs",
        "frontier",
        "map",
        "map_runs",
        "setting",
        "sweep_ratios",
        "sweep_runs",
        "sweeps",
    ],
    setting: "reward_scale",
    longer: &["--replicates", "10", "--sweep-replicates", "8"],
    bad: &[
        (&["--wide-actions", "1"], &["wide_actions", "1"]),
        (&["--long-horizon", "40"], &["long_horizon", "40"]),
        (&["--horizons", "2,30"], &["horizons", "30"]),
        (&["--action-counts", "2,60"], &["action_counts", "60"]),
        (&["--beta2", "0"], &["beta2", "0"]),
        (&["--beta1", "NaN"], &["dpo.beta", "NaN"]),
        (&["--lambda", "1.5"], &["lambda", "1.5", "from 0 to 1"]),
        (&["--lambdas", "0.5,1.5"], &["lambdas", "1.5"]),
        (&["--lambdas", "0.5,0.5"], &["lambdas", "0.5", "increasing"]),
        (
            &["--critic-learning-rate", "2"],
            &["critic_learning_rate", "2"],
        ),
        (&["--responses", "16,8"], &["responses", "8 after 16"]),
        (
            &["--long-responses", "6"],
            &["long_responses", "6", "method.rloo.group = 4"],
        ),
        (&["--rloo-group", "1"], &["method.rloo.group", "1"]),
        (&["--replicates", "1"], &["replicates", "1"]),
        (
            &["--figure3-beta2s", "0.1"],
            &["figure3_beta2s", "1 values", "two"],
        ),
        (&["--eval-every", "0"], &["eval_every", "0"]),
        (&["--pairs", "0"], &["pairs", "0"]),
    ],
};

pub const AUDIT: Sweep = Sweep {
    name: "audit",
    binary: env!("CARGO_BIN_EXE_audit"),
    figures: &["beta", "ends", "lambda", "length_bias", "noise", "simplex"],
    page: None,
    tables: &[
        "best_lambda",
        "end_runs",
        "ends",
        "lambda",
        "lambda_runs",
        "length_bias",
        "noise",
        "noise_runs",
        "over_beta",
        "recipes",
        "simplex",
        "statements",
    ],
    setting: "beta",
    longer: &["--end-trees", "8"],
    bad: &[
        (&["--beta", "-1"], &["beta", "found -1"]),
        (&["--group", "1"], &["group", "found 1"]),
        (&["--batch", "9"], &["batch", "found 9"]),
        (&["--betas", "1,0.3"], &["betas", "0.3 after 1"]),
        (&["--lambdas", "0.5,1.5"], &["lambdas", "1.5"]),
        (&["--end-trees", "1"], &["end_trees", "found 1"]),
    ],
};

pub const BENCH: Sweep = Sweep {
    name: "bench",
    binary: env!("CARGO_BIN_EXE_bench"),
    figures: &[
        "claims",
        "coverage",
        "offline",
        "offline_coverage",
        "online",
        "overopt",
        "ties",
    ],
    page: Some("Too small to compare methods: 4 random trees"),
    tables: &[
        "claims",
        "coverage",
        "offline",
        "offline_coverage",
        "online",
        "online_doubling",
        "overopt",
        "overopt_laws",
    ],
    setting: "beta",
    longer: &["--offline-seeds", "8"],
    bad: &[
        (&["--beta", "0"], &["beta", "found 0"]),
        (&["--betas", "1,0.5"], &["betas", "0.5 after 1"]),
        (&["--ridge", "NaN"], &["ridge", "found NaN"]),
        (&["--pairs", "40,20"], &["pairs", "20 after 40"]),
        (&["--rounds", "1"], &["rounds", "found 1"]),
        (&["--offline-seeds", "1"], &["offline_seeds", "found 1"]),
        (&["--trap-depth", "1"], &["trap_depth", "found 1"]),
        (&["--horizons", "1,20"], &["horizons", "found 20"]),
        (
            &["--parts", "offlin"],
            &["parts", "\"offlin\"", "offline, online"],
        ),
        (
            &["--parts", "online,online"],
            &["parts", "\"online\" twice"],
        ),
    ],
};

pub const STUDY: Sweep = Sweep {
    name: "study",
    binary: env!("CARGO_BIN_EXE_study"),
    figures: &[
        "frontier",
        "gradients",
        "length",
        "length_laws",
        "noise",
        "noise_ends",
        "objective",
        "removals",
    ],
    page: Some("Too small to decide: 3 seeds."),
    tables: &[
        "conclusions",
        "curves",
        "ends",
        "frontier",
        "gradient_runs",
        "gradients",
        "laws",
        "length_runs",
        "length_worlds",
        "lengths",
        "noise",
        "noise_curves",
        "noise_runs",
        "points",
        "runs",
        "same_point",
        "setting",
        "variants",
        "verdicts",
        "worlds",
    ],
    setting: "reward_scale",
    longer: &["--report-seeds", "1..12", "--pairs", "4000"],
    bad: &[
        (&["--wide-actions", "1"], &["wide_actions", "1"]),
        (&["--long-horizon", "40"], &["long_horizon", "40"]),
        (&["--beta2", "0"], &["ppo.beta2", "0"]),
        (&["--lambdas", "0.5,1.5"], &["lambdas", "1.5"]),
        (&["--temperatures", "1"], &["temperatures", "found 1"]),
        (&["--evaluations", "7"], &["evaluations", "7", "120"]),
        (
            &["--clips", "0.2"],
            &["free_learning_rates", "6 points", "12"],
        ),
        (
            &["--set", "length.horizons=[4, 8]"],
            &["length.held_out", "64", "[4, 8]"],
        ),
        (
            &["--set", "length.lambdas=[0.5, 1.5]"],
            &["length.lambdas", "1.5"],
        ),
        (
            &["--set", "length.critics=[\"zero\", \"zero\"]"],
            &["length.critics", "zero twice"],
        ),
        (&["--set", "length.rare=nan"], &["length.rare", "NaN"]),
        (
            &["--set", "noise.every=1000"],
            &["noise.every", "1000", "240"],
        ),
        (
            &["--set", "gradients.iterations=[0, 500]"],
            &["gradients.iterations", "500", "120"],
        ),
        (
            &["--set", "ppo.entropy_bonus=0.1"],
            &["ppo.entropy_bonus", "gradients.iterations = []"],
        ),
        (&["--methods", "rto,rloo"], &["methods", "no dppo"]),
        (&["--methods", "rto,dppo,rto"], &["methods", "rto twice"]),
        (
            &["--tuning-seeds", "3,101"],
            &["report_seeds", "found 3", "tuning seed"],
        ),
        (&["--report-seeds", "7"], &["report_seeds", "1 seed"]),
        (
            &["--long-responses", "6"],
            &["long_responses", "found 6", "rloo"],
        ),
        (&["--pairs", "0"], &["pairs", "0"]),
    ],
};

impl Sweep {
    pub fn command(&self, args: &[&str], dir: &Path) -> Command {
        common::command(self.binary, args, dir)
    }

    pub fn run(&self, args: &[&str], dir: &Path) -> Output {
        common::run(self.binary, args, dir)
    }

    /// The files of a whole run with the smoke settings.
    pub fn smoke(&self, dir: &Path, out: &str) -> BTreeMap<String, Vec<u8>> {
        assert_success(&self.run(&["--smoke", "--out", out], dir));
        files(&dir.join(out))
    }
}

pub fn cells(files: &BTreeMap<String, Vec<u8>>) -> Vec<&str> {
    let names = files.keys().map(String::as_str);
    names.filter(|name| name.starts_with("cells/")).collect()
}
