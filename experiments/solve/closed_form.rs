//! What DPO (4.4) and RTO (4.6) converge to.

use crate::estimate::Estimate;
use crate::instance::Source;
use crate::json::plain;
use crate::notes::Notes;
use crate::population::population_loss;
use crate::report::{Dpo, Minimisation, RtoReport};
use crate::solver::{Solver, root_rows, roots};
use anyhow::{Context, Result};
use rto::algorithm1::holds_differences;
use rto::estimate::RowSpace;
use rto::mdp::{Beta, PreferencePair, Problem, StateIx, TabularMdp, TabularPolicy, Trajectory};
use rto::numerics::log_sigmoid;
use rto::plan::{PairLaw, population_dpo, rto_optimum, soft_value_iteration};
use rto::reward::{LinearReward, LogRatioReward, RewardFunction};

/// A policy that minimises (4.4), and how it was found.
struct Minimiser {
    policy: TabularPolicy,
    source: &'static str,
    pairs: &'static str,
    unique: Option<bool>,
    minimisation: Option<Minimisation>,
}

impl Solver<'_> {
    /// The minimiser of (4.4): soft-optimal for θ_MLE, or without preferences for the true reward, which
    /// is what infinitely many of them would give. Both are closed forms of deterministic transitions; on a stochastic
    /// table the expected loss is minimised over policies, where it is small enough.
    pub fn dpo(
        &self,
        estimate: Option<&Estimate>,
        warnings: &mut Vec<String>,
        notes: &mut Notes,
    ) -> Result<Option<(Dpo, TabularPolicy)>> {
        let i = self.instance;
        let beta = i.dpo.beta.unwrap_or(i.beta);
        if beta.get() == 0.0 {
            notes.say(
                "dpo",
                "undefined: beta = 0 and no dpo.beta is given, and (4.4) needs beta > 0",
            );
            return Ok(None);
        }
        let fixed = certain(&i.world.mdp, &i.reference);
        let Some(found) = self.minimiser(estimate, beta, &fixed, notes)? else {
            return Ok(None);
        };
        let policy = &found.policy;
        let implicit = match LogRatioReward::within(&self.met, policy, &i.reference, beta.get()) {
            Ok(implicit) => implicit,
            Err(_) => {
                let why = format!(
                    "rewards are so large beside beta = {} that log(pi/pi_ref) overflows",
                    plain(beta.get())
                );
                warnings.push(format!("dpo: {why}"));
                notes.say("dpo", format!("infinite: {why}"));
                return Ok(None);
            }
        };
        let mdp = &i.world.mdp;
        let (root_policy, token_reward_root) = if found.minimisation.is_some() {
            self.met_roots_only(policy, &implicit, notes)
        } else {
            let mut rows = (root_rows(&i.world, |s| policy.probs(s)), Vec::new());
            rows.1 = root_rows(&i.world, |s| reward_row(&implicit, s, mdp.n_actions()));
            for (x, root) in i.world.roots.iter().enumerate() {
                // Prompts of initial probability 0 may lead into a random part of the table.
                if root.is_some_and(|s| !fixed[s.ix()]) {
                    (rows.0[x], rows.1[x]) = (None, None);
                    for key in ["root_policy", "token_reward_root"] {
                        let key = format!("dpo.{key}[{x}]");
                        notes.say(key, "not computed: transitions after it are stochastic");
                    }
                }
            }
            rows
        };
        let loss = self.loss(&implicit, warnings, notes);
        let expected = match &self.truth {
            Some(t) => population_loss(mdp, &t.reward, &implicit, &i.reference)
                .map_err(|why| notes.say("dpo.population_loss", why))
                .ok()
                .and_then(|x| {
                    let why = "a margin is beyond floating point";
                    notes.finite("dpo.population_loss", x, why)
                }),
            None => None,
        };
        if found.minimisation.is_none() {
            let why = "not needed: with deterministic transitions the minimiser has a closed form";
            notes.say("dpo.minimisation", why);
        }
        if found.unique.is_none() {
            let why = "unknown: on a stochastic table (4.4) is not convex";
            notes.say("dpo.unique", why);
        }
        let report = Dpo {
            token_reward_root,
            root_policy,
            loss,
            population_loss: expected,
            suboptimality: notes.part("dpo.suboptimality", self.gap(policy)),
            beta: beta.get(),
            source: found.source,
            pairs: found.pairs,
            unique: found.unique,
            minimisation: found.minimisation,
        };
        Ok(Some((report, found.policy)))
    }

    /// Rows of the prompts of ρ; a minimisation says nothing about the others.
    fn met_roots_only(
        &self,
        policy: &TabularPolicy,
        implicit: &LogRatioReward,
        notes: &mut Notes,
    ) -> (crate::report::Rows, crate::report::Rows) {
        let world = &self.instance.world;
        let mut rows = (Vec::new(), Vec::new());
        for (x, root) in world.roots.iter().enumerate() {
            let met = root.filter(|s| world.mdp.initial()[s.ix()] > 0.0);
            if root.is_some() && met.is_none() {
                for key in ["root_policy", "token_reward_root"] {
                    let key = format!("dpo.{key}[{x}]");
                    notes.say(
                        key,
                        "unknown: its initial probability is 0, so no pair is about it",
                    );
                }
            }
            rows.0.push(met.map(|s| policy.probs(s)));
            rows.1
                .push(met.map(|s| reward_row(implicit, s, world.n_actions())));
        }
        rows
    }

    fn minimiser(
        &self,
        estimate: Option<&Estimate>,
        beta: Beta,
        fixed: &[bool],
        notes: &mut Notes,
    ) -> Result<Option<Minimiser>> {
        let i = self.instance;
        let mdp = &i.world.mdp;
        let pairs = i.pairs.as_deref().unwrap_or_default();
        let starts = pairs.iter().map(|p| p.winner().start());
        let mut starts = mdp.roots().map(|(s, _)| s).chain(starts);
        let deterministic = starts.all(|s| fixed[s.ix()]);
        match (estimate, &self.features, &self.truth) {
            (Some(_), ..) if !deterministic => {
                notes.say(
                    "dpo",
                    "not computed: its closed form needs deterministic transitions, and those that an episode can meet are stochastic; with finitely many preferences (4.4) is then not convex and need not have a minimiser",
                );
                Ok(None)
            }
            (Some(e), Some(features), _) => {
                let learned = LinearReward::try_new(features, &e.fit.theta)?;
                let optimum =
                    soft_value_iteration(Problem::new(mdp, &i.reference, beta), &learned)?;
                Ok(Some(Minimiser {
                    policy: optimum.policy,
                    source: "preferences",
                    pairs: "preferences",
                    unique: Some(self.spanned(e)?),
                    minimisation: None,
                }))
            }
            _ if i.pairs.is_some() => {
                notes.say("dpo", "needs mle, which failed");
                Ok(None)
            }
            (_, _, Some(t)) if deterministic => {
                let optimum =
                    soft_value_iteration(Problem::new(mdp, &i.reference, beta), &t.reward)?;
                Ok(Some(Minimiser {
                    policy: optimum.policy,
                    source: "population",
                    pairs: "any",
                    unique: Some(true),
                    minimisation: None,
                }))
            }
            (_, _, Some(t)) => {
                let found = population_dpo(Problem::new(mdp, &i.reference, beta), &t.reward, i.dpo.pairs)
                    .context("its closed form needs deterministic transitions, and those that an episode can meet are stochastic")?;
                Ok(Some(Minimiser {
                    policy: found.policy,
                    source: "population",
                    pairs: match i.dpo.pairs {
                        PairLaw::Reference => "reference",
                        PairLaw::Uniform => "uniform",
                    },
                    unique: None,
                    minimisation: Some(Minimisation {
                        loss: found.loss,
                        gradient: found.gradient,
                        starts: found.starts.1,
                        starts_that_agree: found.starts.0,
                    }),
                }))
            }
            _ => Ok(None),
        }
    }

    /// Whether the pairs span all differences ψ(y) − ψ(y′) of responses to a prompt: then (4.4) determines the
    /// policy, though perhaps not θ.
    fn spanned(&self, e: &Estimate) -> Result<bool> {
        let features = self.features.as_ref().expect("an estimate has features");
        let i = self.instance;
        let space = RowSpace::of(e.design())?;
        Ok(holds_differences(
            &i.world.mdp,
            features,
            &i.reference,
            &space,
        )?)
    }

    /// Mean of −log σ(Σ r(τ^w) − Σ r(τ^l)) for the implicit reward; none without pairs, or where π_ref gives a
    /// response probability 0, of which log(π/π_ref) is undefined.
    fn loss(
        &self,
        implicit: &LogRatioReward,
        warnings: &mut Vec<String>,
        notes: &mut Notes,
    ) -> Option<f64> {
        let i = self.instance;
        let pairs = i.pairs.as_ref()?;
        if pairs.is_empty() {
            notes.say("dpo.loss", "undefined: preferences has no pairs");
            return None;
        }
        let possible = |t: &Trajectory| t.log_prob(&i.reference) > f64::NEG_INFINITY;
        let outside = |p: &PreferencePair| !(possible(p.winner()) && possible(p.loser()));
        if let Some(n) = pairs.iter().position(outside) {
            let why = format!(
                "preferences[{n}]: the reference gives one of its responses probability 0, so dpo.loss is undefined"
            );
            notes.say("dpo.loss", format!("undefined: {why}"));
            warnings.push(why);
            return None;
        }
        let total = |t: &Trajectory| t.sum(|s, a| implicit.reward(s, a));
        let losses = pairs
            .iter()
            .map(|p| -log_sigmoid(total(p.winner()) - total(p.loser())));
        let mean = losses.sum::<f64>() / pairs.len() as f64;
        notes.finite("dpo.loss", mean, "a margin is beyond floating point")
    }

    /// The exact optimum of the RTO objective.
    pub fn rto(&self, dpo: Option<&TabularPolicy>, notes: &mut Notes) -> Result<Option<RtoReport>> {
        let i = self.instance;
        let Some(rto) = i.rto else {
            return Ok(None);
        };
        let (source, beta): (&TabularPolicy, Beta) = match (rto.source, dpo, &self.truth) {
            (Source::Dpo, Some(dpo), _) => (dpo, i.dpo.beta.unwrap_or(i.beta)),
            (Source::Optimal, _, Some(t)) if i.beta.get() > 0.0 => (&t.star.policy, i.beta),
            (Source::Optimal, _, None) => {
                notes.say(
                    "rto",
                    "unknown: rto.source is optimal, and without reward or theta the optimal policy is not known",
                );
                return Ok(None);
            }
            (Source::Optimal, _, Some(_)) => {
                let why = "undefined: rto.source is optimal, and the optimal policy at beta = 0 has no log-ratio";
                notes.say("rto", why);
                return Ok(None);
            }
            (Source::Dpo, None, _) => {
                notes.say("rto", "needs dpo, its rto.source, which is null");
                return Ok(None);
            }
        };
        let mdp = &i.world.mdp;
        let optimum =
            rto_optimum(mdp, source, &i.reference, rto.beta1, rto.beta2).context("rto")?;
        Ok(Some(RtoReport {
            root_policy: root_rows(&i.world, |s| optimum.policy.probs(s)),
            value: roots(&i.world, &optimum.v),
            beta_effective: beta.get() * rto.beta2.get() / rto.beta1.get(),
            suboptimality: notes.part("rto.suboptimality", self.gap(&optimum.policy)),
            source: match rto.source {
                Source::Dpo => "dpo",
                Source::Optimal => "optimal",
            },
        }))
    }
}

fn reward_row(implicit: &LogRatioReward, s: StateIx, actions: usize) -> Vec<f64> {
    let mut row = vec![0.0; actions];
    implicit.write_row(s, &mut row);
    row
}

/// Whether all transitions after a state have one successor of positive probability, along the support of π_ref,
/// `[n_states]`.
fn certain(mdp: &TabularMdp, reference: &TabularPolicy) -> Vec<bool> {
    let mut fixed = vec![true; mdp.n_states()];
    for s in (0..mdp.n_states()).rev() {
        fixed[s] = (0..mdp.n_actions() as u32).all(|a| {
            let (state, action) = (StateIx(s as u32), rto::mdp::ActionIx(a));
            if reference.log_prob(state, action) == f64::NEG_INFINITY {
                return true;
            }
            let (next, prob) = mdp.successors(state, action);
            let mut possible = next.iter().zip(prob).filter(|(_, p)| **p > 0.0);
            match (possible.next(), possible.next()) {
                (Some((to, _)), None) => *to == StateIx::END || fixed[to.ix()],
                _ => false,
            }
        });
    }
    fixed
}
