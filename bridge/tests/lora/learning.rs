//! Training an adapter through the seam.

use super::sharing::address;
use super::*;
use rto::objective::BradleyTerry;
use rto::seq::{Episode, Finish, Policy, PolicyLearner, StreamKey, Trainable};
use rto::token_reward::log_probs as sums;
use rto_bridge::learner::{LearnerOptions, NeuralLearner, NeuralPolicy, NeuralScorer};
use rto_bridge::params::Params;
use std::path::Path;
use std::sync::Arc;

fn scorer(seed: u64) -> NeuralScorer {
    let config = small_config(true);
    let weights = small_model(&config, TEXT, seed).params().tensors();
    NeuralScorer::try_new(&config, Params::frozen(weights).unwrap()).unwrap()
}

fn options() -> LearnerOptions {
    LearnerOptions {
        learning_rate: 2e-2,
        micro_batch: 2,
        ..LearnerOptions::default()
    }
}

fn policy(base: &NeuralScorer) -> NeuralPolicy {
    let scorer = base.snapshot().unwrap();
    let scorer = scorer
        .with_adapter(lora(3, &EVERY), &SeedTree::new(5))
        .unwrap();
    NeuralPolicy::try_new(scorer, 6).unwrap()
}

/// Winners, then losers.
fn pairs() -> Vec<Episode> {
    let prompt: Arc<[u32]> = [5, 6].into();
    let answer = |y: &[u32]| Episode::try_new(prompt.clone(), y.to_vec(), Finish::Eos).unwrap();
    vec![
        answer(&[1, 7, 0]),
        answer(&[9, 0]),
        answer(&[2, 3, 0]),
        answer(&[4, 4, 8, 0]),
    ]
}

fn bits(model: &Model) -> BTreeMap<String, Vec<u32>> {
    let tensors = model.params().tensors().into_iter();
    tensors
        .map(|(name, t)| {
            let values: Vec<f32> = t.flatten_all().unwrap().to_vec1().unwrap();
            (name, values.into_iter().map(f32::to_bits).collect())
        })
        .collect()
}

#[test]
fn a_step_of_dpo_moves_the_adapter_alone() {
    let base = scorer(1);
    let before = bits(base.model());
    let policy = policy(&base);
    let reference = policy.scorer().without_adapter().unwrap();
    let mut learner = NeuralLearner::try_new(policy, options()).unwrap();
    let batch = pairs();
    let sum = sums(&reference, &batch).unwrap().row_sums();
    assert_eq!(sums(learner.policy(), &batch).unwrap().row_sums(), sum);
    let loss = BradleyTerry::dpo(&batch, &sum, 0.1).unwrap();
    let first = learner.step(&batch, &loss).unwrap().loss;
    assert!((first - 2f64.ln()).abs() < 1e-6);
    let mut last = first;
    for _ in 0..4 {
        let next = learner.step(&batch, &loss).unwrap().loss;
        assert!(next < last, "{next} {last}");
        last = next;
    }
    let model = learner.policy().scorer().model();
    for (name, values) in bits(model) {
        match before.get(&name) {
            Some(before) => assert_eq!(&values, before, "{name}"),
            None => assert!(
                values.iter().any(|&v| v != 0) && name.contains(".lora_"),
                "{name}"
            ),
        }
        if !name.contains(".lora_") {
            assert_eq!(address(model, &name), address(base.model(), &name));
            assert_eq!(address(model, &name), address(reference.model(), &name));
        }
    }
    assert_eq!(sums(&reference, &batch).unwrap().row_sums(), sum);
}

#[test]
fn a_policy_with_an_adapter_writes_and_saves_as_its_merged_network() {
    let dir = tempfile::tempdir().unwrap();
    let base = scorer(1);
    let mut learner = NeuralLearner::try_new(policy(&base), options()).unwrap();
    let batch = pairs();
    let sum = sums(&base, &batch).unwrap().row_sums();
    let loss = BradleyTerry::dpo(&batch, &sum, 0.1).unwrap();
    let prompts: Vec<Arc<[u32]>> = (2..34).map(|t| [t, 40 - t].into()).collect();
    let prompts: Vec<Arc<[u32]>> = prompts
        .into_iter()
        .map(|p| p.iter().map(|t| t % 37).collect())
        .collect();
    let keys = StreamKey::batch(&SeedTree::new(7), prompts.len());
    let at_start = learner.policy().sample(&prompts, &keys).unwrap();
    for _ in 0..8 {
        learner.step(&batch, &loss).unwrap();
    }
    let policy = learner.policy();
    let written = policy.sample(&prompts, &keys).unwrap();
    // The engine is made anew after a step.
    assert_ne!(written, at_start);
    let merged = NeuralScorer::try_new(
        small_config(true),
        Params::new(policy.scorer().weights().unwrap()).unwrap(),
    )
    .unwrap();
    let merged = NeuralPolicy::try_new(merged, 6).unwrap();
    assert_eq!(merged.sample(&prompts, &keys).unwrap(), written);
    let (a, b) = (
        sums(policy, &written).unwrap(),
        sums(&merged, &written).unwrap(),
    );
    assert!(distance(a.values(), b.values()) < 2e-5);
    // A saved folder is the merged network too.
    policy.scorer().save_hugging_face(dir.path(), None).unwrap();
    let saved = NeuralScorer::load(dir.path(), false, &Device::Cpu).unwrap();
    assert_eq!(bits(saved.model()), bits(merged.scorer().model()));
}

/// Loss of every step from `from` on.
fn steps(learner: &mut NeuralLearner, base: &NeuralScorer, count: usize) -> Vec<f64> {
    let batch = pairs();
    let sum = sums(base, &batch).unwrap().row_sums();
    let loss = BradleyTerry::dpo(&batch, &sum, 0.1).unwrap();
    (0..count)
        .map(|_| learner.step(&batch, &loss).unwrap().loss)
        .collect()
}

#[test]
fn a_learner_resumes_from_its_adapter_bit_for_bit() {
    let dir = tempfile::tempdir().unwrap();
    let base = scorer(1);
    let mut straight = NeuralLearner::try_new(policy(&base), options()).unwrap();
    let mut expected = steps(&mut straight, &base, 3);
    let folder = dir.path().join("halfway");
    straight.save(&folder).unwrap();
    expected.extend(steps(&mut straight, &base, 3));

    let mut again = NeuralLearner::load(policy(&base), options(), &folder).unwrap();
    assert_eq!(again.steps(), 3);
    assert_eq!(steps(&mut again, &base, 3), expected[3..]);
    assert_eq!(
        bits(again.policy().scorer().model()),
        bits(straight.policy().scorer().model())
    );
    // The base is still the one in memory, and is not in the file.
    let name = "gpt_neox.embed_in.weight";
    assert_eq!(
        address(again.policy().scorer().model(), name),
        address(base.model(), name)
    );
    let file = folder.join("weights.safetensors");
    let names = candle_core::safetensors::load(&file, &Device::Cpu).unwrap();
    assert!(names.keys().all(|name| name.contains(".lora_")) && names.len() == 3 * 4 * 2);

    refused(
        NeuralLearner::load(policy(&scorer(2)), options(), &folder),
        &folder.join("learner.json"),
        "base",
    );
    let wider = base
        .snapshot()
        .unwrap()
        .with_adapter(lora(4, &EVERY), &SeedTree::new(5))
        .unwrap();
    let wider = NeuralPolicy::try_new(wider, 6).unwrap();
    refused(
        NeuralLearner::load(wider, options(), &folder),
        &file,
        "expected [4, 24]",
    );
    let fewer = base
        .snapshot()
        .unwrap()
        .with_adapter(lora(3, &EVERY[..1]), &SeedTree::new(5))
        .unwrap();
    let fewer = NeuralPolicy::try_new(fewer, 6).unwrap();
    refused(
        NeuralLearner::load(fewer, options(), &folder),
        &file,
        "is not trained",
    );
}

fn refused(result: rto_bridge::Result<NeuralLearner>, path: &Path, part: &str) {
    let error = result.unwrap_err().to_string();
    assert!(
        error.starts_with(path.to_str().unwrap()) && error.contains(part),
        "{error}"
    );
}
