//! A run as it happens: metrics, log and status by server-sent events.
//!
//! ```text
//! metrics {offset, records} (its id is the offset, so a browser that lost the line goes on there)
//! reset {}   the run was cut back to a checkpoint: forget what came
//! log {text}   status {status}   end {}
//! ```

use crate::answer::{Answer, blocking};
use crate::folders::{self, Status};
use crate::metrics::{Batch, Grown, Tail, records};
use crate::server::Shared;
use axum::response::IntoResponse;
use axum::response::sse::{Event, KeepAlive, Sse};
use serde_json::{Value, json};
use std::convert::Infallible;
use std::io;
use std::sync::Arc;
use std::time::Duration;
use tokio::sync::mpsc::{Sender, channel};
use tokio_stream::wrappers::ReceiverStream;

/// Time between two looks at the files.
const EVERY: Duration = Duration::from_millis(250);
/// Events that wait for a slow visitor.
const WAITING: usize = 16;

type Out = Sender<Result<Event, Infallible>>;

/// The stream of a run; it closes after the run's end.
///
/// # Errors
/// No run of the name.
pub(crate) async fn events(shared: Arc<Shared>, name: String, last: Option<String>) -> Answer {
    let (asked, of) = (Arc::clone(&shared), name.clone());
    let follower = blocking(move || {
        folders::status(&asked, &of)?.ok_or_else(|| folders::absent(&of))?;
        let path = folders::folder(&asked.runs, &of)?;
        let offset = last.and_then(|id| id.parse().ok()).unwrap_or(0);
        Ok(Follower {
            metrics: Tail::new(path.join("metrics.jsonl"), offset),
            log: Tail::near_end(asked.jobs.log(&of)),
            name: of,
            shared: asked,
            status: None,
        })
    })
    .await?;
    let (sender, receiver) = channel(WAITING);
    tokio::spawn(follow(follower, sender));
    let keep = KeepAlive::new().interval(Duration::from_secs(10));
    Ok(Sse::new(ReceiverStream::new(receiver))
        .keep_alive(keep)
        .into_response())
}

/// Sends what is new until the run ends or the visitor leaves.
async fn follow(mut follower: Follower, out: Out) {
    while !out.is_closed() {
        let looked = tokio::task::spawn_blocking(move || {
            let news = follower.look();
            (follower, news)
        });
        let Ok((kept, news)) = looked.await else {
            return;
        };
        follower = kept;
        // What cannot be read now may be readable at the next look.
        let news = news.unwrap_or_default();
        let quiet = news.is_empty();
        for event in news {
            if out.send(Ok(event)).await.is_err() {
                return;
            }
        }
        if quiet {
            if follower.status.is_none_or(|status| !status.is_live()) {
                let _ = out.send(Ok(event("end", &json!({})))).await;
                return;
            }
            tokio::time::sleep(EVERY).await;
        }
    }
}

struct Follower {
    shared: Arc<Shared>,
    name: String,
    metrics: Tail,
    log: Tail,
    status: Option<Status>,
}

impl Follower {
    /// What is new. The status is read first: what the run wrote before it ended is then still
    /// sent before the end.
    fn look(&mut self) -> io::Result<Vec<Event>> {
        let mut news = Vec::new();
        let status = folders::status(&self.shared, &self.name).ok().flatten();
        if status != self.status {
            self.status = status;
            news.push(event("status", &json!({ "status": status })));
        }
        match self.metrics.next()? {
            Grown::Nothing => {}
            Grown::CutBack => news.push(event("reset", &json!({}))),
            Grown::Lines(lines) => news.push(self.batch(&lines)),
        }
        match self.log.next()? {
            Grown::Lines(lines) => {
                let text = String::from_utf8_lossy(&lines);
                news.push(event("log", &json!({ "text": text })));
            }
            Grown::Nothing | Grown::CutBack => {}
        }
        Ok(news)
    }

    fn batch(&mut self, lines: &[u8]) -> Event {
        let Some(records) = records(lines) else {
            self.metrics.offset = 0;
            return event("reset", &json!({}));
        };
        let offset = self.metrics.offset;
        let batch = serde_json::to_value(Batch { offset, records }).unwrap_or_default();
        event("metrics", &batch).id(offset.to_string())
    }
}

/// JSON has no line breaks, which the event format could not carry.
fn event(kind: &str, value: &Value) -> Event {
    Event::default().event(kind).data(value.to_string())
}
