//! What DPO (4.4) and RTO (4.6) converge to.

use crate::estimate::Estimate;
use crate::instance::Source;
use crate::json::plain;
use crate::population::population_loss;
use crate::report::{Dpo, RtoReport};
use crate::solver::{Solver, root_rows, roots};
use anyhow::{Context, Result, bail};
use rto::mdp::{Beta, PreferencePair, TabularPolicy, Trajectory};
use rto::numerics::log_sigmoid;
use rto::plan::{rto_optimum, soft_value_iteration};
use rto::reward::{LinearReward, LogRatioReward, RewardModel};

impl Solver<'_> {
    /// The minimiser of (4.4): soft-optimal for θ_MLE, or without preferences for the true reward, which
    /// is what infinitely many of them would give.
    pub fn dpo(
        &self,
        estimate: Option<&Estimate>,
        warnings: &mut Vec<String>,
    ) -> Result<Option<(Dpo, TabularPolicy)>> {
        let i = self.instance;
        let beta = i.dpo_beta.unwrap_or(i.beta);
        if beta.get() == 0.0 {
            return Ok(None);
        }
        let Some((policy, source)) = self.dpo_policy(estimate, beta)? else {
            return Ok(None);
        };
        let implicit = match LogRatioReward::try_new(&policy, &i.reference, beta.get()) {
            Ok(implicit) => implicit,
            Err(_) => {
                warnings.push(format!(
                    "dpo: rewards are so large beside beta = {} that log(pi/pi_ref) overflows",
                    plain(beta.get())
                ));
                return Ok(None);
            }
        };
        let mdp = &i.world.mdp;
        let reward_row = |s| {
            let mut row = vec![0.0; mdp.n_actions()];
            implicit.write_row(s, &mut row);
            row
        };
        let report = Dpo {
            token_reward_root: root_rows(&i.world, reward_row),
            root_policy: root_rows(&i.world, |s| policy.probs(s)),
            loss: self.loss(&implicit, warnings),
            population_loss: match &self.truth {
                Some(t) => population_loss(mdp, &t.reward, &implicit, &i.reference)?,
                None => None,
            },
            suboptimality: self.gap(&policy)?,
            beta: beta.get(),
            source,
        };
        Ok(Some((report, policy)))
    }

    fn dpo_policy(
        &self,
        estimate: Option<&Estimate>,
        beta: Beta,
    ) -> Result<Option<(TabularPolicy, &'static str)>> {
        let i = self.instance;
        let mdp = &i.world.mdp;
        Ok(match (estimate, &self.features, &self.truth) {
            (Some(e), Some(features), _) => {
                let learned = LinearReward::try_new(features, &e.fit.theta)?;
                let optimum = soft_value_iteration(mdp, &learned, &i.reference, beta)?;
                Some((optimum.policy, "preferences"))
            }
            (_, _, Some(t)) => {
                let optimum = soft_value_iteration(mdp, &t.reward, &i.reference, beta)?;
                Some((optimum.policy, "population"))
            }
            _ => None,
        })
    }

    /// Mean of −log σ(Σ r(τ^w) − Σ r(τ^l)) for the implicit reward; none without pairs, or where π_ref gives a
    /// response probability 0, of which log(π/π_ref) is undefined.
    fn loss(&self, implicit: &LogRatioReward, warnings: &mut Vec<String>) -> Option<f64> {
        let i = self.instance;
        let pairs = i.pairs.as_ref().filter(|pairs| !pairs.is_empty())?;
        let possible = |t: &Trajectory| t.log_prob(&i.reference) > f64::NEG_INFINITY;
        let outside = |p: &PreferencePair| !(possible(p.winner()) && possible(p.loser()));
        if let Some(n) = pairs.iter().position(outside) {
            warnings.push(format!(
                "preferences[{n}]: the reference gives one of its responses probability 0, so dpo.loss is undefined"
            ));
            return None;
        }
        let total = |t: &Trajectory| t.sum(|s, a| implicit.reward(s, a));
        let losses = pairs
            .iter()
            .map(|p| -log_sigmoid(total(p.winner()) - total(p.loser())));
        Some(losses.sum::<f64>() / pairs.len() as f64)
    }

    /// The exact optimum of the RTO objective.
    pub fn rto(&self, dpo: Option<&TabularPolicy>) -> Result<Option<RtoReport>> {
        let i = self.instance;
        let Some(rto) = i.rto else {
            return Ok(None);
        };
        let (source, beta): (&TabularPolicy, Beta) = match (rto.source, dpo, &self.truth) {
            (Source::Dpo, Some(dpo), _) => (dpo, i.dpo_beta.unwrap_or(i.beta)),
            (Source::Optimal, _, Some(t)) if i.beta.get() > 0.0 => (&t.star.policy, i.beta),
            (Source::Optimal, _, None) => return Ok(None),
            (Source::Optimal, _, Some(_)) => {
                bail!("rto.source: the optimal policy at beta = 0 has no log-ratio")
            }
            (Source::Dpo, None, _) if i.beta.get() == 0.0 && i.dpo_beta.is_none() => {
                bail!("dpo.beta: missing, beta = 0 cannot stand in for it")
            }
            (Source::Dpo, None, None) if i.pairs.is_none() => {
                bail!("rto.source: dpo needs preferences or a reward")
            }
            (Source::Dpo, None, _) => {
                bail!("rto.source: dpo has no policy, as rewards are too large beside its beta")
            }
        };
        let mdp = &i.world.mdp;
        let optimum =
            rto_optimum(mdp, source, &i.reference, rto.beta1, rto.beta2).context("rto")?;
        Ok(Some(RtoReport {
            root_policy: root_rows(&i.world, |s| optimum.policy.probs(s)),
            value: roots(&i.world, &optimum.v),
            beta_effective: beta.get() * rto.beta2.get() / rto.beta1.get(),
            suboptimality: self.gap(&optimum.policy)?,
            source: match rto.source {
                Source::Dpo => "dpo",
                Source::Optimal => "optimal",
            },
        }))
    }
}
