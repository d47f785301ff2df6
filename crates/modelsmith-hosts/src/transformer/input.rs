//! What a transformer reads: token ids with padding, positions, packing and token types.

use burn::tensor::{Bool, Device, Int, Tensor, TensorData};
use modelsmith_core::hooks::Pass;
use std::sync::Arc;

/// One batch of tokens, `[batch, time]` each.
#[derive(Clone, Debug)]
pub struct TokenInput {
    /// Token ids.
    pub ids: Tensor<2, Int>,
    /// True at real tokens; all are real when absent. With a key-value cache the mask speaks of
    /// the new tokens only.
    pub mask: Option<Tensor<2, Bool>>,
    /// Positions, counted from 0; when absent they follow from the mask, the segments and what
    /// the cache holds, so that padding on either side changes nothing.
    pub positions: Option<Tensor<2, Int>>,
    /// Packing: a token attends to tokens of its own segment only, and positions start anew in
    /// each segment.
    pub segments: Option<Tensor<2, Int>>,
    /// Token types of BERT; all zero when absent.
    pub token_types: Option<Tensor<2, Int>>,
    /// The texts that the encoder beside a decoder reads, a row each; the ids are the decoder's
    /// then. Given once where a cache is used: the cache holds what was made of it from then on.
    pub source: Option<Box<Self>>,
    /// Number of each row's task, for hooks that know several.
    pub tasks: Option<Arc<[u32]>>,
}

impl TokenInput {
    /// Ids alone, all real.
    pub fn new(ids: Tensor<2, Int>) -> Self {
        Self {
            ids,
            mask: None,
            positions: None,
            segments: None,
            token_types: None,
            source: None,
            tasks: None,
        }
    }

    /// Rows of different lengths, filled up with `pad` on the right, or on the left.
    pub fn from_ids(rows: &[Vec<u32>], pad: u32, left: bool, device: &Device) -> Self {
        let time = rows.iter().map(Vec::len).max().unwrap_or(0);
        let mut ids = Vec::with_capacity(rows.len() * time);
        let mut mask = Vec::with_capacity(rows.len() * time);
        for row in rows {
            let gap = time - row.len();
            let before = if left { gap } else { 0 };
            let place = before..before + row.len();
            ids.extend(std::iter::repeat_n(i64::from(pad), before));
            ids.extend(row.iter().map(|id| i64::from(*id)));
            ids.extend(std::iter::repeat_n(i64::from(pad), gap - before));
            mask.extend((0..time).map(|column| place.contains(&column)));
        }
        let shape = [rows.len(), time];
        let padded = mask.iter().any(|real| !real);
        Self {
            mask: padded.then(|| Tensor::from_data(TensorData::new(mask, shape), device)),
            ..Self::new(ints(ids, shape, device))
        }
    }

    /// The pass that reads this, which hooks are told the tasks by.
    pub(crate) fn told(&self, pass: &Pass) -> Pass {
        Pass {
            tasks: self.tasks.clone().or_else(|| pass.tasks.clone()),
            ..pass.clone()
        }
    }

    /// Rows and columns.
    pub fn dims(&self) -> [usize; 2] {
        self.ids.dims()
    }
}

/// Whole numbers as a tensor.
pub(crate) fn ints(values: Vec<i64>, shape: [usize; 2], device: &Device) -> Tensor<2, Int> {
    Tensor::from_data(TensorData::new(values, shape), device)
}

/// Rows of whole numbers from a tensor.
pub(crate) fn int_rows(tensor: &Tensor<2, Int>) -> Vec<Vec<i64>> {
    let [_, time] = tensor.dims();
    let values: Vec<i64> = tensor
        .clone()
        .without_autodiff()
        .into_data()
        .iter::<i64>()
        .collect();
    values.chunks(time.max(1)).map(<[i64]>::to_vec).collect()
}

/// Rows of truth values from a tensor.
pub(crate) fn bool_rows(tensor: &Tensor<2, Bool>) -> Vec<Vec<bool>> {
    let [_, time] = tensor.dims();
    let values: Vec<bool> = tensor.clone().into_data().iter::<bool>().collect();
    values.chunks(time.max(1)).map(<[bool]>::to_vec).collect()
}
