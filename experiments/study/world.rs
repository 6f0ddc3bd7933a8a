//! The worlds of the study and what needs no training on them: SFT sharpened, best-of-n, DPO, the exact optimum and its frontier.

use std::sync::{Arc, Mutex};

use anyhow::Result;
use rto::token_reward::DenseReward;
use rto_harness::on_tree::setup::Setup;
use rto_harness::on_tree::tabulate;
use rto_harness::on_tree::untrained::{Measured, Untrained, rounded};
use rto_harness::table::Cell;

use crate::{Instance, Study};

/// The worlds of an instance, each made when a cell first asks.
#[derive(Default)]
pub struct Worlds(Mutex<Vec<(Instance, u64, Slot)>>);

type Slot = Arc<Mutex<Option<Arc<Setup>>>>;

impl Worlds {
    /// The world of a seed.
    pub fn get(&self, study: &Study, instance: Instance, seed: u64) -> Result<Arc<Setup>> {
        let slot = {
            let mut all = self.0.lock().expect("no cell panics with the lock");
            match all.iter().find(|(i, s, _)| (*i, *s) == (instance, seed)) {
                Some((_, _, slot)) => slot.clone(),
                None => {
                    let slot = Slot::default();
                    all.push((instance, seed, slot.clone()));
                    slot
                }
            }
        };
        // Whoever asks for the same world waits here until it is there.
        let mut world = slot.lock().expect("no cell panics with the lock");
        if let Some(setup) = &*world {
            return Ok(setup.clone());
        }
        let config = &study.config;
        let seeds = study.world_seeds(instance, seed);
        let setup = Setup::new(config.draw(), &config.dpo, config.size(instance), &seeds)?;
        Ok(world.insert(Arc::new(setup)).clone())
    }
}

/// The columns of `worlds.csv`.
pub const COLUMNS: &[&str] = &["instance", "seed", "policy", "parameter", "reward", "kl"];

/// The policies of a world that need no training of PPO, one row each. `parameter` is the temperature, n or β.
pub fn rows(study: &Study, instance: Instance, seed: u64) -> Result<Vec<Vec<Cell>>> {
    let c = &study.config;
    let setup = study.worlds.get(study, instance, seed)?;
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
