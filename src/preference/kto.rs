//! KTO on the simplex: a concave water-filling, with a fixed point for its reference point.

use super::evaluation::kl;
use super::planner::{bounds, root};
use super::responses::Responses;
use crate::check;
use crate::mdp::Beta;
use crate::numerics::log_sum_exp;
use crate::{Error, Result};

/// KTO's minimiser for one reference point.
#[derive(Debug, Clone, PartialEq)]
pub struct KtoPlan {
    /// log π(y); −∞ wherever the net weight is not positive.
    pub log_policy: Vec<f64>,
    /// z₀.
    pub reference_point: f64,
    /// The spread of the log-slopes over the support, 0 at the exact optimum.
    pub slope_spread: f64,
}

/// (KTO, arXiv 2402.01306): argmin over the simplex of Σ a(y) (1 − σ(x)) + b(y) (1 − σ(−x)), x = β(log π/π_ref − z₀), for
/// a fixed z₀; `net` is c = a − b, the net weight of each response.
///
/// Up to a constant the loss is −Σ c σ(x), and σ(x) = g(π/κ) with κ = π_ref e^{z₀}, g(r) = r^β/(1 + r^β), is increasing and,
/// for β ≤ 1, concave in π. So the mass is 0 wherever c ≤ 0 (if some c > 0), and on the rest the slopes
/// c β r^{β−1}/(κ (1 + r^β)²) are equal. If no c is positive, π = π_ref by convention: nothing is to be gained.
///
/// # Errors
/// [`Error::Shape`]; [`Error::Config`] unless 0 < β ≤ 1: beyond, g is convex near 0.
pub fn kto_plan(responses: &Responses, net: &[f64], beta: Beta, z0: f64) -> Result<KtoPlan> {
    check::len("net", responses.len(), net.len())?;
    let b = beta.get();
    if !(b > 0.0 && b <= 1.0) {
        return Err(Error::config(
            "beta",
            b,
            "in (0, 1] for KTO: beyond, its loss is not convex in the policy",
        ));
    }
    let support: Vec<usize> = (0..net.len()).filter(|&y| net[y] > 0.0).collect();
    let mut log_policy = vec![f64::NEG_INFINITY; net.len()];
    let mut slope_spread = 0.0;
    match support[..] {
        [] => log_policy = responses.log_reference().to_vec(),
        [only] => log_policy[only] = 0.0,
        _ => {
            let kappa: Vec<f64> = support
                .iter()
                .map(|&y| responses.log_reference()[y] + z0)
                .collect();
            // log slope + log κ − log β at log r = x, decreasing in x.
            let height: Vec<f64> = support
                .iter()
                .zip(&kappa)
                .map(|(&y, k)| net[y].ln() - k)
                .collect();
            let masses = |level: f64| -> Vec<f64> {
                let mass = |(h, k): (&f64, &f64)| k + log_ratio_at(h - level, b);
                height.iter().zip(&kappa).map(mass).collect()
            };
            // At the level where every ratio is the same x, the mass is Σ κ e^x.
            let spread = bounds(&height);
            let even = -log_sum_exp(&kappa);
            let slope = |x: f64| (b - 1.0) * x - 2.0 * softplus(b * x);
            let (low, high) = (spread.0 + slope(even), spread.1 + slope(even));
            let level = -root(|minus| log_sum_exp(&masses(-minus)), -high, -low);
            let logs = masses(level);
            let total = log_sum_exp(&logs);
            let slopes: Vec<f64> = logs
                .iter()
                .zip(height.iter().zip(&kappa))
                .map(|(m, (h, k))| h + slope(m - total - k))
                .collect();
            let (least, most) = bounds(&slopes);
            slope_spread = most - least;
            for (&y, m) in support.iter().zip(&logs) {
                log_policy[y] = m - total;
            }
        }
    }
    Ok(KtoPlan {
        log_policy,
        reference_point: z0,
        slope_spread,
    })
}

fn softplus(x: f64) -> f64 {
    x.max(0.0) + (-x.abs()).exp().ln_1p()
}

/// The x with (1 − β) x + 2 log(1 + e^{βx}) = h.
fn log_ratio_at(h: f64, b: f64) -> f64 {
    let f = |x: f64| (1.0 - b) * x + 2.0 * softplus(b * x) - h;
    // The slope is between 1 − β and 1 + β; at x = h/(1 + β) − … a bracket is found by doubling.
    let mut x = if h > 2.0 * std::f64::consts::LN_2 {
        h / (1.0 + b)
    } else {
        (h - 2.0 * std::f64::consts::LN_2).max(-1e3)
    };
    let (mut low, mut high) = (f64::NEG_INFINITY, f64::INFINITY);
    for _ in 0..200 {
        let value = f(x);
        if value == 0.0 {
            return x;
        }
        if value < 0.0 {
            low = x
        } else {
            high = x
        }
        let s = crate::numerics::sigmoid(b * x);
        let step = value / (1.0 - b + 2.0 * b * s);
        let mut next = x - step;
        if !(next > low && next < high && next.is_finite()) {
            next = match (low.is_finite(), high.is_finite()) {
                (true, true) => 0.5 * (low + high),
                (true, false) => low + 2.0 * low.abs().max(1.0),
                _ => high - 2.0 * high.abs().max(1.0),
            };
        }
        if (next - x).abs() <= 1e-16 * x.abs().max(1e-3) {
            return next;
        }
        x = next;
    }
    x
}

/// KTO with its own reference point: z₀ = KL(π‖π_ref) of the minimiser for z₀, without gradient. Returns the plan at the
/// smallest root, and all roots met on a grid of \[0, max −log π_ref\].
///
/// A root exists, as the KL of the minimiser is between the ends of the grid; that it is unique is not proved.
///
/// # Errors
/// Those of [`kto_plan`].
pub fn kto_fixed_point(
    responses: &Responses,
    net: &[f64],
    beta: Beta,
) -> Result<(KtoPlan, Vec<f64>)> {
    let (mut plans, roots) = kto_shared_fixed_point(&[(1.0, responses, net)], beta)?;
    Ok((plans.remove(0), roots))
}

/// The same for several prompts, each with its probability ρ(x), its responses and their net weights: the reference point is
/// one number, z₀ = Σ ρ(x) KL(π(·|x)‖π_ref(·|x)), so that prompts are not independent of each other.
///
/// # Errors
/// Those of [`kto_plan`].
pub fn kto_shared_fixed_point(
    prompts: &[(f64, &Responses, &[f64])],
    beta: Beta,
) -> Result<(Vec<KtoPlan>, Vec<f64>)> {
    const CELLS: usize = 60;
    let plans = |z: f64| -> Result<Vec<KtoPlan>> {
        let plan =
            |(_, responses, net): &(f64, &Responses, &[f64])| kto_plan(responses, net, beta, z);
        prompts.iter().map(plan).collect()
    };
    let excess = |z: f64| -> Result<f64> {
        let all = plans(z)?;
        let mean = all
            .iter()
            .zip(prompts)
            .map(|(plan, (weight, responses, _))| {
                weight * kl(&plan.log_policy, responses.log_reference())
            });
        Ok(mean.sum::<f64>() - z)
    };
    let top = prompts
        .iter()
        .map(|(_, responses, _)| 1e-9 - bounds(responses.log_reference()).0);
    let top = top.fold(0.0, f64::max);
    let grid: Vec<f64> = (0..=CELLS).map(|k| top * k as f64 / CELLS as f64).collect();
    let values = grid
        .iter()
        .map(|&z| excess(z))
        .collect::<Result<Vec<_>>>()?;
    let mut roots = Vec::new();
    for k in 0..CELLS {
        let (a, b) = (values[k], values[k + 1]);
        if a == 0.0 {
            roots.push(grid[k]);
        } else if a * b < 0.0 {
            let sign = if a < 0.0 { 1.0 } else { -1.0 };
            // The plan was computed on the whole grid, so no β or shape can fail here.
            let f = |z: f64| sign * excess(z).unwrap_or(f64::NAN);
            roots.push(root(f, grid[k], grid[k + 1]));
        }
    }
    let z0 = roots.first().copied().unwrap_or(0.0);
    Ok((plans(z0)?, roots))
}
