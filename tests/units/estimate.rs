//! The estimate, its metric and its radii in any units.

use crate::{bounded, close, log_uniform, stationary};
use rand::Rng;
use rto::estimate::{
    Curvature, Design, FitOptions, Metric, RadiusInputs, RadiusKind, RowSpace, fit_bradley_terry,
    radii,
};
use rto::features::DenseFeatures;
use rto::mdp::{PreferencePair, TokenTree};
use rto::seed::SeedTree;

#[test]
fn separable_data_reach_the_sphere_in_a_ball_of_any_size() {
    // θ by root finding in 60 digits (mpmath): on the sphere, where −∇L is parallel to θ.
    let separable = Design::try_new(2, vec![1.0, 0.5, 1.0, -0.2]).unwrap();
    for (bound, want) in [
        (30.0, [29.983_581_946_139_4, 0.992_377_790_532_1]),
        (40.0, [39.986_095_062_626_9, 1.054_609_711_013_5]),
        (700.0, [699.998_810_249_832, 1.290_600_178_068_3]),
    ] {
        let fit = fit_bradley_terry(&separable, &bounded(bound)).unwrap();
        assert!(fit.at_bound && fit.separable);
        for (got, want) in fit.theta.iter().zip(want) {
            close("theta", *got, want, 1e-12);
        }
    }
    // Beyond floating point of the likelihood, towards the direction of largest margin.
    let far = fit_bradley_terry(&separable, &bounded(1e9)).unwrap();
    assert!(far.at_bound && far.multiplier == 0.0 && far.log_likelihood == 0.0);
    close("theta", far.theta[1], 1.308_97, 1e-4);
    // Three pairs overlap on one direction, the fourth is explained as well as one likes.
    let quasi = vec![1.0, 0.5, -1.0, -0.5, 1.0, 0.5, 0.3, 1.0];
    let quasi = Design::try_new(2, quasi).unwrap();
    for bound in [30.0, 100.0, 700.0, 1e5] {
        let fit = fit_bradley_terry(&quasi, &bounded(bound)).unwrap();
        assert!(fit.at_bound && !fit.separable);
        close("norm", fit.norm, bound, 1e-12);
        // On the pairs that overlap: two wins of three, σ(z) = 2/3.
        close("margin", fit.theta[0] + 0.5 * fit.theta[1], 2f64.ln(), 1e-9);
    }
    // A direction that the overlapping pairs do not see, and columns that depend on each other on them.
    let rows = [
        2, -1, -4, -2, 0, 0, 0, 0, -4, -3, 2, 6, 2, -1, -4, 2, -1, -4, 2, 0, -4, -1, -2, 2,
    ];
    let rows = rows.iter().map(|x| f64::from(*x)).collect();
    let design = Design::try_new(3, rows).unwrap();
    let fit = fit_bradley_terry(&design, &bounded(3.459_173_651_501_826)).unwrap();
    stationary(&design, &fit);
    close(
        "log-likelihood",
        fit.log_likelihood,
        -3.685_781_952_125_5,
        1e-12,
    );
    let free = fit_bradley_terry(&quasi, &FitOptions::default()).unwrap_err();
    assert!(free.to_string().contains("quasi-separable"), "{free}");
}

#[test]
fn features_in_different_units_keep_their_rank() {
    let phi = [[0.0, 3e-6], [1.0, 1e-5], [-1.0, 2e-6]];
    let pairs = [
        (1, 0),
        (0, 1),
        (2, 0),
        (1, 2),
        (0, 2),
        (2, 1),
        (1, 0),
        (1, 0),
    ];
    let rows = pairs
        .iter()
        .flat_map(|&(w, l): &(usize, usize)| (0..2).map(move |k| phi[w][k] - phi[l][k]));
    let design = Design::try_new(2, rows.collect()).unwrap();
    let fit = fit_bradley_terry(&design, &FitOptions::default()).unwrap();
    let inputs = RadiusInputs {
        horizon: 1,
        feature_bound: 1.1,
        param_bound: 1.0,
        ridge: 1e-3,
        fail_prob: 0.05,
    };
    let all = radii(&design, &fit.theta, &inputs).unwrap();
    assert_eq!(all.rank, 2);
    let wald = all.radius(RadiusKind::Wald { ridge_bias: false }).unwrap();
    close("Wald radius", wald.value, 2.447_746_830_680_8, 1e-12);
    // A sum of decimals that is 0 is no direction.
    let tree = TokenTree::try_new(1, 2, 2, None).unwrap();
    let mdp = tree.compile(&[1.0]).unwrap();
    let second = |s: usize, a: usize| [[0.1, 0.3], [0.2, 0.2], [0.0, 0.0]][s][a];
    let map = DenseFeatures::from_fn(
        3,
        2,
        2,
        |s, a, k| if k == 0 { a as f64 } else { second(s, a) },
    );
    let of = |y: &[u32]| tree.trajectory(0, y).unwrap();
    let pair = PreferencePair::try_new(of(&[0, 0]), of(&[1, 0])).unwrap();
    let design = Design::from_pairs(&mdp, &map.unwrap(), &[pair]).unwrap();
    assert_eq!(design.rows()[1], 0.0, "0.1 + 0.2 - 0.3");
}

/// Overlapping pairs in large units beside separated ones in small units: the estimate by 50-digit arithmetic (`tests/reference/`).
#[test]
fn separated_pairs_in_small_units_do_not_move_the_overlapping_ones() {
    let first = [
        [2e6, 1.3e6, -2e-5],
        [-2e6, 2e5, -2e-5],
        [-2e6, 2e5, -2e-5],
        [1.5e7, 9e5, -9e-5],
        [1.5e7, 9e5, -9e-5],
        [2e6, -2e5, 2e-5],
        [2e6, -2e5, 2e-5],
        [-1.3e7, -1.1e6, 1.1e-4],
        [4e6, 8e5, 7e-5],
    ];
    let second = [
        ([-1.25e-6, -0.2], 5),
        ([-1.75e-6, -0.3125], 3),
        ([-1.625e-6, -0.175], 2),
        ([3.75e-7, -0.025], 2),
        ([-1.25e-7, -0.1375], 3),
        ([-3.75e-7, 0.025], 1),
        ([0.0, 0.0], 1),
    ];
    let second = second.iter().flat_map(|(x, n)| x.repeat(*n)).collect();
    let third = [
        [-2000.0, -0.5, -1e-5, -0.00875],
        [-1000.0, -0.125, 6.25e-6, 0.0],
        [-875.0, -0.875, 1.25e-6, 0.00375],
        [-2625.0, 0.125, -8.75e-6, -0.00625],
        [2500.0, 3.25, -4.375e-5, -0.0025],
        [1000.0, 0.125, -6.25e-6, 0.0],
        [-1000.0, -1.75, -3.75e-6, 0.015],
        [-1000.0, -1.75, -3.75e-6, 0.015],
        [0.0, 0.0, 0.0, 0.0],
        [1000.0, -2.0, 1.375e-5, 0.01875],
        [-4750.0, -0.875, 1.5e-5, -0.00625],
        [-750.0, -1.5, 0.0, -0.0125],
        [750.0, 1.5, 0.0, 0.0125],
        [125.0, -0.125, -2.875e-5, 0.0125],
        [-375.0, 1.625, -1.75e-5, 0.0025],
        [1875.0, 0.0, -2.875e-5, 0.0],
        [-1250.0, -1.5, -1.25e-6, 0.00625],
        [-1000.0, -1.75, -3.75e-6, 0.015],
        [-1000.0, -1.75, -3.75e-6, 0.015],
    ];
    let cases: [(f64, Vec<f64>, &[f64], f64); 3] = [
        (
            67_900.0,
            first.concat(),
            &[
                1.472_020_735_553_496_3e-7,
                5.339_444_381_001_298e-6,
                67_900.0,
            ],
            -4.489_493_841_986_744,
        ),
        (
            903_000.0,
            second,
            &[-902_999.998_943_271_5, -43.685_829_017_401_54],
            -2.610_967_521_756_085_5,
        ),
        (
            118_000.0,
            third.concat(),
            &[
                -9.347_958_889_727_911e-4,
                -0.495_988_538_326_755_4,
                -117_999.900_533_774_6,
                153.211_531_209_562_85,
            ],
            -5.034_048_512_568_13,
        ),
    ];
    for (bound, rows, theta, log_likelihood) in cases {
        let design = Design::try_new(theta.len(), rows).unwrap();
        let fit = fit_bradley_terry(&design, &bounded(bound)).unwrap();
        assert!(fit.at_bound, "{fit:?}");
        close("likelihood", fit.log_likelihood, log_likelihood, 1e-13);
        for (got, want) in fit.theta.iter().zip(theta) {
            assert!((got / want - 1.0).abs() < 1e-9, "{fit:?}");
        }
    }
}

/// Overlapping pairs in small units pull far beyond the balls in which the separated ones, in large units, leave the range of
/// floating point: the estimate by 50-digit arithmetic, in a ball that holds what the former want and in one that does not.
#[test]
fn separated_pairs_in_large_units_leave_room_for_the_overlapping_ones() {
    let strict = [0.01, -1000.0, 0.0].repeat(3);
    let rows = [
        [0.02, 0.0, 0.0],
        [-0.01, 0.0, -0.01],
        [0.0, 0.0, -0.02],
        [0.0, 0.0, 0.02],
        [-0.02, 0.0, 0.0],
        [-0.02, 0.0, 0.02],
        [-0.01, 0.0, -0.01],
        [-0.02, 0.0, 0.02],
        [0.0, 0.0, 0.0],
    ];
    let rows = [strict, rows.concat()].concat();
    let cases = [
        (
            50.0,
            [
                -49.679_321_181_079_62,
                -0.021_028_757_305_043_17,
                5.653_724_858_754_613,
            ],
            1.727_384_177e-4,
        ),
        (
            190.0,
            [
                -78.188_500_975_191_83,
                -173.156_785_356_522_6,
                1.812_732_811_967_147,
            ],
            0.0,
        ),
    ];
    // The same in any units.
    for c in [1e-6, 1.0, 1e6] {
        let rows = rows.iter().map(|x| x * c).collect();
        let design = Design::try_new(3, rows).unwrap();
        for (bound, theta, multiplier) in cases {
            let fit = fit_bradley_terry(&design, &bounded(bound / c)).unwrap();
            assert!(fit.at_bound && !fit.separable, "{fit:?}");
            let off = (fit.multiplier - multiplier * c * c).abs();
            assert!(off <= 1e-9 * multiplier * c * c, "{fit:?}");
            for (got, want) in fit.theta.iter().zip(theta) {
                assert!((got * c / want - 1.0).abs() < 1e-9, "{fit:?}");
            }
        }
    }
}

/// Rows of any length span the same space, and the estimate of least norm lies in it: a basis that lost a share of a short row to
/// the rounding of a long one leaves θ outside by as much, which is a rounding of ‖θ‖ and not of the share.
#[test]
fn rows_of_any_length_span_the_same_space() {
    // θ by root finding in 60 digits (mpmath): θ = a x₁ + b x₂ with a/b the ratio of the weights.
    let (short, long) = ([0.0, 1.25e-7, 0.0, -1.25], [125e3, -2.5e-7, -125e3, 0.0]);
    let design = Design::try_new(4, [short, short, long].concat()).unwrap();
    let fit = fit_bradley_terry(&design, &bounded(2.33e6)).unwrap();
    let first = 11.650_092_103_081_133;
    let want = [
        first,
        0.232_999_999_970_873_55,
        -first,
        -2_329_999.999_941_737_4,
    ];
    for (got, want) in fit.theta.iter().zip(want) {
        close("theta", *got, want, 2e-15 * 2.33e6);
    }
    for i in 0..300 {
        let mut rng = SeedTree::new(435).child("rows").index(i).rng();
        let rows: Vec<[f64; 5]> = (0..3)
            .map(|_| std::array::from_fn(|_| rng.random_range(-3i32..=3).into()))
            .collect();
        let plain = RowSpace::of(&Design::try_new(5, rows.concat()).unwrap()).unwrap();
        let scaled: Vec<f64> = rows
            .iter()
            .flat_map(|x| {
                let unit = log_uniform(&mut rng, -4.0, 4.0);
                x.map(|x| unit * x)
            })
            .collect();
        let scaled = RowSpace::of(&Design::try_new(5, scaled).unwrap()).unwrap();
        assert_eq!(plain.rank(), scaled.rank(), "{i}");
        let v: Vec<f64> = (0..5).map(|_| rng.random_range(-1.0..1.0)).collect();
        for (a, b) in plain.project(&v).iter().zip(scaled.project(&v)) {
            close("projection", *a, b, 1e-13);
        }
    }
}

/// M = w x xᵀ + λI: across x the metric is λ, however large the features are.
#[test]
fn the_ridge_is_not_lost_beside_large_features() {
    for unit in [1.0, 1e3, 1e6, 1e8] {
        for ridge in [1e-3, 1.0] {
            let (x, y, length) = (3.0 * unit, 4.0 * unit, 5.0 * unit);
            let design = Design::try_new(3, vec![x, y, 0.0, -x, -y, 0.0]).unwrap();
            let metrics = [
                (2.0, Metric::sigma_d(&design, ridge).unwrap()),
                (0.5, Metric::fisher(&design, &[0.0; 3], ridge).unwrap()),
            ];
            for (weight, metric) in metrics {
                let what = format!("unit {unit}, ridge {ridge}, {:?}", metric.kind());
                let along = weight * length * length + ridge;
                close(
                    &what,
                    metric.log_det(),
                    along.ln() + 2.0 * ridge.ln(),
                    1e-12,
                );
                let across = metric.inverse_norm(&[4.0, -3.0, 0.0]);
                close(&what, across, 5.0 / ridge.sqrt(), 1e-7);
                close(
                    &what,
                    metric.inverse_norm(&[x, y, 0.0]),
                    length / along.sqrt(),
                    1e-12,
                );
                close(
                    &what,
                    metric.norm(&[0.0, 0.0, 2.0]),
                    2.0 * ridge.sqrt(),
                    1e-12,
                );
            }
        }
    }
}

#[test]
fn radii_without_data_are_those_of_the_prior() {
    let design = Design::try_new(1, Vec::new()).unwrap();
    for ridge in [0.001, 0.02, 0.05, 3.0] {
        let inputs = RadiusInputs {
            horizon: 1,
            feature_bound: 1.0,
            param_bound: 1.0,
            ridge,
            fail_prob: 0.05,
        };
        let all = radii(&design, &[0.0], &inputs).unwrap();
        // G = √(t/2), t = log 20, and κ = ¼.
        let noise = (0.5 * 20f64.ln()).sqrt();
        close("G", all.noise, noise, 1e-14);
        let radius = all.radius(RadiusKind::Theory(Curvature::Data)).unwrap();
        let want = 0.5 * (4.0 * noise + (16.0 * noise * noise + 16.0 * ridge).sqrt());
        close("radius", radius.value, want, 1e-14);
        if ridge == 3.0 {
            close("G", all.noise, 1.223_87, 1e-5);
            close("radius", radius.value, 6.689_4, 1e-5);
        }
    }
}
