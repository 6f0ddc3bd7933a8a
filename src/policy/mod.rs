//! Exact implementers of the seam on enumerable token MDPs.
//!
//! Here `mdp` and `seq` meet: a [`StateMap`] reads the tokens of an [`Episode`](crate::seq::Episode) as the states and
//! actions of a table. Policies, critics and reward models are then tables or linear functions with exact gradients, and
//! any [`Policy`](crate::seq::Policy), a transformer included, can be written out as a table and evaluated exactly.
//!
//! | what | type |
//! |---|---|
//! | π(a\|s) ∝ exp(z(s, a)/T) | [`TabularSoftmax`], [`TabularLearner`] |
//! | π(a\|s) ∝ π_base(a\|s) exp(θᵀφ(s, a)/T) | [`LogLinearSoftmax`], [`LogLinearLearner`] |
//! | both in one θ: the shared trunk | [`TabularActorCritic`], [`TabularActorCriticLearner`], [`LogLinearSoftmax::with_values`] |
//! | V(s), tabular or θᵀψ(s) | [`Regressor::critic`], [`Regressor::linear_critic`] |
//! | r(s, a), tabular or θᵀφ(s, a) | [`Regressor::reward`], [`Regressor::linear_reward`] |
//! | SubOpt, reward, KL, entropy without sampling | [`ExactEvaluator`], [`tabulate`] |
//! | ∇V^π_β(ρ) | [`exact_policy_gradient`] |
//!
//! Any policy on a tree, evaluated exactly under (3.2): here the optimum is found and another policy is measured against it.
//!
//! ```
//! use ndarray::array;
//! use rto::mdp::{Beta, TabularPolicy, TokenTree};
//! use rto::policy::{ExactEvaluator, StateMap, TabularSoftmax};
//! use rto::reward::TabularReward;
//!
//! let tree = TokenTree::try_new(1, 2, 1, None)?; // one token, two choices
//! let map = StateMap::tree(&tree, &[1.0])?;
//! let reward = TabularReward::try_new(array![[1.0, 0.0]])?;
//! let (reference, beta) = (TabularPolicy::uniform(1, 2), Beta::try_new(0.5)?);
//! let exact = ExactEvaluator::try_new(map.clone(), &reward, reference, beta)?;
//! // V* = β log E_ref exp(r/β).
//! assert!((exact.optimum() - 0.5 * ((2f64.exp() + 1.0) / 2.0).ln()).abs() < 1e-12);
//! let mine = TabularSoftmax::try_new(map, &array![[2.0, 0.0]])?; // σ(2) on token 0, which is soft-optimal
//! assert!(exact.report(&mine.table()?)?.suboptimality.abs() < 1e-12);
//! # Ok::<(), rto::Error>(())
//! ```

mod exact;
mod learner;
mod logits;
pub mod optimizer;
mod regressor;
mod scores;
mod softmax;
mod state_map;

pub use exact::{
    ExactEvaluator, ExactReport, exact_policy_gradient, response_total_variation, tabulate,
};
pub use learner::{LogLinearLearner, SoftmaxLearner, TabularActorCriticLearner, TabularLearner};
pub use logits::{ActorCriticTable, LogLinear, LogitTable, Logits};
pub use optimizer::{Optimizer, OptimizerConfig, RowGradient, Rule};
pub use regressor::{LinearFunction, Regressor, Table, TableFunction};
pub use softmax::{LogLinearSoftmax, SoftmaxPolicy, TabularActorCritic, TabularSoftmax};
pub use state_map::{StateMap, Walk};
