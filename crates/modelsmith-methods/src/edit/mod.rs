//! Edits: facts written into the weights of a frozen language model. A file each, a row each in
//! [`TABLE`].
//!
//! A method that locates and edits is a closed form: the engine searches for what the model should
//! compute at the subject of every fact ([`Search`]), reads the keys there, and asks the method for the change of one
//! weight matrix ([`ClosedForm::solve`]). Fine-tuning of one matrix is the other way ([`FineTune`]).

mod alphaedit;
mod emmet;
mod fine_tuning;
pub mod grace;
mod layers;
mod linear;
mod memit;
mod problem;
mod rome;
mod search;
pub mod surgery;

pub use alphaedit::AlphaEdit;
pub use emmet::Emmet;
pub use fine_tuning::{FineTune, Ft, FtEwc, FtL, FtRetrain, LoraEdit};
pub use layers::Layers;
pub use linear::{Moment, product};
pub use memit::{Encore, Memit, Pmet, Units};
pub use problem::{Keys, Problem, Update};
pub use rome::{CRome, PRome, RRome, Rome};
pub use search::{Contexts, Hits, Lookup, Reference, Search};

use crate::saved::FromPeft;
use modelsmith_core::Result;
use modelsmith_core::method::{Entry, Method, defaults_of, read_options, schema_of};
use serde_json::Value;

/// All editors, in the order of listings.
pub const TABLE: &[Entry<dyn Edit>] = &[
    row::<Encore>(),
    row::<Memit>(),
    row::<AlphaEdit>(),
    row::<Emmet>(),
    row::<Pmet>(),
    row::<Rome>(),
    row::<CRome>(),
    row::<RRome>(),
    row::<PRome>(),
    row::<Ft>(),
    row::<FtL>(),
    row::<FtEwc>(),
    row::<FtRetrain>(),
    row::<LoraEdit>(),
];

/// The method that reads each `peft_type`: editors that leave the weights as they are.
pub const PEFT: &[(&str, FromPeft)] = &[("GRACE", grace::from_peft)];

/// An editor's options.
pub trait Edit: Send + Sync {
    /// How it edits.
    fn way(&self) -> Way<'_>;

    /// Refuses values out of range.
    ///
    /// # Errors
    /// The key, what was found, what was expected.
    fn check(&self) -> Result<()>;

    /// The options as written, for records.
    fn options(&self) -> Value;
}

/// The ways in which a fact gets into the weights.
pub enum Way<'a> {
    /// One update per layer from keys and residuals.
    ClosedForm(&'a dyn ClosedForm),
    /// Gradient steps on one matrix.
    FineTune(&'a FineTune),
}

/// A method that computes the change of a layer from keys and residuals.
pub trait ClosedForm: Send + Sync {
    /// What the engine does around the updates.
    fn plan(&self) -> Plan<'_>;

    /// The change of one layer's weight.
    ///
    /// # Errors
    /// Matrices that cannot be solved with: a singular moment, a denominator of 0.
    fn solve(&self, problem: &Problem<'_>) -> Result<Update>;
}

/// What surrounds a closed form.
#[derive(Clone, Debug)]
pub struct Plan<'a> {
    /// The MLPs that are edited, first to last.
    pub layers: &'a Layers,
    /// Wordings in front of each prompt.
    pub contexts: Contexts,
    /// The token of the prompt at which facts are looked up.
    pub lookup: Lookup,
    /// The search for target activations.
    pub search: &'a Search,
    /// What the search's norms refer to.
    pub reference: Reference,
    /// How a residual is shared among the layers that are left.
    pub spread: Spread,
    /// One fact at a time.
    pub single: bool,
    /// Whether the second moment of the keys is needed.
    pub moment: bool,
    /// Whether keys of earlier batches are remembered.
    pub memory: Memory,
}

/// The part of the residual that a layer takes where `left` layers, itself among them, are to come.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Spread {
    /// `residual / left`.
    Even,
    /// `residual / √left` (PMET).
    Root,
}

impl Spread {
    /// The divisor.
    pub fn divisor(self, left: usize) -> f64 {
        match self {
            Self::Even => left as f64,
            Self::Root => (left as f64).sqrt(),
        }
    }
}

/// Which keys of earlier batches take part in later ones.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Memory {
    /// None.
    None,
    /// Those that the update was computed from.
    Solved,
    /// Those that the model has after the whole batch was written (AlphaEdit as first published).
    Edited,
}

const fn row<C: Method + Edit + 'static>() -> Entry<dyn Edit> {
    Entry::new(C::CARD, schema_of::<C>, defaults_of::<C>, read::<C>)
}

fn read<C: Method + Edit + 'static>(value: &Value) -> Result<Box<dyn Edit>> {
    let options = read_options::<C>(value)?;
    options.check()?;
    Ok(Box::new(options))
}
