//! How many pairs: the true reward along training on the trees of ground (a), where π_dpo and r_φ come from fewer pairs or more.

use anyhow::Result;
use rto::algorithm2::{DpoConfig, FitConfig, PpoConfig};
use rto::objective::DpoLoss;
use rto_harness::comparison::Point;
use rto_harness::comparison::noise::CHI_PO;
use rto_harness::config::{increasing, within};
use rto_harness::methods::method;
use rto_harness::on_tree::setup::{Setup, Size};
use rto_harness::on_tree::untrained::rounded;
use rto_harness::table::Cell;
use serde::{Deserialize, Serialize};

use crate::config::Config;
use crate::train::{Critic, Run};
use crate::{Instance, Study};

/// Settings of the table `[noise]`. Every key is documented in `experiments/configs/study.toml`.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Noise {
    pub pairs: Vec<usize>,
    pub steps: usize,
    pub iterations: u64,
    pub every: u64,
    pub learning_rate: f64,
    pub lambda: f64,
    pub critic_learning_rate: f64,
}

impl Noise {
    /// Refuses what no run can use.
    pub fn check(&self) -> Result<()> {
        let pairs: Vec<f64> = self.pairs.iter().map(|n| *n as f64).collect();
        // Without a number of pairs the part is switched off.
        if !pairs.is_empty() {
            increasing("noise.pairs", &pairs, 1.0, 1e7)?;
        }
        for (key, value, least, most) in [
            ("noise.steps", self.steps as f64, 1.0, 1e7),
            ("noise.iterations", self.iterations as f64, 1.0, 1e6),
            (
                "noise.every",
                self.every as f64,
                1.0,
                self.iterations as f64,
            ),
            ("noise.learning_rate", self.learning_rate, 1e-6, 100.0),
            ("noise.lambda", self.lambda, 0.0, 1.0),
            (
                "noise.critic_learning_rate",
                self.critic_learning_rate,
                1e-6,
                1.9,
            ),
        ] {
            within(key, value, least, most)?;
        }
        Ok(())
    }
}

/// The columns of `noise_runs.csv`, after the cell's id.
pub const COLUMNS: &[&str] = &[
    "instance",
    "pairs",
    "variant",
    "seed",
    "samples",
    "objective",
    "reward",
    "kl",
];

/// A reward, by its method and the loss that made π_dpo.
const VARIANTS: [(&str, &str, bool); 5] = [
    ("rto", "rto", false),
    ("dppo", "dppo", false),
    ("ppo_dense", "ppo_dense", false),
    (CHI_PO, "rto", true),
    ("rto_released", "rto_released", false),
];

/// Every row of an instance with so many pairs.
pub fn cell(study: &Study, instance: Instance, pairs: usize) -> Result<Vec<Vec<Cell>>> {
    let (c, n) = (&study.config, &study.config.noise);
    let config = Config {
        ppo: PpoConfig {
            iterations: n.iterations,
            ..c.ppo
        },
        ..c.clone()
    };
    // As many steps for all, so that fewer pairs make a noisier reward and not one that is fitted less.
    let batches = pairs.div_ceil(c.dpo.fit.batch_size);
    let dpo = DpoConfig {
        fit: FitConfig {
            epochs: n.steps.div_ceil(batches),
            ..c.dpo.fit
        },
        ..c.dpo
    };
    let chi = DpoConfig {
        loss: DpoLoss::ChiPo,
        ..dpo
    };
    let point = Point {
        learning_rate: n.learning_rate,
        lambda: n.lambda,
        critic_learning_rate: n.critic_learning_rate,
        clip: c.ppo.clip,
    };
    let size = Size {
        pairs,
        ..c.size(instance)
    };
    let mut rows = Vec::new();
    for &seed in &c.report_seeds {
        // The tree of ground (a), and the first of its pairs.
        let world = study.world_seeds(instance, seed);
        let setups = [&dpo, &chi].map(|dpo| Setup::new(c.draw(), dpo, size, &world));
        let [plain, chi] = setups;
        let (plain, chi) = (plain?, chi?);
        for (variant, name, by_chi) in VARIANTS {
            let run = Run {
                method: method(name),
                instance,
                point,
                beta2: c.ppo.beta2,
                critic: Critic::Learnt,
                setup: if by_chi { &chi } else { &plain },
                seeds: study.run_seeds(instance, seed),
                every: n.every,
            };
            for at in run.measured(&config)? {
                let m = at.measured;
                rows.push(vec![
                    instance.name().into(),
                    pairs.into(),
                    variant.into(),
                    seed.into(),
                    at.samples.into(),
                    rounded(m.reward - c.ppo.beta2 * m.kl).into(),
                    rounded(m.reward).into(),
                    rounded(m.kl).into(),
                ]);
            }
        }
    }
    Ok(rows)
}
