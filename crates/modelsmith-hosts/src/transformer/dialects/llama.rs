//! Llama, Mistral, Qwen2 and Qwen3: RMS norms before, rotary positions, gated MLP.

use super::{AttentionNames, CAUSAL, Names, StackNames, head_dim};
use crate::transformer::config::{
    Activation, AttentionConfig, Config, Dropouts, Head, Place, Positions, Start,
};
use crate::transformer::reader::{Reader, bad};
use crate::transformer::rope::Rope;
use modelsmith_core::error::{Error, Result};
use modelsmith_core::layers::NormKind;
use serde_json::Value;

const fn names(family: &'static str) -> Names {
    Names {
        family,
        prefix: "model",
        base: "",
        tokens: "embed_tokens",
        positions: "",
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
                out: "self_attn.o_proj",
                norm: "input_layernorm",
            },
            cross: None,
            distances: "",
            gate: "mlp.gate_proj",
            up: "mlp.up_proj",
            down: "mlp.down_proj",
            mlp_norm: "post_attention_layernorm",
            final_norm: "norm",
        },
        heads: CAUSAL,
        targets: &["q_proj", "v_proj"],
    }
}

static LLAMA: Names = names("Llama");
static MISTRAL: Names = names("Mistral");
static QWEN2: Names = names("Qwen2");
static QWEN3: Names = names("Qwen3");

/// What the four families differ in.
struct Traits {
    names: &'static Names,
    /// Key and value heads where the key is absent; all heads where this is.
    kv_heads: Option<usize>,
    head_dim: Option<usize>,
    qkv_bias: bool,
    out_bias: bool,
    mlp_bias: bool,
    qk_norm: bool,
    /// Window of the layers that slide.
    window: Option<usize>,
}

type Found = (Config, &'static [&'static str]);

pub(super) fn llama(reader: &Reader<'_>) -> Result<Found> {
    let bias = reader.flag_or("attention_bias", false)?;
    let traits = Traits {
        names: &LLAMA,
        kv_heads: None,
        head_dim: None,
        qkv_bias: bias,
        out_bias: bias,
        mlp_bias: reader.flag_or("mlp_bias", false)?,
        qk_norm: false,
        window: None,
    };
    read(reader, &traits, |_| false)
}

pub(super) fn mistral(reader: &Reader<'_>) -> Result<Found> {
    let window = match reader.mentions("sliding_window") {
        true => reader.size_if("sliding_window")?,
        false => Some(4096),
    };
    let traits = Traits {
        names: &MISTRAL,
        kv_heads: Some(8),
        head_dim: None,
        qkv_bias: false,
        out_bias: false,
        mlp_bias: false,
        qk_norm: false,
        window,
    };
    let found = read(reader, &traits, |_| true)?;
    // The class gives every layer the window, whatever the types say.
    match found
        .0
        .attention
        .windows
        .iter()
        .all(|of_layer| *of_layer == window)
    {
        true => Ok(found),
        false => Err(Error::config(
            "layer_types",
            "Mistral slides in all layers or in none; a mix is not implemented",
        )),
    }
}

pub(super) fn qwen2(reader: &Reader<'_>) -> Result<Found> {
    let (window, first) = qwen_window(reader)?;
    let traits = Traits {
        names: &QWEN2,
        kv_heads: Some(32),
        head_dim: None,
        qkv_bias: true,
        out_bias: false,
        mlp_bias: false,
        qk_norm: false,
        window,
    };
    read(reader, &traits, |layer| layer >= first)
}

pub(super) fn qwen3(reader: &Reader<'_>) -> Result<Found> {
    let (window, first) = qwen_window(reader)?;
    let bias = reader.flag_or("attention_bias", false)?;
    let traits = Traits {
        names: &QWEN3,
        kv_heads: Some(32),
        head_dim: Some(128),
        qkv_bias: bias,
        out_bias: bias,
        mlp_bias: false,
        qk_norm: true,
        window,
    };
    read(reader, &traits, |layer| layer >= first)
}

/// Qwen's window, and the first layer that has it.
fn qwen_window(reader: &Reader<'_>) -> Result<(Option<usize>, usize)> {
    let first = reader.size_if("max_window_layers")?.unwrap_or(28);
    let window = match reader.mentions("sliding_window") {
        true => reader.size_if("sliding_window")?,
        false => Some(4096),
    };
    let used = reader.flag_or("use_sliding_window", false)?;
    Ok((window.filter(|_| used), first))
}

fn read(reader: &Reader<'_>, traits: &Traits, slides: impl Fn(usize) -> bool) -> Result<Found> {
    let width = reader.size("hidden_size")?;
    let heads = reader.size("num_attention_heads")?;
    let layers = reader.layers("num_hidden_layers")?;
    let max_positions = reader.size("max_position_embeddings")?;
    let head_dim = match (reader.size_if("head_dim")?, traits.head_dim) {
        (Some(0), _) => return Err(Error::config("head_dim", "0 is too small")),
        (Some(given), _) => given,
        (None, Some(usual)) if !reader.mentions("head_dim") => usual,
        _ => head_dim(width, heads)?,
    };
    let usual_kv = match reader.mentions("num_key_value_heads") {
        true => heads,
        false => traits.kv_heads.unwrap_or(heads),
    };
    reader.only("partial_rotary_factor", &1.0.into())?;
    let rope = Rope::read(reader, head_dim, max_positions)?;
    let attention = AttentionConfig {
        heads,
        kv_heads: reader.size_or("num_key_value_heads", usual_kv)?,
        head_dim,
        causal: true,
        fused: false,
        qkv_bias: traits.qkv_bias,
        out_bias: traits.out_bias,
        qk_norm: traits.qk_norm,
        windows: windows(reader, layers, traits.window, slides)?,
        scales: vec![(head_dim as f64).powf(-0.5); layers],
    };
    let config = Config {
        names: traits.names,
        vocabulary: reader.size("vocab_size")?,
        width,
        embedding_width: width,
        layers,
        encoder: None,
        attention,
        inner: reader.size("intermediate_size")?,
        gated: true,
        mlp_bias: traits.mlp_bias,
        activation: Activation::read(reader, "hidden_act", "silu")?,
        norm: NormKind::Rms,
        epsilon: reader.number_or("rms_norm_eps", 1e-6)?,
        place: Place::Pre,
        final_norm: true,
        embedding_norm: false,
        max_positions,
        limit: rope.limit(),
        positions: Positions::Rope(rope),
        token_types: None,
        pad: reader.size_if("pad_token_id")?,
        tied: reader.flag_or("tie_word_embeddings", false)?,
        dropouts: Dropouts {
            attention: reader.rate_or("attention_dropout", 0.0)?,
            classifier: reader.rate_or("classifier_dropout", 0.1)?,
            ..Dropouts::default()
        },
        start: Start {
            deviation: reader.number_or("initializer_range", 0.02)?,
            by_inputs: false,
            residual: 1.0,
            zero_pad: true,
        },
        head: Head::Base,
        pooler: false,
    };
    Ok((config, &["max_window_layers", "sliding_window"]))
}

/// The window of each layer, by `layer_types` where given.
fn windows(
    reader: &Reader<'_>,
    layers: usize,
    window: Option<usize>,
    slides: impl Fn(usize) -> bool,
) -> Result<Vec<Option<usize>>> {
    if window == Some(0) {
        return Err(Error::config("sliding_window", "0 is too small"));
    }
    let by_rule = |layer: usize| window.filter(|_| slides(layer));
    let Some(types) = reader.get("layer_types") else {
        return Ok((0..layers).map(by_rule).collect());
    };
    let listed = types.as_array().filter(|list| list.len() == layers);
    let expected = format!("a list of {layers} layer types");
    let listed = listed.ok_or_else(|| bad("layer_types", types, &expected))?;
    listed
        .iter()
        .map(|kind| match kind.as_str() {
            Some("full_attention") => Ok(None),
            Some("sliding_attention") if window.is_some() => Ok(window),
            Some("sliding_attention") => Err(bad(
                "layer_types",
                kind,
                "full_attention, because no sliding window is in use",
            )),
            _ => Err(refuse_type(kind)),
        })
        .collect()
}

fn refuse_type(kind: &Value) -> Error {
    bad(
        "layer_types",
        kind,
        "full_attention or sliding_attention; other kinds of layers are not implemented",
    )
}
