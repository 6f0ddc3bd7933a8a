//! (4.1), Σ_𝒟 and the radii of Lemma A.1 for the instance's preferences.

use crate::instance::{Estimation, Instance};
use crate::json::plain;
use crate::notes::Notes;
use crate::report::{Mle, Radii};
use anyhow::{Result, anyhow, bail};
use rto::estimate::{
    BtFit, ConfidenceSet, Curvature, Design, FitOptions, Metric, MetricKind, Radius, RadiusInputs,
    RadiusKind, Separation, fit_bradley_terry, separation,
};
use rto::features::{DenseFeatures, FeatureMap};
use rto::mdp::Reachable;

/// The preferences as a design, what they tell of θ, and the radius in use.
pub struct Estimate {
    design: Design,
    pub fit: BtFit,
    pub sigma: Option<Metric>,
    /// θ_MLE with both metrics and all radii, where these can be computed.
    whole: Option<rto::estimate::Estimate>,
    /// The radius of the bonus, the ellipsoid and the bound, or why there is none.
    chosen: Result<Radius, String>,
    param_bound: f64,
    separation: Option<Separation>,
    pub radii: Option<Radii>,
}

impl Estimate {
    /// The confidence set of the radius in use.
    pub fn set(&self) -> Result<ConfidenceSet<'_>> {
        let radius = self.chosen.as_ref().map_err(|why| anyhow!("{why}"))?;
        let whole = self.whole.as_ref().expect("a radius is one of them");
        Ok(ConfidenceSet::try_new(
            &self.fit.theta,
            whole.metric(radius.metric),
            radius.value,
            self.param_bound,
        )?)
    }

    fn rank(&self) -> Option<usize> {
        self.whole.as_ref().map(|whole| whole.radii.rank)
    }

    pub fn design(&self) -> &Design {
        &self.design
    }

    pub fn mle(&self, notes: &mut Notes) -> Mle {
        if self.separation.is_none() {
            notes.say("mle.separation", "undecided: lost in rounding");
        }
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
            rank: self.rank(),
        }
    }

    /// What a reader of the estimate should know about the data.
    pub fn warnings(&self, instance: &Instance) -> Vec<String> {
        let mut out = Vec::new();
        let (n, d) = (self.design.n(), self.design.dim());
        if n == 0 {
            out.push("preferences: there are none, so the estimate is 0".into());
        } else if let Some(rank) = self.rank().filter(|rank| *rank < d) {
            let few = if d > n { ", d > n" } else { "" };
            out.push(format!(
                "features: rank {rank} of d = {d} on the n = {n} pairs of preferences (rank-deficient{few}); the estimate of least norm is used"
            ));
        }
        if self.rank() == Some(0) && self.chosen.as_ref().is_ok_and(|c| c.value == 0.0) {
            out.push(format!(
                "estimation.bonus_scale: {} is 0 when the preferences tell nothing about theta, so pessimism is off",
                instance.estimation.scale_name
            ));
        }
        if let Err(why) = &self.chosen {
            out.push(why.clone());
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

/// What the preferences tell, with φ over the states of the table and what can be met; what only the user can mend is an error, what
/// fails to be computed a note.
pub fn estimate(
    instance: &Instance,
    features: Option<&DenseFeatures>,
    met: &Reachable,
    notes: &mut Notes,
) -> Result<Option<Estimate>> {
    let (Some(pairs), Some(features)) = (&instance.pairs, features) else {
        return Ok(None);
    };
    let e = &instance.estimation;
    // Rows that neither an episode nor a pair meets have no say in L.
    let largest = features.bound_over(&mut met.pairs());
    let inputs = RadiusInputs {
        horizon: instance.world.horizon,
        feature_bound: feature_bound(largest, e.feature_bound)?,
        // Without B the radii that need it are computed for B = 1 and not shown.
        param_bound: e.param_bound.unwrap_or(1.0),
        ridge: e.ridge,
        fail_prob: e.fail_prob,
    };
    let design = Design::from_pairs(&instance.world.mdp, features, pairs)?;
    let options = FitOptions {
        param_bound: e.param_bound.unwrap_or(f64::INFINITY),
        ..FitOptions::default()
    };
    let (fit, separation) = match fitted(&design, &options, e.param_bound)? {
        (Ok(fit), separation) => (fit, separation),
        (Err(why), _) => {
            notes.say("mle", format!("failed: {why}"));
            let rest = ["sigma_d", "log_det_sigma", "radii", "algorithm1"];
            for key in rest.iter().chain(&["theorem_b1", "baselined"]) {
                notes.say(*key, format!("needs mle, which failed: {why}"));
            }
            return Ok(None);
        }
    };
    let sigma = Metric::sigma_d(&design, e.ridge);
    let sigma = notes.part("sigma_d", sigma.map(Some).map_err(Into::into));
    if sigma.is_none() {
        notes.say("log_det_sigma", "needs sigma_d, which failed");
    }
    let bound = options.param_bound;
    let whole = rto::estimate::Estimate::around(&design, fit.clone(), &inputs, bound);
    let whole = notes.part("radii", whole.map(Some).map_err(Into::into));
    let chosen = match &whole {
        None => {
            notes.say("mle.rank", "needs radii, which failed");
            Err("needs radii, which failed".to_string())
        }
        Some(whole) => choose(e, &whole.radii, &inputs, &design)?,
    };
    let radii = whole
        .as_ref()
        .map(|whole| report(e, &inputs, &whole.radii, &design, notes));
    Ok(Some(Estimate {
        radii: radii.transpose()?,
        sigma,
        whole,
        chosen,
        separation,
        param_bound: bound,
        design,
        fit,
    }))
}

/// The radius that the instance asks for.
fn choose(
    e: &Estimation,
    all: &rto::estimate::Radii,
    inputs: &RadiusInputs,
    design: &Design,
) -> Result<Result<Radius, String>> {
    let radius = all.radius(e.scale)?;
    check_scale(e, radius)?;
    if radius.value.is_finite() {
        return Ok(Ok(radius));
    }
    let why = not_finite(radius.value, all, e.scale, inputs, design);
    let name = &e.scale_name;
    Ok(Err(format!(
        "estimation.bonus_scale: the radius {name} is {why}"
    )))
}

/// The radii as they are reported; those that depend on B only where it is known.
#[allow(non_snake_case)]
fn report(
    e: &Estimation,
    inputs: &RadiusInputs,
    all: &rto::estimate::Radii,
    design: &Design,
    notes: &mut Notes,
) -> Result<Radii> {
    let bounded = e.param_bound.is_some();
    let mut known = |key: &str, x: f64, kind: Option<RadiusKind>| {
        let key = format!("radii.{key}");
        if !bounded {
            let why = "unknown: depends on estimation.param_bound, which is not given";
            notes.say(key, why);
            return None;
        }
        if !x.is_finite() {
            let why = kind.map_or("infinite or undefined in floating point".into(), |kind| {
                not_finite(x, all, kind, inputs, design)
            });
            notes.say(key, why);
        }
        x.is_finite().then_some(x)
    };
    let mut radius = |key: &str, kind| -> Result<Option<f64>> {
        Ok(known(key, all.radius(kind)?.value, Some(kind)))
    };
    let likelihood = RadiusKind::LikelihoodRatio {
        finite_sample: true,
    };
    let printed = RadiusKind::Printed {
        constant: e.printed_constant,
    };
    let rho_printed_Upsilon = radius("rho_printed_Upsilon", printed)?;
    let (rho_theory_Upsilon, rho_theory_kappa, rho_LR_via_kappa, rho_selfconcordant_Hmetric) = (
        radius("rho_theory_Upsilon", RadiusKind::Theory(Curvature::Upsilon))?,
        radius("rho_theory_kappa", RadiusKind::Theory(Curvature::Data))?,
        radius("rho_LR_via_kappa", likelihood)?,
        radius("rho_selfconcordant_Hmetric", RadiusKind::SelfConcordant)?,
    );
    Ok(Radii {
        rho_printed_Upsilon,
        rho_theory_Upsilon,
        rho_theory_kappa,
        rho_LR_via_kappa,
        rho_selfconcordant_Hmetric,
        rho_wald_Hmetric: all.radius(RadiusKind::Wald { ridge_bias: false })?.value,
        G_noise: all.noise,
        Upsilon_2HLB: known("Upsilon_2HLB", rto::estimate::curvature_bound(inputs), None),
        kappa_data: known("kappa_data", all.kappa, None),
        c_LR_rigorous: known("c_LR_rigorous", all.lr_threshold, None),
    })
}

/// Why a radius is not finite, and the largest B for which it is.
fn not_finite(
    value: f64,
    all: &rto::estimate::Radii,
    kind: RadiusKind,
    inputs: &RadiusInputs,
    design: &Design,
) -> String {
    if value.is_nan() {
        return "undefined in floating point".into();
    }
    let infinite = format!(
        "infinite for estimation.param_bound = {}, as the curvature at the bounds of the instance is 0 in floating point",
        plain(inputs.param_bound)
    );
    match largest_bound(all, kind, inputs.param_bound, design) {
        Some(b) => format!(
            "{infinite}; the largest estimation.param_bound that works is {}",
            plain(b)
        ),
        None => format!("{infinite}, whatever estimation.param_bound is"),
    }
}

/// The largest B below `from` at which a radius is finite, rounded down to four digits.
fn largest_bound(
    all: &rto::estimate::Radii,
    kind: RadiusKind,
    from: f64,
    design: &Design,
) -> Option<f64> {
    let finite = |b: f64| {
        let radius = all.with_param_bound(design, b).radius(kind);
        radius.is_ok_and(|r| r.value.is_finite())
    };
    let (mut low, mut high) = (1e-100f64, from);
    if !finite(low) {
        return None;
    }
    for _ in 0..200 {
        let middle = low.sqrt() * high.sqrt();
        if middle <= low || middle >= high {
            break;
        }
        if finite(middle) {
            low = middle;
        } else {
            high = middle;
        }
    }
    let exponent = low.log10().floor() as i32 - 3;
    let digits = (low / 10f64.powi(exponent)).floor();
    let rounded: f64 = format!("{digits}e{exponent}").parse().unwrap_or(low);
    Some(if finite(rounded) { rounded } else { low })
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
            "estimation.feature_bound: found {given}, but the largest feature norm where an episode or a preference can come is {largest}"
        ),
        Some(given) => Ok(given),
        None if largest > 0.0 => Ok(largest),
        None => bail!("features: all are 0 where an episode or a preference can come"),
    }
}

/// Refuses a metric that is not the radius's own, and a radius whose B is missing.
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
    Ok(())
}

/// (4.1) and whether the data separate, which without the ball is an error.
fn fitted(
    design: &Design,
    options: &FitOptions,
    param_bound: Option<f64>,
) -> Result<(rto::Result<BtFit>, Option<Separation>)> {
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
    Ok((fit, separation))
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

/// The name of a metric in the file and the report.
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
