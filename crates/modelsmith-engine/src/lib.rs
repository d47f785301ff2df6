//! Modelsmith's engine: recipe to run.
//!
//! [`recipe`] (what a user writes) -> [`registry`] (the method) -> [`tune`] (host, data, adapter,
//! [`train`]) -> [`run_folder`] and [`adapter_folder`] (what is left behind).

pub mod adapter_folder;
pub mod device;
pub mod generate;
pub mod house;
mod memory;
mod metrics;
//pub mod quickstart;
pub mod recipe;
pub mod registry;
mod run_folder;
mod sampler;
mod signals;
mod tensorboard;
mod text_stream;
pub mod train;
pub mod tune;

pub use memory::peak_resident;
pub use recipe::Recipe;
pub use run_folder::RunFolder;
pub use sampler::Sampler;
pub use signals::Stop;
pub use text_stream::TextStream;
