//! Algorithm 1 with Theorem 4.2, (B.1) plain and baselined, and Remark B.2.

use crate::estimate::{Estimate, metric_name};
use crate::notes::{LOST, LOST_BONUS, Notes};
use crate::report::{Active, Algorithm1, MaxMin, Robust, Rows};
use crate::solver::{Solver, root_rows};
use crate::world::Kind;
use anyhow::Result;
use ndarray::Array2;
use rto::algorithm1::{
    Baseline, KlBalls, PessimisticReward, algorithm1, bound_4_2, bound_b1, maxmin, robust_rounding,
    robust_soft_value_iteration,
};
use rto::features::FeatureMap;
use rto::mdp::{ActionIx, Problem, StateIx, TabularPolicy};
use rto::plan::Rounding;
use rto::reward::{RewardFunction, TabularReward};

/// Why it is not said whether a constraint is active.
const EITHER: &str = "not determined in floating point: the ellipsoid and the ball hold the worst parameter where either alone would, or what holds it is hardly more than rounding";

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
        let size = format!("bonuses of the size of bonus_scale = {:.4e}", set.radius);
        let lost = self.tie(&size);
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
        // How far off the expected bonus may be.
        let of_norm = |s, a| {
            let mut phi = vec![0.0; features.dim()];
            features.write(s, a, &mut phi);
            set.metric
                .inverse_norm_rounding(&phi, &vec![0.0; features.dim()])
        };
        let of_norm = truth.map_or(0.0, |truth| truth.visits.expect(of_norm));
        let mut kept = |key: &str, x: f64, off: f64, size: f64, why: &str| {
            let x = notes.finite(key, x, why)?;
            let sure = off <= share * size;
            if !sure {
                notes.say(key, why);
                return None;
            }
            Some(x)
        };
        let expected_bonus_norm = right.and_then(|r| {
            let norm = r.expected_bonus_norm;
            kept(
                "algorithm1.expected_bonus_norm",
                norm,
                of_norm,
                norm,
                LOST_BONUS,
            )
        });
        let kl = right.and_then(|r| {
            let why = if r.kl.is_finite() {
                lost.as_str()
            } else {
                without
            };
            kept("algorithm1.kl", r.kl, off, 1.0 + r.kl, why)
        });
        let bound = right.and_then(|r| {
            let off = i.beta.get() * off + 2.0 * set.radius * of_norm;
            let size = i.beta.get() + r.bound.abs();
            let why = match r.bound.is_finite() {
                true => lost.as_str(),
                false => "it subtracts the KL",
            };
            kept("algorithm1.bound", r.bound, off, size, why)
        });
        let mut root_policy = root_rows(&i.world, |s| policy.probs(s));
        if let Some(rounding) = &rounding {
            let starts = &i.world.roots;
            Self::decided(
                "algorithm1",
                starts,
                rounding,
                &lost,
                &mut root_policy,
                notes,
            );
        }
        Ok(Algorithm1 {
            bonus_scale: set.radius,
            pessimistic_value: output.pessimistic_value(&i.world.mdp),
            suboptimality,
            expected_bonus_norm,
            kl,
            bound,
            theta_star_in_set: right.and_then(|r| r.premise),
            metric: metric_name(set.metric.kind()),
            root_policy,
        })
    }

    /// Why a policy that rounding of `what` decides is null.
    fn tie(&self, what: &str) -> String {
        format!(
            "not determined in floating point: rounding of {what} is not small beside beta = {}, and decides between actions",
            self.instance.beta.get()
        )
    }

    /// Nulls, with the reason, the rows of π̂ at those first states that rounding decides; a start that is none has no row.
    fn decided(
        part: &str,
        starts: &[Option<StateIx>],
        rounding: &Rounding,
        why: &str,
        rows: &mut Rows,
        notes: &mut Notes,
    ) {
        for (k, (row, s)) in rows.iter_mut().zip(starts).enumerate() {
            if s.is_some_and(|s| !rounding.decides(s)) {
                *row = None;
                notes.say(format!("{part}.root_policy[{k}]"), why);
            }
        }
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
        let theta_star_in_set = right.and_then(|r| r.premise);
        let policy = &solved.optimum.policy;
        let key = |quantity: &str| format!("{name}.{quantity}");
        let of_reward = |s, a| {
            let mut phi = vec![0.0; features.dim()];
            features.write(s, a, &mut phi);
            let terms = phi.iter().zip(&solved.theta).map(|(x, t)| (x * t).abs());
            Rounding::of_dot(features.dim(), terms.sum())
        };
        let rounding = Rounding::of(i.problem(), &solved.optimum, of_reward)?;
        let lost = self.tie("the worst reward of the confidence set");
        let mut root_policy = root_rows(&i.world, |s| policy.probs(s));
        let starts = &i.world.roots;
        Self::decided(name, starts, &rounding, &lost, &mut root_policy, notes);
        let suboptimality = if rounding.decides_all() || self.truth.is_none() {
            notes.part(&key("suboptimality"), self.gap(policy))
        } else {
            notes.say(key("suboptimality"), &lost);
            None
        };
        let right = right.filter(|r| {
            let kept = r.rounding <= Rounding::NEGLIGIBLE * (i.beta.get() + r.bound);
            if !kept {
                notes.say(key("norm_of_expectation"), LOST);
                notes.say(key("bound"), LOST);
            }
            kept
        });
        let active = [
            ("ellipsoid", solved.ellipsoid_active),
            ("ball", solved.ball_active),
        ];
        for (constraint, _) in active.iter().filter(|(_, active)| active.is_none()) {
            notes.say(key(&format!("active.{constraint}")), EITHER);
        }
        Ok(Some(MaxMin {
            value: solved.value,
            suboptimality,
            norm_of_expectation: right.map(|r| r.norm_of_expectation),
            bound: right.map(|r| r.bound),
            theta_star_in_set,
            active: Active {
                ellipsoid: solved.ellipsoid_active,
                ball: solved.ball_active,
            },
            duality_gap: solved.duality_gap,
            root_policy,
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
        // What rounding leaves open of the reward, where it is made of an estimate.
        let mut of_reward = Array2::zeros((origin.len(), actions));
        let (reward, name) = match (estimate, &i.features, &i.reward) {
            (Some(e), Some(features), _) => {
                let phi = features.over(&origin, actions)?;
                let set = e.set()?;
                let hat = PessimisticReward::try_new(&phi, &set, None)?;
                for ((s, a), off) in of_reward.indexed_iter_mut() {
                    *off = hat.rounding(&phi, &set, StateIx(s as u32), ActionIx(a as u32));
                }
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
        let problem = Problem::new(&mdp, &reference, i.beta);
        let optimum = robust_soft_value_iteration(problem, &balls, &reward)?;
        // A state comes first on the step it starts on.
        let mut first = vec![None; i.world.n_states()];
        for (root, s) in origin.iter().enumerate().rev() {
            first[*s] = Some(root);
        }
        let starts: Vec<Option<StateIx>> = (i.world.roots.iter().zip(&first))
            .map(|(root, first)| root.and(*first).map(|s| StateIx(s as u32)))
            .collect();
        let rows = starts.iter().map(|s| s.map(|s| optimum.policy.probs(s)));
        let mut root_policy: Rows = rows.collect();
        if i.beta.get() > 0.0 && name == "pessimistic" {
            let of_reward = |s: StateIx, a: ActionIx| of_reward[[s.ix(), a.ix()]];
            let rounding = robust_rounding(problem, &balls, &optimum, of_reward)?;
            let lost = self.tie("a large radius in the pessimistic reward");
            Self::decided("robust", &starts, &rounding, &lost, &mut root_policy, notes);
        }
        Ok(Some(Robust {
            value: optimum.mean_value(&mdp),
            reward: name,
            root_policy,
        }))
    }
}
