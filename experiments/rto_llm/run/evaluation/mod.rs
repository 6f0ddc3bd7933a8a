//! What the policies are worth: `judged` are their responses to held-out prompts, `exact` is the corner of the world that can be
//! enumerated, `untrained` what is there without training PPO, `cards` are the model cards, and `evaluate` writes it all.

mod cards;
mod evaluate;
mod exact;
mod judged;
mod sampler;
mod untrained;

pub use evaluate::Evaluation;
pub use exact::Corner;
pub use judged::Judged;
pub use untrained::Baselines;
