//! Any loss of one comparison, minimised over all policies: what a loss of one's own is judged by, and Cal-DPO.

use nalgebra::{DMatrix, DVector};

use super::newton::{Certificate, Local, minimise};
use super::pairs::PairTable;
use super::responses::Responses;
use crate::check;
use crate::numerics::log_sum_exp;
use crate::{Error, Result};

/// One labelled comparison as a loss sees it; winner first.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Compared {
    /// l = log π/π_ref.
    pub log_ratios: [f64; 2],
    /// u = log π.
    pub log_probs: [f64; 2],
    /// |y|.
    pub lengths: [f64; 2],
}

/// A loss of one comparison with its derivatives in the log-probabilities (u_w, u_l) of winner and loser.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct LossBend {
    /// φ.
    pub value: f64,
    /// ∂φ/∂u_w, ∂φ/∂u_l.
    pub slope: [f64; 2],
    /// ∂²φ/∂u_w², ∂²φ/∂u_w∂u_l, ∂²φ/∂u_l².
    pub bend: [f64; 3],
}

/// Where the fit of a pair loss ended.
#[derive(Debug, Clone, PartialEq)]
pub struct PairLossFit {
    /// log π(y).
    pub log_policy: Vec<f64>,
    /// Loss, gradient and curvature in coordinates f with π ∝ π_ref e^f; `hessian_min > 0` makes it a local minimum.
    pub certificate: Certificate,
    /// ν of the stationarity condition ∂L/∂u + ν π = 0. Where the loss is convex in u, ν ≥ 0 certifies the global optimum.
    pub multiplier: f64,
    /// The largest entry of that condition.
    pub kkt_inf: f64,
    /// How far the losses are apart at which the starts ended.
    pub spread_of_losses: f64,
}

/// argmin over policies of Σ w \[p φ(i, j) + (1 − p) φ(j, i)\], φ(winner, loser) any twice differentiable loss of
/// log-probabilities, by damped Newton steps from each start f (`[n]`, π ∝ π_ref e^f); the best end.
///
/// # Errors
/// [`Error::Shape`]; [`Error::NotConverged`] where no start ends at a stationary point, as for separable pairs.
pub fn pair_loss_fit(
    responses: &Responses,
    pairs: &PairTable,
    loss: &dyn Fn(&Compared) -> LossBend,
    starts: &[Vec<f64>],
) -> Result<PairLossFit> {
    let n = responses.len();
    check::len("pairs", n, pairs.n_responses())?;
    let problem = Problem {
        responses,
        pairs,
        loss,
    };
    let fun = |f: &DVector<f64>| problem.local(f);
    let mut ends = Vec::new();
    let mut residual = f64::NAN;
    for start in starts {
        check::len("start", n, start.len())?;
        let found = minimise(&fun, DVector::from_column_slice(start), &vec![0; n]);
        residual = found.certificate.grad_inf;
        if found.converged && found.certificate.loss.is_finite() {
            ends.push(found);
        }
    }
    ends.sort_by(|a, b| a.certificate.loss.total_cmp(&b.certificate.loss));
    let (Some(best), Some(worst)) = (ends.first(), ends.last()) else {
        return Err(Error::NotConverged {
            what: "the fit of the pair loss".into(),
            iterations: 300,
            residual,
        });
    };
    let log_policy = problem.policy(&best.x);
    let (_, gradient, _) = problem.channels(&log_policy, false);
    let multiplier = -gradient.iter().sum::<f64>();
    let condition = gradient
        .iter()
        .zip(&log_policy)
        .map(|(g, u)| (g + multiplier * u.exp()).abs());
    Ok(PairLossFit {
        kkt_inf: condition.fold(0.0, f64::max),
        multiplier,
        certificate: best.certificate,
        spread_of_losses: worst.certificate.loss - best.certificate.loss,
        log_policy,
    })
}

struct Problem<'a> {
    responses: &'a Responses,
    pairs: &'a PairTable,
    loss: &'a dyn Fn(&Compared) -> LossBend,
}

impl Problem<'_> {
    fn policy(&self, f: &DVector<f64>) -> Vec<f64> {
        let reference = self.responses.log_reference();
        let weights: Vec<f64> = reference.iter().zip(f.iter()).map(|(u, f)| u + f).collect();
        let total = log_sum_exp(&weights);
        weights.iter().map(|w| w - total).collect()
    }

    /// The loss at log π, its gradient in log π and, if wanted, its Hessian.
    fn channels(&self, u: &[f64], curved: bool) -> (f64, DVector<f64>, DMatrix<f64>) {
        let (n, v) = (u.len(), self.responses.log_reference());
        let lengths = self.responses.lengths();
        let size = if curved { n } else { 0 };
        let (mut value, mut gradient) = (0.0, DVector::zeros(n));
        let mut hessian = DMatrix::zeros(size, size);
        for row in self.pairs.rows() {
            let (i, j, p) = (row.first, row.second, row.preference);
            for (share, w, l) in [(p, i, j), (1.0 - p, j, i)] {
                if share == 0.0 {
                    continue;
                }
                let at = (self.loss)(&Compared {
                    log_ratios: [u[w] - v[w], u[l] - v[l]],
                    log_probs: [u[w], u[l]],
                    lengths: [lengths[w], lengths[l]],
                });
                let weight = row.weight * share;
                value += weight * at.value;
                gradient[w] += weight * at.slope[0];
                gradient[l] += weight * at.slope[1];
                if curved {
                    hessian[(w, w)] += weight * at.bend[0];
                    hessian[(w, l)] += weight * at.bend[1];
                    hessian[(l, w)] += weight * at.bend[1];
                    hessian[(l, l)] += weight * at.bend[2];
                }
            }
        }
        (value, gradient, hessian)
    }

    /// In the coordinates f: u moves by (I − 1πᵀ) df.
    fn local(&self, f: &DVector<f64>) -> Local {
        let u = self.policy(f);
        let n = u.len();
        let pi: Vec<f64> = u.iter().map(|u| u.exp()).collect();
        let (value, gradient, inner) = self.channels(&u, true);
        let total: f64 = gradient.iter().sum();
        let map = DMatrix::from_fn(n, n, |i, j| f64::from(u8::from(i == j)) - pi[j]);
        let curvature = DMatrix::from_fn(n, n, |i, j| {
            total * pi[i] * (f64::from(u8::from(i == j)) - pi[j])
        });
        Local {
            value: if value.is_nan() { f64::INFINITY } else { value },
            gradient: DVector::from_iterator(
                n,
                gradient.iter().zip(&pi).map(|(g, p)| g - total * p),
            ),
            hessian: map.transpose() * inner * map - curvature,
            // Rounding of u moves the value by as much times its slope.
            cancelled: gradient.iter().zip(&u).map(|(g, u)| (g * u).abs()).sum(),
        }
    }
}
