//! Deterministic graphs in layers: prefixes that share a suffix share a state.

use super::{StateIx, TabularMdp, Transition};
use crate::check;
use crate::{Error, Result};

/// A deterministic token MDP whose states of step h all lead to states of step h + 1, so that
/// horizons of hundreds stay small.
///
/// The table numbers the states layer by layer.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct LayeredGraph {
    starts: Vec<usize>,
    n_actions: usize,
    next: Vec<StateIx>,
}

impl LayeredGraph {
    /// `sizes[h]` states in layer h; `next[h][i·A + a]` is the position inside layer h + 1 reached
    /// from state i of layer h by action a, or `None` when the episode ends. In the last layer every
    /// entry must be `None`.
    ///
    /// # Errors
    /// [`Error::Shape`] on sizes and [`Error::Config`] naming `next[h][i][a]` when it leaves the next
    /// layer (so a declared layered graph cannot hold a cycle).
    pub fn try_new(sizes: &[usize], n_actions: usize, next: &[Vec<Option<u32>>]) -> Result<Self> {
        if sizes.is_empty() || sizes.contains(&0) || n_actions == 0 {
            return Err(Error::config(
                "layer sizes",
                format!("{sizes:?} with {n_actions} actions"),
                "at least one layer, each with at least one state, and one action",
            ));
        }
        check::len("next", sizes.len(), next.len())?;
        let mut starts = vec![0usize];
        for size in sizes {
            starts.push(starts[starts.len() - 1] + size);
        }
        let mut flat = Vec::with_capacity(starts[sizes.len()] * n_actions);
        for (h, rows) in next.iter().enumerate() {
            check::len(format!("next[{h}]"), sizes[h] * n_actions, rows.len())?;
            let width = sizes.get(h + 1).copied().unwrap_or(0);
            for (i, entry) in rows.iter().enumerate() {
                flat.push(match entry {
                    None => StateIx::END,
                    Some(to) if (*to as usize) < width => {
                        StateIx((starts[h + 1] + *to as usize) as u32)
                    }
                    Some(to) => {
                        return Err(Error::config(
                            format!("next[{h}][{}][{}]", i / n_actions, i % n_actions),
                            to,
                            format!("below {width}, the size of layer {}", h + 1),
                        ));
                    }
                });
            }
        }
        Ok(Self {
            starts,
            n_actions,
            next: flat,
        })
    }

    /// The state at position `within` of layer `layer`.
    pub fn state(&self, layer: usize, within: usize) -> StateIx {
        StateIx((self.starts[layer] + within) as u32)
    }

    /// The number of states.
    pub fn n_states(&self) -> usize {
        self.starts[self.starts.len() - 1]
    }

    /// The table, with ρ = `initial` over layer 0.
    ///
    /// # Errors
    /// As [`TabularMdp::try_new`].
    pub fn compile(&self, initial: &[f64]) -> Result<TabularMdp> {
        check::len("initial distribution", self.starts[1], initial.len())?;
        let mut rho = vec![0.0; self.n_states()];
        rho[..initial.len()].copy_from_slice(initial);
        TabularMdp::try_new(
            self.n_actions,
            rho,
            Transition::Deterministic(self.next.clone()),
        )
    }
}
