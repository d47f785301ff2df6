//! T5 and mT5: an encoder and a decoder with RMS norms before, unscaled attention with a bias by
//! distance, and either an ungated MLP (T5 1.0) or a gated one (T5 1.1, Flan-T5, mT5).
//!
//! The decoder's last state is multiplied by `width^-0.5` before the head in models whose
//! configuration ties the head to the embedding (T5 1.0). Whether the head has a weight of its own
//! is up to the checkpoint: releases of `transformers` differ in what they write about it.

use super::{AttentionNames, HeadNames, Names, SequenceHead, StackNames};
use crate::transformer::config::{
    Activation, AttentionConfig, Config, Dropouts, EncoderConfig, Head, Place, Positions, Start,
};
use crate::transformer::reader::{Reader, bad};
use crate::transformer::relative::Relative;
use modelsmith_core::error::{Error, Result};
use modelsmith_core::layers::NormKind;

const SELF_ATTENTION: AttentionNames = AttentionNames {
    site: "layer.0.SelfAttention",
    query: "layer.0.SelfAttention.q",
    key: "layer.0.SelfAttention.k",
    value: "layer.0.SelfAttention.v",
    fused: "",
    out: "layer.0.SelfAttention.o",
    norm: "layer.0.layer_norm",
};

const CROSS_ATTENTION: AttentionNames = AttentionNames {
    site: "layer.1.EncDecAttention",
    query: "layer.1.EncDecAttention.q",
    key: "layer.1.EncDecAttention.k",
    value: "layer.1.EncDecAttention.v",
    fused: "",
    out: "layer.1.EncDecAttention.o",
    norm: "layer.1.layer_norm",
};

const fn encoder(gated: bool) -> StackNames {
    StackNames {
        tokens: "encoder.embed_tokens",
        blocks: "encoder.block",
        attention: SELF_ATTENTION,
        cross: None,
        distances: "layer.0.SelfAttention.relative_attention_bias",
        gate: "layer.1.DenseReluDense.wi_0",
        up: match gated {
            true => "layer.1.DenseReluDense.wi_1",
            false => "layer.1.DenseReluDense.wi",
        },
        down: "layer.1.DenseReluDense.wo",
        mlp_norm: "layer.1.layer_norm",
        final_norm: "encoder.final_layer_norm",
    }
}

const fn decoder(gated: bool) -> StackNames {
    StackNames {
        tokens: "decoder.embed_tokens",
        blocks: "decoder.block",
        attention: SELF_ATTENTION,
        cross: Some(CROSS_ATTENTION),
        distances: "layer.0.SelfAttention.relative_attention_bias",
        gate: "layer.2.DenseReluDense.wi_0",
        up: match gated {
            true => "layer.2.DenseReluDense.wi_1",
            false => "layer.2.DenseReluDense.wi",
        },
        down: "layer.2.DenseReluDense.wo",
        mlp_norm: "layer.2.layer_norm",
        final_norm: "decoder.final_layer_norm",
    }
}

const fn names(family: &'static str, gated: bool) -> Names {
    Names {
        family,
        prefix: "",
        base: "",
        tokens: "shared",
        positions: "",
        types: "",
        embedding_norm: "",
        encoder: Some(encoder(gated)),
        stack: decoder(gated),
        heads: HeadNames {
            causal_class: None,
            masked: None,
            exact_gelu: false,
            sequence: SequenceHead::Last,
            token: "",
        },
        targets: &["q", "v"],
    }
}

static T5: [Names; 2] = [names("T5", false), names("T5", true)];
static MT5: [Names; 2] = [names("MT5", false), names("MT5", true)];

/// Keys that change nothing here: the classifier's dropout, how long the texts of pretraining were
/// (distances have no end), and what old releases of `transformers` cached.
const HARMLESS: &[&str] = &["classifier_dropout", "n_positions", "output_past"];

/// Longest text that the models were pretrained on, where `n_positions` is absent.
const USUAL_LENGTH: usize = 512;

type Found = (Config, &'static [&'static str]);

pub(super) fn t5(reader: &Reader<'_>) -> Result<Found> {
    let tied = reader.flag_or("tie_word_embeddings", true)?;
    let scaled = reader.flag_or("scale_decoder_outputs", tied)?;
    read(reader, &T5, "relu", tied, scaled)
}

/// The class never scales the decoder's output.
pub(super) fn mt5(reader: &Reader<'_>) -> Result<Found> {
    let tied = reader.flag_or("tie_word_embeddings", true)?;
    read(reader, &MT5, "gated-gelu", tied, false)
}

fn read(
    reader: &Reader<'_>,
    names: &'static [Names; 2],
    usual: &str,
    tied: bool,
    scaled: bool,
) -> Result<Found> {
    reader.only("is_decoder", &false.into())?;
    let (activation, gated) = mlp(reader, usual)?;
    let width = reader.size("d_model")?;
    let heads = reader.size("num_heads")?;
    let encoder_layers = reader.layers("num_layers")?;
    let layers = match reader.size_if("num_decoder_layers")? {
        Some(_) => reader.layers("num_decoder_layers")?,
        None => encoder_layers,
    };
    let dropout = reader.rate_or("dropout_rate", 0.1)?;
    let pad = reader.size_if("pad_token_id")?.unwrap_or(0);
    let config = Config {
        names: &names[usize::from(gated)],
        vocabulary: reader.size("vocab_size")?,
        width,
        embedding_width: width,
        layers,
        encoder: Some(EncoderConfig {
            layers: encoder_layers,
            start: reader.size_if("decoder_start_token_id")?.unwrap_or(pad),
            output_scale: if scaled {
                (width as f64).powf(-0.5)
            } else {
                1.0
            },
        }),
        attention: AttentionConfig {
            heads,
            kv_heads: heads,
            head_dim: reader.size("d_kv")?,
            causal: true,
            fused: false,
            qkv_bias: false,
            out_bias: false,
            qk_norm: false,
            windows: vec![None; layers.max(encoder_layers)],
            scales: vec![1.0; layers.max(encoder_layers)],
        },
        inner: reader.size("d_ff")?,
        gated,
        mlp_bias: false,
        activation,
        norm: NormKind::Rms,
        epsilon: reader.number_or("layer_norm_epsilon", 1e-6)?,
        place: Place::Pre,
        final_norm: true,
        embedding_norm: false,
        positions: Positions::Relative(distances(reader)?),
        max_positions: reader.size_or("n_positions", USUAL_LENGTH)?,
        limit: None,
        token_types: None,
        pad: Some(pad),
        tied,
        dropouts: Dropouts {
            embedding: dropout,
            attention: dropout,
            inner: dropout,
            hidden: dropout,
            top: dropout,
            classifier: 0.0,
        },
        start: Start {
            deviation: reader.number_or("initializer_factor", 1.0)?,
            by_inputs: true,
            residual: 1.0,
            zero_pad: false,
        },
        head: Head::Base,
        pooler: false,
    };
    Ok((config, HARMLESS))
}

/// The MLP's function and whether it is gated, from a name like `relu` or `gated-gelu`.
fn mlp(reader: &Reader<'_>, usual: &str) -> Result<(Activation, bool)> {
    let name = reader.text_if("feed_forward_proj")?.unwrap_or(usual);
    let (function, gated) = match name.strip_prefix("gated-") {
        // The gated models were trained with the approximation, whatever the name says.
        Some("gelu") => ("gelu_new", true),
        Some(function) => (function, true),
        None => (name, false),
    };
    // What newer releases derive from the name and write beside it.
    reader.only("is_gated_act", &gated.into())?;
    reader.only("dense_act_fn", &function.into())?;
    Ok((Activation::named("feed_forward_proj", function)?, gated))
}

fn distances(reader: &Reader<'_>) -> Result<Relative> {
    let relative = Relative {
        buckets: reader.size_or("relative_attention_num_buckets", 32)?,
        longest: reader.size_or("relative_attention_max_distance", 128)?,
    };
    if relative.buckets < 4 {
        let expected = "4 buckets or more, two for each direction";
        let found = relative.buckets.into();
        return Err(bad("relative_attention_num_buckets", &found, expected));
    }
    if relative.longest <= relative.buckets / 2 {
        return Err(Error::config(
            "relative_attention_max_distance",
            format!(
                "{} is not beyond the {} nearest places, which have a bucket each",
                relative.longest,
                relative.buckets / 2
            ),
        ));
    }
    Ok(relative)
}
