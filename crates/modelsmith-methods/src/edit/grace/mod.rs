//! GRACE (Hartvigsen et al., arXiv 2211.11031): a codebook at one layer of a frozen model. A prompt whose activation
//! falls within the radius of a stored key gets the stored value in place of the layer's output; all others
//! pass untouched, to the bit.
//!
//! [`Codebook`] is the structure alone; [`Grace`] is what hooks it to a model and goes to a folder. Values are
//! trained fact by fact by the engine, so it is in no table of methods that a training loop drives; saved
//! codebooks load like any adapter.

mod attached;
mod codebook;
mod directions;
#[cfg(test)]
mod exhaustive;
mod files;
mod index;
mod prompt_ends;

pub use attached::{Grace, Replacement};
pub use codebook::{Codebook, Entry, Operation, Placed};
pub use files::{GraceConfig, Init, from_peft};
pub use prompt_ends::PromptEnds;
