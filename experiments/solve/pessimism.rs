//! Algorithm 1 with Theorem 4.2, (B.1) plain and baselined, and Remark B.2.

use crate::estimate::{Estimate, metric_name};
use crate::notes::Notes;
use crate::report::{Active, Algorithm1, MaxMin, Robust};
use crate::solver::{Solver, root_rows};
use crate::world::Kind;
use anyhow::Result;
use ndarray::Array2;
use rto::algorithm1::{
    Baseline, KlBalls, PessimisticReward, Rounding, algorithm1, bound_4_2, bound_b1, maxmin,
    robust_soft_value_iteration,
};
use rto::mdp::{Problem, StateIx, TabularPolicy};
use rto::reward::{RewardFunction, TabularReward};

/// A duality gap above this share of the terms of the value is told as a failure.
const MOST_GAP: f64 = 1e-8;

impl Solver<'_> {
    /// Algorithm 1 and both sides of Theorem 4.2.
    pub fn algorithm1(&self, e: &Estimate, notes: &mut Notes) -> Result<Algorithm1> {
        let i = self.instance;
        let features = self.features.as_ref().expect("an estimate has features");
        let set = e.set()?;
        let output = algorithm1(i.problem(), features, &set, None)?;
        let policy = &output.optimum.policy;
        let right = self.truth.as_ref().map(|t| bound_4_2(t, &set, &output));
        let right = right.transpose()?;
        let without = if i.beta.get() > 0.0 {
            "the policy gives probability 0 to an action that pi* takes"
        } else {
            "at beta = 0 both policies are greedy, and differ; the bound does not count it"
        };
        // At β = 0 the first of several maximisers is taken.
        let smooth = i.beta.get() > 0.0;
        let rounding = smooth.then(|| output.rounding(i.problem(), features, &set));
        let rounding = rounding.transpose()?;
        let lost = format!(
            "not determined in floating point: rounding of bonuses of the size of bonus_scale = {:.4e} is not small beside beta = {}, and decides between actions",
            set.radius,
            i.beta.get()
        );
        let truth = self.truth.as_ref();
        let decided = rounding.as_ref().is_none_or(|r| r.decides_all());
        let suboptimality = if decided || truth.is_none() {
            notes.part("algorithm1.suboptimality", self.gap(policy))
        } else {
            notes.say("algorithm1.suboptimality", &lost);
            None
        };
        // How far off the expected KL may be.
        let off = rounding.as_ref().zip(truth);
        let off = off.map_or(0.0, |(r, truth)| r.of_kl(&truth.visits));
        let share = Rounding::NEGLIGIBLE;
        let mut right_side = |key: &str, x: f64, off: f64, size: f64, why: &str| {
            let x = notes.finite(key, x, why)?;
            if off > share * size {
                notes.say(key, &lost);
                return None;
            }
            Some(x)
        };
        let kl = right.and_then(|r| right_side("algorithm1.kl", r.kl, off, 1.0 + r.kl, without));
        let bound = right.and_then(|r| {
            let off = i.beta.get() * off;
            let size = i.beta.get() + r.bound.abs();
            right_side(
                "algorithm1.bound",
                r.bound,
                off,
                size,
                "it subtracts the KL",
            )
        });
        let mut root_policy = root_rows(&i.world, |s| policy.probs(s));
        for (k, (row, s)) in root_policy.iter_mut().zip(&i.world.roots).enumerate() {
            if let (Some(s), Some(rounding)) = (s, &rounding)
                && !rounding.decides(*s)
            {
                *row = None;
                notes.say(format!("algorithm1.root_policy[{k}]"), &lost);
            }
        }
        Ok(Algorithm1 {
            bonus_scale: set.radius,
            pessimistic_value: output.pessimistic_value(&i.world.mdp),
            suboptimality,
            expected_bonus_norm: right.map(|r| r.expected_bonus_norm),
            kl,
            bound,
            theta_star_in_set: right.and_then(|r| r.premise),
            metric: metric_name(set.metric.kind()),
            root_policy,
        })
    }

    /// (B.1); null at β = 0, where the program is not smooth.
    pub fn maxmin(
        &self,
        name: &str,
        estimate: Option<&Estimate>,
        baseline: Baseline,
        warnings: &mut Vec<String>,
        notes: &mut Notes,
    ) -> Result<Option<MaxMin>> {
        let i = self.instance;
        let (Some(e), Some(features)) = (estimate, &self.features) else {
            return Ok(None);
        };
        if i.beta.get() == 0.0 {
            notes.say(
                name,
                "not computed: at beta = 0 the program (B.1) is not smooth",
            );
            return Ok(None);
        }
        let set = e.set()?;
        let solved = maxmin(i.problem(), features, &set, baseline)?;
        let certified = solved.duality_gap <= MOST_GAP * solved.scale;
        if !certified {
            warnings.push(format!(
                "{name}: not solved, its duality gap is {:e}",
                solved.duality_gap
            ));
        }
        let right = self
            .truth
            .as_ref()
            .map(|t| bound_b1(t, features, &set, &solved));
        let right = right.transpose()?;
        let policy = &solved.optimum.policy;
        let key = format!("{name}.suboptimality");
        Ok(Some(MaxMin {
            value: solved.value,
            suboptimality: notes.part(&key, self.gap(policy)),
            norm_of_expectation: right.map(|r| r.norm_of_expectation),
            bound: right.map(|r| r.bound),
            theta_star_in_set: right.and_then(|r| r.premise),
            active: Active {
                ellipsoid: solved.ellipsoid_active,
                ball: solved.ball_active,
            },
            duality_gap: solved.duality_gap,
            root_policy: root_rows(&i.world, |s| policy.probs(s)),
            theta: solved.theta,
        }))
    }

    /// Remark B.2 on the table with P̂: with r̂ of (4.2) where there are preferences, else the given reward.
    pub fn robust(&self, estimate: Option<&Estimate>, notes: &mut Notes) -> Result<Option<Robust>> {
        let i = self.instance;
        let (Kind::General(general), Some(counts)) = (&i.world.kind, &i.counts) else {
            return Ok(None);
        };
        let actions = i.world.n_actions();
        let (mdp, origin) = general.with_rows(&counts.rows, i.world.horizon)?;
        let over = |table: &Array2<f64>| {
            Array2::from_shape_fn((origin.len(), actions), |(s, a)| table[[origin[s], a]])
        };
        let (reward, name) = match (estimate, &i.features, &i.reward) {
            (Some(e), Some(features), _) => {
                let phi = features.over(&origin, actions)?;
                let hat = PessimisticReward::try_new(&phi, &e.set()?, None)?;
                (hat.tabulate(), "pessimistic")
            }
            (_, _, Some(table)) => (TabularReward::try_new(over(table))?, "given"),
            _ => {
                let why = "unknown: neither a reward nor an estimate of it is there";
                notes.say("robust", why);
                return Ok(None);
            }
        };
        let balls = KlBalls::from_counts(&over(&counts.visits), counts.zeta)?;
        let reference = TabularPolicy::from_log_probs(over(&i.reference_table))?;
        let optimum =
            robust_soft_value_iteration(Problem::new(&mdp, &reference, i.beta), &balls, &reward)?;
        // A state comes first on the step it starts on.
        let mut first = vec![None; i.world.n_states()];
        for (root, s) in origin.iter().enumerate().rev() {
            first[*s] = Some(root);
        }
        let rows = i.world.roots.iter().zip(first).map(|(root, first)| {
            root.and(first)
                .map(|s| optimum.policy.probs(StateIx(s as u32)))
        });
        Ok(Some(Robust {
            value: optimum.mean_value(&mdp),
            reward: name,
            root_policy: rows.collect(),
        }))
    }
}
