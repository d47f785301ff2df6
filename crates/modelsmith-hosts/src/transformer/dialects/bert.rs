//! BERT and RoBERTa: both directions, layer norms after, learned positions and token types.

use super::{AttentionNames, HeadNames, Names, SequenceHead, StackNames, head_dim};
use crate::transformer::config::{
    Activation, AttentionConfig, Config, Counting, Dropouts, Head, Place, Positions, Start,
};
use crate::transformer::reader::Reader;
use modelsmith_core::error::{Error, Result};
use modelsmith_core::layers::NormKind;

const fn names(family: &'static str, prefix: &'static str, heads: HeadNames) -> Names {
    Names {
        family,
        prefix,
        base: "",
        tokens: "embeddings.word_embeddings",
        positions: "embeddings.position_embeddings",
        types: "embeddings.token_type_embeddings",
        embedding_norm: "embeddings.LayerNorm",
        encoder: None,
        stack: StackNames {
            tokens: "",
            blocks: "encoder.layer",
            attention: AttentionNames {
                site: "attention.self",
                query: "attention.self.query",
                key: "attention.self.key",
                value: "attention.self.value",
                fused: "",
                out: "attention.output.dense",
                norm: "attention.output.LayerNorm",
            },
            cross: None,
            distances: "",
            gate: "",
            up: "intermediate.dense",
            down: "output.dense",
            mlp_norm: "output.LayerNorm",
            final_norm: "",
        },
        heads,
        targets: &["query", "value"],
    }
}

static BERT: Names = names(
    "Bert",
    "bert",
    HeadNames {
        causal_class: None,
        masked: Some([
            "cls.predictions.transform.dense",
            "cls.predictions.transform.LayerNorm",
            "cls.predictions.decoder",
            "cls.predictions.bias",
        ]),
        exact_gelu: false,
        sequence: SequenceHead::Pooled,
        token: "classifier",
    },
);

const ROBERTA_HEADS: HeadNames = HeadNames {
    causal_class: None,
    masked: Some([
        "lm_head.dense",
        "lm_head.layer_norm",
        "lm_head.decoder",
        "lm_head.bias",
    ]),
    exact_gelu: true,
    sequence: SequenceHead::First,
    token: "classifier",
};

static ROBERTA: Names = names("Roberta", "roberta", ROBERTA_HEADS);

/// The same network by another name.
static XLM_ROBERTA: Names = names("XLMRoberta", "roberta", ROBERTA_HEADS);

/// Keys of BERT's multilingual release that describe a pooler nobody built.
const HARMLESS: &[&str] = &[
    "directionality",
    "pooler_fc_size",
    "pooler_num_attention_heads",
    "pooler_num_fc_layers",
    "pooler_size_per_head",
    "pooler_type",
];

type Found = (Config, &'static [&'static str]);

pub(super) fn bert(reader: &Reader<'_>) -> Result<Found> {
    let rows = reader.size_or("max_position_embeddings", 512)?;
    let positions = Positions::Learned {
        rows,
        offset: 0,
        counting: Counting::Columns,
    };
    let pad = match reader.mentions("pad_token_id") {
        true => reader.size_if("pad_token_id")?,
        false => Some(0),
    };
    read(reader, &BERT, positions, rows, pad)
}

pub(super) fn roberta(reader: &Reader<'_>) -> Result<Found> {
    roberta_as(&ROBERTA, reader)
}

/// XLM-R's configuration, which means what RoBERTa's does.
pub(super) fn xlm_roberta(reader: &Reader<'_>) -> Result<Found> {
    roberta_as(&XLM_ROBERTA, reader)
}

fn roberta_as(names: &'static Names, reader: &Reader<'_>) -> Result<Found> {
    let rows = reader.size_or("max_position_embeddings", 512)?;
    let pad = match reader.mentions("pad_token_id") {
        true => reader.size_if("pad_token_id")?,
        false => Some(1),
    };
    let Some(offset) = pad.map(|pad| pad + 1).filter(|offset| *offset < rows) else {
        return Err(Error::config(
            "pad_token_id",
            format!("{pad:?}; RoBERTa's positions start after this token and end before {rows}"),
        ));
    };
    let positions = Positions::Learned {
        rows,
        offset,
        counting: Counting::NotPad,
    };
    read(reader, names, positions, rows - offset, pad)
}

fn read(
    reader: &Reader<'_>,
    names: &'static Names,
    positions: Positions,
    longest: usize,
    pad: Option<usize>,
) -> Result<Found> {
    reader.only("is_decoder", &false.into())?;
    reader.only("position_embedding_type", &"absolute".into())?;
    let width = reader.size("hidden_size")?;
    let heads = reader.size("num_attention_heads")?;
    let layers = reader.layers("num_hidden_layers")?;
    let head_dim = head_dim(width, heads)?;
    let hidden = reader.rate_or("hidden_dropout_prob", 0.1)?;
    let config = Config {
        names,
        vocabulary: reader.size("vocab_size")?,
        width,
        embedding_width: width,
        layers,
        encoder: None,
        attention: AttentionConfig {
            heads,
            kv_heads: heads,
            head_dim,
            causal: false,
            fused: false,
            qkv_bias: true,
            out_bias: true,
            qk_norm: false,
            windows: vec![None; layers],
            scales: vec![(head_dim as f64).powf(-0.5); layers],
        },
        inner: reader.size("intermediate_size")?,
        gated: false,
        mlp_bias: true,
        activation: Activation::read(reader, "hidden_act", "gelu")?,
        norm: NormKind::Layer,
        epsilon: reader.number_or("layer_norm_eps", 1e-12)?,
        place: Place::Post,
        final_norm: false,
        embedding_norm: true,
        positions,
        max_positions: longest,
        limit: Some(longest),
        token_types: Some(reader.size_or("type_vocab_size", 2)?),
        pad,
        tied: reader.flag_or("tie_word_embeddings", true)?,
        dropouts: Dropouts {
            embedding: hidden,
            attention: reader.rate_or("attention_probs_dropout_prob", 0.1)?,
            hidden,
            classifier: reader.rate_or("classifier_dropout", hidden)?,
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
    Ok((config, HARMLESS))
}
