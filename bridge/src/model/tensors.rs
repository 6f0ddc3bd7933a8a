//! Whole-model passes as candle expressions: GPUs, and float types other than `f32`.
//!
//! The backward pass goes block by block here too: each block is run again on its kept input, alone in its graph.

use super::architecture::TensorPass;
use super::{Keep, Model, REWARD_WEIGHT, Request, Scores, VALUE_BIAS, VALUE_WEIGHT, states};
use crate::Result;
use crate::batch::{Batch, Padded};
use crate::ops::composite;
use crate::params::Gradients;
use candle_core::{DType, Device, Tensor, Var};

/// States of one piece of the head: the logits of more never exist at once.
const PIECE: usize = 512;

/// Inputs of the blocks and, last, the output of the final one.
#[derive(Debug)]
pub(crate) struct TensorTape(Option<Vec<Tensor>>);

impl Model {
    fn device(&self) -> Result<(&Device, DType)> {
        let table = self.params.get(self.config.embedding())?;
        Ok((table.device(), table.dtype()))
    }

    fn tensor_pass(&self, padded: &Padded) -> Result<TensorPass<'_>> {
        let (device, dtype) = self.device()?;
        let (rows, width) = padded.tokens.dims2()?;
        let rotary = self.rotary(&padded.positions);
        let (cos, sin) = rotary.split();
        let shaped = |v: Vec<f32>| {
            Tensor::from_vec(v, (rows, 1, width, rotary.dims() / 2), device)?.to_dtype(dtype)
        };
        let mask = composite::causal_mask(width, self.config.window(), dtype, device)?;
        Ok(TensorPass {
            params: &self.params,
            cos: shaped(cos)?,
            sin: shaped(sin)?,
            mask,
            adapter: self.adapter_scale(),
        })
    }

    /// The stream before every block and after the last, each detached.
    fn streams(&self, batch: &Batch, keep: bool) -> Result<Vec<Tensor>> {
        let padded = batch.padded(self.device()?.0)?;
        let pass = self.tensor_pass(&padded)?;
        let (rows, width) = padded.tokens.dims2()?;
        let table = self.params.get(self.config.embedding())?.detach();
        let x = table
            .index_select(&padded.tokens.flatten_all()?, 0)?
            .reshape((rows, width, self.config.hidden_size()))?;
        let mut streams = vec![x];
        for block in 0..self.config.n_layers() {
            let x = self
                .architecture
                .block_tensor(&pass, block, &streams[streams.len() - 1])?
                .detach();
            if !keep {
                streams.clear();
            }
            streams.push(x);
        }
        Ok(streams)
    }

    /// Places of the states that are read in the padded grid.
    fn state_places(&self, batch: &Batch, request: &Request<'_>) -> Result<Tensor> {
        let (device, _) = self.device()?;
        let padded = batch.padded(device)?;
        let places: Vec<u32> = states(batch, request.reads_final())
            .into_iter()
            .map(|s| padded.places[s])
            .collect();
        Ok(Tensor::new(places, device)?)
    }

    /// Hidden states that are read, after the last norm.
    fn hidden(&self, last: &Tensor, places: &Tensor) -> Result<Tensor> {
        let read = last.flatten_to(1)?.index_select(places, 0)?;
        self.architecture.final_norm_tensor(&self.params, &read)
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

    /// Hidden states divided by the temperature, as on slices.
    fn tempered_tensor(&self, hidden: Tensor) -> Result<Tensor> {
        Ok(match self.temperature == 1.0 {
            true => hidden,
            false => (hidden / self.temperature)?,
        })
    }

    fn reference_hidden(
        &self,
        batch: &Batch,
        request: &Request<'_>,
    ) -> Result<Option<(Tensor, Tensor)>> {
        let Some(model) = request.reference else {
            return Ok(None);
        };
        let streams = model.streams(batch, false)?;
        let places = model.state_places(batch, &Request::log_probs())?;
        let hidden = model.tempered_tensor(model.hidden(&streams[0], &places)?.detach())?;
        Ok(Some((
            hidden,
            model.params.get(model.config.head_weight())?.detach(),
        )))
    }

    /// Log-probabilities, entropy and divergence of the states `piece`.
    fn channels(
        &self,
        batch: &Batch,
        request: &Request<'_>,
        hidden: &Tensor,
        reference: Option<&(Tensor, Tensor)>,
        piece: std::ops::Range<usize>,
    ) -> Result<[Option<Tensor>; 4]> {
        if !request.reads_vocabulary() {
            return Ok([None, None, None, None]);
        }
        let head = self.params.get(self.config.head_weight())?;
        let read = self.tempered_tensor(hidden.narrow(0, piece.start, piece.len())?)?;
        let logits = composite::linear(&read, head, None)?;
        let log_p = composite::log_softmax(&logits)?;
        let targets = Tensor::new(&batch.targets()[piece.clone()], hidden.device())?;
        let entropy = if request.entropy {
            Some((&log_p.exp()? * &log_p)?.sum(1)?.neg()?)
        } else {
            None
        };
        let kls = reference.map(|(hidden, head)| -> Result<[Option<Tensor>; 2]> {
            let logits =
                composite::linear(&hidden.narrow(0, piece.start, piece.len())?, head, None)?;
            let log_q = composite::log_softmax(&logits)?.to_dtype(log_p.dtype())?;
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
        let padded = batch.padded(self.device()?.0)?;
        let pass = self.tensor_pass(&padded)?;
        for (block, input) in streams.into_iter().enumerate().rev() {
            if lowest.is_some_and(|lowest| block < lowest) {
                return Ok(());
            }
            let input = Var::from_tensor(&input)?;
            let output = self
                .architecture
                .block_tensor(&pass, block, input.as_tensor())?;
            let store = (output * &dx)?.sum_all()?.backward()?;
            grads.add_store(&self.params, &store)?;
            let Some(next) = store.get(input.as_tensor()) else {
                return Ok(());
            };
            dx = next.detach();
        }
        if lowest.is_none() {
            let table = self.params.get(self.config.embedding())?;
            let rows = table.index_select(&padded.tokens.flatten_all()?, 0)?;
            let store = (rows * dx.flatten_to(1)?)?.sum_all()?.backward()?;
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
        let streams = self.streams(batch, false)?;
        let places = Tensor::new(batch.padded(self.device()?.0)?.places, self.device()?.0)?;
        let hidden = self.hidden(&streams[0], &places)?;
        Ok(composite::linear(&hidden, self.params.get(self.config.head_weight())?, None)?.detach())
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
