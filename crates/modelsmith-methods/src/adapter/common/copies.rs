//! How does an adapter train host weights in full without touching the host?
//!
//! It holds copies and uses them at the sites instead of the host's own: PEFT's
//! `modules_to_save` and trained biases, full fine-tuning, the linear probe. A copied weight
//! replaces the site's computation, hooks further inside are not run there; a copied bias alone
//! is added as its difference to the host's and composes with anything.

use super::peft::{Taker, key};
use super::weights::{Bound, Part};
use burn::module::{Module, Param};
use burn::tensor::module::conv2d;
use burn::tensor::ops::ConvOptions;
use burn::tensor::{DType, Int, Tensor};
use modelsmith_core::error::{Error, Result};
use modelsmith_core::hooks::{ConvCall, EmbeddingCall, Hooks, LinearCall, NormCall};
use modelsmith_core::host::Host;
use modelsmith_core::layers::{Linear, oriented, single};
use modelsmith_core::parameters::{Flat, trained};
use modelsmith_core::sites::{Site, SiteId};
use modelsmith_kernels::{linear, lookup, norm};
use std::collections::BTreeMap;

/// Trained copies of host weights, by rank; the names of the parameters are `vectors.0` and so on.
#[derive(Module, Debug)]
pub(crate) struct Copies {
    vectors: Vec<Param<Tensor<1>>>,
    matrices: Vec<Param<Tensor<2>>>,
    kernels: Vec<Param<Tensor<4>>>,
    #[module(skip)]
    entries: Vec<Copied>,
    #[module(skip)]
    at: BTreeMap<SiteId, Parts>,
    #[module(skip)]
    sites: Vec<Site>,
    #[module(skip)]
    effect: f64,
}

/// A weight to copy and the key it has in the adapter's file.
#[derive(Clone, Debug)]
pub(crate) struct Wanted {
    /// What to copy; items of one `name` share a copy.
    pub(crate) bound: Bound,
    /// Key in `adapter_model.safetensors`.
    pub(crate) file_key: String,
}

#[derive(Clone, Debug)]
struct Copied {
    name: String,
    stored: String,
    file_key: String,
    place: Place,
}

/// Which list of [`Copies`] holds a copy, and where.
#[derive(Clone, Copy, Debug)]
enum Place {
    Vector(usize),
    Matrix(usize),
    Kernel(usize),
}

#[derive(Clone, Copy, Debug, Default)]
struct Parts {
    weight: Option<Place>,
    bias: Option<Place>,
}

impl Wanted {
    /// Under the plain key `base_model.model.<name>`.
    pub(crate) fn plain(bound: Bound) -> Self {
        let file_key = key(&bound.name);
        Self { bound, file_key }
    }
}

impl Copies {
    /// Copies of the host's present values.
    pub(crate) fn of_host(host: &dyn Host, wanted: Vec<Wanted>) -> Result<Self> {
        Self::build(host, wanted, &mut |item| {
            host_value(host, &item.bound.stored)
        })
    }

    /// Copies out of an adapter's file, with the host's shapes.
    pub(crate) fn of_file(host: &dyn Host, wanted: Vec<Wanted>, file: &mut Taker) -> Result<Self> {
        Self::build(host, wanted, &mut |item| {
            let shape = host_value(host, &item.bound.stored)?.shape;
            file.take(&item.file_key, &shape)
        })
    }

    fn build(
        host: &dyn Host,
        wanted: Vec<Wanted>,
        value: &mut dyn FnMut(&Wanted) -> Result<Flat>,
    ) -> Result<Self> {
        let mut copies = Self {
            vectors: Vec::new(),
            matrices: Vec::new(),
            kernels: Vec::new(),
            entries: Vec::new(),
            at: BTreeMap::new(),
            sites: Vec::new(),
            effect: 1.0,
        };
        for item in wanted {
            let known = copies
                .entries
                .iter()
                .find(|copied| copied.name == item.bound.name);
            let place = match known {
                Some(copied) => copied.place,
                None => copies.add(&item, &value(&item)?)?,
            };
            let parts = copies.at.entry(item.bound.site).or_default();
            match item.bound.part {
                Part::Weight => parts.weight = Some(place),
                Part::Bias => parts.bias = Some(place),
            }
        }
        let used = |site: &&Site| copies.at.contains_key(&site.id);
        copies.sites = host.sites().iter().filter(used).cloned().collect();
        Ok(copies)
    }

    fn add(&mut self, item: &Wanted, value: &Flat) -> Result<Place> {
        let place = match value.shape.len() {
            1 => {
                self.vectors.push(trained(value.tensor()?));
                Place::Vector(self.vectors.len() - 1)
            }
            2 => {
                self.matrices.push(trained(value.tensor()?));
                Place::Matrix(self.matrices.len() - 1)
            }
            4 => {
                self.kernels.push(trained(value.tensor()?));
                Place::Kernel(self.kernels.len() - 1)
            }
            _ => {
                return Err(Error::Failed(format!(
                    "{} has shape {:?}; only vectors, matrices and kernels can be trained",
                    item.bound.stored, value.shape
                )));
            }
        };
        self.entries.push(Copied {
            name: item.bound.name.clone(),
            stored: item.bound.stored.clone(),
            file_key: item.file_key.clone(),
            place,
        });
        Ok(place)
    }

    /// Moves the weights in use between the host's (0) and the copies (1).
    pub(crate) fn set_effect(&mut self, effect: f64) {
        self.effect = effect;
    }

    /// The copies under their file keys.
    pub(crate) fn tensors(&self) -> impl Iterator<Item = (String, Flat)> {
        self.entries
            .iter()
            .map(|copied| (copied.file_key.clone(), self.value(copied.place)))
    }

    /// The weight `name` as this leaves it, or `None` where it has no copy.
    pub(crate) fn merged(&self, host: &dyn Host, name: &str) -> Result<Option<Flat>> {
        let Some(copied) = self.entries.iter().find(|copied| copied.name == name) else {
            return Ok(None);
        };
        let value = self.value(copied.place);
        let base = host_value(host, &copied.stored)?.values;
        Ok(Some(Flat {
            values: mixed(base, value.values, self.effect),
            shape: value.shape,
        }))
    }

    /// # Errors
    /// The weight `name` is a copy, which leaves nothing of the old value when merged.
    pub(crate) fn refuse_unmerging(&self, name: &str) -> Result<()> {
        match self.entries.iter().any(|copied| copied.name == name) {
            false => Ok(()),
            true => Err(Error::Usage(format!(
                "{name} was trained in full and replaced; its old value is in the base model only"
            ))),
        }
    }

    /// Whether the site's weight is a copy.
    pub(crate) fn has_weight(&self, site: SiteId) -> bool {
        self.at
            .get(&site)
            .is_some_and(|parts| parts.weight.is_some())
    }

    /// Sites at which something is copied.
    pub(crate) fn sites(&self) -> impl Iterator<Item = &Site> {
        self.sites.iter()
    }

    /// The bias in use at a site whose own is `base`.
    pub(crate) fn bias(&self, site: SiteId, base: Option<Tensor<1>>) -> Option<Tensor<1>> {
        match self.at.get(&site).and_then(|parts| parts.bias) {
            Some(Place::Vector(index)) => {
                let copy = self.vectors[index].val();
                Some(match base {
                    Some(base) => mixed(base, copy, self.effect),
                    None => copy,
                })
            }
            _ => base,
        }
    }

    fn gain(&self, site: SiteId, base: Tensor<1>) -> Tensor<1> {
        match self.at.get(&site).and_then(|parts| parts.weight) {
            Some(Place::Vector(index)) => mixed(base, self.vectors[index].val(), self.effect),
            _ => base,
        }
    }

    fn matrix(&self, site: SiteId, base: Tensor<2>) -> Option<Tensor<2>> {
        match self.at.get(&site)?.weight? {
            Place::Matrix(index) => {
                let copy = self.matrices[index].val();
                Some(mixed(single(base), copy, self.effect))
            }
            _ => None,
        }
    }

    fn kernel(&self, site: SiteId, base: Tensor<4>) -> Option<Tensor<4>> {
        match self.at.get(&site)?.weight? {
            Place::Kernel(index) => Some(mixed(base, self.kernels[index].val(), self.effect)),
            _ => None,
        }
    }

    /// What a copied bias adds to a site that already added `base`.
    fn bias_change(&self, site: SiteId, base: Option<Tensor<1>>) -> Option<Tensor<1>> {
        let Place::Vector(index) = self.at.get(&site)?.bias? else {
            return None;
        };
        Some((self.vectors[index].val() - base?) * self.effect)
    }

    fn value(&self, place: Place) -> Flat {
        match place {
            Place::Vector(index) => Flat::new(self.vectors[index].val().without_autodiff()),
            Place::Matrix(index) => Flat::new(self.matrices[index].val().without_autodiff()),
            Place::Kernel(index) => Flat::new(self.kernels[index].val().without_autodiff()),
        }
    }
}

impl Hooks for Copies {
    fn embedding(&self, call: EmbeddingCall<'_>, ids: Tensor<2, Int>) -> Tensor<3> {
        match self.matrix(call.site.id, call.layer.weight.val()) {
            Some(table) => lookup(table, ids),
            None => call.run(ids),
        }
    }

    fn linear(&self, call: LinearCall<'_>, x: Tensor<3>) -> Tensor<3> {
        let (site, layer) = (call.site.id, call.layer);
        let base = layer.bias.as_ref().map(Param::val);
        if let Some(weight) = self.matrix(site, layer.weight.val()) {
            return linear(x, as_stored(weight, layer), self.bias(site, base), None);
        }
        let y = call.run(x);
        match self.bias_change(site, base) {
            Some(change) => y + change.unsqueeze(),
            None => y,
        }
    }

    fn conv(&self, call: ConvCall<'_>, x: Tensor<4>) -> Tensor<4> {
        let (site, layer) = (call.site.id, call.layer);
        let base = layer.bias.as_ref().map(Param::val);
        if let Some(kernel) = self.kernel(site, layer.weight.val()) {
            let options = ConvOptions::new(layer.stride, layer.padding, [1, 1], layer.groups);
            return conv2d(x, kernel, self.bias(site, base), options);
        }
        let y = call.run(x);
        match self.bias_change(site, base) {
            Some(change) => {
                let channels = change.dims()[0];
                y + change.reshape([1, channels, 1, 1])
            }
            None => y,
        }
    }

    fn norm(&self, call: NormCall<'_>, x: Tensor<3>) -> Tensor<3> {
        let (site, layer) = (call.site.id, call.layer);
        if !self.at.contains_key(&site) {
            return call.run(x);
        }
        let gain = self.gain(site, layer.weight.val());
        let bias = self.bias(site, layer.bias.as_ref().map(Param::val));
        norm(x, gain, bias, layer.kind, layer.epsilon)
    }

    fn acts_at(&self, site: &Site) -> bool {
        self.at.contains_key(&site.id)
    }

    fn after_linear(
        &self,
        call: &LinearCall<'_>,
        x: &Tensor<3>,
        y: Tensor<3>,
    ) -> Option<Tensor<3>> {
        let _ = x;
        let site = call.site.id;
        if self.has_weight(site) {
            return None;
        }
        let base = call.layer.bias.as_ref().map(Param::val);
        Some(match self.bias_change(site, base) {
            Some(change) => y + change.unsqueeze(),
            None => y,
        })
    }

    fn head_weight(&self, site: &Site, layer: &Linear, weight: Tensor<2>) -> Option<Tensor<2>> {
        if self.at.get(&site.id).is_some_and(|at| at.bias.is_some()) {
            return None;
        }
        match self.matrix(site.id, layer.weight.val()) {
            Some(copy) => Some(as_stored(copy, layer)),
            None => Some(weight),
        }
    }
}

/// A copy of a layer's weight as `[out, in]`, for products of the type that the host's own has.
fn as_stored(copy: Tensor<2>, layer: &Linear) -> Tensor<2> {
    let copy = oriented(copy, layer.fan_in_fan_out);
    match layer.weight.val().dtype() {
        DType::BF16 => copy.cast(DType::BF16),
        _ => copy,
    }
}

/// `base` at effect 0, `copy` at 1, the line through both elsewhere.
fn mixed<const D: usize>(base: Tensor<D>, copy: Tensor<D>, effect: f64) -> Tensor<D> {
    if effect == 1.0 {
        copy
    } else {
        base.clone() + (copy - base) * effect
    }
}

fn host_value(host: &dyn Host, name: &str) -> Result<Flat> {
    host.weight(name)
        .ok_or_else(|| Error::Failed(format!("the host has no weight {name}")))
}
