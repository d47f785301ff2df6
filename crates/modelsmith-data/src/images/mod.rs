//! From files of pictures to batches of numbers.
//!
//! ```text
//! Parquet row -> bytes and label (table) -> RGB picture (picture) -> one size (resize) -> set -> batches (batch)
//! ```
//!
//! A set holds its pictures at one size as bytes, so that tens of thousands of small ones fit into memory; the numbers
//! of a batch are made when it is asked for. The order of an epoch depends on seed and epoch only.

mod batch;
mod picture;
mod resize;
mod set;
mod table;

pub use batch::{ImageBatch, Normalisation, epoch_order};
pub use picture::Picture;
pub use set::{ImageSet, ImageSource};
