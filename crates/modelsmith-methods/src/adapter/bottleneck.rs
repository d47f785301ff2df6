//! What did adapters look like before LoRA? Small two-layer networks inside the blocks, with a residual around them.
//!
//! ```text
//! sequential   y ← y + s · (W_up f(W_down y + b_down) + b_up)       y the output of the adapted layer
//! parallel     y ← y + s · (W_up f(W_down x + b_down) + b_up)       x its input
//! ```
//!
//! Houlsby et al. adapt the last layer of attention and MLP, before the residual sum; Pfeiffer et al. the
//! MLP's alone; He et al. stand beside it. `W_up` and the biases start at zero, so a fresh adapter is the
//! identity; the published ones start near it.

use super::common::attached::{AtSite, Attached, attached};
use super::common::beside::{Bias, dense_targets, wanted};
use super::common::copies::{Copies, Wanted};
use super::common::peft::{Taker, describe, key, own_options, sorted};
use super::common::range::out_of_range;
use burn::module::{Module, Param};
use burn::tensor::{Tensor, TensorData, activation};
use modelsmith_core::error::{Error, Result};
use modelsmith_core::hooks::{Hooks, Pass};
use modelsmith_core::host::{Host, part_paths};
use modelsmith_core::method::{Card, Family, Method};
use modelsmith_core::parameters::{Flat, trained};
use modelsmith_core::random::Stream;
use modelsmith_core::roles::{Adapt, Adapter, AdapterFiles};
use modelsmith_core::sites::{Selection, Site, SiteId, TargetModules};
use modelsmith_kernels::linear;
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};
use serde_json::{Map, Value, json};
use std::collections::BTreeMap;

/// Options of bottleneck adapters.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(default, deny_unknown_fields)]
pub struct BottleneckConfig {
    /// Width between the two layers, 1 to 65536.
    pub bottleneck_size: usize,
    /// Function between the two layers.
    pub non_linearity: NonLinearity,
    /// Multiplies what the adapter adds.
    pub scaling: f64,
    /// Reads the adapted layer's input instead of its output.
    pub parallel: bool,
    /// Dropout on the adapter's input while training, 0 to below 1.
    pub dropout: f64,
    /// Layers to adapt: a list of path suffixes, a regular expression for the whole path, or
    /// `all-linear`. The method's own choice when absent.
    pub target_modules: Option<TargetModules>,
    /// Adapt the last layer of the attention too, where no targets are named.
    pub after_attention: bool,
    /// Layers to leave out again, in the same forms.
    pub exclude_modules: Option<TargetModules>,
    /// Only these block numbers.
    pub layers_to_transform: Option<Vec<usize>>,
    /// Modules trained in full beside the adapter, by path suffix; the heads of classifiers are
    /// always among them.
    pub modules_to_save: Vec<String>,
}

/// Function between the two layers.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "snake_case")]
pub enum NonLinearity {
    /// `max(0, x)`.
    #[default]
    Relu,
    /// `x Φ(x)`.
    Gelu,
    /// `x σ(x)`.
    Swish,
    /// `tanh x`.
    Tanh,
}

impl NonLinearity {
    fn of(self, x: Tensor<3>) -> Tensor<3> {
        match self {
            Self::Relu => activation::relu(x),
            Self::Gelu => activation::gelu(x),
            Self::Swish => activation::silu(x),
            Self::Tanh => x.tanh(),
        }
    }
}

impl Default for BottleneckConfig {
    fn default() -> Self {
        Self {
            bottleneck_size: 64,
            non_linearity: NonLinearity::Relu,
            scaling: 1.0,
            parallel: false,
            dropout: 0.0,
            target_modules: None,
            after_attention: true,
            exclude_modules: None,
            layers_to_transform: None,
            modules_to_save: Vec::new(),
        }
    }
}

impl Method for BottleneckConfig {
    const CARD: Card = card(
        "houlsby",
        "Bottleneck adapters after attention and MLP",
        "Houlsby et al., ICML 2019, arXiv 1902.00751",
        "Two-layer networks behind the attention and the MLP of every block.",
    );
}

/// Card of [`pfeiffer`].
pub(super) const PFEIFFER: Card = card(
    "pfeiffer",
    "Bottleneck adapters after the MLP",
    "Pfeiffer et al., EACL 2021, arXiv 2005.00247",
    "A two-layer network behind the MLP of every block.",
);
/// Card of [`parallel`].
pub(super) const PARALLEL: Card = card(
    "parallel_adapter",
    "Parallel bottleneck adapters",
    "He et al., ICLR 2022, arXiv 2110.04366",
    "A scaled two-layer network beside the last layer of every MLP.",
);

const fn card(
    id: &'static str,
    title: &'static str,
    paper: &'static str,
    summary: &'static str,
) -> Card {
    Card {
        id,
        number: None,
        title,
        family: Family::Adapter,
        paper,
        summary,
    }
}

/// Houlsby's.
pub(super) fn defaults() -> Value {
    json!(BottleneckConfig::default())
}

/// Pfeiffer's.
pub(super) fn pfeiffer() -> Value {
    json!(BottleneckConfig {
        after_attention: false,
        ..BottleneckConfig::default()
    })
}

/// He's, with the scale of section 5.
pub(super) fn parallel() -> Value {
    json!(BottleneckConfig {
        after_attention: false,
        parallel: true,
        scaling: 4.0,
        ..BottleneckConfig::default()
    })
}

/// Reads the configuration of a saved adapter.
pub(super) fn from_peft(config: &Map<String, Value>) -> Result<Box<dyn Adapt>> {
    Ok(Box::new(own_options::<BottleneckConfig>(config)?))
}

impl Adapt for BottleneckConfig {
    fn attach(&self, host: &dyn Host, seed: u64) -> Result<Box<dyn Adapter>> {
        let places = self.places(host)?;
        let layers = places.iter().map(|place| place.fresh(host, seed)).collect();
        let copies = Copies::of_host(host, self.wanted(host, &places)?)?;
        Ok(self.adapter(host, layers, copies))
    }

    fn restore(&self, host: &dyn Host, files: &AdapterFiles) -> Result<Box<dyn Adapter>> {
        let config: Self = own_options(&files.config)?;
        let places = config.places(host)?;
        let mut file = Taker::new(&files.tensors);
        let layers = places.iter().map(|place| place.saved(&mut file));
        let layers = layers.collect::<Result<_>>()?;
        let copies = Copies::of_file(host, config.wanted(host, &places)?, &mut file)?;
        file.finish()?;
        Ok(config.adapter(host, layers, copies))
    }

    fn options(&self) -> Value {
        json!(self)
    }
}

impl BottleneckConfig {
    fn places(&self, host: &dyn Host) -> Result<Vec<Place>> {
        let block = &host.info().block;
        let mut usual = block.mlp_out.clone();
        if self.after_attention {
            usual.extend(&block.attention_out);
        }
        let usual = TargetModules::Suffixes(part_paths(host, &usual));
        let selection = Selection {
            target_modules: Some(self.target_modules.as_ref().unwrap_or(&usual)),
            exclude_modules: self.exclude_modules.as_ref(),
            layers_to_transform: self.layers_to_transform.as_deref(),
            layers_pattern: None,
        };
        let chosen = dense_targets(host, &selection, &self.modules_to_save)?;
        self.check()?;
        let place = |site: &Site| Place {
            site: site.clone(),
            config: self.clone(),
        };
        Ok(chosen.into_iter().map(place).collect())
    }

    fn check(&self) -> Result<()> {
        if !(1..=65536).contains(&self.bottleneck_size) {
            return out_of_range("bottleneck_size", &self.bottleneck_size, "1 to 65536");
        }
        if !(0.0..1.0).contains(&self.dropout) {
            return out_of_range("dropout", &self.dropout, "0 or more and below 1");
        }
        if !self.scaling.is_finite() {
            return out_of_range("scaling", &self.scaling, "a finite number");
        }
        Ok(())
    }

    fn wanted(&self, host: &dyn Host, places: &[Place]) -> Result<Vec<Wanted>> {
        let adapted = |site: SiteId| places.iter().any(|place| place.site.id == site);
        wanted(host, &self.modules_to_save, Bias::None, &adapted)
    }

    fn adapter(&self, host: &dyn Host, layers: Vec<Layers>, copies: Copies) -> Box<dyn Adapter> {
        Box::new(Bottleneck {
            attached: Attached::new(host, layers, copies),
            config: self.clone(),
        })
    }
}

/// Where a network stands, and how wide it is.
#[derive(Clone, Debug)]
struct Place {
    site: Site,
    config: BottleneckConfig,
}

impl Place {
    /// Shapes of both weights and biases by their names in the file.
    fn shapes(&self) -> [(String, Vec<usize>); 4] {
        let (size, out) = (self.config.bottleneck_size, self.site.outputs);
        let read = match self.config.parallel {
            true => self.site.inputs,
            false => out,
        };
        let name = |part: &str| key(&format!("{}.adapter_{part}", self.site.path));
        [
            (name("down.weight"), vec![size, read]),
            (name("down.bias"), vec![size]),
            (name("up.weight"), vec![out, size]),
            (name("up.bias"), vec![out]),
        ]
    }

    fn fresh(&self, host: &dyn Host, seed: u64) -> Layers {
        let device = host.device().without_autodiff();
        let [(_, down), (_, size), (_, up), (_, out)] = self.shapes();
        let bound = 1.0 / (down[1] as f32).sqrt();
        let name = format!("bottleneck/{}", self.site.path);
        let values = Stream::new(seed, &name).uniform(down[0] * down[1], -bound, bound);
        let down = [down[0], down[1]];
        Layers {
            down: trained(Tensor::from_data(TensorData::new(values, down), &device)),
            down_bias: trained(Tensor::zeros([size[0]], &device)),
            up: trained(Tensor::zeros([up[0], up[1]], &device)),
            up_bias: trained(Tensor::zeros([out[0]], &device)),
            place: self.clone(),
        }
    }

    fn saved(&self, file: &mut Taker) -> Result<Layers> {
        let [down, down_bias, up, up_bias] = self.shapes();
        let mut take = |(name, shape): &(String, Vec<usize>)| file.take(name, shape);
        Ok(Layers {
            down: trained(take(&down)?.tensor()?),
            down_bias: trained(take(&down_bias)?.tensor()?),
            up: trained(take(&up)?.tensor()?),
            up_bias: trained(take(&up_bias)?.tensor()?),
            place: self.clone(),
        })
    }
}

/// The network at one site.
#[derive(Module, Debug)]
struct Layers {
    /// `[size, read]`.
    down: Param<Tensor<2>>,
    /// `[size]`.
    down_bias: Param<Tensor<1>>,
    /// `[out, size]`.
    up: Param<Tensor<2>>,
    /// `[out]`.
    up_bias: Param<Tensor<1>>,
    #[module(skip)]
    place: Place,
}

impl AtSite for Layers {
    fn site(&self) -> &Site {
        &self.place.site
    }

    fn after(&self, pass: &Pass, effect: f64, x: &Tensor<3>, y: Tensor<3>) -> Option<Tensor<3>> {
        let config = &self.place.config;
        let read = match config.parallel {
            true => x.clone(),
            false => y.clone(),
        };
        let name = format!("bottleneck/{}", self.place.site.path);
        let read = pass.dropout(&name, config.dropout, read);
        let inner = linear(read, self.down.val(), Some(self.down_bias.val()), None);
        let inner = config.non_linearity.of(inner);
        let added = linear(inner, self.up.val(), Some(self.up_bias.val()), None);
        Some(y + added * (config.scaling * effect))
    }
}

/// Networks by site, and what is trained beside them.
#[derive(Module, Debug)]
struct Bottleneck {
    attached: Attached<Layers>,
    #[module(skip)]
    config: BottleneckConfig,
}

impl Adapter for Bottleneck {
    attached!(cannot_merge: "a bottleneck adapter is no change of weights");

    fn files(&self, host: &dyn Host) -> Result<AdapterFiles> {
        let mut tensors: BTreeMap<String, Flat> = self.attached.copies().tensors().collect();
        for layers in self.attached.states() {
            let [down, down_bias, up, up_bias] = layers.place.shapes().map(|(name, _)| name);
            tensors.insert(down, Flat::new(layers.down.val().without_autodiff()));
            tensors.insert(
                down_bias,
                Flat::new(layers.down_bias.val().without_autodiff()),
            );
            tensors.insert(up, Flat::new(layers.up.val().without_autodiff()));
            tensors.insert(up_bias, Flat::new(layers.up_bias.val().without_autodiff()));
        }
        let mut config = describe(host.info(), "BOTTLENECK");
        if let Value::Object(options) = json!(self.config) {
            config.extend(options);
        }
        Ok(AdapterFiles {
            config: sorted(config),
            tensors,
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::fake_host::FakeHost;
    use modelsmith_core::layers;
    use modelsmith_core::parameters::{frozen, to_vec};

    /// One dense layer `y = 2x` of width 1 through an adapter of width 1 with all numbers set.
    fn through(parallel: bool, non_linearity: NonLinearity, x: f32) -> f32 {
        let device = burn::tensor::Device::flex();
        let site = FakeHost::new().sites()[1].clone();
        let one = |value: f32| trained(Tensor::<2>::from_floats([[value]], &device));
        let bias = |value: f32| trained(Tensor::<1>::from_floats([value], &device));
        let config = BottleneckConfig {
            parallel,
            non_linearity,
            scaling: 0.5,
            ..BottleneckConfig::default()
        };
        let state = Layers {
            down: one(3.0),
            down_bias: bias(1.0),
            up: one(-2.0),
            up_bias: bias(0.25),
            place: Place {
                site: site.clone(),
                config,
            },
        };
        let layer = layers::Linear {
            weight: frozen(Tensor::from_floats([[2.0]], &device)),
            bias: None,
            fan_in_fan_out: false,
        };
        let host = FakeHost::new();
        let attached = Attached::new(
            &host,
            vec![state],
            Copies::of_host(&host, Vec::new()).unwrap(),
        );
        let (hooks, pass): (&[&dyn Hooks], _) = (&[&attached], &Pass::default());
        let around = modelsmith_core::hooks::Around { hooks, pass };
        let x = Tensor::<3>::from_floats([[[x]]], &device);
        let y = around.linear(&site, &layer, x, &|x| linear(x, layer.matrix(), None, None));
        to_vec(y)[0]
    }

    #[test]
    fn the_formula_holds_in_numbers() {
        use NonLinearity::{Relu, Tanh};
        // y = 2x; down 3, 1; up -2, 0.25; scaling 0.5.
        assert_eq!(through(false, Relu, 1.0), 2.0 + 0.5 * (-2.0 * 7.0 + 0.25));
        assert_eq!(through(false, Relu, -1.0), -2.0 + 0.5 * 0.25);
        assert_eq!(through(true, Relu, 1.0), 2.0 + 0.5 * (-2.0 * 4.0 + 0.25));
        let expected = 2.0 + 0.5 * (-2.0 * 4.0_f32.tanh() + 0.25);
        assert!((through(true, Tanh, 1.0) - expected).abs() < 1e-6);
    }

    #[test]
    fn presets_stand_where_their_papers_say() {
        let host = FakeHost::new();
        let count = |options: Value| {
            let config: BottleneckConfig = serde_json::from_value(options).unwrap();
            let adapter = config.attach(&host, 0).unwrap();
            (adapter.sites().len(), adapter.parameters().len())
        };
        assert_eq!(count(defaults()), (2, 8));
        assert_eq!(count(pfeiffer()), (1, 4));
        assert_eq!(count(parallel()), (1, 4));
    }

    #[test]
    fn numbers_out_of_range_are_refused() {
        for (key, value) in [("bottleneck_size", json!(0)), ("dropout", json!(1.0))] {
            let mut options = defaults();
            options[key] = value;
            let config: BottleneckConfig = serde_json::from_value(options).unwrap();
            let Err(error) = config.attach(&FakeHost::new(), 0) else {
                panic!("{key} was accepted");
            };
            assert!(error.to_string().contains(&format!("method.{key}")));
        }
    }
}
