//! Whole-file writes: a reader sees the old file or the new one, never half of one.

use std::fs::{self, File, OpenOptions};
use std::io::{ErrorKind, Write};
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicU64, Ordering};

use anyhow::{Context, Result, anyhow, bail};

static NEXT: AtomicU64 = AtomicU64::new(0);

/// Writes a file that must not exist yet.
pub(crate) fn write_new(path: &Path, bytes: &[u8]) -> Result<()> {
    let refuse = || {
        anyhow!(
            "{}: already exists; nothing was overwritten",
            path.display()
        )
    };
    if path.symlink_metadata().is_ok() {
        return Err(refuse());
    }
    let (temp, file) = open_temp(path)?;
    let done = fill(file, bytes).and_then(|()| match fs::hard_link(&temp, path) {
        Ok(()) => fs::remove_file(&temp),
        // A file system without hard links: the check above is then the only guard.
        Err(e) if e.kind() != ErrorKind::AlreadyExists => fs::rename(&temp, path),
        Err(e) => Err(e),
    });
    done.map_err(|e| {
        fs::remove_file(&temp).ok();
        match e.kind() {
            ErrorKind::AlreadyExists => refuse(),
            _ => anyhow!("{}: cannot write: {e}", path.display()),
        }
    })
}

/// Writes a file, replacing what was there.
pub(crate) fn replace(path: &Path, bytes: &[u8]) -> Result<()> {
    let (temp, file) = open_temp(path)?;
    fill(file, bytes)
        .and_then(|()| fs::rename(&temp, path))
        .map_err(|e| {
            fs::remove_file(&temp).ok();
            anyhow!("{}: cannot write: {e}", path.display())
        })
}

/// Replaces a file by what `make` writes to the temporary path it is given, which keeps the
/// extension of `path`.
pub(crate) fn replace_by(path: &Path, make: impl FnOnce(&Path) -> Result<()>) -> Result<()> {
    let extension = path.extension().unwrap_or_default();
    let (temp, file) = open_temp(path)?;
    drop(file);
    let typed = temp.with_extension(extension);
    let done = fs::rename(&temp, &typed)
        .map_err(anyhow::Error::from)
        .and_then(|()| make(&typed))
        .and_then(|()| Ok(fs::rename(&typed, path)?));
    done.map_err(|e| {
        fs::remove_file(&temp).ok();
        fs::remove_file(&typed).ok();
        anyhow!("{}: cannot write: {e}", path.display())
    })
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

fn open_temp(path: &Path) -> Result<(PathBuf, File)> {
    let name = path
        .file_name()
        .with_context(|| format!("{}: expected a file name", path.display()))?
        .to_string_lossy();
    let n = NEXT.fetch_add(1, Ordering::Relaxed);
    let temp = path.with_file_name(format!(".{name}.{}-{n}.tmp", std::process::id()));
    let file = OpenOptions::new()
        .write(true)
        .create_new(true)
        .open(&temp)
        .map_err(|e| anyhow!("{}: cannot write: {e}", path.display()))?;
    Ok((temp, file))
}

fn fill(mut file: File, bytes: &[u8]) -> std::io::Result<()> {
    file.write_all(bytes)?;
    file.sync_all()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn new_files_are_never_overwritten_and_leave_no_temporary() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("a.txt");
        write_new(&path, b"one").unwrap();
        let error = write_new(&path, b"two").unwrap_err().to_string();
        assert!(error.contains("a.txt: already exists"), "{error}");
        assert_eq!(fs::read(&path).unwrap(), b"one");
        replace(&path, b"three").unwrap();
        assert_eq!(fs::read(&path).unwrap(), b"three");
        assert_eq!(fs::read_dir(dir.path()).unwrap().count(), 1);
    }

    #[test]
    fn read_failures_name_the_file() {
        let dir = tempfile::tempdir().unwrap();
        let missing = dir.path().join("none.csv");
        let text = |p: &Path| read_text(p).unwrap_err().to_string();
        assert!(text(&missing).ends_with("none.csv: no such file"));
        assert!(text(dir.path()).contains("is a directory"));
        let bad = dir.path().join("bad.txt");
        fs::write(&bad, b"ok\n\xff\xfe").unwrap();
        assert!(text(&bad).ends_with("bad.txt:2: not valid UTF-8 text"));
    }
}
