//! How far are our operations from what the machine can do? The roofline (Williams et al. 2009).
//!
//! ```text
//! possible seconds = max(operations / peak, bytes / bandwidth)      share = possible / measured
//! ```
//! Peak and bandwidth are measured here too, the bandwidth for as much data as the operation
//! touches, since what fits a cache is faster. Counted are the floating-point operations of matrix
//! products, and every input and output once: what a perfect implementation could not avoid. The peak is
//! that of the kind of numbers; for `f32` of the better of vectors and a sixth of the matrix unit.

mod grace;
mod inputs;
mod machine;
mod operations;
mod shape;

pub use grace::{GraceCost, GraceOptions, GraceRow, grace};
pub use shape::Shape;

use inputs::{Inputs, Work};
use machine::Machine;
use modelsmith_core::error::{Error, Result};
use operations::{Operation, operations};
use serde::Serialize;
use std::time::{Duration, Instant};

/// Repetitions at least, of which the median counts.
const REPEATS: usize = 5;

/// What is measured.
#[derive(Clone, Debug)]
pub struct RooflineOptions {
    /// Sizes of the operations.
    pub shape: Shape,
    /// Only operations whose name contains this.
    pub only: String,
    /// Seconds for each operation at least.
    pub seconds: f64,
}

/// The machine's limits, and how near each operation comes to them.
#[derive(Clone, Debug, Serialize)]
pub struct Roofline {
    /// Name of the shapes.
    pub shape: &'static str,
    /// Threads used.
    pub threads: usize,
    /// Billions of `f32` operations a second at best in vectors.
    pub peak_gflops: f64,
    /// Billions of `bf16` operations a second at best on the matrix unit, where there is one.
    pub unit_gflops: Option<f64>,
    /// Billions of bytes a second at best from data larger than the caches.
    pub memory_gbs: f64,
    /// The operations.
    pub rows: Vec<Row>,
}

/// One operation.
#[derive(Clone, Debug, Serialize)]
pub struct Row {
    /// Its name.
    pub operation: &'static str,
    /// Shapes of its inputs.
    pub inputs: String,
    /// Whether gradients were computed too.
    pub backward: bool,
    /// Median seconds.
    pub seconds: f64,
    /// Billions of operations a second; absent where there is no matrix product.
    pub gflops: Option<f64>,
    /// Billions of bytes a second.
    pub gbs: f64,
    /// The possible seconds over the measured ones.
    pub share: f64,
}

/// Measures the machine and the operations.
///
/// # Errors
/// A name that no operation contains, a time out of range.
pub fn roofline(options: &RooflineOptions) -> Result<Roofline> {
    if !(0.0..=60.0).contains(&options.seconds) {
        let found = options.seconds;
        let problem = format!("{found} seconds for each operation; expected 0 to 60");
        return Err(Error::Usage(problem));
    }
    let chosen = chosen(options)?;
    let mut machine = Machine::measure();
    let rows = chosen
        .into_iter()
        .map(|operation| measure(&operation, &mut machine, options.seconds))
        .collect();
    Ok(Roofline {
        shape: options.shape.name,
        threads: modelsmith_kernels::machine::threads(),
        peak_gflops: machine.vectors / 1e9,
        unit_gflops: machine.unit.map(|rate| rate / 1e9),
        memory_gbs: machine.memory() / 1e9,
        rows,
    })
}

fn chosen(options: &RooflineOptions) -> Result<Vec<Operation>> {
    let all = operations(&options.shape);
    let mut names: Vec<&str> = all.iter().map(|operation| operation.name).collect();
    let chosen: Vec<Operation> = all
        .into_iter()
        .filter(|operation| operation.name.contains(&options.only))
        .collect();
    if !chosen.is_empty() {
        return Ok(chosen);
    }
    names.sort_unstable();
    names.dedup();
    let known = names.join("; ");
    Err(Error::Usage(format!(
        "no operation has `{}` in its name; known: {known}",
        options.only
    )))
}

fn measure(operation: &Operation, machine: &mut Machine, budget: f64) -> Row {
    let mut inputs = Inputs::new(operation.backward);
    let mut work = (operation.prepare)(&mut inputs);
    let (seconds, output) = median_seconds(budget, &mut work);
    let traffic = inputs.traffic(output);
    let by_arithmetic = operation.flops / machine.peak(operation.half);
    let by_memory = traffic / machine.bandwidth(inputs.resident(output));
    Row {
        operation: operation.name,
        inputs: inputs.shapes(),
        backward: operation.backward,
        seconds,
        gflops: (operation.flops > 0.0).then_some(operation.flops / seconds / 1e9),
        gbs: traffic / seconds / 1e9,
        share: by_arithmetic.max(by_memory) / seconds,
    }
}

/// The median of calls that last `budget` seconds together at least, after one that does not
/// count; and what that one gave.
fn median_seconds(budget: f64, work: &mut Work) -> (f64, usize) {
    let output = work();
    let (mut times, mut total) = (Vec::new(), 0.0);
    while times.len() < REPEATS || total < budget {
        let started = Instant::now();
        work();
        let seconds = started.elapsed().max(Duration::from_nanos(1)).as_secs_f64();
        times.push(seconds);
        total += seconds;
    }
    times.sort_by(f64::total_cmp);
    (times[times.len() / 2], output)
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::collections::BTreeSet;

    #[test]
    fn every_operation_runs_and_is_told_apart() {
        for shape in [Shape::tiny(true), Shape::tiny(false)] {
            let options = RooflineOptions {
                shape,
                only: String::new(),
                seconds: 0.0,
            };
            let found = roofline(&options).unwrap();
            assert!(found.peak_gflops > 0.0 && found.memory_gbs > 0.0);
            let mut seen = BTreeSet::new();
            for row in &found.rows {
                assert!(row.seconds > 0.0 && row.gbs > 0.0, "{row:?}");
                assert!(row.share.is_finite() && row.share > 0.0, "{row:?}");
                assert!(
                    seen.insert((row.operation, &row.inputs, row.backward)),
                    "{row:?}"
                );
            }
            assert!(found.rows.iter().any(|row| row.backward));
        }
    }

    #[test]
    fn unknown_operations_and_endless_times_are_refused() {
        let mut options = RooflineOptions {
            shape: Shape::tiny(true),
            only: "softmaxx".into(),
            seconds: 0.0,
        };
        let error = roofline(&options).unwrap_err();
        assert_eq!(error.exit_code(), 2);
        assert!(error.to_string().contains("softmax;"), "{error}");
        (options.only, options.seconds) = (String::new(), f64::INFINITY);
        let error = roofline(&options).unwrap_err().to_string();
        assert!(error.starts_with("inf seconds"), "{error}");
    }
}
