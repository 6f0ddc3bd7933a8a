//! Parquet files, row by row.

use std::fs::File;
use std::path::Path;
use std::sync::Arc;

use parquet::file::reader::{FileReader, SerializedFileReader};
use parquet::record::Field;

use super::lines::Found;
use super::open::LONGEST;
use super::value::Value;
use super::{Place, Unit, at, in_file};
use crate::{Result, guard};

/// Calls `visit` with every row of a file, in order.
pub(super) fn for_each_row(
    path: &Path,
    file: File,
    visit: &mut dyn FnMut(Place, Found) -> Result<()>,
) -> Result<()> {
    let damaged = |why: String| in_file(path, format!("as Parquet: {}", first_line(&why)));
    let open = || SerializedFileReader::new(file).map_err(|e| e.to_string());
    let reader = guard::catch(open).and_then(|r| r).map_err(damaged)?;
    check_sizes(path, &reader)?;
    let name: Arc<Path> = path.into();
    let rows = guard::catch(|| reader.get_row_iter(None).map_err(|e| e.to_string()));
    let mut rows = rows.and_then(|r| r).map_err(damaged)?;
    for line in 1.. {
        let place = Place {
            file: name.clone(),
            line,
            unit: Unit::Row,
        };
        let wrong = |why: String| at(&place, format!("as Parquet: {}", first_line(&why)));
        // The library's record reader may panic on what a damaged page holds.
        let row = guard::catch(|| rows.next().transpose().map_err(|e| e.to_string()));
        let Some(row) = row.and_then(|r| r).map_err(wrong)? else {
            break;
        };
        let column = |(name, field): (&String, &Field)| (name.clone(), value(field));
        let record = row.get_column_iter().map(column).collect();
        visit(place, Ok(record))?;
    }
    Ok(())
}

/// Refuses a file whose pages unfold into more than a record may hold, before they are unfolded.
fn check_sizes(path: &Path, reader: &SerializedFileReader<File>) -> Result<()> {
    for group in reader.metadata().row_groups() {
        for column in group.columns() {
            let (packed, whole) = (column.compressed_size(), column.uncompressed_size());
            let place = column.column_path().string();
            if packed < 0 || whole < 0 {
                let why = format!(
                    "as Parquet: column {place:?} says it has {packed} bytes, {whole} unpacked"
                );
                return Err(in_file(path, why));
            }
            // Text packs by less than a hundred; a chunk of columns that unfolds further and is large is no data.
            if whole as u64 > LONGEST as u64 && whole as u64 / 200 > packed as u64 {
                let why = format!(
                    "as Parquet: column {place:?} unfolds from {packed} to {whole} bytes, more than data do"
                );
                return Err(in_file(path, why));
            }
        }
    }
    Ok(())
}

fn first_line(text: &str) -> &str {
    text.lines().next().unwrap_or("unknown")
}

/// The JSON value of a field. Columns that are no text, list or group are never read as data; they keep their
/// printed form for messages.
fn value(field: &Field) -> Value {
    match field {
        Field::Null => Value::Null,
        Field::Bool(b) => Value::Bool(*b),
        Field::Byte(i) => Value::Number((*i).into()),
        Field::Short(i) => Value::Number((*i).into()),
        Field::Int(i) => Value::Number((*i).into()),
        Field::Long(i) => Value::Number((*i).into()),
        Field::Str(s) => Value::String(s.clone()),
        // Writers that do not annotate a text column leave bytes.
        Field::Bytes(b) => match b.as_utf8() {
            Ok(text) => Value::String(text.into()),
            Err(_) => Value::Null,
        },
        Field::Group(row) => {
            let column = |(name, field): (&String, &Field)| (name.clone(), value(field));
            Value::Object(row.get_column_iter().map(column).collect())
        }
        Field::ListInternal(list) => Value::Array(list.elements().iter().map(value).collect()),
        other => Value::String(other.to_string()),
    }
}
