//! What people and scrapers may ask: readiness, figures, what is served and why not, the log level; changes nothing else.

use std::sync::Arc;

use hyper::body::Bytes;
use hyper::{Method, StatusCode};

use crate::log::Level;
use crate::metrics::Figures;
use crate::web::{Answer, Site};

mod view;

/// The content type of OpenMetrics text.
const OPEN_METRICS: &str = "application/openmetrics-text; version=1.0.0; charset=utf-8";

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
            (&Method::GET, "/metrics" | "/ready" | "/live") => {
                Arc::new(Public { figures: self.figures.clone() }).answer(method, path, body).await
            }
            _ => Answer::text(
                StatusCode::NOT_FOUND,
                "there are /snapshot, /config, /log-level (GET, PUT), /metrics, /ready and /live\n",
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

fn health(health: Result<(), String>) -> Answer {
    match health {
        Ok(()) => Answer::text(StatusCode::OK, "ok\n"),
        Err(why) => Answer::text(StatusCode::SERVICE_UNAVAILABLE, why + "\n"),
    }
}
