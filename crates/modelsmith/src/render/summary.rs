//! What a training run changed, gained and cost.

use super::{bytes, count, decimal, seconds, share, sparkline};
use modelsmith_engine::tune::Summary;

/// Widest loss curve.
const WIDTH: usize = 60;

/// The proof lines of a run.
pub(crate) fn summary(run: &Summary) -> String {
    let mut lines = vec![
        format!(
            "{}  {} steps in {}{}{}",
            run.method,
            run.steps,
            seconds(run.seconds),
            run.peak_memory.map_or(String::new(), |peak| format!(
                ", peak memory {}",
                bytes(peak)
            )),
            if run.stopped_early {
                ", stopped early"
            } else {
                ""
            }
        ),
        format!(
            "changed   {} trained tensors, {} numbers ({} of the host's {}), norm of the change {}",
            run.changed_parameters,
            count(run.trained_parameters),
            share(run.trained_parameters, run.host_parameters),
            count(run.host_parameters),
            decimal(run.change_norm)
        ),
    ];
    lines.extend(held_out(run));
    lines.extend(training(run));
    lines.push(format!(
        "written   {} ({} tensors)",
        run.artifact.display(),
        run.adapter_tensors
    ));
    lines.join("\n")
}

fn held_out(run: &Summary) -> Option<String> {
    let after = run.loss_after?;
    let arrow = |from: Option<f64>, to: f64| match from {
        Some(from) => format!("{} -> {}", decimal(from), decimal(to)),
        None => decimal(to),
    };
    Some(format!(
        "held out  loss {}, perplexity {}",
        arrow(run.loss_before, after),
        arrow(run.loss_before.map(f64::exp), after.exp())
    ))
}

fn training(run: &Summary) -> Option<String> {
    let (first, last) = (run.losses.first()?, run.losses.last()?);
    Some(format!(
        "loss      {} {} {}",
        decimal(f64::from(*first)),
        sparkline(&run.losses, WIDTH),
        decimal(f64::from(*last))
    ))
}
