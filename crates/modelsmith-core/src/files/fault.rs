//! What if the n-th write, sync, rename or removal fails?
//!
//! Every such operation of this module's writers asks here first. Tests arm a failure for their
//! own thread and check that what lies on the disk is the old artefact or the new one. Unarmed,
//! the question costs one thread-local read.

use std::cell::Cell;
use std::io;

thread_local! {
    static PLAN: Cell<Option<Plan>> = const { Cell::new(None) };
}

#[derive(Clone, Copy)]
struct Plan {
    /// Operations still to succeed before the failure.
    left: u64,
    kind: io::ErrorKind,
    /// Whether everything after the failure fails too, as if the process had been killed.
    dead: bool,
}

/// Disarms the failure of its thread when dropped.
#[derive(Debug)]
#[must_use = "the failure is disarmed when this is dropped"]
pub struct Armed(());

impl Drop for Armed {
    fn drop(&mut self) {
        PLAN.set(None);
    }
}

/// Makes this thread's `n`-th disk operation from now (from 1) fail as if the disk were full.
#[doc(hidden)]
pub fn fail_write_at(n: u64) -> Armed {
    fail_with(n, io::ErrorKind::StorageFull)
}

/// As [`fail_write_at`], with another cause.
#[doc(hidden)]
pub fn fail_with(n: u64, kind: io::ErrorKind) -> Armed {
    arm(n, kind, false)
}

/// Makes this thread's `n`-th disk operation and all later ones fail, removals included: what a
/// kill at that moment leaves behind.
#[doc(hidden)]
pub fn die_at(n: u64) -> Armed {
    arm(n, io::ErrorKind::Other, true)
}

fn arm(n: u64, kind: io::ErrorKind, dead: bool) -> Armed {
    let left = n.saturating_sub(1);
    PLAN.set(Some(Plan { left, kind, dead }));
    Armed(())
}

/// Asked before every operation that changes the disk.
pub(super) fn gate() -> io::Result<()> {
    let Some(plan) = PLAN.get() else {
        return Ok(());
    };
    if plan.left > 0 {
        let left = plan.left - 1;
        PLAN.set(Some(Plan { left, ..plan }));
        return Ok(());
    }
    PLAN.set(plan.dead.then_some(plan));
    Err(io::Error::new(plan.kind, "injected failure"))
}
