//! Which bytes enter and leave the disk, and what is refused on the way?
//!
//! Reading: [`safetensors::Reader`] for one file, [`Checkpoint`] for a model folder (single or
//! sharded), [`read_json`] for the files beside them. Every length, offset and name is checked
//! before anything is allocated from it, and nothing read can run code: pickles are refused.
//!
//! Writing: [`atomic_write`] and what stands on it ([`write_safetensors`], [`write_sharded`],
//! [`atomic_json`]). A reader sees the old artefact or the new one, never half of either.

mod atomic;
mod checkpoint;
mod dtype;
pub mod fault;
mod header;
mod header_json;
mod json;
mod kind;
mod names;
pub mod safetensors;
mod shards;
mod write;

#[cfg(test)]
mod tests;

pub use atomic::{
    Durability, Sink, atomic_bytes, atomic_json, atomic_write, atomic_write_as, clean_stale,
    make_folder,
};
pub use checkpoint::Checkpoint;
pub use dtype::DType;
pub use json::{MAX_JSON_BYTES, MAX_JSON_DEPTH, parse_json, read_json};
pub use names::safe_name;
pub use safetensors::{Reader, TensorInfo, View};
pub use shards::{share_out, write_sharded};
pub use write::{
    Put, TensorSpec, in_file_order, metadata_pt, write_in_parts, write_safetensors, write_streamed,
};
