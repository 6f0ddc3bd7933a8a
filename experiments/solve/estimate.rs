//! (4.1), Σ_𝒟 and the radii of Lemma A.1 for the instance's preferences.

use crate::instance::{Estimation, Instance};
use crate::report::{Mle, Radii};
use crate::solver::Solver;
use anyhow::{Context, Result, bail};
use rto::algorithm1::ConfidenceSet;
use rto::estimate::{
    BtFit, Curvature, Design, FitOptions, Metric, MetricKind, Radius, RadiusInputs, RadiusKind,
    Separation, fit_bradley_terry, radii, separation,
};
use rto::features::FeatureMap;

/// θ_MLE with its metrics and the chosen radius.
pub struct Estimate {
    design: Design,
    pub fit: BtFit,
    pub sigma: Metric,
    /// The metric of the bonus, the ellipsoid and the bound.
    pub metric: Metric,
    pub radius: f64,
    param_bound: f64,
    rank: usize,
    separation: Option<Separation>,
    pub radii: Radii,
}

impl Estimate {
    pub fn set(&self) -> Result<ConfidenceSet<'_>> {
        Ok(ConfidenceSet::try_new(
            &self.fit.theta,
            &self.metric,
            self.radius,
            self.param_bound,
        )?)
    }

    pub fn mle(&self) -> Mle {
        Mle {
            theta: self.fit.theta.clone(),
            norm: self.fit.norm,
            log_likelihood: self.fit.log_likelihood,
            at_bound: self.fit.at_bound,
            multiplier: self.fit.multiplier,
            separable: self.separation == Some(Separation::Complete),
            separation: self.separation.map(|s| match s {
                Separation::None => "none",
                Separation::Quasi { .. } => "quasi",
                Separation::Complete => "complete",
            }),
            rank: self.rank,
        }
    }

    /// What a reader of the estimate should know about the data.
    pub fn warnings(&self, instance: &Instance) -> Vec<String> {
        let mut out = Vec::new();
        let (n, d) = (self.design.n(), self.design.dim());
        if n == 0 {
            out.push("preferences: there are none, so the estimate is 0".into());
        } else if self.rank < d {
            let few = if d > n { ", d > n" } else { "" };
            out.push(format!(
                "features: rank {} of d = {d} on the n = {n} pairs of preferences (rank-deficient{few}); the estimate of least norm is used",
                self.rank
            ));
        }
        if self.rank == 0 && self.radius == 0.0 {
            out.push(format!(
                "estimation.bonus_scale: {} is 0 when the preferences tell nothing about theta, so pessimism is off",
                instance.estimation.scale_name
            ));
        }
        match self.separation.map(|s| separated(s, n)) {
            None => out.push(format!(
                "preferences: whether the n = {n} pairs are separable is lost in rounding"
            )),
            Some(None) => {}
            Some(Some(how)) => out.push(format!(
                "preferences: {how}, so only estimation.param_bound = {} keeps the estimate finite",
                self.param_bound
            )),
        }
        out
    }
}

impl Solver<'_> {
    pub fn estimate(&self) -> Result<Option<Estimate>> {
        let (Some(pairs), Some(features)) = (&self.instance.pairs, &self.features) else {
            return Ok(None);
        };
        let e = &self.instance.estimation;
        let feature_bound = feature_bound(features.bound(), e.feature_bound)?;
        let design = Design::from_pairs(&self.instance.world.mdp, features, pairs)?;
        let options = FitOptions {
            param_bound: e.param_bound.unwrap_or(f64::INFINITY),
            ..FitOptions::default()
        };
        let (fit, separation) = fitted(&design, &options, e.param_bound)?;
        let (inputs, all) = self.all_radii(feature_bound, &design, &fit)?;
        let radius = all.radius(e.scale)?;
        check_scale(e, radius)?;
        let sigma = Metric::sigma_d(&design, e.ridge)?;
        Ok(Some(Estimate {
            metric: match radius.metric {
                MetricKind::SigmaD => sigma.clone(),
                MetricKind::Fisher => Metric::fisher(&design, &fit.theta, e.ridge)?,
            },
            sigma,
            radius: radius.value,
            rank: all.rank,
            separation,
            radii: report(&inputs, &all, e)?,
            param_bound: options.param_bound,
            design,
            fit,
        }))
    }

    /// The ingredients of the radii. Without B the ones that need it are computed for B = 1 and not shown.
    fn all_radii(
        &self,
        feature_bound: f64,
        design: &Design,
        fit: &BtFit,
    ) -> Result<(RadiusInputs, rto::estimate::Radii)> {
        let e = &self.instance.estimation;
        let inputs = RadiusInputs {
            horizon: self.instance.world.horizon,
            feature_bound,
            param_bound: e.param_bound.unwrap_or(1.0),
            ridge: e.ridge,
            fail_prob: e.fail_prob,
        };
        let all = radii(design, &fit.theta, &inputs)?;
        Ok((inputs, all))
    }
}

/// L of Assumption 4.1: as given, or the data's.
fn feature_bound(largest: f64, given: Option<f64>) -> Result<f64> {
    // Squares of what is outside are infinite or 0.
    if largest != 0.0 && !(1e-100..=1e100).contains(&largest) {
        bail!(
            "features: the largest norm is {largest:e}, expected from 1e-100 to 1e100; change their unit"
        );
    }
    match given {
        Some(given) if given < largest * (1.0 - 1e-12) => bail!(
            "estimation.feature_bound: found {given}, but the largest feature norm is {largest}"
        ),
        Some(given) => Ok(given),
        None if largest > 0.0 => Ok(largest),
        None => bail!("features: all are 0"),
    }
}

/// Refuses a metric that is not the radius's own, and a radius whose B is missing or that is infinite.
fn check_scale(e: &Estimation, radius: Radius) -> Result<()> {
    let name = e.scale_name.as_str();
    if let (Some(given), false) = (e.metric, matches!(e.scale, RadiusKind::Number(..)))
        && given != radius.metric
    {
        bail!(
            "estimation.metric: found {}, but the radius {name} is measured in {}",
            metric_name(given),
            metric_name(radius.metric)
        );
    }
    if e.param_bound.is_none() && needs_bound(e.scale) {
        bail!("estimation.param_bound: missing, the radius {name} depends on it");
    }
    if !radius.value.is_finite() {
        bail!(
            "estimation.bonus_scale: the radius {name} is infinite, as the curvature at the bounds of the instance is 0 in floating point"
        );
    }
    Ok(())
}

/// The radii as they are reported; those that depend on B only where it is known.
fn report(inputs: &RadiusInputs, all: &rto::estimate::Radii, e: &Estimation) -> Result<Radii> {
    let known = |x: f64| e.param_bound.is_some().then_some(x);
    let value = |kind| -> Result<f64> { Ok(all.radius(kind)?.value) };
    let finite = RadiusKind::LikelihoodRatio {
        finite_sample: true,
    };
    Ok(Radii {
        G_noise: all.noise,
        Upsilon_2HLB: known(rto::estimate::curvature_bound(inputs)),
        rho_printed_Upsilon: known(value(RadiusKind::Printed {
            constant: e.printed_constant,
        })?),
        rho_theory_Upsilon: known(value(RadiusKind::Theory(Curvature::Upsilon))?),
        kappa_data: known(all.kappa),
        rho_theory_kappa: known(value(RadiusKind::Theory(Curvature::Data))?),
        c_LR_rigorous: known(all.lr_threshold),
        rho_LR_via_kappa: known(value(finite)?),
        rho_wald_Hmetric: value(RadiusKind::Wald { ridge_bias: false })?,
        rho_selfconcordant_Hmetric: known(value(RadiusKind::SelfConcordant)?),
    })
}

/// (4.1) and whether the data separate, which without the ball is an error.
fn fitted(
    design: &Design,
    options: &FitOptions,
    param_bound: Option<f64>,
) -> Result<(BtFit, Option<Separation>)> {
    let fit = fit_bradley_terry(design, options);
    let start = match &fit {
        Ok(fit) => fit.theta.clone(),
        Err(_) => vec![0.0; design.dim()],
    };
    let separation = separation(design, &start).ok();
    let how = separation.and_then(|s| separated(s, design.n()));
    if let (None, Some(how)) = (param_bound, how) {
        bail!("preferences: {how}, so (4.1) has no finite maximiser; give estimation.param_bound");
    }
    Ok((fit.context("preferences")?, separation))
}

/// How data separate, in words; `None` when they do not.
fn separated(separation: Separation, n: usize) -> Option<String> {
    match separation {
        Separation::None => None,
        Separation::Quasi { explained } => Some(format!(
            "the data are quasi-separable (one direction favours the winner in {explained} of n = {n} pairs and the loser in none)"
        )),
        Separation::Complete => Some(format!(
            "the data are separable (one direction favours the winner in all n = {n} pairs)"
        )),
    }
}

/// As it is called in the file and the report.
pub fn metric_name(kind: MetricKind) -> &'static str {
    match kind {
        MetricKind::SigmaD => "sigma_d",
        MetricKind::Fisher => "fisher",
    }
}

/// Whether a radius depends on B.
fn needs_bound(kind: RadiusKind) -> bool {
    !matches!(
        kind,
        RadiusKind::Number(..)
            | RadiusKind::Wald { ridge_bias: false }
            | RadiusKind::LikelihoodRatio {
                finite_sample: false
            }
    )
}
