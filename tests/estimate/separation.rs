//! Pairs that a direction separates.

use crate::{bounded, data};
use rand::Rng;
use rto::Error;
use rto::estimate::{Design, Separation, fit_bradley_terry, separation};
use rto::seed::SeedTree;

#[test]
fn separable_data_are_refused_without_the_ball_and_reported_with_it() {
    let design = Design::try_new(2, vec![1.0, 0.2, 0.5, -0.1, 2.0, 1.0]).unwrap();
    let free = fit_bradley_terry(&design, &bounded(f64::INFINITY));
    let Err(Error::Assumption { why, .. }) = free else {
        panic!("{free:?}")
    };
    assert!(why.contains("separable"), "{why}");
    let fit = fit_bradley_terry(&design, &bounded(3.0)).unwrap();
    assert!(fit.separable && fit.at_bound && fit.multiplier > 0.0);
    assert!((fit.norm - 3.0).abs() < 1e-12);
    // Large and separable, through the subset path.
    let many: Vec<f64> = design
        .rows()
        .iter()
        .copied()
        .cycle()
        .take(6 * 20_000)
        .collect();
    let many = Design::try_new(2, many).unwrap();
    assert!(fit_bradley_terry(&many, &bounded(f64::INFINITY)).is_err());
    assert!(fit_bradley_terry(&many, &bounded(3.0)).unwrap().separable);
}

/// Brute force for d = 2: a separating direction, if there is one, may be taken among the normals of the
/// rows (both signs) and the rows themselves, or is a sum of two of them.
fn separates_in_the_plane(rows: &[[f64; 2]]) -> Separation {
    let mut candidates: Vec<[f64; 2]> = Vec::new();
    for x in rows {
        candidates.extend([[-x[1], x[0]], [x[1], -x[0]], *x]);
    }
    let singles = candidates.clone();
    for a in &singles {
        candidates.extend(singles.iter().map(|b| [a[0] + b[0], a[1] + b[1]]));
    }
    let explains = |u: &[f64; 2]| {
        let margins: Vec<f64> = rows.iter().map(|x| x[0] * u[0] + x[1] * u[1]).collect();
        let weak = margins.iter().all(|m| *m >= 0.0);
        weak.then(|| margins.iter().filter(|m| **m > 0.0).count())
    };
    match candidates.iter().filter_map(explains).max().unwrap_or(0) {
        0 => Separation::None,
        all if all == rows.len() => Separation::Complete,
        explained => Separation::Quasi { explained },
    }
}

#[test]
fn separation_agrees_with_brute_force_in_the_plane() {
    let mut seen = [0usize; 3];
    for case in 0..3000u64 {
        let mut rng = SeedTree::new(31).index(case).rng();
        let n = rng.random_range(1..7);
        let whole = |rng: &mut rand_chacha::ChaCha8Rng| f64::from(rng.random_range(-2i32..3));
        let rows: Vec<[f64; 2]> = (0..n).map(|_| [whole(&mut rng), whole(&mut rng)]).collect();
        let design = Design::try_new(2, rows.concat()).unwrap();
        let want = separates_in_the_plane(&rows);
        let fit = fit_bradley_terry(&design, &bounded(2.0)).unwrap();
        for theta in [vec![0.0; 2], fit.theta] {
            assert_eq!(separation(&design, &theta).unwrap(), want, "{rows:?}");
        }
        seen[match want {
            Separation::None => 0,
            Separation::Quasi { .. } => 1,
            Separation::Complete => 2,
        }] += 1;
    }
    assert!(seen.iter().all(|n| *n > 300), "{seen:?}");
}

#[test]
fn quasi_separation_is_told_from_overlap_in_many_dimensions() {
    for (n, d) in [(60, 3), (400, 12), (3000, 40)] {
        let overlapping = data(n, d, 1.0, 77);
        let free = fit_bradley_terry(&overlapping, &bounded(f64::INFINITY)).unwrap();
        let tight = fit_bradley_terry(&overlapping, &bounded(0.1)).unwrap();
        assert!(tight.at_bound);
        for theta in [&free.theta, &tight.theta, &vec![0.0; d]] {
            assert_eq!(separation(&overlapping, theta).unwrap(), Separation::None);
        }
        // One more coordinate, seen by five pairs and always to the winner's favour.
        let mut rows = Vec::new();
        for i in 0..n {
            rows.extend(overlapping.row(i));
            rows.push(if i % (n / 5) == 0 { 0.5 } else { 0.0 });
        }
        let quasi = Design::try_new(d + 1, rows).unwrap();
        let fit = fit_bradley_terry(&quasi, &bounded(4.0)).unwrap();
        assert!(!fit.separable && fit.at_bound);
        for theta in [&fit.theta, &vec![0.0; d + 1]] {
            let found = separation(&quasi, theta).unwrap();
            assert_eq!(
                found,
                Separation::Quasi { explained: 5 },
                "n = {n}, d = {d}"
            );
        }
    }
    let separable = data(10, 12, 1.0, 3); // d > n in general position
    assert_eq!(
        separation(&separable, &[0.0; 12]).unwrap(),
        Separation::Complete
    );
    let none = Design::try_new(2, Vec::new()).unwrap();
    assert_eq!(separation(&none, &[0.0; 2]).unwrap(), Separation::None);
    assert!(separation(&none, &[0.0; 3]).is_err());
}
