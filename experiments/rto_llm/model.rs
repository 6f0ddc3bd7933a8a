//! Opening a folder: the plan first, then the weights.

use anyhow::{Result, bail};
use candle_core::{DType, Device};
use rto::seq::StreamKey;
use rto_bridge::checkpoint::{self, Checkpoint, hub};
use rto_bridge::family::{Head, ModelConfig};
use rto_bridge::generate::{Engine, Sampled, Sampling, TensorEngine};
use rto_bridge::memory_plan::{MemoryPlan, Workload};
use rto_bridge::tokenizer::Tokenizer;
use std::path::PathBuf;
use std::sync::Arc;

/// What scoring and generation share.
#[derive(Debug, Clone, clap::Args)]
pub struct Common {
    /// Threads; no number depends on them
    #[arg(long, value_name = "N", default_value_t = 1)]
    pub threads: usize,
    /// Where the network runs: cpu, cuda or cuda:N
    #[arg(long, value_name = "DEVICE", default_value = "cpu")]
    pub device: String,
    /// Type it computes in; f16 and bf16 are for GPUs, and slow elsewhere
    #[arg(long, value_name = "TYPE", default_value = "f32", value_parser = ["f32", "f16", "bf16"])]
    pub dtype: String,
    /// Print no notes and no memory plan on standard error
    #[arg(long)]
    pub quiet: bool,
}

impl Common {
    pub fn dtype(&self) -> DType {
        dtype(&self.dtype)
    }

    /// A note for people.
    pub fn say(&self, text: &str) {
        if !self.quiet {
            eprintln!("{text}");
        }
    }
}

/// More take longer to start than any answer takes.
const MOST_THREADS: usize = 1024;

/// A type that clap has let through.
pub fn dtype(name: &str) -> DType {
    match name {
        "f16" => DType::F16,
        "bf16" => DType::BF16,
        _ => DType::F32,
    }
}

/// The network as it runs: the fast engine on a processor in f32, candle tensors everywhere else.
pub enum Network {
    Slices(Box<Engine>),
    Tensors(Box<TensorEngine>),
}

impl Network {
    fn new(loaded: &Checkpoint, device: &Device, common: &Common) -> Result<Self> {
        Ok(if device.is_cpu() && common.dtype() == DType::F32 {
            let engine = Engine::new(&loaded.config, loaded.head, &loaded.weights)?;
            Self::Slices(Box::new(engine.with_threads(common.threads)?))
        } else {
            Self::Tensors(Box::new(TensorEngine::new(
                &loaded.config,
                &loaded.weights,
            )?))
        })
    }

    pub fn config(&self) -> &ModelConfig {
        match self {
            Self::Slices(engine) => engine.config(),
            Self::Tensors(engine) => engine.config(),
        }
    }

    /// log π of every token of the response.
    pub fn log_probs(&self, prompt: &[u32], response: &[u32]) -> Result<Vec<f64>> {
        let pair = [(prompt, response)];
        let mut rows = match self {
            Self::Slices(engine) => engine.log_probs(&pair, 1.0)?,
            Self::Tensors(engine) => engine.log_probs(&pair, 1.0)?,
        };
        Ok(rows.remove(0))
    }

    /// Draws with one key per prompt, or the most likely tokens without keys.
    pub fn write(
        &self,
        prompts: &[Arc<[u32]>],
        keys: Option<&[StreamKey]>,
        sampling: &Sampling,
    ) -> Result<Vec<Sampled>> {
        Ok(match (self, keys) {
            (Self::Slices(engine), None) => engine.greedy(prompts, sampling)?,
            (Self::Slices(engine), Some(keys)) => engine.sample(prompts, keys, sampling)?,
            (Self::Tensors(engine), keys) => engine.sample(prompts, keys, sampling)?,
        })
    }
}

/// A causal model with its tokenizer, where the folder has one.
pub struct Model {
    pub name: String,
    pub engine: Network,
    pub tokenizer: Option<Tokenizer>,
    /// What the folder has in place of a tokenizer that is read, and what to do; for messages.
    pub instead: String,
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
        Self::open_if(name, batch, sequence, common, |_| Ok(()))
    }

    /// [`Model::open`] where the shape passes `check`, which has its say before anything is printed.
    pub fn open_if(
        name: &str,
        batch: usize,
        sequence: Option<usize>,
        common: &Common,
        check: impl FnOnce(&ModelConfig) -> Result<()>,
    ) -> Result<Self> {
        if !(1..=MOST_THREADS).contains(&common.threads) {
            let found = common.threads;
            bail!("--threads: found {found}, expected 1 to {MOST_THREADS}");
        }
        let device = rto_bridge::device::device(&common.device)?;
        let folder = resolve(name, common)?;
        let (config, head) = checkpoint::read_config(&folder)?;
        if head != Head::CausalLm {
            bail!(
                "{name}: is a classification model, expected one that writes text ({})",
                config.description().classes[0]
            );
        }
        check(&config)?;
        let sequence = sequence
            .unwrap_or(config.max_positions())
            .min(config.max_positions());
        let plan = MemoryPlan::new(
            &config,
            head,
            &Workload {
                dtype: common.dtype(),
                batch,
                sequence,
                ..Workload::default()
            },
        );
        common.say(&format!(
            "{name}: memory for {batch} sequence(s) of {sequence} tokens\n{plan}"
        ));
        plan.check_fits(&device)?;
        let loaded = checkpoint::load(&folder, Some(common.dtype()), &device)?;
        for note in &loaded.notes {
            common.say(&format!("{name}: {note}"));
        }
        let tokenizer = match Tokenizer::is_in(&loaded.folder) {
            true => Some(Tokenizer::load(&loaded.folder, &loaded.config)?),
            false => None,
        };
        for note in tokenizer.iter().flat_map(Tokenizer::notes) {
            common.say(&format!("{name}: {note}"));
        }
        let engine = Network::new(&loaded, &device, common)?;
        Ok(Self {
            name: name.into(),
            engine,
            tokenizer,
            instead: Tokenizer::instead_in(&loaded.folder),
        })
    }
}
