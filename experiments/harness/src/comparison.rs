//! RTO against DPPO and their baselines by the rules of `paper-notes/protocol.md`, from `runs.csv` and `worlds.csv` alone: what `study` concludes of
//! trees and `rto_llm sweep` of the dialogue world.

mod envelope;
pub mod figures;
pub mod gradients;
mod grid;
mod held_out;
pub mod length;
mod matched;
pub mod noise;
mod page;
mod plan;
mod variants;
mod verdict;
mod world;

use std::collections::{BTreeMap, BTreeSet};

use crate::stats::{Sample, Support, holm, sign_flip};
use crate::table::{Cell, Table};
use anyhow::{Context, Result};

use envelope::{Envelope, first_reaches};
pub use grid::{Point, choose, choose_arrived};
use grid::{points, same_point};
use matched::Over;
pub use page::page;
pub use plan::{check_methods, check_seeds};
use verdict::{Test, objective_verdict, samples_verdict, text};
use world::World;

/// The levels to which samples are counted, in per cent of J(optimum) − J(SFT), the one that is tested first.
pub const LEVELS: [u32; 4] = [50, 25, 75, 90];

/// The stage of the grid on the tuning seeds; the last iteration alone is kept.
pub const TUNE: &str = "tune";
/// What needs no training, where a table of runs holds it too.
pub const WORLD: &str = "world";
/// The chosen point on the report seeds.
pub const REPORT: &str = "report";
/// The chosen point at other β₂, for the reward at matched KL; `envelope_V` with the settings of the variant V, in which the method that has no
/// such stage stands at its chosen point.
pub const ENVELOPE: &str = "envelope";
/// The chosen point but λ = 1.
pub const LAMBDA_ONE: &str = "lambda_1";
/// The chosen point but with V^π in place of the critic.
pub const EXACT_CRITIC: &str = "exact_critic";

/// Tests of the protocol's family: three quantities on two trees and six cells of the dialogue world.
pub const FAMILY: usize = 24;

/// KLs at which two envelopes are compared.
const KLS: u32 = 20;

/// A measurement along a run.
#[derive(Debug, Clone, Copy)]
struct Row {
    iteration: u64,
    samples: f64,
    objective: f64,
    reward: f64,
    kl: f64,
    greedy: f64,
    critic_error: f64,
    /// The columns of [`held_out::MEASURED`], NaN where they are not measured.
    held_out: [f64; 5],
}

/// (instance, method, stage) and (seed, β₂ as text) of a run.
type Of = (String, String, String);

/// How runs were made.
#[derive(Debug, Clone, Copy)]
pub struct Reading {
    /// β₂ of the objective.
    pub beta2: f64,
    /// Iterations between two measurements that are drawn.
    pub every: u64,
    /// Whether reward at matched KL is of the reported runs too, and not of those of stage [`ENVELOPE`] alone.
    pub report_in_envelope: bool,
}

/// Everything that was measured.
pub struct Study {
    instances: Vec<String>,
    methods: Vec<String>,
    seeds: Vec<u64>,
    beta2: f64,
    every: u64,
    report_in_envelope: bool,
    runs: BTreeMap<Of, BTreeMap<(u64, String), Vec<Row>>>,
    worlds: BTreeMap<(String, u64), World>,
    points: Table,
    same_point: Table,
    held_out: Option<Table>,
}

/// Tables, and what they say.
pub struct Conclusions {
    /// `points`, `same_point`, `curves`, `ends`, `frontier`, `conclusions`, `variants` and `verdicts`, and `held_out` where that is measured.
    pub tables: Vec<Table>,
    /// For a terminal.
    pub text: String,
}

impl Study {
    /// Reads `runs.csv` and `worlds.csv`.
    ///
    /// # Errors
    /// A column that is missing, a number that is none.
    pub fn read(runs: &Table, worlds: &Table, how: Reading) -> Result<Self> {
        let text = |column: &str| runs.texts(column);
        let (instances, methods, stages) = (text("instance")?, text("method")?, text("stage")?);
        let (seeds, betas) = (runs.parsed::<u64>("seed", "a seed")?, text("beta2")?);
        let columns = [
            "samples",
            "objective",
            "reward",
            "kl",
            "greedy",
            "critic_error",
        ];
        let columns = columns.map(|c| runs.floats(c));
        let [samples, objective, reward, kl, greedy, critic_error] = columns;
        let iterations = runs.parsed::<u64>("iteration", "an iteration")?;
        let (samples, objective, reward) = (samples?, objective?, reward?);
        let (kl, greedy, critic_error) = (kl?, greedy?, critic_error?);
        let held_out = held_out::columns(runs)?;
        let mut all: BTreeMap<Of, BTreeMap<(u64, String), Vec<Row>>> = BTreeMap::new();
        for i in (0..runs.len()).filter(|i| stages[*i] != TUNE) {
            let of = (instances[i].clone(), methods[i].clone(), stages[i].clone());
            let run = all.entry(of).or_default();
            run.entry((seeds[i], betas[i].clone()))
                .or_default()
                .push(Row {
                    iteration: iterations[i],
                    samples: samples[i],
                    objective: objective[i],
                    reward: reward[i],
                    kl: kl[i],
                    greedy: greedy[i],
                    critic_error: critic_error[i],
                    held_out: held_out.each_ref().map(|column| column[i]),
                });
        }
        let mut found: BTreeMap<(String, u64), World> = BTreeMap::new();
        for instance in worlds.distinct("instance")? {
            for (seed, world) in World::of(worlds, &instance)? {
                found.insert((instance.clone(), seed), world);
            }
        }
        let report = runs.filter("stage", REPORT)?;
        let mut reported: Vec<u64> = report.parsed("seed", "a seed")?;
        reported.sort_unstable();
        reported.dedup();
        let mut study = Self {
            instances: report.distinct("instance")?,
            methods: report.distinct("method")?,
            seeds: reported,
            beta2: how.beta2,
            every: how.every,
            report_in_envelope: how.report_in_envelope,
            runs: all,
            worlds: found,
            points: points(runs)?,
            same_point: same_point(runs)?,
            held_out: held_out::held_out(runs)?,
        };
        for instance in study.instances.clone() {
            let inexact = |seed: &u64| Ok(!study.world(&instance, *seed)?.is_exact());
            let inexact: Vec<bool> = study.seeds.iter().map(inexact).collect::<Result<_>>()?;
            if inexact.contains(&true) {
                let lead = study.largest_lead(&instance)?;
                let here = study.worlds.iter_mut().filter(|w| w.0.0 == instance);
                here.for_each(|(_, world)| world.lead = Some(lead));
            }
        }
        Ok(study)
    }

    /// The largest mean lead over SFT of any method at any time and of what needs no training; 1 where nothing leads, so that shares are
    /// then in units of the reward.
    fn largest_lead(&self, instance: &str) -> Result<f64> {
        let mut leads: Vec<f64> = Vec::new();
        for method in &self.methods {
            let times = self
                .run(instance, method, REPORT, self.seeds[0])?
                .iter()
                .map(|r| r.iteration);
            for time in times {
                let lead = self.each(|seed| {
                    let rows = self.run(instance, method, REPORT, seed)?;
                    let sft = self.world(instance, seed)?.objective("sft", self.beta2)?;
                    let row = rows.iter().find(|r| r.iteration == time);
                    Ok(row.map_or(f64::NAN, |r| r.objective - sft))
                })?;
                leads.push(lead.mean());
            }
        }
        for (policy, parameter, ..) in &self.world(instance, self.seeds[0])?.policies {
            let lead = self.each(|seed| {
                let world = self.world(instance, seed)?;
                let (reward, kl) = world.find(policy, *parameter)?;
                Ok(reward - self.beta2 * kl - world.objective("sft", self.beta2)?)
            })?;
            leads.push(lead.mean());
        }
        let most = leads.into_iter().fold(0.0, f64::max);
        Ok(if most > 0.0 { most } else { 1.0 })
    }

    /// Every table of the study.
    ///
    /// # Errors
    /// A run or a world that is missing.
    pub fn conclude(self) -> Result<Conclusions> {
        let conclusions = self.conclusions()?;
        let verdicts = self.verdicts(&conclusions)?;
        let exact = self.worlds.values().all(World::is_exact);
        let text = text(&conclusions, &verdicts, exact)?;
        let (curves, ends, frontier) = (self.curves()?, self.ends()?, self.frontier()?);
        let variants = self.variants_table()?;
        let mut tables = vec![
            self.points,
            self.same_point,
            curves,
            ends,
            frontier,
            conclusions,
            variants,
            verdicts,
        ];
        tables.extend(self.held_out);
        Ok(Conclusions { text, tables })
    }

    fn world(&self, instance: &str, seed: u64) -> Result<&World> {
        let found = self.worlds.get(&(instance.to_string(), seed));
        found.with_context(|| format!("worlds: no row of {instance} with seed {seed}"))
    }

    /// The run of a method on a seed, at the objective's β₂.
    fn run(&self, instance: &str, method: &str, stage: &str, seed: u64) -> Result<&[Row]> {
        let of = (instance.to_string(), method.to_string(), stage.to_string());
        let at = (seed, Cell::from(self.beta2).text());
        let found = self.runs.get(&of).and_then(|seeds| seeds.get(&at));
        let found = found.map(Vec::as_slice).filter(|rows| !rows.is_empty());
        found
            .with_context(|| format!("runs: no {stage} of {method} on {instance} with seed {seed}"))
    }

    /// (J − J(SFT)) / (J(optimum) − J(SFT)) along a run, against samples.
    fn shares(&self, key: (&str, &str, &str), seed: u64) -> Result<Vec<(f64, f64)>> {
        let world = self.world(key.0, seed)?;
        let rows = self.run(key.0, key.1, key.2, seed)?;
        let share = |r: &Row| Ok((r.samples, world.share(r.objective, self.beta2)?));
        rows.iter().map(share).collect()
    }

    /// One number for each seed.
    fn each(&self, of: impl Fn(u64) -> Result<f64>) -> Result<Sample> {
        Ok(Sample(
            self.seeds.iter().map(|s| of(*s)).collect::<Result<_>>()?,
        ))
    }

    /// The share of a method at the end.
    fn end(&self, key: (&str, &str, &str)) -> Result<Sample> {
        self.each(|seed| Ok(last(&self.shares(key, seed)?).1))
    }

    /// One method against another: the objective at the end, then the samples to each level, a row of `conclusions.csv` each with its
    /// p before correction.
    fn compared(
        &self,
        instance: &str,
        variant: &str,
        [method, against]: [&'static str; 2],
    ) -> Result<Vec<(Vec<Cell>, f64)>> {
        // A variant of one method stands against what the other reports.
        let of = |name: &'static str| match self.of_stage(instance, name, variant) {
            Some(_) => (instance, name, variant),
            None => (instance, name, REPORT),
        };
        let (ours, theirs) = (of(method), of(against));
        let of = |quantity: &str| [instance, quantity, variant, method, against].map(Cell::from);
        let gap = differences(&self.end(ours)?, &self.end(theirs)?);
        let none = || [Cell::Empty, Cell::Empty];
        let mut rows = vec![(
            line(of("objective_end"), &gap, |x| x, none()),
            sign_flip(&gap.0),
        )];
        for level in LEVELS {
            let (ours, missed) = self.samples_to(ours, level)?;
            let (theirs, missed_against) = self.samples_to(theirs, level)?;
            let ratio = differences(&theirs, &ours);
            let missed = [missed.into(), missed_against.into()];
            let row = line(of(&format!("samples_{level}")), &ratio, f64::exp, missed);
            rows.push((row, sign_flip(&ratio.0)));
        }
        if variant != REPORT {
            let end = |name| self.end((instance, name, REPORT));
            let change = differences(&gap, &differences(&end(method)?, &end(against)?));
            let row = line(of("objective_end_change"), &change, |x| x, none());
            rows.push((row, sign_flip(&change.0)));
        }
        Ok(rows)
    }

    /// The share of a method at the end of its report, or of π_dpo.
    fn end_of(&self, instance: &str, method: &str) -> Result<Sample> {
        match method {
            "dpo" => self.each(|seed| {
                let world = self.world(instance, seed)?;
                world.share(world.objective("dpo", self.beta2)?, self.beta2)
            }),
            _ => self.end((instance, method, REPORT)),
        }
    }

    /// Samples to a level, in logs, and how often it was not reached.
    fn samples_to(&self, key: (&str, &str, &str), level: u32) -> Result<(Sample, usize)> {
        let mut missed = 0;
        let mut logs = Sample::default();
        for &seed in &self.seeds {
            let curve = self.shares(key, seed)?;
            let reached = first_reaches(&curve, f64::from(level) / 100.0);
            missed += usize::from(reached.is_none());
            logs.0.push(reached.unwrap_or(last(&curve).0).ln());
        }
        Ok((logs, missed))
    }

    /// The runs of a method in a stage, if it has any.
    fn of_stage(
        &self,
        instance: &str,
        method: &str,
        stage: &str,
    ) -> Option<&BTreeMap<(u64, String), Vec<Row>>> {
        let of = [instance, method, stage].map(str::to_string);
        let [instance, method, stage] = of;
        self.runs.get(&(instance, method, stage))
    }

    /// What is reported of RTO or DPPO beside their chosen points: these first, then what is changed, the study's own in their order.
    fn variants(&self, instance: &str) -> Vec<&str> {
        let known = [REPORT, LAMBDA_ONE, EXACT_CRITIC];
        let compared = ["rto", "dppo"];
        let run = |variant: &&str| {
            let of = |method: &&str| self.of_stage(instance, method, variant).is_some();
            compared.iter().any(of)
        };
        let others = self.runs.keys().filter(|of| of.0 == instance);
        let others = others.filter(|of| compared.contains(&of.1.as_str()));
        let others: BTreeSet<&str> = others.map(|of| of.2.as_str()).collect();
        let others = others
            .into_iter()
            .filter(|stage| !known.contains(stage) && !stage.starts_with(ENVELOPE));
        known.into_iter().filter(run).chain(others).collect()
    }

    fn conclusions(&self) -> Result<Table> {
        let columns = [
            "instance",
            "quantity",
            "variant",
            "method",
            "against",
            "estimate",
            "low",
            "high",
            "p",
            "p_holm",
            "seeds",
            "missed",
            "missed_against",
        ];
        let mut rows: Vec<Vec<Cell>> = Vec::new();
        let mut family: Vec<(usize, f64)> = Vec::new();
        for instance in &self.instances {
            for variant in self.variants(instance) {
                let tested = variant == REPORT;
                let of =
                    |quantity: &str| [instance, quantity, variant, "rto", "dppo"].map(Cell::from);
                for (k, (row, p)) in (self.compared(instance, variant, ["rto", "dppo"])?)
                    .into_iter()
                    .enumerate()
                {
                    // The objective at the end, and the samples to the first level.
                    if tested && k < 2 {
                        family.push((rows.len(), p));
                    }
                    rows.push(row);
                }
                let changed = format!("{ENVELOPE}_{variant}");
                let runs = ["rto", "dppo"].map(|m| self.of_stage(instance, m, &changed));
                if runs.iter().any(Option::is_some) {
                    let of_variant = Over::Variant(variant);
                    let matched = self.each(|seed| self.matched(instance, seed, of_variant))?;
                    let tuned = self.each(|seed| self.matched(instance, seed, Over::Betas))?;
                    let none = || [Cell::Empty, Cell::Empty];
                    rows.push(line(of("reward_at_matched_kl"), &matched, |x| x, none()));
                    let change = differences(&matched, &tuned);
                    let of = of("reward_at_matched_kl_change");
                    rows.push(line(of, &change, |x| x, none()));
                }
                if tested {
                    let matched = self.each(|seed| self.matched(instance, seed, Over::Betas))?;
                    family.push((rows.len(), sign_flip(&matched.0)));
                    let none = [Cell::Empty, Cell::Empty];
                    rows.push(line(of("reward_at_matched_kl"), &matched, |x| x, none));
                    if self.report_in_envelope {
                        rows.extend(self.matched_beside(instance)?);
                    }
                }
            }
            // Secondary: why, by the error of the critic at the first time and at the last.
            for (quantity, last_time) in [("critic_error_first", false), ("critic_error_end", true)]
            {
                let [rto, dppo] = ["rto", "dppo"].map(|method| {
                    self.each(|seed| {
                        let rows = self.run(instance, method, REPORT, seed)?;
                        let mut due = rows
                            .iter()
                            .filter(|r| r.iteration.is_multiple_of(self.every));
                        let row = match last_time {
                            true => due.next_back(),
                            // Before the first iteration the critic is zero.
                            false => due.nth(1),
                        };
                        Ok(row.map_or(f64::NAN, |r| r.critic_error.ln()))
                    })
                });
                let of = [instance.as_str(), quantity, REPORT, "rto", "dppo"].map(Cell::from);
                let none = [Cell::Empty, Cell::Empty];
                let ratio = differences(&dppo?, &rto?);
                // Not every ground measures it.
                if ratio.0.iter().all(|r| r.is_finite()) {
                    rows.push(line(of, &ratio, f64::exp, none));
                }
            }
            // The same question of a reward model: paid token by token, or its sum at the end.
            if ["ppo", "ppo_dense"]
                .iter()
                .all(|m| self.methods.iter().any(|n| n == m))
            {
                let compared = self.compared(instance, REPORT, ["ppo_dense", "ppo"])?;
                rows.extend(compared.into_iter().map(|(row, _)| row));
            }
            // RTO against every other method, and every method against what needs no training.
            let others = self.methods.iter().map(String::as_str).chain(["dpo"]);
            let rto = self.end((instance, "rto", REPORT))?;
            let none = || [Cell::Empty, Cell::Empty];
            for other in others.clone().filter(|m| !["rto", "dppo"].contains(m)) {
                let gap = differences(&rto, &self.end_of(instance, other)?);
                let of = [instance.as_str(), "objective_end", REPORT, "rto", other].map(Cell::from);
                rows.push(line(of, &gap, |x| x, none()));
            }
            let baseline =
                self.each(|seed| self.world(instance, seed)?.best_baseline(self.beta2))?;
            for method in others {
                let of = [instance, "above_baselines", REPORT, method, "best_baseline"];
                let gap = differences(&self.end_of(instance, method)?, &baseline);
                rows.push(line(of.map(Cell::from), &gap, |x| x, none()));
            }
        }
        let p: Vec<f64> = family.iter().map(|f| f.1).collect();
        for ((at, _), corrected) in family.iter().zip(holm(&p, FAMILY)) {
            rows[*at][9] = corrected.into();
        }
        let mut table = Table::new("conclusions", &columns);
        rows.into_iter().for_each(|row| table.push(row));
        Ok(table)
    }

    /// The protocol's verdict on RTO against DPPO on each ground.
    fn verdicts(&self, conclusions: &Table) -> Result<Table> {
        let mut table = Table::new("verdicts", &["instance", "objective", "samples"]);
        for instance in &self.instances {
            let rows = conclusions
                .filter("instance", instance)?
                .filter("variant", REPORT)?
                .filter("against", "dppo")?;
            let test = |quantity: &str| Test::read(&rows, quantity);
            let (end, samples) = (test("objective_end")?, test("samples_50")?);
            let verdict = objective_verdict(end, test("reward_at_matched_kl")?);
            table.push([
                instance.as_str().into(),
                verdict.into(),
                samples_verdict(samples).into(),
            ]);
        }
        Ok(table)
    }

    /// Shares and critic errors along the reported runs.
    fn curves(&self) -> Result<Table> {
        let columns = [
            "instance",
            "method",
            "samples",
            "share",
            "share_low",
            "share_high",
            "kl",
            "critic_error",
        ];
        let mut table = Table::new("curves", &columns);
        for instance in &self.instances {
            for method in &self.methods {
                let first = self.run(instance, method, REPORT, self.seeds[0])?;
                let times = first.iter().map(|r| r.iteration);
                for time in times.filter(|t| t.is_multiple_of(self.every)) {
                    let at = |seed: u64| -> Result<Row> {
                        let rows = self.run(instance, method, REPORT, seed)?;
                        let row = rows.iter().find(|r| r.iteration == time);
                        let missing = || {
                            format!(
                                "runs: {method} on {instance}, seed {seed}, has no iteration {time}"
                            )
                        };
                        row.copied().with_context(missing)
                    };
                    let share = self.each(|seed| {
                        let world = self.world(instance, seed)?;
                        world.share(at(seed)?.objective, self.beta2)
                    })?;
                    let of = |what: fn(&Row) -> f64| self.each(|seed| Ok(what(&at(seed)?)));
                    let samples = at(self.seeds[0])?.samples;
                    let (share, low, high) = share.interval(Support::Real);
                    let error = of(|r| r.critic_error)?.mean();
                    table.push([
                        instance.as_str().into(),
                        method.as_str().into(),
                        samples.into(),
                        share.into(),
                        low.into(),
                        high.into(),
                        of(|r| r.kl)?.mean().into(),
                        Some(error).filter(|e| e.is_finite()).into(),
                    ]);
                }
            }
        }
        Ok(table)
    }

    /// Where each method ends, and what needs no training, on the same scale.
    fn ends(&self) -> Result<Table> {
        let columns = [
            "instance",
            "policy",
            "parameter",
            "share",
            "share_low",
            "share_high",
            "reward",
            "kl",
            "greedy_reward",
        ];
        let mut table = Table::new("ends", &columns);
        for instance in &self.instances {
            let first = self.world(instance, self.seeds[0])?;
            for (policy, parameter, ..) in first.policies.iter().filter(|p| p.0 != "frontier") {
                let of = |what: fn((f64, f64), f64) -> f64| {
                    self.each(|seed| {
                        let world = self.world(instance, seed)?;
                        Ok(what(world.find(policy, *parameter)?, self.beta2))
                    })
                };
                let share = self.each(|seed| {
                    let world = self.world(instance, seed)?;
                    let (reward, kl) = world.find(policy, *parameter)?;
                    world.share(reward - self.beta2 * kl, self.beta2)
                })?;
                let (share, low, high) = share.interval(Support::Real);
                table.push([
                    instance.as_str().into(),
                    policy.as_str().into(),
                    (*parameter).into(),
                    share.into(),
                    low.into(),
                    high.into(),
                    of(|m, _| m.0)?.mean().into(),
                    of(|m, _| m.1)?.mean().into(),
                    Cell::Empty,
                ]);
            }
            for method in &self.methods {
                let share = self.end((instance, method, REPORT))?;
                let (share, low, high) = share.interval(Support::Real);
                let mean = |what: fn(&Row) -> f64| -> Result<f64> {
                    let ends = self.each(|seed| {
                        let rows = self.run(instance, method, REPORT, seed)?;
                        Ok(rows.last().map_or(f64::NAN, what))
                    })?;
                    Ok(ends.mean())
                };
                table.push([
                    instance.as_str().into(),
                    method.as_str().into(),
                    Cell::Empty,
                    share.into(),
                    low.into(),
                    high.into(),
                    mean(|r| r.reward)?.into(),
                    mean(|r| r.kl)?.into(),
                    Some(mean(|r| r.greedy)?).filter(|g| g.is_finite()).into(),
                ]);
            }
        }
        Ok(table)
    }

    /// Envelopes of reward above SFT against KL: the exact frontier, RTO, DPPO and what needs no training.
    fn frontier(&self) -> Result<Table> {
        let columns = ["instance", "curve", "kl", "gain", "gain_low", "gain_high"];
        let mut table = Table::new("frontier", &columns);
        for instance in &self.instances {
            let mut most = f64::INFINITY;
            for &seed in &self.seeds {
                for method in ["rto", "dppo"] {
                    let points = self.reached(instance, method, seed, Over::Betas);
                    most = most.min(points.iter().map(|p| p.0).fold(0.0, f64::max));
                }
            }
            for curve in [
                "frontier",
                "rto",
                "dppo",
                "sharpened",
                "best_of_reward_model",
                "best_of_dpo",
            ] {
                if curve == "frontier" && !self.world(instance, self.seeds[0])?.is_exact() {
                    continue;
                }
                for j in 0..=KLS {
                    let kl = most * f64::from(j) / f64::from(KLS);
                    let gain = self.each(|seed| {
                        let world = self.world(instance, seed)?;
                        let sft = world.reward("sft")?;
                        let envelope = match curve {
                            "rto" | "dppo" => {
                                Envelope::new(sft, self.reached(instance, curve, seed, Over::Betas))
                            }
                            _ => world.envelope(curve)?,
                        };
                        Ok(envelope.at(kl) - sft)
                    })?;
                    let (gain, low, high) = gain.interval(Support::Real);
                    table.push([
                        instance.as_str().into(),
                        curve.into(),
                        kl.into(),
                        gain.into(),
                        low.into(),
                        high.into(),
                    ]);
                }
            }
        }
        Ok(table)
    }
}

fn last(curve: &[(f64, f64)]) -> (f64, f64) {
    *curve.last().expect("a run has an end")
}

fn differences(a: &Sample, b: &Sample) -> Sample {
    Sample(a.0.iter().zip(&b.0).map(|(a, b)| a - b).collect())
}

/// A row of `conclusions.csv`: the mean with its t interval through `scale`, and the exact test of the paired differences.
fn line(of: [Cell; 5], paired: &Sample, scale: fn(f64) -> f64, missed: [Cell; 2]) -> Vec<Cell> {
    let (mean, low, high) = paired.interval(Support::Real);
    let mut row = Vec::from(of);
    row.extend([
        scale(mean).into(),
        low.map(scale).into(),
        high.map(scale).into(),
        sign_flip(&paired.0).into(),
        Cell::Empty,
        paired.len().into(),
    ]);
    row.extend(missed);
    row
}

#[cfg(test)]
mod tests;
