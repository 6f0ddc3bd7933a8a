//! From an instance to its report, by the library's planners and estimators.

use crate::instance::{Estimation, Features, Instance, Source};
use crate::population::population_loss;
use crate::report::{
    Active, Algorithm1, Dpo, MaxMin, Mle, Radii, Report, Robust, Rows, RtoReport, Suboptimality,
};
use crate::world::{Kind, World};
use anyhow::{Context, Result, bail};
use nalgebra::DMatrix;
use ndarray::Array2;
use rto::algorithm1::{
    Baseline, ConfidenceSet, KlBalls, PessimisticReward, algorithm1, maxmin,
    robust_soft_value_iteration,
};
use rto::estimate::{
    BtFit, Curvature, Design, FitOptions, Metric, MetricKind, RadiusInputs, RadiusKind, Separation,
    fit_bradley_terry, radii, separation,
};
use rto::features::{DenseFeatures, FeatureMap};
use rto::mdp::{Beta, PreferencePair, TabularPolicy};
use rto::numerics::log_sigmoid;
use rto::plan::{
    PREDETERMINED_LIMIT, SoftOptimum, Visitation, best_predetermined, evaluate, rto_optimum,
    soft_value_iteration, visitation,
};
use rto::reward::{LinearReward, LogRatioReward, RewardModel, TabularReward};

/// Everything the instance determines.
pub fn solve(instance: &Instance) -> Result<Report> {
    let solver = Solver::new(instance)?;
    let estimate = solver.estimate()?;
    let (dpo, dpo_policy) = match solver.dpo(estimate.as_ref())? {
        Some((report, policy)) => (Some(report), Some(policy)),
        None => (None, None),
    };
    let world = &instance.world;
    let truth = solver.truth.as_ref();
    let value = |policy: &TabularPolicy| -> Result<Option<Vec<f64>>> {
        let Some(truth) = truth else { return Ok(None) };
        Ok(Some(roots(world, &solver.evaluate(truth, policy)?)))
    };
    let policy = instance.policy.as_ref();
    Ok(Report {
        soft_value: truth.map(|t| roots(world, &t.star.v)),
        soft_value_mean: truth.map(|t| t.star.mean_value(&world.mdp)),
        reference_value: value(&instance.reference)?,
        policy_value: policy.map(&value).transpose()?.flatten(),
        suboptimality: Suboptimality {
            reference: solver.gap(&instance.reference)?,
            policy: policy.map(|p| solver.gap(p)).transpose()?.flatten(),
        },
        root_policy: truth.map(|t| root_rows(world, |s| t.star.policy.probs(s))),
        feature_expectation: match (truth, &solver.features) {
            (Some(t), Some(f)) => Some(t.visits.features(f)?),
            _ => None,
        },
        predetermined_value: solver.predetermined()?,
        mle: estimate.as_ref().map(Estimate::mle),
        sigma_d: estimate.as_ref().map(|e| matrix_rows(e.sigma.matrix())),
        log_det_sigma: estimate.as_ref().map(|e| e.sigma.log_det()),
        algorithm1: estimate
            .as_ref()
            .map(|e| solver.algorithm1(e))
            .transpose()?,
        theorem_b1: solver.maxmin(estimate.as_ref(), Baseline::None)?,
        baselined: solver.maxmin(estimate.as_ref(), Baseline::Reference)?,
        robust: solver.robust(estimate.as_ref())?,
        rto: solver.rto(dpo_policy.as_ref())?,
        warnings: estimate.as_ref().map_or(Vec::new(), Estimate::warnings),
        radii: estimate.map(|e| e.radii),
        dpo,
    })
}

/// V at s₁ of each prompt; 0 where the episode is over before it starts.
fn roots(world: &World, v: &[f64]) -> Vec<f64> {
    let value = |s: &Option<rto::mdp::StateIx>| s.map_or(0.0, |s| v[s.ix()]);
    world.roots.iter().map(value).collect()
}

fn root_rows(world: &World, row: impl Fn(rto::mdp::StateIx) -> Vec<f64>) -> Rows {
    world.roots.iter().map(|s| s.map(&row)).collect()
}

fn matrix_rows(matrix: &DMatrix<f64>) -> Vec<Vec<f64>> {
    let rows = matrix.row_iter();
    rows.map(|row| row.iter().copied().collect()).collect()
}

/// What the true reward determines.
struct Truth {
    reward: TabularReward,
    star: SoftOptimum,
    visits: Visitation,
}

struct Solver<'a> {
    instance: &'a Instance,
    truth: Option<Truth>,
    features: Option<DenseFeatures>,
}

/// θ_MLE with its metrics and the chosen radius.
struct Estimate {
    design: Design,
    fit: BtFit,
    sigma: Metric,
    /// The metric of the bonus, the ellipsoid and the bound.
    metric: Metric,
    radius: f64,
    param_bound: f64,
    rank: usize,
    separation: Option<Separation>,
    radii: Radii,
}

impl Estimate {
    fn set(&self) -> Result<ConfidenceSet<'_>> {
        Ok(ConfidenceSet::try_new(
            &self.fit.theta,
            &self.metric,
            self.radius,
            self.param_bound,
        )?)
    }

    fn mle(&self) -> Mle {
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

    fn warnings(&self) -> Vec<String> {
        let mut out = Vec::new();
        let (n, d) = (self.design.n(), self.design.dim());
        if n > 0 && self.rank < d {
            let few = if d > n { ", d > n" } else { "" };
            out.push(format!(
                "features: rank {} of d = {d} on the n = {n} pairs of preferences (rank-deficient{few}); the estimate of least norm is used",
                self.rank
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

impl<'a> Solver<'a> {
    fn new(instance: &'a Instance) -> Result<Self> {
        let world = &instance.world;
        let truth = match &instance.reward {
            None => None,
            Some(table) => {
                let reward = TabularReward::try_new(world.lift(table))?;
                let star =
                    soft_value_iteration(&world.mdp, &reward, &instance.reference, instance.beta)?;
                Some(Truth {
                    visits: visitation(&world.mdp, &star.policy)?,
                    reward,
                    star,
                })
            }
        };
        let over = |f: &Features| f.over(&world.origin, world.n_actions());
        Ok(Self {
            features: instance.features.as_ref().map(over).transpose()?,
            instance,
            truth,
        })
    }

    fn evaluate(&self, truth: &Truth, policy: &TabularPolicy) -> Result<Vec<f64>> {
        let i = self.instance;
        Ok(evaluate(&i.world.mdp, &truth.reward, policy, &i.reference, i.beta)?.v)
    }

    /// SubOpt(π) for the true reward at β.
    fn gap(&self, policy: &TabularPolicy) -> Result<Option<f64>> {
        let Some(truth) = &self.truth else {
            return Ok(None);
        };
        let mdp = &self.instance.world.mdp;
        let value = rto::plan::mean_value(mdp, &self.evaluate(truth, policy)?);
        Ok(Some(truth.star.mean_value(mdp) - value))
    }

    fn predetermined(&self) -> Result<Option<f64>> {
        let mdp = &self.instance.world.mdp;
        let sequences = (mdp.n_actions() as f64).powi(mdp.horizon() as i32);
        if sequences > PREDETERMINED_LIMIT as f64 {
            return Ok(None);
        }
        let best = |t: &Truth| best_predetermined(mdp, &t.reward, &self.instance.reference);
        Ok(self.truth.as_ref().map(best).transpose()?.map(|b| b.value))
    }

    fn estimate(&self) -> Result<Option<Estimate>> {
        let (Some(pairs), Some(features)) = (&self.instance.pairs, &self.features) else {
            return Ok(None);
        };
        let e = &self.instance.estimation;
        let design = Design::from_pairs(&self.instance.world.mdp, features, pairs)?;
        let param_bound = e.param_bound.unwrap_or(f64::INFINITY);
        let options = FitOptions {
            param_bound,
            ..FitOptions::default()
        };
        let (fit, separation) = fitted(&design, &options, e.param_bound)?;
        let (inputs, all) = self.all_radii(e, features, &design, &fit)?;
        let name = e.scale_name.as_str();
        let radius = all.radius(e.scale)?;
        if let (Some(metric), false) = (e.metric, matches!(e.scale, RadiusKind::Number(..)))
            && metric != radius.metric
        {
            bail!(
                "estimation.metric: found {}, but the radius {} is measured in {}",
                metric_name(metric),
                name,
                metric_name(radius.metric)
            );
        }
        if e.param_bound.is_none() && needs_bound(e.scale) {
            bail!(
                "estimation.param_bound: missing, the radius {} depends on it",
                name
            );
        }
        let sigma = Metric::sigma_d(&design, e.ridge)?;
        let metric = match radius.metric {
            MetricKind::SigmaD => sigma.clone(),
            MetricKind::Fisher => Metric::fisher(&design, &fit.theta, e.ridge)?,
        };
        let known = |x: f64| e.param_bound.map(|_| x);
        let value = |kind| -> Result<f64> { Ok(all.radius(kind)?.value) };
        let finite = RadiusKind::LikelihoodRatio {
            finite_sample: true,
        };
        let report = Radii {
            G_noise: all.noise,
            Upsilon_2HLB: known(rto::estimate::curvature_bound(&inputs)),
            rho_theory_Upsilon: known(value(RadiusKind::Theory(Curvature::Upsilon))?),
            kappa_data: known(all.kappa),
            rho_theory_kappa: known(value(RadiusKind::Theory(Curvature::Data))?),
            c_LR_rigorous: known(all.lr_threshold),
            rho_LR_via_kappa: known(value(finite)?),
            rho_wald_Hmetric: value(RadiusKind::Wald { ridge_bias: false })?,
            rho_selfconcordant_Hmetric: known(value(RadiusKind::SelfConcordant)?),
        };
        Ok(Some(Estimate {
            radius: radius.value,
            rank: all.rank,
            separation,
            radii: report,
            design,
            fit,
            sigma,
            metric,
            param_bound,
        }))
    }

    /// The ingredients of the radii. Without B the ones that need it are computed for B = 1 and not shown.
    fn all_radii(
        &self,
        e: &Estimation,
        features: &DenseFeatures,
        design: &Design,
        fit: &BtFit,
    ) -> Result<(RadiusInputs, rto::estimate::Radii)> {
        let largest = features.bound();
        let feature_bound = match e.feature_bound {
            Some(given) if given < largest * (1.0 - 1e-12) => bail!(
                "estimation.feature_bound: found {given}, but the largest feature norm is {largest}"
            ),
            Some(given) => given,
            None if largest > 0.0 => largest,
            None => bail!("features: all are 0"),
        };
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

    fn algorithm1(&self, e: &Estimate) -> Result<Algorithm1> {
        let i = self.instance;
        let features = self.features.as_ref().expect("an estimate has features");
        let set = e.set()?;
        let mdp = &i.world.mdp;
        let output = algorithm1(mdp, features, &i.reference, i.beta, &set, None)?;
        let policy = &output.optimum.policy;
        let norms = output.reward.norms();
        let bonus = |t: &Truth| t.visits.expect(|s, a| norms[[s.ix(), a.ix()]]);
        let expected_bonus_norm = self.truth.as_ref().map(bonus);
        let kl = match &self.truth {
            None => None,
            Some(t) => Some(t.visits.kl(mdp, &t.star.policy, policy)?),
        };
        let bound = expected_bonus_norm.zip(kl).map(|(norm, kl)| {
            let discount = if i.beta.get() > 0.0 {
                i.beta.get() * kl
            } else {
                0.0
            };
            2.0 * e.radius * norm - discount
        });
        let star = i.theta_star.as_ref();
        Ok(Algorithm1 {
            bonus_scale: e.radius,
            pessimistic_value: output.pessimistic_value(mdp),
            suboptimality: self.gap(policy)?,
            expected_bonus_norm,
            kl,
            bound,
            theta_star_in_set: star.map(|theta| set.distance(theta) <= e.radius),
            metric: metric_name(e.metric.kind()),
            root_policy: root_rows(&i.world, |s| policy.probs(s)),
        })
    }

    /// (B.1); null at β = 0, where the program is not smooth.
    fn maxmin(&self, estimate: Option<&Estimate>, baseline: Baseline) -> Result<Option<MaxMin>> {
        let i = self.instance;
        let (Some(e), Some(features)) = (estimate, &self.features) else {
            return Ok(None);
        };
        if i.beta.get() == 0.0 {
            return Ok(None);
        }
        let set = e.set()?;
        let solved = maxmin(&i.world.mdp, features, &i.reference, i.beta, &set, baseline)?;
        let norm_of_expectation = match &self.truth {
            None => None,
            Some(t) => {
                let mut expectation = t.visits.features(features)?;
                for (x, nu) in expectation.iter_mut().zip(&solved.nu) {
                    *x -= nu;
                }
                Some(e.metric.inverse_norm(&expectation))
            }
        };
        let policy = &solved.optimum.policy;
        Ok(Some(MaxMin {
            value: solved.value,
            suboptimality: self.gap(policy)?,
            norm_of_expectation,
            bound: norm_of_expectation.map(|norm| 2.0 * e.radius * norm),
            theta_star_in_set: i.theta_star.as_ref().map(|theta| set.contains(theta)),
            active: Active {
                ellipsoid: solved.ellipsoid_active,
                ball: solved.ball_active,
            },
            duality_gap: solved.duality_gap,
            root_policy: root_rows(&i.world, |s| policy.probs(s)),
            theta: solved.theta,
        }))
    }

    /// Remark B.2 on the table with P̂: with r̂ of (4.2) where there are preferences, else the given reward.
    fn robust(&self, estimate: Option<&Estimate>) -> Result<Option<Robust>> {
        let i = self.instance;
        let (Kind::General(general), Some(counts)) = (&i.world.kind, &i.counts) else {
            return Ok(None);
        };
        let actions = i.world.n_actions();
        let (mdp, origin) = general.with_rows(&counts.rows, i.world.horizon)?;
        let over = |table: &Array2<f64>| {
            Array2::from_shape_fn((origin.len(), actions), |(s, a)| table[[origin[s], a]])
        };
        let (reward, name) = match (estimate, &i.features, &i.reward) {
            (Some(e), Some(features), _) => {
                let phi = features.over(&origin, actions)?;
                let hat = PessimisticReward::try_new(&phi, &e.set()?, None)?;
                (hat.tabulate(), "pessimistic")
            }
            (_, _, Some(table)) => (TabularReward::try_new(over(table))?, "given"),
            _ => return Ok(None),
        };
        let balls = KlBalls::from_counts(&over(&counts.visits), counts.zeta)?;
        let reference = TabularPolicy::from_log_probs(over(&i.reference_table))?;
        let optimum = robust_soft_value_iteration(&mdp, &balls, &reward, &reference, i.beta)?;
        let first = |s: usize| origin.iter().position(|o| *o == s);
        let rows = (0..i.world.n_states()).map(|s| {
            let root = i.world.roots[s].and_then(|_| first(s))?;
            Some(optimum.policy.probs(rto::mdp::StateIx(root as u32)))
        });
        Ok(Some(Robust {
            value: optimum.mean_value(&mdp),
            reward: name,
            root_policy: rows.collect(),
        }))
    }

    /// The minimiser of (4.4): soft-optimal for θ_MLE, or without preferences for the true reward, which
    /// is what infinitely many of them would give.
    fn dpo(&self, estimate: Option<&Estimate>) -> Result<Option<(Dpo, TabularPolicy)>> {
        let i = self.instance;
        let beta = i.dpo_beta.unwrap_or(i.beta);
        if beta.get() == 0.0 {
            return Ok(None);
        }
        let mdp = &i.world.mdp;
        let (policy, source) = match (estimate, &self.features, &self.truth) {
            (Some(e), Some(features), _) => {
                let learned = LinearReward::try_new(features, &e.fit.theta)?;
                let optimum = soft_value_iteration(mdp, &learned, &i.reference, beta)?;
                (optimum.policy, "preferences")
            }
            (_, _, Some(t)) => {
                let optimum = soft_value_iteration(mdp, &t.reward, &i.reference, beta)?;
                (optimum.policy, "population")
            }
            _ => return Ok(None),
        };
        let implicit = LogRatioReward::try_new(&policy, &i.reference, beta.get()).context("dpo")?;
        let reward_row = |s| {
            let mut row = vec![0.0; mdp.n_actions()];
            implicit.write_row(s, &mut row);
            row
        };
        let report = Dpo {
            token_reward_root: root_rows(&i.world, reward_row),
            root_policy: root_rows(&i.world, |s| policy.probs(s)),
            loss: i
                .pairs
                .as_ref()
                .and_then(|pairs| mean_loss(pairs, &implicit)),
            population_loss: match &self.truth {
                Some(t) => population_loss(mdp, &t.reward, &implicit, &i.reference)?,
                None => None,
            },
            suboptimality: self.gap(&policy)?,
            beta: beta.get(),
            source,
        };
        Ok(Some((report, policy)))
    }

    fn rto(&self, dpo: Option<&TabularPolicy>) -> Result<Option<RtoReport>> {
        let i = self.instance;
        let Some(rto) = i.rto else {
            return Ok(None);
        };
        let (source, beta): (&TabularPolicy, Beta) = match (rto.source, dpo, &self.truth) {
            (Source::Dpo, Some(dpo), _) => (dpo, i.dpo_beta.unwrap_or(i.beta)),
            (Source::Optimal, _, Some(t)) if i.beta.get() > 0.0 => (&t.star.policy, i.beta),
            (Source::Optimal, _, None) => return Ok(None),
            (Source::Optimal, _, Some(_)) => {
                bail!("rto.source: the optimal policy at beta = 0 has no log-ratio")
            }
            (Source::Dpo, None, _) if i.beta.get() == 0.0 && i.dpo_beta.is_none() => {
                bail!("dpo.beta: missing, beta = 0 cannot stand in for it")
            }
            (Source::Dpo, None, _) => bail!("rto.source: dpo needs preferences or a reward"),
        };
        let mdp = &i.world.mdp;
        let optimum =
            rto_optimum(mdp, source, &i.reference, rto.beta1, rto.beta2).context("rto")?;
        Ok(Some(RtoReport {
            root_policy: root_rows(&i.world, |s| optimum.policy.probs(s)),
            value: roots(&i.world, &optimum.v),
            beta_effective: beta.get() * rto.beta2.get() / rto.beta1.get(),
            suboptimality: self.gap(&optimum.policy)?,
            source: match rto.source {
                Source::Dpo => "dpo",
                Source::Optimal => "optimal",
            },
        }))
    }
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

/// Mean of −log σ(Σ r(τ^w) − Σ r(τ^l)) for the implicit reward; none without pairs.
fn mean_loss(pairs: &[PreferencePair], reward: &LogRatioReward) -> Option<f64> {
    let total = |t: &rto::mdp::Trajectory| t.sum(|s, a| reward.reward(s, a));
    let losses = pairs
        .iter()
        .map(|p| -log_sigmoid(total(p.winner()) - total(p.loser())));
    (!pairs.is_empty()).then(|| losses.sum::<f64>() / pairs.len() as f64)
}

fn metric_name(kind: MetricKind) -> &'static str {
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
