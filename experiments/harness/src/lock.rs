//! One program in one folder: the second is told so before it has written anything.

use std::fs::{File, OpenOptions, TryLockError};
use std::path::Path;

use anyhow::{Result, anyhow, bail};

/// The file inside a run folder that is locked while a program works there. It is empty, stays when the program has ended, and says
/// nothing then: the lock belongs to the process and goes with it, however that ends.
pub(crate) const LOCK: &str = ".lock";

/// Who may work in a folder beside this program.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Sharing {
    /// Nobody else works in the folder.
    Alone,
    /// Other shards of the same run: each cell is computed from its id alone and written whole or not at all.
    WithShards,
}

/// A folder that is held until this is dropped.
#[derive(Debug)]
pub struct Hold {
    file: Option<File>,
    alone: bool,
}

impl Drop for Hold {
    /// Closing the file is not enough: a child process that another thread is just starting has a copy of it until it runs its
    /// program, and a lock lasts as long as any copy.
    fn drop(&mut self) {
        if let Some(file) = &self.file {
            file.unlock().ok();
        }
    }
}

impl Hold {
    /// Whether nobody else works in the folder.
    pub(crate) fn is_alone(&self) -> bool {
        self.alone
    }
}

/// Holds a folder.
///
/// # Errors
/// One line when another program works there.
pub fn hold(folder: &Path, sharing: Sharing) -> Result<Hold> {
    let path = folder.join(LOCK);
    let mut options = OpenOptions::new();
    let options = options.create(true).truncate(false).read(true).write(true);
    let file = options
        .open(&path)
        .map_err(|e| anyhow!("{}: cannot write: {e}", path.display()))?;
    let taken = match sharing {
        Sharing::Alone => file.try_lock(),
        Sharing::WithShards => file.try_lock_shared(),
    };
    match taken {
        Ok(()) => Ok(Hold {
            file: Some(file),
            alone: sharing == Sharing::Alone,
        }),
        Err(TryLockError::WouldBlock) => bail!(
            "{}: another program is at work in this folder; wait for its end, or give this one another --out",
            folder.display()
        ),
        Err(TryLockError::Error(e)) => {
            crate::cli::note(&format!(
                "{}: this file system has no locks ({e}); see to it that one program alone works there",
                folder.display()
            ));
            Ok(Hold {
                file: None,
                alone: false,
            })
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn one_program_or_many_shards() {
        let dir = tempfile::tempdir().unwrap();
        let alone = hold(dir.path(), Sharing::Alone).unwrap();
        for sharing in [Sharing::Alone, Sharing::WithShards] {
            let error = hold(dir.path(), sharing).unwrap_err().to_string();
            assert!(error.contains("another program is at work"), "{error}");
        }
        drop(alone);
        let one = hold(dir.path(), Sharing::WithShards).unwrap();
        let two = hold(dir.path(), Sharing::WithShards).unwrap();
        assert!(hold(dir.path(), Sharing::Alone).is_err());
        drop((one, two));
        hold(dir.path(), Sharing::Alone).unwrap();
    }

    /// A copy as a child process has it that was being started at that moment.
    #[test]
    fn a_copy_of_the_file_holds_nothing_once_the_holder_is_gone() {
        let dir = tempfile::tempdir().unwrap();
        let first = hold(dir.path(), Sharing::Alone).unwrap();
        let copy = first.file.as_ref().unwrap().try_clone().unwrap();
        drop(first);
        hold(dir.path(), Sharing::Alone).unwrap();
        drop(copy);
    }
}
