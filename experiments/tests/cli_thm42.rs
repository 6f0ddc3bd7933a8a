//! What the `thm42` binary says of the theory; what holds of every sweep is in `cli_sweeps/`.

mod common;

use common::{assert_success, stderr};
use serde_json::Value;
use tempfile::TempDir;

const BINARY: &str = env!("CARGO_BIN_EXE_thm42");

#[test]
fn json_is_alone_on_stdout_and_the_theorems_hold() {
    let dir = TempDir::new().unwrap();
    let output = common::run(BINARY, &["--smoke", "--json"], dir.path());
    assert_success(&output);
    let value: Value = serde_json::from_slice(&output.stdout).unwrap();
    assert!(stderr(&output).contains("(a) SubOpt and bounds"));
    let results = &value["results"];
    let rows = |table: &str| results[table].as_array().unwrap().clone();
    let number = |row: &Value, key: &str| row[key].as_f64().unwrap();
    let mut bounded = 0;
    for table in ["curves", "regimes", "inconsistency", "sweeps"] {
        for row in rows(table)
            .iter()
            .filter(|row| !row["violations"].is_null())
        {
            assert_eq!(row["violations"], 0, "{row}");
            bounded += 1;
        }
    }
    assert!(bounded > 80, "{bounded}");
    // Sound radii miss less often than promised; the baselined form is never worse than the reference.
    for row in rows("coverage") {
        let sound = [
            "theory_upsilon",
            "theory_kappa",
            "self_concordant",
            "likelihood_set_finite",
        ];
        if sound.contains(&row["radius"].as_str().unwrap()) {
            assert!(number(&row, "coverage_high") >= 0.95, "{row}");
        }
    }
    let reference = number(&results["setting"][0], "reference_suboptimality");
    for row in rows("curves")
        .iter()
        .filter(|row| row["method"] == "baselined")
    {
        assert!(
            number(row, "suboptimality_q975") <= reference + 1e-9,
            "{row}"
        );
    }
    // The exact constant of the telescoping instance, and the values of (B.1) beside it.
    let exact = |method: &str, n: u64| {
        let all = rows("inconsistency");
        let row = all
            .iter()
            .find(|r| r["data"] == "exact" && r["method"] == method && r["n"] == n);
        number(row.unwrap(), "suboptimality")
    };
    assert!((exact("algorithm1", 1_000_000) - 0.707_191_675_92).abs() < 1e-10);
    assert!((exact("b1", 100) - 2.456e-3).abs() < 1e-6);
    assert!((exact("b1", 1_000_000) / 3.46e-8 - 1.0).abs() < 2e-3);
    // A bonus projected on the row space of too few pairs is far off, and its premise is false; projected on what
    // responses differ in it is not.
    let all = rows("inconsistency");
    let unseen = |method: &str| {
        let mut rows = all.iter();
        let row =
            rows.find(|r| r["data"] == "uncompared" && r["method"] == method && r["n"] == 10_000);
        row.unwrap().clone()
    };
    let projected = unseen("projected");
    assert!((number(&projected, "suboptimality") - 0.209_343).abs() < 1e-6);
    assert!((number(&projected, "bound") + 0.010_570).abs() < 1e-6);
    assert_eq!(projected["covered"], 0.0);
    assert!((number(&unseen("algorithm1"), "suboptimality") - 2.022e-4).abs() < 1e-7);
    let whole = unseen("projected_differences");
    assert!(number(&whole, "suboptimality") < 3e-6 && whole["covered"] == 1.0);
    // (A.2) as printed is sqrt(4 log 20 / Upsilon) + 1 at the smoke setting (d = 4, H = 3), and C multiplies its root.
    let curves = rows("curves");
    let printed = curves.iter().find(|r| r["radius"] == "printed").unwrap();
    assert!(
        (number(printed, "rho") - 70.701_2).abs() < 1e-3,
        "{printed}"
    );
    // Bounds of (B.1) with a fixed radius fall like n^(-1/2).
    let slopes = rows("slopes");
    let slope = slopes
        .iter()
        .find(|r| r["method"] == "b1" && r["radius"] == "theory_upsilon");
    assert!((number(slope.unwrap(), "bound_slope") + 0.5).abs() < 0.1);
}
