//! Training an adapter on a frozen host: the loop, and all that a step depends on.

mod checkpoint;
mod config;
mod evaluate;
mod events;
mod loss;
mod rematerialise;
mod schedule;
mod step;
mod trainer;

pub(crate) use checkpoint::hash_file;
pub use checkpoint::{Best, Checkpoint, TrainerState};
pub use config::{ParameterGroup, TrainConfig};
pub use evaluate::{Evaluation, evaluate};
pub use events::{Event, Observer, Silent};
pub(crate) use loss::input_of;
pub use loss::{Masking, Prepared, loss_of_hidden, loss_sum, outputs, prepare};
pub use schedule::Schedule;
pub(crate) use step::update;
pub use step::{Groups, StepReport, Stepper, clip_factor, global_norm};
pub use trainer::{Outcome, Trainer, total_steps};
