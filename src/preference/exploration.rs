//! Online preference optimisation: the exponential trap of passive sampling and the bonus of optimism, in closed form, and loops
//! whose regret is exact in every round.

use nalgebra::{Cholesky, DMatrix, DVector};
use rand::Rng;
use rand_chacha::ChaCha8Rng;

use super::evaluation::{kl, soft_optimum};
use super::optimism::OptimisticFit;
use super::planner::{bounds, tilt};
use super::responses::Responses;
use crate::check;
use crate::mdp::Beta;
use crate::numerics::{log_sigmoid, log_sum_exp, sigmoid};
use crate::{Error, Result};

/// Two responses, π_ref(b) = ε = e^{−c/β}, R(b) = 1, R(a) = 0: until b is drawn nothing is learned, and every passive policy
/// is π_ref.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Trap {
    /// ε.
    pub mass: f64,
    /// SubOpt(π_ref) = β log(1 + ε(e^{1/β} − 1)) − ε.
    pub subopt_reference: f64,
    /// log ½ / (2 log(1 − ε)): the rounds of two draws after which b was met with probability ½.
    pub rounds_to_half: f64,
}

impl Trap {
    /// The trap of depth `c` in (0, 1).
    ///
    /// # Errors
    /// [`Error::Config`] for c outside (0, 1) or β = 0.
    pub fn try_new(beta: Beta, c: f64) -> Result<Self> {
        if !(c > 0.0 && c < 1.0) {
            return Err(Error::config("c", c, "in (0, 1)"));
        }
        let b = beta.get();
        if b <= 0.0 {
            return Err(Error::config("beta", b, "a positive number"));
        }
        let mass = (-c / b).exp();
        // log(1 − ε + ε e^{1/β}) without overflow of e^{1/β}.
        let log_z = log_sum_exp(&[(-mass).ln_1p(), (1.0 - c) / b]);
        Ok(Self {
            mass,
            subopt_reference: b * log_z - mass,
            rounds_to_half: 0.5f64.ln() / (2.0 * (-mass).ln_1p()),
        })
    }

    /// SubOpt(π_ref) (1 − (1 − ε)^{2T})/(1 − (1 − ε)²): a lower bound on the expected regret of T rounds for the samplers
    /// (ref, ref), (π_t, ref) and (π_t, π_t).
    pub fn passive_regret(&self, rounds: f64) -> f64 {
        let log_miss = 2.0 * (-self.mass).ln_1p();
        self.subopt_reference * (rounds * log_miss).exp_m1() / log_miss.exp_m1()
    }

    /// The limit of [`Trap::passive_regret`].
    pub fn passive_regret_limit(&self) -> f64 {
        -self.subopt_reference / (2.0 * (-self.mass).ln_1p()).exp_m1()
    }
}

/// The bonus of XPO and VPO online with nothing seen yet, in the class 0 ≤ R ≤ V: raising a set of reference mass q by
/// v = V/β gains log(1 + q(e^v − 1)) − qv, most at q = 1/v − 1/(e^v − 1). Returns that q and the gain there.
pub fn optimism_bonus(v: f64) -> (f64, f64) {
    let best = 1.0 / v - 1.0 / v.exp_m1();
    (best, optimism_gain(v, best))
}

/// log(1 + q(e^v − 1)) − qv.
pub fn optimism_gain(v: f64, q: f64) -> f64 {
    log_sum_exp(&[(-q).ln_1p(), q.ln() + v]) - q * v
}

/// XPO's update for two responses from counts (`wins` and `losses` of the second against the first), |R₁ − R₀| ≤ `bound`: the
/// global minimiser d of −(wins log σ(d) + losses log σ(−d))/N + α E_ref log π_d on the interval, by a grid and a polish of
/// its best cell.
///
/// # Errors
/// [`Error::Shape`] unless there are two responses.
pub fn xpo_two_responses(
    log_reference: &[f64],
    beta: Beta,
    counts: (f64, f64),
    alpha: f64,
    bound: f64,
) -> Result<f64> {
    check::len("ref", 2, log_reference.len())?;
    Ok(TwoResponses::new(log_reference, beta, bound).best(counts, alpha))
}

/// XPO's problem on two responses with its terms tabulated on a grid, for many updates.
struct TwoResponses<'a> {
    log_reference: &'a [f64],
    beta: f64,
    bound: f64,
    /// log σ(d), log σ(−d) and E_ref log π_d on the grid.
    grid: Vec<[f64; 3]>,
}

impl<'a> TwoResponses<'a> {
    const CELLS: usize = 400;

    fn new(log_reference: &'a [f64], beta: Beta, bound: f64) -> Self {
        let mut all = Self {
            log_reference,
            beta: beta.get(),
            bound,
            grid: Vec::with_capacity(Self::CELLS + 1),
        };
        for k in 0..=Self::CELLS {
            let terms = all.terms(all.point(k));
            all.grid.push(terms);
        }
        all
    }

    fn point(&self, k: usize) -> f64 {
        -self.bound + 2.0 * self.bound * k as f64 / Self::CELLS as f64
    }

    fn terms(&self, d: f64) -> [f64; 3] {
        let reference = self.log_reference;
        let logits = [reference[0], reference[1] + d / self.beta];
        let z = log_sum_exp(&logits);
        let term = |(u, x): (&f64, f64)| u.exp() * (x - z);
        let bonus: f64 = reference.iter().zip(logits).map(term).sum();
        [log_sigmoid(d), log_sigmoid(-d), bonus]
    }

    fn best(&self, (wins, losses): (f64, f64), alpha: f64) -> f64 {
        if alpha == 0.0 && wins + losses == 0.0 {
            return 0.0; // everything ties
        }
        let total = (wins + losses).max(1.0);
        // d is in a bounded interval, so that no logarithm is infinite.
        let loss =
            |[up, down, bonus]: [f64; 3]| -(wins * up + losses * down) / total + alpha * bonus;
        let mut best = (f64::INFINITY, 0);
        for (k, terms) in self.grid.iter().enumerate() {
            let value = loss(*terms);
            if value < best.0 {
                best = (value, k);
            }
        }
        let k = best.1;
        let (mut low, mut high) = (
            self.point(k.saturating_sub(1)),
            self.point((k + 1).min(Self::CELLS)),
        );
        const GOLDEN: f64 = 0.618_033_988_749_894_9;
        let at = |d: f64| loss(self.terms(d));
        let inner =
            |low: f64, high: f64| [high - GOLDEN * (high - low), low + GOLDEN * (high - low)];
        let [mut a, mut b] = inner(low, high);
        let (mut f_a, mut f_b) = (at(a), at(b));
        while high - low > 1e-10 * self.bound {
            if f_a < f_b {
                (high, b, f_b) = (b, a, f_a);
                a = inner(low, high)[0];
                f_a = at(a);
            } else {
                (low, a, f_a) = (a, b, f_b);
                b = inner(low, high)[1];
                f_b = at(b);
            }
        }
        let ends = [self.point(k), 0.5 * (low + high), -self.bound, self.bound];
        ends.into_iter()
            .min_by(|&a, &b| at(a).total_cmp(&at(b)))
            .expect("four points")
    }
}

/// Where the two responses of a round come from.
#[derive(Debug, Clone, Copy, PartialEq)]
pub enum Sampler {
    /// Both from the current policy.
    PolicyPolicy,
    /// One from the current policy, one from π_ref.
    PolicyReference,
    /// Both from π_ref.
    ReferenceReference,
    /// Both uniform over the responses.
    Uniform,
    /// Two stages, after Xiong et al. (arXiv 2312.11456): one from the current policy π_t, one from the law
    /// ∝ π_ref exp((R + ρ‖e_y − π_t‖_{Σ⁻¹})/β), Σ = λI + Σ x xᵀ over the comparisons so far, x = e_i − e_j, R that of π_t. A
    /// simplification: their second player maximises relative uncertainty over a confidence set in KL.
    PolicyExplorer {
        /// ρ.
        rho: f64,
        /// λ.
        lambda: f64,
    },
}

/// What decides the policy of a round.
#[derive(Debug, Clone, Copy, PartialEq)]
pub enum Learner {
    /// Online DPO without a bonus: the maximum-likelihood scores with a small ridge, clipped to |R − mean| ≤ `bound`.
    Greedy {
        /// The bound.
        bound: f64,
        /// The ridge on the summed loss.
        ridge: f64,
    },
    /// XPO with the weight α√t on the summed loss: α√t E_ref log π is added. VPO online with calibration π_ref is the same with
    /// α β in the place of α.
    Xpo {
        /// α.
        alpha: f64,
        /// The bound on |R_i − R_j|.
        bound: f64,
    },
    /// SELM with the weight α√t on the summed loss: −α√t \[V* − E_cal R\] is added, cal the law of the responses drawn so far.
    Selm {
        /// α.
        alpha: f64,
        /// The bound on |R_i − R_j|.
        bound: f64,
    },
}

/// Runs `rounds` rounds: plan, add SubOpt(π_t) (exact), draw a pair, label it by (2.1). Returns the cumulative regret after
/// each round.
///
/// XPO on two responses plans with the global minimiser ([`xpo_two_responses`]). On more, and for SELM, the fit is the best local
/// minimum of many starts in the rounds that are powers of two, and in the others a descent from the last one: see
/// [`OptimisticFit`].
///
/// # Errors
/// [`Error::Config`] for constants that are not positive.
pub fn online_regret(
    responses: &Responses,
    beta: Beta,
    learner: Learner,
    sampler: Sampler,
    rounds: usize,
    rng: &mut ChaCha8Rng,
) -> Result<Vec<f64>> {
    let n = responses.len();
    let (star, _) = soft_optimum(responses, beta);
    let reference: Vec<f64> = responses.log_reference().iter().map(|u| u.exp()).collect();
    let uniform = vec![1.0 / n as f64; n];
    let mut planner = Planner::new(responses, beta, learner);
    let (mut total, mut curve) = (0.0, Vec::with_capacity(rounds));
    for round in 1..=rounds {
        let exponent: Vec<f64> = (planner.plan(round)?.iter())
            .map(|r| r / beta.get())
            .collect();
        let log_policy = tilt(responses, &exponent)?;
        total += beta.get() * kl(&log_policy, &star);
        curve.push(total);
        let policy: Vec<f64> = log_policy.iter().map(|u| u.exp()).collect();
        let explorer = match sampler {
            Sampler::PolicyExplorer { rho, lambda } => {
                let width = uncertainty(&planner.wins, &policy, lambda)?;
                let bonus = exponent.iter().zip(width);
                let bonus: Vec<f64> = bonus.map(|(e, w)| e + rho * w / beta.get()).collect();
                tilt(responses, &bonus)?.iter().map(|u| u.exp()).collect()
            }
            _ => Vec::new(),
        };
        let (first, second) = match sampler {
            Sampler::PolicyPolicy => (&policy, &policy),
            Sampler::PolicyReference => (&policy, &reference),
            Sampler::ReferenceReference => (&reference, &reference),
            Sampler::Uniform => (&uniform, &uniform),
            Sampler::PolicyExplorer { .. } => (&policy, &explorer),
        };
        let (y, z) = (draw(first, rng), draw(second, rng));
        let label: f64 = rng.random();
        planner.drawn[y] += 1.0;
        planner.drawn[z] += 1.0;
        if y != z {
            let won = label < sigmoid(responses.rewards()[y] - responses.rewards()[z]);
            let (w, l) = if won { (y, z) } else { (z, y) };
            planner.wins[w * n + l] += 1.0;
        }
    }
    Ok(curve)
}

/// ‖e_y − π‖_{Σ⁻¹} of every response, Σ = λI + Σ x xᵀ over the comparisons.
fn uncertainty(wins: &[f64], policy: &[f64], lambda: f64) -> Result<Vec<f64>> {
    let n = policy.len();
    let mut sigma = DMatrix::from_diagonal_element(n, n, lambda);
    for i in 0..n {
        for j in 0..n {
            let count = wins[i * n + j];
            sigma[(i, i)] += count;
            sigma[(j, j)] += count;
            sigma[(i, j)] -= count;
            sigma[(j, i)] -= count;
        }
    }
    let factor =
        Cholesky::new(sigma).ok_or_else(|| Error::config("lambda", lambda, "a positive number"))?;
    let width = |y: usize| {
        let mut x = DVector::from_iterator(n, policy.iter().map(|p| -p));
        x[y] += 1.0;
        x.dot(&factor.solve(&x)).max(0.0).sqrt()
    };
    Ok((0..n).map(width).collect())
}

/// The data of a run and the rewards that its learner plans with.
struct Planner<'a> {
    log_reference: &'a [f64],
    reference: Vec<f64>,
    beta: Beta,
    learner: Learner,
    /// XPO on two responses.
    two: Option<TwoResponses<'a>>,
    /// How often the row beat the column, `[n, n]`.
    wins: Vec<f64>,
    /// How often each response was drawn.
    drawn: Vec<f64>,
    /// Those of the last round.
    rewards: Vec<f64>,
}

impl<'a> Planner<'a> {
    fn new(responses: &'a Responses, beta: Beta, learner: Learner) -> Self {
        let (n, log_reference) = (responses.len(), responses.log_reference());
        Self {
            two: match learner {
                Learner::Xpo { bound, .. } if n == 2 => {
                    Some(TwoResponses::new(log_reference, beta, bound))
                }
                _ => None,
            },
            log_reference,
            reference: log_reference.iter().map(|u| u.exp()).collect(),
            beta,
            learner,
            wins: vec![0.0; n * n],
            drawn: vec![0.0; n],
            rewards: vec![0.0; n],
        }
    }

    fn plan(&mut self, round: usize) -> Result<Vec<f64>> {
        let n = self.rewards.len();
        match self.learner {
            Learner::Greedy { bound, ridge } => {
                newton_scores(&self.wins, &mut self.rewards, ridge);
                let mean = self.rewards.iter().sum::<f64>() / n as f64;
                let clipped = |s: &f64| (s - mean).clamp(-bound, bound);
                Ok(self.rewards.iter().map(clipped).collect())
            }
            Learner::Xpo { alpha, bound } => {
                let weight = alpha * (round as f64).sqrt();
                if let Some(two) = &self.two {
                    // Counts are those of the second response against the first.
                    let counts = (self.wins[2], self.wins[1]);
                    let weight = weight / (counts.0 + counts.1).max(1.0);
                    return Ok(vec![0.0, two.best(counts, weight)]);
                }
                let calibration = self.reference.clone();
                self.optimistic(round, weight / self.beta.get(), bound, &calibration)
            }
            Learner::Selm { alpha, bound } => {
                let total: f64 = self.drawn.iter().sum();
                let calibration = match total > 0.0 {
                    true => self.drawn.iter().map(|d| d / total).collect(),
                    false => self.reference.clone(),
                };
                let weight = alpha * (round as f64).sqrt();
                self.optimistic(round, weight, bound, &calibration)
            }
        }
    }

    /// The fit with a weight on the summed loss.
    fn optimistic(
        &mut self,
        round: usize,
        weight: f64,
        bound: f64,
        calibration: &[f64],
    ) -> Result<Vec<f64>> {
        let (reference, total) = (self.log_reference, self.wins.iter().sum::<f64>().max(1.0));
        let weight = weight / total;
        let fit =
            OptimisticFit::try_new(reference, self.beta, &self.wins, calibration, weight, bound)?;
        let last = self.rewards.clone();
        self.rewards = match round.is_power_of_two() {
            true => fit.best(&[last]).0,
            false => fit.descend(&last).0,
        };
        Ok(self.rewards.clone())
    }
}

fn draw(law: &[f64], rng: &mut ChaCha8Rng) -> usize {
    crate::mdp::pick(law.iter().copied(), rng)
}

/// Two warm Newton steps on the summed logistic loss with a ridge; each step is cut to 1, which keeps the first ones in hand.
fn newton_scores(wins: &[f64], scores: &mut [f64], ridge: f64) {
    let n = scores.len();
    for _ in 0..2 {
        let mut hessian = DMatrix::from_diagonal_element(n, n, ridge);
        let mut gradient = DVector::from_iterator(n, scores.iter().map(|s| ridge * s));
        for i in 0..n {
            for j in i + 1..n {
                let (won, lost) = (wins[i * n + j], wins[j * n + i]);
                if won + lost > 0.0 {
                    let s = sigmoid(scores[i] - scores[j]);
                    let (slope, bend) = ((won + lost) * s - won, (won + lost) * s * (1.0 - s));
                    gradient[i] += slope;
                    gradient[j] -= slope;
                    hessian[(i, i)] += bend;
                    hessian[(j, j)] += bend;
                    hessian[(i, j)] -= bend;
                    hessian[(j, i)] -= bend;
                }
            }
        }
        let Some(factor) = Cholesky::new(hessian) else {
            return;
        };
        let step = factor.solve(&gradient);
        for (s, d) in scores.iter_mut().zip(step.iter()) {
            *s -= d.clamp(-1.0, 1.0);
        }
    }
    let (low, high) = bounds(scores);
    debug_assert!(low.is_finite() && high.is_finite());
}
