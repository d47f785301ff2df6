//! Labelled pictures of one size, in memory.

use std::ops::Range;
use std::path::PathBuf;

use modelsmith_core::error::{Error, Result};
use serde::{Deserialize, Serialize};

use super::picture::Picture;
use super::table::Table;

/// Which rows of a file, and what they become.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct ImageSource {
    /// A Parquet file.
    pub path: PathBuf,
    /// Column with the picture: its bytes, or a group with a field `bytes`.
    pub image: String,
    /// Column with the number of the class, from 0.
    pub label: String,
    /// Number of classes; other labels are refused.
    pub classes: usize,
    /// Height and width that every picture is resized to.
    pub size: [usize; 2],
}

impl Default for ImageSource {
    fn default() -> Self {
        Self {
            path: PathBuf::new(),
            image: "image".into(),
            label: "label".into(),
            classes: 10,
            size: [32, 32],
        }
    }
}

/// Labelled pictures of one size.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ImageSet {
    /// Height and width.
    size: [usize; 2],
    /// Bytes of all pictures, each row by row with the values of a pixel together.
    pixels: Vec<u8>,
    labels: Vec<usize>,
}

impl ImageSource {
    /// Reads rows of the file, counted from 0, in order.
    ///
    /// # Errors
    /// A file that is no Parquet or lacks a column; fewer rows than asked for; a row without a whole picture or with a
    /// label that is no class, by its number.
    pub fn read(&self, rows: Range<usize>) -> Result<ImageSet> {
        let columns = [self.image.as_str(), self.label.as_str()];
        let table = Table::open(&self.path, columns)?;
        if rows.end > table.len() {
            let problem = format!(
                "has {} rows; rows {} to {} are wanted",
                table.len(),
                rows.start + 1,
                rows.end
            );
            return Err(Error::file(&self.path, problem));
        }
        let mut set = ImageSet {
            size: self.size,
            pixels: Vec::with_capacity(rows.len() * self.size[0] * self.size[1] * 3),
            labels: Vec::with_capacity(rows.len()),
        };
        table.read(&rows, columns, &mut |(bytes, label)| {
            let class = usize::try_from(label).ok();
            let class = class.filter(|class| *class < self.classes).ok_or_else(|| {
                let last = self.classes.saturating_sub(1);
                format!("{} is {label}; expected a class 0 to {last}", self.label)
            })?;
            let picture = Picture::decode(&bytes)
                .map_err(|problem| format!("{} {problem}", self.image))?
                .resized(self.size[1], self.size[0]);
            set.pixels.extend(picture.pixels);
            set.labels.push(class);
            Ok(())
        })?;
        Ok(set)
    }

    /// Number of rows of the file.
    ///
    /// # Errors
    /// A file that is no Parquet or lacks a column.
    pub fn rows(&self) -> Result<usize> {
        let columns = [self.image.as_str(), self.label.as_str()];
        Ok(Table::open(&self.path, columns)?.len())
    }
}

impl ImageSet {
    /// A set from pictures, resized where they differ in size, and their classes.
    ///
    /// # Errors
    /// As many labels as pictures are needed.
    pub fn new(pictures: &[Picture], labels: Vec<usize>, size: [usize; 2]) -> Result<Self> {
        if pictures.len() != labels.len() {
            return Err(Error::Failed(format!(
                "{} labels for {} pictures; expected one each",
                labels.len(),
                pictures.len()
            )));
        }
        let resized = pictures
            .iter()
            .flat_map(|picture| picture.resized(size[1], size[0]).pixels);
        Ok(Self {
            size,
            pixels: resized.collect(),
            labels,
        })
    }

    /// Number of pictures.
    pub fn len(&self) -> usize {
        self.labels.len()
    }

    /// Whether there is no picture.
    pub fn is_empty(&self) -> bool {
        self.labels.is_empty()
    }

    /// Height and width of every picture.
    pub fn size(&self) -> [usize; 2] {
        self.size
    }

    /// The classes, in order.
    pub fn labels(&self) -> &[usize] {
        &self.labels
    }

    /// The bytes of one picture: row by row, the values of a pixel together.
    pub fn pixels(&self, number: usize) -> &[u8] {
        let length = self.size[0] * self.size[1] * 3;
        &self.pixels[number * length..(number + 1) * length]
    }

    /// The first `count` pictures, or all where there are fewer.
    pub fn first(&self, count: usize) -> Self {
        let count = count.min(self.len());
        Self {
            size: self.size,
            pixels: self.pixels[..count * self.size[0] * self.size[1] * 3].to_vec(),
            labels: self.labels[..count].to_vec(),
        }
    }

    /// The same pictures in their opposite colours: 255 less the value.
    pub fn inverted(mut self) -> Self {
        for value in &mut self.pixels {
            *value = u8::MAX - *value;
        }
        self
    }

    /// Hash of pixels, labels and size.
    pub fn hash(&self) -> String {
        let mut hasher = blake3::Hasher::new();
        for size in self.size {
            hasher.update(&(size as u64).to_le_bytes());
        }
        hasher.update(&self.pixels);
        for label in &self.labels {
            hasher.update(&(*label as u64).to_le_bytes());
        }
        hasher.finalize().to_hex().to_string()
    }
}
