//! How many calls a pod takes, found out from how long they take: one more while they are as quick as they should be, a tenth less when they are not (AIMD, as TCP's congestion avoidance, RFC 5681).

use std::sync::atomic::{AtomicU32, Ordering};
use std::sync::{Mutex, PoisonError};
use std::time::Duration;

use crate::core::Core;
use crate::exchange::ExchangeId;
use crate::snapshot::{Concurrency, PodSlot};

/// The limit of a pod of which nothing is known.
const FIRST: u32 = 10;
/// It is judged by this many calls at least.
const CALLS_MIN: u32 = 10;

/// When calls take too long.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Adaptive {
    /// Nanoseconds that calls should take, from the pod's being given one to its answer's beginning, on average.
    pub target_ns: u64,
    /// The limit is never below this; at least 1.
    pub per_pod_min: u32,
}

/// What was found out of one pod, by all workers together.
#[derive(Debug, Default)]
pub(crate) struct AdaptiveLimit {
    /// 0: nothing yet.
    limit: AtomicU32,
    window: Mutex<Window>,
}

/// Calls since the limit was last judged.
#[derive(Debug, Default)]
struct Window {
    calls: u32,
    sum_ns: u64,
    /// There were as many as the limit allows.
    was_full: bool,
}

impl AdaptiveLimit {
    fn get(&self, adaptive: Adaptive, most: u32) -> u32 {
        let limit = match self.limit.load(Ordering::Relaxed) {
            0 => FIRST,
            limit => limit,
        };
        limit.max(adaptive.per_pod_min).min(most)
    }

    /// A call took so long, and there were so many with it.
    fn note(&self, took: Duration, in_flight: u32, (adaptive, most): (Adaptive, u32)) {
        let mut window = self.window.lock().unwrap_or_else(PoisonError::into_inner);
        let limit = self.get(adaptive, most);
        window.calls += 1;
        window.sum_ns = window.sum_ns.saturating_add(u64::try_from(took.as_nanos()).unwrap_or(u64::MAX));
        window.was_full |= in_flight >= limit;
        // Each call of a round of them.
        if window.calls < limit.max(CALLS_MIN) {
            return;
        }
        let Window { calls, sum_ns, was_full } = std::mem::take(&mut *window);
        let new = match () {
            () if sum_ns / u64::from(calls) > adaptive.target_ns => {
                limit - (limit / 10).max(1).min(limit - 1)
            }
            // A limit that was not reached says nothing of what lies beyond.
            () if was_full => limit + 1,
            () => limit,
        };
        self.limit.store(new.max(adaptive.per_pod_min).min(most), Ordering::Relaxed);
    }
}

impl PodSlot {
    /// How many calls it takes now.
    pub fn limit(&self, concurrency: &Concurrency) -> u32 {
        let most = concurrency.per_pod;
        concurrency.adaptive.map_or(most, |adaptive| self.adaptive.get(adaptive, most))
    }
}

impl Core {
    /// A call has its answer, or is taken away without: how long that took says something of how many its pod can do.
    #[inline]
    pub(crate) fn note_pace(&mut self, id: ExchangeId, is_answered: bool) {
        let Some(exchange) = self.exchanges.get(id) else { return };
        let limit = exchange.plan.choices[exchange.choice].limit.as_ref();
        let Some(concurrency) = limit.map(|limit| &limit.concurrency) else { return };
        let (Some(adaptive), Some(pod)) = (concurrency.adaptive, &exchange.pod) else { return };
        let took = self.now.since(exchange.delivered);
        // Whoever left early says nothing.
        if is_answered || took.as_nanos() > u128::from(adaptive.target_ns) {
            pod.adaptive.note(took, pod.in_flight(), (adaptive, concurrency.per_pod));
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const MS: u64 = 1_000_000;

    /// The limit that comes of so many rounds of calls to a pod that does `slots` at a time, 10 ms each, with always more of them waiting.
    fn settled(slots: u32, adaptive: Adaptive, most: u32) -> Vec<u32> {
        let limit = AdaptiveLimit::default();
        (0..20_000)
            .map(|_| {
                let now = limit.get(adaptive, most);
                let took = Duration::from_millis(10).mul_f64(f64::from(now.max(slots)) / f64::from(slots));
                limit.note(took, now, (adaptive, most));
                now
            })
            .skip(15_000)
            .collect()
    }

    #[test]
    fn the_limit_settles_where_calls_take_what_they_should() {
        for slots in [1, 2, 8, 50] {
            let adaptive = Adaptive { target_ns: 20 * MS, per_pod_min: 1 };
            let limits = settled(slots, adaptive, 1000);
            let (least, most) = (*limits.iter().min().unwrap(), *limits.iter().max().unwrap());
            // Twice as many as it does at a time take twice as long.
            assert!(least * 10 >= slots * 17 && most <= 2 * slots + 1, "{slots}: {least} to {most}");
        }
    }

    #[test]
    fn the_limit_stays_within_its_bounds() {
        let never = Adaptive { target_ns: 1, per_pod_min: 3 };
        assert!(settled(1, never, 1000).iter().all(|limit| *limit == 3));
        let ever = Adaptive { target_ns: 1000 * MS, per_pod_min: 1 };
        assert!(settled(8, ever, 40).iter().all(|limit| *limit == 40));
        // Without as many calls as it allows it does not grow.
        let limit = AdaptiveLimit::default();
        for _ in 0..1000 {
            limit.note(Duration::from_millis(1), 3, (ever, 40));
        }
        assert_eq!(limit.get(ever, 40), FIRST);
    }
}
