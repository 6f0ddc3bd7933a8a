//! Best-of-N, exactly, and its soft form.

use super::evaluation::normalise;
use super::planner::bounds;
use crate::check;
use crate::{Error, Result};

/// Scores nearer than this share of their range are ties.
const TIE: f64 = 1e-12;

/// The law of best-of-N.
#[derive(Debug, Clone, PartialEq)]
pub struct BestOfN {
    /// log π(y).
    pub log_policy: Vec<f64>,
    /// The probability of beating one draw of the reference, ties counted half; at most N/(N + 1).
    pub win_rate: f64,
    /// log N − (N − 1)/N, which KL(π‖π_ref) never exceeds (Beirami et al., arXiv 2401.01879).
    pub kl_bound: f64,
}

/// The best of N draws of the reference by `scores`, ties broken by the draw: with tie classes k of mass p_k and distribution
/// function F_k, q_k = F_k^N − F_{k−1}^N, shared inside a class as the reference shares it. N may be any real ≥ 1; responses that
/// the reference never draws (log π_ref = −∞) are never kept.
///
/// # Errors
/// [`Error::Shape`]; [`Error::NotADistribution`] and [`Error::NonFinite`] for the reference and the scores; [`Error::Config`] for N < 1.
pub fn best_of_n(log_reference: &[f64], scores: &[f64], n: f64) -> Result<BestOfN> {
    check(log_reference, scores, n)?;
    let mut order: Vec<usize> = (0..scores.len()).collect();
    order.sort_by(|&a, &b| scores[a].total_cmp(&scores[b]));
    let (low, high) = bounds(scores);
    let tie = TIE * (high - low);
    let mut log_policy = vec![f64::NEG_INFINITY; scores.len()];
    let (mut win_rate, mut below, mut start) = (0.0, 0.0f64, 0);
    while start < order.len() {
        let mut end = start + 1;
        while end < order.len() && scores[order[end]] - scores[order[end - 1]] <= tie {
            end += 1;
        }
        let mass: f64 = order[start..end]
            .iter()
            .map(|&y| log_reference[y].exp())
            .sum();
        if mass == 0.0 {
            start = end;
            continue;
        }
        let upto = if end == order.len() {
            1.0
        } else {
            (below + mass).min(1.0)
        };
        let log_share = power_gap(below, upto, n).ln() - mass.ln();
        for &y in &order[start..end] {
            log_policy[y] = log_reference[y] + log_share;
        }
        win_rate += power_gap(below, upto, n) * (below + mass / 2.0);
        (below, start) = (upto, end);
    }
    Ok(BestOfN {
        log_policy: normalise(log_policy),
        win_rate,
        kl_bound: n.ln() - (n - 1.0) / n,
    })
}

/// b^N − a^N for 0 ≤ a < b ≤ 1, without cancellation.
fn power_gap(a: f64, b: f64, n: f64) -> f64 {
    if a == 0.0 {
        return b.powf(n);
    }
    b.powf(n) * -(n * (a / b).ln()).exp_m1()
}

/// Soft best-of-N (arXiv 2505.03156): one of N draws is kept with probability ∝ e^{score/λ}:
/// π_N(y) = N π_ref(y) a(y) ∫₀^∞ e^{−u a(y)} M(u)^{N−1} du, a = e^{score/λ}, M(u) = Σ π_ref e^{−ua}. Returns log π and
/// |Σ π − 1| before normalisation, the error of the quadrature.
///
/// The integral is taken over v = log u by the trapezoidal rule, whose error falls exponentially: the integrand is analytic in
/// |Im v| < π/2 and decays at both ends.
///
/// # Errors
/// Those of [`best_of_n`]; [`Error::Config`] for a λ that is not above 1/600 of the scores' range, below which a underflows.
pub fn soft_best_of_n(
    log_reference: &[f64],
    scores: &[f64],
    lambda: f64,
    n: f64,
) -> Result<(Vec<f64>, f64)> {
    check(log_reference, scores, n)?;
    if !(lambda > 0.0 && lambda.is_finite()) {
        return Err(Error::config("lambda", lambda, "a positive number"));
    }
    const STEP: f64 = 1.0 / 16.0;
    let (low, high) = bounds(scores);
    if (high - low) / lambda > 600.0 {
        let must = format!(
            "at least {}, a 600th of the scores' range",
            (high - low) / 600.0
        );
        return Err(Error::config("lambda", lambda, must));
    }
    let a: Vec<f64> = scores.iter().map(|s| ((s - high) / lambda).exp()).collect();
    let reference: Vec<f64> = log_reference.iter().map(|u| u.exp()).collect();
    // Up to where the slowest exponential has died, and down to where u itself is lost.
    let top = 60f64.ln() + (high - low) / lambda;
    let points = ((top + 46.0) / STEP).ceil() as usize + 1;
    let mut integral = vec![0.0; a.len()];
    for k in 0..points {
        let v = top - k as f64 * STEP;
        let u = v.exp();
        let decay: Vec<f64> = a.iter().map(|a| (-u * a).exp()).collect();
        let m: f64 = reference.iter().zip(&decay).map(|(p, e)| p * e).sum();
        let weight = STEP * u * ((n - 1.0) * m.ln()).exp();
        for (sum, e) in integral.iter_mut().zip(&decay) {
            *sum += weight * e;
        }
    }
    let logs: Vec<f64> = (0..a.len())
        .map(|y| n.ln() + log_reference[y] + a[y].ln() + integral[y].ln())
        .collect();
    let mass: f64 = logs.iter().map(|u| u.exp()).sum();
    Ok((normalise(logs), (mass - 1.0).abs()))
}

fn check(log_reference: &[f64], scores: &[f64], n: f64) -> Result<()> {
    check::len("scores", log_reference.len(), scores.len())?;
    check::finite(|y| format!("score of response {y}"), scores)?;
    let reference: Vec<f64> = log_reference.iter().map(|u| u.exp()).collect();
    check::distribution(|| "reference".into(), &reference)?;
    if !(n >= 1.0 && n.is_finite()) {
        return Err(Error::config("N", n, "at least 1"));
    }
    Ok(())
}
