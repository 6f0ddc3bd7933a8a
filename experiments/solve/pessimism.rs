//! Algorithm 1 with Theorem 4.2, (B.1) plain and baselined, and Remark B.2.

use crate::estimate::{Chosen, Estimate, metric_name};
use crate::notes::Notes;
use crate::report::{Active, Algorithm1, MaxMin, Robust};
use crate::solver::{Solver, Truth, root_rows};
use crate::world::Kind;
use anyhow::Result;
use ndarray::Array2;
use rto::algorithm1::{
    Baseline, KlBalls, PessimisticReward, algorithm1, maxmin, robust_soft_value_iteration,
};
use rto::features::DenseFeatures;
use rto::mdp::{StateIx, TabularPolicy};
use rto::reward::{RewardModel, TabularReward};

/// A duality gap above this share of the terms of the value is told as a failure.
const MOST_GAP: f64 = 1e-8;

impl Solver<'_> {
    /// Algorithm 1 and both sides of Theorem 4.2.
    pub fn algorithm1(&self, e: &Estimate, notes: &mut Notes) -> Result<Algorithm1> {
        let i = self.instance;
        let features = self.features.as_ref().expect("an estimate has features");
        let (set, chosen) = (e.set()?, e.chosen()?);
        let mdp = &i.world.mdp;
        let output = algorithm1(mdp, features, &i.reference, i.beta, &set, None)?;
        let policy = &output.optimum.policy;
        let norms = output.reward.norms();
        let bonus = |t: &Truth| t.visits.expect(|s, a| norms[[s.ix(), a.ix()]]);
        let expected_bonus_norm = self.truth.as_ref().map(bonus);
        let kl = |t: &Truth| t.visits.kl(mdp, &t.star.policy, policy);
        let kl = self.truth.as_ref().map(kl).transpose()?;
        let beta = i.beta.get();
        // At beta = 0 the KL of two greedy policies may be infinite, and counts for nothing.
        let discount = |kl: f64| if beta > 0.0 { beta * kl } else { 0.0 };
        let bound = |(norm, kl): (f64, f64)| 2.0 * chosen.radius * norm - discount(kl);
        let bound = expected_bonus_norm.zip(kl).map(bound);
        let star = i.theta_star.as_ref();
        let without = if beta > 0.0 {
            "the policy gives probability 0 to an action that pi* takes"
        } else {
            "at beta = 0 both policies are greedy, and differ; the bound does not count it"
        };
        Ok(Algorithm1 {
            bonus_scale: chosen.radius,
            pessimistic_value: output.pessimistic_value(mdp),
            suboptimality: notes.part("algorithm1.suboptimality", self.gap(policy)),
            expected_bonus_norm,
            kl: kl.and_then(|kl| notes.finite("algorithm1.kl", kl, without)),
            bound: bound.and_then(|b| notes.finite("algorithm1.bound", b, "it subtracts the KL")),
            theta_star_in_set: star.map(|theta| set.distance(theta) <= chosen.radius),
            metric: metric_name(chosen.metric.kind()),
            root_policy: root_rows(&i.world, |s| policy.probs(s)),
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
        let (set, chosen) = (e.set()?, e.chosen()?);
        let solved = maxmin(&i.world.mdp, features, &i.reference, i.beta, &set, baseline)?;
        let certified = solved.duality_gap <= MOST_GAP * solved.scale;
        if !certified {
            warnings.push(format!(
                "{name}: not solved, its duality gap is {:e}",
                solved.duality_gap
            ));
        }
        let norm_of_expectation = self.norm_of_expectation(chosen, features, &solved.nu)?;
        let policy = &solved.optimum.policy;
        let key = format!("{name}.suboptimality");
        Ok(Some(MaxMin {
            value: solved.value,
            suboptimality: notes.part(&key, self.gap(policy)),
            norm_of_expectation,
            bound: norm_of_expectation.map(|norm| 2.0 * chosen.radius * norm),
            theta_star_in_set: i.theta_star.as_ref().map(|theta| set.contains(theta)),
            active: Active {
                ellipsoid: solved.ellipsoid_active,
                ball: solved.ball_active,
            },
            duality_gap: solved.duality_gap,
            root_policy: root_rows(&i.world, |s| policy.probs(s)),
            theta: solved.theta,
        }))
    }

    /// ‖E_{d*}\[φ\] − ν‖ in the dual of the metric.
    fn norm_of_expectation(
        &self,
        chosen: &Chosen,
        features: &DenseFeatures,
        nu: &[f64],
    ) -> Result<Option<f64>> {
        let Some(t) = &self.truth else {
            return Ok(None);
        };
        let mut expectation = t.visits.features(features)?;
        for (x, nu) in expectation.iter_mut().zip(nu) {
            *x -= nu;
        }
        Ok(Some(chosen.metric.inverse_norm(&expectation)))
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
        let optimum = robust_soft_value_iteration(&mdp, &balls, &reward, &reference, i.beta)?;
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
