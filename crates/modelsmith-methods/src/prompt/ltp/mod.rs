//! How is a small language model prompted across languages with a few of its weights (LTP)?
//!
//! ```text
//! 1  fine-tune a copy on unlabelled text; δ = |θ¹ − θ⁰|; the ticket is the share ρ with the largest δ
//! 2  go back to θ⁰ and train [P; E[x]] with P and the weights of the ticket, everything else frozen
//! ```
//!
//! Step 1 is a run of the method `full` with the loss of the host's own head; its adapter folder is named
//! by `ticket_from`. A saved LTP adapter may be named there as well, whose ticket is used again. Winners are
//! chosen among the blocks' dense layers; embeddings and norms are left out unless asked for. A head beside
//! them, as that of masked language models, is trained by naming it in `modules_to_save`.

mod sparse;
#[cfg(test)]
mod tests;
mod ticket;

use super::common::peft::{PROMPT, heads};
use super::common::start::{Start, Words, check_count, first_vectors, token_embedding};
use crate::adapter::common::copies::{Copies, Wanted};
use crate::adapter::common::peft::{Taker, describe, key, own_options, sorted};
use crate::adapter::common::weights::{Bound, bound_weights};
use burn::module::{Module, Param};
use burn::tensor::{Int, Tensor};
use modelsmith_core::error::{Error, Result};
use modelsmith_core::hooks::{ConvCall, EmbeddingCall, Hooks, LinearCall, NormCall, Pass};
use modelsmith_core::host::Host;
use modelsmith_core::layers::Linear;
use modelsmith_core::method::{Card, Family, Method, defaults_of};
use modelsmith_core::parameters::{Flat, trained};
use modelsmith_core::random::Stream;
use modelsmith_core::roles::{Adapt, Adapter, AdapterFiles, Encode, SiteMap};
use modelsmith_core::sites::{Site, SiteKind};
use modelsmith_core::weights;
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};
use serde_json::{Map, Value, json};
use sparse::Sparse;
use std::collections::BTreeMap;
use std::path::PathBuf;
pub use ticket::Scope;
use ticket::{Scored, Size, select, unpacked};

/// Options of LTP.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(default, deny_unknown_fields)]
pub struct LtpConfig {
    /// Vectors in front of every text, 0 to 65536; 0 trains the ticket alone.
    pub virtual_tokens: usize,
    /// How the vectors start.
    pub init: Start,
    /// The text to start from, for `init = "text"`.
    pub init_text: String,
    /// The labels to start from, for `init = "labels"`.
    pub init_labels: Vec<String>,
    /// What weights win by.
    pub criterion: Criterion,
    /// Folder of the adapter that `full` trained on unlabelled text, or of an LTP adapter whose ticket
    /// is used again.
    pub ticket_from: Option<PathBuf>,
    /// Share of the weights that win, above 0 and at most 1.
    pub proportion: f64,
    /// Number of weights that win instead, where it is not 0.
    pub count: usize,
    /// What weights are compared with.
    pub scope: Scope,
    /// Which blocks may win.
    pub layers: Layers,
    /// Whether embeddings may win.
    pub include_embeddings: bool,
    /// Whether norms may win.
    pub include_norms: bool,
    /// Modules trained in full beside the ticket, by path suffix; the heads of classifiers are
    /// always among them.
    pub modules_to_save: Vec<String>,
    /// Tokens of the text, or of each label.
    #[serde(skip)]
    tokens: Vec<Vec<u32>>,
}

/// What weights win by; all but the first are controls.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "snake_case")]
pub enum Criterion {
    /// How far they moved in the training of `ticket_from`.
    #[default]
    Change,
    /// Their absolute value.
    Magnitude,
    /// A draw; with `ticket_from` as many in each tensor as its ticket has.
    Random,
}

/// Which blocks may win.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "snake_case")]
pub enum Layers {
    /// All.
    #[default]
    All,
    /// The first third.
    Lower,
    /// The second third.
    Middle,
    /// The last third.
    Upper,
}

impl Layers {
    fn admit(self, layer: usize, count: usize) -> bool {
        let third = |n: usize| count * n / 3;
        let range = match self {
            Self::All => 0..count,
            Self::Lower => 0..third(1),
            Self::Middle => third(1)..third(2),
            Self::Upper => third(2)..count,
        };
        range.contains(&layer)
    }
}

impl Default for LtpConfig {
    fn default() -> Self {
        Self {
            virtual_tokens: 16,
            init: Start::Vocabulary,
            init_text: String::new(),
            init_labels: Vec::new(),
            criterion: Criterion::Change,
            ticket_from: None,
            proportion: 0.2,
            count: 0,
            scope: Scope::Global,
            layers: Layers::All,
            include_embeddings: false,
            include_norms: false,
            modules_to_save: Vec::new(),
            tokens: Vec::new(),
        }
    }
}

impl Method for LtpConfig {
    const CARD: Card = Card {
        id: "ltp",
        number: Some(39),
        title: "LTP: lottery ticket prompt-learning",
        family: Family::Prompt,
        paper: "Li and Luo, arXiv 2404.01242",
        summary: "Trains a prompt together with the weights that moved most on unlabelled text.",
    };
}

/// Sixteen vectors and a fifth of the blocks' weights.
pub(super) fn defaults() -> Value {
    defaults_of::<LtpConfig>()
}

/// Name of the form in `adapter_config.json`.
pub(super) const TYPE: &str = "LTP";

/// Reads the configuration of a saved adapter.
pub(super) fn from_peft(config: &Map<String, Value>) -> Result<Box<dyn Adapt>> {
    Ok(Box::new(own_options::<LtpConfig>(config)?))
}

impl Adapt for LtpConfig {
    fn read_words(&mut self, encode: &Encode<'_>) -> Result<()> {
        self.tokens = self.words().tokens(encode)?;
        Ok(())
    }

    fn virtual_tokens(&self) -> usize {
        self.virtual_tokens
    }

    fn attach(&self, host: &dyn Host, seed: u64) -> Result<Box<dyn Adapter>> {
        let saved = heads(host, &self.modules_to_save)?;
        self.check()?;
        let uses = self.maskable(host, &saved)?;
        let winners = self.winners(host, &uses, seed)?;
        let sparse = Sparse::of_host(host, uses.into_iter().zip(winners).collect())?;
        let vectors = match self.virtual_tokens {
            0 => None,
            count => Some(first_vectors(host, self.init, count, &self.tokens, seed)?),
        };
        self.adapter(host, sparse, vectors, Copies::of_host(host, saved)?)
    }

    fn restore(&self, host: &dyn Host, files: &AdapterFiles) -> Result<Box<dyn Adapter>> {
        let config: Self = own_options(&files.config)?;
        let mut file = Taker::new(&files.tensors);
        let uses = by_tensor(bound_weights(host));
        let sparse = Sparse::of_file(host, uses, &mut file)?;
        let width = token_embedding(host)?.outputs;
        let vectors = match config.virtual_tokens {
            0 => None,
            count => Some(file.take(PROMPT, &[count, width])?),
        };
        let saved = heads(host, &config.modules_to_save)?;
        let copies = Copies::of_file(host, saved, &mut file)?;
        file.finish()?;
        config.adapter(host, sparse, vectors, copies)
    }

    fn options(&self) -> Value {
        json!(self)
    }

    fn starts_as_identity(&self) -> bool {
        self.virtual_tokens == 0
    }
}

/// The uses of each of the host's tensors.
fn by_tensor(all: Vec<Bound>) -> Vec<Vec<Bound>> {
    let mut found: Vec<Vec<Bound>> = Vec::new();
    for bound in all {
        match found.iter_mut().find(|uses| uses[0].stored == bound.stored) {
            Some(uses) => uses.push(bound),
            None => found.push(vec![bound]),
        }
    }
    found
}

impl LtpConfig {
    fn words(&self) -> Words<'_> {
        Words {
            init: self.init,
            text: &self.init_text,
            labels: &self.init_labels,
        }
    }

    fn check(&self) -> Result<()> {
        if self.virtual_tokens > 0 {
            check_count("method.virtual_tokens", self.virtual_tokens)?;
        }
        self.words().check()?;
        if !(self.proportion > 0.0 && self.proportion <= 1.0) {
            return Err(Error::config(
                "method.proportion",
                format!("{} given; must be above 0 and at most 1", self.proportion),
            ));
        }
        if self.criterion == Criterion::Change && self.ticket_from.is_none() {
            return Err(Error::config(
                "method.ticket_from",
                "is missing: train the host with the method `full` on unlabelled text first and name \
                 the run's adapter folder, or choose another criterion",
            ));
        }
        Ok(())
    }

    /// The tensors of which weights may win, with their uses.
    fn maskable(&self, host: &dyn Host, saved: &[Wanted]) -> Result<Vec<Vec<Bound>>> {
        let sites = host.sites();
        let count = sites
            .iter()
            .filter_map(Site::layer)
            .max()
            .map_or(0, |last| last + 1);
        let in_full = |bound: &Bound| saved.iter().any(|item| item.bound.stored == bound.stored);
        let may_win = |uses: &Vec<Bound>| {
            let site = &sites[uses[0].site.0];
            let by_kind = match site.kind {
                SiteKind::Embedding => return self.include_embeddings,
                SiteKind::Norm => self.include_norms,
                _ => !site.head,
            };
            by_kind
                && site
                    .layer()
                    .is_some_and(|layer| self.layers.admit(layer, count))
        };
        let mut uses = by_tensor(bound_weights(host));
        uses.retain(|uses| may_win(uses) && !uses.iter().any(in_full));
        match uses.is_empty() {
            true => Err(Error::config(
                "method.layers",
                format!("leaves no weight that may win; the host has {count} blocks"),
            )),
            false => Ok(uses),
        }
    }

    fn size(&self) -> Size {
        match self.count {
            0 => Size::Share(self.proportion),
            count => Size::Count(count),
        }
    }

    fn winners(&self, host: &dyn Host, uses: &[Vec<Bound>], seed: u64) -> Result<Vec<Vec<u32>>> {
        let earlier = self.ticket_from.as_ref();
        let earlier = earlier
            .map(|folder| Earlier::read(folder, host))
            .transpose()?;
        if let Some(earlier) = &earlier
            && self.criterion == Criterion::Change
            && let Some(winners) = earlier.ticket(host, uses)?
        {
            return Ok(winners);
        }
        let mut all = Vec::new();
        for uses in uses {
            let base = weight(host, &uses[0].stored)?;
            let scores = match (self.criterion, &earlier) {
                (Criterion::Magnitude, _) => base.iter().map(|value| value.abs()).collect(),
                (Criterion::Random, None) => drawn(seed, &uses[0].stored, base.len()),
                (Criterion::Random | Criterion::Change, Some(earlier)) => {
                    earlier.change(&uses[0].stored, &base)?
                }
                (Criterion::Change, None) => Vec::new(),
            };
            all.push(Scored {
                name: uses[0].stored.clone(),
                layer: host.sites()[uses[0].site.0].layer(),
                scores,
            });
        }
        // What did not move at all has not been trained and cannot have won.
        let least = match earlier {
            Some(_) => 0.0,
            None => f32::NEG_INFINITY,
        };
        let winners = select(&all, self.size(), self.scope, least)?;
        if self.criterion != Criterion::Random || least < 0.0 {
            return Ok(winners);
        }
        let as_many = all.into_iter().zip(&winners).map(|(tensor, winners)| {
            let scores = drawn(seed, &tensor.name, tensor.scores.len());
            let size = Size::Count(winners.len());
            match winners.is_empty() {
                true => Ok(Vec::new()),
                false => {
                    let one = Scored { scores, ..tensor };
                    Ok(select(&[one], size, Scope::Tensor, f32::NEG_INFINITY)?.remove(0))
                }
            }
        });
        as_many.collect()
    }

    fn adapter(
        &self,
        host: &dyn Host,
        sparse: Sparse,
        vectors: Option<Flat>,
        copies: Copies,
    ) -> Result<Box<dyn Adapter>> {
        let vectors: Option<Tensor<2>> = vectors.map(|flat| flat.tensor()).transpose()?;
        let used = |site: &&Site| sparse.holds(site.id);
        Ok(Box::new(Ltp {
            sites: host.sites().iter().filter(used).cloned().collect(),
            densities: sparse.densities(host.sites()),
            sparse,
            prompt: vectors.map(trained),
            heads: copies,
            config: self.clone(),
        }))
    }
}

fn drawn(seed: u64, name: &str, count: usize) -> Vec<f32> {
    Stream::new(seed, &format!("ltp/{name}")).uniform(count, 0.0, 1.0)
}

fn weight(host: &dyn Host, name: &str) -> Result<Vec<f32>> {
    let absent = || Error::Failed(format!("the host has no weight {name}"));
    Ok(host.weight(name).ok_or_else(absent)?.to_vec())
}

/// The adapter that a ticket comes from.
struct Earlier {
    folder: PathBuf,
    tensors: BTreeMap<String, Flat>,
}

impl Earlier {
    fn read(folder: &std::path::Path, host: &dyn Host) -> Result<Self> {
        let file = folder.join("adapter_model.safetensors");
        if !file.is_file() {
            return Err(Error::config(
                "method.ticket_from",
                format!(
                    "{} is no adapter folder: it lacks adapter_model.safetensors",
                    folder.display()
                ),
            ));
        }
        Ok(Self {
            tensors: weights::load(&file, &host.device())?,
            folder: folder.to_path_buf(),
        })
    }

    /// The ticket of an LTP adapter; `None` where this is another one.
    fn ticket(&self, host: &dyn Host, uses: &[Vec<Bound>]) -> Result<Option<Vec<Vec<u32>>>> {
        if !self.tensors.keys().any(|name| name.ends_with(".ticket")) {
            return Ok(None);
        }
        let winners = uses.iter().map(|uses| {
            let name = key(&format!("{}.ticket", uses[0].stored));
            match self.tensors.get(&name) {
                Some(words) => {
                    let weights = weight(host, &uses[0].stored)?.len();
                    unpacked(&name, &words.to_vec(), weights)
                }
                None => Ok(Vec::new()),
            }
        });
        winners.collect::<Result<_>>().map(Some)
    }

    /// `|θ¹ − θ⁰|` of one tensor.
    fn change(&self, name: &str, base: &[f32]) -> Result<Vec<f32>> {
        let wrong = |problem: &str| {
            Error::config(
                "method.ticket_from",
                format!(
                    "{}: {problem} {name}; it must be trained by `full` on this host",
                    self.folder.display()
                ),
            )
        };
        let found = self.tensors.get(&key(name)).ok_or_else(|| wrong("lacks"))?;
        match found.len() == base.len() {
            true => {
                let pairs = found.to_vec().into_iter().zip(base);
                Ok(pairs.map(|(new, old)| (new - old).abs()).collect())
            }
            false => Err(wrong("has another size of")),
        }
    }
}

/// Winners with a prompt, and what is trained in full beside them.
#[derive(Module, Debug)]
struct Ltp {
    sparse: Sparse,
    /// `[virtual_tokens, width]`.
    prompt: Option<Param<Tensor<2>>>,
    heads: Copies,
    #[module(skip)]
    sites: Vec<Site>,
    #[module(skip)]
    densities: Vec<(String, f64)>,
    #[module(skip)]
    config: LtpConfig,
}

impl Ltp {
    fn refuse_merging(&self) -> Result<()> {
        match self.is_mergeable() {
            true => Ok(()),
            false => Err(Error::Usage(
                "a prompt is no change of weights and cannot be merged; keep it as an adapter"
                    .into(),
            )),
        }
    }
}

impl Adapter for Ltp {
    fn hooks(&self) -> &dyn Hooks {
        self
    }

    fn files(&self, host: &dyn Host) -> Result<AdapterFiles> {
        let mut config = describe(host.info(), TYPE);
        if let Value::Object(options) = json!(self.config) {
            config.extend(options);
        }
        let mut tensors: BTreeMap<String, Flat> = self.heads.tensors().collect();
        tensors.extend(self.sparse.tensors());
        if let Some(prompt) = &self.prompt {
            let prompt = Flat::new(prompt.val().without_autodiff());
            tensors.insert(PROMPT.to_owned(), prompt);
        }
        Ok(AdapterFiles {
            config: sorted(config),
            tensors,
        })
    }

    fn is_mergeable(&self) -> bool {
        self.prompt.is_none()
    }

    fn merged(&self, host: &dyn Host, name: &str) -> Result<Option<Flat>> {
        self.refuse_merging()?;
        match self.sparse.merged(host, name) {
            Some(weight) => Ok(Some(weight)),
            None => self.heads.merged(host, name),
        }
    }

    fn unmerged(&self, host: &dyn Host, name: &str) -> Result<Option<Flat>> {
        self.refuse_merging()?;
        self.heads.refuse_unmerging(name)?;
        Ok(self.sparse.unmerged(host, name))
    }

    fn sites(&self) -> Vec<&Site> {
        self.sites.iter().chain(self.heads.sites()).collect()
    }

    fn boxed(&self) -> Box<dyn Adapter> {
        Box::new(self.clone())
    }

    fn maps(&self) -> Vec<SiteMap> {
        vec![SiteMap {
            title: "Ticket".into(),
            caption: "Share of each module's weights that are trained.".into(),
            values: self.densities.clone(),
        }]
    }
}

impl Hooks for Ltp {
    fn prompt(&self, _: &Pass) -> Option<Tensor<3>> {
        Some(self.prompt.as_ref()?.val().unsqueeze())
    }

    fn embedding(&self, call: EmbeddingCall<'_>, ids: Tensor<2, Int>) -> Tensor<3> {
        match self.sparse.holds(call.site.id) {
            true => self.sparse.embedding(call, ids),
            false => self.heads.embedding(call, ids),
        }
    }

    fn linear(&self, call: LinearCall<'_>, x: Tensor<3>) -> Tensor<3> {
        match self.sparse.holds(call.site.id) {
            true => self.sparse.linear(call, x),
            false => self.heads.linear(call, x),
        }
    }

    fn conv(&self, call: ConvCall<'_>, x: Tensor<4>) -> Tensor<4> {
        match self.sparse.holds(call.site.id) {
            true => self.sparse.conv(call, x),
            false => self.heads.conv(call, x),
        }
    }

    fn acts_at(&self, site: &Site) -> bool {
        self.sparse.holds(site.id) || self.heads.acts_at(site)
    }

    fn after_linear(
        &self,
        call: &LinearCall<'_>,
        x: &Tensor<3>,
        y: Tensor<3>,
    ) -> Option<Tensor<3>> {
        match self.sparse.holds(call.site.id) {
            true => None,
            false => self.heads.after_linear(call, x, y),
        }
    }

    fn norm(&self, call: NormCall<'_>, x: Tensor<3>) -> Tensor<3> {
        match self.sparse.holds(call.site.id) {
            true => self.sparse.norm(call, x),
            false => self.heads.norm(call, x),
        }
    }

    fn head_weight(&self, site: &Site, layer: &Linear, weight: Tensor<2>) -> Option<Tensor<2>> {
        match self.sparse.holds(site.id) {
            true => None,
            false => self.heads.head_weight(site, layer, weight),
        }
    }
}
