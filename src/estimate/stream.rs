//! θ_MLE of (4.1) from rows that are read a stretch at a time, for data larger than the memory.

use std::sync::mpsc::sync_channel;

use nalgebra::DVector;
use rayon::prelude::*;

use super::bradley_terry::{BtFit, FitOptions, Readings, Solver, fit_bradley_terry};
use super::design::Design;
use super::kernels::{self, Pass, Weights};
use crate::numerics::CompensatedSum;
use crate::{Error, Result};

/// Entries of X that one partial sum is taken over, and the least rows.
const RUN_ENTRIES: usize = 1 << 17;
const RUN_ROWS: usize = 64;
/// Data of at most this many entries are read into memory (64 MiB).
const FEW: usize = 1 << 23;
/// Entries of the subset of a warm start, unless that is more than half of the data …
const SUBSET: usize = 1 << 24;
/// … and the least pairs per parameter in it.
const PER_PARAMETER: usize = 8;
/// Rows read together into the subset.
const STRIDE_ROWS: usize = 64;
/// Columns at most: the Hessian and the subset are in memory.
const WIDEST: usize = 2048;
/// Columns at most of data that are read into memory, for matrices `[d, d]` (128 MiB each).
const WIDEST_IN_MEMORY: usize = 4096;

/// Rows x_i = ψ(τ^w_i) − ψ(τ^l_i), `[n, d]`, that are somewhere else.
pub trait RowSource: Send {
    /// n.
    fn n(&self) -> usize;

    /// d.
    fn dim(&self) -> usize;

    /// Writes the rows from `first` on into `out`, as many as have room, `[rows, d]`.
    ///
    /// # Errors
    /// Of the caller's own; it ends the fit ([`Error::Stopped`] holds any kind).
    fn read(&mut self, first: usize, out: &mut [f64]) -> Result<()>;
}

/// [`fit_bradley_terry`] of rows that are read again and again, `stretch` bytes at a time; one thread reads ahead while the others work.
///
/// Up to 64 MiB of rows are read into memory and fitted there. Of more, a subset is fitted in memory, and its scaled Hessian and BFGS
/// updates take it from there: about six readings. The stopping rule is the same. Partial sums are taken over runs of rows that depend on
/// d alone: neither `stretch` nor the number of threads changes a bit of the result. Memory: three stretches, the subset (128 MiB, at
/// d > 2^10 up to 256) and a few matrices `[d, d]`.
///
/// # Errors
/// As [`fit_bradley_terry`] and those of the source; [`Error::Config`] for d above 4096, or above 2048 where there are more than 2²³ numbers;
/// [`Error::NonFinite`] naming row and column; [`Error::Assumption`] where such data are rank-deficient or nearly so, or nearly separate,
/// and no penalty or ball decides.
pub fn fit_stream(
    source: &mut impl RowSource,
    options: &FitOptions,
    stretch: usize,
) -> Result<BtFit> {
    options.check()?;
    let (n, d) = (source.n(), source.dim());
    if d == 0 {
        return Err(Error::config("feature dimension", 0, "at least 1"));
    }
    if d > WIDEST_IN_MEMORY {
        let must = format!("at most {WIDEST_IN_MEMORY}; sparse rows may have more");
        return Err(Error::config("feature dimension", d, must));
    }
    if n.saturating_mul(d) <= FEW {
        let mut rows = vec![0.0; n * d];
        source.read(0, &mut rows)?;
        finite(0, d, &rows)?;
        return fit_bradley_terry(&Design::try_new(d, rows)?, options);
    }
    if d > WIDEST {
        let must =
            format!("at most {WIDEST} for more than {FEW} numbers, which are read in stretches");
        return Err(Error::config("feature dimension", d, must));
    }
    let data = Stream {
        source,
        stretch: (stretch / 8 / d / run_rows(d)).max(1) * run_rows(d),
    };
    let mut solver = Solver::new(data, options);
    let point = solver.run(DVector::zeros(d))?;
    if options.penalty == 0.0 && point.multiplier == 0.0 && !solver.trusted() {
        return Err(Error::Assumption {
            assumption: "a maximiser of (4.1) that the pairs determine well".into(),
            why: "the columns are linearly dependent, or nearly so, or the pairs nearly separate; drop columns, or give a penalty \
                  or a smaller ball"
                .into(),
        });
    }
    Ok(BtFit {
        norm: point.theta.norm(),
        log_likelihood: -point.pass.loss,
        at_bound: point.multiplier > 0.0,
        multiplier: point.multiplier,
        separable: point.pass.min_margin > 0.0,
        residual: point.residual,
        passes: solver.passes,
        theta: point.theta.as_slice().to_vec(),
    })
}

/// Rows of a partial sum.
fn run_rows(d: usize) -> usize {
    (RUN_ENTRIES / d)
        .next_multiple_of(RUN_ROWS)
        .clamp(RUN_ROWS, 1 << 14)
}

/// Names the first entry that is not finite.
fn finite(first: usize, d: usize, rows: &[f64]) -> Result<()> {
    match rows.iter().position(|x| !x.is_finite()) {
        None => Ok(()),
        Some(i) => Err(Error::NonFinite {
            what: format!("row {} column {}", first + i / d, i % d),
            value: rows[i],
        }),
    }
}

struct Stream<'a, S> {
    source: &'a mut S,
    /// Rows of a stretch, a whole number of runs.
    stretch: usize,
}

impl<S: RowSource> Stream<'_, S> {
    /// Calls `work` with the first row of every stretch and its rows, in order; the next stretch is read meanwhile.
    fn each(&mut self, mut work: impl FnMut(usize, &[f64]) -> Result<()>) -> Result<()> {
        let (n, d, stretch) = (self.source.n(), self.source.dim(), self.stretch);
        let source = &mut *self.source;
        std::thread::scope(|scope| {
            let (full, filled) = sync_channel::<Result<(usize, Vec<f64>)>>(1);
            let (spent, empty) = sync_channel::<Vec<f64>>(3);
            for _ in 0..3 {
                spent.send(Vec::new()).expect("there is room for three");
            }
            scope.spawn(move || {
                for first in (0..n).step_by(stretch) {
                    // The other side is gone once it has met an error.
                    let Ok(mut rows) = empty.recv() else { return };
                    rows.resize(stretch.min(n - first) * d, 0.0);
                    let read = source.read(first, &mut rows).map(|()| (first, rows));
                    let failed = read.is_err();
                    if full.send(read).is_err() || failed {
                        return;
                    }
                }
            });
            for stretch in filled {
                let (first, rows) = stretch?;
                work(first, &rows)?;
                // Nobody waits for it after the last.
                spent.send(rows).ok();
            }
            Ok(())
        })
    }
}

impl<S: RowSource> Readings for Stream<'_, S> {
    fn n(&self) -> usize {
        self.source.n()
    }

    fn dim(&self) -> usize {
        self.source.dim()
    }

    fn pass(&mut self, theta: &[f64]) -> Result<Pass> {
        let d = theta.len();
        let mut loss = CompensatedSum::default();
        let mut out = Pass {
            loss: 0.0,
            gradient: vec![0.0; d],
            min_margin: f64::INFINITY,
        };
        self.each(|first, rows| {
            let runs = rows.par_chunks(run_rows(d) * d);
            let runs: Vec<Pass> = runs.map(|rows| kernels::pass(rows, d, theta)).collect();
            for run in runs {
                // Whatever is not finite in a row is not in the sums.
                let sums = || run.gradient.iter().chain([&run.loss]);
                if !sums().all(|s| s.is_finite()) {
                    finite(first, d, rows)?;
                }
                loss.add(run.loss);
                out.min_margin = out.min_margin.min(run.min_margin);
                let sums = out.gradient.iter_mut().zip(&run.gradient);
                sums.for_each(|(g, r)| *g += r);
            }
            Ok(())
        })?;
        out.loss = loss.value();
        Ok(out)
    }

    fn information(&mut self, theta: &[f64]) -> Result<Vec<f64>> {
        let d = theta.len();
        let mut out = vec![0.0; d * d];
        self.each(|_, rows| {
            for rows in rows.chunks(run_rows(d) * d) {
                let run = kernels::gram(rows, d, Weights::Slope(theta));
                out.iter_mut().zip(&run).for_each(|(o, r)| *o += r);
            }
            Ok(())
        })?;
        Ok(out)
    }

    fn mean_squares(&mut self) -> Result<Vec<f64>> {
        unreachable!("data that are read in stretches have a subset")
    }

    fn subset(&mut self) -> Result<Option<Vec<f64>>> {
        let (n, d) = (self.n(), self.dim());
        let count = (SUBSET / d).max(PER_PARAMETER * d).min(n / 2);
        let step = (n / count).max(1) * STRIDE_ROWS;
        let mut out = Vec::with_capacity((count + 2 * STRIDE_ROWS) * d);
        for first in (0..n).step_by(step) {
            let start = out.len();
            out.resize(start + STRIDE_ROWS.min(n - first) * d, 0.0);
            self.source.read(first, &mut out[start..])?;
            finite(first, d, &out[start..])?;
        }
        Ok(Some(out))
    }
}
