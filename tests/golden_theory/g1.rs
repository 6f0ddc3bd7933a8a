//! G1: planning, data, radii, Algorithm 1, DPO and RTO.

use crate::{EXACT, G1, ITERATIVE, close, golden, keys, leaf_probs, root_policies};
use rto::algorithm1::{ConfidenceSet, algorithm1, theorem_4_2};
use rto::estimate::{Curvature, MetricKind, Radii, RadiusKind, information, log_likelihood, radii};
use rto::mdp::{ActionIx, Beta, Problem, TabularPolicy};
use rto::plan::{
    action_covariance, evaluate, performance_difference, soft_value_iteration, suboptimality,
    visitation,
};
use rto::reward::LogRatioReward;
use rto::reward::RewardFunction;
use rto::zoo;
use serde_json::Value;

#[test]
fn g1_planning() {
    let all = golden();
    let want = &all["G1"];
    let (tree, g) = zoo::g1().unwrap();
    let q = zoo::g1_other_policy().unwrap();
    let reward = g.reward();
    let star = soft_value_iteration(g.problem(), &reward).unwrap();
    let value = |p: &TabularPolicy| evaluate(g.problem(), &reward, p).unwrap();
    let prompts = |v: &[f64]| [v[tree.root(0).ix()], v[tree.root(1).ix()]];
    let gap = |p| suboptimality(g.problem(), &reward, p).unwrap();
    close(
        "Vstar_prompts",
        &prompts(&star.v),
        &want["Vstar_prompts"],
        EXACT,
    );
    close(
        "Vstar_rho",
        &[star.mean_value(&g.mdp)],
        &want["Vstar_rho"],
        EXACT,
    );
    close(
        "Vref_prompts",
        &prompts(&value(&g.reference).v),
        &want["Vref_prompts"],
        EXACT,
    );
    close(
        "Vq_prompts",
        &prompts(&value(&q).v),
        &want["Vq_prompts"],
        EXACT,
    );
    close(
        "pistar_root",
        &root_policies(&tree, &star.policy),
        &want["pistar_root"],
        EXACT,
    );
    // d*(leaf): the golden entry carries the prompt's weight 0.6.
    let leaves: Vec<f64> = leaf_probs(&g.mdp, &star.policy, tree.root(0))
        .iter()
        .map(|p| 0.6 * p)
        .collect();
    close(
        "leaves",
        &leaves[..9],
        &want["dstar_leaf0_8_prompt0"],
        EXACT,
    );
    close(
        "SubOpt_ref",
        &[gap(&g.reference)],
        &want["SubOpt_ref"],
        EXACT,
    );
    close("SubOpt_q", &[gap(&q)], &want["SubOpt_q"], EXACT);
    let lemma = performance_difference(g.problem(), &reward, &q, &g.reference).unwrap();
    let direct = value(&q).mean_value(&g.mdp) - value(&g.reference).mean_value(&g.mdp);
    close("PDL", &[direct, lemma], &want["PDL_q_vs_ref"], EXACT);
    let d_star = visitation(&g.mdp, &star.policy).unwrap();
    close(
        "Efeat",
        &d_star.features(&g.features).unwrap(),
        &want["Efeat_dstar"],
        EXACT,
    );
    let hessian = action_covariance(&g.mdp, &star.policy, &g.features).unwrap() / g.beta.get();
    close(
        "Hessian",
        &[hessian.trace()],
        &want["Hess_Vstar_trace"],
        EXACT,
    );
    let nu = visitation(&g.mdp, &g.reference)
        .unwrap()
        .features(&g.features)
        .unwrap();
    close("nu", &nu, &want["nu_Eref_phi"], EXACT);
}

#[test]
fn g1_data() {
    let all = golden();
    let want = &all["G1"]["data"];
    let s = G1::new();
    let difference: Vec<f64> = s
        .fit
        .theta
        .iter()
        .zip(&s.g.theta_star)
        .map(|(a, b)| a - b)
        .collect();
    let r = radii(&s.design, &s.fit.theta, &G1::inputs()).unwrap();
    for key in keys(want) {
        let w = &want[key];
        match key {
            "definition" => {}
            "leaf1_wins" | "first10_leaf1_wins" => {
                let wins: Vec<f64> = first_leaf_wins(&s);
                let total: f64 = wins.iter().sum();
                match key {
                    "leaf1_wins" => close(key, &[total], w, 0.0),
                    _ => close(key, &wins[..10], w, 0.0),
                }
            }
            "theta_mle_B2" => close(key, &s.fit.theta, w, ITERATIVE),
            "norm_theta_mle" => close(key, &[s.fit.norm], w, ITERATIVE),
            "loglik_mle" => close(key, &[s.fit.log_likelihood], w, EXACT),
            "loglik_true" => {
                let l = log_likelihood(&s.design, &s.g.theta_star).unwrap();
                close(key, &[l], w, EXACT);
            }
            "loglik_zero" => close(
                key,
                &[log_likelihood(&s.design, &[0.0; 4]).unwrap()],
                w,
                EXACT,
            ),
            "Sigma_lambda1" => close(key, s.sigma.matrix().as_slice(), w, EXACT),
            "logdet_Sigma" => close(key, &[s.sigma.log_det()], w, EXACT),
            "err_Sigma" => close(key, &[s.sigma.norm(&difference)], w, ITERATIVE),
            // The golden H is the observed information without the ridge.
            "H_mle" => {
                let h = information(&s.design, &s.fit.theta).unwrap();
                close(key, h.as_slice(), w, ITERATIVE);
            }
            "chi2_4_95" => close(key, &[r.chi_square], w, EXACT),
            "d_eff" => close(key, &[r.effective_dim], w, EXACT),
            "radii_delta05_B2_lambda1" => check_radii(&r, w),
            "phinorm_Sinv_first6" => {
                // The golden array is [prompt, action] at the two roots, not the first six pairs.
                let roots = (0..2).map(|x| s.tree.root(x));
                let norms: Vec<f64> = roots
                    .flat_map(|root| (0..3).map(move |a| (root, ActionIx(a))))
                    .map(|(root, a)| s.sigma.inverse_norm(s.g.features.row(root, a)))
                    .collect();
                close(key, &norms, w, EXACT);
            }
            other => panic!("golden entry G1/data/{other} has no check"),
        }
    }
}

fn first_leaf_wins(s: &G1) -> Vec<f64> {
    let pairs = zoo::g1_preferences().unwrap();
    let leaf =
        |t: &rto::mdp::Trajectory| t.steps().iter().fold(0, |code, (_, a)| code * 3 + a.ix());
    assert_eq!(s.tree.n_states(), 26);
    pairs
        .iter()
        .enumerate()
        .map(|(j, pair)| f64::from(u8::from(leaf(pair.winner()) == (7 * j + 3) % 27)))
        .collect()
}

fn check_radii(r: &Radii, want: &Value) {
    let radius = |kind| r.radius(kind).unwrap();
    for key in keys(want) {
        let (got, tolerance) = match key {
            "G_noise" => (r.noise, EXACT),
            "Upsilon_2HLB" => (r.upsilon, 1e-15),
            "rho_theory_Upsilon" => (radius(RadiusKind::Theory(Curvature::Upsilon)).value, EXACT),
            "kappa_data" => (r.kappa, EXACT),
            "rho_theory_kappa" => (radius(RadiusKind::Theory(Curvature::Data)).value, EXACT),
            "c_LR_rigorous" => (r.lr_threshold, EXACT),
            "rho_LR_via_kappa" => {
                let kind = RadiusKind::LikelihoodRatio {
                    finite_sample: true,
                };
                (radius(kind).value, EXACT)
            }
            "rho_wald_Hmetric" => {
                let wald = radius(RadiusKind::Wald { ridge_bias: false });
                assert_eq!(wald.metric, MetricKind::Fisher);
                (wald.value, EXACT)
            }
            "rho_selfconcordant_Hmetric" => (radius(RadiusKind::SelfConcordant).value, ITERATIVE),
            other => panic!("golden radius {other} has no check"),
        };
        close(key, &[got], &want[key], tolerance);
    }
}

#[test]
fn g1_algorithm1() {
    let all = golden();
    let want = &all["G1"]["Alg1_rho1.5"];
    let s = G1::new();
    let g = &s.g;
    let set = ConfidenceSet::try_new(&s.fit.theta, &s.sigma, 1.5, 2.0).unwrap();
    let output = algorithm1(g.problem(), &g.features, &set, None).unwrap();
    let theorem = theorem_4_2(&g.truth().unwrap(), &set, &output).unwrap();
    close(
        "Vhat",
        &[output.pessimistic_value(&g.mdp)],
        &want["Vhat_rho"],
        ITERATIVE,
    );
    close(
        "SubOpt",
        &[theorem.suboptimality],
        &want["SubOpt"],
        ITERATIVE,
    );
    close(
        "E norm",
        &[theorem.expected_bonus_norm],
        &want["E_dstar_norm"],
        EXACT,
    );
    close("KL", &[theorem.kl], &want["KL_star_hat"], ITERATIVE);
    close("bound", &[theorem.bound], &want["Thm42_bound"], ITERATIVE);
    let root = root_policies(&s.tree, &output.optimum.policy);
    close("root", &root, &want["pihat_root"], ITERATIVE);
    assert_eq!(keys(want).len(), 6);
}

#[test]
fn g1_dpo_and_rto() {
    let all = golden();
    let want = &all["G1"]["DPO_RTO"];
    let s = G1::new();
    let g = &s.g;
    let learned = rto::reward::LinearReward::try_new(&g.features, &s.fit.theta).unwrap();
    let dpo = soft_value_iteration(g.problem(), &learned).unwrap();
    close(
        "dpo",
        &dpo.policy.probs(s.tree.root(0)),
        &want["dpo_root0"],
        ITERATIVE,
    );
    let implicit = LogRatioReward::try_new(&dpo.policy, &g.reference, 0.5).unwrap();
    let root: Vec<f64> = (0..3)
        .map(|a| implicit.reward(s.tree.root(0), ActionIx(a)))
        .collect();
    close(
        "implicit",
        &root,
        &want["implicit_token_reward_root0_beta_0_5"],
        ITERATIVE,
    );
    let loss = -s.fit.log_likelihood / s.design.n() as f64;
    close("loss", &[loss], &want["mean_dpo_loss"], EXACT);
    let dense = LogRatioReward::try_new(&dpo.policy, &g.reference, 0.1).unwrap();
    let beta2 = Beta::try_new(0.03).unwrap();
    let rto = soft_value_iteration(Problem::new(&g.mdp, &g.reference, beta2), &dense).unwrap();
    close(
        "rto",
        &rto.policy.probs(s.tree.root(0)),
        &want["rto_b1_0_1_b2_0_03_root0"],
        ITERATIVE,
    );
    let values = [rto.v[s.tree.root(0).ix()], rto.v[s.tree.root(1).ix()]];
    close("V_rto", &values, &want["V_rto"], ITERATIVE);
    let gap = |p| [suboptimality(g.problem(), &g.reward(), p).unwrap()];
    close(
        "dpo",
        &gap(&dpo.policy),
        &want["SubOpt_dpo_true_beta0_5"],
        ITERATIVE,
    );
    close(
        "rto",
        &gap(&rto.policy),
        &want["SubOpt_rto_true_beta0_5"],
        ITERATIVE,
    );
    assert_eq!(keys(want).len(), 8);
}
