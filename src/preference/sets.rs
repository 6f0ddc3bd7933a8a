//! What is left open: sets of minimisers where pairs do not connect all responses, and bounded classes where they separate.

use super::boxed::{At, Cell};
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

/// The most steps of a bounded fit.
const STEPS: usize = 500;

/// argmin of the Bradley–Terry loss over |t_i − t_j| ≤ `bound`, by Newton steps on the scores that are off their bounds.
///
/// # Errors
/// [`Error::Config`] unless the bound is positive; [`Error::NotConverged`].
pub fn bounded_scores(pairs: &PairTable, bound: f64) -> Result<BoundedFit> {
    if !(bound > 0.0 && bound.is_finite()) {
        return Err(Error::config("bound", bound, "a positive number"));
    }
    let n = pairs.n_responses();
    let fun = |x: &[f64]| {
        let mut local = Local::zeros(n);
        for row in pairs.rows() {
            let (value, slope, bend) = logistic(row, x[row.first] - x[row.second], 0.0);
            local.add_difference((row.first, row.second), value, slope, bend);
        }
        At {
            value: local.value,
            gradient: local.gradient,
            hessians: vec![local.hessian],
        }
    };
    let class = Cell::cube(n, bound);
    let (x, at) = class.minimise(&vec![bound / 2.0; n], &fun, STEPS, 1e-14);
    let kkt_inf = class.residual(&x, &at);
    if kkt_inf > 1e-9 {
        return Err(Error::NotConverged {
            what: "the bounded Bradley–Terry fit".into(),
            iterations: STEPS,
            residual: kkt_inf,
        });
    }
    Ok(BoundedFit {
        scores: centred(&x, &vec![0; n]),
        loss: at.value,
        kkt_inf,
    })
}
