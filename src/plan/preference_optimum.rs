//! (4.4) in expectation, minimised over all policies: what DPO converges to where no closed form holds.

use nalgebra::{Cholesky, DMatrix, DVector};
use ndarray::Array2;
use rand_distr::{Distribution, StandardNormal};

use super::check_policy;
use crate::mdp::{ActionIx, Problem, Reachable, StateIx, TabularMdp, TabularPolicy};
use crate::numerics::{log_sigmoid, sigmoid};
use crate::reward::{RewardFunction, check_reward};
use crate::seed::SeedTree;
use crate::{Error, Result};

/// (4.4): Which pairs of trajectories are compared. On a stochastic table the minimiser depends on it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum PairLaw {
    /// Both drawn from π_ref, independently.
    Reference,
    /// Uniform over the unordered pairs of different trajectories that π_ref can give.
    Uniform,
}

/// (4.4): A minimiser of the expected DPO loss.
#[derive(Debug, Clone, PartialEq)]
pub struct PreferenceOptimum {
    /// The policy; π_ref where no episode goes.
    pub policy: TabularPolicy,
    /// The expected loss, prompts from ρ and labels from (3.1).
    pub loss: f64,
    /// Largest entry of the loss's gradient in token logits: 0 at a stationary point.
    pub gradient: f64,
    /// Starts that ended in this minimum, and starts in all.
    pub starts: (usize, usize),
}

/// The most (trajectories)² · (logits) that a minimisation may cost.
const MOST_WORK: f64 = 2e7;
const STARTS: usize = 48;
const MOST_STEPS: usize = 300;
/// A longer step in logits would leave the valley of its start, and all starts would end in the widest.
const LONGEST_STEP: f64 = 1.0;
/// A gradient up to this, beside the largest curvature and the weights' sum of 1, counts as stationary.
const STATIONARY: f64 = 1e-11;

/// min_π E\[−p log σ(m) − (1−p) log σ(−m)\], m = β Σ_h log(π/π_ref)(τ¹) − β Σ_h log(π/π_ref)(τ²), p = P(τ¹ ≻ τ²) of (3.1):
/// (4.4) with infinitely many preferences, over all policies with the support of π_ref.
///
/// With deterministic transitions the minimum is π*_β, whatever the pairs, as long as they connect all
/// responses. With stochastic ones it need not be: the sum of log-ratios cannot tell a lucky transition from a good action, and
/// the loss can have several local minima. It is minimised from many
/// starts (fixed seed) by damped Newton steps in token logits; the lowest is returned, with how many starts agree. A minimiser exists, as
/// an action whose probability tends to 0 makes some margin, and with it the loss, infinite.
///
/// # Errors
/// [`Error::Shape`]; [`Error::Config`] when β = 0 or the table has too many trajectories; [`Error::NotConverged`] when no start reaches
/// a stationary point, for example because rewards are so large that some p is 0 or 1 in floating point.
pub fn population_dpo(
    problem: Problem<'_>,
    reward: &impl RewardFunction,
    law: PairLaw,
) -> Result<PreferenceOptimum> {
    let Problem {
        mdp,
        reference,
        beta,
    } = problem;
    let problem = Program::new(mdp, reward, reference, beta.positive()?, law)?;
    let mut best: Option<(Point, Stationary)> = None;
    let mut agree = 0;
    let mut residual = f64::INFINITY;
    // Short steps stay in the valley of their start; where none arrives, long ones may.
    let attempts = [LONGEST_STEP, f64::INFINITY].into_iter();
    for (longest, start) in attempts.flat_map(|l| (0..STARTS).map(move |start| (l, start))) {
        if longest.is_infinite() && start == 0 && best.is_some() {
            break;
        }
        let (point, stationary) = problem.descend(problem.start(start), longest);
        residual = residual.min(stationary.gradient);
        if stationary.gradient > stationary.most {
            continue;
        }
        let lowest = best.as_ref().map_or(f64::INFINITY, |b| b.0.loss);
        let close = 1e-9 * lowest.abs().max(f64::MIN_POSITIVE);
        if point.loss < lowest - close || best.is_none() {
            (best, agree) = (Some((point, stationary)), 1);
        } else if point.loss <= lowest + close {
            agree += 1;
        }
    }
    let Some((point, stationary)) = best else {
        return Err(Error::NotConverged {
            what: "the minimisation of (4.4) over policies".into(),
            iterations: MOST_STEPS,
            residual,
        });
    };
    Ok(PreferenceOptimum {
        policy: problem.policy(&point.logits),
        loss: point.loss,
        gradient: stationary.gradient,
        starts: (agree, STARTS),
    })
}

/// One trajectory: its steps as indices of free logits with their state, its weight and its return.
struct Path {
    /// (state group, logit) of each step at which there is a choice.
    choices: Vec<(usize, usize)>,
    /// Probability given the prompt.
    prob: f64,
    total: f64,
}

struct Program<'a> {
    reference: &'a TabularPolicy,
    beta: f64,
    /// The states with a choice: their actions of positive reference probability start at `offset`.
    groups: Vec<(StateIx, Vec<ActionIx>, usize)>,
    n_logits: usize,
    /// log π_ref of every logit.
    log_ref: DVector<f64>,
    /// For each prompt its ρ and its trajectories.
    prompts: Vec<(f64, Vec<Path>)>,
    law: PairLaw,
}

struct Point {
    logits: DVector<f64>,
    loss: f64,
}

struct Stationary {
    gradient: f64,
    /// Up to here the gradient counts as 0.
    most: f64,
}

impl<'a> Program<'a> {
    fn new(
        mdp: &TabularMdp,
        reward: &impl RewardFunction,
        reference: &'a TabularPolicy,
        beta: f64,
        law: PairLaw,
    ) -> Result<Self> {
        check_reward(mdp, reward)?;
        check_policy(mdp, "reference", reference)?;
        let met = Reachable::new(mdp, reference)?;
        let mut groups = Vec::new();
        let mut group_of = vec![None; mdp.n_states()];
        let (mut n_logits, mut log_ref) = (0, Vec::new());
        for s in met.states() {
            let all = (0..mdp.n_actions() as u32).map(ActionIx);
            let actions: Vec<ActionIx> = all.filter(|a| met.pair(s, *a)).collect();
            if actions.len() > 1 {
                group_of[s.ix()] = Some(groups.len());
                log_ref.extend(actions.iter().map(|a| reference.log_prob(s, *a)));
                let offset = n_logits;
                n_logits += actions.len();
                groups.push((s, actions, offset));
            }
        }
        let most = (MOST_WORK / (n_logits.max(1) as f64)).sqrt();
        let mut prompts = Vec::new();
        let mut count = 0;
        for (root, rho) in mdp.roots() {
            let mut paths = Vec::new();
            let mut open = vec![(root, Vec::new(), 1.0, 0.0)];
            while let Some((s, choices, prob, total)) = open.pop() {
                for a in (0..mdp.n_actions() as u32).map(ActionIx) {
                    if !met.pair(s, a) {
                        continue;
                    }
                    let mut choices: Vec<(usize, usize)> = choices.clone();
                    if let Some(g) = group_of[s.ix()] {
                        let (_, actions, offset): &(StateIx, Vec<ActionIx>, usize) = &groups[g];
                        let at = actions
                            .iter()
                            .position(|b| *b == a)
                            .expect("a supported action");
                        choices.push((g, offset + at));
                    }
                    let (next, moves) = mdp.successors(s, a);
                    for (to, p) in next.iter().zip(moves).filter(|(_, p)| **p > 0.0) {
                        let prob = prob * reference.prob(s, a) * p;
                        let total = total + reward.reward(s, a);
                        if *to == StateIx::END {
                            count += 1;
                            let choices = choices.clone();
                            paths.push(Path {
                                choices,
                                prob,
                                total,
                            });
                        } else {
                            open.push((*to, choices.clone(), prob, total));
                        }
                    }
                    if count as f64 > most || open.len() as f64 > most {
                        return Err(Error::config(
                            "trajectories",
                            format!("more than {}", most as usize),
                            format!(
                                "at most that many for {n_logits} free probabilities, to minimise (4.4) over policies"
                            ),
                        ));
                    }
                }
            }
            prompts.push((rho, paths));
        }
        Ok(Self {
            reference,
            beta,
            groups,
            n_logits,
            log_ref: DVector::from_vec(log_ref),
            prompts,
            law,
        })
    }

    /// π_ref first, then random logits of growing scale.
    fn start(&self, index: usize) -> DVector<f64> {
        if index == 0 {
            return self.log_ref.clone();
        }
        let scale = [0.5, 1.0, 2.0, 4.0][index % 4];
        let mut rng = SeedTree::new(0)
            .child("population_dpo")
            .index(index as u64)
            .rng();
        let draw = |_: usize, _: usize| -> f64 { StandardNormal.sample(&mut rng) };
        let noise = DVector::from_fn(self.n_logits, draw);
        &self.log_ref + noise * scale
    }

    /// log π of every logit.
    fn log_probs(&self, logits: &DVector<f64>) -> DVector<f64> {
        let mut out = logits.clone();
        for (_, actions, offset) in &self.groups {
            let rows = &mut out.as_mut_slice()[*offset..offset + actions.len()];
            let norm = crate::numerics::log_sum_exp(rows);
            rows.iter_mut().for_each(|l| *l -= norm);
        }
        out
    }

    fn policy(&self, logits: &DVector<f64>) -> TabularPolicy {
        let log = self.log_probs(logits);
        let mut table: Array2<f64> = self.reference.log_probs().clone();
        for (s, actions, offset) in &self.groups {
            for (i, a) in actions.iter().enumerate() {
                table[[s.ix(), a.ix()]] = log[offset + i];
            }
        }
        TabularPolicy::trusted(table)
    }

    /// β Σ log(π/π_ref) of a prompt's trajectories.
    fn implicit(&self, paths: &[Path], log: &DVector<f64>) -> Vec<f64> {
        let step = |k: usize| log[k] - self.log_ref[k];
        let sum = |path: &Path| path.choices.iter().map(|(_, k)| step(*k)).sum::<f64>();
        paths.iter().map(|path| self.beta * sum(path)).collect()
    }

    /// The weight of the unordered pair {i, j}, i ≠ j.
    fn weight(&self, rho: f64, paths: &[Path], i: usize, j: usize) -> f64 {
        let n = paths.len() as f64;
        match self.law {
            PairLaw::Reference => 2.0 * rho * paths[i].prob * paths[j].prob,
            PairLaw::Uniform => rho / (0.5 * n * (n - 1.0)),
        }
    }

    fn loss(&self, logits: &DVector<f64>) -> f64 {
        let log = self.log_probs(logits);
        let mut loss = 0.0;
        for (rho, paths) in &self.prompts {
            let implicit = self.implicit(paths, &log);
            for i in 0..paths.len() {
                for j in 0..i {
                    let (m, gap) = (implicit[i] - implicit[j], paths[i].total - paths[j].total);
                    let w = self.weight(*rho, paths, i, j);
                    loss -= w * (sigmoid(gap) * log_sigmoid(m) + sigmoid(-gap) * log_sigmoid(-m));
                }
            }
            if self.law == PairLaw::Reference {
                let equal: f64 = paths.iter().map(|p| p.prob * p.prob).sum();
                loss += rho * equal * std::f64::consts::LN_2;
            }
        }
        loss
    }

    /// Gradient and Hessian in the logits.
    fn derivatives(&self, logits: &DVector<f64>) -> (DVector<f64>, DMatrix<f64>) {
        let log = self.log_probs(logits);
        let d = self.n_logits;
        let (mut gradient, mut hessian) = (DVector::zeros(d), DMatrix::zeros(d, d));
        // Σ over pairs of w (σ(m) − p) times the difference of visits, by state.
        let mut pull = vec![0.0; self.groups.len()];
        for (rho, paths) in &self.prompts {
            let n = paths.len();
            // Rows ∂(implicit reward)/∂logits: β (count of the token − visits · π).
            let mut rows = DMatrix::<f64>::zeros(n, d);
            for (i, path) in paths.iter().enumerate() {
                for &(g, k) in &path.choices {
                    let (_, actions, offset) = &self.groups[g];
                    for b in *offset..offset + actions.len() {
                        rows[(i, b)] -= self.beta * log[b].exp();
                    }
                    rows[(i, k)] += self.beta;
                }
            }
            let implicit = self.implicit(paths, &log);
            let mut slope = DVector::zeros(n);
            let mut laplacian = DMatrix::zeros(n, n);
            for i in 0..n {
                for j in 0..i {
                    let (m, gap) = (implicit[i] - implicit[j], paths[i].total - paths[j].total);
                    let w = self.weight(*rho, paths, i, j);
                    // σ(m) − σ(gap), without cancellation where both are near 1.
                    let miss = if gap > 0.0 && m > 0.0 {
                        sigmoid(-gap) - sigmoid(-m)
                    } else {
                        sigmoid(m) - sigmoid(gap)
                    };
                    let curve = w * sigmoid(m) * sigmoid(-m);
                    slope[i] += w * miss;
                    slope[j] -= w * miss;
                    laplacian[(i, i)] += curve;
                    laplacian[(j, j)] += curve;
                    laplacian[(i, j)] -= curve;
                    laplacian[(j, i)] -= curve;
                }
            }
            gradient += rows.tr_mul(&slope);
            hessian += rows.tr_mul(&(laplacian * &rows));
            for (path, s) in paths.iter().zip(slope.iter()) {
                for (g, _) in &path.choices {
                    pull[*g] += s;
                }
            }
        }
        for ((_, actions, offset), pull) in self.groups.iter().zip(&pull) {
            for i in *offset..offset + actions.len() {
                let p = log[i].exp();
                hessian[(i, i)] -= self.beta * pull * p;
                for j in *offset..offset + actions.len() {
                    hessian[(i, j)] += self.beta * pull * p * log[j].exp();
                }
            }
        }
        (gradient, hessian)
    }

    /// Newton steps damped until they descend, from one start to a stationary point.
    fn descend(&self, start: DVector<f64>, longest: f64) -> (Point, Stationary) {
        let mut point = Point {
            loss: self.loss(&start),
            logits: start,
        };
        let mut damping = 1e-3;
        let mut stationary = Stationary {
            gradient: f64::INFINITY,
            most: 0.0,
        };
        for _ in 0..MOST_STEPS {
            let (gradient, hessian) = self.derivatives(&point.logits);
            let scale = hessian.diagonal().amax().max(f64::MIN_POSITIVE);
            stationary = Stationary {
                gradient: gradient.amax(),
                most: STATIONARY * scale.max(self.beta),
            };
            if gradient.amax() <= 1e-3 * stationary.most || gradient.amax().is_nan() {
                break;
            }
            let mut moved = false;
            for _ in 0..60 {
                let mut damped = hessian.clone();
                for i in 0..self.n_logits {
                    damped[(i, i)] += damping * scale;
                }
                let step = Cholesky::new(damped).map(|c| c.solve(&gradient));
                let short =
                    |s: &DVector<f64>| s.iter().all(|x| x.is_finite()) && s.amax() <= longest;
                if let Some(step) = step.filter(short) {
                    let logits = &point.logits - &step;
                    let loss = self.loss(&logits);
                    // Where the loss is flat to rounding, the gradient still tells.
                    let level = loss <= point.loss + 1e-14 * point.loss.abs();
                    let flat =
                        || level && self.derivatives(&logits).0.amax() < 0.5 * gradient.amax();
                    if loss < point.loss - 1e-14 * point.loss.abs() || flat() {
                        (point, moved) = (Point { logits, loss }, true);
                        damping = (damping * 0.2).max(1e-14);
                        break;
                    }
                }
                damping *= 5.0;
            }
            if !moved {
                break;
            }
        }
        // Centred logits of each state: their common shift means nothing.
        point.logits = self.log_probs(&point.logits);
        (point, stationary)
    }
}
