//! What every host offers to methods and drivers, whatever its architecture.

use crate::error::{Error, Result};
use crate::hooks::{AttentionShape, Hooks, Pass};
use crate::parameters::{Flat, Parameters};
use crate::sites::{Site, SiteKind};
use burn::tensor::{Device, Tensor};
use serde_json::Value;

/// Facts about a loaded host that adapters and files refer to.
#[derive(Clone, Debug, PartialEq)]
pub struct HostInfo {
    /// `model_type` of `config.json`, for instance `llama`.
    pub model_type: String,
    /// The class, for instance `LlamaForCausalLM`.
    pub architecture: String,
    /// Where it was loaded from, as the user wrote it (PEFT's `base_model_name_or_path`).
    pub origin: String,
    /// PEFT's `task_type`: `CAUSAL_LM`, `SEQ_2_SEQ_LM`, `SEQ_CLS`, `TOKEN_CLS`, or
    /// `FEATURE_EXTRACTION`.
    pub task_type: Option<&'static str>,
    /// Module suffixes that adapters target when the user names none (PEFT's table).
    pub default_targets: &'static [&'static str],
    /// Modules trained in full beside an adapter: the heads of classifiers.
    pub head_modules: &'static [&'static str],
    /// Whether the head is a sequence classifier that reads the first token's state.
    pub pools_first: bool,
    /// Dense layers of a block by what they do.
    pub block: BlockParts,
    /// The whole `config.json`.
    pub config: Value,
}

/// Dense layers of every block by what they do, as paths within the block.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct BlockParts {
    /// Those that make keys and values; the joint one where queries come out of it too.
    pub keys_values: Vec<&'static str>,
    /// The last one of each attention.
    pub attention_out: Vec<&'static str>,
    /// The one of the MLP whose outputs go through its activation: the gate where the MLP is gated,
    /// else its first.
    pub mlp_gate: Vec<&'static str>,
    /// The one whose outputs the gate multiplies; none where the MLP is not gated.
    pub mlp_up: Vec<&'static str>,
    /// The last one of the MLP, which has another path in a decoder than in its encoder.
    pub mlp_out: Vec<&'static str>,
}

/// Paths of the sites that are `parts` of a block, in host order.
pub fn part_paths(host: &dyn Host, parts: &[&str]) -> Vec<String> {
    let is_part = |path: &str, part: &str| {
        let block = path
            .strip_suffix(part)
            .and_then(|start| start.strip_suffix('.'));
        let number = block.and_then(|block| block.rsplit('.').next());
        number.is_some_and(|number| number.parse::<usize>().is_ok())
    };
    let sites = host.sites().iter();
    let chosen = sites
        .filter(|site| site.kind == SiteKind::Linear)
        .filter(|site| parts.iter().any(|part| is_part(&site.path, part)));
    chosen.map(|site| site.path.clone()).collect()
}

/// A pretrained network: its sites, and its weights by their Hugging Face names.
pub trait Host: Send + Sync {
    /// Facts about it.
    fn info(&self) -> &HostInfo;

    /// All sites, in forward order; [`crate::sites::SiteId`] is the index.
    fn sites(&self) -> &[Site];

    /// Names of all weights, as in the checkpoint, each tied weight once.
    fn weight_names(&self) -> Vec<String>;

    /// A weight by its name; `None` when there is none of that name.
    fn weight(&self, name: &str) -> Option<Flat>;

    /// Replaces a weight, shared (tied) ones everywhere at once.
    ///
    /// # Errors
    /// An unknown name (with near matches), or another shape.
    fn set_weight(&mut self, name: &str, value: &Flat) -> Result<()>;

    /// Heads and widths of an attention site; `None` for other sites.
    fn attention_shape(&self, site: &Site) -> Option<AttentionShape> {
        let _ = site;
        None
    }

    /// Where the weights live.
    fn device(&self) -> Device;
}

/// A network that tells classes of images apart. Its parameters go by the names of its weights, so that it can be
/// trained as a whole too.
pub trait ImageHost: Host + Parameters {
    /// Channels, height and width of the images it reads.
    fn input(&self) -> [usize; 3];

    /// Number of classes.
    fn classes(&self) -> usize;

    /// Whether training learns a weight; statistics that are counted are none such.
    fn learns(&self, name: &str) -> bool {
        let _ = name;
        true
    }

    /// What its last layer reads, `[batch, width]`, of images `[batch, channels, height, width]`.
    fn features(&self, images: Tensor<4>, pass: &Pass, hooks: &[&dyn Hooks]) -> Tensor<2>;

    /// The last layer: features `[batch, width]` to logits `[batch, classes]`.
    fn classify(&self, features: Tensor<2>, pass: &Pass, hooks: &[&dyn Hooks]) -> Tensor<2>;

    /// Logits `[batch, classes]` of images `[batch, channels, height, width]`.
    ///
    /// # Errors
    /// Images of another size.
    fn logits(&self, images: Tensor<4>, pass: &Pass, hooks: &[&dyn Hooks]) -> Result<Tensor<2>> {
        let [_, found @ ..] = images.dims();
        let expected = self.input();
        if found != expected {
            return Err(Error::Failed(format!(
                "images of {found:?} (channels, height, width); {} reads {expected:?}",
                self.info().architecture
            )));
        }
        Ok(self.classify(self.features(images, pass, hooks), pass, hooks))
    }
}
