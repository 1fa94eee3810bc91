//! Owns one HTTP/1.1 connection of the load generator and what became of one request on it.

use std::net::SocketAddr;

use http_body_util::{BodyExt, Empty};
use hyper::body::{Bytes, Incoming};
use hyper::client::conn::http1::{self, SendRequest};
use hyper::header::{HOST, HeaderMap};
use hyper::{Request, Response, Uri};
use hyper_util::rt::TokioIo;
use tokio::net::TcpStream;
use tokio::task::JoinSet;

/// Where requests go and what their request line says.
#[derive(Debug)]
pub(super) struct Target {
    pub(super) address: SocketAddr,
    pub(super) host: String,
    pub(super) line: Uri,
}

/// What became of a request.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Outcome {
    /// None is success; otherwise a bounded word for what went wrong.
    pub(super) failure: Option<String>,
    /// The response's `vicino-error`.
    pub(super) error: Option<String>,
    /// The response's `x-pod`: who served it.
    pub(super) pod: Option<String>,
}

impl Outcome {
    pub(super) fn failed(kind: &str) -> Self {
        Self { failure: Some(kind.to_owned()), error: None, pod: None }
    }

    fn of(response: &Response<Incoming>) -> Self {
        let status = response.status();
        let header = |headers: &HeaderMap, name: &str| {
            headers.get(name).and_then(|value| value.to_str().ok()).map(str::to_owned)
        };
        Self {
            failure: (!status.is_success()).then(|| format!("status {}", status.as_u16())),
            error: header(response.headers(), "vicino-error"),
            pod: header(response.headers(), "x-pod"),
        }
    }
}

/// A request that got no response.
pub(super) struct Unanswered {
    /// Whether not a byte of it was sent, so that trying again is not a second request.
    pub(super) nothing_sent: bool,
    pub(super) outcome: Outcome,
}

/// An open connection.
#[derive(Debug)]
pub(super) struct Connection {
    sender: SendRequest<Empty<Bytes>>,
    /// Drives the connection; ends with this value.
    _driver: JoinSet<()>,
}

impl Connection {
    pub(super) async fn open(target: &Target) -> Result<Self, Outcome> {
        let stream = TcpStream::connect(target.address).await;
        let stream = stream.map_err(|error| Outcome::failed(&format!("connect: {}", error.kind())))?;
        // Without it a request could wait for the acknowledgement of the one before; refusal costs only that.
        let _ = stream.set_nodelay(true);
        let (sender, driver) =
            http1::handshake(TokioIo::new(stream)).await.map_err(|_| Outcome::failed("connect: no HTTP"))?;
        let mut tasks = JoinSet::new();
        tasks.spawn(async move {
            // What goes wrong on the connection reaches the request that is under way on it.
            let _ = driver.await;
        });
        Ok(Self { sender, _driver: tasks })
    }

    /// Whether it takes no further request.
    pub(super) fn closed(&self) -> bool {
        self.sender.is_closed()
    }

    /// Sends one request and reads the whole response.
    pub(super) async fn ask(&mut self, target: &Target) -> Result<Outcome, Unanswered> {
        if self.sender.ready().await.is_err() {
            return Err(Unanswered { nothing_sent: true, outcome: Outcome::failed("connection closed") });
        }
        let request = Request::get(target.line.clone()).header(HOST, &target.host).body(Empty::new());
        let request = request.expect("line and host were parsed from a URL");
        let response = self.sender.try_send_request(request).await;
        let mut response = response.map_err(|mut error| Unanswered {
            nothing_sent: error.take_message().is_some(),
            outcome: Outcome::failed("connection closed without a response"),
        })?;
        let mut outcome = Outcome::of(&response);
        while let Some(frame) = response.body_mut().frame().await {
            if frame.is_err() {
                outcome.failure = Some("body cut short".to_owned());
                break;
            }
        }
        Ok(outcome)
    }
}
