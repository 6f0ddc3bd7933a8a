//! What all methods of a world and seed share: data, SFT, reward model and DPO, made once and kept in the folder of the sweep.

use std::collections::HashMap;
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex};

use anyhow::{Context, Result};
use candle_core::Device;
use rto::seed::SeedTree;
use rto_bridge::collective::Solo;
use rto_bridge::device::device_of_process;
use rto_bridge::learner::Ranks;
use rto_harness::cli::Reporter;
use rto_harness::progress::Progress;
use toml::Table;

use super::plan::Plan;
use crate::run::args::NAME;
use crate::run::config::Config;
use crate::run::data::{self, Data};
use crate::run::models::Models;
use crate::run::plan::work;
use crate::run::stage::Stage;
use crate::run::training::{Pace, Training, Watch};

/// The folder of the bases inside that of a sweep.
const BASES: &str = "bases";

/// A world under a seed, with the networks that its methods start from.
pub struct Base {
    pub config: Config,
    pub data: Data,
    /// The streams of every run on it.
    pub seeds: SeedTree,
    root: PathBuf,
}

type Slot = Arc<Mutex<Option<Arc<Base>>>>;

/// The bases of a sweep, each made when a cell first asks.
pub struct Bases {
    root: PathBuf,
    all: Mutex<HashMap<(String, u64), Slot>>,
}

impl Bases {
    /// Those of the sweep in this folder.
    pub fn inside(sweep: &Path) -> Self {
        Self {
            root: sweep.join(BASES),
            all: Mutex::default(),
        }
    }

    /// The base of a world and seed. A process that was killed while it made one goes on with its stages.
    pub fn get(&self, plan: &Plan, world: &str, seed: u64) -> Result<Arc<Base>> {
        let slot = {
            let mut all = self.all.lock().expect("no cell panics with the lock");
            all.entry((world.to_string(), seed)).or_default().clone()
        };
        // Whoever asks for the same one waits here until it is there.
        let mut made = slot.lock().expect("no cell panics with the lock");
        if let Some(base) = &*made {
            return Ok(base.clone());
        }
        let config = plan.config(world, plan.methods[0], &Table::new(), seed)?;
        let seeds = SeedTree::new(seed).child(NAME);
        let base = Base {
            data: data::for_tuning(&config, &seeds, plan.tuned().contains(&seed))?,
            root: self.root.join(format!("{world}.{seed}")),
            config,
            seeds,
        };
        let models = base.models(&base.config, &base.root)?;
        base.train(&models, &base.root, None, |training| {
            training.run(
                // With the judge of files.
                Stage::Oracle,
                1,
                &Reporter::new(false).silent(),
                &mut |_, _| Ok(()),
            )
        })
        .with_context(|| format!("world {world}, seed {seed}"))?;
        Ok(made.insert(Arc::new(base)).clone())
    }
}

impl Base {
    /// The networks of a run on this base.
    pub fn models<'r>(&'r self, config: &'r Config, root: &'r Path) -> Result<Models<'r>> {
        let ranks = Ranks::try_new(Arc::new(Solo), config.gradient_groups)?;
        let device = match config.executor()? {
            None => device_of_process(&config.device, 0)?,
            Some(_) => Device::Cpu,
        };
        Models::try_new(config, &self.data, &self.seeds, (device, ranks), root)
    }

    /// Trains in a folder.
    pub fn train<'r>(
        &'r self,
        models: &'r Models<'r>,
        root: &'r Path,
        watch: Option<Watch<'r>>,
        how: impl FnOnce(&Training<'_>) -> Result<()>,
    ) -> Result<()> {
        let pace = Pace {
            // The bar of the sweep counts cells.
            progress: Progress::new(true),
            work: work(models.config, &self.data)?,
            oracle_reads: false,
        };
        how(&Training {
            config: models.config,
            data: &self.data,
            models,
            seeds: &self.seeds,
            pace: &pace,
            root,
            stop: Default::default(),
            watch,
        })
    }

    /// Puts the networks that a method or its record reads, with their adapters, into the folder of a run.
    pub fn copy_to(&self, root: &Path) -> Result<()> {
        for stage in [Stage::Sft, Stage::Reward, Stage::Dpo, Stage::Oracle] {
            for kind in ["policies", "adapters"] {
                let folder = Path::new(kind).join(stage.name());
                let (from, to) = (self.root.join(&folder), root.join(&folder));
                let may_be_missing = kind == "adapters" || stage == Stage::Oracle;
                if may_be_missing && !from.is_dir() {
                    continue;
                }
                std::fs::create_dir_all(&to).with_context(|| to.display().to_string())?;
                for file in std::fs::read_dir(&from).with_context(|| from.display().to_string())? {
                    let file = file?;
                    let (old, new) = (file.path(), to.join(file.file_name()));
                    // Nobody writes into a finished network, so that a second name is a copy that takes no room.
                    std::fs::hard_link(&old, &new)
                        .or_else(|_| std::fs::copy(&old, &new).map(drop))
                        .with_context(|| old.display().to_string())?;
                }
            }
        }
        Ok(())
    }

    /// The folder of the base.
    pub fn root(&self) -> &Path {
        &self.root
    }
}
