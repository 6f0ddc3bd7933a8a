//! Whole-model passes as candle expressions: GPUs, and float types other than `f32`.
//!
//! Rows are packed tokens, as on slices: nothing is computed for padding. Only the attention takes texts apart, those of one length
//! together. The backward pass goes block by block here too: each block is run again on its kept input, alone in its graph.

use super::tensor_block::{Qkv, TensorBlocks, Weights, embed, final_norm};
use super::{Keep, Model, REWARD_WEIGHT, Request, Scores, VALUE_BIAS, VALUE_WEIGHT, states};
use crate::Result;
use crate::batch::Batch;
use crate::family::ModelConfig;
use crate::lora::{A_SUFFIX, B_SUFFIX};
use crate::ops::composite;
use crate::params::{Gradients, Params};
use candle_core::{DType, Device, Tensor, Var};

/// States of one piece of the head: the logits of more never exist at once.
const PIECE: usize = 512;

/// Inputs of the blocks and, last, the output of the final one.
#[derive(Debug)]
pub(crate) struct TensorTape(Option<Vec<Tensor>>);

/// Weights with the adapter's factor s; `None` leaves the low-rank products out.
struct Adapted<'a> {
    params: &'a Params,
    scale: Option<f64>,
}

impl Weights for Adapted<'_> {
    fn find(&self, name: &str) -> Option<&Tensor> {
        self.params.get(name).ok()
    }

    fn weight(&self, name: &str) -> Result<&Tensor> {
        self.params.get(name)
    }

    /// The low-rank part is computed in the adapter's own type, which may be wider than the base's.
    fn linear(&self, name: &str, x: &Tensor) -> Result<Tensor> {
        let bias = self.find(&format!("{name}.bias"));
        let y = composite::linear(x, self.weight(&format!("{name}.weight"))?, bias)?;
        let (Some(scale), Some(a)) = (self.scale, self.find(&format!("{name}{A_SUFFIX}"))) else {
            return Ok(y);
        };
        let b = self.weight(&format!("{name}{B_SUFFIX}"))?;
        let u = (composite::linear(&x.to_dtype(a.dtype())?, a, None)? * scale)?;
        Ok((&y + composite::linear(&u, b, None)?.to_dtype(y.dtype())?)?)
    }
}

/// Texts of one length among the packed rows.
struct Group {
    texts: usize,
    length: usize,
    rows: Rows,
    /// Masks of blocks without a window and with one, where there are such blocks.
    masks: [Option<Tensor>; 2],
}

/// Where the texts of a group stand.
enum Rows {
    /// One after the other, from a row on.
    Run(usize),
    Scattered(Tensor),
}

/// What the blocks of one pass share.
struct TensorPass<'a> {
    blocks: TensorBlocks<'a, Adapted<'a>>,
    groups: Vec<Group>,
    /// For every packed row, its place in the groups one after the other; `None` where it is the same.
    order: Option<Tensor>,
}

impl TensorPass<'_> {
    fn block(&self, layer: usize, x: &Tensor) -> Result<Tensor> {
        self.blocks.block(layer, x, |qkv| self.attend(layer, &qkv))
    }

    fn attend(&self, layer: usize, Qkv { q, k, v }: &Qkv) -> Result<Tensor> {
        let config: &ModelConfig = self.blocks.config;
        let share = config.n_heads / config.n_kv_heads;
        let (window, scale) = (config.window(layer), config.attention_scale());
        let mut parts = Vec::with_capacity(self.groups.len());
        for group in &self.groups {
            let (texts, length) = (group.texts, group.length);
            let texts_of = |x: &Tensor| -> Result<Tensor> {
                let (_, heads, d) = x.dims3()?;
                let x = match &group.rows {
                    Rows::Run(start) => x.narrow(0, *start, texts * length)?,
                    Rows::Scattered(rows) => x.contiguous()?.index_select(rows, 0)?,
                };
                Ok(x.reshape((texts, length, heads, d))?.transpose(1, 2)?)
            };
            let k = composite::repeat_heads(&texts_of(k)?, share)?;
            let v = composite::repeat_heads(&texts_of(v)?, share)?;
            let mask = group.masks[usize::from(window.is_some())].as_ref();
            let cap = config.plan.score_cap;
            let y = composite::attention(&texts_of(q)?, &k, &v, mask, scale, cap)?;
            parts.push(y.transpose(1, 2)?.reshape((texts * length, ()))?);
        }
        let all = match &parts[..] {
            [one] => one.clone(),
            parts => Tensor::cat(parts, 0)?,
        };
        Ok(match &self.order {
            None => all,
            Some(order) => all.index_select(order, 0)?,
        })
    }
}

impl Model {
    fn device(&self) -> Result<(&Device, DType)> {
        let table = self.params.get(self.config.embedding())?;
        Ok((table.device(), table.dtype()))
    }

    fn weights(&self) -> Adapted<'_> {
        Adapted {
            params: &self.params,
            scale: self.adapter_scale(),
        }
    }

    fn tensor_pass<'a>(
        &'a self,
        batch: &Batch,
        weights: &'a Adapted<'a>,
    ) -> Result<TensorPass<'a>> {
        let (device, dtype) = self.device()?;
        let n = batch.tokens().len();
        let table = |rotary: &crate::ops::rotary::RotaryTable| -> Result<(Tensor, Tensor)> {
            let (cos, sin) = rotary.split();
            let shaped = |v: Vec<f32>| {
                Tensor::from_vec(v, (n, 1, rotary.dims() / 2), device)?.to_dtype(dtype)
            };
            Ok((shaped(cos)?, shaped(sin)?))
        };
        let rotary = self.rotary(batch.positions());
        let (groups, order) = self.groups(batch, device)?;
        Ok(TensorPass {
            blocks: TensorBlocks {
                config: &self.config,
                weights,
                rotary: rotary.iter().map(table).collect::<Result<_>>()?,
            },
            groups,
            order,
        })
    }

    fn groups(&self, batch: &Batch, device: &Device) -> Result<(Vec<Group>, Option<Tensor>)> {
        let layers = 0..self.config.n_layers();
        let windows: Vec<Option<usize>> = layers.map(|l| self.config.window(l)).collect();
        let (mut groups, mut rows) = (Vec::new(), Vec::new());
        for (length, starts) in batch.by_length() {
            let mask = |windowed: bool| {
                let window = windows.iter().find(|w| w.is_some() == windowed);
                window
                    .map(|w| composite::causal_mask(length, 0, *w, DType::F32, device))
                    .transpose()
            };
            let first = starts[0];
            let run = starts
                .iter()
                .zip(0..)
                .all(|(start, i)| *start == first + i * length);
            let here: Vec<u32> = starts
                .iter()
                .flat_map(|start| (*start..start + length).map(|row| row as u32))
                .collect();
            groups.push(Group {
                texts: starts.len(),
                length,
                masks: [mask(false)?, mask(true)?],
                rows: match run {
                    true => Rows::Run(first),
                    false => Rows::Scattered(Tensor::new(&here[..], device)?),
                },
            });
            rows.extend(here);
        }
        if rows.iter().zip(0..).all(|(row, i)| *row == i) {
            return Ok((groups, None));
        }
        let mut order = vec![0u32; rows.len()];
        for (row, place) in rows.iter().zip(0..) {
            order[*row as usize] = place;
        }
        Ok((groups, Some(Tensor::new(order, device)?)))
    }

    /// The stream before every block and after the last, each detached.
    fn streams(&self, batch: &Batch, keep: bool) -> Result<Vec<Tensor>> {
        let weights = self.weights();
        let pass = self.tensor_pass(batch, &weights)?;
        let tokens = Tensor::new(batch.tokens(), self.device()?.0)?;
        let x = embed(&self.config, &weights, &tokens, batch.positions())?.detach();
        let mut streams = vec![x];
        for block in 0..self.config.n_layers() {
            let x = pass.block(block, &streams[streams.len() - 1])?.detach();
            if !keep {
                streams.clear();
            }
            streams.push(x);
        }
        Ok(streams)
    }

    /// Packed rows of the states that are read.
    fn state_places(&self, batch: &Batch, request: &Request<'_>) -> Result<Tensor> {
        let states = states(batch, request.reads_final());
        let places: Vec<u32> = states.into_iter().map(|s| s as u32).collect();
        Ok(Tensor::new(places, self.device()?.0)?)
    }

    /// Hidden states that are read, after the last norm.
    fn hidden(&self, last: &Tensor, places: &Tensor) -> Result<Tensor> {
        let read = last.index_select(places, 0)?;
        final_norm(&self.config, &self.weights(), &read)
    }

    pub(super) fn forward_tensors(
        &self,
        batch: &Batch,
        request: &Request<'_>,
        keep: Keep,
    ) -> Result<(Scores, TensorTape)> {
        let streams = self.streams(batch, keep == Keep::Activations)?;
        let places = self.state_places(batch, request)?;
        let hidden = self.hidden(&streams[streams.len() - 1], &places)?.detach();
        let reference = self.reference_hidden(batch, request)?;
        let mut scores = Scores::default();
        for piece in pieces(batch.targets().len()) {
            let channels = self.channels(batch, request, &hidden, reference.as_ref(), piece)?;
            for (all, part) in scores.vocabulary_channels().into_iter().zip(channels) {
                let Some(part) = part else { continue };
                all.get_or_insert_default().extend(to_f64(&part)?);
            }
        }
        let n = batch.targets().len();
        let [values, final_values, rewards] = self.scalars(request, &hidden, n)?;
        let read = |t: Option<Tensor>| t.map(|t| to_f64(&t)).transpose();
        scores.values = read(values)?;
        scores.final_values = read(final_values)?;
        scores.rewards = read(rewards)?;
        // An empty batch of responses still has the channels that were asked for.
        for (channel, asked) in scores.vocabulary_channels().into_iter().zip([
            request.log_probs,
            request.entropy,
            request.reference.is_some(),
            request.kl_from,
        ]) {
            if asked {
                channel.get_or_insert_default();
            }
        }
        Ok((
            scores,
            TensorTape((keep == Keep::Activations).then_some(streams)),
        ))
    }

    /// `log π(· | s)` of hidden states: logits in the type of the weights, all that follows in `f32` or better, as text is drawn.
    fn log_distribution(&self, hidden: &Tensor) -> Result<Tensor> {
        let logits = TensorBlocks::logits(&self.config, &self.weights(), hidden)?;
        let wide = composite::widened(&logits)?;
        Ok(match self.temperature == 1.0 {
            true => composite::log_softmax(&wide)?,
            false => composite::log_softmax(&(wide / self.temperature)?)?,
        })
    }

    fn reference_hidden(&self, batch: &Batch, request: &Request<'_>) -> Result<Option<Tensor>> {
        let Some(model) = request.reference else {
            return Ok(None);
        };
        let streams = model.streams(batch, false)?;
        let places = model.state_places(batch, &Request::log_probs())?;
        Ok(Some(model.hidden(&streams[0], &places)?.detach()))
    }

    /// Log-probabilities, entropy and divergence of the states `piece`.
    fn channels(
        &self,
        batch: &Batch,
        request: &Request<'_>,
        hidden: &Tensor,
        reference: Option<&Tensor>,
        piece: std::ops::Range<usize>,
    ) -> Result<[Option<Tensor>; 4]> {
        if !request.reads_vocabulary() {
            return Ok([None, None, None, None]);
        }
        let log_p = self.log_distribution(&hidden.narrow(0, piece.start, piece.len())?)?;
        let targets = Tensor::new(&batch.targets()[piece.clone()], hidden.device())?;
        let entropy = if request.entropy {
            Some((&log_p.exp()? * &log_p)?.sum(1)?.neg()?)
        } else {
            None
        };
        let kls = request.reference.zip(reference);
        let kls = kls.map(|(model, hidden)| -> Result<[Option<Tensor>; 2]> {
            let log_q = model.log_distribution(&hidden.narrow(0, piece.start, piece.len())?)?;
            let log_q = log_q.detach().to_dtype(log_p.dtype())?;
            let kl = (log_p.exp()? * (&log_p - &log_q)?)?.sum(1)?;
            let from = match request.kl_from {
                true => Some((log_q.exp()? * (&log_q - &log_p)?)?.sum(1)?),
                false => None,
            };
            Ok([Some(kl), from])
        });
        let [kl, kl_from] = kls.transpose()?.unwrap_or([None, None]);
        let chosen = request
            .log_probs
            .then(|| log_p.gather(&targets.unsqueeze(1)?, 1)?.squeeze(1))
            .transpose()?;
        Ok([chosen, entropy, kl, kl_from])
    }

    /// Values at the states, values at the final states, rewards.
    fn scalars(
        &self,
        request: &Request<'_>,
        hidden: &Tensor,
        n: usize,
    ) -> Result<[Option<Tensor>; 3]> {
        let read = |asked: bool,
                    name: &str,
                    bias: Option<&str>,
                    from: usize,
                    to: usize|
         -> Result<Option<Tensor>> {
            if !asked || from == to {
                return Ok(asked
                    .then(|| Tensor::zeros(0, DType::F32, hidden.device()))
                    .transpose()?);
            }
            let bias = bias.and_then(|bias| self.params.get(bias).ok());
            let out = composite::linear(
                &hidden.narrow(0, from, to - from)?,
                self.params.get(name)?,
                bias,
            )?;
            Ok(Some(out.squeeze(1)?))
        };
        let all = hidden.dim(0)?;
        Ok([
            read(request.values, VALUE_WEIGHT, Some(VALUE_BIAS), 0, n)?,
            read(request.values, VALUE_WEIGHT, Some(VALUE_BIAS), n, all)?,
            read(request.rewards, REWARD_WEIGHT, None, n, all)?,
        ])
    }

    pub(super) fn backward_tensors(
        &self,
        batch: &Batch,
        request: &Request<'_>,
        tape: TensorTape,
        grad: &Scores,
        grads: &mut Gradients,
    ) -> Result<()> {
        let mut streams = tape.0.map_or_else(|| self.streams(batch, true), Ok)?;
        let lowest = self.lowest_trained();
        let last = Var::from_tensor(&streams.remove(streams.len() - 1))?;
        let places = self.state_places(batch, request)?;
        let hidden = self.hidden(last.as_tensor(), &places)?;
        let at_hidden = Var::from_tensor(&hidden.detach())?;
        let dhidden = self.heads_backward(batch, request, &at_hidden, grad, grads)?;
        let store = (&hidden * &dhidden)?.sum_all()?.backward()?;
        grads.add_store(&self.params, &store)?;
        let Some(dx) = store.get(last.as_tensor()) else {
            return Ok(());
        };
        let mut dx = dx.detach();
        let weights = self.weights();
        let pass = self.tensor_pass(batch, &weights)?;
        for (block, input) in streams.into_iter().enumerate().rev() {
            if lowest.is_some_and(|lowest| block < lowest) {
                return Ok(());
            }
            let input = Var::from_tensor(&input)?;
            let output = pass.block(block, input.as_tensor())?;
            let store = (output * &dx)?.sum_all()?.backward()?;
            grads.add_store(&self.params, &store)?;
            let Some(next) = store.get(input.as_tensor()) else {
                return Ok(());
            };
            dx = next.detach();
        }
        if lowest.is_none() {
            let tokens = Tensor::new(batch.tokens(), self.device()?.0)?;
            let rows = embed(&self.config, &weights, &tokens, batch.positions())?;
            let store = (rows * dx)?.sum_all()?.backward()?;
            grads.add_store(&self.params, &store)?;
        }
        Ok(())
    }

    /// The gradient of the hidden states, summed over the pieces of the head.
    fn heads_backward(
        &self,
        batch: &Batch,
        request: &Request<'_>,
        hidden: &Var,
        grad: &Scores,
        grads: &mut Gradients,
    ) -> Result<Tensor> {
        let n = batch.targets().len();
        let reference = self.reference_hidden(batch, request)?;
        let mut sum = hidden.as_tensor().zeros_like()?.detach();
        let mut pull = |scalar: Option<Tensor>| -> Result<()> {
            let Some(scalar) = scalar else { return Ok(()) };
            let store = scalar.backward()?;
            grads.add_store(&self.params, &store)?;
            if let Some(d) = store.get(hidden.as_tensor()) {
                sum = (&sum + d)?.detach();
            }
            Ok(())
        };
        let parts = [&grad.log_probs, &grad.entropy, &grad.kl, &grad.kl_from];
        for piece in pieces(n) {
            let channels = self.channels(
                batch,
                request,
                hidden.as_tensor(),
                reference.as_ref(),
                piece.clone(),
            )?;
            let mut scalar = None;
            for (channel, grad) in channels.into_iter().zip(parts) {
                let (Some(channel), Some(grad)) = (channel, grad) else {
                    continue;
                };
                scalar = Some(add_weighted(scalar, &channel, &grad[piece.clone()])?);
            }
            pull(scalar)?;
        }
        let mut scalar = None;
        let parts = [&grad.values, &grad.final_values, &grad.rewards];
        for (channel, grad) in self
            .scalars(request, hidden.as_tensor(), n)?
            .into_iter()
            .zip(parts)
        {
            let (Some(channel), Some(grad)) = (channel, grad) else {
                continue;
            };
            if !grad.is_empty() {
                scalar = Some(add_weighted(scalar, &channel, grad)?);
            }
        }
        pull(scalar)?;
        Ok(sum)
    }

    pub(super) fn logits_tensors(&self, batch: &Batch) -> Result<Tensor> {
        let last = self.streams(batch, false)?.remove(0);
        let hidden = final_norm(&self.config, &self.weights(), &last)?;
        Ok(TensorBlocks::logits(&self.config, &self.weights(), &hidden)?.detach())
    }
}

impl Scores {
    fn vocabulary_channels(&mut self) -> [&mut Option<Vec<f64>>; 4] {
        [
            &mut self.log_probs,
            &mut self.entropy,
            &mut self.kl,
            &mut self.kl_from,
        ]
    }
}

fn pieces(n: usize) -> impl Iterator<Item = std::ops::Range<usize>> {
    (0..n)
        .step_by(PIECE)
        .map(move |start| start..n.min(start + PIECE))
}

fn to_f64(t: &Tensor) -> Result<Vec<f64>> {
    Ok(t.to_dtype(DType::F64)?.to_vec1()?)
}

fn add_weighted(sum: Option<Tensor>, channel: &Tensor, weights: &[f64]) -> Result<Tensor> {
    let weights = Tensor::new(weights, channel.device())?.to_dtype(channel.dtype())?;
    let term = (channel * weights)?.sum_all()?.to_dtype(DType::F64)?;
    Ok(match sum {
        Some(sum) => (sum + term)?,
        None => term,
    })
}
