use super::*;
use crate::cell::short;
use proptest::prelude::*;

fn sample() -> Table {
    let mut table = Table::new("queries.csv", &["algorithm", "queries", "gap"]);
    table.push([
        "paper".into(),
        12345678901234567890123456789u128.into(),
        0.1.into(),
    ]);
    table.push(["βest, \"first\"".into(), 3u8.into(), 3.0.into()]);
    table.push(["".into(), Cell::integer(-7), f64::NAN.into()]);
    table
}

#[test]
fn csv_text_is_exactly_this() {
    let csv = "algorithm,queries,gap\npaper,12345678901234567890123456789,0.1\n\
               \"βest, \"\"first\"\"\",3,3.0\n,-7,NaN\n";
    assert_eq!(sample().to_csv(), csv);
    let read = Table::parse_csv("queries.csv", csv).unwrap();
    assert_eq!(read.to_csv(), csv);
    assert_eq!(read.rows()[0], sample().rows()[0]);
}

#[test]
fn columns_by_name() {
    let table = sample();
    assert_eq!(table.floats("queries").unwrap()[1..], [3.0, -7.0]);
    assert_eq!(
        table.parsed::<i128>("queries", "an integer").unwrap()[2],
        -7
    );
    assert!(table.floats("gap").unwrap()[2].is_nan());
    assert_eq!(table.filter("algorithm", "paper").unwrap().len(), 1);
    assert_eq!(table.distinct("algorithm").unwrap().len(), 3);
    assert_eq!(table.points("queries", "gap").unwrap()[1], (3.0, 3.0));
    let error = |r: Result<Vec<f64>>| r.unwrap_err().to_string();
    assert_eq!(
        error(table.floats("query")),
        "queries.csv: no column `query`, found `algorithm`, `queries`, `gap`"
    );
    assert_eq!(
        error(table.floats("algorithm")),
        "queries.csv: row 1, column `algorithm`: found `paper`, expected a number"
    );
}

#[test]
fn bad_csv_names_file_and_line() {
    let error = |text: &str| Table::parse_csv("x.csv", text).unwrap_err().to_string();
    assert_eq!(
        error("a,b\n1,2\n3\n"),
        "x.csv:3: 1 fields, expected 2 as in the first line"
    );
    assert_eq!(
        error("a,a\n"),
        "x.csv:1: column `a` appears twice, expected different names"
    );
    assert_eq!(error(""), "x.csv: empty, expected a line of column names");
    let missing = Table::from_csv(Path::new("no/such.csv"))
        .unwrap_err()
        .to_string();
    assert_eq!(missing, "no/such.csv: no such file");
}

#[test]
fn rendered_columns_line_up() {
    let expected = "algorithm                            queries  gap\n\
                    -------------  -----------------------------  ---\n\
                    paper          12345678901234567890123456789  0.1\n\
                    βest, \"first\"                              3    3\n\
                    \u{20}                                         -7  NaN\n";
    assert_eq!(sample().render(), expected);
    assert_eq!(short(1.0 / 3.0), "0.333333");
    assert_eq!(short(123456789.0), "1.23457e8");
    assert_eq!(short(1e-9), "1e-9");
    assert_eq!(short(99999.95), "99999.9");
}

#[test]
fn wide_characters_count_as_two_columns() {
    let mut table = Table::new("t", &["名前", "n"]);
    table.push(["ab".into(), 1.into()]);
    assert_eq!(table.render(), "名前  n\n----  -\nab    1\n");
}

#[test]
#[should_panic(expected = "cells in a row")]
fn a_short_row_is_a_bug() {
    Table::new("t", &["a", "b"]).push([1.into()]);
}

fn cell() -> impl Strategy<Value = Cell> {
    prop_oneof![
        any::<f64>().prop_map(Cell::Float),
        any::<i128>().prop_map(Cell::from),
        any::<String>().prop_map(Cell::from),
        "[a,\"\n\r;#=0-9. -]{0,6}".prop_map(Cell::from),
        Just(Cell::Empty),
    ]
}

proptest! {
    #[test]
    fn csv_round_trips(rows in proptest::collection::vec(proptest::collection::vec(cell(), 3), 0..6)) {
        let mut table = Table::new("t", &["a", "b \"c\"", "d,e"]);
        rows.into_iter().for_each(|row| table.push(row));
        let csv = table.to_csv();
        let read = Table::parse_csv("t", &csv).unwrap();
        prop_assert_eq!(read.to_csv(), csv);
        prop_assert_eq!(read.len(), table.len());
        for (a, b) in read.rows().iter().flatten().zip(table.rows().iter().flatten()) {
            prop_assert_eq!(a.text(), b.text());
            if let (Cell::Float(a), Cell::Float(b)) = (a, b) {
                prop_assert!(a.to_bits() == b.to_bits() || a.is_nan() && b.is_nan());
            }
        }
    }

    #[test]
    fn one_empty_column_keeps_its_rows(n in 0usize..5) {
        let mut table = Table::new("t", &["a"]);
        (0..n).for_each(|_| table.push([Cell::Empty]));
        prop_assert_eq!(Table::parse_csv("t", &table.to_csv()).unwrap().len(), n);
    }

    #[test]
    fn any_text_is_read_or_refused_without_a_panic(text in any::<String>()) {
        if let Ok(table) = Table::parse_csv("t", &text) {
            table.render();
        }
    }
}

#[test]
fn json_keeps_types_and_whole_numbers() {
    let mut table = Table::new("t", &["a", "b"]);
    table.push([7u64.into(), "x".into()]);
    table.push([Cell::integer(u128::MAX), Cell::Empty]);
    let json = serde_json::to_string(&table).unwrap();
    let big = u128::MAX;
    assert_eq!(
        json,
        format!(r#"[{{"a":7,"b":"x"}},{{"a":"{big}","b":null}}]"#)
    );
}
