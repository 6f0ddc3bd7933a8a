//! Section 3.2: planning and evaluation.

use crate::arrays::{RewardView, html, out1, out2, table, value_error};
use crate::mdp::{self, Policy, TokenTree};
use crate::spare;
use numpy::{PyArray1, PyArray2, PyArrayMethods};
use pyo3::prelude::*;
use rto::mdp::Problem;
use rto::plan::tree_kernel::tree_soft_optimum_in;
use rto::reward::TabularReward;
use std::sync::OnceLock;

/// The argument `reward` as a table of its own, for work that outlives the call's arrays.
pub fn reward_table(reward: &Bound<'_, PyAny>) -> PyResult<TabularReward> {
    let reward = table("reward", "(n_states, n_actions)", reward)?;
    TabularReward::try_new(reward.as_array().to_owned()).map_err(value_error)
}

/// V*, Q* and π* of (3.2)-(3.4).
#[pyclass(frozen, module = "rto")]
pub struct SoftOptimum {
    v: Py<PyArray1<f64>>,
    /// Made when it is first asked for, where it is not at hand: on a tree it is V + β log π.
    q: OnceLock<Py<PyArray2<f64>>>,
    beta: f64,
    policy: Py<Policy>,
    /// V*_β(ρ).
    #[pyo3(get)]
    value: f64,
}

impl SoftOptimum {
    pub fn new(py: Python<'_>, optimum: rto::plan::SoftOptimum, value: f64) -> PyResult<Self> {
        Ok(Self {
            v: out1(py, optimum.v),
            q: OnceLock::from(out2(py, optimum.q)),
            beta: 0.0,
            policy: Py::new(py, Policy::new(optimum.policy))?,
            value,
        })
    }
}

#[pymethods]
impl SoftOptimum {
    fn _repr_html_(&self) -> String {
        html(&[("value", self.value.to_string())])
    }

    /// V*_β(s), shape (n_states,).
    #[getter]
    fn v(&self, py: Python<'_>) -> Py<PyArray1<f64>> {
        self.v.clone_ref(py)
    }

    /// Q*_β(s, a), β log π_ref included, shape (n_states, n_actions).
    #[getter]
    fn q(&self, py: Python<'_>) -> Py<PyArray2<f64>> {
        let made = self.q.get_or_init(|| {
            let mut q = self.policy.get().policy.log_probs().clone();
            let v = self.v.bind(py).readonly();
            for (mut row, v) in q.rows_mut().into_iter().zip(v.as_array()) {
                row.mapv_inplace(|l| v + self.beta * l);
            }
            out2(py, q)
        });
        made.clone_ref(py)
    }

    /// π*_β.
    #[getter]
    fn policy(&self, py: Python<'_>) -> Py<Policy> {
        self.policy.clone_ref(py)
    }

    fn __repr__(&self) -> String {
        format!("SoftOptimum(value={}; v, q, policy)", self.value)
    }
}

/// V^π and Q^π of (3.3).
#[pyclass(frozen, get_all, module = "rto")]
pub struct PolicyValue {
    /// V^π_β(s), shape (n_states,).
    v: Py<PyArray1<f64>>,
    /// Q^π_β(s, a), β log π_ref included, shape (n_states, n_actions).
    q: Py<PyArray2<f64>>,
    /// V^π_β(ρ).
    value: f64,
}

#[pymethods]
impl PolicyValue {
    fn _repr_html_(&self) -> String {
        html(&[("value", self.value.to_string())])
    }

    fn __repr__(&self) -> String {
        format!("PolicyValue(value={}; v, q)", self.value)
    }
}

/// d^π of (A.1). Its sums are the expected number of tokens, up to H.
#[pyclass(frozen, get_all, module = "rto")]
pub struct Visitation {
    /// d^π(s), shape (n_states,).
    state: Py<PyArray1<f64>>,
    /// d^π(s, a), shape (n_states, n_actions).
    pair: Py<PyArray2<f64>>,
}

/// The regularised optimum of an MDP, (3.2)-(3.4), in one backward pass.
///
/// Q*(s, a) = r(s, a) + β log π_ref(a|s) + E[V*(s')], V*(s) = β log Σ_a exp(Q*(s, a)/β).
///
/// Parameters
/// ----------
/// mdp : TokenTree or TabularMdp
/// reward : array_like of shape (n_states, n_actions)
/// reference : Policy, or its probabilities of shape (n_states, n_actions)
/// beta : float
///     β >= 0; at 0 the optimum is the best action of the reference's support.
///
/// Returns
/// -------
/// SoftOptimum
#[pyfunction]
pub fn soft_value_iteration(
    py: Python<'_>,
    mdp: &Bound<'_, PyAny>,
    reward: &Bound<'_, PyAny>,
    reference: &Bound<'_, PyAny>,
    beta: f64,
) -> PyResult<SoftOptimum> {
    let tree = mdp.cast::<TokenTree>().ok().map(|t| t.get());
    let (mdp, reference, beta) = mdp::problem(mdp, reference, beta)?;
    let reward = table("reward", "(n_states, n_actions)", reward)?;
    let reward = RewardView::new(reward.as_array())?;
    // A tree has the children of a state at hand, so that its levels stream through vectors; see `benchmarks/speed.py` for what that is worth.
    if let (Some(tree), true) = (tree, beta.get() > 0.0)
        && let Ok((v, policy)) = py.detach(|| {
            let memory = spare::take(mdp.n_states() * mdp.n_actions());
            tree_soft_optimum_in(&tree.tree, &reward.values(), &reference, beta, memory)
        })
    {
        let value = mdp.roots().map(|(s, p)| p * v[s.ix()]).sum();
        return Ok(SoftOptimum {
            v: out1(py, v),
            q: OnceLock::new(),
            beta: beta.get(),
            policy: Py::new(py, Policy::new(policy))?,
            value,
        });
    }
    // Everything else, and what a tree's kernel refuses: here it is named.
    let solve = || rto::plan::soft_value_iteration(Problem::new(&mdp, &reference, beta), &reward);
    let optimum = py.detach(solve).map_err(value_error)?;
    let value = optimum.mean_value(&mdp);
    SoftOptimum::new(py, optimum, value)
}

/// V^π_β and Q^π_β of a policy, (3.3).
///
/// Parameters are those of `soft_value_iteration`, and `policy`, which may take no action that the reference rules out.
#[pyfunction]
pub fn evaluate(
    py: Python<'_>,
    mdp: &Bound<'_, PyAny>,
    reward: &Bound<'_, PyAny>,
    policy: &Bound<'_, PyAny>,
    reference: &Bound<'_, PyAny>,
    beta: f64,
) -> PyResult<PolicyValue> {
    let (mdp, reference, beta) = mdp::problem(mdp, reference, beta)?;
    let policy = Policy::argument("policy", policy)?;
    let reward = table("reward", "(n_states, n_actions)", reward)?;
    let reward = RewardView::new(reward.as_array())?;
    let solve = || rto::plan::evaluate(Problem::new(&mdp, &reference, beta), &reward, &policy);
    let found = py.detach(solve).map_err(value_error)?;
    let value = found.mean_value(&mdp);
    Ok(PolicyValue {
        v: out1(py, found.v),
        q: out2(py, found.q),
        value,
    })
}

/// SubOpt(π) = V*_β(ρ) - V^π_β(ρ), (3.5), exactly.
///
/// Parameters are those of `evaluate`.
#[pyfunction]
pub fn suboptimality(
    py: Python<'_>,
    mdp: &Bound<'_, PyAny>,
    reward: &Bound<'_, PyAny>,
    policy: &Bound<'_, PyAny>,
    reference: &Bound<'_, PyAny>,
    beta: f64,
) -> PyResult<f64> {
    let (mdp, reference, beta) = mdp::problem(mdp, reference, beta)?;
    let policy = Policy::argument("policy", policy)?;
    let reward = table("reward", "(n_states, n_actions)", reward)?;
    let reward = RewardView::new(reward.as_array())?;
    let solve = || rto::plan::suboptimality(Problem::new(&mdp, &reference, beta), &reward, &policy);
    py.detach(solve).map_err(value_error)
}

/// How often a policy meets a state, d^π(s), and a pair, d^π(s, a), in expectation, (A.1).
///
/// Returns
/// -------
/// Visitation
#[pyfunction]
pub fn visitation(
    py: Python<'_>,
    mdp: &Bound<'_, PyAny>,
    policy: &Bound<'_, PyAny>,
) -> PyResult<Visitation> {
    let (mdp, policy) = (mdp::argument(mdp)?, Policy::argument("policy", policy)?);
    let visits = py
        .detach(|| rto::plan::visitation(&mdp, &policy))
        .map_err(value_error)?;
    Ok(Visitation {
        state: out1(py, visits.state),
        pair: out2(py, visits.pair),
    })
}
