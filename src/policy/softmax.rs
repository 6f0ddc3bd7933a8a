//! Softmax policies on a table, with exact gradients.

use std::sync::Arc;

use ndarray::Array2;
use rand::Rng;

use super::StateMap;
use super::logits::{ActorCriticTable, LogLinear, LogitTable, Logits};
use crate::check;
use crate::features::FeatureMap;
use crate::mdp::{StateIx, TabularPolicy};
use crate::numerics::log_sum_exp;
use crate::seq::{Channel, Episode, Policy, StreamKey, inverse_cdf};
use crate::{Error, Result, Token};

/// π(a|s) = exp(z(s, a)/T) / Σ_b exp(z(s, b)/T), natural logarithms, full support.
///
/// It always gives [`Channel::LogProb`] and, where asked for at construction, [`Channel::Entropy`] and both KL channels;
/// where its parameters hold a critic too, [`Channel::Value`] and [`Channel::FinalValue`], which the temperature leaves alone.
#[derive(Debug, Clone)]
pub struct SoftmaxPolicy<L> {
    pub(super) map: Arc<StateMap>,
    pub(super) logits: L,
    pub(super) temperature: f64,
    pub(super) reference: Option<Arc<TabularPolicy>>,
    pub(super) channels: Vec<Channel>,
}

/// [`SoftmaxPolicy`] with one logit per state and action.
pub type TabularSoftmax = SoftmaxPolicy<LogitTable>;
/// [`SoftmaxPolicy`] with one logit per state and action and one value per state: the critic of a shared trunk.
pub type TabularActorCritic = SoftmaxPolicy<ActorCriticTable>;
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
        check::finite(name, &values)?;
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

impl TabularActorCritic {
    /// From logits, `[n_states, n_actions]`, and V, `[n_states]`.
    ///
    /// # Errors
    /// As [`TabularSoftmax::try_new`].
    pub fn try_new(map: Arc<StateMap>, logits: &Array2<f64>, values: &[f64]) -> Result<Self> {
        let checked = TabularSoftmax::try_new(map.clone(), logits)?.logits;
        check::len("values", map.mdp().n_states(), values.len())?;
        check::finite(|s| format!("values[{s}]"), values)?;
        let table = ActorCriticTable::interleave(checked.n_actions, &checked.values, values);
        Ok(Self::from_logits(map, table)?.with_value_channels())
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
        check::len("theta", features.dim(), theta.len())?;
        check::finite(|i| format!("theta[{i}]"), theta)?;
        let theta = theta.to_vec();
        let logits = LogLinear {
            features,
            base,
            theta,
            value_features: None,
        };
        Self::from_logits(map, logits)
    }

    /// Also gives V(s) = θᵀψ(s) of the same θ, in [`Channel::Value`] and [`Channel::FinalValue`]: a trunk that actor and critic
    /// truly share. ψ has one column, shape (|𝒮|, 1), and the dimension of φ.
    ///
    /// # Errors
    /// [`Error::Shape`].
    pub fn with_values(mut self, features: Arc<F>) -> Result<Self> {
        let (got, n) = (features.shape(), self.logits.shape().0);
        check::len("value features (states x columns)", n, got.0 * got.1)?;
        check::len(
            "value feature dimension",
            self.params().len(),
            features.dim(),
        )?;
        self.logits.value_features = Some(features);
        Ok(self.with_value_channels())
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

    fn with_value_channels(mut self) -> Self {
        let both = [Channel::Value, Channel::FinalValue];
        self.channels.retain(|c| !both.contains(c));
        self.channels.extend(both);
        self
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

    /// The parameters: logits `[n_states · n_actions]` in row order, logits and value of each state in turn, or θ.
    pub fn params(&self) -> &[f64] {
        self.logits.params()
    }

    /// The same policy with other parameters.
    ///
    /// # Errors
    /// [`Error::Shape`], [`Error::NonFinite`].
    pub fn with_params(mut self, params: &[f64]) -> Result<Self> {
        check::len("parameters", self.params().len(), params.len())?;
        check::finite(|i| format!("parameter {i}"), params)?;
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
    pub(super) fn write_log_probs(&self, s: StateIx, out: &mut [f64]) {
        self.logits.write(s, out);
        if self.temperature != 1.0 {
            out.iter_mut().for_each(|z| *z /= self.temperature);
        }
        let norm = log_sum_exp(out);
        out.iter_mut().for_each(|z| *z -= norm);
    }
}

impl<L: Logits> Policy for SoftmaxPolicy<L> {
    fn sample(&self, prompts: &[Arc<[Token]>], keys: &[StreamKey]) -> Result<Vec<Episode>> {
        StreamKey::check_one_per_prompt(prompts, keys)?;
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

    fn greedy(&self, prompts: &[Arc<[Token]>]) -> Result<Vec<Episode>> {
        let mut row = vec![0.0; self.logits.shape().1];
        let follow = |prompt: &Arc<[Token]>| {
            self.map.roll_out(prompt, |s| {
                self.write_log_probs(s, &mut row);
                let better = |best: usize, a: usize| if row[a] > row[best] { a } else { best };
                (0..row.len()).fold(0, better)
            })
        };
        prompts.iter().map(follow).collect()
    }
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
