//! How does a file change so that a reader, a crash or a full disk never shows half of it?
//!
//! ```text
//! write .NAME.tmp-PID-N beside the target | sync it | rename it over NAME | sync the folder
//! ```
//! Every step may fail; before the rename the old file is untouched, after it the new one is whole.

use std::collections::BTreeSet;
use std::fs::{self, File, OpenOptions};
use std::io::{self, BufWriter, Write};
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{LazyLock, Mutex, PoisonError};
use std::time::Duration;

use serde::Serialize;

use super::fault;
use super::kind::shown;
use crate::error::{Error, Result};

/// Small writes are gathered into blocks of this many bytes.
const BLOCK: usize = 1 << 20;
/// Age at which a temporary file counts as left over where process ids cannot be looked up.
const OLD: Duration = Duration::from_secs(24 * 60 * 60);
const MARK: &str = ".tmp-";

static NEXT: AtomicU64 = AtomicU64::new(0);
/// Temporary files this process is writing now: an earlier process may have had the same id.
static LIVE: LazyLock<Mutex<BTreeSet<PathBuf>>> = LazyLock::new(Mutex::default);

/// Where the closure of [`atomic_write`] writes to.
#[derive(Debug)]
pub struct Sink {
    file: BufWriter<Gated>,
    target: PathBuf,
}

impl Sink {
    /// Writes all bytes; an error names the target.
    pub fn put(&mut self, bytes: &[u8]) -> Result<()> {
        self.write_all(bytes)
            .map_err(|source| Error::io(&self.target, source))
    }
}

impl Write for Sink {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        self.file.write(bytes)
    }

    fn flush(&mut self) -> io::Result<()> {
        self.file.flush()
    }
}

/// A file whose writes can be made to fail half-way.
#[derive(Debug)]
struct Gated(File);

impl Write for Gated {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        if let Err(problem) = fault::gate() {
            self.0.write_all(&bytes[..bytes.len() / 2])?;
            return Err(problem);
        }
        self.0.write(bytes)
    }

    fn flush(&mut self) -> io::Result<()> {
        self.0.flush()
    }
}

/// Whether what was written must outlive a loss of power.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum Durability {
    /// Synced before it gets its name.
    #[default]
    Synced,
    /// The system writes it when it likes. A killed process loses nothing; a loss of power within the next half
    /// minute may leave a file of the right name and wrong bytes.
    Unsynced,
}

/// Writes a file through `fill` and puts it in place whole, or not at all.
///
/// On any error, of `fill` too, the temporary file is removed and the old file stays. Refused: a
/// target that is a symbolic link (the link would be replaced, or its goal overwritten), a folder,
/// or another special file. Returns what `fill` returns.
pub fn atomic_write<T>(
    path: impl AsRef<Path>,
    fill: impl FnOnce(&mut Sink) -> Result<T>,
) -> Result<T> {
    atomic_write_as(path, Durability::Synced, fill)
}

/// As [`atomic_write`], with or without syncing.
pub fn atomic_write_as<T>(
    path: impl AsRef<Path>,
    durability: Durability,
    fill: impl FnOnce(&mut Sink) -> Result<T>,
) -> Result<T> {
    let path = path.as_ref();
    let io = |source| Error::io(path, source);
    check_target(path)?;
    let temp = Temp::create(path).map_err(io)?;
    let file = temp.file.try_clone().map_err(io)?;
    let mut sink = Sink {
        file: BufWriter::with_capacity(BLOCK, Gated(file)),
        target: path.to_path_buf(),
    };
    let value = fill(&mut sink)?;
    sink.flush().map_err(io)?;
    drop(sink);
    temp.commit(path, durability).map_err(io)?;
    Ok(value)
}

/// Writes bytes as a whole file; see [`atomic_write`].
pub fn atomic_bytes(path: impl AsRef<Path>, bytes: &[u8]) -> Result<()> {
    atomic_write(path, |sink| sink.put(bytes))
}

/// Writes a value as indented JSON with a final line end; see [`atomic_write`].
pub fn atomic_json(path: impl AsRef<Path>, value: &impl Serialize) -> Result<()> {
    let path = path.as_ref();
    let mut text = serde_json::to_vec_pretty(value)
        .map_err(|problem| Error::file(path, format!("the value has no JSON form: {problem}")))?;
    text.push(b'\n');
    atomic_bytes(path, &text)
}

/// Removes a file; one that is not there is no error.
pub(super) fn remove(path: &Path) -> Result<()> {
    match fault::gate().and_then(|()| fs::remove_file(path)) {
        Err(problem) if problem.kind() != io::ErrorKind::NotFound => Err(Error::io(path, problem)),
        _ => Ok(()),
    }
}

/// Deletes temporary files that dead processes left in a folder; returns how many.
///
/// Files of running processes stay. Call it with the folder's lock held where one exists.
pub fn clean_stale(dir: impl AsRef<Path>) -> Result<usize> {
    let dir = dir.as_ref();
    let io = |source| Error::io(dir, source);
    let mut removed = 0;
    for entry in fs::read_dir(dir).map_err(io)? {
        let entry = entry.map_err(io)?;
        let name = entry.file_name();
        let Some(pid) = name.to_str().and_then(owner) else {
            continue;
        };
        let path = entry.path();
        let plain = entry.file_type().is_ok_and(|kind| kind.is_file());
        if plain && !is_alive(pid, &path) {
            remove(&path)?;
            removed += 1;
        }
    }
    Ok(removed)
}

/// The process id in the name of a temporary file of ours.
fn owner(name: &str) -> Option<u32> {
    let (target, tail) = name.strip_prefix('.')?.rsplit_once(MARK)?;
    let (pid, number) = tail.split_once('-')?;
    let digits = |text: &str| !text.is_empty() && text.bytes().all(|byte| byte.is_ascii_digit());
    (!target.is_empty() && digits(pid) && digits(number)).then(|| pid.parse().ok())?
}

fn is_alive(pid: u32, path: &Path) -> bool {
    if pid == std::process::id() {
        return live().contains(path);
    }
    if Path::new("/proc/self").exists() {
        return Path::new("/proc").join(pid.to_string()).exists();
    }
    let age = fs::metadata(path)
        .and_then(|m| m.modified())
        .map(|time| time.elapsed());
    !matches!(age, Ok(Ok(age)) if age > OLD)
}

fn live() -> std::sync::MutexGuard<'static, BTreeSet<PathBuf>> {
    LIVE.lock().unwrap_or_else(PoisonError::into_inner)
}

fn check_target(path: &Path) -> Result<()> {
    if path.file_name().is_none() {
        return Err(Error::file(path, "this names no file to write"));
    }
    let Ok(metadata) = fs::symlink_metadata(path) else {
        return Ok(());
    };
    let found = if metadata.is_symlink() {
        "this is a symbolic link, and writing through it would change a file elsewhere; give the \
         real path or remove the link"
    } else if metadata.is_dir() {
        "this is a folder; expected a file to write"
    } else if !metadata.is_file() {
        "this is a device, pipe or socket; expected a plain file to write"
    } else {
        return Ok(());
    };
    Err(Error::file(path, found))
}

/// A temporary file beside its target, removed when dropped unless it was put in place.
struct Temp {
    path: PathBuf,
    file: File,
    placed: bool,
}

impl Temp {
    fn create(target: &Path) -> io::Result<Self> {
        let name = target.file_name().unwrap_or_default().to_string_lossy();
        let pid = std::process::id();
        loop {
            let number = NEXT.fetch_add(1, Ordering::Relaxed);
            let path = target.with_file_name(format!(".{name}{MARK}{pid}-{number}"));
            fault::gate()?;
            live().insert(path.clone());
            match OpenOptions::new().write(true).create_new(true).open(&path) {
                Ok(file) => {
                    return Ok(Self {
                        path,
                        file,
                        placed: false,
                    });
                }
                Err(problem) => {
                    live().remove(&path);
                    // Left by an earlier process with this id: the next number is free.
                    if problem.kind() != io::ErrorKind::AlreadyExists {
                        return Err(problem);
                    }
                }
            }
        }
    }

    fn commit(mut self, target: &Path, durability: Durability) -> io::Result<()> {
        let synced = durability == Durability::Synced;
        fault::gate()?;
        if synced {
            self.file.sync_all()?;
        }
        fault::gate()?;
        fs::rename(&self.path, target)?;
        self.placed = true;
        if synced { sync_folder(target) } else { Ok(()) }
    }
}

impl Drop for Temp {
    fn drop(&mut self) {
        if !self.placed && fault::gate().is_ok() {
            // The write has already failed and says why; a leftover is cleaned by `clean_stale`.
            let _ = fs::remove_file(&self.path);
        }
        live().remove(&self.path);
    }
}

/// Makes a rename in the file's folder durable, where the system lets folders be synced.
pub(super) fn sync_folder(file: &Path) -> io::Result<()> {
    fault::gate()?;
    if cfg!(unix) {
        let folder = file
            .parent()
            .filter(|folder| !folder.as_os_str().is_empty());
        File::open(folder.unwrap_or(Path::new(".")))?.sync_all()?;
    }
    Ok(())
}

/// Creates a folder with its parents; an existing one is fine, a file of that name is not.
pub fn make_folder(dir: impl AsRef<Path>) -> Result<()> {
    let dir = dir.as_ref();
    if fs::metadata(dir).is_ok_and(|found| !found.is_dir()) {
        let name = dir.file_name().unwrap_or_default().to_string_lossy();
        let problem = format!("{} is a file; expected a folder to write to", shown(&name));
        return Err(Error::file(dir, problem));
    }
    fs::create_dir_all(dir).map_err(|source| Error::io(dir, source))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn temporary_names_are_told_from_others() {
        assert_eq!(owner(".model.safetensors.tmp-123-0"), Some(123));
        for other in [
            "model.tmp-1-2",
            ".a.tmp-1",
            ".a.tmp-x-1",
            ".a.tmp-1-",
            ".tmp-1-2",
            ".bashrc",
        ] {
            assert_eq!(owner(other), None, "{other}");
        }
    }

    #[test]
    fn only_leftovers_of_dead_processes_are_cleaned() {
        let dir = tempfile::tempdir().unwrap();
        let at = |name: &str| dir.path().join(name);
        // Above the largest process id Linux gives (2^22), so certainly dead.
        for name in [".a.tmp-4194999-0", ".a.tmp-1-0", "a", ".b.tmp-"] {
            File::create(at(name)).unwrap();
        }
        fs::create_dir(at(".dir.tmp-4194999-1")).unwrap();
        atomic_write(at("live"), |sink| {
            sink.put(b"x")?;
            assert_eq!(clean_stale(dir.path())?, 1);
            Ok(())
        })
        .unwrap();
        assert!(!at(".a.tmp-4194999-0").exists());
        for kept in [".a.tmp-1-0", "a", ".b.tmp-", ".dir.tmp-4194999-1", "live"] {
            assert!(at(kept).exists(), "{kept}");
        }
    }

    #[test]
    fn an_error_of_the_closure_leaves_the_old_file_and_nothing_else() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("a.json");
        atomic_json(&path, &[1, 2]).unwrap();
        let result: Result<()> = atomic_write(&path, |sink| {
            sink.put(b"half")?;
            Err(Error::Numeric("NaN".into()))
        });
        assert_eq!(result.unwrap_err().exit_code(), 4);
        assert_eq!(fs::read(&path).unwrap(), b"[\n  1,\n  2\n]\n");
        assert_eq!(fs::read_dir(dir.path()).unwrap().count(), 1);
    }

    #[cfg(unix)]
    #[test]
    fn links_folders_and_absent_folders_are_refused() {
        let dir = tempfile::tempdir().unwrap();
        let goal = dir.path().join("goal");
        atomic_bytes(&goal, b"kept").unwrap();
        let link = dir.path().join("link");
        std::os::unix::fs::symlink(&goal, &link).unwrap();
        let problem = atomic_bytes(&link, b"new").unwrap_err();
        assert!(problem.to_string().contains("symbolic link"), "{problem}");
        assert_eq!(fs::read(&goal).unwrap(), b"kept");
        let problem = atomic_bytes(dir.path(), b"new").unwrap_err();
        assert!(problem.to_string().contains("folder"), "{problem}");
        assert!(atomic_bytes(dir.path().join("no/where"), b"").is_err());
        assert!(atomic_bytes("/", b"").is_err());
    }
}
