//! The worlds of the study and what needs no training on them: SFT sharpened, best-of-n, DPO, the exact optimum and its frontier.

use std::sync::{Arc, Mutex};

use anyhow::Result;
use rto::mdp::{ActionIx, Beta, Problem, StateIx, TabularPolicy, for_each_trajectory};
use rto::plan::soft_value_iteration;
use rto::policy::{ExactEvaluator, StateMap};
use rto::reward::{RewardFunction, TabularReward};
use rto::token_reward::DenseReward;
use rto_harness::on_tree::setup::Setup;
use rto_harness::on_tree::tabulate;
use rto_harness::table::Cell;

use crate::{Instance, Study};

/// The worlds of an instance, each made when a cell first asks.
#[derive(Default)]
pub struct Worlds(Mutex<Vec<(Instance, u64, Slot)>>);

type Slot = Arc<Mutex<Option<Arc<Setup>>>>;

impl Worlds {
    /// The world of a seed.
    pub fn get(&self, study: &Study, instance: Instance, seed: u64) -> Result<Arc<Setup>> {
        let slot = {
            let mut all = self.0.lock().expect("no cell panics with the lock");
            match all.iter().find(|(i, s, _)| (*i, *s) == (instance, seed)) {
                Some((_, _, slot)) => slot.clone(),
                None => {
                    let slot = Slot::default();
                    all.push((instance, seed, slot.clone()));
                    slot
                }
            }
        };
        // Whoever asks for the same world waits here until it is there.
        let mut world = slot.lock().expect("no cell panics with the lock");
        if let Some(setup) = &*world {
            return Ok(setup.clone());
        }
        let config = &study.config;
        let seeds = study
            .seeds
            .child("world")
            .child(instance.name())
            .index(seed);
        let setup = Setup::new(config.draw(), &config.dpo, config.size(instance), &seeds)?;
        Ok(world.insert(Arc::new(setup)).clone())
    }
}

/// Reward, KL in nats per response.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Measured {
    /// E Σ r*.
    pub reward: f64,
    /// KL(π‖π_ref).
    pub kl: f64,
}

/// Exact measures under the true reward.
pub struct Truth(ExactEvaluator);

impl Truth {
    pub fn new(setup: &Setup, beta2: f64) -> Result<Self> {
        let (map, reference) = (setup.map.clone(), setup.reference.clone());
        let beta2 = Beta::try_new(beta2)?;
        Ok(Self(ExactEvaluator::try_new(
            map,
            &setup.reward,
            reference,
            beta2,
        )?))
    }

    /// J of the best policy.
    pub fn optimum(&self) -> f64 {
        self.0.optimum()
    }

    pub fn measure(&self, policy: &TabularPolicy) -> Result<Measured> {
        let report = self.0.report(policy)?;
        Ok(Measured {
            reward: report.reward,
            kl: report.kl,
        })
    }

    /// E Σ r* of greedy decoding.
    pub fn greedy(&self, policy: &TabularPolicy) -> Result<f64> {
        Ok(self.measure(&greedy(policy)?)?.reward)
    }
}

/// The columns of `worlds.csv`.
pub const COLUMNS: &[&str] = &["instance", "seed", "policy", "parameter", "reward", "kl"];

/// Points of the frontier, from β = 20 down to 0.02.
const FRONTIER: i32 = 36;

/// The policies of a world that need no training of PPO, one row each. `parameter` is the temperature, n or β.
pub fn rows(study: &Study, instance: Instance, seed: u64) -> Result<Vec<Vec<Cell>>> {
    let c = &study.config;
    let setup = study.worlds.get(study, instance, seed)?;
    let truth = Truth::new(&setup, c.ppo.beta2)?;
    let dpo = setup.dpo.table()?;
    let optimum = |beta: f64| -> Result<Measured> {
        let problem = Problem::new(setup.map.mdp(), &setup.reference, Beta::try_new(beta)?);
        truth.measure(&soft_value_iteration(problem, &setup.reward)?.policy)
    };
    let mut found = vec![
        ("sft", 1.0, truth.measure(&setup.reference)?),
        ("greedy", 0.0, truth.measure(&greedy(&setup.reference)?)?),
        ("dpo", 1.0, truth.measure(&dpo)?),
        ("dpo_greedy", 0.0, truth.measure(&greedy(&dpo)?)?),
        ("optimum", c.ppo.beta2, optimum(c.ppo.beta2)?),
    ];
    for &t in &c.temperatures {
        let logits = setup.reference.log_probs() / t;
        let policy = TabularPolicy::from_logits(logits)?;
        found.push(("sharpened", t, truth.measure(&policy)?));
    }
    let learnt = [
        (
            "best_of_reward_model",
            tabulate(&setup.map, &DenseReward(&setup.reward_model))?,
        ),
        ("best_of_dpo", tabulate(&setup.map, &setup.dpo_reward()?)?),
    ];
    for (name, score) in &learnt {
        for &n in &c.best_of {
            found.push((name, f64::from(n), best_of_n(&setup, score, n)?));
        }
    }
    for i in 0..=FRONTIER {
        let beta = 20.0 * 0.001f64.powf(f64::from(i) / f64::from(FRONTIER));
        found.push(("frontier", beta, optimum(beta)?));
    }
    let row = |(policy, parameter, m): (&str, f64, Measured)| -> Vec<Cell> {
        vec![
            instance.name().into(),
            seed.into(),
            policy.into(),
            rounded(parameter).into(),
            rounded(m.reward).into(),
            rounded(m.kl).into(),
        ]
    };
    Ok(found.into_iter().map(row).collect())
}

/// Eight digits: what a table needs, and the same on processors that add in vectors of other widths.
pub fn rounded(value: f64) -> f64 {
    format!("{value:.7e}")
        .parse()
        .expect("a number that was one")
}

/// The most probable token of every state, the first of several.
pub fn greedy(policy: &TabularPolicy) -> Result<TabularPolicy> {
    let mut logs = policy.log_probs().clone();
    for mut row in logs.rows_mut() {
        let mut best = 0;
        for (a, l) in row.iter().enumerate() {
            if *l > row[best] {
                best = a;
            }
        }
        for (a, l) in row.iter_mut().enumerate() {
            *l = if a == best { 0.0 } else { f64::NEG_INFINITY };
        }
    }
    Ok(TabularPolicy::from_log_probs(logs)?)
}

/// The best of n responses of π_ref by a score Σ r(s, a), exactly: with F the distribution function of the score under π_ref, a response y is it with
/// probability (F(s)ⁿ − F(s−)ⁿ) π_ref(y) / P(score = s), s its score; equal scores share as π_ref has them.
pub fn best_of_n(setup: &Setup, score: &TabularReward, n: u32) -> Result<Measured> {
    let mdp = setup.map.mdp();
    let sum = |of: &TabularReward, steps: &[(StateIx, ActionIx)]| -> f64 {
        steps.iter().map(|(s, a)| of.reward(*s, *a)).sum()
    };
    let (mut reward, mut kl) = (0.0, 0.0);
    for (p, (root, mass)) in mdp.roots().enumerate() {
        debug_assert_eq!(setup.map.root(&StateMap::prompt(p))?, root);
        // Score, π_ref and true reward of each response.
        let mut all: Vec<(f64, f64, f64)> = Vec::new();
        for_each_trajectory(mdp, root, |steps| {
            let logs = steps.iter().map(|(s, a)| setup.reference.log_prob(*s, *a));
            let prob = logs.sum::<f64>().exp();
            all.push((sum(score, steps), prob, sum(&setup.reward, steps)));
        })?;
        all.sort_by(|a, b| a.0.total_cmp(&b.0));
        let total: f64 = all.iter().map(|r| r.1).sum();
        let mut below = 0.0;
        for level in all.chunk_by(|a, b| a.0 == b.0) {
            let here: f64 = level.iter().map(|r| r.1).sum::<f64>() / total;
            let power = |x: f64| x.min(1.0).powi(n as i32);
            // How much likelier each response of this score becomes.
            let ratio = (power(below + here) - power(below)) / here;
            for (_, prob, r) in level {
                let prob = prob / total * ratio;
                reward += mass * prob * r;
                if prob > 0.0 {
                    kl += mass * prob * ratio.ln();
                }
            }
            below += here;
        }
    }
    Ok(Measured { reward, kl })
}
