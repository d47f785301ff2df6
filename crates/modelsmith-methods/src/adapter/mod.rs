//! Which methods attach trained state to a frozen host?
//!
//! [`TABLE`] lists them in the order of `modelsmith methods`; [`PEFT`] says which of them reads an
//! `adapter_config.json` of a given `peft_type`. A new method is its file, its `mod` line, its row
//! in the table and, where it has a file form of its own, its row in [`PEFT`].

mod adalora;
mod bitfit;
mod bottleneck;
pub mod common;
mod full;
mod ia3;
mod linear_probe;
mod lora;
mod moelora;

#[cfg(test)]
mod parity;
#[cfg(test)]
mod tests;

pub use adalora::{AdaLoraConfig, Score};
pub use bitfit::BitFitConfig;
pub use bottleneck::BottleneckConfig;
pub use common::beside::Bias;
pub use full::FullConfig;
pub use ia3::Ia3Config;
pub use linear_probe::LinearProbeConfig;
pub use lora::{Init, LoraConfig};
pub use moelora::MoeLoraConfig;

use crate::saved::FromPeft;
use modelsmith_core::error::Result;
use modelsmith_core::method::{Card, Entry, Method, read_options, schema_of};
use modelsmith_core::roles::Adapt;
use serde_json::Value;

/// The family's methods and presets.
pub const TABLE: &[Entry<dyn Adapt>] = &[
    row::<LoraConfig>(LoraConfig::CARD, lora::defaults),
    row::<LoraConfig>(lora::RSLORA, lora::rslora),
    row::<LoraConfig>(lora::DORA, lora::dora),
    row::<LoraConfig>(lora::PISSA, lora::pissa),
    row::<LoraConfig>(lora::OLORA, lora::olora),
    row::<AdaLoraConfig>(AdaLoraConfig::CARD, adalora::defaults),
    row::<AdaLoraConfig>(adalora::SVD_LORA, adalora::svd_lora),
    row::<MoeLoraConfig>(MoeLoraConfig::CARD, moelora::defaults),
    row::<Ia3Config>(Ia3Config::CARD, ia3::defaults),
    row::<BottleneckConfig>(BottleneckConfig::CARD, bottleneck::defaults),
    row::<BottleneckConfig>(bottleneck::PFEIFFER, bottleneck::pfeiffer),
    row::<BottleneckConfig>(bottleneck::PARALLEL, bottleneck::parallel),
    row::<BitFitConfig>(BitFitConfig::CARD, bitfit::defaults),
    row::<FullConfig>(FullConfig::CARD, full::defaults),
    row::<LinearProbeConfig>(LinearProbeConfig::CARD, linear_probe::defaults),
];

/// The method that reads each `peft_type`. Types that PEFT does not know are ids in upper case.
pub const PEFT: &[(&str, FromPeft)] = &[
    ("LORA", lora::from_peft),
    ("ADALORA", adalora::from_peft),
    ("MOELORA", moelora::from_peft),
    ("IA3", ia3::from_peft),
    ("BOTTLENECK", bottleneck::from_peft),
    ("BITFIT", bitfit::from_peft),
    ("FULL", full::from_peft),
    ("LINEAR_PROBE", linear_probe::from_peft),
];

const fn row<C: Method + Adapt + 'static>(card: Card, defaults: fn() -> Value) -> Entry<dyn Adapt> {
    Entry::new(card, schema_of::<C>, defaults, read::<C>)
}

fn read<C: Method + Adapt + 'static>(options: &Value) -> Result<Box<dyn Adapt>> {
    Ok(Box::new(read_options::<C>(options)?))
}
