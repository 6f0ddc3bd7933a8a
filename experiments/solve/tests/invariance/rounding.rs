//! What rounding decides is null, with its reason.

use std::path::Path;

use rto_solve::{Instance, solve};
use serde_json::{Value, json};

/// Algorithm 1 at a radius whose rounding hides what tells actions apart.
#[test]
fn what_rounding_decides_is_null_and_not_a_number() {
    // φ and −φ have the same bonus, so π̂ ∝ exp(θ̂φ/β) at every radius, with σ(2θ̂) = 2/3 of two wins in three.
    let twins = |radius: f64| {
        let text = json!({
            "beta": 1.0, "initial": [1.0], "n_actions": 2, "horizon": 1,
            "reference": [[[0.5, 0.5]]], "features": [[[[1.0], [-1.0]]]], "theta": [0.3],
            "preferences": [
                {"winner": [0], "loser": [1]}, {"winner": [0], "loser": [1]}, {"winner": [1], "loser": [0]},
            ],
            "estimation": {"bonus_scale": radius},
        });
        let instance = Instance::parse(&text.to_string(), Path::new(".")).unwrap();
        serde_json::to_value(solve(&instance).unwrap()).unwrap()
    };
    let star = 1.0 / (1.0 + (-0.6f64).exp());
    let kl = |p: f64| star * (star / p).ln() + (1.0 - star) * ((1.0 - star) / (1.0 - p)).ln();
    for radius in [0.0, 2.0, 1e4] {
        let found = twins(radius);
        let number = |path: &str| found.pointer(path).unwrap().as_f64().unwrap();
        let near = |a: f64, b: f64| assert!((a - b).abs() <= 1e-10, "{radius}: {a} and {b}");
        near(number("/algorithm1/root_policy/0/0"), 2.0 / 3.0);
        // With β = 1 and one step, SubOpt(π) = KL(π‖π*).
        let p = 2.0 / 3.0f64;
        let lost = p * (p / star).ln() + (1.0 - p) * ((1.0 - p) / (1.0 - star)).ln();
        near(number("/algorithm1/suboptimality"), lost);
        near(number("/algorithm1/kl"), kl(p));
    }
    for radius in [1e12, 1e20, 1e39] {
        let found = twins(radius);
        for (path, key) in [
            ("/algorithm1/root_policy/0", "algorithm1.root_policy[0]"),
            ("/algorithm1/suboptimality", "algorithm1.suboptimality"),
            ("/algorithm1/kl", "algorithm1.kl"),
        ] {
            assert_eq!(found.pointer(path), Some(&Value::Null), "{radius}: {path}");
            let why = found["notes"][key].as_str().unwrap();
            assert!(why.contains("not determined in floating point"), "{why}");
        }
        assert!(found["algorithm1"]["bound"].as_f64().unwrap() > 0.5 * radius);
    }
}

/// What `solve` says of an instance.
fn told(text: Value) -> Value {
    let instance = Instance::parse(&text.to_string(), Path::new(".")).unwrap();
    serde_json::to_value(solve(&instance).unwrap()).unwrap()
}

/// A report in which a path is null, and says that floating point does not determine it.
fn lost(found: &Value, path: &str) {
    let key = path[1..]
        .replace('/', ".")
        .replace(".root_policy.0", ".root_policy[0]");
    assert_eq!(found.pointer(path), Some(&Value::Null), "{path}");
    let why = found["notes"][&key].as_str().unwrap();
    assert!(
        why.contains("not determined in floating point"),
        "{key}: {why}"
    );
}

/// Features that are the same for both responses to a prompt: π* = π_ref, and E_{d*}[φ] − E_{d^{π_ref}}[φ] is 0 however large the
/// radius is. E_{d*}[φ] itself is (3 − 2 + 2)/7.
#[test]
fn what_all_responses_share_has_no_bound_at_any_radius() {
    for unit in [1.0, 7443.75035490666] {
        for radius in [2.0, 2.88e17, 1e39] {
            let row = |x: f64| json!([[[x * unit], [x * unit]]]);
            let found = told(json!({
                "beta": 1.0, "n_actions": 2, "horizon": 1,
                "initial": [3.0 / 7.0, 2.0 / 7.0, 2.0 / 7.0],
                "reference": [[[0.6, 0.4]], [[0.48, 0.52]], [[0.46, 0.54]]],
                "features": [row(1.0), row(-1.0), row(1.0)], "theta": [0.49 / unit],
                "preferences": [{"prompt": 0, "winner": [0], "loser": [1]}],
                "estimation": {"param_bound": 20.0 / unit, "ridge": 5.0 * unit * unit, "bonus_scale": radius},
            }));
            assert_eq!(found["baselined"]["norm_of_expectation"], json!(0.0));
            assert_eq!(found["baselined"]["bound"], json!(0.0));
            assert_eq!(found["coverage"]["C_lin_baselined"], json!(0.0));
            assert_eq!(found["coverage"]["baselined"], json!(0.0));
            let want = 2.0 * radius * (3.0 / 7.0) / 5f64.sqrt();
            let got = found["theorem_b1"]["bound"].as_f64().unwrap();
            assert!((got - want).abs() <= 1e-12 * want, "{got} {want}");
        }
    }
}

/// Three features whose expectations under π* are differences of equal numbers: at a large radius the bounds are rounding.
#[test]
fn a_bound_that_is_rounding_times_the_radius_is_null() {
    // φ = ±1 and θ* = 0: E_{d*}[φ] = 1/3 + 1/6 − 1/2. With the same reference E_{d*}[φ] − E_{d^{π_ref}}[φ] is 0 as well, but φ differs.
    let even = |radius: f64| {
        told(json!({
            "beta": 1.0, "initial": [1.0], "n_actions": 3, "horizon": 1,
            "reference": [[[1.0 / 3.0, 1.0 / 6.0, 0.5]]], "features": [[[[1.0], [1.0], [-1.0]]]], "theta": [0.0],
            "preferences": [{"winner": [0], "loser": [2]}, {"winner": [2], "loser": [1]}],
            "estimation": {"bonus_scale": radius, "param_bound": 1.0, "ridge": 1.0},
        }))
    };
    let paths = [
        "/theorem_b1/bound",
        "/theorem_b1/norm_of_expectation",
        "/baselined/bound",
        "/baselined/norm_of_expectation",
        "/coverage/theorem_b1",
        "/coverage/baselined",
    ];
    let found = even(2.0);
    for path in paths {
        assert!(
            found.pointer(path).unwrap().as_f64().unwrap().abs() < 1e-14,
            "{path}"
        );
    }
    for radius in [1e12, 1e17, 1e39] {
        let found = even(radius);
        for path in paths {
            lost(&found, path);
        }
        // What has no cancellation stays: ‖φ‖ = 1/√(λ + Σx²) = 1/3 everywhere with λ = 1 and x = ±2.
        let bound = found["algorithm1"]["expected_bonus_norm"].as_f64().unwrap();
        assert!((bound - 1.0 / 3.0).abs() < 1e-15, "{bound}");
    }
}

/// Without pairs Σ_𝒟 = λI, and the ellipsoid of radius √λ B is the ball: either holds the worst parameter.
#[test]
fn which_of_two_equal_constraints_is_active_is_null() {
    let found = |radius: f64| {
        told(json!({
            "beta": 1.0, "initial": [1.0], "n_actions": 2, "horizon": 1,
            "reference": [[[0.5, 0.5]]], "features": [[[[1.0, 0.2], [0.3, 1.0]]]], "preferences": [],
            "estimation": {"param_bound": 2.0, "ridge": 4.0, "bonus_scale": radius},
        }))
    };
    let active = |radius| found(radius)["theorem_b1"]["active"].clone();
    assert_eq!(active(3.99), json!({"ellipsoid": true, "ball": false}));
    assert_eq!(active(4.01), json!({"ellipsoid": false, "ball": true}));
    let equal = found(4.0);
    for constraint in ["ellipsoid", "ball"] {
        lost(&equal, &format!("/theorem_b1/active/{constraint}"));
    }
    // Against π_ref nothing is gained at θ = 0, and no constraint is touched.
    assert_eq!(
        equal["baselined"]["active"],
        json!({"ellipsoid": false, "ball": false})
    );
}

/// The robust planner reads the same pessimistic reward: φ and −φ have one bonus, and only φᵀθ_MLE tells them apart.
#[test]
fn a_robust_policy_that_rounding_decides_is_null() {
    let twins = |radius: f64| {
        told(json!({
            "beta": 1.0, "states": 1, "initial": [1.0], "horizon": 1, "transition": [[null, null]],
            "reference": [[0.5, 0.5]], "features": [[[1.0], [-1.0]]],
            "preferences": [
                {"winner": [[0, 0]], "loser": [[0, 1]]}, {"winner": [[0, 0]], "loser": [[0, 1]]},
                {"winner": [[0, 1]], "loser": [[0, 0]]},
            ],
            "estimation": {"bonus_scale": radius}, "transition_counts": [[3, 3]], "zeta": 0.1,
        }))
    };
    for radius in [0.0, 2.0, 1e4] {
        let found = twins(radius);
        let p = found.pointer("/robust/root_policy/0/0").unwrap();
        assert!(
            (p.as_f64().unwrap() - 2.0 / 3.0).abs() < 1e-10,
            "{radius}: {p}"
        );
    }
    for radius in [1e12, 1e39] {
        let found = twins(radius);
        lost(&found, "/robust/root_policy/0");
        assert_eq!(found["robust"]["reward"], "pessimistic");
    }
}
