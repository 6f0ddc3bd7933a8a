//! Cal-DPO: a stationary point of the normalised problem, certified global by the sign of its multiplier.

use nalgebra::{DMatrix, DVector};

use super::losses::PreferenceLoss;
use super::newton::{Local, minimise};
use super::pairs::PairTable;
use super::responses::Responses;
use crate::mdp::Beta;
use crate::numerics::{log_sum_exp, sigmoid};
use crate::{Error, Result};

/// Cal-DPO's stationary point.
#[derive(Debug, Clone, PartialEq)]
pub struct CalDpoFit {
    /// log π(y).
    pub log_policy: Vec<f64>,
    /// ν of Σ π_ref e^l ≤ 1. The loss is convex in l, the constraint set as well: ν ≥ 0 certifies the global optimum, and a
    /// negative ν does not, as the equality Σ π_ref e^l = 1 is not convex.
    pub multiplier: f64,
    /// The largest entry of the stationarity condition ∇L + ν π.
    pub kkt_inf: f64,
}

/// (Cal-DPO, arXiv 2412.14516): min Σ w \[−log σ(l_w − l_l) + (l_w − 1/2β)² + (l_l + 1/2β)²\] over policies, l = log π/π_ref,
/// by Newton steps from π_ref.
///
/// # Errors
/// [`Error::Assumption`] unless every response is compared: the loss says nothing of the others; [`Error::NotConverged`].
pub fn cal_dpo_fit(responses: &Responses, pairs: &PairTable, beta: Beta) -> Result<CalDpoFit> {
    let n = responses.len();
    let mut compared = vec![false; n];
    for row in pairs.rows() {
        compared[row.first] = true;
        compared[row.second] = true;
    }
    if let Some(y) = compared.iter().position(|c| !c) {
        return Err(Error::Assumption {
            assumption: "every response is compared".into(),
            why: format!("response {y} is in no pair"),
        });
    }
    let reference = responses.log_reference();
    let policy = |f: &DVector<f64>| -> Vec<f64> {
        let weights: Vec<f64> = reference.iter().zip(f.iter()).map(|(u, f)| u + f).collect();
        let total = log_sum_exp(&weights);
        weights.iter().map(|w| w - total).collect()
    };
    let zeros = vec![0.0; n];
    let loss_at = |u: &[f64]| PreferenceLoss::CalDpo.at(responses, pairs, beta, u, &zeros);
    let fun = |f: &DVector<f64>| {
        let u = policy(f);
        let mut local = Local::zeros(n);
        let Ok(at) = loss_at(&u) else {
            local.value = f64::INFINITY;
            return local;
        };
        let (pi, total): (Vec<f64>, f64) = (
            u.iter().map(|u| u.exp()).collect(),
            at.by_log_prob.iter().sum(),
        );
        let l: Vec<f64> = u.iter().zip(reference).map(|(u, v)| u - v).collect();
        let mut inner = DMatrix::zeros(n, n);
        for row in pairs.rows() {
            let (i, j, w) = (row.first, row.second, row.weight);
            let bend = w * sigmoid(l[i] - l[j]) * sigmoid(l[j] - l[i]);
            inner[(i, i)] += bend + 2.0 * w;
            inner[(j, j)] += bend + 2.0 * w;
            inner[(i, j)] -= bend;
            inner[(j, i)] -= bend;
        }
        // l moves by (I − 1πᵀ) df.
        let map = DMatrix::from_fn(n, n, |i, j| f64::from(u8::from(i == j)) - pi[j]);
        local.value = at.value;
        local.gradient = DVector::from_iterator(
            n,
            at.by_log_prob.iter().zip(&pi).map(|(g, p)| g - total * p),
        );
        local.hessian = map.transpose() * inner * map
            - DMatrix::from_fn(n, n, |i, j| {
                total * pi[i] * (f64::from(u8::from(i == j)) - pi[j])
            });
        local
    };
    let found = minimise(&fun, DVector::zeros(n), &vec![0; n]);
    let log_policy = policy(&found.x);
    let at = loss_at(&log_policy)?;
    let multiplier = -at.by_log_prob.iter().sum::<f64>();
    let condition = at
        .by_log_prob
        .iter()
        .zip(&log_policy)
        .map(|(g, u)| g + multiplier * u.exp());
    let kkt_inf = condition.fold(0.0, |m: f64, c| m.max(c.abs()));
    if !found.converged {
        return Err(Error::NotConverged {
            what: "Cal-DPO's stationary point".into(),
            iterations: 300,
            residual: kkt_inf,
        });
    }
    Ok(CalDpoFit {
        log_policy,
        multiplier,
        kkt_inf,
    })
}
