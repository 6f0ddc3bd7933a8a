//! What the policies are worth: held-out prompts, the enumerable corner, samples and token credits.

use std::sync::Arc;

use anyhow::Result;
use rto::Token;
use rto::mdp::{Beta, TabularPolicy};
use rto::policy::{ExactEvaluator, StateMap};
use rto::reward::TabularReward;
use rto::seq::{Channel, Decoder, Episode, Finish, StreamKey, TokenReward, TokenScorer};
use rto::token_reward::{DpoReward, SentenceReward};
use rto_bridge::generate::Sampled;
use rto_bridge::learner::{NeuralScorer, Restricted};
use rto_bridge::win_rate::{Answer, Method, WinRates};
use rto_bridge::world::{EOS, SmallWorld, World};
use rto_harness::stats::{Sample, clopper_pearson};
use rto_harness::table::Table;
use serde_json::json;

use super::Run;
use super::oracle::Oracle;

/// Response by response.
struct Judged {
    episodes: Vec<Episode>,
    rewards: Vec<f64>,
    kls: Vec<f64>,
}

/// The name of the last stage.
pub const EVALUATE: &str = "evaluate";

impl Run {
    /// Every policy that this run trains, in order.
    fn policies(&self) -> Vec<&'static str> {
        let methods = self.config.methods.iter().map(|m| m.name);
        ["sft", "dpo"].into_iter().chain(methods).collect()
    }

    /// Writes evaluation, exact values, samples and credits; returns the summary.
    pub fn evaluate(&self) -> Result<Table> {
        let sft = Arc::new(self.frozen("sft")?);
        let oracle = self.oracle()?;
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
        let mut methods = Vec::new();
        let policies = self.policies().len() as u64;
        let bar = self.progress.part(policies, EVALUATE, self.work(EVALUATE));
        for name in self.policies() {
            let scorer = self.on_base(&sft, name)?.with_reference(sft.clone());
            let policy = self.policy(scorer)?;
            let decoder = Decoder {
                temperature: self.config.eval_temperature,
                top_p: self.config.eval_top_p,
                ..Decoder::default()
            };
            let prompts = &self.data.held_out;
            // The same stream for every policy: differences between them are paired.
            let keys = StreamKey::batch(&self.seeds.child("evaluation"), prompts.len());
            let drawn = self.judge(&oracle, &policy, policy.decode(prompts, &keys, decoder)?)?;
            let best = self.judge(&oracle, &policy, policy.greedy(prompts)?)?;
            push(&mut sampled, name, &drawn);
            push(&mut greedy, name, &best);
            summarise(&mut summary, name, &drawn, &best);
            self.samples(name, &drawn, &mut samples)?;
            self.responses(name, &drawn, &mut responses)?;
            methods.push(method(name, &drawn));
            bar.inc(1);
        }
        self.dir.write_table("evaluation.csv", &sampled)?;
        self.dir.write_table("evaluation_greedy.csv", &greedy)?;
        self.dir.write_table("summary.csv", &summary)?;
        self.dir.write_text("samples.jsonl", &samples)?;
        self.dir.write_text("responses.jsonl", &responses)?;
        if let Some(world) = &self.data.world {
            let (exact, frontier) = self.exact(world)?;
            self.dir.write_table("exact.csv", &exact)?;
            self.dir.write_table("exact_frontier.csv", &frontier)?;
        }
        if !self.data.held_out_pairs.is_empty() {
            self.dir
                .write_table("agreement.csv", &self.agreement(&oracle, &sft)?)?;
        }
        self.dir.write_text("credit.jsonl", &self.credits(&sft)?)?;
        self.cards(&WinRates::try_new(&methods)?)?;
        Ok(summary)
    }

    /// Rewards by the oracle, and Σ_h KL(π(·|s_h) ‖ π_ref(·|s_h)) along each response: the expectation over the next token is exact,
    /// the states are those of the response.
    fn judge(
        &self,
        oracle: &Oracle<'_>,
        policy: &impl TokenScorer,
        drawn: Vec<Sampled>,
    ) -> Result<Judged> {
        let episodes: Vec<Episode> = drawn.into_iter().map(|s| s.episode).collect();
        let scores = policy.scores(&episodes)?;
        Ok(Judged {
            rewards: oracle.rewards(&episodes)?,
            kls: scores.get(Channel::KlToReference)?.row_sums(),
            episodes,
        })
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

    /// How often what was trained ranks held-out pairs as people did.
    fn agreement(&self, oracle: &Oracle<'_>, sft: &NeuralScorer) -> Result<Table> {
        let pairs = &self.data.held_out_pairs;
        let both = |p: &rto::algorithm2::Pair| [p.winner.clone(), p.loser.clone()];
        let episodes: Vec<Episode> = pairs.iter().flat_map(both).collect();
        let (dpo, reward) = (self.on_base(sft, "dpo")?, self.on_base(sft, "reward")?);
        let implicit = DpoReward::try_new(&dpo, sft, 1.0)?;
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
            let n = pairs.len() as u64;
            let (low, high) = clopper_pearson(right, n);
            let share = right as f64 / n as f64;
            table.push([name.into(), share.into(), low.into(), high.into(), n.into()]);
        }
        Ok(table)
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
    fn credits(&self, sft: &NeuralScorer) -> Result<String> {
        let dpo = self.on_base(sft, "dpo")?;
        let policy = self.policy(self.on_base(sft, "sft")?)?;
        let prompts: Vec<Arc<[Token]>> = self
            .shown()
            .map(|i| self.data.held_out[i].clone())
            .collect();
        let keys = StreamKey::batch(&self.seeds.child("credit"), prompts.len());
        let drawn = rto::seq::Policy::sample(&policy, &prompts, &keys)?;
        let rewards = DpoReward::try_new(&dpo, sft, self.config.beta1)?.rewards(&drawn)?;
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

    /// (3.5) with the true reward on the corner of the world that can be enumerated, every policy restricted to its words; and
    /// what the best policies there get at each KL to SFT.
    fn exact(&self, world: &World) -> Result<(Table, Table)> {
        let small = SmallWorld::try_new(world)?;
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
        let sft = table("sft")?;
        let frontier = frontier(&map, &small.reward, &sft)?;
        let exact = ExactEvaluator::try_new(map, &small.reward, sft, beta)?;
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
        Ok((out, frontier))
    }
}

/// The optimum of (3.2) at β from 20 down to 0.02: nothing has a larger reward at its KL to the reference.
fn frontier(
    map: &Arc<StateMap>,
    reward: &TabularReward,
    reference: &TabularPolicy,
) -> Result<Table> {
    const POINTS: u32 = 48;
    let mut out = Table::new("exact_frontier", &["beta", "kl", "reward"]);
    for i in 0..=POINTS {
        let beta = 20.0 * 0.001f64.powf(f64::from(i) / f64::from(POINTS));
        let evaluator =
            ExactEvaluator::try_new(map.clone(), reward, reference.clone(), Beta::try_new(beta)?)?;
        let best = evaluator.report(evaluator.optimal())?;
        out.push([beta.into(), best.kl.into(), best.reward.into()]);
    }
    Ok(out)
}

/// One answer per prompt.
fn method(name: &str, judged: &Judged) -> Method {
    let answer = |i: usize| Answer {
        score: judged.rewards[i],
        length: judged.episodes[i].len() as f64,
        kl: Some(judged.kls[i]),
    };
    Method {
        name: name.into(),
        prompts: (0..judged.episodes.len())
            .map(|i| vec![answer(i)])
            .collect(),
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
