//! Claims by number: read, run, judged, written down.

use super::arms::Bench;
use super::bootstrap::DRAWS;
use super::document::document;
use super::file::{Claim, Tier, read_all};
use super::fragment::Places;
use super::report::ClaimReport;
use super::verdict::{Verdict, overall};
use super::{experiment, surroundings};
use crate::signals::Stop;
use modelsmith_core::error::{Error, Result};
use modelsmith_core::files::{atomic_bytes, atomic_json, read_json};
use std::path::{Path, PathBuf};
use std::time::Instant;

/// Which claims.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Which {
    /// Every one in the folder.
    All,
    /// Those of some cards.
    Cards(Vec<u32>),
}

/// What is asked of a reproduction.
#[derive(Clone, Debug)]
pub struct ReproduceOptions {
    /// Which claims.
    pub which: Which,
    /// Folder of the claim files.
    pub claims: PathBuf,
    /// Seeds 1 to this, in place of what the claim's tier says.
    pub seeds: Option<u64>,
    /// How much is spent.
    pub tier: Tier,
    /// Folder for the runs: `NAME/runs/` and `NAME/TIER/claim.json` in it.
    pub output: PathBuf,
    /// Folder with `CLAIMS.md` and `claims/`, which the full tier writes.
    pub docs: PathBuf,
    /// Device by name.
    pub device: String,
}

/// Runs claims and writes down what was found. Runs that are finished are not made again, so an
/// interrupted reproduction goes on where it was.
///
/// # Errors
/// No such claim, a malformed one, and whatever its runs refuse.
pub fn reproduce(
    options: &ReproduceOptions,
    stop: &Stop,
    say: &mut dyn FnMut(&str),
) -> Result<Vec<ClaimReport>> {
    if options.seeds == Some(0) {
        return Err(Error::config("seeds", "is 0; must be at least 1"));
    }
    let mut reports = Vec::new();
    for claim in chosen(options)? {
        let report = one(&claim, options, stop, say)?;
        let folder = options.output.join(&claim.name).join(options.tier.name());
        std::fs::create_dir_all(&folder).map_err(|error| Error::io(&folder, error))?;
        atomic_json(folder.join("claim.json"), &report)?;
        // A claim without data keeps what was recorded where there was some.
        if options.tier == Tier::Full && report.verdict != Verdict::Skipped {
            record(&options.docs, &report)?;
        }
        reports.push(report);
    }
    Ok(reports)
}

fn chosen(options: &ReproduceOptions) -> Result<Vec<Claim>> {
    let all = read_all(&options.claims)?;
    let Which::Cards(numbers) = &options.which else {
        return Ok(all);
    };
    let known: Vec<String> = all.iter().map(|claim| claim.card.to_string()).collect();
    let absent = |number: &&u32| !all.iter().any(|claim| claim.card == **number);
    if let Some(number) = numbers.iter().find(absent) {
        return Err(Error::Usage(format!(
            "card {number} has no claim in {}; cards with one: {}",
            options.claims.display(),
            known.join(", ")
        )));
    }
    let chosen = all
        .into_iter()
        .filter(|claim| numbers.contains(&claim.card));
    Ok(chosen.collect())
}

fn one(
    claim: &Claim,
    options: &ReproduceOptions,
    stop: &Stop,
    say: &mut dyn FnMut(&str),
) -> Result<ClaimReport> {
    let started = Instant::now();
    let mut hardware = surroundings::hardware(&options.device);
    let folder = options.output.join(&claim.name);
    let mut experiments = Vec::new();
    for experiment in &claim.experiment {
        let mut bench = Bench {
            experiment,
            tier: options.tier,
            runs: folder.join("runs"),
            places: Places {
                data: folder.join("data").join(&experiment.id),
                ..Places::default()
            },
            device: options.device.clone(),
            stop,
            say: &mut *say,
        };
        let seeds = options
            .seeds
            .unwrap_or(experiment.budget(options.tier).seeds);
        experiments.push(experiment::run(&mut bench, seeds, &claim.name)?);
    }
    let verdicts = experiments
        .iter()
        .flat_map(|one| &one.comparisons)
        .map(|one| one.verdict);
    let verdict = overall(verdicts);
    if let (Some(before), Some(after)) = (hardware.load, surroundings::load()) {
        hardware.load = Some(f64::midpoint(before, after));
    }
    Ok(ClaimReport {
        name: claim.name.clone(),
        card: claim.card,
        title: claim.title.clone(),
        statement: claim.statement.clone(),
        source: claim.source.clone(),
        paper: claim.paper.clone(),
        tier: options.tier,
        date: surroundings::today(),
        version: env!("CARGO_PKG_VERSION").to_owned(),
        hardware,
        seconds: started.elapsed().as_secs_f64(),
        draws: DRAWS,
        experiments,
        verdict,
        note: claim.note.clone(),
    })
}

/// Keeps a report in `docs/claims/` and makes `docs/CLAIMS.md` of all that are there.
fn record(docs: &Path, report: &ClaimReport) -> Result<()> {
    let folder = docs.join("claims");
    std::fs::create_dir_all(&folder).map_err(|error| Error::io(&folder, error))?;
    atomic_json(folder.join(format!("{}.json", report.name)), report)?;
    let text = document(&recorded(&folder)?);
    atomic_bytes(docs.join("CLAIMS.md"), text.as_bytes())
}

/// All reports of a folder, by name.
fn recorded(folder: &Path) -> Result<Vec<ClaimReport>> {
    let io = |error| Error::io(folder, error);
    let mut paths = Vec::new();
    for entry in std::fs::read_dir(folder).map_err(io)? {
        let path = entry.map_err(io)?.path();
        if path.extension().is_some_and(|ending| ending == "json") {
            paths.push(path);
        }
    }
    paths.sort();
    paths.into_iter().map(read_json).collect()
}
