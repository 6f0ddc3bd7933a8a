//! What one loss is computed on: multisets of responses with their multiplicity.

use std::ops::Range;

/// Calls `each(unit, multiplicity)` for all multisets of n members of a range, in lexicographic order.
///
/// The multiplicity is n! over the factorials of the counts: how many ordered tuples are the same multiset.
pub(super) fn multisets(pool: Range<usize>, n: usize, mut each: impl FnMut(&[usize], f64)) {
    if pool.is_empty() || n == 0 {
        return;
    }
    let mut unit = vec![pool.start; n];
    loop {
        each(&unit, multiplicity(&unit));
        // The last member that can still grow takes those after it along.
        let Some(k) = (0..n).rev().find(|&k| unit[k] + 1 < pool.end) else {
            return;
        };
        let next = unit[k] + 1;
        unit[k..].fill(next);
    }
}

/// n! / Π counts!, exact while it is below 2⁵³: built as a product of binomials.
fn multiplicity(sorted: &[usize]) -> f64 {
    let (mut product, mut run) = (1.0, 0.0);
    for (k, member) in sorted.iter().enumerate() {
        run = if k > 0 && *member == sorted[k - 1] {
            run + 1.0
        } else {
            1.0
        };
        product = product * (k + 1) as f64 / run;
    }
    product
}

/// C(N + n − 1, n), the number of multisets, as a float that may be large.
pub fn n_multisets(responses: usize, n: usize) -> f64 {
    (1..=n).fold(1.0, |c, k| c * (responses + k - 1) as f64 / k as f64)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn multiplicities_add_up_to_all_tuples() {
        for (low, high, n) in [(0usize, 3usize, 4usize), (2, 7, 3), (0, 1, 5), (4, 9, 1)] {
            let (mut count, mut total, mut last) = (0, 0.0, Vec::new());
            multisets(low..high, n, |unit, m| {
                assert!(unit.is_sorted() && last < unit.to_vec());
                last = unit.to_vec();
                count += 1;
                total += m;
            });
            assert_eq!(total, ((high - low) as f64).powi(n as i32));
            assert_eq!(f64::from(count), n_multisets(high - low, n));
        }
    }
}
