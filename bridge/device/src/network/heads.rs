//! The last norm and what stands on it: distribution over the vocabulary, values, rewards.

use super::layers::Pass;
use super::parameters::Gradients;
use super::program::Program;
use super::scores::{Request, Scores};
use crate::Result;
use crate::buffer::{Buffer, Element, Real};
use crate::device::{Gemm, Matrix, download_f32, upload_f32};
use crate::kernels::{Bend, Head, HeadGrad};
use crate::output_head::{Distribution, OutputHead};
use std::ops::Range;

/// The states that are read, before and after the last norm.
pub(crate) struct States {
    pub before: Buffer,
    pub stats: Buffer,
    pub hidden: Buffer,
}

impl States {
    pub fn new(pass: &Pass<'_>, x: &Buffer, states: &Buffer) -> Result<Self> {
        let before = pass.alloc(states.len() * pass.network.width)?;
        pass.kernels.gather_rows(x, states, &before)?;
        let (hidden, stats) = pass.norm(&pass.network.last_norm, &before)?;
        Ok(Self {
            before,
            stats,
            hidden,
        })
    }
}

/// Outputs of the head.
pub(crate) struct HeadTape {
    log_prob: Buffer,
    entropy: Buffer,
    log_sum: Buffer,
    /// Both divergences and the reference's sums, with its hidden states.
    other: Option<([Buffer; 3], Buffer)>,
}

impl HeadTape {
    fn head(&self) -> Head<'_> {
        let [kl, kl_from, sum] = [0, 1, 2].map(|i| self.other.as_ref().map(|o| &o.0[i]));
        Head {
            log_prob: &self.log_prob,
            entropy: &self.entropy,
            log_sum: &self.log_sum,
            other: kl.zip(kl_from).zip(sum).map(|((a, b), c)| [a, b, c]),
        }
    }
}

impl Program<'_> {
    /// The distribution over the vocabulary at hidden states.
    fn distribution<'b>(&'b self, hidden: &'b Buffer) -> Result<Distribution<'b>> {
        let network = self.network;
        let name = network.head.as_ref().unwrap_or(&network.embedding);
        Ok(Distribution {
            hidden,
            weight: self.parameters.get(name)?,
            scale: network.logit_scale,
            bend: Bend {
                cap: network.logit_cap,
                temperature: self.options().temperature,
            },
        })
    }

    /// Log-probabilities of the targets, entropies and divergences at the first `n` states.
    pub(crate) fn scan(
        &self,
        states: &States,
        n: usize,
        targets: &Buffer,
        reference: Option<&Program<'_>>,
        other: Option<Buffer>,
    ) -> Result<HeadTape> {
        let device = self.kernels.device();
        let numbers = || device.alloc(Element::F32, n);
        let other = match other {
            None => None,
            Some(hidden) => Some(([numbers()?, numbers()?, numbers()?], hidden)),
        };
        let tape = HeadTape {
            log_prob: numbers()?,
            entropy: numbers()?,
            log_sum: numbers()?,
            other,
        };
        let hidden = states.hidden.part(0, n * self.network.width)?;
        self.output_head(&hidden, targets, reference, &tape)?
            .forward(&tape.head())?;
        Ok(tape)
    }

    fn output_head<'b>(
        &'b self,
        hidden: &'b Buffer,
        targets: &'b Buffer,
        reference: Option<&'b Program<'_>>,
        tape: &'b HeadTape,
    ) -> Result<OutputHead<'b>> {
        let other = match (reference, &tape.other) {
            (Some(reference), Some((_, hidden))) => Some(reference.distribution(hidden)?),
            _ => None,
        };
        Ok(OutputHead {
            kernels: self.kernels,
            policy: self.distribution(hidden)?,
            other,
            targets,
            columns: self.options().columns,
        })
    }

    /// Next-token logits of hidden states, `f32 [rows, vocabulary]`: scaled and capped, not over the temperature.
    pub(crate) fn logits(&self, hidden: &Buffer) -> Result<Buffer> {
        let (network, of) = (self.network, self.distribution(hidden)?);
        let rows = hidden.len() / network.width;
        let count = rows * network.vocabulary;
        let logits = self.kernels.device().alloc(Element::F32, count)?;
        self.kernels.device().gemm(&Gemm {
            m: rows,
            n: network.vocabulary,
            k: network.width,
            batch: 1,
            alpha: of.scale,
            beta: 0.0,
            a: Matrix::rows(hidden, network.width),
            b: Matrix::rows(of.weight, network.width).t(),
            c: Matrix::rows(&logits, network.vocabulary),
        })?;
        if let Some(cap) = network.logit_cap {
            self.kernels.cap_all(&logits, cap)?;
        }
        Ok(logits)
    }

    /// `h·w` of some states.
    fn scalars(&self, states: &States, at: Range<usize>, weight: &str) -> Result<Vec<f32>> {
        let (width, device) = (self.network.width, self.kernels.device());
        let hidden = states.hidden.part(at.start * width, at.len() * width)?;
        let out = device.alloc(Element::F32, at.len())?;
        device.gemm(&Gemm {
            m: at.len(),
            n: 1,
            k: width,
            batch: 1,
            alpha: 1.0,
            beta: 0.0,
            a: Matrix::rows(&hidden, width),
            b: Matrix::rows(self.parameters.get(weight)?, width).t(),
            c: Matrix::rows(&out, 1),
        })?;
        download_f32(device, &out)
    }

    /// What was asked for, on the host.
    pub(crate) fn read(
        &self,
        request: &Request<'_>,
        states: &States,
        n: usize,
        head: Option<&HeadTape>,
    ) -> Result<Scores> {
        let (device, all) = (
            self.kernels.device(),
            states.hidden.len() / self.network.width,
        );
        let number = |wanted: bool, buffer: Option<&Buffer>| {
            let buffer = buffer.filter(|_| wanted);
            buffer.map(|b| download_f32(device, b)).transpose()
        };
        let other = |i: usize| head.and_then(|h| h.other.as_ref().map(|o| &o.0[i]));
        let mut scores = Scores {
            log_probs: number(request.log_probs, head.map(|h| &h.log_prob))?,
            entropy: number(request.entropy, head.map(|h| &h.entropy))?,
            kl: number(true, other(0))?,
            kl_from: number(true, other(1))?,
            ..Scores::default()
        };
        if let (true, Some([weight, bias])) = (request.values, &self.network.value) {
            let bias = self.parameters.values(&self.kernels, bias)?[0];
            let of = |at: Range<usize>| -> Result<Vec<f32>> {
                let values = self.scalars(states, at, weight)?;
                Ok(values.into_iter().map(|v| v + bias).collect())
            };
            scores.values = Some(of(0..n)?);
            scores.final_values = Some(of(n..all)?);
        }
        if let (true, Some(weight)) = (request.rewards, &self.network.reward) {
            scores.rewards = Some(self.scalars(states, n..all, weight)?);
        }
        Ok(scores)
    }

    /// Adds the gradients that come through the vocabulary to those of the states and of the head's weight.
    #[expect(
        clippy::too_many_arguments,
        reason = "what the head read, its gradient, and both places that gradients go"
    )]
    pub(crate) fn pull(
        &self,
        states: &States,
        n: usize,
        targets: &Buffer,
        reference: Option<&Program<'_>>,
        tape: HeadTape,
        grad: &Scores,
        dhidden: &Buffer,
        grads: &Gradients,
    ) -> Result<()> {
        let parts = [&grad.log_probs, &grad.entropy, &grad.kl, &grad.kl_from];
        if parts.iter().all(|part| part.is_none()) {
            return Ok(());
        }
        let (width, device) = (self.network.width, self.kernels.device());
        let upload = |g: &Option<Vec<f32>>| {
            let g = g.as_ref();
            g.map(|g| upload_f32(device, Real::F32, g)).transpose()
        };
        let zeros = vec![0.0; n];
        let log_prob = grad.log_probs.as_ref().unwrap_or(&zeros);
        let log_prob = upload_f32(device, Real::F32, log_prob)?;
        let (entropy, kl, kl_from) = (
            upload(&grad.entropy)?,
            upload(&grad.kl)?,
            upload(&grad.kl_from)?,
        );
        let gradient = HeadGrad {
            log_prob: &log_prob,
            entropy: entropy.as_ref(),
            kl: kl.as_ref(),
            kl_from: kl_from.as_ref(),
        };
        let hidden = states.hidden.part(0, n * width)?;
        let dhidden = dhidden.part(0, n * width)?;
        let name = self.network.head.as_ref();
        let dweight = name.map(|name| grads.get(name)).transpose()?.flatten();
        self.output_head(&hidden, targets, reference, &tape)?
            .backward(&tape.head(), &gradient, &dhidden, dweight.as_ref())
    }

    /// The same of the value and the reward head.
    pub(crate) fn pull_scalars(
        &self,
        states: &States,
        n: usize,
        grad: &Scores,
        dhidden: &Buffer,
        grads: &Gradients,
    ) -> Result<()> {
        let all = states.hidden.len() / self.network.width;
        let value = self.network.value.as_ref().map(|[w, b]| (w, Some(b)));
        let reward = self.network.reward.as_ref().map(|w| (w, None));
        let parts = [
            (value, &grad.values, 0..n),
            (value, &grad.final_values, n..all),
            (reward, &grad.rewards, n..all),
        ];
        for (names, g, at) in parts {
            if let (Some(names), Some(g)) = (names, g) {
                self.pull_scalar(names, states, at, g, dhidden, grads)?;
            }
        }
        Ok(())
    }

    fn pull_scalar(
        &self,
        (weight, bias): (&String, Option<&String>),
        states: &States,
        at: Range<usize>,
        g: &[f32],
        dhidden: &Buffer,
        grads: &Gradients,
    ) -> Result<()> {
        let (width, device) = (self.network.width, self.kernels.device());
        let n = at.len();
        let place = |buffer: &Buffer| buffer.part(at.start * width, n * width);
        let g = upload_f32(device, self.kernels.real(), g)?;
        let (hidden, dhidden) = (place(&states.hidden)?, place(dhidden)?);
        let to_states = Gemm {
            m: n,
            n: width,
            k: 1,
            batch: 1,
            alpha: 1.0,
            beta: 1.0,
            a: Matrix::rows(&g, 1),
            b: Matrix::rows(self.parameters.get(weight)?, width),
            c: Matrix::rows(&dhidden, width),
        };
        device.gemm(&to_states)?;
        if let Some(dweight) = grads.get(weight)? {
            device.gemm(&Gemm {
                m: 1,
                k: n,
                a: Matrix::rows(&g, 1).t(),
                b: Matrix::rows(&hidden, width),
                c: Matrix::rows(&dweight, width),
                ..to_states
            })?;
        }
        match bias.map(|bias| grads.get(bias)).transpose()?.flatten() {
            Some(dbias) => self.pass(n).column_sums(&g, 1, &dbias),
            None => Ok(()),
        }
    }
}
