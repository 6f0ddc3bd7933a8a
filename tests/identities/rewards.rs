//! Rewards that a policy determines, and shaping.

use crate::{Case, INSTANCES, TOLERANCE, case, pairs, same};
use rand::Rng;
use rto::mdp::{StateIx, sample_trajectory};
use rto::plan::soft_value_iteration;
use rto::reward::RewardFunction;
use rto::reward::{LogRatioReward, TabularReward};

#[test]
fn corrected_4_3_on_every_table_and_4_5_on_deterministic_ones_only() {
    let mut violations = 0;
    let mut stochastic = 0;
    for i in 0..INSTANCES {
        let Case {
            g,
            star,
            policy,
            seeds,
        } = case(i);
        let reward = g.reward();
        let implicit = LogRatioReward::try_new(&star.policy, &g.reference, g.beta.get()).unwrap();
        let v = |s: StateIx| {
            if s == StateIx::END {
                0.0
            } else {
                star.v[s.ix()]
            }
        };
        // (4.3) with β log π_ref and the (⋆) term, along sampled trajectories.
        let root = g.mdp.roots().next().unwrap().0;
        let mut rng = seeds.child("trajectories").rng();
        let mut worst = 0.0f64;
        for _ in 0..5 {
            let tau = sample_trajectory(&g.mdp, &policy, root, &mut rng);
            let sum = tau.sum(|s, a| implicit.reward(s, a));
            let steps = tau.steps();
            let mut right = tau.sum(|s, a| reward.reward(s, a)) - v(root);
            let mut drift = 0.0;
            for (h, &(s, a)) in steps.iter().enumerate() {
                let next = steps.get(h + 1).map_or(StateIx::END, |n| n.0);
                drift += g.mdp.expect(s, a, &star.v) - v(next);
            }
            worst = worst.max((sum - right).abs());
            right += drift;
            same(i, "(4.3)", sum, right);
        }
        if g.mdp.is_deterministic() {
            assert!(worst < TOLERANCE * 10.0, "instance {i}: (⋆) = {worst}");
            for (s, a) in pairs(&g.mdp) {
                if g.reference.prob(s, a) > 0.0 {
                    let next = g.mdp.next_state(s, a).unwrap();
                    let shaped = reward.reward(s, a) + v(next) - v(s);
                    same(i, "(4.5)", implicit.reward(s, a), shaped);
                }
            }
            // Each state's soft value under its DPO token reward is 0.
            let zero = soft_value_iteration(g.problem(), &implicit).unwrap();
            for value in &zero.v {
                same(i, "soft value of the DPO reward", *value, 0.0);
            }
        } else if g.mdp.horizon() > 1 {
            stochastic += 1;
            violations += usize::from(worst > 1e-3);
        }
    }
    // On stochastic tables the token reward (4.5) does not reproduce returns.
    assert!(
        stochastic > 200 && violations > stochastic * 8 / 10,
        "{violations} of {stochastic}"
    );
}

#[test]
fn potential_shaping_changes_no_policy() {
    for i in 0..INSTANCES {
        let Case { g, star, seeds, .. } = case(i);
        let mut rng = seeds.child("potential").rng();
        let potential: Vec<f64> = (0..g.mdp.n_states())
            .map(|_| rng.random_range(-1.0..1.0))
            .collect();
        let mut values = g.reward().tabulate().values().clone();
        for (s, a) in pairs(&g.mdp) {
            values[[s.ix(), a.ix()]] += g.mdp.expect(s, a, &potential) - potential[s.ix()];
        }
        let shaped = TabularReward::try_new(values).unwrap();
        let other = soft_value_iteration(g.problem(), &shaped).unwrap();
        for ((got, before), shift) in other.v.iter().zip(&star.v).zip(&potential) {
            same(i, "V shifts by the potential", *got, before - shift);
        }
        for (s, a) in pairs(&g.mdp) {
            same(i, "policy", other.policy.prob(s, a), star.policy.prob(s, a));
        }
    }
}
