//! The one place that reads the clock: a bench measures real time, so there is nothing to inject.

use std::time::{Duration, Instant};

/// The monotonic time of now.
pub fn now() -> Instant {
    #[expect(
        clippy::disallowed_methods,
        reason = "a bench measures real time; simulated time would measure nothing"
    )]
    Instant::now()
}

/// Looks every 20 ms until `look` gives something; `None` after `patience`.
pub fn wait_for<T>(patience: Duration, mut look: impl FnMut() -> Option<T>) -> Option<T> {
    let end = now() + patience;
    loop {
        if let Some(found) = look() {
            return Some(found);
        }
        if now() >= end {
            return None;
        }
        std::thread::sleep(Duration::from_millis(20));
    }
}
