//! Calls a URL some times and sums up what came back; decides nothing about how a call is made.

use std::collections::BTreeMap;
use std::fmt;
use std::sync::Arc;
use std::sync::atomic::{AtomicU32, Ordering};
use std::time::Duration;

use hyper::Response;
use hyper::body::Bytes;
use tokio::time::Instant;
use tokio_util::task::TaskTracker;

use crate::client::{CallError, Client};
use crate::options::CallOptions;

/// The headers of a single answer that are shown.
const SHOWN: [&str; 5] = ["x-pod", "x-node", "vicino-path", "vicino-error", "via"];

/// What came of the calls.
#[derive(Debug, Default)]
pub struct Outcome {
    /// Calls that had an answer below 500.
    pub succeeded: usize,
    /// All others.
    pub failed: usize,
    /// How often each status, node or error was met.
    pub seen: BTreeMap<String, usize>,
    /// How long each call took, shortest first.
    pub took: Vec<Duration>,
    /// The answer, when there was one call only.
    pub answer: Option<String>,
}

/// Makes the calls.
pub async fn run(options: CallOptions) -> Outcome {
    let client = Arc::new(Client::new(options.proxy.as_deref()));
    let left = Arc::new(AtomicU32::new(options.count));
    let callers = TaskTracker::new();
    let each: Vec<_> = (0..options.concurrency.min(options.count))
        .map(|_| callers.spawn(caller(options.clone(), Arc::clone(&client), Arc::clone(&left))))
        .collect();
    callers.close();
    let mut all = Outcome::default();
    for caller in each {
        let one = caller.await.expect("a caller does not panic");
        all.succeeded += one.succeeded;
        all.failed += one.failed;
        all.took.extend(one.took);
        all.answer = all.answer.or(one.answer);
        for (what, times) in one.seen {
            *all.seen.entry(what).or_default() += times;
        }
    }
    all.took.sort_unstable();
    all
}

async fn caller(options: CallOptions, client: Arc<Client>, left: Arc<AtomicU32>) -> Outcome {
    let headers: &[(&str, &str)] = if options.path { &[("vicino-debug", "path")] } else { &[] };
    let mut outcome = Outcome::default();
    while left.fetch_update(Ordering::Relaxed, Ordering::Relaxed, |n| n.checked_sub(1)).is_ok() {
        let started = Instant::now();
        let result = client.get(&options.url, headers).await;
        outcome.took.push(started.elapsed());
        outcome.count(&result);
        if options.pods
            && let Ok(answer) = &result
        {
            outcome.count_pod(answer);
        }
        if options.count == 1 {
            outcome.answer = Some(shown(&result));
        }
    }
    outcome
}

impl Outcome {
    fn count(&mut self, result: &Result<Response<Bytes>, CallError>) {
        let mut saw = |what: String| *self.seen.entry(what).or_default() += 1;
        match result {
            Ok(response) => {
                saw(format!("status {}", response.status().as_u16()));
                if let Some(node) = response.headers().get("x-node").and_then(|v| v.to_str().ok()) {
                    saw(format!("from {node}"));
                }
                if response.status().is_server_error() { self.failed += 1 } else { self.succeeded += 1 }
            }
            Err(error) => {
                saw(error.to_string());
                self.failed += 1;
            }
        }
    }

    fn count_pod(&mut self, answer: &Response<Bytes>) {
        if let Some(pod) = answer.headers().get("x-pod").and_then(|value| value.to_str().ok()) {
            *self.seen.entry(format!("by {pod}")).or_default() += 1;
        }
    }

    /// The duration that `share` (0 to 1) of the calls did not pass, in milliseconds.
    fn quantile_ms(&self, share: f64) -> f64 {
        #[expect(
            clippy::cast_precision_loss,
            clippy::cast_sign_loss,
            reason = "counts are small and not negative"
        )]
        let place = (self.took.len() as f64 * share) as usize;
        let found = self.took.get(place.min(self.took.len().saturating_sub(1)));
        found.map_or(0.0, |took| took.as_secs_f64() * 1000.0)
    }
}

fn shown(result: &Result<Response<Bytes>, CallError>) -> String {
    match result {
        Err(error) => format!("{error}\n"),
        Ok(response) => {
            let header = |name: &&str| {
                let value = response.headers().get(*name)?.to_str().ok()?;
                Some(format!("{name}: {value}\n"))
            };
            let headers: String = SHOWN.iter().filter_map(header).collect();
            format!("{}\n{headers}\n{}", response.status(), String::from_utf8_lossy(response.body()))
        }
    }
}

impl fmt::Display for Outcome {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        if let Some(answer) = &self.answer {
            return f.write_str(answer);
        }
        let all = self.succeeded + self.failed;
        #[expect(clippy::cast_precision_loss, reason = "counts are small")]
        let rate = 100.0 * self.succeeded as f64 / all.max(1) as f64;
        writeln!(
            f,
            "{all} calls, {} succeeded ({rate:.2} %), p50 {:.1} ms, p99 {:.1} ms",
            self.succeeded,
            self.quantile_ms(0.50),
            self.quantile_ms(0.99)
        )?;
        self.seen.iter().try_for_each(|(what, times)| writeln!(f, "  {times:>6} {what}"))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_summary_counts_what_was_seen() {
        let mut outcome =
            Outcome { took: (1..=100).map(Duration::from_millis).collect(), ..Outcome::default() };
        for (status, times) in [(200, 98), (503, 2)] {
            for _ in 0..times {
                let answer = Response::builder().status(status).header("x-node", "n1").body(Bytes::new());
                outcome.count(&Ok(answer.unwrap()));
            }
        }
        let text = outcome.to_string();
        assert_eq!(
            text,
            "100 calls, 98 succeeded (98.00 %), p50 51.0 ms, p99 100.0 ms\n     100 from n1\n      98 status 200\n       2 status 503\n"
        );
    }
}
