//! Several ranks train the network that one trains, bit for bit. Ranks are threads here; `.ci/mpi` holds processes to the same.

use std::sync::Arc;

use candle_core::{DType, Device};
use rto::algorithm2::{
    CriticSlot, DpoConfig, FitConfig, Pair, PpoConfig, PpoRun, PpoState, RtoConfig, dpo,
    fit_reward, fit_steps, sft,
};
use rto::objective::{Aggregation, Nll, Readout};
use rto::seed::SeedTree;
use rto::seq::{
    Episode, Finish, Policy, PolicyLearner, StreamKey, TokenReward, TokenScorer, Trainable,
};
use rto::token_reward::{DpoReward, SentenceReward};
use rto_bridge::collective::{Solo, Threads};
use rto_bridge::family::{Activation, GptNeoXConfig};
use rto_bridge::learner::{
    LearnerOptions, NeuralLearner, NeuralPolicy, NeuralRegressor, NeuralScorer, Ranks,
};
use rto_bridge::lora::LoraConfig;
use rto_bridge::model::{Heads, Model};
use rto_bridge::optimizer::{AdamWConfig, Moments};
use rto_bridge::params::{Init, Params};
use rto_bridge::world::{EOS, MAX_RESPONSE, PAD, WORDS, World};
use sha2::{Digest, Sha256};

/// What is trained, apart from the ranks.
#[derive(Clone, Copy)]
struct Kind {
    lora: bool,
    moments: Moments,
    shared: bool,
    micro_batch: usize,
    dtype: DType,
    weights: u64,
}

const PLAIN: Kind = Kind {
    lora: false,
    moments: Moments::F32,
    shared: false,
    micro_batch: 64,
    dtype: DType::F32,
    weights: 7,
};

fn scorer(kind: Kind, ranks: &Ranks, value: bool) -> NeuralScorer {
    let config = GptNeoXConfig {
        vocab_size: WORDS.len(),
        hidden_size: 48,
        n_layers: 2,
        n_heads: 4,
        intermediate_size: 96,
        rotary_dims: 12,
        rotary_base: 1e4,
        max_positions: 64,
        layer_norm_eps: 1e-5,
        parallel_residual: true,
        activation: Activation::Gelu,
        attention_bias: true,
        tied_embeddings: false,
        bos_token: None,
        eos_tokens: EOS.into(),
        pad_token: Some(PAD),
    };
    let heads = Heads {
        language_model: true,
        value,
        ..Heads::default()
    };
    let seeds = SeedTree::new(kind.weights);
    let model = Model::random(&config, heads, Init::Small, &seeds, &Device::Cpu).unwrap();
    let weights = model.params().tensors().into_iter();
    let weights = weights.map(|(name, t)| (name, t.to_dtype(kind.dtype).unwrap()));
    let params = Params::new(weights.collect()).unwrap();
    let scorer = NeuralScorer::try_new(&config, params).unwrap();
    adapted(scorer, kind).with_ranks(ranks.clone())
}

fn adapted(scorer: NeuralScorer, kind: Kind) -> NeuralScorer {
    if !kind.lora {
        return scorer;
    }
    let lora = LoraConfig::every_layer(scorer.config(), 4, 8.0);
    scorer.with_adapter(lora, &SeedTree::new(8)).unwrap()
}

fn options(kind: Kind) -> LearnerOptions {
    LearnerOptions {
        optimizer: AdamWConfig {
            moments: kind.moments,
            ..AdamWConfig::default()
        },
        learning_rate: 1e-3,
        micro_batch: kind.micro_batch,
    }
}

fn learner(kind: Kind, ranks: &Ranks, value: bool) -> NeuralLearner {
    let scorer = scorer(kind, ranks, value).with_micro_batch(kind.micro_batch);
    let policy = NeuralPolicy::try_new(scorer.unwrap().with_entropy(), MAX_RESPONSE).unwrap();
    NeuralLearner::try_new(policy, options(kind)).unwrap()
}

fn hash(into: &mut Sha256, scorer: &NeuralScorer) {
    for (name, tensor) in scorer.weights().unwrap() {
        into.update(name);
        let values = tensor.to_dtype(DType::F32).unwrap();
        for value in values.flatten_all().unwrap().to_vec1::<f32>().unwrap() {
            into.update(value.to_bits().to_le_bytes());
        }
    }
}

/// A hash of every network after two steps of SFT, of the reward model and of DPO, and two iterations of PPO and of RTO each.
fn train(kind: Kind, ranks: &Ranks) -> String {
    let (world, seeds, mut seen) = (World::default(), SeedTree::new(1), Sha256::new());
    let (prompts, _) = world.split(&seeds);
    let draw = |(i, prompt)| {
        let key = StreamKey::new(seeds.child("demonstrations").index(i as u64));
        world.demonstrate(prompt, &key).unwrap()
    };
    let demonstrations: Vec<Episode> = prompts.iter().take(22).enumerate().map(draw).collect();
    let pairs: Vec<Pair> = world.pairs(&prompts, 13, &seeds).unwrap();
    let fit = FitConfig {
        learning_rate: 1e-3,
        batch_size: 11,
        epochs: 1,
        ..FitConfig::default()
    };
    let checked = fit.check().unwrap();
    let mut reference = learner(kind, ranks, false);
    let steps = 0..fit_steps(demonstrations.len(), &fit);
    let mut note = |step: &rto::algorithm2::Step| {
        seen.update(step.report.loss.to_le_bytes());
        seen.update(step.report.grad_norm.to_le_bytes());
        Ok(())
    };
    sft(
        &mut reference,
        &demonstrations,
        &checked,
        &seeds,
        steps,
        &mut note,
    )
    .unwrap();

    let trunk = || reference.policy().scorer().weights().unwrap();
    let config = reference.policy().scorer().config().clone();
    let head = NeuralScorer::with_reward_head(config.clone(), trunk(), &seeds, Params::new);
    let head = adapted(head.unwrap(), kind).with_ranks(ranks.clone());
    let mut reward = NeuralRegressor::try_new(head, options(kind)).unwrap();
    let steps = 0..fit_steps(pairs.len(), &fit);
    let last = Readout::Last;
    fit_reward(
        &mut reward,
        &pairs,
        last,
        &checked,
        &seeds,
        steps.clone(),
        &mut note,
    )
    .unwrap();

    let mut preferred = learner(kind, ranks, false);
    let frozen = reference.snapshot().unwrap();
    let paper = RtoConfig::paper();
    let how = DpoConfig { fit, ..paper.dpo }.check().unwrap();
    dpo(
        &mut preferred,
        &frozen,
        &pairs,
        &how,
        &seeds,
        steps,
        &mut note,
    )
    .unwrap();
    for scorer in [
        reference.policy().scorer(),
        reward.scorer(),
        preferred.policy().scorer(),
    ] {
        hash(&mut seen, scorer);
    }

    let sentence = SentenceReward::new(reward.scorer());
    let token = DpoReward::try_new(preferred.policy(), &frozen, 0.1).unwrap();
    let rewards: [&dyn TokenReward; 2] = [&sentence, &token];
    for reward in rewards {
        let mut policy = learner(kind, ranks, kind.shared);
        let critic = NeuralScorer::with_value_head(config.clone(), trunk(), Params::new);
        let critic = adapted(critic.unwrap(), kind).with_ranks(ranks.clone());
        let mut critic = NeuralRegressor::try_new(critic, options(kind)).unwrap();
        let ppo = PpoConfig {
            iterations: 2,
            prompts_per_iteration: 10,
            minibatch_size: 5,
            learning_rate: 1e-3,
            critic_learning_rate: 1e-3,
            value_coef: 0.5,
            ..paper.ppo
        };
        let ppo = ppo.check().unwrap();
        let run = PpoRun {
            reference: &frozen,
            reward,
            prompts: &prompts,
            config: &ppo,
            seeds: &seeds,
        };
        let mut state = PpoState::new(&ppo);
        let mut slot = match kind.shared {
            true => CriticSlot::SharedTrunk,
            false => CriticSlot::Separate(&mut critic),
        };
        while let Some(step) = run.next(&mut policy, &mut slot, &mut state).unwrap() {
            seen.update(format!("{:?}", step.report));
        }
        hash(&mut seen, policy.policy().scorer());
        hash(&mut seen, critic.scorer());
    }
    format!("{:x}", seen.finalize())
}

/// What each of `size` ranks comes to.
fn on<T: Send>(size: usize, groups: usize, work: impl Fn(&Ranks) -> T + Sync) -> Vec<T> {
    std::thread::scope(|scope| {
        let engines = Threads::ranks(size).into_iter();
        let work = &work;
        let begin =
            |engine| scope.spawn(move || work(&Ranks::try_new(Arc::new(engine), groups).unwrap()));
        let begun: Vec<_> = engines.map(begin).collect();
        begun.into_iter().map(|t| t.join().unwrap()).collect()
    })
}

#[test]
fn one_two_and_four_ranks_train_the_same_networks() {
    let kinds = [
        PLAIN,
        Kind {
            micro_batch: 2,
            ..PLAIN
        },
        Kind {
            lora: true,
            moments: Moments::EightBit,
            ..PLAIN
        },
        Kind {
            moments: Moments::EightBit,
            shared: true,
            ..PLAIN
        },
        Kind {
            lora: true,
            shared: true,
            micro_batch: 3,
            ..PLAIN
        },
        Kind {
            dtype: DType::BF16,
            ..PLAIN
        },
        Kind {
            dtype: DType::BF16,
            moments: Moments::EightBit,
            ..PLAIN
        },
    ];
    let mut all = Vec::new();
    for kind in kinds {
        let alone = train(kind, &Ranks::try_new(Arc::new(Solo), 4).unwrap());
        for size in [2, 4] {
            // Two ranks with every moment on each and many windows, four with a share of the moments each.
            let as_ranks = |ranks: &Ranks| match size {
                2 => train(kind, &ranks.clone().with_window(1000)),
                _ => train(kind, &ranks.clone().with_sharded_moments(true)),
            };
            for other in on(size, 4, as_ranks) {
                assert_eq!(other, alone, "{size} ranks");
            }
        }
        all.push(alone);
    }
    all.sort();
    all.dedup();
    assert_eq!(all.len(), kinds.len(), "each kind is a run of its own");
}

/// What is saved where ranks share moments out is the files of one process, and goes on with any number of ranks, sharing or not.
#[test]
fn shares_of_moments_are_saved_as_one_process_saves_them() {
    let kinds = [
        PLAIN,
        Kind {
            moments: Moments::EightBit,
            ..PLAIN
        },
        Kind {
            dtype: DType::BF16,
            moments: Moments::EightBit,
            ..PLAIN
        },
        Kind {
            lora: true,
            ..PLAIN
        },
    ];
    let files = |folder: &std::path::Path| {
        let names = [
            "weights.safetensors",
            "optimizer.safetensors",
            "learner.json",
        ];
        names.map(|name| std::fs::read(folder.join(name)).unwrap())
    };
    let put_away = |learner: &NeuralLearner, ranks: &Ranks, folder: &std::path::Path| {
        let state = learner.state().unwrap();
        if ranks.engine().rank() == 0 {
            state.save(folder).unwrap();
        }
        ranks.engine().barrier().unwrap();
    };
    for kind in kinds {
        let folder = tempfile::tempdir().unwrap();
        let at = |name: &str| folder.path().join(name);
        let begin = |ranks: &Ranks, name: &str| {
            let mut learner = learner(kind, ranks, false);
            for _ in 0..2 {
                step(&mut learner).unwrap();
            }
            put_away(&learner, ranks, &at(name));
        };
        let go_on = |ranks: &Ranks, from: &str, name: &str| {
            let fresh = scorer(kind, ranks, false)
                .with_micro_batch(kind.micro_batch)
                .unwrap();
            let policy = NeuralPolicy::try_new(fresh, MAX_RESPONSE).unwrap();
            let mut learner = NeuralLearner::load(policy, options(kind), &at(from)).unwrap();
            step(&mut learner).unwrap();
            put_away(&learner, ranks, &at(name));
        };
        let alone = Ranks::try_new(Arc::new(Solo), 4).unwrap();
        begin(&alone, "two");
        go_on(&alone, "two", "three");
        on(4, 4, |ranks| {
            begin(&ranks.clone().with_sharded_moments(true), "four ranks");
        });
        assert_eq!(files(&at("two")), files(&at("four ranks")));
        on(2, 4, |ranks| {
            let sharded = ranks.clone().with_sharded_moments(true).with_window(700);
            go_on(&sharded, "four ranks", "two ranks");
        });
        assert_eq!(files(&at("three")), files(&at("two ranks")));
        go_on(&alone, "four ranks", "one rank");
        assert_eq!(files(&at("three")), files(&at("one rank")));
    }
}

#[test]
fn one_group_is_what_no_ranks_are() {
    let one = Ranks::try_new(Arc::new(Solo), 1).unwrap();
    assert_eq!(train(PLAIN, &one), train(PLAIN, &Ranks::default()));
}

/// The gradient of a batch in four groups is that of the whole, to rounding.
#[test]
fn groups_sum_to_the_whole_gradient() {
    let gradient = |groups: usize, rows: usize, micro_batch: usize| {
        let ranks = Ranks::try_new(Arc::new(Solo), groups).unwrap();
        let kind = Kind {
            micro_batch,
            ..PLAIN
        };
        let mut learner = learner(kind, &ranks, false);
        let (world, seeds) = (World::default(), SeedTree::new(3));
        let (prompts, _) = world.split(&seeds);
        let batch = learner
            .policy()
            .sample(&prompts[..rows], &StreamKey::batch(&seeds, rows))
            .unwrap();
        let loss = Nll::new(&batch, Aggregation::default(), None).unwrap();
        let (value, gradients) = learner.loss_and_gradients(&batch, &loss).unwrap();
        let names: Vec<&str> = gradients.names().collect();
        let all = names
            .iter()
            .flat_map(|n| gradients.get(n).unwrap().unwrap());
        (value, all.collect::<Vec<f32>>())
    };
    // Fewer rows than groups, one, and more, with and without tapes.
    for (rows, micro_batch) in [(1, 64), (3, 64), (9, 64), (9, 2)] {
        let (loss, whole) = gradient(1, rows, micro_batch);
        let size = whole.iter().fold(0.0f32, |m, g| m.max(g.abs()));
        assert!(size > 0.0);
        for groups in [2, 4, 8] {
            let (cut_loss, cut) = gradient(groups, rows, micro_batch);
            assert!((cut_loss - loss).abs() < 1e-6 * loss.abs());
            for (a, b) in cut.iter().zip(&whole) {
                assert!((a - b).abs() < 1e-5 * size, "{a} {b} of {size}");
            }
        }
    }
}

#[test]
fn responses_and_scores_are_shared_out() {
    let (world, seeds) = (World::default(), SeedTree::new(5));
    let (prompts, _) = world.split(&seeds);
    let prompts = &prompts[..7];
    let keys = StreamKey::batch(&seeds, prompts.len());
    let say = |ranks: &Ranks| {
        let scorer = scorer(PLAIN, ranks, false);
        let policy = NeuralPolicy::try_new(scorer, MAX_RESPONSE).unwrap();
        let said = policy.sample(prompts, &keys).unwrap();
        let greedy = Policy::greedy(&policy, prompts).unwrap();
        let scores = policy.scores(&said).unwrap();
        format!("{said:?} {greedy:?} {scores:?}")
    };
    let alone = say(&Ranks::try_new(Arc::new(Solo), 8).unwrap());
    for size in [2, 8] {
        assert!(on(size, 8, say).iter().all(|other| *other == alone));
    }
    // Not cut, and so not shared: the same responses.
    let whole = say(&Ranks::default());
    let said = |text: &str| text.split("PerToken").next().unwrap().to_string();
    assert_eq!(said(&whole), said(&alone));
}

/// A step on one episode.
fn step(learner: &mut NeuralLearner) -> Result<(), String> {
    let prompt: Arc<[u32]> = [3, 4].into();
    let batch = [Episode::try_new(prompt, vec![5, EOS], Finish::Eos).unwrap()];
    let loss = Nll::new(&batch, Aggregation::default(), None).unwrap();
    let taken = learner.step(&batch, &loss);
    taken.map(drop).map_err(|e| e.to_string())
}

/// As processors with other instructions come to, step by step.
#[test]
fn ranks_whose_weights_differ_are_told_so() {
    let both = on(2, 2, |ranks| {
        let weights = 7 + ranks.engine().rank() as u64;
        step(&mut learner(Kind { weights, ..PLAIN }, ranks, false))
    });
    let said = both[0].as_ref().unwrap_err();
    assert!(
        said.contains("the weights of rank 1 are not those of rank 0 after step 1"),
        "{said}"
    );
    let same = on(2, 2, |ranks| step(&mut learner(PLAIN, ranks, false)));
    assert_eq!(same, [Ok(()), Ok(())]);
}

#[test]
fn an_error_of_one_rank_ends_the_others_step() {
    let both = on(2, 2, |ranks| match ranks.engine().rank() {
        0 => step(&mut learner(PLAIN, ranks, false)),
        _ => Ok(()),
    });
    let said = both[0].as_ref().unwrap_err();
    assert!(
        said.contains("rank 1 has left while it was waited for"),
        "{said}"
    );
}

#[test]
fn what_cannot_be_shared_out_is_refused_in_one_line() {
    let refused = |size: usize, groups: usize| {
        let engine = Threads::ranks(size).remove(0);
        Ranks::try_new(Arc::new(engine), groups)
            .unwrap_err()
            .to_string()
    };
    assert!(refused(1, 3).starts_with("gradient_groups: found 3, expected a power of two"));
    assert!(refused(1, 0).starts_with("gradient_groups: found 0, expected a power of two"));
    let few = refused(4, 2);
    assert!(
        few.starts_with("gradient_groups: found 2 with 4 ranks, expected at least"),
        "{few}"
    );
    assert!(refused(3, 4).contains("a power of two of ranks"));
}
