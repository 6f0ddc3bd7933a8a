//! From an instance to its report, by the library's planners and estimators.

use crate::estimate::Estimate;
use crate::instance::{Features, Instance};
use crate::report::{Report, Rows, Suboptimality};
use crate::world::World;
use anyhow::{Context, Result};
use nalgebra::DMatrix;
use rto::algorithm1::Baseline;
use rto::features::DenseFeatures;
use rto::mdp::{StateIx, TabularPolicy};
use rto::plan::{
    PREDETERMINED_LIMIT, SoftOptimum, Visitation, best_predetermined, evaluate,
    soft_value_iteration, visitation,
};
use rto::reward::TabularReward;

/// Everything the instance determines.
pub fn solve(instance: &Instance) -> Result<Report> {
    let solver = Solver::new(instance)?;
    let estimate = solver.estimate()?;
    let e = estimate.as_ref();
    let mut warnings = e.map_or(Vec::new(), |e| e.warnings(instance));
    let dpo = solver.dpo(e, &mut warnings)?;
    let mut maxmin = |name, baseline| solver.maxmin(name, e, baseline, &mut warnings);
    let (theorem_b1, baselined) = (
        maxmin("theorem_b1", Baseline::None)?,
        maxmin("baselined", Baseline::Reference)?,
    );
    let known = solver.known()?;
    Ok(Report {
        soft_value: known.soft_value,
        soft_value_mean: known.soft_value_mean,
        reference_value: solver.root_values(&instance.reference)?,
        policy_value: solver.given_policy(Solver::root_values)?,
        suboptimality: Suboptimality {
            reference: solver.gap(&instance.reference)?,
            policy: solver.given_policy(Solver::gap)?,
        },
        root_policy: known.root_policy,
        feature_expectation: known.feature_expectation,
        predetermined_value: solver.predetermined()?,
        mle: e.map(Estimate::mle),
        sigma_d: e.map(|e| matrix_rows(e.sigma.matrix())),
        log_det_sigma: e.map(|e| e.sigma.log_det()),
        algorithm1: e.map(|e| solver.algorithm1(e)).transpose()?,
        theorem_b1,
        baselined,
        robust: solver.robust(e)?,
        rto: solver.rto(dpo.as_ref().map(|d| &d.1))?,
        dpo: dpo.map(|d| d.0),
        warnings,
        radii: estimate.map(|e| e.radii),
    })
}

/// V at s₁ of each prompt; 0 where the episode is over before it starts.
pub fn roots(world: &World, v: &[f64]) -> Vec<f64> {
    let value = |s: &Option<StateIx>| s.map_or(0.0, |s| v[s.ix()]);
    world.roots.iter().map(value).collect()
}

/// One row for each prompt, of its s₁.
pub fn root_rows(world: &World, row: impl Fn(StateIx) -> Vec<f64>) -> Rows {
    world.roots.iter().map(|s| s.map(&row)).collect()
}

fn matrix_rows(matrix: &DMatrix<f64>) -> Vec<Vec<f64>> {
    let rows = matrix.row_iter();
    rows.map(|row| row.iter().copied().collect()).collect()
}

/// What the true reward determines.
pub struct Truth {
    pub reward: TabularReward,
    pub star: SoftOptimum,
    pub visits: Visitation,
}

/// The instance, with what is computed once.
pub struct Solver<'a> {
    pub instance: &'a Instance,
    pub truth: Option<Truth>,
    /// φ over the states of the table.
    pub features: Option<DenseFeatures>,
}

/// The optimum of the true reward as it is reported; null where that is unknown.
#[derive(Default)]
struct Known {
    soft_value: Option<Vec<f64>>,
    soft_value_mean: Option<f64>,
    root_policy: Option<Rows>,
    feature_expectation: Option<Vec<f64>>,
}

impl<'a> Solver<'a> {
    fn new(instance: &'a Instance) -> Result<Self> {
        let world = &instance.world;
        let truth = match &instance.reward {
            None => None,
            Some(table) => {
                let reward = TabularReward::try_new(world.lift(table))?;
                let star =
                    soft_value_iteration(&world.mdp, &reward, &instance.reference, instance.beta)
                        .context("reward")?;
                Some(Truth {
                    visits: visitation(&world.mdp, &star.policy)?,
                    reward,
                    star,
                })
            }
        };
        let over = |f: &Features| f.over(&world.origin, world.n_actions());
        Ok(Self {
            features: instance.features.as_ref().map(over).transpose()?,
            instance,
            truth,
        })
    }

    fn known(&self) -> Result<Known> {
        let world = &self.instance.world;
        let Some(t) = &self.truth else {
            return Ok(Known::default());
        };
        let features = self.features.as_ref();
        Ok(Known {
            soft_value: Some(roots(world, &t.star.v)),
            soft_value_mean: Some(t.star.mean_value(&world.mdp)),
            root_policy: Some(root_rows(world, |s| t.star.policy.probs(s))),
            feature_expectation: features.map(|f| t.visits.features(f)).transpose()?,
        })
    }

    /// Of the policy that the instance gives, if it gives one.
    fn given_policy<T>(
        &self,
        what: impl Fn(&Self, &TabularPolicy) -> Result<Option<T>>,
    ) -> Result<Option<T>> {
        match &self.instance.policy {
            None => Ok(None),
            Some(policy) => what(self, policy),
        }
    }

    /// V^π_β(s₁) for each prompt.
    fn root_values(&self, policy: &TabularPolicy) -> Result<Option<Vec<f64>>> {
        let Some(truth) = &self.truth else {
            return Ok(None);
        };
        let v = self.evaluate(truth, policy)?;
        Ok(Some(roots(&self.instance.world, &v)))
    }

    fn evaluate(&self, truth: &Truth, policy: &TabularPolicy) -> Result<Vec<f64>> {
        let i = self.instance;
        Ok(evaluate(&i.world.mdp, &truth.reward, policy, &i.reference, i.beta)?.v)
    }

    /// SubOpt(π) for the true reward at β.
    pub fn gap(&self, policy: &TabularPolicy) -> Result<Option<f64>> {
        let Some(truth) = &self.truth else {
            return Ok(None);
        };
        let mdp = &self.instance.world.mdp;
        let value = rto::plan::mean_value(mdp, &self.evaluate(truth, policy)?);
        Ok(Some(truth.star.mean_value(mdp) - value))
    }

    fn predetermined(&self) -> Result<Option<f64>> {
        let mdp = &self.instance.world.mdp;
        let sequences = (mdp.n_actions() as f64).powi(mdp.horizon() as i32);
        if sequences > PREDETERMINED_LIMIT as f64 {
            return Ok(None);
        }
        let best = |t: &Truth| best_predetermined(mdp, &t.reward, &self.instance.reference);
        Ok(self.truth.as_ref().map(best).transpose()?.map(|b| b.value))
    }
}
