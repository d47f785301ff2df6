//! How good is a model on data? Perplexity, multiple choice, classification, and its raw logits.

mod choices;
mod classes;
mod confusion;
mod dump;

pub use choices::ChoiceFigures;
pub use confusion::ClassFigures;

use crate::model::{Model, ModelOptions};
use crate::train;
use modelsmith_core::error::{Error, Result};
use modelsmith_core::host::Host;
use modelsmith_data::read::{ReadOptions, Source};
use modelsmith_data::{DataConfig, Dataset, Format, Tokenizer};
use modelsmith_hosts::Head;
use serde::Serialize;
use std::path::{Path, PathBuf};

/// What is measured.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Task {
    /// Mean loss a token.
    Perplexity,
    /// The likeliest of several answers.
    Choices,
    /// Predicted classes against labels.
    Classes,
}

/// What is asked of an evaluation.
#[derive(Clone, Debug)]
pub struct EvalOptions {
    /// Model and adapters.
    pub model: ModelOptions,
    /// The rows; all of them count.
    pub data: DataConfig,
    /// Seed that the data is opened with.
    pub seed: u64,
    /// Share of tokens hidden from a masked language model.
    pub mask_probability: f64,
    /// What is measured; `None` decides by the head and the rows.
    pub task: Option<Task>,
    /// File for the logits of the first rows.
    pub dump_logits: Option<PathBuf>,
    /// Rows in that file.
    pub dump_rows: usize,
}

/// What was found.
#[derive(Clone, Debug, Serialize)]
pub struct Report {
    /// Folder of the host.
    pub host: PathBuf,
    /// Folders of the adapters.
    pub adapters: Vec<PathBuf>,
    /// The data.
    pub data: PathBuf,
    /// The figures.
    #[serde(flatten)]
    pub figures: Figures,
    /// The file with the logits, if one was asked for.
    pub logits: Option<PathBuf>,
}

/// Figures by task.
#[derive(Clone, Debug, Serialize)]
#[serde(tag = "task", rename_all = "snake_case")]
pub enum Figures {
    /// Of a language model on text.
    Perplexity {
        /// Mean negative log-likelihood a token.
        loss: f64,
        /// Its exponential.
        perplexity: f64,
        /// Share of tokens that had the highest score.
        accuracy: f64,
        /// Tokens counted.
        tokens: u64,
    },
    /// Of a language model on questions with answers to choose from.
    Choices(ChoiceFigures),
    /// Of a classifier.
    Classes(ClassFigures),
}

/// Measures a model on data.
///
/// # Errors
/// A model or data that cannot be loaded, rows that do not fit the task, figures that are not
/// finite.
pub fn run(options: &EvalOptions) -> Result<Report> {
    let model = Model::load(&options.model)?;
    if options.dump_logits.is_some() && model.host.decoder_start().is_some() {
        return Err(Error::Usage(format!(
            "--dump-logits writes a row of tokens beside each row of logits, and {} reads two; \
             leave it out",
            model.host.info().architecture
        )));
    }
    let tokenizer = model.tokenizer()?;
    let task = match options.task {
        Some(task) => task,
        None => suggested(model.host.head(), &options.data)?,
    };
    let figures = match task {
        Task::Choices => {
            if options.dump_logits.is_some() {
                let problem = "--dump-logits goes with rows of text, not with --task choices";
                return Err(Error::Usage(problem.into()));
            }
            Figures::Choices(choices::measure(&model, &tokenizer, &options.data)?)
        }
        Task::Perplexity => perplexity(&model, &tokenizer, options)?,
        Task::Classes => {
            let data = open(&model, &tokenizer, options)?;
            Figures::Classes(classes::measure(&model, &data)?)
        }
    };
    if let Some(file) = &options.dump_logits {
        let data = open(&model, &tokenizer, options)?;
        dump::write(&model, data.train, file)?;
    }
    Ok(Report {
        host: model.folder.clone(),
        adapters: model
            .adapters
            .iter()
            .map(|(reference, _)| reference.folder())
            .collect(),
        data: options.data.path.clone(),
        figures,
        logits: options.dump_logits.clone(),
    })
}

/// What head and rows suggest.
fn suggested(head: Head, data: &DataConfig) -> Result<Task> {
    if matches!(head, Head::SequenceClasses(_) | Head::TokenClasses(_)) {
        return Ok(Task::Classes);
    }
    data.check()?;
    let source = Source::open(&data.path, &ReadOptions::from(data))?;
    if source.is_empty() {
        return Err(Error::file(
            &data.path,
            "holds no rows; there is nothing to measure",
        ));
    }
    let (_, first) = source.row(0)?;
    Ok(if first.contains_key("choices") {
        Task::Choices
    } else {
        Task::Perplexity
    })
}

/// All rows in the order of the file.
fn open(model: &Model, tokenizer: &Tokenizer, options: &EvalOptions) -> Result<Dataset> {
    let mut data = options.data.clone();
    data.shuffle = false;
    data.group_by_length = false;
    data.apart = model.host.decoder_start().is_some();
    // Where a task was chosen for an adapter, all rows are of it.
    let open = model.adapters.iter().filter(|(one, _)| one.task.is_none());
    let told = open.map(|(_, adapter)| crate::tune::told_apart(adapter.tasks()));
    data.tasks = told.max_by_key(Vec::len).unwrap_or_default();
    let limit = model.max_length(tokenizer);
    if data.max_length == 0 {
        data.max_length = limit;
    } else if data.max_length > limit && model.host.position_limit().is_some() {
        return Err(Error::config(
            "data.max_length",
            format!(
                "is {}; the model reads at most {limit} tokens",
                data.max_length
            ),
        ));
    }
    if options.dump_logits.is_some() {
        data.batch_size = options.dump_rows.max(1);
    }
    if data.classes.is_empty()
        && matches!(
            data.format,
            Format::Auto | Format::Classification | Format::Labelled
        )
    {
        data.classes = classes::names(model)?;
    }
    Dataset::open(&data, tokenizer, options.seed)
}

fn perplexity(model: &Model, tokenizer: &Tokenizer, options: &EvalOptions) -> Result<Figures> {
    let masking = crate::tune::masking(options.mask_probability, &model.host, tokenizer)?;
    if matches!(
        model.host.head(),
        Head::SequenceClasses(_) | Head::TokenClasses(_)
    ) {
        return Err(Error::Usage(format!(
            "{} is a classifier, which has no perplexity; use --task classes",
            model.folder.display()
        )));
    }
    let data = open(model, tokenizer, options)?;
    let hooks = model.hooks();
    let found = train::evaluate(&model.host, &data.train, 0, masking, &hooks, &model.device)?;
    Ok(Figures::Perplexity {
        loss: found.loss,
        perplexity: found.perplexity(),
        accuracy: found.accuracy,
        tokens: found.places,
    })
}

/// The parent of a path, `.` where it has none.
fn parent(path: &Path) -> &Path {
    match path.parent() {
        Some(parent) if !parent.as_os_str().is_empty() => parent,
        _ => Path::new("."),
    }
}
