//! The paper's experiment: SFT, reward model, DPO, then PPO, DPPO, RTO and RTO as released, and what they are worth.

mod adapters;
mod base;
mod cards;
mod choices;
mod codec;
mod config;
mod data;
mod estimate;
mod evaluate;
mod fault;
mod files;
mod fit;
mod on_world;
mod oracle;
mod plan;
mod probe;
mod rl;
mod seeds;
mod side_by_side;
mod stage;

use std::path::{Path, PathBuf};

use anyhow::{Context, Result};
use candle_core::Device;
use rto::seed::SeedTree;
use rto_bridge::config::Head;
use rto_bridge::device::device;
use rto_bridge::learner::{LearnerOptions, NeuralPolicy, NeuralScorer};
use rto_bridge::model::{Heads, Model};
use rto_bridge::params::{Init, Params};
use rto_harness::cli::{Common, Reporter};
use rto_harness::list::List;
use rto_harness::methods::{self, Method};
use rto_harness::progress::Progress;
use rto_harness::run_dir::{RunDir, Timings};
use rto_harness::say;
use rto_harness::study;
use serde_json::json;

use config::Config;
use data::Data;
use evaluate::EVALUATE;
use side_by_side::{Stop, Task};

/// The name of the binary, of its run folders and random streams.
const NAME: &str = "rto_llm";

/// Every key of the settings, for the help of flags of that name.
pub const DEFAULTS: &str = config::TINY;

/// Flags of a run.
#[derive(Debug, Clone, clap::Args)]
pub struct Args {
    #[command(flatten)]
    common: Common,
    /// Named settings to start from: tiny, hh-scratch, pythia-14m and others [default: tiny]
    #[arg(long, value_name = "NAME")]
    preset: Option<String>,
    /// Preference data: files or folders (JSON lines or an array, plain, .gz, .zst or .bz2;
    /// .parquet), HH-RLHF as published, UltraFeedback, or with columns prompt, chosen, rejected
    /// [default: the synthetic world]
    #[arg(long, value_name = "PATH", num_args = 1..)]
    data: Option<Vec<String>>,
    /// Column of the data that holds the prompt [default: prompt]
    #[arg(long, value_name = "NAME")]
    prompt_column: Option<String>,
    /// Column of the preferred reply, or of the whole preferred dialogue [default: chosen]
    #[arg(long, value_name = "NAME")]
    chosen_column: Option<String>,
    /// Column of the other one [default: rejected]
    #[arg(long, value_name = "NAME")]
    rejected_column: Option<String>,
    /// Column of a system message that stands in front; "" reads none [default: system]
    #[arg(long, value_name = "NAME")]
    system_column: Option<String>,
    /// Model to start from: a Hugging Face folder, a GGUF file, or a name on the hub with that feature
    #[arg(long, value_name = "FOLDER")]
    model: Option<String>,
    /// What judges held-out responses: a folder with a reward model (sequence classification, its own tokenizer)
    #[arg(long, value_name = "FOLDER")]
    oracle: Option<String>,
    /// Run under several seeds, as 1,2,5 or 1..5, each in a folder below --out, and compare over seeds
    #[arg(long, value_name = "LIST", conflicts_with = "seed")]
    seeds: Option<List<u64>>,
    /// The run whose settings are taken where this command line says nothing: that of another seed of a sweep.
    #[arg(skip)]
    like: Option<PathBuf>,
    /// Where networks run: cpu, cuda or cuda:N
    #[arg(long, value_name = "NAME")]
    device: Option<String>,
    /// Stop after this stage; a later run with the same --out goes on
    #[arg(long, value_enum, default_value_t = Last::Evaluate)]
    stage: Last,
    /// Methods after DPO [default: those of the preset]
    #[arg(long, value_parser = methods::value_parser(), value_delimiter = ',', value_name = "LIST")]
    methods: Option<Vec<&'static Method>>,
    /// Change one setting; may be given several times
    #[arg(long, value_name = "KEY=VALUE")]
    set: Vec<String>,
    /// Train low-rank adapters on a frozen base instead of all weights: LoRA of this rank, 16
    /// where none is said [default: all weights]
    #[arg(long, value_name = "RANK", num_args = 0..=1, default_missing_value = "16")]
    lora: Option<usize>,
    /// Stages trained at once where they need nothing of one another; no number depends on it
    /// [default: the cores for small networks on a CPU, else 1]
    #[arg(long, value_name = "N", value_parser = clap::value_parser!(u16).range(1..))]
    jobs: Option<u16>,
    /// Print the settings, the memory plan and the work to be done; touch nothing
    #[arg(long)]
    dry_run: bool,
}

/// The stages, in order.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, clap::ValueEnum)]
enum Last {
    /// Supervised fine-tuning
    Sft,
    /// The reward model
    Reward,
    /// DPO
    Dpo,
    /// The reward model that judges, where no reward is known or given
    Oracle,
    /// The methods of Algorithm 2
    Rl,
    /// Held-out prompts, exact values, samples
    Evaluate,
}

/// A stage on a fixed data set: the first `--stage` that includes it, and its name.
type Fitted = (Last, &'static str, fn(&Run) -> Result<()>);

/// A run in its folder.
struct Run {
    config: Config,
    seeds: SeedTree,
    data: Data,
    dir: RunDir,
    progress: Progress,
    /// What each stage costs, in tokens.
    work: Vec<(&'static str, f64)>,
    device: Device,
    stop: Stop,
    /// Tokenizer files that every saved policy carries.
    tokenizer: PathBuf,
}

/// Trains what is not trained yet.
pub fn run(args: &Args) -> Result<()> {
    let reporter = args.common.reporter();
    if let Some(folder) = &args.common.redraw {
        return study::redraw(NAME, folder, crate::report::frontier::redraw, &reporter);
    }
    match &args.seeds {
        Some(seeds) => seeds::run(args, seeds, &reporter),
        None => run_one(args, &reporter),
    }
}

fn run_one(args: &Args, reporter: &Reporter) -> Result<()> {
    let config = config::resolve(args)?;
    let seeds = SeedTree::new(config.seed).child(NAME);
    let device = device(&config.device)?;
    // Bad settings and bad data leave nothing behind.
    let data = match config.on_world() {
        true => on_world::read(&config, &seeds)?,
        false => files::read(&config, &seeds)?,
    };
    adapters::check(&config, &data)?;
    if !config.oracle.is_empty() {
        oracle::check(&config.oracle)?;
    }
    let jobs = args
        .jobs
        .map_or_else(|| jobs(&config, &data, &device), usize::from);
    if args.dry_run {
        return plan::print(&config, &data, jobs, reporter);
    }
    let out = match &args.common.out {
        Some(out) => Some(out.clone()),
        None => unfinished(&config, &data),
    };
    let dir = RunDir::create_or_resume(NAME, out.as_deref(), &config)?;
    dir.write_json("data.json", &data.account)
        .context("the data, the model or the oracle are not those this run began with; give a new run another --out")?;
    let tokenizer = data.tokenizer.folder(dir.root())?;
    let work = estimate::work(&config, &data)?;
    let needed = |name: &str| {
        let last = match name {
            "pretrain" | "sft" => Last::Sft,
            "reward" => Last::Reward,
            "dpo" => Last::Dpo,
            "oracle" => Last::Oracle,
            EVALUATE => Last::Evaluate,
            _ => Last::Rl,
        };
        args.stage >= last
    };
    let (done, left): (Vec<_>, Vec<_>) = work
        .iter()
        .filter(|(name, _)| needed(name))
        .partition(|(name, _)| stage::is_done(dir.root(), name));
    let sum = |stages: Vec<&(&str, f64)>| stages.iter().map(|(_, work)| work).sum::<f64>();
    let (done, left) = (sum(done), sum(left));
    let progress = Progress::whole(args.common.quiet, done + left);
    progress.restored(done);
    let run = Run {
        device,
        progress,
        work,
        stop: Stop::default(),
        config,
        seeds,
        data,
        dir,
        tokenizer,
    };
    let mut timings = Timings::new();
    say!(reporter, "run folder {}", run.root().display())?;
    if !run.data.said.is_empty() {
        say!(reporter, "{}", run.data.said)?;
    }
    run.say_biased(reporter)?;
    // What stands in one row needs all rows above it, and nothing of its neighbours.
    let rows: [&[Fitted]; 3] = [
        &[(Last::Sft, "pretrain", Run::pretrain)],
        &[(Last::Sft, "sft", Run::sft)],
        &[
            (Last::Reward, "reward", Run::reward_model),
            (Last::Dpo, "dpo", Run::dpo),
            (Last::Oracle, "oracle", Run::oracle_model),
        ],
    ];
    let mut together = |tasks: Vec<Task<'_>>| {
        let (done, tasks): (Vec<_>, Vec<_>) = tasks
            .into_iter()
            .partition(|task| stage::is_done(run.root(), task.name));
        for task in done {
            say!(reporter, "{}: done before", task.name)?;
        }
        side_by_side::run(tasks, jobs, &run.stop, &mut |name, time| {
            timings.add(name, time);
            // Now: a run that is stopped later goes on without this stage.
            run.dir.write_timings(&timings)?;
            say!(reporter, "{name}: {:.1} s", time.as_secs_f64())
        })
    };
    for row in rows {
        let needed = |(last, name, _): &&Fitted| {
            let needed = match *name {
                "pretrain" => run.config.pretrains(),
                "oracle" => !run.data.oracle_pairs.is_empty(),
                _ => true,
            };
            needed && args.stage >= *last
        };
        let task = |&(_, name, stage): &Fitted| {
            let run = &run;
            let work = Box::new(move || stage(run));
            Task { name, work }
        };
        together(row.iter().filter(needed).map(task).collect())?;
    }
    if args.stage >= Last::Rl {
        let task = |&method: &&'static Method| {
            let run = &run;
            let work = Box::new(move || run.rl(method));
            let name = method.name;
            Task { name, work }
        };
        together(run.config.methods.iter().map(task).collect())?;
    }
    if args.stage >= Last::Evaluate {
        let summary = timings.phase(EVALUATE, || run.evaluate())?;
        // Files first: whoever stops reading loses no result.
        run.dir.write_text("done", "")?;
        let page = run.dir.path("report.html");
        crate::report::write(run.root(), &page)?;
        crate::report::frontier::save(run.root())?;
        run.dir.write_timings(&timings)?;
        remove_temporaries(run.root());
        say!(reporter, "{EVALUATE}: {:.1} s", timings.seconds(EVALUATE))?;
        say!(reporter, "{}", summary.render())?;
        // A sweep prints one document, of its own.
        if args.common.json {
            reporter.json(&json!({ "run": run.root(), "summary": summary }))?;
        }
        say!(reporter, "everything on one page: {}", page.display())?;
    } else {
        run.dir.write_timings(&timings)?;
        remove_temporaries(run.root());
    }
    say!(reporter, "results in {}", run.root().display())
}

/// How many stages are trained at once unless that is said: one for each core, where all their networks are small. Each loads what
/// it needs, so a reward model of the user's, whose size is not known here, is a reason for one at a time.
fn jobs(config: &Config, data: &Data, device: &Device) -> usize {
    // Policy, critic, reference, DPO and reward model, gradients and moments; activations come on top.
    const WEIGHTS: usize = 16_000_000;
    let shapes = data.network.tensors(Head::CausalLm);
    let weights: usize = shapes.values().map(|s| s.iter().product::<usize>()).sum();
    match device.is_cpu() && weights <= WEIGHTS && config.oracle.is_empty() {
        true => rayon::current_num_threads(),
        false => 1,
    }
}

/// The newest numbered folder of an unfinished run with these settings: without --out, the same command goes on.
fn unfinished(config: &Config, data: &Data) -> Option<PathBuf> {
    let wanted = toml::to_string(config).ok()?;
    let entries = std::fs::read_dir("runs").ok()?.flatten();
    let mut folders: Vec<PathBuf> = entries
        .map(|e| e.path())
        .filter(|p| {
            let ours = |n: &str| n.strip_prefix(NAME).is_some_and(|r| r.starts_with('-'));
            p.file_name().and_then(|n| n.to_str()).is_some_and(ours)
        })
        .collect();
    folders.sort();
    let fits = |p: &PathBuf| {
        let same = std::fs::read_to_string(p.join("config.toml")).is_ok_and(|t| t == wanted);
        let account = std::fs::read_to_string(p.join("data.json")).ok();
        let account = account.and_then(|t| serde_json::from_str::<serde_json::Value>(&t).ok());
        let same = same && account.is_none_or(|found| found == data.account);
        same && !p.join("done").is_file() && RunDir::verify(NAME, p, config).is_ok()
    };
    folders.into_iter().rev().find(fits)
}

/// What killed processes were writing; only this process writes here.
fn remove_temporaries(dir: &Path) {
    for entry in std::fs::read_dir(dir).into_iter().flatten().flatten() {
        let (path, name) = (entry.path(), entry.file_name());
        let name = name.to_string_lossy();
        let temporary = name.starts_with('.') && name.ends_with(".tmp");
        // Nothing is lost where one cannot be removed.
        match path.is_dir() {
            true if temporary => drop(std::fs::remove_dir_all(&path)),
            true => remove_temporaries(&path),
            false if temporary => drop(std::fs::remove_file(&path)),
            false => {}
        }
    }
}

impl Run {
    /// Settings whose expected gradient is not that of the objective, each once for all methods.
    fn say_biased(&self, reporter: &Reporter) -> Result<()> {
        let mut said = Vec::new();
        for method in &self.config.methods {
            for biased in self.config.ppo(method)?.biased() {
                let text = biased.to_string();
                if !said.contains(&text) {
                    say!(reporter, "warning: {text}")?;
                    said.push(text);
                }
            }
        }
        Ok(())
    }

    fn root(&self) -> &Path {
        self.dir.root()
    }

    /// What a stage costs, in tokens.
    fn work(&self, stage: &str) -> f64 {
        let of = |name: &str| {
            let known = self.work.iter().find(|(other, _)| *other == name);
            known.map_or(0.0, |(_, work)| *work)
        };
        // An oracle that learns to read first does so in a stage of its own, which is counted with it.
        match stage {
            "oracle_pretrain" => of("oracle") / 2.0,
            "oracle" if self.config.pretrains() => of("oracle") / 2.0,
            name => of(name),
        }
    }

    fn options(&self) -> LearnerOptions {
        self.config.learner()
    }

    /// The model that was named, or new weights from a stream of this name.
    fn first_network(&self, stream: &str) -> Result<NeuralScorer> {
        if let Some(folder) = &self.data.base {
            return Ok(NeuralScorer::load(folder, true, &self.device)?);
        }
        let (shape, seeds) = (&self.data.network, self.seeds.child(stream));
        let heads = Heads {
            language_model: true,
            ..Heads::default()
        };
        let model = Model::random(shape, heads, Init::Small, &seeds, &self.device)?;
        let params = Params::new(model.params().tensors())?;
        Ok(NeuralScorer::try_new(shape, params)?)
    }

    /// A finished stage's network, to train on from.
    fn trained(&self, name: &str) -> Result<NeuralScorer> {
        Ok(NeuralScorer::load(&self.saved(name), true, &self.device)?)
    }

    /// A finished stage's network, as it is.
    fn frozen(&self, name: &str) -> Result<NeuralScorer> {
        Ok(NeuralScorer::load(&self.saved(name), false, &self.device)?
            .with_micro_batch(self.config.micro_batch)?
            .with_temperature(self.config.temperature)?)
    }

    fn saved(&self, name: &str) -> PathBuf {
        self.root().join("policies").join(name)
    }

    /// Saves a network as a Hugging Face folder, an adapter merged into its base and beside it.
    fn keep(&self, name: &str, scorer: &NeuralScorer) -> Result<()> {
        if scorer.model().adapter().is_some() {
            scorer.save_adapter(&self.adapter(name), self.base_of(name))?;
        }
        Ok(scorer.save_hugging_face(&self.saved(name), Some(&self.tokenizer))?)
    }

    /// A policy with what every stage wants of it.
    fn policy(&self, scorer: NeuralScorer) -> Result<NeuralPolicy> {
        let mut scorer = scorer
            .with_temperature(self.config.temperature)?
            .with_entropy()
            .with_micro_batch(self.config.micro_batch)?;
        scorer.model_mut().options_mut().checkpointing = self.config.checkpoint_activations;
        let policy = NeuralPolicy::try_new(scorer, self.config.max_new_tokens)?;
        Ok(policy.with_generation(64, rayon::current_num_threads()))
    }
}
