//! Parts that the methods of this family share.

pub(super) mod peft;
pub(super) mod produced;
pub(super) mod start;
