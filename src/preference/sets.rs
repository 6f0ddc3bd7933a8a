//! What is left open: sets of minimisers where pairs do not connect all responses, and bounded classes where they separate.

use nalgebra::{DMatrix, DVector};

use super::evaluation::{kl, normalise, soft_optimum};
use super::fit::{centred, logistic};
use super::newton::Local;
use super::pairs::PairTable;
use super::planner::bounds;
use super::responses::Responses;
use crate::check;
use crate::mdp::Beta;
use crate::numerics::log_sum_exp;
use crate::{Error, Result};

/// The minimisers of DPO (and of every method with its likelihood) where the comparison graph has several components: the law
/// inside each is fixed, q_C ∝ π_ref e^{R̂/β}, and the masses of the components are arbitrary.
#[derive(Debug, Clone, PartialEq)]
pub struct MinimiserSet {
    /// The responses of each component.
    pub components: Vec<Vec<usize>>,
    /// log q_C(y) of each response within its component.
    pub log_within: Vec<f64>,
    /// log of the masses m_C ∝ π_ref(C) exp(−KL(q_C‖π_ref,C)) of least KL to π_ref: where HyPO tends to as λ → 0.
    pub log_kl_minimal: Vec<f64>,
    /// The smallest and the largest SubOpt over the set.
    pub subopt: (f64, f64),
}

impl MinimiserSet {
    /// The set for Bradley–Terry scores (`[n]`).
    ///
    /// # Errors
    /// [`Error::Shape`].
    pub fn new(
        responses: &Responses,
        pairs: &PairTable,
        scores: &[f64],
        beta: Beta,
    ) -> Result<Self> {
        let n = responses.len();
        check::len("scores", n, scores.len())?;
        check::len("pairs", n, pairs.n_responses())?;
        let label = pairs.components();
        let components: Vec<Vec<usize>> = (0..n)
            .filter(|&c| label[c] == c)
            .map(|c| (0..n).filter(|&y| label[y] == c).collect())
            .collect();
        let (star, _) = soft_optimum(responses, beta);
        let reference = responses.log_reference();
        let mut log_within = vec![0.0; n];
        let (mut toward_reference, mut toward_star) = (Vec::new(), Vec::new());
        for members in &components {
            let pick = |values: &[f64]| members.iter().map(|&y| values[y]).collect::<Vec<_>>();
            let prior = pick(reference);
            let weights = prior
                .iter()
                .zip(pick(scores))
                .map(|(u, r)| u + r / beta.get())
                .collect();
            let q = normalise(weights);
            // log m + … : the log-mass of a component under a law, less the KL to that law within it.
            let toward = |law: &[f64]| log_sum_exp(law) - kl(&q, &normalise(law.to_vec()));
            toward_reference.push(toward(&prior));
            toward_star.push(toward(&pick(&star)));
            for (&y, u) in members.iter().zip(&q) {
                log_within[y] = *u;
            }
        }
        let b = beta.get();
        // SubOpt = β Σ m_C (log m_C − toward_star_C): least at m ∝ exp(toward_star), largest at a vertex.
        let least = -b * log_sum_exp(&toward_star);
        let most = -b * bounds(&toward_star).0;
        Ok(Self {
            components,
            log_within,
            log_kl_minimal: normalise(toward_reference),
            subopt: (least.max(0.0), most),
        })
    }

    /// log π(y) for masses of the components, given as logarithms.
    ///
    /// # Errors
    /// [`Error::Shape`].
    pub fn policy(&self, log_masses: &[f64]) -> Result<Vec<f64>> {
        check::len("masses", self.components.len(), log_masses.len())?;
        let mut out = self.log_within.clone();
        for (members, m) in self.components.iter().zip(log_masses) {
            members.iter().for_each(|&y| out[y] += m);
        }
        Ok(out)
    }
}

/// A fit in the class max t − min t ≤ B, which has a minimiser on every table of pairs.
#[derive(Debug, Clone, PartialEq)]
pub struct BoundedFit {
    /// The scores, with mean 0.
    pub scores: Vec<f64>,
    /// The loss there.
    pub loss: f64,
    /// The largest violation of the optimality conditions: the gradient where a score is free, its wrong sign where not.
    pub kkt_inf: f64,
}

/// argmin of the Bradley–Terry loss over |t_i − t_j| ≤ `bound`, by Newton steps on the scores that are off their bounds.
///
/// # Errors
/// [`Error::Config`] unless the bound is positive; [`Error::NotConverged`].
pub fn bounded_scores(pairs: &PairTable, bound: f64) -> Result<BoundedFit> {
    if !(bound > 0.0 && bound.is_finite()) {
        return Err(Error::config("bound", bound, "a positive number"));
    }
    let n = pairs.n_responses();
    let fun = |x: &DVector<f64>| {
        let mut at = Local::zeros(n);
        for row in pairs.rows() {
            let (value, slope, bend) = logistic(row, x[row.first] - x[row.second], 0.0);
            at.add_difference((row.first, row.second), value, slope, bend);
        }
        at
    };
    let mut x = DVector::from_element(n, bound / 2.0);
    let mut at = fun(&x);
    let free = |x: &DVector<f64>, g: &DVector<f64>| -> Vec<usize> {
        let held = |k: usize| (x[k] <= 0.0 && g[k] > 0.0) || (x[k] >= bound && g[k] < 0.0);
        (0..n).filter(|&k| !held(k)).collect()
    };
    let mut kkt_inf = f64::INFINITY;
    for _ in 0..500 {
        let moving = free(&x, &at.gradient);
        let residual = moving.iter().fold(0.0f64, |m, &k| {
            // At a bound a gradient that pulls inwards is a violation; one at a free score always is.
            m.max(at.gradient[k].abs())
        });
        kkt_inf = residual;
        if residual < 1e-14 {
            break;
        }
        let scale = at.hessian.diagonal().amax().max(f64::MIN_POSITIVE);
        let block = DMatrix::from_fn(moving.len(), moving.len(), |i, j| {
            let ridge = if i == j { 1e-10 * scale } else { 0.0 };
            at.hessian[(moving[i], moving[j])] + ridge
        });
        let gradient = DVector::from_iterator(moving.len(), moving.iter().map(|&k| at.gradient[k]));
        let Some(factor) = block.cholesky() else {
            break;
        };
        let step = factor.solve(&-gradient);
        let mut length = 1.0;
        let moved = loop {
            let mut next = x.clone();
            for (&k, s) in moving.iter().zip(step.iter()) {
                next[k] = (x[k] + length * s).clamp(0.0, bound);
            }
            let there = fun(&next);
            let drop = at.gradient.dot(&(&next - &x));
            if there.value <= at.value + 1e-4 * drop.min(0.0) + 1e-16 * at.value.abs()
                && drop <= 0.0
            {
                break Some((next, there));
            }
            length *= 0.5;
            if length < 1e-10 {
                break None;
            }
        };
        let Some((next, there)) = moved else { break };
        if next == x {
            break;
        }
        (x, at) = (next, there);
    }
    if kkt_inf > 1e-9 {
        return Err(Error::NotConverged {
            what: "the bounded Bradley–Terry fit".into(),
            iterations: 500,
            residual: kkt_inf,
        });
    }
    Ok(BoundedFit {
        scores: centred(x.as_slice(), &vec![0; n]),
        loss: at.value,
        kkt_inf,
    })
}
