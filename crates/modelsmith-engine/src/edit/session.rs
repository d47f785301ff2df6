//! A sequence of edits: batch after batch into a folder, from where it stopped.

use super::change::write;
use super::editor::{Editor, Figures};
use super::facts::Statement;
use super::folder::{EditFolder, Header};
use super::guard::{Action, Guard};
use super::measure::{Scored, perplexity_me};
use crate::adapter_folder::base_hash;
use crate::recipe::Named;
use crate::registry::edit_method;
use crate::signals::Stop;
use crate::train::hash_file;
use burn::tensor::Device;
use modelsmith_core::error::{Error, Result};
use modelsmith_data::Tokenizer;
use modelsmith_data::read::{Location, ReadOptions, Source};
use modelsmith_hosts::Transformer;
use serde_json::{Map, Value};
use std::path::{Path, PathBuf};
use std::time::Instant;

/// Tokens of a text of a corpus that are read at most.
const LONGEST: usize = 1024;

/// What is asked of a sequence of edits.
#[derive(Clone, Debug)]
pub struct EditOptions {
    /// Folder of the base.
    pub host: PathBuf,
    /// The editor.
    pub method: Named,
    /// Facts of a batch.
    pub batch: usize,
    /// Folder of the edits; one with edits of the same kind is continued.
    pub output: PathBuf,
    /// Ordinary text for the moments of the keys.
    pub corpus: Option<PathBuf>,
    /// Documents of it that are read at most; 0 for all.
    pub corpus_limit: usize,
    /// Limits of the changes.
    pub guard: Guard,
    /// Texts whose perplexity the guard watches.
    pub guard_texts: Option<PathBuf>,
    /// Seed of the contexts.
    pub seed: u64,
    /// Where to compute.
    pub device: String,
}

/// What a batch came to, told as it is made.
#[derive(Clone, Debug)]
pub struct Made<'a> {
    /// Its number.
    pub number: u64,
    /// Facts done so far, and in all.
    pub done: (usize, usize),
    /// Its figures.
    pub figures: &'a Figures,
    /// Seconds it took.
    pub seconds: f64,
}

/// What a sequence came to.
#[derive(Clone, Debug, serde::Serialize)]
pub struct Report {
    /// Folder of the edits.
    pub edits: PathBuf,
    /// Facts written now.
    pub facts: usize,
    /// Facts that were there already.
    pub skipped: usize,
    /// Batches in the folder.
    pub batches: usize,
    /// Seconds of the edits alone.
    pub seconds: f64,
    /// Mean steps of the search.
    pub steps: f64,
    /// By weight: its norm before all edits, and after.
    pub norms: Vec<(String, f64, f64)>,
    /// Perplexity on the guard's texts, before all edits and after.
    pub perplexity: Option<(f64, f64)>,
    /// What the guard would have refused.
    pub warnings: Vec<String>,
}

/// Writes `statements` batch by batch; those whose ids the folder holds are skipped.
///
/// # Errors
/// A base that cannot be edited, edits of another kind in the folder, a batch that fails or that the guard refuses
/// (those before it stay), a signal.
pub fn run(
    options: &EditOptions,
    statements: &[Statement],
    stop: &Stop,
    progress: &mut dyn FnMut(&Made<'_>),
) -> Result<Report> {
    if options.batch == 0 {
        return Err(Error::config("batch", "is 0; must be at least 1"));
    }
    let device = crate::device::device(&options.device)?;
    let (mut editor, folder) = begin(options, &device)?;
    let texts = match &options.guard_texts {
        Some(path) if options.guard.action != Action::Off => Some(read_texts(path, 0)?),
        _ => None,
    };
    let tokenizer = editor.tokenizer.clone();
    let perplexity = |host: &Transformer, texts: &[String]| {
        let model = Scored {
            host,
            tokenizer: &tokenizer,
            hooks: &[],
        };
        perplexity_me(&model, texts)
    };
    // The model is still the base.
    let norms = editor.norms();
    let healthy = texts
        .as_deref()
        .map(|texts| perplexity(&editor.host, texts));
    let healthy = healthy.transpose()?;
    let mut written = Vec::new();
    for number in folder.steps()? {
        let statements = folder.entry(number)?.statements;
        editor.repeat(&folder.read(number)?, &statements)?;
        written.extend(statements);
    }
    let known: std::collections::BTreeSet<&str> = written
        .iter()
        .map(|statement| statement.id.as_str())
        .collect();
    let left: Vec<Statement> = statements
        .iter()
        .filter(|statement| !known.contains(statement.id.as_str()))
        .cloned()
        .collect();
    let mut report = Report {
        edits: folder.path().to_path_buf(),
        facts: 0,
        skipped: statements.len() - left.len(),
        batches: 0,
        seconds: 0.0,
        steps: 0.0,
        norms: Vec::new(),
        perplexity: healthy.map(|perplexity| (perplexity, perplexity)),
        warnings: Vec::new(),
    };
    for (number, part) in (folder.next()?..).zip(left.chunks(options.batch)) {
        if let Some((signal, name)) = stop.requested() {
            return Err(Error::Interrupted {
                signal,
                name,
                step: number - 1,
                run: folder.path().to_path_buf(),
            });
        }
        let begun = Instant::now();
        let before = editor.weights_now()?;
        let mut step = editor.edit(part)?;
        if let (Some(texts), Some((base, last))) = (&texts, &mut report.perplexity) {
            let now = perplexity(&editor.host, texts)?;
            match options.guard.check_perplexity(*base, now) {
                Ok(warning) => step.figures.warnings.extend(warning),
                Err(error) => {
                    editor.put_back(&before)?;
                    return Err(error);
                }
            }
            *last = now;
        }
        let seconds = begun.elapsed().as_secs_f64();
        folder.write(number, part, &step)?;
        editor.remember(&step);
        report.facts += part.len();
        report.seconds += seconds;
        report.steps += step.figures.steps * part.len() as f64;
        report.warnings.extend(step.figures.warnings.clone());
        progress(&Made {
            number,
            done: (report.facts + report.skipped, statements.len()),
            figures: &step.figures,
            seconds,
        });
    }
    report.steps /= report.facts.max(1) as f64;
    report.batches = folder.steps()?.len();
    let after = editor.norms().into_iter();
    let pairs = norms.into_iter().zip(after);
    report.norms = pairs
        .map(|((name, before), (_, after))| (name, before, after))
        .collect();
    Ok(report)
}

/// The editor of the base, and the folder, new or continued.
fn begin(options: &EditOptions, device: &Device) -> Result<(Editor, EditFolder)> {
    let host = modelsmith_hosts::load(&options.host, device)?;
    let tokenizer = Tokenizer::load(&options.host)?;
    crate::tune::check_vocabulary(&host, &tokenizer)?;
    let method = edit_method(&options.method)?;
    let opened = match EditFolder::is_one(&options.output) {
        true => Some(EditFolder::open(&options.output)?),
        false => None,
    };
    let contexts = opened.as_ref().map(|folder| folder.header.contexts.clone());
    let written = Named {
        name: options.method.name.clone(),
        options: match method.options() {
            Value::Object(options) => options,
            _ => Map::new(),
        },
    };
    let mut editor = Editor::new(host, tokenizer, method, contexts, options.seed)?;
    editor.guard = options.guard.clone();
    let hash = base_hash(&options.host)?;
    let corpus = match (&options.corpus, editor.needs_moments()) {
        (Some(path), true) => Some((path.clone(), hash_file(path)?)),
        (None, true) => {
            return Err(Error::Usage(format!(
                "{} keeps what ordinary text needs and must be told what that is; give --corpus FILE, a text \
                 like those that the model was trained on",
                options.method.name
            )));
        }
        (_, false) => None,
    };
    let header = Header {
        format: Header::FORMAT,
        base: options.host.clone(),
        base_hash: hash,
        method: written,
        layers: editor.layers().to_vec(),
        contexts: editor.contexts().to_vec(),
        seed: options.seed,
        guard: options.guard.clone(),
        corpus: corpus.clone(),
    };
    let folder = match opened {
        Some(folder) => same(folder, header)?,
        None => EditFolder::create(&options.output, header)?,
    };
    if let Some((path, hash)) = corpus {
        let texts = read_texts(&path, options.corpus_limit)?;
        let texts = tokens(&editor.host, &editor.tokenizer, &texts)?;
        let key = format!(
            "{} {hash} {} {:?}",
            folder.header.base_hash,
            options.corpus_limit,
            editor.layers()
        );
        let file = folder.path().join("moments.safetensors");
        editor.collect(&texts, Some((&file, &key)))?;
    }
    Ok((editor, folder))
}

/// The folder, if its edits are of the kind that is asked for.
fn same(folder: EditFolder, header: Header) -> Result<EditFolder> {
    let found = &folder.header;
    let differs = [
        ("base", found.base_hash != header.base_hash),
        ("method", found.method != header.method),
        ("layers", found.layers != header.layers),
        ("seed", found.seed != header.seed),
        (
            "corpus",
            found.corpus.as_ref().map(|(_, hash)| hash)
                != header.corpus.as_ref().map(|(_, hash)| hash),
        ),
    ];
    match differs.iter().find(|(_, differs)| *differs) {
        None => Ok(folder),
        Some((what, _)) => Err(Error::Usage(format!(
            "{} holds edits of another {what}; give the same one to go on, or another --output",
            folder.path().display()
        ))),
    }
}

/// The base of a folder of edits with all batches made, or with those of `only` in that order.
///
/// # Errors
/// A base that is gone or has other weights, a damaged batch.
pub fn edited(
    folder: &EditFolder,
    base: Option<&Path>,
    only: Option<&[u64]>,
    device: &Device,
) -> Result<Transformer> {
    let (_, mut host) = base_of(folder, base, device)?;
    let made = folder.steps()?;
    for number in only.unwrap_or(&made) {
        for change in &folder.read(*number)?.changes {
            write(&mut host, change)?;
        }
    }
    Ok(host)
}

/// The base of a folder of edits, or another copy of it, checked by its hash.
pub(crate) fn base_of<'a>(
    folder: &'a EditFolder,
    base: Option<&'a Path>,
    device: &Device,
) -> Result<(&'a Path, Transformer)> {
    let base = base.unwrap_or(&folder.header.base);
    crate::model::check_folder(base)?;
    let hash = base_hash(base)?;
    if hash != folder.header.base_hash {
        return Err(Error::file(
            base,
            format!(
                "has weights that hash to {}; the edits of {} were made for {}; give the same base",
                &hash[..12],
                folder.path().display(),
                folder.header.base_hash.get(..12).unwrap_or_default()
            ),
        ));
    }
    Ok((base, modelsmith_hosts::load(base, device)?))
}

/// The texts of a file: lines of JSON with `text`, or plain lines; `limit` of them, 0 for all.
///
/// # Errors
/// Rows without `text`, a file that cannot be read.
pub fn read_texts(path: &Path, limit: usize) -> Result<Vec<String>> {
    let options = ReadOptions {
        limit,
        document: modelsmith_data::Document::Line,
        ..ReadOptions::default()
    };
    let source = Source::open(path, &options)?;
    let text = |row: Result<(Location, Map<String, Value>)>| {
        let (at, row) = row?;
        let text = row.get("text").and_then(Value::as_str);
        let problem = "has no `text`; a row of a corpus needs one";
        text.map(str::to_owned).ok_or_else(|| at.error(problem))
    };
    source.rows().map(text).collect()
}

/// Texts in tokens, with what the tokenizer puts around a text, cut to what the model can read.
///
/// # Errors
/// Texts that the tokenizer cannot express.
pub fn tokens(
    host: &Transformer,
    tokenizer: &Tokenizer,
    texts: &[String],
) -> Result<Vec<Vec<u32>>> {
    let longest = host.max_positions().min(LONGEST);
    let tokens = |text: &String| {
        let mut ids = tokenizer.encode(text, true)?;
        ids.truncate(longest);
        Ok(ids)
    };
    texts.iter().map(tokens).collect()
}
