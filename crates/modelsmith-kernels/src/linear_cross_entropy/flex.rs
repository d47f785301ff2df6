//! The loop over chunks of rows.

use super::LinearCrossEntropy;
#[cfg(target_arch = "x86_64")]
use super::online;
use crate::math;
use crate::matrix::{Half, Matrix};
use crate::product::{add_product, write_product};
use crate::rows::{self, Kernel};
use burn::backend::flex::FlexTensor;
use burn::backend::ops::IntTensorOps;
use burn::backend::tensor::{FloatTensor, IntTensor};
use burn::backend::{Flex, IntDType, Shape, TensorMetadata};

/// Logits held at a time, and the least number of rows of a chunk: enough of both for the matrix
/// product to run at full speed.
const LOGITS: usize = 1 << 21;
const LEAST_ROWS: usize = 512;

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
    let (hidden, weight) = (rows::contiguous(hidden), rows::unflipped(weight));
    let (all, matrix) = (Matrix::last_axis(&hidden), Matrix::of(&weight));
    #[cfg(target_arch = "x86_64")]
    if let Some(head) = matrix.in_order()
        && !wanted.weight
        && width > 0
        && online::available()
    {
        let (losses, gradients) = online::losses(all, head, &targets, wanted.hidden);
        let loss: f64 = losses.iter().map(|loss| f64::from(*loss)).sum();
        return Found {
            loss: rows::tensor(vec![loss as f32], Shape::new([1])),
            hidden: wanted.hidden.then(|| rows::tensor(gradients, shape)),
            weight: None,
        };
    }
    let size = |wanted: bool, size: usize| vec![0.0; if wanted { size } else { 0 }];
    let mut to_hidden = size(wanted.hidden, count * width);
    let mut to_weight = size(wanted.weight, classes * width);
    let rounded = (wanted.weight && matrix.is_half()).then(|| all.half());
    let inputs = rounded.as_ref().map_or(all, Half::matrix);
    // One memory for the logits of all chunks.
    let mut logits = vec![0.0; chunk.min(count) * classes];
    let mut losses = 0.0;
    for start in (0..count).step_by(chunk) {
        let end = (start + chunk).min(count);
        let part = all.rows(start, end);
        let logits = &mut logits[..(end - start) * classes];
        write_product(logits, part, matrix.t());
        losses += chunk_loss(logits, &targets[start..end], wanted);
        let gradients = Matrix::new(logits, end - start, classes);
        if wanted.hidden {
            let to_hidden = &mut to_hidden[start * width..end * width];
            write_product(to_hidden, gradients, matrix);
        }
        if wanted.weight {
            add_product(&mut to_weight, 1.0, gradients.t(), inputs.rows(start, end));
        }
    }
    Found {
        loss: rows::tensor(vec![losses as f32], Shape::new([1])),
        hidden: wanted.hidden.then(|| rows::tensor(to_hidden, shape)),
        weight: wanted
            .weight
            .then(|| rows::tensor(to_weight, weight.shape())),
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
fn chunk_loss(logits: &mut [f32], targets: &[usize], wanted: Wanted) -> f64 {
    let (count, classes) = (targets.len(), logits.len() / targets.len());
    let mut losses = vec![0.0; count];
    let out = (losses.as_mut_slice(), 1);
    if wanted.hidden || wanted.weight {
        let kernel = Gradients { targets, classes };
        rows::run(&kernel, 0, count, [out, (logits, classes)], []);
    } else {
        let kernel = Losses { targets, classes };
        rows::run(&kernel, 0, count, [out], [(&*logits, classes)]);
    }
    losses.iter().map(|loss| f64::from(*loss)).sum()
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
