use super::*;

#[test]
fn k_treats_near_integers_as_integers() {
    assert_eq!(
        (chains_for_xi(2, 1.0, false), chains_for_xi(2, 1.0, true)),
        (1, 2)
    );
    assert_eq!(
        (chains_for_xi(3, 2.0, false), chains_for_xi(3, 2.0, true)),
        (8, 9)
    );
    assert_eq!(
        (chains_for_xi(10, 3.0, false), chains_for_xi(10, 3.0, true)),
        (999, 1000)
    );
    assert_eq!(
        (chains_for_xi(4, 0.0, false), chains_for_xi(4, 0.0, true)),
        (1, 1)
    );
    assert_eq!(
        (chains_for_xi(2, 1.5, false), chains_for_xi(2, 1.5, true)),
        (2, 2)
    );
}

#[test]
fn the_claim_of_the_paper_fails_from_the_stated_sizes_on() {
    // A = 2, ξ = 1: |N| exceeds 4 first at H = 5 (positive) and H = 3 (zeros); M at H = 5 and H = 4.
    let first = |f: &dyn Fn(usize) -> u128| {
        (1..20)
            .find(|h| f(*h) as f64 > paper_bound(2, *h, 1.0))
            .unwrap()
    };
    assert_eq!(first(&|h| frontier_max(2, h, 1)), 5);
    assert_eq!(first(&|h| frontier_max(2, h, 2)), 3);
    assert_eq!(first(&|h| minimax(2, h, 1)), 5);
    assert_eq!(first(&|h| minimax(2, h, 2)), 4);
    assert_eq!(first(&|h| paper_queries_max(2, h, 1)), 4);
}

#[test]
fn the_minimax_is_the_paper_bound_times_the_chain_factor() {
    for a in 2..=32 {
        for h in 1..=20usize {
            for step in 1..=40 {
                let xi = h as f64 * f64::from(step) / 40.0;
                let claim = paper_bound(a, h, xi) * (1.0 + (h as f64 - 1.0 - xi).max(0.0));
                let ratio = minimax(a, h, chains_for_xi(a, xi, false)) as f64 / claim;
                assert!(
                    (0.25..=1.0).contains(&ratio),
                    "A={a} H={h} xi={xi}: {ratio}"
                );
            }
        }
    }
}

#[test]
fn random_order_expectation_by_enumeration() {
    // T = min(position of y*, n − 1) over the n equally likely positions.
    for (a, h) in [(2usize, 2usize), (2, 3), (3, 2)] {
        let n = a.pow(h as u32);
        let mean = (1..=n).map(|pos| pos.min(n - 1)).sum::<usize>() as f64 / n as f64;
        assert!((sentence_random_order(a, h) - mean).abs() < 1e-12);
    }
}
