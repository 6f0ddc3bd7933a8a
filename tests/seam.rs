//! The tabular backends keep the laws of the seam, and reach the closed forms of the theory.

use std::ops::Range;
use std::sync::Arc;

use ndarray::Array2;
use rand::Rng;
use rto::features::DenseFeatures;
use rto::mdp::{ActionIx, Beta, Problem, TabularPolicy, TokenTree, for_each_trajectory};
use rto::numerics::{log_sigmoid, sigmoid};
use rto::plan::{evaluate, rto_optimum, soft_value_iteration, suboptimality, visitation};
use rto::policy::{
    ExactEvaluator, LogLinearSoftmax, OptimizerConfig, Regressor, RowGradient, Rule, StateMap,
    TabularLearner, TabularSoftmax, response_total_variation, tabulate,
};
use rto::reward::{LogRatioReward, RewardFunction};
use rto::seed::SeedTree;
use rto::seq::{
    Channel, Episode, PerToken, Policy, PolicyLearner, StreamKey, TokenObjective, TokenScorer,
    Trainable,
};
use rto::zoo;
use serde_json::Value;

const CHANNELS: [Channel; 4] = [
    Channel::LogProb,
    Channel::Entropy,
    Channel::KlToReference,
    Channel::KlFromReference,
];

/// Two prompts, three actions of which the last ends the response, three tokens.
fn map() -> Arc<StateMap> {
    let tree = TokenTree::try_new(2, 3, 3, Some(ActionIx(2))).unwrap();
    StateMap::tree(&tree, &[0.6, 0.4]).unwrap()
}

fn random_logits(map: &StateMap, seed: u64) -> Array2<f64> {
    let mut rng = SeedTree::new(seed).rng();
    let shape = (map.mdp().n_states(), map.mdp().n_actions());
    Array2::from_shape_fn(shape, |_| 3.0 * rng.random::<f64>() - 1.5)
}

fn tabular() -> TabularSoftmax {
    let map = map();
    let reference = TabularPolicy::from_logits(random_logits(&map, 2)).unwrap();
    TabularSoftmax::try_new(map.clone(), &random_logits(&map, 1))
        .and_then(|p| p.with_temperature(0.7))
        .and_then(|p| p.with_entropy().with_reference(Arc::new(reference)))
        .unwrap()
}

fn features(map: &StateMap, columns: usize) -> Arc<DenseFeatures> {
    let mut rng = SeedTree::new(3).rng();
    let n = map.mdp().n_states();
    let phi = |_, _, _| 2.0 * rng.random::<f64>() - 1.0;
    Arc::new(DenseFeatures::from_fn(n, columns, 4, phi).unwrap())
}

fn log_linear() -> LogLinearSoftmax<DenseFeatures> {
    let map = map();
    let base = TabularPolicy::from_logits(random_logits(&map, 4)).unwrap();
    let reference = TabularPolicy::from_logits(random_logits(&map, 2)).unwrap();
    let phi = features(&map, 3);
    LogLinearSoftmax::try_new(map, phi, Arc::new(base), &[0.3, -0.8, 0.5, 1.1])
        .and_then(|p| p.with_temperature(1.3))
        .and_then(|p| p.with_entropy().with_reference(Arc::new(reference)))
        .unwrap()
}

fn all_responses(map: &StateMap) -> Vec<Episode> {
    let mut out = Vec::new();
    for p in 0..map.n_prompts() {
        let prompt = StateMap::prompt(p);
        for_each_trajectory(map.mdp(), map.root(&prompt).unwrap(), |steps| {
            let y: Vec<u32> = steps.iter().map(|(_, a)| a.0).collect();
            let finish = map.finish(y[y.len() - 1]);
            out.push(Episode::try_new(prompt.clone(), y, finish).unwrap());
        })
        .unwrap();
    }
    out
}

fn keys(n: usize) -> Vec<StreamKey> {
    StreamKey::batch(&SeedTree::new(9).child("rollout"), n)
}

/// Counts of all responses against exp(Σ log π): with 2·10⁵ draws per prompt and 30 responses, |z| > 4.5 has
/// probability below 3·10⁻⁴ for a right sampler, and the seed is fixed.
#[test]
fn sampler_frequencies_match_the_scores() {
    fn check(policy: &impl Policy, map: &StateMap) {
        let n = 200_000;
        let responses = all_responses(map);
        let log_probs = policy.scores(&responses).unwrap();
        let probs = log_probs.get(Channel::LogProb).unwrap().row_sums();
        for p in 0..map.n_prompts() {
            let mut total = 0.0;
            let prompts = vec![StateMap::prompt(p); n];
            let mut counts = std::collections::HashMap::new();
            for y in policy.sample(&prompts, &keys(n)).unwrap() {
                *counts.entry(y).or_insert(0u32) += 1;
            }
            for (y, log_p) in responses.iter().zip(&probs) {
                if y.prompt[..] != [p as u32] {
                    continue;
                }
                let (mean, p_y) = (n as f64 * log_p.exp(), log_p.exp());
                let count = f64::from(counts.remove(y).unwrap_or(0));
                let z = (count - mean) / (mean * (1.0 - p_y)).sqrt();
                assert!(z.abs() < 4.5, "{y:?}: {count} against {mean}, z = {z}");
                total += p_y;
            }
            assert!(counts.is_empty(), "responses that were not enumerated");
            assert!((total - 1.0f64).abs() < 1e-12);
        }
    }
    let map = map();
    check(&tabular(), &map);
    check(&log_linear(), &map);
}

#[test]
fn the_greedy_response_takes_the_most_probable_token_at_every_step() {
    fn check(policy: &impl Policy, map: &StateMap) {
        let responses = all_responses(map);
        let scores = policy.scores(&responses).unwrap();
        let lp = scores.get(Channel::LogProb).unwrap();
        for p in 0..map.n_prompts() {
            let greedy = policy.greedy(&[StateMap::prompt(p)]).unwrap().remove(0);
            let at = responses.iter().position(|e| *e == greedy).unwrap();
            for (i, e) in responses.iter().enumerate() {
                // One that parts from it does so by a token that is no likelier.
                let both = e.response.iter().zip(&greedy.response);
                if let Some(h) = both.clone().position(|(a, b)| a != b)
                    && e.prompt == greedy.prompt
                {
                    assert!(lp.row(i)[h] <= lp.row(at)[h], "{e:?} and {greedy:?}");
                }
            }
        }
    }
    let map = map();
    check(&tabular(), &map);
    check(&log_linear(), &map);
}

#[test]
fn neither_order_nor_duplicates_change_a_draw_or_a_score() {
    fn check(policy: &impl Policy) {
        let prompts: Vec<_> = (0..40).map(|i| StateMap::prompt(i % 2)).collect();
        let keys = keys(40);
        let drawn = policy.sample(&prompts, &keys).unwrap();
        let order: Vec<usize> = (0..40).rev().chain([3, 3, 17]).collect();
        let pick = |i: &usize| (prompts[*i].clone(), keys[*i].clone());
        let (p, k): (Vec<_>, Vec<_>) = order.iter().map(pick).unzip();
        let again = policy.sample(&p, &k).unwrap();
        let scores = policy.scores(&drawn).unwrap();
        let scores_again = policy.scores(&again).unwrap();
        for (j, &i) in order.iter().enumerate() {
            assert_eq!(again[j], drawn[i]);
            for c in policy.channels() {
                assert_eq!(scores_again.row(*c, j), scores.row(*c, i));
            }
        }
        assert!(policy.sample(&prompts, &keys[1..]).is_err());
    }
    check(&tabular());
    check(&log_linear());
}

/// Weights of Σ_c Σ w·score, a different number everywhere.
fn weights(scores: &PerToken) -> PerToken {
    let mut rng = SeedTree::new(5).rng();
    let mut out = scores.zeros_like();
    for c in scores.channels().collect::<Vec<_>>() {
        for i in 0..scores.n_rows() {
            let row = out.row_mut(c, i);
            row.iter_mut()
                .for_each(|w| *w = 2.0 * rng.random::<f64>() - 1.0);
        }
    }
    out
}

fn inner(w: &PerToken, scores: &PerToken) -> f64 {
    let one = |c: Channel| {
        let pairs = w.get(c).unwrap().values().iter();
        pairs
            .zip(scores.get(c).unwrap().values())
            .map(|(w, s)| w * s)
            .sum::<f64>()
    };
    scores.channels().map(one).sum()
}

/// Central differences with h = 1e-5 (error h²/6·f‴ + ε/h ≈ 1e-10) against a pull-back; every parameter that
/// some response can touch has a gradient.
fn check_gradient(params: &[f64], grad: &[f64], mut loss: impl FnMut(&[f64]) -> f64) {
    let h = 1e-5;
    let mut theta = params.to_vec();
    for i in 0..theta.len() {
        theta[i] = params[i] + h;
        let up = loss(&theta);
        theta[i] = params[i] - h;
        let down = loss(&theta);
        theta[i] = params[i];
        let want = (up - down) / (2.0 * h);
        let error = (grad[i] - want).abs();
        assert!(
            error < 1e-6 * want.abs().max(0.1),
            "{i}: {} {want}",
            grad[i]
        );
    }
    assert!(grad.iter().any(|g| *g != 0.0));
}

#[test]
fn pull_backs_agree_with_finite_differences() {
    let batch = all_responses(&map());
    let tab = tabular();
    let w = weights(&tab.scores(&batch).unwrap());
    assert_eq!(w.channels().collect::<Vec<_>>(), CHANNELS);
    let mut grad = RowGradient::zeros(tab.params().len(), 3);
    tab.pull_back(&batch, &w, &mut grad).unwrap();
    let loss = |p: &[f64]| {
        inner(
            &w,
            &tab.clone().with_params(p).unwrap().scores(&batch).unwrap(),
        )
    };
    check_gradient(tab.params(), grad.values(), loss);

    let lin = log_linear();
    let mut grad = RowGradient::zeros(4, 4);
    lin.pull_back(&batch, &w, &mut grad).unwrap();
    let loss = |p: &[f64]| {
        inner(
            &w,
            &lin.clone().with_params(p).unwrap().scores(&batch).unwrap(),
        )
    };
    check_gradient(lin.params(), grad.values(), loss);
}

/// Scores are linear in the parameters, so the loss may be checked at any step width.
#[test]
fn critics_and_rewards_pull_back_their_channels() {
    let map = map();
    let mut batch = all_responses(&map);
    // Cut before the table ends: the final state has a value.
    let cut = Episode::try_new(StateMap::prompt(1), vec![0, 1], rto::seq::Finish::Length);
    batch.push(cut.unwrap());
    let (n, sgd) = (map.mdp().n_states(), OptimizerConfig::sgd(0.1));
    let critic = |p: &[f64]| Regressor::critic(map.clone(), p, sgd).unwrap();
    let reward = |p: &[f64]| Regressor::reward(map.clone(), p, sgd).unwrap();
    let (psi, phi) = (features(&map, 1), features(&map, 3));
    let linear_critic =
        |p: &[f64]| Regressor::linear_critic(map.clone(), psi.clone(), p, sgd).unwrap();
    let linear_reward =
        |p: &[f64]| Regressor::linear_reward(map.clone(), phi.clone(), p, sgd).unwrap();
    let values: Vec<f64> = (0..3 * n).map(|i| (i as f64).sin()).collect();
    macro_rules! check {
        ($make:expr, $params:expr, $width:expr) => {
            let model = $make($params);
            let w = weights(&model.scores(&batch).unwrap());
            let mut grad = RowGradient::zeros($params.len(), $width);
            model.pull_back(&batch, &w, &mut grad).unwrap();
            check_gradient($params, grad.values(), |p| {
                inner(&w, &$make(p).scores(&batch).unwrap())
            });
        };
    }
    check!(critic, &values[..n], 1);
    check!(reward, &values[..], 3);
    check!(linear_critic, &values[..4], 4);
    check!(linear_reward, &values[..4], 4);
    let last = critic(&values[..n]).scores(&batch).unwrap();
    let last = last.get(Channel::FinalValue).unwrap().values().to_vec();
    let (cut, ended) = last.split_last().unwrap();
    assert!(*cut != 0.0 && ended.iter().all(|v| *v == 0.0));
}

#[test]
fn a_policy_without_full_support_is_refused() {
    let map = map();
    let mut logits = random_logits(&map, 2);
    logits[[4, 1]] = f64::NEG_INFINITY;
    let holed = TabularPolicy::from_logits(logits.clone()).unwrap();
    let said = TabularSoftmax::from_policy(map.clone(), &holed).unwrap_err();
    assert!(
        said.to_string().starts_with("policy[4][1]: found 0"),
        "{said}"
    );
    let said = tabular().with_reference(Arc::new(holed)).unwrap_err();
    assert!(
        said.to_string().starts_with("reference[4][1]: found 0"),
        "{said}"
    );
    let said = TabularSoftmax::try_new(map, &logits).unwrap_err();
    assert!(
        said.to_string().starts_with("logits[4][1] is not finite"),
        "{said}"
    );
}

#[test]
fn reports_of_one_walk_are_those_of_a_walk_each() {
    let map = map();
    let reference = TabularPolicy::from_logits(random_logits(&map, 2)).unwrap();
    let made = |seed, beta| {
        let reward = rto::reward::TabularReward::try_new(random_logits(&map, seed)).unwrap();
        let beta = Beta::try_new(beta).unwrap();
        ExactEvaluator::try_new(map.clone(), &reward, reference.clone(), beta).unwrap()
    };
    let (a, b, c) = (made(6, 0.3), made(7, 0.3), made(6, 2.0));
    let table = tabular().table().unwrap();
    let together = ExactEvaluator::reports([&a, &b, &c], &table).unwrap();
    let apart = [&a, &b, &c].map(|e| e.report(&table).unwrap());
    assert_eq!(together, apart);
    let reward = rto::reward::TabularReward::try_new(random_logits(&map, 6)).unwrap();
    let other = TabularPolicy::from_logits(random_logits(&map, 3)).unwrap();
    let other = ExactEvaluator::try_new(map, &reward, other, Beta::try_new(0.3).unwrap()).unwrap();
    let said = ExactEvaluator::reports([&a, &other], &table).unwrap_err();
    assert_eq!(
        said.to_string(),
        "evaluators: found different trees or references, must be of one tree and one reference"
    );
}

#[test]
fn exact_reports_equal_the_planner_and_need_only_scores() {
    let map = map();
    let (policy, beta) = (tabular(), Beta::try_new(0.3).unwrap());
    let reference = TabularPolicy::from_logits(random_logits(&map, 2)).unwrap();
    let reward = rto::reward::TabularReward::try_new(random_logits(&map, 6)).unwrap();
    let exact = ExactEvaluator::try_new(map.clone(), &reward, reference.clone(), beta).unwrap();
    let table = policy.table().unwrap();
    let report = exact.report(&table).unwrap();
    let mdp = map.mdp();
    let d = visitation(mdp, &table).unwrap();
    let want = [
        evaluate(Problem::new(mdp, &reference, beta), &reward, &table)
            .unwrap()
            .mean_value(mdp),
        suboptimality(Problem::new(mdp, &reference, beta), &reward, &table).unwrap(),
        d.reward(mdp, &reward).unwrap(),
        d.kl(mdp, &table, &reference).unwrap(),
        -d.expect(|s, a| table.log_prob(s, a)),
        d.state.iter().sum(),
    ];
    let got = |r: rto::policy::ExactReport| {
        [
            r.value,
            r.suboptimality,
            r.reward,
            r.kl,
            r.entropy,
            r.length,
        ]
    };
    for rows in [1, 7, 1000] {
        let through_scores = exact.report_scores(&policy, rows).unwrap();
        for (g, w) in got(report)
            .iter()
            .zip(&want)
            .chain(got(through_scores).iter().zip(&want))
        {
            assert!((g - w).abs() < 1e-12, "{g} {w}");
        }
    }
    assert!(exact.report(exact.optimal()).unwrap().suboptimality.abs() < 1e-12);
    assert!(tabulate(&policy, &map, 0).is_err());
}

/// Mean over unordered pairs of −P(y ≻ y′) log σ(m) − P(y′ ≻ y) log σ(−m), m = β Σ log π/π_ref differences: the
/// population loss of (4.4) for one prompt per group of rows.
struct PopulationDpo {
    groups: Vec<Range<usize>>,
    returns: Vec<f64>,
    offset: Vec<f64>,
    beta: f64,
}

impl TokenObjective for PopulationDpo {
    fn groups(&self) -> &[Range<usize>] {
        &self.groups
    }

    fn channels(&self) -> &[Channel] {
        &[Channel::LogProb]
    }

    fn loss_grad(&self, group: usize, scores: &PerToken, grad: &mut PerToken) -> f64 {
        let rows = self.groups[group].clone();
        let pairs = (rows.len() * (rows.len() - 1) / 2) as f64;
        let z = |i: usize| scores.row(Channel::LogProb, i).iter().sum::<f64>() - self.offset[i];
        let mut loss = 0.0;
        for i in rows.clone() {
            for j in rows.start..i {
                let margin = self.beta * (z(i) - z(j));
                let p = sigmoid(self.returns[i] - self.returns[j]);
                loss -= (p * log_sigmoid(margin) + (1.0 - p) * log_sigmoid(-margin)) / pairs;
                let slope = self.beta * (sigmoid(margin) - p) / pairs;
                for (row, slope) in [(i, slope), (j, -slope)] {
                    let g = grad.row_mut(Channel::LogProb, row);
                    g.iter_mut().for_each(|g| *g += slope);
                }
            }
        }
        loss
    }
}

/// Adam whose rate falls geometrically from `first` to `last` over `steps`.
fn anneal(steps: i32, first: f64, last: f64, mut step: impl FnMut(f64)) {
    for t in 0..steps {
        step(first * (last / first).powf(f64::from(t) / f64::from(steps)));
    }
}

fn adam() -> OptimizerConfig {
    let rule = Rule::Adam {
        decay1: 0.9,
        decay2: 0.99,
        epsilon: 1e-12,
        weight_decay: 0.0,
    };
    OptimizerConfig {
        rule,
        ..OptimizerConfig::sgd(0.1)
    }
}

#[test]
fn dpo_on_the_population_reaches_the_soft_optimum() {
    for (tree, g) in [zoo::g0().unwrap(), zoo::g1().unwrap()] {
        let rho = vec![1.0 / tree.n_prompts() as f64; tree.n_prompts()];
        let map = StateMap::tree(&tree, &rho).unwrap();
        let batch = all_responses(&map);
        let start = TabularSoftmax::from_policy(map.clone(), &g.reference).unwrap();
        let offset = start.scores(&batch).unwrap();
        let per_prompt = batch.len() / tree.n_prompts();
        let reward = g.reward();
        let walk = |y: &Episode| map.walk_all(std::slice::from_ref(y)).unwrap().steps;
        let total = |y: &Episode| walk(y).iter().map(|&(s, a)| reward.reward(s, a)).sum();
        let objective = PopulationDpo {
            groups: (0..tree.n_prompts())
                .map(|p| p * per_prompt..(p + 1) * per_prompt)
                .collect(),
            returns: batch.iter().map(total).collect(),
            offset: offset.get(Channel::LogProb).unwrap().row_sums(),
            beta: g.beta.get(),
        };
        let mut learner = TabularLearner::try_new(start, adam()).unwrap();
        anneal(6000, 0.1, 1e-8, |rate| {
            learner.set_learning_rate(rate);
            learner.step(&batch, &objective).unwrap();
        });
        let best = soft_value_iteration(g.problem(), &reward).unwrap();
        let got = learner.policy().table().unwrap();
        let tv = response_total_variation(&map, &got, &best.policy).unwrap();
        assert!(tv < 1e-6, "total variation {tv}");
    }
}

/// Exact-gradient RTO from π_ref with the dense reward β₁ log(π_dpo/π_ref).
fn exact_rto(
    map: &Arc<StateMap>,
    dpo: &TabularPolicy,
    reference: &TabularPolicy,
    (beta1, beta2): (f64, f64),
) -> TabularSoftmax {
    let dense = LogRatioReward::try_new(dpo, reference, beta1).unwrap();
    let start = TabularSoftmax::from_policy(map.clone(), reference).unwrap();
    let mut learner = TabularLearner::try_new(start, adam()).unwrap();
    let beta2 = Beta::try_new(beta2).unwrap();
    anneal(40_000, 0.05, 1e-9, |rate| {
        learner.set_learning_rate(rate);
        learner.step_exact(&dense, reference, beta2).unwrap();
    });
    learner.snapshot().unwrap()
}

fn numbers(value: &Value) -> Vec<f64> {
    match value {
        Value::Array(items) => items.iter().flat_map(numbers).collect(),
        one => vec![one.as_f64().expect("a number")],
    }
}

#[track_caller]
fn close(what: &str, got: &[f64], want: &Value, tolerance: f64) {
    let want = numbers(want);
    assert_eq!(got.len(), want.len(), "{what}");
    for (g, w) in got.iter().zip(&want) {
        assert!(
            (g - w).abs() <= tolerance,
            "{what}: got {g:.12e}, golden {w:.12e}"
        );
    }
}

fn golden() -> Value {
    serde_json::from_str(include_str!("golden/theory.json")).unwrap()
}

#[test]
fn exact_gradient_rto_reaches_the_golden_tilt_of_g0() {
    let (tree, g) = zoo::g0().unwrap();
    let map = StateMap::tree(&tree, &[1.0]).unwrap();
    let dpo = soft_value_iteration(g.problem(), &g.reward())
        .unwrap()
        .policy;
    let exact =
        ExactEvaluator::try_new(map.clone(), &g.reward(), g.reference.clone(), g.beta).unwrap();
    let all = golden();
    let mut seen = 0;
    for (key, want) in all["G0"].as_object().unwrap() {
        let Some(betas) = key.strip_prefix("RTO_b1=") else {
            continue;
        };
        seen += 1;
        let (b1, b2) = betas.split_once("_b2=").unwrap();
        let betas: (f64, f64) = (b1.parse().unwrap(), b2.parse().unwrap());
        let policy = exact_rto(&map, &dpo, &g.reference, betas);
        let table = tabulate(&policy, &map, 3).unwrap();
        close(
            key,
            table.log_probs().mapv(f64::exp).as_slice().unwrap(),
            &want["pi"],
            1e-8,
        );
        let leaves = policy.scores(&all_responses(&map)).unwrap();
        let leaves = leaves.get(Channel::LogProb).unwrap().row_sums();
        let leaves: Vec<f64> = leaves.into_iter().map(f64::exp).collect();
        close(key, &leaves, &want["leaf"], 1e-8);
        let dense = LogRatioReward::try_new(&dpo, &g.reference, betas.0).unwrap();
        let beta2 = Beta::try_new(betas.1).unwrap();
        let v = evaluate(Problem::new(&g.mdp, &g.reference, beta2), &dense, &table)
            .unwrap()
            .v;
        close(key, &v[..1], &want["V"], 1e-8);
        let gap = exact.report(&table).unwrap().suboptimality;
        close(key, &[gap], &want["SubOpt_at_beta"], 1e-8);
    }
    assert!(seen > 0);
    let same = exact_rto(&map, &dpo, &g.reference, (0.5, 0.5))
        .table()
        .unwrap();
    let tv = response_total_variation(&map, &same, &dpo).unwrap();
    assert!(tv < 1e-8, "equal betas return the DPO policy: {tv}");
}

#[test]
fn exact_gradient_rto_reaches_the_golden_tilt_of_g1() {
    use rto::estimate::{Design, FitOptions, fit_bradley_terry};
    let (tree, g) = zoo::g1().unwrap();
    let map = StateMap::tree(&tree, &[0.6, 0.4]).unwrap();
    let design = Design::from_pairs(&g.mdp, &g.features, &zoo::g1_preferences().unwrap()).unwrap();
    let options = FitOptions {
        param_bound: 2.0,
        ..FitOptions::default()
    };
    let fit = fit_bradley_terry(&design, &options).unwrap();
    let learned = rto::reward::LinearReward::try_new(&g.features, &fit.theta).unwrap();
    let dpo = soft_value_iteration(g.problem(), &learned).unwrap().policy;
    let all = golden();
    let want = &all["G1"]["DPO_RTO"];
    let policy = exact_rto(&map, &dpo, &g.reference, (0.1, 0.03))
        .table()
        .unwrap();
    let beta2 = Beta::try_new(0.03).unwrap();
    let best = rto_optimum(
        &g.mdp,
        &dpo,
        &g.reference,
        Beta::try_new(0.1).unwrap(),
        beta2,
    )
    .unwrap();
    let tv = response_total_variation(&map, &policy, &best.policy).unwrap();
    assert!(tv < 1e-8, "total variation {tv}");
    close(
        "rto",
        &policy.probs(tree.root(0)),
        &want["rto_b1_0_1_b2_0_03_root0"],
        1e-8,
    );
    let dense = LogRatioReward::try_new(&dpo, &g.reference, 0.1).unwrap();
    let v = evaluate(Problem::new(&g.mdp, &g.reference, beta2), &dense, &policy)
        .unwrap()
        .v;
    let v = [v[tree.root(0).ix()], v[tree.root(1).ix()]];
    close("V_rto", &v, &want["V_rto"], 1e-8);
    let exact = ExactEvaluator::try_new(map, &g.reward(), g.reference.clone(), g.beta).unwrap();
    let gap = |p: &TabularPolicy| [exact.report(p).unwrap().suboptimality];
    close("dpo", &gap(&dpo), &want["SubOpt_dpo_true_beta0_5"], 1e-8);
    close("rto", &gap(&policy), &want["SubOpt_rto_true_beta0_5"], 1e-8);
}
