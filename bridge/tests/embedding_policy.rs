//! The candle backend of the seam takes the steps of the exact one.

use std::ops::Range;
use std::sync::Arc;

use rand::Rng;
use rto::mdp::{ActionIx, TabularPolicy, TokenTree};
use rto::numerics::{log_sigmoid, sigmoid};
use rto::policy::{
    OptimizerConfig, RowGradient, StateMap, TabularLearner, TabularSoftmax, tabulate,
};
use rto::seed::SeedTree;
use rto::seq::{
    Channel, Episode, PerToken, Policy, PolicyLearner, Ragged, StreamKey, TokenObjective,
    TokenScorer, Trainable,
};
use rto_bridge::embedding_policy::{EmbeddingLearner, EmbeddingPolicy};

const TOLERANCE: f64 = 1e-8;

struct Pair {
    map: Arc<StateMap>,
    exact: TabularSoftmax,
    candle: EmbeddingPolicy,
}

/// The same policy twice: 2 prompts, 4 actions with end-of-sentence, 4 tokens, T = 0.8, all channels.
fn pair() -> Pair {
    let tree = TokenTree::try_new(2, 4, 4, Some(ActionIx(3))).unwrap();
    let map = StateMap::tree(&tree, &[0.5, 0.5]).unwrap();
    let mut rng = SeedTree::new(1).rng();
    let mut table = || {
        let logits: Vec<f64> = (0..4 * tree.n_states())
            .map(|_| 2.0 * rng.random::<f64>() - 1.0)
            .collect();
        ndarray_of(&map, &logits)
    };
    let (logits, reference) = (table(), TabularPolicy::from_logits(table()).unwrap());
    let exact = TabularSoftmax::try_new(map.clone(), &logits)
        .and_then(|p| p.with_temperature(0.8))
        .and_then(|p| p.with_entropy().with_reference(Arc::new(reference.clone())))
        .unwrap();
    let candle = EmbeddingPolicy::try_new(map.clone(), logits.as_slice().unwrap())
        .and_then(|p| p.with_temperature(0.8))
        .and_then(|p| p.with_entropy().with_reference(&reference))
        .unwrap();
    Pair { map, exact, candle }
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

/// (4.4): −log σ(β Σ(log π/π_ref)(winner) − β Σ(log π/π_ref)(loser)), mean over pairs of rows.
struct Dpo {
    groups: Vec<Range<usize>>,
    offset: Vec<f64>,
}

impl TokenObjective for Dpo {
    fn groups(&self) -> &[Range<usize>] {
        &self.groups
    }

    fn channels(&self) -> &[Channel] {
        &[Channel::LogProb]
    }

    fn loss_grad(&self, g: usize, scores: &PerToken, grad: &mut PerToken) -> f64 {
        let (w, l, n) = (2 * g, 2 * g + 1, self.groups.len() as f64);
        let z = |i: usize| scores.row(Channel::LogProb, i).iter().sum::<f64>() - self.offset[i];
        let margin = 0.3 * (z(w) - z(l));
        let slope = 0.3 * sigmoid(-margin) / n;
        for (row, slope) in [(w, -slope), (l, slope)] {
            let g = grad.row_mut(Channel::LogProb, row);
            g.iter_mut().for_each(|g| *g += slope);
        }
        -log_sigmoid(margin) / n
    }
}

/// The clipped surrogate with an entropy bonus and both KLs in the loss, token mean.
struct Clipped {
    groups: Vec<Range<usize>>,
    advantage: Ragged,
    old: Ragged,
}

impl TokenObjective for Clipped {
    fn groups(&self) -> &[Range<usize>] {
        &self.groups
    }

    fn channels(&self) -> &[Channel] {
        &[
            Channel::LogProb,
            Channel::Entropy,
            Channel::KlToReference,
            Channel::KlFromReference,
        ]
    }

    fn loss_grad(&self, i: usize, scores: &PerToken, grad: &mut PerToken) -> f64 {
        let n = self.old.n_tokens() as f64;
        let mut loss = 0.0;
        for (h, (&a, &old)) in self
            .advantage
            .row(i)
            .iter()
            .zip(self.old.row(i))
            .enumerate()
        {
            let ratio = (scores.row(Channel::LogProb, i)[h] - old).exp();
            let clipped = ratio.clamp(0.8, 1.2);
            loss -= (ratio * a).min(clipped * a) / n;
            if ratio * a <= clipped * a {
                grad.row_mut(Channel::LogProb, i)[h] -= ratio * a / n;
            }
            for (c, weight) in [
                (Channel::Entropy, -0.01),
                (Channel::KlToReference, 0.05),
                (Channel::KlFromReference, 0.02),
            ] {
                loss += weight * scores.row(c, i)[h] / n;
                grad.row_mut(c, i)[h] += weight / n;
            }
        }
        loss
    }
}

#[test]
fn scores_samples_and_gradients_are_those_of_the_table() {
    let Pair { map, exact, candle } = pair();
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

#[test]
fn fifty_dpo_steps_agree() {
    let Pair { exact, candle, .. } = pair();
    let reference = exact.clone();
    let mut a = TabularLearner::try_new(exact, OptimizerConfig::adam(0.02)).unwrap();
    // Three rows: a pair spans two micro-batches.
    let mut b = EmbeddingLearner::try_new(candle, OptimizerConfig::adam(0.02), 3).unwrap();
    for step in 0..50 {
        let batch = draw(&reference, 16, step);
        let offset = reference.scores(&batch).unwrap();
        let dpo = Dpo {
            groups: (0..8).map(|i| 2 * i..2 * i + 2).collect(),
            offset: offset.get(Channel::LogProb).unwrap().row_sums(),
        };
        let (x, y) = (a.step(&batch, &dpo).unwrap(), b.step(&batch, &dpo).unwrap());
        same(&[x.loss, x.grad_norm], &[y.loss, y.grad_norm]);
        same(a.policy().params(), &b.policy().params().unwrap());
    }
    let moved = a.policy().params().iter().zip(reference.params());
    assert!(moved.map(|(a, b)| (a - b).abs()).fold(0.0, f64::max) > 0.1);
}

#[test]
fn twenty_ppo_iterations_agree() {
    let Pair { map, exact, candle } = pair();
    let config = OptimizerConfig {
        max_grad_norm: Some(0.5),
        ..OptimizerConfig::adam(0.03)
    };
    let start = exact.clone();
    let mut a = TabularLearner::try_new(exact, config).unwrap();
    let mut b = EmbeddingLearner::try_new(candle, config, 5).unwrap();
    let mut clips = 0;
    for iteration in 0..20 {
        let batch = draw(a.policy(), 32, iteration);
        assert_eq!(
            batch,
            draw(b.policy(), 32, iteration),
            "the same responses are drawn"
        );
        let old = a
            .policy()
            .scores(&batch)
            .unwrap()
            .take(Channel::LogProb)
            .unwrap();
        let mut advantage = Ragged::zeros(&batch);
        for (v, (s, a)) in advantage
            .values_mut()
            .iter_mut()
            .zip(map.walk_all(&batch).unwrap().steps)
        {
            *v = f64::from(7 * s.0 + 3 * a.0).sin();
        }
        let ppo = Clipped {
            groups: (0..32).map(|i| i..i + 1).collect(),
            advantage,
            old,
        };
        let frozen = b.snapshot().unwrap();
        let before = frozen.params().unwrap();
        for _ in 0..4 {
            let (x, y) = (a.step(&batch, &ppo).unwrap(), b.step(&batch, &ppo).unwrap());
            same(&[x.loss, x.grad_norm], &[y.loss, y.grad_norm]);
            same(a.policy().params(), &b.policy().params().unwrap());
        }
        assert_eq!(frozen.params().unwrap(), before, "a snapshot does not move");
        let now = a.policy().scores(&batch).unwrap();
        let now = now
            .get(Channel::LogProb)
            .unwrap()
            .values()
            .iter()
            .zip(ppo.old.values());
        clips += now
            .filter(|(n, o)| ((*n - *o).exp() - 1.0).abs() > 0.2)
            .count();
    }
    assert!(
        clips > 0,
        "some ratio was clipped, or the surrogate was not tested"
    );
    let moved = a.policy().params().iter().zip(start.params());
    assert!(moved.map(|(a, b)| (a - b).abs()).fold(0.0, f64::max) > 0.1);
}

#[test]
fn bad_input_is_refused() {
    let Pair { map, candle, .. } = pair();
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
    let unknown = Episode::try_new([9].into(), vec![0], rto::seq::Finish::Length).unwrap();
    let said = candle.scores(&[unknown]).unwrap_err();
    assert!(said.to_string().starts_with("prompt: found [9]"), "{said}");
}
