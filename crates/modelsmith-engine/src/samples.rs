//! A few held-out rows before and after training, side by side: `samples.json` of a run folder.
//!
//! A language model continues the prompt of each row greedily; a classifier names the row's class.
//! Which rows are taken depends on their number alone, so runs on the same data show the same ones.

use crate::generate::{GenerateOptions, generate, room};
use crate::signals::Stop;
use crate::train::{Event, Observer, outputs, prepare};
use modelsmith_core::error::{Error, Result};
use modelsmith_core::files::{atomic_json, read_json};
use modelsmith_core::hooks::{Hooks, Pass};
use modelsmith_core::host::Host;
use modelsmith_core::random::Stream;
use modelsmith_core::roles::Adapter;
use modelsmith_data::{
    Batch, Dataset, IGNORED, Loader, Packing, Side, TokenSequence, Tokenizer, pack,
};
use modelsmith_hosts::{Head, Transformer};
use serde::{Deserialize, Serialize};
use std::collections::BTreeSet;
use std::path::Path;
use std::time::{Duration, Instant};

/// Name of the file in a run folder.
pub const FILE: &str = "samples.json";

/// Most rows that a recipe may ask for.
pub const MOST: usize = 64;

/// New tokens of a text at most.
const TOKENS: usize = 48;

/// Longest prompt in tokens; rows with a longer one are passed over.
const PROMPT: usize = 1024;

/// Tokens of a running text that serve as its prompt.
const OPENING: usize = 32;

/// Draws for each row wanted; some give a row that is taken already or has no prompt.
const DRAWS: usize = 8;

/// Time that the host alone, and the host with the adapter, may take each.
const TIME: Duration = Duration::from_secs(30);

/// Held-out rows with what was made of them.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Samples {
    /// What was asked of the model.
    pub task: Task,
    /// The rows, in the order of the data.
    pub rows: Vec<Sample>,
}

/// What was asked of the model.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Task {
    /// To continue the prompt.
    Continue,
    /// To name the class.
    Classify,
}

/// One row.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Sample {
    /// Number of the row in its data.
    pub row: u64,
    /// What the model read.
    pub prompt: String,
    /// How the data goes on, or the class it names.
    pub reference: String,
    /// What the host alone answers; absent where its head is as new as the adapter.
    pub before: Option<String>,
    /// What the host answers with the adapter.
    pub after: String,
}

/// The samples of a run folder, where it has any.
///
/// # Errors
/// A file that is there and malformed.
pub fn read(run: &Path) -> Result<Option<Samples>> {
    let path = run.join(FILE);
    path.is_file().then(|| read_json(path)).transpose()
}

/// What samples are taken with.
pub(crate) struct Sampling<'a> {
    pub(crate) host: &'a Transformer,
    pub(crate) tokenizer: &'a Tokenizer,
    pub(crate) data: &'a Dataset,
    /// Rows wanted.
    pub(crate) count: usize,
    /// Whether the host's classifier was drawn for this run.
    pub(crate) new_head: bool,
    pub(crate) stop: &'a Stop,
}

impl Sampling<'_> {
    /// Writes the samples of a trained adapter. What cannot be had is said and is no failure.
    pub(crate) fn record(&self, run: &Path, adapter: &dyn Adapter, observer: &mut dyn Observer) {
        let Some(held_out) = self.data.held_out.as_ref().filter(|_| self.count > 0) else {
            return;
        };
        let mut late = false;
        let taken = match self.host.head() {
            Head::CausalLm | Head::Seq2SeqLm(_) => self.continued(held_out, adapter, &mut late),
            Head::SequenceClasses(_) => self.classified(held_out, adapter),
            // Other heads have no answer that reads as text.
            _ => return,
        };
        let written = taken.and_then(|samples| atomic_json(run.join(FILE), &samples));
        let problem = match written {
            Err(error) => format!("no samples before and after training: {error}"),
            Ok(()) if late => format!(
                "samples before and after training were cut short, by a stop or after {} s; output.samples sets how many there are",
                TIME.as_secs()
            ),
            Ok(()) => return,
        };
        observer.event(Event::Warning(problem));
    }

    fn continued(
        &self,
        held_out: &Loader,
        adapter: &dyn Adapter,
        late: &mut bool,
    ) -> Result<Samples> {
        let room = room(self.host, &[adapter.hooks()]);
        let longest = PROMPT.min(room.saturating_sub(1));
        let fits =
            |row: &TokenSequence| parts(row).is_some_and(|(prompt, _)| prompt.len() <= longest);
        let sequences = self.choose(held_out, &fits)?;
        let pairs: Vec<(&[u32], &[u32])> = sequences.iter().filter_map(parts).collect();
        let tasks: Option<Vec<u32>> = sequences.iter().map(|sequence| sequence.task).collect();
        let tasks = tasks.unwrap_or_default();
        let mut texts = |hooks: &[&dyn Hooks]| self.texts(&pairs, &tasks, hooks, late);
        let (before, after) = (texts(&[])?, texts(&[adapter.hooks()])?);
        let mut rows = Vec::with_capacity(pairs.len());
        for (at, (before, after)) in before.into_iter().zip(after).enumerate() {
            let (prompt, reference) = pairs[at];
            let shown = &reference[..reference.len().min(TOKENS)];
            rows.push(Sample {
                row: sequences[at].row,
                prompt: self.tokenizer.decode(prompt, true)?.trim().to_owned(),
                reference: self.text(shown, shown.len() < reference.len())?,
                before: Some(before),
                after,
            });
        }
        Ok(Samples {
            task: Task::Continue,
            rows,
        })
    }

    /// Greedy continuations of the prompts.
    fn texts(
        &self,
        pairs: &[(&[u32], &[u32])],
        tasks: &[u32],
        hooks: &[&dyn Hooks],
        late: &mut bool,
    ) -> Result<Vec<String>> {
        let prompts: Vec<Vec<u32>> = pairs.iter().map(|(prompt, _)| prompt.to_vec()).collect();
        let options = GenerateOptions {
            max_new_tokens: TOKENS,
            eos: self.ends(pairs)?,
            tasks: tasks.to_vec(),
            ..GenerateOptions::default()
        };
        let began = Instant::now();
        let mut over = false;
        let rows = generate(self.host, &prompts, &options, hooks, &mut |_, _| {
            over = over || began.elapsed() > TIME || self.stop.requested().is_some();
            !over
        })?;
        *late = *late || over;
        rows.iter()
            .map(|ids| self.text(ids, over || ids.len() == TOKENS))
            .collect()
    }

    /// Tokens that end a text: the tokenizer's, and special ones that end the rows themselves, as
    /// a turn of a conversation ends.
    fn ends(&self, pairs: &[(&[u32], &[u32])]) -> Result<Vec<u32>> {
        let mut ends: BTreeSet<u32> = self.tokenizer.special().eos.into_iter().collect();
        for last in pairs.iter().filter_map(|(_, reference)| reference.last()) {
            if self.tokenizer.decode(&[*last], true)?.is_empty() {
                ends.insert(*last);
            }
        }
        Ok(ends.into_iter().collect())
    }

    /// A text as it is shown; one that could go on ends in an ellipsis.
    fn text(&self, ids: &[u32], cut: bool) -> Result<String> {
        let text = self.tokenizer.decode(ids, true)?;
        Ok(format!("{}{}", text.trim(), if cut { " …" } else { "" }))
    }

    fn classified(&self, held_out: &Loader, adapter: &dyn Adapter) -> Result<Samples> {
        let sequences = self.choose(held_out, &|row| row.class.is_some())?;
        let before = match self.new_head {
            true => None,
            false => Some(self.predicted(&sequences, &[])?),
        };
        let after = self.predicted(&sequences, &[adapter.hooks()])?;
        let name = |class: usize| match self.data.classes.get(class) {
            Some(name) => name.clone(),
            None => class.to_string(),
        };
        let mut rows = Vec::with_capacity(sequences.len());
        for (at, sequence) in sequences.iter().enumerate() {
            rows.push(Sample {
                row: sequence.row,
                prompt: self
                    .tokenizer
                    .decode(&sequence.ids, true)?
                    .trim()
                    .to_owned(),
                reference: sequence
                    .class
                    .map_or_else(String::new, |class| name(class as usize)),
                before: before.as_ref().map(|classes| name(classes[at])),
                after: name(after[at]),
            });
        }
        Ok(Samples {
            task: Task::Classify,
            rows,
        })
    }

    /// The class with the highest score, for each row.
    fn predicted(&self, rows: &[TokenSequence], hooks: &[&dyn Hooks]) -> Result<Vec<usize>> {
        let special = self.tokenizer.special();
        let pad = special.pad.or(special.eos).unwrap_or(0);
        let packed = pack(rows.to_vec(), Packing::None, self.data.max_length);
        let batch = Batch::collate(&packed, pad, 1, Side::Right);
        let prepared = prepare(&batch, self.host.head(), None, &self.host.device())?;
        let pass = Pass::default();
        let hidden = self.host.hidden(&prepared.input, &pass, hooks, None)?;
        let best = outputs(self.host, hidden, &prepared, &pass, hooks).argmax(1);
        let best = best.into_data().convert::<i64>();
        Ok(best
            .iter::<i64>()
            .map(|class| class.unsigned_abs() as usize)
            .collect())
    }

    /// Rows drawn by their place, in the order of the data.
    fn choose(
        &self,
        held_out: &Loader,
        fits: &dyn Fn(&TokenSequence) -> bool,
    ) -> Result<Vec<TokenSequence>> {
        let mut stream = Stream::new(0, "samples");
        let mut seen = BTreeSet::new();
        let mut found = Vec::new();
        for _ in 0..self.count * DRAWS {
            let place = stream.below(held_out.rows());
            if found.len() == self.count || !seen.insert(place) {
                continue;
            }
            found.extend(held_out.sequence(place)?.filter(fits));
        }
        if found.is_empty() {
            return Err(Error::config(
                "data",
                format!("no held-out row of those drawn has a prompt of 1 to {PROMPT} tokens"),
            ));
        }
        found.sort_by_key(|sequence| sequence.row);
        Ok(found)
    }
}

/// The prompt of a row and what follows it: the answer to it, the first one of a conversation, or
/// the rest of a running text.
fn parts(sequence: &TokenSequence) -> Option<(&[u32], &[u32])> {
    if let Some(source) = &sequence.source {
        return Some((source, &sequence.ids));
    }
    let trained = |label: &i32| *label != IGNORED;
    let first = sequence.labels.iter().position(trained)?;
    let length = sequence.ids.len();
    // A text all of which is trained on, but perhaps for the token that begins it.
    if first < 2 {
        let start = OPENING.min(length / 2);
        return (start > 0).then(|| sequence.ids.split_at(start));
    }
    let answer = &sequence.labels[first..];
    let end = first
        + answer
            .iter()
            .position(|label| !trained(label))
            .unwrap_or(answer.len());
    Some((&sequence.ids[..first], &sequence.ids[first..end]))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn sequence(ids: Vec<u32>, untrained: &[usize]) -> TokenSequence {
        let label = |(at, id): (usize, &u32)| {
            if untrained.contains(&at) {
                IGNORED
            } else {
                *id as i32
            }
        };
        TokenSequence {
            labels: ids.iter().enumerate().map(label).collect(),
            ids,
            ..TokenSequence::default()
        }
    }

    #[test]
    fn an_answer_follows_its_prompt_and_ends_with_its_turn() {
        let chat = sequence(vec![9, 8, 7, 6, 5, 4, 3], &[0, 1, 2, 5]);
        assert_eq!(parts(&chat), Some((&[9, 8, 7][..], &[6, 5][..])));
    }

    #[test]
    fn a_running_text_is_its_own_prompt() {
        let short = sequence(vec![9, 8, 7, 6, 5], &[0]);
        assert_eq!(parts(&short), Some((&[9, 8][..], &[7, 6, 5][..])));
        let long = sequence((0..500).collect(), &[]);
        assert_eq!(parts(&long).unwrap().0.len(), OPENING);
        assert_eq!(parts(&sequence(vec![1], &[])), None);
        assert_eq!(parts(&sequence(vec![1, 2, 3], &[0, 1, 2])), None);
    }
}
