//! The database file: opened, made or made anew, and its one table.

use super::FILE;
use crate::run_info::{RunInfo, State};
use modelsmith_core::error::{Error, Result};
use rusqlite::{Connection, ErrorCode, Row, TransactionBehavior, params};
use std::collections::BTreeMap;
use std::fs::{File, OpenOptions, TryLockError};
use std::path::Path;
use std::time::{Duration, Instant};

/// Raised whenever the table changes; an index of another version is made anew.
const VERSION: i64 = 1;

/// How long a process waits for another that writes the index.
const PATIENCE: Duration = Duration::from_secs(10);

const SCHEMA: &str = "CREATE TABLE IF NOT EXISTS runs (
    name TEXT PRIMARY KEY, stamp TEXT NOT NULL, description TEXT NOT NULL, method TEXT NOT NULL,
    host TEXT NOT NULL, recipe TEXT NOT NULL, seed TEXT NOT NULL, state TEXT NOT NULL,
    steps INTEGER NOT NULL, loss_before REAL, loss_after REAL, started INTEGER, finished INTEGER,
    seconds REAL, peak_memory INTEGER, data_hash TEXT, error TEXT) STRICT";

const COLUMNS: &str = "name, stamp, description, method, host, recipe, seed, state, steps, \
    loss_before, loss_after, started, finished, seconds, peak_memory, data_hash, error";

/// An open index.
pub(super) struct Store(Connection);

/// Does something with the index of a folder of runs; a damaged one is made anew and it is done
/// again.
///
/// # Errors
/// The index can neither be used nor made.
pub(super) fn with<T>(
    dir: &Path,
    mut job: impl FnMut(&mut Store) -> rusqlite::Result<T>,
) -> Result<T> {
    let path = dir.join(FILE);
    let mut attempt = |repair: bool| {
        // Creating and repairing are not safe against another process that does the same.
        let lock = wait_for(&dir.join("index.lock")).map_err(|error| Error::io(dir, error))?;
        if repair {
            remove(&path)?;
        }
        let opened = open(&path);
        drop(lock);
        Ok(opened.and_then(|db| job(&mut Store(db))))
    };
    match attempt(false)? {
        Err(error) if is_damage(&error) => attempt(true)?,
        other => other,
    }
    .map_err(|error| Error::file(&path, error))
}

fn open(path: &Path) -> rusqlite::Result<Connection> {
    let db = Connection::open(path)?;
    db.busy_timeout(PATIENCE)?;
    db.pragma_update(None, "journal_mode", "WAL")?;
    db.pragma_update(None, "synchronous", "NORMAL")?;
    let version: i64 = db.pragma_query_value(None, "user_version", |row| row.get(0))?;
    let health: String = db.pragma_query_value(None, "quick_check", |row| row.get(0))?;
    if health != "ok" || (version != 0 && version != VERSION) {
        return Err(damage());
    }
    db.execute(SCHEMA, [])?;
    db.pragma_update(None, "user_version", VERSION)?;
    Ok(db)
}

fn damage() -> rusqlite::Error {
    rusqlite::Error::SqliteFailure(
        rusqlite::ffi::Error::new(rusqlite::ffi::SQLITE_CORRUPT),
        None,
    )
}

fn is_damage(error: &rusqlite::Error) -> bool {
    match error {
        rusqlite::Error::SqliteFailure(failure, _) => {
            // `Unknown` is what a table of other columns gives.
            matches!(
                failure.code,
                ErrorCode::DatabaseCorrupt | ErrorCode::NotADatabase | ErrorCode::Unknown
            )
        }
        rusqlite::Error::SqlInputError { .. }
        | rusqlite::Error::InvalidColumnType(..)
        | rusqlite::Error::FromSqlConversionFailure(..)
        | rusqlite::Error::IntegralValueOutOfRange(..) => true,
        _ => false,
    }
}

/// Holds the lock file, or gives up with an error after a while.
fn wait_for(path: &Path) -> std::io::Result<File> {
    let file = OpenOptions::new()
        .create(true)
        .truncate(false)
        .write(true)
        .open(path)?;
    let began = Instant::now();
    loop {
        match file.try_lock() {
            Ok(()) => return Ok(file),
            Err(TryLockError::WouldBlock) if began.elapsed() < PATIENCE => {
                std::thread::sleep(Duration::from_millis(5));
            }
            Err(TryLockError::WouldBlock) => return Err(std::io::ErrorKind::TimedOut.into()),
            Err(TryLockError::Error(error)) => return Err(error),
        }
    }
}

fn remove(path: &Path) -> Result<()> {
    for tail in ["", "-wal", "-shm"] {
        let file = path.with_file_name(format!("{FILE}{tail}"));
        match std::fs::remove_file(&file) {
            Err(error) if error.kind() != std::io::ErrorKind::NotFound => {
                return Err(Error::io(&file, error));
            }
            _ => {}
        }
    }
    Ok(())
}

impl Store {
    /// Puts a row in, in place of the one of that name.
    pub(super) fn put(&mut self, name: &str, stamp: &str, run: &RunInfo) -> rusqlite::Result<()> {
        put(&self.0, name, stamp, run)
    }

    /// Takes a row out.
    pub(super) fn remove(&mut self, name: &str) -> rusqlite::Result<()> {
        self.0
            .execute("DELETE FROM runs WHERE name = ?1", [name])
            .map(|_| ())
    }

    /// All rows, after those that differ from the folders were read again.
    pub(super) fn refreshed(
        &mut self,
        dir: &Path,
        stamps: &BTreeMap<String, String>,
    ) -> rusqlite::Result<Vec<RunInfo>> {
        let known = self.stamps()?;
        let stale: Vec<&String> = known
            .keys()
            .filter(|name| !stamps.contains_key(*name))
            .collect();
        let changed: Vec<(&String, &String, RunInfo)> = stamps
            .iter()
            .filter(|(name, stamp)| known.get(*name) != Some(*stamp))
            // A folder that vanished since it was found is no run any more.
            .filter_map(|(name, stamp)| Some((name, stamp, RunInfo::read(&dir.join(name)).ok()?)))
            .collect();
        if !stale.is_empty() || !changed.is_empty() {
            let write = self
                .0
                .transaction_with_behavior(TransactionBehavior::Immediate)?;
            for (name, stamp, run) in changed {
                put(&write, name, stamp, &run)?;
            }
            for name in stale {
                write.execute("DELETE FROM runs WHERE name = ?1", [name])?;
            }
            write.commit()?;
        }
        let mut rows = self.0.prepare(&format!("SELECT {COLUMNS} FROM runs"))?;
        let rows = rows.query_map([], |row| read(row, dir))?;
        rows.collect()
    }

    fn stamps(&self) -> rusqlite::Result<BTreeMap<String, String>> {
        let mut rows = self.0.prepare("SELECT name, stamp FROM runs")?;
        let rows = rows.query_map([], |row| Ok((row.get(0)?, row.get(1)?)))?;
        rows.collect()
    }

    /// The stamp of a row, for tests.
    #[cfg(test)]
    pub(super) fn stamp_of(&self, name: &str) -> rusqlite::Result<Option<String>> {
        Ok(self.stamps()?.remove(name))
    }
}

fn put(db: &Connection, name: &str, stamp: &str, run: &RunInfo) -> rusqlite::Result<()> {
    let places: Vec<String> = (1..=17).map(|place| format!("?{place}")).collect();
    let statement = format!(
        "INSERT OR REPLACE INTO runs ({COLUMNS}) VALUES ({})",
        places.join(", ")
    );
    let number = |value: u64| i64::try_from(value).unwrap_or(i64::MAX);
    db.prepare_cached(&statement)?.execute(params![
        name,
        stamp,
        run.description,
        run.method,
        run.host,
        run.recipe,
        // Seeds are unsigned; the integers of SQL are not.
        run.seed.to_string(),
        run.state.as_str(),
        number(run.steps),
        run.loss_before,
        run.loss_after,
        run.started.map(number),
        run.finished.map(number),
        run.seconds,
        run.peak_memory.map(number),
        run.data_hash,
        run.error,
    ])?;
    Ok(())
}

fn read(row: &Row<'_>, dir: &Path) -> rusqlite::Result<RunInfo> {
    let name: String = row.get("name")?;
    let state: String = row.get("state")?;
    let seed: String = row.get("seed")?;
    let number = |column: &str| {
        Ok::<_, rusqlite::Error>(row.get::<_, Option<i64>>(column)?.map(|n| n as u64))
    };
    Ok(RunInfo {
        path: dir.join(&name),
        name,
        description: row.get("description")?,
        method: row.get("method")?,
        host: row.get("host")?,
        recipe: row.get("recipe")?,
        seed: seed.parse().map_err(|_| damage())?,
        state: state.parse::<State>().map_err(|_| damage())?,
        steps: number("steps")?.unwrap_or(0),
        loss_before: row.get("loss_before")?,
        loss_after: row.get("loss_after")?,
        started: number("started")?,
        finished: number("finished")?,
        seconds: row.get("seconds")?,
        peak_memory: number("peak_memory")?,
        data_hash: row.get("data_hash")?,
        error: row.get("error")?,
    })
}
