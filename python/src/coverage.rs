//! Partial coverage: by how much the data under-represent what a policy does.

use crate::arrays::{elements, html, out1, value_error, vector};
use crate::estimate::features;
use crate::mdp::{self, Policy, TokenTree};
use numpy::PyArray1;
use pyo3::prelude::*;
use rto::mdp::{PreferencePair, Problem, TabularPolicy};
use rto::plan::{DataLaw, LinearCoverage};
use std::sync::Arc;

/// How well the law of the data covers a policy.
#[pyclass(frozen, get_all, module = "rto")]
pub struct Coverage {
    /// C_sa = max d^π(s, a)/d^μ(s, a); inf where π goes and the data never do.
    pair: f64,
    /// The (state, action) that attains it.
    pair_at: (usize, usize),
    /// C_τ = max P^π(τ)/P^μ(τ) over responses.
    trajectory: f64,
    /// χ²(P^π ‖ P^μ).
    chi_square: f64,
    /// C_lin(E_{d^π}[φ]), where features are given.
    linear: Option<f64>,
    /// C_lin(E_{d^π}[φ] − E_{π_ref}[φ]), where a reference is given too.
    linear_baselined: Option<f64>,
    /// Σ_h E_π[√C_lin(φ(s_h, a_h))], what restates Theorem 4.2.
    linear_along: Option<f64>,
}

#[pymethods]
impl Coverage {
    fn _repr_html_(&self) -> String {
        html(&[
            ("pair", self.pair.to_string()),
            ("trajectory", self.trajectory.to_string()),
            ("chi_square", self.chi_square.to_string()),
            (
                "linear",
                self.linear.map_or_else(|| "None".into(), |v| v.to_string()),
            ),
            (
                "linear_baselined",
                self.linear_baselined
                    .map_or_else(|| "None".into(), |v| v.to_string()),
            ),
            (
                "linear_along",
                self.linear_along
                    .map_or_else(|| "None".into(), |v| v.to_string()),
            ),
        ])
    }

    fn __repr__(&self) -> String {
        let linear = self.linear.map_or("None".into(), |v| v.to_string());
        format!(
            "Coverage(pair={}, trajectory={}, chi_square={}, linear={linear})",
            self.pair, self.trajectory, self.chi_square
        )
    }
}

/// The law of the data.
enum Law {
    Policy(Arc<TabularPolicy>),
    Pairs(Vec<PreferencePair>),
}

impl Law {
    fn get(&self) -> DataLaw<'_> {
        match self {
            Self::Policy(policy) => DataLaw::Policy(policy),
            Self::Pairs(pairs) => DataLaw::Pairs(pairs),
        }
    }
}

fn law(
    mdp: &Bound<'_, PyAny>,
    behaviour: Option<&Bound<'_, PyAny>>,
    pairs: Option<&Bound<'_, PyAny>>,
) -> PyResult<Law> {
    match (behaviour, pairs) {
        (Some(behaviour), None) => Ok(Law::Policy(Policy::argument("behaviour", behaviour)?)),
        (None, Some(pairs)) => {
            let Ok(tree) = mdp.cast::<TokenTree>() else {
                return Err(value_error(
                    "mdp: found a table, expected a TokenTree, whose responses pairs are",
                ));
            };
            let tree = tree.get();
            let mut all = Vec::new();
            for pair in mdp::each_pair(pairs)? {
                let (n, pair) = pair?;
                let (prompt, winner, loser) = mdp::read_pair(n, &pair)?;
                let of = |which: &str, tokens: &[u32]| {
                    let named = |e| value_error(format!("pairs[{n}], {which}: {e}"));
                    tree.tree.trajectory(prompt, tokens).map_err(named)
                };
                let pair = PreferencePair::try_new(of("winner", &winner)?, of("loser", &loser)?);
                all.push(pair.map_err(value_error)?);
            }
            Ok(Law::Pairs(all))
        }
        (Some(_), Some(_)) => Err(value_error(
            "behaviour: found both behaviour and pairs, expected one of them",
        )),
        (None, None) => Err(value_error(
            "behaviour: found nothing, expected a policy, or pairs",
        )),
    }
}

/// C_sa, C_τ, χ² and C_lin of Theorems 4.2 and B.1: how well the data cover what a policy does.
///
/// Parameters
/// ----------
/// mdp : TokenTree or TabularMdp
/// policy : Policy, or its probabilities
///     The one to be covered, π*_β for the theorems.
/// behaviour : Policy, or its probabilities, optional
///     μ, whose responses the data are.
/// pairs : iterable of (winner, loser) or (prompt, winner, loser), optional
///     The data themselves instead: their empirical law.
/// features : array_like of shape (n_states, n_actions, d), optional
///     For C_lin.
/// reference : Policy, or its probabilities, optional
///     For the baselined C_lin.
///
/// Returns
/// -------
/// Coverage
#[pyfunction]
#[pyo3(signature = (mdp, policy, *, behaviour = None, pairs = None, features = None, reference = None))]
pub fn coverage(
    py: Python<'_>,
    mdp: &Bound<'_, PyAny>,
    policy: &Bound<'_, PyAny>,
    behaviour: Option<&Bound<'_, PyAny>>,
    pairs: Option<&Bound<'_, PyAny>>,
    features: Option<&Bound<'_, PyAny>>,
    reference: Option<&Bound<'_, PyAny>>,
) -> PyResult<Coverage> {
    let table = mdp::argument(mdp)?;
    let policy = Policy::argument("policy", policy)?;
    let law = law(mdp, behaviour, pairs)?;
    let phi = features.map(|f| self::features(&table, f)).transpose()?;
    let reference = reference
        .map(|r| Policy::argument("reference", r))
        .transpose()?;
    if reference.is_some() && phi.is_none() {
        return Err(value_error(
            "features: found nothing, expected features with reference",
        ));
    }
    let work = || -> rto::Result<Coverage> {
        let (mdp, law) = (&*table, law.get());
        let pair = rto::plan::pair_coverage(mdp, &policy, law)?;
        let mut out = Coverage {
            pair: pair.value,
            pair_at: (pair.at.0.ix(), pair.at.1.ix()),
            trajectory: rto::plan::trajectory_coverage(mdp, &policy, law)?.value,
            chi_square: rto::plan::chi_square_coverage(mdp, &policy, law)?,
            linear: None,
            linear_baselined: None,
            linear_along: None,
        };
        if let Some(phi) = &phi {
            let linear = LinearCoverage::of(mdp, law, phi)?;
            // An expectation with the size of its terms, beside which its rounding counts.
            let visits = rto::plan::visitation(mdp, &policy)?;
            let (psi, size) = (visits.features(phi)?, visits.feature_sizes(phi)?);
            out.linear = Some(linear.at_sum(&psi, &size)?.value);
            out.linear_along = Some(linear.along(mdp, &policy, phi)?.0.value);
            if let Some(reference) = &reference {
                // One expectation, in which what all responses share is 0: a difference of two would leave its rounding.
                let advantages = rto::plan::feature_advantages(mdp, reference, phi)?;
                let centred = visits.features(&advantages)?;
                let more = rto::plan::visitation(mdp, reference)?.feature_sizes(phi)?;
                let size: Vec<f64> = size.iter().zip(&more).map(|(a, b)| a + b).collect();
                out.linear_baselined = Some(linear.at_sum(&centred, &size)?.value);
            }
        }
        Ok(out)
    };
    py.detach(work).map_err(value_error)
}

/// C_lin(v) = max_w (w·v)²/(w·E[xxᵀ]w) of the rows of a design, and the w of length 1 that attains it.
///
/// Parameters
/// ----------
/// x : array_like of shape (n, d)
/// v : array_like of shape (d,)
///
/// Returns
/// -------
/// (float, ndarray of shape (d,))
#[pyfunction]
pub fn linear_coverage(
    py: Python<'_>,
    x: &Bound<'_, PyAny>,
    v: &Bound<'_, PyAny>,
) -> PyResult<(f64, Py<PyArray1<f64>>)> {
    let design = crate::estimate::rows(x)?;
    let v = elements(&vector("v", "(d,)", v)?);
    if let Some(k) = v.iter().position(|v| !v.is_finite()) {
        return Err(value_error(format!(
            "v[{k}]: found {}, expected a finite number",
            v[k]
        )));
    }
    let (n, d) = (design.n(), v.len());
    if n == 0 {
        return Err(value_error("x: found no row, expected at least one"));
    }
    let moment = nalgebra::DMatrix::from_fn(design.dim(), design.dim(), |i, j| {
        let products = (0..n).map(|k| design.row(k)[i] * design.row(k)[j]);
        products.sum::<f64>() / n as f64
    });
    if d != design.dim() {
        return Err(value_error(format!(
            "v: found {d} numbers, expected {}",
            design.dim()
        )));
    }
    let linear = LinearCoverage::new(moment).map_err(value_error)?;
    let found = linear.at(&v).map_err(value_error)?;
    Ok((found.value, out1(py, found.at)))
}

/// The policy whose visits are c d^{π*} + (1 − c) d^{adversary}, the adversary being optimal for −r: data of controlled coverage.
///
/// Parameters
/// ----------
/// mdp : TokenTree or TabularMdp
/// reward : array_like of shape (n_states, n_actions)
/// reference : Policy, or its probabilities
/// beta : float
/// coverage : float
///     c in [0, 1].
///
/// Returns
/// -------
/// Policy
#[pyfunction]
pub fn covering_behaviour(
    py: Python<'_>,
    mdp: &Bound<'_, PyAny>,
    reward: &Bound<'_, PyAny>,
    reference: &Bound<'_, PyAny>,
    beta: f64,
    coverage: f64,
) -> PyResult<Policy> {
    let (mdp, reference, beta) = mdp::problem(mdp, reference, beta)?;
    let reward = crate::plan::reward_table(reward)?;
    let solve =
        || rto::plan::covering_behaviour(Problem::new(&mdp, &reference, beta), &reward, coverage);
    Ok(Policy::new(py.detach(solve).map_err(value_error)?))
}
