//! What a residual network for small images is, as its `config.json` says it, or as the names of its weights do.

use modelsmith_core::error::{Error, Result};
use modelsmith_core::files::Checkpoint;
use serde::{Deserialize, Serialize};

/// `model_type` of these networks.
pub(super) const MODEL_TYPE: &str = "cifar_resnet";

/// Their class.
pub(super) const ARCHITECTURE: &str = "CifarResNetForImageClassification";

/// Blocks of a stage at most.
const MAX_BLOCKS: usize = 1000;

/// The residual networks that He et al. (arXiv 1512.03385, section 4.2) made for CIFAR-10, with shortcuts that have no
/// weights: three stages of 16, 32 and 64 channels, `6 blocks + 2` layers deep.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct ResNetConfig {
    /// `cifar_resnet`.
    pub model_type: String,
    /// `CifarResNetForImageClassification`.
    pub architectures: Vec<String>,
    /// Height and width of the images.
    pub image_size: [usize; 2],
    /// Channels of the images.
    pub num_channels: usize,
    /// Blocks of each stage: 3, 5, 7, 9 for 20, 32, 44, 56 layers.
    pub num_blocks: usize,
    /// Number of classes.
    pub num_labels: usize,
    /// Type of the stored weights.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub torch_dtype: Option<String>,
}

impl Default for ResNetConfig {
    fn default() -> Self {
        Self {
            model_type: MODEL_TYPE.into(),
            architectures: vec![ARCHITECTURE.into()],
            image_size: [32, 32],
            num_channels: 3,
            num_blocks: 3,
            num_labels: 10,
            torch_dtype: None,
        }
    }
}

impl ResNetConfig {
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
        if !(1..=MAX_BLOCKS).contains(&self.num_blocks) {
            let problem = format!("is {}; must be 1 to {MAX_BLOCKS}", self.num_blocks);
            return Err(Error::config("num_blocks", problem));
        }
        if self.num_channels == 0 || self.num_labels == 0 {
            let problem = "hold 0; must be at least 1";
            return Err(Error::config("num_channels, num_labels", problem));
        }
        let fits = |side: &usize| *side > 0 && side.is_multiple_of(4);
        match self.image_size.iter().all(fits) {
            true => Ok(()),
            false => {
                let problem = format!("is {:?}; 4 must divide both sides", self.image_size);
                Err(Error::config("image_size", problem))
            }
        }
    }

    /// Reads the sizes off the weights of a checkpoint without a configuration; images are of 32 by 32 pixels, as these
    /// weights do not say.
    ///
    /// # Errors
    /// Names or shapes that are not those of such a network.
    pub fn of_weights(checkpoint: &Checkpoint) -> Result<Self> {
        let number = |name: &str| {
            let rest = name.strip_prefix("layer1.")?;
            rest.split('.').next()?.parse::<usize>().ok()
        };
        let blocks = checkpoint.names().filter_map(number).max();
        let shapes = [
            &checkpoint.info("conv1.weight")?.shape,
            &checkpoint.info("linear.weight")?.shape,
        ];
        let (Some(last), [_, channels, ..], [classes, _]) =
            (blocks, shapes[0].as_slice(), shapes[1].as_slice())
        else {
            let problem = format!(
                "has conv1.weight of {:?} and linear.weight of {:?}; expected a residual network with layer1.0, layer2.0 and layer3.0",
                shapes[0], shapes[1]
            );
            return Err(Error::file(checkpoint.path(), problem));
        };
        Ok(Self {
            num_channels: *channels,
            num_blocks: last.saturating_add(1),
            num_labels: *classes,
            ..Self::default()
        })
    }
}
