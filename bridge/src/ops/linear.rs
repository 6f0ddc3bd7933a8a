//! `y = x Wᵀ + b` with `W [out, in]` as Hugging Face stores it; the backward pass in three separate pieces, so that
//! a frozen weight costs only the gradient of the input.

use super::gemm::{Mat, MatMut, Products, Update, product};
use super::simd::{for_each_piece, vectorized};

/// A weight `[outputs, inputs]` and its optional bias `[outputs]`.
#[derive(Debug, Clone, Copy)]
pub struct Linear<'a> {
    /// Row-major, one output a row.
    pub weight: &'a [f32],
    /// Added to every row.
    pub bias: Option<&'a [f32]>,
    /// Width of `x`.
    pub inputs: usize,
    /// Width of `y`.
    pub outputs: usize,
    /// What is rounded before it is multiplied.
    pub products: Products,
}

/// From this width on a product has the same bits however its rows are cut: gemm's paths for small matrices are out of reach.
const WIDE: usize = 512;

/// Rows of one product with a dimension of `width`, of `rows` in all. Narrow ones are cut alike for any number of threads. gemm packs its other operand once
/// a product, so wide ones are cut into no more pieces than there are threads, all of at least 96 rows where there is more than one.
fn rows_per_piece(rows: usize, width: usize) -> usize {
    if width < WIDE {
        return 256;
    }
    let pieces = (rows / 96).clamp(1, rayon::current_num_threads());
    rows.div_ceil(pieces).max(1)
}

/// [`rows_per_piece`] of the forward pass: at most 64 where `outputs ≤ 64`. There gemm cuts the inner dimension
/// otherwise for more rows, and a row's result would depend on how many there are.
fn rows_per_forward_piece(rows: usize, outputs: usize) -> usize {
    if outputs <= 64 {
        return 64;
    }
    rows_per_piece(rows, outputs)
}

/// Fewer rows than this are padded with zeros: gemm takes other paths, with another order of summation, for a
/// single row and for products of up to 256 elements.
fn fewest_rows(outputs: usize) -> usize {
    (256 / outputs + 1).max(8)
}

/// `y = x Wᵀ + b` or `y += x Wᵀ + b`, each row bit for bit the same whatever the other rows are.
pub fn forward(layer: &Linear<'_>, x: &[f32], y: &mut [f32], update: Update) {
    let (inputs, outputs) = (layer.inputs, layer.outputs);
    let piece = rows_per_forward_piece(y.len() / outputs.max(1), outputs);
    for_each_piece(y, piece * outputs, |i, y| {
        if let Some(bias) = layer.bias {
            vectorized(
                #[inline(always)]
                || set_or_add_bias(y, bias, update),
            );
        }
        let update = if layer.bias.is_some() {
            Update::Add
        } else {
            update
        };
        let rows = y.len() / outputs;
        let x = &x[i * piece * inputs..][..rows * inputs];
        row_stable_product(layer, x, y, rows, update);
    });
}

fn row_stable_product(layer: &Linear<'_>, x: &[f32], y: &mut [f32], rows: usize, update: Update) {
    let (inputs, outputs) = (layer.inputs, layer.outputs);
    let weight = Mat::new(layer.weight, outputs, inputs).t();
    let least = fewest_rows(outputs);
    if rows >= least {
        let y = MatMut::new(y, rows, outputs);
        return product(layer.products, y, update, Mat::new(x, rows, inputs), weight);
    }
    let (mut padded_x, mut padded_y) = (vec![0.0; least * inputs], vec![0.0; least * outputs]);
    padded_x[..x.len()].copy_from_slice(x);
    padded_y[..y.len()].copy_from_slice(y);
    product(
        layer.products,
        MatMut::new(&mut padded_y, least, outputs),
        update,
        Mat::new(&padded_x, least, inputs),
        weight,
    );
    y.copy_from_slice(&padded_y[..y.len()]);
}

#[inline(always)]
fn set_or_add_bias(y: &mut [f32], bias: &[f32], update: Update) {
    for row in y.chunks_exact_mut(bias.len()) {
        match update {
            Update::Set => row.copy_from_slice(bias),
            Update::Add => row.iter_mut().zip(bias).for_each(|(y, b)| *y += b),
        }
    }
}

/// `∂x = ∂y W` (or `+=`).
pub fn backward_input(layer: &Linear<'_>, dy: &[f32], dx: &mut [f32], update: Update) {
    let (inputs, outputs) = (layer.inputs, layer.outputs);
    let piece = rows_per_piece(dx.len() / inputs.max(1), inputs);
    for_each_piece(dx, piece * inputs, |i, dx| {
        let rows = dx.len() / inputs;
        let dy = Mat::new(&dy[i * piece * outputs..], rows, outputs);
        let weight = Mat::new(layer.weight, outputs, inputs);
        let dx = MatMut::new(dx, rows, inputs);
        product(layer.products, dx, update, dy, weight);
    });
}

/// `∂W += ∂yᵀ x`, `dw [outputs, inputs]`.
pub fn backward_weight(
    products: Products,
    x: &[f32],
    dy: &[f32],
    dw: &mut [f32],
    inputs: usize,
    outputs: usize,
) {
    let piece = rows_per_piece(outputs, inputs);
    let rows = dy.len() / outputs;
    for_each_piece(dw, piece * inputs, |i, dw| {
        let width = dw.len() / inputs;
        let dy = Mat::strided(&dy[i * piece..], rows, width, outputs).t();
        product(
            products,
            MatMut::new(dw, width, inputs),
            Update::Add,
            dy,
            Mat::new(x, rows, inputs),
        );
    });
}

/// `∂b += Σ_rows ∂y`: every column is one running sum from the first row to the last.
pub fn backward_bias(dy: &[f32], db: &mut [f32]) {
    const PIECE: usize = 512;
    let outputs = db.len();
    for_each_piece(db, PIECE, |i, db| {
        vectorized(
            #[inline(always)]
            || {
                for row in dy.chunks_exact(outputs) {
                    add(db, &row[i * PIECE..]);
                }
            },
        );
    });
}

/// `a += b` over the length of `a`.
#[inline(always)]
pub(crate) fn add(a: &mut [f32], b: &[f32]) {
    a.iter_mut().zip(b).for_each(|(a, b)| *a += b);
}
