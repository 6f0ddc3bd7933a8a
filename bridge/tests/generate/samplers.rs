//! The samplers against their distributions and against brute force.

use std::collections::BTreeMap;

use rand::Rng;
use rto::seed::SeedTree;
use rto::seq::Decoder;
use rto_bridge::decoder::Truncated;
use rto_bridge::sampler;

/// log-softmax in f64.
fn log_softmax(logits: &[f32], temperature: f64) -> Vec<f64> {
    let scaled: Vec<f64> = logits.iter().map(|l| f64::from(*l) / temperature).collect();
    let normaliser = rto::numerics::log_sum_exp(&scaled);
    scaled.into_iter().map(|v| v - normaliser).collect()
}

#[test]
fn frequencies_follow_the_reported_log_probabilities() {
    let mut rng = SeedTree::new(3).child("frequencies").rng();
    let n = 200_000;
    for (size, temperature) in [(7, 1.0), (700, 0.7)] {
        let logits: Vec<f32> = (0..size).map(|_| rng.random::<f32>() * 6.0).collect();
        let exact = log_softmax(&logits, temperature);
        let mut counts = vec![0_u32; size];
        for _ in 0..n {
            let (token, log_prob) = sampler::sample(&logits, temperature, rng.random()).unwrap();
            counts[token as usize] += 1;
            assert!((log_prob - exact[token as usize]).abs() < 1e-6);
        }
        // The largest of `size` standard normal scores passes 5.5 with probability below 3e-5 at 700 tokens.
        check_frequencies(&counts, exact.iter().map(|l| l.exp()), n, 5.5);
    }
}

fn check_frequencies(counts: &[u32], probabilities: impl Iterator<Item = f64>, n: u32, bound: f64) {
    for (token, (count, p)) in counts.iter().zip(probabilities).enumerate() {
        let z =
            (f64::from(*count) - f64::from(n) * p) / (f64::from(n) * p * (1.0 - p)).sqrt().max(1.0);
        assert!(
            z.abs() < bound,
            "token {token}: {count} of {n} at probability {p}: z = {z}"
        );
    }
}

#[test]
fn truncated_frequencies_follow_the_reported_log_probabilities() {
    let mut rng = SeedTree::new(3).child("truncated").rng();
    let logits: Vec<f32> = (0..300).map(|_| rng.random::<f32>() * 8.0).collect();
    let n = 200_000;
    for decoder in [
        Decoder::paper(),
        Decoder {
            top_k: 20,
            ..Decoder::default()
        },
        Decoder {
            top_p: 0.5,
            top_k: 100,
            temperature: 1.3,
            min_new_tokens: 0,
        },
    ] {
        let mut truncated = Truncated::default();
        truncated.set(&logits, 0.9, &decoder, &[4]).unwrap();
        let support: BTreeMap<u32, f64> = truncated.support().into_iter().collect();
        assert!(!support.contains_key(&4) && (support.values().sum::<f64>() - 1.0).abs() < 1e-12);
        let mut counts = vec![0_u32; logits.len()];
        for _ in 0..n {
            let (token, log_prob) = truncated.draw(rng.random());
            counts[token as usize] += 1;
            assert!((log_prob.exp() - support[&token]).abs() < 1e-12);
        }
        let probability = |t: u32| support.get(&t).copied().unwrap_or(0.0);
        check_frequencies(&counts, (0..300).map(probability), n, 5.5);
    }
}

/// The kept set by sorting everything: (logit descending, token ascending).
fn brute_force(logits: &[f32], decoder: &Decoder) -> Option<Vec<u32>> {
    let weights: Vec<f64> = log_softmax(logits, decoder.temperature)
        .iter()
        .map(|l| l.exp())
        .collect();
    let mut order: Vec<usize> = (0..logits.len()).collect();
    order.sort_by(|&a, &b| logits[b].total_cmp(&logits[a]).then(a.cmp(&b)));
    if decoder.top_k > 0 && decoder.top_k < order.len() {
        let threshold = logits[order[decoder.top_k - 1]];
        order.retain(|&t| logits[t] >= threshold);
    }
    let total: f64 = order.iter().map(|&t| weights[t]).sum();
    let mut sum = 0.0;
    let mut kept = 0;
    while kept < order.len() && (decoder.top_p >= 1.0 || sum < decoder.top_p * total) {
        sum += weights[order[kept]];
        kept += 1;
        // A boundary closer than f32 weights resolve decides nothing.
        if decoder.top_p < 1.0 && (sum / total - decoder.top_p).abs() < 1e-6 {
            return None;
        }
    }
    let mut kept: Vec<u32> = order[..kept].iter().map(|&t| t as u32).collect();
    kept.sort_unstable();
    Some(kept)
}

#[test]
fn kept_sets_are_those_of_a_full_sort() {
    let mut rng = SeedTree::new(3).child("sets").rng();
    let mut truncated = Truncated::default();
    let mut decided = 0;
    for case in 0..3000 {
        let size = rng.random_range(1..400);
        let spread = [0.0_f32, 0.01, 1.0, 10.0, 60.0][case % 5];
        // Half of the cases on a grid, so that many logits tie.
        let grid = case % 2 == 0;
        let logits: Vec<f32> = (0..size)
            .map(|_| rng.random::<f32>())
            .map(|u| {
                if grid {
                    (u * 8.0).floor() / 8.0 * spread
                } else {
                    u * spread
                }
            })
            .collect();
        let decoder = Decoder {
            temperature: [1.0, 0.5, 2.0][case % 3],
            top_p: [1.0, 0.1, 0.9, 0.99, 0.513][rng.random_range(0..5)],
            top_k: [0, 1, 5, 50, 1000][rng.random_range(0..5)],
            min_new_tokens: 0,
        };
        let Some(expected) = brute_force(&logits, &decoder) else {
            continue;
        };
        decided += 1;
        truncated.set(&logits, 1.0, &decoder, &[]).unwrap();
        let kept: Vec<u32> = truncated.support().into_iter().map(|(t, _)| t).collect();
        assert_eq!(kept, expected, "case {case}: {decoder:?}");
        let first = (0..size as u32).max_by(|&a, &b| {
            logits[a as usize]
                .total_cmp(&logits[b as usize])
                .then(b.cmp(&a))
        });
        assert_eq!(Some(truncated.most_likely(&logits).0), first);
    }
    assert!(decided > 2500, "{decided}");
}

#[test]
fn the_ends_of_the_unit_interval_draw_tokens_with_weight() {
    let logits = [-1000.0_f32, 2.0, 1.0, -1000.0];
    for uniform in [0.0, 0.5, 1.0 - f64::EPSILON / 2.0] {
        let (token, log_prob) = sampler::sample(&logits, 1.0, uniform).unwrap();
        assert!((1..=2).contains(&token) && log_prob.is_finite());
        let mut truncated = Truncated::default();
        truncated
            .set(
                &logits,
                1.0,
                &Decoder {
                    top_p: 0.95,
                    ..Decoder::default()
                },
                &[],
            )
            .unwrap();
        assert!((1..=2).contains(&truncated.draw(uniform).0));
    }
    for bad in [f32::NAN, f32::INFINITY] {
        let logits = [0.0, bad, 1.0];
        assert!(sampler::sample(&logits, 1.0, 0.3).is_err());
        assert!(sampler::normaliser(&logits, 1.0).is_err());
        assert!(
            Truncated::default()
                .set(&logits, 1.0, &Decoder::paper(), &[])
                .is_err()
        );
    }
}
