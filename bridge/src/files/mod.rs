//! Files of weights, and files that are replaced in one step: what every reader and writer of models stands on.

pub mod atomic;
mod mmap;
mod safetensors_file;
mod stray;

pub(crate) use mmap::map;
pub use safetensors_file::{check_finite, write_tensors};
pub(crate) use safetensors_file::{is_zero, tensor, type_name, with_file};
pub(crate) use stray::stray;
