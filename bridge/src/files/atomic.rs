//! Replacing a whole folder in one step: a reader sees the old one or the new one, never half of one.

use crate::{Error, Result};
use std::fs::{self, File, TryLockError};
use std::io::Write;
use std::path::{Path, PathBuf};
use std::time::Duration;

/// A temporary folder without a lock is a leftover from this age on: between making and locking it lies an instant.
const UNLOCKED: Duration = Duration::from_secs(60);
/// The age from which a temporary file is taken for left over, where the file system has no locks.
const OLD: Duration = Duration::from_secs(24 * 60 * 60);
/// Inside a temporary folder, locked while the folder is filled.
const LOCK: &str = ".filling";

/// Replaces `folder` by what `fill` puts into the empty folder it is given.
///
/// Everything is flushed to the disk before the two are exchanged (`renameat2`; where a file system cannot, the old
/// folder is renamed aside first, and [`previous`] says where it is). Files of the old folder that `fill` did not
/// write are kept unless `drop_old` says otherwise, so a user's own notes survive.
///
/// # Errors
/// [`Error::File`]; the old folder is then as it was.
pub fn replace_folder(
    folder: &Path,
    drop_old: impl Fn(&str) -> bool,
    fill: impl FnOnce(&Path) -> Result<()>,
) -> Result<()> {
    // A link is followed, so that what it points to is replaced and the link stays.
    let folder = &folder.canonicalize().unwrap_or_else(|_| folder.into());
    let name = file_name(folder)?;
    let parent = parent(folder);
    fs::create_dir_all(&parent).map_err(|e| Error::file(&parent, format!("cannot create: {e}")))?;
    remove_leftovers(&parent, &name);
    // A random name, tried again where it is taken: every container has a process 1.
    let mut builder = tempfile::Builder::new();
    let prefix = format!(".{name}.");
    builder.prefix(&prefix).suffix(".tmp").rand_bytes(10);
    // As any other folder: the umask says who reads it.
    #[cfg(unix)]
    builder.permissions(std::os::unix::fs::PermissionsExt::from_mode(0o777));
    // Removed when dropped: after an exchange it is the old folder, after a failure the unfinished new one.
    let temporary = builder
        .tempdir_in(&parent)
        .map_err(|e| Error::file(folder, format!("cannot write: {e}")))?;
    fill_temporary(folder, temporary.path(), &drop_old, fill)?;
    exchange(folder, temporary.path())
}

/// Replaces one file, in one step.
///
/// # Errors
/// [`Error::File`]; the old file is then as it was.
pub fn replace_file(path: &Path, bytes: &[u8]) -> Result<()> {
    let failed = |e: std::io::Error| Error::file(path, format!("cannot write: {e}"));
    let prefix = format!(".{}.", file_name(path)?);
    let mut builder = tempfile::Builder::new();
    builder.prefix(&prefix).suffix(".tmp").rand_bytes(10);
    #[cfg(unix)]
    builder.permissions(std::os::unix::fs::PermissionsExt::from_mode(0o666));
    let mut temporary = builder.tempfile_in(parent(path)).map_err(failed)?;
    temporary
        .write_all(bytes)
        .and_then(|()| temporary.as_file().sync_all())
        .map_err(failed)?;
    temporary.persist(path).map_err(|e| failed(e.error))?;
    // The rename itself must reach the disk too.
    sync(&parent(path)).map_err(failed)
}

/// Where the previous checkpoint is while a save is replacing it on a file system that cannot exchange folders.
pub fn previous(folder: &Path) -> Option<PathBuf> {
    let name = file_name(folder).ok()?;
    Some(parent(folder).join(format!(".{name}.previous")))
}

fn fill_temporary(
    folder: &Path,
    temporary: &Path,
    drop_old: &dyn Fn(&str) -> bool,
    fill: impl FnOnce(&Path) -> Result<()>,
) -> Result<()> {
    let failed = |e: std::io::Error| Error::file(temporary, format!("cannot write: {e}"));
    let lock = temporary.join(LOCK);
    let locked = File::create(&lock).map_err(failed)?;
    // Where the file system has no locks, leftovers are told by their age.
    locked.try_lock().ok();
    fill(temporary)?;
    if folder.is_dir() {
        keep_old(folder, temporary, drop_old).map_err(failed)?;
    }
    sync_tree(temporary).map_err(failed)?;
    fs::remove_file(&lock).map_err(failed)
}

fn exchange(folder: &Path, temporary: &Path) -> Result<()> {
    let failed = |e: std::io::Error| Error::file(folder, format!("cannot replace: {e}"));
    let parent = parent(folder);
    let aside = previous(folder).expect("a folder that was filled has a name");
    if !folder.exists() {
        fs::rename(temporary, folder).map_err(failed)?;
    } else if !swap(folder, temporary) {
        fs::remove_dir_all(&aside).ok();
        fs::rename(folder, &aside).map_err(failed)?;
        fs::rename(temporary, folder).map_err(failed)?;
    }
    sync(&parent).map_err(failed)?;
    fs::remove_dir_all(&aside).ok();
    Ok(())
}

/// Exchanges two folders in one system call, where there is one.
#[cfg(target_os = "linux")]
fn swap(a: &Path, b: &Path) -> bool {
    use rustix::fs::{CWD, RenameFlags, renameat_with};
    renameat_with(CWD, a, CWD, b, RenameFlags::EXCHANGE).is_ok()
}

#[cfg(not(target_os = "linux"))]
fn swap(_: &Path, _: &Path) -> bool {
    false
}

/// Links (or copies) into `new` what is in `old`, is not in `new` and is not to be dropped.
fn keep_old(old: &Path, new: &Path, drop_old: &dyn Fn(&str) -> bool) -> std::io::Result<()> {
    for entry in fs::read_dir(old)? {
        let entry = entry?;
        let target = new.join(entry.file_name());
        if target.exists() || entry.file_name().to_str().is_some_and(drop_old) {
            continue;
        }
        if entry.file_type()?.is_dir() {
            fs::create_dir(&target)?;
            keep_old(&entry.path(), &target, &|_| false)?;
        } else if fs::hard_link(entry.path(), &target).is_err() {
            fs::copy(entry.path(), &target)?;
        }
    }
    Ok(())
}

fn sync_tree(folder: &Path) -> std::io::Result<()> {
    for entry in fs::read_dir(folder)? {
        let entry = entry?;
        match entry.file_type()? {
            kind if kind.is_dir() => sync_tree(&entry.path())?,
            kind if kind.is_file() => sync(&entry.path())?,
            _ => {}
        }
    }
    sync(folder)
}

fn sync(path: &Path) -> std::io::Result<()> {
    File::open(path)?.sync_all()
}

fn file_name(folder: &Path) -> Result<String> {
    let name = folder.file_name().and_then(|n| n.to_str());
    name.map(String::from)
        .ok_or_else(|| Error::file(folder, "expected the name of a folder"))
}

fn parent(folder: &Path) -> PathBuf {
    match folder.parent() {
        Some(parent) if !parent.as_os_str().is_empty() => parent.into(),
        _ => ".".into(),
    }
}

/// Removes temporary folders of this name that nobody is filling any more.
fn remove_leftovers(parent: &Path, name: &str) {
    for entry in fs::read_dir(parent).into_iter().flatten().flatten() {
        let file = entry.file_name();
        let ours = file.to_str().is_some_and(|f| {
            f.strip_prefix(&format!(".{name}."))
                .is_some_and(|rest| rest.ends_with(".tmp"))
        });
        if ours && is_left_over(&entry.path()) {
            fs::remove_dir_all(entry.path()).ok();
        }
    }
}

fn is_left_over(folder: &Path) -> bool {
    // The youngest of what it holds; a network of some gigabytes takes long to write.
    let lock = folder.join(LOCK);
    let modified = |path: &Path| path.metadata().and_then(|m| m.modified()).ok();
    let files = fs::read_dir(folder).into_iter().flatten().flatten();
    let newest = files
        .filter_map(|e| modified(&e.path()))
        .chain(modified(folder))
        .max();
    // A clock that runs behind makes a folder seem young: it stays for now.
    let age = newest.and_then(|t| t.elapsed().ok());
    let old = |least: Duration| age.is_some_and(|age| age >= least);
    match File::open(&lock).map(|file| file.try_lock()) {
        Ok(Err(TryLockError::WouldBlock)) => false,
        Ok(Err(TryLockError::Error(_))) => old(OLD),
        // Nobody holds it, or the folder was whole (or empty) when its process ended.
        Ok(Ok(())) | Err(_) => old(UNLOCKED),
    }
}
