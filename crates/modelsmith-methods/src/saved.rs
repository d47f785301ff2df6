//! Which methods attach trained state to a host, and which of them wrote a saved adapter?

use crate::{adapter, edit, prompt};
use modelsmith_core::error::{Error, Result, suggest};
use modelsmith_core::method::Entry;
use modelsmith_core::roles::Adapt;
use serde_json::{Map, Value};

/// Reads the options of a saved adapter from its `adapter_config.json`.
pub type FromPeft = fn(&Map<String, Value>) -> Result<Box<dyn Adapt>>;

/// The methods of all families whose state a driver trains on a frozen host.
pub fn attachable() -> impl Iterator<Item = &'static Entry<dyn Adapt>> {
    adapter::TABLE.iter().chain(prompt::TABLE)
}

/// The method that reads each `peft_type`.
pub(crate) fn types() -> impl Iterator<Item = &'static (&'static str, FromPeft)> {
    adapter::PEFT.iter().chain(prompt::PEFT).chain(edit::PEFT)
}

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
    match types().find(|(known, _)| *known == found) {
        Some((_, read)) => read(config),
        None => Err(Error::config(
            "peft_type",
            format!(
                "adapters of type {found} are not supported; {}",
                suggest(found, types().map(|(known, _)| *known))
            ),
        )),
    }
}
