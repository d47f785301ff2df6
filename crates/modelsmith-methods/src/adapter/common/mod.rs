//! What do the adapters share? The low-rank pair and its factorizations, trained copies of host
//! weights, PEFT's file form, and the weighted combination of saved adapters.

pub(crate) mod attached;
pub(crate) mod beside;
pub mod combine;
pub(crate) mod copies;
pub(crate) mod factor;
pub(crate) mod lora_check;
pub(crate) mod lora_config;
pub(crate) mod lora_init;
pub(crate) mod lora_tensors;
pub(crate) mod low_rank;
pub(crate) mod pair;
pub(crate) mod peft;
pub(crate) mod range;
pub(crate) mod trained;
pub(crate) mod weights;
