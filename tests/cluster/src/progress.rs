//! Owns saying how far a long operation is, with the time since its start; where that goes is the tracing subscriber's.

use std::time::Duration;

use tokio::time::Instant;

/// How often a long step says that it is still under way.
const STILL: Duration = Duration::from_secs(30);

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

    /// Says that `what` begins, and every 30 s that it goes on, until `work` is done.
    pub async fn during<T>(&self, what: &str, work: impl Future<Output = T>) -> T {
        self.say(what);
        let mut work = std::pin::pin!(work);
        loop {
            tokio::select! {
                done = &mut work => return done,
                () = tokio::time::sleep(STILL) => self.say(format_args!("still {what}")),
            }
        }
    }
}
