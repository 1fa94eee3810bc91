//! How old the configuration is: since when a source has not been heard of; keeps no configuration.

use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use tokio::time::Instant;

use super::inputs::Part;

/// A watch that has not failed again for this long has recovered: an attempt takes at most the connect timeout, the pause
/// before it at most [`super::kubernetes`]'s longest.
const RECOVERED: Duration = Duration::from_secs(20);

/// Shared by the sources, who say, and the metrics, who ask.
#[derive(Clone, Debug)]
pub struct Freshness {
    parts: Arc<Mutex<[State; Part::ALL.len()]>>,
}

#[derive(Clone, Copy, Debug)]
enum State {
    /// Not heard of in this process; what the store gave is from then.
    Since(Instant),
    InStep,
    Failing {
        first: Instant,
        last: Instant,
    },
}

impl Freshness {
    /// Nothing has been heard of; what is served, if anything, was in step at `since`.
    pub fn new(since: Instant) -> Self {
        Self { parts: Arc::new(Mutex::new([State::Since(since); Part::ALL.len()])) }
    }

    /// A source was heard of and is in step.
    pub fn heard(&self, part: Part) {
        self.set(part, |_| State::InStep);
    }

    /// A source failed.
    pub fn failed(&self, part: Part, now: Instant) {
        self.set(part, |state| match state {
            State::Since(since) => State::Since(since),
            State::Failing { first, last } if now - last < RECOVERED => State::Failing { first, last: now },
            State::InStep | State::Failing { .. } => State::Failing { first: now, last: now },
        });
    }

    /// Whether every part has been heard of in this process.
    pub fn is_heard(&self) -> bool {
        let parts = self.parts.lock().unwrap_or_else(PoisonError::into_inner);
        !parts.iter().any(|state| matches!(state, State::Since(_)))
    }

    /// How long the oldest part may have been behind; zero while all are in step.
    pub fn age(&self, now: Instant) -> Duration {
        let parts = self.parts.lock().unwrap_or_else(PoisonError::into_inner);
        let age = |state: &State| match *state {
            State::Since(since) => now - since,
            State::Failing { first, last } if now - last < RECOVERED => now - first,
            State::InStep | State::Failing { .. } => Duration::ZERO,
        };
        parts.iter().map(age).max().unwrap_or_default()
    }

    fn set(&self, part: Part, next: impl FnOnce(State) -> State) {
        let mut parts = self.parts.lock().unwrap_or_else(PoisonError::into_inner);
        let state = &mut parts[part as usize];
        *state = next(*state);
    }
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use tokio::time::Instant;

    use super::{Freshness, RECOVERED};
    use crate::config::inputs::Part;

    #[test]
    fn age_counts_from_the_first_failure_until_the_source_is_back() {
        let start = Instant::now();
        let at = |seconds| start + Duration::from_secs(seconds);
        let freshness = Freshness::new(start);
        assert_eq!(freshness.age(at(7)), Duration::from_secs(7), "nothing heard yet");
        for part in Part::ALL {
            assert!(!freshness.is_heard());
            freshness.heard(part);
        }
        assert!(freshness.is_heard());
        assert_eq!(freshness.age(at(8)), Duration::ZERO);
        freshness.failed(Part::Slices, at(10));
        freshness.failed(Part::Slices, at(20));
        assert_eq!(freshness.age(at(25)), Duration::from_secs(15));
        assert_eq!(freshness.age(at(20) + RECOVERED), Duration::ZERO, "no failure for a while");
        freshness.failed(Part::Slices, at(60));
        assert_eq!(freshness.age(at(61)), Duration::from_secs(1), "another outage");
        freshness.heard(Part::Slices);
        assert_eq!(freshness.age(at(62)), Duration::ZERO);
    }
}
