//! What hosts of images have in common: weights by name, sites, dense layers on features.

use burn::module::Param;
use burn::tensor::{Device, Tensor};
use modelsmith_core::error::{Error, Result, suggest};
use modelsmith_core::files::Checkpoint;
use modelsmith_core::hooks::Around;
use modelsmith_core::layers::Linear;
use modelsmith_core::parameters::{Flat, Parameters, frozen};
use modelsmith_core::sites::{Site, SiteId, SiteKind};
use modelsmith_core::weights;
use std::collections::BTreeSet;

/// Gives the weight of a name and shape.
pub(crate) type Give<'a> = dyn FnMut(&str, &[usize]) -> Result<Flat> + 'a;

/// The weights of a checkpoint, each to be asked for once.
pub(crate) struct Stored<'a> {
    checkpoint: &'a Checkpoint,
    device: &'a Device,
    asked: BTreeSet<String>,
}

impl<'a> Stored<'a> {
    pub(crate) fn new(checkpoint: &'a Checkpoint, device: &'a Device) -> Self {
        Self {
            checkpoint,
            device,
            asked: BTreeSet::new(),
        }
    }

    /// A weight.
    ///
    /// # Errors
    /// A tensor that is missing, of another shape or not finite, by name.
    pub(crate) fn give(&mut self, name: &str, shape: &[usize]) -> Result<Flat> {
        let found = &self.checkpoint.info(name)?.shape;
        if found != shape {
            let problem = format!("tensor {name} has shape {found:?}; expected {shape:?}");
            return Err(Error::file(self.checkpoint.path(), problem));
        }
        self.asked.insert(name.to_owned());
        let values = weights::finite(self.checkpoint, name)?;
        Ok(Flat::from_vec(values, shape, self.device))
    }

    /// Refuses tensors that nobody asked for.
    ///
    /// # Errors
    /// The first of them, with near names.
    pub(crate) fn finish(self) -> Result<()> {
        match self
            .checkpoint
            .names()
            .find(|name| !self.asked.contains(*name))
        {
            None => Ok(()),
            Some(surplus) => {
                let hint = suggest(surplus, self.asked.iter().map(String::as_str));
                let problem = format!("holds tensor {surplus}, which the network has not; {hint}");
                Err(Error::file(self.checkpoint.path(), problem))
            }
        }
    }
}

/// A frozen weight of known rank.
pub(crate) fn parameter<const D: usize>(
    give: &mut Give<'_>,
    name: &str,
    shape: [usize; D],
) -> Result<Param<Tensor<D>>> {
    Ok(frozen(give(name, &shape)?.tensor()?))
}

/// A dense layer with a bias.
pub(crate) fn dense(
    give: &mut Give<'_>,
    path: &str,
    [inputs, outputs]: [usize; 2],
) -> Result<Linear> {
    Ok(Linear {
        weight: parameter(give, &format!("{path}.weight"), [outputs, inputs])?,
        bias: Some(parameter(give, &format!("{path}.bias"), [outputs])?),
        fan_in_fan_out: false,
    })
}

/// A site behind those that there are.
pub(crate) fn add_site(
    sites: &mut Vec<Site>,
    path: &str,
    kind: SiteKind,
    [inputs, outputs]: [usize; 2],
    bias: bool,
) {
    sites.push(Site {
        id: SiteId(sites.len()),
        path: path.to_owned(),
        kind,
        inputs,
        outputs,
        bias,
        fan_in_fan_out: false,
        head: false,
        tied_to: None,
    });
}

/// A dense site on features `[batch, in]`: it sees an image as a sequence of one.
pub(crate) fn apply(site: &Site, layer: &Linear, x: Tensor<2>, around: &Around<'_>) -> Tensor<2> {
    let base = |x: Tensor<3>| {
        let bias = layer.bias.as_ref().map(Param::val);
        modelsmith_kernels::linear(x, layer.stored(), bias, None)
    };
    around
        .linear(site, layer, x.unsqueeze_dim::<3>(1), &base)
        .squeeze_dim(1)
}

/// Names of all parameters.
pub(crate) fn names(of: &dyn Parameters) -> Vec<String> {
    let all = of.parameters().into_iter();
    all.map(|parameter| parameter.name).collect()
}

/// A parameter by its name.
pub(crate) fn weight(of: &dyn Parameters, name: &str) -> Option<Flat> {
    let mut all = of.parameters().into_iter();
    all.find(|parameter| parameter.name == name)
        .map(|parameter| parameter.value)
}

/// Replaces a parameter.
///
/// # Errors
/// An unknown name (with near matches), or another shape.
pub(crate) fn set_weight(of: &mut dyn Parameters, name: &str, value: &Flat) -> Result<()> {
    let Some(old) = weight(of, name) else {
        let names = names(of);
        let hint = suggest(name, names.iter().map(String::as_str));
        return Err(Error::Failed(format!("no weight {name}; {hint}")));
    };
    if old.shape != value.shape {
        return Err(Error::Failed(format!(
            "weight {name} has shape {:?}; {:?} was given",
            old.shape, value.shape
        )));
    }
    of.replace(&mut |found, _| (found == name).then(|| value.clone()));
    Ok(())
}
