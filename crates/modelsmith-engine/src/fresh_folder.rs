//! A folder that appears whole or not at all.

use modelsmith_core::error::{Error, Result};
use std::path::{Path, PathBuf};

/// A folder being written beside its final place; dropped before [`FreshFolder::publish`], it
/// leaves nothing behind.
pub(crate) struct FreshFolder {
    target: PathBuf,
    work: PathBuf,
    published: bool,
}

impl FreshFolder {
    /// Begins to write the folder `target`, which must be absent or empty and none of `inputs`.
    ///
    /// # Errors
    /// A folder that holds something, that is one of the inputs, or that cannot be written beside.
    pub(crate) fn begin(target: &Path, inputs: &[&Path]) -> Result<Self> {
        let name = check_target(target, inputs)?;
        let work = target.with_file_name(format!(".{name}.{}.part", std::process::id()));
        std::fs::create_dir_all(&work).map_err(|error| Error::io(&work, error))?;
        Ok(Self {
            target: target.to_path_buf(),
            work,
            published: false,
        })
    }

    /// Where to write.
    pub(crate) fn path(&self) -> &Path {
        &self.work
    }

    /// Puts the folder in its place.
    ///
    /// # Errors
    /// The rename fails.
    pub(crate) fn publish(mut self) -> Result<()> {
        // The files inside are synced by their writers; the rename is what makes them visible.
        std::fs::rename(&self.work, &self.target)
            .map_err(|error| Error::io(&self.target, error))?;
        self.published = true;
        Ok(())
    }
}

impl Drop for FreshFolder {
    fn drop(&mut self) {
        if !self.published {
            // The folder is ours alone; what cannot be removed stays hidden beside the target.
            let _ = std::fs::remove_dir_all(&self.work);
        }
    }
}

/// Refuses a folder that holds something or is one of the inputs; its name.
///
/// # Errors
/// As [`FreshFolder::begin`].
pub(crate) fn check_target<'a>(target: &'a Path, inputs: &[&Path]) -> Result<&'a str> {
    let io = |error| Error::io(target, error);
    let same = |input: &&&Path| match (target.canonicalize(), input.canonicalize()) {
        (Ok(target), Ok(input)) => target == input,
        _ => false,
    };
    if inputs.iter().any(|input| same(&input)) {
        return Err(Error::Usage(format!(
            "--output {} is one of the inputs, which are never written to; name a new folder",
            target.display()
        )));
    }
    if target.exists() {
        let mut entries = std::fs::read_dir(target).map_err(io)?;
        if entries.next().is_some() {
            return Err(Error::Usage(format!(
                "--output {} is not empty; name a new folder",
                target.display()
            )));
        }
    }
    target
        .file_name()
        .and_then(|name| name.to_str())
        .ok_or_else(|| {
            Error::Usage(format!(
                "--output {} does not name a folder",
                target.display()
            ))
        })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_a_published_folder_stays() {
        let dir = tempfile::tempdir().unwrap();
        let target = dir.path().join("out");
        let count = || std::fs::read_dir(dir.path()).unwrap().count();
        let begun = FreshFolder::begin(&target, &[]).unwrap();
        std::fs::write(begun.path().join("a"), "x").unwrap();
        drop(begun);
        assert_eq!(count(), 0);
        let begun = FreshFolder::begin(&target, &[]).unwrap();
        std::fs::write(begun.path().join("a"), "x").unwrap();
        begun.publish().unwrap();
        assert!(target.join("a").is_file() && count() == 1);
        let full = FreshFolder::begin(&target, &[])
            .map(|_| ())
            .unwrap_err()
            .to_string();
        assert!(full.contains("is not empty"), "{full}");
        let input = FreshFolder::begin(&target, &[&target])
            .map(|_| ())
            .unwrap_err()
            .to_string();
        assert!(input.contains("one of the inputs"), "{input}");
    }
}
