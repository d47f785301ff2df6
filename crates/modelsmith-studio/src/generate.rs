//! Text from two runs side by side: one request at a time, within a budget.

use crate::answer::{Answer, Refusal, blocking};
use crate::folders;
use crate::server::Shared;
use axum::http::StatusCode;
use modelsmith_core::error::{Error, Result};
use modelsmith_engine::generation::{Completion, Prompt, TextOptions, complete};
use modelsmith_engine::model::{AdapterRef, Model, ModelOptions};
use serde::{Deserialize, Serialize};
use std::path::PathBuf;
use std::sync::Arc;
use std::time::{Duration, Instant};

/// Time that one side may generate.
const TIME: Duration = Duration::from_secs(60);
/// Tokens that one side may generate.
const TOKENS: usize = 256;
/// Longest prompt in bytes.
const PROMPT_BYTES: usize = 16 << 10;

/// What the page asks for.
#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub(crate) struct Wanted {
    /// Runs by name; an empty one is the host alone.
    sides: [String; 2],
    prompt: String,
    max_tokens: usize,
    #[serde(default)]
    temperature: f64,
    #[serde(default)]
    seed: u64,
    /// Whether the prompt is the user's turn of a chat.
    #[serde(default)]
    chat: bool,
}

/// The text of one side.
#[derive(Debug, Serialize)]
pub(crate) struct Side {
    run: String,
    host: PathBuf,
    #[serde(flatten)]
    completion: Completion,
    seconds: f64,
    /// Whether the time ended it.
    out_of_time: bool,
}

/// Generates both sides.
///
/// # Errors
/// Values out of range, a run without an adapter, a generation that is under way.
pub(crate) async fn generate(shared: Arc<Shared>, wanted: Wanted) -> Answer<[Side; 2]> {
    check(&wanted)?;
    blocking(move || {
        let Ok(_only) = shared.generation.try_acquire() else {
            let reason = "another text is being generated; try again in a moment";
            return Err(Refusal::new(StatusCode::TOO_MANY_REQUESTS, reason));
        };
        let models = [side(&shared, &wanted, 0)?, side(&shared, &wanted, 1)?];
        let [a, b] = models;
        let first = run(&wanted, &wanted.sides[0], &a)?;
        Ok([first, run(&wanted, &wanted.sides[1], &b)?])
    })
    .await
}

fn check(wanted: &Wanted) -> Result<()> {
    if !(1..=TOKENS).contains(&wanted.max_tokens) {
        let problem = format!("is {}; must be 1 to {TOKENS}", wanted.max_tokens);
        return Err(Error::config("max_tokens", problem));
    }
    if !(0.0..=5.0).contains(&wanted.temperature) {
        let problem = format!("is {}; must be 0 to 5", wanted.temperature);
        return Err(Error::config("temperature", problem));
    }
    if wanted.prompt.is_empty() || wanted.prompt.len() > PROMPT_BYTES {
        let problem = format!(
            "has {} bytes; must have 1 to {PROMPT_BYTES}",
            wanted.prompt.len()
        );
        return Err(Error::config("prompt", problem));
    }
    Ok(())
}

/// What to load for a side: a run's adapter on its host, a pretrained model, or the host of the
/// other side alone.
fn side(shared: &Shared, wanted: &Wanted, number: usize) -> Answer<ModelOptions> {
    let device = "flex".to_owned();
    let name = &wanted.sides[number];
    if name.is_empty() {
        let other = &wanted.sides[1 - number];
        if other.is_empty() {
            return Err(Error::config("sides", "both are empty; choose a run for one").into());
        }
        let host = Some(folders::recipe(shared, other)?.host.path);
        return Ok(ModelOptions {
            host,
            device,
            ..ModelOptions::default()
        });
    }
    let path = folders::folder(&shared.runs, name)?;
    if path.join("model/config.json").is_file() {
        let host = Some(path.join("model"));
        return Ok(ModelOptions {
            host,
            device,
            ..ModelOptions::default()
        });
    }
    let adapter = path.join("adapter");
    if !adapter.join("adapter_config.json").is_file() {
        let reason = format!("run {name} has no finished adapter");
        return Err(Refusal::new(StatusCode::CONFLICT, reason));
    }
    let host = Some(folders::recipe(shared, name)?.host.path);
    let adapters = vec![AdapterRef::new(adapter)];
    Ok(ModelOptions {
        host,
        adapters,
        device,
        ..ModelOptions::default()
    })
}

fn run(wanted: &Wanted, name: &str, options: &ModelOptions) -> Result<Side> {
    let model = Model::load(options)?;
    let text = TextOptions {
        chat: wanted.chat,
        chat_template: "model".to_owned(),
        system: None,
        max_tokens: wanted.max_tokens,
        temperature: wanted.temperature,
        top_k: 0,
        top_p: 1.0,
        repetition_penalty: 1.0,
        stop: Vec::new(),
        seed: wanted.seed,
        batch_size: 1,
    };
    let started = Instant::now();
    let mut in_time = true;
    let prompts = [Prompt::Text(wanted.prompt.clone())];
    let mut done = complete(&model, &prompts, &text, &mut |_| {
        in_time = started.elapsed() < TIME;
        in_time
    })?;
    let completion = done
        .pop()
        .ok_or_else(|| Error::Failed("nothing was generated".into()))?;
    Ok(Side {
        run: name.to_owned(),
        host: model.folder,
        completion,
        seconds: started.elapsed().as_secs_f64(),
        out_of_time: !in_time,
    })
}
