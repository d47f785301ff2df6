//! What the studio does: list, start, follow, stop, resume, compare.

#![cfg(unix)]

mod common;

use common::Server;
use serde_json::json;
use std::io::{BufRead, BufReader, Write};

#[test]
fn runs_are_listed_searched_and_shown() {
    let server = Server::start();
    server.finished("first", 4);
    server.finished("second", 8);
    std::fs::create_dir(server.runs.join("no-run")).unwrap();
    let names = |query: &str| {
        let found = server.get(&format!("/api/runs{query}")).json();
        let rows = found["runs"].as_array().unwrap().clone();
        rows.iter()
            .map(|row| row["name"].as_str().unwrap().to_owned())
            .collect::<Vec<_>>()
    };
    assert_eq!(names(""), ["first", "second"]);
    assert_eq!(names("?search=ABOUT%20sec"), ["second"]);
    assert_eq!(names("?search=dora"), [""; 0]);
    let view = server.get("/api/runs/first").json();
    assert_eq!(view["status"], "finished");
    assert_eq!(view["recipe"]["method"]["rank"], 4);
    assert_eq!(view["summary"]["steps"], 5);
    assert_eq!(
        (&view["own"], &view["report"]),
        (&json!(false), &json!(false))
    );
    assert_eq!(server.get("/api/runs/third").status, 404);
    assert_eq!(server.get("/api/runs/third/events").status, 404);
    assert_eq!(server.get("/api/runs/first/report").status, 404);
}

#[test]
fn a_run_is_started_followed_stopped_and_resumed() {
    let server = Server::start();
    let begun = server.post("/api/runs", &server.form(""));
    assert_eq!(begun.status, 201, "{begun:?}");
    assert_eq!(begun.json()["name"], "lora-1");
    server.wait("lora-1", "running");
    let again = server.post("/api/runs", &server.form("lora-1"));
    assert_eq!(again.status, 409, "{again:?}");

    let mut stream = server.connect();
    let headers: String = server
        .headers()
        .iter()
        .map(|(name, value)| format!("{name}: {value}\r\n"))
        .collect();
    write!(
        stream,
        "GET /api/runs/lora-1/events HTTP/1.1\r\n{headers}\r\n"
    )
    .unwrap();
    let mut lines = BufReader::new(stream).lines().map_while(Result::ok);
    let mut seen = String::new();
    let mut batches = 0;
    for line in lines.by_ref() {
        batches += usize::from(line.starts_with("event: metrics"));
        seen.push_str(&line);
        if batches == 3 {
            break;
        }
    }
    assert!(
        seen.contains("\"status\":\"running\"") && seen.contains("begun"),
        "{seen}"
    );
    assert_eq!(server.post("/api/runs/lora-1/resume", "{}").status, 409);
    assert_eq!(server.post("/api/runs/lora-1/stop", "{}").status, 200);
    let rest: String = lines.collect();
    assert!(
        rest.contains("\"status\":\"interrupted\"") && rest.contains("event: end"),
        "{rest}"
    );
    server.wait("lora-1", "interrupted");
    assert_eq!(server.post("/api/runs/lora-1/stop", "{}").status, 409);

    assert_eq!(server.post("/api/runs/lora-1/resume", "{}").status, 200);
    server.wait("lora-1", "finished");
    let events = server.get("/api/runs/lora-1/events").body;
    for part in ["\"step\":99", "resumed --resume", "event: end"] {
        assert!(events.contains(part), "{part}: {events}");
    }
    assert_eq!(server.post("/api/runs/lora-1/resume", "{}").status, 409);
    // The form's recipe went where the studio looks, with whole paths.
    let recipe = server.get("/api/runs/lora-1").json()["recipe"].clone();
    assert_eq!(recipe["output"]["name"], "lora-1");
    assert_eq!(
        recipe["output"]["dir"],
        json!(server.runs.canonicalize().unwrap())
    );
    assert_eq!(recipe["method"]["rank"], 4);
}

#[test]
fn runs_of_others_are_not_signalled() {
    let server = Server::start();
    server.finished("other", 4);
    let lock = server.runs.join("other/lock");
    let file = std::fs::File::create(&lock).unwrap();
    file.lock().unwrap();
    // This test's own process stands for the other one: a signal would end the test.
    std::fs::write(&lock, format!("pid {}", std::process::id())).unwrap();
    assert_eq!(server.get("/api/runs/other").json()["status"], "running");
    let reply = server.post("/api/runs/other/stop", "{}");
    assert_eq!(reply.status, 409, "{reply:?}");
    assert!(
        reply.body.contains("not started by this studio"),
        "{reply:?}"
    );
    drop(file);
    assert_eq!(server.get("/api/runs/other").json()["status"], "finished");
}

#[test]
fn a_run_that_failed_elsewhere_shows_as_failed() {
    let server = Server::start();
    server.finished("good", 4);
    let attempt = |name: &str, outcome: serde_json::Value| {
        server.finished(name, 4);
        std::fs::remove_file(server.runs.join(name).join("summary.json")).unwrap();
        let attempt = json!({"pid": 1, "started": 1, "ended": 2, "outcome": outcome,
                             "error": (outcome == "failed").then_some("the loss is NaN")});
        let record = json!({"attempts": [attempt]}).to_string();
        std::fs::write(server.runs.join(name).join("record.json"), record).unwrap();
    };
    attempt("bad", json!("failed"));
    attempt("stopped", json!("interrupted"));
    attempt("killed", json!(null));
    let listed = || {
        let list = server.get("/api/runs").json();
        assert_eq!(list["warning"], json!(null));
        let rows = list["runs"].as_array().unwrap().clone();
        let row = |row: &serde_json::Value| (row["name"].clone(), row["status"].clone());
        rows.iter()
            .map(row)
            .collect::<std::collections::HashMap<_, _>>()
    };
    let found = listed();
    for (name, status) in [
        ("good", "finished"),
        ("bad", "failed"),
        ("stopped", "interrupted"),
        ("killed", "interrupted"),
    ] {
        assert_eq!(found[&json!(name)], status, "{name}");
        let view = server.get(&format!("/api/runs/{name}")).json();
        assert_eq!(view["status"], status, "{name}");
        let events = server.get(&format!("/api/runs/{name}/events")).body;
        assert!(
            events.contains(&format!("\"status\":\"{status}\"")),
            "{name}: {events}"
        );
    }
    assert_eq!(
        server.get("/api/runs/bad").json()["error"],
        "the loss is NaN"
    );
    // The list is that of the engine's index, which is only a cache.
    std::fs::remove_file(server.runs.join("index.sqlite")).unwrap();
    assert_eq!(listed(), found);
    // What a run has come to so far is shown before it ends.
    assert_eq!(server.get("/api/runs/bad").json()["steps"], 5);
    assert_eq!(server.post("/api/runs/bad/resume", "{}").status, 200);
}

#[test]
fn links_to_folders_elsewhere_are_not_listed() {
    let server = Server::start();
    server.finished("a", 4);
    std::os::unix::fs::symlink(server.runs.join("a"), server.runs.join("b")).unwrap();
    let list = server.get("/api/runs").json();
    assert_eq!(
        (&list["total"], &list["runs"][0]["name"]),
        (&json!(1), &json!("a"))
    );
}

#[test]
fn a_run_that_dies_shows_its_log() {
    let server = Server::start();
    std::fs::write(
        server.path("program"),
        "#!/bin/sh\necho 'error: no such luck' >&2\nexit 3\n",
    )
    .unwrap();
    assert_eq!(server.post("/api/runs", &server.form("bad")).status, 201);
    server.wait("bad", "failed");
    let events = server.get("/api/runs/bad/events").body;
    assert!(
        events.contains("no such luck") && events.contains("event: end"),
        "{events}"
    );
    assert_eq!(server.post("/api/runs/bad/resume", "{}").status, 409);
}

#[test]
fn a_file_that_was_cut_back_is_sent_anew() {
    let server = Server::start();
    server.finished("a", 4);
    let last = [("last-event-id", "999999")];
    let events = server.send("GET", "/api/runs/a/events", &last, "").body;
    let reset = events.find("event: reset").unwrap();
    assert!(events[reset..].contains("\"step\":5"), "{events}");
    let length = std::fs::metadata(server.runs.join("a/metrics.jsonl"))
        .unwrap()
        .len()
        .to_string();
    let events = server
        .send(
            "GET",
            "/api/runs/a/events",
            &[("last-event-id", &length)],
            "",
        )
        .body;
    assert!(!events.contains("event: metrics"), "{events}");
}

#[test]
fn two_runs_are_compared() {
    let server = Server::start();
    server.finished("a", 4);
    server.finished("b", 8);
    let found = server.get("/api/compare?a=a&b=b").json();
    let keys: Vec<&str> = found["differences"]
        .as_array()
        .unwrap()
        .iter()
        .map(|d| d["key"].as_str().unwrap())
        .collect();
    assert_eq!(keys, ["description", "method.rank"]);
    assert_eq!(
        found["curves"]["train.loss"],
        json!([
            [[1, 5.0], [2, 6.0], [3, 7.0], [4, 8.0], [5, 9.0]],
            [[1, 9.0], [2, 10.0], [3, 11.0], [4, 12.0], [5, 13.0]],
        ])
    );
    assert_eq!(server.get("/api/compare?a=a&b=c").status, 404);
}

#[test]
fn the_catalogue_has_every_method_with_its_schema() {
    let server = Server::start();
    let found = server.get("/api/methods").json();
    let methods = found["methods"].as_array().unwrap();
    assert!(methods.len() >= 8, "{}", methods.len());
    assert!(
        methods
            .iter()
            .all(|method| method["schema"]["properties"].is_object())
    );
    assert_eq!(found["recipe"]["defaults"]["train"]["epochs"], 1);
}

#[test]
fn generation_needs_a_finished_adapter() {
    let server = Server::start();
    server.finished("a", 4);
    let wanted = r#"{"sides":["a",""],"prompt":"x","max_tokens":1}"#;
    let reply = server.post("/api/generate", wanted);
    assert_eq!(reply.status, 409, "{reply:?}");
    assert!(reply.body.contains("no finished adapter"), "{reply:?}");
}
