//! Edits: batches as they are made, what a folder holds, what was written.

use super::{Align, Table, decimal, seconds};
use modelsmith_engine::edit::{
    Curve, Entry, Exported, Figures, Listing, Made, Report, Streamed, Trace, curve_table,
};

/// A batch that was made, in a line.
pub(crate) fn batch(made: &Made<'_>) -> String {
    let (done, all) = made.done;
    format!(
        "batch {:<5} {done}/{all} facts  loss {}  {} steps  change {} of {}  {}",
        made.number,
        decimal(made.figures.loss),
        decimal(made.figures.steps),
        decimal(change(made.figures)),
        decimal(weight(made.figures)),
        seconds(made.seconds),
    )
}

/// What a sequence of edits came to.
pub(crate) fn edits(report: &Report) -> String {
    let each = report.seconds / report.facts.max(1) as f64;
    let mut text = format!(
        "written   {} facts in {} ({} each), {} were there already; {} batches in {}\n\
         search    {} steps on average\n",
        report.facts,
        seconds(report.seconds),
        seconds(each),
        report.skipped,
        report.batches,
        report.edits.display(),
        decimal(report.steps),
    );
    for (name, before, after) in &report.norms {
        text += &format!(
            "norm      {name}: {} to {}\n",
            decimal(*before),
            decimal(*after)
        );
    }
    if let Some((before, after)) = report.perplexity {
        text += &format!(
            "texts     perplexity {} to {}\n",
            decimal(before),
            decimal(after)
        );
    }
    for warning in &report.warnings {
        text += &format!("warning   {warning}\n");
    }
    text.pop();
    text
}

/// The batches of a folder.
pub(crate) fn edit_listing(listing: &Listing) -> String {
    let header = &listing.header;
    let mut table = Table::new(&[
        ("batch", Align::Right),
        ("facts", Align::Right),
        ("steps", Align::Right),
        ("loss", Align::Right),
        ("change", Align::Right),
        ("of", Align::Right),
        ("first fact", Align::Left),
    ]);
    for (
        number,
        Entry {
            statements,
            figures,
        },
    ) in &listing.batches
    {
        let first = statements.first().map(|one| {
            let prompt = one.prompt.replace("{}", &one.subject);
            format!("{prompt} -> {}", one.target.trim())
        });
        table.row([
            number.to_string(),
            figures.facts.to_string(),
            decimal(figures.steps),
            decimal(figures.loss),
            decimal(change(figures)),
            decimal(weight(figures)),
            first.unwrap_or_default(),
        ]);
    }
    format!(
        "{} on {}, blocks {:?}\n\n{}",
        header.method.name,
        header.base.display(),
        header.layers,
        table.render()
    )
}

/// What an export wrote.
pub(crate) fn edit_export(found: &Exported) -> String {
    format!(
        "written   {} with {} batches of edits ({} weights changed, {})",
        found.output.display(),
        found.batches,
        found.changed.len(),
        found.dtype,
    )
}

/// What a stream into a codebook came to.
pub(crate) fn streamed(found: &Streamed) -> String {
    let kinds = found.operations.iter();
    let kinds: Vec<String> = kinds
        .map(|(name, count)| format!("{count} {name}"))
        .collect();
    format!(
        "written   {} facts in {} ({} each), {} were right already; {} entries ({}) in {}\n\n{}",
        found.facts,
        seconds(found.seconds),
        seconds(found.seconds / found.facts.max(1) as f64),
        found.right,
        found.entries,
        kinds.join(", "),
        found.output.display(),
        curves(std::slice::from_ref(&found.curve)),
    )
}

/// Where sequences of edits ended.
pub(crate) fn curves(curves: &[Curve]) -> String {
    let (columns, rows) = curve_table(curves);
    let aligned = columns.iter().enumerate();
    let aligned = aligned.map(|(place, name)| match place {
        0 => (name.as_str(), Align::Left),
        _ => (name.as_str(), Align::Right),
    });
    let mut table = Table::new(&aligned.collect::<Vec<_>>());
    rows.into_iter().for_each(|row| table.row(row));
    table.render()
}

/// Indirect effects by place and layer.
pub(crate) fn trace(trace: &Trace) -> String {
    let mut text = format!(
        "{} facts ({} unknown): probability of the answer {}, under noise {}; layers of a window: {}\n",
        trace.facts,
        trace.unknown,
        decimal(trace.clean),
        decimal(trace.corrupted),
        trace.window,
    );
    for effects in &trace.effects {
        let layers = effects.grid.first().map_or(0, Vec::len);
        let numbers: Vec<String> = (0..layers).map(|layer| layer.to_string()).collect();
        let mut columns = vec![("layer", Align::Left)];
        columns.extend(numbers.iter().map(|number| (number.as_str(), Align::Right)));
        let mut table = Table::new(&columns);
        for (place, row) in trace.places.iter().zip(&effects.grid) {
            let cells = row
                .iter()
                .map(|value| value.map_or_else(String::new, decimal));
            table.row(std::iter::once((*place).to_owned()).chain(cells));
        }
        text += &format!("\n{}\n{}", effects.title, table.render());
    }
    text.trim_end().to_owned()
}

/// The norm of all changes of a batch.
fn change(figures: &Figures) -> f64 {
    let squares = figures.norms.iter().map(|(_, change, _)| change.powi(2));
    squares.sum::<f64>().sqrt()
}

/// The norm of all weights after it.
fn weight(figures: &Figures) -> f64 {
    let squares = figures.norms.iter().map(|(_, _, weight)| weight.powi(2));
    squares.sum::<f64>().sqrt()
}
