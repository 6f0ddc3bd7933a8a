//! ϱ of Lemma A.1 and its repairs, each with the metric it belongs to.

use statrs::distribution::{ChiSquared, ContinuousCDF};

use super::covariance::{Metric, MetricKind};
use super::design::Design;
use super::row_space::RowSpace;
use crate::{Error, Result};

/// Lemma A.1 (errata, B3): Which lower bound on the curvature σ′ the `theory` radius uses.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Curvature {
    /// Υ = 1/(2 + e^{2HLB} + e^{−2HLB}) of Lemma A.1.
    Upsilon,
    /// κ = min_i σ′(B‖x_i‖), from the pairs that were seen; κ ≥ Υ.
    Data,
}

/// Lemma A.1 (errata, B3): A confidence radius ϱ.
#[derive(Debug, Clone, Copy, PartialEq)]
pub enum RadiusKind {
    /// C √(d log(1/δ)/Υ) + λB², metric Σ_𝒟: (A.2) to the letter. The paper leaves C open. Not proved: for every C
    /// and d ≥ 3 it fails for δ near 1.
    Printed {
        /// C > 0.
        constant: f64,
    },
    /// ϱ = (G/κ + √((G/κ)² + 16λB²))/2 with G = ½√(d_eff + 2√(d_eff t) + 2t), t = log(1/δ): what the
    /// proof of (A.2) gives once repaired. Metric Σ_𝒟.
    Theory(Curvature),
    /// √χ²_{k,1−δ}, k = rank X, in the metric of the observed information; asymptotic. With
    /// `ridge_bias` √λ·B is added for the bias of λ.
    Wald {
        /// Adds √λ·B.
        ridge_bias: bool,
    },
    /// √(2c/κ + 4λB²) from {θ: L(θ_MLE) − L(θ) ≤ c}, metric Σ_𝒟. Finite sample:
    /// c = log(1/δ) + d log max(e, 2eB Σ‖x_i‖/d), valid for adaptively chosen pairs; otherwise
    /// c = χ²_{k,1−δ}/2, asymptotic.
    LikelihoodRatio {
        /// Which c.
        finite_sample: bool,
    },
    /// (x_max c + √(x_max²c² + 8c + 16λB²))/2 with the finite-sample c and x_max = max ‖x_i‖_{H⁻¹}, metric
    /// H = observed information + λI. No exponential constant.
    SelfConcordant,
    /// A number, in the metric the user names.
    Number(f64, MetricKind),
}

/// Lemma A.1 (errata, B3): ϱ with the metric it is measured in.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Radius {
    /// ϱ ≥ 0.
    pub value: f64,
    /// The metric of ‖θ_MLE − θ*‖ ≤ ϱ.
    pub metric: MetricKind,
    /// Whether it is proved to cover θ* with probability at least 1 − δ at every sample size.
    pub finite_sample: bool,
}

/// Lemma A.1 (errata, B3): The constants a radius depends on.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct RadiusInputs {
    /// H.
    pub horizon: usize,
    /// L of Assumption 4.1.
    pub feature_bound: f64,
    /// B of Assumption 4.1.
    pub param_bound: f64,
    /// λ.
    pub ridge: f64,
    /// δ ∈ (0, 1).
    pub fail_prob: f64,
}

impl RadiusInputs {
    pub(super) fn check(&self) -> Result<()> {
        let positive = [
            ("feature_bound", self.feature_bound),
            ("param_bound", self.param_bound),
            ("ridge", self.ridge),
        ];
        for (field, value) in positive {
            if !(value > 0.0 && value.is_finite()) {
                return Err(Error::config(
                    field,
                    value,
                    "> 0 and finite for a confidence radius",
                ));
            }
        }
        if !(self.fail_prob > 0.0 && self.fail_prob < 1.0) {
            return Err(Error::config("fail_prob", self.fail_prob, "in (0, 1)"));
        }
        Ok(())
    }

    fn log_inverse(&self) -> f64 {
        -self.fail_prob.ln()
    }

    /// 2HLB, the largest margin the assumptions allow.
    fn largest_margin(&self) -> f64 {
        2.0 * self.horizon as f64 * self.feature_bound * self.param_bound
    }

    /// √λ·B.
    fn root_bias(&self) -> f64 {
        self.ridge.sqrt() * self.param_bound
    }
}

/// (A.2): C √(d log(1/δ)/Υ) + λB² as printed. No data enter.
///
/// # Errors
/// [`Error::Config`] on the constants, C included.
pub fn printed_radius(dim: usize, inputs: &RadiusInputs, constant: f64) -> Result<f64> {
    inputs.check()?;
    if !(constant > 0.0 && constant.is_finite()) {
        return Err(Error::config("C of (A.2)", constant, "> 0 and finite"));
    }
    // By 1/√Υ, which is finite long after Υ itself is 0 in floating point.
    let spread = (dim as f64 * inputs.log_inverse()).sqrt();
    let spread = spread * inverse_root_slope(inputs.largest_margin());
    Ok(constant * spread + inputs.ridge * inputs.param_bound.powi(2))
}

/// Υ = 1/(2 + e^{2HLB} + e^{−2HLB}) of Lemma A.1: σ′ at the largest margin the assumptions allow.
pub fn curvature_bound(inputs: &RadiusInputs) -> f64 {
    slope(inputs.largest_margin())
}

/// σ′(z) = 1/(2 + e^z + e^{−z}).
fn slope(z: f64) -> f64 {
    let e = (-z.abs()).exp();
    e / ((1.0 + e) * (1.0 + e))
}

/// 1/√σ′(z) = e^{z/2} + e^{−z/2}. Finite where σ′(z) itself is 0 in floating point.
fn inverse_root_slope(z: f64) -> f64 {
    2.0 * (0.5 * z).cosh()
}

/// Lemma A.1 (errata, B3): Everything the radii are made of, and the radii.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Radii {
    inputs: RadiusInputs,
    dim: usize,
    /// B max ‖x_i‖, the margin at which the curvature is κ.
    steepest: f64,
    /// d_eff = tr(XᵀX Σ_𝒟⁻¹) ≤ d.
    pub effective_dim: f64,
    /// G ≥ ‖Xᵀε‖_{Σ⁻¹} with probability 1 − δ.
    pub noise: f64,
    /// Υ.
    pub upsilon: f64,
    /// κ = min_i σ′(B‖x_i‖); ¼ without data.
    pub kappa: f64,
    /// rank X.
    pub rank: usize,
    /// χ²_{k,1−δ}; 0 without data.
    pub chi_square: f64,
    /// c of the finite-sample likelihood-ratio set.
    pub lr_threshold: f64,
    /// max_i ‖x_i‖_{H⁻¹}.
    pub leverage: f64,
}

/// Lemma A.1 (errata, B3): The ingredients of every radius for a design, at the estimate `theta_mle`.
///
/// # Errors
/// [`Error::Config`] on the constants; [`Error::Shape`] on θ.
pub fn radii(design: &Design, theta_mle: &[f64], inputs: &RadiusInputs) -> Result<Radii> {
    inputs.check()?;
    let sigma = Metric::sigma_d(design, inputs.ridge)?;
    let fisher = Metric::fisher(design, theta_mle, inputs.ridge)?;
    Radii::new(design, (&sigma, &fisher), inputs)
}

fn ingredients(
    design: &Design,
    (sigma, fisher): (&Metric, &Metric),
    inputs: &RadiusInputs,
) -> Result<Radii> {
    inputs.check()?;
    let dim = design.dim();
    let norms = design.norms();
    let rank = if design.n() == 0 {
        0
    } else {
        RowSpace::of(design)?.rank()
    };
    // tr(XᵀX Σ⁻¹) as a sum over pairs: no term is negative, where d − λ tr(Σ⁻¹) loses all digits to a large λ.
    let effective_dim: f64 = (0..design.n())
        .map(|i| sigma.inverse_norm(design.row(i)).powi(2))
        .sum();
    let steepest = inputs.param_bound * norms.iter().copied().fold(0.0, f64::max);
    let leverage = (0..design.n())
        .map(|i| fisher.inverse_norm(design.row(i)))
        .fold(0.0, f64::max);
    let mut out = Radii {
        inputs: *inputs,
        dim,
        steepest,
        effective_dim,
        noise: noise_level(effective_dim, inputs.log_inverse()),
        upsilon: curvature_bound(inputs),
        kappa: slope(steepest),
        rank,
        chi_square: chi_square_quantile(rank, inputs.fail_prob)?,
        lr_threshold: 0.0,
        leverage,
    };
    out.lr_threshold = lr_threshold(dim, inputs, norms.iter().sum());
    Ok(out)
}

/// G = ½√(d_eff + 2√(d_eff t) + 2t).
fn noise_level(effective_dim: f64, t: f64) -> f64 {
    0.5 * (effective_dim + 2.0 * (effective_dim * t).sqrt() + 2.0 * t).sqrt()
}

/// c = log(1/δ) + d log max(e, 2eB·Lip/d), Lip = Σ‖x_i‖.
fn lr_threshold(dim: usize, inputs: &RadiusInputs, lipschitz: f64) -> f64 {
    let d = dim as f64;
    // The logarithm of each factor, as their product may be out of range.
    let prior = 1.0 + std::f64::consts::LN_2 + inputs.param_bound.ln() + (lipschitz / d).ln();
    inputs.log_inverse() + d * prior.max(1.0)
}

fn chi_square_quantile(dof: usize, fail_prob: f64) -> Result<f64> {
    if dof == 0 {
        return Ok(0.0);
    }
    let chi = ChiSquared::new(dof as f64)
        .map_err(|e| Error::config("degrees of freedom", dof, e.to_string()))?;
    // statrs inverts by bisection to about 1e-8; a few Newton steps on the CDF finish.
    let mut x = if fail_prob > 1e-12 {
        chi.inverse_cdf(1.0 - fail_prob)
    } else {
        far_quantile(&chi, fail_prob)
    };
    for _ in 0..4 {
        use statrs::distribution::Continuous;
        let step = (chi.sf(x) - fail_prob) / chi.pdf(x);
        if step.is_finite() && x + step > 0.0 {
            x += step;
        }
    }
    Ok(x)
}

/// The upper quantile of a δ that 1 − δ loses, by bisection on the tail itself.
fn far_quantile(chi: &ChiSquared, fail_prob: f64) -> f64 {
    let (mut low, mut high) = (0.0, 64.0);
    while chi.sf(high) > fail_prob {
        (low, high) = (high, 2.0 * high);
    }
    for _ in 0..60 {
        let middle = 0.5 * (low + high);
        if chi.sf(middle) > fail_prob {
            low = middle;
        } else {
            high = middle;
        }
    }
    0.5 * (low + high)
}

impl Radii {
    /// The ingredients from Σ_𝒟 and the observed information + λI.
    ///
    /// # Errors
    /// [`Error::Config`] on the constants.
    pub fn new(
        design: &Design,
        metrics: (&Metric, &Metric),
        inputs: &RadiusInputs,
    ) -> Result<Self> {
        ingredients(design, metrics, inputs)
    }

    /// What the `theory` radius is without data-dependent refinements (d_eff = d, Υ), and the
    /// finite-sample likelihood-ratio radius with Υ for a given Σ‖x_i‖: how large the constants are.
    ///
    /// # Errors
    /// [`Error::Config`].
    pub fn worst_case(dim: usize, inputs: &RadiusInputs, lipschitz: f64) -> Result<(f64, f64)> {
        inputs.check()?;
        let noise = noise_level(dim as f64, inputs.log_inverse());
        let c = lr_threshold(dim, inputs, lipschitz);
        let margin = inputs.largest_margin();
        Ok((
            theory(noise, margin, inputs),
            likelihood_ratio(c, margin, inputs),
        ))
    }

    /// The radius of a kind.
    ///
    /// # Errors
    /// [`Error::Config`] on a negative or infinite number.
    pub fn radius(&self, kind: RadiusKind) -> Result<Radius> {
        let bias = self.inputs.root_bias();
        let (value, metric, finite_sample) = match kind {
            RadiusKind::Printed { constant } => (
                printed_radius(self.dim, &self.inputs, constant)?,
                MetricKind::SigmaD,
                false,
            ),
            RadiusKind::Theory(curvature) => {
                let margin = match curvature {
                    Curvature::Upsilon => self.inputs.largest_margin(),
                    Curvature::Data => self.steepest,
                };
                (
                    theory(self.noise, margin, &self.inputs),
                    MetricKind::SigmaD,
                    true,
                )
            }
            RadiusKind::Wald { ridge_bias } => {
                let extra = if ridge_bias { bias } else { 0.0 };
                (self.chi_square.sqrt() + extra, MetricKind::Fisher, false)
            }
            RadiusKind::LikelihoodRatio { finite_sample } => {
                let c = self.likelihood_threshold(finite_sample);
                let value = likelihood_ratio(c, self.steepest, &self.inputs);
                (value, MetricKind::SigmaD, finite_sample)
            }
            RadiusKind::SelfConcordant => {
                let (x, c) = (self.leverage, self.lr_threshold);
                let half = 0.5 * x * c;
                let root = half.hypot((2.0 * c).sqrt()).hypot(2.0 * bias);
                (half + root, MetricKind::Fisher, true)
            }
            RadiusKind::Number(value, metric) => {
                if !(value >= 0.0 && value.is_finite()) {
                    return Err(Error::config("bonus_scale", value, ">= 0 and finite"));
                }
                (value, metric, false)
            }
        };
        Ok(Radius {
            value,
            metric,
            finite_sample,
        })
    }

    /// The same design and estimate with another B: Υ, κ and the likelihood threshold change with it.
    #[must_use]
    pub fn with_param_bound(&self, design: &Design, param_bound: f64) -> Self {
        let mut out = *self;
        out.inputs.param_bound = param_bound;
        out.upsilon = curvature_bound(&out.inputs);
        let norms = design.norms();
        out.steepest = param_bound * norms.iter().copied().fold(0.0, f64::max);
        out.kappa = slope(out.steepest);
        out.lr_threshold = lr_threshold(self.dim, &out.inputs, norms.iter().sum());
        out
    }

    /// c of the set {θ: L(θ_MLE) − L(θ) ≤ c}.
    pub fn likelihood_threshold(&self, finite_sample: bool) -> f64 {
        if finite_sample {
            self.lr_threshold
        } else {
            0.5 * self.chi_square
        }
    }

    /// d.
    pub fn dim(&self) -> usize {
        self.dim
    }
}

/// (G/κ + √((G/κ)² + 16λB²))/2 with κ = σ′(margin).
fn theory(noise: f64, margin: f64, inputs: &RadiusInputs) -> f64 {
    // Half of it, as the whole may be infinite where the radius is not.
    let half = 0.5 * noise * inverse_root_slope(margin) * inverse_root_slope(margin);
    half + half.hypot(2.0 * inputs.root_bias())
}

/// √(2c/κ + 4λB²) with κ = σ′(margin).
fn likelihood_ratio(c: f64, margin: f64, inputs: &RadiusInputs) -> f64 {
    ((2.0 * c).sqrt() * inverse_root_slope(margin)).hypot(2.0 * inputs.root_bias())
}

#[cfg(test)]
mod tests {
    use super::*;

    /// By SciPy 1.x: `scipy.stats.chi2.isf(delta, k)`.
    #[test]
    fn quantiles_at_any_level() {
        for (delta, k, want) in [
            (1e-300, 1, 1_373.872_631_222_394_4),
            (1e-20, 3, 96.239_123_938_093_81),
            (1e-12, 64, 178.322_294_685_559_85),
            (0.05, 2, 5.991_464_547_107_983),
            (0.9, 1, 0.015_790_774_093_431_225),
        ] {
            let got = chi_square_quantile(k, delta).unwrap();
            assert!((got - want).abs() < 1e-11 * want, "{delta}, {k}: {got}");
        }
        assert_eq!(chi_square_quantile(0, 0.05).unwrap(), 0.0);
    }

    /// A radius is infinite where it is too large itself, not where twice it is.
    #[test]
    fn radii_reach_to_the_edge_of_floating_point() {
        let inputs = RadiusInputs {
            horizon: 1,
            feature_bound: 1.0,
            param_bound: 1.0,
            ridge: 1.0,
            fail_prob: 0.05,
        };
        // G/κ = G (e^z + 2 + e^−z).
        for z in [700.0, 709.0, 709.7f64] {
            let got = theory(1.0, z, &inputs);
            assert!((got / z.exp() - 1.0).abs() < 1e-12, "{z}: {got}");
        }
        assert_eq!(theory(1.0, 710.0, &inputs), f64::INFINITY);
    }
}
