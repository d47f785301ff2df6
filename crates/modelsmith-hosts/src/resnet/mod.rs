//! Residual networks for small images, by the names of akamaster's checkpoints.
//!
//! ```text
//! image -> conv1 -> bn1 -> ReLU -> layer1 -> layer2 -> layer3 -> mean over the picture -> linear
//! block:  y = ReLU(bn2(conv2(ReLU(bn1(conv1(x))))) + shortcut(x))
//! shortcut of a block that halves: every other pixel, with channels of zeros on both sides
//! ```
//!
//! Convolutions, their norms and the last layer are sites. Norms use the statistics that training kept, also while
//! weights are trained; a hook may put others in their place.

mod config;
mod open;

pub use config::ResNetConfig;

use crate::image;
use burn::module::Module;
use burn::tensor::activation::relu;
use burn::tensor::{Device, Tensor};
use modelsmith_core::error::Result;
use modelsmith_core::hooks::{Around, Hooks, Pass};
use modelsmith_core::host::{Host, HostInfo, ImageHost};
use modelsmith_core::layers::{BatchNorm, Conv2d, Linear};
use modelsmith_core::parameters::Flat;
use modelsmith_core::sites::Site;
use std::sync::Arc;

/// A residual network with its weights, frozen until
/// [`set_trainable`](modelsmith_core::parameters::Parameters::set_trainable) says otherwise.
#[derive(Module, Debug)]
pub struct ResNet {
    conv1: Conv2d,
    bn1: BatchNorm,
    layer1: Vec<Block>,
    layer2: Vec<Block>,
    layer3: Vec<Block>,
    linear: Linear,
    #[module(skip)]
    facts: Arc<Facts>,
}

/// Two convolutions beside a shortcut.
#[derive(Module, Debug)]
struct Block {
    conv1: Conv2d,
    bn1: BatchNorm,
    conv2: Conv2d,
    bn2: BatchNorm,
}

/// What does not change with the weights.
#[derive(Debug)]
struct Facts {
    config: ResNetConfig,
    /// A convolution and its norm by turns, at last the linear layer.
    sites: Vec<Site>,
    info: HostInfo,
    device: Device,
}

/// The sites that are passed, one after the other.
struct Walk<'a> {
    sites: std::slice::Iter<'a, Site>,
    around: Around<'a>,
}

impl Walk<'_> {
    fn normed(&mut self, conv: &Conv2d, norm: &BatchNorm, x: Tensor<4>) -> Tensor<4> {
        let x = match self.sites.next() {
            Some(site) => self.around.conv(site, conv, x, &|x| conv.forward(x)),
            None => conv.forward(x),
        };
        match self.sites.next() {
            Some(site) => self.around.batch_norm(site, norm, x, &|x| norm.forward(x)),
            None => norm.forward(x),
        }
    }

    fn block(&mut self, block: &Block, x: Tensor<4>) -> Tensor<4> {
        let y = relu(self.normed(&block.conv1, &block.bn1, x.clone()));
        let y = self.normed(&block.conv2, &block.bn2, y);
        relu(y + shortcut(x, &block.conv1))
    }
}

/// The input as the block's output is shaped.
fn shortcut(x: Tensor<4>, conv: &Conv2d) -> Tensor<4> {
    if conv.stride == [1, 1] {
        return x;
    }
    let [batch, channels, height, width] = x.dims();
    // Of each two by two neighbours the first.
    let x = x
        .reshape([batch * channels * height / 2, 2 * width])
        .narrow(1, 0, width)
        .reshape([batch, channels * height / 2 * width / 2, 2])
        .narrow(2, 0, 1)
        .reshape([batch, channels, height / 2, width / 2]);
    let added = (conv.weight.dims()[0] - channels) / 2;
    let zeros = Tensor::zeros([batch, added, height / 2, width / 2], &x.device());
    Tensor::cat(vec![zeros.clone(), x, zeros], 1)
}

impl ResNet {
    /// What the network is.
    pub fn config(&self) -> &ResNetConfig {
        &self.facts.config
    }
}

impl ImageHost for ResNet {
    fn input(&self) -> [usize; 3] {
        let [height, width] = self.facts.config.image_size;
        [self.facts.config.num_channels, height, width]
    }

    fn classes(&self) -> usize {
        self.facts.config.num_labels
    }

    fn learns(&self, name: &str) -> bool {
        !name.contains(".running_")
    }

    fn features(&self, images: Tensor<4>, pass: &Pass, hooks: &[&dyn Hooks]) -> Tensor<2> {
        let mut walk = Walk {
            sites: self.facts.sites.iter(),
            around: Around { hooks, pass },
        };
        let x = relu(walk.normed(&self.conv1, &self.bn1, images));
        let blocks = self.layer1.iter().chain(&self.layer2).chain(&self.layer3);
        let x = blocks.fold(x, |x, block| walk.block(block, x));
        let [batch, channels, height, width] = x.dims();
        x.reshape([batch, channels, height * width])
            .mean_dim(2)
            .squeeze_dim(2)
    }

    fn classify(&self, features: Tensor<2>, pass: &Pass, hooks: &[&dyn Hooks]) -> Tensor<2> {
        let around = Around { hooks, pass };
        let site = &self.facts.sites[self.facts.sites.len() - 1];
        image::apply(site, &self.linear, features, &around)
    }
}

impl Host for ResNet {
    fn info(&self) -> &HostInfo {
        &self.facts.info
    }

    fn sites(&self) -> &[Site] {
        &self.facts.sites
    }

    fn weight_names(&self) -> Vec<String> {
        image::names(self)
    }

    fn weight(&self, name: &str) -> Option<Flat> {
        image::weight(self, name)
    }

    fn set_weight(&mut self, name: &str, value: &Flat) -> Result<()> {
        image::set_weight(self, name, value)
    }

    fn device(&self) -> Device {
        self.facts.device.clone()
    }
}
