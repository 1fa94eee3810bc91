//! Counters that one worker writes and any thread may read; no labels, no text: whoever publishes them names them.

use std::collections::BTreeMap;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, PoisonError};

use crate::account::Party;
use crate::policy::Policy;
use crate::reply::Reason;
use crate::snapshot::ServiceName;

/// Upper bounds of the duration buckets in nanoseconds; one more bucket takes what is longer.
pub const DURATION_BOUNDS_NS: [u64; 15] = [
    250_000,
    500_000,
    1_000_000,
    2_500_000,
    5_000_000,
    10_000_000,
    25_000_000,
    50_000_000,
    100_000_000,
    250_000_000,
    500_000_000,
    1_000_000_000,
    2_500_000_000,
    5_000_000_000,
    10_000_000_000,
];

/// Most Services that one worker counts apart, for each direction; calls to further ones are counted under an empty name.
pub const SERVICES_MAX: usize = 10_000;

/// Most policies that one worker counts apart; calls that further ones refuse are counted under [`PolicyName::other`].
pub const POLICIES_MAX: usize = 500;

/// A number that one thread writes (no locked instruction) and any thread reads.
#[derive(Debug, Default)]
pub struct Counter(AtomicU64);

impl Counter {
    /// The value now.
    pub fn get(&self) -> u64 {
        self.0.load(Ordering::Relaxed)
    }

    #[inline]
    pub(crate) fn add(&self, n: u64) {
        self.0.store(self.get().wrapping_add(n), Ordering::Relaxed);
    }

    pub(crate) fn set(&self, n: u64) {
        self.0.store(n, Ordering::Relaxed);
    }

    /// For numbers that go down as well.
    #[inline]
    pub(crate) fn sub(&self, n: u64) {
        debug_assert!(self.get() >= n, "a gauge went below zero");
        self.0.store(self.get().wrapping_sub(n), Ordering::Relaxed);
    }
}

/// What went through connections of one sort.
#[derive(Debug, Default)]
pub struct ConnectionTally {
    /// Opened ever.
    pub opened: Counter,
    /// Open now.
    pub open: Counter,
    /// Bytes read.
    pub bytes_in: Counter,
    /// Bytes written.
    pub bytes_out: Counter,
    /// Not taken because of a limit, or not connected.
    pub refused: Counter,
}

/// Why a connection of another neighbourhood was not taken, or not kept.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Refusal {
    /// A pod of the own neighbourhood dialled.
    NotAProxy,
    /// There are as many as there may be.
    Connections,
    /// Too many of that source, or of those that are no nodes, have not said who they are.
    Strangers,
    /// They come too often from there.
    Rate,
    /// It ended, or its time did, before it had said who it is.
    Unknown,
    /// It shows the certificate of another node.
    AnotherNode,
    /// It shows a certificate that has ended.
    CertificateEnded,
}

impl Refusal {
    /// The words of all, in their order.
    pub const WORDS: [&str; 7] =
        ["not-a-proxy", "connections", "strangers", "rate", "unknown", "another-node", "certificate-ended"];

    /// A bounded word for metrics and logs.
    pub fn word(self) -> &'static str {
        Self::WORDS[self as usize]
    }
}

/// Which side of a call a proxy was.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Direction {
    /// L1: a call of a pod of the own neighbourhood.
    Outbound,
    /// L2: a call that came over a hop to a pod of the own neighbourhood.
    Inbound,
}

/// Calls to one Service in one direction.
#[derive(Debug)]
pub struct ServiceTally {
    /// The Service.
    pub service: ServiceName,
    /// The side.
    pub direction: Direction,
    /// Finished calls by class of status; index 0: no status was sent (cut, cancelled, opaque).
    pub by_class: [Counter; 6],
    /// Durations from head to end, by [`DURATION_BOUNDS_NS`]; not cumulative.
    pub durations: [Counter; DURATION_BOUNDS_NS.len() + 1],
    /// Sum of the durations in nanoseconds.
    pub duration_sum_ns: Counter,
    /// Calls open now.
    pub open: Counter,
}

impl ServiceTally {
    fn new(service: ServiceName, direction: Direction) -> Self {
        ServiceTally {
            service,
            direction,
            by_class: Default::default(),
            durations: Default::default(),
            duration_sum_ns: Counter::default(),
            open: Counter::default(),
        }
    }

    /// Counts a call that was answered as soon as it came.
    pub(crate) fn answered(&self, status: u16) {
        self.open.add(1);
        self.finish(status, 0);
    }

    /// Counts a finished call; `status` 0 when none was sent.
    #[inline]
    pub(crate) fn finish(&self, status: u16, duration_ns: u64) {
        let class = usize::from(status / 100).min(self.by_class.len() - 1);
        self.by_class[class].add(1);
        let bucket = DURATION_BOUNDS_NS.partition_point(|bound| *bound < duration_ns);
        self.durations[bucket].add(1);
        self.duration_sum_ns.add(duration_ns);
        self.open.sub(1);
    }
}

/// By what a call was refused: a policy, or else, without a namespace, a word.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct PolicyName {
    /// Namespace of the policy; empty when it is none.
    pub namespace: Arc<str>,
    /// Its name, or the word.
    pub name: Arc<str>,
}

impl PolicyName {
    fn of(policy: Option<&Policy>) -> Self {
        policy.map_or_else(
            || PolicyName { namespace: "".into(), name: "default".into() },
            |policy| PolicyName { namespace: policy.namespace.clone(), name: policy.name.clone() },
        )
    }

    /// All policies that are not counted apart.
    pub fn other() -> Self {
        PolicyName { namespace: "".into(), name: "other".into() }
    }
}

/// Calls that one policy, or the mesh's default, was against.
#[derive(Debug, Default)]
pub struct PolicyTally {
    /// Refused.
    pub denied: Counter,
    /// Let pass, since it decides nothing.
    pub audited: Counter,
}

/// Everything that one worker counts.
#[derive(Debug, Default)]
pub struct Tally {
    /// Connections of callers.
    pub clients: ConnectionTally,
    /// Connections to pods.
    pub pods: ConnectionTally,
    /// Hops that were dialled.
    pub hops_dialed: ConnectionTally,
    /// Hops that were accepted.
    pub hops_accepted: ConnectionTally,
    /// Of those, the ones that stood, by who is at the other end.
    pub hops_by_party: [Counter; Party::WORDS.len()],
    /// Of those that were accepted, the ones that were not taken or kept, in the order of [`Refusal::WORDS`].
    pub hop_refusals: [Counter; Refusal::WORDS.len()],
    /// Streams open now, dialled and accepted.
    pub streams_open: Counter,
    /// Streams opened ever.
    pub streams: Counter,
    /// Calls placed again at another endpoint.
    pub requeues: Counter,
    /// Calls that policies in audit would have decided otherwise.
    pub policy_audits: Counter,
    /// Calls placed again because an idle connection had died.
    pub stale_retries: Counter,
    /// Calls repeated because an attempt failed.
    pub retries: Counter,
    /// Calls that would have been repeated, had the budget not been spent.
    pub retries_denied: Counter,
    /// Calls sent once more because their answer took long.
    pub hedges: Counter,
    /// Of those, calls that were answered there first.
    pub hedges_won: Counter,
    /// Calls that would have been sent once more, had the budget not been spent.
    pub hedges_denied: Counter,
    /// Pods that were left out because their calls failed.
    pub ejections: Counter,
    /// Calls that wait for a pod with a limit.
    pub queued: Counter,
    /// Calls that left one line because a pod of another node was free first.
    pub late_bound: Counter,
    /// Calls of which a copy was sent to a mirror.
    pub mirrored: Counter,
    /// Calls of which none was, although their rule says so: too many copies were open, or not all of the call was still there.
    pub mirrors_skipped: Counter,
    /// Callers whose request waits for their being known.
    pub held: Counter,
    /// Own answers by reason, in the order of [`Reason::ALL`].
    pub replies: ByReason,
    /// Bytes in buffers, looked at once a second at most, when something else is due.
    pub buffered: Counter,
    services: Mutex<Vec<Arc<ServiceTally>>>,
    policies: Mutex<BTreeMap<PolicyName, Arc<PolicyTally>>>,
}

/// A counter for each reason.
#[derive(Debug)]
pub struct ByReason([Counter; Reason::ALL.len()]);

impl Default for ByReason {
    fn default() -> Self {
        Self(std::array::from_fn(|_| Counter::default()))
    }
}

impl std::ops::Deref for ByReason {
    type Target = [Counter];

    fn deref(&self) -> &[Counter] {
        &self.0
    }
}

impl Tally {
    /// Every Service that was called so far.
    pub fn services(&self) -> Vec<Arc<ServiceTally>> {
        self.services.lock().unwrap_or_else(PoisonError::into_inner).clone()
    }

    /// The counters of a Service; made at first use. Takes a lock: for the first request of a Service under a snapshot only.
    pub(crate) fn service(&self, service: &ServiceName, direction: Direction) -> Arc<ServiceTally> {
        let mut services = self.services.lock().unwrap_or_else(PoisonError::into_inner);
        let found = services.iter().find(|s| s.direction == direction && s.service == *service);
        if let Some(found) = found {
            return Arc::clone(found);
        }
        let service = if services.len() < 2 * SERVICES_MAX {
            service.clone()
        } else {
            let overflow = ServiceName { namespace: "".into(), name: "".into() };
            let found = services.iter().find(|s| s.direction == direction && s.service == overflow);
            if let Some(found) = found {
                return Arc::clone(found);
            }
            overflow
        };
        let block = Arc::new(ServiceTally::new(service, direction));
        services.push(Arc::clone(&block));
        block
    }

    /// Every policy that was against a call so far.
    pub fn policies(&self) -> BTreeMap<PolicyName, Arc<PolicyTally>> {
        self.policies.lock().unwrap_or_else(PoisonError::into_inner).clone()
    }

    /// Counts a call that a policy, or the mesh's default, is against. Takes a lock that only readers of the counters share.
    pub(crate) fn policy(&self, policy: Option<&Policy>, is_audit: bool) {
        let mut policies = self.policies.lock().unwrap_or_else(PoisonError::into_inner);
        let mut name = PolicyName::of(policy);
        if policies.len() >= POLICIES_MAX && !policies.contains_key(&name) {
            name = PolicyName::other();
        }
        let tally = policies.entry(name).or_default();
        let counter = if is_audit { &tally.audited } else { &tally.denied };
        counter.add(1);
    }

    pub(crate) fn reply(&self, reason: Reason) {
        self.replies[reason as usize].add(1);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn policies_beyond_the_bound_are_counted_together() {
        let tally = Tally::default();
        let policy = |i: usize| Policy {
            namespace: "demo".into(),
            name: format!("p{i}").into(),
            is_audit: false,
            target: crate::policy::Target::Namespace,
            rules: Vec::new(),
        };
        tally.policy(None, false);
        for i in 0..POLICIES_MAX + 9 {
            tally.policy(Some(&policy(i)), false);
            tally.policy(Some(&policy(i)), true);
        }
        let all = tally.policies();
        let counts = |name: &PolicyName| (all[name].denied.get(), all[name].audited.get());
        assert_eq!(all.len(), POLICIES_MAX + 1);
        assert_eq!(counts(&PolicyName::of(Some(&policy(0)))), (1, 1));
        assert_eq!(counts(&PolicyName::of(None)), (1, 0));
        assert_eq!(counts(&PolicyName::other()), (10, 10));
    }

    #[test]
    fn a_finished_call_is_in_one_class_and_one_bucket() {
        let tally = Tally::default();
        let name = ServiceName { namespace: "demo".into(), name: "web".into() };
        let block = tally.service(&name, Direction::Outbound);
        for (status, duration_ns) in [(200, 250_000), (404, 250_001), (0, u64::MAX / 4), (503, 0)] {
            block.open.add(1);
            block.finish(status, duration_ns);
        }
        let classes: Vec<u64> = block.by_class.iter().map(Counter::get).collect();
        assert_eq!(classes, [1, 0, 1, 0, 1, 1]);
        assert_eq!(block.durations[0].get(), 2);
        assert_eq!(block.durations[1].get(), 1);
        assert_eq!(block.durations[DURATION_BOUNDS_NS.len()].get(), 1);
        assert_eq!(block.open.get(), 0);
        assert!(Arc::ptr_eq(&block, &tally.service(&name, Direction::Outbound)));
        assert!(!Arc::ptr_eq(&block, &tally.service(&name, Direction::Inbound)));
    }
}
