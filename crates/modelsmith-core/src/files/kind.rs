//! What is this file really, when it is not what its name says?

use std::fs::Metadata;
use std::path::Path;

use crate::error::{Error, Result};

/// Endings that never hold safetensors, with what they hold.
const REFUSED_ENDINGS: [(&str, Refused); 13] = [
    ("bin", Refused::Pickle),
    ("pt", Refused::Pickle),
    ("pth", Refused::Pickle),
    ("pkl", Refused::Pickle),
    ("pickle", Refused::Pickle),
    ("ckpt", Refused::Pickle),
    ("npz", Refused::Numpy),
    ("npy", Refused::Numpy),
    ("gguf", Refused::Gguf),
    ("h5", Refused::Hdf5),
    ("msgpack", Refused::Other("a Flax msgpack file")),
    ("onnx", Refused::Other("an ONNX graph")),
    ("zip", Refused::Other("a zip archive")),
];

#[derive(Clone, Copy)]
enum Refused {
    Pickle,
    Numpy,
    Gguf,
    Hdf5,
    Other(&'static str),
}

impl Refused {
    fn reason(self) -> String {
        match self {
            Self::Pickle => format!(
                "this is a pickle (a PyTorch .bin/.pt/.pkl file), and loading a pickle can run \
                 any code; {CONVERT}"
            ),
            Self::Numpy => {
                format!("this is a NumPy archive, which may hold pickled objects; {CONVERT}")
            }
            Self::Gguf => "this is a GGUF file, not safetensors; give the safetensors checkpoint \
                           it was made from"
                .into(),
            Self::Hdf5 => format!("this is an HDF5 file, not safetensors; {CONVERT}"),
            Self::Other(what) => format!("this is {what}, not safetensors; {CONVERT}"),
        }
    }
}

/// The way out of a refused weight format.
pub(super) const CONVERT: &str = "take the repository's safetensors version, or convert it where \
     you trust the source (in Python: model.save_pretrained(folder, safe_serialization=True))";

/// Why a weight file with this name is refused before it is opened.
pub(super) fn refused_by_name(path: &Path) -> Option<String> {
    let ending = path.extension()?.to_str()?.to_ascii_lowercase();
    let (_, kind) = REFUSED_ENDINGS.iter().find(|(known, _)| *known == ending)?;
    Some(kind.reason())
}

/// Why a file that begins like this is neither safetensors nor JSON, when its kind is known.
pub(super) fn refused_by_content(bytes: &[u8]) -> Option<String> {
    if bytes.is_empty() {
        return Some("the file is empty; download or write it again".into());
    }
    // A safetensors header of 640 bytes begins with 0x80 0x02, just like a pickle.
    if bytes.get(4..9) == Some(b"\0\0\0\0{") {
        return None;
    }
    let begins = |magic: &[u8]| bytes.starts_with(magic);
    if begins(b"PK\x03\x04") {
        let zip = "this is a zip archive, as PyTorch (.bin, .pt) and NumPy (.npz) write them; its \
                   pickles can run any code when loaded";
        return Some(format!("{zip}; {CONVERT}"));
    }
    if matches!(bytes, [0x80, 2..=5, ..]) {
        return Some(Refused::Pickle.reason());
    }
    if begins(b"GGUF") {
        return Some(Refused::Gguf.reason());
    }
    if begins(b"\x93NUMPY") {
        return Some(Refused::Numpy.reason());
    }
    if begins(b"\x89HDF") {
        return Some(Refused::Hdf5.reason());
    }
    if begins(b"\x1f\x8b") || begins(b"\x28\xb5\x2f\xfd") {
        return Some("this is a compressed file (gzip or zstd); decompress it first".into());
    }
    refused_text(bytes)
}

fn refused_text(bytes: &[u8]) -> Option<String> {
    if bytes.starts_with(b"version https://git-lfs") {
        return Some(
            "this is a Git LFS pointer, the note that stands for the real file; run `git lfs pull` \
             in its repository or download the file itself"
                .into(),
        );
    }
    let head = &bytes[..bytes.len().min(256)];
    let head = String::from_utf8_lossy(head).to_ascii_lowercase();
    let head = head.trim_start_matches('\u{feff}').trim_start();
    let web = ["<!doctype html", "<html", "<head", "<?xml", "<error"];
    web.iter().any(|tag| head.starts_with(tag)).then(|| {
        "this is a web page (HTML or XML), probably an error page saved in place of the file; \
         check the address and the access rights, then download again"
            .into()
    })
}

/// Refuses what is not a plain file, so that opening a pipe cannot hang.
pub(super) fn plain_file(path: &Path) -> Result<Metadata> {
    let metadata = std::fs::metadata(path).map_err(|source| Error::io(path, source))?;
    if metadata.is_dir() {
        return Err(Error::file(path, "this is a folder; expected a file"));
    }
    if !metadata.is_file() {
        return Err(Error::file(
            path,
            "this is a device, pipe or socket; expected a plain file",
        ));
    }
    Ok(metadata)
}

/// A name from a file, made fit for a message: quoted, without control characters, shortened.
pub(super) fn shown(name: &str) -> String {
    const SHOWN: usize = 80;
    let head: String = name
        .chars()
        .take(SHOWN)
        .flat_map(char::escape_debug)
        .collect();
    let more = if name.chars().nth(SHOWN).is_some() {
        "..."
    } else {
        ""
    };
    format!("`{head}{more}`")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn known_kinds_are_named() {
        let cases: [(&[u8], &str); 10] = [
            (b"", "empty"),
            (b"PK\x03\x04\x14\0\0\0\x08\x08", "zip archive"),
            (b"\x80\x02\x8a\x0al\xfc\x9cF\xf9 ", "pickle"),
            (b"\x80\x04\x95\x10\0\0\0\0\0\0\0", "pickle"),
            (b"GGUF\x03\0\0\0\0\0", "GGUF"),
            (b"\x93NUMPY\x01\0v\0", "NumPy"),
            (
                b"version https://git-lfs.github.com/spec/v1\noid",
                "git lfs pull",
            ),
            (b"\n<!DOCTYPE html>\n<html>", "web page"),
            (b"<?xml version=\"1.0\"?><Error>", "web page"),
            (b"\x1f\x8b\x08\0", "compressed"),
        ];
        for (bytes, cause) in cases {
            let reason = refused_by_content(bytes).unwrap();
            assert!(reason.contains(cause), "{reason}");
        }
    }

    #[test]
    fn a_header_length_that_looks_like_a_pickle_is_not_one() {
        assert!(refused_by_content(b"\x80\x02\0\0\0\0\0\0{\"").is_none());
        assert!(refused_by_content(b"PK\x03\x04\0\0\0\0{\"").is_none());
    }

    #[test]
    fn names_of_refused_formats_are_known() {
        for name in ["a.bin", "b.PT", "c.pkl", "d.npz", "e.gguf", "f.ckpt"] {
            assert!(refused_by_name(Path::new(name)).is_some(), "{name}");
        }
        assert!(refused_by_name(Path::new("model.safetensors")).is_none());
    }

    #[test]
    fn names_cannot_write_to_the_terminal() {
        assert_eq!(shown("a\u{1b}[2J"), "`a\\u{1b}[2J`");
        assert!(shown(&"x".repeat(500)).len() < 100);
    }
}
