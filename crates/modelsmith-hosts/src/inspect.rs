//! What is in a host: its sites with shapes, types and sizes, and the memory it takes.

use crate::Transformer;
use modelsmith_core::host::Host;
use modelsmith_core::parameters::Flat;
use modelsmith_core::sites::{Site, SiteKind};
use serde::Serialize;
use std::collections::BTreeSet;

/// A host as a table.
#[derive(Clone, Debug, Serialize)]
pub struct Inspection {
    /// `model_type` of the configuration.
    pub model_type: String,
    /// Class of the model.
    pub architecture: String,
    /// Where it was loaded from.
    pub origin: String,
    /// Number of blocks.
    pub layers: usize,
    /// Width of the residual stream.
    pub hidden_size: usize,
    /// Rows of the token embedding.
    pub vocabulary: usize,
    /// Longest sequence.
    pub max_positions: usize,
    /// Numbers in all weights, each tied one once.
    pub parameters: usize,
    /// Tensors that these are in.
    pub tensors: usize,
    /// All sites, in forward order.
    pub sites: Vec<SiteEntry>,
    /// Memory in bytes.
    pub memory: MemoryEstimate,
    /// Stored tensors that were not used: buffers, tied copies, other heads.
    pub skipped: Vec<String>,
}

/// One site.
#[derive(Clone, Debug, Serialize)]
pub struct SiteEntry {
    /// Module path.
    pub path: String,
    /// What it computes.
    pub kind: SiteKind,
    /// Shape of its weight as stored; input and output width where it has none.
    pub shape: Vec<usize>,
    /// Whether it has a bias.
    pub bias: bool,
    /// Type in the checkpoint; absent without a weight, or with one that was drawn afresh.
    pub dtype: Option<&'static str>,
    /// Numbers in its own weights; 0 where the weight is shared with another site.
    pub parameters: usize,
    /// Path of the site that owns the shared weight.
    pub tied_to: Option<String>,
}

/// What a host takes in memory, in bytes.
#[derive(Clone, Copy, Debug, Serialize)]
pub struct MemoryEstimate {
    /// The weights in the checkpoint.
    pub stored: usize,
    /// The weights in memory, which are f32.
    pub weights: usize,
    /// Keys and values of one cached token.
    pub cache_per_token: usize,
    /// Full fine-tuning with AdamW: weights, gradients and two moments.
    pub full_fine_tuning: usize,
}

/// Lists a host's sites and sizes.
pub fn describe(host: &Transformer) -> Inspection {
    let info = host.info();
    let mut counted = BTreeSet::new();
    let sites = host
        .sites()
        .iter()
        .map(|site| entry(host, site, &mut counted))
        .collect();
    let names = host.weight_names();
    let stored = names.iter().map(|name| {
        let size = host
            .stored_dtype(name)
            .map_or(size_of::<f32>(), |dtype| dtype.size());
        host.weight(name).map_or(0, |weight| weight.len()) * size
    });
    let parameters = host.parameter_count();
    let weights = parameters * size_of::<f32>();
    Inspection {
        model_type: info.model_type.clone(),
        architecture: info.architecture.clone(),
        origin: info.origin.clone(),
        layers: host.num_layers(),
        hidden_size: host.hidden_size(),
        vocabulary: host.vocab_size(),
        max_positions: host.max_positions(),
        parameters,
        tensors: names.len(),
        sites,
        memory: MemoryEstimate {
            stored: stored.sum(),
            weights,
            cache_per_token: if host.is_causal() {
                host.cache_bytes_per_token()
            } else {
                0
            },
            full_fine_tuning: 4 * weights,
        },
        skipped: host.skipped().to_vec(),
    }
}

fn entry(host: &Transformer, site: &Site, counted: &mut BTreeSet<String>) -> SiteEntry {
    let (weight, bias) = host.site_weights(site);
    let owned: Vec<&String> = [weight.as_ref(), bias.as_ref()]
        .into_iter()
        .flatten()
        .filter(|name| counted.insert((*name).clone()))
        .collect();
    let size = |name: &&String| host.weight(name).map_or(0, |weight| Flat::len(&weight));
    let shape = weight
        .as_ref()
        .and_then(|name| host.weight(name))
        .map(|weight| weight.shape);
    SiteEntry {
        path: site.path.clone(),
        kind: site.kind,
        shape: shape.unwrap_or_else(|| vec![site.inputs, site.outputs]),
        bias: site.bias,
        dtype: weight
            .as_ref()
            .and_then(|name| host.stored_dtype(name))
            .map(|dtype| dtype.name()),
        parameters: owned.iter().map(size).sum(),
        tied_to: site.tied_to.clone(),
    }
}
