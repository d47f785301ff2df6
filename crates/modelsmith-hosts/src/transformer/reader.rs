//! Reading `config.json` key by key, so that what nobody read can be refused.

use modelsmith_core::error::{Error, Result, suggest};
use serde_json::{Map, Value};
use std::cell::RefCell;
use std::collections::BTreeSet;

/// Largest size any key may give; products of two still fit 64 bits.
const LARGEST: u64 = 1 << 31;

/// Most layers a model may have.
const MOST_LAYERS: usize = 4096;

/// Keys that change nothing in what is computed here, whatever their value.
const HARMLESS: &[&str] = &[
    "model_type",
    "architectures",
    "transformers_version",
    "torch_dtype",
    "dtype",
    "use_cache",
    "bos_token_id",
    "eos_token_id",
    "pad_token_id",
    "sep_token_id",
    "cls_token_id",
    "unk_token_id",
    "mask_token_id",
    "decoder_start_token_id",
    "forced_eos_token_id",
    "id2label",
    "label2id",
    "num_labels",
    "problem_type",
    "_name_or_path",
    "name_or_path",
    "_num_labels",
    "output_attentions",
    "output_hidden_states",
    "return_dict",
    "torchscript",
    "task_specific_params",
    "finetuning_task",
    "tokenizer_class",
    "prefix",
    "max_length",
    "min_length",
    "do_sample",
    "early_stopping",
    "num_beams",
    "num_return_sequences",
    "temperature",
    "top_k",
    "top_p",
    "repetition_penalty",
    "length_penalty",
    "no_repeat_ngram_size",
    "gradient_checkpointing",
    "_attn_implementation",
    "_attn_implementation_autoset",
    "attn_implementation",
    "chunk_size_feed_forward",
    "pretraining_tp",
    "initializer_range",
    "keys_to_ignore_at_inference",
    "language",
];

/// A configuration being read; every key that is read is remembered.
pub(crate) struct Reader<'a> {
    map: &'a Map<String, Value>,
    used: RefCell<BTreeSet<String>>,
}

impl<'a> Reader<'a> {
    /// Reads from the object that `config.json` holds.
    pub(crate) fn new(config: &'a Value) -> Result<Self> {
        let map = config
            .as_object()
            .ok_or_else(|| Error::config("config.json", "expected an object"))?;
        Ok(Self {
            map,
            used: RefCell::default(),
        })
    }

    /// The value of a key; `null` counts as absent.
    pub(crate) fn get(&self, key: &str) -> Option<&'a Value> {
        self.used.borrow_mut().insert(key.to_owned());
        self.map.get(key).filter(|value| !value.is_null())
    }

    /// Whether the key is written at all, `null` included.
    pub(crate) fn mentions(&self, key: &str) -> bool {
        self.map.contains_key(key)
    }

    /// A nested object, read the same way; absent where the key is absent or empty.
    pub(crate) fn nested(&self, key: &str) -> Result<Option<Reader<'a>>> {
        match self.get(key) {
            None => Ok(None),
            Some(value) => match value.as_object() {
                Some(map) if map.is_empty() => Ok(None),
                Some(_) => Reader::new(value).map(Some),
                None => Err(bad(key, value, "an object")),
            },
        }
    }

    /// A size that may be absent.
    pub(crate) fn size_if(&self, key: &str) -> Result<Option<usize>> {
        let Some(value) = self.get(key) else {
            return Ok(None);
        };
        match value.as_u64() {
            Some(size) if size <= LARGEST => Ok(Some(size as usize)),
            _ => Err(bad(key, value, "a whole number from 0 to 2^31")),
        }
    }

    /// A size with a default.
    pub(crate) fn size_or(&self, key: &str, default: usize) -> Result<usize> {
        self.size_if(key)?
            .map_or(Ok(default), |size| positive(key, size))
    }

    /// A size that must be given and positive.
    pub(crate) fn size(&self, key: &str) -> Result<usize> {
        match self.size_if(key)? {
            Some(size) => positive(key, size),
            None => Err(Error::config(
                key,
                "the key is missing; a whole number is expected",
            )),
        }
    }

    /// A number of layers.
    pub(crate) fn layers(&self, key: &str) -> Result<usize> {
        match self.size(key)? {
            layers @ ..=MOST_LAYERS => Ok(layers),
            layers => Err(Error::config(
                key,
                format!("{layers} layers; at most {MOST_LAYERS} are read"),
            )),
        }
    }

    /// A finite number with a default.
    pub(crate) fn number_or(&self, key: &str, default: f64) -> Result<f64> {
        Ok(self.number_if(key)?.unwrap_or(default))
    }

    /// A finite number that may be absent.
    pub(crate) fn number_if(&self, key: &str) -> Result<Option<f64>> {
        let Some(value) = self.get(key) else {
            return Ok(None);
        };
        match value.as_f64() {
            Some(number) if number.is_finite() => Ok(Some(number)),
            _ => Err(bad(key, value, "a finite number")),
        }
    }

    /// A number that must be given and positive.
    pub(crate) fn positive(&self, key: &str) -> Result<f64> {
        match self.number_if(key)? {
            Some(number) if number > 0.0 => Ok(number),
            found => Err(Error::config(
                key,
                format!("found {found:?}; a positive number is expected"),
            )),
        }
    }

    /// A share of dropped values with a default.
    pub(crate) fn rate_or(&self, key: &str, default: f64) -> Result<f64> {
        let rate = self.number_or(key, default)?;
        if (0.0..1.0).contains(&rate) {
            return Ok(rate);
        }
        Err(Error::config(
            key,
            format!("{rate} is no dropout rate; expected 0 up to but not including 1"),
        ))
    }

    /// A truth value with a default.
    pub(crate) fn flag_or(&self, key: &str, default: bool) -> Result<bool> {
        match self.get(key) {
            None => Ok(default),
            Some(value) => value
                .as_bool()
                .ok_or_else(|| bad(key, value, "true or false")),
        }
    }

    /// A text that may be absent.
    pub(crate) fn text_if(&self, key: &str) -> Result<Option<&'a str>> {
        match self.get(key) {
            None => Ok(None),
            Some(value) => value
                .as_str()
                .map(Some)
                .ok_or_else(|| bad(key, value, "a text")),
        }
    }

    /// Refuses any value of `key` but `only`; an absent key stands for it.
    pub(crate) fn only(&self, key: &str, only: &Value) -> Result<()> {
        match self.get(key) {
            Some(value) if !equal(value, only) => Err(Error::config(
                key,
                format!(
                    "{value} is not implemented (only {only} is), so the model would compute \
                     something else; use a checkpoint without it"
                ),
            )),
            _ => Ok(()),
        }
    }

    /// Refuses keys that nobody read, that are not harmless and that say something.
    pub(crate) fn finish(self, place: &str, also_harmless: &[&str]) -> Result<()> {
        let used = self.used.into_inner();
        let known = |key: &str| {
            used.contains(key) || HARMLESS.contains(&key) || also_harmless.contains(&key)
        };
        let unknown = self
            .map
            .iter()
            .find(|(key, value)| !known(key) && !says_nothing(value));
        let Some((key, value)) = unknown else {
            return Ok(());
        };
        let full = if place.is_empty() {
            key.clone()
        } else {
            format!("{place}.{key}")
        };
        Err(Error::config(full, refusal(key, value, &used)))
    }
}

fn refusal(key: &str, value: &Value, used: &BTreeSet<String>) -> String {
    let shown: String = value.to_string().chars().take(80).collect();
    if key == "quantization_config" {
        return format!(
            "{shown}: quantised checkpoints are not implemented; use the unquantised checkpoint"
        );
    }
    let near = suggest(key, used.iter().map(String::as_str));
    let near = if near.starts_with("did you mean") {
        format!(" ({near})")
    } else {
        String::new()
    };
    format!(
        "{shown}: this key is not known here{near} and may change what the model computes; remove \
         it from config.json if it has no effect, or use a checkpoint without it"
    )
}

/// Equality that does not tell 1 from 1.0.
fn equal(a: &Value, b: &Value) -> bool {
    match (a.as_f64(), b.as_f64()) {
        (Some(a), Some(b)) => a == b,
        _ => a == b,
    }
}

/// `null`, `false`, zero and empty values ask for nothing.
fn says_nothing(value: &Value) -> bool {
    match value {
        Value::Null => true,
        Value::Bool(flag) => !flag,
        Value::Number(number) => number.as_f64() == Some(0.0),
        Value::String(text) => text.is_empty(),
        Value::Array(items) => items.is_empty(),
        Value::Object(map) => map.is_empty(),
    }
}

fn positive(key: &str, size: usize) -> Result<usize> {
    if size == 0 {
        return Err(Error::config(key, "0 is too small; at least 1 is expected"));
    }
    Ok(size)
}

pub(crate) fn bad(key: &str, value: &Value, expected: &str) -> Error {
    let shown: String = value.to_string().chars().take(80).collect();
    Error::config(key, format!("found {shown}; expected {expected}"))
}
