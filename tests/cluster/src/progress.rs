//! Owns saying how far a long operation is, with the time since its start; where that goes is the tracing subscriber's.

use tokio::time::Instant;

/// The clock of one operation.
#[derive(Debug, Clone, Copy)]
pub struct Progress {
    started: Instant,
}

impl Progress {
    /// Starts the clock.
    #[expect(clippy::new_without_default, reason = "starting a clock is an act, not a default")]
    pub fn new() -> Self {
        Self { started: Instant::now() }
    }

    /// Says that `what` was reached.
    pub fn say(&self, what: impl std::fmt::Display) {
        tracing::info!("{:6.1} s  {what}", self.started.elapsed().as_secs_f32());
    }
}
