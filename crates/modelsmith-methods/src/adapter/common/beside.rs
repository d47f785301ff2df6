//! Which sites does an adapter attach to, and which weights of the host are trained in full beside it?
//!
//! PEFT's meaning: `modules_to_save` are trained in full and not adapted, the heads of classifiers are
//! always among them, and `bias` adds the host's biases.

use super::copies::Wanted;
use super::peft::key;
use super::weights::{Bound, Part, bound_weights, under_modules};
use modelsmith_core::error::{Error, Result};
use modelsmith_core::host::Host;
use modelsmith_core::sites::{Selection, Site, SiteId, SiteKind, TargetModules};
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};
use serde_json::{Value, json};

/// Which biases of the host are trained along with the adapter.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "snake_case")]
pub enum Bias {
    /// None.
    #[default]
    None,
    /// Every bias of the host.
    All,
    /// Those of the adapted layers.
    LoraOnly,
}

/// The chosen sites but those that are trained in full.
///
/// # Errors
/// Choices that match nothing, or leave nothing.
pub(crate) fn targets<'h>(
    host: &'h dyn Host,
    selection: &Selection<'_>,
    modules_to_save: &[String],
) -> Result<Vec<&'h Site>> {
    let saved = saved_weights(host, modules_to_save)?;
    let whole = |site: &Site| {
        let mut weights = saved.iter();
        weights.any(|bound| bound.site == site.id && bound.part == Part::Weight)
    };
    let mut chosen = selection.select(host.sites(), host.info().default_targets)?;
    chosen.retain(|site| !whole(site));
    if chosen.is_empty() {
        return Err(Error::config(
            "method.target_modules",
            "every targeted site is in modules_to_save and trained in full; nothing is left to adapt",
        ));
    }
    Ok(chosen)
}

/// [`targets`] of a method that adapts dense layers only.
///
/// # Errors
/// As [`targets`], and another kind of site among them.
pub(crate) fn dense_targets<'h>(
    host: &'h dyn Host,
    selection: &Selection<'_>,
    modules_to_save: &[String],
) -> Result<Vec<&'h Site>> {
    let chosen = targets(host, selection, modules_to_save)?;
    match chosen.iter().find(|site| site.kind != SiteKind::Linear) {
        None => Ok(chosen),
        Some(site) => Err(Error::config(
            "method.target_modules",
            format!(
                "{} is no dense layer, and this method adapts no others",
                site.path
            ),
        )),
    }
}

/// Targets for `adapter_config.json`: `all-linear` as the `paths` it stands for and the host's usual choice as
/// its names, since both depend on the reader's tables.
pub(crate) fn written_targets<'p>(
    targets: Option<&TargetModules>,
    host: &dyn Host,
    paths: impl Iterator<Item = &'p str>,
) -> Value {
    match targets {
        Some(TargetModules::Pattern(pattern)) if pattern == "all-linear" => {
            paths.map(Value::from).collect()
        }
        Some(targets) => json!(targets),
        None => json!(host.info().default_targets),
    }
}

/// Copies to train: saved modules and the chosen biases, each once.
///
/// # Errors
/// A module to save that the host lacks.
pub(crate) fn wanted(
    host: &dyn Host,
    modules_to_save: &[String],
    bias: Bias,
    adapted: &dyn Fn(SiteId) -> bool,
) -> Result<Vec<Wanted>> {
    let saved = saved_weights(host, modules_to_save)?.into_iter();
    let mut wanted: Vec<Wanted> = saved.map(Wanted::plain).collect();
    for bound in bound_weights(host) {
        let at_adapter = adapted(bound.site);
        let chosen = match bias {
            Bias::None => false,
            Bias::All => true,
            Bias::LoraOnly => at_adapter,
        };
        let known = wanted.iter().any(|item| item.bound.name == bound.name);
        if bound.part == Part::Bias && chosen && !known {
            wanted.push(match at_adapter {
                true => under_base_layer(bound),
                false => Wanted::plain(bound),
            });
        }
    }
    Ok(wanted)
}

/// Modules trained in full: those asked for and a classifier's head.
pub(crate) fn saved_names(host: &dyn Host, modules_to_save: &[String]) -> Vec<String> {
    let heads = host.info().head_modules.iter();
    let heads = heads
        .map(|name| (*name).to_owned())
        .filter(|_| is_classifier(host));
    let mut names = modules_to_save.to_vec();
    for head in heads {
        if !names.contains(&head) {
            names.push(head);
        }
    }
    names
}

fn saved_weights(host: &dyn Host, modules_to_save: &[String]) -> Result<Vec<Bound>> {
    // PEFT lists both of its usual head names for every classifier.
    let optional: &[&str] = match is_classifier(host) {
        true => &["classifier", "score"],
        false => &[],
    };
    let names = saved_names(host, modules_to_save);
    under_modules(host, "modules_to_save", &names, optional)
}

fn is_classifier(host: &dyn Host) -> bool {
    matches!(host.info().task_type, Some("SEQ_CLS" | "TOKEN_CLS"))
}

fn under_base_layer(bound: Bound) -> Wanted {
    let module = bound.name.trim_end_matches(".bias");
    let file_key = key(&format!("{module}.base_layer.bias"));
    Wanted { bound, file_key }
}

/// Takes suffixes that match nothing out of the choice of a saved adapter, where some match.
pub(crate) fn drop_idle(targets: &mut Option<TargetModules>, host: &dyn Host) {
    let Some(TargetModules::Suffixes(items)) = targets else {
        return;
    };
    let used = |item: &String| {
        let item = TargetModules::Suffixes(vec![item.clone()]);
        let one = Selection {
            target_modules: Some(&item),
            ..Selection::default()
        };
        one.select(host.sites(), &[]).is_ok()
    };
    if items.iter().any(used) {
        items.retain(used);
    }
}
