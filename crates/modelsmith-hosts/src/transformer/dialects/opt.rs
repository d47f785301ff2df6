//! OPT: layer norms before (or after, in the 350m), learned positions that start at row 2.

use super::{AttentionNames, CAUSAL, Names, StackNames, head_dim};
use crate::transformer::config::{
    Activation, AttentionConfig, Config, Counting, Dropouts, Head, Place, Positions, Start,
};
use crate::transformer::reader::Reader;
use modelsmith_core::error::Result;
use modelsmith_core::layers::NormKind;

/// Rows of the position table before that of position 0.
const OFFSET: usize = 2;

static NAMES: Names = Names {
    family: "OPT",
    prefix: "model",
    base: "decoder",
    tokens: "embed_tokens",
    positions: "embed_positions",
    types: "",
    embedding_norm: "",
    encoder: None,
    stack: StackNames {
        tokens: "",
        blocks: "layers",
        attention: AttentionNames {
            site: "self_attn",
            query: "self_attn.q_proj",
            key: "self_attn.k_proj",
            value: "self_attn.v_proj",
            fused: "",
            out: "self_attn.out_proj",
            norm: "self_attn_layer_norm",
        },
        cross: None,
        distances: "",
        gate: "",
        up: "fc1",
        down: "fc2",
        mlp_norm: "final_layer_norm",
        final_norm: "final_layer_norm",
    },
    heads: CAUSAL,
    targets: &["q_proj", "v_proj"],
};

pub(super) fn read(reader: &Reader<'_>) -> Result<(Config, &'static [&'static str])> {
    let width = reader.size("hidden_size")?;
    let heads = reader.size("num_attention_heads")?;
    let layers = reader.layers("num_hidden_layers")?;
    let positions = reader.size_or("max_position_embeddings", 2048)?;
    let head_dim = head_dim(width, heads)?;
    let bias = reader.flag_or("enable_bias", true)?;
    let before = reader.flag_or("do_layer_norm_before", true)?;
    let without_final = reader.flag_or("_remove_final_layer_norm", false)?;
    reader.only("layer_norm_elementwise_affine", &true.into())?;
    reader.only("layerdrop", &0.0.into())?;
    let config = Config {
        names: &NAMES,
        vocabulary: reader.size("vocab_size")?,
        width,
        embedding_width: reader.size_or("word_embed_proj_dim", width)?,
        layers,
        encoder: None,
        attention: AttentionConfig {
            heads,
            kv_heads: heads,
            head_dim,
            causal: true,
            fused: false,
            qkv_bias: bias,
            out_bias: bias,
            qk_norm: false,
            windows: vec![None; layers],
            scales: vec![(head_dim as f64).powf(-0.5); layers],
        },
        inner: reader.size("ffn_dim")?,
        gated: false,
        mlp_bias: bias,
        activation: Activation::read(reader, "activation_function", "relu")?,
        norm: NormKind::Layer,
        epsilon: 1e-5,
        place: if before { Place::Pre } else { Place::Post },
        final_norm: before && !without_final,
        embedding_norm: false,
        positions: Positions::Learned {
            rows: positions + OFFSET,
            offset: OFFSET,
            counting: Counting::Mask,
        },
        max_positions: positions,
        limit: Some(positions),
        token_types: None,
        pad: reader.size_if("pad_token_id")?,
        tied: reader.flag_or("tie_word_embeddings", true)?,
        dropouts: Dropouts {
            attention: reader.rate_or("attention_dropout", 0.0)?,
            hidden: reader.rate_or("dropout", 0.1)?,
            ..Dropouts::default()
        },
        start: Start {
            deviation: reader.number_or("init_std", 0.02)?,
            by_inputs: false,
            residual: 1.0,
            zero_pad: true,
        },
        head: Head::Base,
        pooler: false,
    };
    // Old configurations carry a dropout between the MLP's matrices that no version applies.
    Ok((config, &["activation_dropout"]))
}
