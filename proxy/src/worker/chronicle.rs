//! Writes down what workers tell, at a bounded rate, on control's thread: a worker never waits for a log line.

use std::io;
use std::net::SocketAddr;
use std::time::Duration;

use tokio::sync::mpsc;
use tokio::time::Instant;
use vicino_engine::Event;

/// News that may wait to be written down; workers drop more.
pub const NEWS_MAX: usize = 1024;
/// Lines written in one [`WINDOW`]; the others are counted.
const LINES_MAX: u32 = 100;
/// See [`LINES_MAX`].
const WINDOW: Duration = Duration::from_secs(1);

/// What a worker has to tell.
#[derive(Debug)]
pub enum News {
    /// From its engine.
    Engine(Event),
    /// It is not known who is at the other end of a connection that was to be a hop.
    Stranger {
        /// Its address.
        peer: SocketAddr,
        /// Why not.
        error: String,
    },
    /// Connections wait to be accepted, but descriptors or memory are used up.
    Exhausted(io::Error),
    /// It has ended.
    Ended(u32),
}

/// Writes until nobody has anything to tell any more.
pub async fn write(mut news: mpsc::Receiver<News>) {
    let mut window = Instant::now();
    let (mut written, mut left_out) = (0, 0u64);
    while let Some(next) = news.recv().await {
        let now = Instant::now();
        if now - window >= WINDOW {
            if left_out > 0 {
                tracing::warn!(lines = left_out, "more happened than is written down");
            }
            (window, written, left_out) = (now, 0, 0);
        }
        if written < LINES_MAX {
            written += 1;
            line(&next);
        } else {
            left_out += 1;
        }
    }
}

fn line(news: &News) {
    match news {
        News::Engine(Event::HopUp { node, address }) => tracing::info!(%node, %address, "hop stands"),
        News::Engine(Event::HopDown { node, reason, streams }) => {
            tracing::info!(%node, reason, streams, "hop ended");
        }
        News::Engine(Event::DialFailed { address, kind }) => {
            tracing::warn!(%address, error = %kind, "connection not taken");
        }
        News::Engine(Event::Ejected { address, time }) => {
            tracing::warn!(%address, seconds = time.as_secs_f64(), "pod left out: its calls fail");
        }
        News::Engine(Event::Refused { peer, status, reason }) => {
            tracing::info!(%peer, status, reason, "request answered by the proxy itself");
        }
        News::Engine(Event::PolicyDecision { caller, source, to, port, is_allowed, by, is_audit }) => {
            let (namespace, service) = (&to.namespace, &to.name);
            let by = by.as_deref().unwrap_or("the mesh's default");
            let what = match (is_audit, is_allowed) {
                (false, _) => "call refused by policy",
                (true, false) => "call that policies in audit would refuse",
                (true, true) => "call that policies in audit would allow",
            };
            let source = source.map(tracing::field::display);
            tracing::info!(caller, source, %namespace, %service, port, by, "{what}");
        }
        News::Engine(Event::EgressRefused { caller, host, port, reason, named }) => {
            tracing::info!(caller, host, port, reason, named, "call out of the mesh refused");
        }
        News::Engine(Event::Limited { peer, reason }) => tracing::warn!(%peer, reason, "connection refused"),
        News::Stranger { peer, error } => tracing::warn!(%peer, error, "no hop: the other end is not known"),
        News::Exhausted(e) => {
            tracing::error!(error = %e, "connections wait: descriptors or memory are used up");
        }
        News::Ended(worker) => tracing::debug!(worker, "worker ended"),
    }
}
