//! What people and scrapers may ask: readiness, figures, what is served and why not, what a call would get, the log level; changes nothing else.

use std::sync::Arc;
use std::time::Duration;

use hyper::body::Bytes;
use hyper::{Method, StatusCode};
use serde_json::json;
use tokio::time::{Instant, timeout};
use vicino_engine::snapshot::Snapshot;

use crate::explain::{Call, Moment, at_node};
use crate::log::Level;
use crate::metrics::Figures;
use crate::web::{Answer, Site};
use crate::worker;

mod view;

/// The content type of OpenMetrics text.
const OPEN_METRICS: &str = "application/openmetrics-text; version=1.0.0; charset=utf-8";

/// How long workers may take to serve what was built just now before a question about it is turned away.
const SERVED_MAX: Duration = Duration::from_secs(3);

/// For anybody on the node's network: figures and health.
#[derive(Debug)]
pub struct Public {
    /// Where figures are read.
    pub figures: Figures,
}

/// For people on the node itself: everything.
#[derive(Debug)]
pub struct Admin {
    /// Where figures are read.
    pub figures: Figures,
    /// The log level; absent when this process does not write log lines.
    pub level: Option<Level>,
}

impl Site for Public {
    async fn answer(self: Arc<Self>, method: Method, path: String, _body: Bytes) -> Answer {
        match (&method, path.as_str()) {
            (&Method::GET, "/metrics") => {
                Answer { status: StatusCode::OK, content: OPEN_METRICS, body: self.figures.text() }
            }
            (&Method::GET, "/ready") => health(self.figures.life.ready()),
            (&Method::GET, "/live") => health(self.figures.life.live().await),
            _ => Answer::text(StatusCode::NOT_FOUND, "there are /metrics, /ready and /live\n"),
        }
    }
}

impl Site for Admin {
    async fn answer(self: Arc<Self>, method: Method, path: String, body: Bytes) -> Answer {
        let edition = self.figures.editions.borrow().clone();
        match (&method, path.as_str()) {
            (&Method::GET, "/snapshot") => Answer::json(&view::snapshot(&edition.snapshot)),
            (&Method::GET, "/config") => Answer::json(&view::config(&edition)),
            (&Method::GET, "/log-level") => match &self.level {
                Some(level) => Answer::text(StatusCode::OK, level.current() + "\n"),
                None => Answer::text(StatusCode::NOT_FOUND, "no log lines are written\n"),
            },
            (&Method::PUT, "/log-level") => self.set_level(&body),
            (&Method::POST, "/explain") => self.explain(&edition.snapshot, &body).await,
            (&Method::GET, "/metrics" | "/ready" | "/live") => {
                Arc::new(Public { figures: self.figures.clone() }).answer(method, path, body).await
            }
            _ => Answer::text(
                StatusCode::NOT_FOUND,
                "there are /snapshot, /config, /explain (POST), /log-level (GET, PUT), /metrics, /ready and /live\n",
            ),
        }
    }
}

impl Admin {
    fn set_level(&self, body: &Bytes) -> Answer {
        let text = String::from_utf8_lossy(body);
        match self.level.as_ref().map(|level| level.set(text.trim())) {
            Some(Ok(())) => {
                tracing::info!(level = text.trim(), "log level changed");
                Answer::text(StatusCode::OK, format!("{}\n", text.trim()))
            }
            Some(Err(e)) => Answer::text(StatusCode::BAD_REQUEST, format!("{e}\n")),
            None => Answer::text(StatusCode::NOT_FOUND, "no log lines are written\n"),
        }
    }
}

/// What `/explain` is asked with.
const CALL: &str = r#"{"method": "GET", "host": "quotes", "path": "/today", "headers": ["x-tester: yes"], "from": "demo/web"}"#;

impl Admin {
    /// What a call of one of the node's pods would get now.
    async fn explain(&self, snapshot: &Snapshot, body: &Bytes) -> Answer {
        let Figures { life, freshness, sight, .. } = &self.figures;
        let call: Call = match serde_json::from_slice(body) {
            Ok(call) => call,
            Err(e) => {
                return Answer::text(
                    StatusCode::BAD_REQUEST,
                    format!("the body is no call: {e}; write {CALL}\n"),
                );
            }
        };
        if let Some((field, right)) = flaw(&call) {
            return Answer::text(StatusCode::BAD_REQUEST, format!("{field}: {right}\n"));
        }
        if let Err(why) = life.ready() {
            return Answer::text(StatusCode::SERVICE_UNAVAILABLE, format!("no calls are served: {why}\n"));
        }
        if let Some(crew) = life.crew()
            && timeout(SERVED_MAX, crew.serves(snapshot.version)).await.is_err()
        {
            let text = format!("the workers do not serve snapshot {} yet\n", snapshot.version);
            return Answer::text(StatusCode::SERVICE_UNAVAILABLE, text);
        }
        let doubts = sight.borrow().doubts.clone();
        let moment = Moment {
            snapshot,
            doubts: &doubts,
            config_age: freshness.age(Instant::now()),
            time: worker::time(),
        };
        match at_node(moment, &call) {
            Ok(explanation) => Answer::json(&json!(explanation)),
            Err(wrong) => Answer::text(StatusCode::BAD_REQUEST, format!("{wrong}\n")),
        }
    }
}

/// The field of a call that can't be right, and what would be.
fn flaw(call: &Call) -> Option<(&'static str, &'static str)> {
    let Call { method, host, path, headers, .. } = call;
    match () {
        () if host.is_empty() => Some(("host", "name a Service or another host, as quotes.demo:80")),
        () if call.namespace().is_empty() => {
            Some(("from", "say a namespace, or namespace/name of a pod or service account"))
        }
        () if path.is_empty() && method != "CONNECT" => Some(("path", "begin it with a /")),
        () if headers.iter().any(|field| !field.contains(':')) => {
            Some(("headers", "write each as name: value"))
        }
        () => None,
    }
}

fn health(health: Result<(), String>) -> Answer {
    match health {
        Ok(()) => Answer::text(StatusCode::OK, "ok\n"),
        Err(why) => Answer::text(StatusCode::SERVICE_UNAVAILABLE, why + "\n"),
    }
}

#[cfg(test)]
mod tests;
