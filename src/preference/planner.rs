//! The planners: from one number per response to a policy.

use super::evaluation::normalise;
use super::responses::{Child, Responses};
use crate::Result;
use crate::check;
use crate::mdp::Beta;
use crate::numerics::log_sum_exp;

/// log π of π ∝ π_ref e^f: soft planning with f = R/β, DPO's policy of a fitted reward, IPO's of its least squares.
///
/// # Errors
/// [`crate::Error::Shape`].
pub fn tilt(responses: &Responses, f: &[f64]) -> Result<Vec<f64>> {
    check::len("exponent", responses.len(), f.len())?;
    let reference = responses.log_reference();
    Ok(normalise(
        reference.iter().zip(f).map(|(u, f)| u + f).collect(),
    ))
}

/// Wright's ω function: the root w > 0 of w + log w = x.
pub fn wright_omega(x: f64) -> f64 {
    if x < -50.0 {
        return x.exp(); // ω = e^{x − ω}, and ω is below 2e-22
    }
    let mut w = if x < -1.0 {
        let e = x.exp();
        e * (1.0 - e)
    } else if x < 1.5 {
        0.567_143_290_409_783_8 + 0.361_896_256_634_889_2 * x + 0.073_677_803_870_283_05 * x * x
    } else {
        x - x.ln() + x.ln() / x
    };
    // Newton's steps in log w keep the root positive.
    for _ in 0..8 {
        let residual = w + w.ln() - x;
        let step = residual / (1.0 + w);
        w *= (-step).exp();
        if step.abs() < 1e-16 {
            break;
        }
    }
    w
}

/// log ω(x), exact where ω underflows.
fn log_wright_omega(x: f64) -> f64 {
    if x < -50.0 {
        x - x.exp()
    } else {
        wright_omega(x).ln()
    }
}

/// (χPO, arXiv 2407.13399): argmax of E R − β(½ χ² + KL), χ² = Σ π_ref (z − 1)²; z = π/π_ref solves z + log z = (R + c)/β,
/// so π = π_ref ω((R + c)/β), and c makes it sum to 1. Returns log π and c.
///
/// Unlike DPO's normaliser, c cannot be dropped: it is the multiplier of normalisation.
///
/// # Errors
/// [`crate::Error::Shape`].
pub fn chi_plan(responses: &Responses, scores: &[f64], beta: Beta) -> Result<(Vec<f64>, f64)> {
    check::len("scores", responses.len(), scores.len())?;
    let b = beta.get();
    let reference = responses.log_reference();
    let logs = |c: f64| -> Vec<f64> {
        let ratio = |r: f64| log_wright_omega(r / b + c);
        scores
            .iter()
            .zip(reference)
            .map(|(r, u)| u + ratio(*r))
            .collect()
    };
    // In units of β. The mass is 1 between z = 1 for the best and z = 1 for the worst response, ω(1) = 1.
    let (low, high) = bounds(scores);
    let c = root(|c| log_sum_exp(&logs(c)), 1.0 - high / b, 1.0 - low / b);
    Ok((normalise(logs(c)), c * b))
}

/// π = exp(base + |y|(v + c)), with c so that it sums to 1: the policies of losses that divide by lengths. Returns log π and c.
///
/// # Errors
/// [`crate::Error::Shape`].
pub fn length_map(responses: &Responses, v: &[f64], base: &[f64]) -> Result<(Vec<f64>, f64)> {
    check::len("scores", responses.len(), v.len())?;
    check::len("base", responses.len(), base.len())?;
    let lengths = responses.lengths();
    let logs = |c: f64| -> Vec<f64> {
        let value = |k: usize| base[k] + lengths[k] * (v[k] + c);
        (0..v.len()).map(value).collect()
    };
    // Every length is at least 1, so the log of the mass grows at least as fast as c.
    let at = log_sum_exp(&logs(0.0));
    let c = root(|c| log_sum_exp(&logs(c)), (-at).min(0.0), (-at).max(0.0));
    Ok((normalise(logs(c)), c))
}

/// (TDPO, arXiv 2404.11999): The optimum of TDPO with weight α of the forward-KL term and full gradients, backward from the
/// last token: π(a|s) ∝ π_ref(a|s) e^{Q/β}, V(s) = (1 − α) β log E_ref e^{Q/β} + α E_ref Q, Q = the score at the end of a
/// response and V(s′) before. α = 0 is DPO; α = 1, TDPO-1, is one step of policy improvement on π_ref. Returns log π.
///
/// # Errors
/// [`crate::Error::Shape`].
pub fn tdpo_plan(
    responses: &Responses,
    scores: &[f64],
    alpha: f64,
    beta: Beta,
) -> Result<Vec<f64>> {
    check::len("scores", responses.len(), scores.len())?;
    let (b, a) = (beta.get(), responses.n_actions());
    let reference = responses.reference_rows();
    let states = responses.prefixes().len();
    let (mut value, mut rows) = (vec![0.0; states], vec![0.0; states * a]);
    for s in (0..states).rev() {
        let q: Vec<f64> = (0..a)
            .map(|k| match responses.child(s, k) {
                Child::Prefix(next) => value[next],
                Child::Response(y) => scores[y],
            })
            .collect();
        let prior = &reference[s * a..(s + 1) * a];
        let weights: Vec<f64> = prior.iter().zip(&q).map(|(u, q)| u + q / b).collect();
        let log_z = log_sum_exp(&weights);
        for (row, w) in rows[s * a..].iter_mut().zip(&weights) {
            *row = w - log_z;
        }
        let mean: f64 = prior.iter().zip(&q).map(|(u, q)| u.exp() * q).sum();
        value[s] = (1.0 - alpha) * b * log_z + alpha * mean;
    }
    Ok(responses.response_log_probs(&rows))
}

/// The smallest and the largest entry.
pub(super) fn bounds(values: &[f64]) -> (f64, f64) {
    values
        .iter()
        .fold((f64::INFINITY, f64::NEG_INFINITY), |(l, h), &v| {
            (l.min(v), h.max(v))
        })
}

/// The root of an increasing function in [low, high], to the last bit that bisection can see; the nearer end where the
/// signs agree by rounding.
pub(super) fn root(f: impl Fn(f64) -> f64, mut low: f64, mut high: f64) -> f64 {
    let (mut f_low, mut f_high) = (f(low), f(high));
    if f_low >= 0.0 {
        return low;
    }
    if f_high <= 0.0 {
        return high;
    }
    // Illinois' rule: secants, with the weight of an end halved that stays twice.
    let mut side = 0;
    for round in 0..400 {
        let secant = (low * f_high - high * f_low) / (f_high - f_low);
        let inside = secant > low && secant < high;
        let x = if inside && round % 8 != 7 {
            secant
        } else {
            0.5 * (low + high)
        };
        if x <= low || x >= high {
            break;
        }
        let value = f(x);
        if value == 0.0 {
            return x;
        }
        if value < 0.0 {
            (low, f_low) = (x, value);
            if side == -1 {
                f_high *= 0.5;
            }
            side = -1;
        } else {
            (high, f_high) = (x, value);
            if side == 1 {
                f_low *= 0.5;
            }
            side = 1;
        }
    }
    0.5 * (low + high)
}
