//! What a model held before its first edit. Recorded once from the untouched model: taken from a model
//! that was edited already, locality would be measured against itself.

use super::forced::Scored;
use super::score::kept;
use modelsmith_core::error::{Error, Result};
use modelsmith_core::files::{atomic_json, read_json};
use modelsmith_data::edits::EditRequest;
use serde::{Deserialize, Serialize};
use std::collections::BTreeMap;
use std::path::Path;

/// The likeliest tokens at the places that locality looks at, by request.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Before {
    best: BTreeMap<String, Vec<Vec<u32>>>,
}

impl Before {
    /// Asks the untouched model.
    ///
    /// # Errors
    /// As [`score`](super::score()).
    pub fn record(model: &Scored<'_>, requests: &[EditRequest]) -> Result<Self> {
        let ids = requests.iter().map(|request| request.id.clone());
        Ok(Self {
            best: ids.zip(kept(model, requests)?).collect(),
        })
    }

    /// Writes it, so that a run that goes on later has it.
    ///
    /// # Errors
    /// A file that cannot be written.
    pub fn write(&self, path: &Path) -> Result<()> {
        atomic_json(path, self)
    }

    /// Reads what [`Before::write`] wrote.
    ///
    /// # Errors
    /// A file that is not of this form.
    pub fn read(path: &Path) -> Result<Self> {
        read_json(path)
    }

    pub(super) fn of(&self, id: &str) -> Result<&[Vec<u32>]> {
        let found = self.best.get(id).map(Vec::as_slice);
        found.ok_or_else(|| {
            Error::Usage(format!(
                "nothing was recorded of request {id:?} before the edits; record the model before the \
                 first one, with all requests"
            ))
        })
    }
}
