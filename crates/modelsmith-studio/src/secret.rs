//! Random tokens, and their comparison in constant time.

use modelsmith_core::error::{Error, Result};
use std::fmt::Write;

/// Shortest token that a user may choose.
const SHORTEST: usize = 16;

/// 256 bits of the system's randomness as hexadecimal digits.
///
/// These guard access and have nothing to do with a run's draws, so they are not seeded.
///
/// # Errors
/// The system has no source of randomness.
pub(crate) fn random() -> Result<String> {
    let mut bytes = [0_u8; 32];
    getrandom::fill(&mut bytes)
        .map_err(|error| Error::Failed(format!("no random bytes from the system: {error}")))?;
    Ok(bytes.iter().fold(String::new(), |mut text, byte| {
        let _ = write!(text, "{byte:02x}");
        text
    }))
}

/// Whether two texts are equal, in a time that tells nothing about where they differ: their hashes
/// are compared, and `blake3::Hash` compares in constant time.
pub(crate) fn equal(a: &str, b: &str) -> bool {
    blake3::hash(a.as_bytes()) == blake3::hash(b.as_bytes())
}

/// A token that a user chose.
///
/// # Errors
/// One that is short, or has characters that need escaping in addresses.
pub(crate) fn chosen(token: &str) -> Result<&str> {
    let plain = |c: char| c.is_ascii_alphanumeric() || matches!(c, '-' | '_' | '.');
    if token.len() >= SHORTEST && token.chars().all(plain) {
        return Ok(token);
    }
    Err(Error::Usage(format!(
        "--token: has {} characters; expected at least {SHORTEST} of A-Z a-z 0-9 - _ . (without the flag a random one is made where one is needed)",
        token.chars().count()
    )))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn tokens_differ_and_compare() {
        let (a, b) = (random().unwrap(), random().unwrap());
        assert_eq!(a.len(), 64);
        assert!(!equal(&a, &b) && equal(&a, &a.clone()) && !equal(&a, &a[..63]));
    }

    #[test]
    fn short_or_odd_tokens_are_refused() {
        assert!(chosen("a-fine-token.0123").is_ok());
        assert!(chosen("short").is_err());
        assert!(chosen("with spaces in it all").is_err());
    }
}
