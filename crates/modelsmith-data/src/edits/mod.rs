//! Requests to edit what a model knows: one fact each, with the prompts that tell whether the edit held.
//!
//! [`open`] reads the project's own lines of JSON and the files of CounterFact, zsRE and MQuAKE, and
//! refuses a file with all its faults at once, each with its line. Sources: Meng et al., arXiv
//! 2202.05262 (CounterFact), Mitchell et al., arXiv 2110.11309 (the zsRE file), Zhong et al., arXiv
//! 2305.14795 (MQuAKE), Wang et al., arXiv 2308.07269 (the flat records).

mod fault;
mod fields;
mod formats;
mod open;
mod records;
mod request;
mod validate;

pub use fault::{Fault, Faults};
pub use formats::EditFormat;
pub use open::{EditFile, OpenEdits, open};
pub use request::{EditRequest, Hop, Instance, Neighbour, Probe, filled, target_text};
pub use validate::{Conflicts, HostChecks, validate};
