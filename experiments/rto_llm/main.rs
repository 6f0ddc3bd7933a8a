//! Language models: scoring with token rewards (4.5), generation, and what a folder holds.

mod convert;
mod generate;
mod html;
mod info;
mod input;
mod judge;
mod model;
mod report;
mod run;
mod score;

use anyhow::Result;
use clap::{Parser, Subcommand};
use rto_harness::cli::{parse, run_main};
use std::process::ExitCode;

/// RLHF with token rewards on language models: GPT-NeoX (Pythia), Llama, Mistral, Qwen, GPT-2, Gemma, OLMo-2, Phi-3.
///
/// Without a subcommand: the paper's experiment. SFT, reward model, DPO, then PPO, DPPO, RTO and RTO as released, and
/// what they are worth on held-out prompts. A run that was stopped goes on with the same command.
/// The paper calls the sentence-level DPO reward DPPO; it is not the later divergence PPO.
#[derive(Debug, Parser)]
#[command(name = "rto_llm", version, after_help = EXAMPLES, args_conflicts_with_subcommands = true)]
struct Cli {
    #[command(subcommand)]
    command: Option<Command>,
    #[command(flatten)]
    run: run::Args,
}

#[derive(Debug, Subcommand)]
enum Command {
    /// The paper's experiment, as without a subcommand
    Run(Box<run::Args>),
    /// Compare methods with everything else equal: a grid of settings, seeds and worlds, from a plan
    Sweep(Box<run::SweepArgs>),
    /// Log-probabilities and DPO token rewards of given responses
    Score(score::Args),
    /// Sample responses to prompts
    Generate(generate::Args),
    /// Architecture, parameter count and memory plan of a folder
    Info(info::Args),
    /// Write a model as a Hugging Face folder: from a GGUF file, an adapter merged, in another float type
    Convert(convert::Args),
    /// One page that shows a run: tables, curves, samples, token credit
    Report(report::Args),
    /// Let a language model compare the responses of a run
    Judge(judge::Args),
}

const EXAMPLES: &str = "\
Examples:
  rto_llm                              the whole experiment, three minutes
  rto_llm --smoke --out runs/smoke     every stage in seconds; nothing is learned
  rto_llm --seeds 1..5 --out runs/five
  rto_llm --out runs/five --seeds 1..5 goes on with it, in its settings
  rto_llm --methods rto,dppo --set method.rto.beta2=0.15 --seed 2 --out runs/printed
Human preferences, everything learned from your files:
  rto_llm --preset hh-scratch --data harmless-base/test.jsonl.gz
From a model; what would that take?
  rto_llm --preset pythia-160m --model ./pythia-160m \\
    --data helpful-base/train.jsonl.gz --dry-run
  rto_llm --preset smollm2-135m-hh --model SmolLM2-135M-Instruct.Q4_1.gguf \\
    --data helpful-base/train.jsonl.gz --lora
Several processes (built with --features mpi):
  mpirun -n 4 rto_llm --out runs/four --set gradient_groups=4
  rto_llm --seeds 1..5 --out runs/five --slurm 5 --sbatch \"--time=9:00\"
Afterwards:
  rto_llm judge --run runs/mine --endpoint http://localhost:8000/v1 \\
    --judge-model NAME --key-env none
Models:
  rto_llm info --model pythia-14m
  rto_llm convert --model SmolLM2-135M-Instruct.Q4_1.gguf --out smollm2
  rto_llm generate --model pythia-14m --prompt 'Once upon a time'
  rto_llm score --model dpo --reference sft --input pairs.jsonl --json
where a line of pairs.jsonl is
  {\"prompt\": \"Human: Hi\\n\\nAssistant:\", \"response\": \" Hello.\"}   or
  {\"prompt_ids\": [510, 27], \"response_ids\": [12092, 15, 0]}";

fn main() -> ExitCode {
    let cli: Cli = parse(run::DEFAULTS);
    run_main("rto_llm", || match &cli.command {
        Some(command) => dispatch(command),
        None => run::run(&cli.run),
    })
}

fn dispatch(command: &Command) -> Result<()> {
    match command {
        Command::Run(args) => run::run(args),
        Command::Sweep(args) => run::sweep(args),
        Command::Score(args) => score::run(args),
        Command::Generate(args) => generate::run(args),
        Command::Info(args) => info::run(args),
        Command::Convert(args) => convert::run(args),
        Command::Report(args) => report::run(args),
        Command::Judge(args) => judge::run(args),
    }
}
