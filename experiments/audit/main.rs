//! What the gradient of each training recipe climbs, exactly.

mod config;
mod ends;
mod figures;
mod lambda;
mod noise;
mod pictures;
mod statements;

use anyhow::{Result, bail};
use clap::Parser;
use config::{Config, Flags};
use rto::audit::named;
use rto::seed::SeedTree;
use rto_audit::problem::Instance;
use rto_audit::{explain, input, problem, report, sampled};
use rto_harness::cli::{Reporter, parse, run_main};
use rto_harness::say;
use rto_harness::settings::Settings;
use rto_harness::study::{self, Cells, Experiment, Results, StudyArgs};
use rto_harness::sweep::Task;
use rto_harness::table::Table;
use serde_json::json;
use std::path::{Path, PathBuf};
use std::process::ExitCode;

/// What does the gradient of a training recipe really climb? On token trees small enough to enumerate, exactly.
///
/// (a) 22 named recipes on three trees: expected gradient beside the gradient of the objective that is meant, covariance, curl, fixed
/// point; (b) where each recipe ends, on random trees; (c) from how many responses on its bias outweighs its variance; (d) lambda of GAE
/// for dense and sparse rewards; (e) pictures. With --tree, the same for a tree of your own. Every finished cell is kept in the run
/// folder: a run that was stopped continues, and an array of jobs can share the work.
#[derive(Debug, Parser)]
#[command(version, after_help = EXAMPLES, args_conflicts_with_subcommands = true)]
struct Cli {
    #[command(subcommand)]
    command: Option<Command>,
    #[command(flatten)]
    study: StudyArgs,
    /// Audit this tree alone (JSON); nothing is written
    #[arg(long, value_name = "FILE", conflicts_with_all = ["config", "seed", "set", "out", "smoke", "redraw", "resume", "shard"])]
    tree: Option<PathBuf>,
    /// This recipe alone: a short name, or a TOML file of your own; without --tree on the third fixed tree
    #[arg(long, value_name = "NAME|FILE", conflicts_with_all = ["out", "redraw", "resume", "shard", "compare"])]
    recipe: Option<String>,
    /// Say term by term what each choice of the recipe costs
    #[arg(long, requires = "recipe")]
    explain: bool,
    /// Two recipes beside each other
    #[arg(long, num_args = 2, value_names = ["A", "B"], conflicts_with_all = ["out", "redraw", "resume", "shard"])]
    compare: Option<Vec<String>>,
    /// Draw this many units instead of enumerating all: estimates with 95% intervals, for groups too large to enumerate
    #[arg(long, value_name = "UNITS", conflicts_with_all = ["out", "redraw", "resume", "shard", "compare", "explain"])]
    draws: Option<usize>,
    #[command(flatten)]
    flags: Flags,
}

#[derive(Debug, clap::Subcommand)]
enum Command {
    #[command(flatten)]
    Study(study::Command),
    /// List the named recipes
    Recipes,
}

/// The name of the binary, of its run folders, cells and random streams.
const NAME: &str = "audit";

const EXAMPLES: &str = "\
Examples:
  audit                                              the whole audit, within a minute on two cores
  audit --smoke                                      the same in seconds, small
  audit recipes                                      the named recipes with their short names
  audit --recipe trl.grpo --explain                  what each choice of TRL's GRPO costs
  audit --compare trl.rloo openrlhf.rloo
  audit --tree tree.json --json                      all recipes on a tree of your own
  audit --tree tree.json --recipe mine.toml --explain
  audit --recipe mine.toml --draws 100000            where mine.toml has groups too large to enumerate

A tree is one object with the keys A, H, eos (an action or null), prompt_weights, theta, theta_old, ref_logits, dpo_logits, r (tables
[states][A], states ordered by prompt, depth and prefix), beta, beta1 and dpo_clip.
A recipe of your own is a TOML file; what is left out is REINFORCE's:
  reward = \"sentence\"            # token, dpo, dpo_at_end, released, zero
  kl = { placement = \"loss\", estimator = \"k3\" }    # reward, loss, both; k1, k2, k3, exact, k3_plus, k3_corrected
  beta = 0.1
  advantage = { group = { spread = { group = { eps = 1e-4 } } } }
                                 # reward_to_go, leave_one_out, leave_one_out_of_score, greedy,
                                 # { gae = { gamma = 1.0, lambda = 0.95, critic = \"zero\" } }
  whitening = \"biased\"           # unbiased, biased_clamped, one
  aggregation = \"token_mean\"     # sequence_mean, sequence_sum, { constant = { length = 3 } }
  prompts = 1                    # B, with
  responses = 4                  # G: one of the two is 1
  [surrogate]
  ratio = \"token\"                # sequence, geometric_mean, log_prob, { capped = { low = 0.0, high = 5.0 } }
  clip_low = 0.2
  clip_high = 0.28
  dual_clip = 3.0";

/// A config with what all cells share.
struct Study {
    config: Config,
    seeds: SeedTree,
}

fn main() -> ExitCode {
    run_main(NAME, || run(&parse(Config::DEFAULTS)))
}

impl Cli {
    /// Whether the answer is about one tree, and nothing is written.
    fn is_of_one_tree(&self) -> bool {
        let named = self.recipe.is_some() || self.compare.is_some();
        self.tree.is_some() || named || self.draws.is_some()
    }
}

fn run(cli: &Cli) -> Result<()> {
    match &cli.command {
        Some(Command::Study(study::Command::Merge(args))) => study::merge::<Study>(args),
        Some(Command::Recipes) => list(&cli.study.common.reporter()),
        None if cli.is_of_one_tree() => one_tree(cli),
        None => study::run::<Study>(&cli.study, &cli.flags),
    }
}

impl Experiment for Study {
    type Settings = Config;

    fn new(config: Config) -> Result<Self> {
        Ok(Self {
            seeds: SeedTree::new(config.seed).child(NAME),
            config,
        })
    }

    fn settings(&self) -> &Config {
        &self.config
    }

    /// The cells; within a part those that take longest come first.
    fn tasks(&self) -> Vec<Task<'_>> {
        let mut all = recipe_tasks(self);
        all.extend(ends::tasks(self));
        all.extend(noise::tasks(self));
        all.extend(lambda::tasks(self));
        all.extend(pictures::field_tasks(self));
        all.extend(pictures::beta_tasks(self));
        all.extend(pictures::length_tasks(self));
        all
    }

    fn results(&self, cells: &Cells<'_>) -> Result<Results> {
        let recipes = cells.of_part('a', "recipes")?;
        let end_runs = cells.of_part('b', "end_runs")?;
        let noise_runs = cells.of_part('c', "noise_runs")?;
        let lambda_runs = cells.of_part('d', "lambda_runs")?;
        let field = cells.of_part('e', "simplex")?;
        let over_beta = cells.of_part('f', "over_beta")?;
        let lengths = cells.of_part('g', "length_bias")?;

        let (ends, noise) = (ends::summarise(&end_runs)?, noise::summarise(&noise_runs)?);
        let (best, errors) = (
            lambda::best(self, &lambda_runs)?,
            lambda::errors(self, &lambda_runs)?,
        );
        let mut ratios = Vec::new();
        for family in noise_runs.distinct("family")? {
            let ratio = noise::both_over_k1(&noise_runs, &family)?;
            ratios.push((family, ratio));
        }
        let statements = statements::judge(&ends, &noise, &ratios, &best)?;

        let c = &self.config;
        let mut texts = Vec::new();
        for tree in recipes.distinct("tree")? {
            let text = report::text(&recipes, &tree)?;
            texts.push(format!(
                "(a) {tree}, beta = {}, G = {}, B = {}:\n{text}",
                c.beta, c.group, c.batch
            ));
        }
        texts.push(ends::text(&ends)?);
        texts.push(noise::text(&noise, &noise_runs, c.beta)?);
        texts.push(lambda::text(&best, self)?);
        texts.push(statements::text(&statements));
        Ok(Results {
            texts,
            raw: vec![end_runs, noise_runs, lambda_runs],
            tables: vec![
                recipes, ends, noise, best, errors, statements, field, over_beta, lengths,
            ],
        })
    }

    fn draw(dir: &Path) -> Result<()> {
        figures::draw_all(dir)
    }
}

/// (a) A cell per fixed tree.
fn recipe_tasks(study: &Study) -> Vec<Task<'_>> {
    let task = |k: usize| {
        Task::new(format!("audit/a/{k}"), report::COLUMNS, move || {
            let c = &study.config;
            let instance = &problem::fixed(c.beta)?[k];
            let horizon = instance.problem.tree().horizon();
            let all = named(c.beta, c.group, c.batch, horizon);
            let audited = report::Audited::all(instance, &all, &|| Ok(()))?;
            Ok(audited.iter().map(|r| r.row(&instance.name)).collect())
        })
    };
    (0..3).map(task).collect()
}

/// The answers about one tree, which go to the terminal alone.
fn one_tree(cli: &Cli) -> Result<()> {
    let reporter = cli.study.common.reporter();
    let config = Config::resolve(&cli.study.common, &cli.flags)?;
    cli.flags.only_of_a_tree(cli.tree.is_some())?;
    let (group, batch) = (config.group, config.batch);
    let instance = match &cli.tree {
        Some(path) => input::tree(path)?,
        None => match problem::fixed(config.beta)?.pop() {
            Some(instance) => instance,
            None => bail!("no fixed tree"),
        },
    };
    if let Some(texts) = &cli.compare {
        return compare(&instance, texts, group, batch, &reporter);
    }
    if let (Some(text), true) = (&cli.recipe, cli.explain) {
        let (name, recipe) = input::recipe("--recipe", text, &instance, group, batch)?;
        let table = explain::explain(&instance, &name, &recipe, &|| Ok(()))?;
        reporter.json(&json!({ "tree": instance.name, "recipe": name, "explain": table }))?;
        return say!(reporter, "{}", explain::text(&table, &instance)?);
    }
    let all = || {
        named(
            instance.beta,
            group,
            batch,
            instance.problem.tree().horizon(),
        )
    };
    let one = match &cli.recipe {
        Some(text) => Some(input::recipe("--recipe", text, &instance, group, batch)?),
        None => None,
    };
    if let Some(units) = cli.draws {
        sampled::check(units)?;
        let recipes = match one {
            Some(one) => vec![one],
            None => all()
                .into_iter()
                .map(|n| (n.name.into(), n.recipe))
                .collect(),
        };
        let seeds = SeedTree::new(config.seed).child(NAME).child("draws");
        let drawn = recipes
            .iter()
            .map(|(name, recipe)| sampled::Drawn::new(&instance, name, recipe, units, &seeds))
            .collect::<Result<Vec<_>>>()?;
        reporter.json(&sampled::json(&instance, &drawn))?;
        return say!(
            reporter,
            "{}, beta = {}. {}",
            instance.name,
            instance.beta,
            sampled::text(&drawn)
        );
    }
    let audited = match &one {
        Some((name, recipe)) => vec![report::Audited::new(&instance, name, recipe, &|| Ok(()))?],
        None => report::Audited::all(&instance, &all(), &|| Ok(()))?,
    };
    reporter.json(&report::json(&instance, &audited))?;
    print_audited(&instance, &audited, &reporter)
}

fn compare(
    instance: &Instance,
    texts: &[String],
    group: usize,
    batch: usize,
    reporter: &Reporter,
) -> Result<()> {
    let mut audited = Vec::new();
    for text in texts {
        let (name, recipe) = input::recipe("--compare", text, instance, group, batch)?;
        audited.push(report::Audited::new(instance, &name, &recipe, &|| Ok(()))?);
    }
    let [a, b] = &audited[..] else {
        bail!("--compare takes two recipes");
    };
    let cosine = |x: &[f64], y: &[f64]| {
        let dot = |p: &[f64], q: &[f64]| p.iter().zip(q).map(|(a, b)| a * b).sum::<f64>();
        dot(x, y) / (dot(x, x) * dot(y, y)).sqrt()
    };
    let on_policy = cosine(&a.on_policy.0.field, &b.on_policy.0.field);
    let stale = cosine(&a.stale.0.field, &b.stale.0.field);
    let mut out = report::json(instance, &audited);
    out["compared"] = json!({
        "recipes": [a.name, b.name],
        "cosine_on_policy": on_policy,
        "cosine_stale": stale,
    });
    reporter.json(&out)?;
    print_audited(instance, &audited, reporter)?;
    say!(
        reporter,
        "cosine between the two expected gradients: {on_policy:.6} on-policy, {stale:.6} stale"
    )
}

fn print_audited(
    instance: &Instance,
    audited: &[report::Audited],
    reporter: &Reporter,
) -> Result<()> {
    let mut rows = Table::new("recipes", report::COLUMNS);
    for r in audited {
        rows.push(r.row(&instance.name));
    }
    let text = report::text(&rows, &instance.name)?;
    say!(
        reporter,
        "{}, beta = {}:\n{text}",
        instance.name,
        instance.beta
    )
}

fn list(reporter: &Reporter) -> Result<()> {
    let all = named(0.3, 4, 4, 3);
    let mut table = Table::new("recipes", &["short name", "name", "what it is"]);
    for n in &all {
        table.push([n.id.into(), n.name.into(), n.about.into()]);
    }
    reporter.json(&table)?;
    say!(reporter, "{}", table.render())
}
