//! `modelsmith serve`: many adapters on one model, chosen line by line.

use super::device;
use super::model_flags::DtypeFlag;
use super::text_flags::TextFlags;
use crate::cli::Common;
use crate::failure::{Failure, Outcome};
use crate::render::{self, Output};
use clap::Args;
use modelsmith_engine::Error;
use modelsmith_engine::model::ModelOptions;
use modelsmith_engine::serving::{Serving, named_adapter, serve};
use std::fs::File;
use std::io::{BufRead, BufReader};
use std::path::{Path, PathBuf};

const EXAMPLES: &str = "\
Examples:
  modelsmith serve --host models/llama --adapter law=runs/law --adapter code=runs/code
  modelsmith serve --host models/llama --adapters tenants --requests today.jsonl
  echo '{\"prompt\": \"Once\", \"adapter\": \"law\"}' | modelsmith serve --host models/llama --adapter law=runs/law

Lines: {\"prompt\": TEXT, \"adapter\": NAME}, {\"load\": NAME, \"folder\": FOLDER}, {\"unload\": NAME}, {\"costs\": true}";

/// Answer requests line by line, each by the adapter that it names
#[derive(Debug, Args)]
#[command(after_help = EXAMPLES)]
pub(crate) struct Serve {
    /// Folder of the model
    #[arg(long, value_name = "MODEL")]
    host: PathBuf,
    /// Adapter or run folder and its name; may be repeated
    #[arg(long, value_name = "NAME=FOLDER[@WEIGHT|#TASK]")]
    adapter: Vec<String>,
    /// Folder whose folders are adapters, each under its own name
    #[arg(long, value_name = "FOLDER")]
    adapters: Option<PathBuf>,
    /// Accept adapters that were made for a base with other weights
    #[arg(long)]
    any_base: bool,
    /// File of requests, one JSON object a line; without it, the standard input
    #[arg(long, value_name = "FILE")]
    requests: Option<PathBuf>,
    #[command(flatten)]
    dtype: DtypeFlag,
    #[command(flatten)]
    text: TextFlags,
}

impl Serve {
    /// Loads, answers, and says what it cost.
    pub(crate) fn execute(self, common: &Common, output: &Output) -> Outcome {
        let options = self.dtype.of(ModelOptions {
            host: Some(self.host.clone()),
            any_base: self.any_base,
            device: device(common).to_owned(),
            ..ModelOptions::default()
        });
        let input = self.input()?;
        let mut serving = Serving::new(&options)?;
        let mut named = self.adapter.clone();
        if let Some(folder) = &self.adapters {
            named.extend(folders_in(folder)?);
        }
        for text in named {
            let (name, folder) = named_adapter(&text)?;
            serving.load(&name, &folder)?;
        }
        let mut closed = None;
        serve(&mut serving, input, &self.text.options(), &mut |answer| {
            if let Err(failure) = output.line(answer) {
                closed = Some(failure);
            }
            closed.is_none()
        })?;
        match closed {
            Some(failure) => Err(failure),
            None => {
                output.note(&render::costs(&serving.costs()));
                Ok(())
            }
        }
    }

    fn input(&self) -> Result<Box<dyn BufRead + Send>, Failure> {
        Ok(match &self.requests {
            Some(path) => {
                let file = File::open(path).map_err(|error| Error::io(path, error))?;
                Box::new(BufReader::new(file))
            }
            None => Box::new(BufReader::new(std::io::stdin())),
        })
    }
}

/// The folders in a folder, in the order of their names.
fn folders_in(folder: &Path) -> Result<Vec<String>, Failure> {
    let entries = std::fs::read_dir(folder).map_err(|error| Error::io(folder, error))?;
    let paths = entries.filter_map(|entry| Some(entry.ok()?.path()));
    let mut found: Vec<String> = paths
        .filter(|path| path.is_dir())
        .map(|path| path.display().to_string())
        .collect();
    found.sort();
    Ok(found)
}
