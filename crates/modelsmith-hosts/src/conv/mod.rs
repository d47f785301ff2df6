//! Small convolutional networks.
//!
//! ```text
//! image -> blocks.N.conv -> blocks.N.norm -> ReLU -> 2x2 maximum -> .. -> layers.N -> ReLU -> .. -> classifier
//! ```
//!
//! Paths of the module are names of the checkpoint. Convolutions and dense layers are sites; a dense layer sees an image
//! as a sequence of one.

mod config;
mod open;

pub use config::ConvNetConfig;

use crate::image;
use burn::module::Module;
use burn::tensor::activation::relu;
use burn::tensor::module::max_pool2d;
use burn::tensor::ops::MaxPoolOptions;
use burn::tensor::{Device, Tensor};
use modelsmith_core::error::Result;
use modelsmith_core::hooks::{Around, Hooks, Pass};
use modelsmith_core::host::{Host, HostInfo, ImageHost};
use modelsmith_core::layers::{Conv2d, GroupNorm, Linear};
use modelsmith_core::parameters::Flat;
use modelsmith_core::sites::Site;
use std::sync::Arc;

/// A convolutional network with its weights, frozen until
/// [`set_trainable`](modelsmith_core::parameters::Parameters::set_trainable) says otherwise.
#[derive(Module, Debug)]
pub struct ConvNet {
    blocks: Vec<Block>,
    layers: Vec<Linear>,
    classifier: Linear,
    #[module(skip)]
    facts: Arc<Facts>,
}

/// A convolution with its norm.
#[derive(Module, Debug)]
struct Block {
    conv: Conv2d,
    norm: GroupNorm,
}

/// What does not change with the weights.
#[derive(Debug)]
struct Facts {
    config: ConvNetConfig,
    /// Of the blocks, then the layers, then the classifier.
    sites: Vec<Site>,
    info: HostInfo,
    device: Device,
}

impl ConvNet {
    /// What the network is.
    pub fn config(&self) -> &ConvNetConfig {
        &self.facts.config
    }

    /// A dense layer, counted behind the blocks.
    fn dense(&self, at: usize, layer: &Linear, x: Tensor<2>, around: &Around<'_>) -> Tensor<2> {
        image::apply(&self.facts.sites[self.blocks.len() + at], layer, x, around)
    }
}

/// The largest of each two by two neighbours.
fn halved(x: Tensor<4>) -> Tensor<4> {
    let options = MaxPoolOptions::new([2, 2]);
    max_pool2d(x, options)
}

impl ImageHost for ConvNet {
    fn input(&self) -> [usize; 3] {
        let [height, width] = self.facts.config.image_size;
        [self.facts.config.num_channels, height, width]
    }

    fn classes(&self) -> usize {
        self.facts.config.num_labels
    }

    fn features(&self, images: Tensor<4>, pass: &Pass, hooks: &[&dyn Hooks]) -> Tensor<2> {
        let around = Around { hooks, pass };
        let mut x = images;
        for (block, site) in self.blocks.iter().zip(&self.facts.sites) {
            let y = around.conv(site, &block.conv, x, &|x| block.conv.forward(x));
            x = halved(relu(block.norm.forward(y)));
        }
        let mut x: Tensor<2> = x.flatten(1, 3);
        for (at, layer) in self.layers.iter().enumerate() {
            x = relu(self.dense(at, layer, x, &around));
        }
        x
    }

    fn classify(&self, features: Tensor<2>, pass: &Pass, hooks: &[&dyn Hooks]) -> Tensor<2> {
        let around = Around { hooks, pass };
        self.dense(self.layers.len(), &self.classifier, features, &around)
    }
}

impl Host for ConvNet {
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
