//! Exact evaluation of any policy by enumerating its responses.

use std::sync::Arc;

use ndarray::Array2;

use super::StateMap;
use crate::check;
use crate::mdp::{ActionIx, Beta, Problem, StateIx, TabularPolicy, for_each_trajectory};
use crate::numerics::log_sum_exp;
use crate::plan::{evaluate, soft_value_iteration, visitation};
use crate::reward::{RewardFunction, TabularReward};
use crate::seq::{Channel, Episode, TokenScorer};
use crate::{Error, Result, Token};

/// How far Σ_a π(a|s) may be from 1 in the scores of a policy: room for single precision.
const NORMALISATION: f64 = 1e-4;

/// Section 3.1: π(a|s) of any policy at every state of a table, by scoring all A^H responses of every prompt in batches
/// of at most `rows` responses.
///
/// Rows are renormalised to 1 in f64. States no response reaches (after an end-of-sentence token) get 1/A.
///
/// # Errors
/// Those of scoring; [`Error::NotADistribution`] naming a state whose probabilities sum to something further than
/// 1e-4 from 1; [`Error::Config`] when `rows` is 0.
pub fn tabulate(
    policy: &(impl TokenScorer + ?Sized),
    map: &StateMap,
    rows: usize,
) -> Result<TabularPolicy> {
    if rows == 0 {
        return Err(Error::config("rows", 0, "at least 1"));
    }
    let mdp = map.mdp();
    let mut table = Array2::from_elem((mdp.n_states(), mdp.n_actions()), f64::NAN);
    for p in 0..map.n_prompts() {
        let prompt = StateMap::prompt(p);
        let mut batch = Vec::with_capacity(rows);
        let mut failed = None;
        for_each_trajectory(mdp, map.root(&prompt)?, |steps| {
            if failed.is_some() {
                return;
            }
            batch.push(response(map, &prompt, steps));
            if batch.len() == rows {
                failed = fill(policy, map, &batch, &mut table).err();
                batch.clear();
            }
        })?;
        if let Some(error) = failed {
            return Err(error);
        }
        fill(policy, map, &batch, &mut table)?;
    }
    normalise(table)
}

fn response(map: &StateMap, prompt: &Arc<[Token]>, steps: &[(StateIx, ActionIx)]) -> Episode {
    let response: Vec<Token> = steps.iter().map(|(_, a)| a.0).collect();
    Episode {
        finish: map.finish(response[response.len() - 1]),
        prompt: prompt.clone(),
        response,
    }
}

/// Writes the log-probabilities of a batch into the table.
fn fill(
    policy: &(impl TokenScorer + ?Sized),
    map: &StateMap,
    batch: &[Episode],
    table: &mut Array2<f64>,
) -> Result<()> {
    if batch.is_empty() {
        return Ok(());
    }
    let scores = policy.scores(batch)?;
    let log_probs = scores.get(Channel::LogProb)?;
    let walk = map.walk_all(batch)?;
    check::len("log_prob", walk.steps.len(), log_probs.n_tokens())?;
    for ((s, a), l) in walk.steps.iter().zip(log_probs.values()) {
        table[[s.ix(), a.ix()]] = *l;
    }
    Ok(())
}

fn normalise(mut table: Array2<f64>) -> Result<TabularPolicy> {
    let uniform = -(table.ncols() as f64).ln();
    for (s, mut row) in table.rows_mut().into_iter().enumerate() {
        if row.iter().all(|l| l.is_nan()) {
            row.fill(uniform);
            continue;
        }
        let norm = log_sum_exp(&row.to_vec());
        // NaN fails too.
        if !(norm.exp() - 1.0).abs().le(&NORMALISATION) {
            return Err(Error::NotADistribution {
                what: format!("policy[{s}]"),
                sum: norm.exp(),
            });
        }
        row -= norm;
    }
    Ok(TabularPolicy::trusted(table))
}

/// (3.2), (3.5): What a policy is worth, without sampling.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct ExactReport {
    /// V^π_β(ρ) of (3.2).
    pub value: f64,
    /// V*_β(ρ) − V^π_β(ρ) of (3.5).
    pub suboptimality: f64,
    /// E_{d^π}\[r\], the mean sentence reward.
    pub reward: f64,
    /// E_{d^π}\[KL(π ‖ π_ref)\] in nats, the KL of whole responses.
    pub kl: f64,
    /// E_{d^π}\[entropy\] in nats, the entropy of whole responses.
    pub entropy: f64,
    /// The mean number of tokens.
    pub length: f64,
}

impl ExactReport {
    const NOTHING: Self = Self {
        value: 0.0,
        suboptimality: 0.0,
        reward: 0.0,
        kl: 0.0,
        entropy: 0.0,
        length: 0.0,
    };
}

/// Reward, reference and β of (3.2), with the optimum computed once.
#[derive(Debug, Clone)]
pub struct ExactEvaluator {
    map: Arc<StateMap>,
    reward: TabularReward,
    reference: TabularPolicy,
    beta: Beta,
    optimum: f64,
    optimal: TabularPolicy,
}

impl ExactEvaluator {
    /// An evaluator.
    ///
    /// # Errors
    /// As [`soft_value_iteration`].
    pub fn try_new(
        map: Arc<StateMap>,
        reward: &impl RewardFunction,
        reference: TabularPolicy,
        beta: Beta,
    ) -> Result<Self> {
        let best = soft_value_iteration(Problem::new(map.mdp(), &reference, beta), reward)?;
        Ok(Self {
            optimum: best.mean_value(map.mdp()),
            optimal: best.policy,
            reward: reward.tabulate(),
            map,
            reference,
            beta,
        })
    }

    /// V*_β(ρ).
    pub fn optimum(&self) -> f64 {
        self.optimum
    }

    /// π*_β.
    pub fn optimal(&self) -> &TabularPolicy {
        &self.optimal
    }

    /// The report of a table, in one backward pass: reward, KL, entropy and length to go of every state.
    ///
    /// # Errors
    /// [`Error::Shape`]; [`Error::Config`] naming a pair with π > 0 = π_ref, where the KL is infinite.
    pub fn report(&self, policy: &TabularPolicy) -> Result<ExactReport> {
        let [report] = Self::reports([self], policy)?;
        Ok(report)
    }

    /// The reports of one table under several rewards and β, in one backward pass; to the last bit those of [`Self::report`].
    ///
    /// # Errors
    /// As [`Self::report`]; [`Error::Config`] unless all are of one tree and one reference.
    pub fn reports<const N: usize>(
        evaluators: [&Self; N],
        policy: &TabularPolicy,
    ) -> Result<[ExactReport; N]> {
        let Some(first) = evaluators.first() else {
            return Ok([const { ExactReport::NOTHING }; N]);
        };
        let same = |e: &&Self| Arc::ptr_eq(&e.map, &first.map) && e.reference == first.reference;
        if !evaluators.iter().all(same) {
            return Err(Error::config(
                "evaluators",
                "different trees or references",
                "of one tree and one reference",
            ));
        }
        let mdp = first.map.mdp();
        let (n, na) = (mdp.n_states(), mdp.n_actions());
        policy.check_shape("policy", n, na)?;
        // KL, entropy and length, which the evaluators share, and the reward of each.
        let mut to_go = vec![([0.0f64; 3], [0.0f64; N]); n];
        let rewards = evaluators.map(|e| {
            let values = e.reward.values().as_slice();
            values.expect("rewards are stored in row order")
        });
        for s in (0..n).rev() {
            let rows = policy.row(s).iter().zip(first.reference.row(s));
            let (mut sum, mut gains) = ([0.0; 3], [0.0; N]);
            for (a, (l, q)) in rows.enumerate() {
                if *l == f64::NEG_INFINITY {
                    continue;
                }
                let p = l.exp();
                let own = [l - q, -l, 1.0];
                let next = first.map.next(StateIx(s as u32), ActionIx(a as u32));
                let (later, gained) = match next {
                    StateIx::END => ([0.0; 3], [0.0; N]),
                    next => to_go[next.ix()],
                };
                for k in 0..3 {
                    sum[k] += p * (own[k] + later[k]);
                }
                for k in 0..N {
                    gains[k] += p * (rewards[k][s * na + a] + gained[k]);
                }
            }
            to_go[s] = (sum, gains);
        }
        let mean = |to_go: &dyn Fn(usize) -> f64| -> f64 {
            mdp.roots().map(|(s, p)| p * to_go(s.ix())).sum()
        };
        let [kl, entropy, length] = [0, 1, 2].map(|k| mean(&|s| to_go[s].0[k]));
        if !kl.is_finite() {
            // The planner's own check names the pair.
            evaluate(
                Problem::new(mdp, &first.reference, first.beta),
                &first.reward,
                policy,
            )?;
            let what = "KL to the reference".into();
            return Err(Error::NonFinite { what, value: kl });
        }
        let mut out = [const { ExactReport::NOTHING }; N];
        for (k, (out, e)) in out.iter_mut().zip(evaluators).enumerate() {
            let reward = mean(&|s| to_go[s].1[k]);
            let value = reward - e.beta.get() * kl;
            *out = ExactReport {
                value,
                suboptimality: e.optimum - value,
                reward,
                kl,
                entropy,
                length,
            };
        }
        Ok(out)
    }

    /// The report of any policy, through [`tabulate`].
    ///
    /// # Errors
    /// As [`tabulate`] and [`ExactEvaluator::report`].
    pub fn report_scores(
        &self,
        policy: &(impl TokenScorer + ?Sized),
        rows: usize,
    ) -> Result<ExactReport> {
        self.report(&tabulate(policy, &self.map, rows)?)
    }
}

/// (3.2): V^π_β(ρ) and its gradient in the logits of π, `[n_states, n_actions]`:
///
/// ∂V^π_β(ρ)/∂z(s, a) = d^π(s) π(a|s) (Q^π_β(s, a) − β log π(a|s) − V^π_β(s)).
///
/// With r = β₁ log(π_dpo/π_ref) and β = β₂ it is the exact gradient of RTO, whose optimum is [`crate::plan::rto_optimum`].
///
/// # Errors
/// As [`evaluate`].
pub fn exact_policy_gradient(
    problem: Problem<'_>,
    reward: &impl RewardFunction,
    policy: &TabularPolicy,
) -> Result<(f64, Array2<f64>)> {
    let (mdp, beta) = (problem.mdp, problem.beta);
    let value = evaluate(problem, reward, policy)?;
    let mut gradient = visitation(mdp, policy)?.pair;
    for ((s, a), g) in gradient.indexed_iter_mut() {
        if *g > 0.0 {
            let log_pi = policy.log_probs()[[s, a]];
            *g *= value.q[[s, a]] - beta.get() * log_pi - value.v[s];
        }
    }
    Ok((value.mean_value(mdp), gradient))
}

/// max over prompts of the total variation ½ Σ_y |p(y|x) − q(y|x)| between response distributions.
///
/// # Errors
/// [`Error::Shape`]; [`Error::Assumption`] on a stochastic table. Takes A^H steps.
pub fn response_total_variation(
    map: &StateMap,
    p: &TabularPolicy,
    q: &TabularPolicy,
) -> Result<f64> {
    let mdp = map.mdp();
    for (what, policy) in [("first policy", p), ("second policy", q)] {
        policy.check_shape(what, mdp.n_states(), mdp.n_actions())?;
    }
    let mut worst = 0.0f64;
    for prompt in 0..map.n_prompts() {
        let mut total = 0.0;
        for_each_trajectory(mdp, map.root(&StateMap::prompt(prompt))?, |steps| {
            let mass = |policy: &TabularPolicy| {
                let log: f64 = steps.iter().map(|&(s, a)| policy.log_prob(s, a)).sum();
                log.exp()
            };
            total += 0.5 * (mass(p) - mass(q)).abs();
        })?;
        worst = worst.max(total);
    }
    Ok(worst)
}
