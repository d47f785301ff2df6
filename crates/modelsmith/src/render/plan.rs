//! What a recipe would do.

use super::{bytes, count, share};
use modelsmith_engine::plan::Plan;

/// Most sites that are spelled out.
const SITES: usize = 6;

/// The plan of a run, with the first example as it is trained on.
pub(crate) fn plan(plan: &Plan) -> String {
    let Plan { data, memory, .. } = plan;
    let mut lines = vec![
        format!(
            "{} on {} ({})",
            plan.method,
            plan.host.display(),
            plan.architecture
        ),
        format!(
            "sites     {} matched: {}",
            plan.sites.len(),
            sites(&plan.sites)
        ),
        format!(
            "trains    {} numbers, {} of the host's {}",
            count(plan.trained_parameters),
            share(plan.trained_parameters, plan.host_parameters),
            count(plan.host_parameters)
        ),
        format!(
            "data      {} of {} rows kept ({} cut, {} too long, {} empty, {} without a trained token){}",
            count(data.kept()),
            count(data.total),
            count(data.truncated),
            count(data.dropped),
            count(data.empty),
            count(data.untrained),
            if plan.complete {
                ""
            } else {
                ", judged by the first ones"
            }
        ),
        format!(
            "tokens    {} of {} count in the loss ({}), at most {} a sequence",
            count(data.trained_tokens),
            count(data.all_tokens),
            share(data.trained_tokens, data.all_tokens),
            count(plan.max_length as u64)
        ),
        format!(
            "steps     {} of {} sequences, {} held-out batches an evaluation",
            count(plan.steps),
            count(plan.sequences_per_step),
            count(plan.held_out_batches)
        ),
        format!(
            "memory    about {}: host {}, trained {}, activations {}",
            bytes(memory.total),
            bytes(memory.host),
            bytes(memory.trained),
            bytes(memory.activations)
        ),
    ];
    if !plan.classes.is_empty() {
        lines.push(format!("classes   {}", plan.classes.join(", ")));
    }
    lines.push(String::new());
    lines.push("first example, [[trained]]:".to_owned());
    lines.push(marked(&plan.first_example));
    lines.join("\n")
}

fn sites(all: &[String]) -> String {
    let shown = all
        .iter()
        .take(SITES)
        .cloned()
        .collect::<Vec<_>>()
        .join(", ");
    match all.len().saturating_sub(SITES) {
        0 => shown,
        more => format!("{shown} and {more} more"),
    }
}

/// Pieces that count stand in double brackets, in colour where there is one.
fn marked(pieces: &[(String, bool)]) -> String {
    let piece = |(text, trained): &(String, bool)| {
        if *trained {
            format!("\x1b[32m[[{text}]]\x1b[0m")
        } else {
            text.clone()
        }
    };
    pieces.iter().map(piece).collect()
}
