//! Which names may become part of a path?

use crate::error::{Error, Result};

/// Longest name accepted, in bytes: leaves room for the endings and temporary names we add.
const MAX_BYTES: usize = 100;

/// Names Windows keeps for devices, whatever ending follows.
const DEVICES: [&str; 4] = ["CON", "PRN", "AUX", "NUL"];

/// Returns `name` if it can safely be the name of a file or folder on every system.
///
/// Letters, digits, `.`, `_` and `-` of ASCII, beginning with a letter or digit, at most 100
/// bytes. `kind` ("run", "adapter") opens the message, and says which option was wrong.
pub fn safe_name<'a>(kind: &str, name: &'a str) -> Result<&'a str> {
    match fault(name) {
        None => Ok(name),
        Some(problem) => Err(Error::config(
            format!("{kind} name"),
            format!(
                "{} {problem}; use up to {MAX_BYTES} of A-Z a-z 0-9 . _ - and begin with a letter \
                 or digit",
                super::kind::shown(name)
            ),
        )),
    }
}

fn fault(name: &str) -> Option<String> {
    let allowed = |c: char| c.is_ascii_alphanumeric() || matches!(c, '.' | '_' | '-');
    if name.is_empty() {
        return Some("is empty".into());
    }
    if name.len() > MAX_BYTES {
        return Some(format!("has {} bytes", name.len()));
    }
    if name.contains(['/', '\\']) {
        return Some("contains a path separator".into());
    }
    if name == "." || name == ".." {
        return Some("stands for a folder".into());
    }
    if name.starts_with([' ', '.']) || name.ends_with([' ', '.']) {
        return Some("begins or ends with a dot or a space".into());
    }
    if let Some(c) = name.chars().find(|c| c.is_control()) {
        return Some(format!("contains the control character U+{:04X}", c as u32));
    }
    if let Some(c) = name.chars().find(|c| !allowed(*c)) {
        return Some(format!(
            "contains {c:?} (U+{:04X}), which is not allowed in names",
            c as u32
        ));
    }
    if !name.starts_with(|c: char| c.is_ascii_alphanumeric()) {
        return Some("does not begin with a letter or digit".into());
    }
    is_device(name).then(|| "is the name of a Windows device".into())
}

fn is_device(name: &str) -> bool {
    let stem = name.split('.').next().unwrap_or(name).to_ascii_uppercase();
    let numbered = |prefix: &str| {
        stem.strip_prefix(prefix)
            .is_some_and(|rest| rest.len() == 1 && rest.as_bytes()[0].is_ascii_digit())
    };
    DEVICES.contains(&stem.as_str()) || numbered("COM") || numbered("LPT")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn plain_names_pass() {
        for name in [
            "run-1",
            "a",
            "Llama-3.2_1B.lora",
            "7",
            "console",
            "com10",
            "x..y",
        ] {
            assert_eq!(safe_name("run", name).unwrap(), name);
        }
    }

    #[test]
    fn dangerous_names_are_refused_with_the_cause() {
        let long = "x".repeat(300);
        let cases = [
            ("", "empty"),
            ("..", "folder"),
            ("../x", "separator"),
            ("/etc/passwd", "separator"),
            ("a\\b", "separator"),
            ("C:x", "':'"),
            ("a\0b", "U+0000"),
            ("a\nb", "U+000A"),
            (" a", "dot or a space"),
            ("a.", "dot or a space"),
            (".hidden", "dot or a space"),
            ("-rf", "letter or digit"),
            ("CON", "Windows"),
            ("nul.txt", "Windows"),
            ("Lpt1", "Windows"),
            // A Cyrillic a, as in a name made to be mistaken for another.
            ("l\u{430}ma", "U+0430"),
            ("a b", "U+0020"),
            (long.as_str(), "300 bytes"),
        ];
        for (name, cause) in cases {
            let problem = safe_name("adapter", name).unwrap_err();
            assert!(problem.to_string().contains(cause), "{name:?}: {problem}");
            assert!(
                problem.to_string().starts_with("adapter name: "),
                "{problem}"
            );
            assert_eq!(problem.exit_code(), 2);
        }
    }
}
