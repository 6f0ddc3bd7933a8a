//! Algorithm 2 on a transformer: a small GPT-NeoX learns to answer, then DPO, then PPO on the DPO reward of every token.
//!
//! `cargo run -p rto-bridge --example algorithm2`
//!
//! The data come from a world whose token reward is known, so that what the policy is worth can be measured. With a model of your own,
//! `NeuralScorer::load` takes the place of `scorer`, and your pairs that of the world's; the rest stays.

use std::sync::Arc;

use candle_core::Device;
use rto::algorithm2::{
    CriticSlot, DpoConfig, FitConfig, Pair, PpoConfig, RtoConfig, RtoInput, fit_steps, rto, sft,
};
use rto::seed::SeedTree;
use rto::seq::{Episode, Policy, PolicyLearner, StreamKey};
use rto_bridge::family::GptNeoXConfig;
use rto_bridge::learner::{
    LearnerOptions, NeuralLearner, NeuralPolicy, NeuralRegressor, NeuralScorer,
};
use rto_bridge::model::{Heads, Model};
use rto_bridge::params::{Init, Params};
use rto_bridge::world::{EOS, MAX_RESPONSE, PAD, WORDS, World, decode};

type Outcome<T> = Result<T, Box<dyn std::error::Error>>;

/// A network of new weights over the words of the world.
fn scorer(seeds: &SeedTree) -> Outcome<NeuralScorer> {
    let config = GptNeoXConfig {
        hidden_size: 48,
        n_layers: 2,
        n_heads: 4,
        intermediate_size: 96,
        rotary_dims: 12,
        max_positions: 64,
        pad_token: Some(PAD),
        ..GptNeoXConfig::tiny(WORDS.len(), EOS)
    };
    let heads = Heads {
        language_model: true,
        ..Heads::default()
    };
    let model = Model::random(&config, heads, Init::Small, seeds, &Device::Cpu)?;
    Ok(NeuralScorer::try_new(
        &config,
        Params::new(model.params().tensors())?,
    )?)
}

/// A learner that starts from the weights of this network; the rates come from the configs of the stages.
fn learner(scorer: NeuralScorer) -> Outcome<NeuralLearner> {
    let policy = NeuralPolicy::try_new(scorer, MAX_RESPONSE)?;
    Ok(NeuralLearner::try_new(policy, LearnerOptions::default())?)
}

/// The mean true reward of one response to each prompt, and the first of them.
fn worth(world: &World, policy: &NeuralPolicy, prompts: &[Arc<[u32]>]) -> Outcome<(f64, String)> {
    let keys = StreamKey::batch(&SeedTree::new(99), prompts.len());
    let said = policy.sample(prompts, &keys)?;
    let rewards: Vec<f64> = said
        .iter()
        .map(|e| world.reward(e))
        .collect::<Result<_, _>>()?;
    let mean = rewards.iter().sum::<f64>() / rewards.len() as f64;
    let text = format!("{} {}", decode(&said[0].prompt), decode(&said[0].response));
    Ok((mean, text))
}

fn main() -> Outcome<()> {
    let (world, seeds) = (World::default(), SeedTree::new(1));
    let (train, held_out) = world.split(&seeds);

    // Section 2: π_ref is fine-tuned on demonstrations.
    let mut reference = learner(scorer(&seeds.child("weights"))?)?;
    let draw = |(i, prompt)| {
        let key = StreamKey::new(seeds.child("demonstrations").index(i as u64));
        world.demonstrate(prompt, &key)
    };
    let prompts = train.iter().cycle().take(8000);
    let demonstrations: Vec<Episode> = prompts.enumerate().map(draw).collect::<Result<_, _>>()?;
    let fit = FitConfig {
        learning_rate: 3e-3,
        batch_size: 32,
        epochs: 1,
        ..FitConfig::default()
    };
    let steps = 0..fit_steps(demonstrations.len(), &fit);
    sft(
        &mut reference,
        &demonstrations,
        &fit.check()?,
        &seeds.child("sft"),
        steps,
        &mut |_| Ok(()),
    )?;

    // 𝒟: pairs of the demonstrator's replies, labelled by (3.1).
    let pairs = world.pairs(&train, 4000, &seeds)?;
    let pairs: Vec<Pair> = pairs
        .into_iter()
        .map(|p| Pair {
            winner: p.winner,
            loser: p.loser,
        })
        .collect();

    // Both learners and the critic start from π_ref, each with weights of its own.
    let copy = || -> Outcome<NeuralScorer> {
        let from = reference.policy().scorer();
        Ok(NeuralScorer::try_new(
            from.config().clone(),
            Params::new(from.weights()?)?,
        )?)
    };
    let (mut dpo, mut policy) = (learner(copy()?)?, learner(copy()?)?);
    let from = reference.policy().scorer();
    let mut critic = NeuralRegressor::critic(
        from.config().clone(),
        from.weights()?,
        LearnerOptions::default(),
    )?;
    // At β₂ = β₁ the optimum of (4.6) is π_dpo itself, so PPO has to find its way there. A smaller β₂ goes further along the same
    // reward: at 0.25 past what so few pairs know, and the true reward ends below that of π_ref.
    let paper = RtoConfig::paper();
    let config = RtoConfig {
        dpo: DpoConfig {
            beta: 0.5,
            fit: FitConfig {
                learning_rate: 5e-4,
                batch_size: 32,
                epochs: 1,
                ..paper.dpo.fit
            },
            ..paper.dpo
        },
        beta1: 0.5,
        ppo: PpoConfig {
            iterations: 40,
            prompts_per_iteration: 128,
            minibatch_size: 32,
            beta2: 0.5,
            value_coef: 0.5,
            learning_rate: 3e-4,
            critic_learning_rate: 1e-3,
            ..paper.ppo
        },
        ..paper
    }
    .check()?;
    let input = RtoInput {
        pairs: &pairs,
        config: &config,
        seeds: &seeds.child("rto"),
        reward_model: None,
    };
    let mut slot = CriticSlot::Separate(&mut critic);
    let output = rto(&mut dpo, &mut policy, &mut slot, input, &mut |_, _| Ok(()))?;

    let mut rewards = Vec::new();
    for (name, policy) in [
        ("SFT", &output.reference),
        ("DPO", &output.dpo),
        ("RTO", policy.policy()),
    ] {
        let (mean, said) = worth(&world, policy, &held_out)?;
        println!(
            "{name}: mean true reward {mean:.3} on {} prompts; {said}",
            held_out.len()
        );
        rewards.push(mean);
    }
    let [sft, dpo, rto] = rewards[..] else {
        unreachable!("three policies")
    };
    assert!(dpo > sft + 0.5 && rto > (sft + dpo) / 2.0);
    Ok(())
}

#[test]
fn preferences_raise_the_true_reward() {
    main().unwrap();
}
