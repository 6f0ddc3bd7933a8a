//! TDPO-2, whose field is not the gradient of a function: a root in token logits, followed from TDPO with full gradients.

use nalgebra::{DMatrix, DVector};

use super::losses::{PreferenceLoss, forward_kl, pull_back};
use super::pairs::PairTable;
use super::planner::tdpo_plan;
use super::responses::Responses;
use crate::mdp::Beta;
use crate::numerics::{log_sum_exp, sigmoid};
use crate::{Error, Result};

/// A zero of TDPO-2's field.
#[derive(Debug, Clone, PartialEq)]
pub struct FieldRoot {
    /// log π(y).
    pub log_policy: Vec<f64>,
    /// The largest entry of the field in token logits there.
    pub field_inf: f64,
}

/// (TDPO, arXiv 2404.11999): The zero of TDPO-2 (the winner's forward KL is held fixed) that is met when the held part is
/// switched off gradually from the optimum of TDPO(α) with full gradients, which `scores` (the Bradley–Terry scores) give in
/// closed form. It is not that optimum: the field there is α Σ w p(1 − p)(∇D_i + ∇D_j), a pull towards π_ref that more data
/// does not remove.
///
/// # Errors
/// [`Error::Shape`]; [`Error::NotConverged`] where the path of roots is lost.
pub fn tdpo2_root(
    responses: &Responses,
    pairs: &PairTable,
    scores: &[f64],
    alpha: f64,
    beta: Beta,
) -> Result<FieldRoot> {
    let start = tdpo_plan(responses, scores, alpha, beta)?;
    let mut logits = DVector::from_vec(responses.token_rows(&start));
    let problem = Field {
        responses,
        pairs,
        alpha,
        beta: beta.get(),
    };
    let (mut share, mut step) = (0.0f64, 0.25f64);
    while share < 1.0 {
        let next = (share + step).min(1.0);
        match problem.newton(logits.clone(), next) {
            Some(root) => {
                (logits, share) = (root, next);
                step *= 2.0;
            }
            None if step > 1e-4 => step *= 0.25,
            None => {
                return Err(Error::NotConverged {
                    what: "the root of TDPO-2's field".into(),
                    iterations: 60,
                    residual: problem.field(&logits, 1.0).amax(),
                });
            }
        }
    }
    let rows = log_softmax(logits.as_slice(), responses.n_actions());
    let loss = PreferenceLoss::Tdpo2 { alpha };
    let (_, field) = loss.token_gradient(responses, pairs, beta, &rows)?;
    Ok(FieldRoot {
        log_policy: responses.response_log_probs(&rows),
        field_inf: field.iter().fold(0.0, |m, g| g.abs().max(m)),
    })
}

fn log_softmax(logits: &[f64], a: usize) -> Vec<f64> {
    let row = |row: &[f64]| {
        let total = log_sum_exp(row);
        row.iter().map(|z| z - total).collect::<Vec<_>>()
    };
    logits.chunks(a).flat_map(row).collect()
}

/// The field of TDPO(α) with a share of the winner's D held fixed: 0 is all gradients, 1 is TDPO-2.
struct Field<'a> {
    responses: &'a Responses,
    pairs: &'a PairTable,
    alpha: f64,
    beta: f64,
}

/// Derivatives of the loss in log π(y) and D(y), as functions of both or along a direction.
struct Channels {
    log_prob: Vec<f64>,
    forward: Vec<f64>,
}

impl Field<'_> {
    fn field(&self, logits: &DVector<f64>, share: f64) -> DVector<f64> {
        let a = self.responses.n_actions();
        let rows = log_softmax(logits.as_slice(), a);
        let at = self.channels(&rows, share);
        let mut out = pull_back(self.responses, &rows, &at.log_prob, &at.forward);
        // The mean of each row's logits is free; it is fixed at 0.
        for (cells, z) in out.chunks_mut(a).zip(logits.as_slice().chunks(a)) {
            let mean: f64 = z.iter().sum::<f64>();
            cells.iter_mut().for_each(|g| *g += mean);
        }
        DVector::from_vec(out)
    }

    fn margins<'b>(&'b self, rows: &[f64]) -> impl Iterator<Item = (&'b super::PairRow, f64)> + 'b {
        let u = self.responses.response_log_probs(rows);
        let d = forward_kl(self.responses, rows);
        let v = self.responses.log_reference();
        let t: Vec<f64> = (0..u.len())
            .map(|y| self.beta * (u[y] - v[y] + self.alpha * d[y]))
            .collect();
        self.pairs
            .rows()
            .iter()
            .map(move |row| (row, t[row.first] - t[row.second]))
    }

    fn channels(&self, rows: &[f64], share: f64) -> Channels {
        let n = self.responses.len();
        let mut at = Channels {
            log_prob: vec![0.0; n],
            forward: vec![0.0; n],
        };
        for (row, m) in self.margins(rows) {
            let (i, j) = (row.first, row.second);
            // What i's wins and what j's wins contribute to the slope in the margin.
            let first = -row.weight * row.preference * sigmoid(-m) * self.beta;
            let second = row.weight * (1.0 - row.preference) * sigmoid(m) * self.beta;
            at.log_prob[i] += first + second;
            at.log_prob[j] -= first + second;
            at.forward[i] += self.alpha * ((1.0 - share) * first + second);
            at.forward[j] -= self.alpha * (first + (1.0 - share) * second);
        }
        at
    }

    /// The derivative of the field along each logit.
    fn jacobian(&self, logits: &DVector<f64>, share: f64) -> DMatrix<f64> {
        let (a, n) = (self.responses.n_actions(), self.responses.len());
        let rows = log_softmax(logits.as_slice(), a);
        let at = self.channels(&rows, share);
        let size = rows.len();
        let margins: Vec<_> = self.margins(&rows).collect();
        let count = |values: &[f64]| -> Vec<f64> {
            let below = self.responses.below(values);
            below.chunks(a).map(|c| c.iter().sum()).collect()
        };
        let (visits_u, visits_d) = (count(&at.log_prob), count(&at.forward));
        let mut out = DMatrix::zeros(size, size);
        for k in 0..size {
            let (s, b) = (k / a, k % a);
            let p: Vec<f64> = rows[s * a..(s + 1) * a].iter().map(|u| u.exp()).collect();
            let r = self.responses.reference_rows()[k].exp();
            // d log π(y) and d D(y) along logit (s, b): only responses through s move.
            let (mut du, mut dd) = (vec![0.0; n], vec![0.0; n]);
            for y in 0..n {
                if let Some(&(_, token)) = self.responses.path(y).iter().find(|step| step.0 == s) {
                    du[y] = f64::from(u8::from(token == b)) - p[b];
                    dd[y] = p[b] - r;
                }
            }
            let mut moved = Channels {
                log_prob: vec![0.0; n],
                forward: vec![0.0; n],
            };
            for (row, m) in &margins {
                let (i, j) = (row.first, row.second);
                let dm = self.beta * (du[i] - du[j] + self.alpha * (dd[i] - dd[j]));
                if dm == 0.0 {
                    continue;
                }
                let bend = row.weight * sigmoid(*m) * sigmoid(-m) * self.beta * dm;
                let (first, second) = (row.preference * bend, (1.0 - row.preference) * bend);
                moved.log_prob[i] += first + second;
                moved.log_prob[j] -= first + second;
                moved.forward[i] += self.alpha * ((1.0 - share) * first + second);
                moved.forward[j] -= self.alpha * (first + (1.0 - share) * second);
            }
            let mut column = pull_back(self.responses, &rows, &moved.log_prob, &moved.forward);
            // The rows themselves move: d π(c|s) = π(c|s)(1{c = b} − π(b|s)).
            for c in 0..a {
                let dp = p[c] * (f64::from(u8::from(c == b)) - p[b]);
                column[s * a + c] += (visits_d[s] - visits_u[s]) * dp + 1.0;
            }
            out.set_column(k, &DVector::from_vec(column));
        }
        out
    }

    /// Damped Newton steps to a zero at this share.
    fn newton(&self, mut logits: DVector<f64>, share: f64) -> Option<DVector<f64>> {
        let a = self.responses.n_actions();
        for row in logits.as_mut_slice().chunks_mut(a) {
            let mean = row.iter().sum::<f64>() / a as f64;
            row.iter_mut().for_each(|z| *z -= mean);
        }
        let mut field = self.field(&logits, share);
        for _ in 0..60 {
            let step = self.jacobian(&logits, share).lu().solve(&-&field)?;
            if !step.amax().is_finite() {
                return None;
            }
            let mut scale = (4.0 / step.amax()).min(1.0);
            let (next, there) = loop {
                let next = &logits + &step * scale;
                let there = self.field(&next, share);
                if there.norm() <= (1.0 - 1e-4 * scale) * field.norm() || there.amax() < 1e-16 {
                    break (next, there);
                }
                scale *= 0.5;
                if scale < 1e-8 {
                    // At rounding no step lowers the norm any more.
                    return (field.amax() < 1e-13).then_some(logits);
                }
            };
            (logits, field) = (next, there);
            if field.amax() < 1e-16 {
                break;
            }
        }
        (field.amax() < 1e-13).then_some(logits)
    }
}
