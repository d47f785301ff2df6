//! Task vectors, masked, weighted and summed, with or without an elected sign: task arithmetic, TIES, DARE, DELLA,
//! breadcrumbs.
//!
//! ```text
//! τ_m = r_m mask(W_m - W_base)        s = sign(Σ w_m τ_m), 0 counts as +
//! W = W_base + λ Σ w_m τ_m [sign agrees] / (normalize: Σ w_m [sign agrees])
//! ```
//!
//! `r` is 1, or with `rescale` what gives the masked difference its L1 norm back (mergekit's rule; the papers divide by the
//! probability, which has the same expectation).

use super::{Blend, Block, Job, Mask, Source, parameter_within};
use crate::delta::magprune::{check_window, keep_probabilities};
use crate::delta::select::{Border, End, HIGH_BUCKETS, LOW_BUCKETS, bucket, count_high, count_low};
use crate::delta::sums::l1;
use modelsmith_core::Result;
use modelsmith_core::random::Counter;

/// Norms below this are not rescaled.
const EPSILON: f64 = 1e-7;

pub(super) struct Consensus {
    base: usize,
    tasks: Vec<Task>,
    columns: usize,
    elect: bool,
    normalize: bool,
    lambda: f32,
}

/// One model's difference from the base: what is kept of it and what it counts.
struct Task {
    input: usize,
    weight: f32,
    rescale: f32,
    keep: Keep,
}

/// Which entries of a difference are kept.
enum Keep {
    All,
    None,
    Random {
        words: Counter,
        bound: u64,
    },
    MagPrune {
        words: Counter,
        density: f64,
        epsilon: f64,
    },
    /// What none of the cuts takes away, applied in order.
    Cut(Vec<Cut>),
}

/// A border, with the number of its ties before each part, and which of its sides goes.
struct Cut {
    border: Border,
    before: Vec<u64>,
    drop_far: bool,
}

pub(super) fn plan<S: Source>(
    mask: Mask,
    elect: bool,
    job: &Job<'_>,
    source: &S,
) -> Result<Consensus> {
    let mut plan = Consensus {
        base: job.base.unwrap_or(0),
        tasks: Vec::new(),
        columns: job.place.matrix().1.max(1),
        elect,
        normalize: job.flag("normalize"),
        lambda: job.common("lambda") as f32,
    };
    for input in job.tasks() {
        plan.tasks.push(Task {
            input,
            weight: job.of(input, "weight") as f32,
            rescale: 1.0,
            keep: keep(mask, job, input)?,
        });
    }
    if matches!(mask, Mask::Magnitude | Mask::Outliers) {
        find_borders(&mut plan, mask, job, source)?;
    }
    if job.flag("rescale")
        && plan
            .tasks
            .iter()
            .any(|task| !matches!(task.keep, Keep::All))
    {
        find_rescale(&mut plan, source)?;
    }
    Ok(plan)
}

fn keep(mask: Mask, job: &Job<'_>, input: usize) -> Result<Keep> {
    if mask == Mask::None {
        return Ok(Keep::All);
    }
    let density = job.of(input, "density");
    parameter_within(job, "density", density, 0.0, f64::MAX)?;
    if density >= 1.0 {
        return Ok(Keep::All);
    }
    if density <= 0.0 {
        return Ok(Keep::None);
    }
    // The place of the model in the configuration tells its mask from those of the others.
    let words = || Counter::new(job.place.seed, &format!("{}\n{input}", job.place.name));
    Ok(match mask {
        Mask::Random => Keep::Random {
            words: words(),
            bound: Counter::bound(density),
        },
        Mask::MagPrune => {
            let epsilon = job.of(input, "epsilon");
            check_window("parameters.epsilon", density, epsilon)?;
            Keep::MagPrune {
                words: words(),
                density,
                epsilon,
            }
        }
        _ => Keep::Cut(Vec::new()),
    })
}

/// A border that is looked for: of which task, around how many entries, from which end, and which side goes.
struct Wanted {
    task: usize,
    entries: u64,
    from: End,
    drop_far: bool,
}

/// Exactly `floor(density n)` entries are kept: the largest, or for breadcrumbs those below the largest `gamma n`.
fn wanted(plan: &Consensus, mask: Mask, job: &Job<'_>, length: usize) -> Vec<Wanted> {
    let mut all = Vec::new();
    let partial = |(_, task): &(usize, &Task)| matches!(task.keep, Keep::Cut(_));
    for (task, Task { input, .. }) in plan.tasks.iter().enumerate().filter(partial) {
        let kept = (job.of(*input, "density") * length as f64) as usize;
        let mut want = |entries: usize, from, drop_far| {
            let entries = entries as u64;
            all.push(Wanted {
                task,
                entries,
                from,
                drop_far,
            });
        };
        if mask == Mask::Magnitude {
            want(kept, End::Largest, false);
        } else {
            let top = (job.of(*input, "gamma") * length as f64) as usize;
            // Where both do not fit, fewer of the largest are dropped.
            let top = top.min(length - kept);
            // The upper border first: of equal magnitudes the last go there, the first below.
            want(length - top, End::Smallest, false);
            want(length - kept - top, End::Smallest, true);
        }
    }
    all
}

fn find_borders<S: Source>(
    plan: &mut Consensus,
    mask: Mask,
    job: &Job<'_>,
    source: &S,
) -> Result<()> {
    let wanted = wanted(plan, mask, job, source.length());
    if wanted.is_empty() {
        return Ok(());
    }
    let base = plan.base;
    let inputs: Vec<usize> = plan.tasks.iter().map(|task| task.input).collect();
    let high = source.tally(inputs.len() * HIGH_BUCKETS, |block, counts| {
        block.subtract(base);
        for (input, counts) in inputs.iter().zip(counts.chunks_mut(HIGH_BUCKETS)) {
            count_high(&block.inputs[*input], counts);
        }
    })?;
    let buckets: Vec<(u32, u64)> = wanted
        .iter()
        .map(|one| {
            bucket(
                &high[one.task * HIGH_BUCKETS..][..HIGH_BUCKETS],
                one.entries,
                one.from,
            )
        })
        .collect();
    let low = source.tally(wanted.len() * LOW_BUCKETS, |block, counts| {
        block.subtract(base);
        let parts = wanted
            .iter()
            .zip(&buckets)
            .zip(counts.chunks_mut(LOW_BUCKETS));
        for ((one, (high, _)), counts) in parts {
            count_low(&block.inputs[inputs[one.task]], *high, counts);
        }
    })?;
    let borders: Vec<Border> = wanted
        .iter()
        .zip(&buckets)
        .enumerate()
        .map(|(number, (one, (high, left)))| {
            let (low, ties) = bucket(&low[number * LOW_BUCKETS..][..LOW_BUCKETS], *left, one.from);
            Border::new(*high, low, ties, one.from)
        })
        .collect();
    let ties = source.sweep(|block| {
        block.subtract(base);
        let count =
            |(one, border): (&Wanted, &Border)| border.count_ties(&block.inputs[inputs[one.task]]);
        wanted.iter().zip(&borders).map(count).collect::<Vec<u64>>()
    })?;
    for (number, (one, border)) in wanted.iter().zip(borders).enumerate() {
        let before = running(ties.iter().map(|counts| counts[number]));
        let keep = &mut plan.tasks[one.task].keep;
        match keep {
            _ if one.entries == 0 && !one.drop_far => *keep = Keep::None,
            Keep::Cut(cuts) if one.entries > 0 => {
                let drop_far = one.drop_far;
                cuts.push(Cut {
                    border,
                    before,
                    drop_far,
                });
            }
            _ => {}
        }
    }
    Ok(())
}

/// Sums of all counts before each.
fn running(counts: impl Iterator<Item = u64>) -> Vec<u64> {
    let mut sum = 0;
    counts
        .map(|count| {
            let before = sum;
            sum += count;
            before
        })
        .collect()
}

/// L1 norm before over after, of every masked difference.
fn find_rescale<S: Source>(plan: &mut Consensus, source: &S) -> Result<()> {
    let parts = source.sweep(|block| {
        block.subtract(plan.base);
        let (start, number) = (block.start, block.number);
        let norms = |task: &Task| {
            let delta = &mut block.inputs[task.input];
            let before = l1(delta);
            task.mask(delta, start, number, plan.columns);
            (before, l1(delta))
        };
        plan.tasks.iter().map(norms).collect::<Vec<(f64, f64)>>()
    })?;
    for (number, task) in plan.tasks.iter_mut().enumerate() {
        let before: f64 = parts.iter().map(|part| part[number].0).sum();
        let after: f64 = parts.iter().map(|part| part[number].1).sum();
        let usable = before >= EPSILON && after >= EPSILON && !matches!(task.keep, Keep::All);
        task.rescale = if usable { (before / after) as f32 } else { 1.0 };
    }
    Ok(())
}

impl Task {
    /// Sets what is not kept of a part to zero.
    fn mask(&self, delta: &mut [f32], start: usize, number: usize, columns: usize) {
        match &self.keep {
            Keep::All => {}
            Keep::None => delta.fill(0.0),
            Keep::Random { words, bound } => crate::wide!({
                for (index, value) in (start as u64..).zip(delta.iter_mut()) {
                    let kept = u64::from(words.word(index)) < *bound;
                    *value = if kept { *value } else { 0.0 };
                }
            }),
            Keep::MagPrune {
                words,
                density,
                epsilon,
            } => {
                let mut index = start as u64;
                for row in delta.chunks_mut(columns) {
                    let probabilities = keep_probabilities(row, *density, *epsilon);
                    for (value, q) in row.iter_mut().zip(probabilities) {
                        *value = if words.unit(index) < q { *value } else { 0.0 };
                        index += 1;
                    }
                }
            }
            Keep::Cut(cuts) => {
                for cut in cuts {
                    let before = cut.before.get(number).copied().unwrap_or(0);
                    cut.border.zero(delta, before, cut.drop_far);
                }
            }
        }
    }
}

impl Blend for Consensus {
    fn blend(&self, block: &mut Block<'_>, out: &mut [f32]) {
        block.subtract(self.base);
        let mut deltas = Vec::with_capacity(self.tasks.len());
        for task in &self.tasks {
            let mut delta = std::mem::take(&mut block.inputs[task.input]);
            task.mask(&mut delta, block.start, block.number, self.columns);
            deltas.push((task.weight, task.rescale, delta));
        }
        let base = &block.inputs[self.base];
        crate::wide!(self.sum(base, &mut deltas, out));
        for (task, (_, _, delta)) in self.tasks.iter().zip(deltas) {
            block.inputs[task.input] = delta;
        }
    }
}

impl Consensus {
    #[inline(always)]
    fn sum(&self, base: &[f32], deltas: &mut [(f32, f32, Vec<f32>)], out: &mut [f32]) {
        let mut total = vec![0.0_f32; out.len()];
        for (weight, rescale, delta) in deltas.iter_mut() {
            let factor = *weight * *rescale;
            for (total, value) in total.iter_mut().zip(delta.iter_mut()) {
                *value *= factor;
                *total += *value;
            }
        }
        let mut divisor = vec![0.0_f32; out.len()];
        if self.elect {
            self.agree(&mut total, &mut divisor, deltas);
        } else {
            let weights: f32 = deltas.iter().map(|(weight, _, _)| weight).sum();
            divisor.fill(if weights.abs() < 1e-8 { 1.0 } else { weights });
        }
        for ((out, base), (total, divisor)) in
            out.iter_mut().zip(base).zip(total.iter().zip(&divisor))
        {
            let mixed = if self.normalize {
                total / divisor
            } else {
                *total
            };
            *out = base + self.lambda * mixed;
        }
    }

    /// Replaces the sums by those of the entries that have the sign of the sum, and counts their weights.
    #[inline(always)]
    fn agree(&self, total: &mut [f32], divisor: &mut [f32], deltas: &[(f32, f32, Vec<f32>)]) {
        let positive: Vec<bool> = total.iter().map(|total| *total >= 0.0).collect();
        total.fill(0.0);
        for (weight, _, delta) in deltas {
            let sums = total.iter_mut().zip(divisor.iter_mut());
            for ((total, divisor), (value, positive)) in sums.zip(delta.iter().zip(&positive)) {
                let agrees = (*value != 0.0) & ((*value > 0.0) == *positive);
                *total += if agrees { *value } else { 0.0 };
                *divisor += if agrees { *weight } else { 0.0 };
            }
        }
        for divisor in divisor {
            *divisor = if *divisor == 0.0 { 1.0 } else { *divisor };
        }
    }
}
