//! The losses themselves, as functions of log π(y) and of TDPO's forward-KL channel, with gradients in token logits: what a
//! policy found by a planner is checked against.

use super::fit::logistic;
use super::pairs::PairTable;
use super::responses::Responses;
use crate::check;
use crate::mdp::Beta;
use crate::numerics::sigmoid;
use crate::{Error, Result};

/// The loss of a method on weighted pairs. l = log π/π_ref, m the margin, D(y) = Σ_h KL(π_ref(·|s_h)‖π(·|s_h)).
#[derive(Debug, Clone, PartialEq)]
#[non_exhaustive]
pub enum PreferenceLoss {
    /// (4.4): m = β(l_i − l_j) + α(|y_i| − |y_j|); α = 0 is DPO, another R-DPO.
    Dpo {
        /// R-DPO's weight of the length.
        alpha: f64,
    },
    /// m = β(l_i + αD_i − l_j − αD_j), all gradients: α = 1 is TDPO-1.
    Tdpo {
        /// The weight of the forward KL.
        alpha: f64,
    },
    /// The same margin with the winner's D held fixed: TDPO-2, a field that is no gradient.
    Tdpo2 {
        /// The weight of the forward KL.
        alpha: f64,
    },
    /// m = β(φ(π_i/π_ref,i) − φ(π_j/π_ref,j)), φ(z) = z + log z: χPO.
    Chi,
    /// p(h − 1/2β)² + (1 − p)(h + 1/2β)² of h = l_i − l_j, or of l/|y| where `mean`: IPO.
    Ipo {
        /// Whether log-ratios are divided by lengths.
        mean: bool,
    },
    /// m = β(log π_i/|y_i| − log π_j/|y_j|), labels wanted beyond ±γ: SimPO.
    SimPo {
        /// The target margin.
        gamma: f64,
    },
    /// DPO − ηβ E_base log π: RPO, VPO offline; negative η with base π_ref is XPO with α = −ηβ.
    Rpo {
        /// η.
        eta: f64,
        /// The law of the supervised term.
        base: Vec<f64>,
    },
    /// DPO + λ KL(π‖π_ref): HyPO in population.
    HyPo {
        /// λ.
        lambda: f64,
    },
    /// −log σ(l_i − l_j) + (l_i − 1/2β)² + (l_j + 1/2β)² for winner i: Cal-DPO.
    CalDpo,
    /// m = β(l_i − l_j − λ max(0, −l_i)) for winner i: DPOP.
    Dpop {
        /// λ.
        lambda: f64,
    },
    /// Σ a(1 − σ(x)) + b(1 − σ(−x)), x = β(l − z₀) with z₀ fixed: KTO.
    Kto {
        /// z₀.
        reference_point: f64,
    },
}

/// A loss, and its derivatives in log π(y) and in D(y).
#[derive(Debug, Clone, PartialEq)]
pub struct LossAt {
    /// The loss.
    pub value: f64,
    /// ∂/∂ log π(y), `[n]`.
    pub by_log_prob: Vec<f64>,
    /// ∂/∂ D(y), `[n]`.
    pub by_forward_kl: Vec<f64>,
}

impl PreferenceLoss {
    /// The loss and its derivatives at log π(y) and D(y), both `[n]`.
    ///
    /// # Errors
    /// [`Error::Shape`].
    pub fn at(
        &self,
        responses: &Responses,
        pairs: &PairTable,
        beta: Beta,
        log_policy: &[f64],
        forward_kl: &[f64],
    ) -> Result<LossAt> {
        let n = responses.len();
        check::len("pairs", n, pairs.n_responses())?;
        check::len("policy", n, log_policy.len())?;
        check::len("forward KL", n, forward_kl.len())?;
        let b = beta.get();
        let (u, d, len) = (log_policy, forward_kl, responses.lengths());
        let l: Vec<f64> = u
            .iter()
            .zip(responses.log_reference())
            .map(|(u, v)| u - v)
            .collect();
        let mut at = LossAt {
            value: 0.0,
            by_log_prob: vec![0.0; n],
            by_forward_kl: vec![0.0; n],
        };
        for row in pairs.rows() {
            let (i, j, w, p) = (row.first, row.second, row.weight, row.preference);
            let g = &mut at.by_log_prob;
            match self {
                Self::Dpo { .. } | Self::Rpo { .. } | Self::HyPo { .. } => {
                    let alpha = if let Self::Dpo { alpha } = self {
                        *alpha
                    } else {
                        0.0
                    };
                    let m = b * (l[i] - l[j]) + alpha * (len[i] - len[j]);
                    let (value, slope, _) = logistic(row, m, 0.0);
                    at.value += value;
                    g[i] += slope * b;
                    g[j] -= slope * b;
                }
                Self::Tdpo { alpha } | Self::Tdpo2 { alpha } => {
                    let m = b * (l[i] - l[j] + alpha * (d[i] - d[j]));
                    let (value, slope, _) = logistic(row, m, 0.0);
                    at.value += value;
                    g[i] += slope * b;
                    g[j] -= slope * b;
                    let scale = b * alpha;
                    if matches!(self, Self::Tdpo { .. }) {
                        at.by_forward_kl[i] += slope * scale;
                        at.by_forward_kl[j] -= slope * scale;
                    } else {
                        // Where i wins only D_j moves, and where j wins only D_i.
                        at.by_forward_kl[j] += w * p * sigmoid(-m) * scale;
                        at.by_forward_kl[i] += w * (1.0 - p) * sigmoid(m) * scale;
                    }
                }
                Self::Chi => {
                    let link = |l: f64| l.exp() + l;
                    let (value, slope, _) = logistic(row, b * (link(l[i]) - link(l[j])), 0.0);
                    at.value += value;
                    g[i] += slope * b * (l[i].exp() + 1.0);
                    g[j] -= slope * b * (l[j].exp() + 1.0);
                }
                Self::Ipo { mean } => {
                    let scale = |y: usize| if *mean { 1.0 / len[y] } else { 1.0 };
                    let (h, tau) = (l[i] * scale(i) - l[j] * scale(j), 0.5 / b);
                    at.value += w * (p * (h - tau).powi(2) + (1.0 - p) * (h + tau).powi(2));
                    let slope = 2.0 * w * (p * (h - tau) + (1.0 - p) * (h + tau));
                    g[i] += slope * scale(i);
                    g[j] -= slope * scale(j);
                }
                Self::SimPo { gamma } => {
                    let m = b * (u[i] / len[i] - u[j] / len[j]);
                    let (value, slope, _) = logistic(row, m, *gamma);
                    at.value += value;
                    g[i] += slope * b / len[i];
                    g[j] -= slope * b / len[j];
                }
                Self::CalDpo => {
                    let tau = 0.5 / b;
                    let (value, slope, _) = logistic(row, l[i] - l[j], 0.0);
                    let square = |a: f64, c: f64| (a - tau).powi(2) + (c + tau).powi(2);
                    at.value +=
                        value + w * (p * square(l[i], l[j]) + (1.0 - p) * square(l[j], l[i]));
                    // The square of winner i and loser j, and of winner j and loser i.
                    g[i] += slope + 2.0 * w * (l[i] - tau * (2.0 * p - 1.0));
                    g[j] += -slope + 2.0 * w * (l[j] + tau * (2.0 * p - 1.0));
                }
                Self::Dpop { lambda } => {
                    for (share, win, lose) in [(p, i, j), (1.0 - p, j, i)] {
                        let below = l[win] < 0.0;
                        let m = b * (l[win] - l[lose] - if below { -lambda * l[win] } else { 0.0 });
                        let one = super::PairRow {
                            weight: w * share,
                            preference: 1.0,
                            ..*row
                        };
                        let (value, slope, _) = logistic(&one, m, 0.0);
                        at.value += value;
                        g[win] += slope * b * if below { 1.0 + lambda } else { 1.0 };
                        g[lose] -= slope * b;
                    }
                }
                Self::Kto { .. } => {}
            }
        }
        match self {
            Self::Rpo { eta, base } => {
                check::len("base", n, base.len())?;
                for y in 0..n {
                    at.value -= eta * b * base[y] * u[y];
                    at.by_log_prob[y] -= eta * b * base[y];
                }
            }
            Self::HyPo { lambda } => {
                for y in 0..n {
                    let p = u[y].exp();
                    at.value += lambda * p * l[y];
                    at.by_log_prob[y] += lambda * p * (l[y] + 1.0);
                }
            }
            Self::Kto { reference_point } => {
                let (wins, losses) = pairs.wins_and_losses();
                for y in 0..n {
                    let x = b * (l[y] - reference_point);
                    at.value += wins[y] * sigmoid(-x) + losses[y] * sigmoid(x);
                    at.by_log_prob[y] += b * sigmoid(x) * sigmoid(-x) * (losses[y] - wins[y]);
                }
            }
            _ => {}
        }
        if at.value.is_nan() {
            return Err(Error::NonFinite {
                what: "the preference loss".into(),
                value: at.value,
            });
        }
        Ok(at)
    }

    /// The loss and its gradient (TDPO-2: its field) in the token logits whose softmax rows are exp of `rows` = log π(a|s),
    /// `[prefixes, A]`.
    ///
    /// # Errors
    /// [`Error::Shape`].
    pub fn token_gradient(
        &self,
        responses: &Responses,
        pairs: &PairTable,
        beta: Beta,
        rows: &[f64],
    ) -> Result<(f64, Vec<f64>)> {
        let a = responses.n_actions();
        check::len("rows", responses.prefixes().len() * a, rows.len())?;
        let at = self.at(
            responses,
            pairs,
            beta,
            &responses.response_log_probs(rows),
            &forward_kl(responses, rows),
        )?;
        Ok((
            at.value,
            pull_back(responses, rows, &at.by_log_prob, &at.by_forward_kl),
        ))
    }
}

/// D(y) = Σ_h KL(π_ref(·|s_h)‖π(·|s_h)) along each response, from rows log π(a|s).
pub fn forward_kl(responses: &Responses, rows: &[f64]) -> Vec<f64> {
    let a = responses.n_actions();
    let per_state: Vec<f64> = responses
        .reference_rows()
        .chunks(a)
        .zip(rows.chunks(a))
        .map(|(reference, row)| super::evaluation::kl(reference, row))
        .collect();
    let total = |y: usize| responses.path(y).iter().map(|&(s, _)| per_state[s]).sum();
    (0..responses.len()).map(total).collect()
}

/// Derivatives in log π(y) and D(y), pulled back to token logits.
pub(super) fn pull_back(
    responses: &Responses,
    rows: &[f64],
    by_log_prob: &[f64],
    by_forward_kl: &[f64],
) -> Vec<f64> {
    let a = responses.n_actions();
    let mut gradient = responses.below(by_log_prob);
    let channel = responses.below(by_forward_kl);
    for (s, row) in rows.chunks(a).enumerate() {
        let cells = s * a..(s + 1) * a;
        let log_prob: f64 = gradient[cells.clone()].iter().sum();
        let forward: f64 = channel[cells.clone()].iter().sum();
        let reference = &responses.reference_rows()[cells.clone()];
        for ((g, u), r) in gradient[cells].iter_mut().zip(row).zip(reference) {
            *g += -log_prob * u.exp() + forward * (u.exp() - r.exp());
        }
    }
    gradient
}
