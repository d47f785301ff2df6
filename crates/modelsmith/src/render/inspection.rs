//! What is in a model.

use super::{Align, Table, bytes, count, shape};
use modelsmith_engine::model::Inspection;

/// A model's figures and sites.
pub(crate) fn inspection(found: &Inspection) -> String {
    let memory = &found.memory;
    let mut lines = vec![
        format!(
            "{}  {} ({}), {} layers of width {}, vocabulary {}, up to {} positions",
            found.origin,
            found.architecture,
            found.model_type,
            found.layers,
            found.hidden_size,
            count(found.vocabulary as u64),
            count(found.max_positions as u64)
        ),
        format!(
            "{} parameters in {} tensors",
            count(found.parameters as u64),
            found.tensors
        ),
        format!(
            "memory    {} stored, {} loaded, {} a cached token, {} to fine-tune in full with AdamW",
            bytes(memory.stored as u64),
            bytes(memory.weights as u64),
            bytes(memory.cache_per_token as u64),
            bytes(memory.full_fine_tuning as u64)
        ),
    ];
    if !found.skipped.is_empty() {
        lines.push(format!("skipped   {}", found.skipped.join(", ")));
    }
    lines.push(format!("\n{}", sites(found)));
    lines.join("\n")
}

fn sites(found: &Inspection) -> String {
    let mut table = Table::new(&[
        ("site", Align::Left),
        ("kind", Align::Left),
        ("shape", Align::Right),
        ("type", Align::Left),
        ("parameters", Align::Right),
        ("", Align::Left),
    ]);
    for site in &found.sites {
        let remark = match (&site.tied_to, site.bias) {
            (Some(owner), _) => format!("tied to {owner}"),
            (None, true) => "with bias".to_owned(),
            (None, false) => String::new(),
        };
        let kind = serde_json::to_value(site.kind).ok();
        let kind = kind
            .as_ref()
            .and_then(|kind| kind.as_str())
            .unwrap_or_default();
        table.row([
            site.path.clone(),
            kind.to_owned(),
            shape(&site.shape),
            site.dtype.unwrap_or_default().to_owned(),
            if site.parameters > 0 {
                count(site.parameters as u64)
            } else {
                String::new()
            },
            remark,
        ]);
    }
    table.render()
}
