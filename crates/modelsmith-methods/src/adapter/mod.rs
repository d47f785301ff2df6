//! Which methods attach trained state to a frozen host?
//!
//! [`TABLE`] lists them in the order of `modelsmith methods`; [`PEFT`] says which of them reads an
//! `adapter_config.json` of a given `peft_type`. A new method is its file, its `mod` line, its row
//! in the table and, where it has a file form of its own, its row in [`PEFT`].

pub mod common;
mod full;
mod linear_probe;
mod lora;

#[cfg(test)]
mod contract;
#[cfg(test)]
mod parity;
#[cfg(test)]
mod tests;

pub use full::FullConfig;
pub use linear_probe::LinearProbeConfig;
pub use lora::{Bias, Init, LoraConfig};

use modelsmith_core::error::{Error, Result, suggest};
use modelsmith_core::method::{Card, Entry, Method, read_options, schema_of};
use modelsmith_core::roles::Adapt;
use serde_json::{Map, Value};

/// The family's methods and presets.
pub const TABLE: &[Entry<dyn Adapt>] = &[
    row::<LoraConfig>(LoraConfig::CARD, lora::defaults),
    row::<LoraConfig>(lora::RSLORA, lora::rslora),
    row::<LoraConfig>(lora::DORA, lora::dora),
    row::<LoraConfig>(lora::PISSA, lora::pissa),
    row::<LoraConfig>(lora::OLORA, lora::olora),
    row::<FullConfig>(FullConfig::CARD, full::defaults),
    row::<LinearProbeConfig>(LinearProbeConfig::CARD, linear_probe::defaults),
];

/// Reads the options of a saved adapter from its `adapter_config.json`.
pub type FromPeft = fn(&Map<String, Value>) -> Result<Box<dyn Adapt>>;

/// The method that reads each `peft_type`. Types that PEFT does not know are ids in upper case.
pub const PEFT: &[(&str, FromPeft)] = &[
    ("LORA", lora::from_peft),
    ("FULL", full::from_peft),
    ("LINEAR_PROBE", linear_probe::from_peft),
];

/// The configured method of a saved adapter, chosen by the `peft_type` of its configuration.
///
/// # Errors
/// No or an unknown `peft_type`; a key with a value that would change the computation in a way
/// that the method does not cover.
pub fn from_peft(config: &Map<String, Value>) -> Result<Box<dyn Adapt>> {
    let found = config.get("peft_type").and_then(Value::as_str);
    let found = found.ok_or_else(|| {
        Error::config(
            "peft_type",
            "missing or not a string in adapter_config.json; is this folder an adapter?",
        )
    })?;
    match PEFT.iter().find(|(known, _)| *known == found) {
        Some((_, read)) => read(config),
        None => Err(Error::config(
            "peft_type",
            format!(
                "adapters of type {found} are not supported; {}",
                suggest(found, PEFT.iter().map(|(known, _)| *known))
            ),
        )),
    }
}

const fn row<C: Method + Adapt + 'static>(card: Card, defaults: fn() -> Value) -> Entry<dyn Adapt> {
    Entry::new(card, schema_of::<C>, defaults, read::<C>)
}

fn read<C: Method + Adapt + 'static>(options: &Value) -> Result<Box<dyn Adapt>> {
    Ok(Box::new(read_options::<C>(options)?))
}
