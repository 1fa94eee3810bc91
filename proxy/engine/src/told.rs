//! What was said of whom, so that a source that does the same again and again fills no log; bounded, and it reads no clock.

use std::collections::HashMap;
use std::net::IpAddr;
use std::time::Duration;

use crate::deadline::Time;

/// The same is said of the same source again after this.
const AGAIN_AFTER: Duration = Duration::from_secs(10);
/// Sources and reasons that are remembered; while there are more, nothing is said of the others.
const KEPT_MAX: usize = 1_024;

/// What was said of whom, and when.
#[derive(Debug, Default)]
pub struct Told {
    at: HashMap<(IpAddr, &'static str), Time>,
}

impl Told {
    /// Whether it is to be said now that a source did that, which is then remembered.
    pub fn is_news(&mut self, source: IpAddr, what: &'static str, now: Time) -> bool {
        let is_old = |at: Time| now.since(at) >= AGAIN_AFTER;
        if self.at.get(&(source, what)).is_some_and(|at| !is_old(*at)) {
            return false;
        }
        if self.at.len() >= KEPT_MAX {
            self.at.retain(|_, at| !is_old(*at));
        }
        let has_room = self.at.len() < KEPT_MAX;
        if has_room {
            self.at.insert((source, what), now);
        }
        has_room
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_same_is_said_once_in_a_while_and_what_is_kept_is_bounded() {
        let (mut told, one) = (Told::default(), IpAddr::from([10, 0, 0, 1]));
        let seconds = |s: u64| Time(s * 1_000_000_000);
        assert!(told.is_news(one, "rate", seconds(1)));
        assert!(!told.is_news(one, "rate", seconds(10)));
        assert!(told.is_news(one, "connections", seconds(10)));
        assert!(told.is_news(one, "rate", seconds(11)));
        let many = |last: u32| IpAddr::from((0x0b00_0000 + last).to_be_bytes());
        let said = (0..100_000).filter(|i| told.is_news(many(*i), "rate", seconds(12))).count();
        assert_eq!((said, told.at.len()), (KEPT_MAX - 2, KEPT_MAX));
        assert!(told.is_news(many(200_000), "rate", seconds(22)), "those that were said long ago make room");
    }
}
