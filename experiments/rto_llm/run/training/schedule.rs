//! The order of the stages.

use std::time::Duration;

use anyhow::Result;
use rto_harness::cli::Reporter;
use rto_harness::say;

use super::journal::is_done;
use super::side_by_side::{self, Task};
use super::trainer::Training;
use crate::run::stage::Stage;

impl Training<'_> {
    /// Trains what is not trained yet of the stages up to `last`, at most `jobs` at once, and tells `finished` of each.
    ///
    /// # Errors
    /// The first of a stage; its checkpoint of the last good step is kept.
    pub fn run(
        &self,
        last: Stage,
        jobs: usize,
        reporter: &Reporter,
        finished: &mut dyn FnMut(Stage, Duration) -> Result<()>,
    ) -> Result<()> {
        for row in self.rows() {
            let needed = row.into_iter().filter(|stage| stage.is_within(last));
            let (done, left): (Vec<_>, Vec<_>) =
                needed.partition(|stage| is_done(self.root, *stage));
            for stage in done {
                say!(reporter, "{}: done before", stage.name())?;
            }
            let task = |stage| Task {
                stage,
                work: Box::new(move || self.train(stage)),
            };
            let tasks = left.into_iter().map(task).collect();
            side_by_side::run(tasks, jobs, &self.stop, finished)?;
        }
        Ok(())
    }

    /// What stands in one row needs all rows above it, and nothing of its neighbours.
    fn rows(&self) -> [Vec<Stage>; 4] {
        let (reads, judges) = (self.config.pretrains(), !self.data.oracle_pairs.is_empty());
        let pretrain = reads.then_some(Stage::Pretrain);
        let oracle = judges.then_some(Stage::Oracle);
        let pays = !self.data.token_rewards.is_empty();
        let token_reward = pays.then_some(Stage::TokenReward);
        [
            pretrain.into_iter().collect(),
            vec![Stage::Sft],
            [Stage::Reward, Stage::Dpo]
                .into_iter()
                .chain(token_reward)
                .chain(oracle)
                .collect(),
            self.config.methods.iter().copied().map(Stage::Rl).collect(),
        ]
    }

    fn train(&self, stage: Stage) -> Result<()> {
        match stage {
            Stage::Pretrain => self.pretrain(),
            Stage::Sft => self.sft(),
            Stage::Reward => self.reward_model(),
            Stage::TokenReward => self.token_reward(),
            Stage::Dpo => self.dpo(),
            // The oracle learns to read first where it has to.
            Stage::OraclePretrain | Stage::Oracle => self.oracle_model(),
            Stage::Rl(method) => self.rl(method),
            Stage::Evaluate => unreachable!("no row trains it"),
        }
    }
}
