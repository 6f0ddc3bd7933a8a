//! Section 4.1, Lemma A.1: estimation from preferences, and Algorithm 1.

use crate::arrays::{elements, html, out1, out2, table, truth, value_error, vector};
use crate::mdp::{self, Policy, TokenTree};
use crate::plan::SoftOptimum;
use ndarray::Array2;
use numpy::{AllowTypeChange, PyArray1, PyArray2, PyArrayLike3};
use pyo3::prelude::*;
use rto::algorithm1::{Baseline, ConfidenceSet};
use rto::estimate::{
    Design, FitOptions, Metric, MetricKind, RadiusInputs, SparseDesign, fit_sparse,
};
use rto::features::{DenseFeatures, FeatureMap, SparseRows, trajectory_features};
use rto::mdp::{Problem, TabularMdp, TabularPolicy};
use rto::plan::{Truth, mean_value};
use rto_solve::{RADIUS_KINDS, radius_kind};

/// φ of shape (n_states, n_actions, d).
pub fn features(mdp: &TabularMdp, value: &Bound<'_, PyAny>) -> PyResult<DenseFeatures> {
    let wrong = "features: expected numbers of shape (n_states, n_actions, d)";
    let array = value
        .extract::<PyArrayLike3<'_, f64, AllowTypeChange>>()
        .map_err(|_| value_error(wrong))?;
    let array = array.as_array();
    let (n, na, d) = array.dim();
    if (n, na) != (mdp.n_states(), mdp.n_actions()) {
        return Err(value_error(format!(
            "features: found shape ({n}, {na}, {d}), expected ({}, {}, d)",
            mdp.n_states(),
            mdp.n_actions()
        )));
    }
    let rows: Vec<f64> = array.iter().copied().collect();
    DenseFeatures::try_new(n, na, d, rows).map_err(value_error)
}

/// The rows x_i = ψ(winner) - ψ(loser) of (4.1).
///
/// Parameters
/// ----------
/// tree : TokenTree
/// features : array_like of shape (n_states, n_actions, d)
/// pairs : iterable of (winner, loser) or (prompt, winner, loser)
///     Responses as lists of tokens.
///
/// Returns
/// -------
/// ndarray of shape (n, d)
#[pyfunction]
pub fn design(
    py: Python<'_>,
    tree: PyRef<'_, TokenTree>,
    features: &Bound<'_, PyAny>,
    pairs: &Bound<'_, PyAny>,
) -> PyResult<Py<PyArray2<f64>>> {
    let phi = self::features(&tree.mdp, features)?;
    let mut rows = Vec::new();
    let mut count = 0;
    for pair in mdp::each_pair(pairs)? {
        let (n, pair) = pair?;
        let (prompt, winner, loser) = mdp::read_pair(n, &pair)?;
        let of = |which: &str, response: &[u32]| {
            let named = |e| value_error(format!("pairs[{n}], {which}: {e}"));
            let trajectory = tree.tree.trajectory(prompt, response).map_err(named)?;
            Ok::<_, PyErr>(trajectory_features(&phi, &trajectory))
        };
        let (w, l) = (of("winner", &winner)?, of("loser", &loser)?);
        rows.extend(w.iter().zip(&l).map(|(w, l)| w - l));
        count = n + 1;
    }
    let table = Array2::from_shape_vec((count, phi.dim()), rows).map_err(value_error)?;
    Ok(out2(py, table))
}

/// θ_MLE of (4.1), with what certifies it.
#[pyclass(frozen, get_all, module = "rto")]
pub struct BtFit {
    /// θ_MLE, shape (d,); of least norm where several maximise.
    theta: Py<PyArray1<f64>>,
    /// ‖θ_MLE‖.
    norm: f64,
    /// L(θ_MLE).
    log_likelihood: f64,
    /// Whether ‖θ‖ <= B is active.
    at_bound: bool,
    /// μ >= 0 with ∇L = μ θ.
    multiplier: f64,
    /// Whether every pair is explained: without the ball there is no maximiser.
    separable: bool,
    /// ‖∇L - μθ‖.
    residual: f64,
    /// Readings of the whole data.
    passes: usize,
}

#[pymethods]
impl BtFit {
    fn _repr_html_(&self) -> String {
        html(&[
            ("norm", self.norm.to_string()),
            ("log_likelihood", self.log_likelihood.to_string()),
            ("at_bound", truth(self.at_bound)),
            ("separable", truth(self.separable)),
            ("residual", format!("{:e}", self.residual)),
        ])
    }

    fn __repr__(&self) -> String {
        format!(
            "BtFit(norm={}, log_likelihood={}, at_bound={}, residual={:e})",
            self.norm,
            self.log_likelihood,
            if self.at_bound { "True" } else { "False" },
            self.residual
        )
    }
}

/// The rows of a design.
pub fn rows(x: &Bound<'_, PyAny>) -> PyResult<Design> {
    let x = table("x", "(n, d)", x)?;
    let x = x.as_array();
    Design::try_new(x.ncols(), x.iter().copied().collect()).map_err(value_error)
}

/// The rows of a sparse matrix where `x` is one: of scipy.sparse in any format, or anything else that has the arrays of CSR.
fn sparse_rows(x: &Bound<'_, PyAny>) -> PyResult<Option<SparseDesign>> {
    let scipy = x.hasattr("tocsr")?;
    if !scipy && !x.hasattr("indptr")? {
        return Ok(None);
    }
    let shape = |shape: Bound<'_, PyAny>| {
        let found = shape.repr().map_or_else(|_| "?".into(), |r| r.to_string());
        let wrong = format!("x: found a sparse matrix of shape {found}, expected (n, d)");
        shape.extract().map_err(|_| value_error(wrong))
    };
    let (n, d): (usize, usize) = shape(x.getattr("shape")?)?;
    let x = match scipy {
        true => x.call_method0("tocsr")?,
        false => x.clone(),
    };
    // Columns in order, each at most once; the caller's matrix stays as it is.
    let x = match scipy && !x.getattr("has_canonical_format")?.is_truthy()? {
        true => {
            let copy = x.call_method0("copy")?;
            copy.call_method0("sum_duplicates")?;
            copy
        }
        false => x,
    };
    let numbers = |name: &str| -> PyResult<Vec<f64>> {
        let values = vector(&format!("x.{name}"), "(m,)", &x.getattr(name)?)?;
        Ok(elements(&values))
    };
    let indptr = whole("x.indptr", &numbers("indptr")?)?;
    if indptr.len() != n + 1 {
        let (found, wanted) = (indptr.len(), n + 1);
        return Err(value_error(format!(
            "x.indptr: found {found} values, expected {wanted} for {n} rows"
        )));
    }
    let indices = whole("x.indices", &numbers("indices")?)?;
    SparseRows::try_new(d, indptr, indices, numbers("data")?)
        .map(|rows| Some(SparseDesign::new(rows)))
        .map_err(|e| value_error(format!("x: {e}")))
}

/// Whole numbers of an array.
fn whole<T: TryFrom<u64>>(name: &str, values: &[f64]) -> PyResult<Vec<T>> {
    let each = values.iter().enumerate().map(|(i, x)| {
        let fits = x.fract() == 0.0 && (0.0..9e15).contains(x);
        let index = fits.then(|| T::try_from(*x as u64).ok()).flatten();
        index.ok_or_else(|| {
            let wanted = "a whole number of at least 0";
            value_error(format!("{name}[{i}]: found {x}, expected {wanted}"))
        })
    });
    each.collect()
}

/// The Bradley-Terry estimate (4.1): argmax over ‖θ‖ <= B of Σ log σ(x_i · θ).
///
/// Parameters
/// ----------
/// x : array_like or sparse matrix of shape (n, d)
///     Features of the winner less those of the loser. A sparse matrix is one of scipy.sparse in any format, or an object with the
///     arrays `indptr`, `indices` and `data` and the `shape` of CSR; nothing of size n·d is then formed.
/// param_bound : float, default inf
///     B. Separable data have no estimate without it, which raises.
/// tolerance : float, default 1e-12
///     Of the Newton decrement, in the same units whatever those of the features are.
/// penalty : float, default 0
///     Takes penalty/2 ‖θ‖² from the sum; (4.1) has none. Counts of tokens often have no estimate without it.
///
/// Returns
/// -------
/// BtFit
#[pyfunction]
#[pyo3(signature = (x, param_bound = f64::INFINITY, tolerance = 1e-12, penalty = 0.0))]
pub fn fit_bradley_terry(
    py: Python<'_>,
    x: &Bound<'_, PyAny>,
    param_bound: f64,
    tolerance: f64,
    penalty: f64,
) -> PyResult<BtFit> {
    let options = FitOptions {
        param_bound,
        tolerance,
        penalty,
        ..FitOptions::default()
    };
    let fit = match sparse_rows(x)? {
        Some(design) => py.detach(|| fit_sparse(&design, &options)),
        None => {
            let design = rows(x)?;
            py.detach(|| rto::estimate::fit_bradley_terry(&design, &options))
        }
    }
    .map_err(value_error)?;
    Ok(BtFit {
        theta: out1(py, fit.theta),
        norm: fit.norm,
        log_likelihood: fit.log_likelihood,
        at_bound: fit.at_bound,
        multiplier: fit.multiplier,
        separable: fit.separable,
        residual: fit.residual,
        passes: fit.passes,
    })
}

/// ϱ with ‖θ_MLE - θ*‖_M <= ϱ, Lemma A.1 (errata, B3), and the metric M it is measured in.
///
/// Parameters
/// ----------
/// x : array_like of shape (n, d)
/// theta : array_like of shape (d,)
///     θ_MLE.
/// kind : str
///     "printed" (A.2) to the letter, "theory" (its proof repaired), "theory_kappa", "wald", "wald_ridge", "likelihood_ratio",
///     "likelihood_ratio_asymptotic" or "self_concordant".
/// horizon, feature_bound, param_bound : H, L and B of Assumption 4.1
/// ridge : float, default 1
///     λ.
/// fail_prob : float, default 0.05
///     δ.
/// printed_constant : float, default 1
///     C of (A.2).
///
/// Returns
/// -------
/// (float, str, bool)
///     ϱ; "sigma_d" or "fisher"; whether coverage is proved at every sample size.
#[pyfunction]
#[pyo3(signature = (x, theta, kind, *, horizon, feature_bound, param_bound, ridge = 1.0, fail_prob = 0.05, printed_constant = 1.0))]
#[allow(clippy::too_many_arguments)] // keywords of one Python call
pub fn confidence_radius(
    x: &Bound<'_, PyAny>,
    theta: &Bound<'_, PyAny>,
    kind: &str,
    horizon: usize,
    feature_bound: f64,
    param_bound: f64,
    ridge: f64,
    fail_prob: f64,
    printed_constant: f64,
) -> PyResult<(f64, &'static str, bool)> {
    let (design, theta) = (rows(x)?, elements(&vector("theta", "(d,)", theta)?));
    let inputs = RadiusInputs {
        horizon,
        feature_bound,
        param_bound,
        ridge,
        fail_prob,
    };
    let kind = radius_kind(kind, printed_constant).ok_or_else(|| {
        value_error(format!(
            "kind: found \"{kind}\", expected one of {RADIUS_KINDS}"
        ))
    })?;
    let radii = rto::estimate::radii(&design, &theta, &inputs).map_err(value_error)?;
    let radius = radii.radius(kind).map_err(value_error)?;
    let metric = match radius.metric {
        MetricKind::SigmaD => "sigma_d",
        MetricKind::Fisher => "fisher",
    };
    Ok((radius.value, metric, radius.finite_sample))
}

/// Θ of (B.1): {‖θ‖ <= B, ‖θ - θ_MLE‖_M <= ϱ}.
struct Set {
    theta: Vec<f64>,
    metric: Metric,
    radius: f64,
    param_bound: f64,
}

impl Set {
    fn new(
        x: &Bound<'_, PyAny>,
        theta: &Bound<'_, PyAny>,
        radius: f64,
        metric: &str,
        ridge: f64,
        param_bound: f64,
    ) -> PyResult<Self> {
        let (design, theta) = (rows(x)?, elements(&vector("theta", "(d,)", theta)?));
        let metric = match metric {
            "sigma_d" => Metric::sigma_d(&design, ridge),
            "fisher" => Metric::fisher(&design, &theta, ridge),
            other => {
                return Err(value_error(format!(
                    "metric: found \"{other}\", expected \"sigma_d\" or \"fisher\""
                )));
            }
        };
        Ok(Self {
            theta,
            metric: metric.map_err(value_error)?,
            radius,
            param_bound,
        })
    }

    fn get(&self) -> PyResult<ConfidenceSet<'_>> {
        ConfidenceSet::try_new(&self.theta, &self.metric, self.radius, self.param_bound)
            .map_err(value_error)
    }
}

/// Algorithm 1, lines 3-5: the policy that is optimal for r̂ = φ·θ_MLE - ϱ‖φ‖_{M^-1}.
///
/// Parameters
/// ----------
/// mdp : TokenTree or TabularMdp
/// features : array_like of shape (n_states, n_actions, d)
/// reference : Policy, or its probabilities
/// beta : float
/// x : array_like of shape (n, d)
///     The rows that θ_MLE was fitted to; they make Σ_D of (4.2) with `ridge`.
/// theta : array_like of shape (d,)
/// radius : float
///     ϱ, of `confidence_radius` for instance.
/// metric : {"sigma_d", "fisher"}, default "sigma_d"
///
/// Returns
/// -------
/// SoftOptimum
///     Under the pessimistic reward: `value` is the pessimistic value of the policy.
#[pyfunction]
#[pyo3(signature = (mdp, features, reference, beta, x, theta, radius, *, metric = "sigma_d", ridge = 1.0, param_bound = f64::INFINITY))]
#[allow(clippy::too_many_arguments)] // keywords of one Python call
pub fn algorithm1(
    py: Python<'_>,
    mdp: &Bound<'_, PyAny>,
    features: &Bound<'_, PyAny>,
    reference: &Bound<'_, PyAny>,
    beta: f64,
    x: &Bound<'_, PyAny>,
    theta: &Bound<'_, PyAny>,
    radius: f64,
    metric: &str,
    ridge: f64,
    param_bound: f64,
) -> PyResult<SoftOptimum> {
    let (mdp, reference, beta) = mdp::problem(mdp, reference, beta)?;
    let phi = self::features(&mdp, features)?;
    let set = Set::new(x, theta, radius, metric, ridge, param_bound)?;
    let set = set.get()?;
    let solve =
        || rto::algorithm1::algorithm1(Problem::new(&mdp, &reference, beta), &phi, &set, None);
    let output = py.detach(solve).map_err(value_error)?;
    let value = output.pessimistic_value(&mdp);
    SoftOptimum::new(py, output.optimum, value)
}

/// The max-min policy of (B.1), with the certificate of the convex program.
#[pyclass(frozen, get_all, module = "rto")]
pub struct MaxMin {
    /// The least favourable θ, shape (d,).
    theta: Py<PyArray1<f64>>,
    /// The max-min value.
    value: f64,
    /// The policy's optimum under that θ.
    optimum: Py<SoftOptimum>,
    /// Duality gap, absolute.
    duality_gap: f64,
    /// Whether the ellipsoid is active; None where floating point does not tell (either constraint alone would hold theta).
    ellipsoid_active: Option<bool>,
    /// Whether the ball is active, in the same sense.
    ball_active: Option<bool>,
}

fn known(value: Option<bool>) -> String {
    value.map_or_else(|| "None".into(), truth)
}

#[pymethods]
impl MaxMin {
    fn _repr_html_(&self) -> String {
        html(&[
            ("value", self.value.to_string()),
            ("duality_gap", format!("{:e}", self.duality_gap)),
            ("ellipsoid_active", known(self.ellipsoid_active)),
            ("ball_active", known(self.ball_active)),
        ])
    }

    fn __repr__(&self) -> String {
        format!(
            "MaxMin(value={}, duality_gap={:e})",
            self.value, self.duality_gap
        )
    }
}

fn baseline(of_reference: bool) -> Baseline {
    match of_reference {
        true => Baseline::Reference,
        false => Baseline::None,
    }
}

/// argmax_π min_{θ in Θ} (E_{d^π}[φ] - ν)·θ - β KL of (B.1), exactly.
///
/// Parameters are those of `algorithm1`; `param_bound` is B. With `baseline` ν = E_{π_ref}[φ], and the policy is never worse than
/// π_ref where Θ holds the truth (errata, B6); without it ν = 0 as printed.
#[pyfunction]
#[pyo3(signature = (mdp, features, reference, beta, x, theta, radius, *, metric = "sigma_d", ridge = 1.0, param_bound = f64::INFINITY, baseline = false))]
#[allow(clippy::too_many_arguments)] // keywords of one Python call
pub fn maxmin(
    py: Python<'_>,
    mdp: &Bound<'_, PyAny>,
    features: &Bound<'_, PyAny>,
    reference: &Bound<'_, PyAny>,
    beta: f64,
    x: &Bound<'_, PyAny>,
    theta: &Bound<'_, PyAny>,
    radius: f64,
    metric: &str,
    ridge: f64,
    param_bound: f64,
    baseline: bool,
) -> PyResult<MaxMin> {
    let (mdp, reference, beta) = mdp::problem(mdp, reference, beta)?;
    let phi = self::features(&mdp, features)?;
    let set = Set::new(x, theta, radius, metric, ridge, param_bound)?;
    let set = set.get()?;
    let baseline = self::baseline(baseline);
    let solve =
        || rto::algorithm1::maxmin(Problem::new(&mdp, &reference, beta), &phi, &set, baseline);
    let found = py.detach(solve).map_err(value_error)?;
    let under = found.optimum.mean_value(&mdp);
    Ok(MaxMin {
        theta: out1(py, found.theta),
        value: found.value,
        optimum: Py::new(py, SoftOptimum::new(py, found.optimum, under)?)?,
        duality_gap: found.duality_gap,
        ellipsoid_active: found.ellipsoid_active,
        ball_active: found.ball_active,
    })
}

/// Both sides of Theorem 4.2 for Algorithm 1, or of Theorem B.1 for (B.1), given the truth.
#[pyclass(frozen, get_all, module = "rto", name = "Bound")]
pub struct BoundSides {
    /// SubOpt of the policy under the truth.
    suboptimality: f64,
    /// What the theorem says it is at most.
    bound: f64,
    /// Whether the theorem's premise holds: the truth lies in the confidence set. Where it does not the bound proves nothing.
    premise: bool,
    /// V of the policy less V of π_ref, under the truth.
    gain_over_reference: f64,
    /// The policy.
    policy: Py<Policy>,
}

#[pymethods]
impl BoundSides {
    fn _repr_html_(&self) -> String {
        html(&[
            ("suboptimality", self.suboptimality.to_string()),
            ("bound", self.bound.to_string()),
            ("premise", truth(self.premise)),
            ("gain_over_reference", self.gain_over_reference.to_string()),
        ])
    }

    fn __repr__(&self) -> String {
        format!(
            "Bound(suboptimality={}, bound={}, premise={})",
            self.suboptimality,
            self.bound,
            if self.premise { "True" } else { "False" }
        )
    }
}

/// Theorem 4.2 for Algorithm 1: SubOpt(π̂) <= 2ϱ E_{d*}[‖φ‖_{M^-1}] - β E_{d*}[KL(π* ‖ π̂)].
///
/// Parameters are those of `algorithm1`, and ``theta_star``, the truth, of shape (d,).
///
/// Returns
/// -------
/// Bound
#[pyfunction]
#[pyo3(signature = (mdp, features, reference, beta, theta_star, x, theta, radius, *, metric = "sigma_d", ridge = 1.0, param_bound = f64::INFINITY))]
#[allow(clippy::too_many_arguments)] // keywords of one Python call
pub fn theorem_4_2(
    py: Python<'_>,
    mdp: &Bound<'_, PyAny>,
    features: &Bound<'_, PyAny>,
    reference: &Bound<'_, PyAny>,
    beta: f64,
    theta_star: &Bound<'_, PyAny>,
    x: &Bound<'_, PyAny>,
    theta: &Bound<'_, PyAny>,
    radius: f64,
    metric: &str,
    ridge: f64,
    param_bound: f64,
) -> PyResult<BoundSides> {
    let (mdp, reference, beta) = mdp::problem(mdp, reference, beta)?;
    let phi = self::features(&mdp, features)?;
    let theta_star = elements(&vector("theta_star", "(d,)", theta_star)?);
    let set = Set::new(x, theta, radius, metric, ridge, param_bound)?;
    let set = set.get()?;
    let solve = || {
        let problem = Problem::new(&mdp, &reference, beta);
        let output = rto::algorithm1::algorithm1(problem, &phi, &set, None)?;
        let truth = Truth::linear(problem, &phi, &theta_star)?;
        let sides = rto::algorithm1::theorem_4_2(&truth, &set, &output)?;
        let value = |policy: &TabularPolicy| -> rto::Result<f64> {
            Ok(mean_value(&mdp, &truth.values(policy)?))
        };
        let gain = value(&output.optimum.policy)? - value(&reference)?;
        Ok::<_, rto::Error>((output.optimum.policy, sides, gain))
    };
    let (policy, sides, gain) = py.detach(solve).map_err(value_error)?;
    Ok(BoundSides {
        suboptimality: sides.suboptimality,
        bound: sides.bound,
        premise: sides.premise,
        gain_over_reference: gain,
        policy: Py::new(py, Policy::new(policy))?,
    })
}

/// Theorem B.1 for (B.1): SubOpt(π̂) <= 2ϱ ‖E_{d*}[φ] - ν‖_{M^-1}.
///
/// Parameters are those of `maxmin`, and ``theta_star``, the truth, of shape (d,).
///
/// Returns
/// -------
/// Bound
///     With `baseline` and the premise, `gain_over_reference` is never negative (errata, B6).
#[pyfunction]
#[pyo3(signature = (mdp, features, reference, beta, theta_star, x, theta, radius, *, metric = "sigma_d", ridge = 1.0, param_bound = f64::INFINITY, baseline = false))]
#[allow(clippy::too_many_arguments)] // keywords of one Python call
pub fn theorem_b1(
    py: Python<'_>,
    mdp: &Bound<'_, PyAny>,
    features: &Bound<'_, PyAny>,
    reference: &Bound<'_, PyAny>,
    beta: f64,
    theta_star: &Bound<'_, PyAny>,
    x: &Bound<'_, PyAny>,
    theta: &Bound<'_, PyAny>,
    radius: f64,
    metric: &str,
    ridge: f64,
    param_bound: f64,
    baseline: bool,
) -> PyResult<BoundSides> {
    let (mdp, reference, beta) = mdp::problem(mdp, reference, beta)?;
    let phi = self::features(&mdp, features)?;
    let theta_star = elements(&vector("theta_star", "(d,)", theta_star)?);
    let set = Set::new(x, theta, radius, metric, ridge, param_bound)?;
    let set = set.get()?;
    let baseline = self::baseline(baseline);
    let solve = || {
        let problem = Problem::new(&mdp, &reference, beta);
        let found = rto::algorithm1::maxmin(problem, &phi, &set, baseline)?;
        let truth = Truth::linear(problem, &phi, &theta_star)?;
        let sides = rto::algorithm1::theorem_b1(&truth, &phi, &set, &found)?;
        Ok::<_, rto::Error>((found.optimum.policy, sides))
    };
    let (policy, sides) = py.detach(solve).map_err(value_error)?;
    Ok(BoundSides {
        suboptimality: sides.suboptimality,
        bound: sides.bound,
        premise: sides.premise,
        gain_over_reference: sides.gain_over_reference,
        policy: Py::new(py, Policy::new(policy))?,
    })
}
