//! Model Surgery on a host: from labelled texts to changed weights.
//!
//! [`Texts`] (what is written, and of which class) → [`examples`] (their mean hidden states) → [`operate`]
//! (probe, direction, rows: a [`Patch`]) → [`sweep`] (which strength, by a [`Behaviour`] and the
//! perplexity) → [`save`] (the patch) and [`write_model`] (a whole folder). Hosts are changed by
//! [`edited`] only: always the base's weights with all patches on them, so taking one off is exact.

mod behaviour;
mod dpo;
mod file;
mod host;
mod interference;
mod judge;
mod mechanism;
mod operate;
mod perplexity;
mod prune;
mod states;
mod steering;
mod sweep;
mod texts;
mod write;

pub use behaviour::{Behaviour, Continuations, Figures, Preference};
pub use dpo::{Dpo, DpoOptions, Pair, pairs};
pub use file::{Origin, load, save};
pub use host::edited;
pub use interference::{Interference, interference, reduction};
pub use judge::Judge;
pub use mechanism::{Group, Mechanism, mechanism};
pub use operate::{Operation, operate};
pub use perplexity::Windows;
pub use prune::Pruning;
pub use states::{States, examples};
pub use steering::Steering;
pub use sweep::{Sweep, SweepOptions, sweep};
pub use texts::Texts;
pub use write::{WriteOptions, Written, write_model};

pub use modelsmith_methods::edit::surgery::{
    Choice, Examples, Form, Length, Patch, Point, Probe, ProbeOptions, Region, Surgery, Target,
    Warning, choose,
};
