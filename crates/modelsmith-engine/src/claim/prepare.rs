//! Old public files made fit to read: Latin-1 to UTF-8, fine labels to coarse ones.

use super::file::Prepared;
use crate::recipe::data_folder;
use modelsmith_core::error::{Error, Result};
use modelsmith_core::files::{atomic_bytes, safe_name};
use std::path::Path;

/// Writes each file under its name in `folder`. In Latin-1 a byte is the number of its character,
/// so every file can be read.
///
/// # Errors
/// A name that is none, files that cannot be read or written.
pub(super) fn write(files: &[Prepared], folder: &Path) -> Result<()> {
    std::fs::create_dir_all(folder).map_err(|error| Error::io(folder, error))?;
    for file in files {
        let path = match file.path.strip_prefix("$MODELSMITH_DATA") {
            Ok(rest) => data_folder()?.join(rest),
            Err(_) => file.path.clone(),
        };
        let bytes = std::fs::read(&path).map_err(|error| Error::io(&path, error))?;
        let mut text: String = bytes.into_iter().map(char::from).collect();
        if file.coarse_labels {
            text = text.lines().map(coarse).collect();
        }
        atomic_bytes(folder.join(safe_name("file", &file.name)?), text.as_bytes())?;
    }
    Ok(())
}

/// `HUM:ind Who ...` as `HUM Who ...`.
fn coarse(line: &str) -> String {
    match line.split_once(' ') {
        Some((label, text)) => {
            let label = label.split(':').next().unwrap_or(label);
            format!("{label} {text}\n")
        }
        None => format!("{line}\n"),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn bytes_become_characters_and_labels_coarse() {
        let folder = tempfile::tempdir().unwrap();
        let source = folder.path().join("old");
        std::fs::write(&source, b"A:b caf\xe9: x\n").unwrap();
        let mut file = Prepared {
            name: "new.txt".into(),
            path: source,
            coarse_labels: false,
        };
        let read = || std::fs::read_to_string(folder.path().join("new.txt")).unwrap();
        write(std::slice::from_ref(&file), folder.path()).unwrap();
        assert_eq!(read(), "A:b café: x\n");
        file.coarse_labels = true;
        write(std::slice::from_ref(&file), folder.path()).unwrap();
        assert_eq!(read(), "A café: x\n");
        file.name = "../new.txt".into();
        assert!(write(&[file], folder.path()).is_err());
    }
}
