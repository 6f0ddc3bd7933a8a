//! Critics and reward models on a table.

use std::sync::Arc;

use super::{Optimizer, OptimizerConfig, RowGradient, StateMap, Walk};
use crate::check;
use crate::features::FeatureMap;
use crate::mdp::{ActionIx, StateIx};
use crate::seq::{
    Channel, Episode, PerToken, Ragged, StepReport, TokenObjective, TokenScorer, Trainable,
    loss_and_score_grad,
};
use crate::{Error, Result};

/// A function f(s, a) that is linear in its parameters.
pub trait TableFunction: Clone {
    /// (|𝒮|, number of columns).
    fn shape(&self) -> (usize, usize);

    /// The parameters.
    fn params(&self) -> &[f64];

    /// The parameters, to step on.
    fn params_mut(&mut self) -> &mut [f64];

    /// Width of the rows a gradient is collected in.
    fn row_width(&self) -> usize;

    /// f(s, a).
    fn at(&self, s: StateIx, a: ActionIx) -> f64;

    /// Adds weight · ∂f(s, a)/∂θ.
    fn add_grad(&self, s: StateIx, a: ActionIx, weight: f64, grad: &mut RowGradient);
}

/// One parameter per state (one column) or per pair (A columns).
#[derive(Debug, Clone, PartialEq)]
pub struct Table {
    columns: usize,
    values: Vec<f64>,
}

impl TableFunction for Table {
    fn shape(&self) -> (usize, usize) {
        (self.values.len() / self.columns, self.columns)
    }

    fn params(&self) -> &[f64] {
        &self.values
    }

    fn params_mut(&mut self) -> &mut [f64] {
        &mut self.values
    }

    fn row_width(&self) -> usize {
        self.columns
    }

    #[inline]
    fn at(&self, s: StateIx, a: ActionIx) -> f64 {
        self.values[s.ix() * self.columns + a.ix()]
    }

    #[inline]
    fn add_grad(&self, s: StateIx, a: ActionIx, weight: f64, grad: &mut RowGradient) {
        grad.row_mut(s.ix())[a.ix()] += weight;
    }
}

/// f(s, a) = θᵀφ(s, a).
#[derive(Debug)]
pub struct LinearFunction<F> {
    features: Arc<F>,
    theta: Vec<f64>,
}

// Not derived: the features are shared, not copied.
impl<F> Clone for LinearFunction<F> {
    fn clone(&self) -> Self {
        Self {
            features: self.features.clone(),
            theta: self.theta.clone(),
        }
    }
}

impl<F: FeatureMap> TableFunction for LinearFunction<F> {
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

    fn at(&self, s: StateIx, a: ActionIx) -> f64 {
        self.features.dot(s, a, &self.theta)
    }

    fn add_grad(&self, s: StateIx, a: ActionIx, weight: f64, grad: &mut RowGradient) {
        self.features.add(s, a, weight, grad.row_mut(0));
    }
}

/// A critic V(s) ([`Channel::Value`], [`Channel::FinalValue`]) or a token reward r(s, a) ([`Channel::Reward`]) with
/// its optimiser.
///
/// V is 0 where the table has ended: [`Channel::FinalValue`] differs from 0 only for a response cut before that. The
/// sentence reward of (2.2) is Σ_h r(s_h, y_h), linear in θ where r is.
#[derive(Debug, Clone)]
pub struct Regressor<T> {
    map: Arc<StateMap>,
    function: T,
    is_critic: bool,
    optimizer: Optimizer,
    grad: RowGradient,
}

impl Regressor<Table> {
    /// V, `[n_states]`.
    ///
    /// # Errors
    /// [`Error::Shape`], [`Error::NonFinite`]; as [`OptimizerConfig::check`].
    pub fn critic(map: Arc<StateMap>, values: &[f64], config: OptimizerConfig) -> Result<Self> {
        let values = values.to_vec();
        check::len("values", map.mdp().n_states(), values.len())?;
        Self::build(map, Table { columns: 1, values }, true, config)
    }

    /// r, `[n_states · n_actions]` in row order.
    ///
    /// # Errors
    /// As [`Regressor::critic`].
    pub fn reward(map: Arc<StateMap>, values: &[f64], config: OptimizerConfig) -> Result<Self> {
        let (values, columns) = (values.to_vec(), map.mdp().n_actions());
        check::len("rewards", map.mdp().n_states() * columns, values.len())?;
        Self::build(map, Table { columns, values }, false, config)
    }
}

impl<F: FeatureMap> Regressor<LinearFunction<F>> {
    /// V(s) = θᵀψ(s) for features ψ with one column, shape (|𝒮|, 1).
    ///
    /// # Errors
    /// As [`Regressor::critic`].
    pub fn linear_critic(
        map: Arc<StateMap>,
        features: Arc<F>,
        theta: &[f64],
        config: OptimizerConfig,
    ) -> Result<Self> {
        let theta = theta.to_vec();
        Self::build(map, LinearFunction { features, theta }, true, config)
    }

    /// r(s, a) = θᵀφ(s, a) of Assumption 4.1.
    ///
    /// # Errors
    /// As [`Regressor::critic`].
    pub fn linear_reward(
        map: Arc<StateMap>,
        features: Arc<F>,
        theta: &[f64],
        config: OptimizerConfig,
    ) -> Result<Self> {
        check::len("theta", features.dim(), theta.len())?;
        let theta = theta.to_vec();
        Self::build(map, LinearFunction { features, theta }, false, config)
    }
}

impl<T: TableFunction> Regressor<T> {
    fn build(
        map: Arc<StateMap>,
        function: T,
        is_critic: bool,
        config: OptimizerConfig,
    ) -> Result<Self> {
        let columns = if is_critic { 1 } else { map.mdp().n_actions() };
        let (got, n) = (function.shape(), map.mdp().n_states());
        if got != (n, columns) {
            return Err(Error::Shape {
                what: format!("function ({} x {} values)", got.0, got.1),
                expected: n * columns,
                got: got.0 * got.1,
            });
        }
        check::finite(|i| format!("parameter {i}"), function.params())?;
        let n = function.params().len();
        Ok(Self {
            optimizer: Optimizer::try_new(config, n)?,
            grad: RowGradient::zeros(n, function.row_width()),
            map,
            function,
            is_critic,
        })
    }

    /// The function.
    pub fn function(&self) -> &T {
        &self.function
    }

    /// The parameters: the table in row order, or θ.
    pub fn params(&self) -> &[f64] {
        self.function.params()
    }

    fn scores_from(&self, batch: &[Episode], walk: &Walk) -> Result<PerToken> {
        let mut values = Ragged::zeros(batch);
        for (v, &(s, a)) in values.values_mut().iter_mut().zip(&walk.steps) {
            *v = self.function.at(s, self.column(a));
        }
        let scores = PerToken::new(batch).with(self.channels()[0], values)?;
        if !self.is_critic {
            return Ok(scores);
        }
        let value = |s: &StateIx| match *s {
            StateIx::END => [0.0],
            s => [self.function.at(s, ActionIx(0))],
        };
        scores.with(
            Channel::FinalValue,
            Ragged::from_rows(walk.last.iter().map(value)),
        )
    }

    /// The column of a pair.
    #[inline]
    fn column(&self, a: ActionIx) -> ActionIx {
        if self.is_critic { ActionIx(0) } else { a }
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
        self.pull_back_from(batch, &walk, score_grad, out)
    }

    fn pull_back_from(
        &self,
        batch: &[Episode],
        walk: &Walk,
        score_grad: &PerToken,
        out: &mut RowGradient,
    ) -> Result<()> {
        let channel = self.channels()[0];
        let values = score_grad.get(channel)?;
        values.check_fits(channel.name(), batch)?;
        for (&(s, a), &g) in walk.steps.iter().zip(values.values()) {
            if g != 0.0 {
                self.function.add_grad(s, self.column(a), g, out);
            }
        }
        if self.is_critic {
            let last = score_grad.get(Channel::FinalValue)?.values();
            for (&s, &g) in walk.last.iter().zip(last) {
                if s != StateIx::END && g != 0.0 {
                    self.function.add_grad(s, ActionIx(0), g, out);
                }
            }
        }
        Ok(())
    }
}

impl<T: TableFunction> TokenScorer for Regressor<T> {
    fn channels(&self) -> &[Channel] {
        if self.is_critic {
            &[Channel::Value, Channel::FinalValue]
        } else {
            &[Channel::Reward]
        }
    }

    fn scores(&self, batch: &[Episode]) -> Result<PerToken> {
        self.scores_from(batch, &self.map.walk_all(batch)?)
    }
}

impl<T: TableFunction> Trainable for Regressor<T> {
    fn step(&mut self, batch: &[Episode], objective: &dyn TokenObjective) -> Result<StepReport> {
        let walk = self.map.walk_all(batch)?;
        let scores = self.scores_from(batch, &walk)?;
        let (loss, score_grad) = loss_and_score_grad(objective, &scores)?;
        let mut grad = std::mem::replace(&mut self.grad, RowGradient::zeros(0, 1));
        grad.clear();
        let pulled = self.pull_back_from(batch, &walk, &score_grad, &mut grad);
        self.grad = grad;
        pulled?;
        let params = self.function.params_mut();
        Ok(StepReport {
            loss,
            grad_norm: self.optimizer.step_rows(params, &self.grad)?,
            learning_rate: self.optimizer.learning_rate(),
        })
    }

    fn set_learning_rate(&mut self, learning_rate: f64) {
        self.optimizer.set_learning_rate(learning_rate);
    }
}
