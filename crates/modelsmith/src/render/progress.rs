//! One line of progress on a terminal, a line every few seconds elsewhere.

use super::{bytes, decimal, seconds};
use crate::render::Output;
use indicatif::{ProgressBar, ProgressDrawTarget, ProgressStyle};
use modelsmith_engine::train::{Event, Observer};
use std::io::{IsTerminal, Write};
use std::time::{Duration, Instant};

/// Time between two lines where there is no terminal.
const EVERY: Duration = Duration::from_secs(5);

/// Shows the events of a training run on the standard error.
pub(crate) struct Progress {
    /// Whether there is a terminal to keep a line on.
    live: bool,
    bar: Option<ProgressBar>,
    quiet: bool,
    verbose: u8,
    last: Option<Instant>,
}

impl Progress {
    /// As the flags and the terminal ask.
    pub(crate) fn new(output: &Output) -> Self {
        let dumb = std::env::var_os("TERM").is_some_and(|term| term == "dumb");
        let live = std::io::stderr().is_terminal() && !dumb && !output.quiet;
        Self {
            live,
            bar: None,
            quiet: output.quiet,
            verbose: output.verbose,
            last: None,
        }
    }

    fn say(&self, text: &str) {
        if self.quiet {
            return;
        }
        match &self.bar {
            Some(bar) => bar.println(text),
            None => {
                let _ = writeln!(anstream::stderr(), "{text}");
            }
        }
    }

    fn step(&mut self, step: u64, total: u64, line: &str) {
        if let Some(bar) = &self.bar {
            bar.set_length(total);
            bar.set_position(step);
            bar.set_message(line.to_owned());
            if self.verbose == 0 {
                return;
            }
        }
        let due = self.last.is_none_or(|last| last.elapsed() >= EVERY);
        if due || step == total || self.verbose > 0 {
            self.last = Some(Instant::now());
            self.say(&format!("step {step}/{total}  {line}"));
        }
    }
}

fn bar() -> ProgressBar {
    let bar = ProgressBar::with_draw_target(None, ProgressDrawTarget::stderr());
    // The template is a constant; the default style is the worst that a mistake in it can do.
    if let Ok(style) = ProgressStyle::with_template("step {pos}/{len}  {wide_msg}") {
        bar.set_style(style);
    }
    bar
}

impl Observer for Progress {
    fn event(&mut self, event: Event) {
        match event {
            Event::Started {
                step,
                total_steps,
                trained,
                host,
            } => {
                self.bar = self.live.then(bar);
                let resumed = if step > 0 {
                    format!("from step {step}, ")
                } else {
                    String::new()
                };
                self.say(&format!(
                    "training {} of {} numbers, {resumed}{total_steps} steps",
                    super::count(trained),
                    super::count(host)
                ));
            }
            Event::Step {
                step,
                total_steps,
                report,
                tokens_per_second,
                peak_memory,
                seconds_left,
            } => {
                let memory =
                    peak_memory.map_or(String::new(), |peak| format!("  peak {}", bytes(peak)));
                let line = format!(
                    "loss {}  {:.0} tokens/s{memory}  {} left",
                    decimal(report.loss),
                    tokens_per_second,
                    seconds(seconds_left)
                );
                self.step(step, total_steps, &line);
            }
            Event::Evaluated {
                step,
                evaluation,
                best,
            } => self.say(&format!(
                "step {step}: held-out loss {}, perplexity {}{}",
                decimal(evaluation.loss),
                decimal(evaluation.perplexity()),
                if best { ", the lowest so far" } else { "" }
            )),
            Event::Saved { step, path } => {
                if self.verbose > 0 {
                    self.say(&format!("step {step}: checkpoint {}", path.display()));
                }
            }
            Event::Warning(text) => self.say(&format!("warning: {text}")),
        }
    }
}

impl Drop for Progress {
    fn drop(&mut self) {
        if let Some(bar) = &self.bar {
            bar.finish_and_clear();
        }
    }
}
