//! Held-out prompts, the enumerable corner, samples and token credits, written down.

use std::sync::Arc;

use anyhow::Result;
use rto::Token;
use rto::seed::SeedTree;
use rto::seq::{Decoder, Episode, Finish, Policy, StreamKey, TokenReward};
use rto::token_reward::{DpoReward, SentenceReward};
use rto_bridge::learner::NeuralScorer;
use rto_bridge::win_rate::WinRates;
use rto_harness::run_dir::RunDir;
use rto_harness::stats::clopper_pearson;
use rto_harness::table::Table;
use serde_json::json;

use super::cards;
use super::exact::{Corner, baselines, exact};
use super::judged::Judged;
use super::sampler;
use crate::run::config::Config;
use crate::run::data::Data;
use crate::run::models::{Models, Oracle};
use crate::run::place::{Place, Writer, on_place};
use crate::run::stage::Stage;
use crate::run::training::{Pace, TokenRewardModel};

/// Evaluates the policies of a run.
pub struct Evaluation<'r> {
    pub config: &'r Config,
    pub data: &'r Data,
    pub models: &'r Models<'r>,
    /// The streams of the run.
    pub seeds: &'r SeedTree,
    pub pace: &'r Pace,
    /// Where tables go.
    pub dir: &'r RunDir,
}

impl Evaluation<'_> {
    /// Every policy that this run trains, in order.
    fn policies(&self) -> Vec<Stage> {
        let methods = self.config.methods.iter().copied().map(Stage::Rl);
        [Stage::Sft, Stage::Dpo]
            .into_iter()
            .chain(methods)
            .collect()
    }

    /// Writes evaluation, exact values, samples and credits; returns the summary, how well a fitted token reward foretells those
    /// that were held out, and what other weights for writing cost, each where there is something to say.
    pub fn run(&self) -> Result<Vec<Table>> {
        on_place!(self, |place| self.run_on(place))
    }

    fn run_on<P: Place>(&self, place: &P) -> Result<Vec<Table>> {
        let sft = Arc::new(self.models.frozen(Stage::Sft)?);
        let reference = place.scorer(sft.clone(), None)?;
        let oracle = self.models.oracle()?;
        let oracle = oracle.map(|scorer| place.scorer(scorer, None))?;
        let columns = ["method", "prompt_id", "reward", "kl", "length", "finished"];
        let mut sampled = Table::new("evaluation", &columns);
        let mut greedy = Table::new("evaluation_greedy", &columns);
        let mut summary = Table::new(
            "summary",
            &[
                "method", "reward", "se", "greedy", "kl", "length", "finished",
            ],
        );
        let (mut samples, mut responses) = (String::new(), String::new());
        let (mut methods, mut tables) = (Vec::new(), Vec::new());
        let policies = self.policies();
        let bar = self.pace.part(Stage::Evaluate, policies.len() as u64);
        for &stage in &policies {
            let name = stage.name();
            let scorer = self.models.on_base(&sft, stage)?;
            let policy = self.models.policy(scorer.with_reference(sft.clone()))?;
            let policy = place.writer(policy, &reference)?;
            let decoder = Decoder {
                temperature: self.config.eval_temperature,
                top_p: self.config.eval_top_p,
                ..Decoder::default()
            };
            let prompts = &self.data.held_out;
            // The same stream for every policy: differences between them are paired.
            let keys = StreamKey::batch(&self.seeds.child("evaluation"), prompts.len());
            let drawn = Judged::by(&oracle, &policy, policy.decode(prompts, &keys, decoder)?)?;
            let best = Judged::by(&oracle, &policy, policy.greedy(prompts)?)?;
            drawn.push(&mut sampled, name);
            best.push(&mut greedy, name);
            drawn.summarise(&mut summary, name, &best);
            self.samples(name, &drawn, &mut samples)?;
            self.responses(name, &drawn, &mut responses)?;
            methods.push(drawn.answers(name));
            bar.inc(1);
        }
        self.dir.write_table("evaluation.csv", &sampled)?;
        self.dir.write_table("evaluation_greedy.csv", &greedy)?;
        self.dir.write_table("summary.csv", &summary)?;
        self.dir.write_text("samples.jsonl", &samples)?;
        self.dir.write_text("responses.jsonl", &responses)?;
        if let Some(world) = &self.data.world {
            let corner = Corner::new(world)?;
            let (exact, frontier) = exact(self.models, &corner, &policies)?;
            self.dir.write_table("exact.csv", &exact)?;
            self.dir.write_table("exact_frontier.csv", &frontier)?;
            let baselines = baselines(self.models, &corner)?;
            self.dir.write_table("exact_baselines.csv", &baselines)?;
        }
        let contests = self.data.held_out_pairs.contests();
        if !contests.is_empty() {
            let agreement = self.agreement(place, &contests, &oracle, (&sft, &reference))?;
            self.dir.write_table("agreement.csv", &agreement)?;
        }
        let paid = &self.data.token_rewards;
        if !paid.is_empty() {
            let model = TokenRewardModel::load(self.models, self.dir.root())?;
            let model = model.map(|scorer| place.scorer(scorer, Some(&reference)))?;
            let found = model.explained(&paid.held_out)?;
            let mut table = Table::new("token_reward", &["rows", "tokens", "r2", "rmse"]);
            table.push([
                (found.rows as u64).into(),
                (found.tokens as u64).into(),
                found.r2.into(),
                found.rmse.into(),
            ]);
            self.dir.write_table("token_reward.csv", &table)?;
            tables.push(table);
        }
        if self.dir.writes()
            && let Some(table) = sampler::table(self.dir.root(), &self.config.methods)?
        {
            self.dir.write_table("sampler.csv", &table)?;
            tables.push(table);
        }
        self.dir
            .write_text("credit.jsonl", &self.credits(place, &sft, &reference)?)?;
        if self.dir.writes() {
            cards::write(self.models, &policies, &WinRates::try_new(&methods)?)?;
        }
        tables.insert(0, summary);
        Ok(tables)
    }

    fn samples(&self, name: &str, judged: &Judged, out: &mut String) -> Result<()> {
        for i in self.shown() {
            let e = &judged.episodes[i];
            let mut line = json!({
                "method": name,
                "prompt": self.data.codec.text(&e.prompt)?,
                "response": self.data.codec.reply(&e.prompt, &e.response)?,
                "reward": judged.rewards[i],
            });
            if let Some(world) = &self.data.world {
                line["token_rewards"] = json!(world.token_rewards(&e.prompt, &e.response)?);
            }
            out.push_str(&format!("{line}\n"));
        }
        Ok(())
    }

    /// Every response, for a judge and for whoever wants to read them.
    fn responses(&self, name: &str, judged: &Judged, out: &mut String) -> Result<()> {
        for (i, e) in judged.episodes.iter().enumerate() {
            let line = json!({
                "method": name,
                "prompt_id": i,
                "prompt": self.data.codec.text(&e.prompt)?,
                "response": self.data.codec.reply(&e.prompt, &e.response)?,
                "reward": judged.rewards[i],
                "kl": judged.kls[i],
                "length": e.len(),
                "finished": e.finish == Finish::Eos,
            });
            out.push_str(&format!("{line}\n"));
        }
        Ok(())
    }

    /// How often what was trained ranks a better and a worse held-out reply as people did.
    fn agreement<P: Place>(
        &self,
        place: &P,
        contests: &[[Episode; 2]],
        oracle: &Oracle<'_, P::Scorer>,
        (sft, reference): (&NeuralScorer, &P::Scorer),
    ) -> Result<Table> {
        let episodes = contests.concat();
        let (dpo, reward) = (
            self.on(place, (sft, reference), Stage::Dpo)?,
            self.on(place, (sft, reference), Stage::Reward)?,
        );
        let implicit = DpoReward::try_new(&dpo, reference, 1.0)?;
        let scores = [
            ("oracle", oracle.rewards(&episodes)?),
            (
                "reward",
                SentenceReward::new(&reward).rewards(&episodes)?.row_sums(),
            ),
            ("dpo", implicit.rewards(&episodes)?.row_sums()),
        ];
        let mut table = Table::new("agreement", &["model", "accuracy", "low", "high", "pairs"]);
        for (name, scores) in scores {
            // No two replies are equal here, and neither are their scores but by chance.
            let right = scores.chunks_exact(2).filter(|s| s[0] > s[1]).count() as u64;
            let n = contests.len() as u64;
            let (low, high) = clopper_pearson(right, n);
            let share = right as f64 / n as f64;
            table.push([name.into(), share.into(), low.into(), high.into(), n.into()]);
        }
        Ok(table)
    }

    /// A finished stage's network, where the run is.
    fn on<P: Place>(
        &self,
        place: &P,
        (sft, reference): (&NeuralScorer, &P::Scorer),
        stage: Stage,
    ) -> Result<P::Scorer> {
        let scorer = Arc::new(self.models.on_base(sft, stage)?);
        Ok(place.scorer(scorer, Some(reference))?)
    }

    /// Held-out prompts whose texts are shown.
    fn shown(&self) -> impl Iterator<Item = usize> {
        let (n, all) = (
            self.config.samples.min(self.data.held_out.len()),
            self.data.held_out.len(),
        );
        (0..n).map(move |i| i * all / n)
    }

    /// (4.5), and the true reward where it is known, token by token, on responses of π_ref.
    fn credits<P: Place>(
        &self,
        place: &P,
        sft: &NeuralScorer,
        reference: &P::Scorer,
    ) -> Result<String> {
        let dpo = self.on(place, (sft, reference), Stage::Dpo)?;
        let policy = self.models.policy(self.models.on_base(sft, Stage::Sft)?)?;
        let policy = place.writer(policy, reference)?;
        let prompts: Vec<Arc<[Token]>> = self
            .shown()
            .map(|i| self.data.held_out[i].clone())
            .collect();
        let keys = StreamKey::batch(&self.seeds.child("credit"), prompts.len());
        let drawn = policy.sample(&prompts, &keys)?;
        let rewards = DpoReward::try_new(&dpo, reference, self.config.beta1)?.rewards(&drawn)?;
        let mut text = String::new();
        for (i, e) in drawn.iter().enumerate() {
            let mut line = json!({
                "prompt": self.data.codec.text(&e.prompt)?,
                "tokens": self.data.codec.pieces(&e.response)?,
                "dpo_reward": rewards.row(i),
            });
            if let Some(world) = &self.data.world {
                line["true_reward"] = json!(world.token_rewards(&e.prompt, &e.response)?);
            }
            text.push_str(&format!("{line}\n"));
        }
        Ok(text)
    }
}
