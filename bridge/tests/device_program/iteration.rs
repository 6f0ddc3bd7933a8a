//! One iteration of RTO: text, token rewards of (4.6), advantages, PPO's steps.

use super::there::*;
use crate::common::*;
use rand::Rng;
use rto::seed::SeedTree;
use rto_bridge::batch::Batch;
use rto_bridge::model::{Heads, Keep, Model, Request, Scores};
use rto_bridge::optimizer::{AdamW, AdamWConfig};
use rto_bridge::params::Gradients;
use rto_device::Draw;
use rto_device::network::{
    self as net, AdamWSettings, Judge, Learner, Rate, Schedule, Writing, Written, iteration,
};

const MICRO: usize = 2;
const MINI: usize = 4;
const RATE: f64 = 2e-4;

/// The clipped loss with a value loss of weight 0.1, on token rewards β₁ (log π_dpo − log π_ref) − β₂ (log π − log π_ref) and advantages
/// with λ = 0.95.
#[derive(Default)]
struct Rto {
    /// For each text and token: log-probability when it was written, advantage, return.
    tokens: Vec<Vec<[f64; 3]>>,
}

fn there_is(part: &Option<Vec<f32>>) -> &[f32] {
    part.as_deref().expect("asked for")
}

impl Rto {
    /// One text's scores from those of its micro-batch.
    fn of(
        lengths: &[usize],
        scores: &[net::Scores],
        part: fn(&net::Scores) -> &[f32],
    ) -> Vec<Vec<f64>> {
        let mut all = scores.iter().flat_map(|s| part(s).to_vec());
        lengths
            .iter()
            .map(|&n| all.by_ref().take(n).map(f64::from).collect())
            .collect()
    }
}

impl Judge for Rto {
    fn judge(&mut self, texts: &[Written], scores: &[Vec<net::Scores>]) {
        let lengths: Vec<usize> = texts.iter().map(|t| t.tokens.len()).collect();
        let [policy, reference, dpo] =
            [0, 1, 2].map(|i| Self::of(&lengths, &scores[i], |s| there_is(&s.log_probs)));
        let values = Self::of(&lengths, &scores[0], |s| there_is(&s.values));
        for i in 0..texts.len() {
            let n = lengths[i];
            let reward = |h: usize| {
                let own = policy[i][h] - reference[i][h];
                0.3 * (dpo[i][h] - reference[i][h]) - 0.05 * own
            };
            let (mut rows, mut advantage) = (vec![[0.0; 3]; n], 0.0);
            for h in (0..n).rev() {
                let next = if h + 1 < n { values[i][h + 1] } else { 0.0 };
                advantage = reward(h) + next - values[i][h] + 0.95 * advantage;
                rows[h] = [policy[i][h], advantage, advantage + values[i][h]];
            }
            self.tokens.push(rows);
        }
    }

    fn pull(&mut self, _: usize, texts: &[usize], scores: &net::Scores) -> net::Scores {
        let rows = texts.iter().flat_map(|&i| &self.tokens[i]);
        let (log_probs, values) = (there_is(&scores.log_probs), there_is(&scores.values));
        let (mut policy, mut critic) = (Vec::new(), Vec::new());
        for ((row, &log_prob), &value) in rows.zip(log_probs).zip(values) {
            let [old, advantage, whole] = *row;
            let ratio = (f64::from(log_prob) - old).exp();
            let clipped = (advantage > 0.0 && ratio > 1.2) || (advantage < 0.0 && ratio < 0.8);
            policy.push(if clipped {
                0.0
            } else {
                -advantage * ratio / 16.0
            } as f32);
            critic.push((0.1 * (f64::from(value) - whole) / 16.0) as f32);
        }
        net::Scores {
            log_probs: Some(policy),
            values: Some(critic),
            ..net::Scores::default()
        }
    }
}

/// The same iteration with the processor's kernels, on the texts that were written there.
fn here(model: &mut Model, others: [&Model; 2], prompts: &[&[u32]], written: &[Written]) {
    let batch = |texts: &[usize]| {
        let text = |&i: &usize| (prompts[i], &written[i].tokens[..]);
        Batch::new(&texts.iter().map(text).collect::<Vec<_>>()).unwrap()
    };
    let request = Request {
        log_probs: true,
        values: true,
        ..Request::default()
    };
    let all: Vec<usize> = (0..prompts.len()).collect();
    let scored = |model: &Model, request: &Request<'_>| {
        let pieces = all.chunks(MICRO);
        let scores = pieces.map(|texts| narrow(&model.scores(&batch(texts), request).unwrap()));
        scores.collect::<Vec<_>>()
    };
    let mut scores = vec![scored(model, &request)];
    scores.extend(others.map(|m| scored(m, &Request::log_probs())));
    let mut judge = Rto::default();
    judge.judge(written, &scores);
    let mut optimizer = AdamW::new(AdamWConfig::default(), model.params()).unwrap();
    for _ in 0..2 {
        for minibatch in all.chunks(MINI) {
            let mut gradients = Gradients::zeros(model.params());
            for texts in minibatch.chunks(MICRO) {
                let batch = batch(texts);
                let forward = model.forward(&batch, &request, Keep::Activations).unwrap();
                let pulled = judge.pull(0, texts, &narrow(&forward.scores));
                let grad = Scores {
                    log_probs: pulled.log_probs.map(|g| wide(&g)),
                    values: pulled.values.map(|g| wide(&g)),
                    ..Scores::default()
                };
                model
                    .backward(&batch, &request, forward, &grad, &mut gradients)
                    .unwrap();
            }
            optimizer
                .step(model.params_mut(), &gradients, RATE)
                .unwrap();
        }
    }
}

/// Two layers, eight prompts through three slots, two epochs of two steps: what policy and critic say afterwards is what they say when the
/// processor's kernels take the same steps.
#[test]
fn an_iteration_of_rto_is_that_of_slices() {
    let Some(device) = executor("an iteration") else {
        return;
    };
    let config = rto_bridge::family::GptNeoXConfig {
        n_layers: 2,
        ..small_config(true)
    };
    let heads = Heads {
        value: true,
        ..LANGUAGE
    };
    let mut rng = SeedTree::new(2).rng();
    let prompts: Vec<Vec<u32>> = (0..8)
        .map(|i| (0..1 + i % 4).map(|_| rng.random_range(1..37)).collect())
        .collect();
    let prompts: Vec<&[u32]> = prompts.iter().map(Vec::as_slice).collect();
    for (real, bound) in REALS {
        let kernels = kernels(&*device, real);
        let mut model = small_model(&config, heads, 1);
        let [reference, dpo] = [2, 3].map(|seed| small_model(&config, LANGUAGE, seed));
        let there = There::new(kernels, &model);
        let reads = [&reference, &dpo].map(|m| There::new(kernels, m));
        let settings = AdamWSettings {
            decay1: 0.9,
            decay2: 0.95,
            epsilon: 1e-8,
            longest: Some(1.0),
            eight_bit_from: None,
        };
        let mut optimizer = net::AdamW::new(&kernels, &there.parameters, settings).unwrap();
        let (program, others) = (
            there.program(true),
            reads.each_ref().map(|r| r.program(false)),
        );
        let request = net::Request {
            log_probs: true,
            values: true,
            ..net::Request::default()
        };
        let mut learners = [Learner {
            program: &program,
            request,
            optimizer: &mut optimizer,
            rate: Rate {
                rate: RATE,
                decay: 0.0,
            },
        }];
        let writing = Writing {
            slots: 3,
            longest: 6,
            ends: vec![0],
            draw: Some(Draw {
                temperature: 1.0,
                top_k: 0,
                top_p: 1.0,
            }),
            read_at_once: 64,
        };
        let schedule = Schedule {
            micro_batch: MICRO,
            minibatch: MINI,
            epochs: 2,
        };
        let uniform = |prompt: usize, step: usize| {
            let seeds = SeedTree::new(7).index(prompt as u64).index(step as u64);
            seeds.rng().random()
        };
        let written = iteration(
            &mut learners,
            &others.each_ref(),
            &prompts,
            &writing,
            &schedule,
            &mut |p, s| uniform(p, s),
            &mut Rto::default(),
        )
        .unwrap();
        assert_eq!(learners[0].optimizer.steps(), 4);
        let texts: Vec<(&[u32], &[u32])> = prompts
            .iter()
            .zip(&written)
            .map(|(p, w)| (*p, &w.tokens[..]))
            .collect();
        let batch = Batch::new(&texts).unwrap();
        let scores = |model: &Model| {
            let request = Request {
                log_probs: true,
                values: true,
                ..Request::default()
            };
            let scores = model.scores(&batch, &request).unwrap();
            [scores.log_probs.unwrap(), scores.values.unwrap()]
        };
        let before = scores(&model);
        here(&mut model, [&reference, &dpo], &prompts, &written);
        let after = scores(&model);
        let forward = program.forward(&laid(&batch), &request, false).unwrap();
        let ours = [forward.scores.log_probs, forward.scores.values].map(|s| wide(&s.unwrap()));
        for (i, what) in ["log-probabilities", "values"].into_iter().enumerate() {
            near(&format!("{what} {real:?}"), &ours[i], &after[i], bound);
            let moved = distance(&after[i], &before[i]);
            println!("{what} moved by {moved:.1e}");
            assert!(moved > 1e-3, "{what} moved by {moved:e} only");
        }
    }
}

pub const LANGUAGE: Heads = Heads {
    language_model: true,
    value: false,
    reward: false,
};
