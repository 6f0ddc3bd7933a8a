//! The grid of every method: what each point came to on the tuning seeds, and which was chosen.

use crate::stats::{Sample, Support};
use crate::table::{Cell, Table};
use anyhow::Result;

use super::{TUNE, differences};

/// A point of a method's grid.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Point {
    /// Of the policy.
    pub learning_rate: f64,
    /// Of GAE.
    pub lambda: f64,
    /// Of the critic.
    pub critic_learning_rate: f64,
    /// Range of the clipped loss.
    pub clip: f64,
}

/// The grid: what each point came to on the tuning seeds, and which was chosen.
pub fn points(runs: &Table) -> Result<Table> {
    let columns = [
        "instance",
        "method",
        "point",
        "learning_rate",
        "lambda",
        "critic_learning_rate",
        "clip",
        "objective",
        "objective_low",
        "objective_high",
        "chosen",
    ];
    let mut table = Table::new("points", &columns);
    let tuned = runs.filter("stage", TUNE)?;
    for instance in tuned.distinct("instance")? {
        let here = tuned.filter("instance", &instance)?;
        for method in here.distinct("method")? {
            let rows = here.filter("method", &method)?;
            let (mut points, mut ends) = (Vec::new(), Vec::new());
            for point in rows.distinct("point")? {
                let rows = rows.filter("point", &point)?;
                let first = |column: &str| -> Result<f64> { Ok(rows.floats(column)?[0]) };
                points.push(Point {
                    learning_rate: first("learning_rate")?,
                    lambda: first("lambda")?,
                    critic_learning_rate: first("critic_learning_rate")?,
                    clip: first("clip")?,
                });
                ends.push(Sample(rows.floats("objective")?));
            }
            let chosen = choose(&points, &ends);
            for (i, (p, end)) in points.iter().zip(&ends).enumerate() {
                let (mean, low, high) = end.interval(Support::Real);
                table.push([
                    instance.as_str().into(),
                    method.as_str().into(),
                    i.into(),
                    p.learning_rate.into(),
                    p.lambda.into(),
                    p.critic_learning_rate.into(),
                    p.clip.into(),
                    mean.into(),
                    low.into(),
                    high.into(),
                    u64::from(i == chosen).into(),
                ]);
            }
        }
    }
    Ok(table)
}

/// RTO less DPPO at the end, at the same point of the grid, on the tuning seeds: where in the grid a token reward pays.
pub fn same_point(runs: &Table) -> Result<Table> {
    let keys = [
        "instance",
        "learning_rate",
        "lambda",
        "critic_learning_rate",
    ];
    let columns = [
        &keys[..],
        &["rto", "dppo", "difference", "low", "high", "seeds"],
    ]
    .concat();
    let mut table = Table::new("same_point", &columns);
    let tuned = runs.filter("stage", TUNE)?;
    let [rto, dppo] = ["rto", "dppo"].map(|m| tuned.filter("method", m));
    let (rto, dppo) = (rto?, dppo?);
    for instance in rto.distinct("instance")? {
        let of = |t: &Table| t.filter("instance", &instance);
        let (rto, dppo) = (of(&rto)?, of(&dppo)?);
        for point in rto.distinct("point")? {
            let at = |t: &Table| t.filter("point", &point);
            let (rto, dppo) = (at(&rto)?, at(&dppo)?);
            let [a, b] = [&rto, &dppo].map(|t| t.floats("objective").map(Sample));
            let (a, b) = (a?, b?);
            let gap = differences(&a, &b);
            let (mean, low, high) = gap.interval(Support::Real);
            let mut row: Vec<Cell> = Vec::new();
            for key in keys {
                row.push(match key {
                    "instance" => instance.as_str().into(),
                    _ => rto.floats(key)?[0].into(),
                });
            }
            row.extend([a.mean(), b.mean(), mean].map(Cell::from));
            row.extend([low.into(), high.into(), gap.len().into()]);
            table.push(row);
        }
    }
    Ok(table)
}

/// The point with the largest mean over the tuning seeds; of those that are behind it by no more than one standard error of the paired
/// difference, one with the smallest learning rate, the best of these.
pub fn choose(points: &[Point], ends: &[Sample]) -> usize {
    let first = |a: usize, b: usize| match ends[b].mean() > ends[a].mean() {
        true => b,
        false => a,
    };
    let best = (0..points.len()).reduce(first).expect("a grid has points");
    let tied = |i: &usize| {
        let behind = ends[best].0.iter().zip(&ends[*i].0).map(|(a, b)| a - b);
        let behind = Sample(behind.collect());
        // With three seeds of which two are cut alike the mean is the error exactly, and rounding must not choose.
        *i == best || behind.mean() <= behind.error() * (1.0 + 1e-9)
    };
    let tied: Vec<usize> = (0..points.len()).filter(tied).collect();
    let least = tied.iter().map(|i| points[*i].learning_rate);
    let least = least.fold(f64::INFINITY, f64::min);
    let slowest = tied
        .into_iter()
        .filter(|i| points[*i].learning_rate == least);
    slowest.reduce(first).expect("the best is among them")
}

/// [`choose`] among the points that reached a level on as many seeds as any: a run that is cut says that its point is slower than the cut, not
/// that it arrived there, and one hard seed can make a standard error that hides it.
pub fn choose_arrived(points: &[Point], ends: &[Sample], reached: &[usize]) -> usize {
    let most = reached.iter().max().copied().unwrap_or_default();
    let able: Vec<usize> = (0..points.len()).filter(|i| reached[*i] == most).collect();
    let able_points: Vec<Point> = able.iter().map(|i| points[*i]).collect();
    let able_ends: Vec<Sample> = able.iter().map(|i| ends[*i].clone()).collect();
    able[choose(&able_points, &able_ends)]
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_rate_that_does_not_arrive_ties_with_none_that_does() {
        let points = [0.1, 0.3, 1.0].map(|learning_rate| Point {
            learning_rate,
            lambda: 1.0,
            critic_learning_rate: 1.0,
            clip: 0.2,
        });
        // The largest rate arrives after 20, 25 and 900 replies, the others are cut at twice its mean, 152: the hard seed makes a standard error
        // above what they are behind.
        let logs = |replies: [f64; 3]| Sample(replies.map(|r: f64| -r.ln()).to_vec());
        let ends = [
            logs([152.0; 3]),
            logs([152.0; 3]),
            logs([20.0, 25.0, 900.0]),
        ];
        assert_eq!(choose(&points, &ends), 0);
        assert_eq!(choose_arrived(&points, &ends, &[0, 0, 3]), 2);
        assert_eq!(choose_arrived(&points, &ends, &[0, 3, 3]), 1);
        // Two seeds cut alike: for any difference on the third the mean is the error, in rounding a little more or less.
        for third in [201.3, 215.44391, 323.2, 500.1, 777.7] {
            let ends = [
                logs([1200.0; 3]),
                logs([1200.0, 929.41333, 1200.0]),
                logs([1200.0, third, 1200.0]),
            ];
            assert_eq!(choose_arrived(&points, &ends, &[0, 1, 1]), 1, "{third}");
        }
        // Where none arrives, they are chosen among as before.
        assert_eq!(choose_arrived(&points, &ends, &[0, 0, 0]), 0);
    }

    #[test]
    fn ties_within_one_standard_error_go_to_the_smaller_rate() {
        let point = |learning_rate| Point {
            learning_rate,
            lambda: 1.0,
            critic_learning_rate: 1.0,
            clip: 0.2,
        };
        let points = [0.3, 0.3, 1.0, 3.0].map(point);
        let of = |means: [f64; 4], spread: f64| {
            // Paired differences of 0, ±spread: mean 0, standard error spread/√3.
            let seeds = |m: f64, s: f64| Sample(vec![m - s, m, m + s]);
            let ends: Vec<Sample> = means
                .iter()
                .enumerate()
                .map(|(i, m)| seeds(*m, if i == 2 { 0.0 } else { spread }))
                .collect();
            choose(&points, &ends)
        };
        // Clearly the best.
        assert_eq!(of([0.0, 0.1, 1.0, 0.5], 0.1), 2);
        // 0.1 behind with a standard error of 0.3/√3 = 0.17.
        assert_eq!(of([0.8, 0.9, 1.0, 0.5], 0.3), 1);
        // The same, but the error is 0.1/√3 = 0.058.
        assert_eq!(of([0.8, 0.9, 1.0, 0.5], 0.1), 2);
        // The best has the largest rate, and the one before is tied.
        assert_eq!(of([0.0, 0.0, 0.99, 1.0], 0.1), 2);
    }
}
