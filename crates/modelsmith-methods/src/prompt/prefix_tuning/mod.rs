//! What do trained keys and values in front of every layer's own reach (Li and Liang, ACL 2021; Liu et
//! al., ACL 2022)?
//!
//! ```text
//! layer l:  Attn(Q, [K_l; K], [V_l; V])        K_l, V_l [kv_heads, n, head_dim] of W [n, 2 L kv_heads head_dim]
//! W = trained,  or  W_2 tanh(W_1 E + b_1) + b_2 of trained E [n, width]
//! ```
//! A prefix has no queries and takes no part in what follows the attention; it begins where positions
//! stand already turned, so tokens have the positions behind it. Every query sees all of it, in causal
//! and windowed hosts too. The columns of `W` run over layers, then key and value, heads, and the places
//! of a head, as in PEFT's files. A finished prefix is `W` alone, whatever made it. Prefixes of some
//! layers only, and of the attention of a decoder to an encoder, are not here.

mod prefixed;
#[cfg(test)]
mod tests;

use super::common::peft::{SHAPE, heads, once};
use super::common::start::check_count;
use crate::adapter::common::copies::Copies;
use crate::adapter::common::peft::{Taker, acted_on};
use burn::module::Param;
use burn::tensor::Tensor;
use modelsmith_core::error::{Error, Result};
use modelsmith_core::host::Host;
use modelsmith_core::method::{Card, Family, Method, defaults_of, read_options};
use modelsmith_core::parameters::{Flat, trained};
use modelsmith_core::random::Stream;
use modelsmith_core::roles::{Adapt, Adapter, AdapterFiles};
use prefixed::{Layers, Prefixed};
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};
use serde_json::{Map, Value, json};

/// Options of prefix tuning.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(default, deny_unknown_fields)]
pub struct PrefixTuningConfig {
    /// Keys in front of every layer's own, 1 to 65536; each takes one of the model's positions.
    pub virtual_tokens: usize,
    /// Whether a small network makes the prefix while it is trained.
    pub projection: bool,
    /// Width within the network.
    pub projection_size: usize,
    /// Deviation of the first values, which are normal; PEFT starts with 1.
    pub init_std: f64,
    /// Share of the prefix's values dropped in training.
    pub dropout: f64,
    /// Modules trained in full beside the prefix, by path suffix; the heads of classifiers are
    /// always among them.
    pub modules_to_save: Vec<String>,
}

impl Default for PrefixTuningConfig {
    fn default() -> Self {
        Self {
            virtual_tokens: 10,
            projection: true,
            projection_size: 512,
            init_std: 0.02,
            dropout: 0.0,
            modules_to_save: Vec::new(),
        }
    }
}

impl Method for PrefixTuningConfig {
    const CARD: Card = Card {
        id: "prefix_tuning",
        number: None,
        title: "Prefix tuning",
        family: Family::Prompt,
        paper: "Li and Liang, ACL 2021, arXiv 2101.00190",
        summary: "Trains keys and values in front of every layer's own, through a small network.",
    };
}

/// P-Tuning v2.
pub(super) const P_TUNING_V2: Card = Card {
    id: "p_tuning_v2",
    number: Some(18),
    title: "P-Tuning v2",
    family: Family::Prompt,
    paper: "Liu et al., ACL 2022, arXiv 2110.07602",
    summary: "Trains keys and values in front of every layer's own, for understanding at any model size.",
};

/// Ten keys through a network.
pub(super) fn defaults() -> Value {
    defaults_of::<PrefixTuningConfig>()
}

/// Twenty keys by themselves, a tenth of their values dropped.
pub(super) fn p_tuning_v2() -> Value {
    json!(PrefixTuningConfig {
        virtual_tokens: 20,
        projection: false,
        dropout: 0.1,
        ..PrefixTuningConfig::default()
    })
}

/// PEFT's type.
pub(super) const TYPE: &str = "PREFIX_TUNING";

/// Type of the files of a prefix with the network that makes it, which PEFT does not keep.
pub(super) const PROJECTED: &str = "PROJECTED_PREFIX";

/// Prefix tuning's keys of `adapter_config.json`.
#[derive(Default, Deserialize)]
#[serde(default)]
struct Written {
    num_virtual_tokens: usize,
    num_transformer_submodules: Option<usize>,
    modules_to_save: Vec<String>,
    projection_size: Option<usize>,
}

/// Reads the configuration of a saved prefix.
pub(super) fn from_peft(config: &Map<String, Value>) -> Result<Box<dyn Adapt>> {
    Ok(Box::new(read(config)?))
}

fn read(config: &Map<String, Value>) -> Result<PrefixTuningConfig> {
    let mut known = vec![
        "num_virtual_tokens",
        "num_transformer_submodules",
        "modules_to_save",
        "encoder_hidden_size",
        "prefix_projection",
        "init_weights",
        "projection_size",
    ];
    known.extend(SHAPE);
    let written: Written = read_options(&Value::Object(acted_on(config, &known)?))?;
    if let Some(count) = written
        .num_transformer_submodules
        .filter(|count| *count != 1)
    {
        let problem = format!("is {count}; prefixes of encoder-decoder models are not supported");
        return Err(Error::config("num_transformer_submodules", problem));
    }
    check_count("num_virtual_tokens", written.num_virtual_tokens)?;
    Ok(PrefixTuningConfig {
        virtual_tokens: written.num_virtual_tokens,
        // A finished prefix is what its network made of it.
        projection: written.projection_size.is_some(),
        projection_size: written.projection_size.unwrap_or(512),
        modules_to_save: once(written.modules_to_save),
        ..PrefixTuningConfig::default()
    })
}

impl PrefixTuningConfig {
    fn check(&self) -> Result<()> {
        let refuse =
            |key: &str, problem: String| Err(Error::config(format!("method.{key}"), problem));
        check_count("method.virtual_tokens", self.virtual_tokens)?;
        if self.projection && !(1..=65536).contains(&self.projection_size) {
            return refuse(
                "projection_size",
                format!("{} given; must be 1 to 65536", self.projection_size),
            );
        }
        if !(self.init_std.is_finite() && self.init_std > 0.0) {
            return refuse(
                "init_std",
                format!("{} given; must be above 0", self.init_std),
            );
        }
        if !(0.0..1.0).contains(&self.dropout) {
            return refuse(
                "dropout",
                format!("{} given; must be at least 0 and below 1", self.dropout),
            );
        }
        Ok(())
    }

    /// The prefix from its tensors in the order of [`Layers::shapes`].
    fn prefix(&self, layers: Layers, values: &[Flat], heads: Copies) -> Result<Prefixed> {
        let matrix = |at: usize| -> Result<Param<Tensor<2>>> {
            let found = values
                .get(at)
                .ok_or_else(|| Error::Failed("a prefix has no such part".into()))?;
            Ok(trained(found.tensor()?))
        };
        let network = |at: usize| self.projection.then(|| matrix(at)).transpose();
        Ok(Prefixed {
            table: matrix(0)?,
            inner: network(1)?,
            inner_bias: network(2)?,
            outer: network(3)?,
            outer_bias: network(4)?,
            heads,
            layers,
            config: self.clone(),
        })
    }
}

impl Adapt for PrefixTuningConfig {
    fn virtual_tokens(&self) -> usize {
        self.virtual_tokens
    }

    fn attach(&self, host: &dyn Host, seed: u64) -> Result<Box<dyn Adapter>> {
        self.check()?;
        let heads = Copies::of_host(host, heads(host, &self.modules_to_save)?)?;
        let (layers, device) = (Layers::of(host)?, host.device());
        let first = layers.shapes(self).into_iter().map(|(name, shape)| {
            let count = shape[0] * shape[1];
            let values = match name.ends_with("bias") {
                true => vec![0.0; count],
                false => Stream::new(seed, name).normal(count, 0.0, self.init_std as f32),
            };
            Flat::from_vec(values, &shape, &device)
        });
        let first: Vec<Flat> = first.collect();
        Ok(Box::new(self.prefix(layers, &first, heads)?))
    }

    fn restore(&self, host: &dyn Host, files: &AdapterFiles) -> Result<Box<dyn Adapter>> {
        let config = read(&files.config)?;
        let layers = Layers::of(host)?;
        let mut file = Taker::new(&files.tensors);
        let shapes = layers.shapes(&config).into_iter();
        let values = shapes.map(|(name, shape)| file.take(name, &shape));
        let values = values.collect::<Result<Vec<_>>>()?;
        let heads = Copies::of_file(host, heads(host, &config.modules_to_save)?, &mut file)?;
        file.finish()?;
        Ok(Box::new(config.prefix(layers, &values, heads)?))
    }

    fn options(&self) -> Value {
        json!(self)
    }

    fn starts_as_identity(&self) -> bool {
        false
    }
}
