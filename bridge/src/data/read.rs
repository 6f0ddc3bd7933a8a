//! Files as pairs, labelled replies or prompts.

use std::fmt;
use std::path::Path;

use super::lines::{Found, for_each_record};
use super::record::{Reading, Side, layout_of, names};
use super::value::Record;
use super::{ChatTemplate, LabelledText, Place, Prompt, TextPair, at, in_file};
use crate::{Error, Result};

/// How a record holds its pair.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Layout {
    /// Two whole dialogues as texts, cut at the last `"\n\nAssistant:"`: HH-RLHF as published.
    Dialogues,
    /// A prompt (text or messages) and two replies as texts. With a list of messages, or a column of system messages, what is read is
    /// a conversation.
    PromptPairs,
    /// Two lists of `{"role", "content"}` (or one message each) after what the prompt column holds. Messages of the prompt that the
    /// lists hold too count once; a prompt column of text beside lists with a turn of the user, as in UltraFeedback, is not read.
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
    /// What stands in front as a system message, where there is such a column; default `system`, and none where empty.
    pub system: String,
    /// The reply of unpaired data; default `completion`.
    pub completion: String,
    /// Whether that reply is wanted; default `label`.
    pub label: String,
}

impl Default for Columns {
    fn default() -> Self {
        Self {
            prompt: "prompt".into(),
            chosen: "chosen".into(),
            rejected: "rejected".into(),
            system: "system".into(),
            completion: "completion".into(),
            label: "label".into(),
        }
    }
}

impl Columns {
    /// What a record without the columns should have had, and how others are named.
    pub(super) fn advice(&self) -> String {
        format!(
            "; expected {}, {} and {}, or name others (--prompt-column, --chosen-column, --rejected-column)",
            self.prompt, self.chosen, self.rejected
        )
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
    /// How many records of all files together may be unreadable (malformed, without a column, of another type) and are passed over.
    pub max_bad_lines: usize,
}

/// What a user should know about what was read. Prints one line each.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct ReadReport {
    /// Why each record that was passed over is unreadable.
    pub bad: Vec<String>,
    /// What the layout made of the columns.
    pub notes: Vec<String>,
}

impl fmt::Display for ReadReport {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        /// The rest are counted.
        const SHOWN: usize = 5;
        for note in &self.notes {
            writeln!(f, "{note}")?;
        }
        for why in self.bad.iter().take(SHOWN) {
            writeln!(f, "passed over {why}")?;
        }
        match self.bad.len() {
            n if n > SHOWN => writeln!(f, "passed over {n} unreadable records in all"),
            _ => Ok(()),
        }
    }
}

/// The pairs of some files, in order, defects and all.
///
/// # Errors
/// [`Error::Data`] naming file and line: a file that cannot be read, more than `max_bad_lines` records that are malformed JSON, not
/// UTF-8, without a column (with the columns found) or with a column of another type, a compressed stream cut off, files without a
/// single record.
pub fn read_pairs<P: AsRef<Path>>(paths: &[P], options: &ReadOptions) -> Result<Vec<TextPair>> {
    Ok(read_pairs_with_report(paths, options)?.0)
}

/// [`read_pairs`], and what to say about it.
///
/// # Errors
/// Those of [`read_pairs`].
pub fn read_pairs_with_report<P: AsRef<Path>>(
    paths: &[P],
    options: &ReadOptions,
) -> Result<(Vec<TextPair>, ReadReport)> {
    let mut report = ReadReport::default();
    let mut pairs = Vec::new();
    let columns = &options.columns;
    for path in paths {
        let path = path.as_ref();
        let mut layout = None;
        let mut file = OfFile::default();
        let sides = records(path, options, &mut report, |record, place| {
            if !record.contains_key(&columns.chosen) && record.contains_key(&columns.label) {
                let why = format!(
                    "unpaired data ({}): expected pairs ({} and {}); read_labelled reads these",
                    names(record),
                    columns.chosen,
                    columns.rejected
                );
                return Err(at(place, why));
            }
            let layout = *layout.get_or_insert_with(|| {
                let found = || layout_of(record, columns, &columns.chosen);
                options.layout.unwrap_or_else(found)
            });
            let sides = reading(options, layout).pair(record, place)?;
            file.note(&sides, record, options);
            Ok(sides)
        })?;
        let first = sides.first().map(|(place, _)| place.clone());
        if let (Some(Layout::Dialogues), Some(first), false) = (layout, &first, file.answers) {
            let why = format!(
                "no column {:?}, and no text of {:?} has a turn \"\\n\\nAssistant:\" to cut at; the columns found are {}{}",
                columns.prompt,
                columns.chosen,
                file.columns,
                columns.advice()
            );
            return Err(at(first, why));
        }
        let repeated = 2 * file.repeats > sides.len();
        file.report(path, sides.len(), repeated, options, &mut report);
        pairs.extend(
            sides
                .into_iter()
                .map(|(place, sides)| joined(sides, place, repeated)),
        );
    }
    some(paths, pairs.is_empty())?;
    Ok((pairs, report))
}

/// The labelled replies of some files, in order: a completion with a label, or each side of a pair.
///
/// # Errors
/// Those of [`read_pairs`].
pub fn read_labelled<P: AsRef<Path>>(
    paths: &[P],
    options: &ReadOptions,
) -> Result<(Vec<LabelledText>, ReadReport)> {
    let mut report = ReadReport::default();
    let mut items = Vec::new();
    let columns = &options.columns;
    for path in paths {
        let path = path.as_ref();
        if is_paired(path, options)? {
            let (pairs, more) = read_pairs_with_report(&[path], options)?;
            report.bad.extend(more.bad);
            report.notes.extend(more.notes);
            for pair in pairs {
                let labelled = |prompt, completion, desirable| LabelledText {
                    prompt,
                    completion,
                    desirable,
                    templated: pair.templated,
                    place: pair.place.clone(),
                };
                let other = pair.rejected_prompt.unwrap_or_else(|| pair.prompt.clone());
                items.push(labelled(pair.prompt, pair.chosen, true));
                items.push(labelled(other, pair.rejected, false));
            }
            continue;
        }
        let mut layout = None;
        let read = records(path, options, &mut report, |record, place| {
            let layout = *layout.get_or_insert_with(|| {
                let found = || layout_of(record, columns, &columns.completion);
                options.layout.unwrap_or_else(found)
            });
            let reading = reading(options, layout);
            let side = reading.side(record, &columns.completion, place)?;
            Ok((side, reading.label(record, place)?))
        })?;
        items.extend(
            read.into_iter()
                .map(|(place, (side, desirable))| LabelledText {
                    prompt: side.prompt,
                    completion: side.reply,
                    desirable,
                    templated: side.templated,
                    place,
                }),
        );
    }
    some(paths, items.is_empty())?;
    Ok((items, report))
}

/// What people said of replies.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Feedback {
    /// Which of two is better.
    Pairs(Vec<TextPair>),
    /// Whether one is wanted.
    Labels(Vec<LabelledText>),
}

/// Pairs, or labelled replies where the first file has those.
///
/// # Errors
/// Those of [`read_pairs`].
pub fn read_feedback<P: AsRef<Path>>(
    paths: &[P],
    options: &ReadOptions,
) -> Result<(Feedback, ReadReport)> {
    let first = paths
        .first()
        .map(|path| is_labelled(path.as_ref(), options));
    match first.transpose()? {
        Some(true) => read_labelled(paths, options).map(|(all, r)| (Feedback::Labels(all), r)),
        _ => read_pairs_with_report(paths, options).map(|(all, r)| (Feedback::Pairs(all), r)),
    }
}

/// The prompts of some files, in order: a prompt column, or the prompts of preference records.
///
/// # Errors
/// Those of [`read_pairs`].
pub fn read_prompts<P: AsRef<Path>>(paths: &[P], options: &ReadOptions) -> Result<Vec<Prompt>> {
    let mut report = ReadReport::default();
    let mut prompts = Vec::new();
    for path in paths {
        let read = records(path.as_ref(), options, &mut report, |record, place| {
            let layout = layout_of(record, &options.columns, &options.columns.chosen);
            reading(options, layout).prompt(record, place.clone())
        })?;
        prompts.extend(read.into_iter().map(|(_, prompt)| prompt));
    }
    some(paths, prompts.is_empty())?;
    Ok(prompts)
}

fn reading(options: &ReadOptions, layout: Layout) -> Reading<'_> {
    Reading {
        columns: &options.columns,
        template: &options.template,
        layout,
    }
}

/// Whether the first readable record of a file is a pair.
fn is_paired(path: &Path, options: &ReadOptions) -> Result<bool> {
    first_record(path, |record| record.contains_key(&options.columns.chosen))
}

/// Whether the first readable record of a file is a labelled reply.
fn is_labelled(path: &Path, options: &ReadOptions) -> Result<bool> {
    let Columns { chosen, label, .. } = &options.columns;
    first_record(path, |r| r.contains_key(label) && !r.contains_key(chosen))
}

/// What is true of the first readable record of a file; nothing is where there is none.
fn first_record(path: &Path, is: impl Fn(&Record) -> bool) -> Result<bool> {
    let mut found = None;
    let stop = || in_file(path, "");
    let end = for_each_record(path, &mut |_, record: Found| {
        let Ok(record) = record else { return Ok(()) };
        found = Some(is(&record));
        Err(stop())
    });
    match found {
        Some(found) => Ok(found),
        None => end.map(|()| false),
    }
}

/// What `convert` makes of each record; those it refuses are counted, and are an error from the first one too many on.
fn records<T>(
    path: &Path,
    options: &ReadOptions,
    report: &mut ReadReport,
    mut convert: impl FnMut(&Record, &Place) -> Result<T>,
) -> Result<Vec<(Place, T)>> {
    let mut items = Vec::new();
    let before = report.bad.len();
    for_each_record(path, &mut |place, found| {
        let read = found
            .map_err(|why| at(&place, why))
            .and_then(|record| convert(&record, &place));
        match read {
            Ok(item) => items.push((place, item)),
            Err(why) => {
                report.bad.push(why.to_string());
                if report.bad.len() > options.max_bad_lines {
                    return Err(too_many(why, report.bad.len(), options.max_bad_lines));
                }
            }
        }
        Ok(())
    })?;
    match (items.is_empty(), report.bad.get(before)) {
        (true, Some(first)) => Err(in_file(
            path,
            format!("no record can be read; the first: {first}"),
        )),
        (true, None) => Err(in_file(path, "holds no record: an empty dataset")),
        _ => Ok(items),
    }
}

/// The record that was one too many, and how more would be allowed.
fn too_many(why: Error, bad: usize, allowed: usize) -> Error {
    let Error::Data { place, why } = why else {
        return why;
    };
    let counted = match allowed {
        0 => String::new(),
        _ => format!("{bad} unreadable records, more than {allowed}; the last: "),
    };
    let why =
        format!("{counted}{why} (max_bad_lines allows so many unreadable records: {allowed})");
    Error::Data { place, why }
}

fn some<P>(paths: &[P], empty: bool) -> Result<()> {
    match empty {
        false => Ok(()),
        true => Err(Error::Data {
            place: "dataset".into(),
            why: match paths.is_empty() {
                true => "no file given".into(),
                false => "holds no record".into(),
            },
        }),
    }
}

/// What all records of a file say together.
#[derive(Default)]
struct OfFile {
    answers: bool,
    repeats: usize,
    unsaid: usize,
    system: bool,
    columns: String,
}

impl OfFile {
    fn note(&mut self, sides: &[Side; 2], record: &Record, options: &ReadOptions) {
        if self.columns.is_empty() {
            self.columns = names(record);
        }
        self.answers |= sides.iter().any(|s| s.answers);
        self.repeats += usize::from(sides.iter().all(|s| s.repeats_prompt.is_some()));
        self.unsaid += usize::from(sides.iter().any(|s| s.prompt_unsaid));
        let system = &options.columns.system;
        self.system |= !system.is_empty() && record.contains_key(system);
    }

    fn report(
        &self,
        path: &Path,
        n: usize,
        repeated: bool,
        options: &ReadOptions,
        report: &mut ReadReport,
    ) {
        let mut say = |what: String| report.notes.push(format!("{}: {what}", path.display()));
        let Columns { prompt, system, .. } = &options.columns;
        if repeated {
            let m = self.repeats;
            say(format!(
                "{m} of {n} pairs of replies begin with the text of column {prompt:?}, which counts once"
            ));
        }
        if self.unsaid > 0 {
            let m = self.unsaid;
            say(format!(
                "column {prompt:?} of {m} of {n} records says what no message of the conversation does; it is not read"
            ));
        }
        if self.system {
            say(format!(
                "column {system:?} stands in front as a system message"
            ));
        }
    }
}

/// Both sides as a pair; a prompt that both replies of most records begin with is cut off.
fn joined([chosen, rejected]: [Side; 2], place: Place, repeated: bool) -> TextPair {
    let both = chosen.repeats_prompt.zip(rejected.repeats_prompt);
    let cut = both.filter(|_| repeated).unwrap_or_default();
    let rejected_prompt = (rejected.prompt != chosen.prompt).then_some(rejected.prompt);
    TextPair {
        templated: chosen.templated,
        prompt: chosen.prompt,
        chosen: chosen.reply[cut.0..].into(),
        rejected: rejected.reply[cut.1..].into(),
        rejected_prompt,
        place,
    }
}
