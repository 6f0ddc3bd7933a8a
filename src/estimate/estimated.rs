//! The estimate with what confidence sets around it are made of.

use super::{
    BtFit, ConfidenceSet, Design, FitOptions, Metric, MetricKind, Radii, Radius, RadiusInputs,
    RadiusKind, fit_bradley_terry,
};
use crate::Result;

/// Line 2 of Algorithm 1: θ_MLE with both metrics and all radii, from which [`Estimate::set`] makes the confidence set of any kind
/// of radius.
#[derive(Debug, Clone)]
pub struct Estimate {
    /// θ_MLE of (4.1).
    pub fit: BtFit,
    /// Σ_𝒟 of (4.2).
    pub sigma: Metric,
    /// The observed information at θ_MLE + λI.
    pub fisher: Metric,
    /// What every radius is made of.
    pub radii: Radii,
    /// B of the sets' ball; +∞ drops it.
    pub param_bound: f64,
}

impl Estimate {
    /// The estimate in the ball of the constants.
    ///
    /// # Errors
    /// As [`fit_bradley_terry`] and [`Estimate::around`].
    pub fn new(design: &Design, inputs: &RadiusInputs) -> Result<Self> {
        let options = FitOptions {
            param_bound: inputs.param_bound,
            ..FitOptions::default()
        };
        let fit = fit_bradley_terry(design, &options)?;
        Self::around(design, fit, inputs, inputs.param_bound)
    }

    /// The same around an estimate that is there, with sets in another ball than that of the radii.
    ///
    /// # Errors
    /// [`crate::Error::Config`] on the constants; [`crate::Error::Shape`] on θ.
    pub fn around(
        design: &Design,
        fit: BtFit,
        inputs: &RadiusInputs,
        param_bound: f64,
    ) -> Result<Self> {
        inputs.check()?;
        let sigma = Metric::sigma_d(design, inputs.ridge)?;
        let fisher = Metric::fisher(design, &fit.theta, inputs.ridge)?;
        Ok(Self {
            radii: Radii::new(design, (&sigma, &fisher), inputs)?,
            fit,
            sigma,
            fisher,
            param_bound,
        })
    }

    /// The metric of a kind.
    pub fn metric(&self, kind: MetricKind) -> &Metric {
        match kind {
            MetricKind::SigmaD => &self.sigma,
            MetricKind::Fisher => &self.fisher,
        }
    }

    /// A radius with its confidence set.
    ///
    /// # Errors
    /// [`crate::Error::Config`] on a radius that is not finite.
    pub fn set(&self, kind: RadiusKind) -> Result<(Radius, ConfidenceSet<'_>)> {
        let radius = self.radii.radius(kind)?;
        let metric = self.metric(radius.metric);
        let set = ConfidenceSet::try_new(&self.fit.theta, metric, radius.value, self.param_bound)?;
        Ok((radius, set))
    }
}
