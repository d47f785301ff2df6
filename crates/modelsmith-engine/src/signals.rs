//! Signals: the first asks the run to stop after a checkpoint, the second ends the program.

use modelsmith_core::error::{Error, Result};
use signal_hook::consts::{SIGINT, SIGTERM, SIGUSR1};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};

/// A request to stop, set by SIGINT, SIGTERM or SIGUSR1, or by another thread.
#[derive(Clone, Debug, Default)]
pub struct Stop(Arc<AtomicUsize>);

impl Stop {
    /// Listens to the process's signals.
    ///
    /// # Errors
    /// The system refuses the handlers.
    pub fn listen() -> Result<Self> {
        let stop = Self::default();
        let again = Arc::new(AtomicBool::new(false));
        for signal in [SIGINT, SIGTERM, SIGUSR1] {
            let number = signal as usize;
            let failed = |error| Error::Failed(format!("cannot handle signal {signal}: {error}"));
            // Order matters: the shutdown sees the flag as earlier signals left it.
            signal_hook::flag::register_conditional_shutdown(
                signal,
                128 + signal,
                Arc::clone(&again),
            )
            .map_err(failed)?;
            signal_hook::flag::register(signal, Arc::clone(&again)).map_err(failed)?;
            signal_hook::flag::register_usize(signal, Arc::clone(&stop.0), number)
                .map_err(failed)?;
        }
        Ok(stop)
    }

    /// Asks for a stop as if `signal` had come.
    pub fn request(&self, signal: i32) {
        self.0
            .store(signal.unsigned_abs() as usize, Ordering::SeqCst);
    }

    /// The signal that asked for a stop, with its name.
    pub fn requested(&self) -> Option<(i32, &'static str)> {
        match self.0.load(Ordering::SeqCst) as i32 {
            SIGINT => Some((SIGINT, "SIGINT")),
            SIGTERM => Some((SIGTERM, "SIGTERM")),
            SIGUSR1 => Some((SIGUSR1, "SIGUSR1")),
            _ => None,
        }
    }
}
