//! Several losses of one scorer.

use std::ops::Range;

use crate::seq::{Channel, PerToken, TokenObjective};
use crate::{Error, Result};

/// ℒ = Σ_j ℒ_j over the same groups of rows: policy and value losses of a shared trunk in one backward pass.
///
/// Gradients are added, so the terms may share channels too.
pub struct Sum<'a> {
    parts: Vec<Box<dyn TokenObjective + 'a>>,
    channels: Vec<Channel>,
}

impl<'a> Sum<'a> {
    /// The sum.
    ///
    /// # Errors
    /// [`Error::Config`] without terms or when their groups differ.
    pub fn new(parts: Vec<Box<dyn TokenObjective + 'a>>) -> Result<Self> {
        let first = parts.first();
        let Some(first) = first.map(|p| p.groups()) else {
            return Err(Error::config("objectives", "none", "at least one"));
        };
        if let Some(j) = parts.iter().position(|p| p.groups() != first) {
            let (field, must) = (format!("objectives[{j}]"), "the groups of objectives[0]");
            return Err(Error::config(field, "other groups of rows", must));
        }
        let mut channels: Vec<_> = parts.iter().flat_map(|p| p.channels()).copied().collect();
        channels.sort();
        channels.dedup();
        Ok(Self { parts, channels })
    }
}

impl TokenObjective for Sum<'_> {
    fn groups(&self) -> &[Range<usize>] {
        self.parts[0].groups()
    }

    fn channels(&self) -> &[Channel] {
        &self.channels
    }

    fn loss_grad(&self, group: usize, scores: &PerToken, grad: &mut PerToken) -> f64 {
        let parts = self.parts.iter();
        parts.map(|p| p.loss_grad(group, scores, grad)).sum()
    }
}
