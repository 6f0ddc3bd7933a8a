//! Records of a file: one JSON object per line, an array of objects, or the rows of a table.

use std::io::{BufRead, ErrorKind};
use std::path::Path;
use std::sync::Arc;

use super::open::{LONGEST, Source, open};
use super::value::{Record, Value};
use super::{Place, Unit, at, in_file};
use crate::Result;
use crate::json::{self, NotFinite};

/// A record, or why there is none where one should be.
pub(super) type Found = std::result::Result<Record, String>;

/// Calls `visit` with every record of a file, in order. What spoils one record alone is its visitor's affair; what spoils the file is
/// an error.
pub(super) fn for_each_record(
    path: &Path,
    visit: &mut dyn FnMut(Place, Found) -> Result<()>,
) -> Result<()> {
    match open(path)? {
        Source::Text(reader, packing) => Text::new(path, reader, packing).records(visit),
        Source::Parquet(file) => parquet_records(path, file, visit),
    }
}

#[cfg(feature = "parquet")]
fn parquet_records(
    path: &Path,
    file: std::fs::File,
    visit: &mut dyn FnMut(Place, Found) -> Result<()>,
) -> Result<()> {
    super::parquet::for_each_row(path, file, visit)
}

#[cfg(not(feature = "parquet"))]
fn parquet_records(
    path: &Path,
    _: std::fs::File,
    _: &mut dyn FnMut(Place, Found) -> Result<()>,
) -> Result<()> {
    let why = "is a Parquet file, and this build cannot read one; build with --features parquet";
    Err(in_file(path, why))
}

/// Text under way.
struct Text {
    file: Arc<Path>,
    reader: Box<dyn BufRead>,
    packing: Option<&'static str>,
    bytes: Vec<u8>,
}

impl Text {
    fn new(path: &Path, reader: Box<dyn BufRead>, packing: Option<&'static str>) -> Self {
        Self {
            file: path.into(),
            reader,
            packing,
            bytes: Vec::new(),
        }
    }

    fn records(mut self, visit: &mut dyn FnMut(Place, Found) -> Result<()>) -> Result<()> {
        let mut place = Place {
            file: self.file.clone(),
            line: 1,
            unit: Unit::Line,
        };
        if self.begins_array(&mut place)? {
            return self.array(visit);
        }
        let mut first = true;
        while self.line(&place)? {
            let text = self.bytes.trim_ascii();
            if first && text == b"{" {
                let why = "an object over several lines, expected one JSON object per line (as jq -c . writes them) or an array of objects";
                return Err(at(&place, why));
            }
            if !text.is_empty() {
                first = false;
                visit(place.clone(), record(text))?;
            }
            place.line += 1;
        }
        Ok(())
    }

    /// Passes over blanks, and a byte-order mark; whether what follows is a bracket, which is passed over too.
    fn begins_array(&mut self, place: &mut Place) -> Result<bool> {
        let mut mark = b"\xef\xbb\xbf".iter();
        loop {
            let part = fill(&mut self.reader, self.packing).map_err(|e| at(place, e))?;
            let Some(byte) = part.first().copied() else {
                return Ok(false);
            };
            let blank = byte.is_ascii_whitespace() || mark.next() == Some(&byte);
            if blank || byte == b'[' {
                self.reader.consume(1);
            }
            place.line += usize::from(byte == b'\n');
            if !blank {
                return Ok(byte == b'[');
            }
        }
    }

    /// The next line in `bytes`; false at the end of the file.
    fn line(&mut self, place: &Place) -> Result<bool> {
        self.bytes.clear();
        loop {
            let part = fill(&mut self.reader, self.packing).map_err(|e| at(place, e))?;
            let end = part.iter().position(|b| *b == b'\n');
            let used = end.map_or(part.len(), |end| end + 1);
            self.bytes.extend_from_slice(&part[..used]);
            self.reader.consume(used);
            if self.bytes.len() > LONGEST {
                return Err(at(
                    place,
                    "a line of more than 256 MiB, expected one JSON object per line",
                ));
            }
            if end.is_some() || used == 0 {
                return Ok(!self.bytes.is_empty());
            }
        }
    }

    /// The elements of an array whose bracket was read.
    fn array(mut self, visit: &mut dyn FnMut(Place, Found) -> Result<()>) -> Result<()> {
        let mut place = Place {
            file: self.file.clone(),
            line: 1,
            unit: Unit::Record,
        };
        let mut cutter = Cutter::default();
        let mut take = |part: &[u8]| -> Result<()> {
            for &byte in part {
                match cutter.push(byte) {
                    Cut::Inside => {}
                    Cut::Element { last } => {
                        let text = cutter.element.trim_ascii();
                        if !(last && text.is_empty() && place.line == 1) {
                            visit(place.clone(), record(text))?;
                        }
                        cutter.element.clear();
                        place.line += 1;
                    }
                    Cut::TooLong => {
                        return Err(at(
                            &place,
                            "is longer than 256 MiB, expected a record of some kilobytes",
                        ));
                    }
                    Cut::After => {
                        let why = "something follows the array of records; expected one array, or one JSON object per line";
                        return Err(in_file(&place.file, why));
                    }
                }
            }
            Ok(())
        };
        loop {
            let part = fill(&mut self.reader, self.packing).map_err(|e| in_file(&self.file, e))?;
            if part.is_empty() {
                break;
            }
            take(part)?;
            let used = part.len();
            self.reader.consume(used);
        }
        match cutter.done {
            true => Ok(()),
            false => Err(in_file(
                &self.file,
                "the array of records has no end: a closing bracket is missing (was the file cut off?)",
            )),
        }
    }
}

/// Cuts the elements of an array at its own commas.
#[derive(Default)]
struct Cutter {
    element: Vec<u8>,
    depth: usize,
    quoted: bool,
    escaped: bool,
    done: bool,
}

enum Cut {
    Inside,
    Element { last: bool },
    TooLong,
    After,
}

impl Cutter {
    fn push(&mut self, byte: u8) -> Cut {
        if self.done {
            return match byte.is_ascii_whitespace() {
                true => Cut::Inside,
                false => Cut::After,
            };
        }
        if self.escaped {
            self.escaped = false;
        } else if self.quoted {
            match byte {
                b'\\' => self.escaped = true,
                b'"' => self.quoted = false,
                _ => {}
            }
        } else {
            match byte {
                b'"' => self.quoted = true,
                b'{' | b'[' => self.depth += 1,
                b',' if self.depth == 0 => return Cut::Element { last: false },
                b']' if self.depth == 0 => {
                    self.done = true;
                    return Cut::Element { last: true };
                }
                b'}' | b']' => self.depth = self.depth.saturating_sub(1),
                _ => {}
            }
        }
        self.element.push(byte);
        match self.element.len() > LONGEST {
            true => Cut::TooLong,
            false => Cut::Inside,
        }
    }
}

fn fill<'a>(
    reader: &'a mut Box<dyn BufRead>,
    packing: Option<&str>,
) -> std::result::Result<&'a [u8], String> {
    loop {
        // Asked twice, because a slice that is returned in a loop is borrowed for all of it.
        match reader.fill_buf() {
            Ok(_) => break,
            Err(e) if e.kind() == ErrorKind::Interrupted => {}
            Err(e) => {
                return Err(match (packing, e.kind()) {
                    (Some(name), ErrorKind::UnexpectedEof) => {
                        format!(
                            "the {name} stream stops before its end (was the download cut off?)"
                        )
                    }
                    (Some(name), ErrorKind::FileTooLarge) => format!("the {name} stream {e}"),
                    (Some(name), _) => format!("the {name} stream is damaged: {e}"),
                    (None, _) => format!("cannot read: {e}"),
                });
            }
        }
    }
    reader.fill_buf().map_err(|e| format!("cannot read: {e}"))
}

/// A text as a record.
fn record(text: &[u8]) -> Found {
    if std::str::from_utf8(text).is_err() {
        return Err("not valid UTF-8 text".into());
    }
    match json::parse(text, NotFinite::Missing) {
        Ok(Value::Object(record)) => Ok(record),
        Ok(other) => {
            let found = super::record::kind_of(&other);
            Err(format!("found {found}, expected one JSON object per line"))
        }
        Err(e) => {
            // serde_json ends its message with a position whose line is always 1 here.
            let message = e.to_string();
            let what = message.split(" at line ").next().unwrap_or(&message);
            Err(format!("malformed JSON: {what} at column {}", e.column()))
        }
    }
}
