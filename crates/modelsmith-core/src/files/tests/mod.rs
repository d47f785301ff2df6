//! Contracts across the module: hostile files, round trips, failures at every operation.
mod checkpoints;
mod faults;
mod headers;
mod round_trip;
