//! The cells of a sweep: a method at the points of its grid, at the chosen one, and what needs no training of PPO.

use std::path::{Path, PathBuf};
use std::sync::Mutex;

use anyhow::{Context, Result, anyhow};
use rto::seq::{Episode, Finish};
use rto_bridge::learner::NeuralScorer;
use rto_harness::methods::Method;
use rto_harness::on_tree::untrained::{Measured, Truth, rounded};
use rto_harness::table::Cell;

use super::Sweep;
use super::plan::{self, Point, shown};
use super::replies::{Replies, mean};
use crate::run::evaluation::{Baselines, Corner};
use crate::run::models::Models;
use crate::run::stage::Stage;

/// The columns of `runs.csv`, after the cell's id. `objective` is E Σ r* − β₂ KL at the β₂ of the row: exact on the corner of the world, with
/// the reward there of greedy decoding as `greedy`; of files the mean over replies to held-out prompts, with the oracle's reward as r*. What
/// follows is of replies to held-out prompts, at the end of a run that is reported.
pub const RUNS: &[&str] = &[
    "instance",
    "method",
    "stage",
    "point",
    "learning_rate",
    "lambda",
    "critic_learning_rate",
    "clip",
    "beta2",
    "seed",
    "iteration",
    "samples",
    "objective",
    "reward",
    "kl",
    "greedy",
    "critic_error",
    "held_out",
    "held_out_greedy",
    "held_out_kl",
    "length",
    "ended",
    "settings",
];

/// The columns of `worlds.csv`.
pub const WORLDS: &[&str] = &["instance", "seed", "policy", "parameter", "reward", "kl"];

/// A run of a method.
#[derive(Clone, Copy)]
pub struct Run<'a> {
    pub world: &'a str,
    pub method: &'static Method,
    /// tune, report or the name of a variant, of which there is one for a method, world and seed.
    pub name: &'a str,
    /// What the rows say it is.
    pub stage: &'a str,
    /// The number of the point, and its settings.
    pub point: (usize, &'a Point),
    /// Iterations after each of which the policy is measured.
    pub measure_first: u64,
    pub seed: u64,
}

/// What a run came to at one time.
struct At {
    iteration: u64,
    measured: Measured,
    greedy: Option<f64>,
}

/// Replies to held-out prompts.
struct HeldOut {
    reward: f64,
    greedy: f64,
    kl: f64,
    length: f64,
    ended: f64,
}

impl Run<'_> {
    /// The rows of the run: its end alone where it is for tuning.
    pub fn rows(&self, sweep: &Sweep) -> Result<Vec<Vec<Cell>>> {
        let (plan, tuning) = (&sweep.plan, self.stage == rto_harness::comparison::TUNE);
        let base = sweep.bases()?.get(plan, self.world, self.seed)?;
        let config = plan.config(self.world, self.method, self.point.1, self.seed)?;
        let ppo = config.ppo(self.method)?;
        let folder = Scratch::new(sweep, self)?;
        base.copy_to(&folder.0)?;
        let models = base.models(&config, &folder.0)?;
        let of_base = base.models(&base.config, base.root())?;
        let replies = Replies::new(&base, &of_base)?;
        let ruler = match &base.data.world {
            Some(world) => {
                let corner = Corner::new(world)?;
                let sft = corner.table(replies.sft())?;
                let truth = Truth::new(corner.map(), corner.reward(), &sft, ppo.beta2)?;
                Ruler::Corner(Box::new((corner, truth)))
            }
            None => Ruler::Replies(&replies),
        };
        let every = match tuning {
            true => ppo.iterations,
            false => ppo.iterations / plan.evaluations,
        };
        let all = Mutex::new(Vec::new());
        let watch = |iteration: u64, scorer: &NeuralScorer| -> Result<()> {
            let due = iteration.is_multiple_of(every) || iteration <= self.measure_first;
            if due && (iteration > 0 || !tuning) {
                let (measured, greedy) = ruler.measure(scorer)?;
                all.lock().expect("one thread looks").push(At {
                    iteration,
                    measured,
                    greedy,
                });
            }
            Ok(())
        };
        base.train(&models, &folder.0, Some(&watch), |training| {
            training.rl(self.method)
        })?;
        let held_out = match tuning {
            true => None,
            false => Some(self.held_out(&replies, &models)?),
        };
        let all = all.into_inner().expect("one thread looks");
        let row = |at: &At| -> Vec<Cell> {
            let end = held_out.as_ref().filter(|_| at.iteration == ppo.iterations);
            let of = |what: fn(&HeldOut) -> f64| end.map(|h| rounded(what(h))).into();
            let m = at.measured;
            vec![
                self.world.into(),
                self.method.name.into(),
                self.stage.into(),
                self.point.0.into(),
                ppo.learning_rate.into(),
                ppo.lambda.into(),
                ppo.critic_learning_rate.into(),
                ppo.clip.into(),
                ppo.beta2.into(),
                self.seed.into(),
                at.iteration.into(),
                (at.iteration * ppo.responses() as u64).into(),
                rounded(m.reward - ppo.beta2 * m.kl).into(),
                rounded(m.reward).into(),
                rounded(m.kl).into(),
                at.greedy.map(rounded).into(),
                Cell::Empty,
                of(|h| h.reward),
                of(|h| h.greedy),
                of(|h| h.kl),
                of(|h| h.length),
                of(|h| h.ended),
                shown(self.point.1).into(),
            ]
        };
        Ok(all.iter().map(row).collect())
    }

    /// What the policy that has just been trained replies.
    fn held_out(&self, replies: &Replies<'_>, models: &Models<'_>) -> Result<HeldOut> {
        let scorer = models.on_base(replies.sft(), Stage::Rl(self.method))?;
        let drawn = replies.drawn(scorer.snapshot()?)?;
        let greedy = replies.greedy(scorer)?;
        let each =
            |of: fn(&Episode) -> f64| mean(&drawn.episodes.iter().map(of).collect::<Vec<_>>());
        Ok(HeldOut {
            reward: mean(&drawn.rewards),
            greedy: mean(&greedy.rewards),
            kl: mean(&drawn.kls),
            length: each(|e| e.len() as f64),
            ended: each(|e| f64::from(u8::from(e.finish == Finish::Eos))),
        })
    }
}

/// What measures a policy along a run.
enum Ruler<'a> {
    /// Exactly, on the corner of the world.
    Corner(Box<(Corner, Truth)>),
    /// By replies, where nothing can be enumerated.
    Replies(&'a Replies<'a>),
}

impl Ruler<'_> {
    /// Reward and KL, and the reward of greedy decoding where that is exact.
    fn measure(&self, scorer: &NeuralScorer) -> Result<(Measured, Option<f64>)> {
        match self {
            Self::Corner(both) => {
                let (corner, truth) = &**both;
                let policy = corner.table(scorer)?;
                Ok((truth.measure(&policy)?, Some(truth.greedy(&policy)?)))
            }
            Self::Replies(replies) => Ok((replies.measure(scorer)?, None)),
        }
    }
}

/// SFT sharpened, best-of-n and DPO; on the corner of the world the exact optimum and its frontier too.
pub fn worlds(sweep: &Sweep, world: &str, seed: u64) -> Result<Vec<Vec<Cell>>> {
    let plan = &sweep.plan;
    let base = sweep.bases()?.get(plan, world, seed)?;
    let models = base.models(&base.config, base.root())?;
    let found = match &base.data.world {
        Some(of) => Baselines {
            temperatures: &plan.temperatures,
            best_of: &plan.best_of,
            beta: base.config.ppo.beta2,
        }
        .on(&Corner::new(of)?, &models)?,
        None => Replies::new(&base, &models)?.untrained(plan)?,
    };
    let row = |(policy, parameter, m): (&str, f64, Measured)| -> Vec<Cell> {
        vec![
            world.into(),
            seed.into(),
            policy.into(),
            rounded(parameter).into(),
            rounded(m.reward).into(),
            rounded(m.kl).into(),
        ]
    };
    Ok(found.into_iter().map(row).collect())
}

/// The folder of a run while it trains.
struct Scratch(PathBuf);

impl Scratch {
    fn new(sweep: &Sweep, run: &Run<'_>) -> Result<Self> {
        let (point, seed) = (run.point.0, run.seed);
        let name = format!(
            "{}.{}.{}.{point}.{seed}",
            run.world, run.method.name, run.name
        );
        let folder = sweep.root()?.join(SCRATCH).join(name);
        // What a process that was killed has left.
        remove(&folder)?;
        std::fs::create_dir_all(&folder).with_context(|| folder.display().to_string())?;
        Ok(Self(folder))
    }
}

impl Drop for Scratch {
    fn drop(&mut self) {
        remove(&self.0).ok();
    }
}

/// The folder of unfinished runs inside that of a sweep.
pub const SCRATCH: &str = "unfinished";

fn remove(folder: &Path) -> Result<()> {
    match std::fs::remove_dir_all(folder) {
        Err(e) if e.kind() != std::io::ErrorKind::NotFound => {
            Err(anyhow!("{}: {e}", folder.display()))
        }
        _ => Ok(()),
    }
}

/// Does the work on a thread of its own, with one thread for its kernels. A worker that waited for its kernels would begin another cell
/// meanwhile, and that one could wait for a base which the first is making.
pub fn alone<T: Send>(work: impl FnOnce() -> Result<T> + Send) -> Result<T> {
    let pool = rayon::ThreadPoolBuilder::new().num_threads(1).build()?;
    std::thread::scope(|scope| {
        let working = scope.spawn(|| pool.install(work));
        working
            .join()
            .unwrap_or_else(|panic| std::panic::resume_unwind(panic))
    })
}

/// A grid's numbers as the choice among its points reads them.
pub fn numbers(
    sweep: &Sweep,
    method: &'static Method,
    point: &plan::Point,
) -> Result<rto_harness::comparison::Point> {
    let config = sweep.plan.config(&sweep.plan.tuned_on, method, point, 0)?;
    let ppo = config.ppo(method)?;
    Ok(rto_harness::comparison::Point {
        learning_rate: ppo.learning_rate,
        lambda: ppo.lambda,
        critic_learning_rate: ppo.critic_learning_rate,
        clip: ppo.clip,
    })
}
