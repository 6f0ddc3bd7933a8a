//! DPOP: a convex loss with a kink, to its exact minimiser.

use nalgebra::{DMatrix, DVector};

use super::pair_loss::{Compared, LossBend, pair_loss_fit};
use super::pairs::PairTable;
use super::responses::Responses;
use crate::mdp::Beta;
use crate::numerics::{log_sigmoid, sigmoid};
use crate::{Error, Result};

/// DPOP's minimiser.
#[derive(Debug, Clone, PartialEq)]
pub struct DpopFit {
    /// log π(y).
    pub log_policy: Vec<f64>,
    /// ν ≥ 0 of Σ π_ref e^l ≤ 1, which certifies the global optimum: the loss is convex in l.
    pub multiplier: f64,
    /// The largest violation of the optimality conditions, subgradients at the kink included.
    pub kkt_inf: f64,
    /// The responses that lie on the kink, π(y) = π_ref(y).
    pub on_kink: Vec<usize>,
}

/// (DPOP, arXiv 2402.13228): argmin over policies of Σ w −log σ(β(l_w − l_l − λ max(0, −l_w))), l = log π/π_ref.
///
/// The margin is concave in l, so the loss is convex, and it falls where all of l is raised together: Σ π_ref e^l ≤ 1 is tight,
/// and the minimiser over policies is that of a convex program. It exists exactly if every response wins at least once: a
/// direction d ≤ 0 that never lowers a margin has |d_loser| ≥ (1 + λ)|d_winner| for each win, so d = 0 on every cycle of wins and
/// on all that leads to one; a response without a win leads to none.
///
/// # Errors
/// [`Error::Assumption`] naming a response that never wins; [`Error::Config`] unless λ > 0 (λ = 0 is DPO);
/// [`Error::NotConverged`].
pub fn dpop_fit(
    responses: &Responses,
    pairs: &PairTable,
    beta: Beta,
    lambda: f64,
) -> Result<DpopFit> {
    if !(lambda > 0.0 && lambda.is_finite()) {
        return Err(Error::config("dpop_lambda", lambda, "a positive number"));
    }
    let (wins, _) = pairs.wins_and_losses();
    if let Some(y) = wins.iter().position(|w| *w == 0.0) {
        return Err(Error::Assumption {
            assumption: "every response wins at least once".into(),
            why: format!("response {y} never wins, and its probability goes to 0"),
        });
    }
    let problem = Problem {
        responses,
        pairs,
        beta: beta.get(),
        lambda,
    };
    // The kink rounded off at a width that falls, then taken exactly.
    let mut exponent = vec![0.0; responses.len()];
    let mut width = 0.3;
    while width > WIDTH {
        width *= 0.25;
        let found = pair_loss_fit(
            responses,
            pairs,
            &|at| problem.rounded(at, width),
            &[exponent],
        )?;
        exponent = found
            .log_policy
            .iter()
            .zip(responses.log_reference())
            .map(|(u, v)| u - v)
            .collect();
    }
    problem.polish(DVector::from_vec(exponent), width)
}

/// The width of the rounding from which the exact kinks are read off.
const WIDTH: f64 = 1e-6;

struct Problem<'a> {
    responses: &'a Responses,
    pairs: &'a PairTable,
    beta: f64,
    lambda: f64,
}

/// On which side of the kink a response is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Side {
    Below,
    On,
    Above,
}

impl Problem<'_> {
    /// The loss with max(0, −l) replaced by δ log(1 + e^{−l/δ}).
    fn rounded(&self, at: &Compared, width: f64) -> LossBend {
        let (b, [w, l]) = (self.beta, at.log_ratios);
        let share = sigmoid(-w / width);
        let hinge = -width * log_sigmoid(w / width);
        let m = b * (w - l - self.lambda * hinge);
        let by = [b * (1.0 + self.lambda * share), -b];
        let (slope, bend) = (-sigmoid(-m), sigmoid(m) * sigmoid(-m));
        let kink = slope * -b * self.lambda * share * (1.0 - share) / width;
        LossBend {
            value: -log_sigmoid(m),
            slope: [slope * by[0], slope * by[1]],
            bend: [
                bend * by[0] * by[0] + kink,
                bend * by[0] * by[1],
                bend * by[1] * by[1],
            ],
        }
    }

    /// Gradient and Hessian in l, each response on its side of the kink (on it: the hinge left out), and for each response the
    /// gradient's part that one unit of the hinge's slope adds.
    fn sided(&self, l: &DVector<f64>, side: &[Side]) -> (DVector<f64>, DMatrix<f64>, DVector<f64>) {
        let n = l.len();
        let (mut g, mut h) = (DVector::zeros(n), DMatrix::zeros(n, n));
        let mut hinge = DVector::zeros(n);
        for row in self.pairs.rows() {
            let (i, j, p) = (row.first, row.second, row.preference);
            for (share, w, o) in [(p, i, j), (1.0 - p, j, i)] {
                let steep = if side[w] == Side::Below {
                    1.0 + self.lambda
                } else {
                    1.0
                };
                let m = self.beta * (steep * l[w] - l[o]);
                let weight = row.weight * share;
                let slope = -weight * sigmoid(-m) * self.beta;
                let bend = weight * sigmoid(m) * sigmoid(-m) * self.beta * self.beta;
                g[w] += slope * steep;
                g[o] -= slope;
                hinge[w] += slope * self.lambda;
                h[(w, w)] += bend * steep * steep;
                h[(w, o)] -= bend * steep;
                h[(o, w)] -= bend * steep;
                h[(o, o)] += bend;
            }
        }
        (g, h, hinge)
    }

    /// Newton's steps on the optimality conditions with the responses on the kink held there, and sides exchanged until all
    /// conditions hold.
    fn polish(&self, mut l: DVector<f64>, width: f64) -> Result<DpopFit> {
        let n = l.len();
        let mut side: Vec<Side> = l
            .iter()
            .map(|&l| match l {
                l if l.abs() < 40.0 * width => Side::On,
                l if l < 0.0 => Side::Below,
                _ => Side::Above,
            })
            .collect();
        let reference: Vec<f64> = self
            .responses
            .log_reference()
            .iter()
            .map(|u| u.exp())
            .collect();
        let mut kkt_inf = f64::INFINITY;
        let mut nu = 0.0;
        for _ in 0..10 * n + 10 {
            for y in 0..n {
                if side[y] == Side::On {
                    l[y] = 0.0;
                }
            }
            let free: Vec<usize> = (0..n).filter(|&y| side[y] != Side::On).collect();
            (l, nu) = self.newton(l, &side, &free, &reference);
            let (g, _, hinge) = self.sided(&l, &side);
            if free.is_empty() {
                // π = π_ref: any ν that leaves every subgradient in [0, 1] will do; the mean condition fixes it.
                nu = -g.sum() - 0.5 * hinge.sum();
            }
            let mass: f64 = (0..n).map(|y| reference[y] * l[y].exp()).sum();
            kkt_inf = (mass - 1.0).abs();
            // One exchange at a time: the worst one.
            let mut worst = (1e-12, None);
            for y in 0..n {
                let residual = g[y] + nu * reference[y] * l[y].exp();
                let (violation, moved) = match side[y] {
                    Side::On => {
                        let share = -residual / hinge[y];
                        let outside = (share - 1.0).max(-share).max(0.0) * hinge[y].abs();
                        let to = if share > 1.0 {
                            Side::Below
                        } else {
                            Side::Above
                        };
                        (outside, to)
                    }
                    Side::Below => (l[y].max(0.0), Side::On),
                    Side::Above => ((-l[y]).max(0.0), Side::On),
                };
                if side[y] != Side::On {
                    kkt_inf = kkt_inf.max(residual.abs());
                }
                kkt_inf = kkt_inf.max(violation);
                if violation > worst.0 {
                    worst = (violation, Some((y, moved)));
                }
            }
            match worst.1 {
                Some((y, to)) => side[y] = to,
                None => break,
            }
        }
        if kkt_inf > 1e-11 {
            return Err(Error::NotConverged {
                what: "DPOP's minimiser".into(),
                iterations: 10 * n + 10,
                residual: kkt_inf,
            });
        }
        let log_policy = l
            .iter()
            .zip(self.responses.log_reference())
            .map(|(l, u)| l + u)
            .collect();
        Ok(DpopFit {
            log_policy: super::normalise(log_policy),
            multiplier: nu,
            kkt_inf,
            on_kink: (0..n).filter(|&y| side[y] == Side::On).collect(),
        })
    }

    fn newton(
        &self,
        mut l: DVector<f64>,
        side: &[Side],
        free: &[usize],
        reference: &[f64],
    ) -> (DVector<f64>, f64) {
        let k = free.len();
        if k == 0 {
            return (l, 0.0);
        }
        let (g, _, _) = self.sided(&l, side);
        let mass: f64 = free.iter().map(|&y| reference[y] * l[y].exp()).sum();
        let mut nu = -free.iter().map(|&y| g[y]).sum::<f64>() / mass;
        for _ in 0..60 {
            let (g, h, _) = self.sided(&l, side);
            let weight = |y: usize| reference[y] * l[y].exp();
            let mut matrix = DMatrix::zeros(k + 1, k + 1);
            let mut right = DVector::zeros(k + 1);
            for (a, &y) in free.iter().enumerate() {
                for (b, &z) in free.iter().enumerate() {
                    matrix[(a, b)] = h[(y, z)];
                }
                matrix[(a, a)] += nu * weight(y);
                matrix[(a, k)] = weight(y);
                matrix[(k, a)] = weight(y);
                right[a] = -(g[y] + nu * weight(y));
            }
            right[k] = 1.0 - (0..l.len()).map(weight).sum::<f64>();
            let Some(step) = matrix.lu().solve(&right) else {
                break;
            };
            let scale = (1.0 / step.rows(0, k).amax()).min(1.0);
            for (a, &y) in free.iter().enumerate() {
                l[y] += scale * step[a];
            }
            nu += scale * step[k];
            if step.amax() < 1e-15 {
                break;
            }
        }
        (l, nu)
    }
}
