//! What the policies are worth: held-out prompts, the enumerable corner, samples and token credits.

use std::sync::Arc;

use anyhow::Result;
use rto::Token;
use rto::mdp::Beta;
use rto::policy::{ExactEvaluator, StateMap};
use rto::seq::{Channel, Decoder, Episode, Finish, StreamKey, TokenReward, TokenScorer};
use rto::token_reward::DpoReward;
use rto_bridge::generate::Sampled;
use rto_bridge::learner::{NeoxScorer, Restricted};
use rto_bridge::world::{EOS, SmallWorld, decode};
use rto_harness::stats::Sample;
use rto_harness::table::Table;
use serde_json::json;

use super::Run;

/// Response by response.
struct Judged {
    episodes: Vec<Episode>,
    rewards: Vec<f64>,
    kls: Vec<f64>,
}

impl Run {
    /// Every policy that this run trains, in order.
    fn policies(&self) -> Vec<&'static str> {
        let methods = self.config.methods.iter().map(|m| m.name());
        ["sft", "dpo"].into_iter().chain(methods).collect()
    }

    /// Writes evaluation, exact values, samples and credits; returns the summary.
    pub fn evaluate(&self) -> Result<Table> {
        let sft = Arc::new(self.frozen("sft")?);
        let columns = ["method", "prompt_id", "reward", "kl", "length", "finished"];
        let mut sampled = Table::new("evaluation", &columns);
        let mut greedy = Table::new("evaluation_greedy", &columns);
        let mut summary = Table::new(
            "summary",
            &[
                "method", "reward", "se", "greedy", "kl", "length", "finished",
            ],
        );
        let mut samples = String::new();
        let bar = self
            .progress
            .bar(self.policies().len() as u64, "evaluating");
        for name in self.policies() {
            let scorer = self.frozen(name)?.with_reference(sft.clone());
            let policy = self.policy(scorer)?;
            let decoder = Decoder {
                temperature: self.config.eval_temperature,
                top_p: self.config.eval_top_p,
                ..Decoder::default()
            };
            let prompts = &self.data.held_out;
            // The same stream for every policy: differences between them are paired.
            let keys = StreamKey::batch(&self.seeds.child("evaluation"), prompts.len());
            let drawn = self.judge(&policy, policy.decode(prompts, &keys, decoder)?)?;
            let best = self.judge(&policy, policy.greedy(prompts)?)?;
            push(&mut sampled, name, &drawn);
            push(&mut greedy, name, &best);
            summarise(&mut summary, name, &drawn, &best);
            self.samples(name, &drawn, &mut samples)?;
            bar.inc(1);
        }
        self.dir.write_table("evaluation.csv", &sampled)?;
        self.dir.write_table("evaluation_greedy.csv", &greedy)?;
        self.dir.write_table("summary.csv", &summary)?;
        self.dir.write_text("samples.jsonl", &samples)?;
        self.dir.write_table("exact.csv", &self.exact()?)?;
        self.dir.write_text("credit.jsonl", &self.credits(&sft)?)?;
        Ok(summary)
    }

    /// True rewards, and Σ_h KL(π(·|s_h) ‖ π_ref(·|s_h)) along each response: the expectation over the next token is exact,
    /// the states are those of the response.
    fn judge(&self, policy: &impl TokenScorer, drawn: Vec<Sampled>) -> Result<Judged> {
        let episodes: Vec<Episode> = drawn.into_iter().map(|s| s.episode).collect();
        let rewards = episodes.iter().map(|e| self.data.world.reward(e));
        let scores = policy.scores(&episodes)?;
        Ok(Judged {
            rewards: rewards.collect::<rto::Result<_>>()?,
            kls: scores.get(Channel::KlToReference)?.row_sums(),
            episodes,
        })
    }

    fn samples(&self, name: &str, judged: &Judged, out: &mut String) -> Result<()> {
        for i in self.shown() {
            let e = &judged.episodes[i];
            let line = json!({
                "method": name,
                "prompt": decode(&e.prompt),
                "response": decode(&e.response),
                "reward": judged.rewards[i],
                "token_rewards": self.data.world.token_rewards(&e.prompt, &e.response)?,
            });
            out.push_str(&format!("{line}\n"));
        }
        Ok(())
    }

    /// Held-out prompts whose texts are shown.
    fn shown(&self) -> impl Iterator<Item = usize> {
        let (n, all) = (
            self.config.samples.min(self.data.held_out.len()),
            self.data.held_out.len(),
        );
        (0..n).map(move |i| i * all / n)
    }

    /// (4.5) beside the true reward, token by token, on responses of π_ref.
    fn credits(&self, sft: &NeoxScorer) -> Result<String> {
        let dpo = self.frozen("dpo")?;
        let policy = self.policy(self.frozen("sft")?)?;
        let prompts: Vec<Arc<[Token]>> = self
            .shown()
            .map(|i| self.data.held_out[i].clone())
            .collect();
        let keys = StreamKey::batch(&self.seeds.child("credit"), prompts.len());
        let drawn = rto::seq::Policy::sample(&policy, &prompts, &keys)?;
        let rewards = DpoReward::try_new(&dpo, sft, self.config.beta1)?.rewards(&drawn)?;
        let mut text = String::new();
        for (i, e) in drawn.iter().enumerate() {
            let tokens: Vec<String> = e.response.iter().map(|t| decode(&[*t])).collect();
            let line = json!({
                "prompt": decode(&e.prompt),
                "tokens": tokens,
                "dpo_reward": rewards.row(i),
                "true_reward": self.data.world.token_rewards(&e.prompt, &e.response)?,
            });
            text.push_str(&format!("{line}\n"));
        }
        Ok(text)
    }

    /// (3.5) with the true reward on the corner of the world that can be enumerated, every policy restricted to its words.
    fn exact(&self) -> Result<Table> {
        let small = SmallWorld::try_new(&self.data.world)?;
        let uniform = vec![1.0 / small.prompts.len() as f64; small.prompts.len()];
        let map = StateMap::tree(&small.tree, &uniform)?;
        let table = |name: &str| -> Result<_> {
            let scorer = self.frozen(name)?;
            let restricted = Restricted {
                scorer: &scorer,
                tokens: &small.tokens,
                prompts: &small.prompts,
                eos: Some(small.tokens.iter().position(|t| *t == EOS).unwrap_or(0) as Token),
                horizon: small.tree.horizon(),
            };
            Ok(restricted.tabulate(&small.tree)?)
        };
        let beta = Beta::try_new(self.config.exact_beta)?;
        let exact = ExactEvaluator::try_new(map, &small.reward, table("sft")?, beta)?;
        let columns = ["method", "subopt", "value", "kl", "reward", "length"];
        let mut out = Table::new("exact", &columns);
        let optimal = exact.report(exact.optimal())?;
        let mut push = |name: &str, r: rto::policy::ExactReport| {
            out.push([
                name.into(),
                r.suboptimality.into(),
                r.value.into(),
                r.kl.into(),
                r.reward.into(),
                r.length.into(),
            ]);
        };
        for name in self.policies() {
            push(name, exact.report(&table(name)?)?);
        }
        push("optimum", optimal);
        Ok(out)
    }
}

fn push(table: &mut Table, name: &str, judged: &Judged) {
    for (i, e) in judged.episodes.iter().enumerate() {
        table.push([
            name.into(),
            i.into(),
            judged.rewards[i].into(),
            judged.kls[i].into(),
            e.len().into(),
            u64::from(e.finish == Finish::Eos).into(),
        ]);
    }
}

fn summarise(table: &mut Table, name: &str, drawn: &Judged, best: &Judged) {
    let reward = Sample(drawn.rewards.clone());
    let mean = |x: Vec<f64>| Sample(x).mean();
    let lengths = drawn.episodes.iter().map(|e| e.len() as f64).collect();
    let ends = |e: &Episode| f64::from(u8::from(e.finish == Finish::Eos));
    table.push([
        name.into(),
        reward.mean().into(),
        reward.error().into(),
        mean(best.rewards.clone()).into(),
        mean(drawn.kls.clone()).into(),
        mean(lengths).into(),
        mean(drawn.episodes.iter().map(ends).collect()).into(),
    ]);
}
