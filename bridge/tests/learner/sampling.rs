//! What a policy samples follows its scores, and exact evaluation agrees with it.

use std::collections::BTreeMap;
use std::sync::Arc;

use candle_core::{DType, Tensor};
use rand::Rng;
use rto::algorithm2::SamplerGap;
use rto::mdp::{ActionIx, Beta, TabularPolicy, TokenTree, for_each_trajectory};
use rto::policy::{ExactEvaluator, StateMap, tabulate};
use rto::reward::TabularReward;
use rto::seed::SeedTree;
use rto::seq::{Episode, Policy, Ragged, StreamKey};
use rto::token_reward::log_probs;
use rto_bridge::family::Head;
use rto_bridge::generate::{Engine, Stored};
use rto_bridge::learner::{NeuralPolicy, NeuralScorer, Restricted};
use rto_bridge::params::Params;
use rto_bridge::world::{SmallWorld, WORDS, World};

use super::{TEXT, config, policy, scorer, weights};

fn map() -> Arc<StateMap> {
    let tree = TokenTree::try_new(2, 6, 3, Some(ActionIx(0))).unwrap();
    StateMap::tree(&tree, &[0.5, 0.5]).unwrap()
}

fn responses(map: &StateMap, p: usize) -> Vec<Episode> {
    let (mut out, prompt) = (Vec::new(), StateMap::prompt(p));
    for_each_trajectory(map.mdp(), map.root(&prompt).unwrap(), |steps| {
        let y: Vec<u32> = steps.iter().map(|(_, a)| a.0).collect();
        let finish = map.finish(y[y.len() - 1]);
        out.push(Episode::try_new(prompt.clone(), y, finish).unwrap());
    })
    .unwrap();
    out
}

/// Counts of all 156 responses to a prompt against n·exp(Σ log π), |z| < 4.5 where at least 10 are expected (a right
/// sampler fails with probability below 2e-3, and the seed is fixed); probabilities sum to 1 within 1e-5 in f32.
fn check_frequencies(policy: &impl Policy, map: &StateMap, n: usize) {
    for p in 0..2 {
        let prompts = vec![StateMap::prompt(p); n];
        let keys = StreamKey::batch(&SeedTree::new(3).index(p as u64), n);
        let mut counts = std::collections::HashMap::new();
        for y in policy.sample(&prompts, &keys).unwrap() {
            *counts.entry(y).or_insert(0u32) += 1;
        }
        let all = responses(map, p);
        let log_p = log_probs(policy, &all).unwrap().row_sums();
        let mut total = 0.0;
        let mut tested = 0;
        for (y, l) in all.iter().zip(&log_p) {
            let (p_y, count) = (l.exp(), f64::from(counts.remove(y).unwrap_or(0)));
            total += p_y;
            let mean = n as f64 * p_y;
            if mean >= 10.0 {
                let z = (count - mean) / (mean * (1.0 - p_y)).sqrt();
                assert!(z.abs() < 4.5, "{y:?}: {count} against {mean}");
                tested += 1;
            }
        }
        assert!(counts.is_empty(), "responses that were not enumerated");
        assert!((total - 1.0).abs() < 1e-5, "{total}");
        assert!(tested > 20, "only {tested} responses common enough");
    }
}

#[test]
fn samples_follow_the_scores() {
    check_frequencies(&policy(1), &map(), 40_000);
}

/// The weights that an engine multiplies by when it stores them so, as f32: every matrix but the embedding's rows.
fn as_stored(weights: &BTreeMap<String, Tensor>, stored: Stored) -> BTreeMap<String, Tensor> {
    let block = |block: &[f32]| -> Vec<f32> {
        let most = block.iter().fold(0.0f32, |m, w| m.max(w.abs()));
        let scale = most / 127.0;
        let one = |w: &f32| match stored {
            Stored::F32 => *w,
            Stored::Bf16 => half::bf16::from_f32(*w).to_f32(),
            Stored::Int8 => (w / scale).round() * scale,
        };
        block.iter().map(one).collect()
    };
    let one = |(name, tensor): (&String, &Tensor)| {
        if tensor.rank() != 2 || name.ends_with("embed_in.weight") {
            return (name.clone(), tensor.clone());
        }
        let rows: Vec<Vec<f32>> = tensor.to_vec2().unwrap();
        let rounded = rows.iter().flat_map(|row| row.chunks(64).flat_map(block));
        let rounded: Vec<f32> = rounded.collect();
        let tensor = Tensor::from_vec(rounded, tensor.dims(), tensor.device()).unwrap();
        (name.clone(), tensor)
    };
    weights.iter().map(one).collect()
}

/// Text written with other weights follows the log q that comes with it; log q is that of f32 on the weights as they are stored, and what a report of PPO says of the two agrees with sums over
/// all 156 responses: |z| < 4.5 for Σ_y q(y) Σ_h (log q − log π), with its spread under q from the same sums.
#[test]
fn what_narrow_weights_cost_is_what_a_sum_over_all_responses_says() {
    let (map, n) = (map(), 40_000);
    let plain = policy(1);
    let weights = weights(&config(6, 12), TEXT, 1);
    for stored in [Stored::Bf16, Stored::Int8] {
        let narrow = policy(1).with_sampling_weights(stored);
        let engine = Engine::stored(config(6, 12), Head::CausalLm, &weights, stored).unwrap();
        let wide = as_stored(&weights, stored);
        let wide = Engine::stored(config(6, 12), Head::CausalLm, &wide, Stored::F32).unwrap();
        for p in 0..2 {
            let all = responses(&map, p);
            let pairs: Vec<(&[u32], &[u32])> = all
                .iter()
                .map(|y| (&y.prompt[..], &y.response[..]))
                .collect();
            let log_q = Ragged::from_rows(engine.log_probs(&pairs, 0.8).unwrap());
            let log_p = log_probs(&plain, &all).unwrap();
            let most = |of: &Ragged| of.values().iter().fold(0.0, |m: f64, x| m.max(x.abs()));
            let known = Ragged::from_rows(wide.log_probs(&pairs, 0.8).unwrap());
            let off = most(&log_q.zip("log q", &known, |q, k| q - k).unwrap());
            // The same sums in f32: to the last bit in bf16, but for a sum a block in int8.
            let bound = if stored == Stored::Bf16 { 0.0 } else { 1e-5 };
            assert!(off <= bound, "{stored:?}: {off} from its own weights");
            let off = log_q.zip("log q", &log_p, |q, p| q - p).unwrap();
            assert!(most(&off) > 1e-4, "{stored:?}: nothing was rounded");

            let prompts = vec![StateMap::prompt(p); n];
            let keys = StreamKey::batch(&SeedTree::new(3).index(p as u64), n);
            let (batch, sampler) = narrow.draw(&prompts, &keys).unwrap();
            let sampler = sampler.unwrap();
            let scored = log_probs(&narrow, &batch).unwrap();
            assert_eq!(scored, log_probs(&plain, &batch).unwrap());
            let gap = SamplerGap::try_new(&sampler, &scored, 0.2).unwrap();
            assert_eq!(gap.clip_fraction, 0.0);

            // E_q and the spread of a response's sum, and the tokens that it has.
            let q: Vec<f64> = log_q.row_sums().iter().map(|l| l.exp()).collect();
            let expected =
                |of: &dyn Fn(usize) -> f64| -> f64 { (0..all.len()).map(|y| q[y] * of(y)).sum() };
            let sums = off.row_sums();
            let mean = expected(&|y| sums[y]);
            let spread = expected(&|y| (sums[y] - mean).powi(2)).sqrt();
            let tokens = sampler.n_tokens() as f64;
            let z = (gap.kl * tokens / n as f64 - mean) / (spread / (n as f64).sqrt());
            assert!(z.abs() < 4.5, "{stored:?}: {} a token, z = {z}", gap.kl);
            let length = expected(&|y| all[y].len() as f64);
            assert!(
                (tokens / n as f64 - length).abs() < 0.05,
                "{tokens} {length}"
            );
            assert!(mean > 0.0, "a divergence is positive: {mean}");
        }
    }
    // What is written as it is scored has nothing to tell.
    let prompts = [StateMap::prompt(0)];
    let keys = StreamKey::batch(&SeedTree::new(3), 1);
    assert_eq!(plain.draw(&prompts, &keys).unwrap().1, None);
}

#[test]
fn narrow_weights_are_refused_for_networks_that_tensors_write() {
    let scorer = scorer(TEXT, 1);
    let turned = |(name, t): (String, Tensor)| (name, t.to_dtype(DType::BF16).unwrap());
    let short = scorer.model().params().tensors().into_iter().map(turned);
    let scorer = NeuralScorer::try_new(config(6, 12), Params::new(short.collect()).unwrap());
    let policy = NeuralPolicy::try_new(scorer.unwrap(), 3).unwrap();
    let policy = policy.with_sampling_weights(Stored::Int8);
    let keys = StreamKey::batch(&SeedTree::new(3), 1);
    let said = policy.sample(&[StateMap::prompt(0)], &keys).unwrap_err();
    assert!(
        said.to_string()
            .contains("sampling weights: found Int8 where candle's tensors write"),
        "{said}"
    );
}

#[test]
fn exact_evaluation_agrees_with_sampling() {
    let (map, policy) = (map(), policy(1));
    let n_states = map.mdp().n_states();
    let mut rng = SeedTree::new(4).rng();
    let values = ndarray::Array2::from_shape_fn((n_states, 6), |_| rng.random::<f64>());
    let reward = TabularReward::try_new(values.clone()).unwrap();
    let reference = tabulate(&scorer(TEXT, 101), &map, 100).unwrap();
    let beta = Beta::try_new(0.5).unwrap();
    let exact = ExactEvaluator::try_new(map.clone(), &reward, reference.clone(), beta).unwrap();
    let report = exact.report_scores(&policy, 100).unwrap();
    assert!(report.suboptimality > 0.0 && report.kl > 0.0);

    let n = 20_000;
    let prompts: Vec<_> = (0..n).map(|i| StateMap::prompt(i % 2)).collect();
    let keys = StreamKey::batch(&SeedTree::new(8), n);
    let drawn = policy.sample(&prompts, &keys).unwrap();
    let log_pi = log_probs(&policy, &drawn).unwrap();
    let (mut rewards, mut kls) = (Vec::new(), Vec::new());
    for (i, y) in drawn.iter().enumerate() {
        let mut steps = Vec::new();
        map.walk(y, &mut steps).unwrap();
        rewards.push(
            steps
                .iter()
                .map(|(s, a)| values[[s.ix(), a.ix()]])
                .sum::<f64>(),
        );
        let q: f64 = steps.iter().map(|&(s, a)| reference.log_prob(s, a)).sum();
        kls.push(log_pi.row(i).iter().sum::<f64>() - q);
    }
    for (x, exact) in [(rewards, report.reward), (kls, report.kl)] {
        let mean = x.iter().sum::<f64>() / n as f64;
        let variance = x.iter().map(|v| (v - mean).powi(2)).sum::<f64>() / n as f64;
        let z = (mean - exact) / (variance / n as f64).sqrt();
        assert!(z.abs() < 4.0, "{mean} sampled, {exact} exact, z = {z}");
    }
}

/// A language model of the whole vocabulary, read on the six words of the enumerable corner.
#[test]
fn a_model_of_the_world_is_evaluated_exactly_on_its_corner() {
    let world = World::default();
    let small = SmallWorld::try_new(&world).unwrap();
    let config = config(WORDS.len(), 24);
    let params = Params::new(weights(&config, TEXT, 3)).unwrap();
    let scorer = NeuralScorer::try_new(&config, params).unwrap();
    let policy = Restricted {
        scorer: &scorer,
        tokens: &small.tokens,
        prompts: &small.prompts,
        eos: Some(0),
        horizon: 5,
    };
    let map = StateMap::tree(&small.tree, &[0.25; 4]).unwrap();
    let reference = TabularPolicy::from_probs(&small.demonstrator).unwrap();
    let beta = Beta::try_new(0.5).unwrap();
    let exact_map = map.clone();
    let exact = ExactEvaluator::try_new(map, &small.reward, reference, beta).unwrap();
    let slow = tabulate(&policy, &exact_map, 2000).unwrap();
    let fast = policy.tabulate(&small.tree).unwrap();
    for (a, b) in slow.log_probs().iter().zip(fast.log_probs()) {
        assert!((a - b).abs() < 1e-5, "{a} {b}");
    }
    let report = exact.report(&slow).unwrap();
    assert!(report.suboptimality > 0.0);

    let n = 2000;
    let prompts: Vec<_> = (0..n).map(|i| StateMap::prompt(i % 4)).collect();
    let drawn = policy
        .sample(&prompts, &StreamKey::batch(&SeedTree::new(8), n))
        .unwrap();
    let reward = |e: &Episode| {
        let words: Vec<u32> = e
            .response
            .iter()
            .map(|a| small.tokens[*a as usize])
            .collect();
        let prompt = &small.prompts[e.prompt[0] as usize];
        world
            .token_rewards(prompt, &words)
            .unwrap()
            .iter()
            .sum::<f64>()
    };
    let rewards: Vec<f64> = drawn.iter().map(reward).collect();
    let mean = rewards.iter().sum::<f64>() / n as f64;
    let variance = rewards.iter().map(|v| (v - mean).powi(2)).sum::<f64>() / n as f64;
    let z = (mean - report.reward) / (variance / n as f64).sqrt();
    assert!(z.abs() < 4.0, "{mean} sampled, {} exact", report.reward);
}
