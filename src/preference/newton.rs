//! Damped Newton steps on functions of one number per response that do not see a constant added to a component.

use nalgebra::{Cholesky, DMatrix, DVector};

/// Value, gradient and Hessian at a point.
pub(super) struct Local {
    pub value: f64,
    pub gradient: DVector<f64>,
    pub hessian: DMatrix<f64>,
    /// The size of terms that cancel in the value: what its rounding is relative to, beside 1 and the value itself.
    pub cancelled: f64,
}

impl Local {
    pub fn zeros(n: usize) -> Self {
        Self {
            value: 0.0,
            gradient: DVector::zeros(n),
            hessian: DMatrix::zeros(n, n),
            cancelled: 0.0,
        }
    }

    /// What rounding is relative to.
    fn size(&self) -> f64 {
        1.0 + self.value.abs() + self.cancelled
    }

    /// Adds a function of x_i − x_j with this value, first and second derivative.
    pub fn add_difference(&mut self, (i, j): (usize, usize), value: f64, slope: f64, bend: f64) {
        self.value += value;
        self.gradient[i] += slope;
        self.gradient[j] -= slope;
        self.hessian[(i, i)] += bend;
        self.hessian[(j, j)] += bend;
        self.hessian[(i, j)] -= bend;
        self.hessian[(j, i)] -= bend;
    }
}

/// How good a minimiser is.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Certificate {
    /// The loss there.
    pub loss: f64,
    /// The largest entry of its gradient.
    pub grad_inf: f64,
    /// The smallest eigenvalue of the Hessian, constants on components left out.
    pub hessian_min: f64,
    /// ‖gradient‖ / smallest eigenvalue: the distance to the minimiser, up to the slow variation of the Hessian.
    pub error_bound: f64,
}

/// Where the steps ended.
pub(super) struct Minimum {
    pub x: DVector<f64>,
    pub certificate: Certificate,
    /// Whether the last decrement was at rounding.
    pub converged: bool,
}

/// The gradient that is rounding, relative to the loss.
const GRADIENT: f64 = 2e-14;
const MAX_STEPS: usize = 300;
/// The most that an exponent moves in a step at first; twice as much after a step that long which needed no shortening, as exponents
/// of a small beta have far to go.
const LONGEST_STEP: f64 = 12.0;
/// The squared Newton decrement, relative to the loss, at which one more full step ends the work: its error is of this order.
const DECREMENT: f64 = 1e-24;

/// Minimises from `x`. `component[k]` is the label of k's component; the mean of each stays where it was.
pub(super) fn minimise(
    fun: &dyn Fn(&DVector<f64>) -> Local,
    mut x: DVector<f64>,
    component: &[usize],
) -> Minimum {
    let mut at = fun(&x);
    let (mut converged, mut last, mut longest) = (false, false, LONGEST_STEP);
    for _ in 0..MAX_STEPS {
        let Some(step) = descent_step(&at, component) else {
            break;
        };
        let slope = at.gradient.dot(&step);
        // In a direction of little curvature the rounding of the gradient alone is more than the decrement asked for; the
        // certificate then says how far the minimiser may be.
        let rounding = at.gradient.amax() <= GRADIENT * at.size();
        converged = rounding || -slope <= DECREMENT * (1.0 + at.value.abs());
        if last || !slope.is_finite() {
            break;
        }
        last = converged;
        // Where masses are tiny the Hessian is nearly flat, and its step leaves the region that it describes.
        let cut = (longest / step.amax()).min(1.0);
        let mut scale = cut;
        let next = loop {
            let point = &x + &step * scale;
            let there = fun(&point);
            let rounding = 1e-15 * at.size();
            if there.value <= at.value + 1e-4 * scale * slope + rounding {
                break Some((point, there));
            }
            scale *= 0.5;
            if scale * step.amax() < 1e-14 * x.amax().max(1.0) {
                break None;
            }
        };
        let Some((point, there)) = next else {
            break;
        };
        if cut < 1.0 && scale == cut {
            longest *= 2.0;
        }
        (x, at) = (point, there);
    }
    let eigenvalues = (at.hessian.clone() + constants(component, mean_diagonal(&at.hessian)))
        .symmetric_eigenvalues();
    let hessian_min = eigenvalues.min();
    Minimum {
        certificate: Certificate {
            loss: at.value,
            grad_inf: at.gradient.amax(),
            hessian_min,
            error_bound: at.gradient.norm() / hessian_min,
        },
        x,
        converged,
    }
}

/// The local minimum that full Newton steps from `x` meet without leaving the region where the Hessian is positive definite;
/// `None` where they leave it: no minimum of the branch that `x` lies on is near.
pub(super) fn nearby_minimum(
    fun: &dyn Fn(&DVector<f64>) -> Local,
    mut x: DVector<f64>,
    component: &[usize],
) -> Option<Minimum> {
    let mut last = f64::INFINITY;
    for _ in 0..40 {
        let at = fun(&x);
        let full = &at.hessian + constants(component, mean_diagonal(&at.hessian));
        let step = Cholesky::new(full)?.solve(&-&at.gradient);
        let decrement = -at.gradient.dot(&step);
        if decrement <= DECREMENT * (1.0 + at.value.abs()) {
            return Some(minimise(fun, x + step, component));
        }
        // Inside the basin of Newton's method every decrement is smaller than the one before.
        if decrement >= last || !decrement.is_finite() {
            return None;
        }
        last = decrement;
        x += step;
    }
    None
}

/// The Newton step, with the Hessian shifted until it is positive definite where it is not.
fn descent_step(at: &Local, component: &[usize]) -> Option<DVector<f64>> {
    let scale = mean_diagonal(&at.hessian);
    let usable = scale > 0.0 && scale.is_finite() && at.gradient.iter().all(|g| g.is_finite());
    if !usable {
        return None;
    }
    let full = &at.hessian + constants(component, scale);
    let mut shift = 0.0;
    for _ in 0..60 {
        let mut shifted = full.clone();
        for k in 0..component.len() {
            shifted[(k, k)] += shift;
        }
        if let Some(factor) = Cholesky::new(shifted) {
            return Some(factor.solve(&-&at.gradient));
        }
        shift = if shift == 0.0 {
            1e-12 * scale
        } else {
            shift * 4.0
        };
    }
    None
}

fn mean_diagonal(matrix: &DMatrix<f64>) -> f64 {
    matrix.diagonal().abs().sum() / matrix.nrows() as f64
}

/// Σ over components of `scale` times the projection on its constants: what makes the Hessian invertible.
fn constants(component: &[usize], scale: f64) -> DMatrix<f64> {
    let n = component.len();
    let mut size = vec![0usize; n];
    component.iter().for_each(|&c| size[c] += 1);
    DMatrix::from_fn(n, n, |i, j| match component[i] == component[j] {
        true => scale / size[component[i]] as f64,
        false => 0.0,
    })
}
