//! The flags of a run.

use std::path::PathBuf;

use rto_harness::cli::Common;
use rto_harness::list::List;
use rto_harness::methods::{self, Method};
use rto_harness::sweep::Shard;

use super::choices::CollectiveKind;
use super::stage::Stage;

/// The name of the binary, of its run folders and random streams.
pub const NAME: &str = "rto_llm";

/// Flags of a run.
#[derive(Debug, Clone, clap::Args)]
pub struct Args {
    #[command(flatten)]
    pub common: Common,
    /// Named settings to start from: tiny, hh-scratch, pythia-14m and others [default: tiny]
    #[arg(long, value_name = "NAME")]
    pub preset: Option<String>,
    /// Preference data: files or folders (JSON lines or an array, plain, .gz, .zst or .bz2;
    /// .parquet), HH-RLHF as published, UltraFeedback, or with columns prompt, chosen, rejected
    /// [default: the synthetic world]
    #[arg(long, value_name = "PATH", num_args = 1..)]
    pub data: Option<Vec<String>>,
    /// Column of the data that holds the prompt [default: prompt]
    #[arg(long, value_name = "NAME")]
    pub prompt_column: Option<String>,
    /// Column of the preferred reply, or of the whole preferred dialogue [default: chosen]
    #[arg(long, value_name = "NAME")]
    pub chosen_column: Option<String>,
    /// Column of the other one [default: rejected]
    #[arg(long, value_name = "NAME")]
    pub rejected_column: Option<String>,
    /// Column of a system message that stands in front; "" reads none [default: system]
    #[arg(long, value_name = "NAME")]
    pub system_column: Option<String>,
    /// Replies with a reward of every token, as JSON lines {"prompt_ids", "token_ids", "token_rewards"}: that of ppo_dense is fitted to them
    #[arg(long, value_name = "FILE")]
    pub token_rewards: Option<String>,
    /// Model to start from: a Hugging Face folder, a GGUF file, or a name on the hub with that feature
    #[arg(long, value_name = "FOLDER")]
    pub model: Option<String>,
    /// What judges held-out responses: a folder with a reward model (sequence classification, its own tokenizer)
    #[arg(long, value_name = "FOLDER")]
    pub oracle: Option<String>,
    /// Run under several seeds, as 1,2,5 or 1..5, each in a folder below --out, and compare over seeds
    #[arg(long, value_name = "LIST", conflicts_with = "seed")]
    pub seeds: Option<List<u64>>,
    /// With --seeds: this share of them alone, as 0/4, without the comparison
    #[arg(long, value_name = "I/N", requires = "seeds")]
    pub shard: Option<Shard>,
    /// With --seeds: compare the runs that are there; the seeds that lack one are named
    #[arg(long, requires = "seeds", conflicts_with = "shard")]
    pub compare: bool,
    /// With --seeds: submit the seeds as an array of N Slurm jobs, and the comparison after them; alone, with --ranks: the run as one job
    #[arg(long, value_name = "N", value_parser = clap::value_parser!(u64).range(1..=1000), requires = "out", conflicts_with_all = ["shard", "compare"])]
    pub slurm: Option<u64>,
    /// Arguments for sbatch, as "--time=4:00:00 --partition=gpu --gpus-per-task=1"
    #[arg(
        long,
        value_name = "ARGS",
        requires = "slurm",
        allow_hyphen_values = true
    )]
    pub sbatch: Option<String>,
    /// With --slurm: processes that train each run together, started by `srun --mpi=pmix` (feature mpi)
    #[arg(long, value_name = "P", requires = "slurm", value_parser = clap::value_parser!(u64).range(1..))]
    pub ranks: Option<u64>,
    /// The run whose settings are taken where this command line says nothing: that of another seed of a sweep.
    #[arg(skip)]
    pub like: Option<PathBuf>,
    /// Where networks run: cpu, cuda or cuda:N; kernels:cuda:N, kernels:slices or kernels:emulated train with the program of kernels
    #[arg(long, value_name = "NAME")]
    pub device: Option<String>,
    /// Stop after this stage; a later run with the same --out goes on
    #[arg(long, value_enum, default_value_t = Stage::Evaluate)]
    pub stage: Stage,
    /// Methods after DPO [default: those of the preset]
    #[arg(long, value_parser = methods::value_parser(), value_delimiter = ',', value_name = "LIST")]
    pub methods: Option<Vec<&'static Method>>,
    /// Train low-rank adapters on a frozen base instead of all weights: LoRA of this rank, 16
    /// where none is said [default: all weights]
    #[arg(long, value_name = "RANK", num_args = 0..=1, default_missing_value = "16")]
    pub lora: Option<usize>,
    /// Stages trained at once where they need nothing of one another; no number depends on it
    /// [default: the cores for small networks on a CPU, else 1]
    #[arg(long, value_name = "N", value_parser = clap::value_parser!(u16).range(1..))]
    pub jobs: Option<u16>,
    /// Of several processes: what they speak through
    #[arg(long, value_enum, default_value_t = CollectiveKind::Mpi, value_name = "NAME")]
    pub collective: CollectiveKind,
    /// With --collective nccl: processes meet by this file, which all see and none has yet, instead of through MPI
    #[arg(long, value_name = "FILE")]
    pub rendezvous: Option<PathBuf>,
    /// Of several processes: each holds AdamW's moments of its share of every weight alone (ZeRO stage 1); no number depends on it
    #[arg(long)]
    pub shard_moments: bool,
    /// Seconds that a process of several (mpirun, srun) waits for another before it ends the job
    #[arg(long, value_name = "SECONDS", default_value_t = 1800, value_parser = clap::value_parser!(u32).range(1..))]
    pub rank_timeout: u32,
    /// Print the settings, the memory plan and the work to be done; touch nothing
    #[arg(long)]
    pub dry_run: bool,
}
