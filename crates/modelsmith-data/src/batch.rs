//! Sequences side by side: padding, masks, positions.

use crate::pack::Packed;

/// Label of a place that does not count in the loss.
pub const IGNORED: i32 = -100;

/// Where padding goes.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Side {
    /// Before the tokens, so that all sequences end together: for generation.
    Left,
    /// Behind the tokens: for training.
    #[default]
    Right,
}

/// A batch of `shape[0]` sequences of `shape[1]` places, row by row.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Batch {
    /// Token ids, `[b, t]`.
    pub ids: Vec<u32>,
    /// Sequences and places.
    pub shape: [usize; 2],
    /// 1 for tokens, 0 for padding, `[b, t]`.
    pub attention_mask: Vec<u8>,
    /// Position of each token in its example, 0 for padding, `[b, t]`.
    pub positions: Vec<u32>,
    /// Number of the example in its sequence from 1, 0 for padding, `[b, t]`; where examples
    /// share sequences. Tokens see their own segment only.
    pub segments: Option<Vec<u32>>,
    /// The token itself where it counts in the loss, [`IGNORED`] elsewhere, `[b, t]`. Not shifted:
    /// the label at place `i` is predicted from the places before `i`.
    pub labels: Vec<i32>,
    /// Number of each sequence's class, `[b]`.
    pub class_labels: Option<Vec<u32>>,
    /// Number of each sequence's task, `[b]`.
    pub tasks: Option<Vec<u32>>,
    /// Which of two texts each token is from, `[b, t]`; where there are pairs.
    pub type_ids: Option<Vec<u32>>,
    /// Rows of the data that are in the batch.
    pub rows: Vec<u64>,
    /// What an encoder reads, a text for each sequence; where there is one.
    pub source: Option<Box<Self>>,
}

impl Batch {
    /// Pads sequences to the longest, rounded up to a multiple.
    ///
    /// `pad` is the id of padding; `multiple` must not be 0.
    pub fn collate(sequences: &[Packed], pad: u32, multiple: usize, side: Side) -> Self {
        let longest = sequences.iter().map(|s| s.ids.len()).max().unwrap_or(0);
        let width = longest.next_multiple_of(multiple.max(1));
        let mut batch = Self {
            shape: [sequences.len(), width],
            ..Self::default()
        };
        let any = |has: fn(&Packed) -> bool| sequences.iter().any(has);
        batch.segments = any(|s| s.segments.is_some()).then(Vec::new);
        batch.type_ids = any(|s| s.type_ids.is_some()).then(Vec::new);
        batch.class_labels = sequences.iter().map(|s| s.class).collect();
        batch.tasks = sequences.iter().map(|s| s.task).collect();
        for sequence in sequences {
            let length = sequence.ids.len();
            let place = Place { width, side };
            place.put(&mut batch.ids, &sequence.ids, pad);
            place.put(&mut batch.attention_mask, &vec![1; length], 0);
            place.put(&mut batch.positions, &sequence.positions, 0);
            place.put(&mut batch.labels, &sequence.labels, IGNORED);
            let optional = [
                (&mut batch.segments, &sequence.segments, 1),
                (&mut batch.type_ids, &sequence.type_ids, 0),
            ];
            for (all, own, default) in optional {
                if let Some(all) = all {
                    place.put(all, own.as_ref().unwrap_or(&vec![default; length]), 0);
                }
            }
            batch.rows.extend(&sequence.rows);
        }
        let sources = sequences.iter().map(|sequence| {
            let source = sequence.source.clone()?;
            Some(Packed::untrained(source, *sequence.rows.first()?))
        });
        let sources: Option<Vec<Packed>> = sources.collect();
        batch.source = sources
            .filter(|sources| !sources.is_empty())
            .map(|sources| Box::new(Self::collate(&sources, pad, multiple, side)));
        batch
    }

    /// Pads prompts on the left for generation.
    pub fn prompts(prompts: &[Vec<u32>], pad: u32) -> Self {
        let packed = |(row, ids): (usize, &Vec<u32>)| Packed::untrained(ids.clone(), row as u64);
        let sequences: Vec<Packed> = prompts.iter().enumerate().map(packed).collect();
        Self::collate(&sequences, pad, 1, Side::Left)
    }

    /// Number of tokens that count in the loss.
    ///
    /// The first token of a sequence is never predicted, so it does not count.
    pub fn trained_tokens(&self) -> usize {
        let width = self.shape[1].max(1);
        let counts = |(at, label): (usize, &i32)| at % width != 0 && *label != IGNORED;
        self.labels
            .iter()
            .enumerate()
            .filter(|entry| counts(*entry))
            .count()
    }

    /// Number of tokens without padding, those of the source among them.
    pub fn tokens(&self) -> usize {
        let own = self.attention_mask.iter().filter(|mask| **mask != 0);
        own.count() + self.source.as_ref().map_or(0, |source| source.tokens())
    }
}

struct Place {
    width: usize,
    side: Side,
}

impl Place {
    fn put<T: Copy>(&self, all: &mut Vec<T>, own: &[T], pad: T) {
        let padding = std::iter::repeat_n(pad, self.width - own.len());
        match self.side {
            Side::Left => {
                all.extend(padding);
                all.extend_from_slice(own);
            }
            Side::Right => {
                all.extend_from_slice(own);
                all.extend(padding);
            }
        }
    }
}
