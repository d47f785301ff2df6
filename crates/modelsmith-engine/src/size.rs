//! Sizes as people write them.

use modelsmith_core::error::{Error, Result};

/// Bytes of a size as people write it: `500MB`, `5GB`, `1GiB`, `1000000`.
///
/// # Errors
/// No such size, under the name of the flag.
pub fn parse_size(flag: &str, text: &str) -> Result<u64> {
    let split = text
        .find(|c: char| !c.is_ascii_digit() && c != '.')
        .unwrap_or(text.len());
    let (number, unit) = text.split_at(split);
    let factor = match unit.trim().to_ascii_lowercase().as_str() {
        "" | "b" => 1.0,
        "kb" => 1e3,
        "mb" => 1e6,
        "gb" => 1e9,
        "kib" => 1024.0,
        "mib" => 1024.0 * 1024.0,
        "gib" => 1024.0 * 1024.0 * 1024.0,
        _ => f64::NAN,
    };
    let bytes = number.parse::<f64>().unwrap_or(f64::NAN) * factor;
    if (1.0..1e18).contains(&bytes) {
        Ok(bytes as u64)
    } else {
        Err(Error::Usage(format!(
            "{flag} {text}: expected a size such as 500MB or 5GB"
        )))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn sizes_are_read_in_both_systems() {
        let size = |text| parse_size("--max-shard", text).ok();
        assert_eq!(size("5GB"), Some(5_000_000_000));
        assert_eq!(size("1.5MiB"), Some(1_572_864));
        assert_eq!(size("42"), Some(42));
        assert_eq!(
            (size("5 G"), size("0"), size("-1"), size("")),
            (None, None, None, None)
        );
    }
}
