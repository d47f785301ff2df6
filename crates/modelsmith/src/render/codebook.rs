//! The table of `bench grace`.

use super::{Align, Table, count};
use modelsmith_engine::bench::GraceCost;

/// The codebook in a line, then the batch sizes.
pub(crate) fn grace(found: &GraceCost) -> String {
    let mut table = Table::new(&[
        ("name", Align::Left),
        ("prompts", Align::Right),
        ("bare", Align::Right),
        ("with codebook", Align::Right),
        ("ratio", Align::Right),
    ]);
    for row in &found.rows {
        table.row([
            row.name.clone(),
            row.batch.to_string(),
            format!("{:.3} ms", 1000.0 * row.bare_seconds),
            format!("{:.3} ms", 1000.0 * row.seconds),
            format!("{:.3}", row.ratio),
        ]);
    }
    format!(
        "{} keys of {} numbers; {:.1} us a look-up, and {:.0} % of the prompts hit one\n\n{}",
        count(found.keys as u64),
        found.width,
        1e6 * found.look_up_seconds,
        100.0 * found.hits,
        table.render()
    )
}

#[cfg(test)]
mod tests {
    use super::*;
    use modelsmith_engine::bench::GraceRow;

    #[test]
    fn batch_sizes_are_rows() {
        let found = GraceCost {
            keys: 10_000,
            width: 448,
            hits: 0.5,
            look_up_seconds: 4.2e-6,
            rows: vec![GraceRow {
                name: "grace_lookup_b8".into(),
                batch: 8,
                bare_seconds: 0.002,
                seconds: 0.002_05,
                ratio: 1.0204,
            }],
        };
        assert_eq!(
            grace(&found),
            "10 000 keys of 448 numbers; 4.2 us a look-up, and 50 % of the prompts hit one\n\n\
             name             prompts      bare  with codebook  ratio\n\
             grace_lookup_b8        8  2.000 ms       2.050 ms  1.020"
        );
    }
}
