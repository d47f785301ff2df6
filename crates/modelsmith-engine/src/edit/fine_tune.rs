//! Fine-tuning of one MLP's last layer on a batch of facts.

use super::answers::log_probabilities;
use super::change::{Change, matrix, rows};
use super::facts::Fact;
use super::mlps::Mlp;
use super::rows::numbered;
use super::span::Span;
use burn::tensor::{Int, Tensor, TensorData};
use faer::Mat;
use modelsmith_core::error::{Error, Result};
use modelsmith_core::hooks::{Hooks, LinearCall, Pass};
use modelsmith_core::host::Host;
use modelsmith_core::parameters::{Flat, to_vec, trained};
use modelsmith_core::random::Stream;
use modelsmith_core::roles::{Optimize, Update};
use modelsmith_hosts::{TokenInput, Transformer};
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

/// The change of the MLP of block `layer` that `options` make of `facts`, with steps and last loss; the
/// host stays as it is.
///
/// # Errors
/// Prompts that do not fit the model, a loss that is not finite.
pub(crate) fn change(
    host: &Transformer,
    mlps: &[Mlp],
    layer: usize,
    options: &FineTune,
    facts: &[Fact],
    seed: u64,
) -> Result<(Change, usize, f64)> {
    let mut weight = Weight::new(host, &mlps[layer], options, seed)?;
    let mut optimizer = AdamW::default().optimizer()?;
    let task = Task::new(host, mlps, layer, facts)?;
    let (mut steps, mut last) = (0, f64::NAN);
    while steps < options.steps {
        let leaves = weight.leaves()?;
        let composed = weight.compose(&leaves);
        let loss = task.loss(host, &mlps[layer].site.path, composed)?;
        last = f64::from(to_vec(loss.clone().without_autodiff())[0]);
        if !last.is_finite() {
            return Err(Error::Numeric(format!(
                "the loss of fine-tuning is {last} after {steps} steps; lower method.learning_rate"
            )));
        }
        let mut gradients = loss.backward();
        if last < options.loss_stop {
            break;
        }
        for (place, leaf) in leaves.iter().enumerate() {
            let gradient = leaf.grad_remove(&mut gradients).ok_or_else(|| {
                Error::Failed("the target does not depend on the edited layer".into())
            })?;
            let value = &mut weight.values[place];
            optimizer.update(Update {
                name: ["first", "second"][place],
                gradient: gradient.reshape([value.len()]),
                value,
                scale: 1.0,
                learning_rate: options.learning_rate,
                weight_decay: 0.0,
            })?;
        }
        weight.clamp(options.clamp as f32);
        steps += 1;
    }
    Ok((weight.change(&mlps[layer], layer)?, steps, last))
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
    input: TokenInput,
    blocks: std::collections::BTreeMap<String, usize>,
    after: Option<(usize, Tensor<3>)>,
    /// Places at which targets are predicted, the tokens there, and the weight of each.
    places: Vec<i64>,
    targets: Tensor<2, Int>,
    weights: Tensor<2>,
}

impl Task {
    fn new(host: &Transformer, mlps: &[Mlp], layer: usize, facts: &[Fact]) -> Result<Self> {
        let device = host.device();
        let text = |fact: &Fact| [&fact.bare.ids, &fact.target[..fact.target.len() - 1]].concat();
        let rows: Vec<Vec<u32>> = facts.iter().map(text).collect();
        let input = TokenInput::from_ids(&rows, host.pad_token().unwrap_or(0), false, &device);
        let time = input.dims()[1];
        let (mut places, mut targets, mut weights) = (Vec::new(), Vec::new(), Vec::new());
        for (row, fact) in facts.iter().enumerate() {
            let first = row * time + fact.bare.ids.len() - 1;
            places.extend((first..first + fact.target.len()).map(|place| place as i64));
            targets.extend(fact.target.iter().map(|token| i64::from(*token)));
            let weight = -1.0 / (fact.target.len() * facts.len()) as f32;
            weights.extend(std::iter::repeat_n(weight, fact.target.len()));
        }
        let count = places.len();
        let blocks = numbered(mlps);
        let after = match layer.checked_sub(1) {
            Some(last) => {
                let span = Span::new(&blocks, None, last);
                host.hidden(&input, &Pass::default(), &[&span], None)?;
                span.take().map(|stream| (last, stream))
            }
            None => None,
        };
        Ok(Self {
            input,
            after,
            blocks,
            places,
            targets: Tensor::from_data(TensorData::new(targets, [count, 1]), &device),
            weights: Tensor::from_data(TensorData::new(weights, [count, 1]), &device),
        })
    }

    /// Mean over facts of the mean negative log-likelihood of their targets.
    fn loss(&self, host: &Transformer, path: &str, weight: Tensor<2>) -> Result<Tensor<1>> {
        let replaced = Replaced { path, weight };
        let span = Span::new(&self.blocks, self.after.clone(), usize::MAX);
        let pass = Pass::default();
        let hidden = host.hidden(&self.input, &pass, &[&span, &replaced], None)?;
        let all = log_probabilities(host, hidden, self.places.clone(), &self.input);
        Ok((all.gather(1, self.targets.clone()) * self.weights.clone()).sum())
    }
}
