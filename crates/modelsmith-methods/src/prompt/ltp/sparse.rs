//! How are single weights of a host trained while the others stay as they are, to the bit?
//!
//! Each tensor keeps its winners' values as one vector. In a pass they are put into a copy of the host's
//! weight that has holes there; the gradient of the vector is that of the weight, gathered. So optimizer,
//! gradients and files hold the winners alone. Behind another adapter the difference is added instead,
//! which makes tickets add up.

use super::ticket::{packed, unpacked};
use crate::adapter::common::peft::{Taker, key};
use crate::adapter::common::weights::{Bound, Part};
use burn::module::{Module, Param};
use burn::tensor::module::conv2d;
use burn::tensor::ops::ConvOptions;
use burn::tensor::{IndexingUpdateOp, Int, Tensor, TensorData};
use modelsmith_core::error::{Error, Result};
use modelsmith_core::hooks::{ConvCall, EmbeddingCall, LinearCall, NormCall};
use modelsmith_core::host::Host;
use modelsmith_core::layers::oriented;
use modelsmith_core::parameters::{Flat, trained};
use modelsmith_core::sites::{Site, SiteId};
use modelsmith_kernels::{linear, lookup, norm};
use std::collections::BTreeMap;

/// The winners of all tensors.
#[derive(Module, Debug)]
pub(super) struct Sparse {
    /// One vector a tensor, in the order of `entries`.
    values: Vec<Param<Tensor<1>>>,
    #[module(skip)]
    entries: Vec<Entry>,
    #[module(skip)]
    at: BTreeMap<SiteId, Parts>,
}

/// A tensor with winners.
#[derive(Clone, Debug)]
struct Entry {
    /// The host's name.
    stored: String,
    shape: Vec<usize>,
    /// Flat places of the winners.
    winners: Vec<u32>,
    /// The same, `[winners]`.
    places: Tensor<1, Int>,
    /// The host's values there.
    base: Tensor<1>,
    /// All of the host's values with 0 there.
    holes: Tensor<1>,
}

/// Numbers of a site's entries.
#[derive(Clone, Copy, Debug, Default)]
struct Parts {
    weight: Option<usize>,
    bias: Option<usize>,
}

impl Entry {
    fn new(host: &dyn Host, stored: &str, winners: Vec<u32>) -> Result<Self> {
        let absent = || Error::Failed(format!("the host has no weight {stored}"));
        let weight = host.weight(stored).ok_or_else(absent)?;
        let device = host.device().without_autodiff();
        let count = winners.len();
        let numbers: Vec<i64> = winners.iter().map(|place| i64::from(*place)).collect();
        let places = Tensor::<1, Int>::from_data(TensorData::new(numbers, [count]), &device);
        let base = weight.values.clone().select(0, places.clone());
        let mut holes = weight.to_vec();
        winners
            .iter()
            .for_each(|place| holes[*place as usize] = 0.0);
        Ok(Self {
            stored: stored.to_owned(),
            holes: Tensor::from_data(TensorData::new(holes, [weight.len()]), &device),
            shape: weight.shape,
            winners,
            places,
            base,
        })
    }

    /// The whole tensor, flat, with these winners.
    fn whole(&self, values: Tensor<1>) -> Tensor<1> {
        let places = self.places.clone();
        self.holes
            .clone()
            .scatter(0, places, values, IndexingUpdateOp::Add)
    }

    /// What these winners add to the host's tensor, flat.
    fn change(&self, values: Tensor<1>) -> Tensor<1> {
        let zeros = self.holes.zeros_like();
        let change = values - self.base.clone();
        zeros.scatter(0, self.places.clone(), change, IndexingUpdateOp::Add)
    }

    fn shaped<const D: usize>(&self, flat: Tensor<1>) -> Tensor<D> {
        let mut shape = [1; D];
        shape.copy_from_slice(&self.shape);
        flat.reshape(shape)
    }
}

impl Sparse {
    /// The winners with the host's values.
    pub(super) fn of_host(host: &dyn Host, chosen: Vec<(Vec<Bound>, Vec<u32>)>) -> Result<Self> {
        Self::build(host, chosen, &mut |entry| Ok(entry.base.clone()))
    }

    /// Winners and values of a file; which tensors have any, `uses` asks the file.
    pub(super) fn of_file(
        host: &dyn Host,
        uses: Vec<Vec<Bound>>,
        file: &mut Taker,
    ) -> Result<Self> {
        let mut chosen = Vec::new();
        for uses in uses {
            let name = key(&format!("{}.ticket", uses[0].stored));
            if let Some(words) = file.take_any(&name) {
                let absent = || Error::Failed(format!("the host has no weight {}", uses[0].stored));
                let weight = host.weight(&uses[0].stored).ok_or_else(absent)?;
                let expected = [weight.len().div_ceil(16)];
                if words.shape != expected {
                    return Err(Error::Failed(format!(
                        "the adapter's tensor {name} has shape {:?}, expected {expected:?}; was it made for another base model?",
                        words.shape
                    )));
                }
                let winners = unpacked(&name, &words.to_vec(), weight.len())?;
                chosen.push((uses, winners));
            } else if file.holds(&key(&format!("{}.values", uses[0].stored))) {
                return Err(Error::Failed(format!(
                    "the adapter lacks the tensor {name}"
                )));
            }
        }
        Self::build(host, chosen, &mut |entry| {
            let name = key(&format!("{}.values", entry.stored));
            Ok(file.take(&name, &[entry.winners.len()])?.values)
        })
    }

    fn build(
        host: &dyn Host,
        chosen: Vec<(Vec<Bound>, Vec<u32>)>,
        value: &mut dyn FnMut(&Entry) -> Result<Tensor<1>>,
    ) -> Result<Self> {
        let mut sparse = Self {
            values: Vec::new(),
            entries: Vec::new(),
            at: BTreeMap::new(),
        };
        for (uses, winners) in chosen {
            if winners.is_empty() {
                continue;
            }
            let entry = Entry::new(host, &uses[0].stored, winners)?;
            sparse.values.push(trained(value(&entry)?));
            let number = sparse.entries.len();
            sparse.entries.push(entry);
            for bound in uses {
                let parts = sparse.at.entry(bound.site).or_default();
                match bound.part {
                    Part::Weight => parts.weight = Some(number),
                    Part::Bias => parts.bias = Some(number),
                }
            }
        }
        Ok(sparse)
    }

    /// Tickets and values by their keys.
    pub(super) fn tensors(&self) -> Vec<(String, Flat)> {
        let mut found = Vec::new();
        for (entry, values) in self.entries.iter().zip(&self.values) {
            let values = values.val().without_autodiff();
            let weights = entry.shape.iter().product();
            let bits = packed(&entry.winners, weights);
            let count = bits.len();
            let bits = Flat::from_vec(bits, &[count], &values.device());
            found.push((key(&format!("{}.ticket", entry.stored)), bits));
            found.push((key(&format!("{}.values", entry.stored)), Flat::new(values)));
        }
        found
    }

    /// The host's weight with the winners in it: their values where the host has those it had when
    /// they were found, else the host's plus their change.
    pub(super) fn merged(&self, host: &dyn Host, name: &str) -> Option<Flat> {
        self.folded(host, name, |base, value, now| match now == base {
            true => value,
            false => now + (value - base),
        })
    }

    /// The reverse of [`Sparse::merged`].
    pub(super) fn unmerged(&self, host: &dyn Host, name: &str) -> Option<Flat> {
        self.folded(host, name, |base, value, now| match now == value {
            true => base,
            false => now - (value - base),
        })
    }

    fn folded(
        &self,
        host: &dyn Host,
        name: &str,
        fold: impl Fn(f32, f32, f32) -> f32,
    ) -> Option<Flat> {
        let mut pairs = self.entries.iter().zip(&self.values);
        let (entry, values) = pairs.find(|(entry, _)| entry.stored == name)?;
        let weight = host.weight(name)?;
        let base = Flat::new(entry.base.clone()).to_vec();
        let values = Flat::new(values.val().without_autodiff()).to_vec();
        let mut all = weight.to_vec();
        for ((place, base), value) in entry.winners.iter().zip(base).zip(values) {
            let now = &mut all[*place as usize];
            *now = fold(base, value, *now);
        }
        Some(Flat::from_vec(all, &weight.shape, &weight.values.device()))
    }

    /// Whether a site has winners.
    pub(super) fn holds(&self, site: SiteId) -> bool {
        self.at.contains_key(&site)
    }

    /// Share of winners among each site's weights, in the order of the sites.
    pub(super) fn densities(&self, sites: &[Site]) -> Vec<(String, f64)> {
        let density = |(site, parts): (&SiteId, &Parts)| {
            let entries = [parts.weight, parts.bias].into_iter().flatten();
            let (won, all) = entries.fold((0, 0), |(won, all), at| {
                let entry = &self.entries[at];
                (
                    won + entry.winners.len(),
                    all + entry.shape.iter().product::<usize>(),
                )
            });
            (sites[site.0].path.clone(), won as f64 / all.max(1) as f64)
        };
        self.at.iter().map(density).collect()
    }

    fn part<const D: usize>(&self, at: Option<usize>, change: bool) -> Option<Tensor<D>> {
        let entry = &self.entries[at?];
        let values = self.values[at?].val();
        Some(entry.shaped(match change {
            true => entry.change(values),
            false => entry.whole(values),
        }))
    }

    /// See [`modelsmith_core::hooks::Hooks::embedding`], at a site that holds winners.
    pub(super) fn embedding(&self, call: EmbeddingCall<'_>, ids: Tensor<2, Int>) -> Tensor<3> {
        let parts = self.at[&call.site.id];
        let last = call.is_last();
        match self.part(parts.weight, !last) {
            Some(table) if last => lookup(table, ids),
            Some(table) => call.run(ids.clone()) + lookup(table, ids),
            None => call.run(ids),
        }
    }

    /// See [`modelsmith_core::hooks::Hooks::linear`], at a site that holds winners.
    pub(super) fn linear(&self, call: LinearCall<'_>, x: Tensor<3>) -> Tensor<3> {
        let (parts, layer) = (self.at[&call.site.id], call.layer);
        if call.is_last() {
            let weight = self.part(parts.weight, false);
            let weight = weight.map(|weight| oriented(weight, layer.fan_in_fan_out));
            let bias = self.part(parts.bias, false);
            let bias = bias.or_else(|| layer.bias.as_ref().map(Param::val));
            return linear(x, weight.unwrap_or_else(|| layer.matrix()), bias, None);
        }
        let mut y = call.run(x.clone());
        if let Some(change) = self.part(parts.weight, true) {
            y = y + linear(x, oriented(change, layer.fan_in_fan_out), None, None);
        }
        match self.part::<1>(parts.bias, true) {
            Some(change) => y + change.unsqueeze(),
            None => y,
        }
    }

    /// See [`modelsmith_core::hooks::Hooks::conv`], at a site that holds winners.
    pub(super) fn conv(&self, call: ConvCall<'_>, x: Tensor<4>) -> Tensor<4> {
        let (parts, layer) = (self.at[&call.site.id], call.layer);
        let options = ConvOptions::new(layer.stride, layer.padding, [1, 1], layer.groups);
        let change = |at| self.part::<1>(at, true);
        let y = call.run(x.clone());
        let y = match self.part(parts.weight, true) {
            Some(kernel) => y + conv2d(x, kernel, None, options),
            None => y,
        };
        match change(parts.bias) {
            Some(bias) => {
                let channels = bias.dims()[0];
                y + bias.reshape([1, channels, 1, 1])
            }
            None => y,
        }
    }

    /// See [`modelsmith_core::hooks::Hooks::norm`], at a site that holds winners.
    pub(super) fn norm(&self, call: NormCall<'_>, x: Tensor<3>) -> Tensor<3> {
        let (parts, layer) = (self.at[&call.site.id], call.layer);
        let gain = self.part(parts.weight, false);
        let gain = gain.unwrap_or_else(|| layer.weight.val());
        let bias = self.part(parts.bias, false);
        let bias = bias.or_else(|| layer.bias.as_ref().map(Param::val));
        norm(x, gain, bias, layer.kind, layer.epsilon)
    }
}
