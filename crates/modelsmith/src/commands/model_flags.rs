//! Flags that name a model with its adapters.

use super::device;
use crate::cli::Common;
use clap::{Args, ValueEnum};
use modelsmith_engine::Result;
use modelsmith_engine::model::{AdapterRef, ModelOptions};
use modelsmith_engine::precision::Precision;
use std::path::PathBuf;

/// A model and what is attached to it.
#[derive(Clone, Debug, Args)]
pub(crate) struct ModelFlags {
    /// Folder of the model; by default the base that the adapter names
    #[arg(long, value_name = "MODEL")]
    host: Option<PathBuf>,
    /// Adapter or run folder, with @WEIGHT behind it where it should count more or less, or #TASK
    /// where it knows several; may be repeated
    #[arg(long, value_name = "FOLDER[@WEIGHT|#TASK]")]
    adapter: Vec<String>,
    /// Accept an adapter that was made for a base with other weights
    #[arg(long)]
    any_base: bool,
}

impl ModelFlags {
    /// What the engine is asked to load.
    ///
    /// # Errors
    /// A weight that is no number.
    pub(crate) fn options(&self, common: &Common) -> Result<ModelOptions> {
        Ok(ModelOptions {
            host: self.host.clone(),
            adapters: self
                .adapter
                .iter()
                .map(|text| AdapterRef::parse(text))
                .collect::<Result<_>>()?,
            any_base: self.any_base,
            device: device(common).to_owned(),
            ..ModelOptions::default()
        })
    }
}

/// What the model's matrices are stored in and multiplied by.
#[derive(Clone, Copy, Debug, Args)]
pub(crate) struct DtypeFlag {
    /// Numbers of the model's matrices; bf16 takes half the memory and is faster, and less exact
    #[arg(long, value_enum, value_name = "DTYPE", default_value_t = Numbers::F32)]
    dtype: Numbers,
}

/// Precisions by the words of the command line.
#[derive(Clone, Copy, Debug, ValueEnum)]
enum Numbers {
    F32,
    Bf16,
}

impl DtypeFlag {
    /// The options with these numbers.
    pub(crate) fn of(self, options: ModelOptions) -> ModelOptions {
        let dtype = match self.dtype {
            Numbers::F32 => Precision::F32,
            Numbers::Bf16 => Precision::Bf16,
        };
        ModelOptions { dtype, ..options }
    }
}
