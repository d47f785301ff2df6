//! The house model: a small Llama that knows a generated world, so that every fact it should know
//! is known exactly.

use burn::tensor::Device;
use modelsmith_core::error::{Error, Result};
use modelsmith_core::files::{atomic_json, read_json};
use modelsmith_core::hooks::{Hooks, Pass};
use modelsmith_data::house::{self, Fact};
pub use modelsmith_data::house::{HouseConfig, edits};
use modelsmith_data::{Batch, IGNORED, Tokenizer};
use modelsmith_hosts::{Head, Transformer};
use serde::Serialize;
use serde_json::{Value, json};
use std::path::Path;

use crate::train::{outputs, prepare};

/// Rows that a recall check reads at once.
const BATCH: usize = 64;

/// Writes the corpus, facts, questions, tokenizer and `config.json` of the house model.
///
/// # Errors
/// Options out of range, files that cannot be written.
pub fn make(config: &HouseConfig, folder: &Path) -> Result<()> {
    let files = house::write(config, folder)?;
    house::write_tokenizer(&files.corpus, folder, config.vocabulary, config.max_length)?;
    atomic_json(folder.join("house.json"), config)?;
    atomic_json(folder.join("config.json"), &architecture(config))
}

/// A Llama of about 1.3 million parameters.
fn architecture(config: &HouseConfig) -> Value {
    json!({
        "architectures": ["LlamaForCausalLM"],
        "model_type": "llama",
        "vocab_size": config.vocabulary,
        "hidden_size": 160,
        "intermediate_size": 448,
        "num_hidden_layers": 4,
        "num_attention_heads": 5,
        "num_key_value_heads": 5,
        "head_dim": 32,
        "hidden_act": "silu",
        "max_position_embeddings": config.max_length,
        "rms_norm_eps": 1e-5,
        "rope_theta": 10000.0,
        "initializer_range": 0.02,
        "attention_bias": false,
        "mlp_bias": false,
        "tie_word_embeddings": true,
        "bos_token_id": 0,
        "eos_token_id": 1,
        "pad_token_id": 2,
        "torch_dtype": "float16"
    })
}

/// The generator's options that a house model folder records.
///
/// # Errors
/// No or a malformed `house.json`.
pub fn config_of(folder: &Path) -> Result<HouseConfig> {
    read_json(folder.join("house.json"))
}

/// How much of what it should know a model completes.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize)]
pub struct Recall {
    /// Prompts whose greedy completion is the object.
    pub right: usize,
    /// Prompts asked.
    pub asked: usize,
}

impl Recall {
    /// Share of prompts completed rightly.
    pub fn share(&self) -> f64 {
        self.right as f64 / self.asked.max(1) as f64
    }
}

/// Greedy completion of every paraphrase of the facts.
///
/// # Errors
/// Prompts that the tokenizer cannot express or the host refuses.
pub fn recall(
    host: &Transformer,
    tokenizer: &Tokenizer,
    facts: &[Fact],
    hooks: &[&dyn Hooks],
    device: &Device,
) -> Result<Recall> {
    let pairs = facts.iter().flat_map(|fact| {
        let completion = format!(" {}.", fact.object);
        fact.prompts
            .iter()
            .map(move |prompt| (prompt.clone(), completion.clone()))
    });
    completions(host, tokenizer, &pairs.collect::<Vec<_>>(), hooks, device)
}

/// How much of its own world a house model knows.
///
/// # Errors
/// A folder that holds no house model, and as [`recall`].
pub fn recall_of(folder: &Path, device: &str) -> Result<Recall> {
    let device = crate::device::device(device)?;
    let facts = house::facts(&config_of(folder)?)?;
    let tokenizer = Tokenizer::load(folder)?;
    let host = modelsmith_hosts::load(folder, &device)?;
    recall(&host, &tokenizer, &facts, &[], &device)
}

/// Counts the (prompt, completion) pairs that greedy decoding reproduces.
///
/// Greedy decoding gives a completion exactly when each of its tokens has the highest score after
/// the tokens before it, so one pass over prompt and completion decides, without generating.
///
/// # Errors
/// As [`recall`].
pub fn completions(
    host: &Transformer,
    tokenizer: &Tokenizer,
    pairs: &[(String, String)],
    hooks: &[&dyn Hooks],
    device: &Device,
) -> Result<Recall> {
    if host.head() != Head::CausalLm {
        return Err(Error::Usage("recall needs a causal language model".into()));
    }
    let mut encoded = Vec::with_capacity(pairs.len());
    for (prompt, completion) in pairs {
        let before = tokenizer.encode(prompt, true)?;
        let after = tokenizer.encode(completion, false)?;
        encoded.push((before, after));
    }
    // Rows of like length share a batch, so that little is padding.
    encoded.sort_by_key(|(before, after)| before.len() + after.len());
    let mut recall = Recall::default();
    for rows in encoded.chunks(BATCH) {
        recall.right += right_rows(host, rows, hooks, device)?;
        recall.asked += rows.len();
    }
    Ok(recall)
}

fn right_rows(
    host: &Transformer,
    rows: &[(Vec<u32>, Vec<u32>)],
    hooks: &[&dyn Hooks],
    device: &Device,
) -> Result<usize> {
    let batch = batch_of(rows);
    let prepared = prepare(&batch, host.head(), None, device)?;
    let pass = Pass::default();
    let hidden = host.hidden(&prepared.input, &pass, hooks, None)?;
    let logits = outputs(host, hidden, &prepared, &pass, hooks);
    let best: Vec<i64> = logits
        .argmax(1)
        .into_data()
        .convert::<i64>()
        .try_into_vec()
        .map_err(|error| Error::Failed(format!("{error:?}")))?;
    let hits: Vec<bool> = best
        .iter()
        .zip(&prepared.targets)
        .map(|(a, b)| a == b)
        .collect();
    let mut at = 0;
    let mut right = 0;
    for (_, after) in rows {
        right += usize::from(hits[at..at + after.len()].iter().all(|hit| *hit));
        at += after.len();
    }
    Ok(right)
}

/// Prompts and completions as a right-padded batch whose labels are the completions.
fn batch_of(rows: &[(Vec<u32>, Vec<u32>)]) -> Batch {
    let width = rows
        .iter()
        .map(|(a, b)| a.len() + b.len())
        .max()
        .unwrap_or(0);
    let mut batch = Batch {
        shape: [rows.len(), width],
        ..Batch::default()
    };
    for (number, (before, after)) in rows.iter().enumerate() {
        let gap = width - before.len() - after.len();
        batch.ids.extend(before.iter().chain(after));
        batch.ids.extend(std::iter::repeat_n(0, gap));
        batch
            .labels
            .extend(std::iter::repeat_n(IGNORED, before.len()));
        batch.labels.extend(after.iter().map(|id| *id as i32));
        batch.labels.extend(std::iter::repeat_n(IGNORED, gap));
        batch
            .attention_mask
            .extend(std::iter::repeat_n(1, width - gap));
        batch.attention_mask.extend(std::iter::repeat_n(0, gap));
        batch.positions.extend(0..width as u32);
        batch.rows.push(number as u64);
    }
    batch
}
