//! The plan of a model: its sites in forward order, its weights by name, and which layer of the
//! network stands at which site. It is made from the configuration alone, before anything is read.

use modelsmith_core::sites::Site;

/// A weight that the checkpoint must hold.
#[derive(Clone, Debug)]
pub(crate) struct WeightSpec {
    /// Canonical name, as the class's `state_dict` has it.
    pub(crate) name: String,
    pub(crate) shape: Vec<usize>,
    pub(crate) init: Init,
    /// Belongs to the head, so that a fresh one can be asked for.
    pub(crate) head: bool,
}

/// How a fresh weight starts.
#[derive(Clone, Copy, Debug, PartialEq)]
pub(crate) enum Init {
    Zeros,
    Ones,
    /// Normal values with this deviation; the row of the padding token is zero.
    Normal {
        deviation: f64,
        zero_row: Option<usize>,
    },
}

/// A dense layer to be made: numbers of its weights.
#[derive(Clone, Copy, Debug)]
pub(crate) struct LinearSpec {
    pub(crate) weight: usize,
    pub(crate) bias: Option<usize>,
    pub(crate) fan_in_fan_out: bool,
}

/// A norm to be made.
#[derive(Clone, Copy, Debug)]
pub(crate) struct NormSpec {
    pub(crate) weight: usize,
    pub(crate) bias: Option<usize>,
}

/// A layer of the network at its site.
#[derive(Clone, Copy, Debug)]
pub(crate) struct At {
    /// Number of the site.
    pub(crate) site: usize,
    /// Number among the layers of its kind.
    pub(crate) layer: usize,
}

/// Queries, keys and values: one projection or three.
#[derive(Clone, Copy, Debug)]
pub(crate) enum Projections {
    Fused(At),
    Split { query: At, key: At, value: At },
}

/// Attention of tokens to those of their own text.
#[derive(Clone, Copy, Debug)]
pub(crate) struct AttentionPlan {
    pub(crate) norm: At,
    pub(crate) projections: Projections,
    /// Norms over the heads of queries and keys.
    pub(crate) qk_norms: Option<(At, At)>,
    pub(crate) mix: MixPlan,
}

/// Attention to the last state of the encoder.
#[derive(Clone, Copy, Debug)]
pub(crate) struct CrossPlan {
    pub(crate) norm: At,
    pub(crate) query: At,
    pub(crate) key: At,
    pub(crate) value: At,
    pub(crate) mix: MixPlan,
}

/// Where queries, keys and values meet, and the layer behind.
#[derive(Clone, Copy, Debug)]
pub(crate) struct MixPlan {
    /// Number of the attention site.
    pub(crate) site: usize,
    pub(crate) out: At,
}

/// One block.
#[derive(Clone, Debug)]
pub(crate) struct BlockPlan {
    pub(crate) site: usize,
    pub(crate) attention: AttentionPlan,
    pub(crate) cross: Option<CrossPlan>,
    pub(crate) mlp_norm: At,
    pub(crate) gate: Option<At>,
    pub(crate) up: At,
    pub(crate) down: At,
}

/// Blocks that a text passes one after the other.
#[derive(Clone, Debug, Default)]
pub(crate) struct StackPlan {
    /// Leads the names of draws that belong to no site; empty for the only stack.
    pub(crate) name: &'static str,
    /// Tokens see no later ones.
    pub(crate) causal: bool,
    /// Where tokens are looked up.
    pub(crate) tokens: Option<At>,
    /// Table of the bias by distance.
    pub(crate) distances: Option<At>,
    pub(crate) blocks: Vec<BlockPlan>,
    pub(crate) final_norm: Option<At>,
}

/// What stands on the last hidden state.
#[derive(Clone, Copy, Debug)]
pub(crate) enum HeadPlan {
    None,
    Causal(At),
    Masked {
        dense: At,
        norm: At,
        decoder: At,
    },
    /// `score` at the last real token.
    Last(At),
    /// Pooler and classifier at the first token.
    Pooled {
        pooler: At,
        classifier: At,
    },
    /// A dense layer, tanh and a classifier at the first token.
    First {
        dense: At,
        classifier: At,
    },
    Tokens(At),
}

/// A whole model.
#[derive(Clone, Debug, Default)]
pub(crate) struct Plan {
    pub(crate) sites: Vec<Site>,
    pub(crate) weights: Vec<WeightSpec>,
    pub(crate) embeddings: Vec<usize>,
    pub(crate) linears: Vec<LinearSpec>,
    pub(crate) norms: Vec<NormSpec>,
    pub(crate) positions: Option<At>,
    pub(crate) types: Option<At>,
    pub(crate) embedding_norm: Option<At>,
    pub(crate) project_in: Option<At>,
    pub(crate) encoder: Option<StackPlan>,
    /// The only stack, or the decoder.
    pub(crate) stack: StackPlan,
    pub(crate) project_out: Option<At>,
    pub(crate) pooler: Option<At>,
    pub(crate) head: Option<HeadPlan>,
    /// The output site.
    pub(crate) output: Option<usize>,
}

impl Plan {
    /// Both stacks, or the only one, in forward order.
    pub(crate) fn stacks(&self) -> impl Iterator<Item = &StackPlan> {
        self.encoder.iter().chain([&self.stack])
    }
}
