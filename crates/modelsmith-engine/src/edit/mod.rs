//! Editing facts: from statements to a change of weights.
//!
//! For a batch of facts the engine searches the activation that makes each target the answer
//! (`search`), then goes through the layers of the editor: it reads keys and outputs at the lookup
//! tokens (`rows`), asks the method for the change, and writes it (`batch`).

mod answers;
mod batch;
mod change;
#[cfg(test)]
mod collapse;
mod contexts;
mod curve;
mod editor;
mod export;
mod facts;
mod fine_tune;
mod folder;
mod gate;
mod grace;
mod guard;
mod listing;
pub mod measure;
mod mend;
mod mlps;
mod moments;
#[cfg(test)]
mod parity;
mod ranges;
mod requests;
pub mod rit;
mod rows;
mod search;
mod session;
mod span;
mod stream;
pub mod surgery;
mod trace;

pub use curve::{Curve, CurveOptions, Point, SCORES, curve_table, curves};
pub use editor::{Editor, Figures, Step};
pub use export::{ExportOptions, Exported, export};
pub use facts::Statement;
pub use folder::{EditFolder, Entry, Header};
pub use gate::{Gate, GateConfig, GateEditor, GateKind};
pub use grace::{GraceEditor, GraceStep};
pub use guard::{Action, Guard};
pub use listing::{Listing, listing, undo};
pub use mend::{MendConfig, MendEditor};
pub use requests::{requests, writes_one};
pub use session::{EditOptions, Made, Report, edited, read_texts, run, tokens};
pub(crate) use stream::is_right;
pub use stream::{StreamOptions, Streamed, stream};
pub use trace::{Effects, PLACES, Trace, TraceOptions, trace, trace_file};
