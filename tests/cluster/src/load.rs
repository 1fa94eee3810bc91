//! Owns the open-loop load generator: requests leave at their due times whatever became of those before, and latency
//! counts from the due time, so that a stall shows in full (no coordinated omission).

use std::collections::VecDeque;
use std::net::SocketAddr;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use anyhow::{Context, Result, ensure};
use hyper::Uri;
use tokio::sync::Semaphore;
use tokio::task::JoinSet;
use tokio::time::Instant;

pub use crate::load::report::{Failure, Report};

mod connection;
mod report;

use connection::{Connection, Outcome, Target};
use report::Tally;

/// What to send. Each request is a GET.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Load {
    /// The URL asked for.
    pub target: String,
    /// Where to connect: a proxy, which gets the URL in absolute form. None connects to the URL's own host, which
    /// must then be an IP address, and sends the path alone.
    pub via: Option<SocketAddr>,
    /// Requests per second, 1 to 100,000.
    pub rate: u32,
    /// For how long.
    pub duration: Duration,
    /// How many requests may be under way at once; a request that finds none free waits, and its wait counts.
    pub concurrency_max: usize,
    /// How long after its due time a request counts as failed.
    pub timeout: Duration,
}

impl Default for Load {
    fn default() -> Self {
        Self {
            target: "http://quotes.demo/".to_owned(),
            via: Some(SocketAddr::from(([127, 0, 0, 1], 4140))),
            rate: 200,
            duration: Duration::from_mins(1),
            concurrency_max: 1000,
            timeout: Duration::from_secs(5),
        }
    }
}

/// The connections that are open and have no request.
#[derive(Debug, Default)]
struct Idle(Mutex<VecDeque<Connection>>);

impl Idle {
    fn take(&self) -> Option<Connection> {
        let mut idle = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        // The most recently used first: the others' peers may close them, which is found out when they are tried.
        std::iter::from_fn(|| idle.pop_back()).find(|connection| !connection.closed())
    }

    fn give_back(&self, connection: Connection) {
        if !connection.closed() {
            self.0.lock().unwrap_or_else(PoisonError::into_inner).push_back(connection);
        }
    }
}

/// Sends the load from the network namespace of the calling thread, and counts. It ends at most `timeout` after
/// `duration`.
pub async fn run(load: &Load) -> Result<Report> {
    ensure!((1..=100_000).contains(&load.rate), "rate {} is not in 1 to 100,000 requests/s", load.rate);
    ensure!(load.concurrency_max > 0, "no request may be under way");
    let target = Arc::new(target(load)?);
    let total = (load.duration.as_secs_f64() * f64::from(load.rate)).round();
    ensure!((1.0..1e9).contains(&total), "{total} requests are none or too many");
    let mut tally = Tally::new(load.timeout);
    let idle = Arc::new(Idle::default());
    let slots = Arc::new(Semaphore::new(load.concurrency_max));
    let mut tasks = JoinSet::new();
    let start = Instant::now();
    let mut number = 0.0_f64;
    while number < total {
        let due = start + Duration::from_secs_f64(number / f64::from(load.rate));
        number += 1.0;
        tokio::time::sleep_until(due).await;
        let deadline = due + load.timeout;
        // Every request under way ends by its own deadline, which is before this one's: the wait has an end.
        let slot = Arc::clone(&slots).acquire_owned().await.context("slots are never closed")?;
        let (target, idle) = (Arc::clone(&target), Arc::clone(&idle));
        tasks.spawn(async move {
            let outcome = tokio::time::timeout_at(deadline, one(&target, &idle)).await;
            drop(slot);
            (due, due.elapsed(), outcome.unwrap_or_else(|_| Outcome::failed("timeout")))
        });
        while let Some(done) = tasks.try_join_next() {
            let (due, latency, outcome) = done.context("a request's task panicked")?;
            tally.add(due - start, latency, &outcome);
        }
    }
    while let Some(done) = tasks.join_next().await {
        let (due, latency, outcome) = done.context("a request's task panicked")?;
        tally.add(due - start, latency, &outcome);
    }
    Ok(tally.report(load, start.elapsed()))
}

fn target(load: &Load) -> Result<Target> {
    let uri: Uri = load.target.parse().with_context(|| format!("target {}", load.target))?;
    let host = uri.authority().with_context(|| format!("target {} names no host", load.target))?;
    ensure!(uri.scheme_str() == Some("http"), "target {} is not http://", load.target);
    let host = host.to_string();
    if let Some(address) = load.via {
        return Ok(Target { address, host, line: uri });
    }
    let with_port = if uri.port().is_some() { host.clone() } else { format!("{host}:80") };
    let address = with_port.parse().with_context(|| format!("{host} is no address: say --via"))?;
    let path = uri.path_and_query().map_or("/", |path| path.as_str());
    Ok(Target { address, host, line: path.parse().context("path of the target")? })
}

/// One request. A kept connection that turns out to be closed before anything was sent on it costs another try.
async fn one(target: &Target, idle: &Idle) -> Outcome {
    loop {
        let (mut connection, kept) = match idle.take() {
            Some(connection) => (connection, true),
            None => match Connection::open(target).await {
                Ok(connection) => (connection, false),
                Err(outcome) => return outcome,
            },
        };
        match connection.ask(target).await {
            Ok(outcome) => {
                idle.give_back(connection);
                return outcome;
            }
            Err(unsent) if kept && unsent.nothing_sent => {}
            Err(unsent) => return unsent.outcome,
        }
    }
}

#[cfg(test)]
mod tests {
    use tokio::io::{AsyncReadExt, AsyncWriteExt};
    use tokio::net::{TcpListener, TcpStream};

    use super::*;

    const OK: &str = "HTTP/1.1 200 OK\r\nx-pod: a\r\ncontent-length: 2\r\n\r\nhi";
    const REFUSED: &str =
        "HTTP/1.1 503 Service Unavailable\r\nvicino-error: no-endpoint\r\ncontent-length: 0\r\n\r\n";

    /// Loads a server that hands every connection to `serve`.
    async fn against<F>(load: Load, serve: F) -> Report
    where
        F: AsyncFn(TcpStream) + Clone + 'static,
    {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let load = Load { via: Some(listener.local_addr().unwrap()), ..load };
        let server = async {
            let mut connections = futures::stream::FuturesUnordered::new();
            loop {
                use futures::StreamExt;
                tokio::select! {
                    accepted = listener.accept() => connections.push(serve(accepted.unwrap().0)),
                    Some(()) = connections.next() => {}
                }
            }
        };
        tokio::select! {
            report = run(&load) => report.unwrap(),
            () = server => unreachable!("the server has no end"),
        }
    }

    /// Reads one request head; none when the client has closed.
    async fn request(stream: &mut TcpStream) -> Option<String> {
        let mut head = Vec::new();
        while !head.ends_with(b"\r\n\r\n") {
            head.push(stream.read_u8().await.ok()?);
        }
        Some(String::from_utf8(head).unwrap())
    }

    fn load(rate: u32, ms: u64) -> Load {
        Load { rate, duration: Duration::from_millis(ms), ..Load::default() }
    }

    /// A proxy sees the absolute form and the host; connections are kept; each request counts once.
    #[tokio::test]
    async fn every_request_is_counted_and_served() {
        let report = against(load(100, 500), async |mut stream| {
            while let Some(head) = request(&mut stream).await {
                assert!(head.starts_with("GET http://quotes.demo/ HTTP/1.1\r\n"), "{head}");
                assert!(head.contains("host: quotes.demo\r\n"), "{head}");
                let _ = stream.write_all(OK.as_bytes()).await;
            }
        });
        let report = report.await;
        assert_eq!((report.sent, report.ok, report.failed_total()), (50, 50, 0), "{report}");
        assert_eq!(report.pods.get("a"), Some(&50));
    }

    /// A server that stalls holds up its client's requests, and they all show it: a closed loop would show one.
    #[tokio::test]
    async fn a_stall_shows_in_every_request_that_came_due_in_it() {
        let stall = Duration::from_millis(400);
        let until = Instant::now() + stall;
        let report = against(Load { concurrency_max: 1, ..load(100, 800) }, async move |mut stream| {
            while request(&mut stream).await.is_some() {
                tokio::time::sleep_until(until).await;
                let _ = stream.write_all(OK.as_bytes()).await;
            }
        });
        let report = report.await;
        assert_eq!((report.sent, report.ok), (80, 80), "{report}");
        // 40 of 80 came due during the stall; the slowest waited for all of it, the median for some.
        assert!(report.max_us >= 350_000, "{report}");
        assert!(report.p99_us >= 300_000, "{report}");
    }

    #[tokio::test]
    async fn failures_are_counted_by_kind() {
        let answers = std::rc::Rc::new(std::cell::Cell::new(0));
        let report = against(load(100, 300), async move |mut stream| {
            while request(&mut stream).await.is_some() {
                answers.set(answers.get() + 1);
                match answers.get() % 3 {
                    0 => return,
                    1 => drop(stream.write_all(OK.as_bytes()).await),
                    _ => drop(stream.write_all(REFUSED.as_bytes()).await),
                }
            }
        });
        let report = report.await;
        let failed: Vec<(&str, u64)> =
            report.failed.iter().map(|(kind, count)| (kind.as_str(), *count)).collect();
        assert_eq!(failed, [("connection closed without a response", 10), ("status 503 no-endpoint", 10)]);
        assert_eq!((report.sent, report.ok, report.errors.get("no-endpoint")), (30, 10, Some(&10)));
        assert_eq!(report.failures.len(), 20);
    }

    /// A server that closes after each response, without saying so, costs another connection and no request.
    #[tokio::test]
    async fn a_kept_connection_that_was_closed_is_not_a_failure() {
        let report = against(load(50, 400), async |mut stream| {
            if request(&mut stream).await.is_some() {
                let _ = stream.write_all(OK.as_bytes()).await;
            }
        });
        let report = report.await;
        assert_eq!((report.sent, report.ok), (20, 20), "{report}");
    }

    /// What gets no answer fails in time, what waits for its turn too: the load always ends, and nothing is left out.
    #[tokio::test]
    async fn a_server_that_never_answers_ends_the_load_in_time() {
        let load = Load { concurrency_max: 2, timeout: Duration::from_millis(200), ..load(50, 400) };
        let report = against(load, async |mut stream| while request(&mut stream).await.is_some() {}).await;
        assert_eq!((report.sent, report.ok), (20, 0), "{report}");
        assert_eq!(report.failed.get("timeout"), Some(&20), "{report}");
    }

    #[tokio::test]
    async fn nonsense_is_refused_before_anything_is_sent() {
        for (bad, says) in [
            (Load { rate: 0, ..Load::default() }, "rate 0 is not in 1 to 100,000 requests/s"),
            (Load { target: "quotes".into(), via: None, ..Load::default() }, "target quotes is not http://"),
            (
                Load { target: "http://quotes/".into(), via: None, ..Load::default() },
                "quotes is no address: say --via",
            ),
        ] {
            assert_eq!(run(&bad).await.unwrap_err().to_string(), says);
        }
    }
}
