//! Which host weight does which site use?

use modelsmith_core::error::{Error, Result, suggest};
use modelsmith_core::host::Host;
use modelsmith_core::parameters::Flat;
use modelsmith_core::sites::{Site, SiteId, SiteKind, has_suffix};
use std::collections::BTreeSet;

/// The two parts of a layer.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Part {
    /// The matrix, table, kernel or gain.
    Weight,
    /// What is added.
    Bias,
}

/// A weight as one site uses it.
#[derive(Clone, Debug)]
pub(crate) struct Bound {
    /// The name of this use of it: `<site path>.weight` even where that is shared.
    pub(crate) name: String,
    /// The host's name for it: another one where it is shared.
    pub(crate) stored: String,
    /// The site.
    pub(crate) site: SiteId,
    /// Which part of the site's layer.
    pub(crate) part: Part,
}

/// Every weight that a site uses, in the order of the sites.
pub(crate) fn bound_weights(host: &dyn Host) -> Vec<Bound> {
    let names: BTreeSet<String> = host.weight_names().into_iter().collect();
    let layered = |site: &&Site| site.has_weight() || site.kind == SiteKind::Norm;
    let mut found = Vec::new();
    for site in host.sites().iter().filter(layered) {
        for part in [Part::Weight, Part::Bias] {
            let (name, stored) = match part {
                Part::Weight => (format!("{}.weight", site.path), weight_name(site)),
                Part::Bias => (bias_name(site, &names), bias_name(site, &names)),
            };
            if names.contains(&stored) {
                found.push(Bound {
                    name,
                    stored,
                    site: site.id,
                    part,
                });
            }
        }
    }
    found
}

/// The host's name for the weight of a site.
pub(crate) fn weight_name(site: &Site) -> String {
    format!("{}.weight", site.tied_to.as_ref().unwrap_or(&site.path))
}

/// The host's name for the bias of a site. Masked-language heads keep the bias of
/// `<head>.decoder` beside it, as `<head>.bias`.
pub(crate) fn bias_name(site: &Site, names: &BTreeSet<String>) -> String {
    let own = format!("{}.bias", site.path);
    match site.path.strip_suffix(".decoder") {
        Some(head) if site.bias && !names.contains(&own) => format!("{head}.bias"),
        _ => own,
    }
}

/// The weight of a site.
///
/// # Errors
/// The host has no such weight.
pub(crate) fn weight_of(host: &dyn Host, site: &Site) -> Result<Flat> {
    let name = weight_name(site);
    host.weight(&name).ok_or_else(|| {
        Error::Failed(format!(
            "the host has no weight {name} for site {}",
            site.path
        ))
    })
}

/// The untouched weight of a site that shares it with an owner of which `changed` holds alone:
/// after merging the two must be stored apart.
pub(crate) fn separated(
    host: &dyn Host,
    name: &str,
    changed: &dyn Fn(SiteId) -> bool,
) -> Result<Option<Flat>> {
    let sites = host.sites();
    let site = sites
        .iter()
        .find(|site| name.strip_prefix(&site.path) == Some(".weight"));
    let Some((site, owner)) = site.and_then(|site| Some((site, site.tied_to.as_ref()?))) else {
        return Ok(None);
    };
    let owner = sites.iter().find(|other| other.path == *owner);
    if owner.is_some_and(|owner| changed(owner.id)) && !changed(site.id) {
        weight_of(host, site).map(Some)
    } else {
        Ok(None)
    }
}

/// The weights under the modules that `items` name by suffix, as PEFT's `modules_to_save` does.
/// Items in `optional` may match nothing.
///
/// # Errors
/// Another item that matches nothing, with near matches.
pub(crate) fn under_modules(
    host: &dyn Host,
    key: &str,
    items: &[String],
    optional: &[&str],
) -> Result<Vec<Bound>> {
    let all = bound_weights(host);
    let path = |bound: &Bound| host.sites()[bound.site.0].path.as_str();
    for item in items {
        let idle = !all.iter().any(|bound| within(path(bound), item));
        if idle && !optional.contains(&item.as_str()) {
            let modules: BTreeSet<&str> = all
                .iter()
                .filter_map(|bound| path(bound).rsplit('.').next())
                .collect();
            return Err(Error::config(
                format!("method.{key}"),
                format!(
                    "`{item}` matches no module that has weights; {}; `modelsmith inspect` lists the sites",
                    suggest(item.rsplit('.').next().unwrap_or(item), modules)
                ),
            ));
        }
    }
    let chosen = |bound: &Bound| items.iter().any(|item| within(path(bound), item));
    Ok(all.into_iter().filter(chosen).collect())
}

/// Whether a path is, or lies under, a module whose path is `item` or ends with `.item`.
fn within(path: &str, item: &str) -> bool {
    let dots = path.match_indices('.').map(|(at, _)| at);
    dots.chain([path.len()])
        .any(|at| has_suffix(&path[..at], item))
}

#[cfg(test)]
mod tests {
    use super::within;

    #[test]
    fn a_module_owns_what_lies_under_it() {
        assert!(within("classifier.dense", "classifier"));
        assert!(within("bert.pooler.dense", "pooler"));
        assert!(within("score", "score"));
        assert!(!within("underscore", "score"));
        assert!(!within("model.layers.0.mlp", "layer"));
    }
}
