//! Which methods put trained vectors in front of a text, or of the keys of every layer?
//!
//! [`TABLE`] lists them in the order of `modelsmith methods`; [`PEFT`] says which of them reads an
//! `adapter_config.json` of a given `peft_type`. A new method is its file, its `mod` line, its row
//! in the table and, where it has a file form of its own, its row in [`PEFT`].

mod common;
mod low_rank_prompt;
mod ltp;
mod multitask_prompt;
mod prefix_tuning;
mod prompt_tuning;
mod residual_prompt;

pub use common::start::Start;
pub use low_rank_prompt::{Activation, Factors, Form, LowRankPromptConfig};
pub use ltp::{Criterion, Layers, LtpConfig, Scope};
pub use multitask_prompt::MultitaskPromptConfig;
pub use prefix_tuning::PrefixTuningConfig;
pub use prompt_tuning::PromptTuningConfig;
pub use residual_prompt::{Nonlinearity, ResidualPromptConfig};

use crate::saved::FromPeft;
use modelsmith_core::error::Result;
use modelsmith_core::method::{Card, Entry, Method, read_options, schema_of};
use modelsmith_core::roles::Adapt;
use serde_json::Value;

/// The family's methods and presets.
pub const TABLE: &[Entry<dyn Adapt>] = &[
    row::<PromptTuningConfig>(PromptTuningConfig::CARD, prompt_tuning::defaults),
    row::<PrefixTuningConfig>(PrefixTuningConfig::CARD, prefix_tuning::defaults),
    row::<PrefixTuningConfig>(prefix_tuning::P_TUNING_V2, prefix_tuning::p_tuning_v2),
    row::<ResidualPromptConfig>(ResidualPromptConfig::CARD, residual_prompt::defaults),
    row::<LowRankPromptConfig>(LowRankPromptConfig::CARD, low_rank_prompt::defaults),
    row::<LowRankPromptConfig>(low_rank_prompt::LOPT1, low_rank_prompt::lopt1),
    row::<LowRankPromptConfig>(low_rank_prompt::LOPT2, low_rank_prompt::lopt2),
    row::<MultitaskPromptConfig>(MultitaskPromptConfig::CARD, multitask_prompt::defaults),
    row::<LtpConfig>(LtpConfig::CARD, ltp::defaults),
];

/// The method that reads each `peft_type`. Types that PEFT does not know are ids in upper case.
pub const PEFT: &[(&str, FromPeft)] = &[
    (prompt_tuning::TYPE, prompt_tuning::from_peft),
    (prompt_tuning::OWN_TYPE, prompt_tuning::from_peft),
    (prefix_tuning::TYPE, prefix_tuning::from_peft),
    (prefix_tuning::PROJECTED, prefix_tuning::from_peft),
    (residual_prompt::TYPE, residual_prompt::from_peft),
    (low_rank_prompt::TYPE, low_rank_prompt::from_peft),
    (multitask_prompt::TYPE, multitask_prompt::from_peft),
    (multitask_prompt::OWN_TYPE, multitask_prompt::from_peft),
    (ltp::TYPE, ltp::from_peft),
];

const fn row<C: Method + Adapt + 'static>(card: Card, defaults: fn() -> Value) -> Entry<dyn Adapt> {
    Entry::new(card, schema_of::<C>, defaults, read::<C>)
}

fn read<C: Method + Adapt + 'static>(options: &Value) -> Result<Box<dyn Adapt>> {
    Ok(Box::new(read_options::<C>(options)?))
}
