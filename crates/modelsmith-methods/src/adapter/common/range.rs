//! How is an option out of its range refused?

use modelsmith_core::error::{Error, Result};
use std::fmt::Display;

/// Refuses `found` for the method's option `name`, which must be as `range` says.
///
/// # Errors
/// Always.
pub(crate) fn out_of_range<T>(name: &str, found: &dyn Display, range: &str) -> Result<T> {
    let problem = format!("{found} given; must be {range}");
    Err(Error::config(format!("method.{name}"), problem))
}
