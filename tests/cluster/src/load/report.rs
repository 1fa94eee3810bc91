//! Owns counting the outcomes of a load and showing them.

use std::collections::BTreeMap;
use std::fmt;
use std::time::Duration;

use hdrhistogram::Histogram;
use serde::Serialize;

use super::Load;
use super::connection::Outcome;

/// Distinct values kept of anything that the other side writes; what comes after is counted as `(other)`.
const DISTINCT_MAX: usize = 64;
/// Failures kept with their time.
const FAILURES_MAX: usize = 20;

/// A failed request.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct Failure {
    /// When it was due, in milliseconds after the start.
    pub at_ms: u64,
    /// How long after that it failed, in milliseconds.
    pub after_ms: u64,
    /// What went wrong, with the `vicino-error` if there was one.
    pub kind: String,
}

/// What became of a load. Latencies are in microseconds from the due time, of all requests, failed ones too; the timer
/// that sends them is up to 1 ms late, and that is in them.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub struct Report {
    /// The URL.
    pub target: String,
    /// The rate asked for.
    pub rate: u32,
    /// How long it took, in milliseconds.
    pub elapsed_ms: u64,
    /// Requests that came due.
    pub sent: u64,
    /// Requests answered with 2xx, whole.
    pub ok: u64,
    /// Failed requests by kind.
    pub failed: BTreeMap<String, u64>,
    /// Median latency.
    pub p50_us: u64,
    /// 99th percentile of latency.
    pub p99_us: u64,
    /// Longest latency.
    pub max_us: u64,
    /// Responses by `vicino-error`.
    pub errors: BTreeMap<String, u64>,
    /// Responses by `x-pod`.
    pub pods: BTreeMap<String, u64>,
    /// The first failures, in the order in which they were noticed.
    pub failures: Vec<Failure>,
}

impl Report {
    /// Requests that failed.
    pub fn failed_total(&self) -> u64 {
        self.sent - self.ok
    }
}

impl fmt::Display for Report {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let seconds = Duration::from_millis(self.elapsed_ms).as_secs_f32();
        writeln!(f, "{} at {}/s for {seconds:.1} s", self.target, self.rate)?;
        writeln!(f, "sent     {}", self.sent)?;
        writeln!(f, "ok       {}", self.ok)?;
        writeln!(f, "failed   {}", self.failed_total())?;
        for (kind, count) in &self.failed {
            writeln!(f, "  {count:>6}  {kind}")?;
        }
        let ms = |us: u64| Duration::from_micros(us).as_secs_f64() * 1000.0;
        writeln!(
            f,
            "latency  p50 {:.2} ms, p99 {:.2} ms, max {:.2} ms, from the due time",
            ms(self.p50_us),
            ms(self.p99_us),
            ms(self.max_us)
        )?;
        for (title, counts) in [("vicino-error", &self.errors), ("served by", &self.pods)] {
            if !counts.is_empty() {
                writeln!(f, "{title}")?;
            }
            for (value, count) in counts {
                writeln!(f, "  {count:>6}  {value}")?;
            }
        }
        if !self.failures.is_empty() {
            writeln!(f, "first failures (due, failed after)")?;
        }
        for failure in &self.failures {
            writeln!(f, "  {:>6} ms  {:>6} ms  {}", failure.at_ms, failure.after_ms, failure.kind)?;
        }
        Ok(())
    }
}

/// The counts so far.
#[derive(Debug)]
pub(super) struct Tally {
    latencies: Histogram<u64>,
    ok: u64,
    failed: BTreeMap<String, u64>,
    errors: BTreeMap<String, u64>,
    pods: BTreeMap<String, u64>,
    failures: Vec<Failure>,
}

impl Tally {
    /// `longest` is the longest latency that can be.
    pub(super) fn new(longest: Duration) -> Self {
        let bound = micros(longest).saturating_mul(2).max(2);
        Self {
            latencies: Histogram::new_with_max(bound, 3).expect("bound at least 2, 3 digits"),
            ok: 0,
            failed: BTreeMap::new(),
            errors: BTreeMap::new(),
            pods: BTreeMap::new(),
            failures: Vec::new(),
        }
    }

    /// Counts a request that was due `at` after the start and ended `latency` later.
    pub(super) fn add(&mut self, at: Duration, latency: Duration, outcome: &Outcome) {
        self.latencies.saturating_record(micros(latency));
        if let Some(pod) = &outcome.pod {
            count(&mut self.pods, pod);
        }
        if let Some(error) = &outcome.error {
            count(&mut self.errors, error);
        }
        let Some(kind) = &outcome.failure else {
            self.ok += 1;
            return;
        };
        let kind = outcome.error.as_ref().map_or_else(|| kind.clone(), |error| format!("{kind} {error}"));
        count(&mut self.failed, &kind);
        if self.failures.len() < FAILURES_MAX {
            self.failures.push(Failure { at_ms: millis(at), after_ms: millis(latency), kind });
        }
    }

    pub(super) fn report(self, load: &Load, elapsed: Duration) -> Report {
        Report {
            target: load.target.clone(),
            rate: load.rate,
            elapsed_ms: millis(elapsed),
            sent: self.latencies.len(),
            ok: self.ok,
            failed: self.failed,
            p50_us: self.latencies.value_at_quantile(0.5),
            p99_us: self.latencies.value_at_quantile(0.99),
            max_us: self.latencies.max(),
            errors: self.errors,
            pods: self.pods,
            failures: self.failures,
        }
    }
}

fn count(counts: &mut BTreeMap<String, u64>, value: &str) {
    let known = counts.contains_key(value) || counts.len() < DISTINCT_MAX;
    *counts.entry(if known { value } else { "(other)" }.to_owned()).or_default() += 1;
}

fn micros(duration: Duration) -> u64 {
    u64::try_from(duration.as_micros()).unwrap_or(u64::MAX)
}

fn millis(duration: Duration) -> u64 {
    u64::try_from(duration.as_millis()).unwrap_or(u64::MAX)
}
