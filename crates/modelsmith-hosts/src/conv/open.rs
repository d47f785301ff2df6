//! A network from a folder, or with fresh weights.

use super::config::{ARCHITECTURE, MODEL_TYPE};
use super::{Block, ConvNet, ConvNetConfig, Facts};
use crate::image::{Give, Stored, add_site, dense, parameter};
use burn::tensor::Device;
use modelsmith_core::error::{Error, Result};
use modelsmith_core::files::{Checkpoint, read_json};
use modelsmith_core::host::{BlockParts, HostInfo};
use modelsmith_core::layers::{Conv2d, GroupNorm};
use modelsmith_core::parameters::Flat;
use modelsmith_core::random::Stream;
use modelsmith_core::sites::SiteKind;
use serde_json::json;
use std::path::Path;
use std::sync::Arc;

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
        let mut stored = Stored::new(&checkpoint, device);
        let origin = folder.display().to_string();
        let net = Self::new(config, origin, device, &mut |name, shape| {
            stored.give(name, shape)
        })?;
        stored.finish()?;
        Ok(net)
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
            add_site(&mut sites, &conv, SiteKind::Conv, [inputs, *outputs], true);
            blocks.push(block(&path, [inputs, *outputs], &config, give)?);
            inputs = *outputs;
        }
        inputs = config.flat().unwrap_or_default();
        let mut layers = Vec::new();
        for (number, outputs) in config.hidden_sizes.iter().enumerate() {
            let path = format!("layers.{number}");
            let sizes = [inputs, *outputs];
            add_site(&mut sites, &path, SiteKind::Linear, sizes, true);
            layers.push(dense(give, &path, sizes)?);
            inputs = *outputs;
        }
        let sizes = [inputs, config.num_labels];
        add_site(&mut sites, "classifier", SiteKind::Linear, sizes, true);
        if let Some(last) = sites.last_mut() {
            last.head = true;
        }
        let classifier = dense(give, "classifier", sizes)?;
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
        weight: parameter(
            give,
            &format!("{path}.conv.weight"),
            [outputs, inputs, 3, 3],
        )?,
        bias: Some(parameter(give, &format!("{path}.conv.bias"), [outputs])?),
        stride: [1, 1],
        padding: [1, 1],
        groups: 1,
    };
    let norm = GroupNorm {
        weight: parameter(give, &format!("{path}.norm.weight"), [outputs])?,
        bias: parameter(give, &format!("{path}.norm.bias"), [outputs])?,
        groups: config.num_groups,
        epsilon: config.norm_eps,
    };
    Ok(Block { conv, norm })
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
