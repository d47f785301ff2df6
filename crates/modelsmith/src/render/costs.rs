//! What adapters cost, side by side.

use super::{Align, Table, bytes, count};
use modelsmith_engine::serving::Cost;

/// A row for each adapter.
pub(crate) fn costs(costs: &[&Cost]) -> String {
    let mut table = Table::new(&[
        ("adapter", Align::Left),
        ("method", Align::Left),
        ("numbers", Align::Right),
        ("memory", Align::Right),
        ("loaded in", Align::Right),
        ("requests", Align::Right),
        ("tokens", Align::Right),
        ("ms a token", Align::Right),
    ]);
    for cost in costs {
        table.row([
            cost.adapter.clone(),
            cost.method.clone(),
            count(cost.parameters),
            bytes(cost.bytes),
            format!("{:.1} ms", cost.load_ms),
            count(cost.requests),
            count(cost.tokens),
            cost.ms_per_token
                .map_or_else(String::new, |ms| format!("{ms:.2}")),
        ]);
    }
    table.render()
}
