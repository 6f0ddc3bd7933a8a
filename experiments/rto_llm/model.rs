//! Opening a folder: the plan first, then the weights.

use anyhow::{Result, bail};
use candle_core::{DType, Device};
use rto_bridge::checkpoint::{self, CONFIG, hub};
use rto_bridge::config::{GptNeoXConfig, Head};
use rto_bridge::generate::Engine;
use rto_bridge::memory_plan::{MemoryPlan, Workload};
use rto_bridge::tokenizer::Tokenizer;
use std::path::PathBuf;

/// What scoring and generation share.
#[derive(Debug, Clone, clap::Args)]
pub struct Common {
    /// Threads; no number depends on them
    #[arg(long, value_name = "N", default_value_t = 1)]
    pub threads: usize,
    /// Print no notes and no memory plan on standard error
    #[arg(long)]
    pub quiet: bool,
}

impl Common {
    /// A note for people.
    pub fn say(&self, text: &str) {
        if !self.quiet {
            eprintln!("{text}");
        }
    }
}

/// A causal model with its tokenizer, where the folder has one.
pub struct Model {
    pub name: String,
    pub engine: Engine,
    pub tokenizer: Option<Tokenizer>,
}

/// A folder as it is named on the command line, a hub id included.
pub fn resolve(name: &str, common: &Common) -> Result<PathBuf> {
    Ok(hub::resolve(name, &mut |text| common.say(text))?)
}

impl Model {
    /// Reads the shape, prints the plan for `batch` sequences of `sequence` tokens, and loads.
    pub fn open(
        name: &str,
        batch: usize,
        sequence: Option<usize>,
        common: &Common,
    ) -> Result<Self> {
        let folder = resolve(name, common)?;
        let (config, head) = match folder.is_dir() {
            true => GptNeoXConfig::read(&folder.join(CONFIG))?,
            false => {
                let loaded = checkpoint::load(&folder, Some(DType::F32), &Device::Cpu)?;
                (loaded.config, loaded.head)
            }
        };
        if head != Head::CausalLm {
            bail!(
                "{name}: is a classification model, expected one that writes text (GPTNeoXForCausalLM)"
            );
        }
        let sequence = sequence
            .unwrap_or(config.max_positions)
            .min(config.max_positions);
        let plan = MemoryPlan::new(
            &config,
            head,
            &Workload {
                batch,
                sequence,
                ..Workload::default()
            },
        );
        common.say(&format!(
            "{name}: memory for {batch} sequence(s) of {sequence} tokens\n{plan}"
        ));
        let loaded = checkpoint::load(&folder, Some(DType::F32), &Device::Cpu)?;
        for note in &loaded.notes {
            common.say(&format!("{name}: {note}"));
        }
        let tokenizer = match Tokenizer::is_in(&loaded.folder) {
            true => Some(Tokenizer::load(&loaded.folder, &loaded.config)?),
            false => None,
        };
        let engine = Engine::new(&loaded.config, loaded.head, &loaded.weights)?
            .with_threads(common.threads)?;
        Ok(Self {
            name: name.into(),
            engine,
            tokenizer,
        })
    }
}
