//! How many calls a second are let through, on each node by itself: the generic cell rate algorithm (GCRA, ITU-T I.371), which needs one number for each key and no timer.

use std::collections::HashMap;
use std::hash::{BuildHasher, Hash, Hasher, RandomState};
use std::net::IpAddr;
use std::sync::{Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use vicino_wire::head::RequestHead;

use crate::core::{ConnId, Core};
use crate::deadline::Time;
use crate::identify::Caller;
use crate::snapshot::ServiceName;

/// Keys that one part of the table keeps; when it is full, those that have rested go, and when none has, new ones are not limited.
const KEYS_MAX: usize = 4096;
/// Parts of the table, so that workers do not wait for each other.
const PARTS: usize = 16;
const SECOND_NS: u64 = 1_000_000_000;

/// How many calls are let through.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct RateLimit {
    /// Calls a second, in the long run; at least 1.
    pub per_second: u32,
    /// Calls that may come at once; at least 1.
    pub burst: u32,
    /// Which calls share that; None: all of them.
    pub key: Option<RateKey>,
}

/// What calls that share a limit have in common.
#[derive(Clone, Debug, Hash, PartialEq, Eq)]
pub enum RateKey {
    /// The value of this field; calls without it share a limit, too.
    Header(Box<str>),
    /// The calling pod.
    Source,
    /// The calling pod's service account.
    ServiceAccount,
}

/// Whose limit it is, within a Service: what stays the same from one snapshot to the next.
#[derive(Clone, Debug, Hash, PartialEq, Eq)]
pub(crate) enum LimitOf {
    /// The route's own, for all calls whose rule has none.
    Route,
    /// That of the rule with this name.
    Named(Box<str>),
    /// That of a rule without a name, by its place among the rules.
    Nth(usize),
}

/// Which connections of other neighbourhoods share a limit.
#[derive(Clone, Copy, Debug, Hash)]
pub(crate) enum Shared {
    /// Those from one address.
    Source(IpAddr),
    /// Those from addresses that are no nodes'.
    Others,
}

/// The state of all limits of a node; it lives on through snapshots.
#[derive(Debug)]
pub struct Buckets {
    hasher: RandomState,
    /// When a key is as good as new, in the engine's time.
    parts: [Mutex<HashMap<u64, u64>>; PARTS],
}

impl Default for Buckets {
    fn default() -> Self {
        Buckets { hasher: RandomState::new(), parts: std::array::from_fn(|_| Mutex::default()) }
    }
}

/// What was kept is no part of what was configured.
impl PartialEq for Buckets {
    fn eq(&self, _: &Self) -> bool {
        true
    }
}

impl Buckets {
    /// Lets a call through, or says how long its caller should wait.
    fn take(&self, key: u64, limit: &RateLimit, now: Time) -> Result<(), Duration> {
        let interval = SECOND_NS / u64::from(limit.per_second.max(1));
        let most = interval * u64::from(limit.burst.max(1));
        let mut part = self.part(key);
        let rested_at = part.get(&key).copied().unwrap_or(0).max(now.0) + interval;
        if let Some(wait) = (rested_at - now.0).checked_sub(most).filter(|wait| *wait > 0) {
            return Err(Duration::from_nanos(wait));
        }
        if part.len() >= KEYS_MAX && !part.contains_key(&key) {
            part.retain(|_, rested_at| *rested_at > now.0);
        }
        if part.len() < KEYS_MAX || part.contains_key(&key) {
            part.insert(key, rested_at);
        }
        Ok(())
    }

    /// Whether a connection of another neighbourhood is within a limit.
    pub(crate) fn take_connection(&self, shared: Shared, limit: &RateLimit, now: Time) -> bool {
        self.take(self.hasher.hash_one(shared), limit, now).is_ok()
    }

    fn part(&self, key: u64) -> MutexGuard<'_, HashMap<u64, u64>> {
        self.parts[key as usize % PARTS].lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Callers choose what they are told apart by, so they must not know how it is hashed.
    fn key(
        &self,
        limit: &RateLimit,
        (service, of): (&ServiceName, &LimitOf),
        (head, peer, caller): (&RequestHead<'_>, IpAddr, &Caller),
    ) -> u64 {
        let mut hasher = self.hasher.build_hasher();
        // What a value means is a part of it: a limit that is told apart by something else from now on begins anew.
        (service, of, &limit.key).hash(&mut hasher);
        match (&limit.key, caller) {
            (None, _) => {}
            (Some(RateKey::Header(name)), _) => head.headers.get(name).hash(&mut hasher),
            (Some(RateKey::ServiceAccount), Caller::Neighbour(pod)) => {
                (&pod.namespace, &pod.service_account).hash(&mut hasher);
            }
            (Some(RateKey::Source | RateKey::ServiceAccount), _) => peer.hash(&mut hasher),
        }
        hasher.finish()
    }
}

impl Core {
    /// Whether a call may go on under a limit; else how long its caller should wait.
    pub(crate) fn take_rate(
        &self,
        id: ConnId,
        head: &RequestHead<'_>,
        (limit, service, of): (&RateLimit, &ServiceName, &LimitOf),
    ) -> Result<(), Duration> {
        let Some(conn) = self.net.get(id) else { return Ok(()) };
        let crate::connection::Kind::Client(client) = &conn.kind else { return Ok(()) };
        let buckets = &self.snapshot.buckets;
        let who = (head, conn.peer.ip().to_canonical(), client.caller());
        buckets.take(buckets.key(limit, (service, of), who), limit, self.now)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const LIMIT: RateLimit = RateLimit { per_second: 10, burst: 3, key: None };

    #[test]
    fn a_burst_passes_at_once_and_then_as_many_as_the_rate_says() {
        let buckets = Buckets::default();
        let take = |key, ms: u64| buckets.take(key, &LIMIT, Time(7_000_000_000 + ms * 1_000_000));
        for _ in 0..3 {
            assert_eq!(take(1, 0), Ok(()));
        }
        assert_eq!(take(1, 0), Err(Duration::from_millis(100)));
        assert_eq!(take(1, 40), Err(Duration::from_millis(60)), "asking again makes it no longer");
        assert_eq!(take(2, 0), Ok(()), "another key has a limit of its own");
        assert_eq!(take(1, 100), Ok(()));
        assert_eq!(take(1, 100), Err(Duration::from_millis(100)));
        let passed = (0..1000).filter(|i| take(3, i * 10).is_ok()).count();
        assert!((100..=103).contains(&passed), "{passed} in ten seconds");
        for _ in 0..3 {
            assert_eq!(take(1, 60_000), Ok(()), "a rest brings a whole burst, and no more");
        }
        assert!(take(1, 60_000).is_err());
    }

    #[test]
    fn what_is_kept_is_bounded_and_keys_that_have_rested_go_first() {
        let buckets = Buckets::default();
        let count = || buckets.parts.iter().map(|part| part.lock().unwrap().len()).sum::<usize>();
        for key in 0..2 * (KEYS_MAX * PARTS) as u64 {
            let _ = buckets.take(key, &LIMIT, Time(1));
        }
        assert_eq!(count(), KEYS_MAX * PARTS);
        assert_eq!(buckets.take(u64::MAX, &LIMIT, Time(1)), Ok(()));
        assert_eq!(buckets.take(7, &LIMIT, Time(10 * SECOND_NS)), Ok(()));
        assert_eq!(buckets.take(7 + PARTS as u64 * 1_000_000, &LIMIT, Time(10 * SECOND_NS)), Ok(()));
        assert!(count() < KEYS_MAX * PARTS, "those of one part that had rested are gone");
    }
}
