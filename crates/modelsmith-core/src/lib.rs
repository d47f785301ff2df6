//! Modelsmith's shared words as types.
//!
//! This leaf crate names what hosts, methods and drivers share and implements none of them:
//! [`sites`] and [`hooks`] (where and how a network is changed), [`layers`] and [`mask`] (what a host
//! is built of), [`host`], [`method`] and [`roles`] (what each side offers), [`parameters`], [`files`],
//! [`random`] and [`error`].

pub mod capture;
pub mod error;
pub mod files;
pub mod hooks;
pub mod host;
pub mod layers;
pub mod mask;
pub mod method;
pub mod mixed;
pub mod parameters;
pub mod random;
pub mod roles;
pub mod sites;
pub mod weights;

pub use error::{Error, Result};
