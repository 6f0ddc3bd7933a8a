//! Scalars in TensorBoard's event files.
//!
//! A file is a run of TFRecords: length (u64, little-endian), its checksum (u32), the bytes, their checksum. The checksum is
//! CRC-32C, rotated right by 15 bits plus 0xa282ead8 (TensorFlow, `lib/hash/crc32c.h`). Each record is one `Event`
//! message of `event.proto`; its three fields that matter here are few enough to be written by hand.

use std::fs::{File, OpenOptions};
use std::io::Write;
use std::path::{Path, PathBuf};
use std::time::{SystemTime, UNIX_EPOCH};

use anyhow::{Result, anyhow, bail};

use crate::atomic::read_bytes;
use crate::jsonl::{cannot_create, open_truncated};

/// Writes one event file. Every record is handed to the system at once.
#[derive(Debug)]
pub struct EventWriter {
    path: PathBuf,
    file: File,
    last_step: Option<u64>,
}

/// The version of the format that readers know (`brain.Event:2`).
const VERSION: &[u8] = b"brain.Event:2";

impl EventWriter {
    /// Starts a file. TensorBoard finds it when its name contains `tfevents`.
    ///
    /// # Errors
    /// A name without `tfevents`; the file is there already, or cannot be written.
    pub fn create(path: &Path) -> Result<Self> {
        let name = path.file_name().unwrap_or_default().to_string_lossy();
        if !name.contains("tfevents") {
            bail!(
                "{}: the name of an event file must contain tfevents",
                path.display()
            );
        }
        let file = OpenOptions::new().write(true).create_new(true).open(path);
        let mut writer = Self {
            file: file.map_err(|e| cannot_create(path, &e))?,
            path: path.into(),
            last_step: None,
        };
        let mut event = Vec::new();
        put_double(&mut event, 1, now());
        put_bytes(&mut event, 3, VERSION);
        writer.append(&event)?;
        Ok(writer)
    }

    /// Continues a file after step `last`: later events, and one cut off in the middle, are removed. A file that is not
    /// there, or was cut off before its first record ended, is started.
    ///
    /// # Errors
    /// A record before the end has a wrong checksum, or is no event; the file cannot be written.
    pub fn resume(path: &Path, last: u64) -> Result<Self> {
        if !path.exists() {
            return Self::create(path);
        }
        let bytes = read_bytes(path)?;
        let (mut end, mut last_step) = (0, None);
        while let Some(record) = next_record(&bytes[end..]) {
            let place = || format!("{}: record at byte {end}", path.display());
            let record = record.map_err(|why| anyhow!("{}: {why}", place()))?;
            let step = step_of(record).ok_or_else(|| anyhow!("{}: not an event", place()))?;
            if step > last {
                break;
            }
            // The record with the version has no step of its own.
            last_step = (end > 0).then_some(step);
            end += record.len() + FRAME;
        }
        if end == 0 {
            std::fs::remove_file(path)
                .map_err(|e| anyhow!("{}: cannot write: {e}", path.display()))?;
            return Self::create(path);
        }
        Ok(Self {
            path: path.into(),
            file: open_truncated(path, end as u64)?,
            last_step,
        })
    }

    /// The step of the last event with scalars.
    pub fn last_step(&self) -> Option<u64> {
        self.last_step
    }

    /// Appends scalars of one step, with the wall clock of now. Values are stored in single precision.
    ///
    /// # Errors
    /// A step beyond i64; a full disk.
    pub fn scalars<'a>(
        &mut self,
        step: u64,
        values: impl IntoIterator<Item = (&'a str, f64)>,
    ) -> Result<()> {
        let mut summary = Vec::new();
        for (tag, value) in values {
            let mut entry = Vec::new();
            put_bytes(&mut entry, 1, tag.as_bytes());
            put_key(&mut entry, 2, 5);
            entry.extend((value as f32).to_le_bytes());
            put_bytes(&mut summary, 1, &entry);
        }
        let signed = i64::try_from(step).map_err(|_| anyhow!("step {step}: too large"))?;
        let mut event = Vec::new();
        put_double(&mut event, 1, now());
        put_key(&mut event, 2, 0);
        put_varint(&mut event, signed as u64);
        put_bytes(&mut event, 5, &summary);
        self.append(&event)?;
        self.last_step = Some(step);
        Ok(())
    }

    fn append(&mut self, event: &[u8]) -> Result<()> {
        let done = self.file.write_all(&framed(event));
        done.map_err(|e| anyhow!("{}: cannot write: {e}", self.path.display()))
    }
}

/// Bytes of a record that are not its contents.
const FRAME: usize = 16;

fn framed(event: &[u8]) -> Vec<u8> {
    let length = (event.len() as u64).to_le_bytes();
    let mut record = length.to_vec();
    record.extend(masked_crc(&length).to_le_bytes());
    record.extend(event);
    record.extend(masked_crc(event).to_le_bytes());
    record
}

fn masked_crc(bytes: &[u8]) -> u32 {
    crc32c::crc32c(bytes)
        .rotate_right(15)
        .wrapping_add(0xa282_ead8)
}

/// The contents of the first record, or `None` when it is cut off.
fn next_record(bytes: &[u8]) -> Option<std::result::Result<&[u8], &'static str>> {
    let crc = |at: &[u8]| u32::from_le_bytes(at.try_into().expect("four bytes"));
    let (head, rest) = bytes.split_at_checked(12)?;
    if crc(&head[8..]) != masked_crc(&head[..8]) {
        return Some(Err("wrong checksum of its length"));
    }
    let length = u64::from_le_bytes(head[..8].try_into().expect("eight bytes"));
    let (event, rest) = rest.split_at_checked(usize::try_from(length).ok()?)?;
    let tail = rest.get(..4)?;
    match crc(tail) == masked_crc(event) {
        true => Some(Ok(event)),
        false => Some(Err("wrong checksum of its contents")),
    }
}

/// Field 2 of an event, 0 where it is not written.
fn step_of(mut event: &[u8]) -> Option<u64> {
    let mut step = 0;
    while !event.is_empty() {
        let key = take_varint(&mut event)?;
        let skip = match key & 7 {
            0 => {
                let value = take_varint(&mut event)?;
                if key >> 3 == 2 {
                    step = value;
                }
                0
            }
            1 => 8,
            2 => usize::try_from(take_varint(&mut event)?).ok()?,
            5 => 4,
            _ => return None,
        };
        event = event.get(skip..)?;
    }
    Some(step)
}

fn take_varint(bytes: &mut &[u8]) -> Option<u64> {
    let mut value = 0u64;
    for shift in (0..64).step_by(7) {
        let (first, rest) = bytes.split_first()?;
        *bytes = rest;
        value |= u64::from(first & 0x7f) << shift;
        if first & 0x80 == 0 {
            return Some(value);
        }
    }
    None
}

fn put_varint(out: &mut Vec<u8>, mut value: u64) {
    while value >= 0x80 {
        out.push(value as u8 | 0x80);
        value >>= 7;
    }
    out.push(value as u8);
}

fn put_key(out: &mut Vec<u8>, field: u64, wire_type: u64) {
    put_varint(out, field << 3 | wire_type);
}

fn put_bytes(out: &mut Vec<u8>, field: u64, bytes: &[u8]) {
    put_key(out, field, 2);
    put_varint(out, bytes.len() as u64);
    out.extend(bytes);
}

fn put_double(out: &mut Vec<u8>, field: u64, value: f64) {
    put_key(out, field, 1);
    out.extend(value.to_le_bytes());
}

/// Seconds since 1970.
fn now() -> f64 {
    let since = SystemTime::now().duration_since(UNIX_EPOCH);
    since.map_or(0.0, |d| d.as_secs_f64())
}

#[cfg(test)]
mod tests;
