//! Prompts whose vectors are made from other trained numbers.
//!
//! A finished prompt of this kind is vectors like any other: [`Adapter::portable`] computes them once and
//! gives them as prompt tuning's files. The files of its own type keep what the vectors are made from,
//! under `options` and by name, so that training can go on.

use super::peft::{SHAPE, describe_prompt, heads};
use super::start::token_embedding;
use crate::adapter::common::copies::Copies;
use crate::adapter::common::peft::{Taker, acted_on, sorted};
use crate::prompt::prompt_tuning::PromptTuningConfig;
use burn::module::{Module, ModuleDisplay};
use burn::tensor::{Int, Tensor};
use modelsmith_core::error::{Error, Result, suggest};
use modelsmith_core::hooks::{ConvCall, EmbeddingCall, Hooks, LinearCall, NormCall, Pass};
use modelsmith_core::host::Host;
use modelsmith_core::layers::Linear;
use modelsmith_core::method::read_options;
use modelsmith_core::parameters::Flat;
use modelsmith_core::roles::{Adapter, AdapterFiles};
use modelsmith_core::sites::Site;
use serde::de::DeserializeOwned;
use serde_json::{Map, Value};
use std::collections::BTreeMap;

/// What makes the vectors.
pub(crate) trait Producer: Module + ModuleDisplay + Send + Sync + 'static {
    /// The vectors `[virtual_tokens, width]` of a pass, of rows that name no task.
    fn vectors(&self, pass: &Pass) -> Tensor<2>;

    /// The vectors `[1 or rows, virtual_tokens, width]` of a pass, of rows that may name tasks.
    fn prompts(&self, pass: &Pass) -> Tensor<3> {
        self.vectors(pass).unsqueeze()
    }

    /// Names of tasks, where it tells them apart.
    fn tasks(&self) -> &[String] {
        &[]
    }

    /// Makes a task that of rows that name none.
    fn choose(&mut self, _task: usize) {}

    /// All that they are made from, by the names of the file.
    fn tensors(&self) -> BTreeMap<String, Flat>;
}

/// What a method says of its prompts in files.
#[derive(Clone, Debug)]
pub(crate) struct Described {
    /// `peft_type`.
    pub(crate) kind: &'static str,
    pub(crate) virtual_tokens: usize,
    pub(crate) modules_to_save: Vec<String>,
    /// The method's options, where files hold them whole; null otherwise.
    pub(crate) options: Value,
    /// Further keys of the file.
    pub(crate) further: Map<String, Value>,
}

/// The options of a saved prompt.
///
/// # Errors
/// Keys that would change the computation, options out of range.
pub(crate) fn read<C: DeserializeOwned>(config: &Map<String, Value>) -> Result<C> {
    let mut known = vec![
        "options",
        "num_virtual_tokens",
        "num_transformer_submodules",
    ];
    known.extend(SHAPE);
    let mut found = acted_on(config, &known)?;
    let options = found.remove("options").ok_or_else(|| {
        Error::config(
            "options",
            "missing in adapter_config.json; the file is damaged",
        )
    })?;
    read_options(&options)
}

/// A prompt that is made, and the head trained with it.
#[derive(Module, Debug)]
pub(crate) struct Produced<P: Producer> {
    producer: P,
    heads: Copies,
    #[module(skip)]
    embedding: Site,
    #[module(skip)]
    described: Described,
}

impl<P: Producer> Produced<P> {
    /// An untrained one, whose producer `make` makes for the width.
    pub(crate) fn fresh(
        host: &dyn Host,
        described: Described,
        make: impl FnOnce(usize) -> Result<P>,
    ) -> Result<Self> {
        let heads = Copies::of_host(host, heads(host, &described.modules_to_save)?)?;
        let producer = make(token_embedding(host)?.outputs)?;
        Self::new(host, producer, heads, described)
    }

    /// A saved one, whose producer `take` reads from the file, given the width.
    pub(crate) fn saved(
        host: &dyn Host,
        files: &AdapterFiles,
        described: Described,
        take: impl FnOnce(&mut Taker, usize) -> Result<P>,
    ) -> Result<Self> {
        let mut file = Taker::new(&files.tensors);
        let producer = take(&mut file, token_embedding(host)?.outputs)?;
        let wanted = heads(host, &described.modules_to_save)?;
        let heads = Copies::of_file(host, wanted, &mut file)?;
        file.finish()?;
        Self::new(host, producer, heads, described)
    }

    fn new(host: &dyn Host, producer: P, heads: Copies, described: Described) -> Result<Self> {
        Ok(Self {
            producer,
            heads,
            embedding: token_embedding(host)?.clone(),
            described,
        })
    }
}

impl<P: Producer> Adapter for Produced<P> {
    fn hooks(&self) -> &dyn Hooks {
        self
    }

    fn files(&self, host: &dyn Host) -> Result<AdapterFiles> {
        let Described {
            kind,
            virtual_tokens,
            options,
            further,
            ..
        } = &self.described;
        let width = self.embedding.outputs;
        let mut config = describe_prompt(host.info(), kind, *virtual_tokens, width);
        if !options.is_null() {
            config.insert("options".into(), options.clone());
        }
        config.extend(further.clone());
        Ok(AdapterFiles {
            config: sorted(config),
            tensors: self
                .heads
                .tensors()
                .chain(self.producer.tensors())
                .collect(),
        })
    }

    fn portable(&self, host: &dyn Host) -> Result<AdapterFiles> {
        let vectors = self.producer.vectors(&Pass::default()).without_autodiff();
        let saved = &self.described.modules_to_save;
        PromptTuningConfig::of_vectors(host, &Flat::new(vectors), self.heads.clone(), saved)?
            .files(host)
    }

    fn tasks(&self) -> &[String] {
        self.producer.tasks()
    }

    fn choose_task(&mut self, name: &str) -> Result<()> {
        let tasks = self.producer.tasks();
        let found = tasks.iter().position(|task| task == name);
        let task = found.ok_or_else(|| {
            let near = suggest(name, tasks.iter().map(String::as_str));
            Error::Usage(format!("the adapter has no task {name}; {near}"))
        })?;
        self.producer.choose(task);
        Ok(())
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

impl<P: Producer> Hooks for Produced<P> {
    fn prompt(&self, pass: &Pass) -> Option<Tensor<3>> {
        Some(self.producer.prompts(pass))
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
