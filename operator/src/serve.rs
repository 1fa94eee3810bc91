//! `/healthz`, `/readyz` and `/metrics` over HTTP/1.1; answers what it is told and changes nothing.

use std::convert::Infallible;
use std::net::SocketAddr;
use std::sync::{Arc, Mutex};
use std::time::Duration;

use http_body_util::Full;
use hyper::body::{Bytes, Incoming};
use hyper::service::service_fn;
use hyper::{Method, Request, Response, StatusCode};
use hyper_util::rt::{TokioIo, TokioTimer};
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::Semaphore;
use tokio::time::Instant;
use tokio_util::sync::CancellationToken;
use tokio_util::task::TaskTracker;

use crate::metric::Exposition;

/// Connections at one time; more wait in the kernel's queue.
const CONNECTIONS_MAX: usize = 64;
/// A caller has this long to say what it wants.
const HEAD_TIMEOUT: Duration = Duration::from_secs(5);
/// A connection is closed after this long.
const CONNECTION_TIMEOUT: Duration = Duration::from_mins(1);
/// A pass in which no write ends for this long is stuck: every request has an end, so it cannot be at work.
const PASS_MAX: Duration = Duration::from_mins(5);

/// What this process is doing.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
enum Role {
    /// Another replica leads: ready to take over.
    #[default]
    Standby,
    /// Leads, and has not seen the whole cluster yet.
    Syncing,
    /// Leads, and has run the pipeline.
    Leading,
}

#[derive(Debug, Default)]
struct State {
    role: Role,
    /// When the pass that is under way began, or a write of it ended last.
    moved: Option<Instant>,
}

/// How it goes; clones say it to the same place.
#[derive(Clone, Debug, Default)]
pub struct Health(Arc<Mutex<State>>);

impl Health {
    fn with<R>(&self, act: impl FnOnce(&mut State) -> R) -> R {
        act(&mut self.0.lock().expect("nothing panics while it holds this lock"))
    }

    /// This process leads now.
    pub fn lead(&self) {
        self.with(|state| state.role = Role::Syncing);
    }

    /// A pass begins.
    pub fn begin_pass(&self) {
        self.with(|state| state.moved = Some(Instant::now()));
    }

    /// A write has ended. A pass of many writes to a slow API server takes its time.
    pub fn progress(&self) {
        self.with(|state| state.moved = state.moved.map(|_| Instant::now()));
    }

    /// A pass has ended.
    pub fn end_pass(&self) {
        self.with(|state| {
            state.moved = None;
            state.role = Role::Leading;
        });
    }

    fn healthy(&self) -> Result<&'static str, &'static str> {
        let stuck = self.with(|state| state.moved.is_some_and(|moved| moved.elapsed() > PASS_MAX));
        if stuck { Err("a pass of the pipeline does not end") } else { Ok("ok") }
    }

    fn ready(&self) -> Result<&'static str, &'static str> {
        match self.with(|state| state.role) {
            Role::Standby => Ok("standby"),
            Role::Syncing => Err("leading, but some kind is not listed yet; the log says which"),
            Role::Leading => Ok("leading"),
        }
    }
}

/// Serves on `listener` until `stop`.
pub async fn serve(listener: TcpListener, health: Health, metrics: Arc<Exposition>, stop: CancellationToken) {
    accept(listener, CONNECTIONS_MAX, &stop, |stream, peer| {
        Some(connection(stream, peer, health.clone(), metrics.clone()))
    })
    .await;
}

/// Runs what `serve` makes of each connection, `connections_max` at one time, until `stop`; those that are left then are
/// dropped. A connection of which `serve` makes nothing is closed at once.
pub(crate) async fn accept<F: Future<Output = ()> + Send + 'static>(
    listener: TcpListener,
    connections_max: usize,
    stop: &CancellationToken,
    mut serve: impl FnMut(TcpStream, SocketAddr) -> Option<F>,
) {
    let connections = Arc::new(Semaphore::new(connections_max));
    let tasks = TaskTracker::new();
    loop {
        let permit = tokio::select! {
            () = stop.cancelled() => break,
            permit = connections.clone().acquire_owned() => permit.expect("the semaphore is never closed"),
        };
        let accepted = tokio::select! {
            () = stop.cancelled() => break,
            accepted = listener.accept() => accepted,
        };
        match accepted {
            Ok((stream, peer)) => {
                let Some(served) = serve(stream, peer) else { continue };
                let stop = stop.clone();
                tasks.spawn(async move {
                    tokio::select! {
                        () = stop.cancelled() => {}
                        () = served => {}
                    }
                    drop(permit);
                });
            }
            Err(error) => {
                tracing::warn!(%error, "cannot accept");
                tokio::time::sleep(Duration::from_millis(100)).await;
            }
        }
    }
    tasks.close();
    tasks.wait().await;
}

async fn connection(stream: TcpStream, peer: SocketAddr, health: Health, metrics: Arc<Exposition>) {
    let service = service_fn(async |request| Ok::<_, Infallible>(answer(&request, &health, &metrics)));
    let served = hyper::server::conn::http1::Builder::new()
        .timer(TokioTimer::new())
        .header_read_timeout(HEAD_TIMEOUT)
        .serve_connection(TokioIo::new(stream), service);
    if let Ok(Err(error)) = tokio::time::timeout(CONNECTION_TIMEOUT, served).await {
        tracing::debug!(%peer, %error, "connection failed");
    }
}

fn answer(request: &Request<Incoming>, health: &Health, metrics: &Exposition) -> Response<Full<Bytes>> {
    const METRICS: &str = "application/openmetrics-text; version=1.0.0; charset=utf-8";
    const TEXT: &str = "text/plain; charset=utf-8";
    let say = |said: Result<&str, &str>| match said {
        Ok(text) => (StatusCode::OK, TEXT, text.to_owned()),
        Err(text) => (StatusCode::SERVICE_UNAVAILABLE, TEXT, text.to_owned()),
    };
    let (status, content, text) = match (request.method(), request.uri().path()) {
        (&Method::GET, "/healthz") => say(health.healthy()),
        (&Method::GET, "/readyz") => say(health.ready()),
        (&Method::GET, "/metrics") => (StatusCode::OK, METRICS, metrics.text()),
        _ => (StatusCode::NOT_FOUND, TEXT, "GET /healthz, /readyz or /metrics".to_owned()),
    };
    Response::builder()
        .status(status)
        .header(hyper::header::CONTENT_TYPE, content)
        .body(Full::new(Bytes::from(text)))
        .expect("status and header are constants")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test(start_paused = true)]
    async fn a_pass_of_many_slow_writes_is_at_work_and_one_in_which_nothing_ends_is_stuck() {
        let health = Health::default();
        health.begin_pass();
        for _ in 0..3 {
            tokio::time::advance(Duration::from_mins(4)).await;
            assert_eq!(health.healthy(), Ok("ok"));
            health.progress();
        }
        tokio::time::advance(PASS_MAX + Duration::from_secs(1)).await;
        assert!(health.healthy().is_err());
        health.end_pass();
        health.progress();
        tokio::time::advance(PASS_MAX * 2).await;
        assert_eq!(health.healthy(), Ok("ok"), "between passes nothing is due");
    }
}
