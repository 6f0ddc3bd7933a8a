//! (4.1) and (4.2) of sparse rows beside the dense ones.

use rand::Rng;
use rand::seq::index::sample;
use rto::Error;
use rto::estimate::{
    BtFit, Design, FitOptions, Metric, Separation, SparseDesign, SparseMetric, fit_bradley_terry,
    fit_sparse, separation, sparse_separation,
};
use rto::features::SparseRows;
use rto::seed::SeedTree;

/// Beyond what the dense method is called for.
const N: usize = 3000;
const D: usize = 100;

fn options() -> FitOptions {
    FitOptions {
        tolerance: 1e-15,
        ..FitOptions::default()
    }
}

/// The winner of every pair by (3.1) from θ* with entries in ±`size`, ψ of both by `draw`.
fn pairs(
    n: usize,
    d: usize,
    size: f64,
    mut draw: impl FnMut(&mut rand_chacha::ChaCha8Rng) -> Vec<(u32, f64)>,
) -> SparseDesign {
    let mut rng = SeedTree::new(5).rng();
    let theta: Vec<f64> = (0..d).map(|_| rng.random_range(-size..size)).collect();
    let (mut winners, mut losers) = (Csr::default(), Csr::default());
    for _ in 0..n {
        let (a, b) = (draw(&mut rng), draw(&mut rng));
        let value = |x: &[(u32, f64)]| x.iter().map(|(k, x)| x * theta[*k as usize]).sum::<f64>();
        let wins = rng.random::<f64>() < 1.0 / (1.0 + (value(&b) - value(&a)).exp());
        let (w, l) = if wins { (a, b) } else { (b, a) };
        winners.push(&w);
        losers.push(&l);
    }
    SparseDesign::between(&winners.rows(d), &losers.rows(d)).unwrap()
}

struct Csr(Vec<usize>, Vec<u32>, Vec<f64>);

impl Default for Csr {
    fn default() -> Self {
        Self(vec![0], Vec::new(), Vec::new())
    }
}

impl Csr {
    fn push(&mut self, row: &[(u32, f64)]) {
        self.1.extend(row.iter().map(|e| e.0));
        self.2.extend(row.iter().map(|e| e.1));
        self.0.push(self.1.len());
    }

    fn rows(self, d: usize) -> SparseRows {
        SparseRows::try_new(d, self.0, self.1, self.2).unwrap()
    }
}

/// Twelve columns of D with normal-like values.
fn random(rng: &mut rand_chacha::ChaCha8Rng) -> Vec<(u32, f64)> {
    let mut columns = sample(rng, D, 12).into_vec();
    columns.sort_unstable();
    let value = |k: usize| (k as u32, 0.0);
    let mut row: Vec<(u32, f64)> = columns.into_iter().map(value).collect();
    row.iter_mut()
        .for_each(|e| e.1 = rng.random_range(-1.0..1.0));
    row
}

/// Counts of 20 tokens, token k as often as 1/(k + 2).
fn counts(rng: &mut rand_chacha::ChaCha8Rng) -> Vec<(u32, f64)> {
    let mut row = vec![0.0; D];
    for _ in 0..20 {
        let u: f64 = rng.random();
        let k = (2.0 * (0.5 * D as f64).powf(u) - 2.0) as usize;
        row[k.min(D - 1)] += 1.0;
    }
    let row = row.into_iter().enumerate();
    row.filter(|(_, x)| *x != 0.0)
        .map(|(k, x)| (k as u32, x))
        .collect()
}

fn close(a: &[f64], b: &[f64], share: f64) {
    let norm = b.iter().map(|x| x * x).sum::<f64>().sqrt();
    let apart: f64 = a.iter().zip(b).map(|(a, b)| (a - b).powi(2)).sum();
    assert!(apart.sqrt() <= share * norm, "{:e} of {norm}", apart.sqrt());
}

fn same(sparse: &BtFit, dense: &BtFit, share: f64) {
    close(&sparse.theta, &dense.theta, share);
    assert_eq!(
        (sparse.at_bound, sparse.separable),
        (dense.at_bound, dense.separable)
    );
    let near = |a: f64, b: f64| assert!((a - b).abs() <= share * b.abs(), "{a:e} {b:e}");
    near(sparse.log_likelihood, dense.log_likelihood);
    near(sparse.norm, dense.norm);
    if dense.at_bound {
        assert!((sparse.multiplier - dense.multiplier).abs() <= 1e-10 * dense.multiplier);
    }
}

#[test]
fn estimates_are_those_of_the_dense_rows() {
    let designs = [
        pairs(N, D, 1.0, random),
        // Twenty tokens on either side: the all-ones direction is never seen. Some tokens are rare.
        pairs(4 * N, D, 0.4, counts),
        // A column twice, one that no pair sees, and one in other units.
        pairs(N, D + 3, 1.0, |rng| {
            let mut row = random(rng);
            let again = row.iter().find(|e| e.0 == 3).map(|e| (D as u32, e.1));
            row.extend(again);
            row.push((D as u32 + 2, rng.random_range(-3.0..3.0)));
            row
        }),
    ];
    for design in &designs {
        let dense = design.to_dense();
        let d = design.dim();
        assert!(design.n() * (d - 1) * (d - 1) > 20_000_000);
        let want = fit_bradley_terry(&dense, &options()).unwrap();
        let got = fit_sparse(design, &options()).unwrap();
        same(&got, &want, 1e-12);
        assert!(!got.at_bound && !got.separable && got.residual <= 1e-9 * design.n() as f64);
        assert_eq!(
            sparse_separation(design, &got.theta).unwrap(),
            Separation::None
        );
        let (value, gradient) = design.likelihood(&got.theta).unwrap();
        assert!((value - got.log_likelihood).abs() <= 1e-13 * value.abs());
        let residual = gradient.iter().map(|g| g * g).sum::<f64>().sqrt();
        assert!(residual <= 1e-9 * design.n() as f64);
        // In a ball, and with a penalty.
        for share in [0.3, 0.9, 1.5] {
            let ball = FitOptions {
                param_bound: share * want.norm,
                ..options()
            };
            let (got, want) = (
                fit_sparse(design, &ball).unwrap(),
                fit_bradley_terry(&dense, &ball).unwrap(),
            );
            same(&got, &want, 1e-12);
            assert_eq!(got.at_bound, share < 1.0);
        }
        let penalised = FitOptions {
            penalty: 0.7,
            ..options()
        };
        same(
            &fit_sparse(design, &penalised).unwrap(),
            &fit_bradley_terry(&dense, &penalised).unwrap(),
            1e-12,
        );
        // The number of threads changes no bit.
        let alone = rayon::ThreadPoolBuilder::new()
            .num_threads(1)
            .build()
            .unwrap();
        let again = alone.install(|| fit_sparse(design, &options()).unwrap());
        assert_eq!(again, fit_sparse(design, &options()).unwrap());
    }
}

#[test]
fn pairs_that_separate_are_refused_or_kept_in_the_ball_as_dense_ones_are() {
    // Tokens at the end of the alphabet occur in a few pairs each.
    let quasi = pairs(N, 2 * D, 0.4, |rng| {
        let mut row = counts(rng);
        if rng.random::<f64>() < 0.02 {
            row.push((D as u32 + rng.random_range(0..D as u32), 1.0));
        }
        row
    });
    let complete = pairs(N, D, 1.0, |rng| {
        let mut row = random(rng);
        row.iter_mut()
            .for_each(|e| e.1 *= if e.0 == 7 { 1.0 } else { 0.1 });
        row
    });
    let theta: Vec<f64> = (0..D).map(|k| f64::from(u8::from(k == 7)) + 0.5).collect();
    let margins = complete.margins(&theta).unwrap();
    let mut rows = Csr::default();
    for (i, z) in margins.iter().enumerate() {
        let sign = z.signum();
        let row: Vec<(u32, f64)> = complete.rows().row(i).map(|(k, x)| (k, sign * x)).collect();
        rows.push(&row);
    }
    let complete = SparseDesign::new(rows.rows(D));
    for (design, all) in [(&quasi, false), (&complete, true)] {
        let dense = design.to_dense();
        let refused = fit_sparse(design, &options()).unwrap_err();
        assert!(matches!(refused, Error::Assumption { .. }), "{refused}");
        assert_eq!(refused, fit_bradley_terry(&dense, &options()).unwrap_err());
        let ball = FitOptions {
            param_bound: 2.0,
            ..options()
        };
        let (got, want) = (
            fit_sparse(design, &ball).unwrap(),
            fit_bradley_terry(&dense, &ball).unwrap(),
        );
        same(&got, &want, 1e-12);
        assert!(got.at_bound);
        let found = sparse_separation(design, &got.theta).unwrap();
        assert_eq!(found, separation(&dense, &want.theta).unwrap());
        assert_eq!(found == Separation::Complete, all);
    }
    // Two groups of tokens that play among themselves, and pairs in which the first group beats the second: no column is one-sided. Steps
    // towards infinity get short although no estimate is there.
    let mut rng = SeedTree::new(7).rng();
    let mut rows = Csr::default();
    for i in 0..2020 {
        let group = if i < 1000 { 0 } else { 100 };
        let two = sample(&mut rng, 100, 2);
        let (mut a, mut b) = (group + two.index(0) as u32, group + two.index(1) as u32);
        if i >= 2000 {
            (a, b) = (a % 100, 100 + b % 100);
        }
        let row = match a < b {
            true => [(a, 1.0), (b, -1.0)],
            false => [(b, -1.0), (a, 1.0)],
        };
        rows.push(&row);
    }
    let groups = SparseDesign::new(rows.rows(2 * D));
    let dense = groups.to_dense();
    for (tolerance, bounds) in [(1e-15, &[][..]), (1e-12, &[20.0, 2000.0]), (1e-6, &[])] {
        let options = FitOptions {
            tolerance,
            ..FitOptions::default()
        };
        let refused = fit_sparse(&groups, &options).unwrap_err();
        assert!(matches!(refused, Error::Assumption { .. }), "{refused}");
        assert_eq!(refused, fit_bradley_terry(&dense, &options).unwrap_err());
        for &param_bound in bounds {
            let ball = FitOptions {
                param_bound,
                ..options
            };
            let (got, want) = (
                fit_sparse(&groups, &ball).unwrap(),
                fit_bradley_terry(&dense, &ball).unwrap(),
            );
            assert!(
                got.at_bound && want.at_bound,
                "{tolerance:e}, {param_bound}"
            );
            let close = (got.log_likelihood - want.log_likelihood).abs();
            assert!(close <= 1e-6 * want.log_likelihood.abs(), "{close:e}");
        }
    }
    // Too wide for the search: one-sided columns are refused by name all the same.
    let wide = pairs(4000, 6000, 1.0, |rng| {
        let mut columns = sample(rng, 6000, 3).into_vec();
        columns.sort_unstable();
        columns.into_iter().map(|k| (k as u32, 1.0)).collect()
    });
    let refused = fit_sparse(&wide, &options()).unwrap_err().to_string();
    assert!(
        refused.contains("quasi-separable: one direction explains"),
        "{refused}"
    );
    let penalised = FitOptions {
        penalty: 1.0,
        ..FitOptions::default()
    };
    let fit = fit_sparse(&wide, &penalised).unwrap();
    let (_, gradient) = wide.likelihood(&fit.theta).unwrap();
    for (g, t) in gradient.iter().zip(&fit.theta) {
        assert!((g - t).abs() < 1e-9);
    }
    let ball = FitOptions {
        param_bound: 3.0,
        ..FitOptions::default()
    };
    let fit = fit_sparse(&wide, &ball).unwrap();
    assert!(fit.at_bound && (fit.norm - 3.0).abs() < 1e-12 && fit.residual < 1e-8);
}

#[test]
fn metrics_are_those_of_the_dense_rows() {
    let mut rng = SeedTree::new(6).rng();
    for design in [pairs(500, D, 1.0, random), pairs(500, D, 0.4, counts)] {
        let dense = design.to_dense();
        let theta: Vec<f64> = (0..D).map(|_| rng.random_range(-1.0..1.0)).collect();
        let v: Vec<f64> = (0..D).map(|_| rng.random_range(-1.0..1.0)).collect();
        let near = |a: f64, b: f64| assert!((a - b).abs() <= 1e-12 * b.abs(), "{a} {b}");
        for ridge in [1.0, 1e-3] {
            let formed = [
                (
                    Metric::sigma_d(&dense, ridge),
                    Metric::sparse(&design, None, ridge),
                    SparseMetric::sigma_d(&design, ridge),
                ),
                (
                    Metric::fisher(&dense, &theta, ridge),
                    Metric::sparse(&design, Some(&theta), ridge),
                    SparseMetric::fisher(&design, &theta, ridge),
                ),
            ];
            for (want, gram, free) in formed {
                let (want, gram, free) = (want.unwrap(), gram.unwrap(), free.unwrap());
                assert_eq!((want.kind(), want.ridge()), (gram.kind(), gram.ridge()));
                assert_eq!((want.kind(), want.ridge()), (free.kind(), free.ridge()));
                assert!((want.matrix() - gram.matrix()).amax() <= 1e-12 * want.matrix().amax());
                near(gram.inverse_norm(&v), want.inverse_norm(&v));
                near(free.inverse_norm(&v).unwrap(), want.inverse_norm(&v));
                near(gram.norm(&v), want.norm(&v));
                near(free.norm(&v).unwrap(), want.norm(&v));
                close(&free.solve(&v).unwrap(), &want.solve(&v), 1e-11);
            }
        }
    }
    let wide =
        SparseDesign::new(SparseRows::try_new(20_000, vec![0, 1], vec![7], vec![2.0]).unwrap());
    assert_eq!(
        Metric::sparse(&wide, None, 1.0).unwrap_err().to_string(),
        "feature dimension: found 20000, must be at most 16384 to form Sigma_D (use SparseMetric)"
    );
    let mut unit = vec![0.0; 20_000];
    unit[7] = 1.0;
    let bonus = SparseMetric::sigma_d(&wide, 1.0)
        .unwrap()
        .inverse_norm(&unit)
        .unwrap();
    assert!((bonus - 0.2f64.sqrt()).abs() < 1e-15);
}

#[test]
fn differences_and_empty_data() {
    let winners = SparseRows::from_dense(3, &[0.1 + 0.2, 1.0, 0.0, 0.0, 0.0, 0.0]).unwrap();
    let losers = SparseRows::from_dense(3, &[0.3, 0.0, 2.0, 0.0, 0.0, 0.0]).unwrap();
    let design = SparseDesign::between(&winners, &losers).unwrap();
    assert_eq!(design.rows().to_dense(), [0.0, 1.0, -2.0, 0.0, 0.0, 0.0]);
    let short = SparseRows::from_dense(3, &[0.3, 0.0, 2.0]).unwrap();
    assert_eq!(
        SparseDesign::between(&winners, &short)
            .unwrap_err()
            .to_string(),
        "rows of the losers' features: expected 2 values, got 1"
    );
    for rows in [vec![], vec![0.0; 6]] {
        let sparse = SparseDesign::new(SparseRows::from_dense(3, &rows).unwrap());
        let want = fit_bradley_terry(&Design::try_new(3, rows).unwrap(), &options()).unwrap();
        assert_eq!(fit_sparse(&sparse, &options()).unwrap(), want);
    }
    let bad = FitOptions {
        penalty: -1.0,
        ..FitOptions::default()
    };
    assert!(matches!(
        fit_sparse(&design, &bad),
        Err(Error::Config { .. })
    ));
}
