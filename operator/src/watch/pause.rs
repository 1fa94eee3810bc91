//! How long a failed watch waits before it is tried again: short enough that an API server that was away is followed again at once.

use std::time::Duration;

use tokio::time::Instant;

const FIRST: Duration = Duration::from_millis(250);
const MAX: Duration = Duration::from_secs(5);
/// A failure that comes later than this after the last one is a first one again. A success in between is not enough:
/// a listing that works and a watch that does not would otherwise alternate without a pause.
const FORGET: Duration = Duration::from_secs(30);

/// Pauses that double from [`FIRST`] to [`MAX`].
#[derive(Debug)]
pub(super) struct Pauses {
    next: Duration,
    last: Option<Instant>,
}

impl Default for Pauses {
    fn default() -> Self {
        Self { next: FIRST, last: None }
    }
}

impl Pauses {
    /// The pause after a failure that comes now.
    pub(super) fn next(&mut self) -> Duration {
        let now = Instant::now();
        if self.last.is_none_or(|last| now - last > FORGET) {
            self.next = FIRST;
        }
        self.last = Some(now);
        let pause = self.next;
        self.next = (pause * 2).min(MAX);
        pause
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test(start_paused = true)]
    async fn pauses_grow_to_a_bound_and_are_forgotten_after_a_quiet_time() {
        let mut pauses = Pauses::default();
        let seen: Vec<_> = (0..7).map(|_| pauses.next().as_millis()).collect();
        assert_eq!(seen, [250, 500, 1000, 2000, 4000, 5000, 5000]);
        tokio::time::advance(FORGET + Duration::from_secs(1)).await;
        assert_eq!(pauses.next(), FIRST);
    }
}
