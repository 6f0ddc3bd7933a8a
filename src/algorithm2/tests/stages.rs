use super::*;
use crate::objective::{BradleyTerry, Readout};

/// DPO on all pairs with their true probabilities, the population loss, has its minimum at π*_β ∝ π_ref exp(R/β) (audit F1).
#[test]
fn population_dpo_reaches_the_soft_optimum() {
    let (x, beta) = (prompts()[0].clone(), 0.5);
    let all = responses(&x);
    let reward: Vec<f64> = (0..all.len()).map(|i| (1.7 * i as f64).sin()).collect();
    let (mut batch, mut preference) = (Vec::new(), Vec::new());
    for i in 0..all.len() {
        for j in 0..i {
            batch.extend([all[i].clone(), all[j].clone()]);
            preference.push(crate::numerics::sigmoid(reward[i] - reward[j]));
        }
    }
    let reference = log_probs(&policy(), &batch).unwrap().row_sums();
    let weight = vec![1.0 / preference.len() as f64; preference.len()];
    let loss = BradleyTerry::dpo(&batch, &reference, beta).unwrap();
    let loss = loss.population(preference, weight).unwrap();
    let mut learner = policy();
    learner.set_learning_rate(20.0);
    for _ in 0..6000 {
        learner.step(&batch, &loss).unwrap();
    }
    let prior = log_probs(&policy(), &all).unwrap().row_sums();
    let z: Vec<_> = (0..all.len())
        .map(|i| prior[i] + reward[i] / beta)
        .collect();
    let normaliser = crate::numerics::log_sum_exp(&z);
    let got = log_probs(&learner, &all).unwrap().row_sums();
    let off = (0..all.len()).map(|i| (got[i].exp() - (z[i] - normaliser).exp()).abs());
    let total_variation = off.sum::<f64>() / 2.0;
    assert!(total_variation < 1e-6, "{total_variation}");
}

/// PRIME: the reward is read after it has learnt from the rollout.
#[test]
fn an_online_reward_learns_between_rollout_and_update() {
    let all = responses(&prompts()[0]);
    let good = |e: &Episode| f64::from(u8::from(e.response[0] == 1));
    let mut reward = OnlineImplicitReward::try_new(policy(), policy(), 1.0).unwrap();
    assert!(
        reward
            .rewards(&all)
            .unwrap()
            .values()
            .iter()
            .all(|r| *r == 0.0)
    );
    reward.learner_mut().set_learning_rate(5.0);
    let (config, seeds, data) = (ppo().check().unwrap(), SeedTree::new(5), prompts());
    let (mut learner, mut critic) = (policy(), Table::new(&[Channel::Value]));
    let mut state = PpoState::new(&config);
    let (reference, unread) = (policy(), dpo_reward());
    let base = PpoRun {
        reference: &reference,
        reward: &unread,
        prompts: &data,
        config: &config,
        seeds: &seeds,
    };
    for _ in 0..20 {
        let batch = base.rollout(learner.policy(), &state).unwrap();
        let outcomes: Vec<_> = batch.iter().map(good).collect();
        reward.update_outcomes(&batch, &outcomes).unwrap();
        let run = PpoRun {
            reward: &reward,
            ..base
        };
        let slot = &mut CriticSlot::Separate(&mut critic);
        run.update(&mut learner, slot, &mut state, batch).unwrap();
    }
    let returns = reward.rewards(&all).unwrap().row_sums();
    let mean = |want: f64| {
        let of: Vec<_> = (0..all.len())
            .filter(|&i| good(&all[i]) == want)
            .map(|i| returns[i])
            .collect();
        of.iter().sum::<f64>() / of.len() as f64
    };
    assert!(mean(1.0) > 0.0 && mean(0.0) < 0.0);
    let first = learner.log_probs(&(vec![1], vec![]))[1].exp();
    assert!(first > 0.6, "{first}");
    let pair = [all[0].clone(), all[1].clone()];
    assert!(reward.update_pairs(&pair).unwrap().loss > 0.0);
}

#[test]
fn sft_and_reward_fitting_learn_and_resume() {
    let all: Vec<_> = prompts().iter().flat_map(responses).collect();
    let config = FitConfig {
        learning_rate: 3.0,
        batch_size: 4,
        epochs: 30,
        ..FitConfig::paper_sft()
    }
    .check()
    .unwrap();
    let (seeds, total, mut losses) = (SeedTree::new(1), fit_steps(4, &config), Vec::new());
    let (mut a, mut b) = (policy(), policy());
    sft(&mut a, &all[..4], &config, &seeds, 0..total, &mut |step| {
        losses.push(step.report.loss);
        Ok(())
    })
    .unwrap();
    for steps in [0..7, 7..total] {
        sft(&mut b, &all[..4], &config, &seeds, steps, &mut |_| Ok(())).unwrap();
    }
    assert_eq!(furthest(&a, &b), 0.0);
    assert_eq!(losses.len() as u64, total);
    assert!(losses[losses.len() - 1] < 0.7 * losses[0]);
    assert!(sft(&mut a, &[], &config, &seeds, 0..1, &mut |_| Ok(())).is_err());
    let said = sft(&mut a, &all[..4], &config, &seeds, 0..2, &mut |_| {
        Err(std::io::Error::other("the disk is full").into())
    })
    .unwrap_err();
    assert_eq!(said.to_string(), "the disk is full");
    assert!(std::error::Error::source(&said).is_some_and(|s| s.is::<std::io::Error>()));
    let pair = Pair {
        winner: all[0].clone(),
        loser: all[3].clone(),
    };
    let (mut model, mut last) = (Table::new(&[Channel::Reward]), 0.0);
    fit_reward(
        &mut model,
        &[pair],
        Readout::Sum,
        &config,
        &seeds,
        0..30,
        &mut |step| {
            last = step.report.loss;
            Ok(())
        },
    )
    .unwrap();
    assert!(last > 0.0 && last < 0.1);
}
