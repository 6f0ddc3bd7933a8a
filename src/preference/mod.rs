//! Preference optimisation without optimisation error: each method to its minimiser on responses that can be enumerated, or to the
//! reason why it has none. Cal-DPO, TDPO-2 and XPO go to a stationary point, KTO with its own reference point to a fixed point.
//!
//! On the simplex over responses DPO, χPO, TDPO with full gradients, R-DPO, SimPO with γ = 0 and reward model + planning
//! minimise *one* Bradley–Terry likelihood, each through a margin that is a difference of one number per response. So
//! [`PreferenceProblem`] fits once and plans many; what these methods differ in on tables is the planner, what they do where
//! the likelihood says nothing, and bounded classes. IPO (least squares), RPO/VPO/XPO/HyPO (penalised) and KTO (a
//! water-filling) are fits of their own. Population and data are one code path, [`PairTable`].
//!
//! The policy of the population is the soft optimum for DPO, and another one for most others:
//!
//! ```
//! use rto::mdp::Beta;
//! use rto::preference::{Method, Outcome, PairTable, PreferenceProblem, Responses};
//!
//! let bandit = Responses::bandit(&[0.55, 0.25, 0.15, 0.05], &[0.0, 0.6, 1.0, 1.5])?;
//! let pairs = PairTable::population(&bandit, &[0.25; 4])?;
//! let problem = PreferenceProblem::try_new(&bandit, &pairs, Beta::try_new(0.3)?)?;
//! let subopt = |method| match problem.solve(&method)? {
//!     Outcome::Solved(solved) => Ok::<f64, rto::Error>(solved.evaluation.subopt),
//!     Outcome::NoMinimiser(why) => panic!("{why}"),
//! };
//! assert!(subopt(Method::Dpo)? < 1e-12);
//! assert!((subopt(Method::Ipo)? - 0.2589).abs() < 1e-4);
//! # Ok::<(), rto::Error>(())
//! ```

mod best_of_n;
mod boxed;
mod cal_dpo;
mod coverage;
mod dpop;
mod evaluation;
mod exploration;
mod fit;
mod kto;
mod losses;
mod method;
mod nash;
mod newton;
mod optimism;
mod pair_loss;
mod pairs;
mod planner;
mod prompts;
mod responses;
mod sets;
mod stop_gradient;

pub use best_of_n::{BestOfN, best_of_n, soft_best_of_n};
pub use cal_dpo::{CalDpoFit, cal_dpo_fit};
pub use coverage::additive_coverage;
pub use dpop::{DpopFit, dpop_fit};
pub use evaluation::{Evaluation, evaluate, kl, normalise, soft_optimum};
pub use exploration::{
    Learner, Sampler, Trap, online_regret, optimism_bonus, optimism_gain, xpo_two_responses,
};
pub use fit::{
    Fit, PenalisedFit, Penalty, bradley_terry_scores, exploration_branch, ipo_scores,
    penalised_fit, ridge_scores,
};
pub use kto::{KtoPlan, kto_fixed_point, kto_plan, kto_shared_fixed_point};
pub use losses::{LossAt, PreferenceLoss, forward_kl};
pub use method::{DEFAULT_METHODS, Method, Outcome, PreferenceProblem, Solved, SupervisedBase};
pub use nash::PreferenceGame;
pub use newton::Certificate;
pub use optimism::OptimisticFit;
pub use pair_loss::{Compared, LossBend, PairLossFit, pair_loss_fit};
pub use pairs::{PairRow, PairTable};
pub use planner::{chi_plan, length_map, tdpo_plan, tilt, wright_omega};
pub use prompts::{Average, Prompt, PromptOutcome, PromptSet};
pub use responses::{Child, MAX_RESPONSES, Responses};
pub use sets::{BoundedFit, MinimiserSet, bounded_scores};
pub use stop_gradient::{FieldRoot, tdpo2_root};
