//! φ: 𝒮 × 𝒜 → ℝᵈ of Assumption 4.1.
//!
//! Features are written once per (state, action); ψ of a response is their sum:
//!
//! ```
//! use rto::features::{DenseFeatures, FeatureMap, OneHot, trajectory_features};
//! use rto::mdp::{ActionIx, StateIx, TokenTree, Trajectory};
//!
//! let tree = TokenTree::try_new(1, 2, 2, None)?; // states: the prompt, 0, 1
//! let phi = DenseFeatures::from_fn(tree.n_states(), 2, 1, |_, a, _| a as f64)?; // counts the ones
//! let mdp = tree.compile(&[1.0])?;
//! let response = Trajectory::try_new(&mdp, vec![(StateIx(0), ActionIx(1)), (StateIx(2), ActionIx(1))])?;
//! assert_eq!(trajectory_features(&phi, &response), [2.0]);
//! assert_eq!(OneHot { n_states: 3, n_actions: 2 }.dim(), 6);
//! # Ok::<(), rto::Error>(())
//! ```

mod sparse;

pub use sparse::SparseRows;

use crate::check;
use crate::mdp::{ActionIx, StateIx, TabularPolicy, Trajectory};
use crate::{Error, Result};

/// φ of Assumption 4.1. After the end of the episode φ = 0, which needs no row.
pub trait FeatureMap: Sync {
    /// d.
    fn dim(&self) -> usize;

    /// (|𝒮|, A) the map is defined on.
    fn shape(&self) -> (usize, usize);

    /// Writes φ(s, a) into `out`, `[d]`.
    fn write(&self, s: StateIx, a: ActionIx, out: &mut [f64]);

    /// Adds weight · φ(s, a) to `out`, `[d]`.
    fn add(&self, s: StateIx, a: ActionIx, weight: f64, out: &mut [f64]) {
        let mut phi = vec![0.0; self.dim()];
        self.write(s, a, &mut phi);
        for (o, p) in out.iter_mut().zip(&phi) {
            *o += weight * p;
        }
    }

    /// φ(s, a)ᵀ θ.
    fn dot(&self, s: StateIx, a: ActionIx, theta: &[f64]) -> f64 {
        let mut phi = vec![0.0; self.dim()];
        self.write(s, a, &mut phi);
        phi.iter().zip(theta).map(|(p, t)| p * t).sum()
    }

    /// max ‖φ(s, a)‖₂ over all pairs: an L of Assumption 4.1, of which pairs that no episode meets are part.
    fn bound(&self) -> f64 {
        let (n_states, n_actions) = self.shape();
        let states = 0..n_states as u32;
        let pairs = states.flat_map(|s| (0..n_actions as u32).map(move |a| (s, a)));
        self.bound_over(&mut pairs.map(|(s, a)| (StateIx(s), ActionIx(a))))
    }

    /// max ‖φ(s, a)‖₂ over the given pairs; 0 over none. Over the [`pairs`](crate::mdp::Reachable::pairs) that an
    /// episode can meet it is the smallest L of Assumption 4.1 that any statement needs.
    fn bound_over(&self, pairs: &mut dyn Iterator<Item = (StateIx, ActionIx)>) -> f64 {
        let mut phi = vec![0.0; self.dim()];
        let mut max = 0.0f64;
        for (s, a) in pairs {
            self.write(s, a, &mut phi);
            max = max.max(norm(&phi));
        }
        max
    }
}

/// ‖x‖₂; scaled by the largest entry where squares would overflow or vanish.
fn norm(x: &[f64]) -> f64 {
    let squares: f64 = x.iter().map(|x| x * x).sum();
    if (1e-250..1e250).contains(&squares) {
        return squares.sqrt();
    }
    let top = x.iter().fold(0.0f64, |m, x| m.max(x.abs()));
    if top == 0.0 {
        return 0.0;
    }
    top * x.iter().map(|x| (x / top).powi(2)).sum::<f64>().sqrt()
}

/// (4.1): ψ(τ) = Σ_h φ(s_h, a_h), `[d]`.
pub fn trajectory_features(features: &impl FeatureMap, trajectory: &Trajectory) -> Vec<f64> {
    let mut psi = vec![0.0; features.dim()];
    for &(s, a) in trajectory.steps() {
        features.add(s, a, 1.0, &mut psi);
    }
    psi
}

/// Section 4.1: φ as a table, `[n_states, n_actions, d]`.
#[derive(Debug, Clone, PartialEq)]
pub struct DenseFeatures {
    n_states: usize,
    n_actions: usize,
    dim: usize,
    values: Vec<f64>,
}

impl DenseFeatures {
    /// From values in the order (s, a, k).
    ///
    /// # Errors
    /// [`Error::Config`] when d = 0, [`Error::Shape`] on the length, [`Error::NonFinite`] naming the entry.
    pub fn try_new(
        n_states: usize,
        n_actions: usize,
        dim: usize,
        values: Vec<f64>,
    ) -> Result<Self> {
        if dim == 0 {
            return Err(Error::config("feature dimension", 0, "at least 1"));
        }
        check::len("features", n_states * n_actions * dim, values.len())?;
        let name = |i: usize| {
            let (row, k) = (i / dim, i % dim);
            format!("features[{}][{}][{k}]", row / n_actions, row % n_actions)
        };
        check::finite(name, &values)?;
        Ok(Self {
            n_states,
            n_actions,
            dim,
            values,
        })
    }

    /// From a function of (s, a, k).
    ///
    /// # Errors
    /// As [`Self::try_new`].
    pub fn from_fn(
        n_states: usize,
        n_actions: usize,
        dim: usize,
        mut f: impl FnMut(usize, usize, usize) -> f64,
    ) -> Result<Self> {
        let mut values = Vec::with_capacity(n_states * n_actions * dim);
        for s in 0..n_states {
            for a in 0..n_actions {
                values.extend((0..dim).map(|k| f(s, a, k)));
            }
        }
        Self::try_new(n_states, n_actions, dim, values)
    }

    /// A table of any other map.
    pub fn tabulate(map: &impl FeatureMap) -> Self {
        let ((n_states, n_actions), dim) = (map.shape(), map.dim());
        let mut values = vec![0.0; n_states * n_actions * dim];
        for (row, out) in values.chunks_exact_mut(dim).enumerate() {
            let (s, a) = (row / n_actions, row % n_actions);
            map.write(StateIx(s as u32), ActionIx(a as u32), out);
        }
        Self {
            n_states,
            n_actions,
            dim,
            values,
        }
    }

    /// φ(s, a).
    #[inline]
    pub fn row(&self, s: StateIx, a: ActionIx) -> &[f64] {
        let row = s.ix() * self.n_actions + a.ix();
        &self.values[row * self.dim..(row + 1) * self.dim]
    }
}

impl FeatureMap for DenseFeatures {
    fn dim(&self) -> usize {
        self.dim
    }

    fn shape(&self) -> (usize, usize) {
        (self.n_states, self.n_actions)
    }

    fn write(&self, s: StateIx, a: ActionIx, out: &mut [f64]) {
        out.copy_from_slice(self.row(s, a));
    }

    fn add(&self, s: StateIx, a: ActionIx, weight: f64, out: &mut [f64]) {
        for (o, p) in out.iter_mut().zip(self.row(s, a)) {
            *o += weight * p;
        }
    }

    fn dot(&self, s: StateIx, a: ActionIx, theta: &[f64]) -> f64 {
        self.row(s, a).iter().zip(theta).map(|(p, t)| p * t).sum()
    }
}

/// Section 4.1: One coordinate per state–action pair: d = |𝒮|·A, θ is the reward table itself.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct OneHot {
    /// |𝒮|.
    pub n_states: usize,
    /// A.
    pub n_actions: usize,
}

impl FeatureMap for OneHot {
    fn dim(&self) -> usize {
        self.n_states * self.n_actions
    }

    fn shape(&self) -> (usize, usize) {
        (self.n_states, self.n_actions)
    }

    fn write(&self, s: StateIx, a: ActionIx, out: &mut [f64]) {
        out.fill(0.0);
        out[s.ix() * self.n_actions + a.ix()] = 1.0;
    }

    fn add(&self, s: StateIx, a: ActionIx, weight: f64, out: &mut [f64]) {
        out[s.ix() * self.n_actions + a.ix()] += weight;
    }

    fn dot(&self, s: StateIx, a: ActionIx, theta: &[f64]) -> f64 {
        theta[s.ix() * self.n_actions + a.ix()]
    }

    fn bound(&self) -> f64 {
        1.0
    }

    fn bound_over(&self, pairs: &mut dyn Iterator<Item = (StateIx, ActionIx)>) -> f64 {
        f64::from(u8::from(pairs.next().is_some()))
    }
}

/// Log-linear features φ_k(s, a) = log π_k(a|s) − log π_ref(a|s): linear rewards over them are the
/// implicit rewards (4.5) of the log-linear family π_θ ∝ π_ref ∏_k (π_k/π_ref)^{θ_k}.
#[derive(Debug, Clone, PartialEq)]
pub struct LogRatio {
    policies: Vec<TabularPolicy>,
    reference: TabularPolicy,
}

impl LogRatio {
    /// From d policies and the reference.
    ///
    /// # Errors
    /// [`Error::Config`] without policies, [`Error::Shape`] on different sizes, [`Error::Assumption`]
    /// unless every policy has full support.
    pub fn try_new(policies: Vec<TabularPolicy>, reference: TabularPolicy) -> Result<Self> {
        if policies.is_empty() {
            return Err(Error::config("policies", "none", "at least one policy"));
        }
        for (k, policy) in policies.iter().chain([&reference]).enumerate() {
            policy.check_shape(
                "policy of a log-ratio feature",
                reference.n_states(),
                reference.n_actions(),
            )?;
            if policy.log_probs().iter().any(|l| !l.is_finite()) {
                return Err(Error::Assumption {
                    assumption: "full support of log-linear features".into(),
                    why: format!(
                        "policy {k} of {} has a zero probability",
                        policies.len() + 1
                    ),
                });
            }
        }
        Ok(Self {
            policies,
            reference,
        })
    }
}

impl FeatureMap for LogRatio {
    fn dim(&self) -> usize {
        self.policies.len()
    }

    fn shape(&self) -> (usize, usize) {
        (self.reference.n_states(), self.reference.n_actions())
    }

    fn write(&self, s: StateIx, a: ActionIx, out: &mut [f64]) {
        let reference = self.reference.log_prob(s, a);
        for (o, policy) in out.iter_mut().zip(&self.policies) {
            *o = policy.log_prob(s, a) - reference;
        }
    }
}
