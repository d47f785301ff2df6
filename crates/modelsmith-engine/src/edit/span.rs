//! A stretch of blocks: passes that begin and end in the middle of the network.

use burn::tensor::Tensor;
use modelsmith_core::hooks::{Hooks, LinearCall, ResidualCall};
use std::collections::BTreeMap;
use std::sync::{Mutex, PoisonError};

/// Runs the blocks behind `after` up to `until`, and keeps what the last of them gives. The others
/// are passed over: what comes before is known, and what follows is not wanted.
pub(crate) struct Span<'a> {
    /// Number of every block by its path.
    pub(crate) blocks: &'a BTreeMap<String, usize>,
    /// The last block that is not run, and what it gives, `[batch, time, width]`.
    pub(crate) after: Option<(usize, Tensor<3>)>,
    /// The last block that is run.
    pub(crate) until: usize,
    kept: Mutex<Option<Tensor<3>>>,
}

impl<'a> Span<'a> {
    /// The blocks from the one behind `after` to `until`.
    pub(crate) fn new(
        blocks: &'a BTreeMap<String, usize>,
        after: Option<(usize, Tensor<3>)>,
        until: usize,
    ) -> Self {
        Self {
            blocks,
            after,
            until,
            kept: Mutex::default(),
        }
    }

    /// What block `until` gave in the last pass.
    pub(crate) fn take(&self) -> Option<Tensor<3>> {
        let mut kept = self.kept.lock().unwrap_or_else(PoisonError::into_inner);
        kept.take()
    }
}

impl Hooks for Span<'_> {
    fn residual(&self, call: ResidualCall<'_>, x: Tensor<3>) -> Tensor<3> {
        let Some(number) = self.blocks.get(&call.site.path).copied() else {
            return call.run(x);
        };
        if let Some((after, stream)) = &self.after
            && number <= *after
        {
            return if number == *after { stream.clone() } else { x };
        }
        if number > self.until {
            return x;
        }
        let y = call.run(x);
        if number == self.until {
            let mut kept = self.kept.lock().unwrap_or_else(PoisonError::into_inner);
            *kept = Some(y.clone());
        }
        y
    }
}

/// Adds vectors to the first column of what a dense layer gives.
pub(crate) struct AddFirst {
    /// Path of the layer.
    pub(crate) path: String,
    /// `[batch, width]`.
    pub(crate) vectors: Tensor<2>,
}

impl Hooks for AddFirst {
    fn linear(&self, call: LinearCall<'_>, x: Tensor<3>) -> Tensor<3> {
        let here = call.site.path == self.path;
        let y = call.run(x);
        if here {
            add_first(y, self.vectors.clone())
        } else {
            y
        }
    }
}

/// `x` `[batch, time, width]` with `vectors` `[batch, width]` added to its first column.
pub(crate) fn add_first(x: Tensor<3>, vectors: Tensor<2>) -> Tensor<3> {
    let time = x.dims()[1];
    let first = x.clone().narrow(1, 0, 1) + vectors.unsqueeze_dim(1);
    if time == 1 {
        return first;
    }
    Tensor::cat(vec![first, x.narrow(1, 1, time - 1)], 1)
}
