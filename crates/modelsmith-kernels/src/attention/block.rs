//! A block of queries against a block of keys: the scores that all passes need.
//!
//! Scores are kept transposed, a row of them for a key, so that queries fill the lanes of vectors:
//! maxima, sums and exponentials of softmax then run lane by lane.

use super::product::{Size, Strided, multiply};
use super::view::{Problem, View};
use pulp::Simd;
use std::ops::Range;

/// Queries of a block, and the greatest number of keys of one.
pub(super) const QUERIES: usize = 64;
pub(super) const KEYS: usize = 64;

/// Lanes that are treated alike: queries of a block come in such groups, and rows of buffers are
/// padded to them.
pub(super) const LANES: usize = 16;

/// Values of a group of lanes.
pub(super) type Lanes = [f32; LANES];

/// The group of lanes of a row that starts at a lane.
#[inline(always)]
pub(super) fn group(row: &[f32], lane: usize) -> &Lanes {
    row[lane..]
        .first_chunk()
        .expect("rows are whole groups of lanes")
}

/// The same to be written.
#[inline(always)]
pub(super) fn group_mut(row: &mut [f32], lane: usize) -> &mut Lanes {
    row[lane..]
        .first_chunk_mut()
        .expect("rows are whole groups of lanes")
}

pub(super) fn padded(width: usize) -> usize {
    width.next_multiple_of(LANES)
}

/// Some queries of the heads that share keys and values.
pub(super) struct Queries {
    pub(super) batch: usize,
    pub(super) kv_head: usize,
    /// Their numbers, counted head by head.
    pub(super) rows: Range<usize>,
    /// Their number with those that fill the last group.
    pub(super) lanes: usize,
    /// The keys that each sees, and all of a group together.
    sees: [Range<u32>; QUERIES],
    groups: [Range<u32>; QUERIES / LANES],
    /// The keys that all see; nothing where the end is not after the start.
    common: Range<usize>,
}

impl Queries {
    pub(super) fn new(problem: &Problem<'_>, batch: usize, kv_head: usize, first: usize) -> Self {
        let rows = first..(first + QUERIES).min(problem.rows());
        let lanes = padded(rows.len());
        let (time, mut at) = (problem.time(), first % problem.time());
        let sees: [Range<u32>; QUERIES] = std::array::from_fn(|lane| {
            let keys = problem.band.keys(at, time, problem.keys());
            if first + lane + 1 < rows.end {
                at = if at + 1 == time { 0 } else { at + 1 };
            }
            keys.start as u32..keys.end as u32
        });
        let start = sees.iter().map(|keys| keys.start).max().unwrap_or(0);
        let end = sees.iter().map(|keys| keys.end).min().unwrap_or(0);
        let groups = std::array::from_fn(|group| {
            let all = &sees[group * LANES..(group + 1) * LANES];
            let first = all.iter().map(|keys: &Range<u32>| keys.start).min();
            let last = all.iter().map(|keys| keys.end).max();
            first.unwrap_or(0)..last.unwrap_or(0)
        });
        Self {
            batch,
            kv_head,
            rows,
            lanes,
            sees,
            groups,
            common: start as usize..end as usize,
        }
    }

    /// The query head and the time of a row.
    #[inline(always)]
    pub(super) fn place(&self, problem: &Problem<'_>, row: usize) -> (usize, usize) {
        let time = problem.time();
        (self.kv_head * problem.group() + row / time, row % time)
    }

    fn groups(&self) -> &[Range<u32>] {
        &self.groups[..self.lanes / LANES]
    }

    /// All keys that any of the queries sees.
    pub(super) fn keys(&self) -> Range<usize> {
        let first = self.groups().iter().map(|keys| keys.start).min();
        let last = self.groups().iter().map(|keys| keys.end).max();
        first.unwrap_or(0) as usize..last.unwrap_or(0) as usize
    }

    /// Whether every query sees all of these keys.
    #[inline(always)]
    pub(super) fn see_all(&self, keys: &Range<usize>) -> bool {
        self.common.start <= keys.start && keys.end <= self.common.end
    }

    /// The groups of lanes, of which any sees any of these keys, as a range of lanes.
    #[inline(always)]
    fn lanes_that_see(&self, keys: &Range<usize>) -> Range<usize> {
        let sees =
            |seen: &Range<u32>| (seen.start as usize) < keys.end && keys.start < seen.end as usize;
        let first = self.groups().iter().position(sees);
        let last = self.groups().iter().rposition(sees);
        match (first, last) {
            (Some(first), Some(last)) => first * LANES..(last + 1) * LANES,
            _ => 0..0,
        }
    }

    /// Those of these keys that a group of lanes sees, counted from the first of these.
    #[inline(always)]
    pub(super) fn keys_of(&self, lane: usize, keys: &Range<usize>) -> Range<usize> {
        let seen = &self.groups[lane / LANES];
        let first = (seen.start as usize).clamp(keys.start, keys.end);
        let last = (seen.end as usize).clamp(first, keys.end);
        first - keys.start..last - keys.start
    }

    /// Calls `f` with strips of keys (from the first of these on) and the lanes that see them:
    /// together they cover every pair of a query and a key that it sees.
    #[inline(always)]
    pub(super) fn strips_of_keys(
        &self,
        keys: &Range<usize>,
        mut f: impl FnMut(Range<usize>, Range<usize>),
    ) {
        let step = if self.see_all(keys) { KEYS } else { LANES };
        for first in keys.clone().step_by(step) {
            let strip = first..(first + step).min(keys.end);
            let lanes = self.lanes_that_see(&strip);
            if !lanes.is_empty() {
                f(strip.start - keys.start..strip.end - keys.start, lanes);
            }
        }
    }

    /// The same by strips of lanes and the keys that they see.
    #[inline(always)]
    pub(super) fn strips_of_lanes(
        &self,
        keys: &Range<usize>,
        mut f: impl FnMut(Range<usize>, Range<usize>),
    ) {
        let step = if self.see_all(keys) { QUERIES } else { LANES };
        for first in (0..self.lanes).step_by(step) {
            let lanes = first..(first + step).min(self.lanes);
            let seen = match step {
                QUERIES => 0..keys.len(),
                _ => self.keys_of(first, keys),
            };
            if !seen.is_empty() {
                f(lanes, seen);
            }
        }
    }
}

/// Copies the rows of queries into a matrix of lanes, transposed and scaled; lanes without a query
/// become 0.
#[inline(always)]
pub(super) fn transposed<'a>(
    out: &mut [f32],
    lanes: usize,
    rows: usize,
    scale: f32,
    row: impl Fn(usize) -> &'a [f32],
) {
    let columns = out.len() / lanes;
    for first in (0..lanes).step_by(LANES) {
        for start in (0..columns).step_by(LANES) {
            // Tiles, so that what is read and what is written lies side by side.
            let mut tile = [[0.0; LANES]; LANES];
            for (lane, tile) in tile.iter_mut().take(rows - first).enumerate() {
                for (out, x) in tile.iter_mut().zip(&row(first + lane)[start..]) {
                    *out = x * scale;
                }
            }
            let outputs = out[start * lanes..].chunks_exact_mut(lanes);
            for (at, out) in (0..LANES).zip(outputs) {
                let out = group_mut(out, first);
                for lane in 0..LANES {
                    out[lane] = tile[lane][at];
                }
            }
        }
    }
}

/// Copies rows side by side, scaled, padded with zeros.
#[inline(always)]
pub(super) fn packed<'a>(
    out: &mut [f32],
    width: usize,
    scale: f32,
    rows: impl Iterator<Item = &'a [f32]>,
) {
    let mut outputs = out.chunks_exact_mut(width);
    for (row, out) in rows.zip(&mut outputs) {
        let (values, rest) = out.split_at_mut(row.len());
        for (out, x) in values.iter_mut().zip(row) {
            *out = x * scale;
        }
        rest.fill(0.0);
    }
    outputs.for_each(|out| out.fill(0.0));
}

/// The scores of the queries, packed in `q` by [`transposed`], by some keys: bias added, negative
/// infinity where the band hides a key.
#[inline(always)]
pub(super) fn scores<S: Simd>(
    simd: S,
    out: &mut [f32],
    problem: &Problem<'_>,
    queries: &Queries,
    q: &[f32],
    keys: &Range<usize>,
) {
    by_keys(simd, out, problem.k, queries, q, keys);
    if let Some(bias) = &problem.bias {
        add_bias(out, bias, problem, queries, keys);
    }
    if !queries.see_all(keys) {
        hide(out, queries, keys);
    }
}

/// Products of the rows of keys (or values) with packed queries (or gradients), where a query sees
/// a key; what is elsewhere is not defined.
#[inline(always)]
pub(super) fn by_keys<S: Simd>(
    simd: S,
    out: &mut [f32],
    rows: View<'_>,
    queries: &Queries,
    lanes_of: &[f32],
    keys: &Range<usize>,
) {
    let width = queries.lanes;
    queries.strips_of_keys(keys, |strip, lanes| {
        let rows = rows.matrix(queries.batch, queries.kv_head, keys.start + strip.start);
        let size = Size {
            rows: strip.len(),
            inner: lanes_of.len() / width,
            columns: lanes.len(),
        };
        let out = &mut out[strip.start * width + lanes.start..];
        multiply::<S, false>(
            simd,
            (out, width),
            rows,
            (&lanes_of[lanes.start..], width),
            size,
        );
    });
}

/// `out[query] += sum of p[key][query] rows[key]`, over the keys that a query sees.
#[inline(always)]
pub(super) fn sum_over_keys<S: Simd>(
    simd: S,
    out: (&mut [f32], usize),
    queries: &Queries,
    p: &[f32],
    rows: (&[f32], usize),
    keys: &Range<usize>,
    columns: usize,
) {
    queries.strips_of_lanes(keys, |lanes, seen| {
        let p = Strided {
            values: &p[seen.start * queries.lanes + lanes.start..],
            row: 1,
            column: queries.lanes,
        };
        let size = Size {
            rows: lanes.len(),
            inner: seen.len(),
            columns,
        };
        let rows = (&rows.0[seen.start * rows.1..], rows.1);
        let out = (&mut out.0[lanes.start * out.1..], out.1);
        multiply::<S, true>(simd, out, p, rows, size);
    });
}

/// `out[key] += sum of p[key][query] rows[query]`, over the queries that see a key.
#[inline(always)]
pub(super) fn sum_over_queries<S: Simd>(
    simd: S,
    out: &mut [f32],
    queries: &Queries,
    p: &[f32],
    rows: &[f32],
    keys: &Range<usize>,
    width: usize,
) {
    queries.strips_of_keys(keys, |strip, lanes| {
        let p = Strided {
            values: &p[strip.start * queries.lanes + lanes.start..],
            row: queries.lanes,
            column: 1,
        };
        let size = Size {
            rows: strip.len(),
            inner: lanes.len(),
            columns: width,
        };
        let out = (&mut out[strip.start * width..], width);
        multiply::<S, true>(simd, out, p, (&rows[lanes.start * width..], width), size);
    });
}

#[inline(always)]
fn add_bias(
    scores: &mut [f32],
    bias: &View<'_>,
    problem: &Problem<'_>,
    queries: &Queries,
    keys: &Range<usize>,
) {
    let (lanes, step) = (queries.lanes, bias.steps[3]);
    if bias.steps[1] == 0 && bias.steps[2] == 0 {
        let first = bias.at([queries.batch, 0, 0, keys.start]);
        for (at, row) in scores.chunks_exact_mut(lanes).take(keys.len()).enumerate() {
            let bias = bias.values[first + at * step];
            row.iter_mut().for_each(|score| *score += bias);
        }
        return;
    }
    for (lane, row) in queries.rows.clone().enumerate() {
        let (head, time) = queries.place(problem, row);
        let first = bias.at([queries.batch, head, time, keys.start]);
        let scores = scores[lane..].iter_mut().step_by(lanes).take(keys.len());
        for (at, score) in scores.enumerate() {
            *score += bias.values[first + at * step];
        }
    }
}

/// Puts negative infinity where a query does not see a key.
#[inline(always)]
fn hide(scores: &mut [f32], queries: &Queries, keys: &Range<usize>) {
    for first in (0..queries.lanes).step_by(LANES) {
        let sees = &queries.sees[first..first + LANES];
        let starts: [u32; LANES] = std::array::from_fn(|lane| sees[lane].start);
        let lengths: [u32; LANES] = std::array::from_fn(|lane| sees[lane].end - sees[lane].start);
        let rows = scores.chunks_exact_mut(queries.lanes);
        for (key, row) in keys.clone().zip(rows) {
            let row = group_mut(row, first);
            for lane in 0..LANES {
                let seen = (key as u32).wrapping_sub(starts[lane]) < lengths[lane];
                row[lane] = if seen { row[lane] } else { f32::NEG_INFINITY };
            }
        }
    }
}
