//! Figures of an evaluation.

use super::{Align, Table, count, decimal};
use modelsmith_engine::eval::{ClassFigures, Figures, Report};

/// Most classes whose confusion matrix is shown.
const MATRIX: usize = 12;

/// The figures of a model on data.
pub(crate) fn evaluation(report: &Report) -> String {
    let mut lines = match &report.figures {
        Figures::Perplexity {
            loss,
            perplexity,
            accuracy,
            tokens,
        } => vec![format!(
            "perplexity {}  loss {}  accuracy {}  on {} tokens",
            decimal(*perplexity),
            decimal(*loss),
            percent(*accuracy),
            count(*tokens)
        )],
        Figures::Choices(figures) => vec![format!(
            "accuracy {}  normalised {}  chance {}  on {} questions",
            percent(figures.accuracy),
            percent(figures.accuracy_normalised),
            percent(figures.chance),
            count(figures.questions)
        )],
        Figures::Classes(figures) => classes(figures),
    };
    if let Some(file) = &report.logits {
        lines.push(format!("logits written to {}", file.display()));
    }
    lines.join("\n")
}

fn percent(share: f64) -> String {
    format!("{:.1} %", share * 100.0)
}

fn classes(figures: &ClassFigures) -> Vec<String> {
    let mut lines = vec![format!(
        "accuracy {}  macro F1 {:.4}  Matthews {:.4}  on {} examples",
        percent(figures.accuracy),
        figures.macro_f1,
        figures.matthews,
        count(figures.examples)
    )];
    if figures.classes.len() <= MATRIX {
        let mut columns = vec![("label \\ predicted", Align::Left)];
        columns.extend(
            figures
                .classes
                .iter()
                .map(|name| (name.as_str(), Align::Right)),
        );
        let mut table = Table::new(&columns);
        for (name, row) in figures.classes.iter().zip(&figures.confusion) {
            let cells = row.iter().map(|cell| count(*cell));
            table.row(std::iter::once(name.clone()).chain(cells));
        }
        lines.push(format!("\n{}", table.render()));
    }
    lines
}
