//! Fine-tuning of one MLP's last layer on a batch of facts.

use super::answers::{Answers, log_probabilities};
use super::change::{Change, matrix, rows};
use super::facts::Fact;
use super::mlps::Mlp;
use super::rows::numbered;
use super::span::Span;
use burn::tensor::{Tensor, TensorData};
use faer::Mat;
use modelsmith_core::error::{Error, Result};
use modelsmith_core::hooks::{Hooks, LinearCall, Pass};
use modelsmith_core::host::Host;
use modelsmith_core::parameters::{Flat, to_vec, trained};
use modelsmith_core::random::Stream;
use modelsmith_core::roles::{Optimize, Optimizer, Update};
use modelsmith_hosts::Transformer;
use modelsmith_methods::edit::{self, FineTune};
use modelsmith_methods::optimize::AdamW;

/// Puts a trained weight in the place of a layer's own.
struct Replaced<'a> {
    path: &'a str,
    /// `[outputs, inputs]`.
    weight: Tensor<2>,
}

impl Hooks for Replaced<'_> {
    fn linear(&self, call: LinearCall<'_>, x: Tensor<3>) -> Tensor<3> {
        if call.site.path != self.path {
            return call.run(x);
        }
        let bias = call.layer.bias.as_ref().map(|bias| bias.val());
        modelsmith_kernels::linear(x, self.weight.clone(), bias, None)
    }
}

/// Facts of a batch of a rehearsal.
const BATCH: usize = 10;

/// The change of the MLP of block `layer` that `options` make of `facts`, with steps and last loss; the
/// host stays as it is. `past` are the facts before, oldest first.
///
/// # Errors
/// Prompts that do not fit the model, a loss that is not finite.
pub(crate) fn change(
    host: &Transformer,
    mlps: &[Mlp],
    layer: usize,
    options: &FineTune,
    (facts, past): (&[Fact], &[Fact]),
    seed: u64,
) -> Result<(Change, usize, f64)> {
    let mut training = Training::new(host, &mlps[layer], options, seed)?;
    if options.elastic > 0.0 {
        let last = &past[past.len().saturating_sub(options.elastic_facts)..];
        training.anchor = Anchor::new(&training, mlps, layer, last)?;
    }
    let task = Task::new(host, mlps, layer, facts)?;
    let (mut steps, mut last) = (0, f64::NAN);
    while steps < options.steps {
        last = training.step(&task, options.loss_stop)?;
        if last < options.loss_stop {
            break;
        }
        steps += 1;
    }
    Ok((training.weight.change(&mlps[layer], layer)?, steps, last))
}

/// The change that passes over all `facts` make, in batches drawn anew each time.
///
/// # Errors
/// As [`change`].
pub(crate) fn rehearsal(
    host: &Transformer,
    mlps: &[Mlp],
    layer: usize,
    options: &FineTune,
    facts: &[Fact],
    seed: u64,
) -> Result<Change> {
    let mut training = Training::new(host, &mlps[layer], options, seed)?;
    for pass in 0..options.retrain_passes {
        let mut order: Vec<&Fact> = facts.iter().collect();
        let name = format!("edit/rehearsal/{}/{pass}", facts.len());
        Stream::new(seed, &name).shuffle(&mut order);
        for batch in order.chunks(BATCH) {
            let batch: Vec<Fact> = batch.iter().map(|fact| (*fact).clone()).collect();
            let task = Task::new(host, mlps, layer, &batch)?;
            training.step(&task, 0.0)?;
        }
    }
    training.weight.change(&mlps[layer], layer)
}

/// Fine-tuning that is under way.
struct Training<'a> {
    host: &'a Transformer,
    path: &'a str,
    options: &'a FineTune,
    weight: Weight,
    optimizer: Box<dyn Optimizer>,
    steps: usize,
    anchor: Option<Anchor>,
}

impl<'a> Training<'a> {
    fn new(host: &'a Transformer, mlp: &'a Mlp, options: &'a FineTune, seed: u64) -> Result<Self> {
        Ok(Self {
            host,
            path: &mlp.site.path,
            options,
            weight: Weight::new(host, mlp, options, seed)?,
            optimizer: AdamW::default().optimizer()?,
            steps: 0,
            anchor: None,
        })
    }

    /// The loss of a task with its gradients by value.
    fn gradients(&self, task: &Task) -> Result<(f64, Vec<Tensor<1>>)> {
        let leaves = self.weight.leaves()?;
        let composed = self.weight.compose(&leaves);
        let loss = task.loss(self.host, self.path, composed)?;
        let found = f64::from(to_vec(loss.clone().without_autodiff())[0]);
        if !found.is_finite() {
            return Err(Error::Numeric(format!(
                "the loss of fine-tuning is {found} after {} steps; lower method.learning_rate",
                self.steps
            )));
        }
        let mut gradients = loss.backward();
        let pairs = leaves.iter().zip(&self.weight.values);
        let of = |(leaf, value): (&Tensor<2>, &Flat)| {
            let gradient = leaf.grad_remove(&mut gradients).ok_or_else(|| {
                Error::Failed("the target does not depend on the edited layer".into())
            })?;
            Ok(gradient.reshape([value.len()]))
        };
        let gradients = pairs.map(of).collect::<Result<_>>()?;
        Ok((found, gradients))
    }

    /// One step of Adam, and the loss before it; none at a loss below `stop`.
    fn step(&mut self, task: &Task, stop: f64) -> Result<f64> {
        let (loss, gradients) = self.gradients(task)?;
        if loss < stop {
            return Ok(loss);
        }
        for (place, gradient) in gradients.into_iter().enumerate() {
            let value = &mut self.weight.values[place];
            let gradient = match &self.anchor {
                Some(anchor) => gradient + anchor.pull(value, self.options.elastic)?,
                None => gradient,
            };
            self.optimizer.update(Update {
                name: ["first", "second"][place],
                gradient,
                value,
                scale: 1.0,
                learning_rate: self.options.learning_rate,
                weight_decay: 0.0,
            })?;
        }
        self.weight.clamp(self.options.clamp as f32);
        self.steps += 1;
        Ok(loss)
    }
}

/// Where a weight was, and how much earlier facts depend on each of its entries.
struct Anchor {
    begun: Tensor<1>,
    /// Mean squared gradient of the log-likelihood of a fact.
    fisher: Tensor<1>,
}

impl Anchor {
    /// Of the facts given; `None` where there are none.
    fn new(
        training: &Training<'_>,
        mlps: &[Mlp],
        layer: usize,
        facts: &[Fact],
    ) -> Result<Option<Self>> {
        let mut fisher: Option<Tensor<1>> = None;
        for fact in facts {
            let task = Task::new(training.host, mlps, layer, std::slice::from_ref(fact))?;
            let (_, mut gradients) = training.gradients(&task)?;
            let square = gradients.remove(0).square() / facts.len() as f64;
            fisher = Some(match fisher {
                Some(sum) => sum + square,
                None => square,
            });
        }
        let begun = &training.weight.values[0];
        let begun = begun.tensor::<2>()?.reshape([begun.len()]);
        Ok(fisher.map(|fisher| Self { begun, fisher }))
    }

    /// The gradient of `strength · Σ F (w - w₀)²`.
    fn pull(&self, value: &Flat, strength: f64) -> Result<Tensor<1>> {
        let now = value.tensor::<2>()?.reshape([value.len()]);
        Ok((now - self.begun.clone()) * self.fisher.clone() * (2.0 * strength))
    }
}

/// What is trained: the weight itself, or the factors of a change of it.
struct Weight {
    /// The weight as it was, `[outputs, inputs]`.
    begun: Mat<f64>,
    /// The same as a tensor.
    fixed: Tensor<2>,
    /// The weight; or `B` `[outputs, rank]` and `A` `[rank, inputs]`.
    values: Vec<Flat>,
    /// Multiplies `B A`.
    scale: f64,
}

impl Weight {
    fn new(host: &Transformer, mlp: &Mlp, options: &FineTune, seed: u64) -> Result<Self> {
        let begun = mlp.matrix(host)?;
        let (outputs, inputs, rank) = (begun.nrows(), begun.ncols(), options.rank);
        let device = host.device();
        let whole = Flat::from_vec(rows(&begun), &[outputs, inputs], &device);
        let fixed = whole.tensor()?;
        let values = match rank {
            0 => vec![whole],
            rank => {
                // As LoRA begins: B is 0, A uniform within 1/√inputs.
                let bound = 1.0 / (inputs as f32).sqrt();
                let draws = Stream::new(seed, &format!("edit/{}/A", mlp.site.path)).uniform(
                    rank * inputs,
                    -bound,
                    bound,
                );
                vec![
                    Flat::from_vec(vec![0.0; outputs * rank], &[outputs, rank], &device),
                    Flat::from_vec(draws, &[rank, inputs], &device),
                ]
            }
        };
        Ok(Self {
            begun,
            fixed,
            values,
            scale: options.alpha / rank.max(1) as f64,
        })
    }

    fn leaves(&self) -> Result<Vec<Tensor<2>>> {
        let leaf = |value: &Flat| Ok(trained(value.tensor::<2>()?).val());
        self.values.iter().map(leaf).collect()
    }

    fn compose(&self, leaves: &[Tensor<2>]) -> Tensor<2> {
        match leaves {
            [b, a] => self.fixed.clone() + b.clone().matmul(a.clone()) * self.scale,
            _ => leaves[0].clone(),
        }
    }

    /// Keeps every entry within `by` of where it began; any distance for 0.
    fn clamp(&mut self, by: f32) {
        if by > 0.0 {
            let begun = rows(&self.begun);
            let shape = self.values[0].shape.clone();
            let values = self.values[0].to_vec();
            let pairs = values.iter().zip(&begun);
            let values = pairs.map(|(value, begun)| value.clamp(begun - by, begun + by));
            let device = self.fixed.device();
            self.values[0] = Flat::from_vec(values.collect(), &shape, &device);
        }
    }

    fn change(&self, mlp: &Mlp, layer: usize) -> Result<Change> {
        let as_matrix = |value: &Flat| matrix(&value.to_vec(), value.shape[0], value.shape[1]);
        Ok(match &self.values[..] {
            [b, a] => {
                let left = as_matrix(b) * faer::Scale(self.scale);
                let keys = Mat::zeros(0, 0);
                Change::new(
                    mlp,
                    layer,
                    &edit::Update {
                        left,
                        right: as_matrix(a),
                        keys,
                        consistency: None,
                    },
                )
            }
            values => Change::whole(mlp, layer, &(as_matrix(&values[0]) - &self.begun)),
        })
    }
}

/// Facts as texts, run up to the edited block.
struct Task {
    answers: Answers,
    blocks: std::collections::BTreeMap<String, usize>,
    after: Option<(usize, Tensor<3>)>,
    /// What each place weighs in the loss, `[places, 1]`.
    weights: Tensor<2>,
}

impl Task {
    fn new(host: &Transformer, mlps: &[Mlp], layer: usize, facts: &[Fact]) -> Result<Self> {
        let texts = facts
            .iter()
            .map(|fact| (&fact.bare.ids[..], &fact.target[..]));
        let answers = Answers::new(host, &texts.collect::<Vec<_>>());
        let of_answer = |length: &usize| {
            let weight = -1.0 / (length * facts.len()) as f32;
            std::iter::repeat_n(weight, *length)
        };
        let weights: Vec<f32> = answers.lengths.iter().flat_map(of_answer).collect();
        let count = weights.len();
        let blocks = numbered(mlps);
        let after = match layer.checked_sub(1) {
            Some(last) => {
                let span = Span::new(&blocks, None, last);
                host.hidden(&answers.input, &Pass::default(), &[&span], None)?;
                span.take().map(|stream| (last, stream))
            }
            None => None,
        };
        Ok(Self {
            answers,
            after,
            blocks,
            weights: Tensor::from_data(TensorData::new(weights, [count, 1]), &host.device()),
        })
    }

    /// Mean over facts of the mean negative log-likelihood of their targets.
    fn loss(&self, host: &Transformer, path: &str, weight: Tensor<2>) -> Result<Tensor<1>> {
        let replaced = Replaced { path, weight };
        let span = Span::new(&self.blocks, self.after.clone(), usize::MAX);
        let pass = Pass::default();
        let Answers { input, places, .. } = &self.answers;
        let hidden = host.hidden(input, &pass, &[&span, &replaced], None)?;
        let all = log_probabilities(host, hidden, places.clone(), input);
        let targets = self.answers.targets.clone();
        Ok((all.gather(1, targets) * self.weights.clone()).sum())
    }
}
