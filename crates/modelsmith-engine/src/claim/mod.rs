//! Does a method hold what its paper says, at a scale of minutes?
//!
//! ```text
//! claims/NN-name.toml -> grid of learning rates on a development part -> (arm x seed) runs at equal
//! data and budget -> scores of every held-out item -> paired two-level bootstrap -> verdict
//! ```
//!
//! [`mod@file`] is what a claim says, `check` refuses what would be unfair, [`reproduce()`] does
//! it, [`report`] is what was found; [`bootstrap`] and [`verdict`] are the statistics.
//! `docs/claims/NN-name.json` keeps the last full-tier report of each claim, and `docs/CLAIMS.md`
//! is made from all of them.

mod arms;
pub mod bootstrap;
mod check;
mod collapse;
mod deltas;
mod document;
mod edits;
mod experiment;
pub mod file;
mod fragment;
mod house_data;
mod items;
mod measured;
mod policy;
mod prepare;
pub mod report;
mod reproduce;
mod surroundings;
mod toxicity;
mod tuned;
mod verdict;

pub use collapse::Collapse;
pub use deltas::{Deltas, Training};
pub use document::document;
pub use edits::HouseEdits;
pub use items::Scores;
pub use policy::Policy;
pub use reproduce::{ReproduceOptions, Which, reproduce};
pub use toxicity::Toxicity;
pub use verdict::{Direction, Verdict, overall, verdict};
