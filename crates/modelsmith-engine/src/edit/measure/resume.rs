//! Measurements that are written as they are made, and go on where they stopped.

use super::forced::Scored;
use super::record::{Record, read_records, write_records};
use super::score::{MeasureOptions, score_each};
use super::summary::Summary;
use modelsmith_core::error::Result;
use modelsmith_data::edits::EditRequest;
use std::collections::BTreeSet;
use std::path::Path;

/// Requests between two writings of the file.
const EVERY: usize = 256;

/// Measures the requests that the file of records does not have yet, and writes it from time to time, so
/// that a measurement that was stopped loses little. Gives the table of all requests.
///
/// # Errors
/// A file that holds something else, and as [`score`](super::score()).
pub fn score_file(
    model: &Scored<'_>,
    requests: &[EditRequest],
    options: &MeasureOptions<'_>,
    path: &Path,
) -> Result<Summary> {
    let mut records = match path.exists() {
        true => read_records(path)?,
        false => Vec::new(),
    };
    let known: BTreeSet<&str> = records.iter().map(|record| record.id.as_str()).collect();
    let left: Vec<EditRequest> = requests
        .iter()
        .filter(|request| !known.contains(request.id.as_str()))
        .cloned()
        .collect();
    for some in left.chunks(EVERY) {
        score_each(model, some, options, &mut |record| {
            records.push(record);
            Ok(())
        })?;
        write_records(path, &records)?;
    }
    let asked: BTreeSet<&str> = requests.iter().map(|request| request.id.as_str()).collect();
    let own: Vec<Record> = records
        .into_iter()
        .filter(|record| asked.contains(record.id.as_str()))
        .collect();
    Summary::of(&own)
}
