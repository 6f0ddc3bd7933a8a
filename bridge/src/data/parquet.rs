//! Parquet files, row by row.

use std::fs::File;
use std::path::Path;
use std::sync::Arc;

use parquet::file::reader::{FileReader, SerializedFileReader};
use parquet::record::Field;
use serde_json::Value;

use super::lines::Record;
use super::{Place, at, in_file};
use crate::Result;

/// Calls `visit` with every row of a file, in order.
pub(super) fn for_each_row(
    path: &Path,
    file: File,
    visit: &mut dyn FnMut(Place, Record) -> Result<()>,
) -> Result<()> {
    let damaged = |e: parquet::errors::ParquetError| in_file(path, format!("as Parquet: {e}"));
    let reader = SerializedFileReader::new(file).map_err(damaged)?;
    let name: Arc<Path> = path.into();
    let rows = reader.get_row_iter(None).map_err(damaged)?;
    for (row, line) in rows.zip(1..) {
        let place = Place {
            file: name.clone(),
            line,
        };
        let row = row.map_err(|e| at(&place, format!("as Parquet: {e}")))?;
        let column = |(name, field): (&String, &Field)| (name.clone(), value(field));
        let record = row.get_column_iter().map(column).collect();
        visit(place, record)?;
    }
    Ok(())
}

/// The JSON value of a field. Columns that are no text, list or group are never read as data; they keep their
/// printed form for messages.
fn value(field: &Field) -> Value {
    match field {
        Field::Null => Value::Null,
        Field::Bool(b) => Value::Bool(*b),
        Field::Int(i) => Value::from(*i),
        Field::Long(i) => Value::from(*i),
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
        Field::ListInternal(list) => list.elements().iter().map(value).collect(),
        other => Value::String(other.to_string()),
    }
}
