//! Language models: scoring with token rewards (4.5), generation, and what a folder holds.

mod generate;
mod html;
mod info;
mod input;
mod model;
mod report;
mod score;

use anyhow::Result;
use clap::{CommandFactory, Parser, Subcommand};
use rto_harness::cli::run_main;
use std::process::ExitCode;

/// RLHF with token rewards on GPT-NeoX (Pythia) language models in Hugging Face folders.
#[derive(Debug, Parser)]
#[command(name = "rto_llm", version, after_help = EXAMPLES)]
struct Cli {
    #[command(subcommand)]
    command: Option<Command>,
}

#[derive(Debug, Subcommand)]
enum Command {
    /// Log-probabilities and DPO token rewards of given responses
    Score(score::Args),
    /// Sample responses to prompts
    Generate(generate::Args),
    /// Architecture, parameter count and memory plan of a folder
    Info(info::Args),
    /// One page that shows a run: tables, curves, samples, token credit
    Report(report::Args),
}

const EXAMPLES: &str = "\
Examples:
  rto_llm info --model pythia-14m
  rto_llm generate --model pythia-14m --prompt 'Once upon a time' --max-new-tokens 40
  rto_llm score --model dpo --reference sft --input pairs.jsonl --json > rewards.jsonl
  rto_llm score --model dpo --reference sft --input pairs.jsonl --html rewards.html
where a line of pairs.jsonl is
  {\"prompt\": \"Human: Hi\\n\\nAssistant:\", \"response\": \" Hello.\"}   or
  {\"prompt_ids\": [510, 27], \"response_ids\": [12092, 15, 0]}";

fn main() -> ExitCode {
    let cli = Cli::parse();
    let Some(command) = cli.command else {
        // A training run without arguments will stand here.
        eprint!("{}", Cli::command().render_help());
        return ExitCode::from(2);
    };
    run_main("rto_llm", || run(&command))
}

fn run(command: &Command) -> Result<()> {
    match command {
        Command::Score(args) => score::run(args),
        Command::Generate(args) => generate::run(args),
        Command::Info(args) => info::run(args),
        Command::Report(args) => report::run(args),
    }
}
