//! (4.1) by Newton steps over the whole data, to the accuracy of floating point, whatever the units of the features,
//! the size of the ball, and whether the data separate.

use nalgebra::{DMatrix, DVector};

use super::bradley_terry::FitOptions;
use super::design::Design;
use super::graded::{Graded, Iterate, Split};
use super::kernels;
use super::row_space::{self, RowSpace};
use super::separation::explained;
use crate::{Error, Result};

/// Margins up to this leave every weight of the gradient far above rounding.
const PLAIN_MARGIN: f64 = 12.0;
/// The weight of a pair beyond this is less than rounding of one whose margin is 0: −log ε.
const LOST_MARGIN: f64 = 36.0;
/// Steps without the ball before asking whether the data separate.
const PATIENCE: usize = 40;
/// Further steps without the ball for data that overlap.
const FAR: usize = 400;
/// How far, relative to 1 and itself, a margin may be from that of the divided problem.
const SAME_MARGIN: f64 = 1e-8;
/// Margins in the first of the balls that double.
const FIRST_MARGIN: f64 = 4.0;

/// The maximiser, with its multiplier and what it took.
pub(super) struct Careful {
    pub theta: DVector<f64>,
    pub at_bound: bool,
    pub multiplier: f64,
    pub residual: f64,
    pub passes: usize,
}

/// Coordinates in the row space of X, in which the maximiser of least norm lies.
struct Coordinates {
    /// `[d, k]`.
    basis: DMatrix<f64>,
    whole: bool,
}

impl Coordinates {
    fn of(design: &Design, penalty: f64) -> Result<Self> {
        let d = design.dim();
        let basis = if penalty > 0.0 {
            DMatrix::identity(d, d)
        } else {
            RowSpace::of(design)?.basis().clone()
        };
        let whole = basis.ncols() == d;
        Ok(Self { basis, whole })
    }

    fn rows(&self, rows: &[f64]) -> Vec<f64> {
        if self.whole {
            rows.to_vec()
        } else {
            times(rows, &self.basis)
        }
    }

    fn theta(&self, y: &DVector<f64>) -> DVector<f64> {
        if self.whole {
            y.clone()
        } else {
            &self.basis * y
        }
    }

    fn y(&self, theta: &DVector<f64>) -> DVector<f64> {
        if self.whole {
            theta.clone()
        } else {
            self.basis.tr_mul(theta)
        }
    }
}

/// X·V row by row.
fn times(rows: &[f64], v: &DMatrix<f64>) -> Vec<f64> {
    let (d, k) = v.shape();
    if k == 0 {
        return Vec::new();
    }
    let mut out = vec![0.0; rows.len() / d * k];
    for (x, o) in rows.chunks_exact(d).zip(out.chunks_exact_mut(k)) {
        for (j, o) in o.iter_mut().enumerate() {
            *o = v.column(j).iter().zip(x).map(|(v, x)| v * x).sum();
        }
    }
    out
}

/// Solves (4.1) from `start`.
pub(super) fn solve(
    design: &Design,
    options: &FitOptions,
    start: &DVector<f64>,
) -> Result<Careful> {
    let coordinates = Coordinates::of(design, options.penalty)?;
    let k = coordinates.basis.ncols();
    if k == 0 {
        return Ok(Careful {
            theta: DVector::zeros(design.dim()),
            at_bound: false,
            multiplier: 0.0,
            residual: 0.0,
            passes: 1,
        });
    }
    let plain = Split {
        overlap: coordinates.rows(design.rows()),
        overlap_dim: k,
        strict: Vec::new(),
        dim: k,
    };
    let graded = |split| Graded {
        split,
        penalty: options.penalty,
    };
    let bound = options.param_bound;
    let longest = lengths(&plain.overlap, k).fold(0.0, f64::max);
    let start = coordinates.y(start);
    // Rounding of the coordinates' basis may leave the ball by as much.
    let finish = |at: Iterate, theta: DVector<f64>| Careful {
        theta: clipped(&theta, bound),
        at_bound: at.at_bound,
        multiplier: at.multiplier,
        residual: at.residual,
        passes: at.passes,
    };
    let inside = |at: Iterate| {
        let theta = coordinates.theta(&at.y);
        finish(at, theta)
    };
    // A small ball: nothing can go out of range.
    if bound * longest <= PLAIN_MARGIN {
        let at =
            graded(&plain).minimise(clipped(&start, bound), bound, bound, options.max_passes)?;
        return converged(at, options).map(inside);
    }
    let first = FIRST_MARGIN / longest;
    // Without the ball: ends where the data overlap, and the maximiser is then the one inside a ball that holds it.
    let patience = if options.penalty > 0.0 {
        options.max_passes
    } else {
        PATIENCE.min(options.max_passes)
    };
    let infinite = f64::INFINITY;
    let mut free = graded(&plain).minimise(start, infinite, infinite, patience)?;
    let (mut strict, mut apparent) = (vec![false; design.n()], vec![false; design.n()]);
    // Weights of margins beyond this may be lost beside others, and a step that ought to be large with them.
    let doubtful = !free.converged || free.largest_margin > 1.5 * PLAIN_MARGIN;
    if doubtful && options.penalty == 0.0 {
        // From 0 as well, as far out the weights that start the search are 0 in floating point. Where rounding leaves
        // it undecided, all pairs are treated alike.
        let theta = coordinates.theta(&free.y);
        let origin = DVector::zeros(theta.len());
        for from in [theta, origin] {
            if let Ok(found) = explained(design, from.as_slice())
                && found.contains(&true)
            {
                strict = outside_span(design, found.clone());
                apparent = found;
                break;
            }
        }
        if !strict.contains(&true) && !free.converged {
            // Overlapping after all, only far out.
            let used = free.passes;
            free =
                graded(&plain).minimise(free.y, infinite, infinite, FAR.min(options.max_passes))?;
            free.passes += used;
        }
    }
    let separates = strict.contains(&true);
    if separates && bound.is_infinite() {
        return Err(unbounded(&strict));
    }
    // Without a ball, where no step arrives, what separates but for numbers that count as 0 is refused as separable.
    if !free.converged && apparent.contains(&true) && bound.is_infinite() {
        return Err(unbounded(&apparent));
    }
    if !separates && (bound.is_infinite() || free.converged && free.y.norm() <= bound) {
        return converged(free, options).map(inside);
    }
    // Where the separated pairs have no direction to themselves, up to rounding, all are treated alike.
    let divided = |strict: &[bool]| -> Result<Option<(Iterate, DVector<f64>)>> {
        if !strict.contains(&true) {
            return Ok(None);
        }
        let (split, basis) = split(design, strict)?;
        if split.dim == split.overlap_dim || split.dim != k {
            return Ok(None);
        }
        let zero = DVector::zeros(split.dim);
        let penalty = options.penalty;
        let graded = Graded {
            split: &split,
            penalty,
        };
        let at = graded.minimise(zero, first, bound, options.max_passes);
        let Ok(mut at) = at.and_then(|at| converged(at, options)) else {
            return Ok(None);
        };
        at.passes += free.passes;
        let theta = basis * &at.y;
        // Otherwise the division was one of rounding.
        let same = same_margins(design, strict, &split, &at.y, &theta);
        Ok(same.then_some((at, theta)))
    };
    if let Some((at, theta)) = divided(&strict)? {
        return Ok(finish(at, theta));
    }
    let mut at = graded(&plain).minimise(DVector::zeros(k), first, bound, options.max_passes)?;
    at.passes += free.passes;
    if !at.converged {
        // Pairs that overlap only far out of the ball are in it as good as separated: those whose weights are lost
        // beside the others' are divided from them.
        if let Some((at, theta)) = divided(&lost(design, &coordinates.theta(&at.y)))? {
            return Ok(finish(at, theta));
        }
    }
    let mut at = converged(at, options)?;
    // Separated pairs push outwards for as long as anything is left of them: a point inside the ball at which rounding
    // has lost their weights is not the maximiser, unless the pairs whose weights are left see every direction.
    if separates && !at.at_bound {
        let lost = lost(design, &coordinates.theta(&at.y));
        let left = (0..design.n()).filter(|&i| !(strict[i] && lost[i]));
        let rows: Vec<f64> = left.flat_map(|i| design.row(i)).copied().collect();
        at.converged &= row_space::basis(&rows, design.dim(), design.rounding()).ncols() == k;
    }
    converged(at, options).map(inside)
}

/// Whether the weight of each pair is lost beside that of one whose margin is 0, `[n]`.
fn lost(design: &Design, theta: &DVector<f64>) -> Vec<bool> {
    let margins = kernels::margins(design.rows(), design.dim(), theta.as_slice());
    margins.into_iter().map(|z| z > LOST_MARGIN).collect()
}

/// `strict` without the pairs in the span of those that it leaves out. A direction that explains some pairs and
/// contradicts none is orthogonal to the pairs that none explains, and so to all that they span; the search for it takes
/// small numbers for 0.
fn outside_span(design: &Design, mut strict: Vec<bool>) -> Vec<bool> {
    loop {
        let rest = (0..design.n()).filter(|&i| !strict[i]);
        let rows: Vec<f64> = rest.flat_map(|i| design.row(i)).copied().collect();
        let span = row_space::ScaledSpan::of(&rows, design.dim(), design.rounding());
        let inside: Vec<usize> = (0..design.n())
            .filter(|&i| strict[i] && span.holds(design.row(i)))
            .collect();
        if inside.is_empty() {
            return strict;
        }
        inside.into_iter().for_each(|i| strict[i] = false);
    }
}

fn lengths(rows: &[f64], k: usize) -> impl Iterator<Item = f64> + '_ {
    rows.chunks_exact(k)
        .map(|x| x.iter().map(|x| x * x).sum::<f64>().sqrt())
}

fn clipped(y: &DVector<f64>, bound: f64) -> DVector<f64> {
    let norm = y.norm();
    if norm <= bound {
        y.clone()
    } else {
        y * (bound / norm)
    }
}

fn converged(at: Iterate, options: &FitOptions) -> Result<Iterate> {
    if at.converged {
        return Ok(at);
    }
    Err(Error::NotConverged {
        what: "Bradley-Terry estimate (4.1)".into(),
        iterations: at.passes.min(options.max_passes),
        residual: at.residual,
    })
}

/// Why (4.1) has no finite maximiser without the ball.
pub(super) fn unbounded(strict: &[bool]) -> Error {
    let explained = strict.iter().filter(|s| **s).count();
    let why = if explained == strict.len() {
        format!(
            "the data are separable: every one of the {explained} pairs is explained by one direction"
        )
    } else {
        format!(
            "the data are quasi-separable: one direction explains {explained} of the {} pairs and contradicts none",
            strict.len()
        )
    };
    Error::Assumption {
        assumption: "a finite maximiser of (4.1) without the ball".into(),
        why,
    }
}

/// Whether the margins of the divided problem are those of the estimate, to what rounding explains: what was solved is
/// then (4.1), and not something near it.
fn same_margins(
    design: &Design,
    strict: &[bool],
    split: &Split,
    y: &DVector<f64>,
    theta: &DVector<f64>,
) -> bool {
    let rows = |of: bool| (0..design.n()).filter(move |&i| strict[i] == of);
    let (ka, k) = (split.overlap_dim, split.dim);
    let same = |i: usize, x: &[f64]| {
        let divided: f64 = x.iter().zip(y.iter()).map(|(x, y)| x * y).sum();
        let terms = || design.row(i).iter().zip(theta.iter()).map(|(x, t)| x * t);
        let size = terms().map(f64::abs).sum::<f64>();
        (divided - terms().sum::<f64>()).abs() <= SAME_MARGIN * (1.0 + divided.abs()) + 1e-13 * size
    };
    let overlap = ka == 0
        || rows(false)
            .zip(split.overlap.chunks_exact(ka))
            .all(|(i, x)| same(i, x));
    overlap
        && rows(true)
            .zip(split.strict.chunks_exact(k))
            .all(|(i, x)| same(i, x))
}

/// Columns orthonormal among each other and to those of `a`. What `a` leaves of a row may be a small difference of large
/// numbers; the margins of O move with all of ‖b‖ that is not orthogonal to it.
fn orthogonal_to(a: &DMatrix<f64>, mut b: DMatrix<f64>) -> DMatrix<f64> {
    for j in 0..b.ncols() {
        let mut column = b.column(j).into_owned();
        for _ in 0..2 {
            for other in a.column_iter().chain(b.columns(0, j).column_iter()) {
                column -= other * other.dot(&column);
            }
            column.normalize_mut();
        }
        b.set_column(j, &column);
    }
    b
}

/// X in the coordinates of [`Split`], and their basis `[d, k]`.
fn split(design: &Design, strict: &[bool]) -> Result<(Split, DMatrix<f64>)> {
    let d = design.dim();
    let of = |wanted: bool| -> Vec<f64> {
        let rows = (0..design.n()).filter(|&i| strict[i] == wanted);
        rows.flat_map(|i| design.row(i)).copied().collect()
    };
    let (overlap, separated) = (of(false), of(true));
    let a = row_space::basis(&overlap, d, design.rounding());
    // What the span of O leaves of the other rows. A column of it that is all rounding would be as good as any other
    // once columns are scaled, so entries no larger than rounding of their column are 0.
    let mut rest = separated.clone();
    let mut lost = vec![0.0f64; d];
    let inside = times(&separated, &a);
    for (x, c) in rest
        .chunks_exact_mut(d)
        .zip(inside.chunks_exact(a.ncols().max(1)))
    {
        for (i, x) in x.iter_mut().enumerate() {
            let terms = || c.iter().enumerate().map(|(j, c)| c * a[(i, j)]);
            let size = x.abs() + terms().map(f64::abs).sum::<f64>();
            lost[i] = lost[i].max(64.0 * f64::EPSILON * size);
            *x -= terms().sum::<f64>();
        }
    }
    for x in rest.chunks_exact_mut(d) {
        for (x, lost) in x.iter_mut().zip(&lost) {
            if x.abs() <= *lost {
                *x = 0.0;
            }
        }
    }
    let b = orthogonal_to(&a, row_space::basis(&rest, d, &lost));
    let (ka, kb) = (a.ncols(), b.ncols());
    let basis = DMatrix::from_fn(
        d,
        ka + kb,
        |i, j| if j < ka { a[(i, j)] } else { b[(i, j - ka)] },
    );
    Ok((
        Split {
            overlap: times(&overlap, &a),
            overlap_dim: ka,
            strict: times(&separated, &basis),
            dim: ka + kb,
        },
        basis,
    ))
}
