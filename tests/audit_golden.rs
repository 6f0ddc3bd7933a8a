//! The auditor against `tests/golden/estimators.json`: fields, covariances, curls, fixed points of 22 recipes on three trees.

use rto::audit::{FixedPoint, Named, Problem, ResponseTree, Rotation, Status, Summary, named};
use serde_json::Value;

struct Golden {
    name: String,
    problem: Problem,
    theta: Vec<f64>,
    old: Vec<f64>,
    beta: f64,
    json: Value,
}

fn numbers(v: &Value) -> Vec<f64> {
    match v {
        Value::Array(all) => all.iter().flat_map(numbers).collect(),
        _ => vec![v.as_f64().expect("a number")],
    }
}

fn number(v: &Value) -> f64 {
    v.as_f64().expect("a number")
}

fn file() -> Value {
    let path = concat!(env!("CARGO_MANIFEST_DIR"), "/tests/golden/estimators.json");
    serde_json::from_str(&std::fs::read_to_string(path).unwrap()).unwrap()
}

fn golden() -> Vec<Golden> {
    let file = file();
    let of = |t: &Value| {
        let tree = ResponseTree::try_new(
            t["A"].as_u64().unwrap() as usize,
            t["H"].as_u64().unwrap() as usize,
            t["eos"].as_u64().map(|e| e as usize),
            &numbers(&t["prompt_weights"]),
        )
        .unwrap();
        let problem = Problem::try_new(tree, &numbers(&t["r"]), &numbers(&t["ref_logits"]))
            .unwrap()
            .with_dpo(
                &numbers(&t["dpo_logits"]),
                number(&t["beta1"]),
                number(&t["dpo_clip"]),
            )
            .unwrap();
        Golden {
            name: t["tree"].as_str().unwrap().into(),
            problem,
            theta: numbers(&t["theta"]),
            old: numbers(&t["theta_old"]),
            beta: number(&t["beta"]),
            json: t.clone(),
        }
    };
    file["golden"].as_array().unwrap().iter().map(of).collect()
}

fn recipes(g: &Golden) -> Vec<Named> {
    named(g.beta, 4, 4, g.problem.tree().horizon())
}

/// Within `tolerance` of the golden number, relative to numbers above 1.
fn close(what: &str, got: f64, want: f64, tolerance: f64) {
    let gap = (got - want).abs();
    assert!(
        gap <= tolerance * want.abs().max(1.0),
        "{what}: {got} is {gap:e} from {want}"
    );
}

fn all_close(what: &str, got: &[f64], want: &[f64], tolerance: f64) {
    assert_eq!(got.len(), want.len(), "{what}");
    for (g, w) in got.iter().zip(want) {
        close(what, *g, *w, tolerance);
    }
}

#[test]
fn trees_objectives_and_names_are_those_of_the_file() {
    for g in golden() {
        let tree = g.problem.tree();
        let states: Vec<Value> = (0..tree.n_states())
            .map(|s| serde_json::to_value(tree.state(s)).unwrap())
            .collect();
        assert_eq!(Value::Array(states), g.json["states"], "{}", g.name);
        let responses: Vec<Value> = (0..tree.n_responses())
            .map(|y| serde_json::to_value((tree.prompt_of(y), tree.text_of(y))).unwrap())
            .collect();
        assert_eq!(Value::Array(responses), g.json["responses"], "{}", g.name);
        let all = recipes(&g);
        let mut names: Vec<&str> = all.iter().map(|n| n.name).collect();
        let table = g.json["recipes"].as_object().unwrap();
        assert_eq!(all.len(), table.len());
        names.retain(|n| !table.contains_key(*n));
        assert!(names.is_empty(), "{names:?}");
        let reference = &all[0].recipe;
        let j = g.problem.objective(reference, &g.theta).unwrap();
        close("J", j, number(&g.json["J_at_theta"]), 1e-11);
        close(
            "J*",
            g.problem.optimum(reference).unwrap(),
            number(&g.json["J_optimum"]),
            1e-11,
        );
        let gradient = g.problem.target(reference, &g.theta).unwrap();
        all_close("grad J", &gradient, &numbers(&g.json["grad_J"]), 1e-11);
    }
}

#[test]
fn fields_covariances_and_curls_on_policy_and_stale() {
    for g in golden() {
        for n in recipes(&g) {
            let entry = &g.json["recipes"][n.name];
            let target = numbers(&entry["target_gradient"]);
            for (label, old) in [("on_policy", None), ("stale", Some(&g.old[..]))] {
                let (want, what) = (&entry[label], format!("{} {} {label}", g.name, n.name));
                let got = Summary::at(&g.problem, &n.recipe, &g.theta, old, None).unwrap();
                all_close(&format!("{what} target"), &got.target, &target, 1e-9);
                all_close(
                    &format!("{what} E_g"),
                    &got.field,
                    &numbers(&want["E_g"]),
                    1e-9,
                );
                let turn = Rotation::at(&g.problem, &n.recipe, &g.theta, old, None).unwrap();
                for (key, value) in [
                    ("norm_ratio", got.norm_ratio),
                    ("cosine", got.cosine),
                    ("bias_norm_over_norm", got.bias),
                    ("trace_cov_unit", got.trace_unit),
                    ("responses_per_unit", got.responses_per_unit as f64),
                    ("trace_cov_per_response", got.trace_per_response),
                    ("curl_norm", turn.curl),
                    ("jacobian_norm", turn.jacobian),
                ] {
                    close(&format!("{what} {key}"), value, number(&want[key]), 1e-9);
                }
            }
        }
    }
}

#[test]
fn fixed_points_and_boundary_limits() {
    for g in golden() {
        for n in recipes(&g) {
            let want = &g.json["recipes"][n.name]["fixed_point"];
            let what = format!("{} {} fixed point", g.name, n.name);
            let got = FixedPoint::find(&g.problem, &n.recipe, None).unwrap();
            let interior = got.status == Status::Interior;
            let status = match got.status {
                Status::Interior => "interior",
                Status::Boundary => "boundary",
                Status::Singular => "singular",
            };
            assert_eq!(Some(status), want["status"].as_str(), "{what}");
            let tolerance = if interior { 1e-8 } else { 1e-5 };
            all_close(
                &format!("{what} policy"),
                &got.policy,
                &numbers(&want["policy"]),
                tolerance,
            );
            close(
                &format!("{what} SubOpt"),
                got.suboptimality,
                number(&want["SubOpt"]),
                tolerance,
            );
            if interior {
                let residual = got.residual.unwrap();
                assert!(residual <= 1e-13, "{what}: residual {residual:e}");
                let eigenvalue = got.largest_eigenvalue.unwrap();
                close(
                    &what,
                    eigenvalue,
                    number(&want["max_real_eigenvalue"]),
                    1e-8,
                );
            }
        }
    }
}
