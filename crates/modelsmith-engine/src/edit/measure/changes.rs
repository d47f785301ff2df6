//! What changed between two measurements of the same requests: an edited model against the untouched one,
//! or records right after their edits against the same records after the last edit (forgetting).

use super::record::{Protocol, Record};
use crate::claim::bootstrap::{Interval, interval};
use modelsmith_core::error::{Error, Result};
use modelsmith_core::random::Stream;
use std::collections::BTreeMap;

/// Later less earlier, times 100, with a paired 95 % bootstrap interval over records.
pub type Changes = BTreeMap<Protocol, BTreeMap<String, Interval>>;

/// Changes of all scores that both measurements have, over the requests that both have.
///
/// # Errors
/// No request in common, scores that are not finite.
pub fn changes(earlier: &[Record], later: &[Record]) -> Result<Changes> {
    let known: BTreeMap<&str, &Record> = earlier
        .iter()
        .map(|record| (record.id.as_str(), record))
        .collect();
    let mut differences: BTreeMap<(Protocol, &str), Vec<f64>> = BTreeMap::new();
    for record in later {
        let Some(before) = known.get(record.id.as_str()) else {
            continue;
        };
        for (protocol, scores) in &record.scores {
            for (name, value) in scores {
                let other = before.scores.get(protocol).and_then(|all| all.get(name));
                let list = differences.entry((*protocol, name)).or_default();
                list.extend(other.map(|other| 100.0 * (value - other)));
            }
        }
    }
    let mut found = Changes::new();
    for ((protocol, name), values) in differences.into_iter().filter(|(_, all)| !all.is_empty()) {
        let paired = interval(&[values], &format!("edit/change/{name}"))?;
        found
            .entry(protocol)
            .or_default()
            .insert(name.to_owned(), paired);
    }
    if found.is_empty() {
        return Err(Error::Usage(
            "the two measurements have no request in common; compare measurements of the same file"
                .into(),
        ));
    }
    Ok(found)
}

/// Numbers of a random share of `count` requests, in order, for a final measurement of long sequences:
/// at least one of any.
pub fn sampled_share(count: usize, share: f64, seed: u64) -> Vec<usize> {
    let wanted = (count as f64 * share.clamp(0.0, 1.0)).round() as usize;
    let mut numbers: Vec<usize> = (0..count).collect();
    Stream::new(seed, "edit/measure/share").shuffle(&mut numbers);
    numbers.truncate(wanted.clamp(count.min(1), count));
    numbers.sort_unstable();
    numbers
}

#[cfg(test)]
mod tests {
    use super::*;

    fn record(id: &str, es: f64) -> Record {
        let scores = BTreeMap::from([("ES".to_owned(), es)]);
        Record {
            id: id.into(),
            scores: BTreeMap::from([(Protocol::PairProb, scores)]),
            ..Record::default()
        }
    }

    #[test]
    fn changes_are_paired_by_request() {
        let earlier = [record("a", 1.0), record("b", 1.0), record("c", 0.5)];
        let later = [record("c", 0.0), record("d", 1.0), record("a", 0.5)];
        let found = changes(&earlier, &later).unwrap();
        let es = found[&Protocol::PairProb]["ES"];
        assert_eq!((es.difference, es.low, es.high), (-50.0, -50.0, -50.0));
        assert!(changes(&earlier[..1], &later[..2]).is_err());
    }

    #[test]
    fn a_share_is_drawn_once_and_for_all() {
        let some = sampled_share(1000, 0.2, 3);
        assert_eq!(some.len(), 200);
        assert!(some.windows(2).all(|pair| pair[0] < pair[1]));
        assert_eq!(some, sampled_share(1000, 0.2, 3));
        assert_ne!(some, sampled_share(1000, 0.2, 4));
        assert_eq!(sampled_share(3, 0.0, 1).len(), 1);
        assert!(sampled_share(0, 0.5, 1).is_empty());
    }
}
