//! Laws on responses that can be enumerated: best-of-N, its soft form, and the coverage of additive rewards.

use crate::arrays::{Vector, elements, html, out1, table, value_error, vector};
use numpy::PyArray1;
use pyo3::prelude::*;
use rto::preference;

/// The law of best-of-N.
#[pyclass(frozen, module = "rto")]
pub struct BestOfN {
    best: preference::BestOfN,
    /// KL(π‖π_ref) in nats.
    #[pyo3(get)]
    kl: f64,
}

#[pymethods]
impl BestOfN {
    /// π(y), of shape (n,).
    #[getter]
    fn policy<'py>(&self, py: Python<'py>) -> Py<PyArray1<f64>> {
        out1(py, probabilities(&self.best.log_policy))
    }

    /// The probability of beating one draw of the reference, ties counted half; at most N/(N + 1).
    #[getter]
    fn win_rate(&self) -> f64 {
        self.best.win_rate
    }

    /// log N − (N − 1)/N, which `kl` never exceeds.
    #[getter]
    fn kl_bound(&self) -> f64 {
        self.best.kl_bound
    }

    fn _repr_html_(&self) -> String {
        html(&[
            ("win_rate", self.best.win_rate.to_string()),
            ("kl", self.kl.to_string()),
            ("kl_bound", self.best.kl_bound.to_string()),
        ])
    }

    fn __repr__(&self) -> String {
        format!(
            "BestOfN(win_rate={}, kl={}, kl_bound={})",
            self.best.win_rate, self.kl, self.best.kl_bound
        )
    }
}

fn probabilities(logs: &[f64]) -> Vec<f64> {
    logs.iter().map(|u| u.exp()).collect()
}

/// A vector argument of any length.
fn numbers(name: &str, value: &Bound<'_, PyAny>) -> PyResult<Vec<f64>> {
    let values: Vector<'_> = vector(name, "(n,)", value)?;
    Ok(elements(&values))
}

/// log π_ref of probabilities, and the scores beside them.
fn enumerated(
    reference: &Bound<'_, PyAny>,
    scores: &Bound<'_, PyAny>,
) -> PyResult<(Vec<f64>, Vec<f64>)> {
    let reference = numbers("reference", reference)?;
    if let Some(y) = reference.iter().position(|p| !(*p >= 0.0)) {
        return Err(value_error(format!(
            "reference[{y}]: found {}, expected a probability",
            reference[y]
        )));
    }
    let logs = reference.iter().map(|p| p.ln()).collect();
    Ok((logs, numbers("scores", scores)?))
}

/// The best of N responses by score, exactly: the law of which one is kept, ties broken by the draw.
///
/// Parameters
/// ----------
/// reference : array_like of shape (n,)
///     π_ref(y) of every response.
/// scores : array_like of shape (n,)
/// n : float
///     N, any real number from 1.
///
/// Returns
/// -------
/// BestOfN
///
/// Notes
/// -----
/// KL(π‖π_ref) <= log N - (N - 1)/N (Beirami et al., arXiv 2401.01879).
#[pyfunction]
pub fn best_of_n(
    py: Python<'_>,
    reference: &Bound<'_, PyAny>,
    scores: &Bound<'_, PyAny>,
    n: f64,
) -> PyResult<BestOfN> {
    let (logs, scores) = enumerated(reference, scores)?;
    let work = || -> rto::Result<BestOfN> {
        let best = preference::best_of_n(&logs, &scores, n)?;
        let kl = preference::kl(&best.log_policy, &logs);
        Ok(BestOfN { best, kl })
    };
    py.detach(work).map_err(value_error)
}

/// Soft best-of-N: one of N draws of the reference is kept with probability in proportion to exp(score/λ).
///
/// Parameters
/// ----------
/// reference : array_like of shape (n,)
///     π_ref(y) of every response.
/// scores : array_like of shape (n,)
/// lam : float
///     λ > 0, in the scores' unit; at least a 600th of their range.
/// n : float
///     N, any real number from 1.
///
/// Returns
/// -------
/// (ndarray of shape (n,), float)
///     π(y), and the error of the quadrature, |Σ π - 1| before it is made 1.
///
/// Notes
/// -----
/// π(y) = N π_ref(y) a(y) ∫ exp(-u a(y)) M(u)^(N-1) du with a = exp(score/λ), M(u) = Σ π_ref exp(-u a) (arXiv 2505.03156).
#[pyfunction]
pub fn soft_best_of_n(
    py: Python<'_>,
    reference: &Bound<'_, PyAny>,
    scores: &Bound<'_, PyAny>,
    lam: f64,
    n: f64,
) -> PyResult<(Py<PyArray1<f64>>, f64)> {
    let (logs, scores) = enumerated(reference, scores)?;
    let (soft, error) = py
        .detach(|| preference::soft_best_of_n(&logs, &scores, lam, n))
        .map_err(value_error)?;
    Ok((out1(py, probabilities(&soft)), error))
}

/// C_add = max over f of E_π[(ψ·f)²]/E_μ[(ψ·f)²]: how far outcome labels of μ's trajectories can mislead about π's, for additive rewards.
///
/// Parameters
/// ----------
/// psi : array_like of shape (n, d)
///     Features of every trajectory: one-hot counts of (h, s, a) for a reward of its own in each.
/// target : array_like of shape (n,)
///     π's probability of every trajectory.
/// data : array_like of shape (n,)
///     μ's.
///
/// Returns
/// -------
/// float
///     Along directions in which the data never move nothing is learnt; they are left out.
#[pyfunction]
pub fn additive_coverage(
    py: Python<'_>,
    psi: &Bound<'_, PyAny>,
    target: &Bound<'_, PyAny>,
    data: &Bound<'_, PyAny>,
) -> PyResult<f64> {
    let psi = table("psi", "(n, d)", psi)?;
    let psi = psi.as_array();
    crate::arrays::finite("psi", psi)?;
    let (features, dim): (Vec<f64>, usize) = (psi.iter().copied().collect(), psi.ncols());
    let (target, data) = (numbers("target", target)?, numbers("data", data)?);
    for (name, law) in [("target", &target), ("data", &data)] {
        if law.len() != psi.nrows() {
            return Err(value_error(format!(
                "{name}: found {} numbers, expected {}, one for each row of psi",
                law.len(),
                psi.nrows()
            )));
        }
    }
    py.detach(|| preference::additive_coverage(&features, dim, &target, &data))
        .map_err(value_error)
}
