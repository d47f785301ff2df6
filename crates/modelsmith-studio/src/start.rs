//! A run from a form: the recipe is checked, written, and given to a new process.

use crate::answer::{Answer, Refusal};
use crate::folders;
use crate::server::Shared;
use axum::http::StatusCode;
use modelsmith_core::error::{Error, Result};
use modelsmith_core::files::{atomic_bytes, safe_name};
use modelsmith_engine::{Recipe, registry};
use serde::Deserialize;
use serde_json::Value;
use std::ffi::OsStr;
use std::path::{Path, PathBuf};

/// What the form sends.
#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub(crate) struct Start {
    /// Name of the run folder; empty makes one of the method's name.
    #[serde(default)]
    name: String,
    /// The recipe, without `output`: runs go where this studio looks.
    recipe: Value,
}

/// Starts a run; returns its name.
///
/// # Errors
/// A recipe that a run would refuse, a name that is taken, a program that cannot be started.
pub(crate) fn start(shared: &Shared, wanted: Start) -> Answer<String> {
    if wanted.recipe.get("output").is_some() {
        let problem = "is set by the studio; leave it out and give `name` beside the recipe";
        return Err(Error::config("recipe.output", problem).into());
    }
    let mut recipe = Recipe::from_value(wanted.recipe, &[])?;
    check(&mut recipe)?;
    let name = if wanted.name.is_empty() {
        free_name(shared, &recipe.method.name)?
    } else {
        safe_name("run", &wanted.name)?.to_owned()
    };
    if folders::status(shared, &name)?.is_some() {
        let reason = format!("there is a run {name} already; choose another name");
        return Err(Refusal::new(StatusCode::CONFLICT, reason));
    }
    recipe.output.dir = shared.runs.clone();
    recipe.output.name = name.clone();
    let text = recipe.to_toml()?;
    let file = shared.jobs.recipe(&name);
    let words = [OsStr::new("run"), file.as_os_str()];
    shared
        .jobs
        .start(&name, &words, || atomic_bytes(&file, text.as_bytes()))?;
    Ok(name)
}

/// What can be told in a moment; the rest the process finds and writes to its log.
fn check(recipe: &mut Recipe) -> Result<()> {
    registry::adapter_method(&recipe.method)?;
    registry::optimizer_method(&recipe.train.optimizer)?;
    recipe.train.check()?;
    match &mut recipe.host.fresh {
        Some(fresh) => resolve("host.fresh", fresh)?,
        None => resolve("host.path", &mut recipe.host.path)?,
    }
    resolve("data.path", &mut recipe.data.path)?;
    if let Some(path) = &mut recipe.data.held_out_path {
        resolve("data.held_out_path", path)?;
    }
    Ok(())
}

/// Makes a path whole, so that it means the same wherever the run is resumed.
fn resolve(key: &str, path: &mut PathBuf) -> Result<()> {
    if path.as_os_str().is_empty() {
        return Err(Error::config(
            key,
            "is empty; give a path on the studio's machine",
        ));
    }
    let missing = |error| Error::config(key, format!("{}: {error}", path.display()));
    *path = Path::new(&*path).canonicalize().map_err(missing)?;
    Ok(())
}

fn free_name(shared: &Shared, method: &str) -> Result<String> {
    for number in 1_u64.. {
        let name = format!("{method}-{number}");
        let is_free = !folders::folder(&shared.runs, &name)?.exists();
        if is_free && folders::status(shared, &name)?.is_none() {
            return Ok(name);
        }
    }
    Err(Error::Failed("no name is free".into()))
}
