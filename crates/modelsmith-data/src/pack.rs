//! Examples that share a sequence.
//!
//! *Pack* puts whole examples into the first sequence with room, in order; each keeps a segment
//! number and positions of its own, and the first token of each is predicted from nothing, so
//! examples do not see one another. *Chunk* joins examples end to end and cuts every block.

use crate::batch::IGNORED;
use crate::config::Packing;
use crate::tokenise::TokenSequence;

/// A sequence as it stands in a batch; all vectors have the length of `ids`.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Packed {
    /// Token ids.
    pub ids: Vec<u32>,
    /// Labels as in [`TokenSequence`].
    pub labels: Vec<i32>,
    /// Position of each token in its example.
    pub positions: Vec<u32>,
    /// Number of the example from 1.
    pub segments: Option<Vec<u32>>,
    /// Which of two texts each token is from.
    pub type_ids: Option<Vec<u32>>,
    /// Class of the sequence.
    pub class: Option<u32>,
    /// Task of the sequence.
    pub task: Option<u32>,
    /// Rows it was made of.
    pub rows: Vec<u64>,
    /// Token ids of the prompt, where an encoder reads it.
    pub source: Option<Vec<u32>>,
}

impl From<TokenSequence> for Packed {
    fn from(sequence: TokenSequence) -> Self {
        Self {
            positions: (0..sequence.ids.len() as u32).collect(),
            ids: sequence.ids,
            labels: sequence.labels,
            segments: None,
            type_ids: sequence.type_ids,
            class: sequence.class,
            task: sequence.task,
            rows: vec![sequence.row],
            source: sequence.source,
        }
    }
}

impl Packed {
    /// A text of which nothing counts in the loss.
    pub(crate) fn untrained(ids: Vec<u32>, row: u64) -> Self {
        Self {
            labels: vec![IGNORED; ids.len()],
            positions: (0..ids.len() as u32).collect(),
            ids,
            rows: vec![row],
            ..Self::default()
        }
    }

    /// Number of tokens, those of the source among them.
    pub(crate) fn tokens(&self) -> usize {
        self.ids.len() + self.source.as_ref().map_or(0, Vec::len)
    }

    fn append(&mut self, sequence: TokenSequence) {
        let length = sequence.ids.len();
        let segments = self.segments.get_or_insert_default();
        let number = segments.last().map_or(1, |last| last + 1);
        segments.extend(std::iter::repeat_n(number, length));
        self.positions.extend(0..length as u32);
        self.ids.extend(sequence.ids);
        let start = self.labels.len();
        self.labels.extend(sequence.labels);
        if let Some(first) = self.labels.get_mut(start) {
            *first = IGNORED;
        }
        self.rows.push(sequence.row);
    }
}

/// Packs sequences, in order, into sequences of at most `limit` tokens.
pub fn pack(sequences: Vec<TokenSequence>, packing: Packing, limit: usize) -> Vec<Packed> {
    match packing {
        Packing::None => sequences.into_iter().map(Packed::from).collect(),
        Packing::Pack => first_fit(sequences, limit),
        Packing::Chunk => chunk(&sequences, limit),
    }
}

fn first_fit(sequences: Vec<TokenSequence>, limit: usize) -> Vec<Packed> {
    let mut bins: Vec<Packed> = Vec::new();
    // Bins before this one are full.
    let mut open = 0;
    for sequence in sequences {
        let length = sequence.ids.len();
        let fits = |bin: &Packed| bin.ids.len() + length <= limit;
        let at = bins[open..]
            .iter()
            .position(fits)
            .map_or(bins.len(), |at| open + at);
        if at == bins.len() {
            bins.push(Packed::default());
        }
        bins[at].append(sequence);
        while bins.get(open).is_some_and(|bin| bin.ids.len() >= limit) {
            open += 1;
        }
    }
    bins
}

fn chunk(sequences: &[TokenSequence], limit: usize) -> Vec<Packed> {
    let mut blocks: Vec<Packed> = Vec::new();
    for sequence in sequences {
        let mut from = 0;
        while from < sequence.ids.len() {
            if blocks.last().is_none_or(|block| block.ids.len() >= limit) {
                blocks.push(Packed::default());
            }
            let Some(block) = blocks.last_mut() else {
                break;
            };
            let filled = block.ids.len();
            let to = (from + limit - filled).min(sequence.ids.len());
            block.ids.extend(&sequence.ids[from..to]);
            block.labels.extend(&sequence.labels[from..to]);
            block
                .positions
                .extend(filled as u32..(filled + to - from) as u32);
            block.rows.push(sequence.row);
            from = to;
        }
    }
    blocks
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn sequences(lengths: &[usize]) -> Vec<TokenSequence> {
        let mut next = 0;
        let sequence = |(row, length): (usize, &usize)| {
            let ids: Vec<u32> = (next..next + *length as u32).collect();
            next += *length as u32;
            let labels = ids.iter().map(|id| *id as i32).collect();
            TokenSequence {
                ids,
                labels,
                row: row as u64,
                ..TokenSequence::default()
            }
        };
        lengths.iter().enumerate().map(sequence).collect()
    }

    proptest! {
        #[test]
        fn packing_loses_nothing_and_keeps_examples_apart(lengths in prop::collection::vec(1usize..=16, 0..60)) {
            let packed = pack(sequences(&lengths), Packing::Pack, 16);
            let mut ids: Vec<u32> = packed.iter().flat_map(|bin| bin.ids.clone()).collect();
            ids.sort_unstable();
            let total = lengths.iter().sum::<usize>() as u32;
            prop_assert_eq!(ids, (0..total).collect::<Vec<_>>());
            for bin in &packed {
                prop_assert!(bin.ids.len() <= 16);
                let segments = bin.segments.as_deref().unwrap_or_default();
                prop_assert_eq!(segments.len(), bin.ids.len());
                for at in 0..bin.ids.len() {
                    let starts = at == 0 || segments[at] != segments[at - 1];
                    prop_assert_eq!(bin.positions[at] == 0, starts);
                    prop_assert_eq!(bin.labels[at] == IGNORED, starts);
                    if !starts {
                        prop_assert_eq!(bin.ids[at], bin.ids[at - 1] + 1);
                        prop_assert_eq!(bin.positions[at], bin.positions[at - 1] + 1);
                    }
                }
            }
            // First fit never leaves two sequences at most half full.
            prop_assert!(packed.iter().filter(|bin| bin.ids.len() <= 8).count() <= 1);
        }

        #[test]
        fn chunks_are_full_and_in_order(lengths in prop::collection::vec(1usize..=40, 1..40)) {
            let packed = pack(sequences(&lengths), Packing::Chunk, 16);
            let ids: Vec<u32> = packed.iter().flat_map(|block| block.ids.clone()).collect();
            let total = lengths.iter().sum::<usize>() as u32;
            prop_assert_eq!(ids, (0..total).collect::<Vec<_>>());
            prop_assert!(packed.iter().rev().skip(1).all(|block| block.ids.len() == 16));
        }
    }
}
