//! The kernels with their shapes: each method checks the lengths of its buffers and chooses the launch.

mod attention;
mod elements;
mod generate;
mod head;
mod norms;
mod step;

pub use attention::{Activation, Angles, Texts};
pub use generate::{Cache, Rows};
pub use head::Tile;

use crate::buffer::{Buffer, Element, Real};
use crate::device::{Device, Launch};
use crate::source::Arg;
use crate::{Error, Result};

/// Where heads lie within the rows of a packed projection, and how queries and keys turn.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Heads {
    /// Elements of a row.
    pub row: usize,
    /// Dimensions of a head, at most 256.
    pub head_dim: usize,
    /// Query heads.
    pub heads: usize,
    /// Heads of keys and values, a divisor of `heads`: neighbouring query heads share one.
    pub kv_heads: usize,
    /// Elements from one head's query (key, value) to the next head's.
    pub step: usize,
    /// Where head 0's query, key and value begin within a row.
    pub offsets: [usize; 3],
    /// How many of a head's first dimensions turn; even, 0 for none.
    pub dims: usize,
    /// Whether dimensions 2i and 2i + 1 are a pair, else i and i + dims/2.
    pub neighbours: bool,
}

/// The index of a row that is not there, for [`Kernels::gather_rows`].
pub const NO_ROW: u32 = u32::MAX;

/// How products of queries and keys become scores.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Scoring {
    /// Factor on q·k.
    pub scale: f32,
    /// c in `c tanh(s/c)` of scaled scores.
    pub cap: Option<f32>,
    /// How many of the last keys a query sees, itself included; all where `None`.
    pub window: Option<usize>,
}

/// What becomes of a raw logit: `c tanh(l/c)`, over T.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Bend {
    /// c, the cap; none leaves logits as they are.
    pub cap: Option<f32>,
    /// T, the temperature.
    pub temperature: f32,
}

/// Outputs of the head, `f32`, one number a row each.
#[derive(Debug, Clone, Copy)]
pub struct Head<'a> {
    /// `log p(target)`.
    pub log_prob: &'a Buffer,
    /// `−Σ p log p`.
    pub entropy: &'a Buffer,
    /// The logarithm of the softmax sum.
    pub log_sum: &'a Buffer,
    /// `Σ p log(p/q)`, `Σ q log(q/p)` and the logarithm of the other softmax sum, where there is another distribution q.
    pub other: Option<[&'a Buffer; 3]>,
}

/// Gradients of a scalar with respect to the head's outputs.
#[derive(Debug, Clone, Copy)]
pub struct HeadGrad<'a> {
    /// Of `log p(target)`.
    pub log_prob: &'a Buffer,
    /// Of the entropy.
    pub entropy: Option<&'a Buffer>,
    /// Of `Σ p log(p/q)`.
    pub kl: Option<&'a Buffer>,
    /// Of `Σ q log(q/p)`.
    pub kl_from: Option<&'a Buffer>,
}

/// Numbers of an AdamW step that all weights of a group share, as in the kernels' text.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Adam {
    /// β₁.
    pub decay1: f32,
    /// β₂.
    pub decay2: f32,
    /// 1 − ηλ.
    pub keep: f32,
    /// η/(1 − β₁ᵗ).
    pub rate: f32,
    /// 1/√(1 − β₂ᵗ).
    pub root: f32,
    /// ε, which keeps the division finite.
    pub epsilon: f32,
}

/// Trained weights.
#[derive(Debug, Clone, Copy)]
pub enum Weights<'a> {
    /// `f32`.
    Whole(&'a Buffer),
    /// bfloat16 as `u16`, and the low 16 bits of each master weight.
    Split {
        /// The weights that the network multiplies.
        high: &'a Buffer,
        /// The other halves.
        low: &'a Buffer,
    },
}

/// A moment in 8 bits: a byte a weight and an `f32` scale for each 256.
#[derive(Debug, Clone, Copy)]
pub struct Codes<'a> {
    /// `[count]`.
    pub codes: &'a Buffer,
    /// `[⌈count/256⌉]`.
    pub scales: &'a Buffer,
}

/// Both moments in 8 bits, and the step, which the rounding depends on.
#[derive(Debug, Clone, Copy)]
pub struct Eight<'a> {
    /// The first moment.
    pub m: Codes<'a>,
    /// The second moment.
    pub v: Codes<'a>,
    /// t, the number of the step; the first is 1.
    pub step: u32,
}

/// How tokens are drawn.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Draw {
    /// T, above 0.
    pub temperature: f64,
    /// The k-th highest logit is the lowest that is kept; 0 keeps all.
    pub top_k: usize,
    /// Of those, the fewest whose mass reaches this share are kept; 1 keeps all.
    pub top_p: f64,
}

/// The kernels for one type of weights and activations on one device.
#[derive(Clone, Copy)]
pub struct Kernels<'a> {
    device: &'a dyn Device,
    real: Real,
    threads: u32,
}

/// A buffer, its needed element and length, and its name.
type Need<'a> = (&'a Buffer, Element, usize, &'static str);

fn int(x: usize) -> Arg<'static> {
    // Sizes above the largest int are refused by `Kernels::run`, which sees the -1.
    Arg::I32(i32::try_from(x).unwrap_or(-1))
}

fn flag(x: bool) -> Arg<'static> {
    Arg::I32(i32::from(x))
}

fn input(x: Option<&Buffer>) -> Arg<'_> {
    x.map_or(Arg::Absent, Arg::In)
}

fn output(x: Option<&Buffer>) -> Arg<'_> {
    x.map_or(Arg::Absent, Arg::Out)
}

/// Bytes of shared memory that sums and maxima over a block need: a double a warp.
const SCRATCH: u32 = 8 * 32;
/// The number of bytes that `draw` needs: a double and, behind them, a count a warp.
const DRAW_SCRATCH: u32 = SCRATCH + 4 * 32;
/// Squares that one block adds up.
const SQUARES: usize = 1 << 14;

impl<'a> Kernels<'a> {
    /// Kernels on `device` with weights and activations of type `real`.
    pub fn new(device: &'a dyn Device, real: Real) -> Self {
        Self {
            device,
            real,
            threads: 256,
        }
    }

    /// With blocks of another size, a multiple of 32 up to 1,024. Sums depend on it; the 8-bit optimiser keeps its 256.
    pub fn with_threads(self, threads: u32) -> Self {
        Self { threads, ..self }
    }

    /// The device they run on.
    pub fn device(&self) -> &'a dyn Device {
        self.device
    }

    /// The type of weights and activations.
    pub fn real(&self) -> Real {
        self.real
    }

    fn run(&self, kernel: &str, grid: [usize; 2], shared: u32, args: &[Arg<'_>]) -> Result<()> {
        self.run_by(kernel, grid, self.threads, shared, args)
    }

    fn run_by(
        &self,
        kernel: &str,
        grid: [usize; 2],
        block: u32,
        shared: u32,
        args: &[Arg<'_>],
    ) -> Result<()> {
        // Nothing to do is done.
        if grid.contains(&0) {
            return Ok(());
        }
        if args.iter().any(|a| matches!(a, Arg::I32(x) if *x < 0)) {
            return Err(Error::Launch {
                kernel: kernel.into(),
                why: format!("a size above {}", i32::MAX),
            });
        }
        let launch = Launch {
            kernel,
            real: self.real,
            grid: grid.map(|n| u32::try_from(n).unwrap_or(u32::MAX)),
            block,
            shared,
        };
        self.device.launch(&launch, args)
    }

    fn need(&self, kernel: &str, needs: &[Need<'_>]) -> Result<()> {
        for (buffer, element, len, name) in needs {
            if buffer.element() != *element || buffer.len() != *len {
                return Err(Error::Buffer {
                    what: format!("{kernel}: {name}"),
                    found: format!("{:?}[{}]", buffer.element(), buffer.len()),
                    expected: format!("{element:?}[{len}]"),
                });
            }
        }
        Ok(())
    }

    /// One thread an element.
    fn over(&self, count: usize) -> [usize; 2] {
        [count.div_ceil(self.threads as usize), 1]
    }
}
