//! Token rewards r: 𝒮 × 𝒜 → ℝ of Section 3.1, and what the paper builds from them.
//!
//! A reward in features, and the token reward of a policy (3.6) read off its log-ratio:
//!
//! ```
//! use ndarray::array;
//! use rto::features::DenseFeatures;
//! use rto::mdp::{ActionIx, StateIx, TabularPolicy};
//! use rto::reward::{LinearReward, LogRatioReward, RewardFunction};
//!
//! let phi = DenseFeatures::try_new(1, 2, 2, vec![1.0, 0.0, 0.0, 2.0])?; // φ(s, 0) = (1, 0), φ(s, 1) = (0, 2)
//! let reward = LinearReward::try_new(&phi, &[0.5, 0.25])?;
//! assert_eq!([0, 1].map(|a| reward.reward(StateIx(0), ActionIx(a))), [0.5, 0.5]);
//! let policy = TabularPolicy::from_probs(&array![[0.75, 0.25]])?;
//! let implicit = LogRatioReward::try_new(&policy, &TabularPolicy::uniform(1, 2), 0.1)?;
//! assert!((implicit.reward(StateIx(0), ActionIx(0)) - 0.1 * 1.5f64.ln()).abs() < 1e-15);
//! # Ok::<(), rto::Error>(())
//! ```

use ndarray::Array2;

use crate::check;
use crate::features::FeatureMap;
use crate::mdp::{ActionIx, Reachable, StateIx, TabularMdp, TabularPolicy};
use crate::{Error, Result};

/// Section 3.1: r(s, a). After the end of the episode r = 0, which needs no row.
pub trait RewardFunction: Sync {
    /// (|𝒮|, A) the reward is defined on.
    fn shape(&self) -> (usize, usize);

    /// r(s, a).
    fn reward(&self, s: StateIx, a: ActionIx) -> f64;

    /// Writes r(s, ·) into `out`, `[A]`.
    #[inline]
    fn write_row(&self, s: StateIx, out: &mut [f64]) {
        for (a, o) in out.iter_mut().enumerate() {
            *o = self.reward(s, ActionIx(a as u32));
        }
    }

    /// The reward as a table, `[n_states, n_actions]`.
    fn tabulate(&self) -> TabularReward
    where
        Self: Sized,
    {
        let mut values = Array2::zeros(self.shape());
        for (s, mut row) in values.rows_mut().into_iter().enumerate() {
            let row = row
                .as_slice_mut()
                .expect("a fresh table is stored in row order");
            self.write_row(StateIx(s as u32), row);
        }
        TabularReward { values }
    }
}

/// Refuses a reward of the wrong size.
pub(crate) fn check_reward(mdp: &TabularMdp, reward: &impl RewardFunction) -> Result<()> {
    let (n_states, n_actions) = reward.shape();
    if (n_states, n_actions) == (mdp.n_states(), mdp.n_actions()) {
        return Ok(());
    }
    Err(Error::Shape {
        what: format!("reward ({n_states} x {n_actions} values)"),
        expected: mdp.n_states() * mdp.n_actions(),
        got: n_states * n_actions,
    })
}

/// Section 3.1: r as a table, `[n_states, n_actions]`.
#[derive(Debug, Clone, PartialEq)]
pub struct TabularReward {
    values: Array2<f64>,
}

impl TabularReward {
    /// A checked table.
    ///
    /// # Errors
    /// [`Error::NonFinite`] naming the entry.
    pub fn try_new(values: Array2<f64>) -> Result<Self> {
        let values = values.as_standard_layout().into_owned();
        let n_actions = values.ncols();
        let name = |i: usize| format!("reward[{}][{}]", i / n_actions, i % n_actions);
        check::finite(name, values.as_slice().expect("made standard above"))?;
        Ok(Self { values })
    }

    /// The table.
    pub fn values(&self) -> &Array2<f64> {
        &self.values
    }
}

impl RewardFunction for TabularReward {
    fn shape(&self) -> (usize, usize) {
        self.values.dim()
    }

    #[inline]
    fn reward(&self, s: StateIx, a: ActionIx) -> f64 {
        self.values[[s.ix(), a.ix()]]
    }

    #[inline]
    fn write_row(&self, s: StateIx, out: &mut [f64]) {
        let n = self.values.ncols();
        let all = self
            .values
            .as_slice()
            .expect("rewards are stored in row order");
        out.copy_from_slice(&all[s.ix() * n..(s.ix() + 1) * n]);
    }
}

/// r_θ(s, a) = φ(s, a)ᵀθ of Assumption 4.1.
#[derive(Debug, Clone)]
pub struct LinearReward<'a, F> {
    features: &'a F,
    theta: Vec<f64>,
}

impl<'a, F: FeatureMap> LinearReward<'a, F> {
    /// The reward of a parameter, `[d]`.
    ///
    /// # Errors
    /// [`Error::Shape`] or [`Error::NonFinite`].
    pub fn try_new(features: &'a F, theta: &[f64]) -> Result<Self> {
        check::len("theta", features.dim(), theta.len())?;
        check::finite(|i| format!("theta[{i}]"), theta)?;
        Ok(Self {
            features,
            theta: theta.to_vec(),
        })
    }

    /// θ.
    pub fn theta(&self) -> &[f64] {
        &self.theta
    }
}

impl<F: FeatureMap> RewardFunction for LinearReward<'_, F> {
    fn shape(&self) -> (usize, usize) {
        self.features.shape()
    }

    #[inline]
    fn reward(&self, s: StateIx, a: ActionIx) -> f64 {
        self.features.dot(s, a, &self.theta)
    }
}

/// β log(π(a|s)/π_ref(a|s)): the token reward of (4.5)/(4.6), and with a uniform reference and β = 1,
/// up to a constant, r_t = log π* of (3.6).
///
/// For π = π*_β and deterministic transitions it equals r + V*(s′) − V*(s), a potential shaping of r and
/// not r itself. Outside the support of π the reward is −∞, so such a pair is refused at construction.
#[derive(Debug, Clone, PartialEq)]
pub struct LogRatioReward {
    values: Array2<f64>,
}

impl LogRatioReward {
    /// The implicit reward of a policy.
    ///
    /// # Errors
    /// [`Error::Shape`]; [`Error::Assumption`] where the reference has mass and the policy none.
    /// Actions without reference mass get reward 0: no admissible policy takes them.
    pub fn try_new(policy: &TabularPolicy, reference: &TabularPolicy, beta: f64) -> Result<Self> {
        Self::checked(policy, reference, beta, |_, _| true)
    }

    /// The same where only some pairs can be met: the others get reward 0 where their log-ratio is −∞.
    ///
    /// # Errors
    /// As [`Self::try_new`], for the reachable pairs alone.
    pub fn within(
        met: &Reachable,
        policy: &TabularPolicy,
        reference: &TabularPolicy,
        beta: f64,
    ) -> Result<Self> {
        Self::checked(policy, reference, beta, |s, a| met.pair(s, a))
    }

    fn checked(
        policy: &TabularPolicy,
        reference: &TabularPolicy,
        beta: f64,
        counts: impl Fn(StateIx, ActionIx) -> bool,
    ) -> Result<Self> {
        reference.check_shape("reference", policy.n_states(), policy.n_actions())?;
        if !beta.is_finite() {
            return Err(Error::config("beta", beta, "finite"));
        }
        let mut values = Array2::zeros(policy.log_probs().dim());
        for ((s, a), v) in values.indexed_iter_mut() {
            let (state, action) = (StateIx(s as u32), ActionIx(a as u32));
            let (p, q) = (
                policy.log_prob(state, action),
                reference.log_prob(state, action),
            );
            if q == f64::NEG_INFINITY {
                continue;
            }
            let ratio = beta * (p - q);
            if ratio.is_finite() {
                *v = ratio;
            } else if counts(state, action) {
                return Err(Error::Assumption {
                    assumption: "support of the policy of (4.6)".into(),
                    why: format!("policy[{s}][{a}] is 0 where the reference is not"),
                });
            }
        }
        Ok(Self { values })
    }
}

impl RewardFunction for LogRatioReward {
    fn shape(&self) -> (usize, usize) {
        self.values.dim()
    }

    #[inline]
    fn reward(&self, s: StateIx, a: ActionIx) -> f64 {
        self.values[[s.ix(), a.ix()]]
    }
}
