//! Which methods put trained vectors in front of a text?
//!
//! [`TABLE`] lists them in the order of `modelsmith methods`; [`PEFT`] says which of them reads an
//! `adapter_config.json` of a given `peft_type`. A new method is its file, its `mod` line, its row
//! in the table and, where it has a file form of its own, its row in [`PEFT`].

mod common;
mod prompt_tuning;

pub use common::start::Start;
pub use prompt_tuning::PromptTuningConfig;

use crate::saved::FromPeft;
use modelsmith_core::error::Result;
use modelsmith_core::method::{Card, Entry, Method, read_options, schema_of};
use modelsmith_core::roles::Adapt;
use serde_json::Value;

/// The family's methods and presets.
pub const TABLE: &[Entry<dyn Adapt>] = &[row::<PromptTuningConfig>(
    PromptTuningConfig::CARD,
    prompt_tuning::defaults,
)];

/// The method that reads each `peft_type`. Types that PEFT does not know are ids in upper case.
pub const PEFT: &[(&str, FromPeft)] = &[
    ("PROMPT_TUNING", prompt_tuning::from_peft),
    (prompt_tuning::OWN_TYPE, prompt_tuning::from_peft),
];

const fn row<C: Method + Adapt + 'static>(card: Card, defaults: fn() -> Value) -> Entry<dyn Adapt> {
    Entry::new(card, schema_of::<C>, defaults, read::<C>)
}

fn read<C: Method + Adapt + 'static>(options: &Value) -> Result<Box<dyn Adapt>> {
    Ok(Box::new(read_options::<C>(options)?))
}
