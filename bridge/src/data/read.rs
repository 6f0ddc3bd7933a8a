//! Files as pairs or prompts.

use std::path::Path;

use super::lines::{Record, for_each_record};
use super::record::{layout_of, pair, prompt};
use super::{ChatTemplate, Pair, Place, Prompt, in_file};
use crate::{Error, Result};

/// How a record holds its pair.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Layout {
    /// Two whole dialogues as texts, cut at the last `"\n\nAssistant:"`: HH-RLHF as published.
    Dialogues,
    /// A prompt (text or messages) and two replies as texts.
    PromptPairs,
    /// Two lists of `{"role", "content"}`, after a common prompt list if there is such a column.
    Conversations,
}

/// Column names.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Columns {
    /// x; default `prompt`.
    pub prompt: String,
    /// The preferred text; default `chosen`.
    pub chosen: String,
    /// The other text; default `rejected`.
    pub rejected: String,
}

impl Default for Columns {
    fn default() -> Self {
        Self {
            prompt: "prompt".into(),
            chosen: "chosen".into(),
            rejected: "rejected".into(),
        }
    }
}

/// How files are read.
#[derive(Debug, Clone, Default)]
pub struct ReadOptions {
    /// Column names.
    pub columns: Columns,
    /// `None` looks at the first record of each file.
    pub layout: Option<Layout>,
    /// How conversations become text.
    pub template: ChatTemplate,
}

/// The pairs of some files, in order, defects and all.
///
/// # Errors
/// [`Error::Data`] naming file and line: a file that cannot be read, malformed JSON, text that is not UTF-8, a gzip stream
/// cut off, a missing column (with the columns found), a column of another type, files without a single record.
pub fn read_pairs<P: AsRef<Path>>(paths: &[P], options: &ReadOptions) -> Result<Vec<Pair>> {
    read(paths, |record, layout, place| {
        let columns = &options.columns;
        let layout = *layout
            .get_or_insert_with(|| options.layout.unwrap_or_else(|| layout_of(record, columns)));
        pair(record, layout, columns, &options.template, place)
    })
}

/// The prompts of some files, in order: a prompt column, or the prompts of preference records.
///
/// # Errors
/// Those of [`read_pairs`].
pub fn read_prompts<P: AsRef<Path>>(paths: &[P], options: &ReadOptions) -> Result<Vec<Prompt>> {
    read(paths, |record, _, place| {
        prompt(record, &options.columns, &options.template, place)
    })
}

fn read<P: AsRef<Path>, T>(
    paths: &[P],
    mut convert: impl FnMut(&Record, &mut Option<Layout>, Place) -> Result<T>,
) -> Result<Vec<T>> {
    let mut items = Vec::new();
    for path in paths {
        let before = items.len();
        let mut layout = None;
        for_each_record(path.as_ref(), &mut |place, record| {
            items.push(convert(&record, &mut layout, place)?);
            Ok(())
        })?;
        if items.len() == before {
            let why = "holds no record: an empty dataset";
            return Err(in_file(path.as_ref(), why));
        }
    }
    if items.is_empty() {
        return Err(Error::Data {
            place: "dataset".into(),
            why: "no file given".into(),
        });
    }
    Ok(items)
}
