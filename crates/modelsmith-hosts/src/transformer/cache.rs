//! Keys and values of the tokens read so far, so that each new token costs one column only.

use burn::tensor::{Int, Tensor, TensorData};
use modelsmith_core::error::{Error, Result};

/// Columns of the first buffer.
const FIRST_CAPACITY: usize = 64;

/// Keys and values of all layers, in buffers that double when they are full.
#[derive(Clone, Debug, Default)]
pub struct KvCache {
    pub(crate) layers: Vec<LayerCache>,
    /// Hides the padding of the text that the encoder read, `[batch, 1, 1, time]`.
    pub(crate) encoded_bias: Option<Tensor<4>>,
    length: usize,
    batch: usize,
    /// Which columns hold real tokens, row by row; absent while all do.
    real: Option<Vec<Vec<bool>>>,
    fixed: bool,
}

/// One layer's keys and values.
#[derive(Clone, Debug, Default)]
pub(crate) struct LayerCache {
    /// Buffers for the tokens read so far, `[batch, kv_heads, capacity, head_dim]`.
    own: Option<(Tensor<4>, Tensor<4>)>,
    /// Those of the encoder's text, which does not grow, `[batch, kv_heads, time, head_dim]`.
    pub(crate) encoded: Option<(Tensor<4>, Tensor<4>)>,
    fixed: bool,
}

impl KvCache {
    /// An empty cache; the first pass shapes it.
    pub fn new() -> Self {
        Self::default()
    }

    /// Keeps what is held as it is: from now on passes read it and add nothing, so that a text can be
    /// continued many times, and gradients flow through what a pass computes itself.
    pub fn fix(&mut self) {
        self.fixed = true;
        self.layers.iter_mut().for_each(|layer| layer.fixed = true);
    }

    /// Columns held, padding included.
    pub fn len(&self) -> usize {
        self.length
    }

    /// Whether nothing is held.
    pub fn is_empty(&self) -> bool {
        self.length == 0
    }

    /// Rows held.
    pub fn batch(&self) -> usize {
        self.batch
    }

    /// Keeps the rows given, in that order; a row may be repeated or left out.
    ///
    /// # Errors
    /// A row that is not held.
    pub fn select(&mut self, rows: &[usize]) -> Result<()> {
        if let Some(row) = rows.iter().find(|row| **row >= self.batch) {
            return Err(Error::Failed(format!(
                "row {row} of a key-value cache of {} rows was asked for",
                self.batch
            )));
        }
        for layer in &mut self.layers {
            layer.select(rows);
        }
        self.encoded_bias = self.encoded_bias.take().map(|bias| pick(bias, rows));
        if let Some(real) = &mut self.real {
            *real = rows.iter().map(|row| real[*row].clone()).collect();
        }
        self.batch = rows.len();
        Ok(())
    }

    /// Forgets all columns from `length` on; the buffers stay.
    pub fn truncate(&mut self, length: usize) {
        if length < self.length {
            self.length = length;
            for row in self.real.iter_mut().flatten() {
                row.truncate(length);
            }
        }
    }

    /// Which columns of a row hold real tokens; `None` where all of all rows do.
    pub(crate) fn real(&self) -> Option<&[Vec<bool>]> {
        self.real.as_deref()
    }

    /// Real tokens of a row.
    pub(crate) fn count(&self, row: usize) -> usize {
        match &self.real {
            Some(real) => real[row].iter().filter(|real| **real).count(),
            None => self.length,
        }
    }

    /// Makes room for the layers and rows of a pass.
    pub(crate) fn admit(&mut self, layers: usize, batch: usize) -> Result<()> {
        if self.length == 0 {
            self.batch = batch;
            self.real = None;
            let fixed = self.fixed;
            let layer = LayerCache {
                fixed,
                ..LayerCache::default()
            };
            self.layers = vec![layer; layers];
            self.encoded_bias = None;
        }
        if self.batch != batch || self.layers.len() != layers {
            return Err(Error::Failed(format!(
                "the key-value cache holds {} rows of {} layers, but the pass has {batch} rows of \
                 {layers} layers",
                self.batch,
                self.layers.len()
            )));
        }
        Ok(())
    }

    /// Counts the columns that a pass has written.
    pub(crate) fn advance(&mut self, time: usize, mask: Option<&[Vec<bool>]>) {
        if self.fixed {
            return;
        }
        if self.real.is_none() && mask.is_some() {
            self.real = Some(vec![vec![true; self.length]; self.batch]);
        }
        for (row, real) in self.real.iter_mut().flatten().enumerate() {
            match mask {
                Some(mask) => real.extend(&mask[row]),
                None => real.extend(std::iter::repeat_n(true, time)),
            }
        }
        self.length += time;
    }
}

impl LayerCache {
    /// Writes `k` and `v` `[batch, kv_heads, time, head_dim]` at `offset` and returns all columns
    /// up to their end. Writing the same place twice leaves the last values. A fixed cache gives the
    /// same and keeps its own.
    pub(crate) fn append(
        &mut self,
        offset: usize,
        k: Tensor<4>,
        v: Tensor<4>,
    ) -> (Tensor<4>, Tensor<4>) {
        if self.fixed {
            return match &self.own {
                Some((keys, values)) => (behind(keys, offset, k), behind(values, offset, v)),
                None => (k, v),
            };
        }
        // A cache serves inference: what it holds never belongs to a graph.
        let (k, v) = (k.without_autodiff(), v.without_autodiff());
        let end = offset + k.dims()[2];
        let (keys, values) = match self.own.take() {
            Some((keys, values)) => (keys, values),
            None => (empty(&k, 0), empty(&v, 0)),
        };
        let keys = write(roomy(keys, offset, end), offset, k);
        let values = write(roomy(values, offset, end), offset, v);
        let held = (
            keys.clone().narrow(2, 0, end),
            values.clone().narrow(2, 0, end),
        );
        self.own = Some((keys, values));
        held
    }

    fn select(&mut self, rows: &[usize]) {
        for held in [&mut self.own, &mut self.encoded] {
            *held = held
                .take()
                .map(|(keys, values)| (pick(keys, rows), pick(values, rows)));
        }
    }
}

/// The first `length` columns of a buffer, and `x` behind them.
fn behind(buffer: &Tensor<4>, length: usize, x: Tensor<4>) -> Tensor<4> {
    let held = buffer.clone().narrow(2, 0, length);
    Tensor::cat(vec![held, x], 2)
}

/// The rows given, in that order.
fn pick(x: Tensor<4>, rows: &[usize]) -> Tensor<4> {
    let rows: Vec<i64> = rows.iter().map(|row| *row as i64).collect();
    let count = [rows.len()];
    let rows = Tensor::<1, Int>::from_data(TensorData::new(rows, count), &x.device());
    x.select(0, rows)
}

/// A buffer like `x` with `capacity` columns.
fn empty(x: &Tensor<4>, capacity: usize) -> Tensor<4> {
    let [batch, heads, _, dim] = x.dims();
    Tensor::zeros([batch, heads, capacity, dim], &x.device())
}

/// A buffer with room for `end` columns that keeps the first `used`.
fn roomy(buffer: Tensor<4>, used: usize, end: usize) -> Tensor<4> {
    let [batch, heads, capacity, dim] = buffer.dims();
    if end <= capacity {
        return buffer;
    }
    let grown = empty(&buffer, end.next_power_of_two().max(FIRST_CAPACITY));
    if used == 0 {
        return grown;
    }
    let kept = buffer.narrow(2, 0, used);
    grown.slice_assign([0..batch, 0..heads, 0..used, 0..dim], kept)
}

/// Writes in place: nothing else refers to the buffer by now.
fn write(buffer: Tensor<4>, offset: usize, x: Tensor<4>) -> Tensor<4> {
    let [batch, heads, time, dim] = x.dims();
    buffer.slice_assign([0..batch, 0..heads, offset..offset + time, 0..dim], x)
}
