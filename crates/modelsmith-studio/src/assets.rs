//! The page: its files are in the program, and nothing comes from elsewhere.

use crate::answer::{Answer, Refusal};
use axum::http::{HeaderValue, StatusCode, header};
use axum::response::{IntoResponse, Response};

const HTML: &str = "text/html; charset=utf-8";
const CSS: &str = "text/css; charset=utf-8";
const SCRIPT: &str = "text/javascript; charset=utf-8";
const PAGE: &str = include_str!("../assets/index.html");

/// Every file by name; only these exist, so no name can lead out of a folder.
const FILES: &[(&str, &str, &str)] = &[
    ("style.css", CSS, include_str!("../assets/style.css")),
    ("main.js", SCRIPT, include_str!("../assets/main.js")),
    ("api.js", SCRIPT, include_str!("../assets/api.js")),
    ("dom.js", SCRIPT, include_str!("../assets/dom.js")),
    ("chart.js", SCRIPT, include_str!("../assets/chart.js")),
    ("form.js", SCRIPT, include_str!("../assets/form.js")),
    ("runs.js", SCRIPT, include_str!("../assets/runs.js")),
    ("run.js", SCRIPT, include_str!("../assets/run.js")),
    ("compare.js", SCRIPT, include_str!("../assets/compare.js")),
    ("generate.js", SCRIPT, include_str!("../assets/generate.js")),
    ("methods.js", SCRIPT, include_str!("../assets/methods.js")),
    ("start.js", SCRIPT, include_str!("../assets/start.js")),
];

/// The page with the proof that changes must carry.
pub(crate) fn page(csrf: &str) -> Response {
    let text = PAGE.replace("{{csrf}}", csrf);
    (
        [(header::CONTENT_TYPE, HeaderValue::from_static(HTML))],
        text,
    )
        .into_response()
}

/// A file of the page.
///
/// # Errors
/// A name that is none of them.
pub(crate) fn file(name: &str) -> Answer {
    let found = FILES.iter().find(|(known, _, _)| *known == name);
    let Some((_, kind, text)) = found else {
        return Err(Refusal::new(StatusCode::NOT_FOUND, "there is no such file"));
    };
    Ok((
        [(header::CONTENT_TYPE, HeaderValue::from_static(kind))],
        *text,
    )
        .into_response())
}
