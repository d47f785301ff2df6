//! The loop over chunks of rows.

use super::LinearCrossEntropy;
use crate::math;
use crate::rows::{self, Kernel};
use burn::backend::flex::FlexTensor;
use burn::backend::ops::{FloatTensorOps, IntTensorOps};
use burn::backend::tensor::{FloatTensor, IntTensor};
use burn::backend::{Flex, IntDType, Shape, TensorMetadata};
use burn::tensor::Slice;

/// Logits held at a time, and the least number of rows of a chunk: enough of both for the matrix
/// product to run at full speed.
const LOGITS: usize = 1 << 21;
const LEAST_ROWS: usize = 256;

/// Which gradients are wanted.
#[derive(Clone, Copy, Debug, Default)]
pub(super) struct Wanted {
    pub(super) hidden: bool,
    pub(super) weight: bool,
}

/// The loss `[1]` and the gradients of it that were wanted.
#[derive(Debug)]
pub(super) struct Found {
    pub(super) loss: FlexTensor,
    pub(super) hidden: Option<FlexTensor>,
    pub(super) weight: Option<FlexTensor>,
}

impl LinearCrossEntropy for Flex {
    fn linear_cross_entropy(
        hidden: FloatTensor<Self>,
        weight: FloatTensor<Self>,
        targets: IntTensor<Self>,
    ) -> FloatTensor<Self> {
        let chunk = rows_of_chunk(weight.shape()[0]);
        forward(&hidden, &weight, targets, Wanted::default(), chunk).loss
    }
}

/// Rows whose logits are held together, for a number of classes.
pub(super) fn rows_of_chunk(classes: usize) -> usize {
    (LOGITS / classes.max(1)).max(LEAST_ROWS)
}

/// The loss and its gradients, `chunk` rows at a time.
pub(super) fn forward(
    hidden: &FlexTensor,
    weight: &FlexTensor,
    targets: IntTensor<Flex>,
    wanted: Wanted,
    chunk: usize,
) -> Found {
    let (shape, classes) = (hidden.shape(), weight.shape()[0]);
    let (count, width) = (shape[0], shape[1]);
    let targets = classes_of(targets, classes);
    let mut losses = 0.0;
    let mut to_hidden = vec![0.0; if wanted.hidden { count * width } else { 0 }];
    let mut to_weight: Option<FlexTensor> = None;
    for start in (0..count).step_by(chunk) {
        let end = (start + chunk).min(count);
        let part = Flex::float_slice(hidden.clone(), &[Slice::from(start..end)]);
        let logits = Flex::float_matmul(part.clone(), Flex::float_transpose(weight.clone()));
        let (loss, logits) = chunk_loss(logits, &targets[start..end], wanted);
        losses += loss;
        if wanted.hidden {
            let gradient = rows::contiguous(&Flex::float_matmul(logits.clone(), weight.clone()));
            to_hidden[start * width..end * width].copy_from_slice(rows::values(&gradient));
        }
        if wanted.weight {
            let gradient = Flex::float_matmul(Flex::float_transpose(logits), part);
            to_weight = Some(match to_weight {
                Some(before) => Flex::float_add(before, gradient),
                None => gradient,
            });
        }
    }
    let none = || rows::tensor(vec![0.0; classes * width], weight.shape());
    Found {
        loss: rows::tensor(vec![losses as f32], Shape::new([1])),
        hidden: wanted.hidden.then(|| rows::tensor(to_hidden, shape)),
        weight: wanted.weight.then(|| to_weight.unwrap_or_else(none)),
    }
}

/// The targets as indices, each below `classes`.
fn classes_of(targets: IntTensor<Flex>, classes: usize) -> Vec<usize> {
    let targets = Flex::int_cast(targets, IntDType::I64).to_contiguous();
    let targets = targets.as_slice::<i64>().unwrap_or(&[]);
    let class = |(row, target): (usize, &i64)| match usize::try_from(*target) {
        Ok(class) if class < classes => class,
        _ => panic!(
            "linear_cross_entropy: target {target} of row {row} is not one of the {classes} classes"
        ),
    };
    targets.iter().enumerate().map(class).collect()
}

/// The summed loss of a chunk's logits, and in their place their gradients if any are wanted.
fn chunk_loss(logits: FlexTensor, targets: &[usize], wanted: Wanted) -> (f64, FlexTensor) {
    let classes = logits.shape()[1];
    let mut logits = rows::contiguous(&logits);
    let mut losses = vec![0.0; targets.len()];
    if wanted.hidden || wanted.weight {
        let outputs = [(losses.as_mut_slice(), 1), (logits.storage_mut(), classes)];
        rows::run(
            &Gradients { targets, classes },
            0,
            targets.len(),
            outputs,
            [],
        );
    } else {
        let inputs = [(rows::values(&logits), classes)];
        let outputs = [(losses.as_mut_slice(), 1)];
        rows::run(
            &Losses { targets, classes },
            0,
            targets.len(),
            outputs,
            inputs,
        );
    }
    (losses.iter().map(|loss| f64::from(*loss)).sum(), logits)
}

/// A row's loss from its logits.
struct Losses<'a> {
    targets: &'a [usize],
    classes: usize,
}

impl Kernel<1, 1> for Losses<'_> {
    #[inline(always)]
    fn run(&self, first: usize, [losses]: [&mut [f32]; 1], [logits]: [&[f32]; 1]) {
        for (at, row) in logits.chunks_exact(self.classes).enumerate() {
            let top = math::max(row);
            let sum = math::sum_of(row, |logit| math::exp(logit - top));
            losses[at] = sum.ln() - (row[self.targets[first + at]] - top);
        }
    }
}

/// The same, and `softmax - onehot` in place of the logits.
struct Gradients<'a> {
    targets: &'a [usize],
    classes: usize,
}

impl Kernel<2, 0> for Gradients<'_> {
    #[inline(always)]
    fn run(&self, first: usize, [losses, logits]: [&mut [f32]; 2], []: [&[f32]; 0]) {
        for (at, row) in logits.chunks_exact_mut(self.classes).enumerate() {
            let target = self.targets[first + at];
            let top = math::max(row);
            let chosen = row[target] - top;
            row.iter_mut()
                .for_each(|logit| *logit = math::exp(*logit - top));
            let sum = math::sum(row);
            losses[at] = sum.ln() - chosen;
            let scale = 1.0 / sum;
            row.iter_mut().for_each(|p| *p *= scale);
            row[target] -= 1.0;
        }
    }
}
