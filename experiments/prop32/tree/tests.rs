use super::mutate;
use super::*;

#[test]
fn decimals_are_read_exactly() {
    let integers = |texts: &[&str]| {
        to_integers(
            &texts
                .iter()
                .map(|t| Decimal::parse(t).unwrap())
                .collect::<Vec<_>>(),
        )
    };
    let small = |values: &[u64]| values.iter().map(|v| BigUint::from(*v)).collect::<Vec<_>>();
    assert_eq!(
        integers(&["0.1", "0.25", "3", "0"]),
        small(&[10, 25, 300, 0])
    );
    assert_eq!(
        integers(&["1e2", "2.50E-1", "-0.0"]),
        small(&[10000, 25, 0])
    );
    assert_eq!(integers(&["1.000"]), small(&[1]));
    for bad in [
        "-1",
        "1e401",
        "\"1\"",
        "null",
        "[1]",
        "1e99999999999999999999",
        "1e-9223372036854775808",
        "-0.5",
        "",
    ] {
        assert!(Decimal::parse(bad).is_err(), "{bad}");
    }
}

#[test]
fn figure2_from_decimals_and_from_integers() {
    let decimals = br#"{"n_actions": 2, "horizon": 3, "leaf_weights": [0.5, 0.25, 0.0625, 0.0625, 0.03125, 0.03125, 0.03125, 0.03125]}"#;
    let integers =
        br#"{"n_actions": 2, "horizon": 3, "leaf_weights": [16, 8, 2, 2, 1, 1, 1, 1], "xi": 1}"#;
    for text in [&decimals[..], &integers[..]] {
        let report = report(text).unwrap();
        assert_eq!(
            (
                report.xi,
                report.frontier_size,
                report.paper_queries,
                report.minimax_bound
            ),
            (1.0, 3, 4, 3)
        );
        assert_eq!(report.heavy_profile, [1, 1, 1, 1]);
        assert_eq!(
            (report.best_first.lowest, report.best_first.highest),
            (1, 3)
        );
        assert_eq!((report.paper_bound, report.sentence_worst_case), (4.0, 7));
    }
}

#[test]
fn huge_and_tiny_weights_agree_with_small_ones() {
    let report_of = |w: [&str; 4]| {
        report(
            format!(
                r#"{{"n_actions": 2, "horizon": 2, "leaf_weights": [{}]}}"#,
                w.join(", ")
            )
            .as_bytes(),
        )
        .unwrap()
    };
    let plain = report_of(["3", "1", "2", "2"]);
    let huge = report_of(["3e300", "1e300", "2e300", "2e300"]);
    assert_eq!(
        (plain.xi, plain.best_first.lowest, plain.optimal_probability),
        (huge.xi, huge.best_first.lowest, huge.optimal_probability)
    );
}

/// Damaged trees: a result or one line.
#[test]
fn damaged_trees_are_survived() {
    let file = concat!(env!("CARGO_MANIFEST_DIR"), "/data/figure2.json");
    let corpus = [
        fs::read(file).unwrap(),
        br#"{"n_actions": 2, "horizon": 2, "xi": 0.1, "leaf_weights": [3e3, 1.25, 0, 2]}"#.to_vec(),
    ];
    mutate::survive("trees", &corpus, |damaged| {
        report(damaged).map(drop).map_err(|e| format!("{e:#}"))
    });
}
