//! A model's network and weights on a device.

use crate::common::*;
use rto_bridge::batch::Batch;
use rto_bridge::model::{Heads, Model, Scores};
use rto_bridge::on_device;
use rto_device::network::{self as net, Gradients, Network, Options, Parameters, Program};
use rto_device::{Device, Emulated, Error, Kernels, Order, Real, download_f32};

/// What runs the programs: card `RTO_CARD` where that is set and this was built with the feature `cuda`, else the emulator, unless this
/// machine has no compiler: then a line says so.
pub fn executor(what: &str) -> Option<Box<dyn Device>> {
    #[cfg(feature = "cuda")]
    if let Ok(card) = std::env::var("RTO_CARD") {
        let number = card.parse().expect("RTO_CARD is the number of a card");
        let card = rto_device::Cuda::open(number).unwrap_or_else(|e| panic!("{e}"));
        return Some(Box::new(card));
    }
    match Emulated::new(Order::Random(1)) {
        Ok(device) => Some(Box::new(device)),
        Err(Error::NoCompiler(why)) => {
            println!("skipped: {what} ({why})");
            None
        }
        Err(error) => panic!("{error}"),
    }
}

pub const REALS: [(Real, f64); 2] = [(Real::F32, 1e-4), (Real::Bf16, 2e-2)];

pub fn kernels(device: &dyn Device, real: Real) -> Kernels<'_> {
    Kernels::new(device, real).with_threads(64)
}

pub fn heads_of(model: &Model) -> Heads {
    let has = |name: &str| model.params().contains(name);
    Heads {
        language_model: has(model.config().head_weight()),
        value: has(rto_bridge::model::VALUE_WEIGHT),
        reward: has(rto_bridge::model::REWARD_WEIGHT),
    }
}

pub fn network_of(model: &Model) -> Network {
    on_device::network(model.config(), heads_of(model), model.adapter()).unwrap()
}

/// A model's network and weights on a device.
pub struct There<'a> {
    pub kernels: Kernels<'a>,
    pub network: Network,
    pub parameters: Parameters,
}

impl<'a> There<'a> {
    pub fn new(kernels: Kernels<'a>, model: &Model) -> Self {
        let network = network_of(model);
        let parameters = on_device::parameters(&kernels, &network, model.params(), None).unwrap();
        Self {
            kernels,
            network,
            parameters,
        }
    }

    pub fn program(&self, checkpointing: bool) -> Program<'_> {
        let options = Options {
            checkpointing,
            columns: 16,
            ..Options::default()
        };
        Program::new(self.kernels, &self.network, &self.parameters, options).unwrap()
    }

    pub fn log_probs(&self, batch: &Batch) -> Vec<f64> {
        let request = net::Request::log_probs();
        let forward = self.program(false).forward(&laid(batch), &request, false);
        wide(&forward.unwrap().scores.log_probs.unwrap())
    }

    /// Gradients of `Σ_i g_i log p_i`.
    pub fn pull(&self, batch: &Batch, g: &[f64]) -> Gradients {
        let grad = Scores {
            log_probs: Some(g.to_vec()),
            ..Scores::default()
        };
        let request = net::Request::log_probs();
        self.pull_all(batch, &request, &grad, true)
    }

    pub fn pull_all(
        &self,
        batch: &Batch,
        request: &net::Request<'_>,
        grad: &Scores,
        checkpointing: bool,
    ) -> Gradients {
        let (program, batch) = (self.program(checkpointing), laid(batch));
        let gradients = Gradients::zeros(&self.kernels, &self.parameters).unwrap();
        let forward = program.forward(&batch, request, true).unwrap();
        program
            .backward(&batch, request, forward, &narrow(grad), &gradients)
            .unwrap();
        gradients
    }

    pub fn gradient(&self, gradients: &Gradients, name: &str) -> Vec<f64> {
        let place = gradients.get(name).unwrap().unwrap();
        wide(&download_f32(self.kernels.device(), &place).unwrap())
    }

    pub fn norm(&self, gradients: &Gradients, name: &str) -> f64 {
        let g = self.gradient(gradients, name);
        g.iter().map(|g| g * g).sum::<f64>().sqrt()
    }
}

pub fn laid(batch: &Batch) -> net::Batch {
    let rows: Vec<(&[u32], &[u32])> = batch
        .rows()
        .iter()
        .map(|r| {
            let text = &batch.tokens()[r.start..r.start + r.len()];
            text.split_at(r.prompt)
        })
        .collect();
    net::Batch::new(&rows).unwrap()
}

pub fn narrow(scores: &Scores) -> net::Scores {
    let f32s = |v: &Option<Vec<f64>>| {
        let v = v.as_ref()?;
        Some(v.iter().map(|&x| x as f32).collect())
    };
    net::Scores {
        log_probs: f32s(&scores.log_probs),
        entropy: f32s(&scores.entropy),
        kl: f32s(&scores.kl),
        kl_from: f32s(&scores.kl_from),
        values: f32s(&scores.values),
        final_values: f32s(&scores.final_values),
        rewards: f32s(&scores.rewards),
    }
}

pub fn near(what: &str, ours: &[f64], theirs: &[f64], bound: f64) {
    let distance = distance(ours, theirs);
    println!("{what}: {distance:.1e}");
    assert!(distance <= bound, "{what}: {distance:e}");
}
