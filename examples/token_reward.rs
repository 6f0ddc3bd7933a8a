//! A token reward of your own: trained with the PPO that trains RTO, and measured against its exact optimum.
//!
//! `cargo run --example token_reward`
//!
//! A token reward is one implementation of [`TokenReward`]. It sees episodes, never a model, so the same type pays a policy on a table
//! (here) and a transformer (`bridge/examples/algorithm2.rs`).

use ndarray::Array2;
use rto::algorithm2::{CriticSlot, PpoConfig, PpoRun, PpoState};
use rto::mdp::{Beta, TabularPolicy, TokenTree};
use rto::policy::optimizer::OptimizerConfig;
use rto::policy::{ExactEvaluator, Regressor, StateMap, TabularLearner, TabularSoftmax};
use rto::reward::TabularReward;
use rto::seed::SeedTree;
use rto::seq::{Episode, Finish, PolicyLearner, Ragged, TokenReward};
use rto::{Result, Token};

/// A point for every token 1, less `price` for a token that repeats the one before it.
struct NoRepeats {
    price: f64,
}

impl TokenReward for NoRepeats {
    /// One number per response token, one row per episode.
    fn rewards(&self, batch: &[Episode]) -> Result<Ragged> {
        Ok(Ragged::from_rows(batch.iter().map(|episode| {
            let y = &episode.response;
            let pay = |h: usize| {
                let repeats = h > 0 && y[h] == y[h - 1];
                f64::from(u8::from(y[h] == 1)) - if repeats { self.price } else { 0.0 }
            };
            (0..y.len()).map(pay).collect::<Vec<f64>>()
        })))
    }
}

fn main() -> Result<()> {
    // One prompt, three tokens, responses of four tokens: 40 states, 81 responses.
    let (actions, horizon, beta) = (3, 4, 0.25);
    let tree = TokenTree::try_new(1, actions, horizon, None)?;
    let map = StateMap::tree(&tree, &[1.0])?;
    let states = tree.n_states();
    let reward = NoRepeats { price: 2.0 };

    // Written out as a table r(s, a), by walking every response, the reward has an exact optimum.
    let mut table = Array2::zeros((states, actions));
    for number in 0..actions.pow(horizon as u32) {
        let digit = |h: usize| (number / actions.pow(h as u32) % actions) as Token;
        let response: Vec<Token> = (0..horizon).map(digit).collect();
        let episode = [Episode::try_new(
            StateMap::prompt(0),
            response,
            Finish::Length,
        )?];
        let (mut steps, rewards) = (Vec::new(), reward.rewards(&episode)?);
        map.walk(&episode[0], &mut steps)?;
        for (&(s, a), r) in steps.iter().zip(rewards.row(0)) {
            table[[s.ix(), a.ix()]] = *r;
        }
    }
    let exact = ExactEvaluator::try_new(
        map.clone(),
        &TabularReward::try_new(table)?,
        TabularPolicy::uniform(states, actions),
        Beta::try_new(beta)?,
    )?;

    // Lines 3 to 8 of Algorithm 2 with this reward in place of (4.6).
    let zeros = Array2::zeros((states, actions));
    let reference = TabularSoftmax::try_new(map.clone(), &zeros)?;
    let mut policy = TabularLearner::try_new(reference.clone(), OptimizerConfig::adam(0.05))?;
    let mut critic = Regressor::critic(map, &vec![0.0; states], OptimizerConfig::sgd(0.5))?;
    let config = PpoConfig {
        iterations: 40,
        prompts_per_iteration: 64,
        beta2: beta,
        learning_rate: 0.05,
        critic_learning_rate: 0.5,
        ..PpoConfig::default()
    }
    .check()?;
    let run = PpoRun {
        reference: &reference,
        reward: &reward,
        prompts: &[StateMap::prompt(0)],
        config: &config,
        seeds: &SeedTree::new(1),
    };
    let start = exact.report(&policy.policy().table()?)?;
    let mut state = PpoState::new(&config);
    while state.iteration < config.iterations {
        run.iterate(
            &mut policy,
            &mut CriticSlot::Separate(&mut critic),
            &mut state,
        )?;
    }
    let end = exact.report(&policy.policy().table()?)?;

    println!("            reward      KL  SubOpt");
    for (name, report) in [("reference", start), ("trained", end)] {
        let (reward, kl, gap) = (report.reward, report.kl, report.suboptimality);
        println!("{name:<10} {reward:>7.3} {kl:>7.3} {gap:>7.3}");
    }
    assert!(end.suboptimality < start.suboptimality / 5.0);
    Ok(())
}

#[test]
fn the_trained_policy_is_near_the_exact_optimum() {
    main().unwrap();
}
