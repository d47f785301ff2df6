//! Is a prompt easier to train through a small network (Razdaibiedina et al., Findings of ACL 2023)?
//!
//! ```text
//! P' = P + φ(P)      φ(p) = LN(W_up f(W_down p + b_down) + b_up), the same for every row
//! ```
//! All of `P` and `φ` is trained and makes `P'`; a finished prompt is `P'` alone. The normalisation is
//! within the branch, whose rows so begin with a root mean square of `branch_gain`: with hosts whose
//! embeddings are much smaller than 1, a gain of their size keeps the prompt among them. The first
//! vectors are those of the family, not drawn from the whole vocabulary with repetition. Recurrent and
//! attention branches of the paper's ablation are not here.

use super::common::produced::{self, Described, Produced, Producer};
use super::common::start::{Start, Words, check_count, first_vectors};
use crate::adapter::common::peft::Taker;
use burn::module::{Module, Param};
use burn::tensor::{Device, Tensor, activation};
use modelsmith_core::error::{Error, Result};
use modelsmith_core::hooks::Pass;
use modelsmith_core::host::Host;
use modelsmith_core::method::{Card, Family, Method, defaults_of};
use modelsmith_core::parameters::{Flat, trained};
use modelsmith_core::random::Stream;
use modelsmith_core::roles::{Adapt, Adapter, AdapterFiles, Encode};
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};
use serde_json::{Map, Value, json};
use std::collections::BTreeMap;

/// Added to the variance of the branch's normalisation.
const EPSILON: f64 = 1e-5;

/// The function within the branch.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "snake_case")]
pub enum Nonlinearity {
    /// `max(x, 0)`.
    #[default]
    Relu,
    /// Hyperbolic tangent.
    Tanh,
    /// `1 / (1 + e^-x)`.
    Sigmoid,
}

/// Options of residual prompt tuning.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(default, deny_unknown_fields)]
pub struct ResidualPromptConfig {
    /// Vectors in front of every text, 1 to 65536; each takes one of the model's positions.
    pub virtual_tokens: usize,
    /// Width within the branch.
    pub bottleneck: usize,
    /// Times that the branch is gone through, 1 or 2, with the same weights.
    pub depth: usize,
    /// The function within the branch.
    pub nonlinearity: Nonlinearity,
    /// Whether the vectors are added to what the branch makes of them.
    pub residual: bool,
    /// Whether the branch ends in a layer norm.
    pub layer_norm: bool,
    /// First value of the layer norm's gain.
    pub branch_gain: f64,
    /// Whether every vector has a branch of its own.
    pub separate: bool,
    /// Share of the branch's values dropped in training, before the layer norm.
    pub dropout: f64,
    /// How the vectors start.
    pub init: Start,
    /// The text to start from, for `init = "text"`.
    pub init_text: String,
    /// The labels to start from, for `init = "labels"`.
    pub init_labels: Vec<String>,
    /// Modules trained in full beside the prompt, by path suffix; the heads of classifiers are
    /// always among them.
    pub modules_to_save: Vec<String>,
    /// Tokens of the text, or of each label.
    #[serde(skip)]
    tokens: Vec<Vec<u32>>,
}

impl Default for ResidualPromptConfig {
    fn default() -> Self {
        Self {
            virtual_tokens: 10,
            bottleneck: 400,
            depth: 1,
            nonlinearity: Nonlinearity::Relu,
            residual: true,
            layer_norm: true,
            branch_gain: 1.0,
            separate: false,
            dropout: 0.0,
            init: Start::Vocabulary,
            init_text: String::new(),
            init_labels: Vec::new(),
            modules_to_save: Vec::new(),
            tokens: Vec::new(),
        }
    }
}

impl Method for ResidualPromptConfig {
    const CARD: Card = Card {
        id: "residual_prompt",
        number: Some(26),
        title: "Residual prompt tuning",
        family: Family::Prompt,
        paper: "Razdaibiedina et al., Findings of ACL 2023, arXiv 2305.03937",
        summary: "Trains a prompt through a small network with a skip connection, which then goes.",
    };
}

/// Ten vectors through one shared branch.
pub(super) fn defaults() -> Value {
    defaults_of::<ResidualPromptConfig>()
}

/// Type of the files, which PEFT does not know.
pub(super) const TYPE: &str = "RESIDUAL_PROMPT";

/// Reads the configuration of a saved prompt.
pub(super) fn from_peft(config: &Map<String, Value>) -> Result<Box<dyn Adapt>> {
    Ok(Box::new(produced::read::<ResidualPromptConfig>(config)?))
}

impl ResidualPromptConfig {
    fn words(&self) -> Words<'_> {
        Words {
            init: self.init,
            text: &self.init_text,
            labels: &self.init_labels,
        }
    }

    fn check(&self) -> Result<()> {
        self.words().check()?;
        self.check_sizes()
    }

    /// What a saved prompt must be right in too.
    fn check_sizes(&self) -> Result<()> {
        let refuse =
            |key: &str, problem: String| Err(Error::config(format!("method.{key}"), problem));
        check_count("method.virtual_tokens", self.virtual_tokens)?;
        if !(1..=65536).contains(&self.bottleneck) {
            return refuse(
                "bottleneck",
                format!("{} given; must be 1 to 65536", self.bottleneck),
            );
        }
        if !(1..=2).contains(&self.depth) {
            return refuse("depth", format!("{} given; must be 1 or 2", self.depth));
        }
        if !(0.0..1.0).contains(&self.dropout) {
            return refuse(
                "dropout",
                format!("{} given; must be at least 0 and below 1", self.dropout),
            );
        }
        if !self.branch_gain.is_finite() {
            return refuse(
                "branch_gain",
                format!("{} given; must be finite", self.branch_gain),
            );
        }
        if !self.layer_norm && self.branch_gain != 1.0 {
            return refuse("branch_gain", "is read with layer_norm = true only".into());
        }
        Ok(())
    }

    fn described(&self) -> Described {
        Described {
            kind: TYPE,
            virtual_tokens: self.virtual_tokens,
            modules_to_save: self.modules_to_save.clone(),
            options: json!(self),
            further: Map::new(),
        }
    }

    /// Branches there are.
    fn branches(&self) -> usize {
        if self.separate {
            self.virtual_tokens
        } else {
            1
        }
    }

    /// The branch's tensors.
    fn parts(&self, width: usize) -> Vec<Part> {
        let (count, inner) = (self.branches(), self.bottleneck);
        let part = |name, shape, inputs| Part {
            name,
            shape,
            inputs,
        };
        let mut parts = vec![
            part("down.weight", [count, inner, width], width),
            part("down.bias", [count, 1, inner], width),
            part("up.weight", [count, width, inner], inner),
            part("up.bias", [count, 1, width], inner),
        ];
        if self.layer_norm {
            parts.push(part(GAIN, [count, 1, width], 0));
            parts.push(part(SHIFT, [count, 1, width], 0));
        }
        parts
    }

    /// The first value of a part: dense layers start as PyTorch's do.
    fn first(&self, part: &Part, seed: u64, device: &Device) -> Flat {
        let count = part.shape.iter().product();
        let values = match part.name {
            GAIN => vec![self.branch_gain as f32; count],
            SHIFT => vec![0.0; count],
            name => {
                let bound = 1.0 / (part.inputs as f32).sqrt();
                Stream::new(seed, &format!("prompt/{name}")).uniform(count, -bound, bound)
            }
        };
        Flat::from_vec(values, &part.shape, device)
    }

    /// The producer of vectors `[virtual_tokens, width]` and parts in the order of [`Self::parts`].
    fn producer(&self, prompt: &Flat, parts: &[Flat]) -> Result<Residual> {
        let part = |at: usize| -> Result<Param<Tensor<3>>> {
            let found = parts
                .get(at)
                .ok_or_else(|| Error::Failed("a branch has no such part".into()))?;
            Ok(trained(found.tensor()?))
        };
        let norm = |at: usize| self.layer_norm.then(|| part(at)).transpose();
        Ok(Residual {
            prompt: trained(prompt.tensor()?),
            down: part(0)?,
            down_bias: part(1)?,
            up: part(2)?,
            up_bias: part(3)?,
            gain: norm(4)?,
            shift: norm(5)?,
            options: self.clone(),
        })
    }
}

const GAIN: &str = "norm.weight";
const SHIFT: &str = "norm.bias";

/// A tensor of the branch.
struct Part {
    name: &'static str,
    shape: [usize; 3],
    /// Numbers that each of the layer's outputs sums over.
    inputs: usize,
}

impl Part {
    fn key(&self) -> String {
        format!("prompt_branch.{}", self.name)
    }
}

/// The key of the vectors before the branch.
const VECTORS: &str = "prompt_vectors";

impl Adapt for ResidualPromptConfig {
    fn read_words(&mut self, encode: &Encode<'_>) -> Result<()> {
        self.tokens = self.words().tokens(encode)?;
        Ok(())
    }

    fn virtual_tokens(&self) -> usize {
        self.virtual_tokens
    }

    fn attach(&self, host: &dyn Host, seed: u64) -> Result<Box<dyn Adapter>> {
        let make = |width| {
            self.check()?;
            let prompt = first_vectors(host, self.init, self.virtual_tokens, &self.tokens, seed)?;
            let (parts, device) = (self.parts(width), host.device());
            let parts = parts.iter().map(|part| self.first(part, seed, &device));
            self.producer(&prompt, &parts.collect::<Vec<_>>())
        };
        Ok(Box::new(Produced::fresh(host, self.described(), make)?))
    }

    fn restore(&self, host: &dyn Host, files: &AdapterFiles) -> Result<Box<dyn Adapter>> {
        let config: Self = produced::read(&files.config)?;
        config.check_sizes()?;
        let take = |file: &mut Taker, width: usize| {
            let prompt = file.take(VECTORS, &[config.virtual_tokens, width])?;
            let parts = config.parts(width);
            let parts = parts.iter().map(|part| file.take(&part.key(), &part.shape));
            config.producer(&prompt, &parts.collect::<Result<Vec<_>>>()?)
        };
        let restored = Produced::saved(host, files, config.described(), take)?;
        Ok(Box::new(restored))
    }

    fn options(&self) -> Value {
        json!(self)
    }

    fn starts_as_identity(&self) -> bool {
        false
    }
}

/// The vectors and the branch; one of each part for every branch.
#[derive(Module, Debug)]
struct Residual {
    /// `[virtual_tokens, width]`.
    prompt: Param<Tensor<2>>,
    /// `[branches, bottleneck, width]`.
    down: Param<Tensor<3>>,
    /// `[branches, 1, bottleneck]`.
    down_bias: Param<Tensor<3>>,
    /// `[branches, width, bottleneck]`.
    up: Param<Tensor<3>>,
    /// `[branches, 1, width]`.
    up_bias: Param<Tensor<3>>,
    /// `[branches, 1, width]`.
    gain: Option<Param<Tensor<3>>>,
    /// `[branches, 1, width]`.
    shift: Option<Param<Tensor<3>>>,
    #[module(skip)]
    options: ResidualPromptConfig,
}

impl Residual {
    /// The branch of `[branches, rows, width]`.
    fn branch(&self, x: Tensor<3>, name: &str, pass: &Pass) -> Tensor<3> {
        let h = x.matmul(self.down.val().swap_dims(1, 2)) + self.down_bias.val();
        let h = match self.options.nonlinearity {
            Nonlinearity::Relu => activation::relu(h),
            Nonlinearity::Tanh => h.tanh(),
            Nonlinearity::Sigmoid => activation::sigmoid(h),
        };
        let y = h.matmul(self.up.val().swap_dims(1, 2)) + self.up_bias.val();
        let y = pass.dropout(name, self.options.dropout, y);
        match (&self.gain, &self.shift) {
            (Some(gain), Some(shift)) => {
                let centred = y.clone() - y.mean_dim(2);
                let variance = centred.clone().powi_scalar(2).mean_dim(2);
                centred / (variance + EPSILON).sqrt() * gain.val() + shift.val()
            }
            _ => y,
        }
    }
}

impl Producer for Residual {
    fn vectors(&self, pass: &Pass) -> Tensor<2> {
        let prompt = self.prompt.val();
        let [count, width] = prompt.dims();
        let branches = self.options.branches();
        let mut y = prompt.clone().reshape([branches, count / branches, width]);
        for time in 0..self.options.depth {
            y = self.branch(y, &format!("prompt/branch/{time}"), pass);
        }
        let y = y.reshape([count, width]);
        match self.options.residual {
            true => y + prompt,
            false => y,
        }
    }

    fn tensors(&self) -> BTreeMap<String, Flat> {
        let values = [
            Some(&self.down),
            Some(&self.down_bias),
            Some(&self.up),
            Some(&self.up_bias),
        ];
        let values = values
            .into_iter()
            .chain([self.gain.as_ref(), self.shift.as_ref()])
            .flatten();
        let parts = self.options.parts(self.prompt.val().dims()[1]);
        let branch = parts
            .iter()
            .zip(values)
            .map(|(part, value)| (part.key(), Flat::new(value.val().without_autodiff())));
        let prompt = Flat::new(self.prompt.val().without_autodiff());
        branch.chain([(VECTORS.to_owned(), prompt)]).collect()
    }
}

#[cfg(test)]
mod tests;
