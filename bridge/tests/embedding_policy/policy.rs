//! A softmax policy over an embedding table of prefixes, differentiated by candle in f64.
//!
//! Its parameters are exactly the logits of [`rto::policy::TabularSoftmax`], so the two backends must take the same
//! steps: whatever an algorithm does through the seam can be checked against exact gradients here, before a
//! transformer is involved.

use std::sync::Arc;

use candle_core::{D, DType, Device, Tensor, Var};
use rand::Rng;
use rto::mdp::{StateIx, TabularPolicy};
use rto::policy::{Optimizer, OptimizerConfig, StateMap, Walk};
use rto::seq::{
    Channel, Episode, PerToken, Policy, PolicyLearner, Ragged, StepReport, StreamKey,
    TokenObjective, TokenScorer, Trainable, inverse_cdf, loss_and_score_grad,
};
use rto::{Error, Result, Token};

/// π(·|s) = softmax(E_s / T) with an embedding table E `[n_states, n_actions]` as a candle tensor on the CPU.
///
/// With values, E is `[n_states, n_actions + 1]` and its last column is V(s), as in [`rto::policy::TabularActorCritic`].
#[derive(Debug, Clone)]
pub struct EmbeddingPolicy {
    map: Arc<StateMap>,
    table: Tensor,
    temperature: f64,
    /// log π_ref, `[n_states, n_actions]`.
    reference: Option<Tensor>,
    channels: Vec<Channel>,
}

fn backend(error: candle_core::Error) -> Error {
    Error::backend_because(error)
}

impl EmbeddingPolicy {
    /// A policy from logits in row order.
    ///
    /// # Errors
    /// [`Error::Shape`]; [`Error::NonFinite`] on a logit that is not finite: π must have full support.
    pub fn try_new(map: Arc<StateMap>, logits: &[f64]) -> Result<Self> {
        let shape = (map.mdp().n_states(), map.mdp().n_actions());
        Ok(Self {
            table: table(logits, shape, "logit")?,
            map,
            temperature: 1.0,
            reference: None,
            channels: vec![Channel::LogProb],
        })
    }

    /// The same logits at temperature T; T is then part of π in scores and samples.
    ///
    /// # Errors
    /// [`Error::Config`] unless T is finite and positive.
    pub fn with_temperature(mut self, temperature: f64) -> Result<Self> {
        if !(temperature.is_finite() && temperature > 0.0) {
            return Err(Error::config("temperature", temperature, "finite and > 0"));
        }
        self.temperature = temperature;
        Ok(self)
    }

    /// The same policy, which also gives [`Channel::Entropy`].
    pub fn with_entropy(mut self) -> Self {
        self.channels.push(Channel::Entropy);
        self
    }

    /// The same policy, which also gives [`Channel::KlToReference`] and [`Channel::KlFromReference`].
    ///
    /// # Errors
    /// [`Error::Shape`]; [`Error::NonFinite`] where the reference has no mass.
    pub fn with_reference(mut self, reference: &TabularPolicy) -> Result<Self> {
        let values: Vec<f64> = reference.log_probs().iter().copied().collect();
        let shape = (self.map.mdp().n_states(), self.map.mdp().n_actions());
        self.reference = Some(table(&values, shape, "log-probability of the reference")?);
        self.channels
            .extend([Channel::KlToReference, Channel::KlFromReference]);
        Ok(self)
    }

    /// The same policy, which also gives V, `[n_states]`, in [`Channel::Value`] and [`Channel::FinalValue`], 0 where the table of states has ended.
    /// Its learner is then actor and critic on one trunk, or a separate critic.
    ///
    /// # Errors
    /// [`Error::Shape`]; [`Error::NonFinite`]; [`Error::Config`] when there are values already.
    pub fn with_values(mut self, values: &[f64]) -> Result<Self> {
        if self.channels.contains(&Channel::Value) {
            let must = "given once: this policy has values already";
            return Err(Error::config("values", "a second column", must));
        }
        let column = table(values, (self.map.mdp().n_states(), 1), "value")?;
        self.table = Tensor::cat(&[&self.table, &column], 1).map_err(backend)?;
        self.channels.extend([Channel::Value, Channel::FinalValue]);
        Ok(self)
    }

    /// The logits in row order; with values, logits and value of each state in turn.
    ///
    /// # Errors
    /// [`Error::Backend`].
    pub fn params(&self) -> Result<Vec<f64>> {
        self.table
            .flatten_all()
            .and_then(|t| t.to_vec1())
            .map_err(backend)
    }

    /// log π(·|s) of a list of states, `[N, A]`, as a graph over `table`.
    fn log_probs(&self, table: &Tensor, states: &Tensor) -> candle_core::Result<Tensor> {
        let rows = table.index_select(states, 0)?;
        let logits = (rows.narrow(1, 0, self.map.mdp().n_actions())? / self.temperature)?;
        let top = logits.max_keepdim(D::Minus1)?.detach();
        let shifted = logits.broadcast_sub(&top)?;
        let norm = shifted.exp()?.sum_keepdim(D::Minus1)?.log()?;
        shifted.broadcast_sub(&norm)
    }

    /// V of a list of states, 0 where the table of states has ended, `[N]`, as a graph over `table`.
    fn values(&self, table: &Tensor, states: &[StateIx]) -> candle_core::Result<Tensor> {
        let goes_on = |s: &StateIx| *s != StateIx::END;
        let at = |s: &StateIx| if goes_on(s) { s.0 } else { 0 };
        let ids: Vec<u32> = states.iter().map(at).collect();
        let alive: Vec<f64> = states.iter().map(|s| f64::from(goes_on(s))).collect();
        let n = states.len();
        let rows = table.index_select(&Tensor::from_vec(ids, n, &Device::Cpu)?, 0)?;
        let column = rows.narrow(1, self.map.mdp().n_actions(), 1)?;
        column.squeeze(1)? * Tensor::from_vec(alive, n, &Device::Cpu)?
    }

    /// The channels of all tokens of a walk as graphs over `table`: `[N]` each, [`Channel::FinalValue`] `[B]`.
    fn forward(&self, table: &Tensor, walk: &Walk) -> candle_core::Result<Vec<Tensor>> {
        let states: Vec<u32> = walk.steps.iter().map(|(s, _)| s.0).collect();
        let actions: Vec<u32> = walk.steps.iter().map(|(_, a)| a.0).collect();
        let n = states.len();
        let states = Tensor::from_vec(states, n, &Device::Cpu)?;
        let actions = Tensor::from_vec(actions, (n, 1), &Device::Cpu)?;
        let log_pi = self.log_probs(table, &states)?;
        let reference = match &self.reference {
            Some(all) => Some(all.index_select(&states, 0)?),
            None => None,
        };
        let reference = || {
            let missing = || candle_core::Error::msg("a KL channel without a reference");
            reference.as_ref().ok_or_else(missing)
        };
        let channel = |c: &Channel| match c {
            Channel::LogProb => log_pi.gather(&actions, 1)?.squeeze(1),
            Channel::Entropy => (log_pi.exp()? * &log_pi)?.sum(1)?.neg(),
            Channel::KlToReference => (log_pi.exp()? * (&log_pi - reference()?)?)?.sum(1),
            Channel::KlFromReference => {
                let q = reference()?;
                (q.exp()? * (q - &log_pi)?)?.sum(1)
            }
            Channel::Value => {
                let states: Vec<StateIx> = walk.steps.iter().map(|(s, _)| *s).collect();
                self.values(table, &states)
            }
            Channel::FinalValue => self.values(table, &walk.last),
            other => candle_core::bail!("a policy has no {} channel", other.name()),
        };
        self.channels.iter().map(channel).collect()
    }
}

/// A checked `[n_states, n_actions]` tensor.
fn table(values: &[f64], shape: (usize, usize), what: &str) -> Result<Tensor> {
    if values.len() != shape.0 * shape.1 {
        return Err(Error::Shape {
            what: format!("table ({} x {} values)", shape.0, shape.1),
            expected: shape.0 * shape.1,
            got: values.len(),
        });
    }
    if let Some(i) = values.iter().position(|v| !v.is_finite()) {
        return Err(Error::NonFinite {
            what: format!("{what}[{}][{}]", i / shape.1, i % shape.1),
            value: values[i],
        });
    }
    Tensor::from_slice(values, shape, &Device::Cpu).map_err(backend)
}

impl TokenScorer for EmbeddingPolicy {
    fn channels(&self) -> &[Channel] {
        &self.channels
    }

    fn scores(&self, batch: &[Episode]) -> Result<PerToken> {
        let walk = self.map.walk_all(batch)?;
        let mut scores = PerToken::new(batch);
        if batch.is_empty() {
            for &c in &self.channels {
                scores = scores.with(c, Ragged::zeros(batch))?;
            }
            return Ok(scores);
        }
        // Detached, so that no graph is kept.
        let tensors = self.forward(&self.table.detach(), &walk).map_err(backend)?;
        for (&c, tensor) in self.channels.iter().zip(tensors) {
            let values: Vec<f64> = tensor.to_vec1().map_err(backend)?;
            let mut ragged = match c {
                Channel::FinalValue => Ragged::zeros_like_lengths(batch.iter().map(|_| 1)),
                _ => Ragged::zeros(batch),
            };
            ragged.values_mut().copy_from_slice(&values);
            scores = scores.with(c, ragged)?;
        }
        Ok(scores)
    }
}

impl Policy for EmbeddingPolicy {
    fn sample(&self, prompts: &[Arc<[Token]>], keys: &[StreamKey]) -> Result<Vec<Episode>> {
        StreamKey::check_one_per_prompt(prompts, keys)?;
        let mut rows: Vec<_> = keys.iter().map(|k| (k.rng(), Vec::new())).collect();
        let mut states = prompts
            .iter()
            .map(|p| self.map.root(p))
            .collect::<Result<Vec<_>>>()?;
        let detached = self.table.detach();
        loop {
            // Only responses that go on are run forward.
            let open: Vec<usize> = (0..states.len())
                .filter(|&i| states[i] != StateIx::END)
                .collect();
            if open.is_empty() {
                break;
            }
            let ids: Vec<u32> = open.iter().map(|&i| states[i].0).collect();
            let log_pi: Vec<Vec<f64>> = Tensor::from_vec(ids, open.len(), &Device::Cpu)
                .and_then(|ids| self.log_probs(&detached, &ids)?.to_vec2())
                .map_err(backend)?;
            for (&i, row) in open.iter().zip(&log_pi) {
                let a = inverse_cdf(row, rows[i].0.random()) as Token;
                rows[i].1.push(a);
                states[i] = self.map.next(states[i], rto::mdp::ActionIx(a));
            }
        }
        let episode = |(prompt, (_, y)): (&Arc<[Token]>, (_, Vec<Token>))| {
            let finish = self.map.finish(y.last().copied().unwrap_or_default());
            Episode::try_new(prompt.clone(), y, finish)
        };
        prompts.iter().zip(rows).map(episode).collect()
    }
}

/// An [`EmbeddingPolicy`] with an optimiser, trained in micro-batches.
#[derive(Debug)]
pub struct EmbeddingLearner {
    policy: EmbeddingPolicy,
    table: Var,
    optimizer: Optimizer,
    micro_batch: usize,
}

impl EmbeddingLearner {
    /// A learner that starts at `policy` and keeps the graph of `micro_batch` responses at a time.
    ///
    /// # Errors
    /// [`Error::Config`] when `micro_batch` is 0; as [`OptimizerConfig::check`].
    pub fn try_new(
        policy: EmbeddingPolicy,
        config: OptimizerConfig,
        micro_batch: usize,
    ) -> Result<Self> {
        if micro_batch == 0 {
            return Err(Error::config("micro_batch", 0, "at least 1"));
        }
        let table = Var::from_tensor(&policy.table).map_err(backend)?;
        Ok(Self {
            optimizer: Optimizer::try_new(config, policy.table.elem_count())?,
            policy,
            table,
            micro_batch,
        })
    }

    /// Σ ∂ℒ/∂score · ∂score/∂E, `[n_states · n_actions]`: forward passes recomputed micro-batch by micro-batch, their
    /// gradients added, so that groups of an objective may span them.
    ///
    /// # Errors
    /// As [`TokenScorer::scores`]; [`Error::Shape`] when the gradient belongs to another batch.
    pub fn pull_back(&self, batch: &[Episode], score_grad: &PerToken) -> Result<Vec<f64>> {
        for &c in &self.policy.channels {
            let grad = score_grad.get(c)?;
            match c {
                Channel::FinalValue => {
                    let ones = Ragged::zeros_like_lengths(batch.iter().map(|_| 1));
                    ones.check_same_shape(c.name(), grad)?;
                }
                _ => grad.check_fits(c.name(), batch)?,
            }
        }
        let mut total = vec![0.0; self.table.elem_count()];
        for (m, rows) in batch.chunks(self.micro_batch).enumerate() {
            let walk = self.policy.map.walk_all(rows)?;
            let first = m * self.micro_batch;
            let part = self.pull_back_rows(&walk, score_grad, first..first + rows.len())?;
            if let Some(part) = part {
                total.iter_mut().zip(&part).for_each(|(t, p)| *t += p);
            }
        }
        Ok(total)
    }

    fn pull_back_rows(
        &self,
        walk: &Walk,
        score_grad: &PerToken,
        rows: std::ops::Range<usize>,
    ) -> Result<Option<Vec<f64>>> {
        let run = || -> candle_core::Result<Option<Vec<f64>>> {
            let tensors = self.policy.forward(self.table.as_tensor(), walk)?;
            let mut loss = Tensor::zeros((), DType::F64, &Device::Cpu)?;
            for (&c, tensor) in self.policy.channels.iter().zip(&tensors) {
                let weights: Vec<f64> = rows
                    .clone()
                    .flat_map(|i| score_grad.row(c, i).iter().copied())
                    .collect();
                let n = weights.len();
                let weights = Tensor::from_vec(weights, n, &Device::Cpu)?;
                loss = (loss + (weights * tensor)?.sum_all()?)?;
            }
            let grads = loss.backward()?;
            let part = grads.get(self.table.as_tensor());
            part.map(|g| g.flatten_all()?.to_vec1()).transpose()
        };
        run().map_err(backend)
    }
}

impl Trainable for EmbeddingLearner {
    fn step(&mut self, batch: &[Episode], objective: &dyn TokenObjective) -> Result<StepReport> {
        let scores = self.policy.scores(batch)?;
        let (loss, score_grad) = loss_and_score_grad(objective, &scores)?;
        let grad = self.pull_back(batch, &score_grad)?;
        let mut params = self.policy.params()?;
        let grad_norm = self.optimizer.step(&mut params, &grad)?;
        let shape = self.policy.table.dims2().map_err(backend)?;
        // A new tensor: snapshots keep the old one.
        let next = table(&params, shape, "logit after the step")?;
        self.table.set(&next).map_err(backend)?;
        self.policy.table = next;
        Ok(StepReport {
            loss,
            grad_norm,
            learning_rate: self.optimizer.learning_rate(),
        })
    }

    fn set_learning_rate(&mut self, learning_rate: f64) {
        self.optimizer.set_learning_rate(learning_rate);
    }
}

impl PolicyLearner for EmbeddingLearner {
    type Policy = EmbeddingPolicy;

    fn policy(&self) -> &Self::Policy {
        &self.policy
    }

    fn snapshot(&self) -> Result<Self::Policy> {
        Ok(self.policy.clone())
    }
}
