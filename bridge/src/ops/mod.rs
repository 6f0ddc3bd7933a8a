//! The numerical kernels of training on a CPU: forward and hand-written backward on `f32` slices.
//!
//! candle's autograd keeps every intermediate in a fresh allocation and has no fused operation with a right gradient, so
//! a model here calls these functions directly and drives its own backward pass; [`composite`] holds the same
//! operations as differentiable candle expressions, for other devices and float types and as the oracle of the tests.
//!
//! Matrices are row-major, one token a row; a batch is *packed*: the rows of all its texts one after the other, no padding.
//! Work is cut into pieces whose sizes depend on the shapes alone, and every sum runs in a fixed order, so results do
//! not depend on the number of threads, nor a text's results on the other texts of its batch.

pub mod activation;
pub mod attention;
pub mod buffer;
pub mod composite;
pub mod gated;
pub mod gemm;
pub mod layer_norm;
pub mod linear;
pub mod log_prob_head;
pub mod lora;
pub mod rms_norm;
pub mod rotary;
pub mod scalar_head;
pub mod simd;
#[cfg(test)]
mod tests;
