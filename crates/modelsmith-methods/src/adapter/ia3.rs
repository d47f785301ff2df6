//! How little can be trained at a dense layer? IA³ (Liu et al.) multiplies activations by one vector a layer.
//!
//! ```text
//! keys, values        y = l ⊙ (x Wᵀ + b)          l [out], ones at first
//! feedforward         y = (l ⊙ x) Wᵀ + b          l [in]
//! ```
//!
//! A scale other than 1 uses `1 + scale · (l − 1)`; PEFT has none.

use super::common::attached::{AtSite, Attached, attached};
use super::common::beside::{Bias, dense_targets, drop_idle, saved_names, wanted};
use super::common::copies::Copies;
use super::common::peft::{Taker, describe, key, own_options, sorted};
use burn::module::{Module, Param};
use burn::tensor::Tensor;
use modelsmith_core::error::{Error, Result};
use modelsmith_core::hooks::{Hooks, LinearCall, Pass};
use modelsmith_core::host::{Host, part_paths};
use modelsmith_core::method::{Card, Family, Method, defaults_of};
use modelsmith_core::parameters::{Flat, trained};
use modelsmith_core::roles::{Adapt, Adapter, AdapterFiles};
use modelsmith_core::sites::{Selection, Site, SiteId, TargetModules};
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};
use serde_json::{Map, Value, json};

/// Options of IA³.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(default, deny_unknown_fields)]
pub struct Ia3Config {
    /// Sites to adapt: a list of path suffixes, a regular expression for the whole path, or
    /// `all-linear`. Keys, values and the last layer of the MLP when absent.
    pub target_modules: Option<TargetModules>,
    /// Those of them whose input is scaled instead of the output, in the same forms. The last layer
    /// of the MLP when absent.
    pub feedforward_modules: Option<TargetModules>,
    /// Sites to leave out again, in the same forms.
    pub exclude_modules: Option<TargetModules>,
    /// Modules trained in full beside the vectors, by path suffix; the heads of classifiers are
    /// always among them.
    pub modules_to_save: Vec<String>,
}

impl Method for Ia3Config {
    const CARD: Card = Card {
        id: "ia3",
        number: None,
        title: "IA3: inhibiting and amplifying inner activations",
        family: Family::Adapter,
        paper: "Liu et al., NeurIPS 2022, arXiv 2205.05638",
        summary: "Scales keys, values and the MLP's inner activations by trained vectors.",
    };
}

/// Keys, values and MLP.
pub(super) fn defaults() -> Value {
    defaults_of::<Ia3Config>()
}

/// Reads the configuration of saved vectors.
pub(super) fn from_peft(config: &Map<String, Value>) -> Result<Box<dyn Adapt>> {
    Ok(Box::new(read(config)?))
}

fn read(config: &Map<String, Value>) -> Result<Ia3Config> {
    let mut config = config.clone();
    config.remove("init_ia3_weights");
    own_options(&config)
}

impl Adapt for Ia3Config {
    fn attach(&self, host: &dyn Host, _seed: u64) -> Result<Box<dyn Adapter>> {
        let device = host.device().without_autodiff();
        self.build(
            host,
            &mut |scale| Ok(Tensor::ones([scale.width()], &device)),
            &mut |wanted| Copies::of_host(host, wanted),
        )
    }

    fn restore(&self, host: &dyn Host, files: &AdapterFiles) -> Result<Box<dyn Adapter>> {
        let mut config = read(&files.config)?;
        drop_idle(&mut config.target_modules, host);
        drop_idle(&mut config.feedforward_modules, host);
        let file = std::cell::RefCell::new(Taker::new(&files.tensors));
        let adapter = config.build(
            host,
            &mut |scale| {
                let taken = file.borrow_mut().take(&scale.key(), &scale.shape())?;
                Ok(taken.values)
            },
            &mut |wanted| Copies::of_file(host, wanted, &mut file.borrow_mut()),
        )?;
        file.into_inner().finish()?;
        Ok(adapter)
    }

    fn options(&self) -> Value {
        json!(self)
    }
}

impl Ia3Config {
    /// The adapter with the vectors that `value` gives.
    fn build(
        &self,
        host: &dyn Host,
        value: &mut dyn FnMut(&Place) -> Result<Tensor<1>>,
        copies: &mut dyn FnMut(Vec<super::common::copies::Wanted>) -> Result<Copies>,
    ) -> Result<Box<dyn Adapter>> {
        let places = self.places(host)?;
        let adapted = |site: SiteId| places.iter().any(|place| place.site.id == site);
        let wanted = wanted(host, &self.modules_to_save, Bias::None, &adapted)?;
        let mut scales = Vec::new();
        for place in &places {
            scales.push(Scale {
                ia3_l: trained(value(place)?),
                place: place.clone(),
            });
        }
        Ok(Box::new(Ia3 {
            attached: Attached::new(host, scales, copies(wanted)?),
            config: self.clone(),
        }))
    }

    fn places(&self, host: &dyn Host) -> Result<Vec<Place>> {
        let block = &host.info().block;
        let inner = part_paths(host, &block.mlp_out);
        let mut usual = part_paths(host, &block.keys_values);
        usual.extend(inner.clone());
        let or = |chosen: &Option<TargetModules>, usual: Vec<String>| {
            chosen.clone().unwrap_or(TargetModules::Suffixes(usual))
        };
        let target_modules = or(&self.target_modules, usual);
        let selection = Selection {
            target_modules: Some(&target_modules),
            exclude_modules: self.exclude_modules.as_ref(),
            ..Selection::default()
        };
        let chosen = dense_targets(host, &selection, &self.modules_to_save)?;
        let feedforward = or(&self.feedforward_modules, inner);
        let none = matches!(&feedforward, TargetModules::Suffixes(items) if items.is_empty());
        let selection = Selection {
            target_modules: Some(&feedforward),
            ..Selection::default()
        };
        let scaled_before: Vec<SiteId> = match none {
            true => Vec::new(),
            false => {
                let sites = selection.select(host.sites(), &[])?.into_iter();
                sites.map(|site| site.id).collect()
            }
        };
        let place = |site: &Site| Place {
            feedforward: scaled_before.contains(&site.id),
            site: site.clone(),
        };
        Ok(chosen.into_iter().map(place).collect())
    }
}

/// A site and the side that is scaled.
#[derive(Clone, Debug)]
struct Place {
    site: Site,
    /// The input is scaled, not the output.
    feedforward: bool,
}

impl Place {
    fn width(&self) -> usize {
        match self.feedforward {
            true => self.site.inputs,
            false => self.site.outputs,
        }
    }

    fn key(&self) -> String {
        key(&format!("{}.ia3_l", self.site.path))
    }

    /// A row for inputs, a column for outputs.
    fn shape(&self) -> [usize; 2] {
        match self.feedforward {
            true => [1, self.site.inputs],
            false => [self.site.outputs, 1],
        }
    }
}

/// The vector of one site.
#[derive(Module, Debug)]
struct Scale {
    /// `[in]` or `[out]`.
    ia3_l: Param<Tensor<1>>,
    #[module(skip)]
    place: Place,
}

impl Scale {
    fn vector(&self, effect: f64) -> Tensor<1> {
        match effect == 1.0 {
            true => self.ia3_l.val(),
            false => (self.ia3_l.val() - 1.0) * effect + 1.0,
        }
    }

    /// What a weight or bias is multiplied by.
    fn factor(&self, effect: f64, sign: f64) -> Result<Tensor<1>> {
        let vector = self.vector(effect).without_autodiff();
        if sign > 0.0 {
            return Ok(vector);
        }
        let smallest = vector.clone().abs().min().into_scalar::<f32>();
        match smallest > 0.0 {
            true => Ok(vector.recip()),
            false => Err(Error::Failed(format!(
                "the vector at {} holds 0, so the merged weight has lost the old one; load the base model instead",
                self.place.site.path
            ))),
        }
    }
}

impl AtSite for Scale {
    fn site(&self) -> &Site {
        &self.place.site
    }

    fn linear(
        &self,
        call: LinearCall<'_>,
        effect: f64,
        copies: &Copies,
        x: Tensor<3>,
    ) -> Tensor<3> {
        let vector = self.vector(effect).unsqueeze();
        match self.place.feedforward {
            true => copies.linear(call, x * vector),
            false => copies.linear(call, x) * vector,
        }
    }

    fn after(&self, _pass: &Pass, effect: f64, _x: &Tensor<3>, y: Tensor<3>) -> Option<Tensor<3>> {
        (!self.place.feedforward).then(|| y * self.vector(effect).unsqueeze())
    }

    fn fold(&self, weight: &Flat, effect: f64, sign: f64) -> Result<Flat> {
        let factor = self.factor(effect, sign)?;
        let matrix = weight.tensor::<2>()?;
        // Stored `[out, in]` or `[in, out]`: the vector runs along one of the two.
        let along_columns = self.place.feedforward != self.place.site.fan_in_fan_out;
        Ok(Flat::new(match along_columns {
            true => matrix * factor.unsqueeze_dim::<2>(0),
            false => matrix * factor.unsqueeze_dim::<2>(1),
        }))
    }

    fn fold_bias(&self, bias: &Flat, effect: f64, sign: f64) -> Result<Option<Flat>> {
        if self.place.feedforward {
            return Ok(None);
        }
        let values = bias.values.clone() * self.factor(effect, sign)?;
        Ok(Some(Flat {
            values,
            shape: bias.shape.clone(),
        }))
    }
}

/// Vectors by site, and what is trained beside them.
#[derive(Module, Debug)]
struct Ia3 {
    attached: Attached<Scale>,
    #[module(skip)]
    config: Ia3Config,
}

impl Adapter for Ia3 {
    attached!();

    fn files(&self, host: &dyn Host) -> Result<AdapterFiles> {
        let mut tensors: std::collections::BTreeMap<String, Flat> =
            self.attached.copies().tensors().collect();
        for scale in self.attached.states() {
            let values = Flat::new(scale.ia3_l.val().without_autodiff()).values;
            let shape = scale.place.shape().to_vec();
            tensors.insert(scale.place.key(), Flat { shape, values });
        }
        let mut config = describe(host.info(), "IA3");
        config.extend(self.written(host));
        Ok(AdapterFiles {
            config: sorted(config),
            tensors,
        })
    }
}

impl Ia3 {
    fn written(&self, host: &dyn Host) -> Map<String, Value> {
        let paths = |before: bool| -> Value {
            let scales = self.attached.states();
            let chosen = scales.filter(|scale| !before || scale.place.feedforward);
            chosen.map(|scale| json!(scale.place.site.path)).collect()
        };
        // What stands for the host's own names depends on the reader's tables.
        let chosen = |targets: &Option<TargetModules>, before| match targets {
            Some(TargetModules::Pattern(pattern)) if pattern == "all-linear" => paths(before),
            Some(targets) => json!(targets),
            None => paths(before),
        };
        let saved = saved_names(host, &self.config.modules_to_save);
        let fan_in_fan_out = |scale: &Scale| scale.place.site.fan_in_fan_out;
        let written = json!({
            "target_modules": chosen(&self.config.target_modules, false),
            "feedforward_modules": chosen(&self.config.feedforward_modules, true),
            "exclude_modules": self.config.exclude_modules,
            "modules_to_save": if saved.is_empty() { Value::Null } else { json!(saved) },
            "fan_in_fan_out": self.attached.states().any(fan_in_fan_out),
            "init_ia3_weights": true,
        });
        match written {
            Value::Object(written) => written,
            _ => Map::new(),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::fake_host::FakeHost;

    #[test]
    fn a_zero_in_a_merged_vector_cannot_be_undone_and_other_values_can() {
        let host = FakeHost::new();
        let mut adapter = Ia3Config::default().attach(&host, 0).unwrap();
        let set = |adapter: &mut Box<dyn Adapter>, value: f32| {
            adapter.replace(&mut |_, old| {
                let device = old.values.device().without_autodiff();
                let values = Tensor::full([old.len()], value, &device);
                Some(Flat {
                    values,
                    shape: old.shape.clone(),
                })
            });
        };
        set(&mut adapter, 0.5);
        let merged = host.with_merged(adapter.as_ref());
        for name in [
            "layers.0.q_proj.weight",
            "layers.0.q_proj.bias",
            "layers.0.v_proj.weight",
        ] {
            let back = adapter.unmerged(&merged, name).unwrap().unwrap();
            assert_eq!(back.to_vec(), host.weight(name).unwrap().to_vec(), "{name}");
        }
        set(&mut adapter, 0.0);
        let error = adapter
            .unmerged(&merged, "layers.0.q_proj.weight")
            .unwrap_err();
        assert!(error.to_string().contains("holds 0"), "{error}");
    }

    #[test]
    fn all_outputs_are_scaled_where_no_module_is_feedforward() {
        let host = FakeHost::new();
        let config = Ia3Config {
            feedforward_modules: Some(TargetModules::Suffixes(Vec::new())),
            ..Ia3Config::default()
        };
        let adapter = config.attach(&host, 0).unwrap();
        let shapes = adapter.files(&host).unwrap().tensors;
        assert!(
            shapes.values().all(|flat| flat.shape == [8, 1]),
            "{shapes:?}"
        );
    }
}
