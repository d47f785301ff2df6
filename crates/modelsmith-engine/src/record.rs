//! `record.json`: who wrote a run and when, what it warned of, and checksums of what it left.

use crate::index;
use crate::recipe::Recipe;
use crate::report;
use crate::run_folder::RunFolder;
use crate::run_info::State;
use crate::train::{Event, Observer};
use crate::tune::Summary;
use modelsmith_core::error::{Error, Result};
use modelsmith_core::files::{atomic_json, read_json};
use serde::{Deserialize, Serialize};
use std::path::{Path, PathBuf};
use std::time::{Instant, SystemTime, UNIX_EPOCH};

/// What is not checksummed: it changes after the run, or is only of use to the run itself.
const LEFT_OUT: [&str; 6] = [
    "lock",
    "record.json",
    "report.html",
    "checkpoints",
    "tensorboard",
    "quickstart.json",
];

/// The record of a run.
#[derive(Clone, Debug, Default, Serialize, Deserialize)]
#[serde(default)]
pub struct Record {
    /// Version of the program that wrote the last attempt.
    pub version: String,
    /// Fingerprint of the recipe.
    pub recipe: String,
    /// Every process that worked on the run, first to last.
    pub attempts: Vec<Attempt>,
    /// What it warned of, and how often.
    pub warnings: Vec<Warning>,
    /// Files it left, with checksums.
    pub artifacts: Vec<Artifact>,
}

/// One process that worked on a run.
#[derive(Clone, Debug, Default, Serialize, Deserialize)]
#[serde(default)]
pub struct Attempt {
    /// Its process id.
    pub pid: u32,
    /// When it began, in seconds since 1970.
    pub started: u64,
    /// When it ended; absent when it was killed or is at work.
    pub ended: Option<u64>,
    /// How it ended.
    pub outcome: Option<State>,
    /// What it failed with.
    pub error: Option<String>,
    /// Seconds it took.
    pub seconds: Option<f64>,
    /// Its peak resident memory in bytes.
    pub peak_memory: Option<u64>,
}

/// Something that a user should know, and how often it was said.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Warning {
    /// What was said.
    pub text: String,
    /// How often.
    pub count: u64,
}

/// A file of a run.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Artifact {
    /// Path below the run folder.
    pub path: String,
    /// Its size.
    pub bytes: u64,
    /// Its blake3 hash, in hexadecimal.
    pub blake3: String,
}

impl Record {
    /// The record of a run folder; an empty one where it is absent or damaged.
    pub fn read(run: &Path) -> Self {
        read_json(run.join("record.json")).unwrap_or_default()
    }

    /// Seconds over all attempts whose end is known.
    pub fn seconds(&self) -> Option<f64> {
        self.attempts
            .iter()
            .filter_map(|one| one.seconds)
            .reduce(|a, b| a + b)
    }

    /// Files that are gone or have other bytes than were recorded.
    pub fn changed_files(&self, run: &Path) -> Vec<String> {
        let differs = |one: &&Artifact| {
            checksum(&run.join(&one.path))
                .is_none_or(|(bytes, hash)| bytes != one.bytes || hash != one.blake3)
        };
        self.artifacts
            .iter()
            .filter(differs)
            .map(|one| one.path.clone())
            .collect()
    }

    fn warn(&mut self, text: &str) {
        match self
            .warnings
            .iter_mut()
            .find(|warning| warning.text == text)
        {
            Some(warning) => warning.count += 1,
            None => self.warnings.push(Warning {
                text: text.to_owned(),
                count: 1,
            }),
        }
    }
}

/// Runs the training of a folder with its record, index and report kept. Whatever of these cannot
/// be written is a warning: a finished adapter is worth more than the account of it.
pub(crate) fn keep(
    folder: RunFolder,
    recipe: &Recipe,
    observer: &mut dyn Observer,
    train: impl FnOnce(&RunFolder, &mut dyn Observer) -> Result<Summary>,
) -> Result<Summary> {
    let path = folder.path().to_path_buf();
    let mut keeper = Keeper::begin(&path, recipe, observer);
    keeper.check("the index", index::update(&path));
    let result = train(&folder, &mut keeper);
    keeper.end(&result);
    let written = report::write_ended(&path);
    keeper.check("the report", written.map(|_| ()));
    // The index derives the state of a run from its lock, which must be gone by then.
    drop(folder);
    keeper.check("the index", index::update(&path));
    result
}

/// Passes events on and keeps the record of the run up to date.
struct Keeper<'a> {
    run: PathBuf,
    record: Record,
    began: Instant,
    observer: &'a mut dyn Observer,
}

impl<'a> Keeper<'a> {
    fn begin(run: &Path, recipe: &Recipe, observer: &'a mut dyn Observer) -> Self {
        let mut record = Record::read(run);
        record.version = env!("CARGO_PKG_VERSION").to_owned();
        record.recipe = recipe.fingerprint();
        record.artifacts.clear();
        record.attempts.push(Attempt {
            pid: std::process::id(),
            started: now(),
            ..Attempt::default()
        });
        let mut keeper = Self {
            run: run.to_path_buf(),
            record,
            began: Instant::now(),
            observer,
        };
        keeper.write();
        keeper
    }

    fn end(&mut self, result: &Result<Summary>) {
        if result.is_ok() {
            self.record.artifacts = artifacts(&self.run);
        }
        let seconds = self.began.elapsed().as_secs_f64();
        if let Some(last) = self.record.attempts.last_mut() {
            last.ended = Some(now());
            last.seconds = Some(seconds);
            last.peak_memory = crate::memory::peak_resident();
            last.outcome = Some(match result {
                Ok(_) => State::Finished,
                Err(Error::Interrupted { .. }) => State::Interrupted,
                Err(_) => State::Failed,
            });
            last.error = result.as_ref().err().map(ToString::to_string);
        }
        self.write();
    }

    fn write(&mut self) {
        let written = atomic_json(self.run.join("record.json"), &self.record);
        self.check("the record", written);
    }

    fn check(&mut self, what: &str, result: Result<()>) {
        if let Err(error) = result {
            self.event(Event::Warning(format!(
                "{what} of the run was not written: {error}"
            )));
        }
    }
}

impl Observer for Keeper<'_> {
    fn event(&mut self, event: Event) {
        if let Event::Warning(text) = &event {
            self.record.warn(text);
        }
        self.observer.event(event);
    }
}

fn now() -> u64 {
    SystemTime::now()
        .duration_since(UNIX_EPOCH)
        .map_or(0, |time| time.as_secs())
}

/// Size and hash of a file; `None` where it cannot be read.
fn checksum(path: &Path) -> Option<(u64, String)> {
    let mut hasher = blake3::Hasher::new();
    hasher.update_mmap_rayon(path).ok()?;
    Some((hasher.count(), hasher.finalize().to_hex().to_string()))
}

/// All files of a run but those that change later, sorted by path.
fn artifacts(run: &Path) -> Vec<Artifact> {
    let mut found = Vec::new();
    collect(run, "", &mut found);
    found.sort_by(|a, b| a.path.cmp(&b.path));
    found
}

fn collect(folder: &Path, prefix: &str, found: &mut Vec<Artifact>) {
    let entries = std::fs::read_dir(folder).into_iter().flatten().flatten();
    for entry in entries {
        let name = entry.file_name().to_string_lossy().into_owned();
        if (prefix.is_empty() && LEFT_OUT.contains(&name.as_str())) || name.starts_with('.') {
            continue;
        }
        let path = format!("{prefix}{name}");
        match entry.file_type() {
            Ok(kind) if kind.is_dir() => collect(&entry.path(), &format!("{path}/"), found),
            Ok(kind) if kind.is_file() => {
                if let Some((bytes, blake3)) = checksum(&entry.path()) {
                    found.push(Artifact {
                        path,
                        bytes,
                        blake3,
                    });
                }
            }
            _ => {}
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn equal_warnings_are_counted() {
        let mut record = Record::default();
        for text in ["a", "b", "a"] {
            record.warn(text);
        }
        let counts: Vec<u64> = record
            .warnings
            .iter()
            .map(|warning| warning.count)
            .collect();
        assert_eq!(counts, [2, 1]);
    }

    #[test]
    fn checksums_notice_changed_and_missing_files() {
        let dir = tempfile::tempdir().unwrap();
        std::fs::create_dir(dir.path().join("adapter")).unwrap();
        std::fs::write(dir.path().join("adapter/a"), "one").unwrap();
        std::fs::write(dir.path().join("summary.json"), "{}").unwrap();
        std::fs::write(dir.path().join("lock"), "pid 1").unwrap();
        let record = Record {
            artifacts: artifacts(dir.path()),
            ..Record::default()
        };
        let paths: Vec<&str> = record
            .artifacts
            .iter()
            .map(|one| one.path.as_str())
            .collect();
        assert_eq!(paths, ["adapter/a", "summary.json"]);
        assert!(record.changed_files(dir.path()).is_empty());
        std::fs::write(dir.path().join("adapter/a"), "two").unwrap();
        std::fs::remove_file(dir.path().join("summary.json")).unwrap();
        assert_eq!(
            record.changed_files(dir.path()),
            ["adapter/a", "summary.json"]
        );
    }
}
