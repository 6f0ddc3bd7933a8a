//! What exact RTO converges to (errata, C2).

use super::{SoftOptimum, soft_value_iteration};
use crate::Result;
use crate::mdp::{Beta, Problem, Reachable, TabularMdp, TabularPolicy};
use crate::reward::LogRatioReward;

/// max_π E_{d^π}\[Σ_h β₁ log(π_dpo/π_ref) − β₂ log(π/π_ref)\], the objective of RTO with the token reward (4.5). What
/// π_dpo is in states that no episode can meet does not matter.
///
/// On a deterministic table the optimum is π(y|x) ∝ π_ref(y|x) (π_dpo(y|x)/π_ref(y|x))^{β₁/β₂} *over whole
/// responses*: its token conditionals are the tempered ones times the continuations' normalisers, and
/// equal the tempered ones at the last token and when β₁ = β₂ (then π = π_dpo and V ≡ 0), elsewhere not in general. On every table, if
/// π_dpo is soft-optimal for r at β, the result is soft-optimal for r at β·β₂/β₁, as β log(π_dpo/π_ref) is then
/// r + E\[V*(s′)\] − V*(s), a potential shaping in expectation.
///
/// # Errors
/// [`crate::Error::Shape`]; [`crate::Error::Assumption`] where π_dpo lacks support that π_ref has, in a state that an
/// episode can meet.
pub fn rto_optimum(
    mdp: &TabularMdp,
    dpo: &TabularPolicy,
    reference: &TabularPolicy,
    beta1: Beta,
    beta2: Beta,
) -> Result<SoftOptimum> {
    let met = Reachable::new(mdp, reference)?;
    let token_reward = LogRatioReward::within(&met, dpo, reference, beta1.get())?;
    soft_value_iteration(Problem::new(mdp, reference, beta2), &token_reward)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::mdp::{StateIx, for_each_trajectory};
    use crate::zoo;

    #[test]
    fn the_tilt_is_over_whole_responses_and_changes_only_the_temperature() {
        let (_, g) = zoo::g1().unwrap();
        let beta = |b| Beta::try_new(b).unwrap();
        let solve = |b| {
            soft_value_iteration(Problem::new(&g.mdp, &g.reference, beta(b)), &g.reward()).unwrap()
        };
        let dpo = solve(0.5).policy;
        let rto = rto_optimum(&g.mdp, &dpo, &g.reference, beta(0.1), beta(0.03)).unwrap();
        let direct = solve(0.5 * 0.03 / 0.1).policy;
        for (a, b) in rto.policy.log_probs().iter().zip(direct.log_probs()) {
            assert!((a - b).abs() < 1e-10);
        }
        // log π(y|x) = log π_ref + (β₁/β₂) log(π_dpo/π_ref) − V/β₂ for every response.
        let root = StateIx(0);
        for_each_trajectory(&g.mdp, root, |steps| {
            let log = |p: &TabularPolicy| steps.iter().map(|&(s, a)| p.log_prob(s, a)).sum::<f64>();
            let base = log(&g.reference);
            let tilt = base + (0.1 / 0.03) * (log(&dpo) - base) - rto.v[0] / 0.03;
            assert!((log(&rto.policy) - tilt).abs() < 1e-10);
        })
        .unwrap();
        let same = rto_optimum(&g.mdp, &dpo, &g.reference, beta(0.5), beta(0.5)).unwrap();
        assert!(same.v.iter().all(|v| v.abs() < 1e-12));
    }
}
