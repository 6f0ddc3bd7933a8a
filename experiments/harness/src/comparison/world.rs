//! What needs no training in one world, as `worlds.csv` has it.

use std::collections::BTreeMap;

use anyhow::{Context, Result};

use super::envelope::Envelope;
use crate::table::Table;

/// What needs no training in one world.
#[derive(Debug, Default)]
pub struct World {
    /// (policy, parameter, reward, KL).
    pub policies: Vec<(String, f64, f64, f64)>,
    /// What is a share of 1 where no optimum is known: the largest lead over SFT that was seen on its ground.
    pub lead: Option<f64>,
}

impl World {
    /// The worlds of an instance by their seeds.
    pub fn of(worlds: &Table, instance: &str) -> Result<BTreeMap<u64, Self>> {
        let here = worlds.filter("instance", instance)?;
        let seeds = here.parsed::<u64>("seed", "a seed")?;
        let (policies, parameters) = (here.texts("policy")?, here.floats("parameter")?);
        let (rewards, kls) = (here.floats("reward")?, here.floats("kl")?);
        let mut found: BTreeMap<u64, Self> = BTreeMap::new();
        for i in 0..here.len() {
            let row = (policies[i].clone(), parameters[i], rewards[i], kls[i]);
            found.entry(seeds[i]).or_default().policies.push(row);
        }
        Ok(found)
    }

    pub fn find(&self, policy: &str, parameter: f64) -> Result<(f64, f64)> {
        let found = self
            .policies
            .iter()
            .find(|p| p.0 == policy && p.1 == parameter);
        let (.., reward, kl) = found.with_context(|| format!("worlds: no {policy} {parameter}"))?;
        Ok((*reward, *kl))
    }

    fn first(&self, policy: &str) -> Result<(f64, f64)> {
        let found = self.policies.iter().find(|p| p.0 == policy);
        let (.., reward, kl) = found.with_context(|| format!("worlds: no row of {policy}"))?;
        Ok((*reward, *kl))
    }

    pub fn reward(&self, policy: &str) -> Result<f64> {
        Ok(self.first(policy)?.0)
    }

    pub fn objective(&self, policy: &str, beta2: f64) -> Result<f64> {
        let (reward, kl) = self.first(policy)?;
        Ok(reward - beta2 * kl)
    }

    /// Whether the optimum and the exact frontier are known.
    pub fn is_exact(&self) -> bool {
        self.policies.iter().any(|p| p.0 == "optimum")
    }

    /// (J − J(SFT)) / (J(optimum) − J(SFT)), or of [`World::lead`].
    pub fn share(&self, objective: f64, beta2: f64) -> Result<f64> {
        let sft = self.objective("sft", beta2)?;
        let lead = match self.lead {
            Some(lead) => lead,
            None => self.objective("optimum", beta2)? - sft,
        };
        Ok((objective - sft) / lead)
    }

    /// What reward at matched KL is a share of: the rise of the exact frontier up to there, or [`World::lead`].
    pub fn rise(&self, kl: f64) -> Result<f64> {
        match self.lead {
            Some(lead) => Ok(lead),
            None => Ok(self.envelope("frontier")?.at(kl) - self.reward("sft")?),
        }
    }

    /// The best share of SFT at any temperature, greedy too, and of best-of-n with either learnt reward.
    pub fn best_baseline(&self, beta2: f64) -> Result<f64> {
        let is_baseline = |policy: &str| {
            ["sft", "greedy", "sharpened"].contains(&policy) || policy.starts_with("best_of_")
        };
        let all = self.policies.iter().filter(|p| is_baseline(&p.0));
        let best = all
            .map(|p| p.2 - beta2 * p.3)
            .fold(f64::NEG_INFINITY, f64::max);
        self.share(best, beta2)
    }

    /// The envelope of a kind of policies over its parameter; sharpening ends in greedy decoding.
    pub fn envelope(&self, policy: &str) -> Result<Envelope> {
        let is_in = |name: &str| name == policy || (policy == "sharpened" && name == "greedy");
        let points = self.policies.iter().filter(|p| is_in(&p.0));
        Ok(Envelope::new(
            self.reward("sft")?,
            points.map(|p| (p.3, p.2)),
        ))
    }
}
