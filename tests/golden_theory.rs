//! Every value of the audit's G0, G1, vacuity and Proposition C.2 tables (`tests/golden/theory.json`,
//! computed there by an independent NumPy/SciPy program), to 1e-9, or 1e-6 where the entry is the
//! output of an iterative solver.

use ndarray::Array2;
use rto::algorithm1::{
    Baseline, ConfidenceSet, MaxMin, TheoremB1, algorithm1, maxmin, theorem_4_2, theorem_b1,
};
use rto::estimate::{
    BtFit, Curvature, Design, FitOptions, Metric, MetricKind, Radii, RadiusInputs, RadiusKind,
    fit_bradley_terry, information, log_likelihood, radii,
};
use rto::mdp::{
    ActionIx, Beta, Problem, StateIx, TabularMdp, TabularPolicy, TokenTree, for_each_trajectory,
};
use rto::plan::{
    action_covariance, best_predetermined, evaluate, natural_policy_gradient,
    performance_difference, soft_value_iteration, suboptimality, visitation,
};
use rto::reward::{LogRatioReward, RewardModel, TabularReward};
use rto::zoo;
use serde_json::Value;

/// Closed-form entries.
const EXACT: f64 = 1e-9;
/// Entries that come from an iterative solver on the other side.
const ITERATIVE: f64 = 1e-6;

fn golden() -> Value {
    serde_json::from_str(include_str!("golden/theory.json")).expect("the golden file is JSON")
}

fn numbers(value: &Value) -> Vec<f64> {
    match value {
        Value::Array(items) => items.iter().flat_map(numbers).collect(),
        Value::Bool(b) => vec![f64::from(u8::from(*b))],
        other => vec![
            other
                .as_f64()
                .unwrap_or_else(|| panic!("not a number: {other}")),
        ],
    }
}

#[track_caller]
fn close(what: &str, got: &[f64], want: &Value, tolerance: f64) {
    let want = numbers(want);
    assert_eq!(got.len(), want.len(), "{what}: number of values");
    for (i, (g, w)) in got.iter().zip(&want).enumerate() {
        assert!(
            (g - w).abs() <= tolerance * w.abs().max(1.0),
            "{what}[{i}]: got {g:.16e}, golden {w:.16e}"
        );
    }
}

/// Visits every key of an object, so that an entry without a check fails the test.
fn keys(value: &Value) -> Vec<&str> {
    value
        .as_object()
        .expect("an object")
        .keys()
        .map(String::as_str)
        .collect()
}

fn leaf_probs(mdp: &TabularMdp, policy: &TabularPolicy, root: StateIx) -> Vec<f64> {
    let mut out = Vec::new();
    for_each_trajectory(mdp, root, |steps| {
        out.push(
            steps
                .iter()
                .map(|&(s, a)| policy.log_prob(s, a))
                .sum::<f64>()
                .exp(),
        );
    })
    .unwrap();
    out
}

fn probs(policy: &TabularPolicy) -> Vec<f64> {
    policy.log_probs().iter().map(|l| l.exp()).collect()
}

fn root_policies(tree: &TokenTree, policy: &TabularPolicy) -> Vec<f64> {
    (0..tree.n_prompts())
        .flat_map(|x| policy.probs(tree.root(x)))
        .collect()
}

#[test]
fn g0() {
    let all = golden();
    let want = &all["G0"];
    let (tree, g) = zoo::g0().unwrap();
    let reward = g.reward();
    let star = soft_value_iteration(g.problem(), &reward).unwrap();
    let uniform = TabularPolicy::uniform(3, 2);
    let value = |p: &TabularPolicy| evaluate(g.problem(), &reward, p).unwrap();
    let gap = |p| suboptimality(g.problem(), &reward, p).unwrap();
    for key in keys(want) {
        let w = &want[key];
        match key {
            "definition" => {}
            "Vstar" => close(key, &star.v, w, EXACT),
            "Qstar" => close(key, star.q.as_slice().unwrap(), w, EXACT),
            "pistar" => close(key, &probs(&star.policy), w, EXACT),
            "leafprob" => close(
                key,
                &leaf_probs(&g.mdp, &star.policy, tree.root(0)),
                w,
                EXACT,
            ),
            "V_ref" => close(key, &value(&g.reference).v, w, EXACT),
            "V_uniform" => close(key, &value(&uniform).v, w, EXACT),
            "SubOpt_ref" => close(key, &[gap(&g.reference)], w, EXACT),
            "SubOpt_uniform" => close(key, &[gap(&uniform)], w, EXACT),
            "PDL_lhs_uniform_minus_ref" => {
                let difference = value(&uniform).v[0] - value(&g.reference).v[0];
                close(key, &[difference], w, EXACT);
            }
            "PDL_rhs" => {
                let lemma = performance_difference(g.problem(), &reward, &uniform, &g.reference);
                close(key, &[lemma.unwrap()], w, EXACT);
            }
            "betaKL_uniform_to_star" => {
                let d = visitation(&g.mdp, &uniform).unwrap();
                let kl = d.kl(&g.mdp, &uniform, &star.policy).unwrap();
                close(key, &[g.beta.get() * kl], w, EXACT);
            }
            "dpo_token_reward" => {
                let implicit = LogRatioReward::try_new(&star.policy, &g.reference, 0.5).unwrap();
                let table = implicit.tabulate();
                close(key, table.values().as_slice().unwrap(), w, EXACT);
            }
            "NPG" => {
                let run = |c, steps| {
                    natural_policy_gradient(g.problem(), &reward, &g.reference, c, steps).unwrap()
                };
                let half = run(0.5, 7);
                close(key, &half.gap, &w["eta_beta_0_5"]["gap"], EXACT);
                let errors = &w["eta_beta_0_5"]["max_abs_logpi_err"];
                close(key, &half.max_log_error, errors, EXACT);
                close(key, &run(1.0, 3).gap, &w["eta_beta_1_gap"], EXACT);
            }
            "population_DPO_loss_uniform_unordered_pairs_at_pistar" => {
                close(
                    key,
                    &[population_dpo_loss(&tree, &g, &star.policy)],
                    w,
                    EXACT,
                );
            }
            rto if rto.starts_with("RTO_b1=") => rto_optimum(&tree, &g, &star.policy, rto, w),
            other => panic!("golden entry G0/{other} has no check"),
        }
    }
}

/// The exact optimum of the RTO objective (F2) for the DPO policy π*_β.
fn rto_optimum(tree: &TokenTree, g: &zoo::Instance, dpo: &TabularPolicy, key: &str, want: &Value) {
    let betas: Vec<f64> = key
        .trim_start_matches("RTO_b1=")
        .split("_b2=")
        .map(|b| b.parse().unwrap())
        .collect();
    let (beta1, beta2) = (betas[0], betas[1]);
    let dense = LogRatioReward::try_new(dpo, &g.reference, beta1).unwrap();
    let b2 = Beta::try_new(beta2).unwrap();
    let rto = soft_value_iteration(Problem::new(&g.mdp, &g.reference, b2), &dense).unwrap();
    close(key, &probs(&rto.policy), &want["pi"], EXACT);
    close(
        key,
        &leaf_probs(&g.mdp, &rto.policy, tree.root(0)),
        &want["leaf"],
        EXACT,
    );
    close(key, &[rto.v[0]], &want["V"], EXACT);
    close(
        key,
        &[g.beta.get() * beta2 / beta1],
        &want["beta_eff"],
        EXACT,
    );
    let gap = suboptimality(g.problem(), &g.reward(), &rto.policy).unwrap();
    close(key, &[gap], &want["SubOpt_at_beta"], EXACT);
    // Tempering each token on its own: proportional to ref (dpo/ref)^(beta1/beta2), not the optimum.
    let logits = dense.tabulate().values() / beta2 + g.reference.log_probs();
    let tempered = TabularPolicy::from_logits(logits).unwrap();
    let root = tempered.probs(tree.root(0));
    close(key, &root, &want["token_tempering_root_NOT_optimal"], EXACT);
}

/// Mean of −log σ over unordered pairs of distinct leaves, labels from (3.1).
fn population_dpo_loss(tree: &TokenTree, g: &zoo::Instance, policy: &TabularPolicy) -> f64 {
    let reward = g.reward();
    let (mut returns, mut implicit) = (Vec::new(), Vec::new());
    for_each_trajectory(&g.mdp, tree.root(0), |steps| {
        returns.push(steps.iter().map(|&(s, a)| reward.reward(s, a)).sum::<f64>());
        let ratio =
            |&(s, a): &(StateIx, ActionIx)| policy.log_prob(s, a) - g.reference.log_prob(s, a);
        implicit.push(g.beta.get() * steps.iter().map(ratio).sum::<f64>());
    })
    .unwrap();
    let (mut total, mut pairs) = (0.0, 0.0);
    for i in 0..returns.len() {
        for j in 0..i {
            let p = rto::numerics::sigmoid(returns[i] - returns[j]);
            let margin = implicit[i] - implicit[j];
            total -= p * rto::numerics::log_sigmoid(margin)
                + (1.0 - p) * rto::numerics::log_sigmoid(-margin);
            pairs += 1.0;
        }
    }
    total / pairs
}

/// G1 with its data and estimate.
struct G1 {
    tree: TokenTree,
    g: zoo::Instance,
    design: Design,
    fit: BtFit,
    sigma: Metric,
}

impl G1 {
    fn new() -> Self {
        let (tree, g) = zoo::g1().unwrap();
        let pairs = zoo::g1_preferences().unwrap();
        let design = Design::from_pairs(&g.mdp, &g.features, &pairs).unwrap();
        let options = FitOptions {
            param_bound: 2.0,
            ..FitOptions::default()
        };
        Self {
            fit: fit_bradley_terry(&design, &options).unwrap(),
            sigma: Metric::sigma_d(&design, 1.0).unwrap(),
            tree,
            g,
            design,
        }
    }

    fn inputs() -> RadiusInputs {
        RadiusInputs {
            horizon: 3,
            feature_bound: 1.0,
            param_bound: 2.0,
            ridge: 1.0,
            fail_prob: 0.05,
        }
    }

    /// The golden ellipsoid is centred at the estimate inside the ball of radius 2, or `param_bound`.
    fn maxmin(&self, radius: f64, param_bound: f64, baseline: Baseline) -> (MaxMin, TheoremB1) {
        let options = FitOptions {
            param_bound,
            ..FitOptions::default()
        };
        let fit = fit_bradley_terry(&self.design, &options).unwrap();
        let set = ConfidenceSet::try_new(&fit.theta, &self.sigma, radius, param_bound).unwrap();
        let g = &self.g;
        let solved = maxmin(g.problem(), &g.features, &set, baseline).unwrap();
        let theorem = theorem_b1(&g.truth().unwrap(), &g.features, &set, &solved);
        (solved, theorem.unwrap())
    }
}

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
fn g1_theorem_b1() {
    let all = golden();
    let s = G1::new();
    for (key, param_bound) in [("B1_rho1.5_B2.0", 2.0), ("B1_rho1.5_B1.2", 1.2)] {
        let want = &all["G1"][key];
        let (solved, theorem) = s.maxmin(1.5, param_bound, Baseline::None);
        close(key, &solved.theta, &want["theta_min"], ITERATIVE);
        close(key, &[solved.value], &want["value_minV"], ITERATIVE);
        assert_eq!(
            Value::Bool(solved.ellipsoid_active),
            want["active"]["ellipsoid"]
        );
        assert_eq!(Value::Bool(solved.ball_active), want["active"]["ball"]);
        close(
            key,
            &[solved.multipliers.0],
            &want["multipliers"],
            ITERATIVE,
        );
        close(key, &[theorem.suboptimality], &want["SubOpt"], ITERATIVE);
        close(key, &[theorem.bound], &want["ThmB1_bound"], EXACT);
        close(
            key,
            &[theorem.norm_of_expectation],
            &want["norm_of_expectation"],
            EXACT,
        );
        let root = root_policies(&s.tree, &solved.optimum.policy);
        close(key, &root, &want["pihat_root"], ITERATIVE);
        assert!(
            (-1e-12..=1e-8).contains(&solved.duality_gap),
            "{}",
            solved.duality_gap
        );
        assert_eq!(keys(want).len(), 9);
    }
}

#[test]
fn g1_baselined_b1() {
    let all = golden();
    let s = G1::new();
    let want = &all["G1"]["B1baseline_rho1.5_B2.0"];
    let (solved, theorem) = s.maxmin(1.5, 2.0, Baseline::Reference);
    close("theta", &solved.theta, &want["theta_min"], ITERATIVE);
    close(
        "value",
        &[solved.value],
        &want["value_min_Vstar_minus_nu_theta"],
        ITERATIVE,
    );
    let active = [solved.ellipsoid_active, solved.ball_active].map(|b| f64::from(u8::from(b)));
    close("active", &active, &want["active"], 0.0);
    close(
        "multipliers",
        &[solved.multipliers.0],
        &want["multipliers"],
        ITERATIVE,
    );
    close(
        "SubOpt",
        &[theorem.suboptimality],
        &want["SubOpt"],
        ITERATIVE,
    );
    close("bound", &[theorem.bound], &want["bound"], EXACT);
    close(
        "norm",
        &[theorem.norm_of_expectation],
        &want["norm_Edstar_minus_nu"],
        EXACT,
    );
    assert!(solved.duality_gap <= 1e-8);
    assert_eq!(keys(want).len(), 7);
}

#[test]
fn g1_huge_radius() {
    let all = golden();
    let want = &all["G1"]["rho25_B2_compare"];
    let s = G1::new();
    let (plain, theorem) = s.maxmin(25.0, 2.0, Baseline::None);
    close("theta", &plain.theta, &want["B1_theta"], ITERATIVE);
    close("value", &[plain.value], &want["B1_value"], ITERATIVE);
    close(
        "SubOpt",
        &[theorem.suboptimality],
        &want["B1_SubOpt"],
        ITERATIVE,
    );
    let (based, theorem) = s.maxmin(25.0, 2.0, Baseline::Reference);
    close("theta", &based.theta, &want["B1baseline_theta"], ITERATIVE);
    close(
        "value",
        &[based.value],
        &want["B1baseline_value"],
        ITERATIVE,
    );
    close(
        "SubOpt",
        &[theorem.suboptimality],
        &want["B1baseline_SubOpt"],
        ITERATIVE,
    );
    for (solved, key) in [(&plain, "B1_active"), (&based, "B1baseline_active")] {
        let active = [solved.ellipsoid_active, solved.ball_active].map(|b| f64::from(u8::from(b)));
        close(key, &active, &want[key], 0.0);
        assert!(
            solved.duality_gap <= 1e-8,
            "{key}: gap {}",
            solved.duality_gap
        );
    }
    let g = &s.g;
    let set = ConfidenceSet::try_new(&s.fit.theta, &s.sigma, 25.0, 2.0).unwrap();
    let output = algorithm1(g.problem(), &g.features, &set, None).unwrap();
    let theorem = theorem_4_2(&g.truth().unwrap(), &set, &output).unwrap();
    close(
        "Alg1",
        &[theorem.suboptimality],
        &want["Alg1_SubOpt"],
        ITERATIVE,
    );
    close("Alg1", &[theorem.bound], &want["Alg1_bound"], ITERATIVE);
    let ref_gap = suboptimality(g.problem(), &g.reward(), &g.reference).unwrap();
    close("ref", &[ref_gap], &want["SubOpt_ref"], EXACT);
    assert_eq!(keys(want).len(), 11);
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

#[test]
fn proposition_c2_and_its_generalisation() {
    let all = golden();
    let want = &all["propC2"]["A2H2"];
    for (actions, horizon) in [(2, 2), (2, 5), (3, 4), (5, 3)] {
        let (general, reward) = zoo::predetermined_gap(actions, horizon).unwrap();
        let unrolled = general.unroll().unwrap();
        let reward = TabularReward::try_new(unrolled.lift(reward.values()).unwrap()).unwrap();
        let uniform = TabularPolicy::uniform(unrolled.mdp.n_states(), actions);
        let beta = Beta::try_new(0.0).unwrap();
        let markov =
            soft_value_iteration(Problem::new(&unrolled.mdp, &uniform, beta), &reward).unwrap();
        let markov = markov.mean_value(&unrolled.mdp);
        let fixed = best_predetermined(&unrolled.mdp, &reward, &uniform)
            .unwrap()
            .value;
        let later = (horizon - 1) as f64;
        assert!((markov - later).abs() < 1e-12);
        assert!((fixed - later / actions as f64).abs() < 1e-12);
        if (actions, horizon) == (2, 2) {
            close("markov", &[markov], &want["markov"], EXACT);
            close("predetermined", &[fixed], &want["predetermined"], EXACT);
        }
    }
}

#[test]
fn vacuity() {
    let all = golden();
    let want = &all["vacuity"];
    let inputs = RadiusInputs {
        horizon: 5,
        feature_bound: 1.0,
        param_bound: 1.0,
        ridge: 1.0,
        fail_prob: 0.05,
    };
    let upsilon = rto::estimate::curvature_bound(&inputs);
    close("Upsilon", &[upsilon], &want["Upsilon"], 1e-15);
    let (theory, lr) = Radii::worst_case(8, &inputs, 10_000.0).unwrap();
    close("theory", &[theory], &want["rho_theory_deff_eq_d"], EXACT);
    close("LR", &[lr], &want["rho_LR_n1000_Lip_10n"], EXACT);
    assert_eq!(keys(want).len(), 9);
}

/// Audit C5(b): Algorithm 1 is inconsistent where the telescoping coordinate is invisible; (B.1) is
/// not, and neither is Algorithm 1 with its bonus projected on the row space.
#[test]
fn telescoping_instance() {
    let (_, g) = zoo::telescoping().unwrap();
    let half = std::f64::consts::FRAC_1_SQRT_2;
    for (n, b1) in [(100u32, 2.5e-3), (10_000, 4.1e-6), (1_000_000, 3.5e-8)] {
        // n identical pairs, as one row of the same Gram matrix.
        let row = vec![half * f64::from(n).sqrt(), 0.0];
        let design = Design::try_new(2, row).unwrap();
        let sigma = Metric::sigma_d(&design, 1.0).unwrap();
        let set = ConfidenceSet::try_new(&g.theta_star, &sigma, 2.0, 1.0).unwrap();
        let plain = algorithm1(g.problem(), &g.features, &set, None).unwrap();
        let theorem = theorem_4_2(&g.truth().unwrap(), &set, &plain).unwrap();
        if n == 1_000_000 {
            assert!((theorem.suboptimality - 0.707_191_675_92).abs() < 2e-5);
        }
        assert!(theorem.suboptimality > 0.69);
        let space = rto::estimate::RowSpace::of(&design).unwrap();
        assert_eq!(space.rank(), 1);
        let fixed = algorithm1(g.problem(), &g.features, &set, Some(&space)).unwrap();
        let theorem = theorem_4_2(&g.truth().unwrap(), &set, &fixed).unwrap();
        assert!(theorem.suboptimality < 1.0 / f64::from(n).sqrt());
        let solved = maxmin(g.problem(), &g.features, &set, Baseline::None).unwrap();
        let theorem = theorem_b1(&g.truth().unwrap(), &g.features, &set, &solved).unwrap();
        assert!(
            theorem.suboptimality < 1.05 * b1,
            "{n}: {}",
            theorem.suboptimality
        );
        assert!(solved.duality_gap < 1e-8, "{n}: gap {}", solved.duality_gap);
    }
}

#[test]
fn golden_tables_have_the_shape_of_the_tree() {
    let (tree, g) = zoo::g1().unwrap();
    assert_eq!(g.mdp.horizon(), 3);
    assert_eq!(tree.states_per_prompt(), 13);
    let table: Array2<f64> = g.reward().tabulate().values().clone();
    assert_eq!(table.dim(), (26, 3));
}
