//! Checkpoints merged, and their differences edited, tensor by tensor in bounded memory (card 16).
//!
//! [`merge`] reads a configuration as mergekit writes it, plans every tensor of the result, and streams: tensors are read
//! through maps whose pages are given back, computed on all cores by [`modelsmith_methods::delta`], and written meanwhile.

mod config;
mod layers;
pub mod merge;
mod plan;
mod setting;
mod side_files;
mod source;
mod stream;
mod work_folder;

#[cfg(test)]
mod tests;
