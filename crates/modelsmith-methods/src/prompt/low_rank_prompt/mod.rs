//! Does a prompt of low rank do what a whole one does?
//!
//! ```text
//! product     P = A B              A [n, rank], B [rank, width]      (DPT, LoPT-1)
//! activated   P = f(P0 A) B        A [width, rank], P0 fixed         (LoPT-2)
//! ```
//! Decomposed prompt tuning (Xiao et al., Findings of EMNLP 2023) and LoPT (Guo et al., arXiv 2406.19486)
//! differ in the form and in how the factors start. LoPT's paper gives neither its starts nor the
//! function of its second form; ours keep the scale of the host's embeddings. Its prompts behind the
//! text are not here.

use super::common::produced::{self, Described, Produced, Producer};
use super::common::start::{Start, Words, check_count, first_vectors};
use crate::adapter::common::factor::truncated_svd;
use crate::adapter::common::peft::Taker;
use burn::module::{Module, Param};
use burn::tensor::{Tensor, activation};
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

/// How the factors make the vectors.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "snake_case")]
pub enum Form {
    /// `A B`.
    #[default]
    Product,
    /// `f(P0 A) B` of fixed first vectors.
    Activated,
}

/// The function `f` of the activated form.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "snake_case")]
pub enum Activation {
    /// Hyperbolic tangent.
    #[default]
    Tanh,
    /// `max(x, 0)`.
    Relu,
    /// `x Φ(x)`, exact.
    Gelu,
    /// `1 / (1 + e^-x)`.
    Sigmoid,
    /// `x`.
    Identity,
}

impl Activation {
    fn apply(self, x: Tensor<2>) -> Tensor<2> {
        match self {
            Self::Tanh => x.tanh(),
            Self::Relu => activation::relu(x),
            Self::Gelu => activation::gelu(x),
            Self::Sigmoid => activation::sigmoid(x),
            Self::Identity => x,
        }
    }

    /// The mean square of the function of a standard normal number.
    fn mean_square(self) -> f64 {
        match self {
            Self::Tanh => 0.394,
            Self::Relu => 0.5,
            Self::Gelu => 0.425,
            Self::Sigmoid => 0.293,
            Self::Identity => 1.0,
        }
    }
}

/// How the factors start.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "snake_case")]
pub enum Factors {
    /// Both uniform between -0.5 and 0.5, whatever the host's embeddings are.
    #[default]
    Uniform,
    /// Both normal, so that the vectors have the variance of the first ones.
    Gaussian,
    /// The best product of this rank for the first vectors, their singular values shared evenly.
    Svd,
}

/// Options of prompts of low rank.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(default, deny_unknown_fields)]
pub struct LowRankPromptConfig {
    /// Vectors in front of every text, 1 to 65536; each takes one of the model's positions.
    pub virtual_tokens: usize,
    /// Columns of the first factor and rows of the second.
    pub rank: usize,
    /// How the factors make the vectors.
    pub form: Form,
    /// The function of the activated form.
    pub activation: Activation,
    /// How the factors start.
    pub factors: Factors,
    /// The first vectors, which the activated form keeps and the starts `gaussian` and `svd` go by.
    pub init: Start,
    /// The text of the first vectors, for `init = "text"`.
    pub init_text: String,
    /// The labels of the first vectors, for `init = "labels"`.
    pub init_labels: Vec<String>,
    /// Modules trained in full beside the prompt, by path suffix; the heads of classifiers are
    /// always among them.
    pub modules_to_save: Vec<String>,
    /// Tokens of the text, or of each label.
    #[serde(skip)]
    tokens: Vec<Vec<u32>>,
}

impl Default for LowRankPromptConfig {
    fn default() -> Self {
        Self {
            virtual_tokens: 100,
            rank: 10,
            form: Form::Product,
            activation: Activation::Tanh,
            factors: Factors::Uniform,
            init: Start::Vocabulary,
            init_text: String::new(),
            init_labels: Vec::new(),
            modules_to_save: Vec::new(),
            tokens: Vec::new(),
        }
    }
}

impl Method for LowRankPromptConfig {
    const CARD: Card = Card {
        id: "decomposed_prompt",
        number: Some(6),
        title: "Decomposed prompt tuning",
        family: Family::Prompt,
        paper: "Xiao et al., Findings of EMNLP 2023, arXiv 2310.10094",
        summary: "Trains a prompt as the product of two thin matrices.",
    };
}

/// The first form of LoPT.
pub(super) const LOPT1: Card = Card {
    id: "lopt1",
    number: Some(15),
    title: "LoPT-1",
    family: Family::Prompt,
    paper: "Guo et al., arXiv 2406.19486",
    summary: "Trains a short prompt of low rank that starts at the scale of the embeddings.",
};

/// The second form of LoPT.
pub(super) const LOPT2: Card = Card {
    id: "lopt2",
    number: Some(15),
    title: "LoPT-2",
    family: Family::Prompt,
    paper: "Guo et al., arXiv 2406.19486",
    summary: "Trains two thin matrices that make a prompt of a fixed one; their size does not grow with its length.",
};

/// A hundred vectors of rank 10.
pub(super) fn defaults() -> Value {
    defaults_of::<LowRankPromptConfig>()
}

/// Twenty vectors of rank 5 from normal factors.
pub(super) fn lopt1() -> Value {
    json!(LowRankPromptConfig {
        virtual_tokens: 20,
        rank: 5,
        factors: Factors::Gaussian,
        ..LowRankPromptConfig::default()
    })
}

/// The same in the activated form.
pub(super) fn lopt2() -> Value {
    json!(LowRankPromptConfig {
        virtual_tokens: 20,
        rank: 5,
        form: Form::Activated,
        factors: Factors::Gaussian,
        ..LowRankPromptConfig::default()
    })
}

/// Type of the files, which PEFT does not know.
pub(super) const TYPE: &str = "LOW_RANK_PROMPT";

/// Reads the configuration of a saved prompt.
pub(super) fn from_peft(config: &Map<String, Value>) -> Result<Box<dyn Adapt>> {
    Ok(Box::new(produced::read::<LowRankPromptConfig>(config)?))
}

impl LowRankPromptConfig {
    fn words(&self) -> Words<'_> {
        Words {
            init: self.init,
            text: &self.init_text,
            labels: &self.init_labels,
        }
    }

    fn check(&self, width: usize) -> Result<()> {
        check_count("method.virtual_tokens", self.virtual_tokens)?;
        self.words().check()?;
        if self.rank == 0 || self.rank > width {
            let problem = format!("{} given; must be 1 to the host's width {width}", self.rank);
            return Err(Error::config("method.rank", problem));
        }
        let product = self.form == Form::Product;
        if product && self.activation != Activation::default() {
            return Err(Error::config(
                "method.activation",
                "is read with form = \"activated\" only",
            ));
        }
        if !product && self.factors != Factors::Gaussian {
            let problem = "form = \"activated\" starts from \"gaussian\" factors only";
            return Err(Error::config("method.factors", problem));
        }
        if product && self.factors == Factors::Uniform && self.init != Start::default() {
            let problem = "is not read with form = \"product\" and factors = \"uniform\"";
            return Err(Error::config("method.init", problem));
        }
        let most = self.virtual_tokens.min(width);
        if self.factors == Factors::Svd && self.rank > most {
            let problem = format!(
                "{} given; factors = \"svd\" finds at most {most} for {} vectors of width {width}",
                self.rank, self.virtual_tokens
            );
            return Err(Error::config("method.rank", problem));
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

    /// Rows of the first factor.
    fn rows(&self, width: usize) -> usize {
        match self.form {
            Form::Product => self.virtual_tokens,
            Form::Activated => width,
        }
    }

    /// The untrained producer.
    fn producer(&self, host: &dyn Host, width: usize, seed: u64) -> Result<LowRank> {
        let (rows, rank, device) = (self.rows(width), self.rank, host.device());
        let draw = |name: &str, shape: [usize; 2], deviation: Option<f64>| {
            let mut stream = Stream::new(seed, &format!("prompt/{name}"));
            let count = shape[0] * shape[1];
            let values = match deviation {
                Some(deviation) => stream.normal(count, 0.0, deviation as f32),
                None => stream.uniform(count, -0.5, 0.5),
            };
            Flat::from_vec(values, &shape, &device).tensor::<2>()
        };
        let first = || first_vectors(host, self.init, self.virtual_tokens, &self.tokens, seed);
        let (a, b, base) = match (self.form, self.factors) {
            (Form::Product, Factors::Uniform) => (
                draw("A", [rows, rank], None)?,
                draw("B", [rank, width], None)?,
                None,
            ),
            (Form::Product, Factors::Gaussian) => {
                let deviation = Some((variance(&first()?) / rank as f64).powf(0.25));
                let (a, b) = (
                    draw("A", [rows, rank], deviation)?,
                    draw("B", [rank, width], deviation)?,
                );
                (a, b, None)
            }
            (Form::Product, Factors::Svd) => {
                let factors = truncated_svd(&first()?.tensor()?, rank, 0.5)?;
                (factors.left, factors.right, None)
            }
            (Form::Activated, _) => {
                let base = first()?;
                let size = variance(&base);
                let up = (width as f64 * size).sqrt().recip();
                let down = (size / (rank as f64 * self.activation.mean_square())).sqrt();
                let (a, b) = (
                    draw("A", [rows, rank], Some(up))?,
                    draw("B", [rank, width], Some(down))?,
                );
                (a, b, Some(base.tensor()?))
            }
        };
        Ok(LowRank {
            a: trained(a),
            b: trained(b),
            base,
            activation: self.activation,
        })
    }
}

/// The variance of a tensor's values; at least what keeps divisions by it finite.
fn variance(values: &Flat) -> f64 {
    let values = values.to_vec();
    let count = values.len().max(1) as f64;
    let mean = values.iter().map(|x| f64::from(*x)).sum::<f64>() / count;
    let squares = values.iter().map(|x| (f64::from(*x) - mean).powi(2));
    (squares.sum::<f64>() / count).max(1e-12)
}

impl Adapt for LowRankPromptConfig {
    fn read_words(&mut self, encode: &Encode<'_>) -> Result<()> {
        self.tokens = self.words().tokens(encode)?;
        Ok(())
    }

    fn virtual_tokens(&self) -> usize {
        self.virtual_tokens
    }

    fn attach(&self, host: &dyn Host, seed: u64) -> Result<Box<dyn Adapter>> {
        let make = |width| {
            self.check(width)?;
            self.producer(host, width, seed)
        };
        Ok(Box::new(Produced::fresh(host, self.described(), make)?))
    }

    fn restore(&self, host: &dyn Host, files: &AdapterFiles) -> Result<Box<dyn Adapter>> {
        let config: Self = produced::read(&files.config)?;
        check_count("num_virtual_tokens", config.virtual_tokens)?;
        let take = |file: &mut Taker, width: usize| {
            let a = file.take("prompt_A", &[config.rows(width), config.rank])?;
            let b = file.take("prompt_B", &[config.rank, width])?;
            let base = match config.form {
                Form::Product => None,
                Form::Activated => Some(
                    file.take("prompt_base", &[config.virtual_tokens, width])?
                        .tensor()?,
                ),
            };
            Ok(LowRank {
                a: trained(a.tensor()?),
                b: trained(b.tensor()?),
                base,
                activation: config.activation,
            })
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

/// The factors, and the fixed vectors of the activated form.
#[derive(Module, Debug)]
struct LowRank {
    /// `[virtual_tokens, rank]`, or `[width, rank]` in the activated form.
    a: Param<Tensor<2>>,
    /// `[rank, width]`.
    b: Param<Tensor<2>>,
    /// `[virtual_tokens, width]`.
    #[module(skip)]
    base: Option<Tensor<2>>,
    #[module(skip)]
    activation: Activation,
}

impl Producer for LowRank {
    fn vectors(&self, _: &Pass) -> Tensor<2> {
        let (a, b) = (self.a.val(), self.b.val());
        match &self.base {
            None => a.matmul(b),
            Some(base) => self.activation.apply(base.clone().matmul(a)).matmul(b),
        }
    }

    fn tensors(&self) -> BTreeMap<String, Flat> {
        let plain = |tensor: Tensor<2>| Flat::new(tensor.without_autodiff());
        let mut found = BTreeMap::from([
            ("prompt_A".to_owned(), plain(self.a.val())),
            ("prompt_B".to_owned(), plain(self.b.val())),
        ]);
        if let Some(base) = &self.base {
            found.insert("prompt_base".to_owned(), plain(base.clone()));
        }
        found
    }
}

#[cfg(test)]
mod tests;
