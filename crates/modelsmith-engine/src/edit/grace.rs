//! Facts into a codebook, one after the other (GRACE, Hartvigsen et al., arXiv 2211.11031).

use super::answers::log_probabilities;
use super::facts::{Fact, Statement};
use super::mlps::{Mlp, mlps};
use super::rows::numbered;
use super::span::Span;
use crate::adapter_folder::{self, Provenance, base_hash};
use burn::tensor::{Int, Tensor, TensorData};
use modelsmith_core::capture::{Capture, Side};
use modelsmith_core::error::{Error, Result};
use modelsmith_core::hooks::{Hooks, LinearCall, Pass};
use modelsmith_core::host::Host;
use modelsmith_core::parameters::{Flat, to_vec, trained};
use modelsmith_core::random::Stream;
use modelsmith_core::roles::{Adapter, Optimize, Update};
use modelsmith_data::Tokenizer;
use modelsmith_hosts::{TokenInput, Transformer};
use modelsmith_methods::edit::Lookup;
use modelsmith_methods::edit::grace::{Codebook, Grace, GraceConfig, Init, Operation, Replacement};
use modelsmith_methods::optimize::AdamW;
use serde::Serialize;
use std::collections::BTreeMap;
use std::path::Path;

/// What writing a fact did.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct GraceStep {
    /// The structural step.
    pub operation: Operation,
    /// Distance to the entry that was nearest.
    pub distance: Option<f64>,
    /// Steps of Adam.
    pub steps: usize,
    /// Loss at the end.
    pub loss: f64,
}

/// A model with a codebook that grows.
pub struct GraceEditor<'a> {
    host: &'a Transformer,
    tokenizer: &'a Tokenizer,
    /// The codebook with its hooks.
    pub grace: Grace,
    blocks: BTreeMap<String, usize>,
    /// Number of the block that the layer belongs to; `None` where it belongs to none.
    block: Option<usize>,
    seed: u64,
}

/// A prompt with its target, as the layer sees it.
pub(super) struct Task {
    input: TokenInput,
    /// Column of the last prompt token.
    last: usize,
    target: Vec<u32>,
    /// The stream behind the block in front of the layer's.
    after: Option<(usize, Tensor<3>)>,
}

impl<'a> GraceEditor<'a> {
    /// An empty codebook at the layer that `config` names.
    ///
    /// # Errors
    /// Options out of range, a model that does not predict next tokens, a layer that it does not have.
    pub fn new(
        host: &'a Transformer,
        tokenizer: &'a Tokenizer,
        mut config: GraceConfig,
        seed: u64,
    ) -> Result<Self> {
        config.check()?;
        let mlps = mlps(host)?;
        if config.module.is_empty() {
            config.module = usual_module(&mlps);
        }
        let site = config.site(host)?;
        let block = block_of(&mlps, &site.path);
        let book = Codebook::new(site.inputs, site.outputs);
        Ok(Self {
            host,
            tokenizer,
            grace: Grace::new(book, config, site),
            blocks: numbered(&mlps),
            block,
            seed,
        })
    }

    /// Writes a fact: the structural step, then the value of the entry that holds it.
    ///
    /// # Errors
    /// A prompt that does not fit the model, a loss that is not finite; the codebook is as it was then.
    pub fn write(&mut self, statement: &Statement) -> Result<GraceStep> {
        let before = self.grace.book.clone();
        let result = self.try_write(statement);
        if result.is_err() {
            self.grace.book = before;
        }
        self.grace.recount();
        result
    }

    fn try_write(&mut self, statement: &Statement) -> Result<GraceStep> {
        let fact = Fact::read(self.tokenizer, statement, &[], Lookup::PromptLast)?;
        let (task, key, output) = self.layer().task(&fact, self.end())?;
        let config = self.grace.config.clone();
        let placed = self.grace.book.place(
            &statement.id,
            &key,
            &task.target,
            config.radius,
            config.moving_average,
        );
        if matches!(placed.operation, Operation::Added | Operation::Split) {
            let value = match config.init {
                Init::Warm => output,
                Init::Cold => {
                    let name = format!("grace/{}", statement.id);
                    Stream::new(self.seed, &name).uniform(output.len(), 0.0, 1.0)
                }
            };
            self.grace.book.set_value(placed.entry, &value);
        }
        let begun = self.grace.book.value(placed.entry).to_vec();
        let (value, losses) = self.layer().train_value(&task, &config, &begun)?;
        self.grace.book.set_value(placed.entry, &value);
        Ok(GraceStep {
            operation: placed.operation,
            distance: placed.distance,
            steps: losses.len().saturating_sub(1),
            loss: losses.last().copied().unwrap_or(f64::NAN),
        })
    }

    /// What is trained behind the target.
    fn end(&self) -> Option<u32> {
        let wanted = self.grace.config.end_of_text;
        self.tokenizer.special().eos.filter(|_| wanted)
    }

    fn layer(&self) -> Layer<'_> {
        Layer {
            host: self.host,
            blocks: &self.blocks,
            block: self.block,
            path: &self.grace.site().path,
        }
    }

    /// Writes the codebook as an adapter folder.
    ///
    /// # Errors
    /// A file that cannot be written.
    pub fn save(&self, folder: &Path) -> Result<()> {
        let origin = Path::new(&self.host.info().origin);
        let provenance = Provenance {
            version: env!("CARGO_PKG_VERSION").to_owned(),
            method: "grace".to_owned(),
            options: serde_json::to_value(&self.grace.config).unwrap_or_default(),
            seed: self.seed,
            base_hash: if origin.is_dir() {
                base_hash(origin)?
            } else {
                String::new()
            },
            data_hash: String::new(),
        };
        adapter_folder::write(folder, &self.grace.files(self.host)?, &provenance)
    }
}

/// The layer that is taken where none is named: the last of the MLP about three quarters of the way up.
pub(super) fn usual_module(mlps: &[Mlp]) -> String {
    let block = (mlps.len() * 3 / 4).min(mlps.len() - 1);
    mlps[block].site.path.clone()
}

/// Number of the block that a layer belongs to; `None` where it belongs to none.
pub(super) fn block_of(mlps: &[Mlp], path: &str) -> Option<usize> {
    let inside = |block: &String| path.starts_with(&format!("{block}."));
    mlps.iter().position(|mlp| inside(&mlp.block))
}

/// How what stands in for an output is trained.
pub(super) struct Schedule {
    pub(super) steps: usize,
    pub(super) learning_rate: f64,
    pub(super) loss_stop: f64,
    pub(super) replacement: Replacement,
}

/// The layer of a codebook in its host.
pub(super) struct Layer<'a> {
    pub(super) host: &'a Transformer,
    pub(super) blocks: &'a BTreeMap<String, usize>,
    /// Number of its block; `None` where it belongs to none.
    pub(super) block: Option<usize>,
    pub(super) path: &'a str,
}

impl Layer<'_> {
    /// The task of a fact, the layer's input at the last prompt token, and its output there.
    pub(super) fn task(&self, fact: &Fact, end: Option<u32>) -> Result<(Task, Vec<f32>, Vec<f32>)> {
        let device = self.host.device();
        let target: Vec<u32> = fact.target.iter().copied().chain(end).collect();
        let ids = [&fact.bare.ids[..], &target[..target.len() - 1]].concat();
        let input = TokenInput::from_ids(&[ids], 0, false, &device);
        let path = self.path;
        let last = self.block.and_then(|block| block.checked_sub(1));
        let known = last.map(|last| Span::new(self.blocks, None, last));
        if let Some(span) = &known {
            self.host.hidden(&input, &Pass::default(), &[span], None)?;
        }
        let after = known.and_then(|span| Some((last?, span.take()?)));
        let read = |side: Side| {
            let capture = Capture::new([path], side);
            let until = self.block.unwrap_or(usize::MAX);
            let span = Span::new(self.blocks, after.clone(), until);
            self.host
                .hidden(&input, &Pass::default(), &[&span, &capture], None)?;
            let seen = capture.take().remove(path);
            let seen = seen.ok_or_else(|| Error::Failed(format!("{path} was not visited")))?;
            let seen: Tensor<3> = seen.tensor()?;
            Ok::<_, Error>(to_vec(seen.narrow(1, fact.bare.ids.len() - 1, 1)))
        };
        let (key, output) = (read(Side::Input)?, read(Side::Output)?);
        let task = Task {
            input,
            last: fact.bare.ids.len() - 1,
            target,
            after,
        };
        Ok((task, key, output))
    }

    /// The value that training makes of `begun`, and the losses.
    fn train_value(
        &self,
        task: &Task,
        config: &GraceConfig,
        begun: &[f32],
    ) -> Result<(Vec<f32>, Vec<f64>)> {
        let schedule = Schedule {
            steps: config.steps,
            learning_rate: config.learning_rate,
            loss_stop: config.loss_stop,
            replacement: config.replacement,
        };
        let device = self.host.device();
        let mut value = [Flat::from_vec(begun.to_vec(), &[1, begun.len()], &device)];
        let losses = self.train(task, &schedule, &mut value, &|leaves| leaves[0].clone())?;
        Ok((value[0].to_vec(), losses))
    }

    /// Trains the parts that a value `[1, width]` is made of, under a fresh Adam; the loss before every step and at
    /// the end.
    pub(super) fn train(
        &self,
        task: &Task,
        schedule: &Schedule,
        parts: &mut [Flat],
        value: &dyn Fn(&[Tensor<2>]) -> Tensor<2>,
    ) -> Result<Vec<f64>> {
        let mut optimizer = AdamW::default().optimizer()?;
        let mut losses = Vec::new();
        for step in 0..=schedule.steps {
            let leaves = parts
                .iter()
                .map(|part| Ok(trained(part.tensor::<2>()?).val()));
            let leaves: Vec<Tensor<2>> = leaves.collect::<Result<_>>()?;
            let loss = self.loss(task, schedule.replacement, value(&leaves))?;
            let last = f64::from(to_vec(loss.clone().without_autodiff())[0]);
            if !last.is_finite() {
                return Err(Error::Numeric(format!(
                    "the loss of a value is {last} after {step} steps; lower method.learning_rate"
                )));
            }
            losses.push(last);
            let gradients = loss.backward();
            if last < schedule.loss_stop || step == schedule.steps {
                break;
            }
            for (number, (leaf, part)) in leaves.iter().zip(parts.iter_mut()).enumerate() {
                let gradient = leaf.grad(&gradients).ok_or_else(|| {
                    Error::Failed(format!(
                        "the target does not depend on {}; choose an earlier layer",
                        self.path
                    ))
                })?;
                optimizer.update(Update {
                    name: &number.to_string(),
                    gradient: gradient.reshape([part.len()]),
                    value: part,
                    scale: 1.0,
                    learning_rate: schedule.learning_rate,
                    weight_decay: 0.0,
                })?;
            }
        }
        Ok(losses)
    }

    /// Mean negative log-likelihood of the target under a value `[1, width]`.
    fn loss(&self, task: &Task, replacement: Replacement, value: Tensor<2>) -> Result<Tensor<1>> {
        let pass = Pass::default();
        let columns = task.input.dims()[1];
        let replaced = replacement.columns(0, task.last, columns);
        let device = self.host.device();
        let mask: Vec<f32> = (0..columns)
            .map(|column| f32::from(u8::from(replaced.contains(&column))))
            .collect();
        let put = Put {
            path: self.path,
            mask: Tensor::from_data(TensorData::new(mask, [1, columns, 1]), &device),
            value: value.unsqueeze_dim(0),
        };
        let span = Span::new(self.blocks, task.after.clone(), usize::MAX);
        let hidden = self.host.hidden(&task.input, &pass, &[&span, &put], None)?;
        let places = task.last..task.last + task.target.len();
        let places = places.map(|place| place as i64).collect();
        let all = log_probabilities(self.host, hidden, places, &task.input);
        let count = task.target.len();
        let targets: Vec<i64> = task.target.iter().map(|id| i64::from(*id)).collect();
        let targets = Tensor::<2, Int>::from_data(TensorData::new(targets, [count, 1]), &device);
        Ok(all.gather(1, targets).sum() * (-1.0 / count as f64))
    }
}

/// A value trained for a fact, for comparisons.
#[cfg(test)]
pub(super) fn trained_value(
    host: &Transformer,
    config: GraceConfig,
    fact: &Fact,
    begun: &[f32],
) -> Result<(Vec<f32>, Vec<f64>)> {
    let blocks = numbered(&mlps(host)?);
    let layer = Layer {
        host,
        blocks: &blocks,
        block: Some(0),
        path: &config.module,
    };
    let (task, _, _) = layer.task(fact, None)?;
    layer.train_value(&task, &config, begun)
}

/// Puts a value where a mask is 1 in what a layer gives; gradients reach the value.
struct Put<'a> {
    path: &'a str,
    /// `[1, time, 1]`.
    mask: Tensor<3>,
    /// `[1, 1, width]`.
    value: Tensor<3>,
}

impl Hooks for Put<'_> {
    fn linear(&self, call: LinearCall<'_>, x: Tensor<3>) -> Tensor<3> {
        let here = call.site.path == self.path;
        let y = call.run(x);
        if !here {
            return y;
        }
        let kept = y * (1.0 - self.mask.clone());
        kept + self.value.clone() * self.mask.clone()
    }
}
