//! Metrics, radii and features.

use crate::{bounded, data};
use nalgebra::DVector;
use rto::algorithm1::ConfidenceSet;
use rto::estimate::{
    Design, Metric, MetricKind, RadiusInputs, RadiusKind, fit_bradley_terry, radii,
    sample_preferences,
};
use rto::features::{DenseFeatures, FeatureMap, LogRatio};
use rto::mdp::{Beta, Problem, TabularMdp, TokenTree};
use rto::plan::soft_value_iteration;
use rto::reward::{LinearReward, RewardFunction};
use rto::seed::SeedTree;
use rto::zoo::{Kind, RandomSpec, random_instance, random_policy};

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
