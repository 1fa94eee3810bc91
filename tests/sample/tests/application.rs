//! The four services together, through a proxy that stands in for the mesh: it knows services by name and nothing else.

#![allow(clippy::unwrap_used, reason = "a test ends at the first surprise")]

use std::collections::HashMap;
use std::convert::Infallible;
use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;

use clap::Parser;
use http_body_util::Full;
use hyper::body::Incoming;
use hyper::server::conn::http1;
use hyper::service::service_fn;
use hyper::{Request, Response};
use hyper_util::rt::TokioIo;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpListener, TcpStream};
use tokio_util::sync::CancellationToken;
use tokio_util::task::TaskTracker;
use vicino_sample::client::Client;
use vicino_sample::options::{Arguments, Command};
use vicino_sample::role::Page;
use vicino_sample::{calls, serve};

/// Everything here ends within this.
const PATIENCE: Duration = Duration::from_secs(20);

struct Running {
    address: SocketAddr,
    stop: CancellationToken,
    tasks: TaskTracker,
}

/// Starts a service on loopback; it ends when `stop` is cancelled.
async fn start(role: &str, proxy: SocketAddr) -> Running {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let address = listener.local_addr().unwrap();
    let proxy = format!("http://{proxy}");
    let arguments = ["x", "--role", role, "--proxy", &proxy, "--pod", role, "--node", "node-1"];
    let arguments = Arguments::parse_from(arguments.iter().copied().chain(["--shutdown-delay-seconds", "3"]));
    let (stop, tasks) = (CancellationToken::new(), TaskTracker::new());
    tasks.spawn(serve::run(
        listener,
        arguments.role.unwrap(),
        arguments.serve,
        stop.clone().cancelled_owned(),
    ));
    tasks.close();
    Running { address, stop, tasks }
}

/// A proxy: the host of an absolute-form target names the service.
async fn proxy(listener: TcpListener, services: Arc<HashMap<&'static str, SocketAddr>>, tasks: TaskTracker) {
    let direct = Arc::new(Client::new(None));
    while let Ok((caller, _)) = listener.accept().await {
        let (services, direct) = (Arc::clone(&services), Arc::clone(&direct));
        let service = service_fn(move |request: Request<Incoming>| {
            let (services, direct) = (Arc::clone(&services), Arc::clone(&direct));
            async move {
                let address = services[request.uri().host().expect("absolute-form")];
                let path = request.uri().path_and_query().map_or("/", |p| p.as_str());
                let answer = direct.get(&format!("http://{address}{path}"), &[]).await;
                Ok::<_, Infallible>(answer.map_or_else(
                    |_| Response::builder().status(503).body(Full::default()).unwrap(),
                    |answer| answer.map(Full::new),
                ))
            }
        });
        tasks.spawn(http1::Builder::new().serve_connection(TokioIo::new(caller), service));
    }
}

async fn application() -> (HashMap<&'static str, Running>, TaskTracker) {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let mesh = listener.local_addr().unwrap();
    let mut running = HashMap::new();
    for role in ["web", "quotes", "authors", "ratings"] {
        running.insert(role, start(role, mesh).await);
    }
    let addresses = running.iter().map(|(role, r)| (*role, r.address)).collect();
    let tasks = TaskTracker::new();
    tasks.spawn(proxy(listener, Arc::new(addresses), tasks.clone()));
    (running, tasks)
}

#[tokio::test]
async fn a_page_says_which_pod_answered_each_call() {
    let (running, _mesh) = application().await;
    let client = Client::new(None);
    let response = client.get(&format!("http://{}/?number=2", running["web"].address), &[]).await.unwrap();
    assert_eq!(response.headers()["x-pod"], "web");
    let page: Page = serde_json::from_slice(response.body()).unwrap();
    assert_eq!(page.text, "Simplicity is prerequisite for reliability. (Edsger Dijkstra; 5 stars)");
    let quotes = page.calls[0].page.as_ref().unwrap();
    let asked: Vec<_> =
        quotes.calls.iter().map(|c| (c.status, c.page.as_ref().unwrap().pod.as_str())).collect();
    assert_eq!((quotes.pod.as_str(), asked), ("quotes", vec![(200, "authors"), (200, "ratings")]));
}

#[tokio::test]
async fn the_caller_sums_up() {
    let (running, _mesh) = application().await;
    let url = format!("http://{}/", running["web"].address);
    let call = |arguments: &[&str]| {
        let arguments = ["x", "call", &url].into_iter().chain(arguments.iter().copied());
        match Arguments::parse_from(arguments).command.unwrap() {
            Command::Call(options) => calls::run(options),
        }
    };
    let outcome = call(&["--count", "30"]).await;
    assert_eq!((outcome.succeeded, outcome.failed, outcome.seen["from node-1"]), (30, 0, 30), "{outcome}");
    let answer = call(&[]).await.to_string();
    assert!(answer.starts_with("200 OK\nx-pod: web\nx-node: node-1\n\n{"), "{answer}");
}

#[tokio::test]
async fn a_call_that_fails_shows_in_the_status() {
    let (running, _mesh) = application().await;
    running["ratings"].stop.cancel();
    tokio::time::timeout(PATIENCE, running["ratings"].tasks.wait()).await.unwrap();
    let web = running["web"].address;
    let response = Client::new(None).get(&format!("http://{web}/"), &[]).await.unwrap();
    assert_eq!(response.status(), 502);
}

#[tokio::test]
async fn leaving_finishes_what_is_open_and_fails_readiness_first() {
    let (running, _mesh) = application().await;
    let authors = &running["authors"];
    let url = |path: &str| format!("http://{}{path}", authors.address);
    let client = Client::new(None);
    let slow_url = url("/slow?ms=5000");
    let open = client.get(&slow_url, &[]);
    let leave = async {
        authors.stop.cancel();
        while client.get(&url("/healthz"), &[]).await.unwrap().status() != 503 {
            tokio::task::yield_now().await;
        }
        assert_eq!(client.get(&url("/"), &[]).await.unwrap().status(), 200, "it still takes calls");
    };
    let (open, ()) = tokio::join!(biased; open, leave);
    assert_eq!(open.unwrap().status(), 200);
    tokio::time::timeout(PATIENCE, authors.tasks.wait()).await.unwrap();
    assert!(TcpStream::connect(authors.address).await.is_err(), "nobody listens any more");
}

#[tokio::test]
async fn echo_gives_the_body_and_its_trailers_back() {
    let (running, _mesh) = application().await;
    let mut stream = TcpStream::connect(running["authors"].address).await.unwrap();
    let request = "POST /echo HTTP/1.1\r\nhost: authors\r\nconnection: close\r\nte: trailers\r\ntrailer: x-sum\r\n\
                   transfer-encoding: chunked\r\n\r\n5\r\nhello\r\n0\r\nx-sum: 5\r\n\r\n";
    stream.write_all(request.as_bytes()).await.unwrap();
    let mut answer = String::new();
    tokio::time::timeout(PATIENCE, stream.read_to_string(&mut answer)).await.unwrap().unwrap();
    assert!(answer.starts_with("HTTP/1.1 200 OK\r\n"), "{answer}");
    assert!(answer.ends_with("5\r\nhello\r\n0\r\nx-sum: 5\r\n\r\n"), "{answer}");
}

/// Says messages of every size over a stream and hears the same; returns once the close was answered.
async fn say_and_hear(stream: TcpStream) {
    use futures::{SinkExt, StreamExt};
    use tokio_tungstenite::tungstenite::Message;

    let (mut socket, _) = tokio_tungstenite::client_async("ws://web/ws", stream).await.unwrap();
    let mut messages = vec![Message::text("hello"), Message::text(""), Message::binary(vec![7; 1_000_000])];
    messages.extend((0..200).map(|i| Message::text(format!("message {i}"))));
    for message in messages {
        socket.send(message.clone()).await.unwrap();
        assert_eq!(socket.next().await.unwrap().unwrap(), message);
    }
    socket.close(None).await.unwrap();
    let mut is_closed = false;
    while let Some(message) = socket.next().await {
        is_closed |= message.unwrap().is_close();
    }
    assert!(is_closed);
}

#[tokio::test]
async fn a_websocket_says_everything_back_and_closes_properly() {
    let nowhere = "127.0.0.1:1".parse().unwrap();
    let web = start("web", nowhere).await;
    for _ in 0..20 {
        let stream = TcpStream::connect(web.address).await.unwrap();
        tokio::time::timeout(PATIENCE, say_and_hear(stream)).await.unwrap();
    }
    web.stop.cancel();
    tokio::time::timeout(PATIENCE, web.tasks.wait()).await.unwrap();
}
