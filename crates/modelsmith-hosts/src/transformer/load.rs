//! Weights into a planned model: from a checkpoint, by all the names it may use, or drawn afresh.

use super::config::{Config, Head};
use super::dialects::Names;
use super::plan::{Init, Plan, WeightSpec};
use burn::tensor::Device;
use modelsmith_core::error::{Error, Result};
use modelsmith_core::files::{Checkpoint, DType};
use modelsmith_core::parameters::Flat;
use modelsmith_core::random::Stream;
use modelsmith_core::sites::has_suffix;
use modelsmith_core::weights;
use rayon::prelude::*;
use std::collections::{BTreeMap, BTreeSet};

/// Names shown of each kind of problem.
const SHOWN: usize = 8;

/// Buffers that some checkpoints store and no class loads.
const BUFFERS: &[&str] = &[
    "rotary_emb.inv_freq",
    "attn.bias",
    "attn.masked_bias",
    "position_ids",
    "token_type_ids",
    "EncDecAttention.relative_attention_bias.weight",
];

/// Tensors of heads that the class at hand does not have.
const OTHER_HEADS: &[&str] = &[
    "lm_head.",
    "score.",
    "classifier.",
    "cls.",
    "qa_outputs.",
    "pooler.",
];

/// Weights and where each came from.
#[derive(Clone, Debug)]
pub(crate) struct Weights {
    pub(crate) values: Vec<Flat>,
    /// Type in the file; `None` for a weight drawn afresh.
    pub(crate) dtypes: Vec<Option<DType>>,
    /// Stored tensors that are not used: buffers, tied copies, other heads.
    pub(crate) skipped: Vec<String>,
}

/// Draws all weights afresh.
pub(crate) fn fresh(plan: &Plan, seed: u64, device: &Device) -> Weights {
    Weights {
        values: plan
            .weights
            .iter()
            .map(|spec| draw(spec, seed, device))
            .collect(),
        dtypes: vec![None; plan.weights.len()],
        skipped: Vec::new(),
    }
}

/// A fresh weight, drawn under its name.
fn draw(spec: &WeightSpec, seed: u64, device: &Device) -> Flat {
    let count = spec.shape.iter().product();
    let values = match spec.init {
        Init::Zeros => vec![0.0; count],
        Init::Ones => vec![1.0; count],
        Init::Normal {
            deviation,
            zero_row,
        } => {
            let mut values = Stream::new(seed, &spec.name).normal(count, 0.0, deviation as f32);
            if let Some(row) = zero_row {
                let width = spec.shape[1];
                values[row * width..(row + 1) * width].fill(0.0);
            }
            values
        }
    };
    Flat::from_vec(values, &spec.shape, device)
}

/// A checkpoint seen through a plan.
pub(crate) struct Stored<'a> {
    checkpoint: &'a Checkpoint,
    config: &'a Config,
    plan: &'a Plan,
    /// Stored name of each weight; `None` for one to be drawn.
    sources: Vec<Option<String>>,
    skipped: Vec<String>,
}

impl<'a> Stored<'a> {
    /// Finds every weight of the plan in the checkpoint, and a use for every stored tensor. With
    /// `new_head` the classifier is not looked for.
    ///
    /// # Errors
    /// Missing, surplus and misshapen tensors, by name; stored copies that differ from the weight
    /// they should be tied to.
    pub(crate) fn match_names(
        checkpoint: &'a Checkpoint,
        config: &'a Config,
        plan: &'a Plan,
        new_head: bool,
    ) -> Result<Self> {
        let mut stored = Self {
            checkpoint,
            config,
            plan,
            sources: Vec::new(),
            skipped: Vec::new(),
        };
        let mut problems = Problems::default();
        for spec in &plan.weights {
            let source = stored.find(&spec.name);
            let source = match source {
                Some(_) if new_head && spec.head && !is_pooler(&spec.name) => None,
                Some(name) => {
                    problems.compare(&name, &checkpoint.info(&name)?.shape, &spec.shape);
                    Some(name)
                }
                None if new_head && spec.head => None,
                None => {
                    problems.missing(spec);
                    None
                }
            };
            stored.sources.push(source);
        }
        stored.account(&mut problems)?;
        problems.report(checkpoint)?;
        Ok(stored)
    }

    /// Reads what was found, all tensors at once, and draws the rest.
    pub(crate) fn read(self, seed: u64, device: &Device) -> Result<Weights> {
        let read: Vec<Option<Vec<f32>>> = self
            .sources
            .par_iter()
            .map(|source| {
                let name = source.as_ref();
                name.map(|name| weights::finite(self.checkpoint, name))
                    .transpose()
            })
            .collect::<Result<_>>()?;
        let pairs = self.plan.weights.iter().zip(read);
        let values = pairs
            .map(|(spec, values)| match values {
                Some(values) => Flat::from_vec(values, &spec.shape, device),
                None => draw(spec, seed, device),
            })
            .collect();
        let dtype = |source: &Option<String>| {
            source
                .as_ref()
                .map(|name| Ok(self.checkpoint.info(name)?.dtype))
                .transpose()
        };
        let dtypes = self.sources.iter().map(dtype).collect::<Result<_>>()?;
        Ok(Weights {
            values,
            dtypes,
            skipped: self.skipped,
        })
    }

    /// The name under which a weight is stored, if it is.
    fn find(&self, name: &str) -> Option<String> {
        spellings(self.config, name)
            .into_iter()
            .find(|spelling| self.checkpoint.contains(spelling))
    }

    /// Finds a reason for every stored tensor that is not a weight of the plan.
    fn account(&mut self, problems: &mut Problems) -> Result<()> {
        let used: BTreeSet<&str> = self.sources.iter().flatten().map(String::as_str).collect();
        let copies = self.tied_copies();
        let mut skipped = Vec::new();
        for name in self.checkpoint.names().filter(|name| !used.contains(name)) {
            match copies.get(name) {
                Some(owner) if !equal(self.checkpoint, name, owner)? => {
                    problems.differ(name, owner);
                }
                Some(_) => skipped.push(name.to_owned()),
                None if is_surplus(self.config.names, name) => {
                    problems.surplus.push(name.to_owned());
                }
                None => skipped.push(name.to_owned()),
            }
        }
        self.skipped = skipped;
        Ok(())
    }

    /// Names under which older checkpoints repeat a tied weight, with the weight's own.
    fn tied_copies(&self) -> BTreeMap<String, String> {
        let mut copies = BTreeMap::new();
        let tokens = self.plan.stack.tokens;
        let tokens = tokens.map(|at| self.plan.embeddings[at.layer]);
        if let Some(source) = tokens.and_then(|number| self.sources[number].clone()) {
            let names = self.config.names.lookups();
            copies.extend(names.map(|path| (format!("{path}.weight"), source.clone())));
        }
        if !matches!(
            self.config.head,
            Head::CausalLm | Head::MaskedLm | Head::Seq2SeqLm(_)
        ) {
            return copies;
        }
        for (site, spec) in self.linear_sites() {
            for (ending, number) in [("weight", Some(spec.weight)), ("bias", spec.bias)] {
                let source = number.and_then(|number| self.sources[number].clone());
                if let Some(source) = source {
                    copies.insert(format!("{site}.{ending}"), source);
                }
            }
        }
        copies
    }

    /// Paths of the linear sites of heads, with their weights.
    fn linear_sites(&self) -> impl Iterator<Item = (&str, &super::plan::LinearSpec)> {
        use modelsmith_core::sites::SiteKind;
        let sites = self
            .plan
            .sites
            .iter()
            .filter(|site| site.kind == SiteKind::Linear);
        let paired = sites.zip(&self.plan.linears);
        paired
            .filter(|(site, _)| site.head)
            .map(|(site, spec)| (site.path.as_str(), spec))
    }
}

/// Whether the head of a decoder has the weight of the token embedding. The configuration does not
/// tell: what it says of tying is read as whether the state is scaled before the head.
///
/// # Errors
/// A file that cannot be read.
pub(crate) fn head_is_shared(checkpoint: &Checkpoint, config: &Config) -> Result<bool> {
    let (head, tokens) = ("lm_head.weight", format!("{}.weight", config.names.tokens));
    if !checkpoint.contains(head) {
        return Ok(true);
    }
    let mut names = spellings(config, &tokens).into_iter();
    match names.find(|name| checkpoint.contains(name)) {
        Some(tokens) => equal(checkpoint, head, &tokens),
        None => Ok(false),
    }
}

fn equal(checkpoint: &Checkpoint, a: &str, b: &str) -> Result<bool> {
    let (a, b) = (checkpoint.view(a)?, checkpoint.view(b)?);
    Ok(a.dtype == b.dtype && a.shape == b.shape && a.bytes == b.bytes)
}

/// A weight's names: the class's own, with and without the bare model's attribute, and with the
/// `gamma` and `beta` of old BERT checkpoints.
fn spellings(config: &Config, name: &str) -> Vec<String> {
    let prefix = config.names.prefix_dot();
    let mut found = vec![name.to_owned()];
    match config.head {
        Head::Base => found.push(format!("{prefix}{name}")),
        _ => found.extend(name.strip_prefix(&prefix).map(str::to_owned)),
    }
    if name.strip_suffix(".weight") == Some(config.names.tokens) {
        let copies = config.names.lookups();
        found.extend(copies.map(|path| format!("{path}.weight")));
    }
    if let Some([_, _, decoder, bias]) = config.names.heads.masked
        && name == bias
    {
        found.push(format!("{decoder}.bias"));
    }
    for (new, old) in [
        ("LayerNorm.weight", "LayerNorm.gamma"),
        ("LayerNorm.bias", "LayerNorm.beta"),
    ] {
        let renamed: Vec<String> = found
            .iter()
            .filter_map(|name| Some(format!("{}{old}", name.strip_suffix(new)?)))
            .collect();
        found.extend(renamed);
    }
    found
}

fn is_pooler(name: &str) -> bool {
    name.split('.').any(|part| part == "pooler")
}

/// Whether a stored tensor is neither a buffer nor a part of a head.
fn is_surplus(names: &Names, name: &str) -> bool {
    let prefix = names.prefix_dot();
    let bare = name.strip_prefix(&prefix).unwrap_or(name);
    let buffer = BUFFERS.iter().any(|buffer| has_suffix(name, buffer));
    let head = OTHER_HEADS.iter().any(|head| bare.starts_with(head));
    !buffer && !head
}

/// What does not fit, gathered so that one message names it all.
#[derive(Default)]
struct Problems {
    missing: Vec<String>,
    misshapen: Vec<String>,
    surplus: Vec<String>,
    differing: Vec<String>,
    head_missing: bool,
}

impl Problems {
    fn missing(&mut self, spec: &WeightSpec) {
        self.head_missing |= spec.head;
        self.missing.push(spec.name.clone());
    }

    fn compare(&mut self, name: &str, found: &[usize], expected: &[usize]) {
        if found != expected {
            self.misshapen.push(format!(
                "{name} {found:?} where config.json makes it {expected:?}"
            ));
        }
    }

    fn differ(&mut self, name: &str, owner: &str) {
        self.differing.push(format!("{name} differs from {owner}"));
    }

    fn report(self, checkpoint: &Checkpoint) -> Result<()> {
        let kinds = [
            ("missing", &self.missing),
            ("of another shape", &self.misshapen),
            ("not known to this class", &self.surplus),
            ("tied by config.json but stored apart", &self.differing),
        ];
        let parts: Vec<String> = kinds
            .iter()
            .filter(|(_, names)| !names.is_empty())
            .map(|(kind, names)| format!("{kind}: {}", listed(names)))
            .collect();
        if parts.is_empty() {
            return Ok(());
        }
        let advice = match self.head_missing {
            true => {
                "; a head that the checkpoint lacks can be started afresh by giving the number of labels"
            }
            false => "; config.json and weights must be of the same checkpoint",
        };
        let problem = format!(
            "the tensors do not fit config.json: {}{advice}",
            parts.join("; ")
        );
        Err(Error::file(checkpoint.path(), problem))
    }
}

fn listed(names: &[String]) -> String {
    let shown = names
        .iter()
        .take(SHOWN)
        .cloned()
        .collect::<Vec<_>>()
        .join(", ");
    match names.len().saturating_sub(SHOWN) {
        0 => shown,
        more => format!("{shown} and {more} more"),
    }
}
