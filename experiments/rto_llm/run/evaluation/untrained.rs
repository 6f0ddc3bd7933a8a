//! What needs no training of PPO, on the corner of the world: what a method has to lie above before it pays.

use anyhow::Result;
use rto::seq::{Episode, TokenReward};
use rto::token_reward::{Both, DpoReward, SentenceReward};
use rto_harness::on_tree::untrained::{Measured, Untrained};

use super::exact::Corner;
use crate::run::models::Models;
use crate::run::stage::Stage;
use crate::run::training::MissingEos;

/// The baselines that are asked for.
pub struct Baselines<'a> {
    /// Temperatures of the sharpening curve.
    pub temperatures: &'a [f64],
    /// n of best-of-n.
    pub best_of: &'a [u32],
    /// β of the objective.
    pub beta: f64,
}

impl Baselines<'_> {
    /// SFT sharpened and greedily, best-of-n by the reward model and by the DPO reward, DPO, the exact optimum and its frontier: name, parameter
    /// (temperature, n or β) and measures.
    ///
    /// # Errors
    /// A network that cannot be read.
    pub fn on(
        &self,
        corner: &Corner,
        models: &Models<'_>,
    ) -> Result<Vec<(&'static str, f64, Measured)>> {
        let config = models.config;
        let [sft, dpo, reward] = [Stage::Sft, Stage::Dpo, Stage::Reward].map(|s| models.frozen(s));
        let (sft, dpo, reward) = (sft?, dpo?, reward?);
        // What methods are paid for a reply that does not end, best-of-n is too.
        let penalty = MissingEos(config.missing_eos_penalty);
        let by_model = Both(SentenceReward::new(&reward), penalty);
        let by_dpo = Both(DpoReward::try_new(&dpo, &sft, config.beta1)?, penalty);
        let sums =
            |reward: &dyn TokenReward, texts: &[Episode]| Ok(reward.rewards(texts)?.row_sums());
        let by_model = corner.scores(|texts| sums(&by_model, texts))?;
        let by_dpo = corner.scores(|texts| sums(&by_dpo, texts))?;
        let untrained = Untrained {
            map: corner.map(),
            reward: corner.reward(),
            reference: &corner.table(&sft)?,
            dpo: &corner.table(&dpo)?,
            learnt: [
                ("best_of_reward_model", &by_model),
                ("best_of_dpo", &by_dpo),
            ],
            temperatures: self.temperatures,
            best_of: self.best_of,
            beta2: self.beta,
        };
        untrained.rows()
    }
}
