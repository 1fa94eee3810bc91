//! A small HTTP/1.1 client with kept connections, through the proxy that `http_proxy` names; no retries of its own but
//! on a kept connection that was closed before anything was sent.

use std::collections::HashMap;
use std::io;
use std::sync::Mutex;
use std::time::Duration;

use http_body_util::{BodyExt, Empty, Limited};
use hyper::body::{Bytes, Incoming};
use hyper::client::conn::http1::{self, SendRequest};
use hyper::header::HOST;
use hyper::{Request, Response, Uri};
use hyper_util::rt::TokioIo;
use tokio::net::TcpStream;
use tokio_util::task::TaskTracker;

/// Idle connections kept per address.
const KEPT_MAX: usize = 32;
/// Bytes of an answer that are read.
const ANSWER_BYTES_MAX: usize = 1024 * 1024;
/// A whole call takes no longer, unless something else is said.
const CALL_SECONDS_MAX: Duration = Duration::from_secs(10);

type Sender = SendRequest<Empty<Bytes>>;

/// Why a call has no answer.
#[derive(Debug)]
pub struct CallError(String);

impl std::fmt::Display for CallError {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str(&self.0)
    }
}

impl std::error::Error for CallError {}

fn failed(what: &str, cause: impl std::fmt::Display) -> CallError {
    CallError(format!("{what}: {cause}"))
}

/// The client; one per process.
#[derive(Debug)]
pub struct Client {
    proxy: Option<String>,
    patience: Duration,
    kept: Mutex<HashMap<String, Vec<Sender>>>,
    connections: TaskTracker,
}

impl Client {
    /// `proxy` is `http://ADDRESS:PORT`, or `None` to call hosts directly.
    pub fn new(proxy: Option<&str>) -> Self {
        let proxy = proxy.map(|p| p.trim_start_matches("http://").trim_end_matches('/').to_owned());
        Self { proxy, patience: CALL_SECONDS_MAX, kept: Mutex::default(), connections: TaskTracker::new() }
    }

    /// The same with another bound for a whole call.
    #[must_use]
    pub fn within(self, patience: Duration) -> Self {
        Self { patience, ..self }
    }

    /// GETs `url` with `headers`; the whole body, at most 1 MiB, within ten seconds unless something else is said.
    pub async fn get(&self, url: &str, headers: &[(&str, &str)]) -> Result<Response<Bytes>, CallError> {
        match tokio::time::timeout(self.patience, self.call(url, headers)).await {
            Ok(result) => result,
            Err(_) => Err(failed("no answer", format_args!("within {:?}", self.patience))),
        }
    }

    async fn call(&self, url: &str, headers: &[(&str, &str)]) -> Result<Response<Bytes>, CallError> {
        let uri: Uri = url.parse().map_err(|e| failed("not a URL", e))?;
        let host = uri.authority().ok_or_else(|| CallError("the URL names no host".to_owned()))?.clone();
        let address = self
            .proxy
            .clone()
            .unwrap_or_else(|| if host.port().is_some() { host.to_string() } else { format!("{host}:80") });
        let target =
            if self.proxy.is_some() { url } else { uri.path_and_query().map_or("/", |p| p.as_str()) };
        let mut request = Request::get(target).header(HOST, host.as_str());
        for (name, value) in headers {
            request = request.header(*name, *value);
        }
        let request = request.body(Empty::new()).map_err(|e| failed("not a request", e))?;
        let (response, sender) = self.send(&address, request).await?;
        let (head, body) = response.into_parts();
        let body = Limited::new(body, ANSWER_BYTES_MAX).collect().await;
        let body = body.map_err(|e| failed("reading the answer", e))?.to_bytes();
        self.keep(address, sender);
        Ok(Response::from_parts(head, body))
    }

    async fn send(
        &self,
        address: &str,
        mut request: Request<Empty<Bytes>>,
    ) -> Result<(Response<Incoming>, Sender), CallError> {
        while let Some(mut sender) = self.take(address) {
            if sender.ready().await.is_err() {
                continue;
            }
            match sender.try_send_request(request).await {
                Ok(response) => return Ok((response, sender)),
                Err(mut error) => match error.take_message() {
                    Some(unsent) => request = unsent,
                    None => return Err(failed("sending", error.into_error())),
                },
            }
        }
        let mut sender =
            self.connect(address).await.map_err(|e| failed(&format!("connecting to {address}"), e))?;
        let response = sender.send_request(request).await.map_err(|e| failed("sending", e))?;
        Ok((response, sender))
    }

    async fn connect(&self, address: &str) -> io::Result<Sender> {
        let stream = TcpStream::connect(address).await?;
        stream.set_nodelay(true)?;
        let (sender, connection) = http1::handshake(TokioIo::new(stream)).await.map_err(io::Error::other)?;
        // Ends when the sender is dropped or the peer closes; what went wrong is told to the call that it met.
        self.connections.spawn(async move { drop(connection.await) });
        Ok(sender)
    }

    fn take(&self, address: &str) -> Option<Sender> {
        self.kept.lock().expect("no panic while it is held").get_mut(address)?.pop()
    }

    fn keep(&self, address: String, sender: Sender) {
        if sender.is_closed() {
            return;
        }
        let mut kept = self.kept.lock().expect("no panic while it is held");
        let kept = kept.entry(address).or_default();
        if kept.len() < KEPT_MAX {
            kept.push(sender);
        }
    }
}
