//! What can be asked, in one place.

use crate::answer::{Answer, Refusal, blocking, body, give, query};
use crate::server::Shared;
use crate::{assets, catalogue, compare, folders, generate, guard, live, start};
use axum::Router;
use axum::body::Bytes;
use axum::extract::rejection::QueryRejection;
use axum::extract::{Path, Query, State};
use axum::http::{HeaderMap, HeaderValue, StatusCode, header};
use axum::response::{IntoResponse, Response};
use axum::routing::{get, post};
use serde::Deserialize;
use serde_json::json;
use std::sync::Arc;

/// A report is a page of its own making: its script may run, but as a stranger without origin, so
/// that it can neither read nor ask anything here.
const REPORT_POLICY: &str = "sandbox allow-scripts; default-src 'none'; script-src 'unsafe-inline'; \
    style-src 'unsafe-inline'; img-src data:; frame-ancestors 'none'";

type Studio = State<Arc<Shared>>;

/// All routes behind the guard.
pub(crate) fn router(shared: &Arc<Shared>) -> Router {
    Router::new()
        .route("/", get(page))
        .route("/assets/{file}", get(asset))
        .route("/api/methods", get(catalogue::methods))
        .route("/api/runs", get(list).post(begin))
        .route("/api/runs/{name}", get(view))
        .route("/api/runs/{name}/events", get(events))
        .route("/api/runs/{name}/report", get(report))
        .route("/api/runs/{name}/stop", post(stop))
        .route("/api/runs/{name}/resume", post(resume))
        .route("/api/compare", get(compared))
        .route("/api/generate", post(generated))
        .fallback(nothing)
        .method_not_allowed_fallback(wrong_method)
        .layer(axum::middleware::from_fn_with_state(
            Arc::clone(shared),
            guard::guard,
        ))
        .with_state(Arc::clone(shared))
}

async fn page(State(shared): Studio) -> Response {
    assets::page(shared.gate.csrf())
}

async fn asset(Path(name): Path<String>) -> Answer {
    assets::file(&name)
}

async fn nothing() -> Refusal {
    Refusal::new(StatusCode::NOT_FOUND, "there is no such page")
}

async fn wrong_method() -> Refusal {
    Refusal::new(
        StatusCode::METHOD_NOT_ALLOWED,
        "this page takes another method",
    )
}

/// What to list.
#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
struct Search {
    /// Words that a run's name, method, host or description must hold.
    #[serde(default)]
    search: String,
}

async fn list(State(shared): Studio, found: Result<Query<Search>, QueryRejection>) -> Answer {
    let search = query(found)?.search;
    blocking(move || give(&folders::list(&shared, &search)?)).await
}

async fn view(State(shared): Studio, Path(name): Path<String>) -> Answer {
    blocking(move || give(&folders::view(&shared, &name)?)).await
}

async fn events(State(shared): Studio, Path(name): Path<String>, headers: HeaderMap) -> Answer {
    let last = headers
        .get("last-event-id")
        .and_then(|id| id.to_str().ok())
        .map(str::to_owned);
    live::events(shared, name, last).await
}

async fn report(State(shared): Studio, Path(name): Path<String>) -> Answer {
    let text = blocking(move || folders::report(&shared, &name)).await?;
    let kind = HeaderValue::from_static("text/html; charset=utf-8");
    let policy = HeaderValue::from_static(REPORT_POLICY);
    let headers = [
        (header::CONTENT_TYPE, kind),
        (header::CONTENT_SECURITY_POLICY, policy),
    ];
    Ok((headers, text).into_response())
}

/// A body without keys.
#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
struct Nothing {}

async fn begin(State(shared): Studio, bytes: Bytes) -> Answer {
    let wanted: start::Start = body(&bytes)?;
    let name = blocking(move || start::start(&shared, wanted)).await?;
    let mut answer = give(&json!({ "name": name }))?;
    *answer.status_mut() = StatusCode::CREATED;
    Ok(answer)
}

async fn stop(State(shared): Studio, Path(name): Path<String>, bytes: Bytes) -> Answer {
    let Nothing {} = body(&bytes)?;
    blocking(move || {
        folders::stop(&shared, &name)?;
        give(&json!({ "name": name }))
    })
    .await
}

async fn resume(State(shared): Studio, Path(name): Path<String>, bytes: Bytes) -> Answer {
    let Nothing {} = body(&bytes)?;
    blocking(move || {
        folders::resume(&shared, &name)?;
        give(&json!({ "name": name }))
    })
    .await
}

/// The two runs to compare.
#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
struct Pair {
    a: String,
    b: String,
}

async fn compared(State(shared): Studio, found: Result<Query<Pair>, QueryRejection>) -> Answer {
    let Pair { a, b } = query(found)?;
    blocking(move || give(&compare::compare(&shared, &a, &b)?)).await
}

async fn generated(State(shared): Studio, bytes: Bytes) -> Answer {
    let wanted: generate::Wanted = body(&bytes)?;
    give(&generate::generate(shared, wanted).await?)
}
