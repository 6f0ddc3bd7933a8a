//! Win rates at equal lengths.

use super::{Estimate, Z, mean};
use rto::numerics::sigmoid;

const ITERATIONS: usize = 60;
/// A coefficient beyond this means that the data are separated and the likelihood has no maximum.
const SEPARATED: f64 = 15.0;

/// The win rate at equal lengths, and its 95% interval.
///
/// With Δ_p the length of the row's answer less the column's and s = √(mean Δ²), the model
///
/// logit P(w_p) = α + γ·tanh(Δ_p/s)
///
/// is fitted by maximum likelihood to the preferences (a preference of ½ counts as half a win and half a loss), and σ(α) is
/// reported: what is left of the preference when Δ = 0. It is odd in Δ, so that the two directions of a pair sum to one. This
/// is the idea of the length-controlled AlpacaEval 2 (Dubois et al. 2024), for one pair at a time and without its term for
/// the difficulty of a prompt, which drops out at Δ = 0 when prompts are the same for both.
///
/// The interval is σ(α ± z·√(D·(XᵀWX)⁻¹₁₁)), with the design effect D of [`super::interval`] at the fitted probabilities.
/// Where all lengths agree γ is left out and σ(α) is the plain win rate.
///
/// `None` where the likelihood has no maximum: all prompts go one way, or lengths tell won prompts from lost ones.
pub fn length_controlled(preferences: &[f64], length_differences: &[f64]) -> Option<Estimate> {
    let x = covariate(length_differences);
    let [alpha, gamma] = fit(preferences, &x)?;
    let fitted: Vec<f64> = x.iter().map(|x| sigmoid(alpha + gamma * x)).collect();
    let variance = design_effect(preferences, &fitted) * alpha_variance(&fitted, &x);
    let half = Z * variance.sqrt();
    half.is_finite().then_some(Estimate {
        value: sigmoid(alpha),
        low: sigmoid(alpha - half),
        high: sigmoid(alpha + half),
    })
}

/// tanh(Δ/s); zero where all lengths agree.
fn covariate(differences: &[f64]) -> Vec<f64> {
    let square = differences.iter().map(|d| d * d).sum::<f64>() / differences.len() as f64;
    let scale = square.sqrt();
    let of = |d: &f64| if scale > 0.0 { (d / scale).tanh() } else { 0.0 };
    differences.iter().map(of).collect()
}

/// (α, γ) by Newton's method with step halving; the log-likelihood is concave.
fn fit(w: &[f64], x: &[f64]) -> Option<[f64; 2]> {
    let mut at = [0.0, 0.0];
    let mut value = log_likelihood(w, x, at);
    for _ in 0..ITERATIONS {
        let step = newton_step(w, x, at)?;
        let length = step[0].abs().max(step[1].abs());
        let mut share = 1.0;
        let (next, next_value) = loop {
            let next = [at[0] + share * step[0], at[1] + share * step[1]];
            let value_there = log_likelihood(w, x, next);
            // The slack lets the last steps pass, where the gain is below rounding.
            if value_there >= value - 1e-12 * value.abs() {
                break (next, value_there);
            }
            share *= 0.5;
            if share < 1e-6 {
                return None;
            }
        };
        (at, value) = (next, next_value);
        if at.iter().any(|c| c.abs() > SEPARATED) {
            return None;
        }
        if length < 1e-10 {
            return Some(at);
        }
    }
    None
}

fn log_likelihood(w: &[f64], x: &[f64], [alpha, gamma]: [f64; 2]) -> f64 {
    use rto::numerics::log_sigmoid;
    let term = |(w, x): (&f64, &f64)| {
        let z = alpha + gamma * x;
        w * log_sigmoid(z) + (1.0 - w) * log_sigmoid(-z)
    };
    w.iter().zip(x).map(term).sum()
}

fn newton_step(w: &[f64], x: &[f64], [alpha, gamma]: [f64; 2]) -> Option<[f64; 2]> {
    let fitted: Vec<f64> = x.iter().map(|x| sigmoid(alpha + gamma * x)).collect();
    let (mut g0, mut g1) = (0.0, 0.0);
    for ((w, mu), x) in w.iter().zip(&fitted).zip(x) {
        g0 += w - mu;
        g1 += (w - mu) * x;
    }
    let [h00, h01, h11] = information(&fitted, x);
    if h11 <= 0.0 {
        return (h00 > 0.0).then(|| [g0 / h00, 0.0]);
    }
    let determinant = h00 * h11 - h01 * h01;
    // Equal covariates everywhere cannot be told from the intercept.
    if determinant.is_nan() || determinant <= 1e-12 * h00 * h11 {
        return None;
    }
    Some([
        (h11 * g0 - h01 * g1) / determinant,
        (h00 * g1 - h01 * g0) / determinant,
    ])
}

/// XᵀWX as (11, 12, 22).
fn information(fitted: &[f64], x: &[f64]) -> [f64; 3] {
    let mut h = [0.0; 3];
    for (mu, x) in fitted.iter().zip(x) {
        let weight = mu * (1.0 - mu);
        h[0] += weight;
        h[1] += weight * x;
        h[2] += weight * x * x;
    }
    h
}

fn alpha_variance(fitted: &[f64], x: &[f64]) -> f64 {
    let [h00, h01, h11] = information(fitted, x);
    match h11 > 0.0 {
        true => h11 / (h00 * h11 - h01 * h01),
        false => 1.0 / h00,
    }
}

fn design_effect(w: &[f64], fitted: &[f64]) -> f64 {
    let residual: f64 = w.iter().zip(fitted).map(|(w, mu)| (w - mu).powi(2)).sum();
    let binomial: f64 = fitted.iter().map(|mu| mu * (1.0 - mu)).sum();
    let rate = mean(fitted);
    let extra = Z * Z * rate * (1.0 - rate);
    (residual + extra) / (binomial + extra)
}
