//! Where a row stands in its file, for messages.

use std::fs::File;
use std::io::{BufReader, Read};
use std::path::{Path, PathBuf};
use std::sync::Arc;

use modelsmith_core::error::Error;

/// The place of a row.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Location {
    pub(crate) path: Arc<PathBuf>,
    /// Number of the row in its file, from 0.
    pub(crate) row: u64,
    /// Byte where the row starts; `None` in files without lines.
    pub(crate) offset: Option<u64>,
}

impl Location {
    /// The file.
    pub fn path(&self) -> &Path {
        &self.path
    }

    /// Number of the row in its file, from 0.
    pub fn row(&self) -> u64 {
        self.row
    }

    /// Line of the file where the row starts, from 1; read from the file, for it is needed in
    /// messages only and would cost a number per row in memory. `None` in files without lines.
    pub fn line(&self) -> Option<u64> {
        let mut file = BufReader::new(File::open(&*self.path).ok()?).take(self.offset?);
        let mut buffer = vec![0; 1 << 16];
        let mut line = 1;
        loop {
            let read = file.read(&mut buffer).ok()?;
            if read == 0 {
                return Some(line);
            }
            line += buffer[..read].iter().filter(|byte| **byte == b'\n').count() as u64;
        }
    }

    /// An error about this row.
    pub fn error(&self, problem: impl std::fmt::Display) -> Error {
        self.error_below(0, None, problem)
    }

    /// An error `lines` lines below the start of the row, at a column counted in bytes from 1.
    pub(crate) fn error_below(
        &self,
        lines: u64,
        column: Option<usize>,
        problem: impl std::fmt::Display,
    ) -> Error {
        let place = match (self.line(), column) {
            (Some(line), Some(column)) => format!("line {}, column {column}", line + lines),
            (Some(line), None) => format!("line {}", line + lines),
            (None, _) => format!("row {}", self.row + 1),
        };
        Error::file(&*self.path, format!("{place}: {problem}"))
    }
}
