//! One picture: decoded from PNG, JPEG or WebP, within limits.

use std::io::Cursor;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::path::Path;

use image::{ImageReader, Limits};
use modelsmith_core::error::{Error, Result};

/// Pixels of a side at most: what a stranger's header may ask for.
const MAX_SIDE: u32 = 16_384;

/// Bytes that decoding one picture may take.
const MAX_BYTES: u64 = 512 << 20;

/// An RGB picture.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Picture {
    /// Pixels of a row.
    pub width: usize,
    /// Rows.
    pub height: usize,
    /// `height * width * 3` values 0 to 255: row by row, red, green and blue of a pixel together.
    pub pixels: Vec<u8>,
}

impl Picture {
    /// Decodes a PNG, JPEG or WebP, told apart by their first bytes. Grey values become three equal ones, and
    /// transparency is dropped.
    ///
    /// # Errors
    /// What is wrong with the bytes, in words; the caller knows the file they are from.
    pub fn decode(bytes: &[u8]) -> Result<Self, String> {
        // A decoder that panics on a malformed picture must not end the program.
        match catch_unwind(AssertUnwindSafe(|| decode(bytes))) {
            Ok(decoded) => decoded,
            Err(_) => Err("is a damaged picture: its parts contradict each other".into()),
        }
    }

    /// Reads and decodes a file.
    ///
    /// # Errors
    /// A file that cannot be read or is no picture of a known format.
    pub fn open(path: impl AsRef<Path>) -> Result<Self> {
        let path = path.as_ref();
        let bytes = std::fs::read(path).map_err(|error| Error::io(path, error))?;
        Self::decode(&bytes).map_err(|problem| Error::file(path, problem))
    }
}

fn decode(bytes: &[u8]) -> Result<Picture, String> {
    let mut reader = ImageReader::new(Cursor::new(bytes))
        .with_guessed_format()
        .map_err(|error| format!("cannot be read: {error}"))?;
    if reader.format().is_none() {
        let found = match bytes.len() {
            0 => "holds no bytes".to_owned(),
            count => format!(
                "begins with {:02x?} ({count} bytes)",
                &bytes[..count.min(8)]
            ),
        };
        return Err(format!("{found}; expected a PNG, JPEG or WebP picture"));
    }
    let mut limits = Limits::default();
    limits.max_image_width = Some(MAX_SIDE);
    limits.max_image_height = Some(MAX_SIDE);
    limits.max_alloc = Some(MAX_BYTES);
    reader.limits(limits);
    let decoded = reader
        .decode()
        .map_err(|error| format!("is no whole picture: {error}"))?
        .into_rgb8();
    Ok(Picture {
        width: decoded.width() as usize,
        height: decoded.height() as usize,
        pixels: decoded.into_raw(),
    })
}
