//! Modelsmith's data: from files to batches of tokens.
//!
//! ```text
//! file -> rows (read) -> examples (format) -> tokens (chat, tokenise) -> sequences (pack) -> batches (batch, loader)
//! ```
//!
//! [`Dataset::open`] does all of it from a [`DataConfig`]. Rows are read by position, so a data
//! set larger than memory is shuffled like a small one, and both give the same batches.
//! [`house`] generates the project's own corpus; [`images`] are files of pictures.

mod apart;
mod batch;
mod chat;
mod classify;
mod config;
mod counts;
mod dataset;
pub mod edits;
mod encode;
mod format;
pub mod house;
pub mod images;
mod loader;
mod mask;
mod pack;
mod prompt;
pub mod read;
mod rows;
mod split;
mod stream_decode;
mod template_env;
mod tfidf;
mod tokenise;
mod tokenizer;

pub use batch::{Batch, IGNORED, Side};
pub use chat::{CHATML, ChatTemplate, Message};
pub use config::{DataConfig, Document, Format, Kind, OnLong, Packing, TrainOn};
pub use counts::Counts;
pub use dataset::Dataset;
pub use encode::Marked;
pub use format::{Example, Form, Label};
pub use loader::{Loader, Position};
pub use mask::show_mask;
pub use pack::{Packed, pack};
pub use split::{content_hash, is_held_out};
pub use stream_decode::StreamDecoder;
pub use tfidf::{Sparse, Terms, Tfidf};
pub use tokenise::{TokenSequence, Tokeniser};
pub use tokenizer::{Encoded, SpecialIds, Tokenizer, decomposed};
