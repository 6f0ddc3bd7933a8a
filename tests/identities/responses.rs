//! Fixed responses (Proposition C.2).

use crate::{Case, INSTANCES, TOLERANCE, case, same};
use ndarray::Array2;
use rto::mdp::{Beta, Problem, StateIx, TabularMdp, TabularPolicy, Transition};
use rto::plan::{best_predetermined, soft_value_iteration};
use rto::reward::TabularReward;

/// Where nothing is random, a fixed response is as good as any policy; elsewhere it is no better. Either way it
/// keeps to the support of the reference.
#[test]
fn the_best_fixed_response_is_optimal_on_deterministic_tables() {
    let mut none = 0;
    for i in 0..INSTANCES {
        let Case { g, .. } = case(i);
        if (g.mdp.n_actions() as f64).powi(g.mdp.horizon() as i32) > 4096.0 {
            continue;
        }
        let reward = g.reward();
        let beta = Beta::try_new(0.0).unwrap();
        let best = soft_value_iteration(Problem::new(&g.mdp, &g.reference, beta), &reward).unwrap();
        let fixed = best_predetermined(&g.mdp, &reward, &g.reference).unwrap();
        if g.mdp.is_deterministic() {
            same(i, "fixed response", fixed.value, best.mean_value(&g.mdp));
        } else {
            assert!(fixed.value <= best.mean_value(&g.mdp) + TOLERANCE);
            none += u32::from(fixed.value == f64::NEG_INFINITY);
        }
    }
    assert!(none > 0, "some support allows no fixed response");
}

/// One action for a hundred thousand steps is one response, found without a call for each step.
#[test]
fn a_single_action_needs_no_search() {
    let steps = 100_000;
    let mut next: Vec<StateIx> = (1..steps).map(StateIx).collect();
    next.push(StateIx::END);
    let mut initial = vec![0.0; steps as usize];
    initial[0] = 1.0;
    let mdp = TabularMdp::try_new(1, initial, Transition::Deterministic(next)).unwrap();
    let reward = TabularReward::try_new(Array2::ones((steps as usize, 1))).unwrap();
    let uniform = TabularPolicy::uniform(steps as usize, 1);
    let fixed = best_predetermined(&mdp, &reward, &uniform).unwrap();
    assert_eq!(fixed.value, f64::from(steps));
}
