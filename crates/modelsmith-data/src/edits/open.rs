//! A file of edits from disk to checked requests.

use std::cell::RefCell;
use std::collections::BTreeSet;
use std::path::{Path, PathBuf};

use modelsmith_core::error::Result;

use super::fault::Faults;
use super::fields::Fields;
use super::formats::EditFormat;
use super::records;
use super::request::{EditRequest, Instance};
use super::validate::{Conflicts, HostChecks, Located, overridden};

/// How a file of edits is read.
#[derive(Clone, Debug)]
pub struct OpenEdits {
    /// Layout of its records.
    pub format: EditFormat,
    /// Records at most; 0 for all.
    pub limit: usize,
    /// What becomes of edits that contradict each other.
    pub conflicts: Conflicts,
    /// Faults shown at most.
    pub shown: usize,
}

impl Default for OpenEdits {
    fn default() -> Self {
        Self {
            format: EditFormat::Auto,
            limit: 0,
            conflicts: Conflicts::Refuse,
            shown: 20,
        }
    }
}

/// The requests of a file.
#[derive(Clone, Debug, Default)]
pub struct EditFile {
    /// The file.
    pub path: PathBuf,
    /// Its layout.
    pub format: EditFormat,
    /// The requests in order.
    pub requests: Vec<EditRequest>,
    /// Line where the record of each request begins.
    pub lines: Vec<u64>,
    /// Questions over several hops, of files that have them.
    pub instances: Vec<Instance>,
    /// Requests left out because a later one contradicts them.
    pub overridden: usize,
}

/// Reads a file of edits and checks all of it.
///
/// With `host`, targets and prompts are also checked against its tokenizer and its positions.
///
/// # Errors
/// [`Error::File`](modelsmith_core::error::Error::File) with every fault and its line, up to the number shown.
pub fn open(path: impl AsRef<Path>, options: &OpenEdits, host: HostChecks<'_>) -> Result<EditFile> {
    let path = path.as_ref();
    let bytes = records::read(path)?;
    let mut faults = Faults::new(path);
    let mut file = read(path, &bytes, options, &mut faults);
    let located: Vec<Located<'_>> = file.lines.iter().copied().zip(&file.requests).collect();
    super::validate::check_all(&located, options.conflicts, host, &mut faults)?;
    faults.check(options.shown)?;
    if options.conflicts == Conflicts::LastWins {
        file.leave_out(&overridden(&file.requests));
    }
    Ok(file)
}

fn read(path: &Path, bytes: &[u8], options: &OpenEdits, faults: &mut Faults) -> EditFile {
    let mut file = EditFile {
        path: path.to_path_buf(),
        format: options.format,
        ..EditFile::default()
    };
    let limit = match options.limit {
        0 => usize::MAX,
        limit => limit,
    };
    let records = records::records(bytes, faults);
    for (number, record) in records.iter().take(limit).enumerate() {
        let Some(map) = record.object(faults) else {
            continue;
        };
        if file.format == EditFormat::Auto {
            file.format = EditFormat::of(&map);
        }
        let problems = RefCell::default();
        let read = file.format.read(&Fields::new(&map, &problems), number + 1);
        for problem in problems.into_inner() {
            faults.add(record.line, problem);
        }
        file.lines.extend(read.requests.iter().map(|_| record.line));
        file.requests.extend(read.requests);
        file.instances.extend(read.instance);
    }
    file
}

impl EditFile {
    fn leave_out(&mut self, numbers: &BTreeSet<usize>) {
        let mut number = 0..;
        self.requests.retain(|_| {
            number
                .next()
                .is_some_and(|number| !numbers.contains(&number))
        });
        let mut number = 0..;
        self.lines.retain(|_| {
            number
                .next()
                .is_some_and(|number| !numbers.contains(&number))
        });
        self.overridden = numbers.len();
    }
}
