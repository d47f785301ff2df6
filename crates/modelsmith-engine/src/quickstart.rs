//! The main job in one command: a house model that knows its people learns to answer questions
//! about them, and what it gained, kept and cost is measured.

use crate::adapter_folder;
use crate::device::device;
use crate::house::{self, Recall};
use crate::recipe::{Named, Recipe};
use crate::samples::{self, Sample};
use crate::signals::Stop;
use crate::train::Observer;
use crate::tune::{self, Summary};
use modelsmith_core::error::{Error, Result};
use modelsmith_core::hooks::Hooks;
use modelsmith_data::Tokenizer;
use modelsmith_data::house::{facts, questions};
use serde::Serialize;
use serde_json::json;
use std::path::{Path, PathBuf};

/// What is asked of the quickstart.
#[derive(Clone, Debug)]
pub struct Quickstart {
    /// Folder of the house model.
    pub model: PathBuf,
    /// Folder that holds the run folders.
    pub output: PathBuf,
    /// Name of the run folder; empty makes one.
    pub name: String,
    /// Device by name.
    pub device: String,
    /// Passes over the questions.
    pub epochs: u64,
}

/// What the quickstart found.
#[derive(Clone, Debug, Serialize)]
pub struct QuickstartReport {
    /// The training run.
    pub summary: Summary,
    /// Questions about people that training never saw, answered exactly, before.
    pub questions_before: Recall,
    /// The same after.
    pub questions_after: Recall,
    /// Facts completed in their original wording, before.
    pub facts_before: Recall,
    /// The same after.
    pub facts_after: Recall,
    /// Some held-out questions with both answers.
    pub samples: Vec<Sample>,
}

/// Tunes the house model on questions about four fifths of its people and asks about the rest.
///
/// # Errors
/// The house model is not there, or what [`tune::run`] refuses.
pub fn run(
    options: &Quickstart,
    stop: &Stop,
    observer: &mut dyn Observer,
) -> Result<QuickstartReport> {
    if !options.model.join("house.json").is_file() {
        return Err(Error::Usage(format!(
            "{} holds no house model; run the quickstart from the root of the repository, or name its folder with --model",
            options.model.display()
        )));
    }
    let config = house::config_of(&options.model)?;
    let world = facts(&config)?;
    let (_, held_out) = questions(&config)?;
    let device = device(&options.device)?;
    let tokenizer = Tokenizer::load(&options.model)?;
    let base = modelsmith_hosts::load(&options.model, &device)?;
    let asked: Vec<(String, String)> = held_out
        .iter()
        .map(|question| (question.prompt.clone(), question.completion.clone()))
        .collect();
    let know = |hooks: &[&dyn Hooks]| {
        let answers = house::completions(&base, &tokenizer, &asked, hooks, &device)?;
        let recalled = house::recall(&base, &tokenizer, &world, hooks, &device)?;
        Ok::<_, Error>((answers, recalled))
    };
    let (questions_before, facts_before) = know(&[])?;
    let files = modelsmith_data::house::write(&config, &options.output.join("house-data"))?;
    let recipe = recipe(options, &files.questions, &files.held_out)?;
    let summary = tune::run(recipe, stop, observer)?;
    let adapter = adapter_folder::read(&summary.artifact, &base, false)?;
    let (questions_after, facts_after) = know(&[adapter.hooks()])?;
    let samples = samples::read(&summary.run)?;
    let report = QuickstartReport {
        questions_before,
        questions_after,
        facts_before,
        facts_after,
        samples: samples.map(|found| found.rows).unwrap_or_default(),
        summary,
    };
    let path = report.summary.run.join("quickstart.json");
    modelsmith_core::files::atomic_json(path, &report)?;
    // The run wrote its report before the questions were asked again.
    crate::report::write(&report.summary.run)?;
    Ok(report)
}

fn recipe(options: &Quickstart, train: &Path, held_out: &Path) -> Result<Recipe> {
    let mut recipe = Recipe::from_value(
        json!({
            "description": "quickstart: the house model learns to answer questions",
            "host": {"path": options.model},
            "data": {"path": train, "held_out_path": held_out, "batch_size": 16},
            "train": {"epochs": options.epochs, "learning_rate": 3e-3, "warmup_ratio": 0.05},
            "output": {"dir": options.output, "name": options.name, "samples": 5},
            "seed": 1,
            "device": options.device,
        }),
        &[],
    )?;
    recipe.method = Named::new("lora");
    let lora = [
        ("rank", json!(8)),
        ("alpha", json!(16.0)),
        ("target_modules", json!("all-linear")),
    ];
    for (key, value) in lora {
        recipe.method.options.insert(key.to_owned(), value);
    }
    Ok(recipe)
}
