//! The shared measurement of edits: the same numbers, made the same way, for every editor.
//!
//! [`score`] asks a model with its hooks about requests and gives a [`Record`] of each with every
//! probability, and a [`Summary`]; [`Summary::of`] makes the table anew from records. Each number has a
//! [`Protocol`]. [`Before`] holds what the model said before the first edit. [`perplexity_me`] is the
//! alarm of a collapse, [`perplexity_corpus`] the usual figure; [`weighted_f1`] and [`matthews`] tell what
//! became of other tasks, which [`Task`] asks. [`changes`] compares two measurements, [`score_instances`] asks
//! questions over several hops, and [`score_file`] goes on where a measurement stopped.

mod before;
mod changes;
mod drift;
mod entropy;
mod forced;
mod free;
mod hops;
mod outcome;
mod perplexity;
mod query;
mod record;
mod reference;
mod resume;
mod score;
mod summary;
mod task_forms;
mod tasks;
#[cfg(test)]
mod tests;
mod words;
mod write;

pub use before::Before;
pub use changes::{Changes, changes, sampled_share};
pub use drift::{matthews, weighted_f1};
pub use entropy::{entropy, text_entropy};
pub use forced::{Forced, Scored, forced};
pub use free::{matches_any, normalised, stated_answer};
pub use hops::{Demonstrations, InstanceRecord, score_instances};
pub use outcome::{Favoured, Outcome, Pair, agreement, harmonic_mean, magnitude, mean, success};
pub use perplexity::{
    CorpusPerplexity, perplexity_corpus, perplexity_me, perplexity_rows, text_perplexity,
};
pub(super) use query::target_ids;
pub use query::{Query, prompt_ids};
pub use record::{Asked, Freely, Protocol, Record, Scores, Set, read_records, write_records};
pub use reference::{Snippet, Snippets, cosine};
pub use resume::score_file;
pub use score::{MeasureOptions, score, score_each};
pub use summary::{Figure, Summary};
pub use task_forms::{Item, TaskForm};
pub use tasks::{Task, TaskOptions, TaskResult, mean_f1};
pub use words::words;
pub use write::{Answering, Sampling, answers, freely, sampled};
