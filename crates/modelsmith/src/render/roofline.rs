//! The table of `bench roofline`.

use super::{Align, Table};
use modelsmith_engine::bench::{Roofline, Row};

/// The machine in a line, then the operations.
pub(crate) fn roofline(found: &Roofline) -> String {
    let mut table = Table::new(&[
        ("operation", Align::Left),
        ("pass", Align::Left),
        ("time", Align::Right),
        ("GFLOP/s", Align::Right),
        ("GB/s", Align::Right),
        ("of possible", Align::Right),
        ("inputs", Align::Left),
    ]);
    for row in &found.rows {
        table.row(cells(row));
    }
    let unit = match found.unit_gflops {
        Some(rate) => format!(", {rate:.0} in bf16 on the matrix unit"),
        None => String::new(),
    };
    format!(
        "{} threads: {:.0} GFLOP/s in f32 vectors at best{unit}, {:.1} GB/s from memory beyond the caches\n\n{}",
        found.threads,
        found.peak_gflops,
        found.memory_gbs,
        table.render()
    )
}

fn cells(row: &Row) -> [String; 7] {
    let pass = match row.backward {
        true => "both",
        false => "forward",
    };
    [
        row.operation.to_owned(),
        pass.to_owned(),
        milliseconds(row.seconds),
        row.gflops
            .map(|rate| format!("{rate:.0}"))
            .unwrap_or_default(),
        format!("{:.1}", row.gbs),
        format!("{:.0} %", 100.0 * row.share),
        row.inputs.clone(),
    ]
}

fn milliseconds(seconds: f64) -> String {
    format!("{:.3} ms", 1000.0 * seconds)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_row_without_products_has_no_arithmetic() {
        let row = |gflops| Row {
            operation: "softmax",
            inputs: "8 x 6 x 128 x 128, 1 x 1 x 128 x 128".into(),
            backward: true,
            seconds: 0.001_234,
            gflops,
            gbs: 20.0,
            share: 0.5,
        };
        let found = Roofline {
            shape: "15m",
            threads: 2,
            peak_gflops: 300.2,
            unit_gflops: Some(4900.1),
            memory_gbs: 21.04,
            rows: vec![row(None), row(Some(150.4))],
        };
        assert_eq!(
            roofline(&found),
            "2 threads: 300 GFLOP/s in f32 vectors at best, 4900 in bf16 on the matrix unit, 21.0 GB/s from \
             memory beyond the caches\n\n\
             operation  pass      time  GFLOP/s  GB/s  of possible  inputs\n\
             softmax    both  1.234 ms           20.0         50 %  8 x 6 x 128 x 128, 1 x 1 x 128 x 128\n\
             softmax    both  1.234 ms      150  20.0         50 %  8 x 6 x 128 x 128, 1 x 1 x 128 x 128"
        );
    }
}
