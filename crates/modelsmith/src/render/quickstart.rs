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
    for answer in &report.answers {
        table.row([
            answer.question.trim().to_owned(),
            answer.expected.clone(),
            answer.before.clone(),
            answer.after.clone(),
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
