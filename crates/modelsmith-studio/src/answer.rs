//! Answers: JSON, refusals with a reason, and bodies read with unknown keys refused.

use axum::extract::Query;
use axum::extract::rejection::QueryRejection;
use axum::http::{HeaderValue, StatusCode, header};
use axum::response::{IntoResponse, Response};
use modelsmith_core::error::Error;
use modelsmith_core::files::parse_json;
use serde::Serialize;
use serde::de::DeserializeOwned;
use serde_json::json;
use std::io::ErrorKind;

/// Result of a request.
pub(crate) type Answer<T = Response> = Result<T, Refusal>;

/// A status and the reason that the page shows.
#[derive(Debug)]
pub(crate) struct Refusal {
    status: StatusCode,
    reason: String,
}

impl Refusal {
    /// A refusal with its reason.
    pub(crate) fn new(status: StatusCode, reason: impl Into<String>) -> Self {
        Self {
            status,
            reason: reason.into(),
        }
    }
}

impl From<Error> for Refusal {
    fn from(error: Error) -> Self {
        let status = match &error {
            Error::Config { .. } | Error::Usage(_) => StatusCode::BAD_REQUEST,
            Error::Locked { .. } => StatusCode::CONFLICT,
            Error::Io { source, .. } if source.kind() == ErrorKind::NotFound => {
                StatusCode::NOT_FOUND
            }
            Error::File { .. } => StatusCode::UNPROCESSABLE_ENTITY,
            Error::Resource(_) => StatusCode::INSUFFICIENT_STORAGE,
            _ => StatusCode::INTERNAL_SERVER_ERROR,
        };
        Self::new(status, error.to_string())
    }
}

impl IntoResponse for Refusal {
    fn into_response(self) -> Response {
        let mut response = text_of(&json!({ "error": self.reason })).into_response();
        *response.status_mut() = self.status;
        response
    }
}

/// A value as JSON.
///
/// # Errors
/// A value that has no JSON form.
pub(crate) fn give(value: &impl Serialize) -> Answer {
    let value = serde_json::to_value(value)
        .map_err(|error| Refusal::new(StatusCode::INTERNAL_SERVER_ERROR, error.to_string()))?;
    Ok(text_of(&value).into_response())
}

fn text_of(value: &serde_json::Value) -> impl IntoResponse + use<> {
    let kind = HeaderValue::from_static("application/json");
    ([(header::CONTENT_TYPE, kind)], value.to_string())
}

/// The body as a type; its types refuse unknown keys.
///
/// # Errors
/// No JSON, too deep, a wrong type, an unknown key.
pub(crate) fn body<T: DeserializeOwned>(bytes: &[u8]) -> Answer<T> {
    parse_json("request", bytes)
        .map_err(|error| Refusal::new(StatusCode::BAD_REQUEST, error.to_string()))
}

/// The query as a type; its types refuse unknown keys.
///
/// # Errors
/// A wrong type, an unknown or a missing key.
pub(crate) fn query<T>(found: Result<Query<T>, QueryRejection>) -> Answer<T> {
    match found {
        Ok(Query(value)) => Ok(value),
        Err(problem) => Err(Refusal::new(StatusCode::BAD_REQUEST, problem.body_text())),
    }
}

/// Runs what blocks beside the server's threads.
///
/// # Errors
/// What the work refuses; work that died.
pub(crate) async fn blocking<T: Send + 'static>(
    work: impl FnOnce() -> Answer<T> + Send + 'static,
) -> Answer<T> {
    tokio::task::spawn_blocking(work).await.unwrap_or_else(|_| {
        let reason = "the request failed inside the studio; its terminal says where";
        Err(Refusal::new(StatusCode::INTERNAL_SERVER_ERROR, reason))
    })
}
