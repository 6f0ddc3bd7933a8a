//! The non-linearities of the MLPs: `gelu(x) = x Φ(x)` exactly, its `tanh` approximation, and `silu`, none with a library call per element.

use super::simd::{exp, for_each_piece, vectorized};

const PIECE: usize = 1 << 15;

/// What the MLP applies to its inner width (in a gated MLP: to the gate).
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Activation {
    /// x Φ(x): `gelu`.
    Gelu,
    /// ½ x (1 + tanh(√(2/π)(x + 0.044715 x³))): `gelu_new`, `gelu_fast`, `gelu_pytorch_tanh`.
    GeluTanh,
    /// x/(1 + e^{−x}): `silu`, `swish`.
    Silu,
}

impl Activation {
    /// The activation that Hugging Face calls `name`.
    pub fn named(name: &str) -> Option<Self> {
        match name {
            "gelu" => Some(Self::Gelu),
            "gelu_new" | "gelu_fast" | "gelu_pytorch_tanh" => Some(Self::GeluTanh),
            "silu" | "swish" => Some(Self::Silu),
            _ => None,
        }
    }

    /// The name under which `config.json` is written.
    pub fn name(self) -> &'static str {
        match self {
            Self::Gelu => "gelu",
            Self::GeluTanh => "gelu_pytorch_tanh",
            Self::Silu => "silu",
        }
    }
}

/// `y = act(x)`.
pub fn forward(kind: Activation, x: &[f32], y: &mut [f32]) {
    for_each_piece(y, PIECE, |i, y| {
        forward_alone(kind, &x[i * PIECE..][..y.len()], y);
    });
}

/// [`forward`] on the calling thread.
pub fn forward_alone(kind: Activation, x: &[f32], y: &mut [f32]) {
    match kind {
        Activation::Gelu => vectorized(
            #[inline(always)]
            || each(|x| gelu(x).0, x, y),
        ),
        Activation::GeluTanh => vectorized(
            #[inline(always)]
            || each(|x| gelu_tanh(x).0, x, y),
        ),
        Activation::Silu => vectorized(
            #[inline(always)]
            || each(|x| silu(x).0, x, y),
        ),
    }
}

#[inline(always)]
fn each(act: impl Fn(f32) -> f32, x: &[f32], y: &mut [f32]) {
    for (y, &x) in y.iter_mut().zip(x) {
        *y = act(x);
    }
}

/// Replaces `dy` by `∂x = ∂y act′(x)` and, in the same pass, writes `y = act(x)` again (the next weight's gradient needs it).
pub fn backward(kind: Activation, x: &[f32], dy: &mut [f32], y: &mut [f32]) {
    // One slice of pairs would be a copy; zip the pieces of both outputs instead.
    let mut pieces: Vec<_> = dy.chunks_mut(PIECE).zip(y.chunks_mut(PIECE)).collect();
    for_each_piece(&mut pieces, 1, |i, piece| {
        for (dy, y) in piece {
            let x = &x[i * PIECE..][..y.len()];
            match kind {
                Activation::Gelu => vectorized(
                    #[inline(always)]
                    || backward_erf(x, dy, y),
                ),
                Activation::GeluTanh => vectorized(
                    #[inline(always)]
                    || backward_tanh(x, dy, y),
                ),
                Activation::Silu => vectorized(
                    #[inline(always)]
                    || {
                        for (&x, (dy, y)) in x.iter().zip(dy.iter_mut().zip(y.iter_mut())) {
                            let slope;
                            (*y, slope) = silu(x);
                            *dy *= slope;
                        }
                    },
                ),
            }
        }
    });
}

#[inline(always)]
fn backward_erf(x: &[f32], dy: &mut [f32], y: &mut [f32]) {
    for (&x, (dy, y)) in x.iter().zip(dy.iter_mut().zip(y)) {
        let slope;
        (*y, slope) = gelu(x);
        *dy *= slope;
    }
}

#[inline(always)]
fn backward_tanh(x: &[f32], dy: &mut [f32], y: &mut [f32]) {
    for (&x, (dy, y)) in x.iter().zip(dy.iter_mut().zip(y)) {
        let slope;
        (*y, slope) = gelu_tanh(x);
        *dy *= slope;
    }
}

/// `x Φ(x)` and its derivative.
#[inline(always)]
pub(super) fn gelu(x: f32) -> (f32, f32) {
    const DENSITY: f32 = 0.398_942_28; // 1/√(2π)
    let (cdf, bell) = phi(x);
    (x * cdf, (x * DENSITY).mul_add(bell, cdf))
}

/// The `tanh` form and its derivative.
#[inline(always)]
pub(super) fn gelu_tanh(x: f32) -> (f32, f32) {
    let (s, slope) = gate(x);
    (x * s, x.mul_add(slope, s))
}

/// `x σ(x)` and its derivative `σ (1 + x (1 − σ))`.
#[inline(always)]
pub(super) fn silu(x: f32) -> (f32, f32) {
    let s = sigmoid(x);
    (x * s, s * (x * (1.0 - s) + 1.0))
}

/// `1/(1 + e^{−x})`, without overflow on either side.
#[inline(always)]
fn sigmoid(x: f32) -> f32 {
    let e = exp(-x.abs());
    let large = 1.0 / (1.0 + e);
    if x < 0.0 { e * large } else { large }
}

/// The standard normal distribution function `Φ(x)` and `e^{-x²/2}`.
///
/// `Φ(−a) = e^{−a²/2} t Q(t)` for `a ≥ 0`, `t = 1/(1 + 0.3 a)`; `Q` is fitted for the largest relative error over `0 ≤ a ≤ 13`
/// (1.1e-7), so the left tail keeps its relative accuracy.
#[inline(always)]
fn phi(x: f32) -> (f32, f32) {
    let a = x.abs();
    let t = 1.0 / 0.3f32.mul_add(a, 1.0);
    let mut q = 3.619_720_3e-2f32;
    q = q.mul_add(t, -1.593_884e-1);
    q = q.mul_add(t, 2.101_362_3e-1);
    q = q.mul_add(t, -5.718_409e-2);
    q = q.mul_add(t, 1.304_254_2e-1);
    q = q.mul_add(t, 9.934_409e-2);
    q = q.mul_add(t, 1.208_459_7e-1);
    q = q.mul_add(t, 1.196_232_3e-1);
    let bell = exp(-0.5 * a * a);
    let tail = bell * t * q;
    (if x < 0.0 { tail } else { 1.0 - tail }, bell)
}

/// `½(1 + tanh u) = 1/(1 + e^{−2u})`, `u = √(2/π)(x + 0.044715 x³)`, and its derivative in `x`.
#[inline(always)]
fn gate(x: f32) -> (f32, f32) {
    const C: f32 = 0.797_884_6; // √(2/π)
    const CUBIC: f32 = 0.044_715;
    let u = C * (CUBIC * x * x).mul_add(x, x);
    let e = exp(-2.0 * u.abs());
    let (small, large) = (e / (1.0 + e), 1.0 / (1.0 + e));
    let s = if u < 0.0 { small } else { large };
    let du = C * (3.0 * CUBIC * x).mul_add(x, 1.0);
    (s, 2.0 * small * large * du)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn activations_are_accurate() {
        // Φ of the standard normal, from tables of 15 digits.
        for (x, cdf) in [
            (-4.0_f32, 3.167_124_183_311_998e-5),
            (-2.0, 0.022_750_131_948_179_2),
            (-1.0, 0.158_655_253_931_457),
            (-0.1, 0.460_172_162_722_971),
            (0.5, 0.691_462_461_274_013),
            (3.0, 0.998_650_101_968_37),
        ] {
            let (got, exact) = (gelu(x).0, f64::from(x) * cdf);
            assert!(
                (f64::from(got) / exact - 1.0).abs() < 6e-7,
                "gelu({x}) = {got}"
            );
        }
        for i in -80..=80 {
            let x = f64::from(i) / 10.0;
            let u = (2.0 / std::f64::consts::PI).sqrt() * (x + 0.044_715 * x.powi(3));
            let exact = 0.5 * x * (1.0 + u.tanh());
            assert!(
                (f64::from(gelu_tanh(x as f32).0) - exact).abs() < 1e-6,
                "{x}"
            );
        }
        let ends = [0.0, 20.0, -20.0, 1e30, -1e30].map(|x| gelu(x).0);
        assert_eq!(ends, [0.0, 20.0, 0.0, 1e30, 0.0]);
        assert!(gelu(f32::NAN).0.is_nan() && gelu_tanh(f32::NAN).0.is_nan());
    }
}
