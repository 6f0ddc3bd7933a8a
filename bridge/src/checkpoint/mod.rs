//! Hugging Face folders: `config.json`, `model.safetensors` (whole or sharded), tokenizer, generation settings.
//!
//! A GGUF file is read where a folder is ([`crate::gguf`]).
//!
//! Weights travel as a map from their Hugging Face names to tensors. [`load`] reads through a memory map and names
//! every tensor that is missing, left over, misshapen or not finite; [`save`] replaces a whole folder in one step, so
//! that a process killed in the middle leaves the previous checkpoint as it was.

mod ends;
mod extra;
pub mod hub;
mod names;
mod read;
mod write;

pub use crate::files::{atomic, check_finite, write_tensors};
pub use names::is_published_buffer;
pub use read::{Checkpoint, load, load_tensors, present, read_config, read_shape};
pub use write::{Contents, dtype_name, save, save_with};

/// File of the weights where there is one.
pub const WEIGHTS: &str = "model.safetensors";
/// File that says which shard holds which tensor.
pub const INDEX: &str = "model.safetensors.index.json";
/// File of the network's shape.
pub const CONFIG: &str = "config.json";
/// File of the settings `transformers` generates with.
pub const GENERATION_CONFIG: &str = "generation_config.json";
/// Files of a tokenizer, carried along unread.
pub const TOKENIZER_FILES: [&str; 7] = [
    "tokenizer.json",
    "tokenizer_config.json",
    "special_tokens_map.json",
    "added_tokens.json",
    "vocab.json",
    "merges.txt",
    "chat_template.jinja",
];
