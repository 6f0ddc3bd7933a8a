//! The estimate (4.1) inside the ball and on it.

use crate::{bounded, data, independent};
use nalgebra::DVector;
use rto::estimate::{
    Design, FitOptions, RowSpace, fit_bradley_terry, gradient, information, log_likelihood,
    sample_preferences,
};
use rto::features::OneHot;
use rto::mdp::{TabularPolicy, TokenTree};
use rto::reward::LinearReward;
use rto::seed::SeedTree;

/// `data` with every row changed by `mix`.
fn mixed(n: usize, d: usize, seed: u64, mix: impl Fn(&mut [f64])) -> Design {
    let plain = data(n, d, 1.5, seed);
    let mut rows = plain.rows().to_vec();
    rows.chunks_exact_mut(d).for_each(mix);
    Design::try_new(d, rows).unwrap()
}

/// θ by Newton steps from the library's derivatives, halved until L rises.
fn newton(design: &Design, penalty: f64) -> DVector<f64> {
    let d = design.dim();
    let mut theta = DVector::zeros(d);
    let value = |t: &DVector<f64>| {
        log_likelihood(design, t.as_slice()).unwrap() - 0.5 * penalty * t.norm_squared()
    };
    for _ in 0..30 {
        let slope = DVector::from_vec(gradient(design, theta.as_slice()).unwrap());
        let curvature = information(design, theta.as_slice()).unwrap();
        let curvature = curvature + nalgebra::DMatrix::identity(d, d) * penalty;
        let step = curvature
            .cholesky()
            .unwrap()
            .solve(&(slope - &theta * penalty));
        let mut t = 1.0;
        while t > 1e-6 && value(&(&theta + &step * t)) < value(&theta) {
            t *= 0.5;
        }
        theta += step * t;
    }
    theta
}

#[test]
fn agrees_with_argmin_inside_and_on_the_ball() {
    for (seed, bound) in [(1, f64::INFINITY), (2, 10.0), (3, 0.7), (4, 0.2)] {
        let design = data(400, 6, 2.0, seed);
        let fit = fit_bradley_terry(&design, &bounded(bound)).unwrap();
        let ball = if bound.is_finite() {
            let unit = nalgebra::DMatrix::identity(6, 6) / (bound * bound);
            vec![(unit, DVector::zeros(6), 1.0)]
        } else {
            Vec::new()
        };
        let cost = |theta: &[f64]| {
            let g = gradient(&design, theta)
                .unwrap()
                .iter()
                .map(|g| -g / 400.0)
                .collect();
            (-log_likelihood(&design, theta).unwrap() / 400.0, g)
        };
        let (theta, lambda) = independent(cost, ball, 6, vec![0.0; 6]);
        for (a, b) in fit.theta.iter().zip(&theta) {
            assert!(
                (a - b).abs() < 1e-6,
                "seed {seed}: {:?} and {theta:?}",
                fit.theta
            );
        }
        assert_eq!(fit.at_bound, bound < 1.0, "seed {seed}");
        if fit.at_bound {
            // That multiplier is of ‖θ‖²/B² − 1 against −L/n, ours of ½‖θ‖² against −L.
            let theirs = 400.0 * 2.0 * lambda[0] / (bound * bound);
            assert!((fit.multiplier - theirs).abs() < 1e-4 * fit.multiplier);
            assert!((fit.norm - bound).abs() < 1e-12);
        }
    }
}

#[test]
fn kkt_conditions_hold_at_every_size() {
    for (n, d, bound) in [
        (1, 1, 1.0),
        (3, 5, 1.0),
        (50, 2, 0.5),
        (9_000, 3, 5.0),
        (40_000, 8, 0.3),
        (60_000, 20, 50.0),
    ] {
        let design = data(n, d, 1.5, n as u64);
        let options = FitOptions {
            tolerance: 1e-11,
            ..bounded(bound)
        };
        let fit = fit_bradley_terry(&design, &options).unwrap();
        let g = gradient(&design, &fit.theta).unwrap();
        let residual: f64 = g
            .iter()
            .zip(&fit.theta)
            .map(|(g, t)| (g - fit.multiplier * t).powi(2))
            .sum::<f64>()
            .sqrt();
        assert!(residual <= 2e-11 * n as f64, "n = {n}, d = {d}: {residual}");
        assert!(fit.norm <= bound * (1.0 + 1e-12));
        assert!(fit.multiplier == 0.0 || (fit.norm - bound).abs() < 1e-10);
    }
}

/// Many parameters: features in units of their own, strongly correlated ones, a feature twice, a ball that cuts, a penalty, and
/// pairs that separate.
#[test]
fn many_parameters_are_fitted_whatever_the_features() {
    let (n, d) = (8_200, 100);
    let own = |x: &mut [f64]| {
        for (k, x) in x.iter_mut().enumerate() {
            *x *= 1e-3f64.powf(k as f64 / 99.0);
        }
    };
    let correlated = |x: &mut [f64]| {
        let mean = x.iter().sum::<f64>();
        x.iter_mut().for_each(|x| *x = 0.02 * *x + mean);
    };
    let units = mixed(n, d, 51, own);
    let designs = [units.clone(), mixed(n, d, 52, correlated)];
    for (design, penalty) in designs.iter().flat_map(|x| [(x, 0.0), (x, 0.5)]) {
        let options = FitOptions {
            penalty,
            ..bounded(f64::INFINITY)
        };
        let fit = fit_bradley_terry(design, &options).unwrap();
        let right = newton(design, penalty);
        let off = DVector::from_column_slice(&fit.theta) - &right;
        let information = information(design, right.as_slice()).unwrap();
        assert!(off.dot(&(information * &off)).sqrt() < 1e-7, "{penalty}");
        assert!(!fit.at_bound && !fit.separable);
        let half = bounded(0.5 * fit.norm);
        if penalty == 0.0 {
            let cut = fit_bradley_terry(design, &half).unwrap();
            assert!(cut.at_bound && (cut.norm / half.param_bound - 1.0).abs() < 1e-12);
            let g = DVector::from_vec(gradient(design, &cut.theta).unwrap());
            let theta = DVector::from_column_slice(&cut.theta);
            assert!((g - theta * cut.multiplier).norm() <= 1e-9 * n as f64);
        }
    }
    // The last feature is the first: θ of least norm shares between them.
    let twice = mixed(n, d, 53, |x| x[99] = x[0]);
    let fit = fit_bradley_terry(&twice, &bounded(1e3)).unwrap();
    assert!((fit.theta[0] - fit.theta[99]).abs() < 1e-9 && !fit.at_bound);
    let separated = mixed(n, d, 54, |x| x[7] = 0.1 + x[7].abs());
    assert!(fit_bradley_terry(&separated, &bounded(f64::INFINITY)).is_err());
    let fit = |threads| {
        let pool = rayon::ThreadPoolBuilder::new().num_threads(threads);
        let pool = pool.build().unwrap();
        pool.install(|| fit_bradley_terry(&units, &bounded(1e4)).unwrap())
    };
    assert_eq!(fit(1), fit(3));
}

#[test]
fn gradient_and_information_are_derivatives() {
    let design = data(60, 4, 1.0, 11);
    let theta = [0.3, -0.4, 0.1, 0.8];
    let g = gradient(&design, &theta).unwrap();
    let h = information(&design, &theta).unwrap();
    let step = 1e-5;
    for k in 0..4 {
        let mut up = theta;
        let mut down = theta;
        up[k] += step;
        down[k] -= step;
        let slope = log_likelihood(&design, &up).unwrap() - log_likelihood(&design, &down).unwrap();
        assert!((slope / (2.0 * step) - g[k]).abs() < 1e-7);
        let (gu, gd) = (
            gradient(&design, &up).unwrap(),
            gradient(&design, &down).unwrap(),
        );
        for j in 0..4 {
            assert!(((gd[j] - gu[j]) / (2.0 * step) - h[(j, k)]).abs() < 1e-7);
        }
    }
}

#[test]
fn rank_deficient_designs_and_more_parameters_than_pairs_give_the_least_norm() {
    // One-hot features of a token tree: only trajectory differences are seen.
    let tree = TokenTree::try_new(1, 2, 3, None).unwrap();
    let map = OneHot {
        n_states: 7,
        n_actions: 2,
    };
    let mdp = tree.compile(&[1.0]).unwrap();
    let uniform = TabularPolicy::uniform(7, 2);
    let theta: Vec<f64> = (0..14).map(|i| (i as f64).sin()).collect();
    let truth = LinearReward::try_new(&map, &theta).unwrap();
    let pairs =
        sample_preferences(&mdp, &truth, (&uniform, &uniform), 3000, &SeedTree::new(3)).unwrap();
    let design = Design::from_pairs(&mdp, &map, &pairs).unwrap();
    let space = RowSpace::of(&design).unwrap();
    assert_eq!(space.rank(), 7); // eight leaves, up to a constant
    let fit = fit_bradley_terry(&design, &bounded(20.0)).unwrap();
    let projected = space.project(&fit.theta);
    for (a, b) in fit.theta.iter().zip(&projected) {
        assert!((a - b).abs() < 1e-9);
    }
    // d > n.
    let wide = data(4, 9, 1.0, 5);
    let fit = fit_bradley_terry(&wide, &bounded(1.0)).unwrap();
    let projected = RowSpace::of(&wide).unwrap().project(&fit.theta);
    assert!(
        fit.theta
            .iter()
            .zip(&projected)
            .all(|(a, b)| (a - b).abs() < 1e-8)
    );
    // No data at all.
    let none = Design::try_new(3, Vec::new()).unwrap();
    assert_eq!(
        fit_bradley_terry(&none, &bounded(1.0)).unwrap().theta,
        [0.0; 3]
    );
}

#[test]
fn thread_count_does_not_change_the_estimate() {
    let design = data(50_000, 7, 1.0, 21);
    let fit = |threads| {
        let pool = rayon::ThreadPoolBuilder::new()
            .num_threads(threads)
            .build()
            .unwrap();
        pool.install(|| fit_bradley_terry(&design, &bounded(9.0)).unwrap())
    };
    assert_eq!(fit(1), fit(3));
}

/// Numbers apart by spaces.
fn numbers(text: &str) -> Vec<f64> {
    text.split_whitespace()
        .map(|x| x.parse().unwrap())
        .collect()
}

/// Pairs that overlap or separate only by entries of a millionth beside hundreds: θ_MLE from Newton's method on the
/// conditions of (4.1) in thousands of decimal digits.
#[test]
fn pairs_that_all_but_separate_have_the_maximiser_of_exact_arithmetic() {
    // Bound, pairs, θ_MLE.
    let cases: [(f64, &[&str], &str); 5] = [
        (
            50.0,
            &[
                "-5.01597404535309e-07 -209.09048570421683",
                "0 1",
                "1 0",
                "0 0",
                "900.9238629419526 0",
            ],
            "20.52709211054555 -0.028787563873006513",
        ),
        (
            50.0,
            &[
                "0 0 1",
                "362.2442593909065 1 0",
                "0 78.7022953524467 1",
                "940.1136319901033 9.47868927798051e-07 0",
                "0 0 0",
                "0 0 -1.0555588985593384e-07",
            ],
            "9.932410900375743 46.04936934230761 16.757171506010113",
        ),
        (
            50.0,
            &[
                "0 0 0 0",
                "0 1 0 0",
                "0 0 0 1",
                "0 0 0 212.12443187231156",
                "937.1254370058712 0 0 329.8322521032525",
                "0 -6.985887087101811e-07 0 -7.665012200197047e-08",
                "0 1 0 0",
            ],
            "44.34232571153038 15.560491764259023 0.0 17.077155692532023",
        ),
        (
            50.0,
            &[
                "1 33.60025354111043",
                "0 1",
                "964.3756737626765 1",
                "-4.3758357358612156e-08 993.0861991742419",
                "0 -3.6320574051987673e-07",
                "-9.40794824409925e-07 830.0620641133296",
            ],
            "47.529831503823814 15.521440565170403",
        ),
        (
            1.0,
            &[
                "0 892.6694716634053 2.9039981990715676e-07",
                "518.9469008075398 0 169.19403272898427",
                "0 0 1",
                "0 -8.1405692306258e-07 -501.2524565930628",
            ],
            "0.9994229210212353 0.031051636048408788 -0.01377028816324621",
        ),
    ];
    let design =
        |rows: &[&str]| Design::try_new(numbers(rows[0]).len(), numbers(&rows.join(" "))).unwrap();
    for (i, (bound, rows, theta)) in cases.into_iter().enumerate() {
        let fit = fit_bradley_terry(&design(rows), &bounded(bound)).unwrap();
        for (found, exact) in fit.theta.iter().zip(numbers(theta)) {
            assert!(
                (found - exact).abs() <= 1e-12 * exact.abs(),
                "case {i}: {:?}",
                fit.theta
            );
        }
        assert_eq!(fit.at_bound, i > 0, "case {i}");
    }
    // The first has a maximiser without the ball too.
    let free = fit_bradley_terry(&design(cases[0].1), &bounded(f64::INFINITY)).unwrap();
    assert!((free.theta[0] - numbers(cases[0].2)[0]).abs() < 1e-10);
}
