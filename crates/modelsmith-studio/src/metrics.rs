//! Following files that a run appends to, and thinning curves for the page.

use serde::Serialize;
use serde_json::Value;
use std::collections::BTreeMap;
use std::fs::File;
use std::io::{self, Read, Seek, SeekFrom};
use std::path::PathBuf;

/// Bytes read at once.
const BLOCK: u64 = 64 << 10;
/// Points of a curve that is sent whole; twice this many at most.
const POINTS: usize = 800;

/// A file that grows.
#[derive(Debug)]
pub(crate) struct Tail {
    path: PathBuf,
    /// Where the next read begins.
    pub(crate) offset: u64,
}

/// What a look at the file found.
#[derive(Debug, PartialEq)]
pub(crate) enum Grown {
    /// Nothing new, or no file yet.
    Nothing,
    /// Whole lines.
    Lines(Vec<u8>),
    /// The file is shorter than what was read of it: a resumed run cut it back.
    CutBack,
}

impl Tail {
    /// Follows a file from an offset.
    pub(crate) fn new(path: PathBuf, offset: u64) -> Self {
        Self { path, offset }
    }

    /// Begins so near the end that at most one block is read.
    pub(crate) fn near_end(path: PathBuf) -> Self {
        let length = path.metadata().map_or(0, |found| found.len());
        Self::new(path, length.saturating_sub(BLOCK))
    }

    /// The next whole lines, at most a block of them.
    ///
    /// # Errors
    /// The file cannot be read.
    pub(crate) fn next(&mut self) -> io::Result<Grown> {
        let mut file = match File::open(&self.path) {
            Ok(file) => file,
            Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(Grown::Nothing),
            Err(error) => return Err(error),
        };
        if file.metadata()?.len() < self.offset {
            self.offset = 0;
            return Ok(Grown::CutBack);
        }
        file.seek(SeekFrom::Start(self.offset))?;
        let mut bytes = Vec::new();
        file.take(BLOCK).read_to_end(&mut bytes)?;
        let whole = match bytes.iter().rposition(|byte| *byte == b'\n') {
            Some(end) => end + 1,
            // A line longer than a block is passed on in pieces.
            None if bytes.len() as u64 == BLOCK => bytes.len(),
            None => return Ok(Grown::Nothing),
        };
        bytes.truncate(whole);
        self.offset += whole as u64;
        Ok(Grown::Lines(bytes))
    }
}

/// The records of some lines; `None` when a line is none, as after a file was rewritten.
pub(crate) fn records(lines: &[u8]) -> Option<Vec<Value>> {
    let lines = lines
        .split(|byte| *byte == b'\n')
        .filter(|line| !line.is_empty());
    lines
        .map(|line| serde_json::from_slice(line).ok().filter(Value::is_object))
        .collect()
}

/// A curve: (step, value).
pub(crate) type Curve = Vec<(u64, f64)>;

/// Every curve of a run by `kind.value`, thinned.
///
/// # Errors
/// The file cannot be read.
pub(crate) fn curves(path: PathBuf) -> io::Result<BTreeMap<String, Curve>> {
    let mut tail = Tail::new(path, 0);
    let mut all: BTreeMap<String, Curve> = BTreeMap::new();
    while let Grown::Lines(lines) = tail.next()? {
        for record in records(&lines).into_iter().flatten() {
            let (Some(kind), Some(step)) = (record["kind"].as_str(), record["step"].as_u64())
            else {
                continue;
            };
            for (name, value) in record.as_object().into_iter().flatten() {
                if let (true, Some(value)) = (name != "step", value.as_f64()) {
                    all.entry(format!("{kind}.{name}"))
                        .or_default()
                        .push((step, value));
                }
            }
        }
    }
    Ok(all
        .into_iter()
        .map(|(name, curve)| (name, thinned(curve)))
        .collect())
}

/// Lowest and highest point of each of `POINTS` stretches, so that peaks stay.
fn thinned(curve: Curve) -> Curve {
    if curve.len() <= 2 * POINTS {
        return curve;
    }
    let stretch = curve.len().div_ceil(POINTS);
    let mut kept = Vec::with_capacity(2 * POINTS);
    for points in curve.chunks(stretch) {
        let by_value = |a: &&(u64, f64), b: &&(u64, f64)| a.1.total_cmp(&b.1);
        let (Some(low), Some(high)) = (
            points.iter().min_by(by_value),
            points.iter().max_by(by_value),
        ) else {
            continue;
        };
        kept.push(*if low.0 <= high.0 { low } else { high });
        if low.0 != high.0 {
            kept.push(*if low.0 <= high.0 { high } else { low });
        }
    }
    kept
}

/// A batch of records with the offset after them.
#[derive(Debug, Serialize)]
pub(crate) struct Batch {
    pub(crate) offset: u64,
    pub(crate) records: Vec<Value>,
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_tail_gives_whole_lines_and_notices_a_cut() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("metrics.jsonl");
        let mut tail = Tail::new(path.clone(), 0);
        assert_eq!(tail.next().unwrap(), Grown::Nothing);
        std::fs::write(&path, "{\"a\":1}\n{\"b\"").unwrap();
        assert_eq!(tail.next().unwrap(), Grown::Lines(b"{\"a\":1}\n".to_vec()));
        assert_eq!(tail.next().unwrap(), Grown::Nothing);
        std::fs::write(&path, "").unwrap();
        assert_eq!(tail.next().unwrap(), Grown::CutBack);
        assert_eq!(tail.offset, 0);
        assert_eq!(records(b"{\"a\":1}\n:2}\n"), None);
    }

    #[test]
    fn long_curves_are_thinned_and_keep_their_peak() {
        let mut curve: Curve = (0..100_000).map(|step| (step, 1.0)).collect();
        curve[54_321].1 = 99.0;
        let kept = thinned(curve);
        assert!(
            kept.len() <= 2 * POINTS && kept.contains(&(54_321, 99.0)),
            "{}",
            kept.len()
        );
        assert!(kept.windows(2).all(|pair| pair[0].0 < pair[1].0));
    }
}
