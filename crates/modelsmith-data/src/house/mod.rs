//! The house corpus: biographies of people who do not exist.
//!
//! A small model can be trained on them in minutes until it knows every fact, which makes it a
//! host for trying out fine-tuning and editing: what it knows, what is near it, and what must not
//! move are all listed in `facts.jsonl`. The same configuration gives the same bytes.

mod corpus;
mod edits;
mod names;
mod relations;
mod tokenizer;
mod world;

pub use corpus::{HouseFiles, Question, documents, questions, write};
pub use edits::edits;
pub use relations::{Kind as ThingKind, RELATIONS, Relation};
pub use tokenizer::write_tokenizer;
pub use world::{Fact, HouseConfig, facts};
