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
    parse_temporary(name).is_some()
}

/// The file a temporary one stands for, and the process that made it.
fn parse_temporary(name: &str) -> Option<(&str, u32)> {
    let (stem, extension) = name.strip_prefix('.')?.rsplit_once('.')?;
    let (target, owner) = stem.rsplit_once('.')?;
    let (pid, n) = owner.split_once('-')?;
    n.parse::<u64>().ok()?;
    let ours = extension == "tmp" || target.ends_with(&format!(".{extension}"));
    ours.then_some((target, pid.parse().ok()?))
}

/// Removes temporary files of processes that are gone, where the file they stood for is there.
pub(crate) fn remove_leftovers(dir: &Path) {
    let Ok(entries) = fs::read_dir(dir) else {
        return;
    };
    for entry in entries.flatten() {
        let file = entry.file_name();
        let Some((target, pid)) = file.to_str().and_then(parse_temporary) else {
            continue;
        };
        let gone = Path::new("/proc/self").exists() && !Path::new(&format!("/proc/{pid}")).exists();
        if gone && dir.join(target).is_file() {
            fs::remove_file(entry.path()).ok();
        }
    }
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
    fn the_same_bytes_may_be_written_twice() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("a.txt");
        write_same(&path, b"one").unwrap();
        write_same(&path, b"one").unwrap();
        let error = write_same(&path, b"two").unwrap_err().to_string();
        assert!(error.contains("a.txt: already exists with other contents"));
        assert_eq!(fs::read(&path).unwrap(), b"one");
        std::thread::scope(|scope| {
            let write = || write_same(&dir.path().join("b.txt"), b"shared");
            let threads: Vec<_> = (0..8).map(|_| scope.spawn(write)).collect();
            threads.into_iter().for_each(|t| t.join().unwrap().unwrap());
        });
        assert_eq!(fs::read_dir(dir.path()).unwrap().count(), 2);
    }

    #[test]
    fn leftovers_of_dead_processes_are_known_by_name() {
        assert_eq!(parse_temporary(".a.csv.12-3.tmp"), Some(("a.csv", 12)));
        assert_eq!(parse_temporary(".a.png.12-3.png"), Some(("a.png", 12)));
        for other in [
            "a.csv",
            ".a.csv",
            ".gitignore",
            ".a.12-x.tmp",
            ".a.csv.12-3.txt",
        ] {
            assert!(!is_temporary(other), "{other}");
        }
        let dir = tempfile::tempdir().unwrap();
        let alive = format!(".a.{}-0.tmp", std::process::id());
        for name in ["a", ".a.999999999-0.tmp", ".b.999999999-0.tmp", &alive] {
            fs::write(dir.path().join(name), "x").unwrap();
        }
        remove_leftovers(dir.path());
        let left = |name: &str| dir.path().join(name).exists();
        assert!(left("a") && left(&alive) && left(".b.999999999-0.tmp"));
        assert!(!left(".a.999999999-0.tmp") || !Path::new("/proc/self").exists());
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
