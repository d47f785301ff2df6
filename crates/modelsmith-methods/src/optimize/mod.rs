//! Optimizers: a file each, and a row each in [`TABLE`].

mod adamw;

pub use adamw::AdamW;

use modelsmith_core::Result;
use modelsmith_core::method::{Entry, Method, defaults_of, read_options, schema_of};
use modelsmith_core::roles::Optimize;
use serde_json::Value;

/// All optimizers, in the order of listings.
pub const TABLE: &[Entry<dyn Optimize>] = &[row::<AdamW>()];

const fn row<C: Method + Optimize + 'static>() -> Entry<dyn Optimize> {
    Entry::new(C::CARD, schema_of::<C>, defaults_of::<C>, read::<C>)
}

fn read<C: Method + Optimize + 'static>(value: &Value) -> Result<Box<dyn Optimize>> {
    Ok(Box::new(read_options::<C>(value)?))
}
