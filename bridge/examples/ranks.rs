//! What a step costs on several ranks: seconds, processor seconds and bytes, at the shape of Pythia-14M.
//!
//! `cargo build -p rto-bridge --features mpi --example ranks`, then
//! `RAYON_NUM_THREADS=1 mpirun -n 2 target/debug/examples/ranks [STEPS] [GROUPS] [ROWS] [TOKENS] [SHARD]`
//!
//! Every rank trains the same network on the same rows of random tokens (maximum likelihood); rank 0 prints one line. `loss` and `norm`
//! are those of the last step: equal, to the last digit, on 1, 2 and 4 ranks of one number of groups.

use std::fmt::Debug;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::{Duration, Instant};

use candle_core::Device;
use rand::Rng;
use rto::objective::{Aggregation, Nll};
use rto::seed::SeedTree;
use rto::seq::{Episode, Finish, Trainable};
use rto_bridge::Result as BridgeResult;
use rto_bridge::collective::{Collective, Mpi};
use rto_bridge::family::{Activation, GptNeoXConfig};
use rto_bridge::learner::{LearnerOptions, NeuralLearner, NeuralPolicy, NeuralScorer, Ranks};
use rto_bridge::model::{Heads, Model};
use rto_bridge::params::{Init, Params};

/// An engine whose bytes to other ranks, and the time spent in it, are counted.
#[derive(Debug)]
struct Counted {
    engine: Mpi,
    bytes: AtomicU64,
    nanoseconds: AtomicU64,
}

impl Counted {
    fn note<T>(&self, bytes: usize, work: impl FnOnce() -> T) -> T {
        let start = Instant::now();
        let done = work();
        self.bytes.fetch_add(bytes as u64, Ordering::Relaxed);
        let spent = start.elapsed().as_nanos() as u64;
        self.nanoseconds.fetch_add(spent, Ordering::Relaxed);
        done
    }
}

impl Collective for Counted {
    fn rank(&self) -> usize {
        self.engine.rank()
    }

    fn size(&self) -> usize {
        self.engine.size()
    }

    fn exchange(&self, parts: &[&[u8]]) -> BridgeResult<Vec<Vec<u8>>> {
        let others = parts.iter().enumerate().filter(|(r, _)| *r != self.rank());
        let bytes = others.map(|(_, part)| part.len()).sum();
        self.note(bytes, || self.engine.exchange(parts))
    }

    fn all_gather(&self, mine: &[u8]) -> BridgeResult<Vec<Vec<u8>>> {
        let bytes = mine.len() * (self.size() - 1);
        self.note(bytes, || self.engine.all_gather(mine))
    }

    fn abort(&self) -> ! {
        self.engine.abort()
    }
}

/// Seconds of the processor that this process has used, in user code and in the system.
fn processor_seconds() -> Option<f64> {
    let stat = std::fs::read_to_string("/proc/self/stat").ok()?;
    let fields: Vec<&str> = stat.rsplit(')').next()?.split_whitespace().collect();
    let ticks: f64 = fields[11].parse::<f64>().ok()? + fields[12].parse::<f64>().ok()?;
    Some(ticks / 100.0)
}

fn main() -> Result<(), Box<dyn std::error::Error>> {
    let numbers: Vec<usize> = std::env::args()
        .skip(1)
        .map(|a| a.parse())
        .collect::<Result<_, _>>()?;
    let number = |i: usize, or: usize| numbers.get(i).copied().unwrap_or(or);
    let (steps, groups, rows, tokens) = (number(0, 4), number(1, 4), number(2, 16), number(3, 256));
    let counted = Arc::new(Counted {
        engine: Mpi::join(Duration::from_secs(600))?,
        bytes: AtomicU64::new(0),
        nanoseconds: AtomicU64::new(0),
    });
    let ranks = Ranks::try_new(counted.clone(), groups)?.with_sharded_moments(number(4, 0) == 1);
    let config = GptNeoXConfig {
        vocab_size: 50_304,
        hidden_size: 128,
        n_layers: 6,
        n_heads: 4,
        intermediate_size: 512,
        rotary_dims: 8,
        rotary_base: 1e4,
        max_positions: 2048,
        layer_norm_eps: 1e-5,
        parallel_residual: true,
        activation: Activation::Gelu,
        attention_bias: true,
        tied_embeddings: false,
        bos_token: None,
        eos_tokens: 0.into(),
        pad_token: None,
    };
    let heads = Heads {
        language_model: true,
        ..Heads::default()
    };
    let seeds = SeedTree::new(1);
    let model = Model::random(&config, heads, Init::Small, &seeds, &Device::Cpu)?;
    let params = Params::new(model.params().tensors())?;
    let scorer = NeuralScorer::try_new(&config, params)?.with_ranks(ranks);
    let policy = NeuralPolicy::try_new(scorer, tokens)?;
    let mut learner = NeuralLearner::try_new(policy, LearnerOptions::default())?;
    let mut rng = seeds.child("rows").rng();
    let mut text = |n: usize| -> Vec<u32> { (0..n).map(|_| rng.random_range(1..50_304)).collect() };
    let batch: Vec<Episode> = (0..rows)
        .map(|_| Episode::try_new(text(1).into(), text(tokens - 1), Finish::Length))
        .collect::<Result<_, _>>()?;
    let loss = Nll::new(&batch, Aggregation::default(), None)?;
    // The first step takes memory.
    let mut report = learner.step(&batch, &loss)?;
    counted.bytes.store(0, Ordering::Relaxed);
    counted.nanoseconds.store(0, Ordering::Relaxed);
    counted.barrier()?;
    let (start, before) = (Instant::now(), processor_seconds());
    for _ in 0..steps {
        report = learner.step(&batch, &loss)?;
    }
    counted.barrier()?;
    let each = |x: f64| x / steps as f64;
    let spent = processor_seconds().zip(before).map(|(a, b)| a - b);
    let mine = spent.unwrap_or(f64::NAN).to_ne_bytes();
    let all = counted.engine.gather(&mine)?;
    let total: f64 = all
        .iter()
        .filter_map(|b| b[..].try_into().ok().map(f64::from_ne_bytes))
        .sum();
    if counted.rank() == 0 {
        println!(
            "ranks {} groups {groups}: {:.3} s a step, {:.3} processor seconds of all ranks, {:.1} MB sent by a rank, {:.3} s in calls to others; loss {:.15}, norm {:.15}",
            counted.size(),
            each(start.elapsed().as_secs_f64()),
            each(total),
            each(counted.bytes.load(Ordering::Relaxed) as f64) / 1e6,
            each(counted.nanoseconds.load(Ordering::Relaxed) as f64) / 1e9,
            report.loss,
            report.grad_norm,
        );
    }
    Ok(())
}
