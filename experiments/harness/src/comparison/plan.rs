//! What the protocol asks of a plan's seeds and methods.

use anyhow::{Result, bail};

use crate::config::increasing;
use crate::methods::Method;

/// Refuses seeds that no interval or exact test can be made of, and reported ones that the tuning saw.
///
/// # Errors
/// One line that names the key.
pub fn check_seeds(tuning: &[u64], report: &[u64]) -> Result<()> {
    for (key, seeds) in [("tuning_seeds", tuning), ("report_seeds", report)] {
        let as_floats: Vec<f64> = seeds.iter().map(|s| *s as f64).collect();
        increasing(key, &as_floats, 0.0, 1e9)?;
        // An interval needs two.
        if seeds.len() < 2 {
            bail!("{key}: found {} seed, expected two or more", seeds.len());
        }
    }
    // The exact test goes through all 2^n signs.
    if report.len() > 20 {
        bail!(
            "report_seeds: found {} seeds, expected at most 20",
            report.len()
        );
    }
    match report.iter().find(|s| tuning.contains(s)) {
        Some(seed) => bail!(
            "report_seeds: found {seed}, which is a tuning seed, expected seeds that no tuning saw"
        ),
        None => Ok(()),
    }
}

/// Refuses methods without the two that are compared, and one that stands twice.
///
/// # Errors
/// One line.
pub fn check_methods(methods: &[&Method]) -> Result<()> {
    for needed in ["rto", "dppo"] {
        if !methods.iter().any(|m| m.name == needed) {
            bail!("methods: found no {needed}, expected rto and dppo among them");
        }
    }
    for (i, method) in methods.iter().enumerate() {
        if methods[..i].contains(method) {
            bail!("methods: found {} twice", method.name);
        }
    }
    Ok(())
}
