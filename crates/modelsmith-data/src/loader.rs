//! Batches in a deterministic order that can stop and go on anywhere.
//!
//! An epoch's order of rows is a shuffle under the stream `shuffle/epoch-N`. Rows are taken from
//! it in windows; a window is tokenised, packed and ordered by itself. The place of the next
//! sequence, [`Position`], is therefore all the state there is: to go on, the window is made
//! again and the sequences already used are skipped.

use std::collections::VecDeque;
use std::sync::Arc;

use modelsmith_core::error::{Error, Result};
use modelsmith_core::random::Stream;
use serde::{Deserialize, Serialize};

use crate::batch::{Batch, Side};
use crate::config::{DataConfig, Packing};
use crate::pack::{Packed, pack};
use crate::rows::TokenRows;
use crate::tokenise::TokenSequence;

/// Rows and tokens of a window: enough to pack well, little to repeat when a run resumes.
const WINDOW_ROWS: usize = 1024;
const WINDOW_TOKENS: usize = 1 << 20;

/// The place of the next sequence.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Position {
    /// Epoch, from 0.
    pub epoch: u64,
    /// Place of the window's first row in the epoch's order.
    pub window: u64,
    /// Sequences of the window that have been used.
    pub sequence: u64,
}

/// Makes batches of some rows of a data set.
#[derive(Clone, Debug)]
pub struct Loader {
    rows: Arc<TokenRows>,
    members: Arc<Vec<u64>>,
    settings: Settings,
    epoch: u64,
    order: Option<Vec<u64>>,
    /// Place in the order of the first row that no window has taken.
    next_window: usize,
    /// Sequences made and not used yet, with their places.
    ready: VecDeque<(Position, Packed)>,
}

#[derive(Clone, Debug)]
struct Settings {
    seed: u64,
    batch_size: usize,
    shuffle: bool,
    by_length: bool,
    packing: Packing,
    max_length: usize,
    pad: u32,
    multiple: usize,
}

impl Loader {
    pub(crate) fn new(
        rows: Arc<TokenRows>,
        members: Vec<u64>,
        config: &DataConfig,
        seed: u64,
        shuffle: bool,
    ) -> Self {
        let special = rows.tokeniser.tokenizer().special();
        let settings = Settings {
            seed,
            batch_size: config.batch_size,
            shuffle,
            by_length: config.group_by_length && shuffle,
            packing: config.packing,
            max_length: rows.tokeniser.max_length(),
            pad: special.pad.or(special.eos).unwrap_or(0),
            multiple: config.pad_to_multiple_of,
        };
        Self {
            rows,
            members: Arc::new(members),
            settings,
            epoch: 0,
            order: None,
            next_window: 0,
            ready: VecDeque::new(),
        }
    }

    /// Number of rows, those left out included.
    pub fn rows(&self) -> usize {
        self.members.len()
    }

    /// The place of the next batch.
    pub fn position(&self) -> Position {
        match self.ready.front() {
            Some((position, _)) => *position,
            None => Position {
                epoch: self.epoch,
                window: self.next_window as u64,
                sequence: 0,
            },
        }
    }

    /// Goes to a place that [`Loader::position`] gave.
    ///
    /// # Errors
    /// [`Error::Failed`] when the place is not in this data.
    pub fn seek(&mut self, position: Position) -> Result<()> {
        self.start_epoch(position.epoch);
        let outside = || {
            let rows = self.members.len();
            Error::Failed(format!(
                "cannot resume at {position:?}: the data has {rows} rows; it has changed since"
            ))
        };
        self.next_window = usize::try_from(position.window).map_err(|_| outside())?;
        if self.next_window > self.members.len() {
            return Err(outside());
        }
        if position.sequence > 0 {
            self.fill()?;
            if (self.ready.len() as u64) < position.sequence {
                return Err(Error::Failed(format!(
                    "cannot resume at {position:?}: the data has changed since"
                )));
            }
            self.ready.drain(..position.sequence as usize);
        }
        Ok(())
    }

    /// The next batch, or `None` once at the end of each epoch; the call after it begins the next
    /// epoch. The last batch of an epoch may be smaller.
    ///
    /// # Errors
    /// What reading and tokenising the rows may give.
    pub fn next_in_epoch(&mut self) -> Result<Option<Batch>> {
        while self.ready.len() < self.settings.batch_size && self.next_window < self.members.len() {
            self.fill()?;
        }
        if self.ready.is_empty() {
            self.start_epoch(self.epoch + 1);
            return Ok(None);
        }
        let count = self.ready.len().min(self.settings.batch_size);
        let sequences: Vec<Packed> = self
            .ready
            .drain(..count)
            .map(|(_, packed)| packed)
            .collect();
        Ok(Some(Batch::collate(
            &sequences,
            self.settings.pad,
            self.settings.multiple,
            Side::Right,
        )))
    }

    /// The next batch, from epoch to epoch without end.
    ///
    /// # Errors
    /// As [`Loader::next_in_epoch`], and [`Error::Failed`] when a whole epoch gives no batch.
    pub fn next_batch(&mut self) -> Result<Batch> {
        for _ in 0..3 {
            if let Some(batch) = self.next_in_epoch()? {
                return Ok(batch);
            }
        }
        Err(Error::Failed("no row of the data can be used".into()))
    }

    /// Batches of one epoch; counted by going through it, which for data on disk reads it all.
    ///
    /// # Errors
    /// As [`Loader::next_in_epoch`].
    pub fn batches_in_epoch(&self, epoch: u64) -> Result<u64> {
        let mut probe = self.clone();
        probe.start_epoch(epoch);
        let mut sequences = 0u64;
        while probe.next_window < probe.members.len() {
            probe.fill()?;
            sequences += probe.ready.len() as u64;
            probe.ready.clear();
        }
        Ok(sequences.div_ceil(self.settings.batch_size as u64))
    }

    /// The first sequence that is not left out, for a look at its mask.
    ///
    /// # Errors
    /// As [`Loader::next_in_epoch`].
    pub fn first(&self) -> Result<Option<TokenSequence>> {
        for row in self.members.iter() {
            if let Some(sequence) = self.rows.get(*row)? {
                return Ok(Some(sequence));
            }
        }
        Ok(None)
    }

    /// The sequence of the row at a place among [`Loader::rows`], in the order of the data; `None`
    /// when it is left out, or when there is no such place.
    ///
    /// # Errors
    /// As [`Loader::next_in_epoch`].
    pub fn sequence(&self, place: usize) -> Result<Option<TokenSequence>> {
        match self.members.get(place) {
            Some(row) => self.rows.get(*row),
            None => Ok(None),
        }
    }

    fn start_epoch(&mut self, epoch: u64) {
        if epoch != self.epoch {
            self.order = None;
        }
        self.epoch = epoch;
        self.next_window = 0;
        self.ready.clear();
    }

    fn order(&mut self) -> Vec<u64> {
        if let Some(order) = self.order.take() {
            return order;
        }
        if !self.settings.shuffle {
            return self.members.to_vec();
        }
        let mut stream = Stream::new(self.settings.seed, &format!("shuffle/epoch-{}", self.epoch));
        let mut blocks = self.rows.source.blocks();
        stream.shuffle(&mut blocks);
        let mut order = Vec::with_capacity(self.members.len());
        for block in blocks {
            let at = |row| self.members.partition_point(|member| *member < row);
            let start = order.len();
            order.extend(&self.members[at(block.start)..at(block.end)]);
            stream.shuffle(&mut order[start..]);
        }
        order
    }

    /// Makes the sequences of the next window.
    fn fill(&mut self) -> Result<()> {
        let order = self.order();
        let result = self.window(&order);
        self.order = Some(order);
        let (sequences, end) = result?;
        let window = self.next_window as u64;
        let place = |sequence: usize| Position {
            epoch: self.epoch,
            window,
            sequence: sequence as u64,
        };
        self.ready.extend(
            sequences
                .into_iter()
                .enumerate()
                .map(|(at, packed)| (place(at), packed)),
        );
        self.next_window = end;
        Ok(())
    }

    fn window(&self, order: &[u64]) -> Result<(Vec<Packed>, usize)> {
        let mut sequences = Vec::new();
        let mut tokens = 0;
        let mut end = self.next_window;
        while end < order.len() && end - self.next_window < WINDOW_ROWS && tokens < WINDOW_TOKENS {
            if let Some(sequence) = self.rows.get(order[end])? {
                tokens += sequence.tokens();
                sequences.push(sequence);
            }
            end += 1;
        }
        let mut packed = pack(sequences, self.settings.packing, self.settings.max_length);
        self.arrange(&mut packed);
        Ok((packed, end))
    }

    /// Neighbouring blocks of one document should not share a batch, sequences of like length may.
    fn arrange(&self, packed: &mut Vec<Packed>) {
        let name = format!("shuffle/epoch-{}/window-{}", self.epoch, self.next_window);
        let mut stream = Stream::new(self.settings.seed, &name);
        if self.settings.shuffle && self.settings.packing != Packing::None {
            stream.shuffle(packed);
        }
        if self.settings.by_length {
            packed.sort_by_key(|sequence| std::cmp::Reverse(sequence.tokens()));
            let mut groups: Vec<Vec<Packed>> = Vec::new();
            let mut rest = std::mem::take(packed).into_iter().peekable();
            while rest.peek().is_some() {
                groups.push(rest.by_ref().take(self.settings.batch_size).collect());
            }
            // The last group may be smaller; at the end it shifts no other.
            let full = groups
                .iter()
                .filter(|group| group.len() == self.settings.batch_size)
                .count();
            stream.shuffle(&mut groups[..full]);
            *packed = groups.into_iter().flatten().collect();
        }
    }
}
