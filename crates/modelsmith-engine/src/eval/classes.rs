//! A classifier's predictions against the labels.

use super::confusion::ClassFigures;
use super::parent;
use crate::model::Model;
use crate::train::{outputs, prepare};
use modelsmith_core::error::{Error, Result};
use modelsmith_core::files::read_json;
use modelsmith_core::hooks::Pass;
use modelsmith_core::host::Host;
use modelsmith_data::Dataset;
use modelsmith_hosts::Head;
use serde_json::Value;

/// Names of the classes in the order the model numbers them: those of the run that made the
/// adapter, else those that the host's configuration names. Empty where both leave them open.
pub(super) fn names(model: &Model) -> Result<Vec<String>> {
    for (reference, _) in &model.adapters {
        let record = parent(&reference.folder()).join("data.json");
        if record.is_file() {
            let record: Value = read_json(&record)?;
            let names = serde_json::from_value::<Vec<String>>(record["classes"].clone());
            if let Some(names) = names.ok().filter(|names| !names.is_empty()) {
                return Ok(names);
            }
        }
    }
    let labels = &model.host.info().config["id2label"];
    let Some(labels) = labels.as_object() else {
        return Ok(Vec::new());
    };
    let names: Option<Vec<String>> = (0..labels.len())
        .map(|number| labels.get(&number.to_string())?.as_str().map(str::to_owned))
        .collect();
    // LABEL_0, LABEL_1, ... only count; data whose labels are numbers names them better.
    let generic = |names: &Vec<String>| names.iter().all(|name| name.starts_with("LABEL_"));
    Ok(names.filter(|names| !generic(names)).unwrap_or_default())
}

/// Predicts every row and counts.
pub(super) fn measure(model: &Model, data: &Dataset) -> Result<ClassFigures> {
    let count = match model.host.head() {
        Head::SequenceClasses(count) | Head::TokenClasses(count) => count,
        _ => {
            return Err(Error::Usage(format!(
                "{} has no classifier; --task classes needs one, or an adapter that brings one",
                model.folder.display()
            )));
        }
    };
    if data.classes.len() > count {
        return Err(Error::file(
            &model.folder,
            format!(
                "tells {count} classes apart; the data has {}",
                data.classes.len()
            ),
        ));
    }
    let mut confusion = vec![vec![0u64; count]; count];
    let hooks = model.hooks();
    let mut rows = data.train.clone();
    let pass = Pass::default();
    while let Some(batch) = rows.next_in_epoch()? {
        let prepared = prepare(&batch, model.host.head(), None, &model.device)?;
        let hidden = model.host.hidden(&prepared.input, &pass, &hooks, None)?;
        let logits = outputs(&model.host, hidden, &prepared, &pass, &hooks);
        let best = logits.argmax(1).into_data();
        for (predicted, label) in best.iter::<i64>().zip(&prepared.targets) {
            let place = |class: i64| usize::try_from(class).ok().filter(|class| *class < count);
            let (Some(label), Some(predicted)) = (place(*label), place(predicted)) else {
                return Err(Error::Failed(format!("class {label} is not among {count}")));
            };
            confusion[label][predicted] += 1;
        }
    }
    let named = (0..count).map(|class| match data.classes.get(class) {
        Some(name) => name.clone(),
        None => class.to_string(),
    });
    Ok(ClassFigures::of(named.collect(), confusion))
}
