//! Recipes of a claim's runs, put together from fragments.

use super::file::{Arm, Experiment, Test, Tier};
use crate::recipe::read_typed;
use modelsmith_core::error::{Error, Result};
use modelsmith_data::DataConfig;
use serde_json::{Map, Value, json};
use std::collections::BTreeMap;
use std::path::{Path, PathBuf};

/// Names the experiment's data folder in the paths of a claim.
const OWN: &str = "$CLAIM";

/// Begins a path into the folder of a run that was made first.
const FIRST: &str = "$FIRST/";

/// The recipe of one run as a value: the experiment's, the tier's over it, then the arm's.
pub(super) fn recipe(
    experiment: &Experiment,
    tier: Tier,
    arm: &Arm,
    learning_rate: f64,
    seed: u64,
) -> Value {
    let mut value = Value::Object(experiment.recipe.clone());
    overlay(
        &mut value,
        &Value::Object(experiment.budget(tier).recipe.clone()),
    );
    let own = json!({
        "description": format!("{}: {}", experiment.id, arm.id),
        "method": arm.method,
        "train": {"learning_rate": learning_rate},
        "seed": seed,
    });
    overlay(&mut value, &own);
    value
}

/// The data of a test: the recipe's with the test's over it, all rows, in order.
pub(super) fn test_data(recipe: &Map<String, Value>, test: &Test) -> Result<Value> {
    let mut data = recipe.get("data").cloned().unwrap_or_else(|| json!({}));
    if let Some(map) = data.as_object_mut() {
        map.remove("held_out_path");
    }
    overlay(&mut data, &json!({"held_out": 0.0, "limit": 0}));
    overlay(&mut data, &Value::Object(test.data.clone()));
    overlay(&mut data, &json!({"shuffle": false}));
    read_typed::<DataConfig>(&data).map_err(|error| match error {
        Error::Config { key, problem } => {
            Error::config(format!("tests.{}.data.{key}", test.id), problem)
        }
        other => other,
    })?;
    Ok(data)
}

/// Lays tables over tables key by key; anything else replaces what was there.
pub(super) fn overlay(target: &mut Value, over: &Value) {
    match (target, over) {
        (Value::Object(target), Value::Object(over)) => {
            for (key, value) in over {
                overlay(target.entry(key.as_str()).or_insert(Value::Null), value);
            }
        }
        (target, over) => *target = over.clone(),
    }
}

/// The folders that paths of a claim name.
#[derive(Clone, Debug, Default)]
pub(super) struct Places {
    /// The experiment's data, `$CLAIM`.
    pub(super) data: PathBuf,
    /// The runs made first, `$FIRST/ID`.
    pub(super) first: BTreeMap<String, PathBuf>,
}

/// Puts folders in place of `$CLAIM` and `$FIRST/ID`.
pub(super) fn place(value: &mut Value, places: &Places) {
    match value {
        Value::String(text) => {
            let below = |folder: &Path, rest: &str| {
                let path = folder.join(rest.trim_start_matches('/'));
                path.display().to_string()
            };
            if let Some(rest) = text.strip_prefix(OWN) {
                *text = below(&places.data, rest);
            } else if let Some(rest) = text.strip_prefix(FIRST) {
                let (id, rest) = rest.split_once('/').unwrap_or((rest, ""));
                if let Some(folder) = places.first.get(id) {
                    *text = below(folder, rest);
                }
            }
        }
        Value::Array(items) => items.iter_mut().for_each(|item| place(item, places)),
        Value::Object(map) => map.iter_mut().for_each(|(_, item)| place(item, places)),
        _ => {}
    }
}

/// Paths in `value` that lie in the folder of public data, as written.
pub(super) fn public_paths(value: &Value) -> Vec<&str> {
    match value {
        Value::String(text) if text.starts_with("$MODELSMITH_DATA") => vec![text],
        Value::Array(items) => items.iter().flat_map(public_paths).collect(),
        Value::Object(map) => map
            .iter()
            .flat_map(|(_, item)| public_paths(item))
            .collect(),
        _ => Vec::new(),
    }
}

/// Refuses a key of a recipe that the arms or the protocol set.
pub(super) fn refuse_set(fragment: &Map<String, Value>, key: &str) -> Result<()> {
    let (table, inner) = key.split_once('.').unwrap_or((key, ""));
    let found = fragment.get(table);
    let found = if inner.is_empty() {
        found
    } else {
        found.and_then(|value| value.get(inner))
    };
    match found {
        None => Ok(()),
        Some(_) => Err(Error::config(
            key,
            "is set by arms and seeds; what all arms share holds no method, learning rate, seed or output",
        )),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn fragments_lie_over_each_other_key_by_key() {
        let mut value = json!({"a": {"b": 1, "c": 2}, "d": [1, 2]});
        overlay(&mut value, &json!({"a": {"b": 3}, "d": [4], "e": {"f": 5}}));
        assert_eq!(
            value,
            json!({"a": {"b": 3, "c": 2}, "d": [4], "e": {"f": 5}})
        );
    }

    #[test]
    fn own_and_public_paths_are_found() {
        let mut value =
            json!({"a": ["$CLAIM/x.jsonl"], "b": {"c": "$MODELSMITH_DATA/y"}, "d": "z"});
        assert_eq!(public_paths(&value), ["$MODELSMITH_DATA/y"]);
        value["f"] = json!("$FIRST/ticket/adapter");
        let places = Places {
            data: "here".into(),
            first: [("ticket".to_owned(), PathBuf::from("runs/t"))].into(),
        };
        place(&mut value, &places);
        assert_eq!(value["a"][0], "here/x.jsonl");
        assert_eq!(value["f"], "runs/t/adapter");
    }
}
