//! The tensors of an attention as they lie in memory.

// Tasks write rows that interleave in memory, which slices cannot be cut into.
#![allow(unsafe_code)]

use super::product::Strided;
use modelsmith_core::mask::Band;
use std::marker::PhantomData;

/// A tensor of four axes, read in place: where it starts, its lengths and its steps in values.
#[derive(Clone, Copy)]
pub(super) struct View<'a> {
    pub(super) values: &'a [f32],
    pub(super) lengths: [usize; 4],
    pub(super) steps: [usize; 4],
}

impl<'a> View<'a> {
    /// The last axis at a place of the others; its values lie side by side.
    #[inline(always)]
    pub(super) fn row(&self, batch: usize, head: usize, time: usize) -> &'a [f32] {
        let at = self.at([batch, head, time, 0]);
        &self.values[at..at + self.lengths[3]]
    }

    /// The last two axes, from a place of the third on.
    #[inline(always)]
    pub(super) fn matrix(&self, batch: usize, head: usize, time: usize) -> Strided<'a> {
        Strided {
            values: &self.values[self.at([batch, head, time, 0])..],
            row: self.steps[2],
            column: 1,
        }
    }

    #[inline(always)]
    pub(super) fn at(&self, place: [usize; 4]) -> usize {
        place
            .iter()
            .zip(self.steps)
            .map(|(at, step)| at * step)
            .sum()
    }
}

/// All that the scores depend on.
#[derive(Clone, Copy)]
pub(super) struct Problem<'a> {
    /// `[batch, heads, time, dim]`.
    pub(super) q: View<'a>,
    /// `[batch, kv_heads, keys, dim]`.
    pub(super) k: View<'a>,
    /// `[batch, kv_heads, keys, width]`.
    pub(super) v: View<'a>,
    /// `[batch, heads, time, keys]`; the step of an axis that it is broadcast along is 0.
    pub(super) bias: Option<View<'a>>,
    pub(super) band: Band,
    pub(super) scale: f32,
}

impl Problem<'_> {
    pub(super) fn batch(&self) -> usize {
        self.q.lengths[0]
    }
    pub(super) fn time(&self) -> usize {
        self.q.lengths[2]
    }
    pub(super) fn dim(&self) -> usize {
        self.q.lengths[3]
    }
    pub(super) fn heads(&self) -> usize {
        self.q.lengths[1]
    }
    pub(super) fn kv_heads(&self) -> usize {
        self.k.lengths[1]
    }
    pub(super) fn keys(&self) -> usize {
        self.k.lengths[2]
    }
    /// Width of the values.
    pub(super) fn width(&self) -> usize {
        self.v.lengths[3]
    }
    /// Query heads that share keys and values.
    pub(super) fn group(&self) -> usize {
        self.heads() / self.kv_heads()
    }
    /// Queries of all heads that share keys and values.
    pub(super) fn rows(&self) -> usize {
        self.group() * self.time()
    }
}

/// An output `[batch, time, heads, width]` whose rows several tasks write at once.
pub(super) struct Sink<'a> {
    values: *mut f32,
    lengths: [usize; 4],
    owner: PhantomData<&'a mut [f32]>,
}

// SAFETY: memory is reached only through `row`, whose callers promise not to share rows.
unsafe impl Sync for Sink<'_> {}

impl<'a> Sink<'a> {
    pub(super) fn new(values: &'a mut [f32], lengths: [usize; 4]) -> Self {
        assert_eq!(values.len(), lengths.iter().product::<usize>());
        Self {
            values: values.as_mut_ptr(),
            lengths,
            owner: PhantomData,
        }
    }

    /// A row to be written.
    ///
    /// # Safety
    /// No other row of this place is alive.
    #[allow(clippy::mut_from_ref)]
    pub(super) unsafe fn row(&self, batch: usize, head: usize, time: usize) -> &'a mut [f32] {
        let [batches, times, heads, width] = self.lengths;
        assert!(batch < batches && time < times && head < heads);
        let at = ((batch * times + time) * heads + head) * width;
        // SAFETY: the row lies inside the slice given, and nothing else refers to it.
        unsafe { std::slice::from_raw_parts_mut(self.values.add(at), width) }
    }
}
