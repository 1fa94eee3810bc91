//! Prints measurements so that they are seen in a passing test as well, and keeps them in a file; judges none of them.

use std::fmt;
use std::fs::File;
use std::io::Write;
use std::time::Duration;

use crate::fixture;

/// Prints one line `figure: …`, past the test harness' capturing, and adds it to `figures.txt` of the output folder.
pub fn print(what: impl fmt::Display) {
    let line = format!("figure: {what}\n");
    // Output that is closed is nobody's loss.
    let _ = std::io::stderr().write_all(line.as_bytes());
    let file = fixture::output_dir().join("figures.txt");
    let _ =
        File::options().create(true).append(true).open(file).and_then(|mut f| f.write_all(line.as_bytes()));
}

/// Durations of one kind of event.
#[derive(Clone, Debug, Default)]
pub struct Durations(Vec<Duration>);

impl Durations {
    /// Adds one.
    pub fn add(&mut self, duration: Duration) {
        let place = self.0.partition_point(|d| *d <= duration);
        self.0.insert(place, duration);
    }

    /// How many there are.
    pub fn len(&self) -> usize {
        self.0.len()
    }

    /// Whether there is none.
    pub fn is_empty(&self) -> bool {
        self.0.is_empty()
    }

    /// The smallest duration that at least `percent` percent do not pass; zero when there is none.
    pub fn percentile(&self, percent: usize) -> Duration {
        let rank = (self.0.len() * percent).div_ceil(100);
        self.0.get(rank.saturating_sub(1)).copied().unwrap_or_default()
    }
}

impl fmt::Display for Durations {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let ms = |percent| self.percentile(percent).as_millis();
        write!(f, "p50 {} ms, p99 {} ms, max {} ms, n={}", ms(50), ms(99), ms(100), self.len())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn percentiles_by_nearest_rank() {
        let mut durations = Durations::default();
        for ms in (1..=100).rev() {
            durations.add(Duration::from_millis(ms));
        }
        assert_eq!(durations.to_string(), "p50 50 ms, p99 99 ms, max 100 ms, n=100");
        assert_eq!(Durations::default().percentile(99), Duration::ZERO);
    }
}
