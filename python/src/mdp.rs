//! Token trees, tables and policies.

use crate::arrays::{elements, found, out2, table, value_error, vector};
use crate::spare;
use ndarray::Array2;
use numpy::PyArray2;
use pyo3::prelude::*;
use rto::algorithm2::Pair;
use rto::mdp::{ActionIx, Beta, StateIx, TabularMdp, TabularPolicy, Transition};
use rto::policy::StateMap;
use rto::seq::Episode;
use std::sync::{Arc, LazyLock};

/// Every response of at most H tokens to each prompt: the deterministic token MDP of Section 3.1.
///
/// Parameters
/// ----------
/// n_actions : int
///     A, the size of the vocabulary.
/// horizon : int
///     H, the largest number of tokens in a response.
/// n_prompts : int, default 1
/// eos : int, optional
///     The token that ends a response; without it every response has H tokens.
/// initial : array_like of shape (n_prompts,), optional
///     ρ, the law of the prompt; uniform by default.
///
/// Notes
/// -----
/// A prompt has (A^H - 1)/(A - 1) states, one for each prefix of fewer than H tokens, by length and then in order.
#[pyclass(frozen, module = "rto", name = "TokenTree")]
pub struct TokenTree {
    pub tree: rto::mdp::TokenTree,
    pub mdp: Arc<TabularMdp>,
    rho: Vec<f64>,
}

/// A pair of responses: `(winner, loser)` to prompt 0, or `(prompt, winner, loser)`.
pub fn read_pair(n: usize, pair: &Bound<'_, PyAny>) -> PyResult<(usize, Vec<u32>, Vec<u32>)> {
    if let Ok(three) = pair.extract::<(usize, Vec<u32>, Vec<u32>)>() {
        return Ok(three);
    }
    let two = pair.extract::<(Vec<u32>, Vec<u32>)>();
    let (winner, loser) = two.map_err(|_| {
        value_error(format!("pairs[{n}]: expected (winner, loser) or (prompt, winner, loser), responses as lists of tokens"))
    })?;
    Ok((0, winner, loser))
}

/// The items of the argument `pairs`.
pub fn each_pair<'py>(
    pairs: &Bound<'py, PyAny>,
) -> PyResult<impl Iterator<Item = PyResult<(usize, Bound<'py, PyAny>)>>> {
    let items = pairs.try_iter().map_err(|_| {
        value_error(format!(
            "pairs: found {}, expected a list of (winner, loser) or (prompt, winner, loser)",
            found(pairs)
        ))
    })?;
    Ok(items.enumerate().map(|(n, pair)| Ok((n, pair?))))
}

impl TokenTree {
    /// The tree as prompts and responses.
    pub fn state_map(&self) -> PyResult<Arc<StateMap>> {
        StateMap::tree(&self.tree, &self.rho).map_err(value_error)
    }

    /// A response; `name` says where it stands.
    pub fn episode(&self, name: &str, prompt: usize, tokens: &[u32]) -> PyResult<Episode> {
        let named = |e: rto::Error| value_error(format!("{name}: {e}"));
        let trajectory = self.tree.trajectory(prompt, tokens).map_err(named)?;
        let last = trajectory.steps().last().map(|(_, a)| *a);
        let finish = match last.is_some() && last == self.tree.eos() {
            true => rto::seq::Finish::Eos,
            false => rto::seq::Finish::Length,
        };
        Episode::try_new(StateMap::prompt(prompt), tokens.to_vec(), finish).map_err(named)
    }

    /// The argument `pairs`.
    pub fn pairs(&self, pairs: &Bound<'_, PyAny>) -> PyResult<Vec<Pair>> {
        let mut all = Vec::new();
        for pair in each_pair(pairs)? {
            let (n, pair) = pair?;
            let (prompt, winner, loser) = read_pair(n, &pair)?;
            all.push(Pair {
                winner: self.episode(&format!("pairs[{n}], winner"), prompt, &winner)?,
                loser: self.episode(&format!("pairs[{n}], loser"), prompt, &loser)?,
            });
        }
        Ok(all)
    }
}

#[pymethods]
impl TokenTree {
    #[new]
    #[pyo3(signature = (n_actions, horizon, n_prompts = 1, eos = None, initial = None))]
    fn new(
        n_actions: usize,
        horizon: usize,
        n_prompts: usize,
        eos: Option<u32>,
        initial: Option<&Bound<'_, PyAny>>,
    ) -> PyResult<Self> {
        let tree = rto::mdp::TokenTree::try_new(n_prompts, n_actions, horizon, eos.map(ActionIx))
            .map_err(value_error)?;
        let rho = match initial {
            None => vec![1.0 / n_prompts as f64; n_prompts],
            Some(given) => elements(&vector("initial", "(n_prompts,)", given)?),
        };
        let mdp = Arc::new(tree.compile(&rho).map_err(value_error)?);
        Ok(Self { tree, mdp, rho })
    }

    /// |S|, over all prompts.
    #[getter]
    fn n_states(&self) -> usize {
        self.mdp.n_states()
    }

    /// A.
    #[getter]
    fn n_actions(&self) -> usize {
        self.mdp.n_actions()
    }

    /// H.
    #[getter]
    fn horizon(&self) -> usize {
        self.tree.horizon()
    }

    /// Number of prompts.
    #[getter]
    fn n_prompts(&self) -> usize {
        self.tree.n_prompts()
    }

    /// The state after the tokens `prefix` of a response to `prompt`.
    #[pyo3(signature = (prefix, prompt = 0))]
    fn state(&self, prefix: Vec<u32>, prompt: usize) -> PyResult<usize> {
        let state = self.tree.state(prompt, &prefix).map_err(value_error)?;
        Ok(state.ix())
    }

    /// (prompt, tokens) of a state.
    fn prefix(&self, state: usize) -> PyResult<(usize, Vec<u32>)> {
        let n = self.tree.n_states();
        if state >= n {
            return Err(value_error(format!(
                "state: found {state}, expected one below {n}"
            )));
        }
        Ok(self.tree.prefix(StateIx(state as u32)))
    }

    fn __repr__(&self) -> String {
        let t = &self.tree;
        let eos = t.eos().map_or("None".to_string(), |e| e.0.to_string());
        format!(
            "TokenTree(n_actions={}, horizon={}, n_prompts={}, eos={eos})  # {} states",
            t.n_actions(),
            t.horizon(),
            t.n_prompts(),
            t.n_states()
        )
    }
}

/// A finite acyclic MDP as a table: every state comes before its successors.
///
/// Parameters
/// ----------
/// next : array_like of int, shape (n_states, n_actions)
///     The next state of each pair, later than its state; -1 ends the episode.
/// initial : array_like of shape (n_states,)
///     ρ.
#[pyclass(frozen, module = "rto", name = "TabularMdp")]
pub struct Mdp {
    pub mdp: Arc<TabularMdp>,
}

#[pymethods]
impl Mdp {
    #[new]
    fn new(next: &Bound<'_, PyAny>, initial: &Bound<'_, PyAny>) -> PyResult<Self> {
        let rho = elements(&vector("initial", "(n_states,)", initial)?);
        let next = table("next", "(n_states, n_actions)", next)?;
        let next = next.as_array();
        let mut states = Vec::with_capacity(next.len());
        for ((s, a), &to) in next.indexed_iter() {
            if to.fract() != 0.0 || !(-1.0..4294967295.0).contains(&to) {
                return Err(value_error(format!(
                    "next[{s}, {a}]: found {to}, expected a state, or -1 for the end"
                )));
            }
            states.push(if to < 0.0 {
                StateIx::END
            } else {
                StateIx(to as u32)
            });
        }
        let mdp = TabularMdp::try_new(next.ncols(), rho, Transition::Deterministic(states))
            .map_err(value_error)?;
        Ok(Self { mdp: Arc::new(mdp) })
    }

    /// |S|.
    #[getter]
    fn n_states(&self) -> usize {
        self.mdp.n_states()
    }

    /// A.
    #[getter]
    fn n_actions(&self) -> usize {
        self.mdp.n_actions()
    }

    /// H, the longest episode that ρ can start.
    #[getter]
    fn horizon(&self) -> usize {
        self.mdp.horizon()
    }

    fn __repr__(&self) -> String {
        let m = &self.mdp;
        format!(
            "TabularMdp of {} states and {} actions, horizon {}",
            m.n_states(),
            m.n_actions(),
            m.horizon()
        )
    }
}

/// The argument `mdp`: every function that takes one takes a tree and a table.
pub fn argument(mdp: &Bound<'_, PyAny>) -> PyResult<Arc<TabularMdp>> {
    if let Ok(tree) = mdp.cast::<TokenTree>() {
        return Ok(tree.get().mdp.clone());
    }
    match mdp.cast::<Mdp>() {
        Ok(table) => Ok(table.get().mdp.clone()),
        Err(_) => Err(value_error(format!(
            "mdp: found {}, expected a TokenTree or a TabularMdp",
            found(mdp)
        ))),
    }
}

/// What every planner is asked about: an MDP, π_ref and β.
pub fn problem(
    mdp: &Bound<'_, PyAny>,
    reference: &Bound<'_, PyAny>,
    beta: f64,
) -> PyResult<(Arc<TabularMdp>, Arc<TabularPolicy>, Beta)> {
    let reference = Policy::argument("reference", reference)?;
    let beta = Beta::try_new(beta).map_err(value_error)?;
    Ok((argument(mdp)?, reference, beta))
}

/// π(a|s) of every state, kept as natural logarithms.
#[pyclass(frozen, module = "rto", name = "Policy")]
pub struct Policy {
    pub policy: Arc<TabularPolicy>,
}

impl Drop for Policy {
    fn drop(&mut self) {
        static EMPTY: LazyLock<Arc<TabularPolicy>> =
            LazyLock::new(|| Arc::new(TabularPolicy::uniform(1, 1)));
        let last = std::mem::replace(&mut self.policy, EMPTY.clone());
        if let Some(policy) = Arc::into_inner(last) {
            spare::keep(policy.into_log_probs().into_raw_vec_and_offset().0);
        }
    }
}

#[pymethods]
impl Policy {
    /// From probabilities of shape (n_states, n_actions), each row summing to 1.
    #[staticmethod]
    fn from_probs(probs: &Bound<'_, PyAny>) -> PyResult<Self> {
        Self::of_probs("probs", probs)
    }

    /// softmax(logits) by rows, shape (n_states, n_actions); -inf rules an action out.
    #[staticmethod]
    fn from_logits(logits: &Bound<'_, PyAny>) -> PyResult<Self> {
        let logits = table("logits", "(n_states, n_actions)", logits)?;
        let owned = logits.as_array().to_owned();
        Ok(Self::new(
            TabularPolicy::from_logits(owned).map_err(value_error)?,
        ))
    }

    /// 1/A everywhere, for the states of `mdp`.
    #[staticmethod]
    fn uniform(mdp: &Bound<'_, PyAny>) -> PyResult<Self> {
        let mdp = argument(mdp)?;
        let policy = TabularPolicy::uniform(mdp.n_states(), mdp.n_actions());
        Ok(Self::new(policy))
    }

    /// π(a|s), shape (n_states, n_actions).
    #[getter]
    fn probs(&self, py: Python<'_>) -> Py<PyArray2<f64>> {
        out2(py, self.policy.log_probs().mapv(f64::exp))
    }

    /// log π(a|s), shape (n_states, n_actions).
    #[getter]
    fn log_probs(&self, py: Python<'_>) -> Py<PyArray2<f64>> {
        out2(py, self.policy.log_probs().clone())
    }

    fn __repr__(&self) -> String {
        format!(
            "Policy of {} states and {} actions",
            self.policy.n_states(),
            self.policy.n_actions()
        )
    }
}

impl Policy {
    pub fn new(policy: TabularPolicy) -> Self {
        Self {
            policy: Arc::new(policy),
        }
    }

    fn of_probs(name: &str, probs: &Bound<'_, PyAny>) -> PyResult<Self> {
        let probs = table(name, "(n_states, n_actions)", probs)?;
        let owned: Array2<f64> = probs.as_array().to_owned();
        let named = |e| value_error(format!("{name}: {e}"));
        Ok(Self::new(TabularPolicy::from_probs(&owned).map_err(named)?))
    }

    /// The argument `name`: a policy, or its probabilities.
    pub fn argument(name: &str, value: &Bound<'_, PyAny>) -> PyResult<Arc<TabularPolicy>> {
        if let Ok(policy) = value.cast::<Self>() {
            return Ok(policy.get().policy.clone());
        }
        Ok(Self::of_probs(name, value)?.policy.clone())
    }
}
