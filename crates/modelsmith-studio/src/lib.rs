//! The studio: a local page that lists, watches, starts, stops and compares runs.
//!
//! [`Studio::bind`] takes the port, [`Studio::serve`] answers until the process ends. What comes in
//! passes `guard` (who may ask), then `routes` (what is asked), then one file per subject. Training
//! never happens in this process: `jobs` starts the program again, so a run outlives the studio.

mod answer;
mod assets;
mod catalogue;
mod compare;
mod folders;
mod generate;
mod guard;
mod jobs;
mod live;
mod metrics;
mod routes;
mod secret;
mod server;
mod start;

pub use server::{Limits, Options, Studio};
