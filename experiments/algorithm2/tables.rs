//! Tables of means over runs with intervals, and of ratios of methods that share their seeds.

use anyhow::Result;
use rto_harness::stats::{Sample, Support, shown};
use rto_harness::table::{Cell, Table};
use std::collections::HashMap;

/// The runs of one setting.
pub struct Group {
    /// Texts of the key columns.
    pub key: Vec<String>,
    /// One sample for each measure, in the order of the replicates.
    pub samples: Vec<Sample>,
}

/// Groups runs by `keys`, in the order of their first appearance.
pub fn groups(runs: &Table, keys: &[&str], measures: &[&str]) -> Result<Vec<Group>> {
    let keys: Vec<Vec<String>> = keys.iter().map(|k| runs.texts(k)).collect::<Result<_>>()?;
    let values: Vec<Vec<f64>> = measures
        .iter()
        .map(|m| runs.floats(m))
        .collect::<Result<_>>()?;
    let mut groups: Vec<Group> = Vec::new();
    let mut index = HashMap::new();
    for i in 0..runs.len() {
        let key: Vec<String> = keys.iter().map(|k| k[i].clone()).collect();
        let at = *index.entry(key.clone()).or_insert_with(|| {
            let samples = vec![Sample::default(); measures.len()];
            groups.push(Group { key, samples });
            groups.len() - 1
        });
        for (sample, column) in groups[at].samples.iter_mut().zip(&values) {
            sample.0.push(column[i]);
        }
    }
    Ok(groups)
}

/// Keys, the number of replicates, and each measure with its 95% interval.
pub fn means(name: &str, groups: &[Group], keys: &[&str], measures: &[&str]) -> Table {
    let ends = measures
        .iter()
        .flat_map(|m| ["", "_low", "_high"].map(|e| format!("{m}{e}")));
    let ends: Vec<String> = ends.collect();
    let mut columns = [keys, &["replicates"]].concat();
    columns.extend(ends.iter().map(String::as_str));
    let mut table = Table::new(name, &columns);
    for group in groups {
        let mut row: Vec<Cell> = group.key.iter().map(|k| parse(k)).collect();
        row.push(group.samples[0].len().into());
        for (measure, sample) in measures.iter().zip(&group.samples) {
            let (mean, low, high) = sample.interval(support(measure));
            row.extend([Some(mean), low, high].map(finite));
        }
        table.push(row);
    }
    table
}

/// Rewards may be negative; gaps, divergences, entropies and errors may not.
fn support(measure: &str) -> Support {
    match measure {
        "reward" | "implicit_reward" => Support::Real,
        _ => Support::NonNegative,
    }
}

/// A number, or nothing where there is none (no critic, no interval).
pub fn finite(value: Option<f64>) -> Cell {
    value.filter(|v| v.is_finite()).into()
}

/// A key as a cell: numbers stay numbers in JSON.
fn parse(text: &str) -> Cell {
    match text.parse::<f64>() {
        Ok(_) if text.parse::<i64>().is_ok() => Cell::integer(text),
        Ok(value) => value.into(),
        Err(_) => text.into(),
    }
}

/// A ratio of two methods with its 95% interval.
#[derive(Debug, Clone, Copy)]
pub struct Ratio {
    pub value: f64,
    pub low: f64,
    pub high: f64,
}

impl Ratio {
    /// The geometric mean over replicates of a/b; replicates share instance, data and streams, so the
    /// interval (Student's t on log a/b) is that of paired differences.
    pub fn of(a: &Sample, b: &Sample) -> Self {
        let logs = a.0.iter().zip(&b.0).map(|(a, b)| (a / b).ln());
        let (mean, low, high) = Sample(logs.collect()).interval(Support::Real);
        Self {
            value: mean.exp(),
            low: low.map_or(f64::NAN, f64::exp),
            high: high.map_or(f64::NAN, f64::exp),
        }
    }

    pub fn cells(self) -> [Cell; 3] {
        [self.value, self.low, self.high].map(|v| finite(Some(v)))
    }

    /// `0.512 [0.480, 0.546]`.
    pub fn text(self) -> String {
        let t = |v| shown(v).text();
        format!("{} [{}, {}]", t(self.value), t(self.low), t(self.high))
    }

    /// Below 1 beyond its interval.
    pub fn is_less(self) -> bool {
        self.high < 1.0
    }

    /// Above 1 beyond its interval.
    pub fn is_more(self) -> bool {
        self.low > 1.0
    }

    /// Which of two methods has the smaller SubOpt, `self` the ratio of the first to the second.
    pub fn verdict(self, first: &str, second: &str) -> String {
        match (self.is_less(), self.is_more()) {
            (true, _) => format!("{first} wins"),
            (_, true) => format!("{second} wins"),
            _ if self.low.is_finite() => "no significant difference".into(),
            _ => "one run gives no interval".into(),
        }
    }
}

/// What an interval of a difference says, with the difference.
pub fn gain(difference: &Sample, first: &str, second: &str) -> String {
    let (_, low, high) = difference.interval(Support::Real);
    let what = match (low, high) {
        (Some(low), _) if low > 0.0 => format!("{first} is higher"),
        (_, Some(high)) if high < 0.0 => format!("{second} is higher"),
        (Some(_), Some(_)) => "no significant difference".into(),
        _ => "one run gives no interval".into(),
    };
    format!("{} ({what})", interval_text(difference))
}

/// `0.512 [0.480, 0.546]` of a sample's mean.
pub fn interval_text(sample: &Sample) -> String {
    let (mean, low, high) = sample.interval(Support::Real);
    text([Some(mean), low, high])
}

/// The same of a gap, which is not negative.
pub fn gap_text(sample: &Sample) -> String {
    let (mean, low, high) = sample.interval(Support::NonNegative);
    text([Some(mean), low, high])
}

fn text(ends: [Option<f64>; 3]) -> String {
    let [mean, low, high] = ends.map(|v| shown(v.unwrap_or(f64::NAN)).text());
    format!("{mean} [{low}, {high}]")
}

/// Differences of runs that share their seeds.
pub fn differences(a: &Sample, b: &Sample) -> Sample {
    Sample(a.0.iter().zip(&b.0).map(|(a, b)| a - b).collect())
}

/// Blocks of replicates, one cell each.
pub fn blocks(replicates: u64, size: u64) -> impl Iterator<Item = std::ops::Range<u64>> {
    let starts = (0..replicates).step_by(size as usize);
    starts.map(move |start| start..(start + size).min(replicates))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn ratios_are_paired() {
        let b = Sample(vec![1.0, 10.0, 100.0, 1000.0]);
        let a = Sample(b.0.iter().map(|x| 0.5 * x).collect());
        let ratio = Ratio::of(&a, &b);
        assert!((ratio.value - 0.5).abs() < 1e-12 && ratio.is_less() && !ratio.is_more());
        // The spread of the instances does not enter.
        assert!(ratio.high - ratio.low < 1e-12);
        assert!(Ratio::of(&b, &a).is_more());
    }

    #[test]
    fn a_verdict_names_the_side_that_the_interval_is_on() {
        let ratio = |low, high| Ratio {
            value: 1.0,
            low,
            high,
        };
        for (low, high, says) in [
            (0.5, 0.99, "RTO wins"),
            (1.01, 2.0, "DPPO wins"),
            (0.5, 1.0, "no significant difference"),
            (1.0, 2.0, "no significant difference"),
            (f64::NAN, f64::NAN, "one run gives no interval"),
        ] {
            assert_eq!(ratio(low, high).verdict("RTO", "DPPO"), says);
        }
        for (values, says) in [
            (vec![1.0, 1.1, 0.9], "RTO is higher"),
            (vec![-1.0, -1.1, -0.9], "DPPO is higher"),
            (vec![1.0, -1.1, 0.2], "no significant difference"),
            (vec![0.0, 0.0], "no significant difference"),
            (vec![1.0], "one run gives no interval"),
        ] {
            let text = gain(&Sample(values), "RTO", "DPPO");
            assert!(text.ends_with(&format!("({says})")), "{text}");
        }
    }

    #[test]
    fn groups_keep_the_order_of_replicates() {
        let mut runs = Table::new("runs", &["k", "x"]);
        for (k, x) in [("a", 1.0), ("b", 5.0), ("a", 3.0)] {
            runs.push([k.into(), x.into()]);
        }
        let groups = groups(&runs, &["k"], &["x"]).unwrap();
        assert_eq!(groups[0].samples[0].0, [1.0, 3.0]);
        let table = means("m", &groups, &["k"], &["x"]);
        assert_eq!(table.floats("x_low").unwrap()[0], 0.0);
        let rewards = means("m", &groups, &["k"], &["reward"]);
        assert!(rewards.floats("reward_low").unwrap()[0] < 0.0);
        assert_eq!(table.floats("x").unwrap(), [2.0, 5.0]);
        assert_eq!(table.columns()[2..], ["x", "x_low", "x_high"]);
    }
}
