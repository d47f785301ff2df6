//! The revisions themselves: lines of JSON, one a revision, written whole and atomically at each change.

use modelsmith_core::error::{Error, Result};
use modelsmith_core::files::{atomic_bytes, parse_json};
use serde::{Deserialize, Serialize};
use std::path::{Path, PathBuf};

/// A correction of a user.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct Revision {
    /// Its number in the store, from 1; never given twice.
    pub id: u64,
    /// The statement or question.
    pub question: String,
    /// The answer wanted.
    pub answer: String,
    /// Who wants it.
    pub author: String,
    /// When it was given, in seconds since 1970.
    pub time: u64,
    /// For whom it counts; empty for all.
    pub scope: String,
    /// Whether it counts at all.
    pub active: bool,
}

/// Which revisions are meant.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Filter<'a> {
    /// Of this author only.
    pub author: Option<&'a str>,
    /// That count for this scope: its own and those for all.
    pub scope: Option<&'a str>,
    /// Those that do not count too.
    pub inactive: bool,
}

impl Filter<'_> {
    fn takes(&self, revision: &Revision) -> bool {
        let author = self.author.is_none_or(|author| revision.author == author);
        let scope = self
            .scope
            .is_none_or(|scope| revision.scope.is_empty() || revision.scope == scope);
        author && scope && (self.inactive || revision.active)
    }
}

/// What became of a merge.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Merged {
    /// Revisions taken over, by their new numbers.
    pub added: Vec<u64>,
    /// Those that were there already.
    pub same: usize,
    /// Pairs of this store and the other with one question and two answers, by number; both are kept.
    pub conflicts: Vec<(u64, u64)>,
}

/// Revisions, in the order in which they were added.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Store {
    path: Option<PathBuf>,
    revisions: Vec<Revision>,
    /// The number that the next revision gets.
    next: u64,
}

/// The first line of the file.
#[derive(Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
struct Head {
    revisions: u32,
    next: u64,
}

/// Version of the file's form.
const VERSION: u32 = 1;

impl Store {
    /// A store in memory.
    pub fn new() -> Self {
        Self {
            next: 1,
            ..Self::default()
        }
    }

    /// The store of a file; one that is not there yet is empty.
    ///
    /// # Errors
    /// A file that cannot be read, or a line that is no revision, with its number.
    pub fn open(path: &Path) -> Result<Self> {
        let mut store = Self {
            path: Some(path.to_path_buf()),
            ..Self::new()
        };
        if !path.exists() {
            return Ok(store);
        }
        let bytes = std::fs::read(path).map_err(|problem| Error::io(path, problem))?;
        let text = std::str::from_utf8(&bytes)
            .map_err(|_| Error::file(path, "is not UTF-8; a store is lines of JSON"))?;
        for (number, line) in text.lines().enumerate() {
            let at = |problem: Error| {
                let name = format!("{}:{}", path.display(), number + 1);
                Error::file(name, problem)
            };
            if number == 0 {
                let head: Head = parse_json(path, line.as_bytes()).map_err(at)?;
                if head.revisions != VERSION {
                    let problem = format!(
                        "is a store of version {}; expected {VERSION}",
                        head.revisions
                    );
                    return Err(Error::file(path, problem));
                }
                store.next = head.next;
                continue;
            }
            let revision: Revision = parse_json(path, line.as_bytes()).map_err(at)?;
            if revision.id >= store.next || store.get(revision.id).is_some() {
                let problem = format!(
                    "line {}: number {} is out of range or there twice",
                    number + 1,
                    revision.id
                );
                return Err(Error::file(path, problem));
            }
            store.revisions.push(revision);
        }
        Ok(store)
    }

    /// Writes the file, where the store has one.
    fn keep(&self) -> Result<()> {
        let Some(path) = &self.path else {
            return Ok(());
        };
        atomic_bytes(path, self.export()?.as_bytes())
    }

    /// The store as text.
    ///
    /// # Errors
    /// None for revisions that were read or added here.
    pub fn export(&self) -> Result<String> {
        let failed = |problem| Error::Failed(format!("a revision cannot be written: {problem}"));
        let head = Head {
            revisions: VERSION,
            next: self.next,
        };
        let mut text = serde_json::to_string(&head).map_err(failed)?;
        for revision in &self.revisions {
            text.push('\n');
            text.push_str(&serde_json::to_string(revision).map_err(failed)?);
        }
        text.push('\n');
        Ok(text)
    }

    /// Adds revisions under new numbers, active, and gives the numbers.
    ///
    /// # Errors
    /// One without question or answer, or with a line break; a file that cannot be written, which leaves the
    /// store as it was.
    pub fn add(&mut self, revisions: impl IntoIterator<Item = Revision>) -> Result<Vec<u64>> {
        let before = self.clone();
        let mut numbers = Vec::new();
        for revision in revisions {
            check(&revision)?;
            numbers.push(self.next);
            self.revisions.push(Revision {
                id: self.next,
                active: true,
                ..revision
            });
            self.next += 1;
        }
        self.keep().inspect_err(|_| *self = before)?;
        Ok(numbers)
    }

    /// Replaces question, answer, scope and whether it counts.
    ///
    /// # Errors
    /// As [`Store::add`]; a number that there is not.
    pub fn update(&mut self, revision: Revision) -> Result<()> {
        check(&revision)?;
        let before = self.clone();
        let place = self.place(revision.id)?;
        self.revisions[place] = revision;
        self.keep().inspect_err(|_| *self = before)
    }

    /// Takes a revision out for good, and gives it.
    ///
    /// # Errors
    /// A number that there is not; a file that cannot be written.
    pub fn remove(&mut self, id: u64) -> Result<Revision> {
        let before = self.clone();
        let place = self.place(id)?;
        let removed = self.revisions.remove(place);
        self.keep().inspect_err(|_| *self = before)?;
        Ok(removed)
    }

    /// A revision by its number.
    pub fn get(&self, id: u64) -> Option<&Revision> {
        self.revisions.iter().find(|revision| revision.id == id)
    }

    /// Revisions that a filter takes.
    pub fn list<'s>(&'s self, filter: Filter<'s>) -> impl Iterator<Item = &'s Revision> {
        self.revisions
            .iter()
            .filter(move |revision| filter.takes(revision))
    }

    /// All revisions, whether they count or not.
    pub fn len(&self) -> usize {
        self.revisions.len()
    }

    /// Whether there is none.
    pub fn is_empty(&self) -> bool {
        self.revisions.is_empty()
    }

    /// Takes over another store's revisions. Same question, answer and scope: there already. Same question and
    /// scope with another answer: taken over, and told.
    ///
    /// # Errors
    /// A file that cannot be written, which leaves the store as it was.
    pub fn merge(&mut self, other: &Self) -> Result<Merged> {
        let mut merged = Merged::default();
        let mut fresh = Vec::new();
        for revision in &other.revisions {
            let key = |r: &Revision| (r.question.trim().to_lowercase(), r.scope.clone());
            let known = self
                .revisions
                .iter()
                .filter(|own| key(own) == key(revision));
            let known: Vec<&Revision> = known.collect();
            if known.iter().any(|own| own.answer == revision.answer) {
                merged.same += 1;
                continue;
            }
            merged
                .conflicts
                .extend(known.iter().map(|own| (own.id, revision.id)));
            fresh.push(revision.clone());
        }
        let inactive: Vec<bool> = fresh.iter().map(|revision| !revision.active).collect();
        merged.added = self.add(fresh)?;
        for (id, inactive) in merged.added.iter().zip(inactive) {
            if let (true, Some(revision)) = (inactive, self.get(*id).cloned()) {
                self.update(Revision {
                    active: false,
                    ..revision
                })?;
            }
        }
        Ok(merged)
    }

    fn place(&self, id: u64) -> Result<usize> {
        let place = self.revisions.iter().position(|revision| revision.id == id);
        place.ok_or_else(|| {
            Error::Usage(format!(
                "there is no revision {id}; list them to see the numbers"
            ))
        })
    }
}

fn check(revision: &Revision) -> Result<()> {
    for (name, text) in [
        ("question", &revision.question),
        ("answer", &revision.answer),
    ] {
        if text.trim().is_empty() {
            return Err(Error::Usage(format!("a revision needs a {name}")));
        }
        if text.contains(['\n', '\r']) {
            return Err(Error::Usage(format!(
                "the {name} of a revision is one line of text"
            )));
        }
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn revision(question: &str, answer: &str, author: &str, scope: &str) -> Revision {
        Revision {
            question: question.into(),
            answer: answer.into(),
            author: author.into(),
            scope: scope.into(),
            time: 1_700_000_000,
            ..Revision::default()
        }
    }

    #[test]
    fn a_store_is_what_its_file_says() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("revisions.jsonl");
        let mut store = Store::open(&path).unwrap();
        let numbers = store
            .add([
                revision("I should lie", "No", "ann", ""),
                revision("I should smile", "Yes", "bob", "bob"),
            ])
            .unwrap();
        assert_eq!(numbers, [1, 2]);
        assert_eq!(Store::open(&path).unwrap(), store);
        let removed = store.remove(2).unwrap();
        assert_eq!(removed.author, "bob");
        // A number is never given twice, so that what was exported stays unambiguous.
        assert_eq!(store.add([removed]).unwrap(), [3]);
        let mut off = store.get(1).unwrap().clone();
        off.active = false;
        store.update(off).unwrap();
        let again = Store::open(&path).unwrap();
        assert_eq!(again, store);
        let shown = |filter| again.list(filter).map(|found| found.id).collect::<Vec<_>>();
        assert_eq!(shown(Filter::default()), [3]);
        assert_eq!(
            shown(Filter {
                inactive: true,
                ..Filter::default()
            }),
            [1, 3]
        );
        assert_eq!(
            shown(Filter {
                scope: Some("ann"),
                ..Filter::default()
            }),
            [0_u64; 0]
        );
        assert_eq!(
            shown(Filter {
                author: Some("bob"),
                ..Filter::default()
            }),
            [3]
        );
    }

    #[test]
    fn broken_files_and_revisions_are_refused() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("revisions.jsonl");
        let refused = |text: &str| {
            atomic_bytes(&path, text.as_bytes()).unwrap();
            Store::open(&path).unwrap_err().to_string()
        };
        let head = "{\"revisions\":1,\"next\":2}\n";
        assert!(refused("{\"revisions\":9,\"next\":2}\n").contains("version 9"));
        assert!(refused(&format!("{head}{{\"id\":1,\"wrong\":2}}\n")).contains("jsonl:2"));
        assert!(refused(&format!("{head}{{\"id\":7}}\n")).contains("number 7"));
        let mut store = Store::new();
        assert!(store.add([revision("", "No", "", "")]).is_err());
        assert!(store.add([revision("a", "two\nlines", "", "")]).is_err());
        assert!(store.is_empty());
        assert!(
            store
                .remove(1)
                .unwrap_err()
                .to_string()
                .contains("no revision 1")
        );
    }

    #[test]
    fn a_merge_takes_over_what_is_new_and_tells_what_conflicts() {
        let (mut ours, mut theirs) = (Store::new(), Store::new());
        ours.add([
            revision("I should lie", "No", "a", ""),
            revision("I should smile", "Yes", "a", ""),
        ])
        .unwrap();
        theirs
            .add([
                revision("i should lie ", "Yes", "b", ""),
                revision("I should smile", "Yes", "b", ""),
                revision("I should run", "Yes", "b", ""),
            ])
            .unwrap();
        let mut off = theirs.get(3).unwrap().clone();
        off.active = false;
        theirs.update(off).unwrap();
        let merged = ours.merge(&theirs).unwrap();
        assert_eq!(merged.same, 1);
        assert_eq!(merged.added, [3, 4]);
        assert_eq!(merged.conflicts, [(1, 1)]);
        assert!(!ours.get(4).unwrap().active);
    }
}
