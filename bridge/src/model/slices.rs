//! Whole-model passes on slices.

use super::block::{Block, BlockTape, final_norm, final_norm_backward};
use super::pass::Pass;
use super::{Keep, Model, REWARD_WEIGHT, Request, Scores, VALUE_BIAS, VALUE_WEIGHT, states};
use crate::Result;
use crate::batch::Batch;
use crate::ops::buffer::Buffer;
use crate::ops::gemm::Update;
use crate::ops::linear::{self, Linear};
use crate::ops::log_prob_head::{self, Cap, Distribution, HeadGrad, HeadOptions, HeadOutput};
use crate::ops::rotary::RotaryTable;
use crate::ops::scalar_head;
use crate::params::{Gradients, Slices};
use candle_core::{Device, Tensor};
use std::borrow::Cow;

/// What stays of a pass.
#[derive(Debug)]
pub(crate) struct SliceTape {
    trunk: Option<TrunkTape>,
    head: Option<HeadOutput>,
}

/// The trunk up to the hidden states that are read.
struct TrunkTape {
    blocks: Vec<Kept>,
    rotary: Vec<RotaryTable>,
    /// The states before the last norm.
    before: Buffer,
    /// The statistics of that norm.
    stats: Buffer,
    /// The states after it.
    hidden: Buffer,
    /// Hidden states of the reference.
    reference: Option<Buffer>,
}

impl std::fmt::Debug for TrunkTape {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("TrunkTape")
            .field("blocks", &self.blocks.len())
            .finish_non_exhaustive()
    }
}

enum Kept {
    Nothing,
    Input(Buffer),
    Tape(Box<BlockTape>),
}

impl Model {
    pub(super) fn forward_slices(
        &self,
        batch: &Batch,
        request: &Request<'_>,
        keep: Keep,
    ) -> (Scores, SliceTape) {
        let weights = self.params.slices();
        let trunk = self.trunk(batch, request, &weights, keep == Keep::Activations);
        let targets = batch.targets();
        let head = request.reads_vocabulary().then(|| {
            let reference = request
                .reference
                .map(|model| (model, model.params.slices()));
            let hidden = trunk.reference.as_deref().unwrap_or(&[]);
            let reference = reference
                .as_ref()
                .map(|(model, weights)| (model, weights, model.tempered(hidden)));
            let reference = reference
                .as_ref()
                .map(|(model, weights, hidden)| model.distribution(weights, hidden));
            let keep = if keep == Keep::Activations {
                self.options.keep_logits
            } else {
                0
            };
            let options = HeadOptions {
                entropy: request.entropy,
                reference,
                kl_from: request.kl_from,
                keep,
            };
            let n = targets.len() * self.config.hidden_size();
            log_prob_head::forward(
                &self.distribution(&weights, &self.tempered(&trunk.hidden[..n])),
                &targets,
                &options,
                &self.pool,
            )
        });
        let scores = self.read_scores(
            request,
            &weights,
            &trunk.hidden,
            targets.len(),
            head.as_ref(),
        );
        let trunk = (keep == Keep::Activations).then_some(trunk);
        (scores, SliceTape { trunk, head })
    }

    /// Factor on the hidden states that the head reads. The head is linear without a bias, so a factor on logits, and without a cap the
    /// temperature, is one on the states.
    fn head_factor(&self) -> f32 {
        let scale = self.config.plan.logit_scale.unwrap_or(1.0);
        match self.config.plan.logit_cap {
            Some(_) => scale as f32,
            None => (scale / self.temperature) as f32,
        }
    }

    /// Hidden states with that factor.
    fn tempered<'a>(&self, hidden: &'a [f32]) -> Cow<'a, [f32]> {
        match self.head_factor() {
            1.0 => Cow::Borrowed(hidden),
            factor => hidden.iter().map(|h| factor * h).collect(),
        }
    }

    fn distribution<'a>(&self, weights: &'a Slices<'_>, hidden: &'a [f32]) -> Distribution<'a> {
        Distribution {
            hidden,
            weight: weights.get(self.config.head_weight()),
            width: self.config.hidden_size(),
            cap: self.config.plan.logit_cap.map(|cap| Cap {
                cap: cap as f32,
                temperature: self.temperature as f32,
            }),
            products: self.options.products,
        }
    }

    fn read_scores(
        &self,
        request: &Request<'_>,
        weights: &Slices<'_>,
        hidden: &[f32],
        n: usize,
        head: Option<&HeadOutput>,
    ) -> Scores {
        let width = self.config.hidden_size();
        let wide = |v: &Vec<f32>| v.iter().map(|&x| f64::from(x)).collect::<Vec<f64>>();
        let read = |weight: &str, bias: f32, hidden: &[f32]| {
            let mut out = vec![0.0; hidden.len() / width];
            scalar_head::forward(hidden, weights.get(weight), bias, &mut out);
            wide(&out)
        };
        let (during, after) = hidden.split_at(n * width);
        let bias = weights.find(VALUE_BIAS).map_or(0.0, |b| b[0]);
        Scores {
            log_probs: head
                .filter(|_| request.log_probs)
                .map(|h| wide(&h.log_prob)),
            entropy: head.and_then(|h| h.entropy.as_ref().map(wide)),
            kl: head.and_then(|h| h.kl.as_ref().map(wide)),
            kl_from: head.and_then(|h| h.kl_from.as_ref().map(wide)),
            values: request.values.then(|| read(VALUE_WEIGHT, bias, during)),
            final_values: request.values.then(|| read(VALUE_WEIGHT, bias, after)),
            rewards: request.rewards.then(|| read(REWARD_WEIGHT, 0.0, after)),
        }
    }

    fn embed(&self, batch: &Batch, weights: &Slices<'_>) -> Buffer {
        let width = self.config.hidden_size();
        let table = weights.get(self.config.embedding());
        let mut x = self.pool.take(batch.tokens().len() * width);
        for (row, &token) in x.chunks_exact_mut(width).zip(batch.tokens()) {
            row.copy_from_slice(&table[token as usize * width..][..width]);
        }
        if let Some(scale) = self.config.plan.embedding_scale {
            x.iter_mut().for_each(|x| *x *= scale as f32);
        }
        if let Some(table) = self.config.positions() {
            let table = weights.get(table);
            for (row, &position) in x.chunks_exact_mut(width).zip(batch.positions()) {
                linear::add(row, &table[position as usize * width..][..width]);
            }
        }
        x
    }

    /// Gradients of the tables that the stream begins with, unless they are frozen.
    fn embed_backward(&self, batch: &Batch, dx: &mut [f32], grads: &mut Gradients) {
        let width = self.config.hidden_size();
        let mut add = |name: &str, rows: &[u32], dx: &[f32]| {
            let Some(table) = grads.slice_mut(name) else {
                return;
            };
            for (d, &row) in dx.chunks_exact(width).zip(rows) {
                linear::add(&mut table[row as usize * width..][..width], d);
            }
        };
        if let Some(table) = self.config.positions() {
            add(table, batch.positions(), dx);
        }
        if let Some(scale) = self.config.plan.embedding_scale {
            dx.iter_mut().for_each(|d| *d *= scale as f32);
        }
        add(self.config.embedding(), batch.tokens(), dx);
    }

    fn block(&self, index: usize) -> Block<'_> {
        Block {
            config: &self.config,
            index,
        }
    }

    fn trunk(
        &self,
        batch: &Batch,
        request: &Request<'_>,
        weights: &Slices<'_>,
        keep: bool,
    ) -> TrunkTape {
        let width = self.config.hidden_size();
        let rotary = self.rotary(batch.positions());
        let lengths = batch.lengths();
        let pass = Pass {
            weights,
            lengths: &lengths,
            rotary: &rotary,
            pool: &self.pool,
            products: self.options.products,
            adapter: self.adapter_scale(),
        };
        let mut x = self.embed(batch, weights);
        let lowest = self.lowest_trained().unwrap_or(0);
        let blocks = (0..self.config.n_layers()).map(|block| {
            let keep = keep && block >= lowest;
            if keep && self.options.checkpointing {
                let mut input = self.pool.take(x.len());
                input.copy_from_slice(&x);
                self.block(block).forward(&pass, &mut x, false);
                return Kept::Input(input);
            }
            self.block(block)
                .forward(&pass, &mut x, keep)
                .map_or(Kept::Nothing, |tape| Kept::Tape(Box::new(tape)))
        });
        let blocks = blocks.collect();
        let states = states(batch, request.reads_final());
        let mut before = self.pool.take(states.len() * width);
        for (row, state) in before.chunks_exact_mut(width).zip(&states) {
            row.copy_from_slice(&x[state * width..][..width]);
        }
        drop(x);
        let mut hidden = self.pool.take(before.len());
        let stats = final_norm(&self.config, &pass, &before, &mut hidden);
        let reference = request.reference.map(|model| {
            let weights = model.params.slices();
            model
                .trunk(batch, &Request::log_probs(), &weights, false)
                .hidden
        });
        TrunkTape {
            blocks,
            rotary,
            before,
            stats,
            hidden,
            reference,
        }
    }

    pub(super) fn backward_slices(
        &self,
        batch: &Batch,
        request: &Request<'_>,
        tape: SliceTape,
        grad: &Scores,
        grads: &mut Gradients,
    ) {
        let weights = self.params.slices();
        let trunk = tape
            .trunk
            .unwrap_or_else(|| self.trunk(batch, request, &weights, true));
        let mut dhidden = self.pool.zeros(trunk.hidden.len());
        if let Some(head) = tape.head {
            self.head_backward(
                batch,
                request,
                &weights,
                &trunk,
                head,
                grad,
                &mut dhidden,
                grads,
            );
        }
        self.scalar_heads_backward(batch, &weights, &trunk.hidden, grad, &mut dhidden, grads);
        let norm = format!("{}.", self.config.family.names.final_norm);
        let lowest = self.lowest_trained();
        if lowest == Some(self.config.n_layers())
            && !self
                .params
                .trained()
                .any(|(name, _)| name.starts_with(&norm))
        {
            return;
        }
        let lengths = batch.lengths();
        let pass = Pass {
            weights: &weights,
            lengths: &lengths,
            rotary: &trunk.rotary,
            pool: &self.pool,
            products: self.options.products,
            adapter: self.adapter_scale(),
        };
        let mut dbefore = self.pool.zeros(dhidden.len());
        final_norm_backward(
            &self.config,
            &pass,
            &trunk.before,
            &trunk.stats,
            &dhidden,
            &mut dbefore,
            grads,
        );
        drop((dhidden, trunk.before, trunk.stats, trunk.hidden));
        let mut dx = self
            .pool
            .zeros(batch.tokens().len() * self.config.hidden_size());
        for (row, state) in dbefore
            .chunks_exact(self.config.hidden_size())
            .zip(states(batch, request.reads_final()))
        {
            dx[state * self.config.hidden_size()..][..self.config.hidden_size()]
                .copy_from_slice(row);
        }
        drop(dbefore);
        for (block, kept) in trunk.blocks.into_iter().enumerate().rev() {
            let tape = match kept {
                Kept::Nothing => return,
                Kept::Tape(tape) => tape,
                Kept::Input(mut x) => match self.block(block).forward(&pass, &mut x, true) {
                    Some(tape) => Box::new(tape),
                    None => return,
                },
            };
            self.block(block).backward(&pass, &tape, &mut dx, grads);
        }
        self.embed_backward(batch, &mut dx, grads);
    }

    #[allow(
        clippy::too_many_arguments,
        reason = "one step of `backward_slices`: what it read, what it is given, and both places that gradients go"
    )]
    fn head_backward(
        &self,
        batch: &Batch,
        request: &Request<'_>,
        weights: &Slices<'_>,
        trunk: &TrunkTape,
        head: HeadOutput,
        grad: &Scores,
        dhidden: &mut [f32],
        grads: &mut Gradients,
    ) {
        let parts = [&grad.log_probs, &grad.entropy, &grad.kl, &grad.kl_from];
        if parts.iter().all(|part| part.is_none()) {
            return;
        }
        let targets = batch.targets();
        let n = targets.len() * self.config.hidden_size();
        let narrow = |v: &Vec<f64>| v.iter().map(|&x| x as f32).collect::<Vec<f32>>();
        let log_prob = grad
            .log_probs
            .as_ref()
            .map_or_else(|| vec![0.0; targets.len()], narrow);
        let [entropy, kl, kl_from] =
            [&grad.entropy, &grad.kl, &grad.kl_from].map(|part| part.as_ref().map(narrow));
        let head_grad = HeadGrad {
            log_prob: &log_prob,
            entropy: entropy.as_deref(),
            kl: kl.as_deref(),
            kl_from: kl_from.as_deref(),
        };
        let reference = request
            .reference
            .map(|model| (model, model.params.slices()));
        let hidden = trunk.reference.as_deref().unwrap_or(&[]);
        let reference = reference
            .as_ref()
            .map(|(model, weights)| (model, weights, model.tempered(hidden)));
        let reference = reference
            .as_ref()
            .map(|(model, weights, hidden)| model.distribution(weights, hidden));
        let hidden = self.tempered(&trunk.hidden[..n]);
        let policy = self.distribution(weights, &hidden);
        let dweight = grads.slice_mut(self.config.head_weight());
        log_prob_head::backward(
            &policy,
            &targets,
            reference,
            head,
            &head_grad,
            &mut dhidden[..n],
            dweight,
            &self.pool,
        );
        let factor = self.head_factor();
        if factor != 1.0 {
            // The scalar heads have not written to it yet.
            dhidden[..n].iter_mut().for_each(|d| *d *= factor);
        }
    }

    fn scalar_heads_backward(
        &self,
        batch: &Batch,
        weights: &Slices<'_>,
        hidden: &[f32],
        grad: &Scores,
        dhidden: &mut [f32],
        grads: &mut Gradients,
    ) {
        let n = batch.targets().len() * self.config.hidden_size();
        let mut pull =
            |name: &str, bias: Option<&str>, g: &Option<Vec<f64>>, at: std::ops::Range<usize>| {
                let Some(g) = g else { return };
                let g: Vec<f32> = g.iter().map(|&g| g as f32).collect();
                scalar_head::backward_input(weights.get(name), &g, &mut dhidden[at.clone()]);
                if let Some(dweight) = grads.slice_mut(name) {
                    scalar_head::backward_weight(&hidden[at], &g, dweight);
                }
                if let Some(dbias) = bias.and_then(|bias| grads.slice_mut(bias)) {
                    dbias[0] += g.iter().sum::<f32>();
                }
            };
        pull(VALUE_WEIGHT, Some(VALUE_BIAS), &grad.values, 0..n);
        pull(
            VALUE_WEIGHT,
            Some(VALUE_BIAS),
            &grad.final_values,
            n..hidden.len(),
        );
        pull(REWARD_WEIGHT, None, &grad.rewards, n..hidden.len());
    }

    pub(super) fn logits_slices(&self, batch: &Batch) -> Result<Tensor> {
        let weights = self.params.slices();
        let rotary = self.rotary(batch.positions());
        let lengths = batch.lengths();
        let pass = Pass {
            weights: &weights,
            lengths: &lengths,
            rotary: &rotary,
            pool: &self.pool,
            products: self.options.products,
            adapter: self.adapter_scale(),
        };
        let mut x = self.embed(batch, &weights);
        for block in 0..self.config.n_layers() {
            self.block(block).forward(&pass, &mut x, false);
        }
        let mut hidden = self.pool.take(x.len());
        final_norm(&self.config, &pass, &x, &mut hidden);
        if let Some(scale) = self.config.plan.logit_scale {
            hidden.iter_mut().for_each(|h| *h *= scale as f32);
        }
        let head = Linear {
            weight: weights.get(self.config.head_weight()),
            bias: None,
            inputs: self.config.hidden_size(),
            outputs: self.config.vocab_size(),
            products: self.options.products,
        };
        let n = batch.tokens().len();
        let mut logits = vec![0.0; n * self.config.vocab_size()];
        linear::forward(&head, &hidden, &mut logits, Update::Set);
        log_prob_head::bend(&mut logits, self.config.plan.logit_cap);
        Ok(Tensor::from_vec(
            logits,
            (n, self.config.vocab_size()),
            &Device::Cpu,
        )?)
    }
}
