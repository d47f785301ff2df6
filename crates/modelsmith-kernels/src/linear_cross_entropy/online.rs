//! The loss of a frozen head without its logits ever being in memory together.
//!
//! `softmax(h Wᵀ) W` is an attention whose keys and values are the rows of `W`. So the gradient by
//! the hidden states is found as attention is (Dao, arXiv 2307.08691): a block of classes at a time,
//! with a running maximum `m`, a running sum `s` and a running result, scaled when the maximum grows:
//!
//! ```text
//! m' = max(m, max logits)   c = e^(m - m')   s' = c s + sum e^(logits - m')   r' = c r + e^(logits - m') W
//! loss = ln s + m - logit of the target      dh = r / s - W[target]
//! ```
//! A block of logits, `[classes, rows]` so that a vector holds as many rows, stays in the second
//! cache. Blocks of classes are cut alike for every row, so that the blocks of rows, which follow the
//! number of threads, change no bit.

#![allow(unsafe_code)]

use crate::laid_out::{Multiply, Unit, Vectors};
use crate::math;
use crate::matrix::{Matrix, Values, of_any_kind};
use crate::memory::{Finish, LANES, Scratch, Source, Target, Value};
use crate::rows;
use crate::{matrix_unit, tiles};
use rayon::prelude::*;
use std::cell::RefCell;
use std::marker::PhantomData;

/// Classes of a block.
const CLASSES: usize = 128;

/// Most rows of a block, and most values of its hidden states.
const ROWS: usize = 256;
const VALUES: usize = 1 << 18;

thread_local! {
    static SCRATCH: RefCell<Scratch> = const { RefCell::new(Scratch::new()) };
}

/// Whether this form runs here.
pub(super) fn available() -> bool {
    tiles::available()
}

/// The loss of every row, and their gradients by the hidden states if wanted, for `hidden`
/// `[rows, width]` in order and the rows of the head, one a class. A head in `bf16` makes the products
/// ones of `bf16` where the processor has them.
pub(super) fn losses(
    hidden: Matrix<'_>,
    head: Values<'_>,
    targets: &[usize],
    wanted: bool,
) -> (Vec<f32>, Vec<f32>) {
    match (head, matrix_unit::available()) {
        (Values::Single(head), true) => by::<Unit<3>, _>(hidden, head, targets, wanted),
        (Values::Half(head), true) => by::<Unit<1>, _>(hidden, head, targets, wanted),
        (Values::Single(head), false) => by::<Vectors, _>(hidden, head, targets, wanted),
        (Values::Half(head), false) => by::<Vectors, _>(hidden, head, targets, wanted),
    }
}

fn by<M: Multiply, T: Value>(
    hidden: Matrix<'_>,
    head: &[T],
    targets: &[usize],
    wanted: bool,
) -> (Vec<f32>, Vec<f32>) {
    let [count, width] = hidden.shape();
    let mut losses = vec![0.0; count];
    let mut gradients = vec![0.0; if wanted { count * width } else { 0 }];
    let fair = count.div_ceil(rayon::current_num_threads());
    let most = (VALUES / width.max(1)).clamp(LANES, ROWS);
    let height = fair
        .next_multiple_of(LANES)
        .clamp(LANES, most / LANES * LANES);
    let mut parts: Vec<&mut [f32]> = match wanted && width > 0 {
        true => gradients.chunks_mut(height * width).collect(),
        false => losses.chunks(height).map(|_| &mut [][..]).collect(),
    };
    let parts = losses.par_chunks_mut(height).zip(parts.par_iter_mut());
    parts
        .with_max_len(1)
        .enumerate()
        .for_each(|(at, (losses, gradients))| {
            let (start, end) = (at * height, at * height + losses.len());
            SCRATCH.with_borrow_mut(|scratch| {
                let hidden = hidden.rows(start, end);
                let block = Block::<M, T>::new(hidden, head, &targets[start..end], scratch);
                block.run(losses, gradients);
            });
        });
    (losses, gradients)
}

/// Some rows, and the scratch memory of their work.
struct Block<'a, M, T> {
    head: &'a [T],
    targets: &'a [usize],
    width: usize,
    /// Distance of the rows of the logits: not a multiple of a page, which one cache set would hold.
    step: usize,
    hidden: &'a mut [f32],
    logits: &'a mut [f32],
    /// Room for rows of the weight as a right-hand side.
    right: &'a mut [f32],
    state: State<'a>,
    by: PhantomData<M>,
}

/// Running values of each row.
struct State<'a> {
    top: &'a mut [f32],
    sum: &'a mut [f32],
    scale: &'a mut [f32],
}

impl<'a, M: Multiply, T: Value> Block<'a, M, T> {
    /// Lays the hidden states out as the right-hand side of all products with the weight.
    fn new(
        hidden: Matrix<'_>,
        head: &'a [T],
        targets: &'a [usize],
        scratch: &'a mut Scratch,
    ) -> Self {
        let width = hidden.shape()[1];
        let lanes = targets.len().next_multiple_of(LANES);
        let step = lanes + LANES;
        let (by_width, by_classes) = (M::room(width, lanes), M::room(CLASSES, width));
        let room = scratch.room(by_width + by_classes + CLASSES * step + 3 * lanes);
        let (laid, room) = room.split_at_mut(by_width);
        let (right, room) = room.split_at_mut(by_classes);
        let (logits, room) = room.split_at_mut(CLASSES * step);
        let (top, room) = room.split_at_mut(lanes);
        let (sum, room) = room.split_at_mut(lanes);
        let scale = &mut room[..lanes];
        top.fill(f32::NEG_INFINITY);
        sum.fill(0.0);
        // SAFETY: the processor was asked, and `laid` has the room that it takes.
        of_any_kind!(hidden.in_order().expect("rows in order"), values => unsafe {
            let turned = Source { at: values.as_ptr(), row: 1, column: width };
            M::lay_out(width, targets.len(), turned, laid.as_mut_ptr());
        });
        Self {
            head,
            targets,
            width,
            step,
            hidden: laid,
            logits,
            right,
            state: State { top, sum, scale },
            by: PhantomData,
        }
    }

    fn run(mut self, losses: &mut [f32], gradients: &mut [f32]) {
        let classes = self.head.len() / self.width.max(1);
        losses.fill(0.0);
        for start in (0..classes).step_by(CLASSES) {
            let count = (classes - start).min(CLASSES);
            self.project(start, count);
            for (row, target) in self.targets.iter().enumerate() {
                if (start..start + count).contains(target) {
                    losses[row] = self.logits[(target - start) * self.step + row];
                }
            }
            let (logits, state, step) = (&mut *self.logits, &mut self.state, self.step);
            rows::vectorised(
                #[inline(always)]
                || state.take(&mut logits[..count * step], step),
            );
            if !gradients.is_empty() {
                self.mix(start, count, gradients);
            }
        }
        for (row, loss) in losses.iter_mut().enumerate() {
            *loss = self.state.sum[row].ln() + (self.state.top[row] - *loss);
        }
        if !gradients.is_empty() {
            self.finish(gradients);
        }
    }

    /// The logits of some classes: `[classes, rows]`.
    fn project(&mut self, start: usize, count: usize) {
        let size = [count, self.targets.len(), self.width];
        let out = Target {
            at: self.logits.as_mut_ptr(),
            row: self.step,
        };
        let finish = Finish {
            factor: 1.0,
            add: false,
        };
        let weight = self.rows(start);
        // SAFETY: the processor was asked; the sizes are those of the weight's rows, of what was
        // laid out, and of the room for the logits.
        unsafe { M::multiply(size, weight, self.hidden.as_ptr(), out, finish) };
    }

    /// The rows of the head from one on.
    fn rows(&self, start: usize) -> Source<T> {
        Source {
            at: self.head[start * self.width..].as_ptr(),
            row: self.width,
            column: 1,
        }
    }

    /// Scales what there is of the result and adds what these classes bring.
    fn mix(&mut self, start: usize, count: usize, result: &mut [f32]) {
        for (row, scale) in result.chunks_exact_mut(self.width).zip(&*self.state.scale) {
            if *scale != 1.0 {
                row.iter_mut().for_each(|value| *value *= scale);
            }
        }
        let size = [self.targets.len(), self.width, count];
        let weight = self.rows(start);
        let left = Source {
            at: self.logits.as_ptr(),
            row: 1,
            column: self.step,
        };
        let out = Target {
            at: result.as_mut_ptr(),
            row: self.width,
        };
        let finish = Finish {
            factor: 1.0,
            add: true,
        };
        // SAFETY: as for the logits; `right` has room for the rows of a block of classes.
        unsafe {
            M::lay_out(count, self.width, weight, self.right.as_mut_ptr());
            M::multiply(size, left, self.right.as_ptr(), out, finish);
        }
    }

    fn finish(&self, gradients: &mut [f32]) {
        let rows = gradients.chunks_exact_mut(self.width);
        for ((row, target), sum) in rows.zip(self.targets).zip(&*self.state.sum) {
            let weight = &self.head[*target * self.width..][..self.width];
            let scale = 1.0 / sum;
            for (value, weight) in row.iter_mut().zip(weight) {
                *value = *value * scale - weight.single();
            }
        }
    }
}

impl State<'_> {
    /// Takes logits `[classes, rows]` in, and leaves their exponentials below the new maximum.
    #[inline(always)]
    fn take(&mut self, logits: &mut [f32], step: usize) {
        let lanes = self.top.len();
        let Self { top, sum, scale } = self;
        scale.copy_from_slice(top);
        for row in logits.chunks_exact(step) {
            for (top, logit) in top.iter_mut().zip(row) {
                *top = if *logit > *top { *logit } else { *top };
            }
        }
        for at in 0..lanes {
            scale[at] = math::exp(scale[at] - top[at]);
            sum[at] *= scale[at];
        }
        for row in logits.chunks_exact_mut(step) {
            for ((logit, top), sum) in row.iter_mut().zip(&**top).zip(&mut **sum) {
                *logit = math::exp(*logit - top);
                *sum += *logit;
            }
        }
    }
}
