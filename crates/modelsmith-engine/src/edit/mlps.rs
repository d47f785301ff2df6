//! The MLPs of a host that edits write to, as matrices.

use faer::Mat;
use modelsmith_core::error::{Error, Result};
use modelsmith_core::host::{Host, part_paths};
use modelsmith_core::parameters::Flat;
use modelsmith_core::sites::{Site, SiteKind};
use modelsmith_hosts::{Head, Transformer};

/// The last layer of a block's MLP.
#[derive(Clone, Debug)]
pub(crate) struct Mlp {
    /// Path of the block.
    pub(crate) block: String,
    /// The layer's site.
    pub(crate) site: Site,
    /// Path of the block's last attention layer.
    pub(crate) attention: String,
    /// Name of the layer's weight.
    pub(crate) weight: String,
}

/// Those of all blocks, first to last.
///
/// # Errors
/// A host that is no causal language model of one stack, or whose blocks are not plain sums.
pub(crate) fn mlps(host: &Transformer) -> Result<Vec<Mlp>> {
    let name = &host.info().architecture;
    if !matches!(host.head(), Head::CausalLm) {
        return Err(Error::Usage(format!(
            "{name} does not predict next tokens; facts are edited in causal language models"
        )));
    }
    if !host.adds_to_stream() {
        return Err(Error::Usage(format!(
            "{name} normalises behind its MLPs, so that what they give is not what a block adds; edit a model \
             that normalises in front of them"
        )));
    }
    let parts = &host.info().block;
    let last = part_paths(host, &parts.mlp_out);
    let attention = part_paths(host, &parts.attention_out);
    let blocks = host.sites().iter();
    let blocks: Vec<&Site> = blocks
        .filter(|site| site.kind == SiteKind::Residual)
        .collect();
    if last.len() != blocks.len() || attention.len() != blocks.len() {
        return Err(Error::Usage(format!(
            "{name} has {} blocks and {} MLPs; edits need one MLP in each block",
            blocks.len(),
            last.len()
        )));
    }
    let parts = last.iter().zip(attention).zip(blocks);
    parts
        .map(|((path, attention), block)| {
            let site = host.sites().iter().find(|site| site.path == *path);
            let site =
                site.ok_or_else(|| Error::Failed(format!("{path}: there is no such site")))?;
            let (weight, _) = host.site_weights(site);
            let weight = weight.ok_or_else(|| Error::Failed(format!("{path} has no weight")))?;
            Ok(Mlp {
                block: block.path.clone(),
                site: site.clone(),
                attention,
                weight,
            })
        })
        .collect()
}

impl Mlp {
    /// The weight as `[outputs, inputs]`.
    ///
    /// # Errors
    /// A host without it.
    pub(crate) fn matrix(&self, host: &Transformer) -> Result<Mat<f64>> {
        let values = self.stored(host)?.to_vec();
        let (outputs, inputs) = (self.site.outputs, self.site.inputs);
        Ok(match self.site.fan_in_fan_out {
            true => Mat::from_fn(outputs, inputs, |row, column| {
                f64::from(values[column * outputs + row])
            }),
            false => Mat::from_fn(outputs, inputs, |row, column| {
                f64::from(values[row * inputs + column])
            }),
        })
    }

    /// The weight as the host has it.
    pub(crate) fn stored(&self, host: &Transformer) -> Result<Flat> {
        let missing = || Error::Failed(format!("the model has no weight {}", self.weight));
        host.weight(&self.weight).ok_or_else(missing)
    }
}
