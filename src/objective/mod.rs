//! Losses of per-token scores, with their gradients: pure `f64`, for any backend.

mod aggregation;

pub use aggregation::Aggregation;
