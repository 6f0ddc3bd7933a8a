//! Linear maps with their weights in f32, or in fewer bits for writing.
//!
//! Sixteen rows travel side by side ("a panel", `[features][16]`). Weights lie in tiles of 64 output features, `[inputs][64]`, so that few rows read one
//! stream of memory with sums enough to hide the latency of one. Every sum runs over the inputs in their order whatever the number of rows, so that a row's
//! numbers do not depend on what stands beside it.
#![allow(
    clippy::needless_range_loop,
    reason = "loops over indices are compiled whole for the instructions at hand; what an iterator calls may be left out of them"
)]

use super::kernels::LANES;
use crate::ops::gemm::fetch;
use half::bf16;
use pulp::{Arch, Simd, WithSimd};
use std::ops::Range;

/// Output features whose weights lie side by side.
pub(super) const TILE: usize = 64;
/// How far ahead of its use memory is asked for: few rows wait for nothing else, and the processor alone does not ask across pages.
const AHEAD: usize = 4096;
/// Inputs of a block, which share the scale of their weights in [`Stored::Int8`].
const BLOCK: usize = 64;

/// In what numbers an engine stores the weights of its products, the head's too; rows of the embedding and norms stay f32. Inputs and sums are f32: with
/// [`Stored::Bf16`] an engine gives bit for bit what it gives in f32 on weights that were rounded, with [`Stored::Int8`] up to the rounding of a sum a block.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum Stored {
    /// As they are: four bytes a weight.
    #[default]
    F32,
    /// Rounded to the nearest bf16, ties to even: two bytes, a relative error of 2⁻⁹ at most.
    Bf16,
    /// `scale · q` with a whole q from −127 to 127 and an f32 scale for every 64 inputs of an output, the largest magnitude among them over 127: 1.06 bytes, an
    /// error of half a scale at most.
    Int8,
}

/// A weight as it is stored.
trait Element: Copy + Send + Sync + 'static {
    /// The number it stands for, but for the scale of its block.
    fn widen(self) -> f32;

    /// A block as it is multiplied: itself, or widened into `room`.
    fn widened<'a>(
        block: &'a [[Self; TILE]],
        room: &'a mut [[f32; TILE]; BLOCK],
    ) -> &'a [[f32; TILE]];
}

impl Element for f32 {
    #[inline(always)]
    fn widen(self) -> f32 {
        self
    }

    #[inline(always)]
    fn widened<'a>(block: &'a [[f32; TILE]], _: &'a mut [[f32; TILE]; BLOCK]) -> &'a [[f32; TILE]] {
        block
    }
}

#[inline(always)]
fn widen_all<'a, E: Element>(
    block: &[[E; TILE]],
    room: &'a mut [[f32; TILE]; BLOCK],
) -> &'a [[f32; TILE]] {
    for (wide, narrow) in room.iter_mut().zip(block) {
        for i in 0..TILE {
            wide[i] = narrow[i].widen();
        }
    }
    &room[..block.len()]
}

impl Element for bf16 {
    #[inline(always)]
    fn widen(self) -> f32 {
        f32::from_bits(u32::from(self.to_bits()) << 16)
    }

    #[inline(always)]
    fn widened<'a>(
        block: &'a [[bf16; TILE]],
        room: &'a mut [[f32; TILE]; BLOCK],
    ) -> &'a [[f32; TILE]] {
        widen_all(block, room)
    }
}

impl Element for i8 {
    #[inline(always)]
    fn widen(self) -> f32 {
        f32::from(self)
    }

    #[inline(always)]
    fn widened<'a>(
        block: &'a [[i8; TILE]],
        room: &'a mut [[f32; TILE]; BLOCK],
    ) -> &'a [[f32; TILE]] {
        widen_all(block, room)
    }
}

/// Weights `[tiles · inputs][64]`.
#[derive(Debug, Clone)]
enum Weight {
    F32(Vec<[f32; TILE]>),
    Bf16(Vec<[bf16; TILE]>),
    /// With scales `[tiles · ⌈inputs/64⌉][64]`.
    Int8(Vec<[i8; TILE]>, Vec<[f32; TILE]>),
}

/// A linear map.
#[derive(Debug, Clone)]
pub(super) struct Linear {
    weight: Weight,
    /// `[tiles · 64]`.
    bias: Vec<f32>,
    inputs: usize,
    outputs: usize,
}

impl Linear {
    /// A layer from its weight `[outputs, inputs]` and a bias (empty for none).
    pub(super) fn new(
        weight: &[f32],
        bias: &[f32],
        outputs: usize,
        inputs: usize,
        stored: Stored,
    ) -> Self {
        let tiles = outputs.div_ceil(TILE);
        let mut padded = vec![0.0; tiles * TILE];
        padded[..bias.len()].copy_from_slice(bias);
        Self {
            weight: match stored {
                Stored::F32 => Weight::F32(packed(weight, tiles, inputs, |w| w)),
                Stored::Bf16 => Weight::Bf16(packed(weight, tiles, inputs, bf16::from_f32)),
                Stored::Int8 => int8(weight, tiles, inputs),
            },
            bias: padded,
            inputs,
            outputs,
        }
    }

    /// Features it gives.
    pub(super) fn outputs(&self) -> usize {
        self.outputs
    }

    /// Tiles of 64 outputs.
    pub(super) fn tiles(&self) -> usize {
        self.bias.len() / TILE
    }

    /// Tiles `first..` of W x + b for some panels, of which the first `rows` rows are read (all sixteen where there are several panels): each input
    /// `[inputs][16]`, each output a whole number of tiles, as many in every panel. Of a few rows the sums are the same, number by number, with
    /// the features side by side in place of the rows.
    pub(super) fn apply(
        &self,
        first: usize,
        rows: usize,
        inputs: &[&[f32]],
        outputs: &mut [&mut [f32]],
    ) {
        match &self.weight {
            Weight::F32(weight) => self.apply_stored(weight, None, first, rows, inputs, outputs),
            Weight::Bf16(weight) => self.apply_stored(weight, None, first, rows, inputs, outputs),
            Weight::Int8(weight, scales) => {
                self.apply_stored(weight, Some(scales), first, rows, inputs, outputs);
            }
        }
    }

    fn apply_stored<E: Element>(
        &self,
        weight: &[[E; TILE]],
        scales: Option<&[[f32; TILE]]>,
        first: usize,
        rows: usize,
        inputs: &[&[f32]],
        outputs: &mut [&mut [f32]],
    ) {
        let tiles = outputs.first().map_or(0, |out| out.len()) / (TILE * LANES);
        let blocks = self.inputs.div_ceil(BLOCK);
        let (bias, _) = self.bias[first * TILE..][..tiles * TILE].as_chunks::<TILE>();
        let part = Part {
            weight: &weight[first * self.inputs..][..tiles * self.inputs],
            scales: scales.map(|scales| &scales[first * blocks..][..tiles * blocks]),
            bias,
            inputs: self.inputs,
        };
        match (rows, inputs, &mut *outputs) {
            (1, [input], [output]) => few::<E, 1>(part, input, output),
            (2, [input], [output]) => few::<E, 2>(part, input, output),
            (3 | 4, [input], [output]) => few::<E, 4>(part, input, output),
            _ => Arch::new().dispatch(Panels {
                part,
                inputs,
                outputs,
            }),
        }
    }
}

/// Rows interleaved by tiles.
fn packed<E: Element>(
    weight: &[f32],
    tiles: usize,
    inputs: usize,
    stored: impl Fn(f32) -> E,
) -> Vec<[E; TILE]> {
    let mut packed = vec![[stored(0.0); TILE]; tiles * inputs];
    for (row, values) in weight.chunks_exact(inputs).enumerate() {
        let tile = &mut packed[row / TILE * inputs..][..inputs];
        for (column, value) in tile.iter_mut().zip(values) {
            column[row % TILE] = stored(*value);
        }
    }
    packed
}

/// Rows in blocks of whole numbers, interleaved by tiles.
fn int8(weight: &[f32], tiles: usize, inputs: usize) -> Weight {
    let blocks = inputs.div_ceil(BLOCK);
    let mut packed = vec![[0_i8; TILE]; tiles * inputs];
    let mut scales = vec![[0.0; TILE]; tiles * blocks];
    for (row, values) in weight.chunks_exact(inputs).enumerate() {
        let (tile, lane) = (row / TILE, row % TILE);
        let columns = packed[tile * inputs..][..inputs].chunks_mut(BLOCK);
        for (block, (values, columns)) in values.chunks(BLOCK).zip(columns).enumerate() {
            let largest = values.iter().fold(0.0, |m: f32, v| m.max(v.abs()));
            let scale = largest / 127.0;
            scales[tile * blocks + block][lane] = scale;
            // A block of numbers that no scale can tell from zero stays zero.
            if scale > 0.0 {
                for (column, value) in columns.iter_mut().zip(values) {
                    column[lane] = (value / scale).round_ties_even().clamp(-127.0, 127.0) as i8;
                }
            }
        }
    }
    Weight::Int8(packed, scales)
}

/// Some tiles of a map.
struct Part<'a, E> {
    weight: &'a [[E; TILE]],
    scales: Option<&'a [[f32; TILE]]>,
    bias: &'a [[f32; TILE]],
    inputs: usize,
}

/// Several panels: rows side by side, each tile's blocks of weights read once for all panels.
struct Panels<'a, 'p, E> {
    part: Part<'a, E>,
    inputs: &'a [&'a [f32]],
    outputs: &'a mut [&'p mut [f32]],
}

impl<E: Element> WithSimd for Panels<'_, '_, E> {
    type Output = ();

    #[inline(always)]
    fn with_simd<S: Simd>(self, simd: S) {
        // A panel is one vector of AVX-512, two of AVX2, four of NEON; the sums fill the registers.
        match S::F32_LANES {
            16 => self.tiles::<S, 2, 1, 8, 16>(simd),
            8 => self.tiles::<S, 1, 2, 4, 4>(simd),
            4 => self.tiles::<S, 1, 4, 4, 4>(simd),
            _ => self.tiles::<S, 1, 16, 1, 1>(simd),
        }
    }
}

impl<E: Element> Panels<'_, '_, E> {
    /// `TOGETHER` panels of `VECTORS` vectors and `COLUMNS` features at once, and `ALONE` features of a panel that is left.
    #[inline(always)]
    fn tiles<
        S: Simd,
        const TOGETHER: usize,
        const VECTORS: usize,
        const COLUMNS: usize,
        const ALONE: usize,
    >(
        self,
        simd: S,
    ) {
        let Self {
            part,
            inputs,
            outputs,
        } = self;
        let mut room = [[0.0; TILE]; BLOCK];
        let blocks = part.inputs.div_ceil(BLOCK);
        for (tile, (weight, bias)) in part
            .weight
            .chunks_exact(part.inputs)
            .zip(part.bias)
            .enumerate()
        {
            for (block, weight) in weight.chunks(BLOCK).enumerate() {
                let weight = E::widened(weight, &mut room);
                let mut step = Step {
                    weight,
                    scale: part.scales.map(|scales| &scales[tile * blocks + block]),
                    bias: (block + 1 == blocks).then_some(bias),
                    first: block == 0,
                    // The first panel alone waits for memory, and only where nothing has widened the block.
                    ahead: size_of::<E>() == size_of::<f32>(),
                    input: block * BLOCK..block * BLOCK + weight.len(),
                    output: tile * TILE..(tile + 1) * TILE,
                };
                let mut panel = 0;
                while panel + TOGETHER <= inputs.len() && TOGETHER > 1 {
                    step.add::<S, TOGETHER, VECTORS, COLUMNS>(
                        simd,
                        &inputs[panel..],
                        &mut outputs[panel..],
                    );
                    step.ahead = false;
                    panel += TOGETHER;
                }
                while panel < inputs.len() {
                    step.add::<S, 1, VECTORS, ALONE>(simd, &inputs[panel..], &mut outputs[panel..]);
                    step.ahead = false;
                    panel += 1;
                }
            }
        }
    }
}

/// A block of inputs of a tile.
struct Step<'a> {
    weight: &'a [[f32; TILE]],
    scale: Option<&'a [f32; TILE]>,
    /// After the last block.
    bias: Option<&'a [f32; TILE]>,
    first: bool,
    /// Whether memory is asked for the next block.
    ahead: bool,
    input: Range<usize>,
    output: Range<usize>,
}

impl Step<'_> {
    #[inline(always)]
    fn add<S: Simd, const PANELS: usize, const VECTORS: usize, const COLUMNS: usize>(
        &self,
        simd: S,
        inputs: &[&[f32]],
        outputs: &mut [&mut [f32]],
    ) {
        let zero = simd.splat_f32s(0.0);
        let x: [&[[S::f32s; VECTORS]]; PANELS] = std::array::from_fn(|panel| {
            let x = &inputs[panel][self.input.start * LANES..self.input.end * LANES];
            S::as_simd_f32s(x).0.as_chunks::<VECTORS>().0
        });
        for from in (0..TILE).step_by(COLUMNS) {
            let ahead = self.ahead && from == 0;
            let mut sums = [[[zero; VECTORS]; COLUMNS]; PANELS];
            let at =
                (self.output.start + from) * LANES..(self.output.start + from + COLUMNS) * LANES;
            // One sum over all inputs goes on from where the last block left it; a sum with a scale is of its block alone.
            if !self.first && self.scale.is_none() {
                for (sums, output) in sums.iter_mut().zip(&*outputs) {
                    let old = S::as_simd_f32s(&output[at.clone()])
                        .0
                        .as_chunks::<VECTORS>()
                        .0;
                    for (sum, old) in sums.iter_mut().zip(old) {
                        *sum = *old;
                    }
                }
            }
            // Local sums, and no index that could be out of bounds beside them: otherwise every one of them is stored after every input.
            if let ([x, y], [sums, others]) = (&x[..], &mut sums[..]) {
                let (mut first, mut second) = (*sums, *others);
                for ((w, x), y) in self.weight.iter().zip(*x).zip(*y) {
                    if ahead {
                        fetch_block(w);
                    }
                    let w = &w[from..from + COLUMNS];
                    add_one(simd, w, x, &mut first);
                    add_one(simd, w, y, &mut second);
                }
                (*sums, *others) = (first, second);
            } else {
                for (sums, x) in sums.iter_mut().zip(&x) {
                    let mut of_panel = *sums;
                    for (w, x) in self.weight.iter().zip(*x) {
                        if ahead {
                            fetch_block(w);
                        }
                        add_one(simd, &w[from..from + COLUMNS], x, &mut of_panel);
                    }
                    *sums = of_panel;
                }
            }
            for (sums, output) in sums.iter().zip(&mut *outputs) {
                let out = S::as_mut_simd_f32s(&mut output[at.clone()]).0;
                let out = out.as_chunks_mut::<VECTORS>().0;
                for (column, (out, sums)) in out.iter_mut().zip(sums).enumerate() {
                    for (out, sum) in out.iter_mut().zip(sums) {
                        let mut sum = *sum;
                        if let Some(scale) = self.scale {
                            let old = if self.first { zero } else { *out };
                            sum = simd.mul_add_e_f32s(
                                simd.splat_f32s(scale[from + column]),
                                sum,
                                old,
                            );
                        }
                        if let Some(bias) = self.bias {
                            sum = simd.add_f32s(sum, simd.splat_f32s(bias[from + column]));
                        }
                        *out = sum;
                    }
                }
            }
        }
    }
}

/// Asks for what lies a block after these weights.
#[inline(always)]
fn fetch_block(weights: &[f32; TILE]) {
    for line in (0..size_of_val(weights)).step_by(64) {
        fetch(weights, BLOCK * size_of_val(weights) + line);
    }
}

/// One input of a panel times its weights for some features, added to their sums.
#[inline(always)]
fn add_one<S: Simd, const VECTORS: usize, const COLUMNS: usize>(
    simd: S,
    weights: &[f32],
    x: &[S::f32s; VECTORS],
    sums: &mut [[S::f32s; VECTORS]; COLUMNS],
) {
    for column in 0..COLUMNS {
        let w = simd.splat_f32s(weights[column]);
        for vector in 0..VECTORS {
            sums[column][vector] = simd.mul_add_e_f32s(w, x[vector], sums[column][vector]);
        }
    }
}

/// The first `ROWS` rows of one panel, features side by side; the other rows become zero.
fn few<E: Element, const ROWS: usize>(part: Part<'_, E>, input: &[f32], output: &mut [f32]) {
    let (panel, _) = input[..part.inputs * LANES].as_chunks::<LANES>();
    // Side by side: a row of a panel lies in as many lines of the cache as it has numbers.
    let rows: Vec<[f32; ROWS]> = panel
        .iter()
        .map(|x| std::array::from_fn(|row| x[row]))
        .collect();
    let (output, _) = output.as_chunks_mut::<LANES>();
    Arch::new().dispatch(Few {
        part,
        rows: &rows,
        output,
    });
}

struct Few<'a, E, const ROWS: usize> {
    part: Part<'a, E>,
    rows: &'a [[f32; ROWS]],
    output: &'a mut [[f32; LANES]],
}

impl<E: Element, const ROWS: usize> WithSimd for Few<'_, E, ROWS> {
    type Output = ();

    #[inline(always)]
    fn with_simd<S: Simd>(self, simd: S) {
        match S::F32_LANES {
            16 => self.tiles::<S, 4>(simd),
            8 => self.tiles::<S, 4>(simd),
            4 => self.tiles::<S, 4>(simd),
            _ => self.tiles::<S, 16>(simd),
        }
    }
}

impl<E: Element, const ROWS: usize> Few<'_, E, ROWS> {
    #[inline(always)]
    fn tiles<S: Simd, const VECTORS: usize>(self, simd: S) {
        let Self { part, rows, output } = self;
        let blocks = part.inputs.div_ceil(BLOCK);
        let width = VECTORS * S::F32_LANES;
        let tiles = part.weight.chunks_exact(part.inputs).zip(part.bias);
        for ((tile, (weight, bias)), output) in tiles.enumerate().zip(output.chunks_exact_mut(TILE))
        {
            for from in (0..TILE).step_by(width) {
                let sums = match part.scales {
                    None => sums::<S, E, ROWS, VECTORS>(
                        simd,
                        weight,
                        rows,
                        from,
                        [[simd.splat_f32s(0.0); VECTORS]; ROWS],
                    ),
                    Some(scales) => {
                        let mut total = [[simd.splat_f32s(0.0); VECTORS]; ROWS];
                        let scales = &scales[tile * blocks..][..blocks];
                        let weights = weight.chunks(BLOCK).zip(rows.chunks(BLOCK));
                        for ((weight, rows), scale) in weights.zip(scales) {
                            let sums = sums::<S, E, ROWS, VECTORS>(
                                simd,
                                weight,
                                rows,
                                from,
                                [[simd.splat_f32s(0.0); VECTORS]; ROWS],
                            );
                            let scale = S::as_simd_f32s(&scale[from..from + width]).0;
                            for (total, sums) in total.iter_mut().zip(&sums) {
                                for vector in 0..VECTORS {
                                    total[vector] = simd.mul_add_e_f32s(
                                        scale[vector],
                                        sums[vector],
                                        total[vector],
                                    );
                                }
                            }
                        }
                        total
                    }
                };
                let bias = S::as_simd_f32s(&bias[from..from + width]).0;
                let mut features = [[0.0; TILE]; ROWS];
                for (features, sums) in features.iter_mut().zip(&sums) {
                    let out = S::as_mut_simd_f32s(features).0;
                    for vector in 0..VECTORS {
                        out[vector] = simd.add_f32s(sums[vector], bias[vector]);
                    }
                }
                for (feature, out) in output[from..from + width].iter_mut().enumerate() {
                    *out = [0.0; LANES];
                    for (out, features) in out.iter_mut().zip(&features) {
                        *out = features[feature];
                    }
                }
            }
        }
    }
}

/// Σ over the inputs of their weights for the features from `from` on times `ROWS` rows, added to `sums` one by one.
#[inline(always)]
fn sums<S: Simd, E: Element, const ROWS: usize, const VECTORS: usize>(
    simd: S,
    weight: &[[E; TILE]],
    rows: &[[f32; ROWS]],
    from: usize,
    mut sums: [[S::f32s; VECTORS]; ROWS],
) -> [[S::f32s; VECTORS]; ROWS] {
    for (weight, x) in weight.iter().zip(rows) {
        for line in (0..size_of::<E>() * TILE).step_by(64) {
            fetch(weight, AHEAD + line);
        }
        let mut wide = [0.0; TILE];
        for i in 0..VECTORS * S::F32_LANES {
            wide[i] = weight[from + i].widen();
        }
        let w = S::as_simd_f32s(&wide).0;
        for (sums, x) in sums.iter_mut().zip(x) {
            let x = simd.splat_f32s(*x);
            for vector in 0..VECTORS {
                sums[vector] = simd.mul_add_e_f32s(w[vector], x, sums[vector]);
            }
        }
    }
    sums
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Rows of some panels as `[row][feature]`, by one call or by a call for each of the first `few` rows.
    fn product(linear: &Linear, rows: usize, input: &[Vec<f32>]) -> Vec<Vec<f32>> {
        let panels: Vec<&[f32]> = input.iter().map(Vec::as_slice).collect();
        let size = linear.tiles() * TILE * LANES;
        let mut out = vec![vec![f32::NAN; size]; input.len()];
        let mut parts: Vec<&mut [f32]> = out.iter_mut().map(Vec::as_mut_slice).collect();
        linear.apply(0, rows.min(LANES), &panels, &mut parts);
        let feature = |row: usize, o: usize| out[row / LANES][o * LANES + row % LANES];
        (0..rows)
            .map(|row| (0..linear.outputs()).map(|o| feature(row, o)).collect())
            .collect()
    }

    fn numbers(n: usize, seed: usize) -> Vec<f32> {
        (0..n)
            .map(|i| ((i * 2_654_435_761 + seed * 97) as f32 * 1e-3).sin())
            .collect()
    }

    const SIZES: [(usize, usize); 6] = [(1, 1), (5, 3), (16, 64), (64, 65), (130, 17), (70, 200)];
    const STORED: [Stored; 3] = [Stored::F32, Stored::Bf16, Stored::Int8];

    #[test]
    fn linear_is_the_matrix_product_for_sizes_that_do_not_fill_a_tile() {
        for (outputs, inputs) in SIZES {
            let quarters = |n: usize, step: usize, modulus: usize| -> Vec<f32> {
                (0..n)
                    .map(|i| ((i * step % modulus) as f32 - 5.0) / 4.0)
                    .collect()
            };
            let weight = quarters(outputs * inputs, 7, 11);
            let bias: Vec<f32> = (0..outputs).map(|i| i as f32 / 8.0).collect();
            let input = vec![quarters(inputs * LANES, 5, 13)];
            // Quarters multiply and add exactly, and are bf16.
            for stored in [Stored::F32, Stored::Bf16] {
                let linear = Linear::new(&weight, &bias, outputs, inputs, stored);
                for (row, features) in product(&linear, LANES, &input).iter().enumerate() {
                    for (o, feature) in features.iter().enumerate() {
                        let terms =
                            (0..inputs).map(|i| weight[o * inputs + i] * input[0][i * LANES + row]);
                        assert_eq!(*feature, terms.sum::<f32>() + bias[o], "{stored:?}");
                    }
                }
            }
        }
    }

    #[test]
    fn a_row_does_not_depend_on_the_rows_beside_it() {
        for stored in STORED {
            for (outputs, inputs) in SIZES {
                let weight = numbers(outputs * inputs, 1);
                let linear = Linear::new(&weight, &numbers(outputs, 2), outputs, inputs, stored);
                let input: Vec<Vec<f32>> = (0..5).map(|p| numbers(inputs * LANES, 3 + p)).collect();
                let all = product(&linear, 5 * LANES, &input);
                for panels in 1..5 {
                    let some = product(&linear, panels * LANES, &input[..panels]);
                    assert_eq!(some, all[..panels * LANES], "{stored:?}, {panels} panels");
                }
                for rows in 1..LANES {
                    let few = product(&linear, rows, &input[..1]);
                    assert_eq!(few, all[..rows], "{stored:?}, {rows} rows");
                }
            }
        }
    }

    #[test]
    fn bf16_weights_are_those_of_f32_after_rounding() {
        for (outputs, inputs) in SIZES {
            let (weight, bias) = (numbers(outputs * inputs, 1), numbers(outputs, 2));
            let rounded: Vec<f32> = weight.iter().map(|w| bf16::from_f32(*w).to_f32()).collect();
            let input = vec![numbers(inputs * LANES, 3)];
            let short = Linear::new(&weight, &bias, outputs, inputs, Stored::Bf16);
            let wide = Linear::new(&rounded, &bias, outputs, inputs, Stored::F32);
            assert_eq!(product(&short, 1, &input), product(&wide, 1, &input));
            assert_eq!(product(&short, 9, &input), product(&wide, 9, &input));
        }
    }

    /// Every element beside a sum in f64 of the numbers that `q` and the scales stand for, each of them within half a scale of the weight.
    #[test]
    fn int8_products_are_those_of_the_dequantised_weights() {
        for (outputs, inputs) in SIZES {
            let mut weight = numbers(outputs * inputs, 1);
            weight[0] = 3.0; // An outlier costs its own block alone.
            let dequantised: Vec<f64> = weight
                .chunks(inputs)
                .flat_map(|row| {
                    row.chunks(BLOCK).flat_map(|block| {
                        let scale = block.iter().fold(0.0, |m: f32, v| m.max(v.abs())) / 127.0;
                        block.iter().map(move |w| {
                            let near = f64::from((w / scale).round_ties_even()) * f64::from(scale);
                            assert!((near - f64::from(*w)).abs() <= 0.5001 * f64::from(scale));
                            near
                        })
                    })
                })
                .collect();
            let (bias, input) = (numbers(outputs, 2), vec![numbers(inputs * LANES, 3)]);
            let linear = Linear::new(&weight, &bias, outputs, inputs, Stored::Int8);
            for (row, features) in product(&linear, LANES, &input).iter().enumerate() {
                for (o, feature) in features.iter().enumerate() {
                    let (mut want, mut size) = (f64::from(bias[o]), f64::from(bias[o].abs()));
                    for i in 0..inputs {
                        let term =
                            dequantised[o * inputs + i] * f64::from(input[0][i * LANES + row]);
                        want += term;
                        size += term.abs();
                    }
                    let off = (f64::from(*feature) - want).abs();
                    assert!(off <= 1e-6 * size, "{outputs} {inputs}: off by {off:e}");
                }
            }
        }
    }

    #[test]
    fn a_block_of_zeros_stays_zero() {
        let linear = Linear::new(&[0.0; 130], &[], 1, 130, Stored::Int8);
        let input = vec![numbers(130 * LANES, 1)];
        assert_eq!(product(&linear, 2, &input), [[0.0], [0.0]]);
    }
}
