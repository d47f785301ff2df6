//! Locks of folders that one process writes at a time.

use modelsmith_core::error::{Error, Result};
use std::fs::{File, OpenOptions, TryLockError};
use std::io::{Read, Write};
use std::path::Path;
use std::thread::sleep;
use std::time::Duration;

/// Holds `folder`, which is made where it is absent, as long as the file returned lives; `what` it is, for
/// messages.
///
/// # Errors
/// Another process holds it, or it cannot be made.
pub(crate) fn hold(folder: &Path, what: &str) -> Result<File> {
    std::fs::create_dir_all(folder).map_err(|error| Error::io(folder, error))?;
    let file = folder.join("lock");
    let io = |error| Error::io(&file, error);
    let mut lock = OpenOptions::new()
        .create(true)
        .truncate(false)
        .read(true)
        .write(true)
        .open(&file)
        .map_err(io)?;
    match try_for_a_while(&lock) {
        Ok(()) => {}
        Err(TryLockError::WouldBlock) => {
            let mut owner = String::new();
            // The name of the owner is a courtesy; without it the refusal still stands.
            let _ = lock.read_to_string(&mut owner);
            return Err(Error::Locked {
                path: folder.to_path_buf(),
                problem: format!(
                    "another process ({}) writes this {what}; wait for it or stop it",
                    owner.trim()
                ),
            });
        }
        Err(TryLockError::Error(error)) => return Err(io(error)),
    }
    lock.set_len(0).map_err(io)?;
    write!(lock, "pid {}", std::process::id()).map_err(io)?;
    Ok(lock)
}

/// Takes the lock; a short hold by someone who only looks at the state of the folder is waited for.
fn try_for_a_while(lock: &File) -> Result<(), TryLockError> {
    for _ in 0..5 {
        match lock.try_lock() {
            Err(TryLockError::WouldBlock) => sleep(Duration::from_millis(20)),
            other => return other,
        }
    }
    lock.try_lock()
}
