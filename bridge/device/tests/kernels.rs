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
    pub mod step;
}

use kernels::harness::{Bench, Check, Executor};
use kernels::*;
use rto_device::{Emulated, Error, Order, Real};

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
        let Some(executor) = executor(what) else {
            return;
        };
        let bench = Bench::new(executor, real);
        for case in 0..shapes() {
            if let Err(why) = check(&bench, case) {
                panic!("{what}, {real:?}: {why}");
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
