//! The facts of a file.

use super::facts::Statement;
use crate::recipe::Named;
use crate::registry::edit_method;
use modelsmith_core::error::Result;
use modelsmith_data::Tokenizer;
use modelsmith_data::edits::{Conflicts, EditFile, EditFormat, EditRequest, HostChecks, OpenEdits};
use modelsmith_methods::edit::Way;
use std::path::Path;

/// Whether an editor writes one fact at a time.
///
/// # Errors
/// An unknown editor or option.
pub fn writes_one(method: &Named) -> Result<bool> {
    Ok(match edit_method(method)?.way() {
        Way::ClosedForm(form) => form.plan().single,
        Way::FineTune(_) => false,
    })
}

/// The requests of a file, all of it checked against the tokenizer of the model in `host`; of edits that
/// contradict each other the last one stays if `last_wins`, and they are faults otherwise.
///
/// # Errors
/// All faults of the file at once, each with its line.
pub fn requests(path: &Path, host: &Path, limit: usize, last_wins: bool) -> Result<EditFile> {
    crate::model::check_folder(host)?;
    let tokenizer = Tokenizer::load(host)?;
    let options = OpenEdits {
        format: EditFormat::Auto,
        limit,
        conflicts: match last_wins {
            true => Conflicts::LastWins,
            false => Conflicts::Refuse,
        },
        ..OpenEdits::default()
    };
    let encode = |text: &str, special: bool| tokenizer.encode(text, special);
    let checks = HostChecks {
        encode: Some(&encode),
        positions: None,
    };
    modelsmith_data::edits::open(path, &options, checks)
}

impl From<&EditRequest> for Statement {
    fn from(request: &EditRequest) -> Self {
        Self {
            id: request.id.clone(),
            prompt: request.prompt.clone(),
            subject: request.subject.clone(),
            target: request.target_new.clone(),
        }
    }
}
