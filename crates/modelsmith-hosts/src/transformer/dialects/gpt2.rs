//! GPT-2: layer norms before, learned positions, one transposed projection for q, k and v.

use super::{AttentionNames, CAUSAL, HeadNames, Names, StackNames, head_dim};
use crate::transformer::config::{
    Activation, AttentionConfig, Config, Counting, Dropouts, Head, Place, Positions, Start,
};
use crate::transformer::reader::Reader;
use modelsmith_core::error::Result;
use modelsmith_core::layers::NormKind;

static NAMES: Names = Names {
    family: "GPT2",
    prefix: "transformer",
    base: "",
    tokens: "wte",
    positions: "wpe",
    types: "",
    embedding_norm: "",
    encoder: None,
    stack: StackNames {
        tokens: "",
        blocks: "h",
        attention: AttentionNames {
            site: "attn",
            query: "",
            key: "",
            value: "",
            fused: "attn.c_attn",
            out: "attn.c_proj",
            norm: "ln_1",
        },
        cross: None,
        distances: "",
        gate: "",
        up: "mlp.c_fc",
        down: "mlp.c_proj",
        mlp_norm: "ln_2",
        final_norm: "ln_f",
    },
    heads: HeadNames {
        causal_class: Some("LMHeadModel"),
        token: "classifier",
        ..CAUSAL
    },
    targets: &["c_attn"],
};

/// Keys of GPT-2 that change nothing: the multiple-choice summary, and a way to order the
/// attention product that gives the same numbers.
const HARMLESS: &[&str] = &[
    "n_ctx",
    "summary_activation",
    "summary_first_dropout",
    "summary_proj_to_labels",
    "summary_type",
    "summary_use_proj",
    "reorder_and_upcast_attn",
];

pub(super) fn read(reader: &Reader<'_>) -> Result<(Config, &'static [&'static str])> {
    let width = reader.size("n_embd")?;
    let heads = reader.size("n_head")?;
    let layers = reader.layers("n_layer")?;
    let rows = reader.size("n_positions")?;
    let head_dim = head_dim(width, heads)?;
    let scaled = reader.flag_or("scale_attn_weights", true)?;
    let by_layer = reader.flag_or("scale_attn_by_inverse_layer_idx", false)?;
    let scale = |layer: usize| {
        let scale = if scaled {
            (head_dim as f64).powf(-0.5)
        } else {
            1.0
        };
        if by_layer {
            scale / (layer + 1) as f64
        } else {
            scale
        }
    };
    let config = Config {
        names: &NAMES,
        vocabulary: reader.size("vocab_size")?,
        width,
        embedding_width: width,
        layers,
        encoder: None,
        attention: AttentionConfig {
            heads,
            kv_heads: heads,
            head_dim,
            causal: true,
            fused: true,
            qkv_bias: true,
            out_bias: true,
            qk_norm: false,
            windows: vec![None; layers],
            scales: (0..layers).map(scale).collect(),
        },
        inner: reader.size_or("n_inner", 4 * width)?,
        gated: false,
        mlp_bias: true,
        activation: Activation::read(reader, "activation_function", "gelu_new")?,
        norm: NormKind::Layer,
        epsilon: reader.number_or("layer_norm_epsilon", 1e-5)?,
        place: Place::Pre,
        final_norm: true,
        embedding_norm: false,
        positions: Positions::Learned {
            rows,
            offset: 0,
            counting: Counting::Mask,
        },
        max_positions: rows,
        limit: Some(rows),
        token_types: None,
        pad: reader.size_if("pad_token_id")?,
        tied: reader.flag_or("tie_word_embeddings", true)?,
        dropouts: Dropouts {
            embedding: reader.rate_or("embd_pdrop", 0.1)?,
            attention: reader.rate_or("attn_pdrop", 0.1)?,
            hidden: reader.rate_or("resid_pdrop", 0.1)?,
            classifier: reader.rate_or("classifier_dropout", 0.1)?,
            ..Dropouts::default()
        },
        start: Start {
            deviation: reader.number_or("initializer_range", 0.02)?,
            by_inputs: false,
            residual: (2.0 * layers as f64).sqrt().recip(),
            zero_pad: false,
        },
        head: Head::Base,
        pooler: false,
    };
    Ok((config, HARMLESS))
}
