//! G0: the tree on which DPO, RTO and the optimum are told apart.

use crate::{EXACT, close, golden, keys, leaf_probs};
use rto::mdp::{ActionIx, Beta, Problem, StateIx, TabularPolicy, TokenTree, for_each_trajectory};
use rto::plan::{
    evaluate, natural_policy_gradient, performance_difference, soft_value_iteration, suboptimality,
    visitation,
};
use rto::reward::LogRatioReward;
use rto::reward::RewardFunction;
use rto::zoo;
use serde_json::Value;

fn probs(policy: &TabularPolicy) -> Vec<f64> {
    policy.log_probs().iter().map(|l| l.exp()).collect()
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
