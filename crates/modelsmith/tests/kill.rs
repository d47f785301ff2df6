//! A run killed without warning, again and again, ends with the bytes of the unbroken run.

#![allow(missing_docs)]

use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::thread::sleep;
use std::time::{Duration, Instant};

fn program() -> Command {
    let mut command = Command::new(assert_cmd::cargo::cargo_bin!("modelsmith"));
    command.stdout(Stdio::null()).stderr(Stdio::piped());
    command
}

fn succeed(command: &mut Command) {
    let output = command.output().unwrap();
    let message = String::from_utf8_lossy(&output.stderr);
    assert!(output.status.success(), "{command:?}: {message}");
}

/// A two-layer Llama of random weights with questions to learn.
fn model(folder: &Path) -> PathBuf {
    let house = folder.join("house");
    succeed(
        program()
            .args(["data", "house"])
            .arg(&house)
            .args(["--people", "40"]),
    );
    let config = house.join("config.json");
    let text = std::fs::read_to_string(&config).unwrap();
    let mut json: serde_json::Value = serde_json::from_str(&text).unwrap();
    for (key, value) in [
        ("hidden_size", 32),
        ("intermediate_size", 48),
        ("num_hidden_layers", 2),
        ("num_attention_heads", 2),
        ("num_key_value_heads", 2),
        ("head_dim", 16),
    ] {
        json[key] = value.into();
    }
    std::fs::write(&config, json.to_string()).unwrap();
    succeed(
        program()
            .arg("pretrain")
            .arg("--fresh")
            .arg(&house)
            .arg("--data")
            .arg(house.join("corpus.jsonl"))
            .args(["--steps", "2", "--name", "base", "--output"])
            .arg(folder),
    );
    folder.join("base/model")
}

fn tune(folder: &Path, model: &Path, name: &str) -> Command {
    let mut command = program();
    command
        .args(["tune", "--method", "lora", "--steps", "60", "--name", name])
        .args(["--set", "train.save_every=1", "--set", "method.dropout=0.1"])
        .arg("--host")
        .arg(model)
        .arg("--data")
        .arg(folder.join("house/questions.jsonl"))
        .arg("--output")
        .arg(folder);
    command
}

fn resume(run: &Path) -> Command {
    let mut command = program();
    command.args(["tune", "--resume"]).arg(run);
    command
}

/// Kills the process after a delay; false when it had ended by itself before.
fn kill_after(mut command: Command, delay: Duration) -> bool {
    let mut child = command.stderr(Stdio::null()).spawn().unwrap();
    sleep(delay);
    if child.try_wait().unwrap().is_some() {
        return false;
    }
    child.kill().unwrap();
    child.wait().unwrap();
    true
}

#[test]
fn killed_runs_resume_to_the_same_bytes() {
    let kills: u64 = std::env::var("MODELSMITH_KILLS").map_or(4, |n| n.parse().unwrap());
    let folder = tempfile::tempdir().unwrap();
    let model = model(folder.path());
    let begun = Instant::now();
    succeed(&mut tune(folder.path(), &model, "whole"));
    let lasted = begun.elapsed();
    let whole = std::fs::read(
        folder
            .path()
            .join("whole/adapter/adapter_model.safetensors"),
    )
    .unwrap();
    let mut done = 0;
    let mut round = 0;
    while done < kills {
        let name = format!("broken-{round}");
        let run = folder.path().join(&name);
        round += 1;
        let mut next = tune(folder.path(), &model, &name);
        // Delays step through a range that reaches from the start of the process into its saves, however fast
        // the machine is.
        while done < kills {
            let delay = lasted.mul_f64((15 + (done * 37 + round * 13) % 70) as f64 / 100.0);
            if !kill_after(next, delay) {
                break;
            }
            done += 1;
            // Killed before the folder held a run, there is nothing to resume.
            next = if run.join("recipe.toml").is_file() {
                resume(&run)
            } else {
                tune(folder.path(), &model, &name)
            };
        }
        let finish = if run.join("recipe.toml").is_file() {
            resume(&run)
        } else {
            tune(folder.path(), &model, &name)
        };
        let mut finish = finish;
        succeed(&mut finish);
        let broken = std::fs::read(run.join("adapter/adapter_model.safetensors")).unwrap();
        assert!(
            broken == whole,
            "run {name} ended with other bytes after {done} kills"
        );
        assert!(round < 4 * kills + 4, "runs end before they can be killed");
    }
    eprintln!("{done} kills over {round} runs, equal bytes each time");
}

#[test]
fn a_killed_merge_leaves_a_whole_model_or_none() {
    let folder = tempfile::tempdir().unwrap();
    let model = model(folder.path());
    succeed(tune(folder.path(), &model, "a").args(["--set", "train.max_steps=3"]));
    let merged = folder.path().join("merged");
    let merge = || {
        let mut command = program();
        command.args([
            "adapter",
            "merge",
            "--dtype",
            "f32",
            "--max-shard",
            "40KB",
            "--adapter",
        ]);
        command
            .arg(folder.path().join("a"))
            .arg("--output")
            .arg(&merged);
        command
    };
    let mut killed = 0;
    for delay in (5..).step_by(4) {
        let ended = !kill_after(merge(), Duration::from_millis(delay));
        if merged.exists() {
            succeed(program().arg("inspect").arg(&merged));
            std::fs::remove_dir_all(&merged).unwrap();
        } else {
            assert!(!ended, "a merge that ended by itself left nothing");
        }
        if ended {
            break;
        }
        killed += 1;
    }
    assert!(killed > 0, "no merge was killed");
}
