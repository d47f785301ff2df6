//! Fine-tuning of one MLP's last layer on a batch of facts.

use super::change::Change;
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
use modelsmith_core::roles::{Optimize, Update};
use modelsmith_hosts::{TokenInput, Transformer};
use modelsmith_methods::edit::FineTune;
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
) -> Result<(Change, usize, f64)> {
    let mlp = &mlps[layer];
    let begun = mlp.matrix(host)?;
    let (outputs, inputs) = (begun.nrows(), begun.ncols());
    let flat = super::change::rows(&begun);
    let mut value = Flat::from_vec(flat.clone(), &[outputs, inputs], &host.device());
    let mut optimizer = AdamW::default().optimizer()?;
    let task = Task::new(host, mlps, layer, facts)?;
    let (mut steps, mut last) = (0, f64::NAN);
    while steps < options.steps {
        let leaf = trained(value.tensor::<2>()?).val();
        let loss = task.loss(host, &mlp.site.path, leaf.clone())?;
        last = f64::from(to_vec(loss.clone().without_autodiff())[0]);
        if !last.is_finite() {
            return Err(Error::Numeric(format!(
                "the loss of fine-tuning is {last} after {steps} steps; lower method.learning_rate"
            )));
        }
        if last < options.loss_stop {
            loss.backward();
            break;
        }
        let gradients = loss.backward();
        let gradient = leaf.grad(&gradients).ok_or_else(|| {
            Error::Failed("the target does not depend on the edited layer".into())
        })?;
        drop(leaf);
        optimizer.update(Update {
            name: &mlp.weight,
            value: &mut value,
            gradient: gradient.reshape([outputs * inputs]),
            scale: 1.0,
            learning_rate: options.learning_rate,
            weight_decay: 0.0,
        })?;
        if options.clamp > 0.0 {
            value = clamped(&value, &flat, options.clamp as f32, &[outputs, inputs]);
        }
        steps += 1;
    }
    let after = super::change::matrix(&value.to_vec(), outputs, inputs);
    let difference: Mat<f64> = after - begun;
    Ok((Change::whole(mlp, layer, &difference), steps, last))
}

fn clamped(value: &Flat, begun: &[f32], by: f32, shape: &[usize]) -> Flat {
    let values = value.to_vec();
    let pairs = values.iter().zip(begun);
    let values = pairs.map(|(value, begun)| value.clamp(begun - by, begun + by));
    Flat::from_vec(values.collect(), shape, &value.values.device())
}

/// Facts as texts, run up to the edited block.
struct Task {
    input: TokenInput,
    blocks: std::collections::BTreeMap<String, usize>,
    after: Option<(usize, Tensor<3>)>,
    /// Places at which targets are predicted, the tokens there, and the weight of each.
    places: Tensor<1, Int>,
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
            places: Tensor::from_data(TensorData::new(places, [count]), &device),
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
        let [rows, time, width] = hidden.dims();
        let states = hidden
            .reshape([rows * time, width])
            .select(0, self.places.clone());
        let logits = host.logits(states.unsqueeze_dim(0), &self.input, &pass, &[]);
        let all: Tensor<2> = modelsmith_kernels::log_softmax(logits).squeeze_dim(0);
        Ok((all.gather(1, self.targets.clone()) * self.weights.clone()).sum())
    }
}
