//! The small world: a bounded reward, honest labels, prompts kept apart, text that survives the tokenizer.

use std::collections::HashSet;

use proptest::prelude::*;
use rto::mdp::StateIx;
use rto::numerics::sigmoid;
use rto::reward::RewardFunction;
use rto::seed::SeedTree;
use rto::seq::{StreamKey, TokenReward};
use rto_bridge::world::{self, MAX_RESPONSE, SmallWorld, WORDS, World, WorldConfig};

proptest! {
    #![proptest_config(ProptestConfig { failure_persistence: None, ..ProptestConfig::default() })]
    #[test]
    fn the_reward_is_bounded_for_any_tokens(x in 0usize..3600, y in prop::collection::vec(0u32..120, 1..40)) {
        let world = World::default();
        let r = world.token_rewards(&world.prompts()[x], &y).unwrap();
        prop_assert!(r.iter().all(|r| r.is_finite() && r.abs() <= world.reward_bound()));
        // r(s_h, a_h) depends on prompt, prefix and token alone.
        let half = world.token_rewards(&world.prompts()[x], &y[..y.len() / 2]).unwrap();
        prop_assert_eq!(&r[..half.len()], &half[..]);
    }
}

#[test]
fn words_and_prompts_are_distinct_and_some_are_held_out() {
    assert_eq!(WORDS.iter().collect::<HashSet<_>>().len(), WORDS.len());
    let world = World::default();
    let prompts: HashSet<_> = world.prompts().iter().collect();
    assert!(prompts.len() == world.prompts().len() && prompts.len() >= 2000);
    for prompt in &prompts {
        let text = world::decode(prompt);
        assert!(!text.contains("<unk>"), "{text}");
        assert_eq!(world::encode(&text), ***prompt);
    }
    let (train, test) = world.split(&SeedTree::new(1));
    let train: HashSet<_> = train.iter().collect();
    assert!(test.len() >= 400 && test.iter().all(|p| !train.contains(p)));
    assert!(
        world.ask(&[1, 2]).is_err()
            && World::try_new(WorldConfig {
                scale: f64::NAN,
                ..WorldConfig::default()
            })
            .is_err()
    );
}

/// No reply that a wide search finds earns more than the one written down as good.
#[test]
fn the_good_reply_is_the_best_that_a_beam_search_finds() {
    let world = World::default();
    for prompt in world.prompts().iter().step_by(331) {
        let good = world.good_reply(prompt).unwrap();
        assert!(good.len() <= MAX_RESPONSE);
        let best = world.reward(&good).unwrap();
        let mut beam: Vec<(f64, Vec<u32>)> = vec![(0.0, vec![])];
        for _ in 0..MAX_RESPONSE {
            let mut next = Vec::new();
            for (_, y) in &beam {
                for token in 0..WORDS.len() as u32 {
                    let z = [&y[..], &[token]].concat();
                    let total: f64 = world.token_rewards(prompt, &z).unwrap().iter().sum();
                    assert!(
                        total <= best + 1e-9,
                        "{}: {}",
                        world::decode(prompt),
                        world::decode(&z)
                    );
                    if token != world::EOS {
                        next.push((total, z));
                    }
                }
            }
            next.sort_by(|a, b| b.0.total_cmp(&a.0));
            next.truncate(60);
            beam = next;
        }
    }
}

#[test]
fn labels_follow_bradley_terry_and_draws_are_repeatable() {
    let world = World::default();
    let (n, seeds) = (4000, SeedTree::new(2));
    let pairs = world.pairs(world.prompts(), n, &seeds).unwrap();
    assert_eq!(
        world.pairs(world.prompts(), 50, &seeds).unwrap(),
        pairs[..50]
    );
    // Given |Δ|, the better one wins with probability σ(|Δ|).
    let (mut won, mut mean, mut variance) = (0.0, 0.0, 0.0);
    for pair in &pairs {
        let delta = world.reward(&pair.winner).unwrap() - world.reward(&pair.loser).unwrap();
        let p = sigmoid(delta.abs());
        won += if delta > 0.0 {
            1.0
        } else if delta < 0.0 {
            0.0
        } else {
            0.5
        };
        mean += p;
        variance += if delta == 0.0 { 0.0 } else { p * (1.0 - p) };
    }
    assert!((won - mean) / f64::sqrt(variance) < 4.0 && (mean - won) / f64::sqrt(variance) < 4.0);
    println!("the better reply wins {:.3} of {n} pairs", won / n as f64);
}

#[test]
fn demonstrations_leave_much_to_gain() {
    let world = World::default();
    let (mut sum, mut squares, mut good, mut full) = (0.0, 0.0, 0.0, 0);
    let prompts: Vec<_> = world.prompts().iter().step_by(3).collect();
    for (i, prompt) in prompts.iter().enumerate() {
        let key = StreamKey::new(SeedTree::new(3).index(i as u64));
        let y = world.demonstrate(prompt, &key).unwrap();
        let r = world.rewards(std::slice::from_ref(&y)).unwrap().row_sums()[0];
        let best = world.reward(&world.good_reply(prompt).unwrap()).unwrap();
        if i % 60 == 0 {
            println!(
                "{r:6.2} of {best:5.2}  {} | {}",
                world::decode(prompt),
                world::decode(&y.response)
            );
        }
        (sum, squares, good) = (sum + r, squares + r * r, good + best);
        full += usize::from(r >= best - 1e-9);
    }
    let n = prompts.len() as f64;
    let (mean, sd) = (sum / n, (squares / n - (sum / n).powi(2)).sqrt());
    println!(
        "mean {mean:.2}, sd {sd:.2}, best {:.2}, perfect {:.3}",
        good / n,
        full as f64 / n
    );
    assert!(good / n - mean > sd && sd > 0.5 * World::DEFAULT_SCALE);
    let p = world.demonstrator(prompts[0], &[]).unwrap();
    assert!((p.iter().sum::<f64>() - 1.0).abs() < 1e-12);
    assert_eq!(p.iter().filter(|p| **p == 0.0).count(), 4);
}

#[test]
fn the_corner_agrees_with_the_whole() {
    let world = World::default();
    let small = SmallWorld::try_new(&world).unwrap();
    assert!(
        small
            .demonstrator
            .rows()
            .into_iter()
            .all(|row| (row.sum() - 1.0).abs() < 1e-12)
    );
    let answers = [
        "cats eat fish . <eos>",
        "fish . <eos>",
        "cats eat meat . <eos>",
        "meat . <eos>",
    ];
    for (x, answer) in answers.iter().enumerate() {
        let response = world::encode(answer);
        let codes: Vec<u32> = response
            .iter()
            .map(|t| small.tokens.iter().position(|u| u == t).unwrap() as u32)
            .collect();
        let tau = small.tree.trajectory(x, &codes).unwrap();
        let table = tau.sum(|s: StateIx, a| small.reward.reward(s, a));
        let whole: f64 = world
            .token_rewards(&small.prompts[x], &response)
            .unwrap()
            .iter()
            .sum();
        assert!((table - whole).abs() < 1e-12);
    }
}

fn parted(disagreement: f64) -> World {
    World::try_new(WorldConfig {
        disagreement,
        ..WorldConfig::default()
    })
    .unwrap()
}

/// What is withheld is paid with the last token: totals, and so labels and what is best, stay.
#[test]
fn a_response_earns_the_same_at_any_density() {
    let dense = World::default();
    for (i, prompt) in dense.prompts().iter().step_by(37).enumerate() {
        let key = StreamKey::new(SeedTree::new(4).index(i as u64));
        let mut replies = vec![dense.demonstrate(prompt, &key).unwrap().response];
        // One that has not ended at the horizon.
        replies.push(world::encode("cats").repeat(MAX_RESPONSE));
        for y in replies {
            let paid = dense.token_rewards(prompt, &y).unwrap();
            for density in [0.0, 0.25, 0.9] {
                let sparse = World::try_new(WorldConfig {
                    density,
                    ..WorldConfig::default()
                })
                .unwrap();
                let got = sparse.token_rewards(prompt, &y).unwrap();
                let total: f64 = paid.iter().sum();
                assert!((got.iter().sum::<f64>() - total).abs() < 1e-12);
                for (got, paid) in got.iter().zip(&paid).take(y.len() - 1) {
                    assert!((got - density * paid).abs() < 1e-12);
                }
                assert!(got.iter().all(|r| r.abs() <= sparse.reward_bound()));
            }
        }
    }
    let pairs = |density| {
        let config = WorldConfig {
            density,
            ..WorldConfig::default()
        };
        let world = World::try_new(config).unwrap();
        world
            .pairs(world.prompts(), 200, &SeedTree::new(5))
            .unwrap()
    };
    assert_eq!(pairs(0.0), pairs(1.0));
}

/// Where a fact is due, the right one is the most likely below ½, as likely as the popular error at ½, and less beyond.
#[test]
fn disagreement_moves_the_mode_of_the_demonstrations() {
    for (question, prefix, right, wrong) in [
        ("what do cats eat ?", "cats eat", "fish", "meat"),
        ("where do dogs live ?", "dogs live in", "houses", "barns"),
        ("when do owls sleep ?", "owls sleep by", "day", "night"),
    ] {
        let prompt = world::encode(&format!("<user> {question} <bot>"));
        let law = |disagreement: f64| {
            let p = parted(disagreement)
                .demonstrator(&prompt, &world::encode(prefix))
                .unwrap();
            assert!((p.iter().sum::<f64>() - 1.0).abs() < 1e-12);
            let of = |word| p[world::token(word).unwrap() as usize];
            let largest = p.iter().copied().fold(0.0, f64::max);
            (of(right), of(wrong), largest)
        };
        let (r, w, largest) = law(0.3);
        assert!(r == largest && r > w, "{question} {r} {w}");
        let (r, w, _) = law(0.5);
        assert!((r - w).abs() < 1e-12, "{question} {r} {w}");
        let (r, w, largest) = law(1.0);
        assert!(w == largest && r < w, "{question} {r} {w}");
    }
}

/// On the corner, exactly: a sharper demonstrator earns more at 0, and at 1 less than the demonstrator itself; what is best is the same.
#[test]
fn sharpening_pays_only_where_demonstrations_agree() {
    let value = |disagreement: f64, power: f64| {
        let small = SmallWorld::try_new(&parted(disagreement)).unwrap();
        let mut pi = small.demonstrator.mapv(|p| p.powf(power));
        for mut row in pi.rows_mut() {
            let total = row.sum();
            row /= total;
        }
        // Σ over prefixes of the probability of each, times what its next token earns.
        let mut reach = vec![0.0; small.tree.n_states()];
        let mut total = 0.0;
        for s in 0..small.tree.n_states() {
            let (x, codes) = small.tree.prefix(StateIx(s as u32));
            if codes.is_empty() {
                reach[s] = 1.0 / small.prompts.len() as f64;
            }
            if codes.contains(&0) {
                continue;
            }
            for a in 0..small.tokens.len() {
                let mass = reach[s] * pi[[s, a]];
                total += mass
                    * small
                        .reward
                        .reward(StateIx(s as u32), rto::mdp::ActionIx(a as u32));
                let next = [&codes[..], &[a as u32]].concat();
                if next.len() < small.tree.horizon() {
                    reach[small.tree.state(x, &next).unwrap().0 as usize] = mass;
                }
            }
        }
        total
    };
    let [at_0, sharp_0, at_1, sharp_1] = [
        value(0.0, 1.0),
        value(0.0, 4.0),
        value(1.0, 1.0),
        value(1.0, 4.0),
    ];
    println!(
        "demonstrator and its fourth power: {at_0:.3} {sharp_0:.3}, parted {at_1:.3} {sharp_1:.3}"
    );
    assert!(sharp_0 > at_0 + 0.1 && at_0 > at_1 && sharp_1 < at_1 - 0.1);
}

/// `RTO_PYTHON` names an interpreter with transformers.
#[test]
fn the_tokenizer_loads_in_transformers() {
    let Some(python) = std::env::var_os("RTO_PYTHON") else {
        println!("skipped: RTO_PYTHON does not name a Python with transformers");
        return;
    };
    let dir = tempfile::tempdir().unwrap();
    std::fs::write(dir.path().join("tokenizer.json"), world::tokenizer_json()).unwrap();
    std::fs::write(
        dir.path().join("tokenizer_config.json"),
        world::tokenizer_config_json(),
    )
    .unwrap();
    let text = world::decode(&World::default().prompts()[3599]);
    let program = "import sys, transformers as t\nk = t.AutoTokenizer.from_pretrained(sys.argv[1])\ni = k(sys.argv[2])['input_ids']\nassert k.decode(i) == sys.argv[2] and k.eos_token_id == 1 and k.pad_token_id == 0, k.decode(i)\nprint(i)";
    let done = std::process::Command::new(python)
        .args(["-c", program])
        .args([dir.path().as_os_str(), text.as_ref()])
        .output()
        .unwrap();
    assert!(
        done.status.success(),
        "{}",
        String::from_utf8_lossy(&done.stderr)
    );
    let ids = format!("{:?}", world::encode(&text));
    assert_eq!(String::from_utf8_lossy(&done.stdout).trim(), ids);
}
