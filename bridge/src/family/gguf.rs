//! What a family calls things in a GGUF file.

use super::ModelConfig;
use crate::{Error, Result};

/// A family's networks in GGUF. Sizes and tokens have the same keys in every architecture and are read before; names of tensors follow from
/// the parts that [`super::Names`] says.
#[derive(Debug)]
pub struct Gguf {
    /// `general.architecture`, and what its keys begin with.
    pub architecture: &'static str,
    /// Whether the rows of queries and keys hold the two halves of a head in turn, as Llama's first code rotated them.
    pub interleaved: bool,
    /// What norms add to the gains that a Hugging Face folder stores, and the file has added already.
    pub gains_added: bool,
    /// Fills in what is the family's own: biases, window, factors. The rotation over whole heads is there already.
    pub read: fn(&dyn Metadata, &mut ModelConfig) -> Result<()>,
}

/// A file's metadata and tensors, for [`Gguf::read`]. Keys are given without the architecture before them.
pub trait Metadata {
    /// A whole number.
    ///
    /// # Errors
    /// [`Error::File`] for another type.
    fn size(&self, key: &str) -> Result<Option<usize>>;
    /// A number.
    ///
    /// # Errors
    /// As [`Metadata::size`].
    fn number(&self, key: &str) -> Result<Option<f64>>;
    /// Whether the first block has a module with a bias, by its name in GGUF.
    fn has_bias(&self, module: &str) -> bool;
    /// The key, what was found, and what was expected.
    fn wrong(&self, key: &str, expected: &str) -> Error;
}
