//! The kernels as plain loops over slices, on one thread: what they compute, without threads and blocks.
//!
//! Sums are taken in `f64`, products and values in `f32` as the kernels' text has them, and stored in the type of weights. Fast enough for
//! small networks, it needs no compiler and no card, and it is what the other executors are held to.

mod args;
mod attention;
mod elements;
mod generate;
mod head;
mod memory;
mod norms;
mod step;

use crate::buffer::{Buffer, Element, Owner, Real, fresh_id};
use crate::counting::{check_upload, foreign, unknown_kernel};
use crate::device::{Device, Gemm, Launch, Matrix};
use crate::source::{self, Arg};
use crate::{Error, Result};
use args::{Args, Number};
use memory::Block;
use std::cell::Cell;
use std::collections::HashMap;
use std::sync::{Arc, Mutex, PoisonError};

#[derive(Default)]
struct Blocks {
    blocks: HashMap<u64, Block>,
    live: u64,
    peak: u64,
}

#[derive(Default)]
struct Memory(Mutex<Blocks>);

impl Memory {
    fn with<R>(&self, f: impl FnOnce(&mut Blocks) -> R) -> R {
        f(&mut self.0.lock().unwrap_or_else(PoisonError::into_inner))
    }
}

impl Owner for Memory {
    fn release(&self, id: u64) {
        self.with(|all| {
            if let Some(block) = all.blocks.remove(&id) {
                all.live -= block.len as u64;
            }
        });
    }
}

/// The device that runs the kernels as loops over slices.
#[derive(Default)]
pub struct Slices {
    memory: Arc<Memory>,
}

impl Slices {
    /// With no memory taken.
    pub fn new() -> Self {
        Self::default()
    }
}

impl Device for Slices {
    fn alloc(&self, element: Element, count: usize) -> Result<Buffer> {
        let len = count.checked_mul(element.size());
        let len = len.ok_or_else(|| Error::Driver(format!("out of memory: {count} elements")))?;
        let (id, block) = (fresh_id(), Block::new(len));
        self.memory.with(|all| {
            all.live += len as u64;
            all.peak = all.peak.max(all.live);
            all.blocks.insert(id, block);
        });
        let owner: Arc<dyn Owner> = self.memory.clone();
        Ok(Buffer::new(id, owner, element, count))
    }

    fn upload(&self, to: &Buffer, bytes: &[u8]) -> Result<()> {
        check_upload(to, bytes)?;
        self.memory.with(|all| {
            let block = all.blocks.get(&to.id()).ok_or_else(|| foreign(to))?;
            let cells = block.cells::<u8>(to.offset(), bytes.len());
            cells.iter().zip(bytes).for_each(|(cell, b)| cell.set(*b));
            Ok(())
        })
    }

    fn download(&self, from: &Buffer) -> Result<Vec<u8>> {
        self.memory.with(|all| {
            let block = all.blocks.get(&from.id()).ok_or_else(|| foreign(from))?;
            let cells = block.cells::<u8>(from.offset(), from.bytes());
            Ok(cells.iter().map(Cell::get).collect())
        })
    }

    fn launch(&self, launch: &Launch<'_>, args: &[Arg<'_>]) -> Result<()> {
        launch.check()?;
        let name = launch.kernel;
        let signature = source::own().get(name);
        let signature = signature.ok_or_else(|| unknown_kernel(name))?;
        signature.check(name, launch.real, args)?;
        self.memory.with(|all| {
            let args = Args::new(&all.blocks, args, launch.grid)?;
            let run = match launch.real {
                Real::F32 => kernel::<f32>(name),
                // bfloat16 as its bits.
                Real::Bf16 => kernel::<u16>(name),
            };
            run.ok_or_else(|| unknown_kernel(name))?(&args);
            Ok(())
        })
    }

    fn gemm(&self, gemm: &Gemm<'_>) -> Result<()> {
        gemm.check()?;
        self.memory.with(|all| {
            let view = |matrix: &Matrix<'_>| -> Result<(&Block, usize)> {
                let buffer = matrix.buffer;
                let block = all.blocks.get(&buffer.id());
                Ok((block.ok_or_else(|| foreign(buffer))?, buffer.offset()))
            };
            let (a, b, c) = (view(&gemm.a)?, view(&gemm.b)?, view(&gemm.c)?);
            match (gemm.a.buffer.element(), gemm.c.buffer.element()) {
                (Element::Bf16, Element::Bf16) => multiply::<u16, u16>(gemm, a, b, c),
                (Element::Bf16, _) => multiply::<u16, f32>(gemm, a, b, c),
                (_, Element::Bf16) => multiply::<f32, u16>(gemm, a, b, c),
                _ => multiply::<f32, f32>(gemm, a, b, c),
            }
            Ok(())
        })
    }

    fn sync(&self) -> Result<()> {
        Ok(())
    }

    fn peak(&self) -> u64 {
        self.memory.with(|all| all.peak)
    }
}

/// Columns of C, and rows of B, that are in the processor's nearest memory at once.
const TILE: usize = 64;

/// Sums in `f32`, [`TILE`] terms at a time.
fn multiply<T: Number, C: Number>(
    g: &Gemm<'_>,
    (a, a_at): (&Block, usize),
    (b, b_at): (&Block, usize),
    (c, c_at): (&Block, usize),
) {
    let a = a.cells::<T>(a_at, g.a.buffer.len());
    let b = b.cells::<T>(b_at, g.b.buffer.len());
    let c = c.cells::<C>(c_at, g.c.buffer.len());
    let at = |matrix: &Matrix<'_>, batch: usize, i: usize, j: usize| {
        let (i, j) = if matrix.transposed { (j, i) } else { (i, j) };
        batch * matrix.stride + i * matrix.row + j
    };
    let mut tile = vec![[0.0f32; TILE]; TILE];
    let mut sums = vec![[0.0f32; TILE]; g.m];
    for batch in 0..g.batch {
        for left in (0..g.n).step_by(TILE) {
            let columns = TILE.min(g.n - left);
            sums.fill([0.0; TILE]);
            for top in (0..g.k).step_by(TILE) {
                let terms = TILE.min(g.k - top);
                for (k, row) in tile[..terms].iter_mut().enumerate() {
                    for (j, x) in row[..columns].iter_mut().enumerate() {
                        *x = b[at(&g.b, batch, top + k, left + j)].get().value();
                    }
                }
                for (i, sums) in sums.iter_mut().enumerate() {
                    let mut part = [0.0f32; TILE];
                    for (k, row) in tile[..terms].iter().enumerate() {
                        let x = a[at(&g.a, batch, i, top + k)].get().value();
                        part.iter_mut().zip(row).for_each(|(p, y)| *p += x * y);
                    }
                    sums.iter_mut().zip(part).for_each(|(s, p)| *s += p);
                }
            }
            for (i, sums) in sums.iter().enumerate() {
                for (j, sum) in sums[..columns].iter().enumerate() {
                    let c = &c[at(&g.c, batch, i, left + j)];
                    let old = match g.beta == 0.0 {
                        true => 0.0,
                        false => g.beta * c.get().value(),
                    };
                    c.set(C::of(g.alpha * sum + old));
                }
            }
        }
    }
}

type Kernel = fn(&Args<'_>);

/// The kernel of a name, for a type of weights.
fn kernel<R: Number>(name: &str) -> Option<Kernel> {
    Some(match name {
        "add" => elements::add::<R>,
        "add_bias" => elements::add_bias::<R>,
        "narrow" => elements::narrow::<R>,
        "clear" => elements::clear,
        "cap_all" => elements::cap_all,
        "gather_rows" => elements::gather_rows::<R>,
        "regroup" => elements::regroup::<R>,
        "activation" => elements::activation::<R>,
        "activation_backward" => elements::activation_backward::<R>,
        "gated" => elements::gated::<R>,
        "gated_backward" => elements::gated_backward::<R>,
        "embed" => elements::embed::<R>,
        "embed_backward" => elements::embed_backward::<R>,
        "layer_norm" => norms::layer_norm::<R>,
        "layer_norm_backward" => norms::layer_norm_backward::<R>,
        "rms_norm" => norms::rms_norm::<R>,
        "rms_norm_backward" => norms::rms_norm_backward::<R>,
        "norm_gain_partial" => norms::norm_gain_partial::<R>,
        "column_sums_partial" => norms::column_sums_partial::<R>,
        "column_sums_finish" => norms::column_sums_finish,
        "heads_split" => attention::heads_split::<R>,
        "heads_split_backward" => attention::heads_split_backward::<R>,
        "heads_pack" => attention::heads_pack::<R>,
        "heads_pad" => attention::heads_pad::<R>,
        "softmax" => attention::softmax::<R>,
        "softmax_backward" => attention::softmax_backward::<R>,
        "head_scan" => head::head_scan,
        "head_finish" => head::head_finish,
        "head_pull" => head::head_pull::<R>,
        "squares_partial" => step::squares_partial,
        "gradient_norm" => step::gradient_norm,
        "split" => step::split,
        "join" => step::join,
        "adamw" => step::adamw,
        "adamw_split" => step::adamw_split,
        "adamw_eight_bit" => step::adamw_eight_bit,
        "adamw_eight_bit_split" => step::adamw_eight_bit_split,
        "cache_append" => generate::cache_append::<R>,
        "decode_attention" => generate::decode_attention::<R>,
        "draw" => generate::draw,
        _ => return None,
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_kernel_of_the_text_is_here() {
        let names: Vec<&String> = source::own().keys().collect();
        let lacking: Vec<_> = names
            .iter()
            .filter(|name| kernel::<f32>(name).is_none())
            .collect();
        assert!(lacking.is_empty(), "{lacking:?}");
    }
}
