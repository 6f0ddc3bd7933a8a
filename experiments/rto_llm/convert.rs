//! A model in another form: GGUF to a Hugging Face folder, an adapter into its base, another float type.

use anyhow::{Context, Result, bail};
use candle_core::{DType, Device};
use rto_bridge::checkpoint::{self, Contents, hub};
use rto_bridge::family::ModelConfig;
use rto_bridge::gguf;
use rto_bridge::model::Model;
use rto_bridge::params::Params;
use rto_harness::cli::print;
use std::path::{Path, PathBuf};
use tempfile::TempDir;

/// Writes a model as a Hugging Face folder: from a GGUF file, with an adapter merged into it, or in another float type.
#[derive(Debug, clap::Args)]
#[command(after_help = EXAMPLES)]
pub struct Args {
    /// The model: a Hugging Face folder or a GGUF file
    #[arg(long, value_name = "FOLDER or FILE")]
    model: String,
    /// An adapter of PEFT or of a run with --lora, to be merged
    #[arg(long, value_name = "FOLDER")]
    adapter: Option<PathBuf>,
    /// Float type of the weights that are written; as stored without it
    #[arg(long, value_name = "TYPE", value_parser = ["f32", "f16", "bf16"])]
    dtype: Option<String>,
    /// The folder to write; an earlier model there is replaced in one step
    #[arg(long, value_name = "FOLDER")]
    out: PathBuf,
}

const EXAMPLES: &str = "\
Examples:
  rto_llm convert --model SmolLM2-135M-Instruct.Q4_1.gguf --out smollm2
  rto_llm convert --model runs/mine/policies/sft --adapter runs/mine/adapters/rto --out merged
  rto_llm convert --model pythia-160m --dtype bf16 --out pythia-160m-bf16";

pub fn run(args: &Args) -> Result<()> {
    let path = hub::resolve(&args.model, &mut |text| eprintln!("{text}"))?;
    // Two names of one folder, through a link or another working directory, are the same folder.
    let real = |path: &Path| path.canonicalize().ok();
    if real(&args.out).is_some_and(|out| Some(out) == real(&path)) {
        bail!(
            "--out {}: is the model itself, expected another folder",
            args.out.display()
        );
    }
    if args.out.exists() && !args.out.is_dir() {
        bail!("--out {}: is a file, expected a folder", args.out.display());
    }
    // A tokenizer that cannot be read is known before the weights are.
    let carried = tokenizer_of(&path)?;
    // Sums of an adapter are made in f32, whatever is written.
    let read = args.adapter.as_ref().map(|_| DType::F32);
    let loaded = checkpoint::load(&path, read, &Device::Cpu)?;
    for note in &loaded.notes {
        eprintln!("{}: {note}", args.model);
    }
    let dtype = match &args.dtype {
        Some(name) => crate::model::dtype(name),
        None => loaded.stored_dtype,
    };
    let weights = match &args.adapter {
        None => loaded.weights,
        Some(adapter) => {
            let base = Model::try_new(&loaded.config, Params::frozen(loaded.weights)?)?;
            base.load_adapter(adapter)?.merged_weights()?
        }
    };
    // What config.json says of ends is kept as it is: nothing was trained here.
    let config = match gguf::is_gguf(&path) {
        true => loaded.config,
        false => {
            let (own, _) = ModelConfig::read(&loaded.folder.join(checkpoint::CONFIG))?;
            loaded.config.with_end_tokens(own.end_tokens().clone())
        }
    };
    let contents = Contents {
        config: &config,
        head: loaded.head,
        weights: &weights,
        dtype,
        shard_bytes: 5_000_000_000,
        carry: Some(carried.path()),
    };
    checkpoint::save(&args.out, &contents)?;
    print(&format!(
        "{}: {} tensors as {}\n",
        args.out.display(),
        weights.len(),
        checkpoint::dtype_name(dtype)
    ))
}

/// The folder of the tokenizer's files: the model's own, or one that is filled from a GGUF file and removed afterwards.
enum Carried {
    Own(PathBuf),
    Filled(TempDir),
}

impl Carried {
    fn path(&self) -> &Path {
        match self {
            Self::Own(path) => path,
            Self::Filled(folder) => folder.path(),
        }
    }
}

fn tokenizer_of(path: &Path) -> Result<Carried> {
    if !gguf::is_gguf(path) {
        return Ok(Carried::Own(path.into()));
    }
    let folder = tempfile::tempdir().context("cannot make a temporary folder")?;
    let carried = Carried::Filled(folder);
    for (name, text) in gguf::tokenizer_files(path)? {
        let file = carried.path().join(name);
        std::fs::write(&file, text).with_context(|| format!("{}: cannot write", file.display()))?;
    }
    Ok(carried)
}
