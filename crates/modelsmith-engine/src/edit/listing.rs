//! What a folder of edits holds, and taking some of it out.

use super::folder::{EditFolder, Entry, Header};
use modelsmith_core::error::Result;
use serde::Serialize;

/// A folder of edits as lists show it.
#[derive(Clone, Debug, Serialize)]
pub struct Listing {
    /// What all batches have in common.
    pub header: Header,
    /// The batches by number.
    pub batches: Vec<(u64, Entry)>,
}

/// The batches of a folder.
///
/// # Errors
/// A damaged batch.
pub fn listing(folder: &EditFolder) -> Result<Listing> {
    let entry = |number: u64| Ok((number, folder.entry(number)?));
    Ok(Listing {
        header: folder.header.clone(),
        batches: folder
            .steps()?
            .into_iter()
            .map(entry)
            .collect::<Result<_>>()?,
    })
}

/// Takes batches out of a folder, the last first.
///
/// # Errors
/// A number that is not made; then none is taken out.
pub fn undo(folder: &EditFolder, numbers: &[u64]) -> Result<()> {
    for number in numbers {
        folder.entry(*number)?;
    }
    let mut numbers = numbers.to_vec();
    numbers.sort_unstable();
    numbers.dedup();
    numbers
        .iter()
        .rev()
        .try_for_each(|number| folder.undo(*number))
}
