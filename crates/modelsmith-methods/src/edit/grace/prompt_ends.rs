//! Where the prompts of a pass end: what stands in for a layer's output looks there.

use burn::tensor::{Int, Tensor, TensorData};
use std::sync::{Mutex, PoisonError};

/// The lengths that hooks are told before a pass.
#[derive(Debug, Default)]
pub struct PromptEnds {
    given: Mutex<Option<Vec<usize>>>,
}

impl PromptEnds {
    /// Keeps the prompt lengths of the pass that comes next.
    pub fn given(&self, lengths: &[usize]) {
        let mut given = self.given.lock().unwrap_or_else(PoisonError::into_inner);
        *given = Some(lengths.to_vec());
    }

    /// The column of the last prompt token of every row, for the pass that was told of; without word prompts end
    /// with the row, as generation pads them.
    pub fn take(&self, [rows, time]: [usize; 2]) -> Vec<usize> {
        let given = self
            .given
            .lock()
            .unwrap_or_else(PoisonError::into_inner)
            .take();
        let last = |row: usize| match given.as_ref().and_then(|given| given.get(row)) {
            Some(length) => length.max(&1) - 1,
            None => time - 1,
        };
        (0..rows).map(last).collect()
    }

    /// The states `[rows, width]` of `x` `[rows, time, width]` in those columns, without gradients.
    pub fn states(x: &Tensor<3>, last: &[usize]) -> Tensor<2> {
        let [rows, time, width] = x.dims();
        let places = last.iter().enumerate();
        let places: Vec<i64> = places
            .map(|(row, column)| (row * time + column) as i64)
            .collect();
        let flat = x.clone().without_autodiff().reshape([rows * time, width]);
        let places = Tensor::<1, Int>::from_data(TensorData::new(places, [rows]), &flat.device());
        flat.select(0, places)
    }
}
