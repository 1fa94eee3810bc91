//! How often something may happen in a second; it reads no clock.

use std::time::Duration;

use crate::deadline::Time;

/// Counts within a second that begins with the first after the last.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Pace {
    since: Time,
    count: u32,
}

impl Pace {
    pub(crate) fn new(now: Time) -> Pace {
        Pace { since: now, count: 0 }
    }

    /// Counts one more. False when that is more than `max` in a second.
    pub(crate) fn count(&mut self, now: Time, max: u32) -> bool {
        if now.since(self.since) >= Duration::from_secs(1) {
            *self = Pace::new(now);
        }
        self.count += 1;
        self.count <= max
    }
}
