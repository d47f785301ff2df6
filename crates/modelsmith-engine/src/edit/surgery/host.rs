//! The matrices of a host that surgery may change, and the host with patches on it.

use modelsmith_core::error::{Error, Result};
use modelsmith_core::host::{Host, part_paths};
use modelsmith_core::sites::{Site, SiteKind};
use modelsmith_hosts::Transformer;
use modelsmith_methods::edit::surgery::{Patch, Rows, Target};

/// A matrix that may be changed.
#[derive(Clone, Debug)]
pub(super) struct Matrix {
    /// Where it is, without rows.
    pub(super) place: Rows,
    /// Path of its site.
    pub(super) site: String,
    /// Name of the gain of the norm in front of it.
    pub(super) gain: Option<String>,
}

/// The target matrices of all blocks, first to last.
///
/// # Errors
/// A host with an encoder beside its decoder, one without such matrices, or one whose last state is not
/// as wide as its blocks.
pub(super) fn matrices(host: &Transformer, target: Target) -> Result<Vec<Matrix>> {
    let info = host.info();
    let name = &info.architecture;
    if host.decoder_start().is_some() {
        return Err(Error::Usage(format!(
            "{name} has an encoder beside its decoder; surgery is for models of one stack"
        )));
    }
    let parts = &info.block;
    let mut wanted = Vec::new();
    if target != Target::Up {
        wanted.extend(&parts.mlp_gate);
    }
    if target != Target::Gate {
        if parts.mlp_up.is_empty() {
            return Err(Error::config(
                "method.target",
                format!("{name} has no gated MLPs; its only choice is `gate`, the first matrix"),
            ));
        }
        wanted.extend(&parts.mlp_up);
    }
    let paths = part_paths(host, &wanted);
    let width = host.hidden_size();
    let mut found = Vec::with_capacity(paths.len());
    let per_block = wanted.len().max(1);
    for (number, path) in paths.iter().enumerate() {
        let site = site(host, path)?;
        if site.inputs != width || last_width(host) != width {
            return Err(Error::Usage(format!(
                "{name} ends in states of another width than its blocks work with; a probe's direction does not fit \
                 {path}"
            )));
        }
        let (weight, _) = host.site_weights(site);
        let weight = weight.ok_or_else(|| Error::Failed(format!("{path} has no weight")))?;
        found.push(Matrix {
            place: Rows {
                weight,
                block: number / per_block,
                fan_in_fan_out: site.fan_in_fan_out,
                rows: Vec::new(),
            },
            site: path.clone(),
            gain: norm_before(host, site).and_then(|norm| host.site_weights(norm).0),
        });
    }
    match found.is_empty() {
        true => Err(Error::Usage(format!("{name} has no MLPs to change"))),
        false => Ok(found),
    }
}

fn site<'h>(host: &'h Transformer, path: &str) -> Result<&'h Site> {
    let site = host.sites().iter().find(|site| site.path == path);
    site.ok_or_else(|| Error::Failed(format!("{path}: there is no such site")))
}

/// Width of the state that the head reads.
fn last_width(host: &Transformer) -> usize {
    let mut outputs = host
        .sites()
        .iter()
        .filter(|site| site.kind == SiteKind::Output);
    outputs
        .next()
        .map_or(host.hidden_size(), |site| site.inputs)
}

/// The last norm before a site in forward order.
fn norm_before<'h>(host: &'h Transformer, site: &Site) -> Option<&'h Site> {
    let before = host.sites().iter().take_while(|other| other.id != site.id);
    before.filter(|other| other.kind == SiteKind::Norm).last()
}

/// Gain of the norm behind the last block.
pub(super) fn final_gain(host: &Transformer) -> Result<Vec<f32>> {
    let blocks = host
        .sites()
        .iter()
        .rposition(|site| site.kind == SiteKind::Linear && !site.head);
    let behind = host.sites().iter().skip(blocks.map_or(0, |at| at + 1));
    let mut norms = behind.filter(|site| site.kind == SiteKind::Norm);
    let gain = norms.next().and_then(|site| host.site_weights(site).0);
    let gain = gain.and_then(|name| host.weight(&name));
    gain.map(|gain| gain.to_vec()).ok_or_else(|| {
        Error::config(
            "method.fold_gain",
            format!(
                "{} has no norm behind its last block",
                host.info().architecture
            ),
        )
    })
}

/// The base with patches on it, in their order. The base itself stays as it is.
///
/// # Errors
/// A patch for another model, weights that would not be finite.
pub fn edited(base: &Transformer, patches: &[Patch]) -> Result<Transformer> {
    let mut host = base.clone();
    for patch in patches {
        for place in &patch.places {
            let name = &place.weight;
            let weight = host.weight(name).ok_or_else(|| {
                Error::Failed(format!(
                    "the model has no weight {name}; the patch is for another model"
                ))
            })?;
            if let Some(changed) = patch.apply(name, &weight)? {
                host.set_weight(name, &changed)?;
            }
        }
    }
    Ok(host)
}

/// The rows of a matrix, `[rows, width]` flat, whichever way it is stored.
pub(super) fn rows(host: &Transformer, name: &str, fan_in_fan_out: bool) -> Result<Vec<f32>> {
    let weight = host.weight(name);
    let weight = weight.ok_or_else(|| Error::Failed(format!("the model has no weight {name}")))?;
    match fan_in_fan_out {
        true => {
            let turned = weight.tensor::<2>()?.transpose();
            Ok(modelsmith_core::parameters::to_vec(turned))
        }
        false => Ok(weight.to_vec()),
    }
}

impl Matrix {
    /// Its rows, `[rows, width]` flat.
    pub(super) fn rows(&self, host: &Transformer) -> Result<Vec<f32>> {
        rows(host, &self.place.weight, self.place.fan_in_fan_out)
    }
}
