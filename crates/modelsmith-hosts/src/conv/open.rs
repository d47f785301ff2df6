//! A network from a folder, or with fresh weights.

use super::config::{ARCHITECTURE, MODEL_TYPE};
use super::{Block, ConvNet, ConvNetConfig, Facts, not_finite};
use burn::module::Param;
use burn::tensor::{Device, Tensor};
use modelsmith_core::error::{Error, Result, suggest};
use modelsmith_core::files::{Checkpoint, read_json};
use modelsmith_core::host::{BlockParts, Host, HostInfo};
use modelsmith_core::layers::{Conv2d, GroupNorm, Linear};
use modelsmith_core::parameters::{Flat, frozen};
use modelsmith_core::random::Stream;
use modelsmith_core::sites::{Site, SiteId, SiteKind};
use modelsmith_core::weights;
use serde_json::json;
use std::path::Path;
use std::sync::Arc;

/// Gives the weight of a name and shape.
type Give<'a> = dyn FnMut(&str, &[usize]) -> Result<Flat> + 'a;

impl ConvNet {
    /// Reads `config.json` and the weights of a folder.
    ///
    /// # Errors
    /// A configuration that is no such network; tensors that are missing, surplus, of another shape or not finite, by
    /// name.
    pub fn load(folder: &Path, device: &Device) -> Result<Self> {
        let file = folder.join("config.json");
        let config: ConvNetConfig = read_json(&file)?;
        config
            .check()
            .map_err(|error| Error::file(&file, error.to_string()))?;
        let checkpoint = Checkpoint::open(folder)?;
        let fail = |problem: String| Error::file(checkpoint.path(), problem);
        let origin = folder.display().to_string();
        let net = Self::new(config, origin, device, &mut |name, shape| {
            let found = &checkpoint.info(name)?.shape;
            if found != shape {
                let problem = format!("tensor {name} has shape {found:?}; expected {shape:?}");
                return Err(fail(problem));
            }
            let weight = weights::tensor(&checkpoint, name, device)?;
            match not_finite(&weight) {
                None => Ok(weight),
                Some((at, value)) => {
                    let problem = format!("tensor {name} holds {value} at element {at}");
                    Err(Error::Numeric(fail(problem).to_string()))
                }
            }
        })?;
        let names = net.weight_names();
        match checkpoint
            .names()
            .find(|name| !names.iter().any(|n| n == name))
        {
            None => Ok(net),
            Some(surplus) => {
                let hint = suggest(surplus, names.iter().map(String::as_str));
                Err(fail(format!(
                    "holds tensor {surplus}, which the network has not; {hint}"
                )))
            }
        }
    }

    /// A network with fresh weights: weights and biases uniform within one over the root of a layer's inputs, norms the
    /// identity. Each weight is drawn under its name.
    ///
    /// # Errors
    /// A configuration that is no such network.
    pub fn random(config: ConvNetConfig, seed: u64, device: &Device) -> Result<Self> {
        config.check()?;
        let origin = format!("random weights, seed {seed}");
        let mut bound = 0.0;
        Self::new(config, origin, device, &mut |name, shape| {
            let count = shape.iter().product();
            let values = if name.contains(".norm.") {
                let value = f32::from(u8::from(name.ends_with("weight")));
                vec![value; count]
            } else {
                // A layer's bias is asked for behind its weight and has its bound.
                if let [_, inputs @ ..] = shape
                    && !inputs.is_empty()
                {
                    bound = 1.0 / (inputs.iter().product::<usize>() as f32).sqrt();
                }
                Stream::new(seed, name).uniform(count, -bound, bound)
            };
            Ok(Flat::from_vec(values, shape, device))
        })
    }

    fn new(
        config: ConvNetConfig,
        origin: String,
        device: &Device,
        give: &mut Give<'_>,
    ) -> Result<Self> {
        let mut inputs = config.num_channels;
        let mut sites = Vec::new();
        let mut blocks = Vec::new();
        for (number, outputs) in config.conv_sizes.iter().enumerate() {
            let path = format!("blocks.{number}");
            let conv = format!("{path}.conv");
            site(&mut sites, &conv, SiteKind::Conv, [inputs, *outputs], false);
            blocks.push(block(&path, [inputs, *outputs], &config, give)?);
            inputs = *outputs;
        }
        inputs = config.flat().unwrap_or_default();
        let mut layers = Vec::new();
        for (number, outputs) in config.hidden_sizes.iter().enumerate() {
            let path = format!("layers.{number}");
            site(
                &mut sites,
                &path,
                SiteKind::Linear,
                [inputs, *outputs],
                false,
            );
            layers.push(dense(&path, [inputs, *outputs], give)?);
            inputs = *outputs;
        }
        let sizes = [inputs, config.num_labels];
        site(&mut sites, "classifier", SiteKind::Linear, sizes, true);
        let classifier = dense("classifier", sizes, give)?;
        let info = info(&config, origin);
        let facts = Facts {
            config,
            sites,
            info,
            device: device.clone().without_autodiff(),
        };
        Ok(Self {
            blocks,
            layers,
            classifier,
            facts: Arc::new(facts),
        })
    }
}

fn block(
    path: &str,
    [inputs, outputs]: [usize; 2],
    config: &ConvNetConfig,
    give: &mut Give<'_>,
) -> Result<Block> {
    let conv = Conv2d {
        weight: parameter(give, format!("{path}.conv.weight"), [outputs, inputs, 3, 3])?,
        bias: Some(parameter(give, format!("{path}.conv.bias"), [outputs])?),
        stride: [1, 1],
        padding: [1, 1],
        groups: 1,
    };
    let norm = GroupNorm {
        weight: parameter(give, format!("{path}.norm.weight"), [outputs])?,
        bias: parameter(give, format!("{path}.norm.bias"), [outputs])?,
        groups: config.num_groups,
        epsilon: config.norm_eps,
    };
    Ok(Block { conv, norm })
}

fn dense(path: &str, [inputs, outputs]: [usize; 2], give: &mut Give<'_>) -> Result<Linear> {
    Ok(Linear {
        weight: parameter(give, format!("{path}.weight"), [outputs, inputs])?,
        bias: Some(parameter(give, format!("{path}.bias"), [outputs])?),
        fan_in_fan_out: false,
    })
}

fn parameter<const D: usize>(
    give: &mut Give<'_>,
    name: String,
    shape: [usize; D],
) -> Result<Param<Tensor<D>>> {
    Ok(frozen(give(&name, &shape)?.tensor()?))
}

fn site(
    sites: &mut Vec<Site>,
    path: &str,
    kind: SiteKind,
    [inputs, outputs]: [usize; 2],
    head: bool,
) {
    sites.push(Site {
        id: SiteId(sites.len()),
        path: path.to_owned(),
        kind,
        inputs,
        outputs,
        bias: true,
        fan_in_fan_out: false,
        head,
        tied_to: None,
    });
}

fn info(config: &ConvNetConfig, origin: String) -> HostInfo {
    HostInfo {
        model_type: MODEL_TYPE.into(),
        architecture: ARCHITECTURE.into(),
        origin,
        task_type: None,
        default_targets: &["conv"],
        head_modules: &["classifier"],
        pools_first: false,
        block: BlockParts::default(),
        config: json!(config),
    }
}
