//! The methods and the keys of a recipe, as forms need them.

use crate::answer::{Answer, give};
use modelsmith_engine::{Recipe, registry};
use serde_json::json;

/// Every method with schema and defaults, and the same of a recipe.
///
/// # Errors
/// A default that has no JSON form.
pub(crate) async fn methods() -> Answer {
    let defaults = serde_json::to_value(Recipe::default()).unwrap_or_default();
    give(&json!({
        "version": env!("CARGO_PKG_VERSION"),
        "methods": registry::all(),
        "recipe": { "schema": registry::recipe_schema(), "defaults": defaults },
    }))
}
