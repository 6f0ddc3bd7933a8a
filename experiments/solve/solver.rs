//! From an instance to its report, by the library's planners and estimators.

use crate::instance::{Features, Instance};
use crate::notes::Notes;
use crate::report::{Report, Rows, Suboptimality};
use crate::world::World;
use anyhow::{Context, Result};
use nalgebra::DMatrix;
use ndarray::Array2;
use rto::algorithm1::Baseline;
use rto::features::DenseFeatures;
use rto::mdp::{Reachable, StateIx, TabularPolicy};
use rto::plan::{
    PREDETERMINED_LIMIT, SoftOptimum, Visitation, best_predetermined, evaluate,
    soft_value_iteration, visitation,
};
use rto::reward::TabularReward;

/// Everything the instance determines. A part that fails is null, with its reason in `notes`; the others stand.
pub fn solve(instance: &Instance) -> Result<Report> {
    let mut notes = Notes::default();
    let solver = Solver::new(instance)?;
    let estimate = solver.estimate(&mut notes)?;
    let e = estimate.as_ref();
    let mut warnings = instance.warnings();
    warnings.extend(e.map_or(Vec::new(), |e| e.warnings(instance)));
    let dpo = solver.dpo(e, &mut warnings, &mut notes);
    let dpo = notes.part("dpo", dpo);
    let algorithm1 = e.map(|e| solver.algorithm1(e, &mut notes)).transpose();
    let algorithm1 = notes.part("algorithm1", algorithm1);
    let mut maxmin = |name, baseline| {
        let part = solver.maxmin(name, e, baseline, &mut warnings, &mut notes);
        notes.part(name, part)
    };
    let (theorem_b1, baselined) = (
        maxmin("theorem_b1", Baseline::None),
        maxmin("baselined", Baseline::Reference),
    );
    let coverage = solver.coverage(e, &mut notes);
    let coverage = notes.part("coverage", coverage);
    let robust = solver.robust(e, &mut notes);
    let robust = notes.part("robust", robust);
    let rto = solver.rto(dpo.as_ref().map(|d| &d.1), &mut notes);
    let rto = notes.part("rto", rto);
    let predetermined = solver.predetermined(&mut notes);
    let known = solver.known()?;
    let mut report = Report {
        soft_value: known.soft_value,
        soft_value_mean: known.soft_value_mean,
        reference_value: notes.part("reference_value", solver.root_values(&instance.reference)),
        policy_value: notes.part("policy_value", solver.given_policy(Solver::root_values)),
        suboptimality: Suboptimality {
            reference: notes.part("suboptimality.reference", solver.gap(&instance.reference)),
            policy: notes.part("suboptimality.policy", solver.given_policy(Solver::gap)),
        },
        root_policy: known.root_policy,
        feature_expectation: known.feature_expectation,
        predetermined_value: notes.part("predetermined_value", predetermined),
        mle: e.map(|e| e.mle(&mut notes)),
        sigma_d: e.and_then(|e| Some(matrix_rows(e.sigma.as_ref()?.matrix()))),
        log_det_sigma: e.and_then(|e| Some(e.sigma.as_ref()?.log_det())),
        algorithm1,
        theorem_b1,
        baselined,
        coverage,
        robust,
        rto,
        dpo: dpo.map(|d| d.0),
        warnings,
        radii: estimate.and_then(|e| e.radii),
        notes: Default::default(),
    };
    let value = serde_json::to_value(&report)?;
    report.notes = notes.complete(&value, instance);
    Ok(report)
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
    /// What an episode can meet, and what the preferences show.
    pub met: Reachable,
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
                let reward = TabularReward::try_new(met_rewards(instance, table)?)?;
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
            met: instance.met()?,
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

    /// What is said of the policy that the instance gives, if it gives one.
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

    fn predetermined(&self, notes: &mut Notes) -> Result<Option<f64>> {
        let mdp = &self.instance.world.mdp;
        let Some(truth) = &self.truth else {
            return Ok(None);
        };
        let key = "predetermined_value";
        let sequences = (mdp.n_actions() as f64).powi(mdp.horizon() as i32);
        if sequences > PREDETERMINED_LIMIT as f64 {
            notes.say(
                key,
                format!("not computed: A^H is above the {PREDETERMINED_LIMIT} responses that are gone through"),
            );
            return Ok(None);
        }
        let best = best_predetermined(mdp, &truth.reward, &self.instance.reference)?;
        let why =
            "no fixed response keeps to the support of the reference in every state it may lead to";
        Ok(notes.finite(key, best.value, why))
    }
}

/// The reward over the states of the table. Sums φᵀθ beyond floating point count only where an episode from
/// some prompt can meet them.
fn met_rewards(instance: &Instance, table: &Array2<f64>) -> Result<Array2<f64>> {
    let world = &instance.world;
    let mut lifted = world.lift(table);
    if lifted.iter().any(|r| !r.is_finite()) {
        let starts = world.roots.iter().flatten().copied();
        let met = Reachable::from_states(&world.mdp, &instance.reference, starts)?;
        for ((s, a), r) in lifted.indexed_iter_mut() {
            let at = (StateIx(s as u32), rto::mdp::ActionIx(a as u32));
            if !r.is_finite() && !met.pair(at.0, at.1) {
                *r = 0.0;
            }
        }
    }
    Ok(lifted)
}
