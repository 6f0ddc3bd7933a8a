//! What every stage is given.

use std::path::Path;

use anyhow::Result;
use rto::seed::SeedTree;
use rto_bridge::learner::{NeuralLearner, NeuralScorer};
use rto_harness::progress::{Bar, Progress};

use super::journal::Journal;
use super::side_by_side::Stop;
use crate::run::config::Config;
use crate::run::data::Data;
use crate::run::models::Models;
use crate::run::place::Place;
use crate::run::stage::Stage;

/// Trains the networks of a run.
pub struct Training<'r> {
    pub config: &'r Config,
    pub data: &'r Data,
    pub models: &'r Models<'r>,
    /// The streams of the run.
    pub seeds: &'r SeedTree,
    pub pace: &'r Pace,
    /// The folder of the run.
    pub root: &'r Path,
    /// The sign that a stage has failed.
    pub stop: Stop,
    /// Who looks at a policy of Algorithm 2 before its first iteration and after each.
    pub watch: Option<Watch<'r>>,
}

/// Called with the iterations that are done and the policy.
pub type Watch<'r> = &'r (dyn Fn(u64, &NeuralScorer) -> Result<()> + Sync);

impl Training<'_> {
    /// The files of a stage.
    pub fn open(&self, stage: Stage) -> Result<Journal> {
        Journal::open(self.root, stage, self.models.ranks.engine())
    }

    /// A policy in training: as it starts, or as the checkpoint has it.
    pub fn learner<P: Place>(
        &self,
        place: &P,
        start: NeuralScorer,
        base: Option<&P::Scorer>,
        journal: &Journal,
    ) -> Result<P::Policy> {
        let (policy, options) = (self.models.policy(start)?, self.config.learner());
        // What is written while a policy learns from it; evaluations read the weights as they are.
        let policy = policy.with_sampling_weights(self.config.sampling_weights.of());
        let host = match journal.checkpoint() {
            Some(folder) => NeuralLearner::load(policy, options, &folder.join("policy"))?,
            None => NeuralLearner::try_new(policy, options)?,
        };
        Ok(place.policy(host, base)?)
    }
}

/// How far a run is.
pub struct Pace {
    pub progress: Progress,
    /// What each stage costs, in tokens.
    pub work: Vec<(Stage, f64)>,
    /// Whether an oracle learns to read in a stage of its own, which is counted with it.
    pub oracle_reads: bool,
}

impl Pace {
    /// The bar of a stage of so many steps.
    pub fn part(&self, stage: Stage, steps: u64) -> Bar {
        self.progress.part(steps, stage.name(), self.work(stage))
    }

    fn work(&self, stage: Stage) -> f64 {
        let of = |stage: Stage| {
            let known = self.work.iter().find(|(other, _)| *other == stage);
            known.map_or(0.0, |(_, work)| *work)
        };
        match stage {
            Stage::OraclePretrain => of(Stage::Oracle) / 2.0,
            Stage::Oracle if self.oracle_reads => of(Stage::Oracle) / 2.0,
            stage => of(stage),
        }
    }
}
