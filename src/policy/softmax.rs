//! Softmax policies on a table, with exact gradients.

use std::sync::Arc;

use ndarray::Array2;
use rand::Rng;

use super::{Optimizer, OptimizerConfig, RowGradient, StateMap, exact_policy_gradient};
use crate::features::FeatureMap;
use crate::mdp::{Beta, StateIx, TabularPolicy, check_finite, check_len};
use crate::numerics::log_sum_exp;
use crate::reward::RewardModel;
use crate::seq::{
    Channel, Episode, PerToken, Policy, PolicyLearner, Ragged, StepReport, StreamKey,
    TokenObjective, TokenScorer, Trainable, inverse_cdf, loss_and_score_grad,
};
use crate::{Error, Result, Token};

/// Logits z(s, ·) with parameters.
pub trait Logits: Clone {
    /// (|𝒮|, A).
    fn shape(&self) -> (usize, usize);

    /// θ.
    fn params(&self) -> &[f64];

    /// θ, to step on.
    fn params_mut(&mut self) -> &mut [f64];

    /// Width of the rows a gradient is collected in: the parameters one state touches.
    fn row_width(&self) -> usize;

    /// Writes z(s, ·), `[A]`.
    fn write(&self, s: StateIx, out: &mut [f64]);

    /// Adds (∂z(s, ·)/∂θ)ᵀ d for d = ∂ℒ/∂z(s, ·), `[A]`.
    fn pull_back(&self, s: StateIx, d: &[f64], grad: &mut RowGradient);
}

/// One parameter per state and action.
#[derive(Debug, Clone, PartialEq)]
pub struct LogitTable {
    n_actions: usize,
    values: Vec<f64>,
}

impl Logits for LogitTable {
    fn shape(&self) -> (usize, usize) {
        (self.values.len() / self.n_actions, self.n_actions)
    }

    fn params(&self) -> &[f64] {
        &self.values
    }

    fn params_mut(&mut self) -> &mut [f64] {
        &mut self.values
    }

    fn row_width(&self) -> usize {
        self.n_actions
    }

    #[inline]
    fn write(&self, s: StateIx, out: &mut [f64]) {
        out.copy_from_slice(&self.values[s.ix() * self.n_actions..][..self.n_actions]);
    }

    #[inline]
    fn pull_back(&self, s: StateIx, d: &[f64], grad: &mut RowGradient) {
        for (g, d) in grad.row_mut(s.ix()).iter_mut().zip(d) {
            *g += d;
        }
    }
}

/// z(s, a) = log π_base(a|s) + θᵀφ(s, a).
#[derive(Debug)]
pub struct LogLinear<F> {
    features: Arc<F>,
    base: Arc<TabularPolicy>,
    theta: Vec<f64>,
}

// Not derived: the features are shared, not copied.
impl<F> Clone for LogLinear<F> {
    fn clone(&self) -> Self {
        Self {
            features: self.features.clone(),
            base: self.base.clone(),
            theta: self.theta.clone(),
        }
    }
}

impl<F: FeatureMap> Logits for LogLinear<F> {
    fn shape(&self) -> (usize, usize) {
        self.features.shape()
    }

    fn params(&self) -> &[f64] {
        &self.theta
    }

    fn params_mut(&mut self) -> &mut [f64] {
        &mut self.theta
    }

    fn row_width(&self) -> usize {
        self.theta.len()
    }

    fn write(&self, s: StateIx, out: &mut [f64]) {
        for (a, (z, base)) in out.iter_mut().zip(self.base.row(s.ix())).enumerate() {
            let a = crate::mdp::ActionIx(a as u32);
            *z = base + self.features.dot(s, a, &self.theta);
        }
    }

    fn pull_back(&self, s: StateIx, d: &[f64], grad: &mut RowGradient) {
        let row = grad.row_mut(0);
        for (a, d) in d.iter().enumerate() {
            let a = crate::mdp::ActionIx(a as u32);
            self.features.add(s, a, *d, row);
        }
    }
}

/// π(a|s) = exp(z(s, a)/T) / Σ_b exp(z(s, b)/T), natural logarithms, full support.
///
/// It always gives [`Channel::LogProb`] and, where asked for at construction, [`Channel::Entropy`] and both KL channels.
#[derive(Debug, Clone)]
pub struct SoftmaxPolicy<L> {
    map: Arc<StateMap>,
    logits: L,
    temperature: f64,
    reference: Option<Arc<TabularPolicy>>,
    channels: Vec<Channel>,
}

/// [`SoftmaxPolicy`] with one logit per state and action.
pub type TabularSoftmax = SoftmaxPolicy<LogitTable>;
/// [`SoftmaxPolicy`] with linear logits on top of a base policy.
pub type LogLinearSoftmax<F> = SoftmaxPolicy<LogLinear<F>>;

impl TabularSoftmax {
    /// From logits, `[n_states, n_actions]`.
    ///
    /// # Errors
    /// [`Error::Shape`]; [`Error::NonFinite`] on a logit that is not finite: π must have full support.
    pub fn try_new(map: Arc<StateMap>, logits: &Array2<f64>) -> Result<Self> {
        let n_actions = logits.ncols();
        let values: Vec<f64> = logits.iter().copied().collect();
        let name = |i: usize| format!("logits[{}][{}]", i / n_actions, i % n_actions);
        check_finite(name, &values)?;
        Self::from_logits(map, LogitTable { n_actions, values })
    }

    /// The policy of a table, with logits log π.
    ///
    /// # Errors
    /// [`Error::Config`] where it has no mass: a softmax has full support.
    pub fn from_policy(map: Arc<StateMap>, policy: &TabularPolicy) -> Result<Self> {
        check_full_support("policy", policy)?;
        Self::try_new(map, policy.log_probs())
    }
}

impl<F: FeatureMap> LogLinearSoftmax<F> {
    /// π_θ(a|s) ∝ π_base(a|s) exp(θᵀφ(s, a)).
    ///
    /// # Errors
    /// [`Error::Shape`]; [`Error::NonFinite`]; [`Error::Config`] where the base policy has no mass.
    pub fn try_new(
        map: Arc<StateMap>,
        features: Arc<F>,
        base: Arc<TabularPolicy>,
        theta: &[f64],
    ) -> Result<Self> {
        let (n_states, n_actions) = features.shape();
        base.check_shape("base policy", n_states, n_actions)?;
        check_full_support("base policy", &base)?;
        check_len("theta", features.dim(), theta.len())?;
        check_finite(|i| format!("theta[{i}]"), theta)?;
        let theta = theta.to_vec();
        let logits = LogLinear {
            features,
            base,
            theta,
        };
        Self::from_logits(map, logits)
    }
}

impl<L: Logits> SoftmaxPolicy<L> {
    fn from_logits(map: Arc<StateMap>, logits: L) -> Result<Self> {
        let ((n, na), mdp) = (logits.shape(), map.mdp());
        if (n, na) != (mdp.n_states(), mdp.n_actions()) {
            return Err(Error::Shape {
                what: format!("logits ({n} x {na} values)"),
                expected: mdp.n_states() * mdp.n_actions(),
                got: n * na,
            });
        }
        Ok(Self {
            map,
            logits,
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
            let must = "finite and > 0";
            return Err(Error::config("temperature", temperature, must));
        }
        self.temperature = temperature;
        Ok(self)
    }

    /// Also gives [`Channel::Entropy`].
    pub fn with_entropy(mut self) -> Self {
        self.channels.push(Channel::Entropy);
        self
    }

    /// Also gives [`Channel::KlToReference`] and [`Channel::KlFromReference`].
    ///
    /// # Errors
    /// [`Error::Shape`]; [`Error::Config`] where the reference has no mass: KL(π ‖ π_ref) would be infinite.
    pub fn with_reference(mut self, reference: Arc<TabularPolicy>) -> Result<Self> {
        let (n_states, n_actions) = self.logits.shape();
        reference.check_shape("reference", n_states, n_actions)?;
        check_full_support("reference", &reference)?;
        self.reference = Some(reference);
        self.channels
            .extend([Channel::KlToReference, Channel::KlFromReference]);
        Ok(self)
    }

    /// The states behind prompts and tokens.
    pub fn map(&self) -> &Arc<StateMap> {
        &self.map
    }

    /// T.
    pub fn temperature(&self) -> f64 {
        self.temperature
    }

    /// The parameters: logits `[n_states · n_actions]` in row order, or θ.
    pub fn params(&self) -> &[f64] {
        self.logits.params()
    }

    /// The same policy with other parameters.
    ///
    /// # Errors
    /// [`Error::Shape`], [`Error::NonFinite`].
    pub fn with_params(mut self, params: &[f64]) -> Result<Self> {
        check_len("parameters", self.params().len(), params.len())?;
        check_finite(|i| format!("parameter {i}"), params)?;
        self.logits.params_mut().copy_from_slice(params);
        Ok(self)
    }

    /// π as a table, without going through episodes.
    ///
    /// # Errors
    /// [`Error::NonFinite`] naming a state whose logits overflowed.
    pub fn table(&self) -> Result<TabularPolicy> {
        let (n, na) = self.logits.shape();
        let mut table = Array2::zeros((n, na));
        let rows = table.as_slice_mut().expect("fresh tables are in row order");
        for (s, row) in rows.chunks_exact_mut(na).enumerate() {
            self.write_log_probs(StateIx(s as u32), row);
            if !row.iter().sum::<f64>().is_finite() {
                return Err(Error::NonFinite {
                    what: format!("log-probabilities of state {s}"),
                    value: row.iter().sum(),
                });
            }
        }
        Ok(TabularPolicy::trusted(table))
    }

    /// log π(·|s), `[A]`.
    #[inline]
    fn write_log_probs(&self, s: StateIx, out: &mut [f64]) {
        self.logits.write(s, out);
        if self.temperature != 1.0 {
            out.iter_mut().for_each(|z| *z /= self.temperature);
        }
        let norm = log_sum_exp(out);
        out.iter_mut().for_each(|z| *z -= norm);
    }

    fn reference_row(&self, s: StateIx) -> &[f64] {
        let reference = self.reference.as_ref();
        reference
            .expect("KL channels come with a reference")
            .row(s.ix())
    }

    /// One channel at one pair, from log π(·|s).
    #[inline]
    fn channel(&self, channel: Channel, s: StateIx, a: usize, log_pi: &[f64]) -> f64 {
        match channel {
            Channel::LogProb => log_pi[a],
            Channel::Entropy => -log_pi.iter().map(|l| l.exp() * l).sum::<f64>(),
            Channel::KlToReference => divergence(log_pi, self.reference_row(s)),
            Channel::KlFromReference => divergence(self.reference_row(s), log_pi),
            _ => unreachable!("a policy has no {} channel", channel.name()),
        }
    }

    /// Adds g · ∂channel/∂(z/T) at one pair to `d`, `[A]`.
    #[inline]
    fn add_channel_grad(
        &self,
        channel: Channel,
        g: f64,
        (s, a): (StateIx, usize),
        log_pi: &[f64],
        d: &mut [f64],
    ) {
        match channel {
            Channel::LogProb => {
                d.iter_mut()
                    .zip(log_pi)
                    .for_each(|(d, l)| *d -= g * l.exp());
                d[a] += g;
            }
            Channel::Entropy => {
                let entropy = self.channel(channel, s, a, log_pi);
                for (d, l) in d.iter_mut().zip(log_pi) {
                    *d -= g * l.exp() * (l + entropy);
                }
            }
            Channel::KlToReference => {
                let kl = self.channel(channel, s, a, log_pi);
                for ((d, l), q) in d.iter_mut().zip(log_pi).zip(self.reference_row(s)) {
                    *d += g * l.exp() * (l - q - kl);
                }
            }
            Channel::KlFromReference => {
                for ((d, l), q) in d.iter_mut().zip(log_pi).zip(self.reference_row(s)) {
                    *d += g * (l.exp() - q.exp());
                }
            }
            _ => {}
        }
    }

    /// Adds Σ ∂ℒ/∂score · ∂score/∂θ to `out`.
    ///
    /// # Errors
    /// As [`StateMap::walk`]; [`Error::Shape`] when the gradient belongs to another batch.
    pub fn pull_back(
        &self,
        batch: &[Episode],
        score_grad: &PerToken,
        out: &mut RowGradient,
    ) -> Result<()> {
        let walk = self.map.walk_all(batch)?;
        let channels: Vec<(Channel, &Ragged)> = self
            .channels
            .iter()
            .map(|&c| Ok((c, score_grad.get(c)?)))
            .collect::<Result<_>>()?;
        for (c, values) in &channels {
            values.check_fits(c.name(), batch)?;
        }
        let na = self.logits.shape().1;
        let (mut log_pi, mut d) = (vec![0.0; na], vec![0.0; na]);
        for (i, &(s, a)) in walk.steps.iter().enumerate() {
            if channels.iter().all(|(_, g)| g.values()[i] == 0.0) {
                continue;
            }
            self.write_log_probs(s, &mut log_pi);
            d.fill(0.0);
            for (c, g) in &channels {
                let g = g.values()[i];
                if g != 0.0 {
                    self.add_channel_grad(*c, g, (s, a.ix()), &log_pi, &mut d);
                }
            }
            if self.temperature != 1.0 {
                d.iter_mut().for_each(|d| *d /= self.temperature);
            }
            self.logits.pull_back(s, &d, out);
        }
        Ok(())
    }
}

impl<L: Logits> TokenScorer for SoftmaxPolicy<L> {
    fn channels(&self) -> &[Channel] {
        &self.channels
    }

    fn scores(&self, batch: &[Episode]) -> Result<PerToken> {
        let walk = self.map.walk_all(batch)?;
        let mut log_pi = vec![0.0; self.logits.shape().1];
        let mut values = vec![Ragged::zeros(batch); self.channels.len()];
        for (i, &(s, a)) in walk.steps.iter().enumerate() {
            self.write_log_probs(s, &mut log_pi);
            for (&c, values) in self.channels.iter().zip(&mut values) {
                values.values_mut()[i] = self.channel(c, s, a.ix(), &log_pi);
            }
        }
        let mut channels = self.channels.iter().zip(values);
        channels.try_fold(PerToken::new(batch), |all, (&c, v)| all.with(c, v))
    }
}

impl<L: Logits> Policy for SoftmaxPolicy<L> {
    fn sample(&self, prompts: &[Arc<[Token]>], keys: &[StreamKey]) -> Result<Vec<Episode>> {
        check_len("stream keys, one per prompt", prompts.len(), keys.len())?;
        let mut row = vec![0.0; self.logits.shape().1];
        let draw = |(prompt, key): (&Arc<[Token]>, &StreamKey)| {
            let mut rng = key.rng();
            self.map.roll_out(prompt, |s| {
                self.write_log_probs(s, &mut row);
                inverse_cdf(&row, rng.random())
            })
        };
        prompts.iter().zip(keys).map(draw).collect()
    }
}

/// A softmax policy with an optimiser.
#[derive(Debug, Clone)]
pub struct SoftmaxLearner<L> {
    policy: SoftmaxPolicy<L>,
    optimizer: Optimizer,
    grad: RowGradient,
}

/// [`SoftmaxLearner`] of a [`TabularSoftmax`].
pub type TabularLearner = SoftmaxLearner<LogitTable>;
/// [`SoftmaxLearner`] of a [`LogLinearSoftmax`].
pub type LogLinearLearner<F> = SoftmaxLearner<LogLinear<F>>;

impl<L: Logits> SoftmaxLearner<L> {
    /// A learner that starts at `policy`.
    ///
    /// # Errors
    /// As [`OptimizerConfig::check`].
    pub fn try_new(policy: SoftmaxPolicy<L>, config: OptimizerConfig) -> Result<Self> {
        let n = policy.params().len();
        Ok(Self {
            optimizer: Optimizer::try_new(config, n)?,
            grad: RowGradient::zeros(n, policy.logits.row_width()),
            policy,
        })
    }

    /// One step up V^π_β(ρ) of (3.2), with its exact gradient over all responses: no sample is drawn.
    /// The report's loss is −V^π_β(ρ).
    ///
    /// # Errors
    /// As [`exact_policy_gradient`].
    pub fn step_exact(
        &mut self,
        reward: &impl RewardModel,
        reference: &TabularPolicy,
        beta: Beta,
    ) -> Result<StepReport> {
        let map = self.policy.map.clone();
        let table = self.policy.table()?;
        let (value, gradient) = exact_policy_gradient(map.mdp(), reward, &table, reference, beta)?;
        self.grad.clear();
        let scale = -1.0 / self.policy.temperature;
        let mut d = vec![0.0; gradient.ncols()];
        for (s, row) in gradient.rows().into_iter().enumerate() {
            if row.iter().any(|g| *g != 0.0) {
                d.iter_mut().zip(row).for_each(|(d, g)| *d = scale * g);
                let s = StateIx(s as u32);
                self.policy.logits.pull_back(s, &d, &mut self.grad);
            }
        }
        self.descend(-value)
    }

    fn descend(&mut self, loss: f64) -> Result<StepReport> {
        let params = self.policy.logits.params_mut();
        let grad_norm = self.optimizer.step_rows(params, &self.grad)?;
        Ok(StepReport {
            loss,
            grad_norm,
            learning_rate: self.optimizer.learning_rate(),
        })
    }
}

impl<L: Logits> Trainable for SoftmaxLearner<L> {
    fn step(&mut self, batch: &[Episode], objective: &dyn TokenObjective) -> Result<StepReport> {
        let scores = self.policy.scores(batch)?;
        let (loss, score_grad) = loss_and_score_grad(objective, &scores)?;
        self.grad.clear();
        self.policy.pull_back(batch, &score_grad, &mut self.grad)?;
        self.descend(loss)
    }

    fn set_learning_rate(&mut self, learning_rate: f64) {
        self.optimizer.set_learning_rate(learning_rate);
    }
}

impl<L: Logits> PolicyLearner for SoftmaxLearner<L> {
    type Policy = SoftmaxPolicy<L>;

    fn policy(&self) -> &Self::Policy {
        &self.policy
    }

    fn snapshot(&self) -> Result<Self::Policy> {
        Ok(self.policy.clone())
    }
}

/// Σ p (log p − log q), full support.
#[inline]
fn divergence(log_p: &[f64], log_q: &[f64]) -> f64 {
    let pairs = log_p.iter().zip(log_q);
    pairs.map(|(p, q)| p.exp() * (p - q)).sum()
}

/// Refuses a policy with a zero.
fn check_full_support(what: &str, policy: &TabularPolicy) -> Result<()> {
    let zero = |l: &f64| *l == f64::NEG_INFINITY;
    match policy.log_probs().iter().position(zero) {
        None => Ok(()),
        Some(i) => {
            let n = policy.n_actions();
            let field = format!("{what}[{}][{}]", i / n, i % n);
            let must = "> 0: policies and references of the seam have full support";
            Err(Error::config(field, 0, must))
        }
    }
}
