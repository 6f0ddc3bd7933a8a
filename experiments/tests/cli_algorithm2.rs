//! What the `algorithm2` binary says of the theory; what holds of every sweep is in `cli_sweeps/`.

mod common;

use common::{assert_success, stderr};
use serde_json::Value;
use tempfile::TempDir;

const BINARY: &str = env!("CARGO_BIN_EXE_algorithm2");

#[test]
fn json_is_alone_on_stdout_and_the_theory_holds() {
    let dir = TempDir::new().unwrap();
    let output = common::run(BINARY, &["--smoke", "--json"], dir.path());
    assert_success(&output);
    let value: Value = serde_json::from_slice(&output.stdout).unwrap();
    assert!(stderr(&output).contains("(a) Exact SubOpt"));
    let results = &value["results"];
    let rows = |table: &str| results[table].as_array().unwrap().clone();
    let number = |row: &Value, key: &str| row[key].as_f64().unwrap();

    // SubOpt is never negative, and RTO is DPPO with another initial critic.
    let curves = rows("curves");
    let gap = |instance: &str, method: &str, iteration: u64| {
        let row = curves.iter().find(|r| {
            r["instance"] == instance && r["method"] == method && r["iteration"] == iteration
        });
        number(row.unwrap(), "objective_gap")
    };
    for row in &curves {
        for key in ["objective_gap", "own_gap", "true_gap", "matched_gap"] {
            assert!(number(row, key) > -1e-9, "{row}");
        }
        assert_eq!(
            row["critic_error"].is_null(),
            row["method"] == "rloo",
            "{row}"
        );
    }
    for instance in ["long", "wide"] {
        for iteration in [0, 5, 10] {
            let rto = gap(instance, "rto", iteration);
            let offset = gap(instance, "dppo_offset", iteration);
            assert!((rto - offset).abs() < 1e-9, "{instance} {iteration}");
        }
        let sparse = gap(instance, "dppo", 5);
        assert!(
            (gap(instance, "rto", 5) - sparse).abs() > 1e-6,
            "{instance}"
        );
        // All start at π_ref, and every method learns.
        for method in ["rto", "dppo", "rloo"] {
            assert!(gap(instance, method, 20) < 0.5 * gap(instance, method, 0));
        }
    }

    // The exact policies: optima have no gap, and no run has more reward at its KL than the frontier.
    for row in rows("exact") {
        match row["policy"].as_str().unwrap() {
            "rto_optimum" => assert!(number(&row, "objective_gap").abs() < 1e-9, "{row}"),
            "optimal_beta1" => assert!(number(&row, "true_gap").abs() < 1e-9, "{row}"),
            "optimal_beta2" => assert!(number(&row, "matched_gap").abs() < 1e-9, "{row}"),
            _ => assert!(number(&row, "objective_gap") > 1e-3, "{row}"),
        }
    }
    let frontier = rows("frontier");
    for row in &curves {
        // π*_b maximises reward − b·KL, so its value bounds that of every policy.
        let instance = frontier.iter().filter(|f| f["instance"] == row["instance"]);
        for best in instance {
            let value = |r: &Value| number(r, "reward") - number(best, "beta") * number(r, "kl");
            assert!(value(row) <= value(best) + 1e-9, "{row} {best}");
        }
    }
}

/// A choice whose expected gradient is not that of the objective is allowed, and said once with its claim; the default has none.
#[test]
fn a_biased_setting_is_said_once_with_its_claim() {
    let dir = TempDir::new().unwrap();
    let plain = common::run(BINARY, &["--smoke", "--quiet"], dir.path());
    assert_success(&plain);
    assert!(!stderr(&plain).contains("warning"), "{}", stderr(&plain));
    std::fs::write(
        dir.path().join("k3.toml"),
        "[ppo]\nkl_estimator = \"k3\"\nkl_placement = \"loss\"\n",
    )
    .unwrap();
    let args = ["--smoke", "--quiet", "--config", "k3.toml"];
    let biased = common::run(BINARY, &args, dir.path());
    assert_success(&biased);
    let said = stderr(&biased);
    assert_eq!(said.matches("warning: ").count(), 1, "{said}");
    assert!(said.contains("claims 03d, 03f, 17"), "{said}");
}
