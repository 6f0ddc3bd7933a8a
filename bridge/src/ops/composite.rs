//! The same operations as differentiable candle expressions: any device, any float type, an order of magnitude slower on a CPU.
//!
//! candle's own fused versions (`softmax_last_dim`, `rope`, `LayerNorm`) drop gradients silently; these do not.

use super::activation::Activation;
use candle_core::{D, DType, Device, Result, Tensor};

/// `(x − μ)/√(σ² + ε) ∘ γ + β` over the last dimension, all of it in `f32` or better and rounded once.
pub fn layer_norm(x: &Tensor, gain: &Tensor, bias: &Tensor, epsilon: f64) -> Result<Tensor> {
    let wide = widened(x)?;
    let centred = wide.broadcast_sub(&wide.mean_keepdim(D::Minus1)?)?;
    let variance = centred.sqr()?.mean_keepdim(D::Minus1)?;
    let normal = centred.broadcast_div(&(variance + epsilon)?.sqrt()?)?;
    normal
        .broadcast_mul(&gain.to_dtype(normal.dtype())?)?
        .broadcast_add(&bias.to_dtype(normal.dtype())?)?
        .to_dtype(x.dtype())
}

/// `x` in `f32` or better.
pub fn widened(x: &Tensor) -> Result<Tensor> {
    match x.dtype() {
        DType::F16 | DType::BF16 => x.to_dtype(DType::F32),
        _ => Ok(x.clone()),
    }
}

/// `x Wᵀ + b` for `x [.., inputs]`, `W [outputs, inputs]`.
pub fn linear(x: &Tensor, weight: &Tensor, bias: Option<&Tensor>) -> Result<Tensor> {
    let (outputs, inputs) = weight.dims2()?;
    let mut dims = x.dims().to_vec();
    let y = product(&x.reshape(((), inputs))?, &weight.t()?)?;
    if let Some(last) = dims.last_mut() {
        *last = outputs;
    }
    let y = y.reshape(dims)?;
    bias.map_or(Ok(y.clone()), |bias| y.broadcast_add(bias))
}

/// `a b`. On a processor and in a short type, each row bit for bit the same whatever the other rows are: a few rows go other ways there, with
/// another order of summation, and are padded with zeros. Wider types keep what that order costs below what anyone reads.
fn product(a: &Tensor, b: &Tensor) -> Result<Tensor> {
    const FEWEST: usize = 16;
    let rows = a.dim(D::Minus2)?;
    let short = matches!(a.dtype(), DType::F16 | DType::BF16);
    if !(short && a.device().is_cpu()) || rows >= FEWEST {
        return a.matmul(b);
    }
    let padded = a.pad_with_zeros(D::Minus2, 0, FEWEST - rows)?;
    padded.matmul(b)?.narrow(D::Minus2, 0, rows)
}

/// The activation of the MLP.
pub fn activate(x: &Tensor, kind: Activation) -> Result<Tensor> {
    let half_one_plus = |inner: Tensor| -> Result<Tensor> { (inner + 1.0)? * 0.5 };
    match kind {
        Activation::Gelu => x * half_one_plus((x * std::f64::consts::FRAC_1_SQRT_2)?.erf()?)?,
        Activation::GeluTanh => {
            let cubic = ((x.sqr()? * x)? * 0.044_715)?;
            let u = ((x + cubic)? * (2.0 / std::f64::consts::PI).sqrt())?;
            x * half_one_plus(u.tanh()?)?
        }
        Activation::Silu => x.silu(),
    }
}

/// `c tanh(x/c)`.
pub fn capped(x: &Tensor, cap: Option<f64>) -> Result<Tensor> {
    match cap {
        None => Ok(x.clone()),
        Some(cap) => (x / cap)?.tanh()? * cap,
    }
}

/// Rotates the first `2 r` of the last dimension of `x [.., d]` by angles whose cosines and sines `[.., r]` fit it by broadcasting.
pub fn rotate(x: &Tensor, cos: &Tensor, sin: &Tensor) -> Result<Tensor> {
    let half = cos.dim(D::Minus1)?;
    if half == 0 {
        return Ok(x.clone());
    }
    let first = x.narrow(D::Minus1, 0, half)?;
    let second = x.narrow(D::Minus1, half, half)?;
    let turned_first = (first.broadcast_mul(cos)? - second.broadcast_mul(sin)?)?;
    let turned_second = (second.broadcast_mul(cos)? + first.broadcast_mul(sin)?)?;
    let rest = x.dim(D::Minus1)? - 2 * half;
    let mut parts = vec![turned_first, turned_second];
    if rest > 0 {
        parts.push(x.narrow(D::Minus1, 2 * half, rest)?);
    }
    Tensor::cat(&parts, D::Minus1)
}

/// `(x / √(mean(x²) + ε)) ∘ γ` over the last dimension, all of it in `f32` or better and rounded once.
pub fn rms_norm(x: &Tensor, gain: &Tensor, epsilon: f64) -> Result<Tensor> {
    let wide = widened(x)?;
    let square = wide.sqr()?.mean_keepdim(D::Minus1)?;
    let normal = wide.broadcast_div(&(square + epsilon)?.sqrt()?)?;
    normal
        .broadcast_mul(&gain.to_dtype(normal.dtype())?)?
        .to_dtype(x.dtype())
}

/// Keys and values `[B, kv heads, T, d]` once for each of the `group` query heads that share them: `[B, kv heads · group, T, d]`.
pub fn repeat_heads(x: &Tensor, group: usize) -> Result<Tensor> {
    if group == 1 {
        return Ok(x.clone());
    }
    let (batch, heads, time, d) = x.dims4()?;
    x.unsqueeze(2)?
        .broadcast_as((batch, heads, group, time, d))?
        .contiguous()?
        .reshape((batch, heads * group, time, d))
}

/// `[queries, start + queries]` of zeros and, at keys after the query and at those `window` or more before it, minus infinity. The first
/// query stands at position `start`.
pub fn causal_mask(
    queries: usize,
    start: usize,
    window: Option<usize>,
    dtype: DType,
    device: &Device,
) -> Result<Tensor> {
    let keys = start + queries;
    let entry = |i: usize| {
        let (query, key) = (start + i / keys, i % keys);
        if key > query || window.is_some_and(|w| query - key >= w) {
            f32::NEG_INFINITY
        } else {
            0.0
        }
    };
    let mask: Vec<f32> = (0..queries * keys).map(entry).collect();
    Tensor::from_vec(mask, (queries, keys), device)?.to_dtype(dtype)
}

/// Attention of `q [B, heads, T, d]` to `k`, `v [B, heads, T′, d]`: scores are scaled, capped, masked and put through the softmax in
/// `f32` or better; the weights are rounded once.
pub fn attention(
    q: &Tensor,
    k: &Tensor,
    v: &Tensor,
    mask: Option<&Tensor>,
    scale: f64,
    cap: Option<f64>,
) -> Result<Tensor> {
    let scores = product(&q.contiguous()?, &k.t()?.contiguous()?)?;
    let mut wide = capped(&(widened(&scores)? * scale)?, cap)?;
    if let Some(mask) = mask {
        wide = wide.broadcast_add(&mask.to_dtype(wide.dtype())?)?;
    }
    let shifted = wide
        .broadcast_sub(&wide.max_keepdim(D::Minus1)?.detach())?
        .exp()?;
    let weights = shifted.broadcast_div(&row_sum(&shifted, q.dtype())?)?;
    product(&weights.to_dtype(q.dtype())?, &v.contiguous()?)
}

/// Sums over the last dimension. For weights that are rounded to a short type on a processor they are taken in `f64`: masked keys, which are
/// there in a whole text and not yet in a cache, change the order of the sum.
fn row_sum(x: &Tensor, rounded: DType) -> Result<Tensor> {
    let short = matches!(rounded, DType::F16 | DType::BF16);
    match short && x.device().is_cpu() {
        true => x
            .to_dtype(DType::F64)?
            .sum_keepdim(D::Minus1)?
            .to_dtype(x.dtype()),
        false => x.sum_keepdim(D::Minus1),
    }
}

/// `log softmax` over the last dimension, in `f32` or better.
pub fn log_softmax(logits: &Tensor) -> Result<Tensor> {
    let wide = widened(logits)?;
    let shifted = wide.broadcast_sub(&wide.max_keepdim(D::Minus1)?.detach())?;
    shifted.broadcast_sub(&shifted.exp()?.sum_keepdim(D::Minus1)?.log()?)
}

/// `log p(target)` per row of `logits [rows, vocabulary]`.
#[cfg(test)]
pub fn token_log_probs(logits: &Tensor, targets: &Tensor) -> Result<Tensor> {
    log_softmax(logits)?
        .gather(&targets.unsqueeze(1)?, 1)?
        .squeeze(1)
}
