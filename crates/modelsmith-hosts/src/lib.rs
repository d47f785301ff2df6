//! Modelsmith's hosts: pretrained networks loaded by their Hugging Face names, whose every layer
//! is a site that hooks can read and change.
//!
//! [`load`] reads a model folder, [`random`] starts a fresh model, [`save`] writes one out again,
//! [`describe`] lists what is in it. [`ConvNet`] and [`ResNet`] are hosts
//! of images.

mod conv;
mod image;
mod inspect;
mod resnet;
mod save;
mod transformer;

pub use conv::{ConvNet, ConvNetConfig};
pub use inspect::{Inspection, MemoryEstimate, SiteEntry, describe};
pub use resnet::{ResNet, ResNetConfig};
pub use save::{SIDE_FILES, save};
pub use transformer::{
    Head, KvCache, LoadOptions, OutputMatrix, Stages, Task, TokenInput, Transformer, load,
    load_with, random,
};
