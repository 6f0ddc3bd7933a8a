use super::*;
use proptest::prelude::*;

fn labels(axis: Axis, values: &[f64], target: usize, whole: bool) -> Vec<String> {
    let ticks = Mapped::new(&axis, values.iter().copied()).ticks(target, whole);
    ticks.into_iter().filter_map(|tick| tick.label).collect()
}

#[test]
fn log_decades_have_one_form() {
    let ticks = labels(Axis::log10("n"), &[0.01, 20_000.0], 8, false);
    assert_eq!(ticks, ["10⁻²", "10⁻¹", "10⁰", "10¹", "10²", "10³", "10⁴"]);
    assert_eq!(
        labels(Axis::log10("n"), &[1.0, 1e30], 6, false),
        ["10⁰", "10⁶", "10¹²", "10¹⁸", "10²⁴", "10³⁰"]
    );
    // Where every label is short, all are written out.
    assert_eq!(
        labels(Axis::log10("n"), &[0.01, 1000.0], 8, false),
        ["0.01", "0.1", "1", "10", "100", "1000"]
    );
}

#[test]
fn ticks_that_are_given_are_the_only_ones() {
    let map = Mapped::new(&Axis::log10("H"), [4.0, 128.0].into_iter());
    let ticks = map.ticks_at(&[4.0, 8.0, 16.0, 32.0, 64.0, 128.0, 1000.0]);
    assert!(ticks.iter().all(|tick| tick.major));
    let said: Vec<_> = ticks.iter().filter_map(|t| t.label.as_deref()).collect();
    assert_eq!(said, ["4", "8", "16", "32", "64", "128"]);
    let gaps = ticks.windows(2).map(|pair| pair[1].at - pair[0].at);
    assert!(
        gaps.clone()
            .all(|gap| (gap - (ticks[1].at - ticks[0].at)).abs() < 1e-12)
    );
}

#[test]
fn short_log_axes_are_labelled_too() {
    assert_eq!(
        labels(Axis::log10("n"), &[3.0, 30.0], 5, false),
        ["5", "10", "20"]
    );
    assert!(labels(Axis::log10("n"), &[123.0, 124.0], 5, false).len() >= 2);
    assert!(!labels(Axis::log10("n"), &[7.0], 5, false).is_empty());
}

#[test]
fn linear_labels_are_readable() {
    assert_eq!(
        labels(Axis::linear("h"), &[1.0, 5.0], 8, true),
        ["1", "2", "3", "4", "5"]
    );
    let axis = Axis::linear("h").range(0.0, 20_000.0);
    assert_eq!(
        labels(axis, &[], 4, false),
        [
            "0",
            "5000",
            "10\u{202f}000",
            "15\u{202f}000",
            "20\u{202f}000"
        ]
    );
    let axis = Axis::linear("h").range(-2e9, 2e9);
    assert_eq!(
        labels(axis, &[], 4, false),
        ["−2×10⁹", "−10⁹", "0", "10⁹", "2×10⁹"]
    );
    let axis = Axis::linear("h").range(0.0, 1.0);
    assert_eq!(
        labels(axis, &[], 5, false),
        ["0.0", "0.2", "0.4", "0.6", "0.8", "1.0"]
    );
}

#[test]
fn equal_values_and_bad_ranges_still_give_ticks() {
    for value in [0.0, 5.0, -3e-7, 1e300] {
        assert!(
            !labels(Axis::linear("x"), &[value, value], 5, false).is_empty(),
            "{value}"
        );
    }
    assert!(!labels(Axis::log10("x").range(-1.0, 10.0), &[2.0, 300.0], 5, false).is_empty());
    assert!(labels(Axis::linear("x"), &[f64::NAN], 5, false).is_empty());
}

proptest! {
    #[test]
    fn every_range_has_a_few_ordered_ticks(a in -1e300..1e300f64, b in -1e300..1e300f64, e in -200i32..200, log in any::<bool>()) {
        let values = [a * 10f64.powi(-e.abs()), b * 10f64.powi(-e.abs())];
        let values = if log { values.map(f64::abs) } else { values };
        prop_assume!(values.iter().all(|v| *v != 0.0));
        let axis = if log { Axis::log10("x") } else { Axis::linear("x") };
        let mapped = Mapped::new(&axis, values.into_iter());
        let ticks = mapped.ticks(6, false);
        let labelled = ticks.iter().filter(|t| t.label.is_some()).count();
        prop_assert!((1..=20).contains(&labelled), "{labelled} {values:?}");
        prop_assert!(ticks.windows(2).all(|w| w[0].at < w[1].at));
        for value in values {
            let t = mapped.unit(value).unwrap();
            prop_assert!((-1e-9..=1.0 + 1e-9).contains(&t));
        }
    }
}
