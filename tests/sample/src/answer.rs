//! From a request to its answer: which endpoint, and the two headers that say who answered; no connections.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::time::Duration;

use hyper::body::Incoming;
use hyper::header::{CONTENT_TYPE, HeaderValue};
use hyper::{Request, Response, StatusCode};
use serde_json::json;
use tokio_util::task::TaskTracker;

use crate::body::{self, AnyBody};
use crate::client::Client;
use crate::options::{Options, Role};
use crate::role;

/// `/slow` waits no longer, in milliseconds.
const SLOW_MILLISECONDS_MAX: u64 = 120_000;
/// `/size` streams no more, in bytes.
const SIZE_BYTES_MAX: u64 = 1 << 30;

/// The application: what all connections share.
#[derive(Debug)]
pub struct Application {
    role: Role,
    options: Options,
    client: Client,
    leaving: AtomicBool,
    /// Calls of `/flaky` so far.
    flaky: AtomicU64,
    /// WebSockets, which outlive the connections that they began on; they end with the process.
    sockets: TaskTracker,
}

impl Application {
    /// Nothing is called yet.
    pub fn new(role: Role, options: Options) -> Arc<Self> {
        let client = Client::new(options.proxy.as_deref());
        Arc::new(Self {
            role,
            options,
            client,
            leaving: AtomicBool::new(false),
            flaky: AtomicU64::new(0),
            sockets: TaskTracker::new(),
        })
    }

    /// From now on `/healthz` says 503, so that no new calls are sent here.
    pub fn leave(&self) {
        self.leaving.store(true, Ordering::Relaxed);
    }

    /// The answer to one request; `x-pod` and `x-node` say who gave it.
    pub async fn answer(self: Arc<Self>, request: Request<Incoming>) -> Response<AnyBody> {
        let mut response = self.endpoint(request).await;
        for (name, value) in [("x-pod", &self.options.pod), ("x-node", &self.options.node)] {
            if let Ok(value) = HeaderValue::from_str(value) {
                response.headers_mut().insert(name, value);
            }
        }
        response
    }

    async fn endpoint(&self, request: Request<Incoming>) -> Response<AnyBody> {
        let query = |name| parameter(request.uri().query().unwrap_or(""), name);
        match request.uri().path() {
            "/" => {
                let number = query("number").and_then(|n| n.parse().ok());
                let show_path = query("path") == Some("true");
                let (status, page) =
                    role::page(self.role, &self.options, &self.client, number, show_path).await;
                json_answer(status, &serde_json::to_value(page).expect("a page is plain data"))
            }
            "/healthz" if self.leaving.load(Ordering::Relaxed) => {
                plain(StatusCode::SERVICE_UNAVAILABLE, "leaving\n")
            }
            "/healthz" => plain(StatusCode::OK, "ok\n"),
            "/slow" => match number(query("ms"), SLOW_MILLISECONDS_MAX) {
                Ok(milliseconds) => {
                    let milliseconds = milliseconds.saturating_add(self.options.slower_milliseconds);
                    tokio::time::sleep(Duration::from_millis(milliseconds)).await;
                    plain(StatusCode::OK, "done\n")
                }
                Err(problem) => plain(StatusCode::BAD_REQUEST, format!("ms: {problem}\n")),
            },
            "/size" => match number(query("bytes"), SIZE_BYTES_MAX) {
                Ok(bytes) => Response::new(body::filler(bytes, query("chunked") == Some("true"))),
                Err(problem) => plain(StatusCode::BAD_REQUEST, format!("bytes: {problem}\n")),
            },
            "/flaky" => match number(query("every"), SIZE_BYTES_MAX) {
                // The first call is well.
                Ok(every) => {
                    let number = self.flaky.fetch_add(1, Ordering::Relaxed) + 1;
                    let (status, text) = if number.is_multiple_of(every) {
                        (StatusCode::SERVICE_UNAVAILABLE, "not this time\n")
                    } else {
                        (StatusCode::OK, "this time\n")
                    };
                    let mut response = plain(status, text);
                    response.headers_mut().insert("x-call", HeaderValue::from(number));
                    response
                }
                Err(problem) => plain(StatusCode::BAD_REQUEST, format!("every: {problem}\n")),
            },
            "/ws" => crate::websocket::echo(request, &self.sockets)
                .unwrap_or_else(|problem| plain(StatusCode::BAD_REQUEST, problem)),
            "/echo" => echo(request),
            "/headers" => json_answer(StatusCode::OK, &arrived(&request)),
            "/status" => {
                match query("code").and_then(|c| c.parse().ok()).and_then(|c| StatusCode::from_u16(c).ok()) {
                    Some(code) if code.as_u16() >= 200 => plain(code, ""),
                    _ => plain(StatusCode::BAD_REQUEST, "code: a status from 200 to 999\n"),
                }
            }
            _ => plain(StatusCode::NOT_FOUND, "no such page\n"),
        }
    }
}

/// The body comes back as it arrives; trailers only when the caller announces them, as RFC 9110 §6.6.2 wants.
fn echo(request: Request<Incoming>) -> Response<AnyBody> {
    let (head, body) = request.into_parts();
    let mut response = Response::new(body::echo(body));
    for name in ["content-type", "trailer"] {
        if let Some(value) = head.headers.get(name) {
            response.headers_mut().insert(name, value.clone());
        }
    }
    response
}

fn arrived(request: &Request<Incoming>) -> serde_json::Value {
    let headers: Vec<_> = request
        .headers()
        .iter()
        .map(|(name, value)| json!([name.as_str(), String::from_utf8_lossy(value.as_bytes())]))
        .collect();
    json!({ "method": request.method().as_str(), "target": request.uri().to_string(), "headers": headers })
}

fn json_answer(status: StatusCode, value: &serde_json::Value) -> Response<AnyBody> {
    let mut response = plain(status, format!("{value}\n"));
    response.headers_mut().insert(CONTENT_TYPE, HeaderValue::from_static("application/json"));
    response
}

fn plain(status: StatusCode, text: impl Into<String>) -> Response<AnyBody> {
    let mut response = Response::new(body::text(text.into()));
    *response.status_mut() = status;
    response
}

/// The value of `name` in a query; names and values here need no decoding.
fn parameter<'a>(query: &'a str, name: &str) -> Option<&'a str> {
    query.split('&').find_map(|pair| pair.strip_prefix(name)?.strip_prefix('='))
}

fn number(text: Option<&str>, max: u64) -> Result<u64, String> {
    match text.map(str::parse) {
        Some(Ok(n)) if n <= max => Ok(n),
        _ => Err(format!("a whole number up to {max}")),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_parameter_is_found_by_its_whole_name() {
        assert_eq!(parameter("xms=1&ms=20&n", "ms"), Some("20"));
        assert_eq!(parameter("msec=1", "ms"), None);
        assert_eq!(parameter("", "ms"), None);
    }

    #[test]
    fn numbers_have_a_bound() {
        assert_eq!(number(Some("7"), 7), Ok(7));
        assert!(number(Some("8"), 7).is_err());
        assert!(number(Some("-1"), 7).is_err());
        assert!(number(None, 7).is_err());
    }
}
