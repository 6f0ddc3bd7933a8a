//! Bad input ends in one clear line that names the place, never in a panic.

use ndarray::{Array2, arr2};
use proptest::prelude::*;
use rto::Error;
use rto::algorithm1::{Baseline, ConfidenceSet, KlBalls, maxmin};
use rto::estimate::{Design, FitOptions, Metric, RadiusInputs, fit_bradley_terry, radii};
use rto::features::DenseFeatures;
use rto::mdp::{
    ActionIx, Beta, GeneralMdp, LayeredGraph, PreferencePair, Problem, SparseRows, StateIx,
    TabularMdp, TabularPolicy, TokenTree, Trajectory, Transition,
};
use rto::plan::tree_kernel::tree_soft_values;
use rto::plan::{best_predetermined, evaluate, soft_value_iteration};
use rto::preference::{additive_coverage, best_of_n, soft_best_of_n};
use rto::reward::{LinearReward, LogRatioReward, TabularReward};
use rto::zoo;

const END: StateIx = StateIx::END;

/// The message is one line and contains the place.
#[track_caller]
fn names<T: std::fmt::Debug>(result: rto::Result<T>, place: &str) {
    let error = result.expect_err("must be refused").to_string();
    assert!(
        !error.contains('\n') && error.contains(place),
        "{error:?} does not name {place:?}"
    );
}

fn table(next: &[u32]) -> rto::Result<TabularMdp> {
    let next = next
        .iter()
        .map(|s| if *s == 99 { END } else { StateIx(*s) })
        .collect();
    TabularMdp::try_new(2, vec![1.0, 0.0, 0.0], Transition::Deterministic(next))
}

#[test]
fn tables() {
    assert!(table(&[1, 2, 2, 99, 99, 99]).is_ok());
    names(
        table(&[1, 2, 2, 99, 99]),
        "transition: expected 6 values, got 5",
    );
    names(table(&[1, 2, 2, 99, 99, 7]), "transition[2][1]");
    names(table(&[1, 2, 0, 99, 99, 99]), "transition[1][0]");
    names(table(&[0, 2, 2, 99, 99, 99]), "acyclic");
    let end = |n| Transition::Deterministic(vec![END; n]);
    names(
        TabularMdp::try_new(2, vec![0.5, 0.4], end(4)),
        "initial distribution",
    );
    names(
        TabularMdp::try_new(2, vec![1.5, -0.5], end(4)),
        "initial distribution",
    );
    names(
        TabularMdp::try_new(2, vec![f64::NAN, 1.0], end(4)),
        "not finite",
    );
    names(TabularMdp::try_new(0, vec![1.0], end(0)), "n_actions");
    names(TabularMdp::try_new(2, vec![], end(0)), "n_states");
}

#[test]
fn stochastic_rows() {
    let rows = |rows: &[Vec<(StateIx, f64)>]| SparseRows::try_new(2, rows);
    names(
        rows(&[vec![(END, 1.0)], vec![(StateIx(1), 0.5), (END, 0.4)]]),
        "transition[0][1]",
    );
    names(rows(&[vec![(END, f64::NAN)]]), "transition[0][0]");
    names(rows(&[vec![]]), "transition[0][0]");
    names(
        rows(&[vec![(StateIx(3), 0.5), (StateIx(3), 0.5)]]),
        "state 3 twice",
    );
}

#[test]
fn general_tables_and_layers() {
    let loops = || Transition::Deterministic(vec![StateIx(0), StateIx(1), StateIx(0), StateIx(1)]);
    let general =
        |h, terminal: &[StateIx]| GeneralMdp::try_new(2, h, vec![1.0, 0.0], loops(), terminal);
    // Cycles are fine here: the horizon unrolls them, and a state met at two steps is two states.
    let unrolled = general(3, &[]).unwrap().unroll().unwrap();
    assert_eq!((unrolled.mdp.n_states(), unrolled.mdp.horizon()), (5, 3));
    assert_eq!(
        unrolled
            .state(2, StateIx(0))
            .map(|s| unrolled.origin[s.ix()]),
        Some((2, StateIx(0)))
    );
    names(general(0, &[]), "horizon");
    names(general(2, &[StateIx(5)]), "terminal[0]");
    names(general(2, &[StateIx(0)]), "initial[0]");
    names(
        LayeredGraph::try_new(&[1, 2], 1, &[vec![Some(2)], vec![None, None]]),
        "next[0][0][0]",
    );
    // The last layer has no next one: an edge out of it would be a cycle or leave the graph.
    names(
        LayeredGraph::try_new(&[1, 1], 1, &[vec![Some(0)], vec![Some(0)]]),
        "next[1][0][0]",
    );
    names(LayeredGraph::try_new(&[], 1, &[]), "layer");
    names(LayeredGraph::try_new(&[1], 2, &[vec![None]]), "next[0]");
}

#[test]
fn trees_and_responses() {
    names(TokenTree::try_new(1, 2, 0, None), "horizon");
    names(TokenTree::try_new(1, 64, 40, None), "horizon");
    names(TokenTree::try_new(1, 2, 2, Some(ActionIx(2))), "eos");
    let tree = TokenTree::try_new(1, 3, 3, Some(ActionIx(2))).unwrap();
    assert!(tree.trajectory(0, &[0, 2]).is_ok());
    names(tree.trajectory(0, &[0, 3, 0]), "token 1");
    names(tree.trajectory(0, &[0, 0, 9]), "token 2");
    names(tree.trajectory(0, &[0, 1]), "horizon");
    names(tree.trajectory(0, &[2, 0, 0]), "end-of-sentence");
    names(tree.trajectory(1, &[2]), "prompt");
    names(tree.trajectory(0, &[]), "response length");
    names(tree.trajectory(0, &[0, 0, 0, 0]), "response length");
    let two = TokenTree::try_new(2, 3, 1, None).unwrap();
    let (a, b) = (
        two.trajectory(0, &[1]).unwrap(),
        two.trajectory(1, &[1]).unwrap(),
    );
    names(PreferencePair::try_new(a, b), "same prompt");
    let mdp = table(&[1, 2, 2, 99, 99, 99]).unwrap();
    let step = |s, a| (StateIx(s), ActionIx(a));
    assert!(Trajectory::try_new(&mdp, vec![step(0, 0), step(1, 1)]).is_ok());
    names(
        Trajectory::try_new(&mdp, vec![step(0, 0), step(2, 0)]),
        "trajectory step 1",
    );
    names(
        Trajectory::try_new(&mdp, vec![step(0, 0)]),
        "the end of the trajectory",
    );
    names(
        Trajectory::try_new(&mdp, vec![step(9, 0)]),
        "trajectory step 0",
    );
}

#[test]
fn policies_rewards_and_beta() {
    names(Beta::try_new(-0.1), "beta");
    names(Beta::try_new(f64::NAN), "beta");
    names(
        TabularPolicy::from_probs(&arr2(&[[0.5, 0.5], [0.5, 0.6]])),
        "policy[1]",
    );
    names(
        TabularPolicy::from_probs(&arr2(&[[1.5, -0.5]])),
        "policy[0]",
    );
    names(
        TabularPolicy::from_logits(arr2(&[[0.0, f64::NAN]])),
        "logits[0]",
    );
    names(
        TabularPolicy::from_logits(arr2(&[[f64::NEG_INFINITY; 2]])),
        "logits[0]",
    );
    names(
        TabularReward::try_new(arr2(&[[0.0, f64::INFINITY]])),
        "reward[0][1]",
    );
    names(
        DenseFeatures::try_new(1, 2, 2, vec![0.0, 1.0, f64::NAN, 0.0]),
        "features[0][1][0]",
    );
    let (_, g) = zoo::g0().unwrap();
    let sharp = TabularPolicy::from_probs(&arr2(&[[1.0, 0.0], [0.5, 0.5], [0.5, 0.5]])).unwrap();
    names(
        evaluate(
            Problem::new(&g.mdp, &sharp, g.beta),
            &g.reward(),
            &g.reference,
        ),
        "policy[0][1]",
    );
    names(
        LogRatioReward::try_new(&sharp, &g.reference, 1.0),
        "policy[0][1]",
    );
    let short = TabularPolicy::uniform(2, 2);
    names(
        soft_value_iteration(Problem::new(&g.mdp, &short, g.beta), &g.reward()),
        "reference",
    );
    names(LinearReward::try_new(&g.features, &[1.0]), "theta");
    let small = TabularReward::try_new(Array2::zeros((2, 2))).unwrap();
    names(soft_value_iteration(g.problem(), &small), "reward");
    let tree = TokenTree::try_new(1, 2, 25, None).unwrap();
    let long = LayeredGraph::try_new(&[1; 25], 2, &{
        let mut next = vec![vec![Some(0); 2]; 25];
        next[24] = vec![None; 2];
        next
    });
    assert_eq!(tree.horizon(), 25);
    let long = long.unwrap().compile(&[1.0]).unwrap();
    let reward = TabularReward::try_new(Array2::zeros((25, 2))).unwrap();
    let uniform = TabularPolicy::uniform(25, 2);
    names(best_predetermined(&long, &reward, &uniform), "A^H");
}

#[test]
fn the_tree_kernel_reports_what_it_cannot_solve() {
    let tree = TokenTree::try_new(1, 2, 2, None).unwrap();
    let (r, mut p) = (vec![0.0; 6], vec![0.5f64.ln(); 6]);
    let beta = Beta::try_new(0.5).unwrap();
    names(tree_soft_values(&tree, &r[1..], &p, beta, None), "reward");
    names(
        tree_soft_values(&tree, &r, &p, Beta::try_new(0.0).unwrap(), None),
        "beta",
    );
    p[0] = f64::NAN;
    names(tree_soft_values(&tree, &r, &p, beta, None), "prompt 0");
    for (actions, at) in [(8, 3), (16, 100), (5, 29)] {
        let tree = TokenTree::try_new(1, actions, 2, None).unwrap();
        let mut r = vec![0.0; tree.n_states() * actions];
        let p = vec![-(actions as f64).ln(); r.len()];
        assert!(tree_soft_values(&tree, &r, &p, beta, None).is_ok());
        for bad in [f64::NAN, f64::INFINITY] {
            r[at] = bad;
            names(tree_soft_values(&tree, &r, &p, beta, None), "prompt 0");
        }
    }
}

#[test]
fn estimation_and_sets() {
    names(Design::try_new(2, vec![1.0; 3]), "design");
    names(Design::try_new(2, vec![1.0, f64::NAN]), "design[0][1]");
    let design = Design::try_new(2, vec![1.0, 0.5, -0.2, 0.4, -1.0, -0.3]).unwrap();
    let fit = |o: FitOptions| fit_bradley_terry(&design, &o);
    names(
        fit(FitOptions {
            param_bound: 0.0,
            ..FitOptions::default()
        }),
        "param_bound",
    );
    names(
        fit(FitOptions {
            tolerance: f64::NAN,
            ..FitOptions::default()
        }),
        "tolerance",
    );
    names(
        fit(FitOptions {
            penalty: -1.0,
            ..FitOptions::default()
        }),
        "penalty",
    );
    names(Metric::sigma_d(&design, 0.0), "ridge");
    names(Metric::fisher(&design, &[0.0], 1.0), "theta");
    let inputs = RadiusInputs {
        horizon: 2,
        feature_bound: 1.0,
        param_bound: 1.0,
        ridge: 1.0,
        fail_prob: 1.0,
    };
    names(radii(&design, &[0.0, 0.0], &inputs), "fail_prob");
    let metric = Metric::sigma_d(&design, 1.0).unwrap();
    names(
        ConfidenceSet::try_new(&[0.0, 0.0], &metric, -1.0, 1.0),
        "bonus_scale",
    );
    names(
        ConfidenceSet::try_new(&[3.0, 0.0], &metric, 1.0, 1.0),
        "theta_mle",
    );
    names(
        KlBalls::from_counts(&arr2(&[[1.0, -2.0]]), 1.0),
        "transition_counts[0][1]",
    );
    let (_, g) = zoo::telescoping().unwrap();
    let set = ConfidenceSet::try_new(&[0.0, 0.0], &metric, 1.0, 1.0).unwrap();
    let zero = Beta::try_new(0.0).unwrap();
    let greedy = maxmin(
        Problem::new(&g.mdp, &g.reference, zero),
        &g.features,
        &set,
        Baseline::None,
    );
    assert!(matches!(greedy, Err(Error::Config { .. })));
}

proptest! {
    #[test]
    fn malformed_tables_never_panic(
        n_actions in 0usize..4,
        initial in prop::collection::vec(prop_oneof![Just(0.0), Just(1.0), Just(0.5), Just(f64::NAN), -1.0..2.0f64], 0..5),
        next in prop::collection::vec(prop_oneof![0u32..6, Just(u32::MAX)], 0..16),
        probs in prop::collection::vec(prop_oneof![Just(1.0), Just(0.5), Just(f64::NAN), -1.0..2.0f64], 0..16),
        horizon in 0usize..4,
    ) {
        let states: Vec<StateIx> = next.iter().copied().map(StateIx).collect();
        let rows: Vec<Vec<(StateIx, f64)>> = states
            .iter()
            .zip(&probs)
            .map(|(s, p)| vec![(*s, *p), (END, 1.0 - p)])
            .collect();
        let mut transitions = vec![Transition::Deterministic(states)];
        if let Ok(rows) = SparseRows::try_new(n_actions, &rows) {
            transitions.push(Transition::Stochastic(rows));
        }
        for transition in transitions {
            let acyclic = TabularMdp::try_new(n_actions, initial.clone(), transition.clone());
            let general = GeneralMdp::try_new(n_actions, horizon, initial.clone(), transition, &[]);
            let unrolled = general.and_then(|g| g.unroll()).map(|u| u.mdp);
            for mdp in [acyclic, unrolled].into_iter().flatten() {
                let uniform = TabularPolicy::uniform(mdp.n_states(), mdp.n_actions());
                let reward = TabularReward::try_new(Array2::ones((mdp.n_states(), mdp.n_actions()))).unwrap();
                let beta = Beta::try_new(0.3).unwrap();
                let optimum = soft_value_iteration(Problem::new(&mdp, &uniform, beta), &reward).unwrap();
                prop_assert!(optimum.v.iter().all(|v| v.is_finite()));
            }
        }
    }

    #[test]
    fn malformed_responses_never_panic(
        prompt in 0usize..4,
        tokens in prop::collection::vec(prop_oneof![0u32..5, any::<u32>()], 0..6),
    ) {
        let tree = TokenTree::try_new(2, 3, 4, Some(ActionIx(1))).unwrap();
        if let Ok(tau) = tree.trajectory(prompt, &tokens) {
            let mdp = tree.compile(&[0.5, 0.5]).unwrap();
            prop_assert!(Trajectory::try_new(&mdp, tau.steps().to_vec()).is_ok());
        }
    }

    #[test]
    fn estimates_of_any_finite_data_end(
        d in 1usize..5,
        values in prop::collection::vec(prop_oneof![Just(0.0), Just(1.0), -1e3..1e3f64, -1e-6..1e-6f64], 0..40),
        bound in prop_oneof![Just(0.01), Just(1.0), Just(50.0)],
    ) {
        let rows = values[..values.len() / d * d].to_vec();
        let design = Design::try_new(d, rows).unwrap();
        let options = FitOptions { param_bound: bound, tolerance: 1e-9, ..FitOptions::default() };
        let fit = fit_bradley_terry(&design, &options);
        prop_assert!(fit.is_ok(), "{fit:?}");
        let fit = fit.unwrap();
        prop_assert!(fit.norm <= bound * (1.0 + 1e-12) && fit.theta.iter().all(|t| t.is_finite()));
    }
}

#[test]
fn laws_on_responses() {
    let (half, nan, none) = ([0.5f64.ln(); 2], f64::NAN, f64::NEG_INFINITY);
    names(
        best_of_n(&[0.5f64.ln(), 0.4f64.ln()], &[0.0, 1.0], 2.0),
        "reference",
    );
    names(best_of_n(&[nan, 0.0], &[0.0, 1.0], 2.0), "reference");
    names(best_of_n(&[], &[], 2.0), "reference");
    names(best_of_n(&half, &[0.0, nan], 2.0), "score of response 1");
    names(best_of_n(&half, &[0.0], 2.0), "scores");
    names(best_of_n(&half, &[0.0, 1.0], nan), "N");
    names(soft_best_of_n(&half, &[0.0, 1.0], nan, 2.0), "lambda");
    names(soft_best_of_n(&half, &[0.0, 601.0], 1.0, 2.0), "lambda");
    assert!(soft_best_of_n(&half, &[0.0, 600.0], 1.0, 2.0).unwrap().1 < 1e-10);
    // A response that is never drawn is never kept, whatever its score.
    let best = best_of_n(&[half[0], none, half[1]], &[0.0, 2.0, 1.0], 3.0).unwrap();
    let kept: Vec<f64> = best.log_policy.iter().map(|u| u.exp()).collect();
    assert!((kept[0] - 0.125).abs() < 1e-15 && (kept[2] - 0.875).abs() < 1e-15);
    assert_eq!(kept[1], 0.0);

    let law = [0.5, 0.5];
    names(additive_coverage(&[], 0, &law, &law), "features");
    names(
        additive_coverage(&[1.0, nan], 1, &law, &law),
        "feature 0 of trajectory 1",
    );
    names(
        additive_coverage(&[1.0, 2.0], 1, &[0.5, 0.6], &law),
        "target law",
    );
    names(
        additive_coverage(&[1.0, 2.0], 1, &law, &[nan, 1.0]),
        "data law",
    );
    names(
        additive_coverage(&[0.0, 2.0], 1, &law, &[1.0, 0.0]),
        "features",
    );
}
