//! Connections at L2 whose dialler has not said who it is: how many are open and how often they come, for each source and for all that are no nodes together, so that a
//! flood costs neither the crypto nor the room of others. What is over a bound is closed before its first byte is read. Whoever says who it is within `hop_hello_timeout`
//! is counted no longer, and whoever proves it is known by its address from then on.

use std::collections::HashMap;
use std::net::IpAddr;
use std::time::Duration;

use crate::account::Party;
use crate::core::{ConnId, Core, Event};
use crate::deadline::Time;
use crate::rate::{RateLimit, Shared};
use crate::tally::Refusal;

/// Strangers from one node, at one worker. After a restart a node dials for each service account from each of its workers: 250 pods with an account each and 16 workers, all
/// of whose hops the kernel gives to one worker here, are 4,000.
const NODE_OPEN_MAX: u32 = 4_096;
/// Connections from one node, at all workers: such a restart with 64 workers at once. In the long run so many that whoever keeps at it, from a node that is taken over, takes
/// about one processor.
const NODE_RATE: RateLimit = RateLimit { per_second: 1_000, burst: 16_384, key: None };
/// Strangers from another address, at one worker. It may be a node that this proxy has not heard of yet, or that dials from an address that no Node lists; the first
/// hop that is proved makes it known.
const OTHER_OPEN_MAX: u32 = 128;
/// Connections from another address, at all workers: a node with an account on each of 64 workers and some more; in the long run 2 % of a processor.
const OTHER_RATE: RateLimit = RateLimit { per_second: 20, burst: 512, key: None };
/// Strangers from all other addresses, at one worker: their memory, some 30 KiB each once a handshake has begun, is bounded by this.
const OTHERS_OPEN_MAX: u32 = 1_024;
/// Connections from all other addresses, at all workers: in the long run a tenth of a processor.
const OTHERS_RATE: RateLimit = RateLimit { per_second: 100, burst: 4_096, key: None };
/// Addresses from which a hop was proved that are remembered, beyond those of nodes.
const PROVED_MAX: usize = 1_024;
/// How long: a node that is there dials again by then, as its certificates are renewed within a day.
const PROVED_FOR: Duration = Duration::from_hours(24);

/// Who dials L2 and has not said who it is, on one worker.
#[derive(Debug, Default)]
pub(crate) struct Strangers {
    /// Open ones by source; sources without any are not kept.
    by_source: HashMap<IpAddr, u32>,
    /// Those that come from no node.
    others: u32,
    /// Until when an address counts as a node's.
    proved: HashMap<IpAddr, Time>,
}

/// One of them.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Stranger {
    source: IpAddr,
    is_node: bool,
}

impl Strangers {
    #[cfg(test)]
    pub(crate) fn is_empty(&self) -> bool {
        self.by_source.is_empty() && self.others == 0
    }

    fn has_room(&self, source: IpAddr, is_node: bool) -> bool {
        let open = self.by_source.get(&source).copied().unwrap_or(0);
        if is_node { open < NODE_OPEN_MAX } else { open < OTHER_OPEN_MAX && self.others < OTHERS_OPEN_MAX }
    }

    fn add(&mut self, stranger: Stranger) {
        *self.by_source.entry(stranger.source).or_default() += 1;
        self.others += u32::from(!stranger.is_node);
    }

    /// It is none any more, or gone.
    fn remove(&mut self, stranger: Stranger) {
        self.others = self.others.saturating_sub(u32::from(!stranger.is_node));
        if let Some(open) = self.by_source.get_mut(&stranger.source) {
            *open -= 1;
            if *open == 0 {
                self.by_source.remove(&stranger.source);
            }
        }
    }

    fn is_proved(&self, source: IpAddr, now: Time) -> bool {
        self.proved.get(&source).is_some_and(|until| now < *until)
    }

    fn prove(&mut self, source: IpAddr, now: Time) {
        if self.proved.len() >= PROVED_MAX && !self.proved.contains_key(&source) {
            self.proved.retain(|_, until| now < *until);
        }
        if self.proved.len() < PROVED_MAX || self.proved.contains_key(&source) {
            self.proved.insert(source, now + PROVED_FOR);
        }
    }
}

impl Core {
    /// Takes a connection in, or says why not.
    pub(crate) fn admit(&mut self, source: IpAddr) -> Result<Stranger, Refusal> {
        // A pod of this node has L1 to talk to, which tells who calls; other neighbourhoods' proxies have no address of a pod.
        if self.snapshot.neighbours.contains_key(&source) {
            return Err(Refusal::NotAProxy);
        }
        if self.tally.hops_accepted.open.get() >= self.config.connections_max as u64 {
            return Err(Refusal::Connections);
        }
        let (snapshot, now) = (&self.snapshot, self.now);
        let is_node =
            snapshot.foreign_addresses.contains_key(&source) || self.strangers.is_proved(source, now);
        if !self.strangers.has_room(source, is_node) {
            return Err(Refusal::Strangers);
        }
        let rate = if is_node { &NODE_RATE } else { &OTHER_RATE };
        let take = |shared, rate| snapshot.buckets.take_connection(shared, rate, now);
        if !take(Shared::Source(source), rate) || !is_node && !take(Shared::Others, &OTHERS_RATE) {
            return Err(Refusal::Rate);
        }
        let stranger = Stranger { source, is_node };
        self.strangers.add(stranger);
        Ok(stranger)
    }

    /// Whoever dialled has said who it is.
    pub(crate) fn is_no_stranger(&mut self, id: ConnId) {
        let Some(hop) = self.net.hop(id) else { return };
        let is_proved = *hop.party() != Party::Anyone;
        if let Some(stranger) = hop.stranger.take() {
            self.strangers.remove(stranger);
            if is_proved {
                self.strangers.prove(stranger.source, self.now);
            }
        }
    }

    /// It is gone, and never said who it was.
    pub(crate) fn stranger_is_gone(&mut self, stranger: Stranger) {
        self.strangers.remove(stranger);
        self.tally.hop_refusals[Refusal::Unknown as usize].add(1);
    }

    /// Counts a connection that is not taken, or not kept, and says so when that is news.
    pub(crate) fn refuse_hop(&mut self, peer: IpAddr, refusal: Refusal) {
        self.tally.hops_accepted.refused.add(1);
        self.tally.hop_refusals[refusal as usize].add(1);
        self.limited(peer, refusal.word());
    }

    /// Says that a connection was not taken or kept, when that is news.
    pub(crate) fn limited(&mut self, peer: IpAddr, reason: &'static str) {
        if self.told.is_news(peer, reason, self.now) {
            self.event(Event::Limited { peer, reason });
        }
    }
}
