//! A network from a folder or a file of weights, or with fresh ones.

use super::config::{ARCHITECTURE, MODEL_TYPE};
use super::{Block, Facts, ResNet, ResNetConfig};
use crate::image::{Give, Stored, add_site, dense, parameter};
use burn::tensor::Device;
use modelsmith_core::error::{Error, Result};
use modelsmith_core::files::{Checkpoint, read_json};
use modelsmith_core::host::{BlockParts, HostInfo};
use modelsmith_core::layers::{BatchNorm, Conv2d};
use modelsmith_core::parameters::Flat;
use modelsmith_core::random::Stream;
use modelsmith_core::sites::{Site, SiteKind};
use serde_json::json;
use std::path::Path;
use std::sync::Arc;

/// Channels of the stages.
const CHANNELS: [usize; 3] = [16, 32, 64];

/// Added to the variance of a channel, as PyTorch does by default.
const EPSILON: f64 = 1e-5;

impl ResNet {
    /// Reads a folder with `config.json` and weights, or weights alone, which then say themselves what the network is.
    ///
    /// # Errors
    /// A configuration or names that are no such network; tensors that are missing, surplus, of another shape or not
    /// finite, by name.
    pub fn load(path: &Path, device: &Device) -> Result<Self> {
        let checkpoint = Checkpoint::open(path)?;
        let file = path.join("config.json");
        let config = match file.is_file() {
            true => read_json(&file)?,
            false => ResNetConfig::of_weights(&checkpoint)?,
        };
        config
            .check()
            .map_err(|error| Error::file(path, error.to_string()))?;
        let mut stored = Stored::new(&checkpoint, device);
        let origin = path.display().to_string();
        let net = Self::new(config, origin, device, &mut |name, shape| {
            stored.give(name, shape)
        })?;
        stored.finish()?;
        Ok(net)
    }

    /// A network with fresh weights: convolutions and the last matrix normal with variance two over a layer's inputs (He
    /// et al., arXiv 1502.01852), norms the identity. Each weight is drawn under its name.
    ///
    /// # Errors
    /// A configuration that is no such network.
    pub fn random(config: ResNetConfig, seed: u64, device: &Device) -> Result<Self> {
        config.check()?;
        let origin = format!("random weights, seed {seed}");
        Self::new(config, origin, device, &mut |name, shape| {
            let count = shape.iter().product();
            let values = match shape {
                [_] => {
                    let one = name.ends_with(".weight") || name.ends_with(".running_var");
                    vec![f32::from(u8::from(one)); count]
                }
                [_, inputs @ ..] => {
                    let inputs = inputs.iter().product::<usize>().max(1);
                    let deviation = (2.0 / inputs as f32).sqrt();
                    Stream::new(seed, name).normal(count, 0.0, deviation)
                }
                [] => vec![0.0],
            };
            Ok(Flat::from_vec(values, shape, device))
        })
    }

    fn new(
        config: ResNetConfig,
        origin: String,
        device: &Device,
        give: &mut Give<'_>,
    ) -> Result<Self> {
        let mut maker = Maker {
            give,
            sites: Vec::new(),
        };
        let first = [config.num_channels, CHANNELS[0]];
        let (conv1, bn1) = maker.normed("", 1, first, 1)?;
        let blocks = config.num_blocks;
        let layer1 = maker.stage("layer1", blocks, [CHANNELS[0], CHANNELS[0]])?;
        let layer2 = maker.stage("layer2", blocks, [CHANNELS[0], CHANNELS[1]])?;
        let layer3 = maker.stage("layer3", blocks, [CHANNELS[1], CHANNELS[2]])?;
        let Maker { give, mut sites } = maker;
        let sizes = [CHANNELS[2], config.num_labels];
        add_site(&mut sites, "linear", SiteKind::Linear, sizes, true);
        if let Some(last) = sites.last_mut() {
            last.head = true;
        }
        let linear = dense(give, "linear", sizes)?;
        let facts = Facts {
            info: info(&config, origin),
            config,
            sites,
            device: device.clone().without_autodiff(),
        };
        Ok(Self {
            conv1,
            bn1,
            layer1,
            layer2,
            layer3,
            linear,
            facts: Arc::new(facts),
        })
    }
}

/// Makes layers with their sites, in the order of the forward pass.
struct Maker<'a, 'b> {
    give: &'a mut Give<'b>,
    sites: Vec<Site>,
}

impl Maker<'_, '_> {
    fn stage(&mut self, path: &str, count: usize, sizes: [usize; 2]) -> Result<Vec<Block>> {
        let [mut inputs, outputs] = sizes;
        let mut blocks = Vec::new();
        for number in 0..count {
            let block = format!("{path}.{number}.");
            let stride = if inputs == outputs { 1 } else { 2 };
            let (conv1, bn1) = self.normed(&block, 1, [inputs, outputs], stride)?;
            let (conv2, bn2) = self.normed(&block, 2, [outputs, outputs], 1)?;
            blocks.push(Block {
                conv1,
                bn1,
                conv2,
                bn2,
            });
            inputs = outputs;
        }
        Ok(blocks)
    }

    /// `convN` and `bnN` of a block.
    fn normed(
        &mut self,
        block: &str,
        number: usize,
        [inputs, outputs]: [usize; 2],
        stride: usize,
    ) -> Result<(Conv2d, BatchNorm)> {
        let (conv, norm) = (format!("{block}conv{number}"), format!("{block}bn{number}"));
        add_site(
            &mut self.sites,
            &conv,
            SiteKind::Conv,
            [inputs, outputs],
            false,
        );
        add_site(
            &mut self.sites,
            &norm,
            SiteKind::Norm,
            [outputs, outputs],
            true,
        );
        let shape = [outputs, inputs, 3, 3];
        let conv = Conv2d {
            weight: parameter(self.give, &format!("{conv}.weight"), shape)?,
            bias: None,
            stride: [stride, stride],
            padding: [1, 1],
            groups: 1,
        };
        let mut vector = |part: &str| parameter(self.give, &format!("{norm}.{part}"), [outputs]);
        let norm = BatchNorm {
            weight: vector("weight")?,
            bias: vector("bias")?,
            running_mean: vector("running_mean")?,
            running_var: vector("running_var")?,
            epsilon: EPSILON,
        };
        Ok((conv, norm))
    }
}

fn info(config: &ResNetConfig, origin: String) -> HostInfo {
    HostInfo {
        model_type: MODEL_TYPE.into(),
        architecture: ARCHITECTURE.into(),
        origin,
        task_type: None,
        default_targets: &["conv1", "conv2"],
        head_modules: &["linear"],
        pools_first: false,
        block: BlockParts::default(),
        config: json!(config),
    }
}
