//! First-order optimisers in f64, on flat parameters or on the rows a batch touched.

use crate::check;
use crate::{Error, Result};

/// How a gradient becomes a step.
#[derive(Debug, Clone, Copy, PartialEq)]
pub enum Rule {
    /// θ ← θ − η g. No state, so that it follows the exact gradient and touches only the rows that have one.
    Sgd,
    /// Adam with decoupled weight decay (AdamW; plain Adam when `weight_decay` is 0).
    Adam {
        /// Decay of the first moment, in [0, 1).
        decay1: f64,
        /// Decay of the second moment, in [0, 1).
        decay2: f64,
        /// Added to the root of the second moment, > 0.
        epsilon: f64,
        /// θ ← (1 − η·weight_decay) θ before each step, ≥ 0.
        weight_decay: f64,
    },
}

impl Rule {
    /// Adam with decays 0.9 and 0.999, ε = 1e-8 and no weight decay.
    pub const ADAM: Self = Self::Adam {
        decay1: 0.9,
        decay2: 0.999,
        epsilon: 1e-8,
        weight_decay: 0.0,
    };
}

/// An optimiser's settings.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct OptimizerConfig {
    /// The rule.
    pub rule: Rule,
    /// η ≥ 0.
    pub learning_rate: f64,
    /// A gradient with a larger Euclidean norm is scaled down to it; > 0.
    pub max_grad_norm: Option<f64>,
}

impl OptimizerConfig {
    /// Plain gradient descent.
    pub fn sgd(learning_rate: f64) -> Self {
        Self {
            rule: Rule::Sgd,
            learning_rate,
            max_grad_norm: None,
        }
    }

    /// [`Rule::ADAM`].
    pub fn adam(learning_rate: f64) -> Self {
        Self {
            rule: Rule::ADAM,
            learning_rate,
            max_grad_norm: None,
        }
    }

    /// Refuses numbers out of range.
    ///
    /// # Errors
    /// [`Error::Config`] naming the field.
    pub fn check(self) -> Result<Self> {
        let must = |ok: bool, field: &str, value: f64, must: &str| {
            if ok {
                Ok(())
            } else {
                Err(Error::config(field, value, must))
            }
        };
        let eta = self.learning_rate;
        must(
            eta.is_finite() && eta >= 0.0,
            "learning_rate",
            eta,
            "finite and >= 0",
        )?;
        if let Some(norm) = self.max_grad_norm {
            must(norm > 0.0, "max_grad_norm", norm, "> 0")?;
        }
        if let Rule::Adam {
            decay1,
            decay2,
            epsilon,
            weight_decay,
        } = self.rule
        {
            must((0.0..1.0).contains(&decay1), "decay1", decay1, "in [0, 1)")?;
            must((0.0..1.0).contains(&decay2), "decay2", decay2, "in [0, 1)")?;
            must(
                epsilon.is_finite() && epsilon > 0.0,
                "epsilon",
                epsilon,
                "finite and > 0",
            )?;
            must(
                weight_decay.is_finite() && weight_decay >= 0.0,
                "weight_decay",
                weight_decay,
                "finite and >= 0",
            )?;
        }
        Ok(self)
    }
}

/// A gradient over rows of equal width, of which a batch touches a few.
///
/// Clearing it and following it with [`Rule::Sgd`] cost what was touched, not the size of the table.
#[derive(Debug, Clone, PartialEq)]
pub struct RowGradient {
    width: usize,
    values: Vec<f64>,
    touched: Vec<usize>,
    is_touched: Vec<bool>,
}

impl RowGradient {
    /// Zero, for `n_params` parameters in rows of `width`.
    ///
    /// # Panics
    /// Unless `width` divides `n_params`.
    pub fn zeros(n_params: usize, width: usize) -> Self {
        assert!(width > 0 && n_params.is_multiple_of(width), "whole rows");
        Self {
            width,
            values: vec![0.0; n_params],
            touched: Vec::new(),
            is_touched: vec![false; n_params / width],
        }
    }

    /// A row, to add to.
    #[inline]
    pub fn row_mut(&mut self, row: usize) -> &mut [f64] {
        if !self.is_touched[row] {
            self.is_touched[row] = true;
            self.touched.push(row);
        }
        &mut self.values[row * self.width..(row + 1) * self.width]
    }

    /// All parameters, `[n_params]`.
    pub fn values(&self) -> &[f64] {
        &self.values
    }

    /// Back to zero.
    pub fn clear(&mut self) {
        for &row in &self.touched {
            self.values[row * self.width..(row + 1) * self.width].fill(0.0);
            self.is_touched[row] = false;
        }
        self.touched.clear();
    }

    /// The rows that may differ from zero, as ranges of parameters.
    fn spans(&self) -> impl Iterator<Item = std::ops::Range<usize>> + '_ {
        let width = self.width;
        self.touched.iter().map(move |r| r * width..(r + 1) * width)
    }
}

/// A rule, its learning rate and its state.
///
/// Adam is *dense*: a parameter without gradient in this step still moves on its moments, as it does where a
/// whole embedding table is one tensor. Updating only touched rows would be another algorithm, and the tables
/// of this crate are small enough not to need it.
#[derive(Debug, Clone, PartialEq)]
pub struct Optimizer {
    config: OptimizerConfig,
    /// First and second moments, empty for [`Rule::Sgd`].
    first: Vec<f64>,
    second: Vec<f64>,
    steps: i32,
}

impl Optimizer {
    /// An optimiser for `n_params` parameters.
    ///
    /// # Errors
    /// As [`OptimizerConfig::check`].
    pub fn try_new(config: OptimizerConfig, n_params: usize) -> Result<Self> {
        let config = config.check()?;
        let n = match config.rule {
            Rule::Sgd => 0,
            Rule::Adam { .. } => n_params,
        };
        Ok(Self {
            config,
            first: vec![0.0; n],
            second: vec![0.0; n],
            steps: 0,
        })
    }

    /// η.
    pub fn learning_rate(&self) -> f64 {
        self.config.learning_rate
    }

    /// Sets η for the steps to come.
    pub fn set_learning_rate(&mut self, learning_rate: f64) {
        self.config.learning_rate = learning_rate;
    }

    /// One step on a dense gradient; returns ‖g‖₂ before clipping.
    ///
    /// # Errors
    /// [`Error::Shape`]; [`Error::NonFinite`] on a gradient or learning rate that is not finite, in which case nothing has changed.
    pub fn step(&mut self, params: &mut [f64], grad: &[f64]) -> Result<f64> {
        check::len("the gradient", params.len(), grad.len())?;
        let norm = grad.iter().map(|g| g * g).sum::<f64>().sqrt();
        let scale = self.scale(norm)?;
        match self.config.rule {
            Rule::Sgd => descend(params, grad, self.config.learning_rate * scale),
            Rule::Adam { .. } => self.adam(params, grad, scale)?,
        }
        Ok(norm)
    }

    /// [`Optimizer::step`] on a gradient that is zero outside touched rows.
    ///
    /// # Errors
    /// As [`Optimizer::step`].
    pub fn step_rows(&mut self, params: &mut [f64], grad: &RowGradient) -> Result<f64> {
        check::len("the gradient", params.len(), grad.values.len())?;
        let squares = |s: std::ops::Range<usize>| grad.values[s].iter().map(|g| g * g).sum::<f64>();
        let norm = grad.spans().map(squares).sum::<f64>().sqrt();
        let scale = self.scale(norm)?;
        match self.config.rule {
            Rule::Sgd => {
                for span in grad.spans() {
                    let rate = self.config.learning_rate * scale;
                    descend(&mut params[span.clone()], &grad.values[span], rate);
                }
            }
            Rule::Adam { .. } => self.adam(params, &grad.values, scale)?,
        }
        Ok(norm)
    }

    /// The factor of gradient clipping.
    fn scale(&self, norm: f64) -> Result<f64> {
        let finite = |what: &str, value: f64| {
            if value.is_finite() {
                Ok(())
            } else {
                let what = what.into();
                Err(Error::NonFinite { what, value })
            }
        };
        finite("the norm of the gradient", norm)?;
        finite("the learning rate", self.config.learning_rate)?;
        Ok(match self.config.max_grad_norm {
            Some(max) if norm > max => max / norm,
            _ => 1.0,
        })
    }

    fn adam(&mut self, params: &mut [f64], grad: &[f64], scale: f64) -> Result<()> {
        let Rule::Adam {
            decay1,
            decay2,
            epsilon,
            weight_decay,
        } = self.config.rule
        else {
            unreachable!("called for Adam only")
        };
        check::len("parameters", self.first.len(), params.len())?;
        self.steps = self.steps.saturating_add(1);
        let (c1, c2) = (1.0 - decay1.powi(self.steps), 1.0 - decay2.powi(self.steps));
        let eta = self.config.learning_rate;
        let (rate, root, keep) = (eta / c1, c2.sqrt().recip(), 1.0 - eta * weight_decay);
        let moments = self.first.iter_mut().zip(&mut self.second);
        for ((p, g), (m, v)) in params.iter_mut().zip(grad).zip(moments) {
            let g = g * scale;
            *m = decay1 * *m + (1.0 - decay1) * g;
            *v = decay2 * *v + (1.0 - decay2) * g * g;
            *p = keep * *p - rate * *m / (v.sqrt() * root + epsilon);
        }
        Ok(())
    }
}

fn descend(params: &mut [f64], grad: &[f64], rate: f64) {
    for (p, g) in params.iter_mut().zip(grad) {
        *p -= rate * g;
    }
}

#[cfg(test)]
mod tests;
