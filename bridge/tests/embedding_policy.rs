//! The candle backend of the seam takes the steps of the exact one.

#[path = "embedding_policy/policy.rs"]
mod policy;

use std::sync::Arc;

use rand::Rng;
use rto::algorithm2::{
    Checked, CriticSlot, DpoConfig, FitConfig, KlPlacement, Pair, PpoConfig, PpoRun, PpoState,
    Schedule, dpo, fit_steps,
};
use rto::mdp::{ActionIx, TabularPolicy, TokenTree, for_each_trajectory};
use rto::objective::DpoLoss;
use rto::objective::pair_loss::CDpo;
use rto::policy::{
    OptimizerConfig, Regressor, RowGradient, StateMap, TabularActorCritic,
    TabularActorCriticLearner, TabularLearner, TabularSoftmax, tabulate,
};
use rto::seed::SeedTree;
use rto::seq::{
    Channel, Episode, Finish, PerToken, Policy, PolicyLearner, StepReport, StreamKey,
    TokenObjective, TokenScorer, Trainable,
};
use rto::token_reward::{DpoReward, KlEstimator};

use policy::{EmbeddingLearner, EmbeddingPolicy};

const TOLERANCE: f64 = 1e-8;

struct Both {
    map: Arc<StateMap>,
    exact: TabularSoftmax,
    candle: EmbeddingPolicy,
}

/// The same policy twice: 2 prompts, 4 actions with end-of-sentence, 4 tokens, T = 0.8, all channels.
fn both() -> Both {
    let tree = TokenTree::try_new(2, 4, 4, Some(ActionIx(3))).unwrap();
    let map = StateMap::tree(&tree, &[0.5, 0.5]).unwrap();
    let (logits, reference) = (random(&map, "policy"), reference(&map));
    let exact = TabularSoftmax::try_new(map.clone(), &logits)
        .and_then(|p| p.with_temperature(0.8))
        .and_then(|p| p.with_entropy().with_reference(Arc::new(reference.clone())))
        .unwrap();
    let candle = EmbeddingPolicy::try_new(map.clone(), logits.as_slice().unwrap())
        .and_then(|p| p.with_temperature(0.8))
        .and_then(|p| p.with_entropy().with_reference(&reference))
        .unwrap();
    Both { map, exact, candle }
}

fn random(map: &StateMap, label: &str) -> ndarray::Array2<f64> {
    let mut rng = SeedTree::new(1).child(label).rng();
    let shape = (map.mdp().n_states(), map.mdp().n_actions());
    ndarray::Array2::from_shape_fn(shape, |_| 2.0 * rng.random::<f64>() - 1.0)
}

/// The π_ref of the KL channels.
fn reference(map: &StateMap) -> TabularPolicy {
    TabularPolicy::from_logits(random(map, "reference")).unwrap()
}

fn ndarray_of(map: &StateMap, values: &[f64]) -> ndarray::Array2<f64> {
    let shape = (map.mdp().n_states(), map.mdp().n_actions());
    ndarray::Array2::from_shape_vec(shape, values.to_vec()).unwrap()
}

fn draw(policy: &impl Policy, n: usize, step: u64) -> Vec<Episode> {
    let prompts: Vec<_> = (0..n).map(|i| StateMap::prompt(i / 2 % 2)).collect();
    let keys = StreamKey::batch(&SeedTree::new(2).child("rollout").index(step), n);
    policy.sample(&prompts, &keys).unwrap()
}

#[track_caller]
fn same(a: &[f64], b: &[f64]) {
    assert_eq!(a.len(), b.len());
    for (i, (a, b)) in a.iter().zip(b).enumerate() {
        assert!((a - b).abs() <= TOLERANCE, "{i}: {a} {b}");
    }
}

fn furthest(a: &[f64], b: &[f64]) -> f64 {
    assert_eq!(a.len(), b.len());
    let off = a.iter().zip(b).map(|(a, b)| (a - b).abs());
    off.fold(0.0, f64::max)
}

#[test]
fn scores_samples_and_gradients_are_those_of_the_table() {
    let Both { map, exact, candle } = both();
    let batch = draw(&exact, 60, 0);
    assert_eq!(batch, draw(&candle, 60, 0));
    let (a, b) = (
        exact.scores(&batch).unwrap(),
        candle.scores(&batch).unwrap(),
    );
    let mut weights = a.zeros_like();
    let mut rng = SeedTree::new(3).rng();
    for &c in exact.channels() {
        let (a, b) = (a.get(c).unwrap(), b.get(c).unwrap());
        assert!(
            a.values()
                .iter()
                .zip(b.values())
                .all(|(a, b)| (a - b).abs() < 1e-13)
        );
        for i in 0..batch.len() {
            let row = weights.row_mut(c, i);
            row.iter_mut().for_each(|w| *w = rng.random::<f64>() - 0.5);
        }
    }
    let mut want = RowGradient::zeros(exact.params().len(), 4);
    exact.pull_back(&batch, &weights, &mut want).unwrap();
    for micro_batch in [1, 7, 60] {
        let learner =
            EmbeddingLearner::try_new(candle.clone(), OptimizerConfig::sgd(0.1), micro_batch);
        let got = learner.unwrap().pull_back(&batch, &weights).unwrap();
        assert!(
            want.values()
                .iter()
                .zip(&got)
                .all(|(a, b)| (a - b).abs() < 1e-12)
        );
    }
    let written_out = tabulate(&candle, &map, 50).unwrap();
    let table = exact.table().unwrap();
    // States behind an end-of-sentence token are not reached by any response.
    for y in &batch {
        for (s, a) in map.walk_all(std::slice::from_ref(y)).unwrap().steps {
            assert!((written_out.log_prob(s, a) - table.log_prob(s, a)).abs() < 1e-13);
        }
    }
}

/// Line 2 of Algorithm 2, one call a step so that parameters can be compared after each.
#[test]
fn fifty_dpo_steps_agree() {
    let Both { exact, candle, .. } = both();
    let (start, on_candle) = (exact.clone(), candle.clone());
    let rows = draw(&exact, 120, 0);
    let pair = |r: &[Episode]| Pair {
        winner: r[0].clone(),
        loser: r[1].clone(),
    };
    let pairs: Vec<_> = rows.chunks_exact(2).map(pair).collect();
    let mut config = DpoConfig {
        beta: 0.3,
        loss: DpoLoss::CDpo(CDpo { epsilon: 0.1 }),
        ..DpoConfig::default()
    };
    config.fit = FitConfig {
        learning_rate: 0.02,
        batch_size: 8,
        epochs: 7,
        schedule: Schedule::Linear { warmup: 0.1 },
        ..config.fit
    };
    let (config, seeds) = (config.check().unwrap(), SeedTree::new(4));
    assert!(fit_steps(pairs.len(), &config.fit) >= 50);
    let adam = OptimizerConfig::adam(1.0);
    let mut a = TabularLearner::try_new(exact, adam).unwrap();
    // Three rows: a pair spans two micro-batches.
    let mut b = EmbeddingLearner::try_new(candle, adam, 3).unwrap();
    for step in 0..50 {
        let (mut x, mut y) = (Vec::new(), Vec::new());
        let steps = step..step + 1;
        dpo(
            &mut a,
            &start,
            &pairs,
            &config,
            &seeds,
            steps.clone(),
            &mut |step| Ok(keep(&mut x, &step.report)?),
        )
        .unwrap();
        dpo(
            &mut b,
            &on_candle,
            &pairs,
            &config,
            &seeds,
            steps,
            &mut |step| Ok(keep(&mut y, &step.report)?),
        )
        .unwrap();
        assert_eq!(x.len(), 3);
        same(&x, &y);
        same(a.policy().params(), &b.policy().params().unwrap());
    }
    assert!(furthest(a.policy().params(), start.params()) > 0.1);
}

fn keep(all: &mut Vec<f64>, report: &StepReport) -> rto::Result<()> {
    all.extend([report.loss, report.grad_norm, report.learning_rate]);
    Ok(())
}

/// Keeps the report of every step.
struct Logged<L>(L, Vec<f64>);

impl<L: Trainable> Trainable for Logged<L> {
    fn step(&mut self, batch: &[Episode], loss: &dyn TokenObjective) -> rto::Result<StepReport> {
        let report = self.0.step(batch, loss)?;
        keep(&mut self.1, &report)?;
        Ok(report)
    }

    fn set_learning_rate(&mut self, learning_rate: f64) {
        self.0.set_learning_rate(learning_rate);
    }
}

impl<L: PolicyLearner> PolicyLearner for Logged<L> {
    type Policy = L::Policy;

    fn policy(&self) -> &L::Policy {
        self.0.policy()
    }

    fn snapshot(&self) -> rto::Result<L::Policy> {
        self.0.snapshot()
    }
}

/// A candle critic of its own: the value channels of an [`EmbeddingLearner`] whose logits nobody reads.
struct EmbeddingCritic(EmbeddingLearner);

impl TokenScorer for EmbeddingCritic {
    fn channels(&self) -> &[Channel] {
        self.0.policy().channels()
    }

    fn scores(&self, batch: &[Episode]) -> rto::Result<PerToken> {
        self.0.policy().scores(batch)
    }
}

impl Trainable for EmbeddingCritic {
    fn step(&mut self, batch: &[Episode], loss: &dyn TokenObjective) -> rto::Result<StepReport> {
        self.0.step(batch, loss)
    }

    fn set_learning_rate(&mut self, learning_rate: f64) {
        self.0.set_learning_rate(learning_rate);
    }
}

/// RTO with GAE, two epochs of four minibatches; `change` sets what a test is about.
fn ppo(change: impl FnOnce(&mut PpoConfig)) -> Checked<PpoConfig> {
    let mut config = PpoConfig {
        iterations: 20,
        prompts_per_iteration: 32,
        minibatch_size: 8,
        beta2: 0.3,
        learning_rate: 0.03,
        critic_learning_rate: 0.1,
        entropy_bonus: 0.01,
        ..PpoConfig::paper()
    };
    change(&mut config);
    config.check().unwrap()
}

fn adam() -> OptimizerConfig {
    OptimizerConfig {
        max_grad_norm: Some(0.5),
        ..OptimizerConfig::adam(1.0)
    }
}

/// π_dpo of the reward (4.5) on both backends.
fn dpo_policies(map: &Arc<StateMap>) -> (TabularSoftmax, EmbeddingPolicy) {
    let logits: Vec<f64> = (0..4 * map.mdp().n_states())
        .map(|i| (1.3 * i as f64).sin())
        .collect();
    let table = TabularSoftmax::try_new(map.clone(), &ndarray_of(map, &logits));
    let candle = EmbeddingPolicy::try_new(map.clone(), &logits);
    (table.unwrap(), candle.unwrap())
}

fn values(map: &StateMap) -> Vec<f64> {
    let of = |s: usize| (0.7 * s as f64).cos();
    (0..map.mdp().n_states()).map(of).collect()
}

/// One backend: a learner and the run it is trained by.
struct Side<'a, L> {
    learner: Logged<L>,
    run: PpoRun<'a>,
    state: PpoState,
}

impl<L: PolicyLearner> Side<'_, L> {
    /// Responses cut at two tokens, so that final values count where they are asked for.
    fn iterate(&mut self, critic: &mut CriticSlot<'_>, cut: bool) -> (Vec<Episode>, Vec<f64>) {
        let mut batch = self
            .run
            .rollout(self.learner.policy(), &self.state)
            .unwrap();
        for e in batch.iter_mut().filter(|e| cut && e.len() > 2) {
            e.response.truncate(2);
            e.finish = Finish::Length;
        }
        let report = self
            .run
            .update(&mut self.learner, critic, &mut self.state, batch.clone());
        let r = report.unwrap();
        let mut seen = std::mem::take(&mut self.learner.1);
        let numbers = [
            r.objective,
            r.kl,
            r.approx_kl,
            r.clip_fraction,
            r.policy_loss,
        ];
        seen.extend(numbers.into_iter().chain(r.value_loss));
        seen.extend(r.explained_variance.into_iter().chain(r.entropy));
        (batch, seen)
    }
}

impl<'a, L> Side<'a, L> {
    fn new(learner: L, run: PpoRun<'a>) -> Self {
        Self {
            state: PpoState::new(run.config),
            learner: Logged(learner, Vec::new()),
            run,
        }
    }
}

/// Lines 3–8 with a critic of its own on each backend: rollouts, every step's loss and gradient norm, both sets of parameters.
#[test]
fn twenty_ppo_iterations_agree() {
    let Both { map, exact, candle } = both();
    let (dpo, on_candle) = dpo_policies(&map);
    let (start, start_candle) = (exact.clone(), candle.clone());
    let reward = DpoReward::try_new(&dpo, &start, 0.5).unwrap();
    let reward_candle = DpoReward::try_new(&on_candle, &start_candle, 0.5).unwrap();
    let prompts = [0, 1].map(StateMap::prompt);
    let (config, seeds) = (ppo(|_| ()), SeedTree::new(2));
    let run = PpoRun {
        reference: &start,
        reward: &reward,
        prompts: &prompts,
        config: &config,
        seeds: &seeds,
    };
    let run_candle = PpoRun {
        reference: &start_candle,
        reward: &reward_candle,
        ..run
    };
    let values = values(&map);
    let mut critic = Regressor::critic(map.clone(), &values, adam()).unwrap();
    let zeros = vec![0.0; start.params().len()];
    let table = EmbeddingPolicy::try_new(map.clone(), &zeros);
    let table = table.and_then(|p| p.with_values(&values)).unwrap();
    let mut critic_candle = EmbeddingCritic(EmbeddingLearner::try_new(table, adam(), 5).unwrap());
    let mut a = Side::new(TabularLearner::try_new(exact, adam()).unwrap(), run);
    let mut b = Side::new(
        EmbeddingLearner::try_new(candle, adam(), 5).unwrap(),
        run_candle,
    );
    let (mut clipped, mut moved) = (0.0, 0.0);
    for _ in 0..20 {
        let frozen = b.learner.snapshot().unwrap();
        let before = frozen.params().unwrap();
        let (batch, x) = a.iterate(&mut CriticSlot::Separate(&mut critic), false);
        let (other, y) = b.iterate(&mut CriticSlot::Separate(&mut critic_candle), false);
        assert_eq!(batch, other, "the same responses are drawn");
        assert!(x.len() > 3 * 2 * 4, "a report per step");
        same(&x, &y);
        same(
            a.learner.policy().params(),
            &b.learner.policy().params().unwrap(),
        );
        let columns = critic_candle.0.policy().params().unwrap();
        let column: Vec<_> = columns.chunks_exact(5).map(|row| row[4]).collect();
        same(critic.params(), &column);
        assert_eq!(frozen.params().unwrap(), before, "a snapshot does not move");
        clipped += x[x.len() - 5];
        moved = furthest(critic.params(), &values);
    }
    assert!(
        clipped > 0.0,
        "some ratio was clipped, or the surrogate was not tested"
    );
    assert!(furthest(a.learner.policy().params(), start.params()) > 0.1);
    assert!(moved > 0.1, "the critic has learnt");
}

/// The same with actor and critic in one table, an exact KL in the loss and cut responses that are bootstrapped.
#[test]
fn twenty_ppo_iterations_on_one_trunk_agree() {
    let Both { map, exact, candle } = both();
    let (dpo, on_candle) = dpo_policies(&map);
    let reward = DpoReward::try_new(&dpo, &exact, 0.5).unwrap();
    let reward_candle = DpoReward::try_new(&on_candle, &candle, 0.5).unwrap();
    let prompts = [0, 1].map(StateMap::prompt);
    let config = ppo(|c| {
        c.kl_estimator = KlEstimator::Exact;
        c.kl_placement = KlPlacement::Loss;
        c.bootstrap_truncated = true;
    });
    let seeds = SeedTree::new(2);
    let run = PpoRun {
        reference: &exact,
        reward: &reward,
        prompts: &prompts,
        config: &config,
        seeds: &seeds,
    };
    let run_candle = PpoRun {
        reference: &candle,
        reward: &reward_candle,
        ..run
    };
    let values = values(&map);
    let logits = ndarray_of(&map, exact.params());
    let trunk = TabularActorCritic::try_new(map.clone(), &logits, &values)
        .and_then(|p| p.with_temperature(0.8))
        .and_then(|p| p.with_entropy().with_reference(Arc::new(reference(&map))))
        .unwrap();
    let start = trunk.clone();
    let trunk_candle = candle.clone().with_values(&values).unwrap();
    let mut a = Side::new(
        TabularActorCriticLearner::try_new(trunk, adam()).unwrap(),
        run,
    );
    let learner = EmbeddingLearner::try_new(trunk_candle, adam(), 5).unwrap();
    let mut b = Side::new(learner, run_candle);
    for _ in 0..20 {
        let (batch, x) = a.iterate(&mut CriticSlot::SharedTrunk, true);
        let (other, y) = b.iterate(&mut CriticSlot::SharedTrunk, true);
        assert_eq!(batch, other, "the same responses are drawn");
        assert!(batch.iter().any(|e| e.finish == Finish::Length));
        same(&x, &y);
        same(
            a.learner.policy().params(),
            &b.learner.policy().params().unwrap(),
        );
    }
    assert!(furthest(a.learner.policy().params(), start.params()) > 0.1);
}

/// Counts of all responses against exp(Σ log π). Responses with a mean below 25 draws share a bin; there are at most 85 bins a
/// prompt, so |z| > 4.5 somewhere has probability below 1.2·10⁻³ for a right sampler, and the seed is fixed.
#[test]
fn sampler_frequencies_match_the_scores() {
    let Both { map, candle, .. } = both();
    let n = 20_000;
    for p in 0..map.n_prompts() {
        let mut all = Vec::new();
        for_each_trajectory(
            map.mdp(),
            map.root(&StateMap::prompt(p)).unwrap(),
            |steps| {
                let y: Vec<u32> = steps.iter().map(|(_, a)| a.0).collect();
                let finish = map.finish(y[y.len() - 1]);
                all.push(Episode::try_new(StateMap::prompt(p), y, finish).unwrap());
            },
        )
        .unwrap();
        let keys = StreamKey::batch(&SeedTree::new(7).index(p as u64), n);
        let mut counts = std::collections::HashMap::new();
        for y in candle.sample(&vec![StateMap::prompt(p); n], &keys).unwrap() {
            *counts.entry(y).or_insert(0u32) += 1;
        }
        let scores = candle.scores(&all).unwrap();
        let log_probs = scores.get(Channel::LogProb).unwrap().row_sums();
        let (mut bins, mut rare) = (Vec::new(), (0.0, 0.0));
        for (y, log_p) in all.iter().zip(&log_probs) {
            let (count, p_y) = (f64::from(counts.remove(y).unwrap_or(0)), log_p.exp());
            match n as f64 * p_y < 25.0 {
                true => rare = (rare.0 + count, rare.1 + p_y),
                false => bins.push((count, p_y)),
            }
        }
        assert!(counts.is_empty(), "responses that were not enumerated");
        bins.push(rare);
        assert!(bins.len() > 20, "{} bins", bins.len());
        let total: f64 = bins.iter().map(|b| b.1).sum();
        assert!((total - 1.0).abs() < 1e-12);
        for (count, p_y) in bins {
            let z = (count - n as f64 * p_y) / (n as f64 * p_y * (1.0 - p_y)).sqrt();
            assert!(z.abs() < 4.5, "{count} draws at probability {p_y}: z = {z}");
        }
    }
}

#[test]
fn bad_input_is_refused() {
    let Both { map, candle, .. } = both();
    let n = candle.params().unwrap().len();
    assert!(EmbeddingPolicy::try_new(map.clone(), &vec![0.0; n - 1]).is_err());
    let said = EmbeddingPolicy::try_new(map, &vec![f64::NAN; n]).unwrap_err();
    assert!(
        said.to_string().starts_with("logit[0][0] is not finite"),
        "{said}"
    );
    let sgd = OptimizerConfig::sgd(0.1);
    assert!(EmbeddingLearner::try_new(candle.clone(), sgd, 0).is_err());
    assert!(candle.clone().with_temperature(0.0).is_err());
    let said = candle.clone().with_values(&[0.0]).unwrap_err().to_string();
    assert!(said.ends_with("got 1"), "{said}");
    let unknown = Episode::try_new([9].into(), vec![0], rto::seq::Finish::Length).unwrap();
    let said = candle.scores(&[unknown]).unwrap_err();
    assert!(said.to_string().starts_with("prompt: found [9]"), "{said}");
}
