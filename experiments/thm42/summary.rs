//! Summaries of runs (one row for each data set and method): means, intervals and slopes.

use anyhow::{Context, Result};
use rto_harness::table::{Cell, Table};

use rto_harness::stats::{Sample, Support, shown, slope, with_interval};

/// The runs of one method at one setting.
pub struct Group {
    /// Texts of the key columns.
    pub key: Vec<String>,
    pub method: String,
    pub radius: String,
    pub suboptimality: Sample,
    pub bound: Sample,
    pub rho: Sample,
    /// Runs whose confidence set has the truth in it.
    pub covered: usize,
    /// Runs among them in which the bound fails; a theorem says 0.
    pub violations: usize,
}

/// What rounding may put between a suboptimality and an equal bound.
const ROUNDING: f64 = 1e-9;

/// Groups runs by `keys`, method and radius, in the order of their first appearance.
pub fn groups(runs: &Table, keys: &[&str]) -> Result<Vec<Group>> {
    let texts = |column: &str| runs.texts(column);
    let keys: Vec<Vec<String>> = keys.iter().map(|k| texts(k)).collect::<Result<_>>()?;
    let (methods, radii, covered) = (texts("method")?, texts("radius")?, texts("covered")?);
    let numbers = ["suboptimality", "bound", "rho"].map(|c| runs.floats(c));
    let [gaps, bounds, rhos] = numbers;
    let (gaps, bounds, rhos) = (gaps?, bounds?, rhos?);
    let mut groups: Vec<Group> = Vec::new();
    let mut index = std::collections::HashMap::new();
    for i in 0..runs.len() {
        let key: Vec<String> = keys.iter().map(|k| k[i].clone()).collect();
        let full = (key.clone(), methods[i].clone(), radii[i].clone());
        let at = *index.entry(full).or_insert_with(|| {
            groups.push(Group {
                key,
                method: methods[i].clone(),
                radius: radii[i].clone(),
                suboptimality: Sample::default(),
                bound: Sample::default(),
                rho: Sample::default(),
                covered: 0,
                violations: 0,
            });
            groups.len() - 1
        });
        let group = &mut groups[at];
        group.suboptimality.0.push(gaps[i]);
        if bounds[i].is_finite() {
            group.bound.0.push(bounds[i]);
            group.rho.0.push(rhos[i]);
        }
        if covered[i] == "yes" {
            group.covered += 1;
            group.violations += usize::from(gaps[i] > bounds[i] + ROUNDING);
        }
    }
    Ok(groups)
}

/// Columns of [`curves`] after the keys.
const CURVE: [&str; 15] = [
    "method",
    "radius",
    "replicates",
    "suboptimality",
    "suboptimality_low",
    "suboptimality_high",
    "suboptimality_q025",
    "suboptimality_q975",
    "bound",
    "bound_low",
    "bound_high",
    "rho",
    "covered",
    "violations",
    "suboptimality_median",
];

/// Means with 95% intervals, and the range of 95% of the replicates.
pub fn curves(name: &str, groups: &[Group], keys: &[&str]) -> Table {
    let mut table = Table::new(name, &[keys, &CURVE].concat());
    for group in groups {
        let (gap, low, high) = group.suboptimality.interval(Support::NonNegative);
        // The right-hand side of a theorem may be negative where its premise is false.
        let bound = (!group.bound.is_empty()).then(|| group.bound.interval(Support::Real));
        let quantile = |p| Cell::from(group.suboptimality.quantile(p));
        let count = group.bound.len();
        let mut row: Vec<Cell> = group.key.iter().map(|k| parse(k)).collect();
        row.extend([
            group.method.as_str().into(),
            group.radius.as_str().into(),
            group.suboptimality.len().into(),
            gap.into(),
            low.into(),
            high.into(),
            quantile(0.025),
            quantile(0.975),
            bound.map(|b| b.0).into(),
            bound.and_then(|b| b.1).into(),
            bound.and_then(|b| b.2).into(),
            (count > 0).then(|| group.rho.mean()).into(),
            (count > 0)
                .then(|| group.covered as f64 / count as f64)
                .into(),
            (count > 0).then_some(group.violations).into(),
            quantile(0.5),
        ]);
        table.push(row);
    }
    table
}

/// A key as a cell: numbers stay numbers in JSON.
fn parse(text: &str) -> Cell {
    match text.parse::<f64>() {
        Ok(_) if text.parse::<i64>().is_ok() => Cell::integer(text),
        Ok(value) => value.into(),
        Err(_) => text.into(),
    }
}

/// Log-log slopes over the last `points` sizes of groups keyed by n alone.
pub fn slopes(groups: &[Group], points: usize) -> Result<Table> {
    let mut columns = vec!["method", "radius", "replicates", "from_n", "to_n"];
    columns.extend(SLOPES);
    let mut table = Table::new("slopes", &columns);
    for (method, radius) in methods(groups) {
        let all: Vec<&Group> = of(groups, &method, &radius).collect();
        let last = &all[all.len().saturating_sub(points)..];
        let n = last
            .iter()
            .map(|g| g.key[0].parse::<f64>().context("n"))
            .collect::<Result<Vec<_>>>()?;
        let fit = |sample: fn(&Group) -> &Sample| {
            let samples: Vec<Sample> = last.iter().map(|g| sample(g).clone()).collect();
            let some = samples.iter().all(|s| !s.is_empty());
            some.then(|| slope(&n, &samples)).flatten()
        };
        let mut row: Vec<Cell> = vec![
            method.as_str().into(),
            radius.as_str().into(),
            last[0].suboptimality.len().into(),
            (n[0] as u64).into(),
            (n[n.len() - 1] as u64).into(),
        ];
        row.extend(slope_cells(fit(|g| &g.suboptimality)));
        row.extend(slope_cells(fit(|g| &g.bound)));
        table.push(row);
    }
    Ok(table)
}

const SLOPES: [&str; 6] = [
    "suboptimality_slope",
    "suboptimality_slope_low",
    "suboptimality_slope_high",
    "bound_slope",
    "bound_slope_low",
    "bound_slope_high",
];

/// A slope with its interval as cells.
pub fn slope_cells(fit: Option<(f64, f64, f64)>) -> [Cell; 3] {
    let cell = |value: fn((f64, f64, f64)) -> f64| fit.map(value).into();
    [cell(|s| s.0), cell(|s| s.1), cell(|s| s.2)]
}

/// The different (method, radius), in order.
pub fn methods(groups: &[Group]) -> Vec<(String, String)> {
    let mut out: Vec<(String, String)> = Vec::new();
    for g in groups {
        let pair = (g.method.clone(), g.radius.clone());
        if !out.contains(&pair) {
            out.push(pair);
        }
    }
    out
}

/// The groups of one method, in the order of their keys.
pub fn of<'a>(
    groups: &'a [Group],
    method: &'a str,
    radius: &'a str,
) -> impl Iterator<Item = &'a Group> {
    groups
        .iter()
        .filter(move |g| g.method == method && g.radius == radius)
}

/// Runs in which a bound failed although its premise held.
pub fn violations(groups: &[Group]) -> usize {
    groups.iter().map(|g| g.violations).sum()
}

/// A slope of a table of [`slopes`] for the terminal.
pub fn slope_cell(row: &[Cell], first: usize) -> Cell {
    let at = |i: usize| match &row[first + i] {
        Cell::Float(value) => *value,
        _ => f64::NAN,
    };
    with_interval(at(0), at(1), at(2))
}

/// A table for the terminal: a key a row, a method a column, means of the suboptimality; `bound of M`
/// and `covered by M` show the bound and the coverage of method M.
pub fn wide(
    title: &str,
    groups: &[Group],
    keys: &[&str],
    shown_methods: &[(&str, &str, &str)],
) -> Table {
    let titles: Vec<&str> = shown_methods.iter().map(|m| m.2).collect();
    let mut table = Table::new(title, &[keys, &titles].concat());
    let mut seen: Vec<&Vec<String>> = Vec::new();
    for group in groups {
        if seen.contains(&&group.key) {
            continue;
        }
        seen.push(&group.key);
        let mut row: Vec<Cell> = group.key.iter().map(|k| parse(k)).collect();
        for (method, radius, _) in shown_methods {
            let (what, method) = match method.split_once(" of ").or(method.split_once(" by ")) {
                Some((what, method)) => (what, method),
                None => ("suboptimality", *method),
            };
            let found = of(groups, method, radius).find(|g| g.key == group.key);
            row.push(found.map_or(Cell::Empty, |g| match what {
                "bound" => shown(g.bound.mean()),
                "covered" => shown(g.covered as f64 / g.bound.len() as f64),
                _ => shown(g.suboptimality.mean()),
            }));
        }
        table.push(row);
    }
    table
}
