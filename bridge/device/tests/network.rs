//! The program of a network: every executor and every order of threads gives the same bits and the same account of memory, gradients are
//! derivatives, and text does not depend on what is written beside it.

mod network {
    pub mod shapes;
}

use network::shapes::{all, filled, parallel};
use rand::{Rng, SeedableRng};
use rand_chacha::ChaCha8Rng;
use rto_device::network::{
    AdamW, AdamWSettings, Batch, Gradients, Network, Options, Parameters, Program, Rate, Request,
    Scores, Writing,
};
use rto_device::{
    Counting, Device, Draw, Emulated, Error, Kernels, Order, Real, Slices, download_f32,
};

/// The emulator, unless this machine has no compiler: then a line says so.
fn emulated(what: &str) -> Option<Emulated> {
    match Emulated::new(Order::Forward) {
        Ok(device) => Some(device),
        Err(Error::NoCompiler(why)) => {
            println!("skipped: {what} ({why})");
            None
        }
        Err(error) => panic!("{error}"),
    }
}

fn kernels(device: &dyn Device, real: Real) -> Kernels<'_> {
    Kernels::new(device, real).with_threads(32)
}

fn batch() -> Batch {
    Batch::new(&[
        (&[3, 1, 4], &[1, 5, 9, 2]),
        (&[6], &[5]),
        (&[3, 5], &[8, 9, 7, 9, 3]),
    ])
    .unwrap()
}

/// Numbers in the shape of scores.
fn like(scores: &Scores) -> Scores {
    let mut rng = ChaCha8Rng::seed_from_u64(5);
    let mut draw = |v: &Option<Vec<f32>>| {
        let n = v.as_ref().map(Vec::len)?;
        Some((0..n).map(|_| rng.random_range(-1.0f32..1.0)).collect())
    };
    Scores {
        log_probs: draw(&scores.log_probs),
        entropy: draw(&scores.entropy),
        kl: draw(&scores.kl),
        kl_from: draw(&scores.kl_from),
        values: draw(&scores.values),
        final_values: draw(&scores.final_values),
        rewards: draw(&scores.rewards),
    }
}

fn dot(scores: &Scores, weights: &Scores) -> f64 {
    let of = |a: &Option<Vec<f32>>, b: &Option<Vec<f32>>| match (a, b) {
        (Some(a), Some(b)) => {
            let pairs = a.iter().zip(b);
            pairs.map(|(a, b)| f64::from(*a) * f64::from(*b)).sum()
        }
        _ => 0.0,
    };
    of(&scores.log_probs, &weights.log_probs)
        + of(&scores.entropy, &weights.entropy)
        + of(&scores.kl, &weights.kl)
        + of(&scores.kl_from, &weights.kl_from)
        + of(&scores.values, &weights.values)
        + of(&scores.final_values, &weights.final_values)
        + of(&scores.rewards, &weights.rewards)
}

const SETTINGS: AdamWSettings = AdamWSettings {
    decay1: 0.9,
    decay2: 0.95,
    epsilon: 1e-8,
    longest: Some(1.0),
    eight_bit_from: None,
};

/// One step with everything that a request has, and what it leaves: scores, gradients, weights.
fn step(
    device: &dyn Device,
    real: Real,
    network: &Network,
    options: Options,
    settings: AdamWSettings,
) -> Result<Vec<f32>, Error> {
    let kernels = kernels(device, real);
    let parameters = filled(&kernels, network, 1)?;
    let plain = network.without_adapters();
    let frozen = filled(&kernels, &plain, 2)?.shared();
    let reference = Program::new(kernels, &plain, &frozen, options)?;
    let request = Request {
        log_probs: true,
        entropy: true,
        reference: Some(&reference),
        values: network.value.is_some(),
        rewards: network.reward.is_some(),
    };
    let program = Program::new(kernels, network, &parameters, options)?;
    let gradients = Gradients::zeros(&kernels, &parameters)?;
    let mut optimizer = AdamW::new(&kernels, &parameters, settings)?;
    let forward = program.forward(&batch(), &request, true)?;
    let scores = forward.scores.clone();
    let grad = like(&scores);
    program.backward(&batch(), &request, forward, &grad, &gradients)?;
    let mut all: Vec<f32> = Vec::new();
    for part in [scores.log_probs, scores.entropy, scores.kl, scores.values] {
        all.extend(part.unwrap_or_default());
    }
    for (name, _) in parameters.trained() {
        all.extend(download_f32(device, &gradients.get(name)?.unwrap())?);
    }
    let rate = |_: &str| Rate {
        rate: 1e-3,
        decay: 0.1,
    };
    all.push(optimizer.step(&kernels, &parameters, &gradients, rate)? as f32);
    for (name, _) in parameters.trained() {
        all.extend(parameters.values(&kernels, name)?);
    }
    Ok(all)
}

fn bits(values: &[f32]) -> Vec<u32> {
    values.iter().map(|x| x.to_bits()).collect()
}

/// Three orders of threads and blocks, with and without blocks that are run again: the same bits. The device that counts has the emulator's
/// peak of memory to the byte.
#[test]
fn every_executor_runs_the_same_step() {
    let Some(emulator) = emulated("a step") else {
        return;
    };
    for (name, network) in all() {
        for real in [Real::F32, Real::Bf16] {
            for eight in [None, Some(64)] {
                let settings = AdamWSettings {
                    eight_bit_from: eight,
                    ..SETTINGS
                };
                let mut first: Option<Vec<f32>> = None;
                for checkpointing in [false, true] {
                    let options = Options {
                        checkpointing,
                        temperature: 0.8,
                        columns: 5,
                    };
                    let counting = Counting::new();
                    step(&counting, real, &network, options, settings).unwrap();
                    for order in [Order::Forward, Order::Reversed, Order::Random(3)] {
                        let device = emulator.in_order(order);
                        let left = step(&device, real, &network, options, settings)
                            .unwrap_or_else(|e| panic!("{name}, {real:?}: {e}"));
                        assert!(left.iter().all(|x| x.is_finite()), "{name}");
                        let first = first.get_or_insert_with(|| left.clone());
                        assert!(
                            bits(first) == bits(&left),
                            "{name}, {real:?}, {order:?}, {checkpointing}"
                        );
                        assert_eq!(counting.peak(), device.peak(), "{name}, {real:?}");
                    }
                    let slices = Slices::new();
                    let there = step(&slices, real, &network, options, settings).unwrap();
                    assert_eq!(counting.peak(), slices.peak(), "{name}, {real:?}");
                    let bound: f32 = match real {
                        Real::F32 => 2e-5,
                        Real::Bf16 => 6e-2,
                    };
                    let weights = there.len() - network.tensors().values().sum::<usize>();
                    for (i, (a, b)) in first.iter().flatten().zip(&there).enumerate() {
                        let apart = (a - b).abs() / (1.0 + b.abs());
                        // A first step has the rate's length, whichever sign a gradient near 0 has.
                        let bound = if i < weights { bound } else { bound.max(3e-3) };
                        assert!(apart <= bound, "{name}, {real:?}, {i}: {a}, slices {b}");
                    }
                    let usage = counting.usage();
                    assert_eq!(usage.live, 0, "everything is given back");
                    assert!(usage.flops > 0 && usage.launches > 100);
                }
            }
        }
    }
}

/// Central differences of the sum of all scores with random factors, along a random direction in each weight.
#[test]
fn gradients_are_derivatives() {
    let Some(emulator) = emulated("gradients") else {
        return;
    };
    let mut rng = ChaCha8Rng::seed_from_u64(9);
    for (name, network) in all() {
        let kernels = kernels(&emulator, Real::F32);
        let parameters = filled(&kernels, &network, 1).unwrap();
        let plain = network.without_adapters();
        let frozen = filled(&kernels, &plain, 2).unwrap();
        let options = Options {
            columns: 7,
            ..Options::default()
        };
        let reference = Program::new(kernels, &plain, &frozen, options).unwrap();
        let program = Program::new(kernels, &network, &parameters, options).unwrap();
        let request = Request {
            log_probs: true,
            entropy: true,
            reference: Some(&reference),
            values: true,
            rewards: true,
        };
        let gradients = Gradients::zeros(&kernels, &parameters).unwrap();
        let forward = program.forward(&batch(), &request, true).unwrap();
        let factors = like(&forward.scores);
        program
            .backward(&batch(), &request, forward, &factors, &gradients)
            .unwrap();
        let loss = || {
            let forward = program.forward(&batch(), &request, false).unwrap();
            dot(&forward.scores, &factors)
        };
        for (weight, _) in parameters.trained() {
            let values = parameters.values(&kernels, weight).unwrap();
            let g = gradients.get(weight).unwrap().unwrap();
            let g = download_f32(&emulator, &g).unwrap();
            // Along the gradient, where the difference is largest beside rounding, and a little off it.
            let size = g.iter().map(|g| g * g).sum::<f32>().sqrt().max(1e-6);
            let along: Vec<f32> = g
                .iter()
                .map(|g| g / size + rng.random_range(-0.2f32..0.2) / (values.len() as f32).sqrt())
                .collect();
            let slope: f64 = g
                .iter()
                .zip(&along)
                .map(|(g, d)| f64::from(*g) * f64::from(*d))
                .sum();
            let h = 4e-3f32;
            let moved = |sign: f32| {
                let there: Vec<f32> = values
                    .iter()
                    .zip(&along)
                    .map(|(w, d)| w + sign * h * d)
                    .collect();
                parameters.set(&kernels, weight, &there).unwrap();
                loss()
            };
            let difference = (moved(1.0) - moved(-1.0)) / f64::from(2.0 * h);
            parameters.set(&kernels, weight, &values).unwrap();
            assert!(
                (difference - slope).abs() <= 2e-3 * slope.abs() + 2e-3,
                "{name}, {weight}: {difference} by differences, {slope}"
            );
        }
    }
}

/// Frozen weights have no gradient, and those of the others do not change; nothing below the lowest trained block is computed.
#[test]
fn frozen_weights_change_nothing() {
    let Some(emulator) = emulated("frozen weights") else {
        return;
    };
    let network = parallel();
    let kernels = kernels(&emulator, Real::F32);
    let options = Options::default();
    let run = |trained: &dyn Fn(&str) -> bool| {
        let parameters = Parameters::alloc(&kernels, &network.tensors(), trained).unwrap();
        let values = filled(&kernels, &network, 1).unwrap();
        for name in network.tensors().keys() {
            let values = values.values(&kernels, name).unwrap();
            parameters.set(&kernels, name, &values).unwrap();
        }
        let program = Program::new(kernels, &network, &parameters, options).unwrap();
        let gradients = Gradients::zeros(&kernels, &parameters).unwrap();
        let request = Request::log_probs();
        let forward = program.forward(&batch(), &request, true).unwrap();
        let grad = like(&forward.scores);
        program
            .backward(&batch(), &request, forward, &grad, &gradients)
            .unwrap();
        let of = |name: &str| {
            let part = gradients.get(name).unwrap();
            part.map(|g| download_f32(&emulator, &g).unwrap())
        };
        network
            .tensors()
            .into_keys()
            .map(|name| (of(&name), name))
            .collect::<Vec<_>>()
    };
    let whole = run(&|_| true);
    for part in ["blocks.1.", "blocks.1.up", "head.weight", "last.", "lora"] {
        let some = run(&|name| name.contains(part));
        assert!(some.iter().any(|(g, _)| g.is_some()), "{part}");
        for ((all, name), (one, _)) in whole.iter().zip(&some) {
            assert_eq!(one.is_some(), name.contains(part), "{name}");
            assert!(one.is_none() || one == all, "{part}, {name}");
        }
    }
}

fn writing(draw: Option<Draw>) -> Writing {
    Writing {
        slots: 2,
        longest: 6,
        ends: vec![0, 4],
        draw,
        read_at_once: 8,
    }
}

/// Five prompts through two slots, and each alone: the same bits. What was drawn has the log-probability that a pass over the text gives.
#[test]
fn text_does_not_depend_on_its_neighbours() {
    let Some(emulator) = emulated("text") else {
        return;
    };
    let prompts: [&[u32]; 5] = [&[3, 1, 4], &[6], &[2, 7, 1, 8, 2], &[5, 5], &[9]];
    let draw = Draw {
        temperature: 1.0,
        top_k: 0,
        top_p: 1.0,
    };
    for (name, network) in all() {
        for (real, bound) in [(Real::F32, 2e-5), (Real::Bf16, 6e-2)] {
            let kernels = kernels(&emulator, real);
            let parameters = filled(&kernels, &network, 1).unwrap();
            let program = Program::new(kernels, &network, &parameters, Options::default()).unwrap();
            let numbers = |prompt: usize, step: usize| {
                let seed = (prompt * 100 + step) as u64;
                ChaCha8Rng::seed_from_u64(seed).random::<f64>()
            };
            let how = writing(Some(draw));
            let together = program
                .write(&prompts, &how, &mut |p, s| numbers(p, s))
                .unwrap();
            assert!(together.iter().any(|w| w.tokens.len() > 1));
            for (i, (prompt, written)) in prompts.iter().zip(&together).enumerate() {
                let alone = program
                    .write(&[prompt], &how, &mut |_, s| numbers(i, s))
                    .unwrap();
                assert_eq!(alone[0], *written, "{name}, {real:?}");
                let end = written.tokens.last().is_some_and(|t| how.ends.contains(t));
                assert_eq!(written.ended, end);
                assert!(end || written.tokens.len() == how.longest);
                let batch = Batch::new(&[(prompt, &written.tokens)]).unwrap();
                let forward = program
                    .forward(&batch, &Request::log_probs(), false)
                    .unwrap();
                let scores = forward.scores.log_probs.unwrap();
                for (drawn, scored) in written.log_probs.iter().zip(&scores) {
                    assert!(
                        (drawn - scored).abs() <= bound * (1.0 + scored.abs()),
                        "{name}, {real:?}: {drawn} and {scored}"
                    );
                }
            }
            let greedy = program
                .write(&prompts, &writing(None), &mut |_, _| panic!("no draw"))
                .unwrap();
            let batch = Batch::new(&[(prompts[0], &greedy[0].tokens)]).unwrap();
            let forward = program
                .forward(&batch, &Request::log_probs(), false)
                .unwrap();
            let scores = forward.scores.log_probs.unwrap();
            for (drawn, scored) in greedy[0].log_probs.iter().zip(&scores) {
                assert!((drawn - scored).abs() <= bound * (1.0 + scored.abs()));
            }
        }
    }
}

/// Log-probabilities, both divergences to a reference and their gradients never take `[tokens, vocabulary]`: beside what a small vocabulary
/// takes, one tile of logits a network and its gradient, at the tokens of responses alone.
#[test]
fn no_pass_takes_all_logits() {
    let (prompt, response, columns) = (17, 3, 64);
    let peak = |vocabulary: usize| {
        let device = Counting::new();
        let kernels = kernels(&device, Real::F32);
        let network = Network {
            vocabulary,
            positions: 20,
            ..parallel()
        };
        let parameters = Parameters::alloc(&kernels, &network.tensors(), |_| true).unwrap();
        let frozen = Parameters::alloc(&kernels, &network.tensors(), |_| false).unwrap();
        let gradients = Gradients::zeros(&kernels, &parameters).unwrap();
        let options = Options {
            columns,
            ..Options::default()
        };
        let reference = Program::new(kernels, &network, &frozen, options).unwrap();
        let program = Program::new(kernels, &network, &parameters, options).unwrap();
        let held = device.usage().live;
        let texts = vec![(vec![1; prompt], vec![2; response]); 5];
        let texts: Vec<(&[u32], &[u32])> = texts.iter().map(|(p, r)| (&p[..], &r[..])).collect();
        let batch = Batch::new(&texts).unwrap();
        let request = Request {
            log_probs: true,
            entropy: true,
            reference: Some(&reference),
            ..Request::default()
        };
        let forward = program.forward(&batch, &request, true).unwrap();
        let grad = like(&forward.scores);
        program
            .backward(&batch, &request, forward, &grad, &gradients)
            .unwrap();
        device.peak() - held
    };
    // Twice the columns or a thousand times as many: one tile either way.
    assert_eq!(peak(2 * columns), peak(2000 * columns));
    let all_logits = 4 * 5 * (prompt + response) * 2000 * columns;
    assert!(peak(2000 * columns) < all_logits as u64 / 100);
}

/// What cannot be computed is refused in one line, before anything is.
#[test]
fn what_does_not_fit_is_refused() {
    let device = Counting::new();
    let kernels = kernels(&device, Real::F32);
    let network = Network {
        reward: None,
        ..parallel()
    };
    let parameters = filled(&kernels, &network, 1).unwrap();
    let program = Program::new(kernels, &network, &parameters, Options::default()).unwrap();
    let refused = |batch: &Batch, request: &Request<'_>| {
        let error = program.forward(batch, request, false).err().unwrap();
        error.to_string()
    };
    let outside = Batch::new(&[(&[1, 11], &[2])]).unwrap();
    let long = Batch::new(&[(&[1; 12], &[2; 12])]).unwrap();
    let rewards = Request {
        rewards: true,
        ..Request::default()
    };
    assert!(refused(&outside, &Request::log_probs()).contains("token 11"));
    assert!(refused(&long, &Request::log_probs()).contains("24 tokens, expected at most 20"));
    assert!(refused(&batch(), &rewards).contains("without a reward head"));
    assert!(Batch::new(&[(&[], &[1])]).is_err());
    assert!(Batch::new(&[]).is_err());
    let gradients = Gradients::zeros(&kernels, &parameters).unwrap();
    let request = Request::log_probs();
    for (n, keep) in [(9, true), (10, false)] {
        let forward = program.forward(&batch(), &request, keep).unwrap();
        let grad = Scores {
            log_probs: Some(vec![0.0; n]),
            ..Scores::default()
        };
        let error = program.backward(&batch(), &request, forward, &grad, &gradients);
        let said = error.unwrap_err().to_string();
        assert!(
            said.contains(if keep {
                "found 9 numbers"
            } else {
                "nothing was kept"
            }),
            "{said}"
        );
    }
}

/// A description whose parts do not fit is refused in one line that says where, found and expected; nothing is allocated.
#[test]
fn descriptions_that_do_not_fit_are_refused() {
    fn sandwich() -> Network {
        let (_, network) = all().swap_remove(3);
        network
    }
    type Change = fn(&mut Network);
    let odd: [(&str, Change); 31] = [
        ("vocabulary: found 0", |n| n.vocabulary = 0),
        ("width: found 0", |n| n.width = 0),
        ("inner width: found 0", |n| n.inner = 0),
        ("positions: found 0", |n| n.positions = 0),
        ("vocabulary: found 2147483648", |n| n.vocabulary = 1 << 31),
        ("dimensions of a head: found 0", |n| n.heads.head_dim = 0),
        ("heads: found 0", |n| n.heads.heads = 0),
        ("heads of keys: found 0", |n| n.heads.kv_heads = 0),
        ("dimensions of a head: found 258", |n| {
            n.heads.head_dim = 258
        }),
        ("heads: found 4, expected a multiple of the 3", |n| {
            n.heads.kv_heads = 3;
        }),
        ("rows of 49", |n| n.heads.row += 1),
        ("overlap or leave gaps", |n| n.heads.offsets[1] -= 1),
        ("overlap or leave gaps", |n| n.heads.step = 0),
        ("overlap or leave gaps", |n| n.heads.step = usize::MAX),
        ("ε of norms: found NaN", |n| n.epsilon = f32::NAN),
        ("factor on logits: found inf", |n| {
            n.logit_scale = f32::INFINITY
        }),
        ("cap of logits: found 0", |n| n.logit_cap = Some(0.0)),
        ("rotation 0: found an angle of NaN", |n| {
            n.rotations[0][1] = f32::NAN
        }),
        (
            "block 0, rotation: found 8 dimensions that turn, expected at most the 6",
            |n| {
                n.rotations[0].push(0.1);
            },
        ),
        (
            "block 1, rotation: found number 7, expected one of 2",
            |n| {
                n.blocks[1].rotation = Some(7);
            },
        ),
        ("the last norm: found a width of 13, expected 12", |n| {
            n.last_norm.width += 1
        }),
        (
            "block 1, the MLP's norm: found a width of 11, expected 12",
            |n| {
                n.blocks[1].mlp_norm.as_mut().unwrap().width -= 1;
            },
        ),
        (
            "block 0, the norm of keys: found a width of 18, expected 6 (a head) or 12",
            |n| {
                n.blocks[0].qk_norms.as_mut().unwrap()[1].width = 18;
            },
        ),
        // As many rows in all, a head's worth of them moved from queries to keys.
        (
            "block 0, queries, keys and values: found outputs [18, 18, 12], expected [48] or [24, 12, 12]",
            |n| {
                n.blocks[0].qkv[0].outputs -= 6;
                n.blocks[0].qkv[1].outputs += 6;
            },
        ),
        (
            "block 0, queries, keys and values: found outputs [24, 12]",
            |n| {
                n.blocks[0].qkv.pop();
            },
        ),
        (
            "block 0, inner width: found outputs [16], expected [32] or [16, 16]",
            |n| {
                n.blocks[0].up.pop();
            },
        ),
        (
            "block 0, attention's output: found 25 inputs of blocks.0.out, expected 24",
            |n| {
                n.blocks[0].out.inputs += 1;
            },
        ),
        ("expected a rank of at least 1", |n| {
            n.blocks[0].qkv[0].adapter.as_mut().unwrap().rank = 0;
        }),
        ("block 0, cap of scores: found -1", |n| {
            n.blocks[0].scoring.cap = Some(-1.0)
        }),
        ("block 0, window: found 0 keys", |n| {
            n.blocks[0].scoring.window = Some(0)
        }),
        ("weight blocks.0.k.weight: found twice", |n| {
            n.blocks[0].qkv[2].name = "blocks.0.k".into();
        }),
    ];
    let device = Counting::new();
    let kernels = kernels(&device, Real::F32);
    let nothing = Parameters::alloc(&kernels, &Default::default(), |_| true).unwrap();
    for (said, change) in odd {
        let mut network = sandwich();
        change(&mut network);
        let before = device.peak();
        let error = Program::new(kernels, &network, &nothing, Options::default());
        let error = error.err().map(|e| e.to_string()).unwrap_or_default();
        assert!(error.contains(said), "{error:?}, not {said:?}");
        assert_eq!(error.lines().count(), 1, "{error}");
        assert_eq!(device.peak(), before, "{said}");
    }
}
