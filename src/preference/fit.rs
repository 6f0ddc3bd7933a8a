//! The fits: Bradley–Terry scores, IPO's least squares, and the fits with a penalty on the policy.

use nalgebra::{DMatrix, DVector};

use super::newton::{Certificate, Local, Minimum, minimise, nearby_minimum};
use super::pairs::{PairRow, PairTable};
use super::responses::Responses;
use crate::check;
use crate::mdp::Beta;
use crate::numerics::{log_sigmoid, log_sum_exp, sigmoid};
use crate::{Error, Result};

/// One number per response, and how well it is fitted.
#[derive(Debug, Clone, PartialEq)]
pub struct Fit {
    /// The scores, with mean 0 on each component of the comparison graph.
    pub scores: Vec<f64>,
    /// How well.
    pub certificate: Certificate,
}

/// (2.2): argmin over R in ℝⁿ of Σ w \[−p log σ(R_i − R_j − γ) − (1 − p) log σ(R_j − R_i − γ)\], one number per response.
///
/// With γ = 0 this is the maximum-likelihood reward that DPO, reward model + planning, χPO, R-DPO and TDPO with full gradients
/// share on tables: each minimises this likelihood through a margin that is a difference of one number per response. γ is
/// SimPO's target margin.
///
/// # Errors
/// [`Error::Assumption`] naming the responses that are sent to 0 where Ford's condition fails; [`Error::NotConverged`].
pub fn bradley_terry_scores(pairs: &PairTable, gamma: f64) -> Result<Fit> {
    if !pairs.has_maximum() {
        let vanishing = pairs.vanishing();
        return Err(Error::Assumption {
            assumption: "Ford's condition (every response both wins and loses against the others)"
                .into(),
            why: format!(
                "the pairs are separable, and the likelihood sends responses {vanishing:?} to 0"
            ),
        });
    }
    let component = pairs.components();
    let fun = |x: &DVector<f64>| {
        let mut at = Local::zeros(x.len());
        for row in pairs.rows() {
            let m = x[row.first] - x[row.second];
            let (value, slope, bend) = logistic(row, m, gamma);
            at.add_difference((row.first, row.second), value, slope, bend);
        }
        at
    };
    let found = minimise(&fun, DVector::zeros(pairs.n_responses()), &component);
    if !found.converged {
        return Err(Error::NotConverged {
            what: "the Bradley–Terry scores".into(),
            iterations: 300,
            residual: found.certificate.grad_inf,
        });
    }
    Ok(Fit {
        scores: centred(found.x.as_slice(), &component),
        certificate: found.certificate,
    })
}

/// The scores with a ridge: argmin of the same loss plus ½ λ ‖R‖², which exists on every table of pairs and ties what the pairs
/// do not see at 0. What sweeps over small data use; λ is in units of the mean loss per pair.
///
/// # Errors
/// [`Error::Config`] unless λ > 0; [`Error::NotConverged`].
pub fn ridge_scores(pairs: &PairTable, gamma: f64, ridge: f64) -> Result<Fit> {
    if !(ridge > 0.0 && ridge.is_finite()) {
        return Err(Error::config("ridge", ridge, "a positive number"));
    }
    let n = pairs.n_responses();
    let fun = |x: &DVector<f64>| {
        let mut at = Local::zeros(n);
        for row in pairs.rows() {
            let (value, slope, bend) = logistic(row, x[row.first] - x[row.second], gamma);
            at.add_difference((row.first, row.second), value, slope, bend);
        }
        at.value += 0.5 * ridge * x.norm_squared();
        at.gradient.axpy(ridge, x, 1.0);
        for k in 0..n {
            at.hessian[(k, k)] += ridge;
        }
        at
    };
    let found = minimise(&fun, DVector::zeros(n), &vec![0; n]);
    if !found.converged {
        return Err(Error::NotConverged {
            what: "the Bradley–Terry scores with a ridge".into(),
            iterations: 300,
            residual: found.certificate.grad_inf,
        });
    }
    Ok(Fit {
        scores: centred(found.x.as_slice(), &vec![0; n]),
        certificate: found.certificate,
    })
}

/// Value, slope and bend in the margin of w \[−p log σ(m − γ) − (1 − p) log σ(−m − γ)\].
pub(super) fn logistic(row: &PairRow, m: f64, gamma: f64) -> (f64, f64, f64) {
    let (w, p, q) = (row.weight, row.preference, 1.0 - row.preference);
    // A frequency of exactly 0 or 1 must not multiply the infinite log of the other side.
    let part = |share: f64, z: f64| {
        if share > 0.0 {
            -share * log_sigmoid(z)
        } else {
            0.0
        }
    };
    let value = part(p, m - gamma) + part(q, -m - gamma);
    let slope = -p * sigmoid(gamma - m) + q * sigmoid(gamma + m);
    let bend =
        p * sigmoid(gamma - m) * sigmoid(m - gamma) + q * sigmoid(gamma + m) * sigmoid(-gamma - m);
    (w * value, w * slope, w * bend)
}

/// (IPO, arXiv 2310.12036): argmin of Σ w (v_i − v_j − (p − ½)/β)², weighted least squares on the graph; it exists on
/// separable pairs too.
///
/// # Errors
/// [`Error::NotConverged`] should the normal equations be singular beyond the constants of the components.
pub fn ipo_scores(pairs: &PairTable, beta: Beta) -> Result<Vec<f64>> {
    let component = pairs.components();
    let fun = |x: &DVector<f64>| {
        let mut at = Local::zeros(x.len());
        for row in pairs.rows() {
            let gap = x[row.first] - x[row.second] - (row.preference - 0.5) / beta.get();
            let w = row.weight;
            at.add_difference(
                (row.first, row.second),
                w * gap * gap,
                2.0 * w * gap,
                2.0 * w,
            );
        }
        at
    };
    let found = minimise(&fun, DVector::zeros(pairs.n_responses()), &component);
    if !found.converged {
        return Err(Error::NotConverged {
            what: "IPO's least squares".into(),
            iterations: 300,
            residual: found.certificate.grad_inf,
        });
    }
    Ok(centred(found.x.as_slice(), &component))
}

/// A penalty on the policy π ∝ π_ref e^f that is added to the likelihood of margins β(f_i − f_j).
#[derive(Debug, Clone, PartialEq)]
pub enum Penalty {
    /// η β (log Σ π_ref e^f − E_base f), up to a constant η β times −E_base log π: RPO, and VPO offline with calibration
    /// `base`. Negative η is the exploration bonus of XPO, SELM and VPO online.
    Supervised {
        /// η.
        eta: f64,
        /// The law of the supervised term, `[n]`.
        base: Vec<f64>,
    },
    /// λ KL(π‖π_ref) on samples of the policy: HyPO.
    ReverseKl {
        /// λ.
        lambda: f64,
    },
}

/// Where a penalised fit ended.
#[derive(Debug, Clone, PartialEq)]
pub struct PenalisedFit {
    /// log π(y).
    pub log_policy: Vec<f64>,
    /// f, with mean 0.
    pub exponent: Vec<f64>,
    /// How well; `hessian_min > 0` and a gradient at rounding make it a local minimum, a global one where the loss is convex.
    pub certificate: Certificate,
    /// Whether the steps ended at a stationary point.
    pub converged: bool,
}

/// Minimises likelihood plus penalty over f, from `start` (`[n]`; zeros are π_ref).
///
/// # Errors
/// [`Error::Shape`].
pub fn penalised_fit(
    responses: &Responses,
    pairs: &PairTable,
    beta: Beta,
    penalty: &Penalty,
    start: &[f64],
) -> Result<PenalisedFit> {
    let problem = Penalised::try_new(responses, pairs, beta, penalty)?;
    check::len("start", responses.len(), start.len())?;
    let fun = |f: &DVector<f64>| problem.at(f);
    let found = minimise(
        &fun,
        DVector::from_column_slice(start),
        &vec![0; start.len()],
    );
    Ok(problem.finish(&found))
}

/// The responses that a fit has sent to 0 on its way to infinity, where it ended for want of digits and not at a minimiser.
///
/// Separable pairs give HyPO C π^β for each bit of mass π that a losing response keeps, and the KL takes λ π |log π| for it. Below
/// β = 1 the first is the larger near 0, so that the boundary attracts; from β = 1 on it repels, and there is a minimiser.
pub(super) fn fading(
    responses: &Responses,
    pairs: &PairTable,
    beta: Beta,
    penalty: &Penalty,
    end: &PenalisedFit,
) -> Result<Vec<usize>> {
    /// Mass over reference, against the largest such ratio, of a response that may be on its way to 0.
    const FAINT: f64 = 1e-12;
    if pairs.has_maximum() || beta.get() >= 1.0 {
        return Ok(Vec::new());
    }
    let top = end.exponent.iter().copied().fold(f64::MIN, f64::max);
    let faint = |f: f64| f - top < FAINT.ln();
    let lost: Vec<usize> = (0..responses.len())
        .filter(|&y| faint(end.exponent[y]))
        .collect();
    let problem = Penalised::try_new(responses, pairs, beta, penalty)?;
    // All of them together, so that only what they have lost to the others changes.
    let at = |down: f64| {
        let moved = end.exponent.iter().map(|f| match faint(*f) {
            true => f - down,
            false => *f,
        });
        problem
            .at(&DVector::from_iterator(end.exponent.len(), moved))
            .value
    };
    let (here, beyond) = (at(0.0), at(10.0));
    Ok(match beyond <= here + 1e-13 * here.abs() {
        true => lost,
        false => Vec::new(),
    })
}

/// The branch of local minimisers of XPO (SELM, VPO online) that starts at the likelihood's maximum, `scores`, and is followed
/// as the weight of the bonus grows to α: a minimiser of L + α E_ref log π, which is unbounded below where a response is
/// unseen and has other local minima elsewhere. `Err` holds the α at which the branch ends, where minimum and saddle meet.
///
/// # Errors
/// [`Error::Shape`].
pub fn exploration_branch(
    responses: &Responses,
    pairs: &PairTable,
    beta: Beta,
    scores: &[f64],
    alpha: f64,
) -> Result<std::result::Result<PenalisedFit, f64>> {
    check::len("scores", responses.len(), scores.len())?;
    let base: Vec<f64> = responses.log_reference().iter().map(|u| u.exp()).collect();
    let mut at = DVector::from_iterator(scores.len(), scores.iter().map(|r| r / beta.get()));
    let (mut reached, mut step) = (0.0, 0.125f64);
    let mut found = None;
    while reached < 1.0 {
        let share = (reached + step).min(1.0);
        let eta = -share * alpha / beta.get();
        let penalty = Penalty::Supervised {
            eta,
            base: base.clone(),
        };
        let problem = Penalised::try_new(responses, pairs, beta, &penalty)?;
        let fun = |f: &DVector<f64>| problem.at(f);
        match nearby_minimum(&fun, at.clone(), &vec![0; scores.len()]) {
            Some(minimum) if minimum.converged && minimum.certificate.hessian_min > 0.0 => {
                at.clone_from(&minimum.x);
                found = Some(problem.finish(&minimum));
                (reached, step) = (share, step * 1.5);
            }
            _ if step > 1e-4 => step *= 0.5,
            _ => return Ok(Err(reached * alpha)),
        }
    }
    Ok(found.ok_or(0.0))
}

/// Likelihood plus penalty as a function of f.
struct Penalised<'a> {
    responses: &'a Responses,
    pairs: &'a PairTable,
    beta: f64,
    penalty: &'a Penalty,
}

impl<'a> Penalised<'a> {
    fn try_new(
        responses: &'a Responses,
        pairs: &'a PairTable,
        beta: Beta,
        penalty: &'a Penalty,
    ) -> Result<Self> {
        check::len("pairs", responses.len(), pairs.n_responses())?;
        if let Penalty::Supervised { base, .. } = penalty {
            check::len("base", responses.len(), base.len())?;
        }
        Ok(Self {
            responses,
            pairs,
            beta: beta.get(),
            penalty,
        })
    }

    /// π and log Σ π_ref e^f.
    fn tilted(&self, f: &DVector<f64>) -> (Vec<f64>, f64) {
        let reference = self.responses.log_reference();
        let weights: Vec<f64> = reference.iter().zip(f.iter()).map(|(u, f)| u + f).collect();
        let total = log_sum_exp(&weights);
        (weights.iter().map(|w| (w - total).exp()).collect(), total)
    }

    fn at(&self, f: &DVector<f64>) -> Local {
        let (n, b) = (f.len(), self.beta);
        let mut at = Local::zeros(n);
        for row in self.pairs.rows() {
            let (value, slope, bend) = logistic(row, b * (f[row.first] - f[row.second]), 0.0);
            at.add_difference((row.first, row.second), value, b * slope, b * b * bend);
        }
        let (pi, log_z) = self.tilted(f);
        match self.penalty {
            Penalty::Supervised { eta, base } => {
                let scale = eta * b;
                let mean: f64 = base.iter().zip(f.iter()).map(|(m, f)| m * f).sum();
                at.value += scale * (log_z - mean);
                at.cancelled = scale.abs() * (1.0 + log_z.abs() + mean.abs());
                for k in 0..n {
                    at.gradient[k] += scale * (pi[k] - base[k]);
                }
                add_covariance(&mut at.hessian, &pi, scale);
            }
            Penalty::ReverseKl { lambda } => {
                let mean: f64 = pi.iter().zip(f.iter()).map(|(p, f)| p * f).sum();
                at.value += lambda * (mean - log_z);
                at.cancelled = lambda * (1.0 + log_z.abs() + mean.abs());
                let centred: Vec<f64> = f.iter().map(|f| f - mean).collect();
                for k in 0..n {
                    at.gradient[k] += lambda * pi[k] * centred[k];
                    at.hessian[(k, k)] += lambda * pi[k] * (1.0 + centred[k]);
                    for j in 0..n {
                        let both = 1.0 + centred[k] + centred[j];
                        at.hessian[(k, j)] -= lambda * pi[k] * pi[j] * both;
                    }
                }
            }
        }
        at
    }

    fn finish(&self, found: &Minimum) -> PenalisedFit {
        let (pi, log_z) = self.tilted(&found.x);
        let reference = self.responses.log_reference();
        PenalisedFit {
            log_policy: reference
                .iter()
                .zip(found.x.iter())
                .map(|(u, f)| u + f - log_z)
                .collect(),
            exponent: centred(found.x.as_slice(), &vec![0; found.x.len()]),
            certificate: found.certificate,
            converged: found.converged && pi.iter().all(|p| p.is_finite()),
        }
    }
}

/// Adds scale · (diag π − ππᵀ).
fn add_covariance(hessian: &mut DMatrix<f64>, pi: &[f64], scale: f64) {
    for (i, p) in pi.iter().enumerate() {
        hessian[(i, i)] += scale * p;
        for (j, q) in pi.iter().enumerate() {
            hessian[(i, j)] -= scale * p * q;
        }
    }
}

/// The scores with mean 0 on each component.
pub(super) fn centred(x: &[f64], component: &[usize]) -> Vec<f64> {
    let (mut sum, mut size) = (vec![0.0; x.len()], vec![0.0; x.len()]);
    for (value, &c) in x.iter().zip(component) {
        sum[c] += value;
        size[c] += 1.0;
    }
    x.iter()
        .zip(component)
        .map(|(v, &c)| v - sum[c] / size[c])
        .collect()
}
