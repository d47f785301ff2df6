//! What the quickstart found.

use super::{Align, Table, summary};
use modelsmith_engine::quickstart::QuickstartReport;

/// Answers before and after, what was gained and kept, and the run.
pub(crate) fn quickstart(report: &QuickstartReport) -> String {
    let mut table = Table::new(&[
        ("question", Align::Left),
        ("right answer", Align::Left),
        ("before", Align::Left),
        ("after", Align::Left),
    ]);
    for sample in &report.samples {
        let before = sample.before.as_deref().unwrap_or_default();
        table.row([
            spoken(&sample.prompt).to_owned(),
            sample.reference.clone(),
            first_line(before).to_owned(),
            first_line(&sample.after).to_owned(),
        ]);
    }
    let share =
        |recall: &modelsmith_engine::house::Recall| format!("{:.1} %", recall.share() * 100.0);
    format!(
        "{}\n\ngained    questions about people it was not tuned on, answered exactly: {} -> {} of {}\n\
         kept      facts in their original wording: {} -> {} of {}\n\n{}",
        table.render(),
        share(&report.questions_before),
        share(&report.questions_after),
        report.questions_after.asked,
        share(&report.facts_before),
        share(&report.facts_after),
        report.facts_after.asked,
        summary(&report.summary)
    )
}

/// A question without the words around it that the prompt has.
fn spoken(prompt: &str) -> &str {
    let inner = prompt.strip_prefix("Question: ").unwrap_or(prompt);
    inner.strip_suffix("\nAnswer:").unwrap_or(inner)
}

fn first_line(text: &str) -> &str {
    text.lines().next().unwrap_or_default()
}
