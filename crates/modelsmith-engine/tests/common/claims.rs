//! Claims on a tiny world.

use super::World;
use modelsmith_engine::Stop;
use modelsmith_engine::claim::file::Tier;
use modelsmith_engine::claim::report::ClaimReport;
use modelsmith_engine::claim::{ReproduceOptions, Which, reproduce};
use std::fs;

/// How the claim of this text is run.
pub fn options(world: &World, text: &str, tier: Tier) -> ReproduceOptions {
    let folder = world.folder.path();
    fs::create_dir_all(folder.join("claims")).unwrap();
    fs::write(folder.join("claims/99-tiny.toml"), text).unwrap();
    ReproduceOptions {
        which: Which::Cards(vec![99]),
        claims: folder.join("claims"),
        seeds: None,
        tier,
        output: folder.join("out"),
        docs: folder.join("docs"),
        device: "flex".into(),
    }
}

/// Runs it.
pub fn run(options: &ReproduceOptions) -> (ClaimReport, Vec<String>) {
    let mut said = Vec::new();
    let mut say = |text: &str| said.push(text.to_owned());
    let mut reports = reproduce(options, &Stop::default(), &mut say).unwrap();
    assert_eq!(reports.len(), 1);
    (reports.remove(0), said)
}
