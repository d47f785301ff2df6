//! Tokenised rows by number: kept in memory when small, made anew when asked otherwise.

use modelsmith_core::error::Result;

use crate::batch::IGNORED;
use crate::counts::Counts;
use crate::format::Form;
use crate::read::Source;
use crate::tokenise::{TokenSequence, Tokeniser};

/// Data files up to this size are tokenised once and held as tokens.
pub(crate) const HELD_BYTES: u64 = 256 << 20;

/// The rows of a data set as tokens.
#[derive(Debug)]
pub(crate) struct TokenRows {
    pub(crate) source: Source,
    pub(crate) form: Form,
    pub(crate) tokeniser: Tokeniser,
    held: Option<Vec<Held>>,
}

/// A tokenised row without its labels where they repeat the ids, which halves the memory.
#[derive(Debug)]
enum Held {
    Absent,
    AllTrained { ids: Box<[u32]> },
    Whole(Box<TokenSequence>),
}

impl Held {
    fn new(sequence: Option<TokenSequence>) -> Self {
        let Some(sequence) = sequence else {
            return Self::Absent;
        };
        let same = |(id, label): (&u32, &i32)| *label != IGNORED && *id as i32 == *label;
        let plain = sequence.class.is_none()
            && sequence.task.is_none()
            && sequence.type_ids.is_none()
            && sequence.source.is_none();
        if plain && sequence.ids.iter().zip(&sequence.labels).all(same) {
            Self::AllTrained {
                ids: sequence.ids.into(),
            }
        } else {
            Self::Whole(Box::new(sequence))
        }
    }

    fn sequence(&self, row: u64) -> Option<TokenSequence> {
        match self {
            Self::Absent => None,
            Self::AllTrained { ids } => Some(TokenSequence {
                labels: ids.iter().map(|id| *id as i32).collect(),
                ids: ids.to_vec(),
                row,
                ..TokenSequence::default()
            }),
            Self::Whole(sequence) => Some((**sequence).clone()),
        }
    }
}

impl TokenRows {
    pub(crate) fn new(source: Source, form: Form, tokeniser: Tokeniser) -> Self {
        Self {
            source,
            form,
            tokeniser,
            held: None,
        }
    }

    /// Tokenises all rows and keeps them.
    pub(crate) fn hold(&mut self) -> Result<Counts> {
        let mut counts = Counts::default();
        let mut held = Vec::new();
        for row in 0..self.source.len() {
            let (sequence, count) = self.read(row)?;
            counts += count;
            held.push(Held::new(sequence));
        }
        self.held = Some(held);
        Ok(counts)
    }

    /// Tokenises a row from its file.
    pub(crate) fn read(&self, row: u64) -> Result<(Option<TokenSequence>, Counts)> {
        let (at, columns) = self.source.row(row)?;
        let example = self.form.example(&at, &columns)?;
        let (mut sequence, counts) = self.tokeniser.sequence(row, &at, &example)?;
        if let Some(sequence) = &mut sequence {
            sequence.task = self.form.task(&at, &columns)?;
        }
        Ok((sequence, counts))
    }

    /// The tokens of a row, `None` when it is left out.
    pub(crate) fn get(&self, row: u64) -> Result<Option<TokenSequence>> {
        match self.held.as_ref().and_then(|held| held.get(row as usize)) {
            Some(held) => Ok(held.sequence(row)),
            None => Ok(self.read(row)?.0),
        }
    }

    /// Whether rows are held in memory.
    pub(crate) fn is_held(&self) -> bool {
        self.held.is_some()
    }
}
