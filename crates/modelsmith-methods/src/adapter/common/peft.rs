//! What do the two files of a saved adapter look like?
//!
//! `adapter_config.json` with the keys that peft 0.21.2 writes, and tensors named
//! `base_model.model.<path of the module>.<tensor>`. Methods that PEFT does not know use the same
//! form with their id in upper case as `peft_type`.

use burn::tensor::Tensor;
use modelsmith_core::error::{Error, Result, suggest};
use modelsmith_core::host::{Host, HostInfo};
use modelsmith_core::method::{defaults_of, read_options};
use modelsmith_core::parameters::{Flat, to_vec};
use serde::Serialize;
use serde::de::DeserializeOwned;
use serde_json::{Map, Value, json};
use std::collections::BTreeMap;

/// The version whose files we write.
const PEFT_VERSION: &str = "0.21.2";

/// Keys that describe an adapter without changing what it computes.
const DESCRIPTIVE: &[&str] = &[
    "auto_mapping",
    "base_model_name_or_path",
    "eva_config",
    "fan_in_fan_out",
    "inference_mode",
    "megatron_core",
    "peft_type",
    "peft_version",
    "qalora_group_size",
    "revision",
    "runtime_config",
    "task_type",
];

/// The key of a host weight or a method's tensor in the file.
pub(crate) fn key(name: &str) -> String {
    format!("base_model.model.{name}")
}

/// The keys every configuration has.
pub(crate) fn describe(info: &HostInfo, peft_type: &str) -> Map<String, Value> {
    let described = json!({
        "auto_mapping": null,
        "base_model_name_or_path": info.origin,
        "inference_mode": true,
        "peft_type": peft_type,
        "peft_version": PEFT_VERSION,
        "revision": null,
        "task_type": info.task_type,
    });
    match described {
        Value::Object(map) => map,
        _ => Map::new(),
    }
}

/// The same map with its keys in alphabetical order, as PEFT writes them.
pub(crate) fn sorted(map: Map<String, Value>) -> Map<String, Value> {
    let ordered: BTreeMap<String, Value> = map.into_iter().collect();
    ordered.into_iter().collect()
}

/// A whole number as an integer, as PEFT writes `lora_alpha`.
pub(crate) fn number(value: f64) -> Value {
    if value.fract() == 0.0 && value.abs() < 9e15 {
        json!(value as i64)
    } else {
        json!(value)
    }
}

/// The values of the keys that a method acts on, absent and null ones left out; any other key is
/// accepted only where it is switched off (null, false, empty) or does not change the computation.
///
/// # Errors
/// A key that would change the computation, by its name.
pub(crate) fn acted_on(config: &Map<String, Value>, known: &[&str]) -> Result<Map<String, Value>> {
    let mut found = Map::new();
    for (key, value) in config {
        if known.contains(&key.as_str()) {
            if !value.is_null() {
                found.insert(key.clone(), value.clone());
            }
        } else if !DESCRIPTIVE.contains(&key.as_str()) && !is_off(value) {
            return Err(Error::config(
                key.clone(),
                format!(
                    "the adapter was saved with {key} = {value}, which is not supported and would \
                     change what it computes"
                ),
            ));
        }
    }
    Ok(found)
}

/// The options of a method whose files hold them under their own names.
///
/// # Errors
/// As [`acted_on`], and values of the wrong type.
pub(crate) fn own_options<C>(config: &Map<String, Value>) -> Result<C>
where
    C: Default + Serialize + DeserializeOwned,
{
    let known = defaults_of::<C>();
    let names = known.as_object().into_iter().flat_map(Map::keys);
    let names: Vec<&str> = names.map(String::as_str).collect();
    read_options(&Value::Object(acted_on(config, &names)?))
}

fn is_off(value: &Value) -> bool {
    match value {
        Value::Null => true,
        Value::Bool(on) => !on,
        Value::Array(items) => items.is_empty(),
        Value::Object(items) => items.is_empty(),
        Value::String(text) => text.is_empty(),
        Value::Number(_) => false,
    }
}

/// The tensors of a saved adapter, taken out one by one so that none is left unread.
pub(crate) struct Taker {
    tensors: BTreeMap<String, Flat>,
}

impl Taker {
    /// All tensors of a file.
    pub(crate) fn new(tensors: &BTreeMap<String, Flat>) -> Self {
        Self {
            tensors: tensors.clone(),
        }
    }

    /// The tensor `key`, which must have `shape`.
    ///
    /// # Errors
    /// It is missing, or has another shape.
    pub(crate) fn take(&mut self, key: &str, shape: &[usize]) -> Result<Flat> {
        let Some(found) = self.tensors.remove(key) else {
            let near = suggest(key, self.tensors.keys().map(String::as_str));
            return Err(Error::Failed(format!(
                "the adapter lacks the tensor {key}; {near}"
            )));
        };
        if found.shape != shape {
            return Err(Error::Failed(format!(
                "the adapter's tensor {key} has shape {:?}, expected {shape:?}; was it made for \
                 another base model or rank?",
                found.shape
            )));
        }
        Ok(found)
    }

    /// Whether there is a tensor `key` still.
    pub(crate) fn holds(&self, key: &str) -> bool {
        self.tensors.contains_key(key)
    }

    /// The tensor `key` of any shape, if there is one.
    pub(crate) fn take_any(&mut self, key: &str) -> Option<Flat> {
        self.tensors.remove(key)
    }

    /// Leaves out tensors that only repeat a weight of the host, as PEFT stores them when asked
    /// to save the embeddings.
    pub(crate) fn drop_copies_of(&mut self, host: &dyn Host) {
        let names = host.weight_names().into_iter();
        for (key, name) in names.map(|name| (key(&name), name)) {
            if let (Some(stored), Some(base)) = (self.tensors.get(&key), host.weight(&name))
                && same(stored, &base)
            {
                self.tensors.remove(&key);
            }
        }
    }

    /// Nothing may be left.
    ///
    /// # Errors
    /// Tensors that no site of the host takes, by name.
    pub(crate) fn finish(self) -> Result<()> {
        let mut left = self.tensors.keys();
        match left.next() {
            None => Ok(()),
            Some(first) => Err(Error::Failed(format!(
                "the adapter holds {} tensors that belong to no targeted site of this host, the \
                 first is {first}; was it made for another base model?",
                left.count() + 1
            ))),
        }
    }
}

/// Equal but for the rounding of a 16-bit checkpoint.
pub(crate) fn same(one: &Flat, other: &Flat) -> bool {
    if one.shape != other.shape {
        return false;
    }
    let largest = |values: Tensor<1>| to_vec(values.abs().max()).first().copied().unwrap_or(0.0);
    let apart = largest(one.values.clone() - other.values.clone());
    apart <= 0.01 * largest(other.values.clone())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn config(text: &str) -> Map<String, Value> {
        serde_json::from_str(text).unwrap()
    }

    #[test]
    fn switched_off_keys_pass_and_active_ones_are_refused_by_name() {
        let off = config(r#"{"r": 4, "use_new": false, "new_config": null, "more": [], "x": {}}"#);
        assert_eq!(acted_on(&off, &["r"]).unwrap().len(), 1);
        for (text, name) in [
            (r#"{"use_qalora": true}"#, "use_qalora"),
            (r#"{"layer_replication": [[0, 1]]}"#, "layer_replication"),
            (
                r#"{"trainable_token_indices": [1]}"#,
                "trainable_token_indices",
            ),
            (r#"{"loftq_config": {"loftq_bits": 4}}"#, "loftq_config"),
        ] {
            let message = acted_on(&config(text), &[]).unwrap_err().to_string();
            assert!(message.starts_with(name), "{message}");
        }
    }

    #[test]
    fn a_taker_names_what_is_missing_misshapen_or_left() {
        let device = burn::tensor::Device::flex();
        let tensors = [(
            "a".to_owned(),
            Flat::from_vec(vec![1.0, 2.0], &[1, 2], &device),
        )]
        .into();
        let missing = Taker::new(&tensors).take("b", &[1]).unwrap_err();
        assert!(missing.to_string().contains("lacks the tensor b"));
        let shape = Taker::new(&tensors).take("a", &[2, 1]).unwrap_err();
        assert!(shape.to_string().contains("shape [1, 2], expected [2, 1]"));
        assert!(
            Taker::new(&tensors)
                .finish()
                .unwrap_err()
                .to_string()
                .contains("first is a")
        );
    }
}
