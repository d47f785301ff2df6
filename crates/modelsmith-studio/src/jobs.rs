//! Processes that the studio started: a run is another process of the program, so that it goes on
//! when the studio ends, and a crash of one leaves the other alone.
//!
//! Only these are ever signalled. A process id that is read from a run's lock may since belong to
//! somebody else; a child that has not been waited for cannot, and signal and wait are done under
//! one lock.

use modelsmith_core::error::{Error, Result};
use modelsmith_core::files::make_folder;
use rustix::process::{Pid, Signal, kill_process};
use std::collections::BTreeMap;
use std::ffi::OsStr;
use std::fs::OpenOptions;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::sync::{Mutex, MutexGuard, PoisonError};

/// Runs that the studio keeps going at once; they share the machine.
const MOST: usize = 4;

/// What became of a process of the studio.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Process {
    /// It works.
    Alive,
    /// It was asked to stop and writes its checkpoint.
    Stopping,
    /// It ended; how, its folder and its log tell.
    Ended,
}

struct Job {
    child: Child,
    stopping: bool,
}

impl Job {
    fn state(&mut self) -> Process {
        match self.child.try_wait() {
            Ok(None) if self.stopping => Process::Stopping,
            Ok(None) => Process::Alive,
            Ok(Some(_)) | Err(_) => Process::Ended,
        }
    }
}

/// The processes by the name of their run, and the folder of their recipes and logs.
pub(crate) struct Jobs {
    program: PathBuf,
    folder: PathBuf,
    started: Mutex<BTreeMap<String, Job>>,
}

impl Jobs {
    /// No process yet. Recipes and logs go to `.studio`, a name that no run can have.
    pub(crate) fn new(program: PathBuf, runs: &Path) -> Self {
        Self {
            program,
            folder: runs.join(".studio"),
            started: Mutex::default(),
        }
    }

    fn started(&self) -> MutexGuard<'_, BTreeMap<String, Job>> {
        self.started.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// File of the recipe that a form wrote.
    pub(crate) fn recipe(&self, name: &str) -> PathBuf {
        self.folder.join(format!("{name}.toml"))
    }

    /// File with what the run's processes said.
    pub(crate) fn log(&self, name: &str) -> PathBuf {
        self.folder.join(format!("{name}.log"))
    }

    /// The state of a run's process, if the studio started one.
    pub(crate) fn state(&self, name: &str) -> Option<Process> {
        self.started().get_mut(name).map(Job::state)
    }

    /// Names of the runs that the studio started.
    pub(crate) fn names(&self) -> Vec<String> {
        self.started().keys().cloned().collect()
    }

    /// Starts the program for a run; `prepare` writes what it needs and is called when nothing
    /// stands against the start.
    ///
    /// # Errors
    /// A process of that run is at work, too many are, or the program cannot be started.
    pub(crate) fn start(
        &self,
        name: &str,
        words: &[&OsStr],
        prepare: impl FnOnce() -> Result<()>,
    ) -> Result<()> {
        let mut started = self.started();
        let mut alive = 0;
        for (other, job) in started.iter_mut() {
            if matches!(job.state(), Process::Ended) {
                continue;
            }
            if other == name {
                return Err(busy(name, "is at work already".to_owned()));
            }
            alive += 1;
        }
        if alive >= MOST {
            let problem = format!("{alive} runs are at work; wait for one, or stop one");
            return Err(busy(name, problem));
        }
        make_folder(&self.folder)?;
        prepare()?;
        let child = self.spawn(name, words)?;
        started.insert(
            name.to_owned(),
            Job {
                child,
                stopping: false,
            },
        );
        Ok(())
    }

    fn spawn(&self, name: &str, words: &[&OsStr]) -> Result<Child> {
        let path = self.log(name);
        let io = |error| Error::io(&path, error);
        let log = OpenOptions::new()
            .create(true)
            .append(true)
            .open(&path)
            .map_err(io)?;
        let mut command = Command::new(&self.program);
        command
            .args(words)
            .env("NO_COLOR", "1")
            .stdin(Stdio::null())
            .stdout(log.try_clone().map_err(io)?)
            .stderr(log);
        // A group of its own: Ctrl-C at the studio's terminal does not reach the run.
        #[cfg(unix)]
        std::os::unix::process::CommandExt::process_group(&mut command, 0);
        command
            .spawn()
            .map_err(|error| Error::io(&self.program, error))
    }

    /// Asks a run to stop after its step, with a checkpoint.
    ///
    /// # Errors
    /// The studio did not start it, it has ended, or it was asked before (a second signal would
    /// end it without a checkpoint).
    pub(crate) fn stop(&self, name: &str) -> Result<()> {
        let mut started = self.started();
        let Some(job) = started.get_mut(name) else {
            let problem = "was not started by this studio; stop it where it was started, with Ctrl-C or `kill -TERM`";
            return Err(busy(name, problem.to_owned()));
        };
        match job.state() {
            Process::Ended => Err(busy(name, "has ended already".to_owned())),
            Process::Stopping => Err(busy(
                name,
                "is stopping; it writes a checkpoint after its step".to_owned(),
            )),
            Process::Alive => {
                kill_process(Pid::from_child(&job.child), Signal::TERM).map_err(|error| {
                    Error::Failed(format!("{name}: cannot be stopped: {error}"))
                })?;
                job.stopping = true;
                Ok(())
            }
        }
    }
}

fn busy(name: &str, problem: String) -> Error {
    Error::Locked {
        path: name.into(),
        problem,
    }
}

#[cfg(all(test, unix))]
mod tests {
    use super::*;
    use std::time::{Duration, Instant};

    fn ended(jobs: &Jobs, name: &str) -> Process {
        let begun = Instant::now();
        loop {
            let state = jobs.state(name).unwrap();
            if matches!(state, Process::Ended) || begun.elapsed() > Duration::from_secs(20) {
                return state;
            }
            std::thread::sleep(Duration::from_millis(20));
        }
    }

    #[test]
    fn a_process_is_started_once_and_asked_to_stop_once() {
        let dir = tempfile::tempdir().unwrap();
        let jobs = Jobs::new("/bin/sh".into(), dir.path());
        let script =
            "echo hello; trap 'sleep 0.3; echo heeded; exit 7' TERM; while :; do sleep 0.05; done";
        let words = [OsStr::new("-c"), OsStr::new(script)];
        jobs.start("a", &words, || Ok(())).unwrap();
        assert_eq!(
            jobs.start("a", &words, || Ok(())).unwrap_err().exit_code(),
            7
        );
        while std::fs::read(jobs.log("a")).unwrap_or_default().is_empty() {
            std::thread::sleep(Duration::from_millis(20));
        }
        std::thread::sleep(Duration::from_millis(100));
        jobs.stop("a").unwrap();
        assert!(jobs.stop("a").unwrap_err().to_string().contains("stopping"));
        assert_eq!(ended(&jobs, "a"), Process::Ended);
        let log = std::fs::read_to_string(jobs.log("a")).unwrap();
        assert!(log.contains("heeded"), "{log}");
        assert!(jobs.stop("a").unwrap_err().to_string().contains("ended"));
        assert!(
            jobs.stop("b")
                .unwrap_err()
                .to_string()
                .contains("not started by this studio")
        );
    }
}
