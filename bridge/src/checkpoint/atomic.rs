//! Replacing a whole folder in one step: a reader sees the old one or the new one, never half of one.

use crate::{Error, Result};
use std::fs::{self, File};
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicU64, Ordering};

static NEXT: AtomicU64 = AtomicU64::new(0);

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
    let n = NEXT.fetch_add(1, Ordering::Relaxed);
    let temporary = parent.join(format!(".{name}.{}-{n}.tmp", std::process::id()));
    let done = fill_temporary(folder, &temporary, &drop_old, fill);
    let done = done.and_then(|()| exchange(folder, &temporary));
    // After an exchange this is the old folder; after a failure, the unfinished new one.
    fs::remove_dir_all(&temporary).ok();
    done
}

/// Replaces one file, in one step.
///
/// # Errors
/// [`Error::File`]; the old file is then as it was.
pub fn replace_file(path: &Path, bytes: &[u8]) -> Result<()> {
    let failed = |e: std::io::Error| Error::file(path, format!("cannot write: {e}"));
    let n = NEXT.fetch_add(1, Ordering::Relaxed);
    let name = file_name(path)?;
    let temporary = parent(path).join(format!(".{name}.{}-{n}.tmp", std::process::id()));
    let done = fs::write(&temporary, bytes)
        .and_then(|()| sync(&temporary))
        .and_then(|()| fs::rename(&temporary, path))
        // The rename itself must reach the disk too.
        .and_then(|()| sync(&parent(path)));
    done.map_err(|e| {
        fs::remove_file(&temporary).ok();
        failed(e)
    })
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
    fs::create_dir(temporary).map_err(failed)?;
    fill(temporary)?;
    if folder.is_dir() {
        keep_old(folder, temporary, drop_old).map_err(failed)?;
    }
    sync_tree(temporary).map_err(failed)
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

/// Removes temporary folders of this name whose process is gone.
fn remove_leftovers(parent: &Path, name: &str) {
    let Ok(entries) = fs::read_dir(parent) else {
        return;
    };
    for entry in entries.flatten() {
        let file = entry.file_name();
        let owner = file
            .to_str()
            .and_then(|f| f.strip_prefix(&format!(".{name}."))?.strip_suffix(".tmp"))
            .and_then(|owner| owner.split_once('-'))
            .and_then(|(pid, _)| pid.parse::<u32>().ok());
        let gone =
            |pid| Path::new("/proc/self").exists() && !Path::new(&format!("/proc/{pid}")).exists();
        if owner.is_some_and(gone) {
            fs::remove_dir_all(entry.path()).ok();
        }
    }
}
