//! Every kernel under the emulator against a plain reference in f64: random shapes, fresh memory full of NaN, several orders of threads,
//! the same bits in each. `RTO_KERNELS=N` makes N times as many shapes. Built with the feature `cuda`, `RTO_CARD=N` runs the same checks on
//! card N, each twice.
#![allow(
    clippy::needless_range_loop,
    clippy::neg_cmp_op_on_partial_ord,
    reason = "references are written by index, as their equations are; a comparison with NaN must fail"
)]

mod kernels {
    pub mod attention;
    pub mod faults;
    pub mod generate;
    pub mod harness;
    pub mod head;
    pub mod norms;
    pub mod programs;
    pub mod step;
}

use kernels::harness::{Bench, Check, Executor};
use kernels::*;
use rto_device::{
    Bend, Counting, Device, Distribution, Element, Emulated, Error, Head, HeadGrad, Kernels, Order,
    OutputHead, Real,
};

/// Shapes that a check is run on, in each type of weights.
const SHAPES: u64 = 200;

fn shapes() -> u64 {
    let factor = std::env::var("RTO_KERNELS").ok();
    SHAPES * factor.and_then(|f| f.parse::<u64>().ok()).unwrap_or(1)
}

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

/// What runs the checks: card `RTO_CARD` where that is set, else the emulator.
fn executor(what: &str) -> Option<Executor> {
    #[cfg(feature = "cuda")]
    if let Ok(card) = std::env::var("RTO_CARD") {
        let number = card.parse().expect("RTO_CARD is the number of a card");
        let card = rto_device::Cuda::open(number).unwrap_or_else(|e| panic!("{e}"));
        return Some(Executor::Card(card.into()));
    }
    emulated(what).map(Executor::Emulated)
}

fn hold(what: &str, check: Check) {
    for real in [Real::F32, Real::Bf16] {
        // Loops over slices need nothing of the machine.
        let executors = [Some(Executor::Slices), executor(what)];
        for executor in executors.into_iter().flatten() {
            let bench = Bench::new(executor, real);
            for case in 0..shapes() {
                if let Err(why) = check(&bench, case) {
                    panic!("{what}, {}, {real:?}: {why}", bench.name());
                }
            }
        }
    }
}

macro_rules! checks {
    ($($name:ident: $check:path;)*) => {
        $(#[test]
        fn $name() {
            hold(stringify!($name), $check);
        })*
    };
}

checks! {
    elements: norms::elements;
    copies: norms::copies;
    layer_norm: norms::layer_norm;
    rms_norm: norms::rms_norm;
    heads: attention::split_heads;
    softmax: attention::softmax;
    activation: attention::activation;
    embedding: attention::embedding;
    head: head::head;
    adamw: step::adamw;
    split_master: step::split;
    halves: step::halves;
    eight_bit: step::eight_bit;
    infinite_gradient: step::infinite;
    decode: generate::decode;
    draw: generate::draw;
    draw_refuses: generate::draw_refuses;
    attention: programs::attention;
    output_head: programs::output_head;
}

/// A test that cannot fail proves nothing: each of these faults, planted alone, is found.
#[test]
fn planted_faults_are_found() {
    if emulated("planted faults").is_none() {
        return;
    }
    let (found, missed) = faults::all(SHAPES);
    for line in &found {
        println!("{line}");
    }
    assert!(found.len() >= 20);
    assert!(missed.is_empty(), "not found: {missed:#?}");
}

/// The output head of 512 tokens and 50,304 entries never holds all logits at once.
#[test]
fn the_output_head_keeps_one_tile() {
    let device = Counting::new();
    let kernels = Kernels::new(&device, Real::Bf16);
    let alloc = |element, n| device.alloc(element, n).unwrap();
    let (rows, vocabulary, width) = (512, 50_304, 64);
    let hidden = alloc(Element::Bf16, rows * width);
    let weight = alloc(Element::Bf16, vocabulary * width);
    let targets = alloc(Element::U32, rows);
    let [log_prob, entropy, log_sum, g] = [0; 4].map(|_| alloc(Element::F32, rows));
    let dhidden = alloc(Element::F32, rows * width);
    let dweight = alloc(Element::F32, vocabulary * width);
    let bend = Bend {
        cap: None,
        temperature: 1.0,
    };
    let head = OutputHead {
        kernels,
        policy: Distribution {
            hidden: &hidden,
            weight: &weight,
            scale: 1.0,
            bend,
        },
        other: None,
        targets: &targets,
        columns: 1024,
    };
    let out = Head {
        log_prob: &log_prob,
        entropy: &entropy,
        log_sum: &log_sum,
        other: None,
    };
    let grad = HeadGrad {
        log_prob: &g,
        entropy: None,
        kl: None,
        kl_from: None,
    };
    device.restart();
    let held = device.usage().live;
    head.forward(&out).unwrap();
    head.backward(&out, &grad, &dhidden, Some(&dweight))
        .unwrap();
    // One tile of logits in f32 and its gradient in bf16.
    assert_eq!(device.peak() - held, (rows * 1024 * (4 + 2)) as u64);
    let usage = device.usage();
    assert_eq!(usage.live, held);
    // Logits twice, both gradients.
    assert_eq!(usage.flops, 4 * 2 * (rows * vocabulary * width) as u64);
    assert_eq!(usage.by_kernel["head_scan"], 50);
    assert_eq!(usage.by_kernel["gemm"], 200);
}
