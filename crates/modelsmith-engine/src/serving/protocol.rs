//! A line of JSON in, a line of JSON out.
//!
//! ```text
//! {"prompt": TEXT or "messages": [...], "adapter": NAME, "id": ANY}  ->  {"id", "adapter", "text", "tokens", "finish", "ms"}
//! {"load": NAME, "folder": FOLDER[@WEIGHT]}                         ->  {"loaded": its costs}
//! {"unload": NAME}                                                  ->  {"unloaded": NAME}
//! {"costs": true}                                                   ->  {"costs": [...], "resident_bytes"}
//! ```
//!
//! Answers come in the order of the lines. What cannot be done is answered with `error`, and the next line is
//! read. Requests that have come in meanwhile are computed together.

use super::{Request, Serving};
use crate::generation::{Completion, Prompt, TextOptions};
use crate::memory::resident;
use crate::model::AdapterRef;
use modelsmith_core::error::{Error, Result};
use modelsmith_data::Message;
use serde::Deserialize;
use serde_json::{Value, json};
use std::io::BufRead;
use std::sync::mpsc::{Receiver, sync_channel};

/// What a line may say.
#[derive(Debug, Default, Deserialize)]
#[serde(default, deny_unknown_fields)]
struct Line {
    prompt: Option<String>,
    messages: Option<Vec<Message>>,
    adapter: Option<String>,
    id: Value,
    load: Option<String>,
    folder: Option<String>,
    unload: Option<String>,
    costs: bool,
}

/// What a line asks for.
enum Asked {
    Text(Value, Request),
    Load(String, AdapterRef),
    Unload(String),
    Costs,
}

/// Answers every line of `input` through `answer`, which returns false to stop.
///
/// # Errors
/// Input that cannot be read. Nothing that a line says is an error of the whole.
pub fn serve(
    serving: &mut Serving,
    input: impl BufRead + Send + 'static,
    options: &TextOptions,
    answer: &mut dyn FnMut(&Value) -> bool,
) -> Result<()> {
    let (sender, lines) = sync_channel(1024);
    std::thread::spawn(move || {
        for line in input.lines() {
            if sender.send(line).is_err() {
                break;
            }
        }
    });
    while let Some(batch) = waiting(&lines, options.batch_size.max(1))? {
        for answered in answers(serving, &batch, options) {
            if !answer(&answered) {
                return Ok(());
            }
        }
    }
    Ok(())
}

/// The next line, and those behind it that are there already; `None` at the end.
fn waiting(lines: &Receiver<std::io::Result<String>>, most: usize) -> Result<Option<Vec<String>>> {
    let Ok(first) = lines.recv() else {
        return Ok(None);
    };
    let more = std::iter::from_fn(|| lines.try_recv().ok()).take(most - 1);
    let all = std::iter::once(first).chain(more);
    let all = all.map(|line| line.map_err(|error| Error::io("requests", error)));
    all.collect::<Result<_>>().map(Some)
}

/// One answer for each line that is not blank.
fn answers(serving: &mut Serving, lines: &[String], options: &TextOptions) -> Vec<Value> {
    let mut found = Vec::new();
    let mut texts: Vec<(Value, Request)> = Vec::new();
    for line in lines.iter().filter(|line| !line.trim().is_empty()) {
        let asked = read(line);
        if let Ok(Asked::Text(id, request)) = asked {
            texts.push((id, request));
            continue;
        }
        found.extend(complete(serving, std::mem::take(&mut texts), options));
        found.push(match asked {
            Ok(Asked::Load(name, folder)) => match serving.load(&name, &folder) {
                Ok(cost) => json!({ "loaded": cost }),
                Err(error) => refused(&Value::Null, &error),
            },
            Ok(Asked::Unload(name)) => match serving.unload(&name) {
                Ok(()) => json!({ "unloaded": name }),
                Err(error) => refused(&Value::Null, &error),
            },
            Ok(_) => json!({ "costs": serving.costs(), "resident_bytes": resident() }),
            Err(error) => refused(&Value::Null, &error),
        });
    }
    found.extend(complete(serving, texts, options));
    found
}

fn read(line: &str) -> Result<Asked> {
    let line: Line = serde_json::from_str(line)
        .map_err(|error| Error::Usage(format!("the line is no request: {error}")))?;
    match line {
        Line {
            load: Some(name),
            folder: Some(folder),
            ..
        } => Ok(Asked::Load(name, AdapterRef::parse(&folder)?)),
        Line {
            load: Some(name), ..
        } => Err(Error::Usage(format!("load `{name}` names no `folder`"))),
        Line {
            unload: Some(name), ..
        } => Ok(Asked::Unload(name)),
        Line { costs: true, .. } => Ok(Asked::Costs),
        Line {
            messages: Some(messages),
            adapter,
            id,
            ..
        } => {
            let prompt = Prompt::Chat(messages);
            Ok(Asked::Text(id, Request { adapter, prompt }))
        }
        Line {
            prompt: Some(text),
            adapter,
            id,
            ..
        } => {
            let prompt = Prompt::Text(text);
            Ok(Asked::Text(id, Request { adapter, prompt }))
        }
        _ => Err(Error::Usage(
            "the line asks for nothing: give prompt, messages, load, unload or costs".into(),
        )),
    }
}

/// The texts of requests; where together they fail, each by itself, so that one keeps no other from its answer.
fn complete(
    serving: &mut Serving,
    texts: Vec<(Value, Request)>,
    options: &TextOptions,
) -> Vec<Value> {
    let requests: Vec<Request> = texts.iter().map(|(_, request)| request.clone()).collect();
    if let Ok(done) = serving.complete(&requests, options) {
        let pairs = texts.iter().zip(done);
        return pairs
            .map(|((id, request), done)| text(id, request, &done))
            .collect();
    }
    let alone = texts.iter().map(|(id, request)| {
        match serving.complete(std::slice::from_ref(request), options) {
            Ok(done) => done
                .first()
                .map_or(Value::Null, |done| text(id, request, done)),
            Err(error) => refused(id, &error),
        }
    });
    alone.collect()
}

fn text(id: &Value, request: &Request, done: &Completion) -> Value {
    json!({
        "id": id,
        "adapter": request.adapter,
        "text": done.text,
        "tokens": done.tokens,
        "finish": done.finish,
        "ms": done.seconds * 1e3,
    })
}

fn refused(id: &Value, error: &Error) -> Value {
    json!({ "id": id, "error": error.to_string() })
}
