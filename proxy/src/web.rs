//! A small HTTP server for people and scrapers: binds when the port is free, gives every wait an end; serves no calls.

use std::convert::Infallible;
use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;

use http_body_util::{BodyExt, Full, LengthLimitError, Limited};
use hyper::body::{Bytes, Incoming};
use hyper::service::service_fn;
use hyper::{Method, Request, Response, StatusCode};
use hyper_util::rt::{TokioIo, TokioTimer};
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::Semaphore;
use tokio_util::sync::CancellationToken;
use tokio_util::task::TaskTracker;

/// Connections at one time; further ones wait.
const CONNECTIONS_MAX: usize = 32;
/// For a request's head.
const HEAD_TIMEOUT: Duration = Duration::from_secs(10);
/// A connection is closed after this long, whatever it does.
const CONNECTION_MAX: Duration = Duration::from_mins(10);
/// Longest request body, in bytes.
const BODY_BYTES_MAX: usize = 4096;
/// Between attempts to bind or to accept.
const PAUSE: Duration = Duration::from_millis(250);

/// An answer.
#[derive(Debug)]
pub struct Answer {
    /// Status.
    pub status: StatusCode,
    /// `Content-Type`.
    pub content: &'static str,
    /// Body.
    pub body: String,
}

impl Answer {
    /// Text.
    pub fn text(status: StatusCode, body: impl Into<String>) -> Self {
        Self { status, content: "text/plain; charset=utf-8", body: body.into() }
    }

    /// Indented JSON, for people.
    pub fn json(value: &serde_json::Value) -> Self {
        Self { status: StatusCode::OK, content: "application/json", body: format!("{value:#}\n") }
    }
}

/// Who answers: method, path, body.
pub trait Site: Send + Sync + 'static {
    /// Answers a request.
    fn answer(
        self: Arc<Self>,
        method: Method,
        path: String,
        body: Bytes,
    ) -> impl Future<Output = Answer> + Send;
}

/// Serves `site` at `address` until `end`. While another process has the port (the proxy that is being replaced), waits for
/// it: port and requests pass to whoever lives longer.
pub async fn serve(address: SocketAddr, site: Arc<impl Site>, end: CancellationToken) {
    let Some(listener) = end.run_until_cancelled(bind(address)).await else { return };
    let room = Arc::new(Semaphore::new(CONNECTIONS_MAX));
    let connections = TaskTracker::new();
    let accepting = async {
        loop {
            let permit = room.clone().acquire_owned().await.expect("the semaphore is never closed");
            match listener.accept().await {
                Ok((stream, _)) => {
                    let (site, end) = (site.clone(), end.clone());
                    connections.spawn(async move {
                        let ended = end.run_until_cancelled(connection(stream, site));
                        let _late = tokio::time::timeout(CONNECTION_MAX, ended).await;
                        drop(permit);
                    });
                }
                Err(e) => {
                    tracing::warn!(%address, error = %e, "request for people not accepted");
                    tokio::time::sleep(PAUSE).await;
                }
            }
        }
    };
    let _ended: Option<Infallible> = end.run_until_cancelled(accepting).await;
    connections.close();
    connections.wait().await;
}

async fn bind(address: SocketAddr) -> TcpListener {
    let mut told = false;
    loop {
        match TcpListener::bind(address).await {
            Ok(listener) => {
                tracing::info!(%address, "answers people and scrapers");
                return listener;
            }
            Err(e) => {
                if !std::mem::replace(&mut told, true) {
                    tracing::warn!(%address, error = %e, "port is taken; tried again until it is free");
                }
                tokio::time::sleep(PAUSE).await;
            }
        }
    }
}

async fn connection(stream: TcpStream, site: Arc<impl Site>) {
    let service = service_fn(move |request: Request<Incoming>| {
        let site = site.clone();
        async move { Ok::<_, Infallible>(answer(request, site).await) }
    });
    let mut server = hyper::server::conn::http1::Builder::new();
    server.timer(TokioTimer::new()).header_read_timeout(HEAD_TIMEOUT);
    if let Err(e) = server.serve_connection(TokioIo::new(stream), service).await {
        tracing::debug!(error = %e, "connection of people or scrapers ended");
    }
}

async fn answer(request: Request<Incoming>, site: Arc<impl Site>) -> Response<Full<Bytes>> {
    let (head, body) = request.into_parts();
    let answer = match Limited::new(body, BODY_BYTES_MAX).collect().await {
        Ok(body) => site.answer(head.method, head.uri.path().to_owned(), body.to_bytes()).await,
        Err(e) if e.is::<LengthLimitError>() => {
            let text = format!("the body is longer than {BODY_BYTES_MAX} bytes\n");
            Answer::text(StatusCode::PAYLOAD_TOO_LARGE, text)
        }
        Err(e) => Answer::text(StatusCode::BAD_REQUEST, format!("{e}\n")),
    };
    let response = Response::builder().status(answer.status).header("content-type", answer.content);
    response.body(Full::from(answer.body)).expect("status and header are ours and valid")
}
