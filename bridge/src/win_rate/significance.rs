//! Exact tests.

/// The two-sided sign test of θ = ½: with m = won + lost decided prompts, min(1, 2·P(X ≤ min(won, lost))) for
/// X ~ Binomial(m, ½). Ties carry no sign and are left out (Dixon and Mood 1946). No decided prompt gives 1.
pub fn sign_test(won: usize, lost: usize) -> f64 {
    let (m, fewer) = (won + lost, won.min(lost));
    // Upwards from the largest term, each a factor below the last, so that nothing overflows or cancels.
    let log_largest = log_choose(m, fewer) - m as f64 * std::f64::consts::LN_2;
    let (mut term, mut sum) = (1.0, 0.0);
    for k in (0..=fewer).rev() {
        sum += term;
        term *= k as f64 / (m - k + 1) as f64;
    }
    (2.0 * log_largest.exp() * sum).min(1.0)
}

fn log_choose(n: usize, k: usize) -> f64 {
    use statrs::function::factorial::ln_binomial;
    ln_binomial(n as u64, k as u64)
}

/// Holm's (1979) step-down correction: the k-th smallest of m p-values becomes the largest of (m − i + 1)·p_(i) over
/// i ≤ k, at most 1. Rejecting what stays at or below α keeps the chance of any false rejection at or below α, whatever
/// the dependence. The order of the input is kept.
pub fn holm(p_values: &[f64]) -> Vec<f64> {
    let m = p_values.len();
    let mut order: Vec<usize> = (0..m).collect();
    order.sort_by(|a, b| p_values[*a].total_cmp(&p_values[*b]));
    let mut corrected = vec![1.0; m];
    let mut least: f64 = 0.0;
    for (i, at) in order.into_iter().enumerate() {
        least = least.max((m - i) as f64 * p_values[at]).min(1.0);
        corrected[at] = least;
    }
    corrected
}
