//! Where a stage trains, scores and writes: with candle on the run's device, or with the program of kernels on a device of its own.
//!
//! Networks are made, loaded and saved on the host either way. With the program of kernels they are taken there for a stage, where
//! they are trained and scored, write, pay and judge; a learner comes back for each checkpoint and at the end, so that the files of a run say
//! nothing of where it was trained.

use std::sync::Arc;

use rto::seq::{
    Channel, Decoder, Episode, PerToken, Policy, PolicyLearner, StepReport, StreamKey,
    TokenObjective, TokenScorer, Trainable,
};
use rto::{Result as TheoryResult, Token};
use rto_bridge::Result;
use rto_bridge::device_learner::{
    DeviceLearner, DeviceOptions, DevicePolicy, DeviceRegressor, DeviceScorer,
};
use rto_bridge::learner::{
    LearnerState, NeuralLearner, NeuralPolicy, NeuralRegressor, NeuralScorer,
};
use rto_device::Kernels;

/// A learner that can be put away and looked at on the host.
pub trait Saved: Trainable {
    /// What is saved of it as it is now.
    fn state(&mut self) -> Result<LearnerState<'_>>;

    /// Its network on the host, as it is now.
    fn network(&mut self) -> Result<&NeuralScorer>;
}

impl Saved for NeuralLearner {
    fn state(&mut self) -> Result<LearnerState<'_>> {
        NeuralLearner::state(self)
    }

    fn network(&mut self) -> Result<&NeuralScorer> {
        Ok(self.policy_ref().scorer())
    }
}

impl Saved for NeuralRegressor {
    fn state(&mut self) -> Result<LearnerState<'_>> {
        NeuralRegressor::state(self)
    }

    fn network(&mut self) -> Result<&NeuralScorer> {
        Ok(self.scorer())
    }
}

/// A policy that is evaluated.
pub trait Writer: Policy {
    /// Responses through a decoder.
    fn decode(
        &self,
        prompts: &[Arc<[Token]>],
        keys: &[StreamKey],
        decoder: Decoder,
    ) -> TheoryResult<Vec<Episode>>;
}

impl Writer for NeuralPolicy {
    fn decode(
        &self,
        prompts: &[Arc<[Token]>],
        keys: &[StreamKey],
        decoder: Decoder,
    ) -> TheoryResult<Vec<Episode>> {
        let written = NeuralPolicy::decode(self, prompts, keys, decoder)?;
        Ok(written.into_iter().map(|s| s.episode).collect())
    }
}

impl Writer for DevicePolicy<'_> {
    fn decode(
        &self,
        prompts: &[Arc<[Token]>],
        keys: &[StreamKey],
        decoder: Decoder,
    ) -> TheoryResult<Vec<Episode>> {
        DevicePolicy::decode(self, prompts, keys, decoder)
    }
}

/// Where networks are for a stage.
pub trait Place {
    /// A frozen network.
    type Scorer: TokenScorer;
    /// A frozen policy.
    type Writer: Writer;
    /// A policy in training.
    type Policy: PolicyLearner + Saved;
    /// A network with a scalar head in training.
    type Regressor: Saved + TokenScorer;

    /// Takes a frozen network there, beside the base of its adapter and its reference.
    fn scorer(&self, host: Arc<NeuralScorer>, base: Option<&Self::Scorer>) -> Result<Self::Scorer>;

    /// Takes a frozen policy there, beside the base of its adapter and its reference.
    fn writer(&self, host: NeuralPolicy, base: &Self::Scorer) -> Result<Self::Writer>;

    /// Takes a policy there, beside the base of its adapter and its reference.
    fn policy(&self, host: NeuralLearner, base: Option<&Self::Scorer>) -> Result<Self::Policy>;

    /// Takes a critic or a reward model there, beside the base of its adapter.
    fn regressor(
        &self,
        host: NeuralRegressor,
        base: Option<&Self::Scorer>,
    ) -> Result<Self::Regressor>;
}

/// Where they are made.
pub struct Host;

impl Place for Host {
    type Scorer = Arc<NeuralScorer>;
    type Writer = NeuralPolicy;
    type Policy = NeuralLearner;
    type Regressor = NeuralRegressor;

    fn scorer(
        &self,
        host: Arc<NeuralScorer>,
        _: Option<&Arc<NeuralScorer>>,
    ) -> Result<Arc<NeuralScorer>> {
        Ok(host)
    }

    fn writer(&self, host: NeuralPolicy, _: &Arc<NeuralScorer>) -> Result<NeuralPolicy> {
        Ok(host)
    }

    fn policy(&self, host: NeuralLearner, _: Option<&Arc<NeuralScorer>>) -> Result<NeuralLearner> {
        Ok(host)
    }

    fn regressor(
        &self,
        host: NeuralRegressor,
        _: Option<&Arc<NeuralScorer>>,
    ) -> Result<NeuralRegressor> {
        Ok(host)
    }
}

/// On a device of the program of kernels.
pub struct There<'d> {
    pub kernels: Kernels<'d>,
    pub options: DeviceOptions,
}

impl<'d> Place for There<'d> {
    type Scorer = DeviceScorer<'d>;
    type Writer = DevicePolicy<'d>;
    type Policy = Twin<DeviceLearner<'d>, NeuralLearner>;
    type Regressor = Twin<DeviceRegressor<'d>, NeuralRegressor>;

    fn scorer(
        &self,
        host: Arc<NeuralScorer>,
        base: Option<&DeviceScorer<'d>>,
    ) -> Result<DeviceScorer<'d>> {
        match base {
            Some(base) => DeviceScorer::beside(base, &host, self.options),
            None => DeviceScorer::try_new(self.kernels, &host, self.options),
        }
    }

    fn writer(&self, host: NeuralPolicy, base: &DeviceScorer<'d>) -> Result<DevicePolicy<'d>> {
        let there = DeviceScorer::beside(base, host.scorer(), self.options)?;
        DevicePolicy::try_new(there, host.max_new_tokens())
    }

    fn policy(&self, host: NeuralLearner, base: Option<&DeviceScorer<'d>>) -> Result<Self::Policy> {
        let there = DeviceLearner::of_host(self.kernels, base, &host, self.options)?;
        Ok(Twin { there, host })
    }

    fn regressor(
        &self,
        host: NeuralRegressor,
        base: Option<&DeviceScorer<'d>>,
    ) -> Result<Self::Regressor> {
        let there = DeviceRegressor::of_host(self.kernels, base, &host, self.options)?;
        Ok(Twin { there, host })
    }
}

/// A learner on a device, and the one of the host that it came from, which is brought up to date when it is asked for.
pub struct Twin<T, H> {
    there: T,
    host: H,
}

impl<T: Trainable, H> Trainable for Twin<T, H> {
    fn step(
        &mut self,
        batch: &[Episode],
        objective: &dyn TokenObjective,
    ) -> TheoryResult<StepReport> {
        self.there.step(batch, objective)
    }

    fn set_learning_rate(&mut self, learning_rate: f64) {
        self.there.set_learning_rate(learning_rate);
    }
}

impl<'d> PolicyLearner for Twin<DeviceLearner<'d>, NeuralLearner> {
    type Policy = DevicePolicy<'d>;

    fn policy(&self) -> &DevicePolicy<'d> {
        self.there.policy()
    }

    fn snapshot(&self) -> TheoryResult<DevicePolicy<'d>> {
        self.there.snapshot()
    }
}

impl<T: TokenScorer, H> TokenScorer for Twin<T, H> {
    fn channels(&self) -> &[Channel] {
        self.there.channels()
    }

    fn scores(&self, batch: &[Episode]) -> TheoryResult<PerToken> {
        self.there.scores(batch)
    }
}

impl Saved for Twin<DeviceLearner<'_>, NeuralLearner> {
    fn state(&mut self) -> Result<LearnerState<'_>> {
        self.there.to_host(&mut self.host)?;
        self.host.state()
    }

    fn network(&mut self) -> Result<&NeuralScorer> {
        self.there.to_host(&mut self.host)?;
        Ok(self.host.policy_ref().scorer())
    }
}

impl Saved for Twin<DeviceRegressor<'_>, NeuralRegressor> {
    fn state(&mut self) -> Result<LearnerState<'_>> {
        self.there.to_host(&mut self.host)?;
        self.host.state()
    }

    fn network(&mut self) -> Result<&NeuralScorer> {
        self.there.to_host(&mut self.host)?;
        Ok(self.host.scorer())
    }
}

/// Runs `$body` with `$place` where the run is: on the host, or on a device that is opened for it and closed behind it.
macro_rules! on_place {
    ($run:expr, |$place:ident| $body:expr) => {
        match $run.config.executor()? {
            None => {
                let $place = &$crate::run::place::Host;
                $body
            }
            Some(executor) => {
                let device = executor.open()?;
                let there = $run.config.place(executor, &*device);
                let $place = &there;
                $body
            }
        }
    };
}
pub(super) use on_place;
