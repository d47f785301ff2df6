//! The house world cut for a claim: questions to train on, questions about other people to choose
//! learning rates with, questions about a third group to be judged by, and facts to forget.

use super::file::HouseData;
use crate::house;
use modelsmith_core::error::{Error, Result};
use modelsmith_core::files::atomic_bytes;
use modelsmith_core::random::Stream;
use modelsmith_data::house::{Question, facts, questions};
use serde::Serialize;
use serde_json::json;
use std::collections::BTreeSet;
use std::path::Path;

/// Writes `train.jsonl`, `development.jsonl`, `test.jsonl` and `facts.jsonl`, each row a `prompt`
/// with its `completion`. No person is in two of the first three.
///
/// # Errors
/// No house model in the folder, a share out of range, files that cannot be written.
pub(super) fn write(data: &HouseData, folder: &Path) -> Result<()> {
    if !(data.development_share > 0.0 && data.development_share < 1.0) {
        let problem = format!("is {}; must be above 0 and below 1", data.development_share);
        return Err(Error::config("house.development_share", problem));
    }
    let config = house::config_of(&data.folder)?;
    let (train, test) = questions(&config)?;
    let mut people: Vec<&str> = train
        .iter()
        .map(|question| question.subject.as_str())
        .collect();
    people.sort_unstable();
    people.dedup();
    Stream::new(config.seed, "claim/development").shuffle(&mut people);
    let count = (people.len() as f64 * data.development_share).ceil() as usize;
    let chosen: BTreeSet<&str> = people.into_iter().take(count).collect();
    let apart = |question: &&Question| chosen.contains(question.subject.as_str());
    let (development, train): (Vec<&Question>, Vec<&Question>) = train.iter().partition(apart);
    std::fs::create_dir_all(folder).map_err(|error| Error::io(folder, error))?;
    write_rows(&folder.join("train.jsonl"), train)?;
    write_rows(&folder.join("development.jsonl"), development)?;
    write_rows(&folder.join("test.jsonl"), &test)?;
    let mut known: Vec<_> = facts(&config)?
        .iter()
        .flat_map(|fact| {
            let row =
                |prompt| json!({"prompt": prompt, "completion": format!(" {}.", fact.object)});
            fact.prompts.iter().map(row).collect::<Vec<_>>()
        })
        .collect();
    Stream::new(config.seed, "claim/facts").shuffle(&mut known);
    known.truncate(data.facts);
    write_rows(&folder.join("facts.jsonl"), known)
}

pub(super) fn write_rows<T: Serialize>(
    path: &Path,
    rows: impl IntoIterator<Item = T>,
) -> Result<()> {
    let mut bytes = Vec::new();
    for row in rows {
        serde_json::to_writer(&mut bytes, &row).map_err(|error| Error::file(path, error))?;
        bytes.push(b'\n');
    }
    atomic_bytes(path, &bytes)
}
