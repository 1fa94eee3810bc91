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
        // A request for which no slot came free in time was never sent, and failed all the same.
        let slot = tokio::time::timeout_at(deadline, Arc::clone(&slots).acquire_owned()).await;
        let Ok(slot) = slot else {
            tally.add(due - start, load.timeout, &Outcome::failed("no free slot"));
            continue;
        };
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
