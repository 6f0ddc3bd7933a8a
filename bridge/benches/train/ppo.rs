//! An iteration of RTO: responses are written, scored by policy, critic, reference and DPO policy, and learned from.

use std::sync::Arc;

use candle_core::{DType, Device, Tensor};
use rand::Rng;
use rto::algorithm2::{CriticSlot, PpoConfig, PpoRun, PpoState};
use rto::seed::SeedTree;
use rto::seq::PolicyLearner;
use rto::token_reward::DpoReward;
use rto_bridge::family::ModelConfig;
use rto_bridge::learner::{LearnerOptions, NeuralLearner, NeuralPolicy, NeuralScorer};
use rto_bridge::model::{Model, VALUE_BIAS, VALUE_WEIGHT};
use rto_bridge::optimizer::AdamWConfig;
use rto_bridge::params::Params;

type Failure = Box<dyn std::error::Error>;

/// Responses an iteration.
pub const BATCH: usize = 16;

/// Where everything is kept between iterations.
pub struct Work {
    reference: Arc<NeuralScorer>,
    dpo: NeuralScorer,
    learner: NeuralLearner,
    prompts: Vec<Arc<[u32]>>,
    config: rto::algorithm2::Checked<PpoConfig>,
    state: PpoState,
    /// CPU seconds of writing, and of the whole, per iteration.
    pub seconds: Vec<[f64; 2]>,
}

impl Work {
    /// The same for `llm_torch.py --task ppo`: a value head on the policy's trunk, 2 epochs of minibatches of 8.
    pub fn new(
        models: [Model; 3],
        config: &ModelConfig,
        prompt: usize,
        new: usize,
    ) -> Result<Self, Failure> {
        let [policy, reference, dpo] = models;
        // Responses never end by themselves, so that both sides write the same number of tokens.
        let config_of = config.clone().with_end_tokens(None.into());
        let frozen = |model: Model| -> Result<NeuralScorer, Failure> {
            Ok(NeuralScorer::try_new(
                &config_of,
                Params::frozen(model.params().tensors())?,
            )?)
        };
        let mut weights = policy.params().tensors();
        let zeros = |shape: &[usize]| Tensor::zeros(shape, DType::F32, &Device::Cpu);
        weights.insert(VALUE_WEIGHT.into(), zeros(&[1, config.hidden_size()])?);
        weights.insert(VALUE_BIAS.into(), zeros(&[1])?);
        let scorer = NeuralScorer::try_new(&config_of, Params::new(weights)?)?.with_log_probs()?;
        drop(policy);
        let policy = NeuralPolicy::try_new(scorer, new)?.with_generation(64, 1);
        let options = LearnerOptions {
            optimizer: AdamWConfig {
                max_grad_norm: Some(1.0),
                ..AdamWConfig::default()
            },
            learning_rate: 1e-5,
            micro_batch: BATCH,
        };
        let mut rng = SeedTree::new(0).child("prompts").rng();
        let mut draw = |_| {
            (0..prompt)
                .map(|_| rng.random_range(1..config.vocab_size() as u32))
                .collect()
        };
        let config = PpoConfig {
            iterations: 1_000,
            prompts_per_iteration: BATCH,
            beta2: 0.02,
            lambda: 0.95,
            value_coef: 0.1,
            value_clip: None,
            epochs: 2,
            minibatch_size: 8,
            learning_rate: 1e-5,
            ..PpoConfig::paper()
        }
        .check()?;
        Ok(Self {
            reference: Arc::new(frozen(reference)?),
            dpo: frozen(dpo)?,
            learner: NeuralLearner::try_new(policy, options)?,
            prompts: (0..BATCH).map(&mut draw).collect(),
            state: PpoState::new(&config),
            config,
            seconds: Vec::new(),
        })
    }

    /// One iteration; returns the mean reward.
    pub fn iterate(&mut self, clock: impl Fn() -> f64) -> Result<f64, Failure> {
        let reward = DpoReward::try_new(&self.dpo, &*self.reference, 0.05)?;
        let seeds = SeedTree::new(1);
        let run = PpoRun {
            reference: &*self.reference,
            reward: &reward,
            prompts: &self.prompts,
            config: &self.config,
            seeds: &seeds,
        };
        let start = clock();
        let batch = run.rollout(self.learner.policy(), &self.state)?;
        let written = clock();
        let mut slot = CriticSlot::SharedTrunk;
        let report = run.update(&mut self.learner, &mut slot, &mut self.state, batch)?;
        self.seconds.push([written - start, clock() - start]);
        Ok(report.objective)
    }
}
