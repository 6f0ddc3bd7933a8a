//! The estimate (4.1), its metrics and radii, against independent solvers (argmin) and closed forms.

use argmin::core::{CostFunction, Executor, Gradient, Hessian, State};
use argmin::solver::trustregion::{Steihaug, TrustRegion};
use nalgebra::DVector;
use rand::Rng;
use rto::Error;
use rto::algorithm1::{Baseline, ConfidenceSet, maxmin, worst_case_expectation};
use rto::estimate::{
    Design, FitOptions, Metric, MetricKind, RadiusInputs, RadiusKind, RowSpace, Separation,
    fit_bradley_terry, gradient, information, log_likelihood, radii, sample_preferences,
    separation,
};
use rto::features::{DenseFeatures, FeatureMap, LogRatio, OneHot};
use rto::mdp::{
    ActionIx, Beta, Problem, StateIx, TabularMdp, TabularPolicy, TokenTree, for_each_trajectory,
};
use rto::numerics::{log_sum_exp, sigmoid};
use rto::plan::soft_value_iteration;
use rto::reward::{LinearReward, RewardModel};
use rto::seed::SeedTree;
use rto::zoo;
use rto::zoo::{Kind, RandomSpec, random_instance, random_policy};

/// Rows oriented winner − loser with labels drawn from a random θ* of norm `scale`.
fn data(n: usize, d: usize, scale: f64, seed: u64) -> Design {
    let mut rng = SeedTree::new(seed).child("design").rng();
    let theta: Vec<f64> = (0..d).map(|_| rng.random_range(-1.0..1.0)).collect();
    let norm = theta.iter().map(|t| t * t).sum::<f64>().sqrt();
    let mut rows = Vec::with_capacity(n * d);
    for _ in 0..n {
        let x: Vec<f64> = (0..d).map(|_| rng.random_range(-1.0..1.0)).collect();
        let z: f64 = x
            .iter()
            .zip(&theta)
            .map(|(a, b)| a * b * scale / norm)
            .sum();
        let sign = if rng.random::<f64>() < sigmoid(z) {
            1.0
        } else {
            -1.0
        };
        rows.extend(x.iter().map(|v| sign * v));
    }
    Design::try_new(d, rows).unwrap()
}

fn bounded(param_bound: f64) -> FitOptions {
    FitOptions {
        param_bound,
        ..FitOptions::default()
    }
}

/// `data` with every row changed by `mix`.
fn mixed(n: usize, d: usize, seed: u64, mix: impl Fn(&mut [f64])) -> Design {
    let plain = data(n, d, 1.5, seed);
    let mut rows = plain.rows().to_vec();
    rows.chunks_exact_mut(d).for_each(mix);
    Design::try_new(d, rows).unwrap()
}

/// θ by Newton steps from the library's derivatives, halved until L rises.
fn newton(design: &Design, penalty: f64) -> DVector<f64> {
    let d = design.dim();
    let mut theta = DVector::zeros(d);
    let value = |t: &DVector<f64>| {
        log_likelihood(design, t.as_slice()).unwrap() - 0.5 * penalty * t.norm_squared()
    };
    for _ in 0..30 {
        let slope = DVector::from_vec(gradient(design, theta.as_slice()).unwrap());
        let curvature = information(design, theta.as_slice()).unwrap();
        let curvature = curvature + nalgebra::DMatrix::identity(d, d) * penalty;
        let step = curvature
            .cholesky()
            .unwrap()
            .solve(&(slope - &theta * penalty));
        let mut t = 1.0;
        while t > 1e-6 && value(&(&theta + &step * t)) < value(&theta) {
            t *= 0.5;
        }
        theta += step * t;
    }
    theta
}

/// −L(θ) + (w/2)·max(0, ‖θ‖² − B² + λ/w)²: an augmented Lagrangian for argmin's trust region.
struct Augmented<F> {
    cost: F,
    constraints: Vec<(nalgebra::DMatrix<f64>, DVector<f64>, f64)>,
    lambda: Vec<f64>,
    weight: f64,
}

impl<F: Fn(&[f64]) -> (f64, Vec<f64>)> Augmented<F> {
    fn slack(&self, i: usize, theta: &DVector<f64>) -> f64 {
        let (q, o, r2) = &self.constraints[i];
        let delta = theta - o;
        delta.dot(&(q * &delta)) - r2
    }
}

impl<F: Fn(&[f64]) -> (f64, Vec<f64>)> CostFunction for &Augmented<F> {
    type Param = DVector<f64>;
    type Output = f64;
    fn cost(&self, theta: &DVector<f64>) -> Result<f64, argmin::core::Error> {
        let mut value = (self.cost)(theta.as_slice()).0;
        for i in 0..self.constraints.len() {
            let push = (self.lambda[i] + self.weight * self.slack(i, theta)).max(0.0);
            value += push * push / (2.0 * self.weight);
        }
        Ok(value)
    }
}

impl<F: Fn(&[f64]) -> (f64, Vec<f64>)> Gradient for &Augmented<F> {
    type Param = DVector<f64>;
    type Gradient = DVector<f64>;
    fn gradient(&self, theta: &DVector<f64>) -> Result<DVector<f64>, argmin::core::Error> {
        let mut g = DVector::from_vec((self.cost)(theta.as_slice()).1);
        for i in 0..self.constraints.len() {
            let push = (self.lambda[i] + self.weight * self.slack(i, theta)).max(0.0);
            let (q, o, _) = &self.constraints[i];
            g += q * (theta - o) * (2.0 * push);
        }
        Ok(g)
    }
}

/// By central differences of the gradient.
impl<F: Fn(&[f64]) -> (f64, Vec<f64>)> Hessian for &Augmented<F> {
    type Param = DVector<f64>;
    type Hessian = nalgebra::DMatrix<f64>;
    fn hessian(&self, theta: &DVector<f64>) -> Result<nalgebra::DMatrix<f64>, argmin::core::Error> {
        let (d, step) = (theta.len(), 1e-5);
        let mut out = nalgebra::DMatrix::zeros(d, d);
        for k in 0..d {
            let mut up = theta.clone();
            let mut down = theta.clone();
            up[k] += step;
            down[k] -= step;
            out.set_column(
                k,
                &((self.gradient(&up)? - self.gradient(&down)?) / (2.0 * step)),
            );
        }
        Ok((&out + out.transpose()) * 0.5)
    }
}

/// Minimises with multiplier updates; returns θ and the multipliers.
fn independent<F: Fn(&[f64]) -> (f64, Vec<f64>)>(
    cost: F,
    constraints: Vec<(nalgebra::DMatrix<f64>, DVector<f64>, f64)>,
    d: usize,
    start: Vec<f64>,
) -> (Vec<f64>, Vec<f64>) {
    let lambda = vec![0.0; constraints.len()];
    let mut problem = Augmented {
        cost,
        constraints,
        lambda,
        weight: 20.0,
    };
    let mut theta = DVector::from_vec(start);
    assert_eq!(theta.len(), d);
    for _ in 0..60 {
        let solver = TrustRegion::new(Steihaug::new().with_max_iters(20));
        let result = Executor::new(&problem, solver)
            .configure(|state| state.param(theta.clone()).max_iters(60))
            .run()
            .unwrap();
        theta = result.state().get_best_param().unwrap().clone();
        for i in 0..problem.lambda.len() {
            let push = problem.lambda[i] + problem.weight * problem.slack(i, &theta);
            problem.lambda[i] = push.max(0.0);
        }
    }
    (theta.as_slice().to_vec(), problem.lambda)
}

#[test]
fn agrees_with_argmin_inside_and_on_the_ball() {
    for (seed, bound) in [(1, f64::INFINITY), (2, 10.0), (3, 0.7), (4, 0.2)] {
        let design = data(400, 6, 2.0, seed);
        let fit = fit_bradley_terry(&design, &bounded(bound)).unwrap();
        let ball = if bound.is_finite() {
            let unit = nalgebra::DMatrix::identity(6, 6) / (bound * bound);
            vec![(unit, DVector::zeros(6), 1.0)]
        } else {
            Vec::new()
        };
        let cost = |theta: &[f64]| {
            let g = gradient(&design, theta)
                .unwrap()
                .iter()
                .map(|g| -g / 400.0)
                .collect();
            (-log_likelihood(&design, theta).unwrap() / 400.0, g)
        };
        let (theta, lambda) = independent(cost, ball, 6, vec![0.0; 6]);
        for (a, b) in fit.theta.iter().zip(&theta) {
            assert!(
                (a - b).abs() < 1e-6,
                "seed {seed}: {:?} and {theta:?}",
                fit.theta
            );
        }
        assert_eq!(fit.at_bound, bound < 1.0, "seed {seed}");
        if fit.at_bound {
            // That multiplier is of ‖θ‖²/B² − 1 against −L/n, ours of ½‖θ‖² against −L.
            let theirs = 400.0 * 2.0 * lambda[0] / (bound * bound);
            assert!((fit.multiplier - theirs).abs() < 1e-4 * fit.multiplier);
            assert!((fit.norm - bound).abs() < 1e-12);
        }
    }
}

#[test]
fn kkt_conditions_hold_at_every_size() {
    for (n, d, bound) in [
        (1, 1, 1.0),
        (3, 5, 1.0),
        (50, 2, 0.5),
        (9_000, 3, 5.0),
        (40_000, 8, 0.3),
        (60_000, 20, 50.0),
    ] {
        let design = data(n, d, 1.5, n as u64);
        let options = FitOptions {
            tolerance: 1e-11,
            ..bounded(bound)
        };
        let fit = fit_bradley_terry(&design, &options).unwrap();
        let g = gradient(&design, &fit.theta).unwrap();
        let residual: f64 = g
            .iter()
            .zip(&fit.theta)
            .map(|(g, t)| (g - fit.multiplier * t).powi(2))
            .sum::<f64>()
            .sqrt();
        assert!(residual <= 2e-11 * n as f64, "n = {n}, d = {d}: {residual}");
        assert!(fit.norm <= bound * (1.0 + 1e-12));
        assert!(fit.multiplier == 0.0 || (fit.norm - bound).abs() < 1e-10);
    }
}

/// Many parameters: features in units of their own, strongly correlated ones, a feature twice, a ball that cuts, a penalty, and
/// pairs that separate.
#[test]
fn many_parameters_are_fitted_whatever_the_features() {
    let (n, d) = (8_200, 100);
    let own = |x: &mut [f64]| {
        for (k, x) in x.iter_mut().enumerate() {
            *x *= 1e-3f64.powf(k as f64 / 99.0);
        }
    };
    let correlated = |x: &mut [f64]| {
        let mean = x.iter().sum::<f64>();
        x.iter_mut().for_each(|x| *x = 0.02 * *x + mean);
    };
    let units = mixed(n, d, 51, own);
    let designs = [units.clone(), mixed(n, d, 52, correlated)];
    for (design, penalty) in designs.iter().flat_map(|x| [(x, 0.0), (x, 0.5)]) {
        let options = FitOptions {
            penalty,
            ..bounded(f64::INFINITY)
        };
        let fit = fit_bradley_terry(design, &options).unwrap();
        let right = newton(design, penalty);
        let off = DVector::from_column_slice(&fit.theta) - &right;
        let information = information(design, right.as_slice()).unwrap();
        assert!(off.dot(&(information * &off)).sqrt() < 1e-7, "{penalty}");
        assert!(!fit.at_bound && !fit.separable);
        let half = bounded(0.5 * fit.norm);
        if penalty == 0.0 {
            let cut = fit_bradley_terry(design, &half).unwrap();
            assert!(cut.at_bound && (cut.norm / half.param_bound - 1.0).abs() < 1e-12);
            let g = DVector::from_vec(gradient(design, &cut.theta).unwrap());
            let theta = DVector::from_column_slice(&cut.theta);
            assert!((g - theta * cut.multiplier).norm() <= 1e-9 * n as f64);
        }
    }
    // The last feature is the first: θ of least norm shares between them.
    let twice = mixed(n, d, 53, |x| x[99] = x[0]);
    let fit = fit_bradley_terry(&twice, &bounded(1e3)).unwrap();
    assert!((fit.theta[0] - fit.theta[99]).abs() < 1e-9 && !fit.at_bound);
    let separated = mixed(n, d, 54, |x| x[7] = 0.1 + x[7].abs());
    assert!(fit_bradley_terry(&separated, &bounded(f64::INFINITY)).is_err());
    let fit = |threads| {
        let pool = rayon::ThreadPoolBuilder::new().num_threads(threads);
        let pool = pool.build().unwrap();
        pool.install(|| fit_bradley_terry(&units, &bounded(1e4)).unwrap())
    };
    assert_eq!(fit(1), fit(3));
}

#[test]
fn gradient_and_information_are_derivatives() {
    let design = data(60, 4, 1.0, 11);
    let theta = [0.3, -0.4, 0.1, 0.8];
    let g = gradient(&design, &theta).unwrap();
    let h = information(&design, &theta).unwrap();
    let step = 1e-5;
    for k in 0..4 {
        let mut up = theta;
        let mut down = theta;
        up[k] += step;
        down[k] -= step;
        let slope = log_likelihood(&design, &up).unwrap() - log_likelihood(&design, &down).unwrap();
        assert!((slope / (2.0 * step) - g[k]).abs() < 1e-7);
        let (gu, gd) = (
            gradient(&design, &up).unwrap(),
            gradient(&design, &down).unwrap(),
        );
        for j in 0..4 {
            assert!(((gd[j] - gu[j]) / (2.0 * step) - h[(j, k)]).abs() < 1e-7);
        }
    }
}

#[test]
fn separable_data_are_refused_without_the_ball_and_reported_with_it() {
    let design = Design::try_new(2, vec![1.0, 0.2, 0.5, -0.1, 2.0, 1.0]).unwrap();
    let free = fit_bradley_terry(&design, &bounded(f64::INFINITY));
    let Err(Error::Assumption { why, .. }) = free else {
        panic!("{free:?}")
    };
    assert!(why.contains("separable"), "{why}");
    let fit = fit_bradley_terry(&design, &bounded(3.0)).unwrap();
    assert!(fit.separable && fit.at_bound && fit.multiplier > 0.0);
    assert!((fit.norm - 3.0).abs() < 1e-12);
    // Large and separable, through the subset path.
    let many: Vec<f64> = design
        .rows()
        .iter()
        .copied()
        .cycle()
        .take(6 * 20_000)
        .collect();
    let many = Design::try_new(2, many).unwrap();
    assert!(fit_bradley_terry(&many, &bounded(f64::INFINITY)).is_err());
    assert!(fit_bradley_terry(&many, &bounded(3.0)).unwrap().separable);
}

/// Brute force for d = 2: a separating direction, if there is one, may be taken among the normals of the
/// rows (both signs) and the rows themselves, or is a sum of two of them.
fn separates_in_the_plane(rows: &[[f64; 2]]) -> Separation {
    let mut candidates: Vec<[f64; 2]> = Vec::new();
    for x in rows {
        candidates.extend([[-x[1], x[0]], [x[1], -x[0]], *x]);
    }
    let singles = candidates.clone();
    for a in &singles {
        candidates.extend(singles.iter().map(|b| [a[0] + b[0], a[1] + b[1]]));
    }
    let explains = |u: &[f64; 2]| {
        let margins: Vec<f64> = rows.iter().map(|x| x[0] * u[0] + x[1] * u[1]).collect();
        let weak = margins.iter().all(|m| *m >= 0.0);
        weak.then(|| margins.iter().filter(|m| **m > 0.0).count())
    };
    match candidates.iter().filter_map(explains).max().unwrap_or(0) {
        0 => Separation::None,
        all if all == rows.len() => Separation::Complete,
        explained => Separation::Quasi { explained },
    }
}

#[test]
fn separation_agrees_with_brute_force_in_the_plane() {
    let mut seen = [0usize; 3];
    for case in 0..3000u64 {
        let mut rng = SeedTree::new(31).index(case).rng();
        let n = rng.random_range(1..7);
        let whole = |rng: &mut rand_chacha::ChaCha8Rng| f64::from(rng.random_range(-2i32..3));
        let rows: Vec<[f64; 2]> = (0..n).map(|_| [whole(&mut rng), whole(&mut rng)]).collect();
        let design = Design::try_new(2, rows.concat()).unwrap();
        let want = separates_in_the_plane(&rows);
        let fit = fit_bradley_terry(&design, &bounded(2.0)).unwrap();
        for theta in [vec![0.0; 2], fit.theta] {
            assert_eq!(separation(&design, &theta).unwrap(), want, "{rows:?}");
        }
        seen[match want {
            Separation::None => 0,
            Separation::Quasi { .. } => 1,
            Separation::Complete => 2,
        }] += 1;
    }
    assert!(seen.iter().all(|n| *n > 300), "{seen:?}");
}

#[test]
fn quasi_separation_is_told_from_overlap_in_many_dimensions() {
    for (n, d) in [(60, 3), (400, 12), (3000, 40)] {
        let overlapping = data(n, d, 1.0, 77);
        let free = fit_bradley_terry(&overlapping, &bounded(f64::INFINITY)).unwrap();
        let tight = fit_bradley_terry(&overlapping, &bounded(0.1)).unwrap();
        assert!(tight.at_bound);
        for theta in [&free.theta, &tight.theta, &vec![0.0; d]] {
            assert_eq!(separation(&overlapping, theta).unwrap(), Separation::None);
        }
        // One more coordinate, seen by five pairs and always to the winner's favour.
        let mut rows = Vec::new();
        for i in 0..n {
            rows.extend(overlapping.row(i));
            rows.push(if i % (n / 5) == 0 { 0.5 } else { 0.0 });
        }
        let quasi = Design::try_new(d + 1, rows).unwrap();
        let fit = fit_bradley_terry(&quasi, &bounded(4.0)).unwrap();
        assert!(!fit.separable && fit.at_bound);
        for theta in [&fit.theta, &vec![0.0; d + 1]] {
            let found = separation(&quasi, theta).unwrap();
            assert_eq!(
                found,
                Separation::Quasi { explained: 5 },
                "n = {n}, d = {d}"
            );
        }
    }
    let separable = data(10, 12, 1.0, 3); // d > n in general position
    assert_eq!(
        separation(&separable, &[0.0; 12]).unwrap(),
        Separation::Complete
    );
    let none = Design::try_new(2, Vec::new()).unwrap();
    assert_eq!(separation(&none, &[0.0; 2]).unwrap(), Separation::None);
    assert!(separation(&none, &[0.0; 3]).is_err());
}

#[test]
fn rank_deficient_designs_and_more_parameters_than_pairs_give_the_least_norm() {
    // One-hot features of a token tree: only trajectory differences are seen.
    let tree = TokenTree::try_new(1, 2, 3, None).unwrap();
    let map = OneHot {
        n_states: 7,
        n_actions: 2,
    };
    let mdp = tree.compile(&[1.0]).unwrap();
    let uniform = TabularPolicy::uniform(7, 2);
    let theta: Vec<f64> = (0..14).map(|i| (i as f64).sin()).collect();
    let truth = LinearReward::try_new(&map, &theta).unwrap();
    let pairs =
        sample_preferences(&mdp, &truth, (&uniform, &uniform), 3000, &SeedTree::new(3)).unwrap();
    let design = Design::from_pairs(&mdp, &map, &pairs).unwrap();
    let space = RowSpace::of(&design).unwrap();
    assert_eq!(space.rank(), 7); // eight leaves, up to a constant
    let fit = fit_bradley_terry(&design, &bounded(20.0)).unwrap();
    let projected = space.project(&fit.theta);
    for (a, b) in fit.theta.iter().zip(&projected) {
        assert!((a - b).abs() < 1e-9);
    }
    // d > n.
    let wide = data(4, 9, 1.0, 5);
    let fit = fit_bradley_terry(&wide, &bounded(1.0)).unwrap();
    let projected = RowSpace::of(&wide).unwrap().project(&fit.theta);
    assert!(
        fit.theta
            .iter()
            .zip(&projected)
            .all(|(a, b)| (a - b).abs() < 1e-8)
    );
    // No data at all.
    let none = Design::try_new(3, Vec::new()).unwrap();
    assert_eq!(
        fit_bradley_terry(&none, &bounded(1.0)).unwrap().theta,
        [0.0; 3]
    );
}

#[test]
fn thread_count_does_not_change_the_estimate() {
    let design = data(50_000, 7, 1.0, 21);
    let fit = |threads| {
        let pool = rayon::ThreadPoolBuilder::new()
            .num_threads(threads)
            .build()
            .unwrap();
        pool.install(|| fit_bradley_terry(&design, &bounded(9.0)).unwrap())
    };
    assert_eq!(fit(1), fit(3));
}

#[test]
fn rank_one_updates_and_norms_agree_with_the_matrix() {
    let design = data(30, 5, 1.0, 8);
    let mut grown = Metric::sigma_d(&Design::try_new(5, Vec::new()).unwrap(), 0.7).unwrap();
    for i in 0..design.n() {
        grown.add_row(design.row(i)).unwrap();
    }
    let whole = Metric::sigma_d(&design, 0.7).unwrap();
    assert!((grown.matrix() - whole.matrix()).amax() < 1e-12);
    assert!((grown.log_det() - whole.log_det()).abs() < 1e-11);
    let v = [0.3, -1.0, 2.0, 0.1, 0.5];
    let x = DVector::from_column_slice(&v);
    let square = x.dot(&(whole.matrix() * &x));
    assert!((whole.norm(&v).powi(2) - square).abs() < 1e-11);
    let inverse: f64 = whole.solve(&v).iter().zip(&v).map(|(a, b)| a * b).sum();
    assert!((grown.inverse_norm(&v).powi(2) - inverse).abs() < 1e-12);
}

#[test]
fn radii_cover_the_truth_and_name_their_metric() {
    let spec = RandomSpec {
        kind: Kind::Tree { eos: false },
        prompts: 2,
        actions: 3,
        horizon: 3,
        dim: 4,
        beta: 0.5,
        theta_norm: 1.0,
        zeros: 0.0,
    };
    let (mut wald, mut rigorous) = (0, 0);
    let replicates = 200;
    for i in 0..replicates {
        let seeds = SeedTree::new(5).index(i);
        let g = random_instance(&spec, &seeds).unwrap();
        let pairs = sample_preferences(
            &g.mdp,
            &g.reward(),
            (&g.reference, &g.reference),
            300,
            &seeds.child("data"),
        )
        .unwrap();
        let design = Design::from_pairs(&g.mdp, &g.features, &pairs).unwrap();
        let fit = fit_bradley_terry(&design, &bounded(1.0)).unwrap();
        let inputs = RadiusInputs {
            horizon: 3,
            feature_bound: g.features.bound(),
            param_bound: 1.0,
            ridge: 0.1,
            fail_prob: 0.1,
        };
        let r = radii(&design, &fit.theta, &inputs).unwrap();
        let covered = |kind| {
            let radius = r.radius(kind).unwrap();
            let metric = match radius.metric {
                MetricKind::SigmaD => Metric::sigma_d(&design, 0.1).unwrap(),
                MetricKind::Fisher => Metric::fisher(&design, &fit.theta, 0.1).unwrap(),
            };
            let set = ConfidenceSet::try_new(&fit.theta, &metric, radius.value, 1.0).unwrap();
            set.distance(&g.theta_star) <= radius.value
        };
        use rto::estimate::Curvature::{Data, Upsilon};
        rigorous += usize::from(
            covered(RadiusKind::Theory(Data))
                && covered(RadiusKind::Theory(Upsilon))
                && covered(RadiusKind::LikelihoodRatio {
                    finite_sample: true,
                })
                && covered(RadiusKind::SelfConcordant),
        );
        wald += usize::from(covered(RadiusKind::Wald { ridge_bias: true }));
    }
    // 90% nominal; the rigorous ones are conservative.
    assert!(rigorous == 200, "{rigorous}");
    assert!((170..=200).contains(&wald), "{wald}");
}

/// V*_β(ρ; θ) and its gradient by enumeration of all responses, independent of the planner.
fn brute_force(g: &zoo::Instance, theta: &[f64]) -> (f64, Vec<f64>) {
    let beta = g.beta.get();
    let (mut value, mut grad) = (0.0, vec![0.0; theta.len()]);
    for (root, rho) in g.mdp.roots() {
        let (mut scores, mut features) = (Vec::new(), Vec::new());
        for_each_trajectory(&g.mdp, root, |steps| {
            let mut psi = vec![0.0; theta.len()];
            let mut log_ref = 0.0;
            for &(s, a) in steps {
                g.features.add(s, a, 1.0, &mut psi);
                log_ref += g.reference.log_prob(s, a);
            }
            let total: f64 = psi.iter().zip(theta).map(|(a, b)| a * b).sum();
            scores.push(log_ref + total / beta);
            features.push(psi);
        })
        .unwrap();
        let norm = log_sum_exp(&scores);
        value += rho * beta * norm;
        for (score, psi) in scores.iter().zip(&features) {
            for (g, p) in grad.iter_mut().zip(psi) {
                *g += rho * (score - norm).exp() * p;
            }
        }
    }
    (value, grad)
}

#[test]
fn theorem_b1_program_agrees_with_an_independent_solver_whatever_is_active() {
    let mut seen = std::collections::BTreeSet::new();
    let spec = RandomSpec {
        kind: Kind::Tree { eos: true },
        prompts: 2,
        actions: 3,
        horizon: 2,
        dim: 3,
        beta: 0.4,
        theta_norm: 1.0,
        zeros: 0.0,
    };
    for i in 0..24u64 {
        let seeds = SeedTree::new(9).index(i);
        let g = random_instance(&spec, &seeds).unwrap();
        let pairs = sample_preferences(
            &g.mdp,
            &g.reward(),
            (&g.reference, &g.reference),
            60,
            &seeds.child("data"),
        )
        .unwrap();
        let design = Design::from_pairs(&g.mdp, &g.features, &pairs).unwrap();
        let bound = [0.3, 1.0, 4.0][(i % 3) as usize];
        let fit = fit_bradley_terry(&design, &bounded(bound)).unwrap();
        let metric = Metric::sigma_d(&design, 1.0).unwrap();
        let radius = [0.3, 1.0, 3.0, 60.0][(i / 3 % 4) as usize];
        let set = ConfidenceSet::try_new(&fit.theta, &metric, radius, bound).unwrap();
        let baseline = if i % 2 == 0 {
            Baseline::None
        } else {
            Baseline::Reference
        };
        let solved = maxmin(g.problem(), &g.features, &set, baseline).unwrap();
        seen.insert((solved.ellipsoid_active, solved.ball_active));
        let cost = |theta: &[f64]| {
            let (v, mut grad) = brute_force(&g, theta);
            let shift: f64 = solved.nu.iter().zip(theta).map(|(n, t)| n * t).sum();
            grad.iter_mut().zip(&solved.nu).for_each(|(g, n)| *g -= n);
            (v - shift, grad)
        };
        // Scaled so that both constraints are of size 1.
        let sets = vec![
            (
                metric.matrix() / (radius * radius),
                DVector::from_column_slice(&fit.theta),
                1.0,
            ),
            (
                nalgebra::DMatrix::identity(3, 3) / (bound * bound),
                DVector::zeros(3),
                1.0,
            ),
        ];
        let (theta, _) = independent(cost, sets, 3, fit.theta.clone());
        let (value, _) = cost(&theta);
        assert!(
            (value - solved.value).abs() < 1e-7,
            "instance {i}: {value} and {} at {theta:?} and {:?}",
            solved.value,
            solved.theta
        );
        assert!((cost(&solved.theta).0 - solved.value).abs() < 1e-10);
        assert!((-1e-10..=1e-8).contains(&solved.duality_gap));
    }
    assert_eq!(
        seen.len(),
        4,
        "both, either and neither constraint active: {seen:?}"
    );
}

/// Measured in other units, φ → cφ and θ → θ/c with λ → c²λ and B → B/c, (B.1) is the same program, and the solver
/// certifies it as well. Radii down to a thousandth put the ellipsoid deep inside the ball.
#[test]
fn theorem_b1_program_is_solved_in_any_unit() {
    let spec = RandomSpec {
        kind: Kind::Tree { eos: false },
        prompts: 1,
        actions: 3,
        horizon: 2,
        dim: 5,
        beta: 0.3,
        theta_norm: 1.0,
        zeros: 0.0,
    };
    for i in 0..12u64 {
        let seeds = SeedTree::new(13).index(i);
        let g = random_instance(&spec, &seeds).unwrap();
        let behaviours = (&g.reference, &g.reference);
        let pairs = sample_preferences(&g.mdp, &g.reward(), behaviours, 50, &seeds).unwrap();
        let baseline = [Baseline::None, Baseline::Reference][(i % 2) as usize];
        let radius = [1e-3, 0.1, 3.0, 1e3][(i / 3 % 4) as usize];
        let bound = [0.2, 1.0, 200.0][(i % 3) as usize];
        let design = Design::from_pairs(&g.mdp, &g.features, &pairs).unwrap();
        let fit = fit_bradley_terry(&design, &bounded(bound)).unwrap();
        let solve = |unit: f64| {
            let phi = |s: usize, a: usize, k: usize| {
                unit * g.features.row(StateIx(s as u32), ActionIx(a as u32))[k]
            };
            let (n, na) = (g.mdp.n_states(), g.mdp.n_actions());
            let features = DenseFeatures::from_fn(n, na, 5, phi).unwrap();
            let design = Design::from_pairs(&g.mdp, &features, &pairs).unwrap();
            let metric = Metric::sigma_d(&design, 0.1 * unit * unit).unwrap();
            let center: Vec<f64> = fit.theta.iter().map(|t| t / unit).collect();
            let set = ConfidenceSet::try_new(&center, &metric, radius, bound / unit).unwrap();
            maxmin(g.problem(), &features, &set, baseline).unwrap()
        };
        let usual = solve(1.0);
        for unit in [1e-8, 1e-5, 1e-3, 30.0, 1e4, 1e8] {
            let solved = solve(unit);
            let gap = solved.duality_gap;
            assert!(
                (-1e-9..=1e-8).contains(&gap),
                "instance {i}, unit {unit}: {gap}"
            );
            let off = (solved.value - usual.value).abs();
            assert!(off <= 1e-9, "instance {i}, unit {unit}: off by {off}");
        }
    }
}

#[test]
fn worst_case_expectation_is_the_minimum_over_the_ball() {
    let mut rng = SeedTree::new(4).rng();
    for case in 0..300usize {
        let n = 2 + case % 2;
        let mut p: Vec<f64> = (0..n).map(|_| rng.random_range(0.01..1.0)).collect();
        if case % 3 == 0 {
            p[0] = 0.0; // possible but never seen
        }
        let sum: f64 = p.iter().sum();
        p.iter_mut().for_each(|x| *x /= sum);
        let v: Vec<f64> = (0..n).map(|_| rng.random_range(-2.0..2.0)).collect();
        let zeta = rng.random_range(0.001..2.0);
        let got = worst_case_expectation(&p, &v, zeta);
        // A grid on the simplex: no member of the ball does better, and the best one comes close.
        let steps = if n == 2 { 20_000 } else { 150 };
        let mut best = f64::INFINITY;
        for i in 0..=steps {
            for j in 0..=if n == 2 { 0 } else { steps - i } {
                let head = [i as f64, j as f64].map(|k| k / steps as f64);
                let q = match n {
                    2 => vec![head[0], 1.0 - head[0]],
                    _ => vec![head[0], head[1], 1.0 - head[0] - head[1]],
                };
                let terms = p.iter().zip(&q).filter(|(p, _)| **p > 0.0);
                let kl: f64 = terms.map(|(p, q)| p * (p / q.max(0.0)).ln()).sum();
                if kl <= zeta {
                    let value: f64 = q.iter().zip(&v).map(|(q, v)| q * v).sum();
                    assert!(got <= value + 1e-9, "{p:?} {v:?} {zeta}: {got} > {value}");
                    best = best.min(value);
                }
            }
        }
        let resolution = if n == 2 { 1e-3 } else { 0.08 };
        assert!(
            best - got < resolution,
            "{p:?} {v:?} {zeta}: {got}, grid {best}"
        );
    }
}

#[test]
fn log_linear_features_recover_the_policy_they_mix() {
    let tree = TokenTree::try_new(1, 3, 2, None).unwrap();
    let mdp: TabularMdp = tree.compile(&[1.0]).unwrap();
    let reference = random_policy(4, 3, 0.0, &SeedTree::new(1));
    let expert = random_policy(4, 3, 0.0, &SeedTree::new(2));
    let map = LogRatio::try_new(vec![expert.clone()], reference.clone()).unwrap();
    let dense = DenseFeatures::tabulate(&map);
    let beta = Beta::try_new(0.7).unwrap();
    let reward = LinearReward::try_new(&dense, &[0.7]).unwrap();
    let optimum = soft_value_iteration(Problem::new(&mdp, &reference, beta), &reward).unwrap();
    for (a, b) in optimum.policy.log_probs().iter().zip(expert.log_probs()) {
        assert!((a - b).abs() < 1e-12);
    }
    assert_eq!(reward.shape(), (4, 3));
}
