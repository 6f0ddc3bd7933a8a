//! Metrics as one JSON object per line, each with a `step`, continued byte for byte after a crash.

use std::fs::{File, OpenOptions};
use std::io::{Seek, SeekFrom, Write};
use std::path::{Path, PathBuf};

use anyhow::{Context, Result, anyhow, bail};
use serde::Serialize;
use serde_json::{Map, Value};

use crate::atomic::read_bytes;

/// An append-only log. Each line is handed to the system at once, so a killed process loses at most the line it was
/// writing; [`JsonlLog::sync`] before a checkpoint makes a machine that loses power lose nothing older than that.
#[derive(Debug)]
pub struct JsonlLog {
    path: PathBuf,
    file: File,
    last_step: Option<u64>,
}

impl JsonlLog {
    /// Starts a log.
    ///
    /// # Errors
    /// The file is there already, or cannot be written.
    pub fn create(path: &Path) -> Result<Self> {
        let file = OpenOptions::new().write(true).create_new(true).open(path);
        Ok(Self {
            file: file.map_err(|e| cannot_create(path, &e))?,
            path: path.into(),
            last_step: None,
        })
    }

    /// Continues a log after step `last`: what was written later, and a line cut off in the middle, is removed. A log
    /// that is not there is started.
    ///
    /// # Errors
    /// A kept line is malformed, has no step, or has a smaller step than the line before it; the file cannot be written.
    pub fn resume(path: &Path, last: u64) -> Result<Self> {
        if !path.exists() {
            return Self::create(path);
        }
        let bytes = read_bytes(path)?;
        let (end, last_step) = kept(path, &bytes, last)?;
        let file = open_truncated(path, end as u64)?;
        Ok(Self {
            path: path.into(),
            file,
            last_step,
        })
    }

    /// The step of the last line. After [`JsonlLog::resume`], less than the step of the checkpoint means lines were lost.
    pub fn last_step(&self) -> Option<u64> {
        self.last_step
    }

    /// Appends `{"step": step, …metrics}`. A number that is not finite becomes null, as JSON has no other word for it.
    ///
    /// # Errors
    /// Metrics that are no object or have a `step` of their own; a step before the last one; a full disk.
    pub fn write(&mut self, step: u64, metrics: &impl Serialize) -> Result<()> {
        let place = || format!("{}: step {step}", self.path.display());
        if let Some(last) = self.last_step.filter(|last| *last > step) {
            bail!("{}: comes after step {last}", place());
        }
        let Value::Object(metrics) = serde_json::to_value(metrics).with_context(place)? else {
            bail!("{}: metrics must be an object", place());
        };
        if metrics.contains_key("step") {
            bail!("{}: metrics must not have a key \"step\"", place());
        }
        // The step goes first, whatever order the map keeps.
        let mut line = format!("{{\"step\":{step}");
        if !metrics.is_empty() {
            line.push(',');
            line.push_str(&serde_json::to_string(&metrics)?[1..]);
        } else {
            line.push('}');
        }
        line.push('\n');
        let done = self.file.write_all(line.as_bytes());
        done.map_err(|e| anyhow!("{}: cannot write: {e}", self.path.display()))?;
        self.last_step = Some(step);
        Ok(())
    }

    /// Waits until all lines are on the disk.
    ///
    /// # Errors
    /// The disk fails.
    pub fn sync(&self) -> Result<()> {
        let done = self.file.sync_data();
        done.map_err(|e| anyhow!("{}: cannot write: {e}", self.path.display()))
    }
}

/// The bytes of the longest run of complete lines up to step `last`, and the last step in it.
fn kept(path: &Path, bytes: &[u8], last: u64) -> Result<(usize, Option<u64>)> {
    let (mut end, mut last_step) = (0, None);
    for (line, text) in bytes.split_inclusive(|b| *b == b'\n').enumerate() {
        if !text.ends_with(b"\n") {
            break;
        }
        let place = format!("{}:{}", path.display(), line + 1);
        let record: Map<String, Value> =
            serde_json::from_slice(text).map_err(|e| anyhow!("{place}: malformed JSON: {e}"))?;
        let step = record.get("step").and_then(Value::as_u64);
        let step = step.with_context(|| format!("{place}: no whole number \"step\""))?;
        if let Some(before) = last_step.filter(|before| *before > step) {
            bail!("{place}: step {step} comes after step {before}");
        }
        if step > last {
            break;
        }
        last_step = Some(step);
        end += text.len();
    }
    Ok((end, last_step))
}

/// Opens a file for appending after its first `end` bytes.
pub(crate) fn open_truncated(path: &Path, end: u64) -> Result<File> {
    let open = || -> std::io::Result<File> {
        let mut file = OpenOptions::new().write(true).open(path)?;
        file.set_len(end)?;
        file.seek(SeekFrom::End(0))?;
        Ok(file)
    };
    open().map_err(|e| anyhow!("{}: cannot write: {e}", path.display()))
}

pub(crate) fn cannot_create(path: &Path, e: &std::io::Error) -> anyhow::Error {
    match e.kind() {
        std::io::ErrorKind::AlreadyExists => anyhow!(
            "{}: already exists; nothing was overwritten",
            path.display()
        ),
        _ => anyhow!("{}: cannot write: {e}", path.display()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::collections::BTreeMap;

    fn fill(log: &mut JsonlLog, steps: std::ops::RangeInclusive<u64>) {
        for step in steps {
            log.write(step, &BTreeMap::from([("loss", 1.0 / step as f64)]))
                .unwrap();
        }
    }

    /// Wherever the writer was killed, the log ends with the bytes of an undisturbed run.
    #[test]
    fn a_log_cut_anywhere_continues_byte_for_byte() {
        let dir = tempfile::tempdir().unwrap();
        let whole = dir.path().join("whole.jsonl");
        fill(&mut JsonlLog::create(&whole).unwrap(), 1..=6);
        let bytes = std::fs::read(&whole).unwrap();
        assert!(bytes.starts_with(b"{\"step\":1,\"loss\":1.0}\n"));
        let path = dir.path().join("cut.jsonl");
        for cut in 0..=bytes.len() {
            for checkpoint in 0..=6 {
                std::fs::write(&path, &bytes[..cut]).unwrap();
                let mut log = JsonlLog::resume(&path, checkpoint).unwrap();
                let next = log.last_step().unwrap_or(0) + 1;
                assert!(next <= checkpoint + 1);
                fill(&mut log, next..=6);
                assert_eq!(std::fs::read(&path).unwrap(), bytes, "{cut} {checkpoint}");
            }
        }
    }

    #[test]
    fn wrong_logs_and_records_are_refused() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("log.jsonl");
        let mut log = JsonlLog::resume(&path, 3).unwrap();
        fill(&mut log, 2..=2);
        assert!(log.write(1, &BTreeMap::from([("a", 1)])).is_err());
        assert!(log.write(2, &BTreeMap::from([("step", 1)])).is_err());
        assert!(log.write(2, &1).is_err());
        assert!(JsonlLog::create(&path).is_err());
        for (text, want) in [
            ("{\"step\":1}\n{oops\n", ":2: malformed JSON"),
            ("{\"loss\":1}\n", ":1: no whole number \"step\""),
            (
                "{\"step\":2}\n{\"step\":1}\n",
                ":2: step 1 comes after step 2",
            ),
        ] {
            std::fs::write(&path, text).unwrap();
            let said = JsonlLog::resume(&path, 9).unwrap_err().to_string();
            assert!(said.contains(want), "{said}");
            assert_eq!(std::fs::read_to_string(&path).unwrap(), text);
        }
    }
}
