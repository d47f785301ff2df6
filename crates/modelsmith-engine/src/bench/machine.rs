//! What the machine can do: arithmetic a second, bytes a second.

use modelsmith_kernels::machine::{add_multiple, multiply_adds, unit_multiply_adds};
use std::collections::BTreeMap;
use std::time::Instant;

/// Runs of which the best counts: others may have disturbed the rest.
const RUNS: usize = 7;
/// Bytes far beyond what caches hold.
const BEYOND_CACHES: u64 = 1 << 29;
/// Below this it would be measured how fast threads start.
const LEAST: u64 = 1 << 20;

/// The limits of this machine.
pub(super) struct Machine {
    /// Operations a second in `f32` vectors.
    pub(super) vectors: f64,
    /// Operations a second on the matrix unit, in `bf16`.
    pub(super) unit: Option<f64>,
    /// Bytes a second by the size of the data.
    bandwidths: BTreeMap<u64, f64>,
}

impl Machine {
    /// Measures the peak; bandwidths follow when they are asked for.
    pub(super) fn measure() -> Self {
        let rounds = 1 << 21;
        Self {
            vectors: best(&mut || multiply_adds(rounds)),
            unit: unit_multiply_adds(1)
                .map(|_| best(&mut || unit_multiply_adds(rounds >> 6).unwrap_or(0.0))),
            bandwidths: BTreeMap::new(),
        }
    }

    /// Operations a second at best of products with a side in `bf16`, or in `f32`. The unit needs six
    /// products of `bf16` for one of `f32`.
    pub(super) fn peak(&self, half: bool) -> f64 {
        let unit = self.unit.unwrap_or(0.0);
        self.vectors.max(if half { unit } else { unit / 6.0 })
    }

    /// Bytes a second from beyond the caches.
    pub(super) fn memory(&mut self) -> f64 {
        self.bandwidth(BEYOND_CACHES as f64)
    }

    /// Bytes a second from data of this many bytes, to the next power of two, touched again and
    /// again.
    pub(super) fn bandwidth(&mut self, bytes: f64) -> f64 {
        let size = (bytes as u64)
            .clamp(LEAST, BEYOND_CACHES)
            .next_power_of_two();
        *self.bandwidths.entry(size).or_insert_with(|| {
            let count = size as usize / (2 * size_of::<f32>());
            let (mut y, x) = (vec![0.0; count], vec![1.0; count]);
            best(&mut || add_multiple(&mut y, &x, 0.5))
        })
    }
}

/// The best rate of some runs after one that does not count.
fn best(work: &mut dyn FnMut() -> f64) -> f64 {
    work();
    let rate = |_| {
        let started = Instant::now();
        let done = work();
        done / started.elapsed().as_secs_f64().max(1e-9)
    };
    (0..RUNS).map(rate).fold(0.0, f64::max)
}
