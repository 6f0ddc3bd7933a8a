//! An instance with its estimation constants, and what every method makes of one data set.

use anyhow::Result;
use nalgebra::{DMatrix, DVector};
use rto::algorithm1::{Baseline, ConfidenceSet, algorithm1, maxmin, theorem_4_2, theorem_b1};
use rto::estimate::{Curvature, Design, Estimate, RadiusInputs, RadiusKind, sample_preferences};
use rto::features::{DenseFeatures, FeatureMap};
use rto::mdp::{ActionIx, StateIx, TabularPolicy, for_each_trajectory};
use rto::plan::{Truth, action_covariance, soft_value_iteration, suboptimality};
use rto::reward::LinearReward;
use rto::seed::SeedTree;
use rto::zoo::{Instance, Kind, RandomSpec, random_instance};
use rto_harness::table::Cell;

use crate::config::Config;

/// A radius with its name in the tables.
pub type NamedRadius = (&'static str, RadiusKind);

/// The radii of Algorithm 1, named as in the notes, with C of (A.2).
pub fn named_radii(constant: f64) -> [NamedRadius; 6] {
    [
        ("printed", RadiusKind::Printed { constant }),
        ("theory_upsilon", RadiusKind::Theory(Curvature::Upsilon)),
        ("theory_kappa", RadiusKind::Theory(Curvature::Data)),
        ("self_concordant", RadiusKind::SelfConcordant),
        (
            "likelihood_ratio",
            RadiusKind::LikelihoodRatio {
                finite_sample: false,
            },
        ),
        ("wald", WALD),
    ]
}

/// The asymptotic radius in the metric of the observed information.
pub const WALD: RadiusKind = RadiusKind::Wald { ridge_bias: false };

/// An instance of Assumption 4.1 and the constants of its confidence sets.
pub struct Setup {
    pub instance: Instance,
    pub param_bound: f64,
    pub ridge: f64,
    pub fail_prob: f64,
}

/// The random family of parts (a), (b), (e) and (f).
pub fn random_setup(config: &Config, seeds: &SeedTree) -> Result<Setup> {
    let spec = RandomSpec {
        kind: Kind::Tree { eos: false },
        prompts: config.prompts,
        actions: config.actions,
        horizon: config.horizon,
        dim: config.dim,
        beta: config.beta,
        theta_norm: config.theta_norm,
        zeros: 0.0,
    };
    let mut instance = random_instance(&spec, seeds)?;
    instance.features = respread(&instance.features, config.feature_spread)?;
    Ok(Setup {
        instance,
        param_bound: config.param_bound,
        ridge: config.ridge,
        fail_prob: config.fail_prob,
    })
}

/// Norms uniform on [1 − spread, 1] in place of [0, 1], in the same directions.
fn respread(features: &DenseFeatures, spread: f64) -> Result<DenseFeatures> {
    let ((n_states, n_actions), dim) = (features.shape(), features.dim());
    let mut values = Vec::with_capacity(n_states * n_actions * dim);
    for s in 0..n_states as u32 {
        for a in 0..n_actions as u32 {
            let row = features.row(StateIx(s), ActionIx(a));
            let norm = row.iter().map(|x| x * x).sum::<f64>().sqrt();
            let factor = match norm > 0.0 {
                true => (1.0 - spread + spread * norm) / norm,
                false => 1.0,
            };
            values.extend(row.iter().map(|x| factor * x));
        }
    }
    Ok(DenseFeatures::try_new(n_states, n_actions, dim, values)?)
}

/// What a method did on one data set.
pub struct Outcome {
    pub method: &'static str,
    pub radius: &'static str,
    /// The radius.
    pub rho: Option<f64>,
    /// Whether the truth lies in the confidence set, the premise of the bound.
    pub covered: Option<bool>,
    pub suboptimality: f64,
    pub bound: Option<f64>,
}

impl Outcome {
    fn plain(method: &'static str, suboptimality: f64) -> Self {
        Self {
            method,
            radius: "",
            rho: None,
            covered: None,
            suboptimality,
            bound: None,
        }
    }

    /// The outcome as cells, after what says which data set it was.
    pub fn cells(&self, key: &[Cell]) -> Vec<Cell> {
        let covered = self.covered.map(|c| if c { "yes" } else { "no" });
        let mut row = key.to_vec();
        row.extend([
            self.method.into(),
            self.radius.into(),
            self.rho.into(),
            covered.into(),
            self.suboptimality.into(),
            self.bound.into(),
        ]);
        row
    }
}

/// A fitted data set.
pub struct Fitted<'a> {
    pub setup: &'a Setup,
    pub estimate: Estimate,
}

impl Setup {
    /// Draws n pairs, both responses from the reference policy.
    pub fn sample(&self, n: usize, seeds: &SeedTree) -> Result<Design> {
        let g = &self.instance;
        let behaviours = (&g.reference, &g.reference);
        let pairs = sample_preferences(&g.mdp, &g.reward(), behaviours, n, seeds)?;
        Ok(Design::from_pairs(&g.mdp, &g.features, &pairs)?)
    }

    /// Line 2 of Algorithm 1 and everything that the radii need.
    pub fn fit(&self, design: &Design) -> Result<Fitted<'_>> {
        let inputs = RadiusInputs {
            horizon: self.instance.mdp.horizon(),
            feature_bound: self.instance.features.bound(),
            param_bound: self.param_bound,
            ridge: self.ridge,
            fail_prob: self.fail_prob,
        };
        Ok(Fitted {
            setup: self,
            estimate: Estimate::new(design, &inputs)?,
        })
    }

    /// SubOpt of the reference policy.
    pub fn reference_suboptimality(&self) -> Result<f64> {
        let g = &self.instance;
        let gap = suboptimality(g.problem(), &g.reward(), &g.reference)?;
        Ok(gap)
    }

    /// What n·SubOpt of the plain maximum-likelihood policy tends to: (1/2β) tr(Cov_{π*}(ψ) I⁻¹), with I the
    /// Fisher information of one pair drawn from π_ref.
    ///
    /// SubOpt = (1/2β) Var_{π*}(ψᵀΔ) to second order in Δ = θ_MLE − θ*, and nE\[ΔΔᵀ\] → I⁻¹.
    pub fn constant(&self) -> Result<f64> {
        let g = &self.instance;
        let star = soft_value_iteration(g.problem(), &g.reward())?;
        let covariance = action_covariance(&g.mdp, &star.policy, &g.features)?;
        let information = self.information()?;
        let solved = information.clone().cholesky().map(|c| c.solve(&covariance));
        // Directions that no pair shows are not estimated: no finite constant.
        let trace = solved.map_or(f64::INFINITY, |m| m.trace());
        Ok(trace / (2.0 * g.beta.get()))
    }

    /// E\[σ′(z₁ − z₂)(ψ₁ − ψ₂)(ψ₁ − ψ₂)ᵀ\] over prompts and two responses from π_ref, exactly.
    pub fn information(&self) -> Result<DMatrix<f64>> {
        let g = &self.instance;
        let dim = g.features.dim();
        let mut total = DMatrix::zeros(dim, dim);
        for (root, weight) in g.mdp.roots() {
            let mut psi: Vec<DVector<f64>> = Vec::new();
            let (mut prob, mut odds) = (Vec::new(), Vec::new());
            for_each_trajectory(&g.mdp, root, |steps| {
                let (mut sum, mut log_prob) = (vec![0.0; dim], 0.0);
                for &(s, a) in steps {
                    g.features.add(s, a, 1.0, &mut sum);
                    log_prob += g.reference.log_prob(s, a);
                }
                let z: f64 = sum.iter().zip(&g.theta_star).map(|(p, t)| p * t).sum();
                odds.push(z.exp());
                prob.push(log_prob.exp());
                psi.push(DVector::from_vec(sum));
            })?;
            // Σ w_ij (ψ_i − ψ_j)(ψ_i − ψ_j)ᵀ = 2 Σ_i ψ_i (ψ_i Σ_j w_ij − Σ_j w_ij ψ_j)ᵀ for symmetric w, and
            // σ′(z_i − z_j) = o_i o_j/(o_i + o_j)² with o = e^z.
            for i in 0..psi.len() {
                let (mut mass, mut mean) = (0.0, DVector::<f64>::zeros(dim));
                for j in 0..psi.len() {
                    let slope = odds[i] * odds[j] / (odds[i] + odds[j]).powi(2);
                    let w = prob[i] * prob[j] * slope;
                    mass += w;
                    mean.axpy(w, &psi[j], 1.0);
                }
                let inner = &psi[i] * mass - mean;
                total.ger(2.0 * weight, &psi[i], &inner, 1.0);
            }
        }
        Ok((&total + total.transpose()) * 0.5)
    }
}

impl Fitted<'_> {
    /// SubOpt of the policy that trusts θ_MLE.
    pub fn greedy(&self) -> Result<f64> {
        let g = &self.setup.instance;
        let gap = suboptimality(g.problem(), &g.reward(), &self.greedy_policy()?)?;
        Ok(gap)
    }

    fn greedy_policy(&self) -> Result<TabularPolicy> {
        let g = &self.setup.instance;
        let estimate = LinearReward::try_new(&g.features, &self.estimate.fit.theta)?;
        Ok(soft_value_iteration(g.problem(), &estimate)?.policy)
    }

    /// π_ref, plain MLE, and at each radius Algorithm 1, (B.1) and its baselined form.
    pub fn outcomes(&self, kinds: &[NamedRadius]) -> Result<Vec<Outcome>> {
        // The optimum of the truth is computed once for all of them.
        let truth = self.setup.instance.truth()?;
        let reference = truth.suboptimality(&self.setup.instance.reference)?;
        let greedy = truth.suboptimality(&self.greedy_policy()?)?;
        let mut out = vec![
            Outcome::plain("reference", reference),
            Outcome::plain("greedy", greedy),
        ];
        for (name, kind) in kinds {
            let (_, set) = self.estimate.set(*kind)?;
            out.extend(set_outcomes(&self.setup.instance, &truth, name, &set)?);
        }
        Ok(out)
    }
}

/// Algorithm 1, (B.1) and its baselined form on one confidence set.
pub fn set_outcomes(
    g: &Instance,
    truth: &Truth<'_, LinearReward<'_, DenseFeatures>>,
    radius: &'static str,
    set: &ConfidenceSet<'_>,
) -> Result<Vec<Outcome>> {
    let phi = &g.features;
    let outcome = |method, suboptimality, bound| Outcome {
        method,
        radius,
        rho: Some(set.radius),
        covered: Some(set.distance(&g.theta_star) <= set.radius),
        suboptimality,
        bound: Some(bound),
    };
    let result = algorithm1(g.problem(), phi, set, None)?;
    let theorem = theorem_4_2(truth, set, &result)?;
    let mut out = vec![outcome("algorithm1", theorem.suboptimality, theorem.bound)];
    for (method, baseline) in [("b1", Baseline::None), ("baselined", Baseline::Reference)] {
        let solution = maxmin(g.problem(), phi, set, baseline)?;
        let theorem = theorem_b1(truth, phi, set, &solution)?;
        out.push(outcome(method, theorem.suboptimality, theorem.bound));
    }
    Ok(out)
}

#[cfg(test)]
mod tests {
    use super::*;
    use rto::numerics::sigmoid;
    use rto_harness::settings::Settings;

    fn small() -> Setup {
        let mut config: Config = toml_config();
        (config.actions, config.horizon, config.dim) = (3, 2, 3);
        random_setup(&config, &SeedTree::new(1)).unwrap()
    }

    fn toml_config() -> Config {
        Config::resolve(&Default::default(), &crate::config::Flags::default()).unwrap()
    }

    #[test]
    fn information_is_the_sum_over_all_pairs() {
        let setup = small();
        let g = &setup.instance;
        let mut expected = DMatrix::zeros(3, 3);
        for (root, weight) in g.mdp.roots() {
            let mut all = Vec::new();
            for_each_trajectory(&g.mdp, root, |steps| {
                let mut psi = DVector::zeros(3);
                let mut p = 1.0;
                for &(s, a) in steps {
                    g.features.add(s, a, 1.0, psi.as_mut_slice());
                    p *= g.reference.prob(s, a);
                }
                all.push((p, psi));
            })
            .unwrap();
            for (p, a) in &all {
                for (q, b) in &all {
                    let x = a - b;
                    let z = x.dot(&DVector::from_column_slice(&g.theta_star));
                    let slope = sigmoid(z) * sigmoid(-z);
                    expected += &x * x.transpose() * (weight * p * q * slope);
                }
            }
        }
        assert!((setup.information().unwrap() - expected).norm() < 1e-13);
    }

    #[test]
    fn outcomes_hold_their_bounds_where_the_truth_is_covered() {
        let setup = small();
        let design = setup.sample(300, &SeedTree::new(2)).unwrap();
        let kinds = named_radii(1.0);
        let outcomes = setup.fit(&design).unwrap().outcomes(&kinds).unwrap();
        assert_eq!(outcomes.len(), 2 + 3 * kinds.len());
        for o in outcomes.iter().filter(|o| o.covered == Some(true)) {
            assert!(o.suboptimality <= o.bound.unwrap() + 1e-9, "{}", o.method);
        }
    }
}
