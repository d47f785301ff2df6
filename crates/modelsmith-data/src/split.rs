//! Which rows are held out, and what the data was.

use std::fs::File;
use std::path::Path;

use modelsmith_core::error::{Error, Result};

/// Hash of a row's number: uniform in `[0, 1)`, the same for a row whatever rows follow it.
fn lot(seed: u64, row: u64) -> f64 {
    let mut hasher = blake3::Hasher::new();
    hasher
        .update(b"held-out")
        .update(&seed.to_le_bytes())
        .update(&row.to_le_bytes());
    let mut bytes = [0; 8];
    bytes.copy_from_slice(&hasher.finalize().as_bytes()[..8]);
    // 53 bits fill a float's mantissa exactly.
    (u64::from_le_bytes(bytes) >> 11) as f64 / (1u64 << 53) as f64
}

/// Whether a row belongs to the held-out share `fraction` under `seed`.
pub fn is_held_out(seed: u64, row: u64, fraction: f64) -> bool {
    lot(seed, row) < fraction
}

/// Splits rows `0..count` into training and held-out rows.
///
/// With a fraction above 0 and two rows or more, each side gets at least one row; a single row is
/// for training.
pub(crate) fn split(seed: u64, count: u64, fraction: f64) -> (Vec<u64>, Vec<u64>) {
    if count < 2 {
        return ((0..count).collect(), Vec::new());
    }
    let (mut held, mut train): (Vec<u64>, Vec<u64>) =
        (0..count).partition(|row| is_held_out(seed, *row, fraction));
    if fraction > 0.0 {
        let order = |a: &u64, b: &u64| lot(seed, *a).total_cmp(&lot(seed, *b));
        if held.is_empty() {
            held.extend(train.iter().copied().min_by(order));
            train.retain(|row| !held.contains(row));
        } else if train.is_empty() {
            train.extend(held.iter().copied().max_by(order));
            held.retain(|row| !train.contains(row));
        }
    }
    (train, held)
}

/// Blake3 of the contents of files, in hexadecimal: each file's length goes before its bytes.
///
/// # Errors
/// [`Error::Io`] when a file cannot be read.
pub fn content_hash<'a>(paths: impl IntoIterator<Item = &'a Path>) -> Result<String> {
    let mut hasher = blake3::Hasher::new();
    for path in paths {
        let io = |error| Error::io(path, error);
        let file = File::open(path).map_err(io)?;
        hasher.update(&file.metadata().map_err(io)?.len().to_le_bytes());
        hasher.update_reader(file).map_err(io)?;
    }
    Ok(hasher.finalize().to_hex().to_string())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_split_is_stable_as_data_grows() {
        let (train, held) = split(3, 1000, 0.1);
        assert_eq!(train.len() + held.len(), 1000);
        assert!((60..140).contains(&held.len()), "{}", held.len());
        let (_, more) = split(3, 2000, 0.1);
        assert!(more.starts_with(&held));
        assert_ne!(split(4, 1000, 0.1).1, held);
    }

    #[test]
    fn both_sides_get_a_row() {
        assert_eq!(split(0, 3, 1e-9).1.len(), 1);
        assert_eq!(split(0, 3, 0.999_999).0.len(), 1);
        assert_eq!(split(0, 1, 0.999_999).0, [0]);
        assert_eq!(split(0, 5, 0.0).1, Vec::<u64>::new());
    }
}
