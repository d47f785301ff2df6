//! Signals: a checkpoint and the documented exit status, never a panic.

#![allow(missing_docs)]
#![cfg(unix)]

mod common;

use common::Bench;
use std::io::{BufRead, BufReader};
use std::process::{Child, Command, Stdio};

/// A run that would take long, stopped once it has taken steps.
fn long_run(bench: &Bench, name: &str) -> Child {
    bench.text(40);
    let words = [
        "-v", "tune", "--host", "model", "--data", "text.txt", "--steps", "100000",
    ];
    let mut child = bench
        .command(&[&words[..], &["--name", name]].concat())
        .stdout(Stdio::null())
        .stderr(Stdio::piped())
        .spawn()
        .unwrap();
    let mut lines = BufReader::new(child.stderr.take().unwrap()).lines();
    let stepped = lines.by_ref().any(|line| line.unwrap().contains("step 3"));
    assert!(stepped, "the run took no steps");
    // The pipe is read to its end, so that the run never waits for a reader.
    std::thread::spawn(move || lines.for_each(drop));
    child
}

fn send(child: &Child, signal: &str) {
    let status = Command::new("kill")
        .args(["-s", signal, &child.id().to_string()])
        .status();
    assert!(status.unwrap().success());
}

#[test]
fn each_signal_leaves_a_checkpoint_and_its_exit_status() {
    for (signal, code) in [("INT", 130), ("TERM", 143), ("USR1", 75)] {
        let bench = Bench::new();
        let mut child = long_run(&bench, "run");
        send(&child, signal);
        assert_eq!(child.wait().unwrap().code(), Some(code), "SIG{signal}");
        let checkpoints = bench.path("runs/run/checkpoints");
        let steps = std::fs::read_dir(checkpoints).unwrap().count();
        assert!(steps >= 1, "SIG{signal} left no checkpoint");
        assert!(!bench.path("runs/run/adapter").exists());
    }
}
