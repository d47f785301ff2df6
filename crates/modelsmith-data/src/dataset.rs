//! A data set, opened as a recipe says.

use std::collections::BTreeSet;
use std::path::Path;
use std::sync::Arc;

use modelsmith_core::error::{Error, Result};

use crate::classify::spell;
use crate::config::{DataConfig, Document, Format, Kind, Packing};
use crate::counts::Counts;
use crate::format::{Example, Form, Label};
use crate::loader::Loader;
use crate::read::{ReadOptions, Source};
use crate::rows::{HELD_BYTES, TokenRows};
use crate::split::{content_hash, split};
use crate::tokenise::Tokeniser;
use crate::tokenizer::Tokenizer;

/// Rows that are tokenised to judge data that stays on disk.
const SAMPLE: u64 = 1024;

/// Batches for training and evaluation, and the account of what they are made of.
#[derive(Debug)]
pub struct Dataset {
    /// Batches for training.
    pub train: Loader,
    /// Batches for evaluation, in the order of the file; `None` when nothing is held out.
    pub held_out: Option<Loader>,
    /// What became of the rows; of the first 1024 only where `complete` is false.
    pub counts: Counts,
    /// What became of the rows of `held_out_path`.
    pub held_out_counts: Option<Counts>,
    /// Whether the counts cover all rows: data that stays on disk is not read through at the start.
    pub complete: bool,
    /// What a row is.
    pub format: Format,
    /// Names of the classes, in the order of their numbers.
    pub classes: Vec<String>,
    /// Longest sequence in tokens.
    pub max_length: usize,
    /// Blake3 of the files, for the record of the run.
    pub hash: String,
}

impl Dataset {
    /// Opens the data, tokenises it (or its first rows, when it stays on disk), and splits it.
    ///
    /// # Errors
    /// [`Error::Config`] for options that do not fit, [`Error::File`] for malformed or empty
    /// files and for data in which too few tokens count in the loss.
    pub fn open(config: &DataConfig, tokenizer: &Tokenizer, seed: u64) -> Result<Self> {
        config.check()?;
        let (source, form) = open_rows(&config.path, config)?;
        let classes = classes(config, &source, &form)?;
        check_packing(config, &form)?;
        let (rows, counts) = tokenised(config, source, form, tokenizer, &classes)?;
        check_counts(config, &config.path, &counts)?;
        let hash = content_hash(rows.source.paths())?;
        let rows = Arc::new(rows);
        let (train, held) = split(seed, rows.source.len(), config.held_out);
        if config.held_out > 0.0 && held.is_empty() {
            let problem = "needs two rows at least, the data has one; set it to 0, or cut the file into more documents";
            return Err(Error::config("data.held_out", problem));
        }
        let loader = |rows: &Arc<TokenRows>, members, shuffle| {
            Loader::new(Arc::clone(rows), members, config, seed, shuffle)
        };
        let mut dataset = Self {
            train: loader(&rows, train, config.shuffle),
            held_out: (!held.is_empty()).then(|| loader(&rows, held, false)),
            counts,
            held_out_counts: None,
            complete: rows.is_held(),
            format: rows.form.format(),
            max_length: rows.tokeniser.max_length(),
            classes,
            hash,
        };
        if let Some(path) = &config.held_out_path {
            let (source, form) = open_rows(path, config)?;
            let (rows, counts) = tokenised(config, source, form, tokenizer, &dataset.classes)?;
            check_counts(config, path, &counts)?;
            let members = (0..rows.source.len()).collect();
            dataset.held_out = Some(loader(&Arc::new(rows), members, false));
            dataset.held_out_counts = Some(counts);
        }
        dataset.check_sides()?;
        Ok(dataset)
    }

    /// Both sides must give a batch; a split may leave one with rows that are left out.
    fn check_sides(&self) -> Result<()> {
        let none = |side: &str| {
            Error::config(
                "data.held_out",
                format!("leaves no usable row for {side}; change the share or the seed"),
            )
        };
        if self.train.first()?.is_none() {
            return Err(none("training"));
        }
        match &self.held_out {
            Some(held) if held.first()?.is_none() => Err(none("evaluation")),
            _ => Ok(()),
        }
    }
}

fn open_rows(path: &Path, config: &DataConfig) -> Result<(Source, Form)> {
    let mut options = ReadOptions::from(config);
    if config.format == Format::Labelled {
        options.document = Document::Line;
        options.kind = if options.kind == Kind::Auto {
            Kind::Text
        } else {
            options.kind
        };
    }
    let source = Source::open(path, &options)?;
    if source.is_empty() {
        return Err(Error::file(
            path,
            "holds no rows; a run needs at least one example",
        ));
    }
    let (at, first) = source.row(0)?;
    let form = Form::new(config, &at, &first)?;
    Ok((source, form))
}

fn check_packing(config: &DataConfig, form: &Form) -> Result<()> {
    if !config.tasks.is_empty() && config.packing != Packing::None {
        return Err(Error::config(
            "data.packing",
            "cannot be used with tasks, which belong to whole sequences; set it to none",
        ));
    }
    let classes = matches!(form.format(), Format::Classification | Format::Labelled);
    if classes && config.packing != Packing::None {
        return Err(Error::config(
            "data.packing",
            "cannot be used with classes, which belong to whole sequences; set it to none",
        ));
    }
    Ok(())
}

fn tokenised(
    config: &DataConfig,
    source: Source,
    form: Form,
    tokenizer: &Tokenizer,
    classes: &[String],
) -> Result<(TokenRows, Counts)> {
    let tokeniser = Tokeniser::new(config, form.format(), tokenizer, classes.to_vec())?;
    let stream = config.stream.unwrap_or(source.bytes() > HELD_BYTES);
    let mut rows = TokenRows::new(source, form, tokeniser);
    if !stream {
        let counts = rows.hold()?;
        return Ok((rows, counts));
    }
    let mut counts = Counts::default();
    for row in 0..rows.source.len().min(SAMPLE) {
        counts += rows.read(row)?.1;
    }
    Ok((rows, counts))
}

/// Refuses data that would train nothing while its loss looks normal.
fn check_counts(config: &DataConfig, path: &Path, counts: &Counts) -> Result<()> {
    if counts.kept() == 0 {
        return Err(Error::file(
            path,
            format!(
                "no example is left of {}: {} empty, {} longer than max_length, {} without a token that counts in the \
                 loss; check format, columns and max_length",
                counts.total, counts.empty, counts.dropped, counts.untrained
            ),
        ));
    }
    let share = counts.trained_tokens as f64 / counts.all_tokens.max(1) as f64;
    let labelled = counts.trained_tokens == 0 && counts.untrained == 0;
    if share < config.min_trained_share && !labelled {
        return Err(Error::file(
            path,
            format!(
                "only {} of {} tokens ({:.2} %) count in the loss; answers may have been cut off by max_length or not \
                 recognised; set data.min_trained_share = {:.4} to train all the same",
                counts.trained_tokens,
                counts.all_tokens,
                share * 100.0,
                share
            ),
        ));
    }
    Ok(())
}

/// The classes given, or those in the data in order: numbers by value, names by alphabet.
fn classes(config: &DataConfig, source: &Source, form: &Form) -> Result<Vec<String>> {
    let wanted = matches!(form.format(), Format::Classification | Format::Labelled);
    if !wanted || !config.classes.is_empty() {
        return Ok(config.classes.clone());
    }
    let mut found = BTreeSet::new();
    for row in source.rows() {
        let (at, columns) = row?;
        if let Example::Classification { label, .. } = form.example(&at, &columns)? {
            found.insert(label);
        }
        if found.len() > 100_000 {
            return Err(at.error("more than 100000 classes; column label holds no class"));
        }
    }
    // Numbers without gaps name themselves; a class that is absent keeps its number.
    let highest = found.iter().map(|label| match label {
        Label::Number(number) => Some(*number),
        Label::Name(_) => None,
    });
    let numbers: Option<Vec<i64>> = highest.collect();
    match numbers.as_deref() {
        Some([low, .., high]) if *low >= 0 && *high < 1000 => {
            Ok((0..=*high).map(|n| n.to_string()).collect())
        }
        _ => Ok(found.iter().map(spell).collect()),
    }
}
