//! Options that are out of range, refused by their keys.

use modelsmith_core::error::{Error, Result};

/// Refuses counts below the least that makes sense, each with its key.
///
/// # Errors
/// The key, what was found and what was expected.
pub(crate) fn at_least(least: usize, counts: &[(&str, usize)]) -> Result<()> {
    match counts.iter().find(|(_, count)| *count < least) {
        Some((key, count)) => {
            let problem = format!("is {count}; must be at least {least}");
            Err(Error::config(format!("method.{key}"), problem))
        }
        None => Ok(()),
    }
}

/// Refuses numbers that are not above 0, each with its key.
///
/// # Errors
/// As [`at_least`].
pub(crate) fn above_zero(numbers: &[(&str, f64)]) -> Result<()> {
    let outside = |value: f64| !(value.is_finite() && value > 0.0);
    match numbers.iter().find(|(_, value)| outside(*value)) {
        Some((key, value)) => {
            let problem = format!("is {value}; must be above 0");
            Err(Error::config(format!("method.{key}"), problem))
        }
        None => Ok(()),
    }
}
