//! Many adapters on one host: loaded and unloaded while it runs, chosen by each request, rows of different adapters in
//! one batch.
//!
//! Requests whose adapters take up the same number of positions are computed together, whatever the methods; see
//! [`modelsmith_core::mixed`].

mod protocol;

pub use protocol::serve;

use crate::adapter_folder;
use crate::generation::{Completion, Encoder, Prompt, TextOptions, complete_batch};
use crate::model::{AdapterRef, Model, ModelOptions};
use modelsmith_core::error::{Error, Result, suggest};
use modelsmith_core::hooks::{Hooks, Pass};
use modelsmith_core::mixed::Mixed;
use modelsmith_core::roles::Adapter;
use modelsmith_data::Tokenizer;
use serde::Serialize;
use std::collections::BTreeMap;
use std::path::PathBuf;
use std::time::Instant;

/// A text to complete, and by which adapter.
#[derive(Clone, Debug, PartialEq)]
pub struct Request {
    /// Name of the adapter; the host alone without one.
    pub adapter: Option<String>,
    /// What is to be continued.
    pub prompt: Prompt,
}

/// What an adapter costs.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct Cost {
    /// Its name.
    pub adapter: String,
    /// Its method, as the files say.
    pub method: String,
    /// Its numbers.
    pub parameters: u64,
    /// Bytes they take in memory.
    pub bytes: u64,
    /// Positions of every row that it takes up.
    pub virtual_tokens: usize,
    /// Milliseconds that loading took.
    pub load_ms: f64,
    /// Requests answered.
    pub requests: u64,
    /// Tokens generated.
    pub tokens: u64,
    /// Milliseconds per token in the batches that it was in; `None` before the first token.
    pub ms_per_token: Option<f64>,
}

/// A loaded adapter.
struct Tenant {
    adapter: Box<dyn Adapter>,
    cost: Cost,
    seconds: f64,
}

/// A host with named adapters.
pub struct Serving {
    model: Model,
    tokenizer: Tokenizer,
    any_base: bool,
    tenants: BTreeMap<String, Tenant>,
}

impl Serving {
    /// Loads the host; adapters of `options` would be for all requests and are refused.
    ///
    /// # Errors
    /// As [`Model::load`].
    pub fn new(options: &ModelOptions) -> Result<Self> {
        let model = Model::load(options)?;
        if !model.adapters.is_empty() {
            return Err(Error::Usage("name each adapter: ID=FOLDER".into()));
        }
        Ok(Self {
            tokenizer: model.tokenizer()?,
            any_base: options.any_base,
            model,
            tenants: BTreeMap::new(),
        })
    }

    /// Loads an adapter under a name; one of that name is replaced once the new one is there.
    ///
    /// # Errors
    /// A folder that is no adapter of this host.
    pub fn load(&mut self, name: &str, folder: &AdapterRef) -> Result<&Cost> {
        let started = Instant::now();
        let adapter = folder.load(&self.model.host, self.any_base)?;
        let parameters = adapter.parameters();
        let parameters = parameters.iter().map(|one| one.value.len() as u64).sum();
        let record = adapter_folder::provenance(&folder.folder())?;
        let cost = Cost {
            adapter: name.to_owned(),
            method: record.map_or_else(|| "unknown".to_owned(), |record| record.method),
            parameters,
            bytes: parameters * size_of::<f32>() as u64,
            virtual_tokens: in_front(Some(adapter.hooks())).iter().sum(),
            load_ms: started.elapsed().as_secs_f64() * 1e3,
            requests: 0,
            tokens: 0,
            ms_per_token: None,
        };
        let tenant = Tenant {
            adapter,
            cost,
            seconds: 0.0,
        };
        self.tenants.insert(name.to_owned(), tenant);
        Ok(&self.tenants[name].cost)
    }

    /// Takes an adapter out of memory.
    ///
    /// # Errors
    /// None of that name.
    pub fn unload(&mut self, name: &str) -> Result<()> {
        match self.tenants.remove(name) {
            Some(_) => Ok(()),
            None => Err(self.unknown(name)),
        }
    }

    fn unknown(&self, name: &str) -> Error {
        let near = suggest(name, self.tenants.keys().map(String::as_str));
        Error::Usage(format!("no adapter `{name}` is loaded; {near}"))
    }

    /// What the adapters cost, by name.
    pub fn costs(&self) -> Vec<&Cost> {
        self.tenants.values().map(|tenant| &tenant.cost).collect()
    }

    /// The adapter of a name, as hooks.
    ///
    /// # Errors
    /// None of that name.
    pub fn hooks(&self, name: Option<&str>) -> Result<Option<&dyn Hooks>> {
        let Some(name) = name else { return Ok(None) };
        match self.tenants.get(name) {
            Some(tenant) => Ok(Some(tenant.adapter.hooks())),
            None => Err(self.unknown(name)),
        }
    }

    /// The host.
    pub fn model(&self) -> &Model {
        &self.model
    }

    /// Completes requests in as few batches as their adapters allow; the answers are in their order.
    ///
    /// # Errors
    /// An adapter that is not loaded (nothing is computed), and as [`crate::generation::complete`].
    pub fn complete(
        &mut self,
        requests: &[Request],
        options: &TextOptions,
    ) -> Result<Vec<Completion>> {
        let prompts: Vec<Prompt> = requests.iter().map(|one| one.prompt.clone()).collect();
        let apart = self.model.host.decoder_start().is_some();
        let encoder = Encoder::new(&self.tokenizer, &prompts, options, apart)?;
        let read = prompts.iter().map(|prompt| encoder.encode(prompt));
        let read: Vec<(String, Vec<u32>)> = read.collect::<Result<_>>()?;
        let mut answers: Vec<Option<Completion>> = vec![None; requests.len()];
        for batch in self.batches(requests, options.batch_size)? {
            let of = |row: &usize| self.hooks(requests[*row].adapter.as_deref());
            let hooks: Vec<Option<&dyn Hooks>> = batch.iter().map(of).collect::<Result<_>>()?;
            let mixed = Mixed::new(&hooks)?;
            let rows: Vec<(String, Vec<u32>)> =
                batch.iter().map(|row| read[*row].clone()).collect();
            let texts = complete_batch(
                &self.model.host,
                &[&mixed],
                &self.tokenizer,
                &rows,
                options,
                &mut |_, _| true,
            )?;
            for (row, text) in batch.into_iter().zip(texts) {
                answers[row] = Some(text);
            }
        }
        let answers: Vec<Completion> = answers.into_iter().flatten().collect();
        for (request, answer) in requests.iter().zip(&answers) {
            self.count(request, answer);
        }
        Ok(answers)
    }

    /// Rows that can be computed together, at most `size` each.
    fn batches(&self, requests: &[Request], size: usize) -> Result<Vec<Vec<usize>>> {
        let mut by_front: BTreeMap<[usize; 2], Vec<usize>> = BTreeMap::new();
        for (row, request) in requests.iter().enumerate() {
            let front = in_front(self.hooks(request.adapter.as_deref())?);
            by_front.entry(front).or_default().push(row);
        }
        let groups = by_front.into_values();
        let batches = groups.flat_map(|rows| {
            let chunks = rows.chunks(size.max(1)).map(<[usize]>::to_vec);
            chunks.collect::<Vec<_>>()
        });
        Ok(batches.collect())
    }

    fn count(&mut self, request: &Request, answer: &Completion) {
        let name = request.adapter.as_deref().unwrap_or_default();
        let Some(tenant) = self.tenants.get_mut(name) else {
            return;
        };
        tenant.cost.requests += 1;
        tenant.cost.tokens += answer.tokens as u64;
        tenant.seconds += answer.seconds;
        if tenant.cost.tokens > 0 {
            tenant.cost.ms_per_token = Some(tenant.seconds * 1e3 / tenant.cost.tokens as f64);
        }
    }
}

/// Virtual tokens and keys in front of each row.
fn in_front(hooks: Option<&dyn Hooks>) -> [usize; 2] {
    let Some(hooks) = hooks else { return [0; 2] };
    let prompt = hooks.prompt(&Pass::default());
    [prompt.map_or(0, |prompt| prompt.dims()[1]), hooks.prefix()]
}

/// Reads `ID=FOLDER` or `ID=FOLDER@WEIGHT`; without an id the folder's name is one.
///
/// # Errors
/// An empty id, a weight that is not finite.
pub fn named_adapter(text: &str) -> Result<(String, AdapterRef)> {
    let (name, folder) = match text.split_once('=') {
        Some((name, folder)) => (name.to_owned(), folder),
        None => {
            let path = PathBuf::from(text);
            let name = path
                .file_name()
                .map(|name| name.to_string_lossy().into_owned());
            (name.unwrap_or_default(), text)
        }
    };
    match name.is_empty() {
        true => Err(Error::Usage(format!(
            "--adapter {text}: give it a name, ID=FOLDER"
        ))),
        false => Ok((name, AdapterRef::parse(folder)?)),
    }
}
