//! Time as the engine knows it, and deadlines that cost a store when they move; it reads no clock.

use std::cmp::Reverse;
use std::collections::BinaryHeap;
use std::ops::Add;
use std::time::Duration;

/// Nanoseconds since some fixed moment, for example the process's start. Never goes back.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Time(pub u64);

impl Time {
    /// Later than every other: no deadline.
    pub const NEVER: Time = Time(u64::MAX);

    /// How long after `earlier` this is; zero when it is before.
    pub fn since(self, earlier: Time) -> Duration {
        Duration::from_nanos(self.0.saturating_sub(earlier.0))
    }
}

impl Add<Duration> for Time {
    type Output = Time;

    fn add(self, duration: Duration) -> Time {
        Time(self.0.saturating_add(u64::try_from(duration.as_nanos()).unwrap_or(u64::MAX)))
    }
}

/// When the deadline of one thing is looked at next; it lives in the slot of the thing, and on when the slot is reused.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Deadline {
    /// When something is due; [`Time::NEVER`] when nothing is.
    pub(crate) due: Time,
    /// The earliest entry in the queue for this slot; [`Time::NEVER`] when there is none.
    queued: Time,
}

impl Default for Deadline {
    fn default() -> Self {
        Deadline { due: Time::NEVER, queued: Time::NEVER }
    }
}

/// Entries for slots. Moving a deadline later, or taking it away, leaves its entry where it is: the entry is looked at when its
/// time comes and put back. So a deadline that moves with every request costs one store.
#[derive(Debug)]
pub(crate) struct Deadlines<K> {
    queue: BinaryHeap<Reverse<(Time, K)>>,
}

impl<K: Ord + Copy> Deadlines<K> {
    pub(crate) fn new() -> Self {
        Deadlines { queue: BinaryHeap::new() }
    }

    /// Sets when `key` is due.
    #[inline]
    pub(crate) fn set(&mut self, deadline: &mut Deadline, key: K, due: Time) {
        deadline.due = due;
        if due < deadline.queued {
            deadline.queued = due;
            self.queue.push(Reverse((due, key)));
        }
    }

    /// When to look next.
    pub(crate) fn next(&self) -> Option<Time> {
        self.queue.peek().map(|Reverse((time, _))| *time)
    }

    /// Takes one entry whose time has come. The owner passes it to [`Deadlines::is_due`].
    pub(crate) fn pop(&mut self, now: Time) -> Option<(Time, K)> {
        if self.next()? > now {
            return None;
        }
        self.queue.pop().map(|Reverse(entry)| entry)
    }

    /// Whether an entry that was popped means that `key` is due. When it is due later it is queued again.
    pub(crate) fn is_due(&mut self, deadline: &mut Deadline, entry: (Time, K), now: Time) -> bool {
        let (time, key) = entry;
        if deadline.queued != time {
            return false;
        }
        deadline.queued = Time::NEVER;
        let due = deadline.due;
        if due <= now {
            deadline.due = Time::NEVER;
            return true;
        }
        if due != Time::NEVER {
            self.set(deadline, key, due);
        }
        false
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_deadline_that_moves_later_has_one_entry() {
        let mut queue = Deadlines::new();
        let mut deadline = Deadline::default();
        for due in 10..1000 {
            queue.set(&mut deadline, 7, Time(due));
        }
        assert_eq!(queue.queue.len(), 1);
        let entry = queue.pop(Time(10)).unwrap();
        assert!(!queue.is_due(&mut deadline, entry, Time(10)), "it moved to 999");
        assert_eq!(queue.next(), Some(Time(999)));
        let entry = queue.pop(Time(999)).unwrap();
        assert!(queue.is_due(&mut deadline, entry, Time(999)));
        assert_eq!(queue.next(), None);
    }

    #[test]
    fn an_earlier_deadline_fires_once() {
        let mut queue = Deadlines::new();
        let mut deadline = Deadline::default();
        queue.set(&mut deadline, 7, Time(50));
        queue.set(&mut deadline, 7, Time(20));
        let entry = queue.pop(Time(20)).unwrap();
        assert!(queue.is_due(&mut deadline, entry, Time(20)));
        let stale = queue.pop(Time(60)).unwrap();
        assert!(!queue.is_due(&mut deadline, stale, Time(60)), "the first entry is stale");
    }

    #[test]
    fn a_deadline_that_was_taken_away_does_not_fire() {
        let mut queue = Deadlines::new();
        let mut deadline = Deadline::default();
        queue.set(&mut deadline, 7, Time(50));
        queue.set(&mut deadline, 7, Time::NEVER);
        let entry = queue.pop(Time(50)).unwrap();
        assert!(!queue.is_due(&mut deadline, entry, Time(50)));
        assert_eq!(queue.next(), None);
    }
}
