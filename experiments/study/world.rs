//! The worlds of the study and what needs no training on them: SFT sharpened, best-of-n, DPO, the exact optimum and its frontier.

use std::sync::Arc;

use anyhow::Result;
use rto::token_reward::DenseReward;
use rto_harness::on_tree::setup::Setup;
use rto_harness::on_tree::tabulate;
use rto_harness::on_tree::untrained::{Measured, Untrained, rounded};
use rto_harness::table::Cell;

use crate::{Instance, Study};

impl Study {
    /// The world of a seed.
    pub fn world(&self, instance: Instance, seed: u64) -> Result<Arc<Setup>> {
        let config = &self.config;
        let seeds = self.world_seeds(instance, seed);
        self.worlds.get((instance, seed), || {
            Setup::new(config.draw(), &config.dpo, config.size(instance), &seeds)
        })
    }
}

/// The columns of `worlds.csv`.
pub const COLUMNS: &[&str] = &["instance", "seed", "policy", "parameter", "reward", "kl"];

/// The policies of a world that need no training of PPO, one row each. `parameter` is the temperature, n or β.
pub fn rows(study: &Study, instance: Instance, seed: u64) -> Result<Vec<Vec<Cell>>> {
    let c = &study.config;
    let setup = study.world(instance, seed)?;
    let learnt = [
        tabulate(&setup.map, &DenseReward(&setup.reward_model))?,
        tabulate(&setup.map, &setup.dpo_reward()?)?,
    ];
    let untrained = Untrained {
        map: &setup.map,
        reward: &setup.reward,
        reference: &setup.reference,
        dpo: &setup.dpo.table()?,
        learnt: [
            ("best_of_reward_model", &learnt[0]),
            ("best_of_dpo", &learnt[1]),
        ],
        temperatures: &c.temperatures,
        best_of: &c.best_of,
        beta2: c.ppo.beta2,
    };
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
    Ok(untrained.rows()?.into_iter().map(row).collect())
}
