//! Deltas: what lies between two checkpoints, edited, compressed, and merged (card 16).
//!
//! ```text
//! ΔW = W_post - W_pre        ΔŴ = F(ΔW)        W_edit = W_pre + ΔŴ
//! ```
//!
//! An operator F ([`Operator`], a row each in [`TABLE`]) changes the difference of one tensor in `f32`; several may follow
//! each other, and the last one says how the result is best stored ([`Encoded`]). Merging several checkpoints is in
//! [`merge`], measuring what an edit does to a loss in [`riemann`].
//!
//! Masks are drawn by the number of the entry under (seed, tensor name), so they depend neither on the order of tensors nor
//! on how a tensor is cut up, nor on threads.

mod bitdelta;
mod drop;
mod encoded;
mod low_rank;
mod magnitude;
mod magprune;
pub mod merge;
pub mod riemann;
mod scale;
pub mod select;
mod sums;
pub mod ties;
mod wide;

pub use bitdelta::{BitDelta, Magnitudes};
pub use drop::{Bias, Dare, Drop};
pub use encoded::Encoded;
pub use low_rank::LowRank;
pub use magnitude::Magnitude;
pub use magprune::{Della, keep_probabilities};
#[doc(hidden)]
pub use pulp::Arch;
pub use scale::{Choice, Scale, choose_alpha};
#[doc(hidden)]
pub use wide::Once;

use modelsmith_core::Result;
use modelsmith_core::error::Error;
use modelsmith_core::method::{Entry, Method, defaults_of, read_options, schema_of};
use modelsmith_core::random::Counter;
use serde_json::Value;

/// All operators, in the order of listings.
pub const TABLE: &[Entry<dyn Operator>] = &[
    row::<Drop>(),
    row::<Dare>(),
    row::<Magnitude>(),
    row::<Della>(),
    row::<BitDelta>(),
    row::<LowRank>(),
    row::<Scale>(),
];

/// What an operator knows of a tensor beside its values.
#[derive(Clone, Copy, Debug)]
pub struct Place<'a> {
    /// Name in the checkpoint; keys the random draws.
    pub name: &'a str,
    /// Dimensions, outermost first.
    pub shape: &'a [usize],
    /// Seed of the random draws.
    pub seed: u64,
    /// Gradient of the loss at the post-trained weights, for masks that depend on it.
    pub gradient: Option<&'a [f32]>,
}

impl<'a> Place<'a> {
    /// A tensor without a gradient.
    pub fn new(name: &'a str, shape: &'a [usize], seed: u64) -> Self {
        Self {
            name,
            shape,
            seed,
            gradient: None,
        }
    }

    /// Rows and columns: the first dimension against all others; a vector is one row.
    pub fn matrix(&self) -> (usize, usize) {
        match self.shape {
            [] => (1, 1),
            [length] => (1, *length),
            [rows, rest @ ..] => (*rows, rest.iter().product()),
        }
    }

    /// Whether this is a matrix or a convolution's kernel inside a block: neither vector nor embedding nor output head,
    /// by the usual names.
    pub fn is_projection(&self) -> bool {
        const ENDS: [&str; 9] = [
            "embed",
            "lm_head",
            "wte",
            "wpe",
            "shared",
            "embd",
            "score",
            "classifier",
            "output.weight",
        ];
        matches!(self.shape.len(), 2 | 4) && !ENDS.iter().any(|part| self.name.contains(part))
    }

    /// The random words of this tensor.
    pub fn words(&self) -> Counter {
        Counter::new(self.seed, self.name)
    }
}

/// An editor of differences, with its options.
pub trait Operator: Send + Sync {
    /// Refuses values out of range.
    ///
    /// # Errors
    /// The key, what was found, what was expected.
    fn check(&self) -> Result<()>;

    /// Whether it has a say about this tensor; others keep their difference whole.
    fn wants(&self, place: &Place<'_>) -> bool {
        let _ = place;
        true
    }

    /// Changes the difference of one tensor, row-major, in place.
    ///
    /// # Errors
    /// A gradient that is needed and absent, or a decomposition that fails.
    fn apply(&self, place: &Place<'_>, delta: &mut [f32]) -> Result<()>;

    /// Changes the difference and gives it in the form in which it is small.
    ///
    /// # Errors
    /// As [`apply`](Self::apply).
    fn encode(&self, place: &Place<'_>, mut delta: Vec<f32>) -> Result<Encoded> {
        self.apply(place, &mut delta)?;
        Ok(Encoded::dense_or_sparse(delta))
    }

    /// The options as written, for records.
    fn options(&self) -> Value;
}

/// The difference of one tensor after those of the operators that want it, one after the other; the last of them says
/// how it is stored. `None` where none wants it.
///
/// # Errors
/// As [`Operator::apply`].
pub fn chain(
    operators: &[&dyn Operator],
    place: &Place<'_>,
    delta: &[f32],
) -> Result<Option<Encoded>> {
    let wanting = operators.iter().filter(|operator| operator.wants(place));
    let wanting: Vec<_> = wanting.collect();
    let Some((last, first)) = wanting.split_last() else {
        return Ok(None);
    };
    let mut edited = delta.to_vec();
    for operator in first {
        operator.apply(place, &mut edited)?;
    }
    last.encode(place, edited).map(Some)
}

/// A value that must be finite and within bounds.
///
/// # Errors
/// The key, the value and the bounds.
pub(crate) fn within(key: &str, value: f64, low: f64, high: f64) -> Result<()> {
    if (low..=high).contains(&value) {
        return Ok(());
    }
    Err(Error::config(
        key,
        format!("is {value}; must be {low} to {high}"),
    ))
}

const fn row<C: Method + Operator + 'static>() -> Entry<dyn Operator> {
    Entry::new(C::CARD, schema_of::<C>, defaults_of::<C>, read::<C>)
}

fn read<C: Method + Operator + 'static>(value: &Value) -> Result<Box<dyn Operator>> {
    let options = read_options::<C>(value)?;
    options.check()?;
    Ok(Box::new(options))
}

#[cfg(test)]
mod tests;
