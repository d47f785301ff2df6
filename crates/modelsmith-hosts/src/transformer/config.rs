//! What one transformer block needs to know, whatever family the checkpoint is of.

use super::dialects::Names;
use super::relative::Relative;
use super::rope::Rope;
use modelsmith_core::hooks::AttentionShape;
use modelsmith_core::layers::NormKind;

/// What stands on top of the last hidden state.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Head {
    /// Nothing: the bare model (BERT and RoBERTa with their pooler where it is stored).
    Base,
    /// Logits of the next token.
    CausalLm,
    /// Logits of the masked tokens.
    MaskedLm,
    /// One row of this many classes a sequence.
    SequenceClasses(usize),
    /// This many classes a token.
    TokenClasses(usize),
    /// Logits of the next token of an answer to the text that an encoder read; every answer begins
    /// behind this token, which is no part of it.
    Seq2SeqLm(u32),
}

/// Which model of a family to build, when it is not the one `architectures` names.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Task {
    /// The bare model.
    Base,
    /// Next-token prediction.
    CausalLm,
    /// Masked-token prediction.
    MaskedLm,
    /// One label a sequence.
    SequenceClassification,
    /// One label a token.
    TokenClassification,
    /// Next-token prediction in a decoder, of an answer to the encoder's text.
    Seq2SeqLm,
}

/// The element-wise function of the MLP.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Activation {
    /// `x / (1 + exp(-x))`.
    Silu,
    /// `x Phi(x)` with the error function.
    Gelu,
    /// The tanh approximation of GELU.
    GeluTanh,
    /// `max(x, 0)`.
    Relu,
}

/// How a token's place in the sequence enters.
#[derive(Clone, Debug)]
pub(crate) enum Positions {
    /// Rotation of queries and keys.
    Rope(Rope),
    /// A bias of the scores by the distance of key and query.
    Relative(Relative),
    /// A learned table added to the token embedding.
    Learned {
        /// Rows of the table.
        rows: usize,
        /// Added to a position before the lookup.
        offset: usize,
        /// How positions follow from the input when none are given.
        counting: Counting,
    },
}

/// Which tokens are counted to number the positions.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Counting {
    /// Every column of the batch, padding too (BERT).
    Columns,
    /// Real tokens by the mask.
    Mask,
    /// Tokens other than the padding token, which itself stays at the offset (RoBERTa).
    NotPad,
}

/// Where the norms stand.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Place {
    /// Before attention and MLP.
    Pre,
    /// After each residual sum.
    Post,
}

/// Attention of all layers.
#[derive(Clone, Debug)]
pub(crate) struct AttentionConfig {
    pub(crate) heads: usize,
    pub(crate) kv_heads: usize,
    pub(crate) head_dim: usize,
    /// The only stack, or the decoder, sees no later key; an encoder sees all.
    pub(crate) causal: bool,
    /// Queries, keys and values come from one projection stored as (in, out).
    pub(crate) fused: bool,
    pub(crate) qkv_bias: bool,
    pub(crate) out_bias: bool,
    /// Norm over each head of queries and keys.
    pub(crate) qk_norm: bool,
    /// Sliding window of each layer.
    pub(crate) windows: Vec<Option<usize>>,
    /// Scale of the scores of each layer.
    pub(crate) scales: Vec<f64>,
}

impl AttentionConfig {
    /// What a layer's attention site is told.
    pub(crate) fn shape(&self, layer: usize) -> AttentionShape {
        AttentionShape {
            heads: self.heads,
            kv_heads: self.kv_heads,
            head_dim: self.head_dim,
            scale: self.scales[layer],
        }
    }
}

/// Dropout rates while training, as `transformers` applies them in train mode.
#[derive(Clone, Copy, Debug, Default)]
pub(crate) struct Dropouts {
    pub(crate) embedding: f64,
    pub(crate) attention: f64,
    /// Before the MLP's last matrix.
    pub(crate) inner: f64,
    pub(crate) hidden: f64,
    /// After the last norm of a stack.
    pub(crate) top: f64,
    pub(crate) classifier: f64,
}

/// How fresh weights are drawn.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Start {
    /// Standard deviation of matrices and tables.
    pub(crate) deviation: f64,
    /// Divides a matrix's deviation by the root of its inputs, a query's by that of a head's width
    /// too, where attention is not scaled.
    pub(crate) by_inputs: bool,
    /// Factor on the deviation of the projections that write to the residual stream.
    pub(crate) residual: f64,
    /// The row of the padding token starts at zero.
    pub(crate) zero_pad: bool,
}

/// The encoder beside a decoder; both have the same sizes but for their numbers of blocks.
#[derive(Clone, Copy, Debug)]
pub(crate) struct EncoderConfig {
    pub(crate) layers: usize,
    /// Id that every answer begins behind.
    pub(crate) start: usize,
    /// Multiplies the decoder's last state before the head.
    pub(crate) output_scale: f64,
}

impl Config {
    /// What multiplies the last hidden state before the head of a language model.
    pub(crate) fn output_scale(&self) -> f64 {
        self.encoder.map_or(1.0, |encoder| encoder.output_scale)
    }
}

/// A whole transformer.
#[derive(Clone, Debug)]
pub(crate) struct Config {
    pub(crate) names: &'static Names,
    pub(crate) vocabulary: usize,
    pub(crate) width: usize,
    /// Width of the token embedding; differs from `width` in OPT-350m only.
    pub(crate) embedding_width: usize,
    /// Blocks of the only stack, or of the decoder.
    pub(crate) layers: usize,
    pub(crate) encoder: Option<EncoderConfig>,
    pub(crate) attention: AttentionConfig,
    pub(crate) inner: usize,
    pub(crate) gated: bool,
    pub(crate) mlp_bias: bool,
    pub(crate) activation: Activation,
    pub(crate) norm: NormKind,
    pub(crate) epsilon: f64,
    pub(crate) place: Place,
    pub(crate) final_norm: bool,
    pub(crate) embedding_norm: bool,
    pub(crate) positions: Positions,
    /// Longest sequence the configuration speaks of.
    pub(crate) max_positions: usize,
    /// Longest sequence that is accepted; dynamic RoPE has no end.
    pub(crate) limit: Option<usize>,
    pub(crate) token_types: Option<usize>,
    pub(crate) pad: Option<usize>,
    pub(crate) tied: bool,
    pub(crate) dropouts: Dropouts,
    pub(crate) start: Start,
    pub(crate) head: Head,
    /// A bare encoder carries its pooler.
    pub(crate) pooler: bool,
}
