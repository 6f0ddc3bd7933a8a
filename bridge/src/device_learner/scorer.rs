//! A network on a device and the channels it gives.

use std::collections::BTreeMap;
use std::rc::Rc;
use std::sync::Arc;

use candle_core::{Device, Tensor};
use rto::seq::{Channel, Episode, PerToken, TokenScorer};
use rto_device::Kernels;
use rto_device::network::{self as net, Network, Options, Parameters, Program, Rotations};

use crate::Result;
use crate::device::failed;
use crate::family::ModelConfig;
use crate::learner::channels::{append, pack_for, per_token, request};
use crate::learner::{NeuralScorer, backend};
use crate::model::{Heads, REWARD_WEIGHT, Scores, VALUE_WEIGHT};
use crate::on_device::{network, parameters};

/// Choices that change memory and time, never results by more than rounding.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct DeviceOptions {
    /// Responses of one pass, ≥ 1.
    pub micro_batch: usize,
    /// Keep the blocks' inputs only and run each block again in the backward pass.
    pub checkpointing: bool,
    /// Vocabulary entries of which logits are there at once, ≥ 1.
    pub columns: usize,
}

impl Default for DeviceOptions {
    fn default() -> Self {
        Self {
            micro_batch: 64,
            checkpointing: false,
            columns: Options::default().columns,
        }
    }
}

/// A network on a device that gives every response token its numbers, as [`NeuralScorer`] does on the host.
pub struct DeviceScorer<'d> {
    kernels: Kernels<'d>,
    config: ModelConfig,
    network: Arc<Network>,
    rotations: Rotations,
    parameters: Parameters,
    /// The shape of every weight.
    shapes: Arc<BTreeMap<String, Vec<usize>>>,
    channels: Vec<Channel>,
    reference: Option<Rc<DeviceScorer<'d>>>,
    temperature: f64,
    options: DeviceOptions,
}

impl<'d> DeviceScorer<'d> {
    /// The network of `scorer` on the device of `kernels`, with its weights, trained and frozen as they are there, its channels, its temperature
    /// and, where it has one, its reference. In bf16 trained weights keep an exact `f32` master.
    ///
    /// # Errors
    /// [`crate::Error::Setting`] for a micro-batch of 0 and what devices have no kernels for; [`crate::Error::Device`] for what the device
    /// reports.
    pub fn try_new(
        kernels: Kernels<'d>,
        scorer: &NeuralScorer,
        options: DeviceOptions,
    ) -> Result<Self> {
        Self::placed(kernels, scorer, options, None)
    }

    /// [`DeviceScorer::try_new`] beside a network that is there already and frozen: the base of `scorer`'s adapter, where it has one, and its
    /// reference, where it has one, are `base`, in the same memory.
    ///
    /// # Errors
    /// As [`DeviceScorer::try_new`].
    pub fn beside(base: &Self, scorer: &NeuralScorer, options: DeviceOptions) -> Result<Self> {
        Self::placed(base.kernels, scorer, options, Some(base))
    }

    fn placed(
        kernels: Kernels<'d>,
        scorer: &NeuralScorer,
        options: DeviceOptions,
        base: Option<&Self>,
    ) -> Result<Self> {
        if options.micro_batch == 0 {
            return Err(crate::Error::Setting {
                field: "micro_batch",
                found: "0".into(),
                expected: "at least 1".into(),
            });
        }
        let model = scorer.model();
        let has = |name: &str| model.params().contains(name);
        let heads = Heads {
            language_model: scorer.channels().contains(&Channel::LogProb),
            value: has(VALUE_WEIGHT),
            reward: has(REWARD_WEIGHT),
        };
        let network = network(model.config(), heads, model.adapter())?;
        let shared = base.filter(|_| model.adapter().is_some());
        let shared = shared.map(|base| &base.parameters);
        let parameters = parameters(&kernels, &network, model.params(), shared)?;
        let shapes = network.tensors().into_keys().map(|name| {
            let shape = model.params().get(&name)?.dims().to_vec();
            Ok((name, shape))
        });
        let shapes = shapes.collect::<Result<_>>()?;
        let reference = match (scorer.reference(), base) {
            (None, _) => None,
            (Some(_), Some(base)) => Some(Rc::new(base.shared())),
            (Some(reference), None) => Some(Rc::new(Self::try_new(kernels, reference, options)?)),
        };
        let all = Self {
            rotations: Rotations::new(&kernels, &network).map_err(failed)?,
            kernels,
            config: model.config().clone(),
            network: Arc::new(network),
            parameters,
            shapes: Arc::new(shapes),
            channels: scorer.channels().to_vec(),
            reference,
            temperature: model.temperature(),
            options,
        };
        all.program()?;
        Ok(all)
    }

    /// The same network, frozen, in the same memory: steps of what trains it are seen here.
    fn shared(&self) -> Self {
        self.with_parameters(self.parameters.shared())
    }

    fn with_parameters(&self, parameters: Parameters) -> Self {
        Self {
            kernels: self.kernels,
            config: self.config.clone(),
            network: self.network.clone(),
            rotations: self.rotations.clone(),
            parameters,
            shapes: self.shapes.clone(),
            channels: self.channels.clone(),
            reference: self.reference.clone(),
            temperature: self.temperature,
            options: self.options,
        }
    }

    /// The shape of the network.
    pub fn config(&self) -> &ModelConfig {
        &self.config
    }

    /// The kernels, and with them the device and the type of weights.
    pub fn kernels(&self) -> &Kernels<'d> {
        &self.kernels
    }

    /// Its weights.
    pub fn parameters(&self) -> &Parameters {
        &self.parameters
    }

    pub(super) fn options(&self) -> DeviceOptions {
        self.options
    }

    pub(super) fn temperature(&self) -> f64 {
        self.temperature
    }

    /// The network as it is now, frozen; trained weights are copied, frozen ones are shared.
    ///
    /// # Errors
    /// What the device reports.
    pub fn snapshot(&self) -> Result<Self> {
        let parameters = self.parameters.snapshot(&self.kernels);
        Ok(self.with_parameters(parameters.map_err(failed)?))
    }

    /// Every weight on the host, in `f32`, under its Hugging Face name; an adapter beside its base. Of a trained weight in bf16 it is the master.
    ///
    /// # Errors
    /// What the device reports.
    pub fn weights(&self) -> Result<BTreeMap<String, Tensor>> {
        self.weights_where(|_| true)
    }

    /// Those weights that `wanted` names.
    pub(super) fn weights_where(
        &self,
        wanted: impl Fn(&str) -> bool,
    ) -> Result<BTreeMap<String, Tensor>> {
        let weight = |(name, shape): (&String, &Vec<usize>)| {
            let values = self.parameters.values(&self.kernels, name);
            let tensor = Tensor::from_vec(values.map_err(failed)?, &shape[..], &Device::Cpu)?;
            Ok((name.clone(), tensor))
        };
        let wanted = self.shapes.iter().filter(|(name, _)| wanted(name));
        wanted.map(weight).collect()
    }

    pub(super) fn program(&self) -> Result<Program<'_>> {
        let options = Options {
            checkpointing: self.options.checkpointing,
            temperature: self.temperature as f32,
            columns: self.options.columns,
        };
        let (parameters, rotations) = (&self.parameters, self.rotations.clone());
        Program::with_rotations(self.kernels, &self.network, parameters, options, rotations)
            .map_err(failed)
    }

    /// The program of the reference, where some of the channels read it.
    ///
    /// # Errors
    /// As [`DeviceScorer::program`]; a channel that the network has not.
    pub(super) fn reference(&self, channels: &[Channel]) -> rto::Result<Option<Program<'_>>> {
        let reference = self.reference.as_ref();
        match reference.filter(|_| channels.iter().any(reads_reference)) {
            None => Ok(None),
            Some(reference) => Ok(Some(reference.program().map_err(backend)?)),
        }
    }

    /// What computes some channels.
    ///
    /// # Errors
    /// A channel that the network has not.
    pub(super) fn request<'r>(
        channels: &[Channel],
        reference: Option<&'r Program<'r>>,
    ) -> rto::Result<net::Request<'r>> {
        // Both divergences come with the reference.
        let other = |c: &Channel| reference.is_none() || !reads_reference(c);
        let own: Vec<Channel> = channels.iter().copied().filter(other).collect();
        let asked = request(&own, None)?;
        Ok(net::Request {
            log_probs: asked.log_probs,
            entropy: asked.entropy,
            reference,
            values: asked.values,
            rewards: asked.rewards,
        })
    }

    /// Some rows, packed for some channels.
    pub(super) fn pack(&self, rows: &[Episode], channels: &[Channel]) -> rto::Result<net::Batch> {
        let packed = pack_for(rows, channels, &self.config).map_err(backend)?;
        let texts = packed.rows().iter().map(|r| {
            let text = &packed.tokens()[r.start..r.start + r.len()];
            text.split_at(r.prompt)
        });
        let texts: Vec<(&[u32], &[u32])> = texts.collect();
        net::Batch::new(&texts).map_err(|e| backend(failed(e)))
    }

    /// Some channels of a batch, in micro-batches.
    pub(super) fn score(&self, batch: &[Episode], channels: &[Channel]) -> rto::Result<PerToken> {
        let program = self.program().map_err(backend)?;
        let reference = self.reference(channels)?;
        let request = Self::request(channels, reference.as_ref())?;
        let mut all = Scores::default();
        for rows in batch.chunks(self.options.micro_batch) {
            let packed = self.pack(rows, channels)?;
            let forward = program.forward(&packed, &request, false);
            let forward = forward.map_err(|e| backend(failed(e)))?;
            append(&mut all, wide(forward.scores));
        }
        per_token(batch, channels, &all)
    }
}

fn reads_reference(channel: &Channel) -> bool {
    matches!(channel, Channel::KlToReference | Channel::KlFromReference)
}

/// A device's scores as the host computes with them.
pub(super) fn wide(scores: net::Scores) -> Scores {
    let wide = |v: Option<Vec<f32>>| v.map(|v| v.into_iter().map(f64::from).collect());
    Scores {
        log_probs: wide(scores.log_probs),
        entropy: wide(scores.entropy),
        kl: wide(scores.kl),
        kl_from: wide(scores.kl_from),
        values: wide(scores.values),
        final_values: wide(scores.final_values),
        rewards: wide(scores.rewards),
    }
}

/// A gradient as a device takes it.
pub(super) fn narrow(grad: Scores) -> net::Scores {
    let narrow = |v: Option<Vec<f64>>| v.map(|v| v.into_iter().map(|x| x as f32).collect());
    net::Scores {
        log_probs: narrow(grad.log_probs),
        entropy: narrow(grad.entropy),
        kl: narrow(grad.kl),
        kl_from: narrow(grad.kl_from),
        values: narrow(grad.values),
        final_values: narrow(grad.final_values),
        rewards: narrow(grad.rewards),
    }
}

impl TokenScorer for DeviceScorer<'_> {
    fn channels(&self) -> &[Channel] {
        &self.channels
    }

    fn scores(&self, batch: &[Episode]) -> rto::Result<PerToken> {
        self.score(batch, &self.channels)
    }
}
