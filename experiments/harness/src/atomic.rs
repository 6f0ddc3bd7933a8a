//! Whole-file writes: a reader sees the old file or the new one, never half of one.
//!
//! A file is written under a temporary name, `.NAME.RANDOM.tmp`, and renamed. The name is random and tried again where it is taken:
//! process numbers are no names, as every container has a process 1. The temporary file is locked while it is written, so that what a
//! killed process left is told from what another one is writing, on whatever machine that runs.

use std::ffi::OsStr;
use std::fs::{self, File, TryLockError};
use std::io::{ErrorKind, Write};
use std::path::Path;
use std::sync::{RwLock, RwLockReadGuard, RwLockWriteGuard};
use std::time::{Duration, Instant};

use anyhow::{Context, Result, anyhow, bail};
use tempfile::{NamedTempFile, TempPath};

/// A file without a lock is a leftover from this age on: between making and locking it lies an instant.
const UNLOCKED: Duration = Duration::from_secs(60);
/// The age from which a temporary file is taken for left over, where the file system has no locks.
const OLD: Duration = Duration::from_secs(24 * 60 * 60);

/// Held for reading by whoever writes a file, so that an interrupt can wait for the end of it.
static WRITING: RwLock<()> = RwLock::new(());

fn writing() -> RwLockReadGuard<'static, ()> {
    WRITING.read().unwrap_or_else(|e| e.into_inner())
}

/// Keeps every file from being begun, once those in the making are whole; `None` when that takes too long.
pub(crate) fn stop_writing(patience: Duration) -> Option<RwLockWriteGuard<'static, ()>> {
    let start = Instant::now();
    loop {
        match WRITING.try_write() {
            Ok(guard) => return Some(guard),
            Err(std::sync::TryLockError::Poisoned(e)) => return Some(e.into_inner()),
            Err(_) if start.elapsed() > patience => return None,
            Err(_) => std::thread::sleep(Duration::from_millis(5)),
        }
    }
}

/// Writes a file that must not exist yet.
pub(crate) fn write_new(path: &Path, bytes: &[u8]) -> Result<()> {
    let _writing = writing();
    let refuse = || {
        anyhow!(
            "{}: already exists; nothing was overwritten",
            path.display()
        )
    };
    if path.symlink_metadata().is_ok() {
        return Err(refuse());
    }
    let temporary = filled(path, bytes)?;
    match temporary.persist_noclobber(path) {
        Ok(_) => Ok(()),
        Err(e) if e.error.kind() == ErrorKind::AlreadyExists => Err(refuse()),
        // A file system without hard links: the check above is then the only guard.
        Err(e) => persist(e.file.into_temp_path(), path),
    }
}

/// Writes a file that may exist already with exactly these bytes, as when a run is continued or
/// several processes share its folder.
pub(crate) fn write_same(path: &Path, bytes: &[u8]) -> Result<()> {
    let same = || fs::read(path).is_ok_and(|found| found == bytes);
    if same() {
        return Ok(());
    }
    match write_new(path, bytes) {
        // Another process may have been quicker.
        Err(_) if same() => Ok(()),
        Err(_) if path.is_file() => bail!(
            "{}: already exists with other contents; nothing was overwritten",
            path.display()
        ),
        other => other,
    }
}

/// Whether a file name is that of a temporary file of this module.
pub(crate) fn is_temporary(name: &str) -> bool {
    let inner = |name: &str| Some(name.strip_prefix('.')?.rsplit_once(".tmp")?.1.to_string());
    // `.figure.png.RANDOM.tmp.png` keeps the ending that its writer goes by.
    inner(name).is_some_and(|rest| {
        rest.is_empty() || (rest.starts_with('.') && name.contains(&format!("{rest}.")))
    })
}

/// Removes temporary files that nobody is writing any more. Whoever works `alone` in the folder need not wait for them to be old.
pub(crate) fn remove_leftovers(dir: &Path, alone: bool) {
    let least = if alone { Duration::ZERO } else { UNLOCKED };
    for entry in fs::read_dir(dir).into_iter().flatten().flatten() {
        let ours = entry.file_name().to_str().is_some_and(is_temporary);
        if ours && is_left_over(&entry.path(), least) {
            fs::remove_file(entry.path()).ok();
        }
    }
}

fn is_left_over(path: &Path, least: Duration) -> bool {
    let Ok(file) = File::open(path) else {
        return false;
    };
    let modified = file.metadata().and_then(|m| m.modified());
    // A clock that runs behind makes a file seem young: it stays for now.
    let age = modified.ok().and_then(|t| t.elapsed().ok());
    let old = |least: Duration| age.is_some_and(|age| age >= least);
    match file.try_lock() {
        Ok(()) => old(least),
        Err(TryLockError::WouldBlock) => false,
        Err(TryLockError::Error(_)) => old(OLD),
    }
}

/// Writes a file, replacing what was there.
pub(crate) fn replace(path: &Path, bytes: &[u8]) -> Result<()> {
    let _writing = writing();
    persist(filled(path, bytes)?.into_temp_path(), path)
}

/// Replaces a file by what `make` writes to the temporary path it is given, which keeps the
/// extension of `path`.
pub(crate) fn replace_by(path: &Path, make: impl FnOnce(&Path) -> Result<()>) -> Result<()> {
    let _writing = writing();
    let extension = path.extension().and_then(OsStr::to_str);
    let suffix = extension.map_or(".tmp".into(), |e| format!(".tmp.{e}"));
    // The lock is kept until the file has its name.
    let (_locked, temporary) = temporary(path, &suffix)?.into_parts();
    make(&temporary).map_err(|e| anyhow!("{}: cannot write: {e}", path.display()))?;
    persist(temporary, path)
}

/// Reads a text file; every failure is one line that names it.
pub(crate) fn read_text(path: &Path) -> Result<String> {
    let bytes = read_bytes(path)?;
    let text = String::from_utf8(bytes).map_err(|e| {
        let bytes = e.as_bytes();
        let line = 1 + bytes[..e.utf8_error().valid_up_to()]
            .iter()
            .filter(|&&b| b == b'\n')
            .count();
        anyhow!("{}:{line}: not valid UTF-8 text", path.display())
    })?;
    Ok(text
        .strip_prefix('\u{feff}')
        .map(String::from)
        .unwrap_or(text))
}

/// Reads a file; every failure is one line that names it.
pub(crate) fn read_bytes(path: &Path) -> Result<Vec<u8>> {
    if path.is_dir() {
        bail!("{}: is a directory, expected a file", path.display());
    }
    fs::read(path).map_err(|e| match e.kind() {
        ErrorKind::NotFound => anyhow!("{}: no such file", path.display()),
        _ => anyhow!("{}: cannot read: {e}", path.display()),
    })
}

fn temporary(path: &Path, suffix: &str) -> Result<NamedTempFile> {
    let failed = |e: std::io::Error| anyhow!("{}: cannot write: {e}", path.display());
    let name = path
        .file_name()
        .with_context(|| format!("{}: expected a file name", path.display()))?
        .to_string_lossy();
    let folder = match path.parent() {
        Some(parent) if !parent.as_os_str().is_empty() => parent,
        _ => Path::new("."),
    };
    let prefix = format!(".{name}.");
    let mut builder = tempfile::Builder::new();
    builder.prefix(&prefix).suffix(suffix).rand_bytes(10);
    // As any other file: the umask says who reads it.
    #[cfg(unix)]
    builder.permissions(std::os::unix::fs::PermissionsExt::from_mode(0o666));
    let temporary = builder.tempfile_in(folder).map_err(failed)?;
    // Where the file system has no locks, leftovers are told by their age.
    #[cfg(unix)]
    temporary.as_file().try_lock().ok();
    Ok(temporary)
}

fn filled(path: &Path, bytes: &[u8]) -> Result<NamedTempFile> {
    let mut temporary = temporary(path, ".tmp")?;
    temporary
        .write_all(bytes)
        .and_then(|()| temporary.as_file().sync_all())
        .map_err(|e| anyhow!("{}: cannot write: {e}", path.display()))?;
    Ok(temporary)
}

fn persist(temporary: TempPath, path: &Path) -> Result<()> {
    temporary
        .persist(path)
        .map_err(|e| anyhow!("{}: cannot write: {}", path.display(), e.error))
}

#[cfg(test)]
mod tests;
