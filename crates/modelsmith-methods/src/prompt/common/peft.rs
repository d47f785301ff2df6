//! What do prompts look like in PEFT's files?
//!
//! `adapter_config.json` describes the host's shape beside the prompt; the one tensor,
//! `prompt_embeddings`, has no prefix. A classifier's head is stored as `base_model.<name>`.

use crate::adapter::common::copies::Wanted;
use crate::adapter::common::peft::describe;
use crate::adapter::common::weights::{Bound, under_modules};
use modelsmith_core::error::{Error, Result};
use modelsmith_core::host::{Host, HostInfo};
use serde_json::{Map, Value, json};

/// The key of the prompt.
pub(crate) const PROMPT: &str = "prompt_embeddings";

/// Keys that repeat what the host's configuration says.
pub(crate) const SHAPE: &[&str] = &["num_attention_heads", "num_layers", "token_dim"];

/// The keys of every prompt's configuration: `count` vectors of a width.
pub(crate) fn describe_prompt(
    info: &HostInfo,
    peft_type: &str,
    count: usize,
    width: usize,
) -> Map<String, Value> {
    let number = |names: &[&str]| {
        let found = names.iter().find_map(|name| info.config[*name].as_u64());
        found.map_or(Value::Null, Value::from)
    };
    let mut config = describe(info, peft_type);
    let shape = [
        ("num_virtual_tokens", json!(count)),
        ("num_transformer_submodules", json!(1)),
        ("token_dim", json!(width)),
        (
            "num_layers",
            number(&["num_hidden_layers", "n_layer", "num_layers"]),
        ),
        (
            "num_attention_heads",
            number(&["num_attention_heads", "n_head", "num_heads"]),
        ),
    ];
    config.extend(shape.map(|(key, value)| (key.to_owned(), value)));
    config
}

/// The names once each; PEFT adds the heads of classifiers again whenever it loads a file.
pub(crate) fn once(names: Vec<String>) -> Vec<String> {
    let mut found = Vec::new();
    for name in names {
        if !found.contains(&name) {
            found.push(name);
        }
    }
    found
}

/// Names of the modules trained in full beside a prompt: those named, and the heads of classifiers.
fn with_heads(info: &HostInfo, named: &[String]) -> Vec<String> {
    let own = info.head_modules.iter().map(|name| (*name).to_owned());
    let mut names = named.to_vec();
    names.extend(own.filter(|name| !named.contains(name)));
    names
}

/// The same as a key of the configuration; null where there are none.
pub(crate) fn saved_modules(info: &HostInfo, named: &[String]) -> Value {
    let names = with_heads(info, named);
    json!((!names.is_empty()).then_some(names))
}

/// The modules trained in full beside a prompt: those named, and the heads of classifiers.
pub(crate) fn heads(host: &dyn Host, named: &[String]) -> Result<Vec<Wanted>> {
    let own = host.info().head_modules;
    let names = with_heads(host.info(), named);
    let chosen = under_modules(host, "modules_to_save", &names, own)?;
    let wanted = |bound: Bound| Wanted {
        file_key: format!("base_model.{}", bound.name),
        bound,
    };
    Ok(chosen.into_iter().map(wanted).collect())
}

/// Refuses vectors in front of a decoder's answer, of which PEFT writes a second set.
///
/// # Errors
/// A number of sets other than 1.
pub(crate) fn check_submodules(count: usize) -> Result<()> {
    match count {
        1 => Ok(()),
        count => Err(Error::config(
            "num_transformer_submodules",
            format!(
                "is {count}; vectors in front of a decoder's answer are not implemented, only those in \
                 front of the text (1)"
            ),
        )),
    }
}

/// Refuses a classifier's prompt of PEFT where PEFT reads another state than we do: files of `theirs` for hosts that read
/// the first token.
///
/// # Errors
/// Such a file.
pub(crate) fn check_pooling(
    host: &dyn Host,
    config: &Map<String, Value>,
    theirs: &str,
) -> Result<()> {
    let kind = config.get("peft_type").and_then(Value::as_str);
    match kind == Some(theirs) && host.info().pools_first {
        false => Ok(()),
        true => Err(Error::config(
            "peft_type",
            format!(
                "a {theirs} classifier of PEFT reads the first virtual token, {} the \
                 first token of the text; train it again",
                host.info().architecture
            ),
        )),
    }
}
