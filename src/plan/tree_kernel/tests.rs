use super::*;
use crate::mdp::{ActionIx, StateIx};
use crate::plan::soft_value_iteration;
use crate::reward::RewardFunction;
use crate::seed::SeedTree;
use crate::zoo;

#[test]
fn agrees_with_the_table_planner() {
    for (i, (p, a, h)) in [
        (1, 1, 3),
        (2, 2, 5),
        (3, 3, 4),
        (1, 4, 4),
        (2, 5, 3),
        (1, 8, 3),
        (2, 16, 3),
        (1, 33, 2),
        (1, 64, 2),
        (1, 3, 12),
        (1, 2, 17),
        (1, 10, 5),
    ]
    .into_iter()
    .enumerate()
    {
        for (eos, zeros) in [(false, 0.0), (true, 0.3)] {
            let spec = zoo::RandomSpec {
                kind: zoo::Kind::Tree { eos },
                prompts: p,
                actions: a,
                horizon: h,
                dim: 3,
                beta: 0.2,
                theta_norm: 3.0,
                zeros,
            };
            let g = zoo::random_instance(&spec, &SeedTree::new(i as u64)).unwrap();
            let tree = TokenTree::try_new(p, a, h, eos.then_some(ActionIx(0))).unwrap();
            let table = g.reward().tabulate();
            let want = soft_value_iteration(g.problem(), &table).unwrap();
            let mut log_pi = vec![0.0; tree.n_states() * a];
            let r = table.values().as_slice().unwrap();
            let l = g.reference.log_probs().as_slice().unwrap();
            let roots = tree_soft_values(&tree, r, l, g.beta, Some(&mut log_pi)).unwrap();
            for (x, v) in roots.iter().enumerate() {
                assert!((v - want.v[tree.root(x).ix()]).abs() < 1e-12);
            }
            assert_eq!(roots, tree_soft_values(&tree, r, l, g.beta, None).unwrap());
            for (s, row) in log_pi.chunks(a).enumerate() {
                for (b, got) in row.iter().enumerate() {
                    let want = want.policy.log_prob(StateIx(s as u32), ActionIx(b as u32));
                    assert!(got == &want || (got - want).abs() < 1e-12, "{got} {want}");
                }
            }
        }
    }
}

#[test]
fn rows_far_apart_keep_their_digits() {
    for a in [3, 8, 16, 130] {
        let tree = TokenTree::try_new(1, a, 2, None).unwrap();
        let pairs = tree.n_states() * a;
        let reward: Vec<f64> = (0..pairs)
            .map(|i| f64::from((i / a % 3) as u32) * 2.0 + 1e-3 * (i % a) as f64)
            .collect();
        let log_reference = vec![-(a as f64).ln(); pairs];
        let beta = 1e-3;
        let mut log_pi = vec![0.0; pairs];
        tree_soft_values(
            &tree,
            &reward,
            &log_reference,
            Beta::try_new(beta).unwrap(),
            Some(&mut log_pi),
        )
        .unwrap();
        let last = log_pi.chunks(a).zip(reward.chunks(a)).skip(1);
        for (row, reward) in last {
            // One reward per row and equal steps: a geometric series, whatever the row's level is.
            let total: f64 = (0..a).map(|k| (k as f64).exp()).sum();
            for (k, got) in row.iter().enumerate() {
                assert!((got - (k as f64 - total.ln())).abs() < 3e-12, "{reward:?}");
            }
        }
    }
}

#[test]
fn a_bad_entry_anywhere_is_an_error() {
    for a in [2, 3, 8, 10, 16] {
        let tree = TokenTree::try_new(1, a, 3, None).unwrap();
        let pairs = tree.n_states() * a;
        let log_reference = vec![-(a as f64).ln(); pairs];
        for bad in [f64::NAN, f64::INFINITY] {
            for i in 0..pairs {
                let mut reward = vec![0.5; pairs];
                reward[i] = bad;
                let beta = Beta::try_new(0.5).unwrap();
                assert!(tree_soft_values(&tree, &reward, &log_reference, beta, None).is_err());
            }
        }
        let mut empty_row = log_reference.clone();
        empty_row[..a].fill(f64::NEG_INFINITY);
        let (reward, beta) = (vec![0.5; pairs], Beta::try_new(0.5).unwrap());
        assert!(tree_soft_values(&tree, &reward, &empty_row, beta, None).is_err());
    }
}
