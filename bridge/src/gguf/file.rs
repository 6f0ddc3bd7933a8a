//! The container: a header of typed key–value pairs and a table of tensors, then their data.
//!
//! Every length is checked against the bytes that are there before anything is allocated for it.

use crate::files::stray;
use crate::{Error, Result};
use std::collections::BTreeMap;
use std::path::Path;

/// A value of the header.
#[derive(Debug, Clone, PartialEq)]
pub(super) enum Value {
    /// Whole numbers of any width.
    Int(i128),
    Float(f64),
    Bool(bool),
    Text(String),
    List(Vec<Value>),
}

impl Value {
    fn text(&self) -> Option<&str> {
        match self {
            Self::Text(text) => Some(text),
            _ => None,
        }
    }
}

/// A row of the table of tensors.
#[derive(Debug, Clone)]
pub(super) struct Entry {
    /// The shape in Hugging Face's order, rows first.
    pub shape: Vec<usize>,
    pub kind: u32,
    /// Bytes from the start of the data.
    pub offset: usize,
}

/// A parsed header over the bytes of a file.
pub(super) struct File<'a> {
    path: &'a Path,
    pub values: BTreeMap<String, Value>,
    pub tensors: BTreeMap<String, Entry>,
    data: &'a [u8],
}

const MAGIC: &[u8; 4] = b"GGUF";
/// Nested lists are nowhere used; a file that nests deeper is damaged.
const DEEPEST: usize = 2;

struct Reader<'a> {
    path: &'a Path,
    bytes: &'a [u8],
    at: usize,
}

impl<'a> Reader<'a> {
    fn fail<T>(&self, what: impl std::fmt::Display) -> Result<T> {
        Err(Error::file(
            self.path,
            format!("not a complete GGUF file: {what}"),
        ))
    }

    fn take(&mut self, n: usize) -> Result<&'a [u8]> {
        match self
            .at
            .checked_add(n)
            .and_then(|end| self.bytes.get(self.at..end))
        {
            Some(bytes) => {
                self.at += n;
                Ok(bytes)
            }
            None => self.fail(format!("ends at byte {} of its header", self.bytes.len())),
        }
    }

    fn number<const N: usize>(&mut self) -> Result<[u8; N]> {
        let bytes = self.take(N)?;
        Ok(std::array::from_fn(|i| bytes[i]))
    }

    fn u32(&mut self) -> Result<u32> {
        Ok(u32::from_le_bytes(self.number()?))
    }

    /// A count of things that take at least `size` bytes each.
    fn count(&mut self, size: usize, what: &str) -> Result<usize> {
        let n = u64::from_le_bytes(self.number()?);
        let left = (self.bytes.len() - self.at) as u64;
        if n > left / size as u64 {
            return self.fail(format!("says it has {n} {what}, more than its bytes hold"));
        }
        Ok(n as usize)
    }

    fn text(&mut self) -> Result<String> {
        let n = self.count(1, "letters of a text")?;
        let bytes = self.take(n)?;
        match std::str::from_utf8(bytes) {
            Ok(text) => Ok(text.into()),
            Err(_) => self.fail("a text is not UTF-8"),
        }
    }

    fn value(&mut self, kind: u32, depth: usize) -> Result<Value> {
        Ok(match kind {
            0 => Value::Int(u8::from_le_bytes(self.number()?).into()),
            1 => Value::Int(i8::from_le_bytes(self.number()?).into()),
            2 => Value::Int(u16::from_le_bytes(self.number()?).into()),
            3 => Value::Int(i16::from_le_bytes(self.number()?).into()),
            4 => Value::Int(self.u32()?.into()),
            5 => Value::Int(i32::from_le_bytes(self.number()?).into()),
            6 => Value::Float(decimal(f32::from_le_bytes(self.number()?))),
            7 => Value::Bool(self.take(1)?[0] != 0),
            8 => Value::Text(self.text()?),
            9 if depth < DEEPEST => {
                let kind = self.u32()?;
                // The least that one takes, so that a count beyond the file is seen at once.
                let least = match kind {
                    8 => 8,
                    9 => 12,
                    10..=12 => 8,
                    4..=6 => 4,
                    2 | 3 => 2,
                    _ => 1,
                };
                let n = self.count(least, "values of a list")?;
                let values = (0..n).map(|_| self.value(kind, depth + 1));
                Value::List(values.collect::<Result<_>>()?)
            }
            10 => Value::Int(u64::from_le_bytes(self.number()?).into()),
            11 => Value::Int(i64::from_le_bytes(self.number()?).into()),
            12 => Value::Float(f64::from_le_bytes(self.number()?)),
            other => return self.fail(format!("a value has the unknown type {other}")),
        })
    }
}

/// The number that was meant: 1e-5 is not 0.0000099999997, its nearest `f32`.
fn decimal(value: f32) -> f64 {
    value.to_string().parse().unwrap_or(f64::from(value))
}

impl<'a> File<'a> {
    pub fn parse(path: &'a Path, bytes: &'a [u8]) -> Result<Self> {
        let mut r = Reader { path, bytes, at: 0 };
        let magic = r.take(4)?;
        if magic != MAGIC {
            let why = match stray(bytes) {
                Some(what) => what.to_string(),
                None => format!("begins with {magic:?}, expected a GGUF file"),
            };
            return Err(Error::file(path, why));
        }
        match r.u32()? {
            2 | 3 => {}
            version => {
                return Err(Error::file(
                    path,
                    format!(
                        "GGUF version: found {version}, expected 2 or 3 in little-endian order"
                    ),
                ));
            }
        }
        let tensors = r.count(24, "tensors")?;
        let pairs = r.count(13, "settings")?;
        let mut values = BTreeMap::new();
        for _ in 0..pairs {
            let key = r.text()?;
            let kind = r.u32()?;
            let value = r.value(kind, 0)?;
            values.insert(key, value);
        }
        let mut table = BTreeMap::new();
        for _ in 0..tensors {
            let name = r.text()?;
            let entry = r.entry(&name)?;
            if table.insert(name.clone(), entry).is_some() {
                return Err(Error::file(path, format!("tensor {name}: is there twice")));
            }
        }
        let alignment = match values.get("general.alignment") {
            None => 32,
            Some(Value::Int(n @ 1..=65536)) => *n as usize,
            Some(other) => return r.fail(format!("general.alignment is {other:?}")),
        };
        let start = r.at.next_multiple_of(alignment);
        Ok(Self {
            path,
            values,
            tensors: table,
            data: bytes.get(start..).unwrap_or(&[]),
        })
    }

    /// The bytes of a tensor, `size` of them.
    pub fn bytes(&self, name: &str, entry: &Entry, size: usize) -> Result<&'a [u8]> {
        let end = entry.offset.checked_add(size);
        end.and_then(|end| self.data.get(entry.offset..end))
            .ok_or_else(|| {
                Error::file(
                    self.path,
                    format!(
                        "tensor {name}: needs {size} bytes from {} on, the file has {} of data",
                        entry.offset,
                        self.data.len()
                    ),
                )
            })
    }

    /// A whole number.
    pub fn size(&self, key: &str) -> Result<usize> {
        self.find_size(key)?
            .ok_or_else(|| self.missing(key, "a whole number"))
    }

    /// A whole number, where the key is there.
    pub fn find_size(&self, key: &str) -> Result<Option<usize>> {
        match self.values.get(key) {
            None => Ok(None),
            Some(Value::Int(n @ 0..=0x4000_0000)) => Ok(Some(*n as usize)),
            // Some files have one number a layer; all must agree.
            Some(Value::List(items)) if !items.is_empty() => match items[0] {
                Value::Int(n @ 0..=0x4000_0000) if items.iter().all(|i| *i == items[0]) => {
                    Ok(Some(n as usize))
                }
                _ => Err(self.wrong(key, "one whole number for every layer")),
            },
            Some(_) => Err(self.wrong(key, "a whole number")),
        }
    }

    /// A finite number, where the key is there.
    pub fn find_number(&self, key: &str) -> Result<Option<f64>> {
        match self.values.get(key) {
            None => Ok(None),
            Some(Value::Float(x)) if x.is_finite() => Ok(Some(*x)),
            Some(_) => Err(self.wrong(key, "a finite number")),
        }
    }

    /// A text, where the key is there.
    pub fn find_text(&self, key: &str) -> Result<Option<&str>> {
        match self.values.get(key) {
            None => Ok(None),
            Some(Value::Text(text)) => Ok(Some(text)),
            Some(_) => Err(self.wrong(key, "a text")),
        }
    }

    /// A flag, where the key is there.
    pub fn find_flag(&self, key: &str) -> Result<Option<bool>> {
        match self.values.get(key) {
            None => Ok(None),
            Some(Value::Bool(flag)) => Ok(Some(*flag)),
            Some(_) => Err(self.wrong(key, "true or false")),
        }
    }

    /// A list of texts.
    pub fn texts(&self, key: &str) -> Result<Vec<&str>> {
        let items = match self.values.get(key) {
            Some(Value::List(items)) => items,
            Some(_) => return Err(self.wrong(key, "a list of texts")),
            None => return Err(self.missing(key, "a list of texts")),
        };
        let texts: Option<Vec<&str>> = items.iter().map(Value::text).collect();
        texts.ok_or_else(|| self.wrong(key, "a list of texts"))
    }

    /// A list of numbers, where the key is there.
    pub fn find_numbers(&self, key: &str) -> Result<Option<Vec<f64>>> {
        let number = |value: &Value| match value {
            Value::Int(n) => Some(*n as f64),
            Value::Float(x) => Some(*x),
            _ => None,
        };
        match self.values.get(key) {
            None => Ok(None),
            Some(Value::List(items)) => items
                .iter()
                .map(number)
                .collect::<Option<_>>()
                .map(Some)
                .ok_or_else(|| self.wrong(key, "a list of numbers")),
            Some(_) => Err(self.wrong(key, "a list of numbers")),
        }
    }

    pub fn missing(&self, key: &str, expected: &str) -> Error {
        Error::file(self.path, format!("{key}: not there, expected {expected}"))
    }

    pub fn wrong(&self, key: &str, expected: &str) -> Error {
        let found = match self.values.get(key) {
            Some(Value::List(items)) => format!("a list of {} values", items.len()),
            Some(Value::Text(text)) => format!("{:?}", text.chars().take(60).collect::<String>()),
            Some(Value::Int(n)) => n.to_string(),
            Some(Value::Float(x)) => x.to_string(),
            Some(Value::Bool(flag)) => flag.to_string(),
            None => "nothing".into(),
        };
        Error::file(
            self.path,
            format!("{key}: found {found}, expected {expected}"),
        )
    }
}

impl Reader<'_> {
    fn entry(&mut self, name: &str) -> Result<Entry> {
        let dims = self.u32()? as usize;
        if !(1..=4).contains(&dims) {
            return self.fail(format!("tensor {name} has {dims} dimensions"));
        }
        let mut shape = Vec::with_capacity(dims);
        let mut elements = 1_u64;
        for _ in 0..dims {
            let size = u64::from_le_bytes(self.number()?);
            match elements
                .checked_mul(size)
                .filter(|n| *n <= 1 << 40 && size > 0)
            {
                Some(n) => elements = n,
                None => return self.fail(format!("tensor {name} has a dimension of {size}")),
            }
            shape.push(size as usize);
        }
        // The file's first dimension is the one that runs fastest.
        shape.reverse();
        let kind = self.u32()?;
        let offset = u64::from_le_bytes(self.number()?);
        match usize::try_from(offset) {
            Ok(offset) => Ok(Entry {
                shape,
                kind,
                offset,
            }),
            Err(_) => self.fail(format!("tensor {name} begins at {offset}")),
        }
    }
}
