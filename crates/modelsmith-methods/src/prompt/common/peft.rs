//! What do prompts look like in PEFT's files?
//!
//! `adapter_config.json` describes the host's shape beside the prompt; the one tensor,
//! `prompt_embeddings`, has no prefix. A classifier's head is stored as `base_model.<name>`.

use crate::adapter::common::copies::Wanted;
use crate::adapter::common::peft::describe;
use crate::adapter::common::weights::{Bound, under_modules};
use modelsmith_core::error::Result;
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

/// The modules trained in full beside a prompt: those named, and the heads of classifiers.
pub(crate) fn heads(host: &dyn Host, named: &[String]) -> Result<Vec<Wanted>> {
    let own = host.info().head_modules;
    let own_names = own.iter().map(|name| (*name).to_owned());
    let mut names: Vec<String> = named.to_vec();
    names.extend(own_names.filter(|name| !named.contains(name)));
    let chosen = under_modules(host, "modules_to_save", &names, own)?;
    let wanted = |bound: Bound| Wanted {
        file_key: format!("base_model.{}", bound.name),
        bound,
    };
    Ok(chosen.into_iter().map(wanted).collect())
}
