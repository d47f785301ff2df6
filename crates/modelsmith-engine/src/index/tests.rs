use super::*;
use crate::recipe::Recipe;
use crate::record::{Attempt, Record};
use crate::run_folder::RunFolder;
use modelsmith_core::files::atomic_json;
use serde_json::json;
use std::fs;

/// A run folder as [`crate::tune`] leaves it, without its weights.
fn folder(dir: &Path, name: &str) -> RunFolder {
    let mut recipe = Recipe::default();
    recipe.output.dir = dir.to_path_buf();
    recipe.output.name = name.to_owned();
    recipe.method.name = "lora".to_owned();
    recipe.seed = 1 << 62;
    RunFolder::create(&recipe).unwrap()
}

fn finished(dir: &Path, name: &str) -> PathBuf {
    let run = dir.join(name);
    drop(folder(dir, name));
    let summary = json!({"steps": 7, "loss_before": 3.0, "loss_after": 1.5, "seconds": 2.0});
    atomic_json(run.join("summary.json"), &summary).unwrap();
    run
}

fn attempt(run: &Path, outcome: Option<State>, error: Option<&str>) {
    let mut record = Record::default();
    record.attempts.push(Attempt {
        outcome,
        error: error.map(str::to_owned),
        started: 5,
        seconds: Some(1.0),
        ..Attempt::default()
    });
    atomic_json(run.join("record.json"), &record).unwrap();
}

fn all(dir: &Path) -> Vec<RunInfo> {
    let listing = list(dir, &Filter::default()).unwrap();
    assert_eq!(listing.warning, None);
    listing.runs
}

#[test]
fn states_are_derived_from_lock_record_and_summary() {
    let dir = tempfile::tempdir().unwrap();
    let state = |name: &str| RunInfo::read(&dir.path().join(name)).unwrap().state;
    let held = folder(dir.path(), "a");
    assert_eq!(state("a"), State::Running);
    attempt(held.path(), None, None);
    // A killed process lets go of its lock and writes nothing.
    drop(held);
    assert_eq!(state("a"), State::Interrupted);
    finished(dir.path(), "b");
    assert_eq!(state("b"), State::Finished);
    attempt(
        &dir.path().join("a"),
        Some(State::Failed),
        Some("loss is NaN"),
    );
    assert_eq!(state("a"), State::Failed);
    let info = RunInfo::read(&dir.path().join("a")).unwrap();
    assert_eq!(info.error.as_deref(), Some("loss is NaN"));
    attempt(&dir.path().join("b"), Some(State::Interrupted), None);
    assert_eq!(state("b"), State::Interrupted);
    assert!(RunInfo::read(dir.path()).is_err());
}

#[test]
fn figures_of_an_unfinished_run_come_from_its_metrics() {
    let dir = tempfile::tempdir().unwrap();
    drop(folder(dir.path(), "a"));
    let text = "{\"kind\":\"eval\",\"step\":0,\"loss\":4.0}\n{\"kind\":\"train\",\"step\":1,\"loss\":9.0}\n\
        {\"kind\":\"eval\",\"step\":2,\"loss\":3.0}\n{\"kind\":\"train\",\"st";
    fs::write(dir.path().join("a/metrics.jsonl"), text).unwrap();
    let info = &all(dir.path())[0];
    assert_eq!(
        (info.steps, info.loss_before, info.loss_after),
        (2, Some(4.0), Some(3.0))
    );
    assert_eq!(info.seed, 1 << 62);
}

#[test]
fn a_lost_or_damaged_index_gives_the_same_list() {
    let dir = tempfile::tempdir().unwrap();
    for name in ["a", "b", "c"] {
        let run = finished(dir.path(), name);
        update(&run).unwrap();
    }
    let before = all(dir.path());
    assert_eq!(before.len(), 3);
    let file = dir.path().join(FILE);
    for tail in ["", "-wal", "-shm"] {
        let _ = fs::remove_file(dir.path().join(format!("{FILE}{tail}")));
    }
    assert_eq!(all(dir.path()), before);
    fs::write(&file, "no database").unwrap();
    assert_eq!(all(dir.path()), before);
    let mut bytes = fs::read(&file).unwrap();
    let end = bytes.len();
    bytes[end / 2..].fill(0xA5);
    fs::write(&file, bytes).unwrap();
    assert_eq!(all(dir.path()), before);
    fs::write(&file, "").unwrap();
    update(&dir.path().join("a")).unwrap();
    assert_eq!(all(dir.path()), before);
}

#[test]
fn an_index_of_another_version_is_made_anew() {
    let dir = tempfile::tempdir().unwrap();
    finished(dir.path(), "a");
    let before = all(dir.path());
    let db = rusqlite::Connection::open(dir.path().join(FILE)).unwrap();
    db.execute_batch("DROP TABLE runs; CREATE TABLE runs (name TEXT); PRAGMA user_version = 99")
        .unwrap();
    drop(db);
    assert_eq!(all(dir.path()), before);
    let db = rusqlite::Connection::open(dir.path().join(FILE)).unwrap();
    db.execute_batch("DROP TABLE runs; CREATE TABLE runs (name TEXT)")
        .unwrap();
    drop(db);
    assert_eq!(all(dir.path()), before);
}

#[test]
fn an_index_that_cannot_be_made_is_a_warning() {
    let dir = tempfile::tempdir().unwrap();
    let run = finished(dir.path(), "a");
    fs::create_dir(dir.path().join(FILE)).unwrap();
    assert!(update(&run).is_err());
    let listing = list(dir.path(), &Filter::default()).unwrap();
    assert_eq!(listing.runs.len(), 1);
    assert!(listing.warning.unwrap().contains("read without the index"));
}

#[test]
fn what_changed_behind_the_index_is_read_again() {
    let dir = tempfile::tempdir().unwrap();
    finished(dir.path(), "a");
    let held = folder(dir.path(), "b");
    assert_eq!(
        all(dir.path())
            .iter()
            .filter(|run| run.state == State::Running)
            .count(),
        1
    );
    drop(held);
    assert!(
        all(dir.path())
            .iter()
            .all(|run| run.state != State::Running)
    );
    fs::remove_dir_all(dir.path().join("a")).unwrap();
    let left = all(dir.path());
    assert_eq!(left.len(), 1);
    assert_eq!(left[0].name, "b");
    let stored = store::with(dir.path(), |db| db.stamp_of("a")).unwrap();
    assert_eq!(stored, None);
}

#[test]
fn many_writers_at_once_are_all_indexed() {
    let dir = tempfile::tempdir().unwrap();
    let writers: Vec<_> = (0..8)
        .map(|writer| {
            let dir = dir.path().to_path_buf();
            std::thread::spawn(move || {
                for number in 0..5 {
                    let run = finished(&dir, &format!("run-{writer}-{number}"));
                    update(&run).unwrap();
                }
            })
        })
        .collect();
    for writer in writers {
        writer.join().unwrap();
    }
    let rows = store::with(dir.path(), |db| {
        (0..8)
            .map(|writer| db.stamp_of(&format!("run-{writer}-4")))
            .collect::<rusqlite::Result<Vec<_>>>()
    });
    assert!(rows.unwrap().iter().all(Option::is_some));
    assert_eq!(all(dir.path()).len(), 40);
}

#[test]
fn filters_choose_by_state_method_and_text() {
    let dir = tempfile::tempdir().unwrap();
    finished(dir.path(), "first");
    drop(folder(dir.path(), "second"));
    let names = |filter: Filter| {
        let runs = list(dir.path(), &filter).unwrap().runs;
        runs.into_iter().map(|run| run.name).collect::<Vec<_>>()
    };
    assert_eq!(
        names(Filter {
            state: Some(State::Finished),
            ..Filter::default()
        }),
        ["first"]
    );
    assert_eq!(
        names(Filter {
            search: Some("SEC".into()),
            ..Filter::default()
        }),
        ["second"]
    );
    assert_eq!(
        names(Filter {
            method: Some("full".into()),
            ..Filter::default()
        })
        .len(),
        0
    );
    assert_eq!(
        names(Filter {
            method: Some("lora".into()),
            ..Filter::default()
        })
        .len(),
        2
    );
}

#[test]
fn an_absent_folder_has_no_runs_and_is_not_made() {
    let dir = tempfile::tempdir().unwrap();
    let absent = dir.path().join("none");
    assert!(list(&absent, &Filter::default()).unwrap().runs.is_empty());
    assert!(!absent.exists());
}

#[test]
fn removed_runs_leave_folder_and_index() {
    let dir = tempfile::tempdir().unwrap();
    let run = finished(dir.path(), "a");
    finished(dir.path(), "b");
    assert_eq!(all(dir.path()).len(), 2);
    let held = RunFolder::hold(&run).unwrap();
    assert_eq!(crate::runs::remove(&run).unwrap_err().exit_code(), 7);
    drop(held);
    // What a removal that was cut off left goes with the next one.
    fs::create_dir(dir.path().join(".removed-old-1")).unwrap();
    crate::runs::remove(&run).unwrap();
    assert!(!run.exists() && !dir.path().join(".removed-old-1").exists());
    assert_eq!(all(dir.path()).len(), 1);
    assert!(crate::runs::remove(&run).is_err());
}

#[cfg(unix)]
#[test]
fn a_link_to_a_run_is_not_removed() {
    let dir = tempfile::tempdir().unwrap();
    let run = finished(dir.path(), "a");
    let link = dir.path().join("link");
    std::os::unix::fs::symlink(&run, &link).unwrap();
    assert!(
        crate::runs::remove(&link)
            .unwrap_err()
            .to_string()
            .contains("symbolic link")
    );
    assert!(run.join("summary.json").exists());
}
