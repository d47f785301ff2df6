//! Methods and their options, as their registration and the comments of their fields have them.

use super::{Align, Table};
use modelsmith_engine::registry::Listed;
use serde_json::Value;

/// All methods, a line each.
pub(crate) fn methods(all: &[Listed]) -> String {
    let mut table = Table::new(&[
        ("method", Align::Left),
        ("family", Align::Left),
        ("card", Align::Right),
        ("what it does", Align::Left),
    ]);
    for listed in all {
        let card = listed.card;
        table.row([
            card.id.to_owned(),
            card.family.name().to_owned(),
            card.number
                .map_or(String::new(), |number| number.to_string()),
            card.summary.to_owned(),
        ]);
    }
    table.render()
}

/// One method with its options.
pub(crate) fn method(listed: &Listed) -> String {
    let card = listed.card;
    let mut lines = vec![
        format!("{}  {}", card.id, card.title),
        format!("{} ({})", card.summary, card.paper),
        String::new(),
        "options, as keys of [method] or of train.optimizer:".to_owned(),
    ];
    let none = serde_json::Map::new();
    let properties = listed.schema["properties"].as_object().unwrap_or(&none);
    for (name, schema) in properties {
        let default = listed.defaults.get(name).unwrap_or(&Value::Null);
        let default = if default.is_null() {
            "absent".to_owned()
        } else {
            default.to_string()
        };
        lines.push(format!(
            "  {name} = {default}  ({})",
            kind(schema, &listed.schema)
        ));
        let doc = schema["description"].as_str().unwrap_or_default();
        lines.extend(doc.lines().map(|line| format!("      {line}")));
    }
    lines.join("\n")
}

/// The type of an option in words.
fn kind(schema: &Value, root: &Value) -> String {
    if let Some(name) = schema["$ref"].as_str() {
        let name = name.rsplit('/').next().unwrap_or_default();
        return kind(&root["$defs"][name], root);
    }
    if let Some(one) = schema["const"].as_str() {
        return one.to_owned();
    }
    if let Some(names) = schema["enum"].as_array() {
        return either(names.iter().filter_map(Value::as_str).map(str::to_owned));
    }
    for key in ["anyOf", "oneOf", "allOf"] {
        if let Some(all) = schema[key].as_array() {
            return either(all.iter().map(|one| kind(one, root)));
        }
    }
    match &schema["type"] {
        Value::Array(all) => either(
            all.iter()
                .filter_map(Value::as_str)
                .map(|name| named(name, schema, root)),
        ),
        Value::String(name) => named(name, schema, root),
        _ => "any".to_owned(),
    }
}

/// A type by its name in JSON schema.
fn named(name: &str, schema: &Value, root: &Value) -> String {
    let inner = |key: &str| schema.get(key).filter(|inner| inner.is_object());
    match name {
        "array" => match inner("items") {
            Some(item) => format!("list of {}s", kind(item, root)),
            None => "list".to_owned(),
        },
        "object" => match inner("additionalProperties") {
            Some(value) => format!("table of {}s", kind(value, root)),
            None => "table".to_owned(),
        },
        "boolean" => "true or false".to_owned(),
        "integer" => "whole number".to_owned(),
        "null" => "absent".to_owned(),
        "string" => "text".to_owned(),
        other => other.to_owned(),
    }
}

fn either(kinds: impl Iterator<Item = String>) -> String {
    let kinds: Vec<String> = kinds.filter(|kind| kind != "absent").collect();
    kinds.join(" or ")
}
