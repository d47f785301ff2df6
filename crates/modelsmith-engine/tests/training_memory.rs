//! What does a finished run leave behind in its process? Nothing that grows with the runs.

mod common;

use common::World;

#[global_allocator]
static COUNTING: dhat::Alloc = dhat::Alloc;

#[test]
fn runs_leave_nothing_behind() {
    let world = World::new();
    let run = |number: u64| world.run(&format!("run-{number}"), &[]);
    // Tables that grow to their size, words that a tokenizer remembers.
    (0..3).for_each(|number| drop(run(number)));

    let _profiler = dhat::Profiler::builder().testing().build();
    let live = || dhat::HeapStats::get().curr_bytes;
    drop(run(3));
    let once = live();
    (4..8).for_each(|number| drop(run(number)));
    // A run of this world allocates 75 MB.
    assert!(
        live() < once + 4096,
        "{} bytes stayed after five runs, {once} after one",
        live()
    );
}
