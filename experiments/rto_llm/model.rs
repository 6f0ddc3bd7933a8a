//! Opening a folder: what texts are read with first, then the plan, then the weights.

use anyhow::{Result, bail};
use candle_core::{DType, Device};
use rto::seq::StreamKey;
use rto_bridge::checkpoint::{self, Checkpoint, hub};
use rto_bridge::family::{Head, ModelConfig};
use rto_bridge::generate::{Engine, Sampled, Sampling, Stored, TensorEngine};
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

    /// log π of every token of the response, at a temperature.
    pub fn log_probs(
        &self,
        prompt: &[u32],
        response: &[u32],
        temperature: f64,
    ) -> Result<Vec<f64>> {
        let pair = [(prompt, response)];
        let mut rows = match self {
            Self::Slices(engine) => engine.log_probs(&pair, temperature)?,
            Self::Tensors(engine) => engine.log_probs(&pair, temperature)?,
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

/// What texts and token ids are read with: the shape of a causal network and its tokenizer, where the folder has one. Nothing is
/// printed and no weight is loaded before what is to be read has been.
pub struct Reader {
    pub name: String,
    pub config: ModelConfig,
    pub tokenizer: Option<Tokenizer>,
    /// What the folder has in place of a tokenizer that is read, and what to do; for messages.
    pub instead: String,
    folder: PathBuf,
    device: Device,
    notes: Vec<String>,
}

/// A causal model with what its texts are read with.
pub struct Model {
    pub reader: Reader,
    pub engine: Network,
    /// The same network with its weights stored in fewer bits, where that was asked for.
    pub narrow: Option<Network>,
}

/// A folder as it is named on the command line, a hub id included.
pub fn resolve(name: &str, common: &Common) -> Result<PathBuf> {
    Ok(hub::resolve(name, &mut |text| common.say(text))?)
}

impl Reader {
    /// Reads the shape and the tokenizer of a folder.
    pub fn open(name: &str, common: &Common) -> Result<Self> {
        if !(1..=MOST_THREADS).contains(&common.threads) {
            let found = common.threads;
            bail!("--threads: found {found}, expected 1 to {MOST_THREADS}");
        }
        let device = rto_bridge::device::device(&common.device)?;
        let mut notes = Vec::new();
        let folder = checkpoint::present(&resolve(name, common)?, &mut notes)?;
        let (config, head) = checkpoint::read_config(&folder)?;
        if head != Head::CausalLm {
            bail!(
                "{name}: is a classification model, expected one that writes text ({})",
                config.description().classes[0]
            );
        }
        let tokenizer = match Tokenizer::is_in(&folder) {
            true => Some(Tokenizer::load(&folder, &config)?),
            false => None,
        };
        Ok(Self {
            name: name.into(),
            config,
            tokenizer,
            instead: Tokenizer::instead_in(&folder),
            folder,
            device,
            notes,
        })
    }
}

impl Model {
    /// Prints the plan for `batch` sequences of `sequence` tokens (of the whole context without), and loads the weights.
    pub fn load(
        reader: Reader,
        batch: usize,
        sequence: Option<usize>,
        stored: Stored,
        common: &Common,
    ) -> Result<Self> {
        let (name, context) = (&reader.name, reader.config.max_positions());
        let sequence = sequence.unwrap_or(context).min(context);
        let plan = MemoryPlan::new(
            &reader.config,
            Head::CausalLm,
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
        plan.check_fits(&reader.device)?;
        let loaded = checkpoint::load(&reader.folder, Some(common.dtype()), &reader.device)?;
        let of_texts = reader.tokenizer.iter().flat_map(Tokenizer::notes);
        for note in reader.notes.iter().chain(&loaded.notes).chain(of_texts) {
            common.say(&format!("{name}: {note}"));
        }
        let narrow = match stored {
            Stored::F32 => None,
            _ => {
                let engine = Engine::stored(&loaded.config, loaded.head, &loaded.weights, stored)?;
                Some(Network::Slices(Box::new(
                    engine.with_threads(common.threads)?,
                )))
            }
        };
        let engine = Network::new(&loaded, &reader.device, common)?;
        Ok(Self {
            reader,
            engine,
            narrow,
        })
    }
}
