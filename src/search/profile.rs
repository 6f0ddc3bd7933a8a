//! The heavy profile m_h(τ) = #{nodes at depth h with mass ≥ τ}, from which |N| and every instance bound follow.

use super::evaluator::Evaluator;
use crate::Result;
use crate::Token;

/// Proof of Proposition 3.2 (errata, A1): m_h for h = 0..=H, where `is_heavy` must be monotone (a child of a light node is
/// light).
///
/// Visits the heavy nodes and their children only: A·Σ m_h evaluations.
///
/// # Errors
/// Whatever the evaluator reports.
pub fn heavy_profile<E: Evaluator>(
    evaluator: &E,
    is_heavy: impl Fn(&E::Mass) -> bool,
) -> Result<Vec<u64>> {
    let mut profile = vec![0; evaluator.horizon() + 1];
    let root = evaluator.root()?;
    let mut stack = Vec::new();
    if is_heavy(&root.mass) {
        profile[0] = 1;
        stack.push((0usize, root));
    }
    while let Some((depth, at)) = stack.pop() {
        for token in 0..evaluator.n_actions() as Token {
            let child = evaluator.child(&at, token)?;
            if is_heavy(&child.mass) {
                profile[depth + 1] += 1;
                if depth + 1 < evaluator.horizon() {
                    stack.push((depth + 1, child));
                }
            }
        }
    }
    Ok(profile)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::search::bounds::{frontier_max, frontier_size, paper_queries, paper_queries_max};
    use crate::search::evaluator::{Chains, LeafWeights};
    use num_rational::BigRational;

    #[test]
    fn figure2_profile() {
        let profile = heavy_profile(&LeafWeights::figure2(), |m| *m >= 16).unwrap();
        assert_eq!(profile, [1, 1, 1, 1]);
        assert_eq!(
            (frontier_size(2, &profile), paper_queries(2, &profile)),
            (3, 4)
        );
    }

    /// The chain trees reach both maxima, so the bounds of errata A1 and A2 are tight.
    #[test]
    fn chains_reach_the_frontier_maximum() {
        for (a, h) in [(2usize, 5usize), (3, 4), (4, 3)] {
            for k in 1..=(a as u64).pow(h as u32 - 1).min(9) {
                let tree = Chains::<BigRational>::new(a, h, k).unwrap();
                let mut heaviest = tree.root().unwrap();
                for _ in 0..h {
                    heaviest = tree.child(&heaviest, a as Token - 1).unwrap();
                }
                let profile = heavy_profile(&tree, |m| *m >= heaviest.mass).unwrap();
                let width = |d: u32| (a as u64).pow(d).min(k);
                assert_eq!(
                    profile[..h],
                    (0..h as u32).map(width).collect::<Vec<_>>()[..],
                    "A={a} H={h} K={k}"
                );
                assert_eq!(profile[h], 1);
                assert_eq!(frontier_size(a, &profile), frontier_max(a, h, k.into()));
                assert_eq!(
                    paper_queries(a, &profile),
                    paper_queries_max(a, h, k.into())
                );
            }
        }
    }
}
