//! Planned tensors computed and written at the same time: one thread computes ahead, the other writes.

use super::config::MergeConfig;
use super::plan::Planned;
use super::source::{Input, Stack};
use super::work_folder::WorkFolder;
use modelsmith_core::error::{Error, Result};
use modelsmith_core::files::{Checkpoint, DType, TensorSpec, metadata_pt, write_in_parts};
use modelsmith_methods::delta::merge::{Blend, Source as _};
use rayon::prelude::*;
use std::collections::BTreeMap;
use std::ops::Range;
use std::sync::mpsc::{Receiver, SyncSender, sync_channel};

/// Spans that may wait to be written.
const WAITING: usize = 2;

/// What a merge computes from.
pub(crate) struct Work<'a> {
    pub(crate) config: &'a MergeConfig,
    pub(crate) models: &'a [Checkpoint],
    pub(crate) tensors: &'a BTreeMap<String, Planned>,
    pub(crate) seed: u64,
    /// Entries that are computed at once.
    pub(crate) span: usize,
}

/// What came of a tensor.
#[derive(Clone, Copy, Debug, Default)]
pub(crate) struct Effect {
    /// Entries.
    pub(crate) entries: u64,
    /// Entries that differ from the reference's as written.
    pub(crate) changed: u64,
    /// Sum of squares of the difference from the reference.
    pub(crate) change: f64,
    /// Sum of squares of the reference.
    pub(crate) size: f64,
}

impl Effect {
    fn add(&mut self, other: Self) {
        self.entries += other.entries;
        self.changed += other.changed;
        self.change += other.change;
        self.size += other.size;
    }
}

/// What goes from the computing thread to the writing one.
enum Part {
    Bytes(Vec<u8>),
    Done(String, Effect),
}

/// Writes the shards, each noted as soon as it is whole; what came of every tensor.
pub(crate) fn write(
    work: &Work<'_>,
    shards: &[(String, Vec<TensorSpec>)],
    folder: &mut WorkFolder,
) -> Result<BTreeMap<String, Effect>> {
    let (send, receive) = sync_channel(WAITING);
    let order: Vec<&TensorSpec> = shards.iter().flat_map(|(_, specs)| specs).collect();
    std::thread::scope(|scope| {
        scope.spawn(|| compute(work, &order, send));
        let mut effects = BTreeMap::new();
        for (name, specs) in shards {
            let hash = write_shard(folder, name, specs, &receive, &mut effects)?;
            folder.finish(name, hash)?;
        }
        // The receiver goes with this closure, which stops the computing thread wherever it is.
        drop(receive);
        Ok(effects)
    })
}

fn write_shard(
    folder: &WorkFolder,
    name: &str,
    specs: &[TensorSpec],
    receive: &Receiver<Result<Part>>,
    effects: &mut BTreeMap<String, Effect>,
) -> Result<String> {
    let mut hasher = blake3::Hasher::new();
    let gone = || Error::Failed("the computing thread ended early".into());
    let path = folder.path().join(name);
    write_in_parts(
        path,
        folder.durability(),
        specs,
        &metadata_pt(),
        &mut |_, put| {
            loop {
                match receive.recv().map_err(|_| gone())?? {
                    Part::Bytes(bytes) => {
                        hasher.update(&bytes);
                        put(&bytes)?;
                    }
                    Part::Done(tensor, effect) => {
                        effects.insert(tensor, effect);
                        return Ok(());
                    }
                }
            }
        },
    )?;
    Ok(hasher.finalize().to_hex().to_string())
}

/// Computes all tensors in the order in which they are written; ends at the first error or when nobody listens.
fn compute(work: &Work<'_>, order: &[&TensorSpec], send: SyncSender<Result<Part>>) {
    for (number, spec) in order.iter().enumerate() {
        let planned = &work.tensors[&spec.name];
        if let Some(next) = order.get(number + 1) {
            work.prefetch(&work.tensors[&next.name]);
        }
        let computed = work.tensor(planned, &mut |bytes| {
            send.send(Ok(Part::Bytes(bytes))).is_ok()
        });
        let part = match computed {
            Ok(Some(effect)) => Ok(Part::Done(spec.name.clone(), effect)),
            Ok(None) => return,
            Err(error) => Err(error),
        };
        let failed = part.is_err();
        if send.send(part).is_err() || failed {
            return;
        }
    }
}

impl<'a> Work<'a> {
    fn inputs(&self, planned: &Planned) -> Result<Vec<Input<'a>>> {
        let one = |(model, name): &(usize, String)| Input::new(&self.models[*model], name);
        planned.inputs.iter().map(one).collect()
    }

    fn prefetch(&self, planned: &Planned) {
        // A tensor that cannot be read is told when its turn comes.
        for input in self.inputs(planned).into_iter().flatten() {
            input.prefetch(self.span);
        }
    }

    /// Computes a tensor span by span; `None` when nobody listens any more.
    fn tensor(
        &self,
        planned: &Planned,
        put: &mut dyn FnMut(Vec<u8>) -> bool,
    ) -> Result<Option<Effect>> {
        if planned.copied {
            let (model, name) = &planned.inputs[0];
            let bytes = self.models[*model].bytes(name)?.to_vec();
            let entries = (bytes.len() / planned.spec.dtype.size()) as u64;
            let effect = Effect {
                entries,
                ..Effect::default()
            };
            return Ok(put(bytes).then_some(effect));
        }
        let job = planned.job(self.config, self.models, self.seed)?;
        let method = self.config.method;
        let stack = Stack::new(
            self.inputs(planned)?,
            method.alignment(&job.place),
            self.span,
        );
        let blend = method.plan(&job, &stack)?;
        let reference = job.base.unwrap_or(0);
        let mut all = Effect::default();
        for span in stack.spans() {
            let (bytes, effect) = blend_span(&stack, &*blend, &planned.spec, &span, reference)?;
            stack.release(&span);
            all.add(effect);
            if !put(bytes) {
                return Ok(None);
            }
        }
        if stack.length() == 0 && !put(Vec::new()) {
            return Ok(None);
        }
        Ok(Some(all))
    }
}

/// The bytes of one span.
fn blend_span(
    stack: &Stack<'_>,
    blend: &dyn Blend,
    spec: &TensorSpec,
    span: &Range<usize>,
    reference: usize,
) -> Result<(Vec<u8>, Effect)> {
    let dtype = spec.dtype;
    let mut bytes = vec![0; span.len() * dtype.size()];
    let parts = bytes
        .par_chunks_mut(stack.part() * dtype.size())
        .enumerate();
    let one = |scratch: &mut (Vec<Vec<f32>>, Vec<f32>), (number, bytes): (usize, &mut [u8])| {
        let start = span.start + number * stack.part();
        let (inputs, out) = scratch;
        stack.visit(start, inputs, |block| {
            stack.check_finite(block)?;
            out.resize(block.inputs[0].len(), 0.0);
            blend.blend(block, out);
            let encoded = modelsmith_methods::wide!(dtype.encode_into(out, bytes));
            encoded
                .map_err(|problem| Error::Numeric(format!("tensor {}: {problem}", spec.name)))?;
            let entries = start..start + out.len();
            let input = &stack.inputs()[reference];
            Ok(effect(
                input.stored(entries),
                input.dtype(),
                bytes,
                dtype,
                out,
            ))
        })
    };
    let effects: Vec<Result<Effect>> = parts.map_init(Default::default, one).collect();
    let mut all = Effect::default();
    for effect in effects {
        all.add(effect?);
    }
    Ok((bytes, all))
}

/// How written values differ from the reference's.
fn effect(before: &[u8], stored: DType, after: &[u8], written: DType, values: &[f32]) -> Effect {
    let mut reference = vec![0.0; values.len()];
    let entries = values.len() as u64;
    modelsmith_methods::wide!({
        // The reference was decoded once already; its type and length are right.
        let decoded = stored.decode_into(before, &mut reference);
        debug_assert!(decoded.is_ok());
        let changed = match (stored == written, written.size()) {
            (true, 2) => differing::<2>(before, after),
            (true, _) => differing::<4>(before, after),
            (false, _) => values
                .iter()
                .zip(&reference)
                .map(|(a, b)| u32::from(a != b))
                .sum(),
        };
        let (mut change, mut size) = ([0.0_f32; 16], [0.0_f32; 16]);
        let mut add = |lane: usize, a: f32, b: f32| {
            change[lane] += (a - b) * (a - b);
            size[lane] += b * b;
        };
        let (values, rest) = values.as_chunks::<16>();
        let (reference, before) = reference.as_chunks::<16>();
        for (a, b) in values.iter().zip(reference) {
            (0..16).for_each(|lane| add(lane, a[lane], b[lane]));
        }
        for (lane, (a, b)) in rest.iter().zip(before).enumerate() {
            add(lane, *a, *b);
        }
        let sum = |lanes: [f32; 16]| lanes.into_iter().map(f64::from).sum();
        Effect {
            entries,
            changed: u64::from(changed),
            change: sum(change),
            size: sum(size),
        }
    })
}

#[inline(always)]
fn differing<const N: usize>(before: &[u8], after: &[u8]) -> u32 {
    let pairs = before
        .as_chunks::<N>()
        .0
        .iter()
        .zip(after.as_chunks::<N>().0);
    pairs.map(|(a, b)| u32::from(a != b)).sum()
}
