//! The extension module behind the Python package `rto`: arguments and results, no mathematics.

mod arrays;
mod benches;
mod callback;
mod coverage;
mod estimate;
mod long;
mod mdp;
mod plan;
mod preference;
mod seam;
mod search;
mod solve;
mod spare;
mod train;

/// Exact RLHF on token MDPs, compiled.
#[pyo3::pymodule]
mod _rto {
    #[pymodule_export]
    use super::benches::{audit_text, bench_text, recipes_text};
    #[pymodule_export]
    use super::coverage::{Coverage, coverage, covering_behaviour, linear_coverage};
    #[pymodule_export]
    use super::estimate::{
        BoundSides, BtFit, MaxMin, algorithm1, confidence_radius, design, fit_bradley_terry,
        maxmin, theorem_4_2, theorem_b1,
    };
    #[pymodule_export]
    use super::mdp::{Mdp, Policy, TokenTree};
    #[pymodule_export]
    use super::plan::{
        PolicyValue, SoftOptimum, Visitation, evaluate, soft_value_iteration, suboptimality,
        visitation,
    };
    #[pymodule_export]
    use super::preference::{BestOfN, additive_coverage, best_of_n, soft_best_of_n};
    #[pymodule_export]
    use super::seam::{
        Loss, gae, group_relative, kto_loss, leave_one_out, leave_one_out_of_score, pair_loss_grad,
        policy_loss, remax, reward_loss, reward_to_go, sft_loss, token_rewards, value_loss, whiten,
    };
    #[pymodule_export]
    use super::search::{Found, best_first};
    #[pymodule_export]
    use super::solve::{solve_file, solve_text};
    #[pymodule_export]
    use super::train::{TrainRun, sample_preferences, train_run};

    #[pymodule_export]
    #[allow(non_upper_case_globals)]
    const __version__: &str = env!("CARGO_PKG_VERSION");
}
