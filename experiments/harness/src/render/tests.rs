use super::*;

fn table() -> Table {
    let mut table = Table::new("demo", &["method", "found", "reward", "length"]);
    table.push([
        "rto".into(),
        "a ratio of 0.73, which lies in the interval".into(),
        1.5.into(),
        12.into(),
    ]);
    table.push(["dppo".into(), "nothing".into(), (-0.25).into(), 7.into()]);
    table
}

fn widest(text: &str) -> usize {
    text.lines().map(|l| l.width()).max().unwrap_or(0)
}

#[test]
fn what_fits_stays_as_it_is() {
    let wide = render(&table(), None);
    assert_eq!(wide.lines().count(), 4);
    assert_eq!(render(&table(), Some(widest(&wide))), wide);
}

#[test]
fn words_break_before_columns_do() {
    let text = render(&table(), Some(60));
    assert!(widest(&text) <= 60, "{text}");
    assert_eq!(text.matches("method").count(), 1, "{text}");
    let joined: Vec<&str> = text.split_whitespace().collect();
    assert!(
        joined.contains(&"interval") && joined.contains(&"1.5"),
        "{text}"
    );
}

#[test]
fn columns_that_do_not_fit_stand_below() {
    let mut wide = Table::new("wide", &["method", "alpha", "beta", "gamma", "delta"]);
    wide.push(["rto".into(), 1.into(), 2.into(), 3.into(), 4.into()]);
    wide.push(["dppo".into(), 5.into(), 6.into(), 7.into(), 8.into()]);
    let text = render(&wide, Some(20));
    assert!(widest(&text) <= 20, "{text}");
    assert_eq!(text.matches("method").count(), 2, "{text}");
    assert_eq!(text.matches("dppo").count(), 2, "{text}");
    for name in ["alpha", "beta", "gamma", "delta", "8"] {
        assert_eq!(text.matches(name).count(), 1, "{name}\n{text}");
    }
    // Rows are told apart by the first two columns, and numbers keep their intervals.
    let mut pair = Table::new("pair", &["method", "n", "slope of the curve", "bound"]);
    for n in [10, 20] {
        pair.push([
            "rto".into(),
            n.into(),
            "-0.5 [-0.61, -0.42]".into(),
            4.into(),
        ]);
    }
    let text = render(&pair, Some(35));
    assert!(widest(&text) <= 35, "{text}");
    assert_eq!(text.matches("rto     20").count(), 2, "{text}");
    assert!(text.contains("-0.5 [-0.61, -0.42]"), "{text}");
    assert!(is_number("-0.5 [-1e-3, 2.0]") && !is_number("1 + (A-1) M"));
    // A column that is wider than the terminal keeps its numbers whole.
    let mut long = Table::new("long", &["n", "a column with a long name"]);
    long.push([1.into(), 123456.into()]);
    assert!(render(&long, Some(20)).contains("123456"));
}
