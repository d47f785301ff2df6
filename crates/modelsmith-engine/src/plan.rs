//! What a recipe would do, before it does it.

use crate::recipe::Recipe;
use crate::train::total_steps;
use crate::tune::Parts;
use modelsmith_core::error::Result;
use modelsmith_core::hooks::virtual_tokens;
use modelsmith_core::host::Host;
use modelsmith_core::sites::SiteKind;
use modelsmith_data::{Counts, Format, Packing, show_mask};
use serde::Serialize;
use std::path::PathBuf;

/// The plan of a run.
#[derive(Clone, Debug, Serialize)]
pub struct Plan {
    /// The host.
    pub host: PathBuf,
    /// Its class.
    pub architecture: String,
    /// Method id.
    pub method: String,
    /// Sites the method attaches to.
    pub sites: Vec<String>,
    /// Numbers that training changes.
    pub trained_parameters: u64,
    /// Numbers of the host.
    pub host_parameters: u64,
    /// What a row of the data is.
    pub format: Format,
    /// Names of the classes.
    pub classes: Vec<String>,
    /// What becomes of the rows.
    pub data: Counts,
    /// Whether the counts cover all rows.
    pub complete: bool,
    /// Held-out batches an evaluation reads.
    pub held_out_batches: u64,
    /// Longest sequence in tokens.
    pub max_length: usize,
    /// Optimizer steps.
    pub steps: u64,
    /// Sequences an optimizer step reads.
    pub sequences_per_step: u64,
    /// Memory in bytes, estimated.
    pub memory: Memory,
    /// The first example as pieces of text, each with whether it counts in the loss.
    pub first_example: Vec<(String, bool)>,
}

/// An estimate of the memory of training, in bytes.
#[derive(Clone, Copy, Debug, Serialize)]
pub struct Memory {
    /// The host's weights.
    pub host: u64,
    /// What is trained, its gradient and the optimizer's two moments.
    pub trained: u64,
    /// Activations kept for the backward pass of one batch at full length.
    pub activations: u64,
    /// All of it.
    pub total: u64,
}

/// Loads what a recipe names and says what training would do; nothing is written.
///
/// # Errors
/// As [`Parts::load`].
pub fn plan(recipe: &Recipe) -> Result<Plan> {
    let parts = Parts::load(recipe)?;
    let first = parts.data.train.first()?;
    let mask = first
        .map(|first| show_mask(&parts.tokenizer, &first))
        .transpose()?;
    let held = parts.data.held_out.as_ref();
    let parameters = parts.adapter.parameters();
    let trained = parameters.iter().filter(|parameter| parameter.trainable);
    let trained: u64 = trained.map(|parameter| parameter.value.len() as u64).sum();
    Ok(Plan {
        host: recipe
            .host
            .fresh
            .clone()
            .unwrap_or_else(|| recipe.host.path.clone()),
        architecture: parts.host.info().architecture.clone(),
        method: recipe.method.name.clone(),
        sites: parts
            .adapter
            .sites()
            .iter()
            .map(|site| site.path.clone())
            .collect(),
        trained_parameters: trained,
        host_parameters: parts.host.parameter_count() as u64,
        format: parts.data.format,
        classes: parts.data.classes.clone(),
        data: parts.data.counts,
        complete: parts.data.complete,
        held_out_batches: held.map_or(Ok(0), |held| held.batches_in_epoch(0))?,
        max_length: parts.data.max_length,
        steps: total_steps(&recipe.train, &parts.data.train)?,
        sequences_per_step: recipe.data.batch_size as u64 * recipe.train.accumulation,
        memory: memory(recipe, &parts, trained),
        first_example: mask.unwrap_or_default(),
    })
}

/// Every dense layer keeps its input and output, every norm its input, every attention its
/// probabilities twice; recomputing blocks leaves one block's share and the blocks' inputs.
fn memory(recipe: &Recipe, parts: &Parts, trained: u64) -> Memory {
    const F32: u64 = 4;
    let time = match recipe.data.packing {
        Packing::None => parts.data.max_length.min(longest(parts)),
        Packing::Pack | Packing::Chunk => parts.data.max_length,
    };
    let time = (time + virtual_tokens(&[parts.adapter.hooks()])) as u64;
    let tokens = recipe.data.batch_size as u64 * time;
    let config = &parts.host.info().config;
    let heads = ["num_attention_heads", "n_head", "num_heads"]
        .iter()
        .find_map(|key| config[*key].as_u64());
    let heads = heads.unwrap_or(1);
    let per_token: u64 = parts
        .host
        .sites()
        .iter()
        .map(|site| match site.kind {
            SiteKind::Linear => (site.inputs + site.outputs) as u64,
            SiteKind::Norm => site.outputs as u64,
            SiteKind::Attention => 2 * heads * time,
            _ => 0,
        })
        .sum();
    let layers = parts.host.num_layers().max(1) as u64;
    let kept = if recipe.train.gradient_checkpointing {
        per_token / layers + layers * parts.host.hidden_size() as u64
    } else {
        per_token
    };
    let host = parts.host.parameter_count() as u64 * F32;
    let (trained, activations) = (4 * trained * F32, kept * tokens * F32);
    Memory {
        host,
        trained,
        activations,
        total: host + trained + activations,
    }
}

/// The mean length of the rows bounds a batch better than the model's limit where rows are short.
fn longest(parts: &Parts) -> usize {
    let Counts { all_tokens, .. } = parts.data.counts;
    let rows = parts.data.counts.kept().max(1);
    // Twice the mean: batches are padded to their longest row.
    usize::try_from(2 * all_tokens / rows)
        .unwrap_or(usize::MAX)
        .max(1)
}
