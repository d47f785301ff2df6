//! Who may ask: the check that every request passes before anything is looked up.
//!
//! ```text
//! Host (DNS rebinding) | token or cookie | Sec-Fetch-Site, Origin (other sites) | CSRF header | size and pace of the body
//! ```

use crate::answer::{Answer, Refusal};
use crate::secret;
use crate::server::{Limits, Shared};
use axum::body::{Body, to_bytes};
use axum::extract::{Request, State};
use axum::http::{HeaderMap, HeaderName, HeaderValue, Method, StatusCode, header};
use axum::middleware::Next;
use axum::response::{IntoResponse, Response};
use modelsmith_core::error::Result;
use std::net::{IpAddr, SocketAddr};
use std::sync::Arc;

/// Header that carries the page's proof of having been loaded from here.
const CSRF: &str = "x-studio-csrf";
/// Nothing from elsewhere, nothing inline, nowhere to be framed.
const POLICY: &str = "default-src 'none'; script-src 'self'; style-src 'self'; img-src 'self' data:; \
    connect-src 'self'; form-action 'none'; base-uri 'none'; frame-ancestors 'none'";
const HEADERS: &[(&str, &str)] = &[
    ("x-content-type-options", "nosniff"),
    ("referrer-policy", "no-referrer"),
    ("cache-control", "no-store"),
    ("cross-origin-resource-policy", "same-origin"),
    ("cross-origin-opener-policy", "same-origin"),
];

/// The secrets of this process and the names it answers to.
pub(crate) struct Gate {
    address: SocketAddr,
    limits: Limits,
    csrf: String,
    access: Option<Access>,
}

/// A token, and what the cookie holds in its stead.
struct Access {
    token: String,
    cookie_name: String,
    session: String,
}

impl Gate {
    /// New secrets for an address.
    ///
    /// # Errors
    /// The system has no randomness.
    pub(crate) fn new(address: SocketAddr, token: Option<String>, limits: Limits) -> Result<Self> {
        let access = match token {
            None => None,
            // Cookies are shared between ports, hence the port in the name.
            Some(token) => Some(Access {
                token,
                cookie_name: format!("modelsmith_studio_{}", address.port()),
                session: secret::random()?,
            }),
        };
        Ok(Self {
            address,
            limits,
            csrf: secret::random()?,
            access,
        })
    }

    /// The token that visitors must know.
    pub(crate) fn token(&self) -> Option<&str> {
        self.access.as_ref().map(|access| access.token.as_str())
    }

    /// What the page sends with every change.
    pub(crate) fn csrf(&self) -> &str {
        &self.csrf
    }

    /// The one host that the request names, if it is this studio.
    fn host<'r>(&self, request: &'r Request) -> Answer<&'r str> {
        let mut named = request.headers().get_all(header::HOST).iter();
        let refused = |what: &str| {
            let reason = format!("{what}; open the address that the studio printed");
            Refusal::new(StatusCode::FORBIDDEN, reason)
        };
        let (Some(host), None) = (named.next(), named.next()) else {
            return Err(refused("expected one Host header"));
        };
        let host = host.to_str().unwrap_or_default();
        if request
            .uri()
            .authority()
            .is_some_and(|authority| authority.as_str() != host)
        {
            return Err(refused("the address and the Host header differ"));
        }
        if self.answers_to(host) {
            Ok(host)
        } else {
            Err(refused("the Host header names another host or port"))
        }
    }

    /// `127.0.0.1`, `localhost` and `[::1]` with our port; where other machines may come, any
    /// address in digits, which no name server can point elsewhere.
    fn answers_to(&self, host: &str) -> bool {
        let port = self.address.port();
        if host == format!("localhost:{port}") {
            return true;
        }
        let written: Option<SocketAddr> = host.parse().ok();
        // Port 80 is left out by browsers.
        let bare = || Some(SocketAddr::new(host.parse::<IpAddr>().ok()?, 80));
        written.or_else(bare).is_some_and(|named| {
            let local = named.ip().is_loopback() || named.ip() == self.address.ip();
            named.port() == port && (local || !self.address.ip().is_loopback())
        })
    }

    /// Whether the visitor has shown the token; a redirect that sets the cookie on first use.
    fn admit(&self, request: &Request) -> Answer<Option<Response>> {
        let Some(access) = &self.access else {
            return Ok(None);
        };
        let headers = request.headers();
        let bearer = headers
            .get(header::AUTHORIZATION)
            .and_then(|value| value.to_str().ok()?.strip_prefix("Bearer "));
        let known = bearer.is_some_and(|token| secret::equal(token, &access.token))
            || cookies(headers, &access.cookie_name)
                .any(|session| secret::equal(session, &access.session));
        if known {
            return Ok(None);
        }
        let shown = request
            .uri()
            .query()
            .and_then(|query| query.strip_prefix("token="));
        if request.uri().path() == "/" && shown.is_some_and(|t| secret::equal(t, &access.token)) {
            return Ok(Some(access.welcome()));
        }
        let reason = "this studio asks for a token; open the address with ?token= that it printed";
        Err(Refusal::new(StatusCode::UNAUTHORIZED, reason))
    }

    /// Refuses what another site sends through the visitor's browser.
    fn same_site(&self, request: &Request, host: &str) -> Answer<()> {
        let headers = request.headers();
        let refused = |reason: &str| Err(Refusal::new(StatusCode::FORBIDDEN, reason));
        let site = headers.get("sec-fetch-site").map(HeaderValue::as_bytes);
        let own = matches!(site, None | Some(b"same-origin" | b"none"));
        let reading = matches!(*request.method(), Method::GET | Method::HEAD);
        let visit = reading && request.uri().path() == "/";
        if !own && !visit {
            return refused("requests from other sites are refused");
        }
        let origin = headers.get(header::ORIGIN).map(HeaderValue::as_bytes);
        let expected = format!("http://{host}");
        if origin.is_some_and(|origin| origin != expected.as_bytes()) {
            return refused("requests from other origins are refused");
        }
        if reading {
            return Ok(());
        }
        let proof = headers.get(CSRF).and_then(|value| value.to_str().ok());
        if proof.is_some_and(|proof| secret::equal(proof, &self.csrf)) {
            Ok(())
        } else {
            refused("the x-studio-csrf header is missing or of an earlier studio; reload the page")
        }
    }

    /// The request with its whole body, which must be JSON, small, and come in time.
    async fn with_body(&self, request: Request) -> Answer<Request> {
        if matches!(*request.method(), Method::GET | Method::HEAD) {
            return Ok(request);
        }
        let json = request
            .headers()
            .get(header::CONTENT_TYPE)
            .and_then(|kind| kind.to_str().ok())
            .is_some_and(|kind| kind.split(';').next() == Some("application/json"));
        if !json {
            let reason = "expected a body of type application/json";
            return Err(Refusal::new(StatusCode::UNSUPPORTED_MEDIA_TYPE, reason));
        }
        let (parts, body) = request.into_parts();
        let read = to_bytes(body, self.limits.body_bytes);
        match tokio::time::timeout(self.limits.body, read).await {
            Ok(Ok(bytes)) => Ok(Request::from_parts(parts, Body::from(bytes))),
            Ok(Err(_)) => {
                let most = self.limits.body_bytes;
                let reason = format!("the body has more than {most} bytes, or was cut off");
                Err(Refusal::new(StatusCode::PAYLOAD_TOO_LARGE, reason))
            }
            Err(_) => {
                let reason = "the body did not come in time";
                Err(Refusal::new(StatusCode::REQUEST_TIMEOUT, reason))
            }
        }
    }

    async fn check(&self, request: Request) -> Answer<Checked> {
        let host = self.host(&request)?.to_owned();
        if let Some(welcome) = self.admit(&request)? {
            return Ok(Checked::Answered(welcome));
        }
        self.same_site(&request, &host)?;
        Ok(Checked::Passed(self.with_body(request).await?))
    }
}

impl Access {
    /// To the page without the token in its address, with the cookie.
    fn welcome(&self) -> Response {
        let Self {
            cookie_name,
            session,
            ..
        } = self;
        let cookie = format!("{cookie_name}={session}; Path=/; HttpOnly; SameSite=Strict");
        let headers = [
            (header::SET_COOKIE, cookie),
            (header::LOCATION, "/".to_owned()),
        ];
        (StatusCode::SEE_OTHER, headers).into_response()
    }
}

enum Checked {
    Passed(Request),
    Answered(Response),
}

fn cookies<'h>(headers: &'h HeaderMap, name: &'h str) -> impl Iterator<Item = &'h str> {
    headers
        .get_all(header::COOKIE)
        .iter()
        .filter_map(|value| value.to_str().ok())
        .flat_map(|line| line.split(';'))
        .filter_map(|pair| pair.trim().split_once('='))
        .filter(move |(found, _)| *found == name)
        .map(|(_, value)| value)
}

/// Lets through what may ask, and puts the protecting headers on every answer.
pub(crate) async fn guard(
    State(shared): State<Arc<Shared>>,
    request: Request,
    next: Next,
) -> Response {
    let checked = shared.gate.check(request).await;
    let refused = checked.is_err();
    let mut response = match checked {
        Ok(Checked::Passed(request)) => next.run(request).await,
        Ok(Checked::Answered(response)) => response,
        Err(refusal) => refusal.into_response(),
    };
    let headers = response.headers_mut();
    for (name, value) in HEADERS {
        headers.insert(
            HeaderName::from_static(name),
            HeaderValue::from_static(value),
        );
    }
    // A report brings a policy of its own.
    headers
        .entry(header::CONTENT_SECURITY_POLICY)
        .or_insert(HeaderValue::from_static(POLICY));
    if refused {
        headers.insert(header::CONNECTION, HeaderValue::from_static("close"));
    }
    response
}

#[cfg(test)]
mod tests {
    use super::*;

    fn gate(address: &str) -> Gate {
        Gate::new(address.parse().unwrap(), None, Limits::default()).unwrap()
    }

    #[test]
    fn names_that_a_name_server_could_move_are_refused() {
        let local = gate("127.0.0.1:7878");
        for host in ["127.0.0.1:7878", "localhost:7878", "[::1]:7878"] {
            assert!(local.answers_to(host), "{host}");
        }
        let foreign = [
            "evil.example:7878",
            "127.0.0.1",
            "127.0.0.1:1",
            "localhost",
            "10.0.0.1:7878",
            "localhost.evil.example:7878",
            "",
        ];
        for host in foreign {
            assert!(!local.answers_to(host), "{host}");
        }
        let open = gate("0.0.0.0:7878");
        assert!(open.answers_to("192.168.1.5:7878"));
        assert!(!open.answers_to("evil.example:7878"));
    }
}
