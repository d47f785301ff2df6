//! A tensor of several mapped checkpoints, read part by part on all cores in bounded memory.
//!
//! Work goes in spans of many parts: the parts of a span are computed in parallel, then its pages are given back. Parts are
//! equally long whatever the memory limit and the number of threads, so sums over parts come out the same.

use modelsmith_core::error::{Error, Result};
use modelsmith_core::files::{Checkpoint, DType, Reader};
use modelsmith_methods::delta::merge::{Block, Source};
use modelsmith_methods::delta::select::size;
use rayon::prelude::*;
use std::ops::Range;
use std::sync::Mutex;

/// Entries of a part: what a core's cache holds of several models.
pub(crate) const PART: usize = 1 << 14;
/// Bits of an infinite magnitude; NaNs are above.
const INFINITE: u32 = 0x7f80_0000;

/// One model's tensor.
pub(crate) struct Input<'a> {
    reader: &'a Reader,
    name: String,
    dtype: DType,
    bytes: &'a [u8],
}

impl<'a> Input<'a> {
    /// Finds a tensor of `f32`, `f16` or `bf16`.
    ///
    /// # Errors
    /// An unknown name, another type, a file that changed.
    pub(crate) fn new(checkpoint: &'a Checkpoint, name: &str) -> Result<Self> {
        let reader = checkpoint.shard_of(name)?;
        let dtype = reader.info(name)?.dtype;
        if !dtype.is_readable_as_f32() {
            let problem = format!(
                "tensor {name} is {}; expected F32, F16 or BF16",
                dtype.name()
            );
            return Err(Error::file(reader.path(), problem));
        }
        Ok(Self {
            reader,
            name: name.to_owned(),
            dtype,
            bytes: reader.bytes(name)?,
        })
    }

    /// Entries of the tensor.
    pub(crate) fn length(&self) -> usize {
        self.bytes.len() / self.dtype.size()
    }

    /// The type of its entries.
    pub(crate) fn dtype(&self) -> DType {
        self.dtype
    }

    /// The stored bytes of some entries.
    pub(crate) fn stored(&self, entries: Range<usize>) -> &'a [u8] {
        &self.bytes[self.place(&entries)]
    }

    fn place(&self, entries: &Range<usize>) -> Range<usize> {
        entries.start * self.dtype.size()..entries.end * self.dtype.size()
    }

    /// Asks for the first entries to be read soon.
    pub(crate) fn prefetch(&self, entries: usize) {
        self.reader
            .prefetch(&self.name, 0..entries * self.dtype.size());
    }

    /// Gives the pages of some entries back.
    pub(crate) fn release(&self, entries: &Range<usize>) {
        self.reader.release(&self.name, self.place(entries));
    }

    fn decode(&self, entries: &Range<usize>, values: &mut Vec<f32>) {
        values.resize(entries.len(), 0.0);
        let bytes = self.stored(entries.clone());
        modelsmith_methods::wide!({
            // Length and type were checked when the tensor was found.
            let decoded = self.dtype.decode_into(bytes, values);
            debug_assert!(decoded.is_ok());
        });
    }

    /// Refuses entries that are not finite.
    fn check_finite(&self, first: usize, values: &[f32]) -> Result<()> {
        let worst = modelsmith_methods::wide!({
            values
                .iter()
                .fold(0, |worst, value| size(*value).max(worst))
        });
        if worst < INFINITE {
            return Ok(());
        }
        let index = values
            .iter()
            .position(|value| !value.is_finite())
            .unwrap_or(0);
        Err(Error::Numeric(format!(
            "{}: tensor {} holds {} at entry {}; a merge with it would spread it, so repair or leave out this model",
            self.reader.path().display(),
            self.name,
            values.get(index).copied().unwrap_or(f32::NAN),
            first + index
        )))
    }
}

/// The same tensor of several models.
pub(crate) struct Stack<'a> {
    inputs: Vec<Input<'a>>,
    part: usize,
    span: usize,
}

impl<'a> Stack<'a> {
    /// Inputs of equal length; parts hold a multiple of `alignment` entries, spans about `span` entries.
    pub(crate) fn new(inputs: Vec<Input<'a>>, alignment: usize, span: usize) -> Self {
        let part = PART.next_multiple_of(alignment.max(1));
        let span = (span / part).max(1) * part;
        Self { inputs, part, span }
    }

    /// The inputs.
    pub(crate) fn inputs(&self) -> &[Input<'a>] {
        &self.inputs
    }

    /// Spans of the tensor, in order.
    pub(crate) fn spans(&self) -> impl Iterator<Item = Range<usize>> + use<> {
        let (length, span) = (self.length(), self.span);
        (0..length)
            .step_by(span)
            .map(move |start| start..(start + span).min(length))
    }

    /// Entries of a part.
    pub(crate) fn part(&self) -> usize {
        self.part
    }

    /// Visits the part that begins at an entry, with its values.
    pub(crate) fn visit<T>(
        &self,
        start: usize,
        scratch: &mut Vec<Vec<f32>>,
        visit: impl FnOnce(&mut Block<'_>) -> T,
    ) -> T {
        let entries = start..(start + self.part).min(self.length());
        scratch.resize_with(self.inputs.len(), Vec::new);
        for (input, values) in self.inputs.iter().zip(scratch.iter_mut()) {
            input.decode(&entries, values);
        }
        visit(&mut Block {
            start,
            number: start / self.part,
            inputs: scratch,
        })
    }

    /// Refuses a part with values that are not finite.
    pub(crate) fn check_finite(&self, block: &Block<'_>) -> Result<()> {
        let mut pairs = self.inputs.iter().zip(block.inputs.iter());
        pairs.try_for_each(|(input, values)| input.check_finite(block.start, values))
    }

    /// Gives the pages of a span back.
    pub(crate) fn release(&self, span: &Range<usize>) {
        self.inputs.iter().for_each(|input| input.release(span));
    }
}

impl Source for Stack<'_> {
    fn length(&self) -> usize {
        self.inputs.first().map_or(0, Input::length)
    }

    fn sweep<T: Send>(&self, visit: impl Fn(&mut Block<'_>) -> T + Sync) -> Result<Vec<T>> {
        let mut all = Vec::with_capacity(self.length().div_ceil(self.part));
        for span in self.spans() {
            let parts = span.len().div_ceil(self.part);
            let one = |scratch: &mut Vec<Vec<f32>>, part: usize| {
                self.visit(span.start + part * self.part, scratch, &visit)
            };
            all.par_extend((0..parts).into_par_iter().map_init(Vec::new, one));
            self.release(&span);
        }
        Ok(all)
    }

    fn tally(
        &self,
        counters: usize,
        visit: impl Fn(&mut Block<'_>, &mut [u32]) + Sync,
    ) -> Result<Vec<u64>> {
        let threads = rayon::current_num_threads();
        let own: Vec<Mutex<Vec<u32>>> = (0..threads)
            .map(|_| Mutex::new(vec![0; counters]))
            .collect();
        for span in self.spans() {
            let parts = span.len().div_ceil(self.part);
            own.par_iter().enumerate().for_each(|(thread, counts)| {
                let mut counts = counts
                    .lock()
                    .unwrap_or_else(std::sync::PoisonError::into_inner);
                let mut scratch = Vec::new();
                for part in parts * thread / threads..parts * (thread + 1) / threads {
                    let start = span.start + part * self.part;
                    self.visit(start, &mut scratch, |block| visit(block, &mut counts));
                }
            });
            self.release(&span);
        }
        let mut sums = vec![0_u64; counters];
        for counts in own {
            let counts = counts
                .into_inner()
                .unwrap_or_else(std::sync::PoisonError::into_inner);
            for (sum, count) in sums.iter_mut().zip(counts) {
                *sum += u64::from(count);
            }
        }
        Ok(sums)
    }
}
