//! Why a command ends before its time.

use modelsmith_engine::Error;
use std::io;

/// Result of a command.
pub(crate) type Outcome<T = ()> = Result<T, Failure>;

/// The two ways in which a command ends early.
#[derive(Debug)]
pub(crate) enum Failure {
    /// Something is wrong, and the user is told.
    Error(Error),
    /// Whoever read the output has read enough, as `head` does.
    ClosedPipe,
}

impl From<Error> for Failure {
    fn from(error: Error) -> Self {
        Self::Error(error)
    }
}

impl Failure {
    /// What a failed write to the standard output means.
    pub(crate) fn of_output(error: io::Error) -> Self {
        if error.kind() == io::ErrorKind::BrokenPipe {
            Self::ClosedPipe
        } else {
            Self::Error(Error::io("standard output", error))
        }
    }
}
