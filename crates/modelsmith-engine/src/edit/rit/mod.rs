//! Revision Transformers (Friedrich et al., ECAI 2023): corrections of users, looked up by similarity, change
//! what a frozen language model answers.
//!
//! ```text
//! N = the k revisions nearest to the question, of cosine > threshold
//! answer = model(question)                       where N is empty
//!        = model(N as answered questions, question)   else
//! ```
//!
//! No weight is read or written and nothing is trained, so the method needs no host: a [`Store`] of
//! [`Revision`]s, an [`Embedder`], a [`Speaker`] that answers prompts. That is why it stands with the engine,
//! beside data and generation, and not with the methods that see hosts. [`Engine`] joins the parts; taking a
//! revision out gives back the answers there were before it.

mod embed;
mod engine;
mod evaluate;
mod folder;
mod negation;
mod overlap;
mod polarity;
mod prompt;
mod question;
mod sentence;
mod speak;
mod store;
mod threshold;

pub use embed::{Embedder, StateEmbedder, TermEmbedder, Vector};
pub use engine::{Added, Answer, Engine, Explanation, Hit, Settings};
pub use evaluate::{Case, Follow, Scores, Table, Trial, evaluate, follow, simulate, trials};
pub use folder::{open_engine, save_engine};
pub use negation::{Conflict, negations};
pub use overlap::{bleu, rouge_l};
pub use polarity::{
    Lexicon, balanced_yes_no, normalise, polarity_right, polarity_right_negation_aware,
};
pub use prompt::{Form, Language, Order, Wording};
pub use question::{Casing, question};
pub use sentence::SentenceEncoder;
pub use speak::{HostSpeaker, Speaker};
pub use store::{Filter, Merged, Revision, Store};
pub use threshold::{Fit, fit, outcomes};
