//! How long calls take, as a number to choose by: the peak EWMA of Finagle and linkerd2-proxy (`tower::load::PeakEwma`). A call that took longer than expected counts at once, shorter ones
//! bring the estimate down by and by, and an estimate that nothing renews fades, so that whoever was slow is tried again.

use std::sync::{Mutex, PoisonError};
use std::time::Duration;

use crate::core::Core;
use crate::deadline::Time;
use crate::exchange::ExchangeId;
use crate::hash::FastMap;
use crate::hop::node::NodeIndex;

/// The time in which an estimate loses all but 1/e of itself.
const DECAY: Duration = Duration::from_secs(10);
/// The estimate of what no call has gone to.
const UNKNOWN_US: f64 = 30_000.0;
/// Estimates that nothing has renewed for so long say nothing.
const FORGOTTEN_AFTER: Duration = Duration::from_mins(1);

/// An estimate, in microseconds.
#[derive(Clone, Copy, Debug, Default)]
pub(crate) struct Latency {
    /// 0: nothing is known.
    us: f64,
    at: Time,
}

impl Latency {
    fn faded(&self, now: Time) -> f64 {
        self.us * (-now.since(self.at).as_secs_f64() / DECAY.as_secs_f64()).exp()
    }

    /// A call took so long.
    pub(crate) fn note(&mut self, took: Duration, now: Time) {
        let took = (took.as_secs_f64() * 1e6).max(1.0);
        let share = (-now.since(self.at).as_secs_f64() / DECAY.as_secs_f64()).exp();
        let smoothed = if self.us == 0.0 { took } else { self.us * share + took * (1.0 - share) };
        *self = Latency { us: smoothed.max(took), at: now };
    }

    /// A call has taken so long already, and was not answered.
    fn note_at_least(&mut self, took: Duration, now: Time) {
        if took.as_secs_f64() * 1e6 > self.faded(now) {
            self.note(took, now);
        }
    }

    /// Microseconds that a call is expected to take, at least 1.
    fn expected_us(&self, now: Time) -> u64 {
        let us = if self.us == 0.0 { UNKNOWN_US } else { self.faded(now) };
        // No call takes longer than a day.
        let time = Duration::from_secs_f64(us.clamp(1.0, 86.4e9) / 1e6);
        u64::try_from(time.as_micros()).unwrap_or(u64::MAX).max(1)
    }

    /// What speaks against giving one more call to so many servers that have some in flight together. Where nothing is known, one call finds out.
    pub(crate) fn load(&self, in_flight: u32, servers: u32, now: Time) -> u64 {
        if self.us == 0.0 && in_flight == 0 {
            return 0;
        }
        self.expected_us(now).saturating_mul(u64::from(in_flight) + u64::from(servers))
    }

    fn is_forgotten(&self, now: Time) -> bool {
        now.since(self.at) > FORGOTTEN_AFTER
    }
}

/// What this worker knows of nodes, by backend; lives on through snapshots.
#[derive(Debug, Default)]
pub(crate) struct Latencies(FastMap<(u64, u32), Latency>);

impl Latencies {
    pub(crate) fn get(&self, backend: u64, node: NodeIndex) -> Latency {
        self.0.get(&(backend, node.0)).copied().unwrap_or_default()
    }

    /// Forgets what nothing has renewed for long, so that the map is as large as what is called.
    pub(crate) fn forget(&mut self, now: Time) {
        self.0.retain(|_, latency| !latency.is_forgotten(now));
    }
}

/// What all workers together know of a pod.
#[derive(Debug, Default)]
pub(crate) struct SharedLatency(Mutex<Latency>);

impl SharedLatency {
    pub(crate) fn get(&self) -> Latency {
        *self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn update(&self, update: impl FnOnce(&mut Latency)) {
        update(&mut self.0.lock().unwrap_or_else(PoisonError::into_inner));
    }
}

/// What is known of the time that a call took where it was placed.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Took {
    /// Until its answer began.
    Answered,
    /// It is taken away and had no answer.
    AtLeast,
}

impl Core {
    /// Notes how long a call has taken at its node and its pod, where that is what they are chosen by.
    #[inline]
    pub(crate) fn note_latency(&mut self, id: ExchangeId, took: Took) {
        let Core { exchanges, latencies, now, .. } = self;
        let (Some(exchange), now) = (exchanges.get(id), *now) else { return };
        let choice = &exchange.plan.choices[exchange.choice];
        if !choice.is_by_latency() {
            return;
        }
        let (at_node, at_pod) = (now.since(exchange.placed), now.since(exchange.delivered));
        let note = |latency: &mut Latency, time| match took {
            Took::Answered => latency.note(time, now),
            Took::AtLeast => latency.note_at_least(time, now),
        };
        if let Some(node) = exchange.counted {
            note(latencies.0.entry((choice.key, node.0)).or_default(), at_node);
        }
        if let Some(pod) = &exchange.pod {
            pod.latency.update(|latency| note(latency, at_pod));
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const MS: Duration = Duration::from_millis(1);

    #[test]
    fn peaks_count_at_once_and_fade() {
        let mut latency = Latency::default();
        assert_eq!(latency.load(0, 1, Time(0)), 0, "one call finds out");
        assert_eq!(latency.load(1, 1, Time(0)), 60_000, "not many");
        let mut now = Time::default() + Duration::from_secs(1);
        latency.note(MS, now);
        assert_eq!(latency.expected_us(now), 1000);
        latency.note(50 * MS, now);
        assert_eq!(latency.expected_us(now), 50_000, "a peak counts whole");
        now = now + Duration::from_secs(1);
        latency.note(MS, now);
        let after = latency.expected_us(now);
        assert!((40_000..50_000).contains(&after), "a good one does not wash it away: {after}");
        now = now + 2 * DECAY;
        let faded = latency.expected_us(now);
        assert!((after / 8..after / 7).contains(&faded), "e² is 7.4: {faded} of {after}");
        latency.note_at_least(2 * MS, now);
        assert_eq!(latency.expected_us(now), faded, "a bound below what is expected says nothing");
        latency.note_at_least(90 * MS, now);
        assert_eq!(latency.expected_us(now), 90_000);
        assert_eq!(latency.expected_us(now + 100 * DECAY), 1, "never 0, which would be free of cost");
        assert!(!latency.is_forgotten(now + FORGOTTEN_AFTER) && latency.is_forgotten(now + 7 * DECAY));
    }
}
