//! Two runs beside each other: curves over one another, and where their recipes part.

use crate::answer::Answer;
use crate::folders::{self, View};
use crate::metrics::{Curve, curves};
use crate::server::Shared;
use modelsmith_core::error::Error;
use serde::Serialize;
use serde_json::Value;
use std::collections::BTreeMap;

/// A key of the recipe with different values; null where a run does not have it.
#[derive(Debug, PartialEq, Serialize)]
pub(crate) struct Difference {
    key: String,
    a: Value,
    b: Value,
}

/// Two runs beside each other.
#[derive(Debug, Serialize)]
pub(crate) struct Comparison {
    a: View,
    b: View,
    differences: Vec<Difference>,
    /// Curves of both by `kind.value`.
    curves: BTreeMap<String, [Curve; 2]>,
}

/// Compares two runs by name.
///
/// # Errors
/// A run that is not there.
pub(crate) fn compare(shared: &Shared, a: &str, b: &str) -> Answer<Comparison> {
    let mut both: BTreeMap<String, [Curve; 2]> = BTreeMap::new();
    let mut views = Vec::new();
    for (side, name) in [a, b].into_iter().enumerate() {
        views.push(folders::view(shared, name)?);
        let path = folders::folder(&shared.runs, name)?.join("metrics.jsonl");
        let found = curves(path.clone()).map_err(|error| Error::io(path, error))?;
        for (key, curve) in found {
            both.entry(key).or_default()[side] = curve;
        }
    }
    let recipe = |name| {
        let recipe = folders::recipe(shared, name)?;
        serde_json::to_value(recipe).map_err(|error| Error::Failed(error.to_string()))
    };
    let differences = differences(&recipe(a)?, &recipe(b)?);
    let (Some(b), Some(a)) = (views.pop(), views.pop()) else {
        return Err(Error::Failed("two runs were read".into()).into());
    };
    Ok(Comparison {
        a,
        b,
        differences,
        curves: both,
    })
}

/// Keys whose values differ, dotted; where results went is no difference of the runs.
fn differences(a: &Value, b: &Value) -> Vec<Difference> {
    let mut flat: BTreeMap<String, [Value; 2]> = BTreeMap::new();
    for (side, value) in [a, b].into_iter().enumerate() {
        flatten(String::new(), value, &mut |key, value| {
            flat.entry(key).or_default()[side] = value.clone();
        });
    }
    flat.into_iter()
        .filter(|(key, [a, b])| a != b && !key.starts_with("output."))
        .map(|(key, [a, b])| Difference { key, a, b })
        .collect()
}

fn flatten(key: String, value: &Value, each: &mut dyn FnMut(String, &Value)) {
    match value {
        Value::Object(map) if !map.is_empty() => {
            for (name, value) in map {
                let dot = if key.is_empty() { "" } else { "." };
                flatten(format!("{key}{dot}{name}"), value, each);
            }
        }
        _ => each(key, value),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    #[test]
    fn only_keys_that_differ_are_named() {
        let a = json!({"seed": 1, "method": {"rank": 4, "x": [1]}, "output": {"name": "a"}});
        let b =
            json!({"seed": 1, "method": {"rank": 8, "x": [1], "y": 2}, "output": {"name": "b"}});
        let found = differences(&a, &b);
        let expected = [
            Difference {
                key: "method.rank".into(),
                a: json!(4),
                b: json!(8),
            },
            Difference {
                key: "method.y".into(),
                a: Value::Null,
                b: json!(2),
            },
        ];
        assert_eq!(found, expected);
    }
}
