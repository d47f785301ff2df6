//! All methods of all families in one list.

use modelsmith_core::error::{Error, Result, suggest};
pub use modelsmith_core::method::Family;
use modelsmith_core::method::{Card, Entry, defaults_of, find, read_options};
use modelsmith_core::roles::{Adapt, Optimize};
use modelsmith_methods::delta::merge::MergeMethod;
use modelsmith_methods::delta::{self, Operator};
use modelsmith_methods::edit::Edit;
use modelsmith_methods::edit::grace::GraceConfig;
use modelsmith_methods::{attachable, edit, optimize};
use serde::Serialize;
use serde_json::{Map, Value, json};

/// A method as listings show it.
#[derive(Clone, Debug, Serialize)]
pub struct Listed {
    /// What it is.
    #[serde(flatten)]
    pub card: Card,
    /// JSON schema of its options.
    pub schema: Value,
    /// The options with their defaults.
    pub defaults: Value,
}

/// Every registered method, family by family in table order.
pub fn all() -> Vec<Listed> {
    fn rows<R: ?Sized + 'static>(
        table: impl Iterator<Item = &'static Entry<R>>,
    ) -> impl Iterator<Item = Listed> {
        table.map(|entry| Listed {
            card: entry.card,
            schema: (entry.schema)(),
            defaults: (entry.defaults)(),
        })
    }
    rows(attachable())
        .chain(rows(edit::TABLE.iter()))
        .chain(rows(delta::TABLE.iter()))
        .chain(delta::merge::TABLE.iter().map(merge_method))
        .chain(rows(optimize::TABLE.iter()))
        .collect()
}

/// A merge method's parameters in the form of options, each with its doc; a value that has to be given is null.
fn merge_method(method: &MergeMethod) -> Listed {
    let (mut properties, mut defaults) = (Map::new(), Map::new());
    for one in method.parameters {
        let kind = if one.flag { "boolean" } else { "number" };
        let default = match (one.default, one.flag) {
            (Some(value), true) => Value::from(value != 0.0),
            (value, _) => Value::from(value),
        };
        let property = json!({"type": kind, "description": one.about, "default": default});
        properties.insert(one.name.to_owned(), property);
        defaults.insert(one.name.to_owned(), default);
    }
    Listed {
        card: method.card,
        schema: json!({"type": "object", "properties": properties}),
        defaults: defaults.into(),
    }
}

/// The method of a name.
///
/// # Errors
/// An unknown name, with near matches.
pub fn named(id: &str) -> Result<Listed> {
    let mut known = Vec::new();
    for listed in all() {
        if listed.card.id == id {
            return Ok(listed);
        }
        known.push(listed.card.id);
    }
    Err(Error::config(
        "method.name",
        format!("unknown method `{id}`; {}", suggest(id, known)),
    ))
}

/// JSON schema of a whole recipe.
pub fn recipe_schema() -> Value {
    schemars::schema_for!(crate::Recipe).to_value()
}

/// The method of a name that trains an adapter or a prompt, with its options.
///
/// # Errors
/// An unknown method or option, with near matches.
pub fn adapter_method(named: &crate::recipe::Named) -> Result<Box<dyn Adapt>> {
    find(attachable(), &named.name)?.configure(&named.options)
}

/// The optimizer of a name, with its options.
///
/// # Errors
/// As [`adapter_method`].
pub fn optimizer_method(named: &crate::recipe::Named) -> Result<Box<dyn Optimize>> {
    find(optimize::TABLE, &named.name)?.configure(&named.options)
}

/// The editor of a name, with its options.
///
/// # Errors
/// As [`adapter_method`].
pub fn edit_method(named: &crate::recipe::Named) -> Result<Box<dyn Edit>> {
    find(edit::TABLE, &named.name)?.configure(&named.options)
}

/// The editor of differences of a name, with its options.
///
/// # Errors
/// As [`adapter_method`].
pub fn delta_operator(named: &crate::recipe::Named) -> Result<Box<dyn Operator>> {
    find(delta::TABLE, &named.name)?.configure(&named.options)
}

/// Options of a codebook, laid over the defaults.
///
/// # Errors
/// As [`adapter_method`].
pub fn grace_options(options: &Map<String, Value>) -> Result<GraceConfig> {
    let mut all = defaults_of::<GraceConfig>();
    if let Value::Object(target) = &mut all {
        for (key, value) in options {
            if !target.contains_key(key) {
                let known = suggest(key, target.keys().map(String::as_str));
                let problem = format!("GRACE has no such option; {known}");
                return Err(Error::config(format!("method.{key}"), problem));
            }
            target.insert(key.clone(), value.clone());
        }
    }
    let options: GraceConfig = read_options(&all)?;
    options.check()?;
    Ok(options)
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::collections::BTreeSet;

    #[test]
    fn ids_are_unique_and_legal() {
        let all = all();
        let ids: BTreeSet<&str> = all.iter().map(|listed| listed.card.id).collect();
        assert_eq!(ids.len(), all.len());
        let legal = |c: char| c.is_ascii_lowercase() || c.is_ascii_digit() || c == '_';
        for listed in &all {
            let card = listed.card;
            assert!(card.id.chars().all(legal), "{}", card.id);
            assert!(!card.title.is_empty() && !card.paper.is_empty() && !card.summary.is_empty());
        }
    }

    #[test]
    fn an_unknown_method_names_near_ones() {
        let named = crate::recipe::Named::new("loar");
        let error = adapter_method(&named).map(|_| ()).unwrap_err().to_string();
        assert!(error.contains("did you mean lora"), "{error}");
    }
}
