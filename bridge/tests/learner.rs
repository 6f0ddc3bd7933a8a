//! GPT-NeoX behind the seam: gradients, micro-batches, sampling, exact evaluation, resuming.
#![allow(missing_docs)]

#[path = "learner/sampling.rs"]
mod sampling;

use std::collections::BTreeMap;
use std::sync::Arc;

use candle_core::{Device, Tensor};
use rand::Rng;
use rto::algorithm2::{
    Critic, CriticSlot, FitConfig, Pair, PpoConfig, PpoRun, PpoState, fit_reward, sft,
};
use rto::objective::{Aggregation, BradleyTerry, DpoLoss, PpoClip, Readout, Sum, ValueLoss};
use rto::policy::StateMap;
use rto::seed::SeedTree;
use rto::seq::{
    Channel, Episode, Finish, PerToken, Policy, PolicyLearner, Ragged, StreamKey, TokenObjective,
    TokenScorer, Trainable, loss_and_score_grad,
};
use rto::token_reward::{SentenceReward, log_probs};
use rto_bridge::family::GptNeoXConfig;
use rto_bridge::learner::{
    LearnerOptions, NeuralLearner, NeuralPolicy, NeuralRegressor, NeuralScorer,
};
use rto_bridge::model::Heads;
use rto_bridge::params::{Init, Params};

/// Six tokens, of which 0 ends a response; large weights, so that nothing is nearly uniform.
fn config(vocab_size: usize, context: usize) -> GptNeoXConfig {
    GptNeoXConfig {
        hidden_size: 16,
        n_layers: 2,
        intermediate_size: 32,
        rotary_dims: 4,
        max_positions: context,
        ..GptNeoXConfig::tiny(vocab_size, 0)
    }
}

const TEXT: Heads = Heads {
    language_model: true,
    value: false,
    reward: false,
};

fn weights(config: &GptNeoXConfig, heads: Heads, seed: u64) -> BTreeMap<String, Tensor> {
    let (init, seeds) = (Init::Normal { std: 0.35 }, SeedTree::new(seed));
    let model = rto_bridge::model::Model::random(config, heads, init, &seeds, &Device::Cpu);
    model.unwrap().params().tensors()
}

fn scorer(heads: Heads, seed: u64) -> NeuralScorer {
    let config = config(6, 12);
    let params = Params::new(weights(&config, heads, seed)).unwrap();
    NeuralScorer::try_new(&config, params).unwrap()
}

fn policy(seed: u64) -> NeuralPolicy {
    let reference = Arc::new(scorer(TEXT, seed + 100).snapshot().unwrap());
    let scorer = scorer(TEXT, seed)
        .with_temperature(0.8)
        .unwrap()
        .with_entropy()
        .with_reference(reference);
    NeuralPolicy::try_new(scorer, 3).unwrap()
}

fn options(micro_batch: usize) -> LearnerOptions {
    LearnerOptions {
        micro_batch,
        ..LearnerOptions::default()
    }
}

/// Pairs of responses to random prompts, of lengths 1 to 5.
fn rows(n: usize) -> Vec<Episode> {
    let mut rng = SeedTree::new(5).rng();
    let mut rows = Vec::new();
    for _ in 0..n / 2 {
        let prompt: Arc<[u32]> = (0..rng.random_range(1..4))
            .map(|_| rng.random_range(0..6))
            .collect();
        for _ in 0..2 {
            let y = (0..rng.random_range(1..6)).map(|_| rng.random_range(1..6));
            rows.push(Episode::try_new(prompt.clone(), y.collect(), Finish::Length).unwrap());
        }
    }
    rows
}

fn noise(batch: &[Episode], scale: f64, seed: u64) -> Ragged {
    let mut rng = SeedTree::new(seed).rng();
    Ragged::zeros(batch).map(|_| scale * (2.0 * rng.random::<f64>() - 1.0))
}

fn dpo(policy: &impl TokenScorer, batch: &[Episode]) -> BradleyTerry {
    let mut rng = SeedTree::new(6).rng();
    let near = |s: &f64| s + rng.random::<f64>() - 0.5;
    let reference: Vec<f64> = log_probs(policy, batch)
        .unwrap()
        .row_sums()
        .iter()
        .map(near)
        .collect();
    BradleyTerry::dpo(batch, &reference, 0.3).unwrap()
}

/// The clipped surrogate away from the kink, with entropy bonus and exact KL, and the value loss.
fn ppo(policy: &NeuralPolicy, batch: &[Episode], with_value: bool) -> Sum<'static> {
    let behaviour = log_probs(policy, batch).unwrap();
    let behaviour = behaviour
        .zip("noise", &noise(batch, 0.1, 7), |a, b| a + b)
        .unwrap();
    let how = Aggregation::TokenMean;
    let clip = PpoClip::new(batch, behaviour, noise(batch, 1.0, 8), 0.2, how, None)
        .and_then(|l| l.with_entropy_bonus(0.02)?.with_exact_kl(0.05))
        .unwrap();
    let mut parts: Vec<Box<dyn TokenObjective>> = vec![Box::new(clip)];
    if with_value {
        let zero = Ragged::zeros(batch);
        let value = ValueLoss::new(batch, noise(batch, 1.0, 9), zero, 0.5, None, how).unwrap();
        parts.push(Box::new(value));
    }
    Sum::new(parts).unwrap()
}

fn loss_at(weights: &BTreeMap<String, Tensor>, heads: Heads, loss: &dyn TokenObjective) -> f64 {
    let batch = rows(10);
    let config = config(6, 12);
    let params = Params::frozen(weights.clone()).unwrap();
    let reference = Arc::new(scorer(TEXT, 101).snapshot().unwrap());
    let scorer = NeuralScorer::try_new(&config, params)
        .and_then(|s| s.with_temperature(0.8))
        .unwrap()
        .with_entropy()
        .with_reference(reference.clone())
        .with_kl_from(reference);
    assert_eq!(scorer.channels().contains(&Channel::Value), heads.value);
    loss_and_score_grad(loss, &scorer.scores(&batch).unwrap())
        .unwrap()
        .0
}

/// Central differences of an f32 network along the gradient of each weight: with step h = 2e-3 in the direction
/// g/‖g‖, (ℒ(w + hd) − ℒ(w − hd))/2h = ‖g‖ up to O(h²) and rounding of ~1e-7·|ℒ|/h = 5e-5, hence the bound
/// 2e-4 + 1% of ‖g‖.
fn check_gradient(policy: NeuralPolicy, heads: Heads, loss: &dyn TokenObjective) {
    let batch = rows(10);
    let weights = policy.scorer().weights().unwrap();
    let mut learner = NeuralLearner::try_new(policy, options(3)).unwrap();
    let (_, gradients) = learner.loss_and_gradients(&batch, loss).unwrap();
    let h = 2e-3;
    let mut largest = 0.0f64;
    for (name, weight) in &weights {
        let grad = gradients.get(name).unwrap().unwrap();
        let norm = gradients.norm(name).unwrap();
        assert!(grad.iter().all(|g| g.is_finite()), "{name}");
        assert!(norm > 0.0, "{name} has no gradient");
        let direction: Vec<f32> = grad.iter().map(|g| (f64::from(*g) / norm) as f32).collect();
        let direction = Tensor::from_vec(direction, weight.shape(), &Device::Cpu).unwrap();
        let moved = |by: f64| {
            let mut all = weights.clone();
            let new = (weight + (&direction * by).unwrap()).unwrap();
            all.insert(name.clone(), new);
            loss_at(&all, heads, loss)
        };
        let measured = (moved(h) - moved(-h)) / (2.0 * h);
        assert!(
            (measured - norm).abs() <= 2e-4 + 0.01 * norm,
            "{name}: {measured} by differences, {norm} by the backward pass"
        );
        largest = largest.max(norm);
    }
    assert!(largest > 0.02, "gradients too small to test: {largest}");
}

#[test]
fn dpo_through_the_seam_has_the_gradient_of_its_loss() {
    let policy = policy(1);
    let loss = dpo(&policy, &rows(10));
    check_gradient(policy, TEXT, &loss);
}

/// The forward divergence of every token, which TDPO reads, on top of the log-probabilities.
#[test]
fn tdpo_through_the_seam_has_the_gradient_of_its_loss() {
    let reference = Arc::new(scorer(TEXT, 101).snapshot().unwrap());
    let scorer = scorer(TEXT, 1)
        .with_temperature(0.8)
        .unwrap()
        .with_kl_from(reference);
    let policy = NeuralPolicy::try_new(scorer, 3).unwrap();
    let batch = rows(10);
    let sums = log_probs(&policy, &batch).unwrap().row_sums();
    let near: Vec<f64> = sums
        .iter()
        .enumerate()
        .map(|(i, s)| s + 0.1 * i as f64)
        .collect();
    let loss = DpoLoss::Tdpo1.loss().objective(&batch, &near, 2.0).unwrap();
    check_gradient(policy, TEXT, &*loss);
}

#[test]
fn ppo_with_a_shared_trunk_has_the_gradient_of_its_loss() {
    let heads = Heads {
        value: true,
        ..TEXT
    };
    let reference = Arc::new(scorer(TEXT, 101).snapshot().unwrap());
    let scorer = scorer(heads, 1)
        .with_temperature(0.8)
        .unwrap()
        .with_entropy()
        .with_reference(reference);
    let policy = NeuralPolicy::try_new(scorer, 3).unwrap();
    let loss = ppo(&policy, &rows(10), true);
    check_gradient(policy, heads, &loss);
}

/// Micro-batches of 1, 3 (which cuts pairs apart) and all: same loss and gradient to 1e-6 of the largest entry.
#[test]
fn micro_batches_leave_loss_and_gradient_unchanged() {
    let batch = rows(10);
    let mut results = Vec::new();
    for micro_batch in [10, 1, 3] {
        for which in 0..2 {
            let policy = policy(1);
            let loss: Box<dyn TokenObjective> = match which {
                0 => Box::new(dpo(&policy, &batch)),
                _ => Box::new(ppo(&policy, &batch, false)),
            };
            let mut learner = NeuralLearner::try_new(policy, options(micro_batch)).unwrap();
            let (loss, grads) = learner.loss_and_gradients(&batch, &*loss).unwrap();
            let names: Vec<_> = grads.names().map(String::from).collect();
            let all: Vec<f32> = names
                .iter()
                .flat_map(|n| grads.get(n).unwrap().unwrap())
                .collect();
            results.push((loss, all));
        }
    }
    for k in 2..6 {
        let ((loss, grad), (other, others)) = (&results[k % 2], &results[k]);
        assert!((loss - other).abs() <= 1e-6 * loss.abs(), "{loss} {other}");
        let top = grad.iter().fold(0.0f32, |t, g| t.max(g.abs()));
        for (a, b) in grad.iter().zip(others) {
            assert!((a - b).abs() <= 1e-6 * top, "{a} {b}, largest {top}");
        }
    }
}

fn pairs(batch: &[Episode]) -> Vec<Pair> {
    let pair = |p: &[Episode]| Pair {
        winner: p[0].clone(),
        loser: p[1].clone(),
    };
    batch.chunks_exact(2).map(pair).collect()
}

fn bits(scorer: &NeuralScorer) -> Vec<u32> {
    let all = scorer.weights().unwrap().into_values();
    all.flat_map(|t| t.flatten_all().unwrap().to_vec1::<f32>().unwrap())
        .map(f32::to_bits)
        .collect()
}

/// Five steps, a save and a load, five more: the weights of ten steps, bit for bit. Of a policy and of a critic.
#[test]
fn a_saved_learner_goes_on_bit_for_bit() {
    let folder = tempfile::tempdir().unwrap();
    let (batch, seeds) = (rows(30), SeedTree::new(1));
    let config = FitConfig {
        learning_rate: 3e-3,
        batch_size: 4,
        epochs: 2,
        ..FitConfig::paper_sft()
    };
    let config = config.check().unwrap();
    let run = |learner: &mut NeuralLearner, steps| {
        sft(learner, &batch, &config, &seeds, steps, &mut |_| Ok(())).unwrap();
    };
    let mut whole = NeuralLearner::try_new(policy(1), options(3)).unwrap();
    run(&mut whole, 0..10);
    let mut first = NeuralLearner::try_new(policy(1), options(3)).unwrap();
    run(&mut first, 0..5);
    first.save(&folder.path().join("policy")).unwrap();
    let mut second =
        NeuralLearner::load(policy(2), options(3), &folder.path().join("policy")).unwrap();
    assert_eq!(second.steps(), 5);
    run(&mut second, 5..10);
    assert_eq!(
        bits(whole.policy().scorer()),
        bits(second.policy().scorer())
    );
    assert_ne!(bits(whole.policy().scorer()), bits(first.policy().scorer()));

    let critic = || {
        NeuralRegressor::critic(
            self::config(6, 12),
            weights(&self::config(6, 12), TEXT, 1),
            options(3),
        )
        .unwrap()
    };
    let target = noise(&batch, 1.0, 2);
    let zero = Ragged::zeros(&batch);
    let loss = ValueLoss::new(&batch, target, zero, 0.5, None, Aggregation::TokenMean).unwrap();
    let (mut whole, mut first) = (critic(), critic());
    let fall: Vec<f64> = (0..10)
        .map(|_| whole.step(&batch, &loss).unwrap().loss)
        .collect();
    assert!(fall[9] < fall[0]);
    for _ in 0..5 {
        first.step(&batch, &loss).unwrap();
    }
    first.save(&folder.path().join("critic")).unwrap();
    let again = critic().scorer().snapshot().unwrap();
    let params = Params::new(again.weights().unwrap()).unwrap();
    let blank = NeuralScorer::try_new(again.config(), params).unwrap();
    let mut second = NeuralRegressor::load(
        blank.with_micro_batch(3).unwrap(),
        options(3),
        &folder.path().join("critic"),
    )
    .unwrap();
    for _ in 0..5 {
        second.step(&batch, &loss).unwrap();
    }
    assert_eq!(bits(whole.scorer()), bits(second.scorer()));
}

#[test]
fn a_folder_of_another_network_is_refused() {
    let folder = tempfile::tempdir().unwrap();
    let learner = NeuralLearner::try_new(policy(1), options(3)).unwrap();
    learner.save(folder.path()).unwrap();
    let config = config(7, 12);
    let params = Params::new(weights(&config, TEXT, 1)).unwrap();
    let other = NeuralPolicy::try_new(NeuralScorer::try_new(&config, params).unwrap(), 3).unwrap();
    let said = NeuralLearner::load(other, options(3), folder.path()).unwrap_err();
    assert!(said.to_string().contains("weights.safetensors"), "{said}");
}

#[test]
fn snapshots_stay_while_the_learner_moves() {
    let batch = rows(10);
    let mut learner = NeuralLearner::try_new(policy(1), options(3)).unwrap();
    let snapshot = learner.snapshot().unwrap();
    let before = snapshot.scores(&batch).unwrap();
    assert_eq!(before, learner.policy().scores(&batch).unwrap());
    let loss = dpo(learner.policy(), &batch);
    let report = learner.step(&batch, &loss).unwrap();
    assert!(report.grad_norm > 0.0);
    assert_eq!(before, snapshot.scores(&batch).unwrap());
    assert_ne!(before, learner.policy().scores(&batch).unwrap());
    // The sampler reads the new weights.
    let keys = StreamKey::batch(&SeedTree::new(1), 500);
    let prompts = vec![StateMap::prompt(1); 500];
    let draw = |p: &NeuralPolicy| p.sample(&prompts, &keys).unwrap();
    let old = draw(learner.policy());
    learner.set_learning_rate(0.3);
    learner.step(&batch, &loss).unwrap();
    assert_ne!(old, draw(learner.policy()));
}

/// Reward model by (2.2), then one iteration of Algorithm 2 with a critic of its own and one on the shared trunk.
/// The driver itself refuses a first ratio further than 1e-5 from 1.
#[test]
fn algorithm_2_runs_on_it_unchanged() {
    let seeds = SeedTree::new(2);
    let config = config(6, 12);
    // Responses that hold a 1 win.
    let mut batch = rows(40);
    for pair in batch.chunks_exact_mut(2) {
        pair[0].response[0] = 1;
        pair[1].response.iter_mut().for_each(|t| *t = (*t).max(2));
    }
    let mut model =
        NeuralRegressor::reward_model(&config, weights(&config, TEXT, 1), &seeds, options(7))
            .unwrap();
    let fit = FitConfig {
        learning_rate: 5e-3,
        batch_size: 10,
        epochs: 15,
        ..FitConfig::paper_reward_model()
    };
    let (mut first, mut last) = (f64::NAN, f64::NAN);
    let pairs = pairs(&batch);
    fit_reward(
        &mut model,
        &pairs,
        Readout::Last,
        &fit.check().unwrap(),
        &seeds,
        0..30,
        &mut |step| {
            last = step.report.loss;
            if step.n == 0 {
                first = last;
            }
            Ok(())
        },
    )
    .unwrap();
    assert!(last < 0.3 * first, "{first} {last}");

    let reward = SentenceReward::new(model.scorer());
    let prompts: Vec<_> = (0..8).map(|p| Arc::from([p % 6, 1])).collect();
    let ppo = PpoConfig {
        iterations: 1,
        prompts_per_iteration: 8,
        minibatch_size: 4,
        learning_rate: 1e-3,
        critic_learning_rate: 1e-3,
        ..PpoConfig::paper()
    };
    let ppo = ppo.check().unwrap();
    for shared in [false, true] {
        let heads = Heads {
            value: shared,
            ..TEXT
        };
        let policy = NeuralPolicy::try_new(scorer(heads, 1), 3).unwrap();
        let mut learner = NeuralLearner::try_new(policy, options(3)).unwrap();
        let reference = learner.snapshot().unwrap();
        let mut critic =
            NeuralRegressor::critic(&config, weights(&config, TEXT, 1), options(3)).unwrap();
        let critic: &mut dyn Critic = &mut critic;
        let mut slot = match shared {
            true => CriticSlot::SharedTrunk,
            false => CriticSlot::Separate(critic),
        };
        let run = PpoRun {
            reference: &reference,
            reward: &reward,
            prompts: &prompts,
            config: &ppo,
            seeds: &seeds,
        };
        let mut state = PpoState::new(&ppo);
        let report = run.iterate(&mut learner, &mut slot, &mut state).unwrap();
        assert_eq!(report.kl, 0.0);
        assert!(report.approx_kl > 0.0 && report.grad_norm > 0.0);
    }
}

/// What is wrong is said, before anything is computed.
#[test]
fn what_a_network_cannot_do_is_refused() {
    let policy = policy(1);
    let long: Arc<[u32]> = vec![1; 10].into();
    let keys = StreamKey::batch(&SeedTree::new(1), 1);
    let said = policy.sample(&[long], &keys).unwrap_err().to_string();
    assert!(said.contains("at most 9"), "{said}");
    let unknown = [Episode::try_new([1].into(), vec![6], Finish::Length).unwrap()];
    let said = policy.scores(&unknown).unwrap_err().to_string();
    assert!(said.contains("vocabulary size 6"), "{said}");
    let value = Heads {
        value: true,
        ..Heads::default()
    };
    assert!(NeuralPolicy::try_new(scorer(value, 1), 3).is_err());
    assert!(scorer(TEXT, 1).with_temperature(0.0).is_err());
    let scores: PerToken = policy.scores(&rows(2)).unwrap();
    assert!(scores.get(Channel::Value).is_err());
}
