//! Algorithm 2 on a device: the learners of the seam there, beside those of the host's kernels, from the same weights and seeds.

use super::iteration::LANGUAGE;
use super::there::*;
use crate::common::*;
use candle_core::Tensor;
use rand::Rng;
use rto::algorithm2::{
    CriticSlot, DpoConfig, FitConfig, Pair, PpoConfig, PpoRun, PpoState, RtoConfig, RtoInput, rto,
};
use rto::seed::SeedTree;
use rto::seq::{
    Channel, Decoder, Episode, Finish, PerToken, Policy, PolicyLearner, StreamKey, TokenScorer,
    Trainable,
};
use rto_bridge::batch::Batch;
use rto_bridge::decoder::Truncated;
use rto_bridge::device_learner::{
    DeviceLearner, DeviceOptions, DevicePolicy, DeviceRegressor, DeviceScorer,
};
use rto_bridge::family::{EndTokens, GptNeoXConfig, ModelConfig};
use rto_bridge::learner::{
    LearnerOptions, NeuralLearner, NeuralPolicy, NeuralRegressor, NeuralScorer,
};
use rto_bridge::lora::LoraConfig;
use rto_bridge::memory_plan::{DeviceRun, device_plan};
use rto_bridge::model::Heads;
use rto_bridge::optimizer::{AdamWConfig, Moments};
use rto_bridge::params::Params;
use rto_device::{Device, Kernels, Real};
use std::sync::Arc;

const LONGEST: usize = 6;
const OPTIONS: DeviceOptions = DeviceOptions {
    micro_batch: 3,
    checkpointing: true,
    columns: 16,
};

fn config() -> GptNeoXConfig {
    GptNeoXConfig {
        n_layers: 2,
        ..small_config(true)
    }
}

fn scorer(seed: u64) -> NeuralScorer {
    let model = small_model(&config(), LANGUAGE, seed);
    NeuralScorer::try_new(config(), Params::new(model.params().tensors()).unwrap()).unwrap()
}

fn host_options() -> LearnerOptions {
    LearnerOptions {
        micro_batch: OPTIONS.micro_batch,
        ..LearnerOptions::default()
    }
}

fn policy_of(scorer: NeuralScorer) -> NeuralPolicy {
    NeuralPolicy::try_new(scorer, LONGEST).unwrap()
}

fn placed<'d>(kernels: Kernels<'d>, policy: &NeuralPolicy) -> DevicePolicy<'d> {
    let scorer = DeviceScorer::try_new(kernels, policy.scorer(), OPTIONS).unwrap();
    let policy = DevicePolicy::try_new(scorer, policy.max_new_tokens()).unwrap();
    policy.with_writing(3, 64).unwrap()
}

fn prompts(n: usize) -> Vec<Arc<[u32]>> {
    let mut rng = SeedTree::new(2).rng();
    let one = |i| (0..1 + i % 4).map(|_| rng.random_range(2..37)).collect();
    (0..n).map(one).collect()
}

/// Pairs of replies to some prompts: the reply with more low tokens wins.
fn pairs() -> Vec<Pair> {
    let mut rng = SeedTree::new(3).rng();
    let prompts = prompts(7);
    (0..12)
        .map(|i| {
            let mut reply = |n: usize| {
                let mut tokens: Vec<u32> = (1..n).map(|_| rng.random_range(2..37)).collect();
                tokens.push(0);
                Episode::try_new(prompts[i % 7].clone(), tokens, Finish::Eos).unwrap()
            };
            let (a, b) = (reply(2 + i % 4), reply(2 + i % 3));
            let low = |e: &Episode| e.response.iter().filter(|t| **t < 12).count();
            let (winner, loser) = if low(&a) >= low(&b) { (a, b) } else { (b, a) };
            Pair { winner, loser }
        })
        .collect()
}

fn values(scores: &PerToken, channel: Channel, rows: usize) -> Vec<f64> {
    (0..rows)
        .flat_map(|i| scores.row(channel, i).to_vec())
        .collect()
}

/// What `policy` says of some texts.
fn says(policy: &dyn TokenScorer, texts: &[Episode]) -> Vec<f64> {
    values(
        &policy.scores(texts).unwrap(),
        Channel::LogProb,
        texts.len(),
    )
}

/// Rates large enough to move every number; the ratio of two readings of one policy may differ by a device's rounding.
fn settings(beta: f64, tolerance: f64, shared: bool) -> RtoConfig {
    let paper = RtoConfig::paper();
    RtoConfig {
        beta1: 0.5,
        dpo: DpoConfig {
            beta,
            fit: FitConfig {
                learning_rate: 3e-3,
                batch_size: 5,
                epochs: 2,
                ..paper.dpo.fit
            },
            ..paper.dpo
        },
        ppo: PpoConfig {
            iterations: 3,
            prompts_per_iteration: 8,
            minibatch_size: 4,
            epochs: 2,
            beta2: 0.2,
            value_coef: if shared { 0.1 } else { 0.5 },
            learning_rate: 2e-3,
            critic_learning_rate: 2e-3,
            ratio_tolerance: tolerance,
            ..paper.ppo
        },
        ..paper
    }
}

/// Algorithm 2 with `L`, from learners that were made; what was logged, and the policies.
fn run<L: PolicyLearner>(
    mut dpo: L,
    mut policy: L,
    critic: &mut CriticSlot<'_>,
    config: &RtoConfig,
    texts: &[Episode],
) -> [Vec<f64>; 3] {
    let config = (*config).check().unwrap();
    let pairs = pairs();
    let input = RtoInput {
        pairs: &pairs,
        config: &config,
        seeds: &SeedTree::new(4),
        reward_model: None,
    };
    let output = rto(&mut dpo, &mut policy, critic, input, &mut |_, _| Ok(())).unwrap();
    [
        says(&output.reference, texts),
        says(&output.dpo, texts),
        says(policy.policy(), texts),
    ]
}

fn texts() -> Vec<Episode> {
    pairs().into_iter().map(|p| p.winner).collect()
}

fn moved(from: &[f64], to: &[f64]) -> f64 {
    let change = from.iter().zip(to).map(|(a, b)| (a - b).abs());
    change.fold(0.0, f64::max)
}

/// Lines 1 to 8 with a critic of its own, in f32: π_ref, π_dpo and the policy at the end.
#[test]
fn algorithm_2_on_a_device_is_that_of_the_host() {
    let Some(device) = executor("Algorithm 2") else {
        return;
    };
    let texts = texts();
    let start = || policy_of(scorer(1));
    let settings = settings(0.5, 1e-5, false);
    let trunk = || scorer(1).weights().unwrap();
    let here = {
        let learner = || NeuralLearner::try_new(start(), host_options()).unwrap();
        let mut critic = NeuralRegressor::critic(config(), trunk(), host_options()).unwrap();
        let mut slot = CriticSlot::Separate(&mut critic);
        run(learner(), learner(), &mut slot, &settings, &texts)
    };
    let kernels = kernels(&*device, Real::F32);
    let there = {
        let learner = || {
            let placed = placed(kernels, &start());
            DeviceLearner::try_new(placed, AdamWConfig::default(), 1e-3).unwrap()
        };
        let critic = NeuralScorer::with_value_head(config(), trunk(), Params::new).unwrap();
        let critic = DeviceScorer::try_new(kernels, &critic, OPTIONS).unwrap();
        let mut critic = DeviceRegressor::try_new(critic, AdamWConfig::default(), 1e-3).unwrap();
        let mut slot = CriticSlot::Separate(&mut critic);
        run(learner(), learner(), &mut slot, &settings, &texts)
    };
    for (what, (ours, theirs)) in ["reference", "dpo", "rto"]
        .iter()
        .zip(there.iter().zip(&here))
    {
        near(&format!("Algorithm 2: {what}"), ours, theirs, 1e-4);
    }
    let [reference, dpo, rto] = &there;
    println!(
        "moved: {:.2} and {:.2}",
        moved(reference, dpo),
        moved(reference, rto)
    );
    assert!(moved(reference, dpo) > 0.1 && moved(reference, rto) > 0.1);
}

/// The same with adapters on one base, a value head on their trunk and moments in 8 bits; in bf16 it runs, and ends near f32.
#[test]
fn adapters_with_a_shared_critic_train_on_a_device() {
    let Some(device) = executor("adapters") else {
        return;
    };
    let texts = texts();
    let optimizer = || AdamWConfig {
        moments: Moments::EightBit,
        ..AdamWConfig::default()
    };
    let start = || {
        let heads = Heads {
            value: true,
            ..LANGUAGE
        };
        let weights = small_model(&config(), heads, 1).params().tensors();
        let scorer = NeuralScorer::try_new(config(), Params::new(weights).unwrap()).unwrap();
        let lora = LoraConfig::every_layer(&config().into(), 4, 8.0);
        policy_of(scorer.with_adapter(lora, &SeedTree::new(5)).unwrap())
    };
    let here = {
        let options = LearnerOptions {
            optimizer: optimizer(),
            ..host_options()
        };
        let learner = || NeuralLearner::try_new(start(), options.clone()).unwrap();
        let mut slot = CriticSlot::SharedTrunk;
        run(
            learner(),
            learner(),
            &mut slot,
            &settings(0.5, 1e-5, true),
            &texts,
        )
    };
    for (real, bound, tolerance) in [(Real::F32, 1e-4, 1e-5), (Real::Bf16, 2e-2, 3e-2)] {
        let kernels = kernels(&*device, real);
        let learner = || {
            let placed = placed(kernels, &start());
            DeviceLearner::try_new(placed, optimizer(), 1e-3).unwrap()
        };
        let mut slot = CriticSlot::SharedTrunk;
        let settings = settings(0.5, tolerance, true);
        let there = run(learner(), learner(), &mut slot, &settings, &texts);
        for (what, (ours, theirs)) in ["reference", "dpo"].iter().zip(there.iter().zip(&here)) {
            near(&format!("adapters {real:?}: {what}"), ours, theirs, bound);
        }
        if real == Real::F32 {
            near("adapters: rto", &there[2], &here[2], bound);
        }
        assert!(moved(&there[0], &there[2]) > 0.05);
    }
}

/// Text from the same streams, in three slots and in one; temperature, entropy and both divergences; weights that come back.
#[test]
fn a_policy_there_is_the_policy_here() {
    let Some(device) = executor("a policy") else {
        return;
    };
    let reference = Arc::new(scorer(2));
    // Several tokens end a response.
    let ends = (2..12).collect::<Vec<u32>>();
    let config = ModelConfig::from(config()).with_end_tokens(EndTokens::from(ends));
    let weights = scorer(1).weights().unwrap();
    let scorer = NeuralScorer::try_new(config, Params::new(weights).unwrap()).unwrap();
    let scorer = scorer.with_temperature(0.7).unwrap().with_entropy();
    let scorer = scorer
        .with_reference(reference.clone())
        .with_kl_from(reference);
    let here = policy_of(scorer);
    let kernels = kernels(&*device, Real::F32);
    let there = placed(kernels, &here);
    let (prompts, texts) = (prompts(40), texts());
    let keys = StreamKey::batch(&SeedTree::new(6), prompts.len());
    let written = there.sample(&prompts, &keys).unwrap();
    assert_eq!(written, here.sample(&prompts, &keys).unwrap());
    assert!(written.iter().any(|e| e.finish == Finish::Eos));
    assert!(written.iter().any(|e| e.finish == Finish::Length));
    let alone = there.sample(&prompts[4..5], &keys[4..5]).unwrap();
    assert_eq!(alone[0], written[4]);
    assert_eq!(
        Policy::greedy(&there, &prompts).unwrap(),
        Policy::greedy(&here, &prompts).unwrap()
    );

    assert_eq!(there.channels(), here.channels());
    let (ours, theirs) = (there.scores(&texts).unwrap(), here.scores(&texts).unwrap());
    for &channel in here.channels() {
        let of = |scores| values(scores, channel, texts.len());
        near(channel.name(), &of(&ours), &of(&theirs), 1e-5);
    }
    let flat = |t: &Tensor| t.flatten_all().unwrap().to_vec1::<f32>().unwrap();
    let weights = here.scorer().weights().unwrap();
    let back = there.scorer().weights().unwrap();
    assert_eq!(weights.len(), back.len());
    for (name, weight) in &weights {
        assert_eq!(weight.dims(), back[name].dims(), "{name}");
        assert_eq!(flat(weight), flat(&back[name]), "{name}");
    }
}

/// Through a decoder, each token is where its stream's number falls among those that the host keeps, in the order of their ids.
#[test]
fn a_decoder_there_keeps_what_it_keeps_here() {
    let Some(device) = executor("a decoder") else {
        return;
    };
    let here = policy_of(scorer(1).with_temperature(0.7).unwrap());
    let there = placed(kernels(&*device, Real::F32), &here);
    let prompts = prompts(40);
    let keys = StreamKey::batch(&SeedTree::new(6), prompts.len());
    let model = here.scorer().model();
    let decoders = [(0.9, 0.8, 0), (1.2, 1.0, 5), (0.9, 0.9, 7)];
    for (temperature, top_p, top_k) in decoders {
        let decoder = Decoder {
            temperature,
            top_p,
            top_k,
            min_new_tokens: 0,
        };
        let written = there.decode(&prompts, &keys, decoder).unwrap();
        assert_ne!(written, there.sample(&prompts, &keys).unwrap());
        for (key, text) in keys.iter().zip(&written) {
            let batch = Batch::new(&[(&text.prompt[..], &text.response[..])]).unwrap();
            let logits = model.logits(&batch).unwrap().to_vec2::<f32>().unwrap();
            let mut stream = key.rng();
            for (h, &token) in text.response.iter().enumerate() {
                let state = batch.rows()[0].state(h);
                let mut truncated = Truncated::default();
                truncated.set(&logits[state], 0.7, &decoder, &[]).unwrap();
                let (mut rest, mut found) = (stream.random::<f64>(), None);
                for (kept, share) in truncated.support() {
                    found = Some(kept);
                    if rest < share {
                        break;
                    }
                    rest -= share;
                }
                assert_eq!(Some(token), found, "{decoder:?}, {text:?}, token {h}");
            }
        }
    }
    let forbids = Decoder {
        min_new_tokens: 1,
        ..Decoder::default()
    };
    let refused = there.decode(&prompts, &keys, forbids).unwrap_err();
    let said =
        "min_new_tokens: found 1, must be 0: on a device a response may end at its first token";
    assert_eq!(refused.to_string(), said);
}

/// A copy stays where it is while the learner steps, in f32 and of masters in bf16.
#[test]
fn a_snapshot_does_not_follow() {
    let Some(device) = executor("a snapshot") else {
        return;
    };
    let texts = texts();
    for real in [Real::F32, Real::Bf16] {
        let kernels = kernels(&*device, real);
        let placed = placed(kernels, &policy_of(scorer(1)));
        let before = says(&placed, &texts);
        let mut learner = DeviceLearner::try_new(placed, AdamWConfig::default(), 1e-2).unwrap();
        let copy = learner.snapshot().unwrap();
        let loss =
            rto::objective::Nll::new(&texts, rto::objective::Aggregation::SequenceMean, None)
                .unwrap();
        let first = learner.step(&texts, &loss).unwrap();
        let second = learner.step(&texts, &loss).unwrap();
        assert!(second.loss < first.loss);
        assert_eq!(learner.steps(), 2);
        assert_eq!(says(&copy, &texts), before, "{real:?}");
        assert!(moved(&before, &says(learner.policy(), &texts)) > 0.01);
    }
}

/// One line for what cannot be.
#[test]
fn impossible_settings_are_refused() {
    let Some(device) = executor("settings") else {
        return;
    };
    let device: &dyn Device = &*device;
    let kernels = kernels(device, Real::F32);
    let none = DeviceOptions {
        micro_batch: 0,
        ..OPTIONS
    };
    let said = |e: rto_bridge::Error| e.to_string();
    let refused = DeviceScorer::try_new(kernels, &scorer(1), none)
        .err()
        .map(said);
    assert!(refused.unwrap().contains("micro_batch"));
    let critic = NeuralScorer::with_value_head(config(), scorer(1).weights().unwrap(), Params::new);
    let critic = DeviceScorer::try_new(kernels, &critic.unwrap(), OPTIONS).unwrap();
    let refused = DevicePolicy::try_new(critic, 3).err().map(said);
    assert!(refused.unwrap().contains("language-model head"));
    let there = placed(kernels, &policy_of(scorer(1)));
    let long: Arc<[u32]> = vec![2; 60].into();
    let key = StreamKey::batch(&SeedTree::new(1), 1);
    let refused = there.sample(&[long], &key).unwrap_err().to_string();
    assert!(refused.contains("at most 58"), "{refused}");
    let wild = AdamWConfig {
        decay1: 1.5,
        ..AdamWConfig::default()
    };
    let refused = DeviceLearner::try_new(there, wild, 1e-3).err().map(said);
    assert!(refused.unwrap().contains("decay1"));
}

/// Two steps, a checkpoint of the host's kind, two steps of the learner that it gives: the bits of four steps. In f32 the host's own learner
/// goes on from the same files and ends beside it.
#[test]
fn a_checkpoint_goes_on_to_the_same_bits() {
    let texts = texts();
    let loss = rto::objective::Nll::new(&texts, rto::objective::Aggregation::SequenceMean, None);
    let loss = loss.unwrap();
    let start = |adapter: bool| {
        let scorer = scorer(1);
        policy_of(match adapter {
            false => scorer,
            true => {
                let lora = LoraConfig::every_layer(&config().into(), 4, 8.0);
                let weights = Params::frozen(scorer.weights().unwrap()).unwrap();
                let scorer = NeuralScorer::try_new(config(), weights).unwrap();
                scorer.with_adapter(lora, &SeedTree::new(5)).unwrap()
            }
        })
    };
    let options = |moments| LearnerOptions {
        optimizer: AdamWConfig {
            moments,
            weight_decay: 0.1,
            ..AdamWConfig::default()
        },
        learning_rate: 1e-2,
        ..host_options()
    };
    let device = rto_device::Slices::new();
    let all = [Moments::F32, Moments::EightBit]
        .into_iter()
        .flat_map(|m| [(m, false), (m, true)]);
    for (moments, adapter) in all {
        for real in [Real::F32, Real::Bf16] {
            let kernels = kernels(&device, real);
            let mut host = NeuralLearner::try_new(start(adapter), options(moments)).unwrap();
            let there = |host: &NeuralLearner| {
                DeviceLearner::of_host(kernels, None, host, OPTIONS).unwrap()
            };
            let mut whole = there(&host);
            let folder = tempfile::tempdir().unwrap();
            for step in 0..4 {
                if step == 2 {
                    whole.to_host(&mut host).unwrap();
                    host.save(folder.path()).unwrap();
                }
                whole.step(&texts, &loss).unwrap();
            }
            let again =
                || NeuralLearner::load(start(adapter), options(moments), folder.path()).unwrap();
            let mut cut = there(&again());
            assert_eq!(cut.steps(), 2);
            let mut here = again();
            for _ in 0..2 {
                cut.step(&texts, &loss).unwrap();
                here.step(&texts, &loss).unwrap();
            }
            // What is saved at the end: weights, moments, steps.
            let bytes = |learner: &DeviceLearner<'_>| {
                let (mut host, folder) = (again(), tempfile::tempdir().unwrap());
                learner.to_host(&mut host).unwrap();
                host.save(folder.path()).unwrap();
                let files = std::fs::read_dir(folder.path()).unwrap().flatten();
                let mut files: Vec<_> = files
                    .map(|f| (f.file_name(), std::fs::read(f.path()).unwrap()))
                    .collect();
                files.sort();
                assert_eq!(files.len(), 3);
                files
            };
            let what = format!("{moments:?}, adapter {adapter}, {real:?}");
            assert!(bytes(&whole) == bytes(&cut), "{what}");
            let (ours, theirs) = (says(cut.policy(), &texts), says(&here.policy(), &texts));
            let bound = if real == Real::F32 { 1e-4 } else { 3e-2 };
            near(&what, &ours, &theirs, bound);
            assert!(moved(&says(&start(adapter), &texts), &ours) > 0.05);
        }
    }
}

/// Policy, reference and reward model on one base: its weights are on the device once.
#[test]
fn adapters_share_their_base() {
    let texts = texts();
    let lora = || LoraConfig::every_layer(&config().into(), 4, 8.0);
    let weights = scorer(1).weights().unwrap();
    let base = Arc::new(NeuralScorer::try_new(config(), Params::frozen(weights).unwrap()).unwrap());
    let adapted = || {
        let params = Params::frozen(base.weights().unwrap()).unwrap();
        let scorer = NeuralScorer::try_new(config(), params).unwrap();
        let scorer = scorer.with_adapter(lora(), &SeedTree::new(5)).unwrap();
        scorer.with_reference(base.clone())
    };
    let live = |beside: bool| {
        let device = rto_device::Slices::new();
        let kernels = kernels(&device, Real::F32);
        let there = DeviceScorer::try_new(kernels, &base, OPTIONS).unwrap();
        let one = match beside {
            true => DeviceScorer::beside(&there, &adapted(), OPTIONS).unwrap(),
            false => DeviceScorer::try_new(kernels, &adapted(), OPTIONS).unwrap(),
        };
        let scores = one.scores(&texts).unwrap();
        let all = [Channel::LogProb, Channel::KlToReference];
        let scores = all.map(|channel| values(&scores, channel, texts.len()));
        (scores, device.peak())
    };
    let ((shared, less), (own, more)) = (live(true), live(false));
    assert_eq!(shared, own);
    let base_bytes = 4 * base.model().params().count() as u64;
    assert!(
        more - less >= 2 * base_bytes,
        "{more} and {less}, base {base_bytes}"
    );
}

/// The plan of a card is what learners of the seam take there: a step of SFT, and one of DPO beside its reference.
#[test]
fn learners_take_what_is_planned() {
    let config = GptNeoXConfig {
        hidden_size: 64,
        n_heads: 4,
        intermediate_size: 256,
        n_layers: 3,
        vocab_size: 500,
        ..small_config(true)
    };
    let (prompt, response, micro_batch) = (24, 16, 4);
    let text = |i: usize, n: usize| (0..n).map(move |t| 2 + ((i * 31 + t * 7) % 400) as u32);
    let episode = |i: usize| {
        let prompt: Vec<u32> = text(i / 2, prompt).collect();
        let reply = text(i + 9, response).collect();
        Episode::try_new(prompt.into(), reply, Finish::Length).unwrap()
    };
    let batch: Vec<Episode> = (0..8).map(episode).collect();
    for (real, dtype, checkpointing) in [
        (Real::F32, candle_core::DType::F32, false),
        (Real::Bf16, candle_core::DType::BF16, true),
    ] {
        let planned = device_plan(
            &config.clone().into(),
            &DeviceRun {
                dtype,
                lora: None,
                moments: Moments::F32,
                checkpointing,
                separate_critic: true,
                micro_batch,
                prompt,
                response,
                batches: [8, 4, 4],
                iteration: [8, 4],
                epochs: 1,
                slots: 4,
            },
        );
        let planned = planned.unwrap();
        let planned = |stage: &str| {
            let found = planned.iter().find(|s| s.stage == stage);
            found.unwrap().peak_device_bytes as f64
        };
        let options = DeviceOptions {
            micro_batch,
            checkpointing,
            ..DeviceOptions::default()
        };
        let scorer = || {
            let weights = small_model(&config, LANGUAGE, 1).params().tensors();
            NeuralScorer::try_new(config.clone(), Params::new(weights).unwrap()).unwrap()
        };
        let run = |dpo: bool| {
            let device = rto_device::Slices::new();
            let kernels = kernels(&device, real);
            let start = DeviceScorer::try_new(kernels, &scorer(), options).unwrap();
            let frozen = dpo.then(|| {
                let params = Params::frozen(scorer().weights().unwrap()).unwrap();
                let frozen = NeuralScorer::try_new(config.clone(), params).unwrap();
                DeviceScorer::try_new(kernels, &frozen, options).unwrap()
            });
            let policy = DevicePolicy::try_new(start, response).unwrap();
            let optimizer = AdamWConfig::default();
            let mut learner = DeviceLearner::try_new(policy, optimizer, 1e-3).unwrap();
            match frozen {
                None => {
                    let loss = rto::objective::Nll::new(
                        &batch,
                        rto::objective::Aggregation::SequenceMean,
                        None,
                    );
                    learner.step(&batch, &loss.unwrap()).unwrap();
                }
                Some(frozen) => {
                    let sums = rto::token_reward::log_probs(&frozen, &batch).unwrap();
                    let loss =
                        rto::objective::BradleyTerry::dpo(&batch, &sums.row_sums(), 0.1).unwrap();
                    learner.step(&batch, &loss).unwrap();
                }
            }
            device.peak() as f64
        };
        for (stage, dpo) in [("sft", false), ("dpo", true)] {
            let ratio = run(dpo) / planned(stage);
            println!("{stage} {real:?}: {ratio:.3} of the plan");
            assert!((ratio - 1.0).abs() <= 0.03, "{stage} {real:?}: {ratio}");
        }
    }
}

/// The same of an iteration with a critic on the policy's trunk, a reference and a DPO policy: text, scores of all, steps.
#[test]
fn an_iteration_takes_what_is_planned() {
    let config = GptNeoXConfig {
        hidden_size: 64,
        n_heads: 4,
        intermediate_size: 256,
        n_layers: 3,
        vocab_size: 500,
        ..small_config(true)
    };
    let (prompt, response, micro_batch, slots) = (24, 16, 4, 4);
    let prompts: Vec<Arc<[u32]>> = (0..8)
        .map(|i| (0..prompt).map(|t| 2 + (i * 31 + t * 7) % 400).collect())
        .collect();
    let run = DeviceRun {
        dtype: candle_core::DType::BF16,
        lora: None,
        moments: Moments::F32,
        checkpointing: true,
        separate_critic: false,
        micro_batch,
        prompt: prompt as usize,
        response,
        batches: [8, 4, 4],
        iteration: [8, 4],
        epochs: 2,
        slots,
    };
    let planned = device_plan(&config.clone().into(), &run).unwrap();
    let planned = planned.iter().find(|s| s.stage == "rto").unwrap();
    let device = rto_device::Slices::new();
    let kernels = kernels(&device, Real::Bf16);
    let options = DeviceOptions {
        micro_batch,
        checkpointing: true,
        ..DeviceOptions::default()
    };
    let network = |heads: Heads, seed: u64| {
        let weights = small_model(&config, heads, seed).params().tensors();
        NeuralScorer::try_new(config.clone(), Params::new(weights).unwrap()).unwrap()
    };
    let frozen = |seed: u64| {
        let params = Params::frozen(network(LANGUAGE, seed).weights().unwrap()).unwrap();
        let scorer = NeuralScorer::try_new(config.clone(), params).unwrap();
        DeviceScorer::try_new(kernels, &scorer, options).unwrap()
    };
    let (reference, dpo) = (frozen(1), frozen(2));
    let heads = Heads {
        value: true,
        ..LANGUAGE
    };
    let policy = DeviceScorer::try_new(kernels, &network(heads, 1), options).unwrap();
    let policy = DevicePolicy::try_new(policy, response).unwrap();
    let policy = policy.with_writing(slots, 1 << 13).unwrap();
    let mut learner = DeviceLearner::try_new(policy, AdamWConfig::default(), 1e-4).unwrap();
    let ppo = PpoConfig {
        iterations: 1,
        prompts_per_iteration: 8,
        minibatch_size: 4,
        epochs: 2,
        value_coef: 0.1,
        ratio_tolerance: 3e-2,
        ..RtoConfig::paper().ppo
    };
    let ppo = ppo.check().unwrap();
    let reward = rto::token_reward::DpoReward::try_new(&dpo, &reference, 0.5).unwrap();
    let mut state = PpoState::new(&ppo);
    let made = PpoRun {
        reference: &reference,
        reward: &reward,
        prompts: &prompts,
        config: &ppo,
        seeds: &SeedTree::new(4),
    }
    .next(&mut learner, &mut CriticSlot::SharedTrunk, &mut state)
    .unwrap()
    .unwrap();
    let longest = made.batch.iter().filter(|e| e.len() == response).count();
    assert!(longest >= micro_batch, "texts are as long as the plan's");
    let ratio = device.peak() as f64 / planned.peak_device_bytes as f64;
    println!("an iteration: {ratio:.3} of the plan");
    assert!((ratio - 1.0).abs() <= 0.03, "{ratio}");
}
