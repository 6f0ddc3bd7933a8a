//! Replies that were paid for, one JSON object a line.

use std::collections::HashMap;
use std::fs::{File, OpenOptions};
use std::io::{Read, Seek, SeekFrom, Write};
use std::path::{Path, PathBuf};

use crate::{Error, Result};
use serde_json::{Value, json};
use sha2::{Digest, Sha256};

/// A question and its reply.
#[derive(Debug, Clone, PartialEq)]
pub(super) struct Transcript {
    /// The hash of what determines the reply.
    pub hash: String,
    /// The model, as the server named it.
    pub model: String,
    pub prompt: String,
    pub reply: String,
    /// Tokens of prompt and reply, where the server says.
    pub tokens: Option<u64>,
}

/// The file. It only grows: a line is written and flushed to the disk before its verdict is used.
#[derive(Debug)]
pub(super) struct Transcripts {
    path: PathBuf,
    file: File,
    known: HashMap<String, Transcript>,
}

impl Drop for Transcripts {
    /// Closing the file is not enough: a child process that another thread is just starting has a copy of it until it runs its
    /// program, and a lock lasts as long as any copy.
    fn drop(&mut self) {
        self.file.unlock().ok();
    }
}

impl Transcripts {
    pub fn open(path: &Path) -> Result<Self> {
        let failed =
            |what: &str, e: std::io::Error| Error::file(path, format!("cannot {what}: {e}"));
        let mut file = OpenOptions::new()
            .read(true)
            .append(true)
            .create(true)
            .open(path)
            .map_err(|e| failed("open", e))?;
        // Two writers could pay for the same reply, and one could cut the other's unfinished line.
        file.try_lock().map_err(|_| {
            Error::file(
                path,
                "in use by another process; give each run transcripts of its own",
            )
        })?;
        let mut bytes = Vec::new();
        file.read_to_end(&mut bytes)
            .map_err(|e| failed("read", e))?;
        // A process that was killed can leave half a line, for which no verdict was used.
        let end = bytes
            .iter()
            .rposition(|b| *b == b'\n')
            .map_or(0, |at| at + 1);
        let known = read_all(path, &bytes[..end])?;
        if end < bytes.len() {
            file.set_len(end as u64).map_err(|e| failed("repair", e))?;
            file.seek(SeekFrom::End(0))
                .map_err(|e| failed("repair", e))?;
        }
        Ok(Self {
            path: path.into(),
            file,
            known,
        })
    }

    pub fn get(&self, hash: &str) -> Option<&Transcript> {
        self.known.get(hash)
    }

    pub fn add(&mut self, t: Transcript) -> Result<()> {
        let object = json!({
            "hash": t.hash, "model": t.model, "prompt": t.prompt, "reply": t.reply, "tokens": t.tokens,
        });
        let line = format!("{object}\n");
        let done = self
            .file
            .write_all(line.as_bytes())
            .and_then(|()| self.file.sync_data());
        done.map_err(|e| Error::file(&self.path, format!("cannot write: {e}")))?;
        self.known.insert(t.hash.clone(), t);
        Ok(())
    }
}

fn read_all(path: &Path, bytes: &[u8]) -> Result<HashMap<String, Transcript>> {
    let mut known = HashMap::new();
    for (i, line) in bytes.split_inclusive(|b| *b == b'\n').enumerate() {
        let transcript = read(line).map_err(|why| Error::Data {
            place: format!("{}:{}", path.display(), i + 1),
            why,
        })?;
        known.insert(transcript.hash.clone(), transcript);
    }
    Ok(known)
}

fn read(line: &[u8]) -> std::result::Result<Transcript, String> {
    let value: Value = serde_json::from_slice(line).map_err(|e| format!("malformed JSON: {e}"))?;
    let text = |key: &str| match value[key].as_str() {
        Some(text) => Ok(text.to_string()),
        None => Err(format!(
            "{key}: found {}, expected the text of a transcript",
            value[key]
        )),
    };
    Ok(Transcript {
        hash: text("hash")?,
        model: text("model")?,
        prompt: text("prompt")?,
        reply: text("reply")?,
        tokens: value["tokens"].as_u64(),
    })
}

/// SHA-256 over fields with their lengths, so that no two lists of fields look alike.
pub(super) fn hash(fields: &[&str]) -> String {
    let mut hasher = Sha256::new();
    for field in fields {
        hasher.update((field.len() as u64).to_le_bytes());
        hasher.update(field);
    }
    let digest = hasher.finalize();
    digest.iter().map(|byte| format!("{byte:02x}")).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    /// A copy as a child process has it that was being started at that moment.
    #[test]
    fn a_copy_of_the_file_holds_nothing_once_the_writer_is_gone() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("t.jsonl");
        let first = Transcripts::open(&path).unwrap();
        Transcripts::open(&path).unwrap_err();
        let copy = first.file.try_clone().unwrap();
        drop(first);
        Transcripts::open(&path).unwrap();
        drop(copy);
    }
}
