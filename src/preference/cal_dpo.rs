//! Cal-DPO: a stationary point of the normalised problem, certified global by the sign of its multiplier.

use super::pair_loss::{Compared, LossBend, pair_loss_fit};
use super::pairs::PairTable;
use super::responses::Responses;
use crate::mdp::Beta;
use crate::numerics::{log_sigmoid, sigmoid};
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
    pairs.check_all_compared()?;
    let tau = 0.5 / beta.get();
    let loss = |at: &Compared| {
        let [w, l] = at.log_ratios;
        let (slope, bend) = (-sigmoid(l - w), sigmoid(w - l) * sigmoid(l - w));
        LossBend {
            value: -log_sigmoid(w - l) + (w - tau).powi(2) + (l + tau).powi(2),
            slope: [slope + 2.0 * (w - tau), -slope + 2.0 * (l + tau)],
            bend: [bend + 2.0, -bend, bend + 2.0],
        }
    };
    let start = vec![0.0; responses.len()];
    let found = pair_loss_fit(responses, pairs, &loss, &[start]).map_err(|error| match error {
        Error::NotConverged {
            iterations,
            residual,
            ..
        } => Error::NotConverged {
            what: "Cal-DPO's stationary point".into(),
            iterations,
            residual,
        },
        other => other,
    })?;
    Ok(CalDpoFit {
        log_policy: found.log_policy,
        multiplier: found.multiplier,
        kkt_inf: found.kkt_inf,
    })
}
