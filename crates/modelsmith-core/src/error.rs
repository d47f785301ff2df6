//! What can go wrong, in the words a user can act on.
//!
//! Every variant names the file, key or tensor, what was found and what was expected; its
//! [`Error::exit_code`] is the program's exit status. Library code never panics on bad input.

use std::fmt::Display;
use std::io;
use std::path::{Path, PathBuf};

/// Result with the workspace's [`Error`].
pub type Result<T, E = Error> = std::result::Result<T, E>;

/// A failure with its cause and its remedy.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum Error {
    /// An input file is malformed, truncated, of a refused kind, or inconsistent (exit 3).
    #[error("{}: {problem}", path.display())]
    File {
        /// The file at fault.
        path: PathBuf,
        /// What was found, what was expected, and what to do.
        problem: String,
    },
    /// A recipe, a flag or a method option is wrong (exit 2).
    #[error("{key}: {problem}")]
    Config {
        /// Dotted key of the recipe, for instance `method.rank`.
        key: String,
        /// What was found, what was expected, and what to do.
        problem: String,
    },
    /// A command was used wrongly (exit 2).
    #[error("{0}")]
    Usage(String),
    /// The operating system refused to read or write (exit 3; 6 when the disk is full).
    #[error("{}: {source}", path.display())]
    Io {
        /// The path being read or written.
        path: PathBuf,
        /// The system's own error.
        source: io::Error,
    },
    /// A number that must be finite is not (exit 4).
    #[error("{0}")]
    Numeric(String),
    /// A result does not match what it was checked against (exit 5).
    #[error("{0}")]
    Verification(String),
    /// Memory or disk does not suffice (exit 6).
    #[error("{0}")]
    Resource(String),
    /// Another process holds the folder (exit 7).
    #[error("{}: {problem}", path.display())]
    Locked {
        /// The folder that is locked.
        path: PathBuf,
        /// Who holds it, and what to do.
        problem: String,
    },
    /// A signal stopped the run after it had written a checkpoint (exit 128 + signal).
    #[error("stopped by {name} after step {step}; continue with --resume {}", run.display())]
    Interrupted {
        /// Signal number: 2 for SIGINT, 15 for SIGTERM, 10 for SIGUSR1.
        signal: i32,
        /// Signal name.
        name: &'static str,
        /// Last finished optimizer step.
        step: u64,
        /// The run folder, which holds the checkpoint.
        run: PathBuf,
    },
    /// Anything else (exit 1).
    #[error("{0}")]
    Failed(String),
}

impl Error {
    /// A bad input file.
    pub fn file(path: impl AsRef<Path>, problem: impl Display) -> Self {
        Self::File {
            path: path.as_ref().to_path_buf(),
            problem: problem.to_string(),
        }
    }

    /// A wrong option.
    pub fn config(key: impl Into<String>, problem: impl Display) -> Self {
        Self::Config {
            key: key.into(),
            problem: problem.to_string(),
        }
    }

    /// A system error at a path.
    pub fn io(path: impl AsRef<Path>, source: io::Error) -> Self {
        Self::Io {
            path: path.as_ref().to_path_buf(),
            source,
        }
    }

    /// Exit status of the program for this error, as documented in the README.
    pub fn exit_code(&self) -> u8 {
        match self {
            Self::Failed(_) => 1,
            Self::Config { .. } | Self::Usage(_) => 2,
            Self::File { .. } => 3,
            Self::Io { source, .. } => match source.kind() {
                io::ErrorKind::StorageFull
                | io::ErrorKind::QuotaExceeded
                | io::ErrorKind::ReadOnlyFilesystem
                | io::ErrorKind::OutOfMemory => 6,
                _ if source.raw_os_error() == Some(5) => 6,
                _ => 3,
            },
            Self::Numeric(_) => 4,
            Self::Verification(_) => 5,
            Self::Resource(_) => 6,
            Self::Locked { .. } => 7,
            // SIGUSR1 is how schedulers announce preemption: 75 asks to be queued again.
            Self::Interrupted { signal: 10, .. } => 75,
            Self::Interrupted { signal, .. } => u8::try_from(128 + signal).unwrap_or(1),
        }
    }
}

/// "known: a, b, c; did you mean b?" for a name that is not in a list.
pub fn suggest<'a>(found: &str, known: impl IntoIterator<Item = &'a str>) -> String {
    let mut known: Vec<&str> = known.into_iter().collect();
    known.sort_by(|a, b| {
        let distance = |name: &str| strsim::jaro_winkler(found, name);
        distance(b).total_cmp(&distance(a)).then(a.cmp(b))
    });
    let near: Vec<&str> = known
        .iter()
        .copied()
        .filter(|name| strsim::jaro_winkler(found, name) > 0.75)
        .take(3)
        .collect();
    if near.is_empty() {
        known.sort_unstable();
        let shown = known
            .iter()
            .take(12)
            .copied()
            .collect::<Vec<_>>()
            .join(", ");
        let more = known.len().saturating_sub(12);
        match (known.is_empty(), more) {
            (true, _) => "nothing is known here".into(),
            (false, 0) => format!("known: {shown}"),
            (false, more) => format!("known: {shown} and {more} more"),
        }
    } else {
        format!("did you mean {}?", near.join(", "))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn suggestions_name_the_nearest_or_list_all() {
        assert_eq!(suggest("loar", ["lora", "full"]), "did you mean lora?");
        assert_eq!(suggest("zzz", ["lora", "full"]), "known: full, lora");
    }

    #[test]
    fn a_full_disk_is_a_resource_error() {
        let full = io::Error::from(io::ErrorKind::StorageFull);
        assert_eq!(Error::io("x", full).exit_code(), 6);
        let absent = io::Error::from(io::ErrorKind::NotFound);
        assert_eq!(Error::io("x", absent).exit_code(), 3);
    }
}
