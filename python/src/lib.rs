//! The extension module behind the Python package `rto`: arguments and results, no mathematics.

mod arrays;
mod estimate;
mod mdp;
mod plan;
mod solve;

/// Exact RLHF on token MDPs, compiled.
#[pyo3::pymodule]
mod _rto {
    #[pymodule_export]
    use super::estimate::{
        BtFit, MaxMin, algorithm1, confidence_radius, design, fit_bradley_terry, maxmin,
    };
    #[pymodule_export]
    use super::mdp::{Mdp, Policy, TokenTree};
    #[pymodule_export]
    use super::plan::{
        PolicyValue, SoftOptimum, Visitation, evaluate, soft_value_iteration, suboptimality,
        visitation,
    };
    #[pymodule_export]
    use super::solve::{solve_file, solve_text};

    #[pymodule_export]
    #[allow(non_upper_case_globals)]
    const __version__: &str = env!("CARGO_PKG_VERSION");
}
