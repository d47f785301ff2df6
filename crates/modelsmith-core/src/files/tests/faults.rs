//! Failure and death at the n-th disk operation, n = 1, 2, ...: the old artefact or the new one.

use std::borrow::Cow;
use std::fs;
use std::io::ErrorKind;
use std::path::Path;

use crate::error::Result;
use crate::files::fault::{Armed, die_at, fail_with, fail_write_at};
use crate::files::{
    Checkpoint, DType, TensorSpec, atomic_bytes, clean_stale, metadata_pt, write_sharded,
};

/// More operations than any write here takes.
const ENOUGH: u64 = 200;

/// Arms each kind of failure at each operation until `write` succeeds, and lets `check` look at
/// what lies on the disk after every attempt.
fn at_every_operation(
    setup: impl Fn(&Path),
    write: impl Fn(&Path) -> Result<()>,
    check: impl Fn(&Path, bool),
) {
    let plans: [fn(u64) -> Armed; 2] = [fail_write_at, die_at];
    for plan in plans {
        let mut failures = 0;
        for n in 1..=ENOUGH {
            let dir = tempfile::tempdir().unwrap();
            setup(dir.path());
            let armed = plan(n);
            let result = write(dir.path());
            drop(armed);
            check(dir.path(), result.is_ok());
            if result.is_ok() {
                failures = n - 1;
                break;
            }
        }
        assert!(
            (4..ENOUGH).contains(&failures),
            "{failures} operations could fail"
        );
    }
}

fn temporary_files(dir: &Path) -> usize {
    let names = fs::read_dir(dir)
        .unwrap()
        .map(|entry| entry.unwrap().file_name());
    names
        .filter(|name| name.to_string_lossy().contains(".tmp-"))
        .count()
}

#[test]
fn a_single_file_is_old_or_new() {
    let (old, new) = (vec![1_u8; 5000], vec![2_u8; 3_000_000]);
    at_every_operation(
        |dir| atomic_bytes(dir.join("f"), &old).unwrap(),
        |dir| atomic_bytes(dir.join("f"), &new),
        |dir, written| {
            let found = fs::read(dir.join("f")).unwrap();
            assert!(found == new || (!written && found == old));
            clean_stale(dir).unwrap();
            assert_eq!(temporary_files(dir), 0);
        },
    );
}

#[test]
fn a_failure_that_is_not_death_leaves_no_temporary_file_and_exits_6() {
    let dir = tempfile::tempdir().unwrap();
    for n in 1..6 {
        let armed = fail_with(n, ErrorKind::ReadOnlyFilesystem);
        let result = atomic_bytes(dir.path().join("f"), b"text");
        drop(armed);
        if let Err(problem) = result {
            assert_eq!(problem.exit_code(), 6, "{problem}");
        }
        assert_eq!(temporary_files(dir.path()), 0);
    }
}

/// Six tensors filled with one value, under names that tell the version.
fn save(dir: &Path, value: u8, max_shard_bytes: u64) -> Result<()> {
    let specs: Vec<TensorSpec> = (0..6)
        .map(|i| TensorSpec::new(format!("t{i}"), DType::U8, [10]))
        .collect();
    let mut bytes = |_: &TensorSpec| Ok(Cow::Owned(vec![value; 10]));
    write_sharded(
        dir,
        "model",
        &specs,
        &metadata_pt(),
        max_shard_bytes,
        &mut bytes,
    )
    .map(drop)
}

/// The value all tensors share; panics on a mixture.
fn version(dir: &Path) -> u8 {
    let checkpoint = Checkpoint::open(dir).unwrap();
    assert_eq!(checkpoint.len(), 6);
    let first = checkpoint.bytes("t0").unwrap()[0];
    for name in checkpoint.names() {
        assert_eq!(checkpoint.bytes(name).unwrap(), [first; 10]);
    }
    first
}

#[test]
fn a_set_of_shards_is_old_or_new() {
    // Bytes per shard for 60 bytes of data: one file, or two shards.
    let (one, two) = (100, 30);
    for (old, new) in [(one, one), (one, two), (two, one), (two, two)] {
        let template = tempfile::tempdir().unwrap();
        save(template.path(), 1, old).unwrap();
        at_every_operation(
            |dir| copy(template.path(), dir),
            |dir| save(dir, 2, new),
            |dir, written| {
                let found = version(dir);
                assert!(found == 2 || (!written && found == 1));
            },
        );
    }
}

fn copy(from: &Path, to: &Path) {
    for entry in fs::read_dir(from).unwrap() {
        let entry = entry.unwrap();
        fs::copy(entry.path(), to.join(entry.file_name())).unwrap();
    }
}

#[test]
fn the_next_save_heals_what_a_death_left() {
    for n in [3, 7, 14, 17, 18, 19] {
        let dir = tempfile::tempdir().unwrap();
        save(dir.path(), 1, 30).unwrap();
        let armed = die_at(n);
        let died = save(dir.path(), 2, 30);
        drop(armed);
        assert!(died.is_err(), "{n}");
        save(dir.path(), 3, 30).unwrap();
        assert_eq!(version(dir.path()), 3);
        clean_stale(dir.path()).unwrap();
        // Two shards and their index.
        assert_eq!(fs::read_dir(dir.path()).unwrap().count(), 3);
    }
}

#[test]
fn a_first_save_that_fails_leaves_no_checkpoint() {
    at_every_operation(
        |_| {},
        |dir| save(dir, 2, 30),
        |dir, written| match Checkpoint::open(dir) {
            Ok(_) => assert_eq!(version(dir), 2),
            Err(problem) => assert!(!written, "{problem}"),
        },
    );
}

#[test]
fn shards_written_over_shards_take_other_names_and_then_the_plain_ones() {
    let dir = tempfile::tempdir().unwrap();
    for (value, name) in [(1, "model-0"), (2, "model-r2-0"), (3, "model-0")] {
        save(dir.path(), value, 30).unwrap();
        let shard = dir.path().join(format!("{name}0001-of-00002.safetensors"));
        assert!(shard.exists(), "{}", shard.display());
        assert_eq!(version(dir.path()), value);
    }
}
