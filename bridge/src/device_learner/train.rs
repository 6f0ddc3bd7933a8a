//! Networks in training on a device: the loss on the host in doubles, everything that has a weight in it there.

use rto::Result;
use rto::seq::{
    Channel, Episode, PerToken, PolicyLearner, StepReport, TokenObjective, TokenScorer, Trainable,
    loss_and_score_grad,
};
use rto_device::network::{AdamW, AdamWSettings, Gradients, Rate};

use super::policy::DevicePolicy;
use super::scorer::{DeviceScorer, narrow, wide};
use crate::device::failed;
use crate::learner::backend;
use crate::learner::channels::{gradient, per_token};
use crate::optimizer::AdamWConfig;

/// The optimiser of a network on a device.
pub(super) struct Core {
    config: AdamWConfig,
    pub(super) optimizer: AdamW,
    pub(super) learning_rate: f64,
}

fn there<T>(result: rto_device::Result<T>) -> Result<T> {
    result.map_err(|e| backend(failed(e)))
}

impl Core {
    pub(super) fn try_new(
        scorer: &DeviceScorer<'_>,
        config: AdamWConfig,
        learning_rate: f64,
    ) -> crate::Result<Self> {
        config.check()?;
        let settings = AdamWSettings {
            decay1: config.decay1,
            decay2: config.decay2,
            epsilon: config.epsilon,
            longest: config.max_grad_norm,
            eight_bit_from: config.moments.eight_bit_from(),
        };
        let optimizer = AdamW::new(scorer.kernels(), scorer.parameters(), settings);
        Ok(Self {
            optimizer: optimizer.map_err(failed)?,
            config,
            learning_rate,
        })
    }

    /// Adds the gradient of ℒ in the weights to `gradients` and returns ℒ. Where one micro-batch holds all rows, one pass does.
    fn accumulate(
        scorer: &DeviceScorer<'_>,
        batch: &[Episode],
        objective: &dyn TokenObjective,
        gradients: &Gradients,
    ) -> Result<f64> {
        let (channels, rows) = (objective.channels(), scorer.options().micro_batch);
        let program = scorer.program().map_err(backend)?;
        let reference = scorer.reference(channels)?;
        let request = DeviceScorer::request(channels, reference.as_ref())?;
        let known = match batch.len() <= rows {
            true => None,
            false => {
                let scores = scorer.score(batch, channels)?;
                Some(loss_and_score_grad(objective, &scores)?)
            }
        };
        let mut loss = known.as_ref().map(|(loss, _)| *loss);
        for start in (0..batch.len()).step_by(rows) {
            let some = start..batch.len().min(start + rows);
            let packed = scorer.pack(&batch[some.clone()], channels)?;
            let forward = there(program.forward(&packed, &request, true))?;
            let grad = match &known {
                Some((_, grad)) => gradient(grad, channels, some),
                None => {
                    let scores = per_token(batch, channels, &wide(forward.scores.clone()))?;
                    let (value, grad) = loss_and_score_grad(objective, &scores)?;
                    loss = Some(value);
                    gradient(&grad, channels, some)
                }
            };
            let grad = narrow(grad);
            there(program.backward(&packed, &request, forward, &grad, gradients))?;
        }
        match loss {
            Some(loss) => Ok(loss),
            // Of no row: what the objective says of nothing.
            None => Ok(loss_and_score_grad(objective, &scorer.score(batch, channels)?)?.0),
        }
    }

    fn step(
        &mut self,
        scorer: &DeviceScorer<'_>,
        batch: &[Episode],
        objective: &dyn TokenObjective,
    ) -> Result<StepReport> {
        let (kernels, parameters) = (scorer.kernels(), scorer.parameters());
        // There for a step alone, so that text has their room.
        let gradients = there(Gradients::zeros(kernels, parameters))?;
        let loss = Self::accumulate(scorer, batch, objective, &gradients)?;
        let (config, learning_rate) = (&self.config, self.learning_rate);
        let rate = |name: &str| {
            let (factor, decay) = config.group(name);
            let rate = learning_rate * factor;
            Rate { rate, decay }
        };
        let grad_norm = there(self.optimizer.step(kernels, parameters, &gradients, rate))?;
        Ok(StepReport {
            loss,
            grad_norm,
            learning_rate,
        })
    }
}

/// A [`DevicePolicy`] in training.
pub struct DeviceLearner<'d> {
    pub(super) policy: DevicePolicy<'d>,
    pub(super) core: Core,
}

impl<'d> DeviceLearner<'d> {
    /// A learner that starts at `policy`, whose weights it changes in place; `learning_rate` is η until
    /// [`Trainable::set_learning_rate`] says otherwise.
    ///
    /// # Errors
    /// [`crate::Error::Setting`] for a setting of the optimiser outside of its range; what the device reports.
    pub fn try_new(
        policy: DevicePolicy<'d>,
        optimizer: AdamWConfig,
        learning_rate: f64,
    ) -> crate::Result<Self> {
        Ok(Self {
            core: Core::try_new(policy.scorer(), optimizer, learning_rate)?,
            policy,
        })
    }

    /// Optimiser steps taken.
    pub fn steps(&self) -> u64 {
        self.core.optimizer.steps().into()
    }
}

impl Trainable for DeviceLearner<'_> {
    fn step(&mut self, batch: &[Episode], objective: &dyn TokenObjective) -> Result<StepReport> {
        self.core.step(self.policy.scorer(), batch, objective)
    }

    fn set_learning_rate(&mut self, learning_rate: f64) {
        self.core.learning_rate = learning_rate;
    }
}

impl<'d> PolicyLearner for DeviceLearner<'d> {
    type Policy = DevicePolicy<'d>;

    fn policy(&self) -> &DevicePolicy<'d> {
        &self.policy
    }

    fn snapshot(&self) -> Result<DevicePolicy<'d>> {
        self.policy.snapshot().map_err(backend)
    }
}

/// A network with a scalar head in training on a device: a critic, or a reward model.
pub struct DeviceRegressor<'d> {
    pub(super) scorer: DeviceScorer<'d>,
    pub(super) core: Core,
}

impl<'d> DeviceRegressor<'d> {
    /// A network that already has its head.
    ///
    /// # Errors
    /// As [`DeviceLearner::try_new`].
    pub fn try_new(
        scorer: DeviceScorer<'d>,
        optimizer: AdamWConfig,
        learning_rate: f64,
    ) -> crate::Result<Self> {
        Ok(Self {
            core: Core::try_new(&scorer, optimizer, learning_rate)?,
            scorer,
        })
    }

    /// The network.
    pub fn scorer(&self) -> &DeviceScorer<'d> {
        &self.scorer
    }
}

impl TokenScorer for DeviceRegressor<'_> {
    fn channels(&self) -> &[Channel] {
        self.scorer.channels()
    }

    fn scores(&self, batch: &[Episode]) -> Result<PerToken> {
        self.scorer.scores(batch)
    }
}

impl Trainable for DeviceRegressor<'_> {
    fn step(&mut self, batch: &[Episode], objective: &dyn TokenObjective) -> Result<StepReport> {
        self.core.step(&self.scorer, batch, objective)
    }

    fn set_learning_rate(&mut self, learning_rate: f64) {
        self.core.learning_rate = learning_rate;
    }
}
