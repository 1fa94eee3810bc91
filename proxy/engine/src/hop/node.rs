//! What this worker remembers of other neighbourhoods: which hop leads there, and when a dial that failed is tried again.

use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;

use crate::account::AccountIndex;
use crate::core::ConnId;
use crate::deadline::Time;
use crate::hash::FastMap;
use crate::random::Random;
use crate::snapshot::Snapshot;

/// First wait after a dial that failed; it doubles with each further one.
const BACKOFF_FIRST: Duration = Duration::from_millis(100);
/// Longest wait.
const BACKOFF_LONGEST: Duration = Duration::from_secs(5);

/// Number of a node on this worker. Stays while the node is known or used.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub(crate) struct NodeIndex(pub(crate) u32);

/// For whose calls a hop is.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub(crate) enum HopKey {
    /// Everybody's: it has no TLS.
    Anyone,
    /// Those of a service account, or of callers without identity.
    Of(AccountIndex),
}

/// One node.
#[derive(Debug)]
pub(crate) struct NodeState {
    pub(crate) name: Arc<str>,
    /// Where its L2 listens, in order of preference.
    pub(crate) addresses: Vec<SocketAddr>,
    pub(crate) is_ready: bool,
    /// Whether its L2 takes TLS.
    pub(crate) is_secure: bool,
    /// The hops that take new streams.
    pub(crate) hops: FastMap<HopKey, ConnId>,
    /// It was dialled with TLS and did not know it: until then it is dialled without.
    pub(crate) plain_until: Time,
    /// Dials that failed since one succeeded.
    pub(crate) failures: u32,
    retry_at: Time,
}

impl NodeState {
    /// Whether calls may go there as long as there is a choice.
    pub(crate) fn is_good(&self, now: Time) -> bool {
        self.is_ready && self.retry_at <= now && !self.addresses.is_empty()
    }

    /// The address to dial next: each failure moves on to the next one.
    pub(crate) fn address(&self) -> Option<SocketAddr> {
        let count = self.addresses.len();
        if count == 0 { None } else { self.addresses.get(self.failures as usize % count).copied() }
    }

    /// This hop takes no new streams.
    pub(crate) fn forget_hop(&mut self, key: HopKey, id: ConnId) {
        if self.hops.get(&key) == Some(&id) {
            self.hops.remove(&key);
        }
    }

    pub(crate) fn succeeded(&mut self) {
        // The address that works stays the first to be dialled.
        let count = self.addresses.len().max(1);
        self.addresses.rotate_left(self.failures as usize % count);
        self.failures = 0;
        self.retry_at = Time::default();
    }

    /// A dial takes long: others are preferred until it has come to something.
    pub(crate) fn avoid_until(&mut self, until: Time) {
        self.retry_at = self.retry_at.max(until);
    }

    /// A dial failed, or a hop was lost: others are preferred for 100 ms to 5 s, with a jitter of a quarter.
    pub(crate) fn failed(&mut self, now: Time, random: &mut Random) {
        let wait = BACKOFF_FIRST.saturating_mul(1 << self.failures.min(10)).min(BACKOFF_LONGEST);
        let ns = wait.as_nanos() as u64;
        self.retry_at = now + Duration::from_nanos(ns - random.below(ns / 4));
        self.failures = self.failures.saturating_add(1);
    }
}

/// All nodes that a plan or a hop named.
#[derive(Debug, Default)]
pub(crate) struct Nodes {
    states: Vec<NodeState>,
    by_name: FastMap<Arc<str>, NodeIndex>,
}

impl Nodes {
    /// The number of a node; nodes that the snapshot does not have are remembered, too, as not ready.
    pub(crate) fn index(&mut self, name: &Arc<str>) -> NodeIndex {
        if let Some(index) = self.by_name.get(name) {
            return *index;
        }
        let index = NodeIndex(self.states.len() as u32);
        self.states.push(NodeState {
            name: Arc::clone(name),
            addresses: Vec::new(),
            is_ready: false,
            is_secure: false,
            hops: FastMap::default(),
            plain_until: Time::default(),
            failures: 0,
            retry_at: Time::default(),
        });
        self.by_name.insert(Arc::clone(name), index);
        index
    }

    #[inline]
    pub(crate) fn get(&self, index: NodeIndex) -> &NodeState {
        &self.states[index.0 as usize]
    }

    #[inline]
    pub(crate) fn get_mut(&mut self, index: NodeIndex) -> &mut NodeState {
        &mut self.states[index.0 as usize]
    }

    /// The hops of all nodes that take new streams.
    pub(crate) fn hops(&self) -> impl Iterator<Item = (HopKey, ConnId)> {
        self.states.iter().flat_map(|state| state.hops.iter().map(|(key, id)| (*key, *id)))
    }

    /// Takes over what a snapshot says of nodes. Returns the hops of nodes that went or moved.
    pub(crate) fn update(&mut self, snapshot: &Snapshot) -> Vec<ConnId> {
        for name in snapshot.nodes.keys() {
            self.index(name);
        }
        let mut stale = Vec::new();
        for state in &mut self.states {
            let node = snapshot.nodes.get(&state.name);
            let addresses = node.map_or(&[][..], |n| &n.addresses);
            let is_moved = addresses.len() != state.addresses.len()
                || addresses.iter().any(|a| !state.addresses.contains(a));
            if is_moved {
                stale.extend(state.hops.drain().map(|(_, id)| id));
                state.addresses = addresses.to_vec();
                state.failures = 0;
                state.retry_at = Time::default();
            }
            state.is_ready = node.is_some_and(|n| n.ready);
            let is_secure = node.is_some_and(|n| n.secure);
            if is_secure && !state.is_secure {
                state.plain_until = Time::default();
            }
            state.is_secure = is_secure;
        }
        stale
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn state(addresses: &[&str]) -> NodeState {
        let mut nodes = Nodes::default();
        let index = nodes.index(&"b".into());
        let mut state = nodes.states.swap_remove(index.0 as usize);
        state.addresses = addresses.iter().map(|a| a.parse().unwrap()).collect();
        state.is_ready = true;
        state
    }

    #[test]
    fn a_node_that_cannot_be_dialled_is_tried_again_later_and_later() {
        let (mut random, mut node, now) = (Random::new(1), state(&["10.0.0.2:4141"]), Time(7));
        let mut waits = Vec::new();
        for _ in 0..9 {
            node.failed(now, &mut random);
            assert!(!node.is_good(now));
            waits.push(node.retry_at.since(now));
        }
        for (i, wait) in waits.iter().enumerate() {
            let longest = (BACKOFF_FIRST * (1 << i)).min(BACKOFF_LONGEST);
            assert!(*wait <= longest && *wait >= longest.mul_f64(0.75), "{i}: {wait:?}");
        }
        assert!(node.is_good(node.retry_at));
        node.succeeded();
        assert!(node.is_good(now));
    }

    #[test]
    fn addresses_are_dialled_in_turn_and_the_one_that_works_stays() {
        let (mut random, mut node) = (Random::new(1), state(&["10.0.0.2:1", "[fd00::2]:1"]));
        assert_eq!(node.address(), Some("10.0.0.2:1".parse().unwrap()));
        node.failed(Time(0), &mut random);
        assert_eq!(node.address(), Some("[fd00::2]:1".parse().unwrap()));
        node.succeeded();
        assert_eq!(node.address(), Some("[fd00::2]:1".parse().unwrap()));
    }
}
