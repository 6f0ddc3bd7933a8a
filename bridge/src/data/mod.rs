//! Preference data: reading, cleaning, shuffling, splitting.
//!
//! | step | items |
//! |---|---|
//! | read | [`read_pairs`], [`read_prompts`], [`read_labelled`], [`read_feedback`]: JSON lines and arrays, plain or packed by gzip, zstd or bzip2, and Parquet, told apart by their first bytes |
//! | turn conversations into text | [`ChatTemplate`]: HH-RLHF's own form, or the template of a `tokenizer_config.json` |
//! | clean | [`clean_pairs`], [`clean_labelled`], [`clean_prompts`]: named [`Rule`]s, each counted in a [`Report`] and each optional |
//! | split | [`Split`]: by a hash of the prompt, so that no prompt lands in two parts |
//! | deal out | [`roles`]: training, evaluation, and a third that trains the oracle alone |
//! | order | [`shuffled`]: a permutation that depends on seed and epoch alone |
//!
//! ```no_run
//! use rto::seed::SeedTree;
//! use rto_bridge::data::{self, CleanOptions, ReadOptions, Split, SplitKey};
//!
//! # fn main() -> rto_bridge::Result<()> {
//! let pairs = data::read_pairs(&["harmless-base/train.jsonl.gz"], &ReadOptions::default())?;
//! let (pairs, report) = data::clean_pairs(pairs, &CleanOptions::default())?;
//! println!("{report}");
//! let seeds = SeedTree::new(1);
//! let thirds = Split::thirds().parts(pairs, &seeds, SplitKey::FirstTurn)?;
//! let order = data::shuffled(thirds[0].len(), &seeds, 0);
//! # Ok(()) }
//! ```

mod clean;
mod cost;
mod hh;
mod jinja;
mod lines;
mod messages;
mod open;
#[cfg(feature = "parquet")]
mod parquet;
mod python;
mod read;
mod record;
mod roles;
mod split;
mod template;
mod value;

use std::fmt;
use std::path::Path;
use std::sync::Arc;

pub use clean::{
    CleanOptions, Lengths, Report, Rule, RuleCount, clean_labelled, clean_pairs, clean_prompts,
};
pub use hh::{ASSISTANT, HUMAN, first_turn, split_reply};
pub use read::{
    Columns, Feedback, Layout, ReadOptions, ReadReport, read_feedback, read_labelled, read_pairs,
    read_pairs_with_report, read_prompts,
};
pub use roles::{Roles, roles};
pub use split::{Split, SplitKey, shuffled};
pub use template::{ChatTemplate, Message};

/// Where a record was read.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub struct Place {
    /// The file, as the caller named it.
    pub file: Arc<Path>,
    /// Which line, row or record, counted from 1.
    pub line: usize,
    /// What is counted.
    pub unit: Unit,
}

/// What a [`Place`] counts.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Unit {
    /// Lines of a text file.
    Line,
    /// Elements of an array of records.
    Record,
    /// Rows of a table.
    Row,
}

impl fmt::Display for Place {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let (file, n) = (self.file.display(), self.line);
        match self.unit {
            Unit::Line => write!(f, "{file}:{n}"),
            Unit::Record => write!(f, "{file}, record {n}"),
            Unit::Row => write!(f, "{file}, row {n}"),
        }
    }
}

/// (x, y^w, y^l): a prompt, the reply people preferred and the other one.
///
/// In HH-RLHF's form the prompt ends with `"\n\nAssistant:"` and a reply starts with the blank that follows it,
/// so that prompt + reply is the published text, byte for byte.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct TextPair {
    /// x.
    pub prompt: String,
    /// y^w.
    pub chosen: String,
    /// y^l.
    pub rejected: String,
    /// The prompt of the rejected text where it is another one: [`Rule::DivergingHistories`].
    pub rejected_prompt: Option<String>,
    /// Whether a tokenizer's own chat template wrote the prompt: nothing is then put in front of it.
    pub templated: bool,
    /// Where it was read.
    pub place: Place,
}

/// (x, y, label): a prompt, a reply, and whether people wanted it: what KTO and other unpaired losses learn from
/// ([`rto::objective::UnpairedLoss`]).
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct LabelledText {
    /// x.
    pub prompt: String,
    /// y.
    pub completion: String,
    /// Whether it is desirable.
    pub desirable: bool,
    /// As [`TextPair::templated`].
    pub templated: bool,
    /// Where it was read.
    pub place: Place,
}

/// x alone.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Prompt {
    /// x.
    pub text: String,
    /// As [`TextPair::templated`].
    pub templated: bool,
    /// Where it was read.
    pub place: Place,
}

/// Something with a prompt, which is what splits look at.
pub trait HasPrompt {
    /// x.
    fn prompt(&self) -> &str;
}

impl HasPrompt for TextPair {
    fn prompt(&self) -> &str {
        &self.prompt
    }
}

impl HasPrompt for LabelledText {
    fn prompt(&self) -> &str {
        &self.prompt
    }
}

impl HasPrompt for Prompt {
    fn prompt(&self) -> &str {
        &self.text
    }
}

/// An error at a line of a file.
fn at(place: &Place, why: impl Into<String>) -> crate::Error {
    in_place(place.to_string(), why)
}

/// An error of a whole file.
fn in_file(file: &Path, why: impl Into<String>) -> crate::Error {
    in_place(file.display().to_string(), why)
}

fn in_place(place: String, why: impl Into<String>) -> crate::Error {
    crate::Error::Data {
        place,
        why: why.into(),
    }
}
