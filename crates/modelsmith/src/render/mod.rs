//! How results look: numbers, tables, progress, errors.

mod adapters;
mod claim;
mod codebook;
mod costs;
mod deltas;
mod edits;
mod evaluation;
mod inspection;
mod methods;
mod output;
mod plan;
mod progress;
mod quickstart;
mod roofline;
mod runs;
mod summary;
mod table;

pub(crate) use adapters::{adapter, convert, merge};
pub(crate) use claim::claim;
pub(crate) use codebook::grace;
pub(crate) use costs::costs;
pub(crate) use deltas::{delta_apply, delta_diff, delta_extract, delta_merge, delta_show};
pub(crate) use edits::{batch, curves, edit_export, edit_listing, edits, streamed, trace};
pub(crate) use evaluation::evaluation;
pub(crate) use inspection::inspection;
pub(crate) use methods::{method, methods};
pub(crate) use modelsmith_engine::numbers::{
    bytes, count, decimal, seconds, shape, share, sparkline,
};
pub(crate) use output::Output;
pub(crate) use plan::plan;
pub(crate) use progress::Progress;
pub(crate) use quickstart::quickstart;
pub(crate) use roofline::roofline;
pub(crate) use runs::{comparison, run, runs};
pub(crate) use summary::summary;
pub(crate) use table::{Align, Table};

use modelsmith_engine::Error;

/// An error as one paragraph, with a hint where there is a command that helps.
pub(crate) fn error(error: &Error) -> String {
    let head = "\x1b[1;31merror:\x1b[0m";
    match hint(error) {
        Some(hint) => format!("{head} {error}\n\x1b[1mhint:\x1b[0m {hint}"),
        None => format!("{head} {error}"),
    }
}

fn hint(error: &Error) -> Option<&'static str> {
    let Error::Config { key, .. } = error else {
        return None;
    };
    let table = key.split('.').next().unwrap_or_default();
    match table {
        "method" if key == "method.name" => Some("`modelsmith methods` lists what is there"),
        "method" => Some("`modelsmith methods NAME` lists the options of a method"),
        "target_modules" | "exclude_modules" => {
            Some("`modelsmith inspect MODEL --sites PATTERN` shows what a pattern matches")
        }
        "data" | "train" | "host" | "output" | "seed" => {
            Some("`modelsmith schema` describes every key of a recipe")
        }
        _ => None,
    }
}
