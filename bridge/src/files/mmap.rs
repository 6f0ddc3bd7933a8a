//! The one use of unsafe code in reading checkpoints: a memory map.
#![allow(unsafe_code)]

use crate::{Error, Result};
use memmap2::Mmap;
use std::fs::File;
use std::path::Path;

/// Maps a file that is not empty for reading.
pub(crate) fn map(path: &Path) -> Result<Mmap> {
    let file = File::open(path).map_err(|e| match e.kind() {
        std::io::ErrorKind::NotFound => Error::file(path, "no such file"),
        _ => Error::file(path, format!("cannot read: {e}")),
    })?;
    let metadata = file
        .metadata()
        .map_err(|e| Error::file(path, format!("cannot read: {e}")))?;
    if !metadata.is_file() {
        return Err(Error::file(path, "not a file"));
    }
    if metadata.len() == 0 {
        return Err(Error::file(path, "is empty, expected a file of weights"));
    }
    // SAFETY: the map is private to this crate's readers, who copy out of it and drop it before they return. A slice
    // of it is sound as long as nobody changes the file meanwhile. This crate never writes a file in place: it renames
    // whole folders, which leaves the mapped file as it was. A foreign program that truncates the file at that moment
    // ends the process with SIGBUS, as it does for every reader through a map.
    unsafe { Mmap::map(&file) }.map_err(|e| Error::file(path, format!("cannot map: {e}")))
}
