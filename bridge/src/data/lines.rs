//! Files of one JSON object per line, plain or compressed.

use std::fs::File;
use std::io::{BufRead, BufReader, ErrorKind, Read};
use std::path::Path;
use std::sync::Arc;

use flate2::read::MultiGzDecoder;
use serde_json::{Map, Value};

use super::{Place, at, in_file};
use crate::Result;

/// The columns of one record.
pub(super) type Record = Map<String, Value>;

/// What a file holds, by its first bytes (names lie).
#[derive(Clone, Copy, PartialEq, Eq)]
enum Kind {
    Text,
    Gzip,
    Parquet,
}

/// Calls `visit` with every record of a file, in order.
pub(super) fn for_each_record(
    path: &Path,
    visit: &mut dyn FnMut(Place, Record) -> Result<()>,
) -> Result<()> {
    if path.is_dir() {
        return Err(in_file(path, "is a directory, expected a file"));
    }
    let file = File::open(path).map_err(|e| match e.kind() {
        ErrorKind::NotFound => in_file(path, "no such file"),
        _ => in_file(path, format!("cannot read: {e}")),
    })?;
    let mut reader = BufReader::new(file);
    match kind(path, &mut reader)? {
        Kind::Text => text_records(path, reader, visit),
        Kind::Gzip => text_records(path, BufReader::new(MultiGzDecoder::new(reader)), visit),
        Kind::Parquet => parquet_records(path, reader.into_inner(), visit),
    }
}

fn kind(path: &Path, reader: &mut BufReader<File>) -> Result<Kind> {
    let start = reader
        .fill_buf()
        .map_err(|e| in_file(path, format!("cannot read: {e}")))?;
    Ok(match start {
        [0x1f, 0x8b, ..] => Kind::Gzip,
        [b'P', b'A', b'R', b'1', ..] => Kind::Parquet,
        _ => Kind::Text,
    })
}

#[cfg(feature = "parquet")]
fn parquet_records(
    path: &Path,
    file: File,
    visit: &mut dyn FnMut(Place, Record) -> Result<()>,
) -> Result<()> {
    super::parquet::for_each_row(path, file, visit)
}

#[cfg(not(feature = "parquet"))]
fn parquet_records(
    path: &Path,
    _: File,
    _: &mut dyn FnMut(Place, Record) -> Result<()>,
) -> Result<()> {
    let why = "is a Parquet file, and this build cannot read one; build with --features parquet";
    Err(in_file(path, why))
}

fn text_records(
    path: &Path,
    mut reader: impl BufRead,
    visit: &mut dyn FnMut(Place, Record) -> Result<()>,
) -> Result<()> {
    let file: Arc<Path> = path.into();
    let mut bytes = Vec::new();
    for line in 1.. {
        let place = Place {
            file: file.clone(),
            line,
        };
        bytes.clear();
        let n = read_line(&mut reader, &mut bytes).map_err(|e| at(&place, e))?;
        if n == 0 {
            return Ok(());
        }
        let text = std::str::from_utf8(&bytes).map_err(|_| at(&place, "not valid UTF-8 text"))?;
        let text = match line {
            1 => text.trim_start_matches('\u{feff}').trim(),
            _ => text.trim(),
        };
        if !text.is_empty() {
            let record = parse(&place, text)?;
            visit(place, record)?;
        }
    }
    Ok(())
}

fn read_line(reader: &mut impl BufRead, bytes: &mut Vec<u8>) -> std::result::Result<usize, String> {
    // A lone line of many gigabytes is no record; the limit keeps a wrong file from filling memory.
    const LONGEST: u64 = 1 << 28;
    let n = reader
        .take(LONGEST)
        .read_until(b'\n', bytes)
        .map_err(|e| match e.kind() {
            ErrorKind::UnexpectedEof => {
                "the gzip stream stops before its end (was the download cut off?)".into()
            }
            ErrorKind::InvalidInput | ErrorKind::InvalidData => {
                format!("the gzip stream is damaged: {e}")
            }
            _ => format!("cannot read: {e}"),
        })?;
    if n as u64 == LONGEST {
        return Err("a line of more than 256 MiB, expected one JSON object per line".into());
    }
    Ok(n)
}

fn parse(place: &Place, text: &str) -> Result<Record> {
    match serde_json::from_str(text) {
        Ok(Value::Object(record)) => Ok(record),
        Ok(other) => {
            let found = super::record::kind_of(&other);
            let why = format!("found {found}, expected one JSON object per line");
            Err(at(place, why))
        }
        Err(e) => {
            // serde_json ends its message with a position whose line is always 1 here.
            let message = e.to_string();
            let what = message.split(" at line ").next().unwrap_or(&message);
            let why = format!("malformed JSON: {what} at column {}", e.column());
            Err(at(place, why))
        }
    }
}
