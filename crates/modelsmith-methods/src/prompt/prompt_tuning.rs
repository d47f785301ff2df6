//! What do a few trained vectors in front of the text reach (Lester et al., EMNLP 2021)?
//!
//! ```text
//! host([P; E[x]])        P [n, width] trained, everything else frozen
//! ```
//!
//! The vectors pass through every block like tokens: they have positions, queries and keys. What the
//! host gives for them is dropped, so that they take no loss. A classifier's head is trained along.
//! Departures from PEFT:
//!
//! - The first token of a text is not predicted from the last vector, so that a text has as many
//!   predictions with a prompt as without.
//! - Sequence classifiers read the state of the text's first or last token. PEFT reads that of the
//!   first vector, or of the last column, padding or not: the two agree where the last token is
//!   read and no row is padded. Where the first one is, we write files of a type of our own.

use super::common::peft::{
    PROMPT, SHAPE, check_pooling, check_submodules, describe_prompt, heads, once, saved_modules,
};
use super::common::start::{Start, Words, check_count, first_vectors, token_embedding};
use crate::adapter::common::copies::Copies;
use crate::adapter::common::peft::{Taker, acted_on, sorted};
use burn::module::{Module, Param};
use burn::tensor::{Int, Tensor};
use modelsmith_core::error::{Error, Result};
use modelsmith_core::hooks::{ConvCall, EmbeddingCall, Hooks, LinearCall, NormCall, Pass};
use modelsmith_core::host::Host;
use modelsmith_core::layers::Linear;
use modelsmith_core::method::{Card, Family, Method, defaults_of, read_options};
use modelsmith_core::parameters::{Flat, trained};
use modelsmith_core::roles::{Adapt, Adapter, AdapterFiles, Encode};
use modelsmith_core::sites::Site;
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};
use serde_json::{Map, Value, json};

/// Options of prompt tuning.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(default, deny_unknown_fields)]
pub struct PromptTuningConfig {
    /// Vectors in front of every text, 1 to 65536; each takes one of the model's positions.
    pub virtual_tokens: usize,
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

impl Default for PromptTuningConfig {
    fn default() -> Self {
        Self {
            virtual_tokens: 20,
            init: Start::Vocabulary,
            init_text: String::new(),
            init_labels: Vec::new(),
            modules_to_save: Vec::new(),
            tokens: Vec::new(),
        }
    }
}

impl Method for PromptTuningConfig {
    const CARD: Card = Card {
        id: "prompt_tuning",
        number: None,
        title: "Prompt tuning",
        family: Family::Prompt,
        paper: "Lester et al., EMNLP 2021, arXiv 2104.08691",
        summary: "Trains a few vectors in front of the text; the model stays as it is.",
    };
}

/// PEFT's type of the files.
pub(super) const TYPE: &str = "PROMPT_TUNING";

/// Type of the files that PEFT would compute otherwise.
pub(super) const OWN_TYPE: &str = "SOFT_PROMPT";

/// Twenty vectors from the vocabulary.
pub(super) fn defaults() -> Value {
    defaults_of::<PromptTuningConfig>()
}

/// PEFT's names of the inits.
const INITS: [(&str, Start); 3] = [
    ("RANDOM", Start::Random),
    ("SAMPLE_VOCAB", Start::Vocabulary),
    ("TEXT", Start::Text),
];

/// Prompt tuning's keys of `adapter_config.json`.
#[derive(Deserialize)]
#[serde(default)]
struct Written {
    num_virtual_tokens: usize,
    num_transformer_submodules: usize,
    prompt_tuning_init: String,
    prompt_tuning_init_text: String,
    modules_to_save: Vec<String>,
}

impl Default for Written {
    fn default() -> Self {
        Self {
            num_virtual_tokens: 0,
            num_transformer_submodules: 1,
            prompt_tuning_init: "RANDOM".into(),
            prompt_tuning_init_text: String::new(),
            modules_to_save: Vec::new(),
        }
    }
}

/// Reads the configuration of a saved prompt.
pub(super) fn from_peft(config: &Map<String, Value>) -> Result<Box<dyn Adapt>> {
    Ok(Box::new(read(config)?))
}

fn read(config: &Map<String, Value>) -> Result<PromptTuningConfig> {
    let mut known = [
        "num_virtual_tokens",
        "num_transformer_submodules",
        "prompt_tuning_init",
        "prompt_tuning_init_text",
        "modules_to_save",
        "tokenizer_name_or_path",
        "tokenizer_kwargs",
    ]
    .to_vec();
    known.extend(SHAPE);
    let written: Written = read_options(&Value::Object(acted_on(config, &known)?))?;
    check_submodules(written.num_transformer_submodules)?;
    let init = INITS
        .iter()
        .find(|(name, _)| *name == written.prompt_tuning_init);
    let options = PromptTuningConfig {
        virtual_tokens: written.num_virtual_tokens,
        // How a finished prompt started changes nothing.
        init: init.map_or(Start::Random, |(_, start)| *start),
        init_text: written.prompt_tuning_init_text,
        modules_to_save: once(written.modules_to_save),
        ..PromptTuningConfig::default()
    };
    check_count("num_virtual_tokens", options.virtual_tokens)?;
    Ok(options)
}

impl PromptTuningConfig {
    fn words(&self) -> Words<'_> {
        Words {
            init: self.init,
            text: &self.init_text,
            labels: &self.init_labels,
        }
    }

    /// The finished prompt `[virtual_tokens, width]` with its head, whatever it was trained as.
    pub(super) fn of_vectors(
        host: &dyn Host,
        vectors: &Flat,
        heads: Copies,
        modules_to_save: &[String],
    ) -> Result<Box<dyn Adapter>> {
        let config = Self {
            virtual_tokens: vectors.shape[0],
            init: Start::Random,
            modules_to_save: modules_to_save.to_vec(),
            ..Self::default()
        };
        config.adapter(host, vectors, heads)
    }

    fn peft_config(&self, host: &dyn Host, width: usize, named: &str) -> Map<String, Value> {
        let info = host.info();
        let mut config = describe_prompt(info, named, self.virtual_tokens, width);
        let text = self.init == Start::Text;
        let init = INITS.iter().find(|(_, start)| *start == self.init);
        let own = [
            (
                "prompt_tuning_init",
                json!(init.map_or("SAMPLE_VOCAB", |(name, _)| *name)),
            ),
            (
                "prompt_tuning_init_text",
                json!(text.then_some(&self.init_text)),
            ),
            // PEFT wants a tokenizer named with a text.
            (
                "tokenizer_name_or_path",
                json!(text.then_some(&info.origin)),
            ),
            ("tokenizer_kwargs", Value::Null),
            (
                "modules_to_save",
                saved_modules(info, &self.modules_to_save),
            ),
        ];
        config.extend(own.map(|(key, value)| (key.to_owned(), value)));
        sorted(config)
    }

    fn adapter(&self, host: &dyn Host, vectors: &Flat, heads: Copies) -> Result<Box<dyn Adapter>> {
        Ok(Box::new(Prompted {
            prompt: trained(vectors.tensor()?),
            heads,
            embedding: token_embedding(host)?.clone(),
            config: self.clone(),
        }))
    }
}

impl Adapt for PromptTuningConfig {
    fn read_words(&mut self, encode: &Encode<'_>) -> Result<()> {
        self.tokens = self.words().tokens(encode)?;
        Ok(())
    }

    fn virtual_tokens(&self) -> usize {
        self.virtual_tokens
    }

    fn attach(&self, host: &dyn Host, seed: u64) -> Result<Box<dyn Adapter>> {
        check_count("method.virtual_tokens", self.virtual_tokens)?;
        self.words().check()?;
        let heads = Copies::of_host(host, heads(host, &self.modules_to_save)?)?;
        let count = self.virtual_tokens;
        let vectors = first_vectors(host, self.init, count, &self.tokens, seed)?;
        self.adapter(host, &vectors, heads)
    }

    fn restore(&self, host: &dyn Host, files: &AdapterFiles) -> Result<Box<dyn Adapter>> {
        let config = read(&files.config)?;
        check_pooling(host, &files.config, TYPE)?;
        let width = token_embedding(host)?.outputs;
        let mut file = Taker::new(&files.tensors);
        let vectors = file.take(PROMPT, &[config.virtual_tokens, width])?;
        let heads = Copies::of_file(host, heads(host, &config.modules_to_save)?, &mut file)?;
        file.finish()?;
        config.adapter(host, &vectors, heads)
    }

    fn options(&self) -> Value {
        json!(self)
    }

    fn starts_as_identity(&self) -> bool {
        false
    }
}

/// A prompt, and the head trained with it.
#[derive(Module, Debug)]
pub(super) struct Prompted {
    /// `[virtual_tokens, width]`.
    prompt: Param<Tensor<2>>,
    heads: Copies,
    #[module(skip)]
    embedding: Site,
    #[module(skip)]
    config: PromptTuningConfig,
}

impl Adapter for Prompted {
    fn hooks(&self) -> &dyn Hooks {
        self
    }

    fn files(&self, host: &dyn Host) -> Result<AdapterFiles> {
        let prompt = Flat::new(self.prompt.val().without_autodiff());
        let peft_type = match host.info().pools_first {
            true => OWN_TYPE,
            false => TYPE,
        };
        let config = self
            .config
            .peft_config(host, self.embedding.outputs, peft_type);
        let tensors = self.heads.tensors().chain([(PROMPT.to_owned(), prompt)]);
        Ok(AdapterFiles {
            config,
            tensors: tensors.collect(),
        })
    }

    fn is_mergeable(&self) -> bool {
        false
    }

    fn merged(&self, _: &dyn Host, _: &str) -> Result<Option<Flat>> {
        Err(Error::Usage(
            "a prompt is no change of weights and cannot be merged; keep it as an adapter".into(),
        ))
    }

    fn sites(&self) -> Vec<&Site> {
        [&self.embedding]
            .into_iter()
            .chain(self.heads.sites())
            .collect()
    }

    fn boxed(&self) -> Box<dyn Adapter> {
        Box::new(self.clone())
    }
}

impl Hooks for Prompted {
    fn prompt(&self, _: &Pass) -> Option<Tensor<3>> {
        Some(self.prompt.val().unsqueeze())
    }

    fn embedding(&self, call: EmbeddingCall<'_>, ids: Tensor<2, Int>) -> Tensor<3> {
        self.heads.embedding(call, ids)
    }

    fn linear(&self, call: LinearCall<'_>, x: Tensor<3>) -> Tensor<3> {
        self.heads.linear(call, x)
    }

    fn conv(&self, call: ConvCall<'_>, x: Tensor<4>) -> Tensor<4> {
        self.heads.conv(call, x)
    }

    fn acts_at(&self, site: &Site) -> bool {
        self.heads.acts_at(site)
    }

    fn after_linear(
        &self,
        call: &LinearCall<'_>,
        x: &Tensor<3>,
        y: Tensor<3>,
    ) -> Option<Tensor<3>> {
        self.heads.after_linear(call, x, y)
    }

    fn norm(&self, call: NormCall<'_>, x: Tensor<3>) -> Tensor<3> {
        self.heads.norm(call, x)
    }

    fn head_weight(&self, site: &Site, layer: &Linear, weight: Tensor<2>) -> Option<Tensor<2>> {
        self.heads.head_weight(site, layer, weight)
    }
}
