//! The training loop: windows of batches to steps, with evaluation, checkpoints and stopping.

use super::checkpoint::{Best, Checkpoint, TrainerState, prune};
use super::config::TrainConfig;
use super::evaluate::{Evaluation, evaluate};
use super::events::{Event, Observer};
use super::loss::{Masking, Prepared, prepare};
use super::step::{StepReport, Stepper};
use crate::memory::peak_resident;
use crate::metrics::Metrics;
use crate::signals::Stop;
use burn::tensor::Device;
use modelsmith_core::error::{Error, Result};
use modelsmith_core::parameters::Named;
use modelsmith_core::random::Stream;
use modelsmith_core::roles::{Adapter, Optimizer, Progress};
use modelsmith_data::{Dataset, Loader};
use std::collections::BTreeMap;
use std::path::PathBuf;
use std::time::Instant;

/// Everything that a training run holds.
pub struct Trainer<'a> {
    /// Host and options of the steps.
    pub stepper: Stepper<'a>,
    /// What is trained.
    pub adapter: Box<dyn Adapter>,
    /// What trains it.
    pub optimizer: Box<dyn Optimizer>,
    /// Training and held-out batches.
    pub data: Dataset,
    /// How tokens are hidden, for masked language models.
    pub masking: Option<Masking>,
    /// Folder of the run.
    pub run: PathBuf,
    /// Hash of the resolved recipe, which a checkpoint must share.
    pub recipe: String,
    /// Where tensors live.
    pub device: Device,
    /// Request to stop.
    pub stop: Stop,
}

/// How a run ended.
#[derive(Clone, Debug)]
pub struct Outcome {
    /// State after the last step.
    pub state: TrainerState,
    /// Steps that were planned.
    pub total_steps: u64,
    /// Held-out figures of the adapter that was kept.
    pub evaluation: Option<Evaluation>,
    /// Seconds this process trained.
    pub seconds: f64,
}

/// State of a loop that is not part of the trainer.
struct Loop {
    state: TrainerState,
    total_steps: u64,
    metrics: Metrics,
    first_step: u64,
    started: Instant,
}

impl Trainer<'_> {
    /// Trains to the end, from the newest checkpoint of the run folder if there is one.
    ///
    /// # Errors
    /// A stop by signal (after a checkpoint), a number that is not finite, and whatever data,
    /// host, method or disk refuse.
    pub fn run(&mut self, observer: &mut dyn Observer) -> Result<Outcome> {
        let state = self.restore()?;
        let total_steps = total_steps(self.stepper.config, &self.data.train)?;
        let mut run = Loop {
            metrics: Metrics::open(&self.run, state.metrics_offset)?,
            first_step: state.step,
            state,
            total_steps,
            started: Instant::now(),
        };
        self.announce(&run, observer);
        self.before(&mut run)?;
        run.started = Instant::now();
        while run.state.step < total_steps && !run.state.stopped_early {
            let window = self.window(&mut run)?;
            if window.is_empty() {
                self.end_of_epoch(&mut run, observer)?;
                continue;
            }
            self.one_step(&mut run, &window, observer)?;
            self.after_step(&mut run, observer)?;
            if let Some((signal, name)) = self.stop.requested() {
                self.save(&mut run, observer)?;
                return Err(Error::Interrupted {
                    signal,
                    name,
                    step: run.state.step,
                    run: self.run.clone(),
                });
            }
        }
        self.close_epoch(&mut run, observer)?;
        let evaluation = self.finish(&mut run, observer)?;
        Ok(Outcome {
            state: run.state,
            total_steps,
            evaluation,
            seconds: run.started.elapsed().as_secs_f64(),
        })
    }

    fn restore(&mut self) -> Result<TrainerState> {
        let folder = self.run.join("checkpoints");
        let Some(found) = Checkpoint::newest(&folder, &self.recipe, &self.device)? else {
            return Ok(TrainerState::default());
        };
        self.put_back(found.adapter)?;
        self.optimizer.restore(found.optimizer)?;
        self.data.train.seek(found.state.position)?;
        Ok(found.state)
    }

    /// Puts saved parameters into the adapter; every one must be there, and no other.
    fn put_back(
        &mut self,
        mut saved: BTreeMap<String, modelsmith_core::parameters::Flat>,
    ) -> Result<()> {
        let mut missing = None;
        self.adapter.replace(&mut |name, value| {
            match saved.remove(name) {
                Some(new) if new.shape == value.shape => return Some(new),
                Some(new) => missing.get_or_insert(format!(
                    "parameter {name} has shape {:?} in the checkpoint, {:?} here",
                    new.shape, value.shape
                )),
                None => missing.get_or_insert(format!("parameter {name} is not in the checkpoint")),
            };
            None
        });
        if let Some(name) = saved.keys().next() {
            missing.get_or_insert(format!(
                "parameter {name} of the checkpoint is unknown here"
            ));
        }
        match missing {
            Some(problem) => Err(Error::file(self.run.join("checkpoints"), problem)),
            None => Ok(()),
        }
    }

    fn announce(&self, run: &Loop, observer: &mut dyn Observer) {
        let trained = self.adapter.parameters();
        let trained = trained.iter().filter(|p| p.trainable);
        observer.event(Event::Started {
            step: run.state.step,
            total_steps: run.total_steps,
            trained: trained.map(|p| p.value.len() as u64).sum(),
            host: self.stepper.host.parameter_count() as u64,
        });
    }

    /// Measures once what the held-out loss is before any step.
    fn before(&self, run: &mut Loop) -> Result<()> {
        if run.state.step == 0 {
            let evaluation = self.evaluate()?;
            if let Some(evaluation) = &evaluation {
                record_evaluation(&mut run.metrics, 0, evaluation)?;
            }
            run.state.before = evaluation.map(|evaluation| Best {
                loss: evaluation.loss,
                step: 0,
            });
        }
        Ok(())
    }

    /// The batches of the next step; empty at the end of an epoch.
    fn window(&mut self, run: &mut Loop) -> Result<Vec<Prepared>> {
        let mut window = Vec::new();
        let accumulation = self.stepper.config.accumulation as usize;
        while window.len() < accumulation {
            // The end of an epoch is not taken out of the loader while a window is pending, so
            // that a checkpoint's position stays on this side of it.
            let before = self.data.train.position();
            let Some(batch) = self.data.train.next_in_epoch()? else {
                if !window.is_empty() {
                    self.data.train.seek(before)?;
                }
                break;
            };
            let key = format!("mlm/{}/{}", run.state.step, window.len());
            let masking = self
                .masking
                .map(|masking| (masking, Stream::new(self.stepper.seed, &key)));
            let head = self.stepper.host.head();
            let prepared = prepare(&batch, head, masking, &self.device)?;
            if !prepared.targets.is_empty() {
                window.push(prepared);
            }
        }
        run.state.position = self.data.train.position();
        Ok(window)
    }

    fn one_step(
        &mut self,
        run: &mut Loop,
        window: &[Prepared],
        observer: &mut dyn Observer,
    ) -> Result<()> {
        let started = Instant::now();
        let progress = Progress {
            step: run.state.step,
            total_steps: run.total_steps,
            epoch: run.state.epoch,
        };
        let report =
            self.stepper
                .step(&mut *self.adapter, &mut *self.optimizer, window, progress)?;
        run.state.step += 1;
        run.state.mid_epoch = true;
        run.state.tokens += report.tokens;
        run.state.losses.push(report.loss as f32);
        let tokens_per_second = report.tokens as f64 / started.elapsed().as_secs_f64();
        record_step(run, &report, tokens_per_second)?;
        let done = (run.state.step - run.first_step) as f64;
        let left = (run.total_steps - run.state.step) as f64;
        observer.event(Event::Step {
            step: run.state.step,
            total_steps: run.total_steps,
            report,
            tokens_per_second,
            peak_memory: peak_resident(),
            seconds_left: run.started.elapsed().as_secs_f64() / done * left,
        });
        Ok(())
    }

    /// Evaluations and checkpoints that fall on this step.
    fn after_step(&mut self, run: &mut Loop, observer: &mut dyn Observer) -> Result<()> {
        let config = self.stepper.config;
        let falls = |every: u64| every > 0 && run.state.step.is_multiple_of(every);
        let (evaluates, saves) = (falls(config.eval_every), falls(config.save_every));
        if evaluates {
            self.judge(run, observer)?;
        }
        if saves {
            self.save(run, observer)?;
        }
        Ok(())
    }

    fn end_of_epoch(&mut self, run: &mut Loop, observer: &mut dyn Observer) -> Result<()> {
        if !run.state.mid_epoch {
            return Err(Error::config(
                "data",
                "a whole epoch gave no batch to train on",
            ));
        }
        run.state.epoch += 1;
        run.state.mid_epoch = false;
        self.adapter.end_of_epoch(Progress {
            step: run.state.step,
            total_steps: run.total_steps,
            epoch: run.state.epoch,
        })?;
        if self.stepper.config.eval_every == 0 {
            self.judge(run, observer)?;
        }
        if self.stepper.config.save_every == 0 {
            self.save(run, observer)?;
        }
        Ok(())
    }

    /// Ends the last epoch, when the last step was its last.
    fn close_epoch(&mut self, run: &mut Loop, observer: &mut dyn Observer) -> Result<()> {
        let ended = run.state.mid_epoch && !run.state.stopped_early;
        if ended && self.window(run)?.is_empty() {
            self.end_of_epoch(run, observer)?;
        }
        Ok(())
    }

    /// Evaluates, keeps track of the best, and decides on early stopping.
    fn judge(&mut self, run: &mut Loop, observer: &mut dyn Observer) -> Result<()> {
        if run.state.evaluated_at == Some(run.state.step) {
            return Ok(());
        }
        let Some(evaluation) = self.evaluate()? else {
            return Ok(());
        };
        run.state.evaluated_at = Some(run.state.step);
        let best = run
            .state
            .best
            .is_none_or(|best| evaluation.loss < best.loss);
        if best {
            run.state.best = Some(Best {
                loss: evaluation.loss,
                step: run.state.step,
            });
            run.state.since_best = 0;
        } else {
            run.state.since_best += 1;
        }
        let config = self.stepper.config;
        run.state.stopped_early = config.patience > 0 && run.state.since_best >= config.patience;
        record_evaluation(&mut run.metrics, run.state.step, &evaluation)?;
        observer.event(Event::Evaluated {
            step: run.state.step,
            evaluation,
            best,
        });
        if best && config.keep_best {
            self.save(run, observer)?;
        }
        Ok(())
    }

    fn evaluate(&self) -> Result<Option<Evaluation>> {
        let Some(loader) = &self.data.held_out else {
            return Ok(None);
        };
        evaluation_of(self, loader).map(Some)
    }

    fn save(&mut self, run: &mut Loop, observer: &mut dyn Observer) -> Result<()> {
        run.state.metrics_offset = run.metrics.sync()?;
        let folder = self.run.join("checkpoints");
        let adapter = self.adapter.parameters();
        refuse_not_finite(&adapter, run.state.step)?;
        let checkpoint = Checkpoint {
            state: run.state.clone(),
            adapter: adapter
                .into_iter()
                .map(|Named { name, value, .. }| (name, value))
                .collect(),
            optimizer: self.optimizer.state(),
        };
        let path = checkpoint.save(&folder, &self.recipe)?;
        let best = run.state.best.filter(|_| self.stepper.config.keep_best);
        prune(
            &folder,
            self.stepper.config.keep_checkpoints,
            best.map(|best| best.step),
        )?;
        observer.event(Event::Saved {
            step: run.state.step,
            path,
        });
        Ok(())
    }

    /// The last evaluation and checkpoint; puts the best adapter back where that was asked for.
    fn finish(
        &mut self,
        run: &mut Loop,
        observer: &mut dyn Observer,
    ) -> Result<Option<Evaluation>> {
        self.judge(run, observer)?;
        self.save(run, observer)?;
        let best = run.state.best.filter(|_| self.stepper.config.keep_best);
        if let Some(best) = best.filter(|best| best.step != run.state.step) {
            let folder = self.run.join("checkpoints");
            let found = Checkpoint::of_step(&folder, best.step, &self.recipe, &self.device)?;
            self.put_back(found.adapter)?;
            observer.event(Event::Warning(format!(
                "the adapter of step {} is kept: its held-out loss {:.4} is the lowest",
                best.step, best.loss
            )));
        }
        self.evaluate()
    }
}

/// Optimizer steps that a configuration asks for on these rows.
///
/// # Errors
/// Rows that cannot be read, or that give no batch.
pub fn total_steps(config: &TrainConfig, rows: &Loader) -> Result<u64> {
    if config.max_steps > 0 {
        return Ok(config.max_steps);
    }
    let mut total = 0;
    for epoch in 0..config.epochs {
        let batches = rows.batches_in_epoch(epoch)?;
        total += batches.div_ceil(config.accumulation);
    }
    if total == 0 {
        return Err(Error::config("data", "gives no batch to train on"));
    }
    Ok(total)
}

/// Scores held-out batches with a copy of the adapter that is outside any graph.
fn evaluation_of(trainer: &Trainer<'_>, loader: &Loader) -> Result<Evaluation> {
    let mut frozen = trainer.adapter.boxed();
    frozen.set_trainable(&|_| false);
    evaluate(
        trainer.stepper.host,
        loader,
        trainer.stepper.config.eval_batches,
        trainer.masking,
        &[frozen.hooks()],
        &trainer.device,
    )
}

/// A checkpoint with a number that is not finite would push out the last good one.
fn refuse_not_finite(parameters: &[Named], step: u64) -> Result<()> {
    let broken = |parameter: &&Named| parameter.value.to_vec().iter().any(|v| !v.is_finite());
    match parameters.iter().find(broken) {
        Some(Named { name, .. }) => Err(Error::Numeric(format!(
            "after step {step} parameter {name} holds a value that is not finite; no checkpoint was written, the last one is good; lower train.learning_rate"
        ))),
        None => Ok(()),
    }
}

fn record_step(run: &mut Loop, report: &StepReport, tokens_per_second: f64) -> Result<()> {
    let mut values = vec![
        ("loss", report.loss),
        ("gradient_norm", report.gradient_norm),
        ("learning_rate", report.learning_rate),
        ("tokens_per_second", tokens_per_second.round()),
    ];
    // Most methods have none, and a curve of noughts would say otherwise.
    values.extend(report.penalty.map(|penalty| ("penalty", penalty)));
    values.extend(&report.measures);
    run.metrics.record("train", run.state.step, &values)
}

fn record_evaluation(metrics: &mut Metrics, step: u64, evaluation: &Evaluation) -> Result<()> {
    metrics.record(
        "eval",
        step,
        &[
            ("loss", evaluation.loss),
            ("perplexity", evaluation.perplexity()),
            ("accuracy", evaluation.accuracy),
        ],
    )
}
