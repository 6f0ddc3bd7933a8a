//! B3 and B4: the radius (A.2) as printed and as repaired.

use rand::Rng;
use rto::estimate::{
    Curvature, Design, FitOptions, Metric, RadiusInputs, RadiusKind, curvature_bound,
    fit_bradley_terry, printed_radius, radii,
};
use rto::seed::SeedTree;

/// How large (A.2) is as printed with C = 1, beside the radius of its repaired proof (errata, B4).
#[test]
fn the_printed_radius_is_far_below_that_of_its_repaired_proof() {
    for (horizon, printed, repaired) in [(5, 727.6, 53_689.0), (4, 268.4, 7_273.3)] {
        let inputs = RadiusInputs {
            horizon,
            feature_bound: 1.0,
            param_bound: 1.0,
            ridge: 1.0,
            fail_prob: 0.05,
        };
        let value = printed_radius(8, &inputs, 1.0).unwrap();
        assert!((value - printed).abs() < 0.1, "{value}");
        let c = 2.0 * (value - 1.0) + 1.0;
        assert!((printed_radius(8, &inputs, 2.0).unwrap() - c).abs() < 1e-9);
        let (theory, _) = rto::estimate::Radii::worst_case(8, &inputs, 1.0).unwrap();
        assert!((theory / repaired - 1.0).abs() < 1e-3, "{theory}");
        for bad in [0.0, -1.0, f64::NAN, f64::INFINITY] {
            assert!(printed_radius(8, &inputs, bad).is_err(), "{bad}");
        }
    }
}

/// P(χ²_d ≤ x), by its series.
fn chi_square_below(d: u32, x: f64) -> f64 {
    let a = 0.5 * f64::from(d);
    let (mut term, mut sum) = (1.0 / a, 1.0 / a);
    for k in 1..500 {
        term *= 0.5 * x / (a + f64::from(k));
        sum += term;
    }
    let log_gamma: f64 = match d % 2 {
        0 => (1..d / 2).map(|k| f64::from(k).ln()).sum(),
        _ => {
            (0..d / 2).map(|k| (f64::from(k) + 0.5).ln()).sum::<f64>()
                + 0.5 * std::f64::consts::PI.ln()
        }
    };
    sum * (a * (0.5 * x).ln() - 0.5 * x - log_gamma).exp()
}

/// √(1/Υ) = 2 cosh(HLB) is finite long after Υ is 0 in floating point, and every B has its own κ.
#[test]
fn a_radius_is_infinite_only_where_it_is_beyond_floating_point() {
    let inputs = |param_bound| RadiusInputs {
        horizon: 3,
        feature_bound: 7.0,
        param_bound,
        ridge: 1.0,
        fail_prob: 0.05,
    };
    // By mpmath: 2 cosh(21 · 28.5) √(4 log 20) + 28.5².
    let got = printed_radius(4, &inputs(28.5), 1.0).unwrap();
    assert!(
        (got / 2.914_264_150_095_776_8e260 - 1.0).abs() < 1e-12,
        "{got:e}"
    );
    let design = Design::try_new(1, vec![20.0]).unwrap();
    let all = radii(&design, &[0.1], &inputs(100.0)).unwrap();
    let kinds = [
        RadiusKind::Theory(Curvature::Data),
        RadiusKind::LikelihoodRatio {
            finite_sample: true,
        },
    ];
    for kind in kinds {
        assert!(!all.radius(kind).unwrap().value.is_finite());
        for b in [1e-3, 0.1, 2.0] {
            let moved = all.with_param_bound(&design, b).radius(kind).unwrap();
            let direct = radii(&design, &[0.1], &inputs(b)).unwrap();
            let direct = direct.radius(kind).unwrap();
            assert!((moved.value / direct.value - 1.0).abs() < 1e-14, "{b}");
        }
    }
}

/// Errata, B3: at a fixed δ the central limit theorem makes ‖Δ‖²_Σ at least 4χ²_d in the limit, so the coverage of (A.2)
/// is at most P(χ²_d ≤ C² d log(1/δ)/(4Υ)) there. For every C and d ≥ 3 that is below 1 − δ for δ near enough to 1.
#[test]
fn the_printed_radius_covers_less_than_promised_near_delta_one() {
    assert!((chi_square_below(8, 15.507_313_055_865_45) - 0.95).abs() < 1e-12);
    assert!((chi_square_below(3, 7.814_727_903_251_18) - 0.95).abs() < 1e-12);
    for (d, c, horizon) in [(3, 1.0, 1), (8, 1.0, 4), (3, 10.0, 4), (8, 100.0, 5)] {
        let inputs = |fail_prob| RadiusInputs {
            horizon,
            feature_bound: 1.0,
            param_bound: 1.0,
            ridge: 1e-300,
            fail_prob,
        };
        let limit = |fail_prob: f64| {
            let radius = printed_radius(d as usize, &inputs(fail_prob), c).unwrap();
            chi_square_below(d, 0.25 * radius * radius)
        };
        // 1 − δ = 2^{−k} down to 2^{−52}: it fails from some k on, and goes on failing.
        let fails: Vec<bool> = (1..=52)
            .map(|k| 0.5f64.powi(k))
            .map(|promised| limit(1.0 - promised) < promised)
            .collect();
        let first = fails
            .iter()
            .position(|f| *f)
            .expect("a δ at which it fails");
        assert!(
            fails[first..].iter().all(|f| *f),
            "{d} {c} {horizon}: {fails:?}"
        );
    }
}

/// The same in samples, where short responses leave Υ near ¼: d = 8, H = 1, B = L = 0.1 and 1, C = 1, δ = ½. (A.2) covers
/// in about P(χ²₈ ≤ 8 log 2/(4Υ)) = 0.31 of the data sets; the repaired radius keeps its promise.
#[test]
fn the_printed_radius_misses_in_samples_what_its_limit_says() {
    let (d, each, replicates) = (8usize, 2_500, 300);
    let inputs = RadiusInputs {
        horizon: 1,
        feature_bound: 1.0,
        param_bound: 0.1,
        ridge: 1e-6,
        fail_prob: 0.5,
    };
    let (mut printed, mut repaired) = (0, 0);
    for replicate in 0..replicates {
        let mut rng = SeedTree::new(14).index(replicate).rng();
        // Arms ±e_k, compared with each other; θ* = 0, so that either wins with probability ½.
        let mut rows = vec![0.0; d * d * each];
        for (i, row) in rows.chunks_exact_mut(d).enumerate() {
            row[i / each] = if rng.random::<bool>() { 2.0 } else { -2.0 };
        }
        let design = Design::try_new(d, rows).unwrap();
        let options = FitOptions {
            param_bound: 0.1,
            ..FitOptions::default()
        };
        let fit = fit_bradley_terry(&design, &options).unwrap();
        let all = radii(&design, &fit.theta, &inputs).unwrap();
        let metric = Metric::sigma_d(&design, inputs.ridge).unwrap();
        let error = metric.norm(&fit.theta);
        let inside = |kind| error <= all.radius(kind).unwrap().value;
        printed += u32::from(inside(RadiusKind::Printed { constant: 1.0 }));
        repaired += u32::from(inside(RadiusKind::Theory(Curvature::Upsilon)));
    }
    let limit = chi_square_below(8, 8.0 * 2f64.ln() / (4.0 * curvature_bound(&inputs)));
    assert!((limit - 0.308_15).abs() < 1e-4, "{limit}");
    let share = f64::from(printed) / replicates as f64;
    // Three standard errors.
    assert!(
        (share - limit).abs() < 3.0 * (limit * (1.0 - limit) / 300.0).sqrt(),
        "{share}"
    );
    assert!(f64::from(repaired) >= 0.5 * replicates as f64, "{repaired}");
}
