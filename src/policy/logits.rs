//! Functions that give every state its logits, and a value where actor and critic share their parameters.

use std::sync::Arc;

use super::RowGradient;
use crate::features::FeatureMap;
use crate::mdp::{ActionIx, StateIx, TabularPolicy};

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

    /// V(s), where θ holds a critic too.
    fn value(&self, _s: StateIx) -> Option<f64> {
        None
    }

    /// Adds g ∂V(s)/∂θ.
    fn pull_back_value(&self, _s: StateIx, _g: f64, _grad: &mut RowGradient) {}
}

/// One parameter per state and action.
#[derive(Debug, Clone, PartialEq)]
pub struct LogitTable {
    pub(super) n_actions: usize,
    pub(super) values: Vec<f64>,
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

/// A logit per state and action and a value per state: row s of θ is (z(s, ·), V(s)), `[A + 1]`.
///
/// Actor and critic touch different numbers, so that one step on the sum of their losses is exactly the two steps apart
/// (under plain gradient descent and under Adam, not where the norm of the gradient is cut).
#[derive(Debug, Clone, PartialEq)]
pub struct ActorCriticTable {
    width: usize,
    values: Vec<f64>,
}

impl ActorCriticTable {
    /// Interleaves logits, `[n_states · n_actions]` in row order, and values, `[n_states]`.
    pub(super) fn interleave(n_actions: usize, logits: &[f64], values: &[f64]) -> Self {
        let mut all = Vec::with_capacity(logits.len() + values.len());
        for (z, v) in logits.chunks_exact(n_actions).zip(values) {
            all.extend_from_slice(z);
            all.push(*v);
        }
        Self {
            width: n_actions + 1,
            values: all,
        }
    }

    #[inline]
    fn row(&self, s: StateIx) -> &[f64] {
        &self.values[s.ix() * self.width..][..self.width]
    }
}

impl Logits for ActorCriticTable {
    fn shape(&self) -> (usize, usize) {
        (self.values.len() / self.width, self.width - 1)
    }

    fn params(&self) -> &[f64] {
        &self.values
    }

    fn params_mut(&mut self) -> &mut [f64] {
        &mut self.values
    }

    fn row_width(&self) -> usize {
        self.width
    }

    #[inline]
    fn write(&self, s: StateIx, out: &mut [f64]) {
        out.copy_from_slice(&self.row(s)[..self.width - 1]);
    }

    #[inline]
    fn pull_back(&self, s: StateIx, d: &[f64], grad: &mut RowGradient) {
        for (g, d) in grad.row_mut(s.ix()).iter_mut().zip(d) {
            *g += d;
        }
    }

    #[inline]
    fn value(&self, s: StateIx) -> Option<f64> {
        self.row(s).last().copied()
    }

    #[inline]
    fn pull_back_value(&self, s: StateIx, g: f64, grad: &mut RowGradient) {
        grad.row_mut(s.ix())[self.width - 1] += g;
    }
}

/// z(s, a) = log π_base(a|s) + θᵀφ(s, a) and, where asked for, V(s) = θᵀψ(s) of the *same* θ.
#[derive(Debug)]
pub struct LogLinear<F> {
    pub(super) features: Arc<F>,
    pub(super) base: Arc<TabularPolicy>,
    pub(super) theta: Vec<f64>,
    /// ψ, with one column.
    pub(super) value_features: Option<Arc<F>>,
}

// Not derived: the features are shared, not copied.
impl<F> Clone for LogLinear<F> {
    fn clone(&self) -> Self {
        Self {
            features: self.features.clone(),
            base: self.base.clone(),
            theta: self.theta.clone(),
            value_features: self.value_features.clone(),
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
            let a = ActionIx(a as u32);
            *z = base + self.features.dot(s, a, &self.theta);
        }
    }

    fn pull_back(&self, s: StateIx, d: &[f64], grad: &mut RowGradient) {
        let row = grad.row_mut(0);
        for (a, d) in d.iter().enumerate() {
            let a = ActionIx(a as u32);
            self.features.add(s, a, *d, row);
        }
    }

    fn value(&self, s: StateIx) -> Option<f64> {
        let psi = self.value_features.as_ref()?;
        Some(psi.dot(s, ActionIx(0), &self.theta))
    }

    fn pull_back_value(&self, s: StateIx, g: f64, grad: &mut RowGradient) {
        if let Some(psi) = &self.value_features {
            psi.add(s, ActionIx(0), g, grad.row_mut(0));
        }
    }
}
