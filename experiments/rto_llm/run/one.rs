//! A run in its folder.

use std::path::PathBuf;

use anyhow::{Context, Result, bail};
use candle_core::Device;
use rto::seed::SeedTree;
use rto_bridge::device::{Executor, device_of_process};
use rto_bridge::family::Head;
use rto_bridge::learner::Ranks;
use rto_bridge::memory_plan::fits_in;
use rto_harness::cli::Reporter;
use rto_harness::progress::Progress;
use rto_harness::run_dir::RunDir;
use rto_harness::say;

use super::args::{Args, NAME};
use super::config::{self, Config};
use super::data::{self, Data};
use super::evaluation::Evaluation;
use super::ledger::Ledger;
use super::models::{self, Models};
use super::plan;
use super::ranks::{self, Engine};
use super::stage::Stage;
use super::training::{Pace, Training, is_done};

/// A run: what it learns from, its networks, the stages that train them, what they are worth, and what is said of it.
struct Run<'r> {
    training: Training<'r>,
    evaluation: Evaluation<'r>,
    ledger: Ledger<'r>,
}

impl Run<'_> {
    /// Every stage up to `last`.
    fn to(&mut self, last: Stage, jobs: usize, args: &Args, reporter: &Reporter) -> Result<()> {
        let (ledger, evaluation) = (&mut self.ledger, &self.evaluation);
        let mut finished = |stage, time| ledger.stage(stage, time);
        self.training.run(last, jobs, reporter, &mut finished)?;
        match Stage::Evaluate.is_within(last) {
            true => ledger.evaluate(args.common.json, || evaluation.run()),
            false => ledger.close(),
        }
    }
}

/// Trains what is not trained yet.
pub fn run(args: &Args, engine: &Engine, reporter: &Reporter) -> Result<()> {
    let config = config::resolve(args)?;
    ranks::check_same(engine, "settings", &toml::to_string(&config)?)?;
    ranks::check_same(engine, "--shard-moments", &args.shard_moments.to_string())?;
    let ranks = Ranks::try_new(engine.clone(), config.gradient_groups)?
        .with_sharded_moments(args.shard_moments);
    // A plan needs neither weights nor data.
    if let (true, Some(network)) = (args.dry_run, config.published()) {
        return plan::print_card(&config, &network, reporter);
    }
    let seeds = SeedTree::new(config.seed).child(NAME);
    let device = match config.executor()? {
        None => device_of_process(&config.device, ranks::on_host())?,
        Some(_) if engine.size() > 1 => bail!(
            "device: found {:?} with {} ranks, expected one process: the program of kernels is trained by one",
            config.device,
            engine.size()
        ),
        // Opened once here, so that a device that is not there is refused before anything is written.
        Some(executor) => {
            executor.open()?;
            Device::Cpu
        }
    };
    // Bad settings and bad data leave nothing behind.
    let data = data::read(&config, &seeds)?;
    models::check_adapters(&config, &data)?;
    models::check_executor(&config, &data)?;
    if !config.oracle.is_empty() {
        models::check_oracle(&config.oracle)?;
    }
    let jobs = match (engine.size(), args.jobs) {
        (1, None) => jobs(&config, &data, &device),
        (1, Some(jobs)) => usize::from(jobs),
        (_, None | Some(1)) => 1,
        (size, Some(jobs)) => bail!(
            "--jobs: found {jobs} with {size} ranks, expected 1: all ranks train one stage together"
        ),
    };
    if args.dry_run {
        return plan::print(&config, &data, (jobs, args.shard_moments), reporter);
    }
    config.check_products()?;
    if let Some(free) = config.executor()?.map_or(Ok(None), Executor::free_memory)? {
        fits_in(plan::peak_on_card(&config, &data)?, free)?;
    }
    let memory = plan::Memory::new(&config, &data, jobs);
    memory.check(&device, engine.size(), args.shard_moments)?;
    let dir = match engine.rank() {
        0 => Some(folder(args, &config, &data)?),
        _ => None,
    };
    // What the first rank has begun is there before the others look.
    let root = ranks::of_first(engine, dir.as_ref().map(RunDir::root))?;
    let dir = dir.unwrap_or_else(|| RunDir::of_another(NAME, &root));
    let models = Models::try_new(&config, &data, &seeds, (device, ranks), dir.root())?;
    let pace = pace(args, &config, &data, &dir)?;
    engine.barrier()?;
    let training = Training {
        config: &config,
        data: &data,
        models: &models,
        seeds: &seeds,
        pace: &pace,
        root: dir.root(),
        stop: Default::default(),
        watch: None,
    };
    let evaluation = Evaluation {
        config: &config,
        data: &data,
        models: &models,
        seeds: &seeds,
        pace: &pace,
        dir: &dir,
    };
    let ledger = Ledger::new(&dir, reporter);
    ledger.open(&config, &data)?;
    let mut run = Run {
        training,
        evaluation,
        ledger,
    };
    run.to(args.stage, jobs, args, reporter)?;
    engine.barrier()?;
    say!(reporter, "results in {}", dir.root().display())
}

/// The folder of a new run, or of the one that goes on.
fn folder(args: &Args, config: &Config, data: &Data) -> Result<RunDir> {
    let out = match &args.common.out {
        Some(out) => Some(out.clone()),
        None => unfinished(config, data),
    };
    let dir = RunDir::create_or_resume(NAME, out.as_deref(), config)?;
    dir.write_json("data.json", &data.account)
        .context("the data, the model or the oracle are not those this run began with; give a new run another --out")?;
    Ok(dir)
}

/// What is to be done, and what was done before.
fn pace(args: &Args, config: &Config, data: &Data, dir: &RunDir) -> Result<Pace> {
    let work = plan::work(config, data)?;
    let needed = work.iter().filter(|(stage, _)| stage.is_within(args.stage));
    let (done, left): (Vec<_>, Vec<_>) = needed.partition(|(stage, _)| is_done(dir.root(), *stage));
    let sum = |stages: Vec<&(Stage, f64)>| stages.iter().map(|(_, work)| work).sum::<f64>();
    let (done, left) = (sum(done), sum(left));
    let progress = Progress::whole(args.common.quiet || !dir.writes(), done + left);
    progress.restored(done);
    Ok(Pace {
        progress,
        work,
        oracle_reads: config.pretrains(),
    })
}

/// How many stages are trained at once unless that is said: one for each core, where all their networks are small. Each loads what
/// it needs, so a reward model of the user's, whose size is not known here, is a reason for one at a time.
fn jobs(config: &Config, data: &Data, device: &Device) -> usize {
    // Policy, critic, reference, DPO and reward model, gradients and moments; activations come on top.
    const WEIGHTS: usize = 16_000_000;
    let shapes = data.network.tensors(Head::CausalLm);
    let weights: usize = shapes.values().map(|s| s.iter().product::<usize>()).sum();
    // Of a device of kernels there is one.
    let host = matches!(config.executor(), Ok(None));
    match host && device.is_cpu() && weights <= WEIGHTS && config.oracle.is_empty() {
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
