//! A parameter as a merge configuration writes it: one value, a gradient over the layers, or values by tensor name.

use modelsmith_core::error::{Error, Result, suggest};
use modelsmith_methods::delta::merge::parameter_names;
use serde_json::{Map, Value};
use std::collections::BTreeMap;

/// A parameter's value, which may depend on the tensor.
#[derive(Clone, Debug, PartialEq)]
pub(crate) enum Setting {
    /// The same for all tensors; flags are 0 and 1.
    One(f64),
    /// Values at equal distances from the first layer to the last, interpolated between.
    Gradient(Vec<f64>),
    /// The first whose filter is part of the tensor's name; no filter is part of every name.
    Filtered(Vec<(Option<String>, Setting)>),
}

/// Parameters by name.
pub(crate) type Settings = BTreeMap<String, Setting>;

impl Setting {
    /// The value for a tensor at `t` of the way from the first layer (0) to the last (1).
    pub(crate) fn value(&self, tensor: &str, t: f64) -> Option<f64> {
        match self {
            Self::One(value) => Some(*value),
            Self::Gradient(values) => interpolate(values, t),
            Self::Filtered(choices) => {
                let fits = |filter: &Option<String>| {
                    filter.as_deref().is_none_or(|part| tensor.contains(part))
                };
                let found = choices.iter().find(|(filter, _)| fits(filter));
                found.and_then(|(_, setting)| setting.value(tensor, t))
            }
        }
    }

    fn read(key: &str, value: &Value) -> Result<Self> {
        if let Some(number) = scalar(value) {
            return Ok(Self::One(number));
        }
        let wrong = || {
            let problem = format!(
                "is {value}; expected a number, true or false, a list of numbers, or a list of filter and value"
            );
            Error::config(key, problem)
        };
        let items = value
            .as_array()
            .filter(|items| !items.is_empty())
            .ok_or_else(wrong)?;
        if let Some(numbers) = items.iter().map(scalar).collect() {
            return Ok(Self::Gradient(numbers));
        }
        let choice = |(number, item): (usize, &Value)| {
            let key = format!("{key}[{number}]");
            choice(&key, item.as_object().ok_or_else(wrong)?)
        };
        items
            .iter()
            .enumerate()
            .map(choice)
            .collect::<Result<_>>()
            .map(Self::Filtered)
    }
}

fn interpolate(values: &[f64], t: f64) -> Option<f64> {
    let place = t.clamp(0.0, 1.0) * (values.len().checked_sub(1)?) as f64;
    let low = place as usize;
    let high = (low + 1).min(values.len() - 1);
    let part = place - low as f64;
    Some((1.0 - part) * values[low] + part * values[high])
}

fn scalar(value: &Value) -> Option<f64> {
    match value {
        Value::Bool(flag) => Some(f64::from(u8::from(*flag))),
        Value::Number(number) => number.as_f64().filter(|number| number.is_finite()),
        _ => None,
    }
}

/// `{filter: ..., value: ...}`.
fn choice(key: &str, item: &Map<String, Value>) -> Result<(Option<String>, Setting)> {
    if let Some(unknown) = item
        .keys()
        .find(|name| !["filter", "value"].contains(&name.as_str()))
    {
        let near = suggest(unknown, ["filter", "value"]);
        return Err(Error::config(
            format!("{key}.{unknown}"),
            format!("unknown key; {near}"),
        ));
    }
    let filter = match item.get("filter") {
        None | Some(Value::Null) => None,
        Some(Value::String(text)) => Some(text.clone()).filter(|text| text != "*"),
        Some(other) => {
            let problem = format!("is {other}; expected a part of tensor names");
            return Err(Error::config(format!("{key}.filter"), problem));
        }
    };
    let value = item
        .get("value")
        .ok_or_else(|| Error::config(format!("{key}.value"), "is missing"))?;
    Ok((filter, Setting::read(&format!("{key}.value"), value)?))
}

/// Reads a table of parameters; names that no merge method has are refused with near ones.
///
/// # Errors
/// An unknown name, a value of another form.
pub(crate) fn read(key: &str, table: Option<&Map<String, Value>>) -> Result<Settings> {
    let known = parameter_names();
    let mut settings = Settings::new();
    for (name, value) in table.into_iter().flatten() {
        let key = format!("{key}.{name}");
        if !known.contains(name.as_str()) {
            let near = suggest(name, known.iter().copied());
            return Err(Error::config(
                key,
                format!("no merge method has this parameter; {near}"),
            ));
        }
        settings.insert(name.clone(), Setting::read(&key, value)?);
    }
    Ok(settings)
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    fn setting(value: Value) -> Result<Setting> {
        Setting::read("parameters.t", &value)
    }

    #[test]
    fn gradients_run_from_the_first_layer_to_the_last() {
        let gradient = setting(json!([0, 1, 0.5])).unwrap();
        let at = |t| gradient.value("x", t).unwrap();
        assert_eq!(
            [at(0.0), at(0.25), at(0.5), at(0.75), at(1.0)],
            [0.0, 0.5, 1.0, 0.75, 0.5]
        );
    }

    #[test]
    fn the_first_fitting_filter_counts() {
        let value = json!([{"filter": "mlp", "value": [0, 1]}, {"filter": "norm", "value": true}, {"value": 7}]);
        let filtered = setting(value).unwrap();
        let of = |name| filtered.value(name, 0.5);
        assert_eq!(of("layers.0.mlp.up"), Some(0.5));
        assert_eq!(of("layers.0.norm"), Some(1.0));
        assert_eq!(of("layers.0.q"), Some(7.0));
        let partial = setting(json!([{"filter": "mlp", "value": 1}])).unwrap();
        assert_eq!(partial.value("q", 0.0), None);
    }

    #[test]
    fn other_forms_and_names_are_refused() {
        for value in [
            json!("much"),
            json!([]),
            json!([1, "a"]),
            json!({"a": 1}),
            json!([{"filtr": "a", "value": 1}]),
        ] {
            assert!(setting(value.clone()).is_err(), "{value}");
        }
        let table = json!({"densty": 0.5});
        let error = read("parameters", table.as_object())
            .unwrap_err()
            .to_string();
        assert!(
            error.contains("parameters.densty") && error.contains("did you mean density"),
            "{error}"
        );
    }
}
