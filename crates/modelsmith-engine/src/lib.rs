//! Modelsmith's engine: recipe to run.
//!
//! [`recipe`] (what a user writes) -> [`registry`] (the method) -> [`tune`] (host, data, adapter,
//! [`train`]) -> [`RunFolder`] and [`adapter_folder`] (what is left behind).

pub mod adapter_folder;
pub mod bench;
pub mod claim;
pub mod convert;
pub mod delta;
pub mod device;
pub mod edit;
pub mod eval;
mod fresh_folder;
pub mod generate;
pub mod generation;
pub mod house;
pub mod index;
mod lock;
mod memory;
pub mod merge;
mod metrics;
pub mod metrics_log;
pub mod model;
pub mod numbers;
pub mod plan;
mod pool;
pub mod precision;
mod probe;
pub mod quickstart;
pub mod recipe;
pub mod record;
pub mod registry;
pub mod report;
mod run_folder;
mod run_info;
pub mod runs;
mod sampler;
pub mod samples;
pub mod serving;
pub mod show;
mod signals;
pub mod site_change;
mod size;
mod tensorboard;
mod text_stream;
pub mod train;
pub mod tune;
pub mod vision;

pub use memory::peak_resident;
pub use modelsmith_core::error::{Error, Result};
pub use recipe::Recipe;
pub use registry::grace_options;
pub use run_folder::RunFolder;
pub use run_info::{RunInfo, State};
pub use sampler::Sampler;
pub use signals::Stop;
pub use size::parse_size;
pub use text_stream::TextStream;
