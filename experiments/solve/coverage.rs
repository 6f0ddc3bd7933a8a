//! How the law of the data covers what the optimum does.

use crate::estimate::Estimate;
use crate::notes::{LOST, Notes};
use crate::report::Coverage;
use crate::solver::Solver;
use crate::world::{Kind, World};
use anyhow::Result;
use rto::estimate::MetricKind;
use rto::mdp::{ActionIx, StateIx, Trajectory};
use rto::plan::{
    DataLaw, Expectation, LinearCoverage, Rounding, Truth, chi_square_coverage, pair_coverage,
    trajectory_coverage,
};
use rto::reward::TabularReward;
use serde_json::{Value, json};

impl Solver<'_> {
    /// C_sa, C_τ, χ² and C_lin with what attains them, and the bounds of Theorems 4.2 and B.1 through C_lin.
    pub fn coverage(&self, e: Option<&Estimate>, notes: &mut Notes) -> Result<Option<Coverage>> {
        let i = self.instance;
        let mdp = &i.world.mdp;
        let pairs = i.pairs.as_deref().filter(|pairs| !pairs.is_empty());
        let (law, name) = match (&i.behaviour, pairs) {
            (Some(mu), _) => (DataLaw::Policy(mu), "behaviour"),
            (None, Some(pairs)) => (DataLaw::Pairs(pairs), "preferences"),
            (None, None) => {
                let why =
                    "unknown: the law of the data is not known without behaviour or preferences";
                notes.say("coverage", why);
                return Ok(None);
            }
        };
        let Some(truth) = &self.truth else {
            return Ok(None);
        };
        let star = &truth.star.policy;
        let uncovered =
            |what: &str| format!("pi* gives positive probability to {what}, the data give it 0");
        let sa = pair_coverage(mdp, star, law)?;
        let tau = trajectory_coverage(mdp, star, law)?;
        let chi2 = chi_square_coverage(mdp, star, law)?;
        let mut out = Coverage {
            law: name,
            C_sa: notes.finite("coverage.C_sa", sa.value, &uncovered("coverage.C_sa_at")),
            C_sa_at: step_of(&i.world, sa.at),
            C_tau: notes.finite("coverage.C_tau", tau.value, &uncovered("coverage.C_tau_at")),
            C_tau_at: response_of(&i.world, &tau.at),
            chi2: notes.finite(
                "coverage.chi2",
                chi2,
                &uncovered("a response (see coverage.C_tau_at)"),
            ),
            C_lin: None,
            C_lin_direction: Vec::new(),
            C_lin_baselined: None,
            C_lin_baselined_direction: Vec::new(),
            C_lin_steps: None,
            C_lin_steps_at: Value::Null,
            theorem_4_2: None,
            theorem_b1: None,
            baselined: None,
        };
        self.linear(truth, law, &mut out, notes)?;
        self.bounds(truth, e, law, &mut out, notes)?;
        Ok(Some(out))
    }

    fn linear(
        &self,
        truth: &Truth<'_, TabularReward>,
        law: DataLaw<'_>,
        out: &mut Coverage,
        notes: &mut Notes,
    ) -> Result<()> {
        let i = self.instance;
        let mdp = &i.world.mdp;
        let Some(features) = &self.features else {
            for key in ["C_lin", "C_lin_baselined", "C_lin_steps", "C_lin_steps_at"] {
                let why = "unknown: the instance has no features";
                notes.say(format!("coverage.{key}"), why);
            }
            return Ok(());
        };
        let linear = LinearCoverage::of(mdp, law, features)?;
        let (psi, centred) = (
            truth.expectation(features)?,
            truth.expectation_over_reference(features)?,
        );
        let outside = |key: &str| {
            format!(
                "the features differ from those of the data in coverage.{key}, in which no pair differs"
            )
        };
        let mut at = |key: &str, e: &Expectation| -> Result<(Option<f64>, Vec<f64>)> {
            let attained = linear.at_sum(&e.value, &e.size)?;
            let why = outside(&format!("{key}_direction"));
            let value = notes.finite(&format!("coverage.{key}"), attained.value, &why);
            Ok((value, attained.at))
        };
        (out.C_lin, out.C_lin_direction) = at("C_lin", &psi)?;
        (out.C_lin_baselined, out.C_lin_baselined_direction) = at("C_lin_baselined", &centred)?;
        let (steps, attained) = linear.along(mdp, &truth.star.policy, features)?;
        let why =
            "the features at coverage.C_lin_steps_at have a direction in which no pair differs";
        out.C_lin_steps = notes.finite("coverage.C_lin_steps", steps.value, why);
        out.C_lin_steps_at = step_of(&i.world, attained);
        Ok(())
    }

    /// 2ϱ√(C_lin/n), which needs pairs and ϱ. C_lin is that of the metric in use: Σ_𝒟 ⪰ n E\[xxᵀ\], and the observed
    /// information + λI ⪰ n E\[σ′(xᵀθ_MLE) xxᵀ\].
    fn bounds(
        &self,
        truth: &Truth<'_, TabularReward>,
        e: Option<&Estimate>,
        law: DataLaw<'_>,
        out: &mut Coverage,
        notes: &mut Notes,
    ) -> Result<()> {
        let keys = ["theorem_4_2", "theorem_b1", "baselined"];
        let mut none = |why: &str| {
            for key in keys {
                notes.say(format!("coverage.{key}"), why);
            }
            Ok(())
        };
        let (Some(e), Some(features)) = (e, &self.features) else {
            return none("unknown: without preferences (or where mle failed) there is no radius");
        };
        let set = match e.set() {
            Ok(set) => set,
            Err(why) => return none(&format!("needs the radius: {why}")),
        };
        let design = e.design();
        if design.n() == 0 {
            return none("infinite: there are no pairs");
        }
        if matches!(law, DataLaw::Policy(_)) {
            // Σ_𝒟 of n pairs is near n E[xxᵀ] + λI and not above it.
            return none(
                "not proved: with a given law the covariance of the pairs at hand is n E[xx^T] only in the limit; leave out behaviour for the bounds of the preferences themselves",
            );
        }
        let n = design.n() as f64;
        let mdp = &self.instance.world.mdp;
        let weights = match set.metric.kind() {
            MetricKind::SigmaD => None,
            MetricKind::Fisher => Some(e.fit.theta.as_slice()),
        };
        let linear = LinearCoverage::of_design(design, weights)?;
        let (psi, centred) = (
            truth.expectation(features)?,
            truth.expectation_over_reference(features)?,
        );
        let covered = [out.C_lin_steps, out.C_lin, out.C_lin_baselined].map(|c| c.is_some());
        let roots = [
            linear.along(mdp, &truth.star.policy, features)?.0,
            linear.root(&psi.value, &psi.size, &psi.rounding)?,
            linear.root(&centred.value, &centred.size, &centred.rounding)?,
        ];
        let beta = self.instance.beta.get();
        let [steps, plain, baselined] = [0, 1, 2].map(|i| {
            let key = format!("coverage.{}", keys[i]);
            let why = match covered[i] {
                false => "the data do not cover it (see C_lin)",
                true => "the pairs that cover it weigh 0 in floating point in the metric in use",
            };
            let times = 2.0 * set.radius / n.sqrt();
            let value = notes.finite(&key, times * roots[i].value, why)?;
            let kept = times * roots[i].rounding <= Rounding::NEGLIGIBLE * (beta + value);
            if !kept {
                notes.say(key, LOST);
                return None;
            }
            Some(value)
        });
        (out.theorem_4_2, out.theorem_b1, out.baselined) = (steps, plain, baselined);
        Ok(())
    }
}

/// A pair as the user counts: prompt, tokens before and action of a tree; step, state and action of a table.
fn step_of(world: &World, (s, a): (StateIx, ActionIx)) -> Value {
    match &world.kind {
        Kind::Tree(tree) => {
            let (prompt, prefix) = tree.prefix(s);
            json!({"prompt": prompt, "prefix": prefix, "action": a.0})
        }
        Kind::General(general) => {
            json!({"step": general.step(s), "state": world.origin[s.ix()], "action": a.0})
        }
    }
}

/// A trajectory as the user writes responses.
fn response_of(world: &World, t: &Trajectory) -> Value {
    match &world.kind {
        Kind::Tree(tree) => {
            let tokens: Vec<u32> = t.steps().iter().map(|step| step.1.0).collect();
            json!({"prompt": tree.prefix(t.start()).0, "response": tokens})
        }
        Kind::General(_) => {
            let steps = t.steps().iter();
            let steps: Vec<[usize; 2]> =
                steps.map(|(s, a)| [world.origin[s.ix()], a.ix()]).collect();
            json!({"response": steps})
        }
    }
}
