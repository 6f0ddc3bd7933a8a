//! The device that counts against the machine's own account: a program on slices allocates what was counted, within three in a hundred.

// An allocator is what this test measures with; it hands every request on to the system's.
#![allow(unsafe_code)]

#[path = "../examples/card/shape.rs"]
mod shape;

use rto_device::network::{
    AdamW, AdamWSettings, Batch, Gradients, Judge, Learner, Options, Program, Rate, Request,
    Schedule, Scores, Writing, Written, iteration,
};
use rto_device::{Counting, Device, Draw, Kernels, Real, Result, Slices};
use shape::{drawn, pythia};
use std::alloc::{GlobalAlloc, Layout, System};
use std::sync::atomic::{AtomicUsize, Ordering};

/// The system's allocator with an account of live bytes, and of the most there were.
struct Account;

static LIVE: AtomicUsize = AtomicUsize::new(0);
static PEAK: AtomicUsize = AtomicUsize::new(0);

// SAFETY: every call is the system's allocator's, with its own arguments; the counters touch no memory that it manages.
unsafe impl GlobalAlloc for Account {
    unsafe fn alloc(&self, layout: Layout) -> *mut u8 {
        let live = LIVE.fetch_add(layout.size(), Ordering::Relaxed) + layout.size();
        PEAK.fetch_max(live, Ordering::Relaxed);
        // SAFETY: the caller's layout, unchanged.
        unsafe { System.alloc(layout) }
    }

    unsafe fn dealloc(&self, memory: *mut u8, layout: Layout) {
        LIVE.fetch_sub(layout.size(), Ordering::Relaxed);
        // SAFETY: the caller's memory and layout, unchanged.
        unsafe { System.dealloc(memory, layout) }
    }
}

#[global_allocator]
static ACCOUNT: Account = Account;

fn settings(eight_bit_from: Option<usize>) -> AdamWSettings {
    AdamWSettings {
        decay1: 0.9,
        decay2: 0.95,
        epsilon: 1e-8,
        longest: Some(1.0),
        eight_bit_from,
    }
}

fn rate(_: &str) -> Rate {
    Rate {
        rate: 1e-4,
        decay: 0.1,
    }
}

fn tokens(text: usize, n: usize) -> Vec<u32> {
    (0..n)
        .map(|i| ((text * 131 + i * 17) % 900) as u32)
        .collect()
}

/// Two steps on texts, with a reference or without.
fn steps(device: &dyn Device, real: Real, reference: bool, checkpointing: bool) -> Result<()> {
    let (kernels, network) = (Kernels::new(device, real), pythia([3, 128, 4, 900], false));
    let options = Options {
        checkpointing,
        columns: 256,
        ..Options::default()
    };
    let frozen = match reference {
        true => Some(drawn(&kernels, &network, false, 2)?),
        false => None,
    };
    let other = frozen
        .as_ref()
        .map(|frozen| Program::new(kernels, &network, frozen, options));
    let other = other.transpose()?;
    let parameters = drawn(&kernels, &network, true, 1)?;
    let program = Program::new(kernels, &network, &parameters, options)?;
    let gradients = Gradients::zeros(&kernels, &parameters)?;
    // With a reference, moments in 8 bits.
    let mut optimizer = AdamW::new(&kernels, &parameters, settings(reference.then_some(4096)))?;
    let texts: Vec<Vec<u32>> = (0..4).map(|i| tokens(i, 60 - 7 * i)).collect();
    let rows: Vec<(&[u32], &[u32])> = texts.iter().map(|t| t.split_at(20)).collect();
    let batch = Batch::new(&rows)?;
    let request = Request {
        log_probs: true,
        reference: other.as_ref(),
        ..Request::default()
    };
    for _ in 0..2 {
        let forward = program.forward(&batch, &request, true)?;
        let n = batch.responses() as f32;
        let slope = |v: &Option<Vec<f32>>| v.as_ref().map(|v| vec![-1.0 / n; v.len()]);
        let grad = Scores {
            log_probs: slope(&forward.scores.log_probs),
            kl: slope(&forward.scores.kl),
            kl_from: slope(&forward.scores.kl_from),
            ..Scores::default()
        };
        program.backward(&batch, &request, forward, &grad, &gradients)?;
        optimizer.step(&kernels, &parameters, &gradients, rate)?;
        gradients.clear(&kernels)?;
    }
    Ok(())
}

/// Every token of a text is as good as the next.
struct Fair;

impl Judge for Fair {
    fn judge(&mut self, _: &[Written], _: &[Vec<Scores>]) {}

    fn pull(&mut self, _: usize, _: &[usize], scores: &Scores) -> Scores {
        let flat = |v: &Option<Vec<f32>>| v.as_ref().map(|v| vec![1e-3; v.len()]);
        Scores {
            log_probs: flat(&scores.log_probs),
            values: flat(&scores.values),
            ..Scores::default()
        }
    }
}

/// Text, scores and steps, with a critic on the policy's trunk and a reference.
fn reinforcement(device: &dyn Device) -> Result<()> {
    let kernels = Kernels::new(device, Real::Bf16);
    let (network, plain) = (
        pythia([2, 128, 4, 900], true),
        pythia([2, 128, 4, 900], false),
    );
    let options = Options {
        checkpointing: true,
        columns: 512,
        ..Options::default()
    };
    let frozen = drawn(&kernels, &plain, false, 2)?;
    let reference = Program::new(kernels, &plain, &frozen, options)?;
    let parameters = drawn(&kernels, &network, true, 1)?;
    let program = Program::new(kernels, &network, &parameters, options)?;
    let mut optimizer = AdamW::new(&kernels, &parameters, settings(None))?;
    let request = Request {
        log_probs: true,
        values: true,
        ..Request::default()
    };
    let mut learners = [Learner {
        program: &program,
        request,
        optimizer: &mut optimizer,
        rate: rate(""),
    }];
    let prompts: Vec<Vec<u32>> = (0..6).map(|i| tokens(i, 9 + i)).collect();
    let prompts: Vec<&[u32]> = prompts.iter().map(Vec::as_slice).collect();
    let writing = Writing {
        slots: 4,
        longest: 12,
        ends: Vec::new(),
        draw: Some(Draw {
            temperature: 1.0,
            top_k: 0,
            top_p: 1.0,
        }),
        read_at_once: 64,
    };
    let schedule = Schedule {
        micro_batch: 3,
        minibatch: 3,
        epochs: 1,
    };
    let mut uniform = |prompt: usize, step: usize| ((prompt * 7 + step * 3) % 11) as f64 / 11.0;
    iteration(
        &mut learners,
        &[&reference],
        &prompts,
        &writing,
        &schedule,
        &mut uniform,
        &mut Fair,
    )?;
    Ok(())
}

/// One test, so that no other allocates meanwhile.
#[test]
fn the_machine_allocates_what_was_counted() {
    type Run = fn(&dyn Device) -> Result<()>;
    let runs: [(&str, Run); 3] = [
        ("SFT in f32", |d| steps(d, Real::F32, false, false)),
        (
            "both divergences in bf16, 8-bit moments, checkpointing",
            |d| steps(d, Real::Bf16, true, true),
        ),
        ("an iteration in bf16", reinforcement),
    ];
    for (name, run) in runs {
        let counting = Counting::new();
        run(&counting).unwrap();
        let slices = Slices::new();
        let before = LIVE.load(Ordering::Relaxed);
        PEAK.store(before, Ordering::Relaxed);
        run(&slices).unwrap();
        let measured = (PEAK.load(Ordering::Relaxed) - before) as f64;
        assert_eq!(slices.peak(), counting.peak(), "{name}");
        let ratio = measured / counting.peak() as f64;
        println!("{name}: {measured} bytes, {ratio:.4} of what was counted");
        assert!((ratio - 1.0).abs() <= 0.03, "{name}: {ratio}");
    }
}
