//! What a run takes on a device, stage by stage: its program, run by the device that counts.
//!
//! Nothing is estimated: the launches are those that a card would get, their buffers those that it would hold. What a card's driver, its
//! library of products and the fragments between buffers take beside them is not in it.

use crate::device::failed;
use crate::family::ModelConfig;
use crate::lora::{LoraConfig, is_factor};
use crate::model::Heads;
use crate::on_device::network;
use crate::optimizer::Moments;
use crate::{Error, Result, family};
use candle_core::DType;
use rto_device::network::{
    AdamW, AdamWSettings, Batch, Gradients, Judge, Learner, Network, Options, Parameters, Program,
    Rate, Request, Schedule, Scores, Writing, Written, iteration,
};
use rto_device::{Counting, Draw, Kernels, Real, Usage};
use serde::Serialize;

/// A run, as far as its memory depends on it. The reward model and the oracle are not on the device while a policy is trained.
#[derive(Debug, Clone, PartialEq)]
pub struct DeviceRun {
    /// Type of weights and activations, f32 or bf16; in bf16 trained weights keep an exact `f32` master.
    pub dtype: DType,
    /// The adapter that is trained instead of all weights; policies then share one base.
    pub lora: Option<LoraConfig>,
    /// How AdamW holds its moments.
    pub moments: Moments,
    /// Whether blocks are run again in the backward pass.
    pub checkpointing: bool,
    /// A critic of its own, else a head on the policy's trunk.
    pub separate_critic: bool,
    /// Texts of one pass.
    pub micro_batch: usize,
    /// Tokens of a prompt.
    pub prompt: usize,
    /// Tokens of a response.
    pub response: usize,
    /// Texts of a step of supervised fine-tuning, pairs of one of the reward model and of DPO.
    pub batches: [usize; 3],
    /// Texts of an iteration of reinforcement learning, and of a step of it.
    pub iteration: [usize; 2],
    /// How often an iteration's texts are gone through.
    pub epochs: usize,
    /// Texts that are written side by side.
    pub slots: usize,
}

/// One stage of a run.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub struct DeviceStage {
    /// `sft`, `reward` and `dpo`: one step; `rto`: one iteration.
    pub stage: &'static str,
    /// The most bytes at once.
    pub peak_device_bytes: u64,
    /// Tokens of texts that steps are taken on.
    pub tokens: u64,
    /// Kernels and products launched.
    pub launches: u64,
    /// Floating-point operations of products.
    pub flops: u64,
    /// Bytes of the operands of all kernels and products, each counted whole, once a launch.
    pub traffic: u64,
}

/// The stages of a run on a network, each from an empty device.
///
/// # Errors
/// As [`network`]; texts that are longer than the network's.
pub fn device_plan(config: &ModelConfig, run: &DeviceRun) -> Result<Vec<DeviceStage>> {
    stages(config, run, run.shortest())
}

/// The stages, that of reinforcement learning from so many of its texts.
pub(super) fn stages(
    config: &ModelConfig,
    run: &DeviceRun,
    texts: usize,
) -> Result<Vec<DeviceStage>> {
    let real = match run.dtype {
        DType::F32 => Real::F32,
        DType::BF16 => Real::Bf16,
        other => {
            return Err(Error::Setting {
                field: "dtype",
                found: format!("{other:?}"),
                expected: "f32 or bf16, on a device".into(),
            });
        }
    };
    let plan = Plan { config, run, real };
    let [sft, pairs, dpo] = run.batches;
    let text = |texts: usize| (texts * (run.prompt + run.response)) as u64;
    let stage = |stage, texts: usize, usage: Usage| DeviceStage {
        stage,
        peak_device_bytes: usage.peak,
        tokens: text(texts),
        launches: usage.launches,
        flops: usage.flops,
        traffic: usage.traffic,
    };
    let [responses, _] = run.iteration;
    Ok(vec![
        stage("sft", sft, plan.fit(LANGUAGE, sft, false)?),
        stage("reward", 2 * pairs, plan.fit(REWARD, 2 * pairs, false)?),
        stage("dpo", 2 * dpo, plan.fit(LANGUAGE, 2 * dpo, true)?),
        stage("rto", run.epochs * responses, plan.rto(texts)?),
    ])
}

const LANGUAGE: Heads = Heads {
    language_model: true,
    value: false,
    reward: false,
};
const REWARD: Heads = Heads {
    language_model: false,
    value: false,
    reward: true,
};

/// Heads that are trained beside an adapter.
const SCALARS: [&str; 3] = [
    family::VALUE_WEIGHT,
    family::VALUE_BIAS,
    family::REWARD_WEIGHT,
];

struct Plan<'a> {
    config: &'a ModelConfig,
    run: &'a DeviceRun,
    real: Real,
}

/// A network with a place for its weights.
struct Placed {
    network: Network,
    parameters: Parameters,
}

impl Plan<'_> {
    /// A network with these heads that is trained, or only read. Adapters stand on `base`.
    fn place(
        &self,
        kernels: &Kernels<'_>,
        heads: Heads,
        trained: bool,
        base: Option<&Parameters>,
    ) -> Result<Placed> {
        let lora = self.run.lora.as_ref();
        let network = network(self.config, heads, lora)?;
        let learns =
            |name: &str| trained && (lora.is_none() || is_factor(name) || SCALARS.contains(&name));
        let tensors = network.tensors();
        let parameters = match base {
            Some(base) => Parameters::beside(base, kernels, &tensors, learns),
            None => Parameters::alloc(kernels, &tensors, learns),
        };
        Ok(Placed {
            parameters: parameters.map_err(failed)?,
            network,
        })
    }

    /// The base that adapters stand on.
    fn base(&self, kernels: &Kernels<'_>) -> Result<Option<Placed>> {
        if self.run.lora.is_none() {
            return Ok(None);
        }
        let network = network(self.config, LANGUAGE, None)?;
        let parameters = Parameters::alloc(kernels, &network.tensors(), |_| false);
        Ok(Some(Placed {
            parameters: parameters.map_err(failed)?,
            network,
        }))
    }

    fn optimizer(&self, kernels: &Kernels<'_>, of: &Placed) -> Result<AdamW> {
        let settings = AdamWSettings {
            decay1: 0.9,
            decay2: 0.95,
            epsilon: 1e-8,
            longest: Some(1.0),
            eight_bit_from: self.run.moments.eight_bit_from(),
        };
        AdamW::new(kernels, &of.parameters, settings).map_err(failed)
    }

    fn options(&self) -> Options {
        Options {
            checkpointing: self.run.checkpointing,
            ..Options::default()
        }
    }

    fn batch(&self, texts: usize) -> Result<Batch> {
        let [prompt, response] = [self.run.prompt, self.run.response].map(|n| vec![0; n]);
        Batch::new(&vec![(&prompt[..], &response[..]); texts]).map_err(failed)
    }

    /// A step on so many texts.
    fn fit(&self, heads: Heads, texts: usize, reads: bool) -> Result<Usage> {
        let device = Counting::new();
        let kernels = Kernels::new(&device, self.real);
        let base = self.base(&kernels)?;
        let base = base.as_ref().map(|b| &b.parameters);
        let learner = self.place(&kernels, heads, true, base)?;
        let read = reads.then(|| self.place(&kernels, heads, false, base));
        let read = read.transpose()?;
        let program = |of| self.program(kernels, of);
        let policy = program(&learner)?;
        let mut optimizer = self.optimizer(&kernels, &learner)?;
        let gradients = Gradients::zeros(&kernels, &learner.parameters).map_err(failed)?;
        let request = Request {
            log_probs: heads.language_model,
            rewards: heads.reward,
            ..Request::default()
        };
        let reference = read.as_ref().map(program).transpose()?;
        let micro = self.run.micro_batch.clamp(1, texts.max(1));
        for start in (0..texts).step_by(micro) {
            let batch = self.batch(micro.min(texts - start))?;
            if let Some(reference) = &reference {
                // The loss of a pair reads both its texts: all scores come first.
                for program in [reference, &policy] {
                    program.forward(&batch, &request, false).map_err(failed)?;
                }
            }
            let forward = policy.forward(&batch, &request, true).map_err(failed)?;
            let grad = zeros(&forward.scores);
            policy
                .backward(&batch, &request, forward, &grad, &gradients)
                .map_err(failed)?;
        }
        optimizer
            .step(&kernels, &learner.parameters, &gradients, |_| RATE)
            .map_err(failed)?;
        Ok(device.usage())
    }

    fn program<'p>(&self, kernels: Kernels<'p>, of: &'p Placed) -> Result<Program<'p>> {
        Program::new(kernels, &of.network, &of.parameters, self.options()).map_err(failed)
    }

    /// An iteration: text, scores of policy, critic, reference and DPO policy, and all steps. It is run on so many texts; what they take
    /// is counted as often as the iteration has them.
    fn rto(&self, texts: usize) -> Result<Usage> {
        let run = self.run;
        let device = Counting::new();
        let kernels = Kernels::new(&device, self.real);
        let base = self.base(&kernels)?;
        let base = base.as_ref().map(|b| &b.parameters);
        let heads = Heads {
            value: !run.separate_critic,
            ..LANGUAGE
        };
        let policy = self.place(&kernels, heads, true, base)?;
        let values = Heads {
            language_model: false,
            value: true,
            reward: false,
        };
        let critic = run
            .separate_critic
            .then(|| self.place(&kernels, values, true, base));
        let critic = critic.transpose()?;
        let reads = [(); 2].map(|()| self.place(&kernels, LANGUAGE, false, base));
        let [reference, dpo] = reads;
        let (reference, dpo) = (reference?, dpo?);
        let mut steps = vec![self.optimizer(&kernels, &policy)?];
        if let Some(critic) = &critic {
            steps.push(self.optimizer(&kernels, critic)?);
        }
        let trained = [Some(&policy), critic.as_ref()];
        let programs = trained
            .into_iter()
            .flatten()
            .map(|of| self.program(kernels, of));
        let programs: Vec<Program<'_>> = programs.collect::<Result<_>>()?;
        let (reference, dpo) = (
            self.program(kernels, &reference)?,
            self.program(kernels, &dpo)?,
        );
        let mut learners: Vec<Learner<'_, '_>> = programs
            .iter()
            .zip(&mut steps)
            .map(|(program, optimizer)| Learner {
                program,
                request: Request {
                    log_probs: program.network().head.is_some(),
                    values: program.network().value.is_some(),
                    ..Request::default()
                },
                optimizer,
                rate: RATE,
            })
            .collect();
        let prompt = vec![0; run.prompt];
        let prompts = vec![&prompt[..]; texts];
        let writing = Writing {
            slots: run.slots,
            longest: run.response,
            ends: Vec::new(),
            draw: Some(Draw {
                temperature: 1.0,
                top_k: 0,
                top_p: 1.0,
            }),
            read_at_once: READ_AT_ONCE,
        };
        let schedule = Schedule {
            micro_batch: run.micro_batch,
            minibatch: run.iteration[1],
            epochs: run.epochs,
        };
        let setup = device.usage();
        iteration(
            &mut learners,
            &[&reference, &dpo],
            &prompts,
            &writing,
            &schedule,
            &mut |_, _| 0.5,
            &mut Nothing,
        )
        .map_err(failed)?;
        // Memory is made ready once, and gradients begin with zeros once, however many texts there are.
        let zeros = of_zeros(self.real, &programs)?;
        let times = (run.iteration[0] / texts.max(1)) as u64;
        let scaled = |all: u64, once: u64| once + (all - once) * times;
        let all = device.usage();
        Ok(Usage {
            flops: scaled(all.flops, setup.flops),
            traffic: scaled(all.traffic, setup.traffic + zeros.traffic),
            launches: scaled(all.launches, setup.launches + zeros.launches),
            ..all
        })
    }
}

/// What zeros of all gradients take.
fn of_zeros(real: Real, programs: &[Program<'_>]) -> Result<Usage> {
    let device = Counting::new();
    let kernels = Kernels::new(&device, real);
    for program in programs {
        Gradients::zeros(&kernels, program.parameters()).map_err(failed)?;
    }
    Ok(device.usage())
}

impl DeviceRun {
    /// The fewest texts that an iteration is a whole number of: full slots, whole passes and whole steps. All texts are alike, so it is
    /// as many times what these take.
    fn shortest(&self) -> usize {
        let [texts, minibatch] = self.iteration;
        let gcd = |mut a: usize, mut b: usize| {
            while b > 0 {
                (a, b) = (b, a % b);
            }
            a
        };
        let sizes = [self.slots, self.micro_batch, minibatch];
        let whole = sizes.into_iter().fold(1, |all, n| match n {
            0 => all,
            n => all / gcd(all, n) * n,
        });
        match texts % whole {
            0 if texts > 0 => whole,
            _ => texts,
        }
    }
}

/// Tokens of prompts that are read in one pass.
const READ_AT_ONCE: usize = 1 << 13;

const RATE: Rate = Rate {
    rate: 1e-6,
    decay: 0.0,
};

/// A loss of zero, which takes the course of any other.
struct Nothing;

impl Judge for Nothing {
    fn judge(&mut self, _: &[Written], _: &[Vec<Scores>]) {}

    fn pull(&mut self, _: usize, _: &[usize], scores: &Scores) -> Scores {
        zeros(scores)
    }
}

fn zeros(scores: &Scores) -> Scores {
    let like = |v: &Option<Vec<f32>>| v.as_ref().map(|v| vec![0.0; v.len()]);
    Scores {
        log_probs: like(&scores.log_probs),
        entropy: like(&scores.entropy),
        kl: like(&scores.kl),
        kl_from: like(&scores.kl_from),
        values: like(&scores.values),
        final_values: like(&scores.final_values),
        rewards: like(&scores.rewards),
    }
}
