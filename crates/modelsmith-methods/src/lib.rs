//! Modelsmith's methods, one file each; a family's folder opens with the table of its methods.
//!
//! A method sees a host only through [`modelsmith_core`]'s sites, hooks and weights, so this crate
//! knows no architecture, and nothing outside a method's file knows its maths.

pub mod adapter;
pub mod delta;
pub mod edit;
pub mod optimize;
pub mod prompt;
mod saved;

pub use saved::{FromPeft, attachable, from_peft};

#[cfg(test)]
mod contract;
#[cfg(test)]
mod fake_host;
