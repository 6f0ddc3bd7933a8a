//! D = ∂E\[g\]/∂θ by dual numbers, and what it says: is the field a gradient?

use super::field::{UnitTable, field};
use super::prepared::Prepared;
use super::problem::Problem;
use super::recipe::Recipe;
use super::variance::pull_back;
use crate::Result;
use crate::dual::{Dual, Real};

/// D[i][j] = ∂E\[g\]_i/∂θ_j, `[P][P]` row by row, where behaviour, advantages and critic move with θ unless `old` fixes them. With features
/// Φ, `[P][d]`, it is Φᵀ D Φ, `[d][d]`.
pub(super) fn jacobian(
    problem: &Problem,
    recipe: &Recipe,
    theta: &[f64],
    old: Option<&[f64]>,
    features: Option<(&[f64], usize)>,
    table: Option<&UnitTable>,
) -> Result<Vec<f64>> {
    let at = Point {
        problem,
        recipe,
        theta,
        old,
        table,
    };
    let n = theta.len();
    let Some((phi, d)) = features else {
        // A softmax does not see what is added to all logits of a state, so that the columns of a state sum to 0: the last is not computed.
        let a = problem.tree().n_actions();
        let computed: Vec<usize> = (0..n).filter(|j| j % a + 1 < a).collect();
        let mut out = vec![0.0; n * n];
        at.columns(
            &computed,
            |i, j| f64::from(u8::from(i == j)),
            |j, column| {
                for (i, v) in column.enumerate() {
                    out[i * n + j] = v;
                    out[i * n + j / a * a + a - 1] -= v;
                }
            },
        )?;
        return Ok(out);
    };
    let mut out = vec![0.0; d * d];
    let all: Vec<usize> = (0..d).collect();
    at.columns(
        &all,
        |i, j| phi[i * d + j],
        |j, column| {
            let column: Vec<f64> = column.collect();
            for (i, v) in pull_back(phi, d, &column).iter().enumerate() {
                out[i * d + j] = *v;
            }
        },
    )?;
    Ok(out)
}

/// Where a field is differentiated.
struct Point<'a> {
    problem: &'a Problem,
    recipe: &'a Recipe,
    theta: &'a [f64],
    old: Option<&'a [f64]>,
    table: Option<&'a UnitTable>,
}

impl Point<'_> {
    /// The derivatives along directions j, where θ_i moves by `tangent(i, j)`: eight in one pass, or what is left by fours.
    fn columns(
        &self,
        directions: &[usize],
        tangent: impl Fn(usize, usize) -> f64,
        mut each: impl FnMut(usize, &mut dyn Iterator<Item = f64>),
    ) -> Result<()> {
        for pass in directions.chunks(8) {
            match pass.len() {
                0..=4 => self.pass::<4>(pass, &tangent, &mut each)?,
                _ => self.pass::<8>(pass, &tangent, &mut each)?,
            }
        }
        Ok(())
    }

    fn pass<const L: usize>(
        &self,
        directions: &[usize],
        tangent: &impl Fn(usize, usize) -> f64,
        each: &mut impl FnMut(usize, &mut dyn Iterator<Item = f64>),
    ) -> Result<()> {
        let lift = |(i, v): (usize, &f64)| {
            let along = |k| directions.get(k).map_or(0.0, |j| tangent(i, *j));
            Dual::<L>::new(*v, std::array::from_fn(along))
        };
        let theta: Vec<Dual<L>> = self.theta.iter().enumerate().map(lift).collect();
        let prepared = Prepared::new(self.problem, self.recipe, &theta, self.old)?;
        let g = match self.table {
            Some(table) => table.field(&prepared),
            None => field(&prepared, &mut ()),
        };
        for (k, j) in directions.iter().enumerate() {
            each(*j, &mut g.iter().map(|v| v.derivative(k)));
        }
        Ok(())
    }
}

/// |D − Dᵀ|_F/2: zero on all of ℝ^P iff the field is the gradient of some function.
pub(super) fn curl(d: &[f64], n: usize) -> f64 {
    let mut square = 0.0;
    for i in 0..n {
        for j in 0..i {
            let gap = d[i * n + j] - d[j * n + i];
            square += 2.0 * gap * gap;
        }
    }
    square.sqrt() / 2.0
}

/// |x|₂.
pub(super) fn norm(x: &[f64]) -> f64 {
    x.iter().map(|v| v * v).sum::<f64>().sqrt()
}

/// The largest |x|, NaN if one is.
pub(super) fn largest<T: Real>(x: &[T]) -> f64 {
    x.iter().fold(0.0, |m: f64, v| {
        let v = v.value().abs();
        if v.is_nan() { f64::NAN } else { m.max(v) }
    })
}
