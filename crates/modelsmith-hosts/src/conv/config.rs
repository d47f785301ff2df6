//! What a small convolutional network is, as its `config.json` says it.

use modelsmith_core::error::{Error, Result};
use serde::{Deserialize, Serialize};

/// `model_type` of these networks.
pub(super) const MODEL_TYPE: &str = "convnet";

/// Their class.
pub(super) const ARCHITECTURE: &str = "ConvNetForImageClassification";

/// Values that a network may take at most; what a stranger's configuration may ask for.
const MAX_WEIGHTS: usize = 1 << 30;

/// Blocks of a 3x3 convolution, group norm, ReLU and 2x2 maximum pooling, then dense layers with ReLU between.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct ConvNetConfig {
    /// `convnet`.
    pub model_type: String,
    /// `ConvNetForImageClassification`.
    pub architectures: Vec<String>,
    /// Height and width of the images; each block halves both.
    pub image_size: [usize; 2],
    /// Channels of the images.
    pub num_channels: usize,
    /// Channels that each block gives.
    pub conv_sizes: Vec<usize>,
    /// Groups of channels that are normalised together.
    pub num_groups: usize,
    /// Added to the variance of a group.
    pub norm_eps: f64,
    /// Widths of the dense layers before the last.
    pub hidden_sizes: Vec<usize>,
    /// Number of classes.
    pub num_labels: usize,
    /// Type of the stored weights.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub torch_dtype: Option<String>,
}

impl Default for ConvNetConfig {
    fn default() -> Self {
        Self {
            model_type: MODEL_TYPE.into(),
            architectures: vec![ARCHITECTURE.into()],
            image_size: [16, 16],
            num_channels: 3,
            conv_sizes: vec![32, 64, 128],
            num_groups: 8,
            norm_eps: 1e-5,
            hidden_sizes: vec![512],
            num_labels: 10,
            torch_dtype: None,
        }
    }
}

impl ConvNetConfig {
    /// Refuses what is no network of this kind.
    ///
    /// # Errors
    /// The key, what was found and what was expected.
    pub fn check(&self) -> Result<()> {
        if self.model_type != MODEL_TYPE || self.architectures != [ARCHITECTURE] {
            let problem = format!(
                "is {:?} of {:?}; expected {MODEL_TYPE:?} of [{ARCHITECTURE:?}]",
                self.model_type, self.architectures
            );
            return Err(Error::config("model_type", problem));
        }
        let positive = [
            ("num_channels", self.num_channels),
            ("num_groups", self.num_groups),
            ("num_labels", self.num_labels),
            ("conv_sizes", self.conv_sizes.len()),
        ];
        if let Some((key, _)) = positive.iter().find(|(_, value)| *value == 0) {
            return Err(Error::config(*key, "is 0; must be at least 1"));
        }
        let groups = self.num_groups;
        if let Some(size) = self.conv_sizes.iter().find(|size| **size % groups != 0) {
            let problem = format!("holds {size}, which {groups} groups do not divide");
            return Err(Error::config("conv_sizes", problem));
        }
        if self
            .conv_sizes
            .iter()
            .chain(&self.hidden_sizes)
            .any(|size| *size == 0)
        {
            return Err(Error::config(
                "conv_sizes, hidden_sizes",
                "hold a size of 0",
            ));
        }
        if !(self.norm_eps.is_finite() && self.norm_eps > 0.0) {
            let problem = format!("is {}; must be above 0", self.norm_eps);
            return Err(Error::config("norm_eps", problem));
        }
        self.check_sizes()
    }

    fn check_sizes(&self) -> Result<()> {
        let parts = u32::try_from(self.conv_sizes.len())
            .ok()
            .and_then(|blocks| 2_usize.checked_pow(blocks));
        let divides =
            |side: &usize| parts.is_some_and(|parts| *side > 0 && side.is_multiple_of(parts));
        if !self.image_size.iter().all(divides) {
            let blocks = self.conv_sizes.len();
            let problem = format!(
                "is {:?}; {blocks} blocks halve both sides, so 2^{blocks} must divide them",
                self.image_size
            );
            return Err(Error::config("image_size", problem));
        }
        let weights = self.weights().filter(|count| *count <= MAX_WEIGHTS);
        match weights {
            Some(_) => Ok(()),
            None => Err(Error::config(
                "conv_sizes, hidden_sizes",
                format!("make more than {MAX_WEIGHTS} weights; make the model smaller"),
            )),
        }
    }

    /// Values of the last block, channel by channel.
    pub(super) fn flat(&self) -> Option<usize> {
        let shrink = 1_usize.checked_shl(u32::try_from(self.conv_sizes.len()).ok()?)?;
        let [height, width] = self.image_size.map(|side| side / shrink);
        let channels = self.conv_sizes.last().copied()?;
        channels.checked_mul(height)?.checked_mul(width)
    }

    /// Number of weights, unless it overflows.
    fn weights(&self) -> Option<usize> {
        let mut total = 0_usize;
        let mut inputs = self.num_channels;
        for outputs in &self.conv_sizes {
            let kernel = inputs.checked_mul(9)?.checked_add(3)?;
            total = total.checked_add(kernel.checked_mul(*outputs)?)?;
            inputs = *outputs;
        }
        inputs = self.flat()?;
        for outputs in self.hidden_sizes.iter().chain([&self.num_labels]) {
            let layer = inputs.checked_add(1)?.checked_mul(*outputs)?;
            total = total.checked_add(layer)?;
            inputs = *outputs;
        }
        Some(total)
    }
}
