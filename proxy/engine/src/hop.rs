//! Connections between neighbourhoods: dialled by L1, accepted by L2; sessions, streams, keep-alive, loss. Frames are `hop/frames.rs`.

mod frames;
pub(crate) mod node;
pub(crate) mod strangers;

use std::io::ErrorKind;
use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;

use vicino_wire::hop::{Hello, encode_drain, encode_hello, encode_ping};

use self::node::{HopKey, NodeIndex};
use self::strangers::Stranger;
use crate::account::{AccountIndex, Party};
use crate::connection::Kind;
use crate::core::{Command, ConnId, Core, Event, SecureDial};
use crate::deadline::Time;
use crate::exchange::{Blocked, ExchangeId, Method, Target};
use crate::hash::FastMap;
use crate::pace::Pace;
use crate::reply::Reason;
use crate::tally::Refusal;

/// Bytes that wait to be written to one hop before the sources of its streams are paused.
const OUTPUT_BYTES_MAX: usize = 1024 * 1024;
/// Calls that may wait for a hop to stand.
const WAITING_MAX: usize = 16 * 1024;
/// Longest DATA payload that we take: a frame is decoded when it is complete, so this is what a cut frame costs in copies.
const FRAME_BYTES_MAX: u16 = 16 * 1024;
/// A node that did not know TLS is dialled without it for so long.
const PLAIN_FOR: Duration = Duration::from_secs(10);
/// Longest time for which one that dialled is taken for who it is: as long as the mesh's certificates are good, whatever the one that it shows says.
const PARTY_MAX: Duration = Duration::from_hours(24);
/// A hop whose dialler was known by roots that there are no more is closed then, with the calls that are still open.
const DISTRUSTED_FOR: Duration = Duration::from_mins(10);
/// Stands for the name of a node that does not know its own yet.
const NODE_UNKNOWN: &str = "-";

/// Where a hop stands.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum HopState {
    Connecting,
    /// The peer's machine has taken the connection; its proxy has yet to say who it is.
    Handshake,
    /// The peer's HELLO is to come.
    Hello,
    Open,
}

/// What the peer's HELLO said.
#[derive(Clone, Copy, Debug, Default)]
pub(crate) struct Peer {
    max_streams: u32,
    pub(crate) initial_window: u32,
    pub(crate) max_frame: u16,
    pub(crate) binds_late: bool,
}

/// A hop.
#[derive(Debug)]
pub(crate) struct Hop {
    /// The node that was dialled; None when the hop was accepted.
    pub(crate) node: Option<NodeIndex>,
    /// For whose calls it was dialled, and the number of the certificate with which it was.
    key: HopKey,
    certificate: u64,
    /// Who is at the other end of one that was accepted, and until when that is proved.
    party: Party,
    party_until: Time,
    /// When it is closed whatever is on it.
    ends_at: Time,
    /// While whoever dialled has not said who it is.
    stranger: Option<Stranger>,
    pub(crate) state: HopState,
    /// No new streams.
    is_draining: bool,
    pub(crate) peer: Peer,
    pub(crate) peer_node: Arc<str>,
    streams: FastMap<u32, ExchangeId>,
    last_stream: u32,
    /// Until when the peer may take for its handshake and its HELLO; before the machine there has taken the connection, never.
    hello_until: Time,
    /// Calls that wait for the hop to stand.
    waiting: Vec<ExchangeId>,
    pub(crate) blocked: Blocked,
    /// When the peer was last heard, or when there was nothing to be heard.
    heard: Time,
    /// Since when there is no stream.
    idle_since: Time,
    /// Looks in a row that found that nothing had come; the first of them sent a PING.
    silent_looks: u32,
    /// Bytes that the socket has taken, ever.
    pub(crate) written: u64,
    /// Streams of its own that the peer gives up. More than a second's worth are an attack (CVE-2023-44487 is HTTP/2's).
    resets: Pace,
}

impl Hop {
    fn new(node: Option<NodeIndex>, state: HopState, now: Time) -> Box<Hop> {
        Box::new(Hop {
            node,
            key: HopKey::Anyone,
            certificate: 0,
            party: Party::Anyone,
            party_until: Time::NEVER,
            ends_at: Time::NEVER,
            stranger: None,
            state,
            is_draining: false,
            peer: Peer::default(),
            peer_node: NODE_UNKNOWN.into(),
            streams: FastMap::default(),
            last_stream: 0,
            hello_until: Time::NEVER,
            waiting: Vec::new(),
            blocked: Blocked::default(),
            heard: now,
            idle_since: now,
            silent_looks: 0,
            written: 0,
            resets: Pace::new(now),
        })
    }

    /// Who is at the other end of one that was accepted.
    pub(crate) fn party(&self) -> &Party {
        &self.party
    }

    /// Nothing is or will be on it.
    fn is_unused(&self) -> bool {
        self.streams.is_empty() && self.waiting.is_empty()
    }

    /// Whether a call that wants a place there is told when the hop stands, since it does not yet.
    pub(crate) fn wait_to_reserve(&mut self, call: ExchangeId) -> bool {
        let is_to_come = self.state != HopState::Open;
        if is_to_come {
            self.wait(call);
        }
        is_to_come
    }

    /// Lines a call up until the hop stands. False when too many wait already.
    fn wait(&mut self, call: ExchangeId) -> bool {
        let has_room = self.waiting.len() < WAITING_MAX;
        if has_room {
            self.waiting.push(call);
        }
        has_room
    }

    /// The number of a new stream for a reservation; None when it cannot have one.
    pub(crate) fn next_reservation(&mut self) -> Option<u32> {
        let has_room = self.streams.len() < self.peer.max_streams as usize && self.last_stream < u32::MAX;
        let is_able = self.state == HopState::Open && self.peer.binds_late && has_room;
        is_able.then(|| {
            self.last_stream += 1;
            self.last_stream
        })
    }

    pub(crate) fn streams(&self) -> usize {
        self.streams.len()
    }
}

impl Core {
    pub(crate) fn accept_hop(&mut self, peer: SocketAddr, stranger: Stranger) -> ConnId {
        let mut hop = Hop::new(None, HopState::Hello, self.now);
        hop.stranger = Some(stranger);
        hop.hello_until = self.now + self.config.hop_hello_timeout;
        let until = hop.hello_until;
        let id = self.net.accept(Kind::Hop(hop), peer);
        self.net.set_due(id, until);
        self.say_hello(id);
        if self.draining.is_some() {
            self.tell_draining(id);
        }
        id
    }

    fn say_hello(&mut self, id: ConnId) {
        let node = if self.snapshot.node.is_empty() { NODE_UNKNOWN } else { &self.snapshot.node };
        let hello = Hello {
            max_streams: self.config.streams_max,
            initial_window: self.config.stream_window,
            max_frame: FRAME_BYTES_MAX,
            binds_late: true,
            node,
        };
        if let Some(out) = self.net.out(id) {
            // A node's name is a DNS name; one that is not has no hop.
            let _ = encode_hello(out, &hello);
        }
    }

    pub(crate) fn tell_draining(&mut self, id: ConnId) {
        if let Some(out) = self.net.out(id) {
            encode_drain(out);
        }
    }

    /// The hop that takes new streams to a node, for the calls of a service account, dialled now if there is none.
    pub(crate) fn hop_to(&mut self, node: NodeIndex, account: AccountIndex) -> Result<ConnId, Reason> {
        let (key, certificate) = self.cover(node, account).ok_or(Reason::NoIdentity)?;
        if let Some(id) = self.nodes.get(node).hops.get(&key).copied() {
            let is_usable =
                self.net.hop(id).is_some_and(|hop| !hop.is_draining && hop.last_stream < u32::MAX);
            if is_usable {
                return Ok(id);
            }
            self.retire_hop(id);
        }
        let state = self.nodes.get(node);
        let address = state.address().ok_or(Reason::ConnectFailed)?;
        let secure = match key {
            HopKey::Anyone => None,
            HopKey::Of(account) => {
                let caller = self.accounts.get(account).cloned();
                Some(SecureDial { node: Arc::clone(&state.name), caller })
            }
        };
        let mut hop = Hop::new(Some(node), HopState::Connecting, self.now);
        (hop.key, hop.certificate) = (key, certificate);
        let id = self.net.dial_with(Kind::Hop(hop), address, secure);
        self.net.set_due(id, self.now + self.config.hop_connect_timeout);
        self.nodes.get_mut(node).hops.insert(key, id);
        Ok(id)
    }

    /// Under whose name a hop for a service account's calls is made, and with which certificate. None: it may not be made.
    fn cover(&self, node: NodeIndex, account: AccountIndex) -> Option<(HopKey, u64)> {
        let (state, accounts) = (self.nodes.get(node), &self.accounts);
        let is_strict = accounts.is_strict();
        let has_tls = state.is_secure && accounts.has_any() && state.plain_until <= self.now;
        if !has_tls && !is_strict {
            return Some((HopKey::Anyone, 0));
        }
        let of = |account| Some((HopKey::Of(account), accounts.certificate(account)?));
        // While not all have certificates, who has none goes as nobody.
        of(account).or_else(|| if accounts.may_go_as_node() { of(AccountIndex::NODE) } else { None })
    }

    /// Hops that were made with certificates that there are no more, or without any where that is no longer allowed, take no new streams.
    pub(crate) fn retire_stale_hops(&mut self) {
        let Core { nodes, net, accounts, .. } = self;
        let is_stale = |key: HopKey, certificate: u64| match key {
            HopKey::Anyone => accounts.is_strict(),
            HopKey::Of(account) => accounts.certificate(account) != Some(certificate),
        };
        let hops =
            nodes.hops().filter(|(key, id)| net.hop(*id).is_some_and(|hop| is_stale(*key, hop.certificate)));
        for (_, id) in hops.collect::<Vec<_>>() {
            self.retire_hop(id);
        }
    }

    /// Whether a hop that was not made with TLS is made without: whoever answered did not know it, and it need not.
    pub(crate) fn may_go_without_tls(&self, hop: &Hop, kind: ErrorKind) -> bool {
        let spoke_no_tls =
            matches!(kind, ErrorKind::Unsupported | ErrorKind::UnexpectedEof | ErrorKind::ConnectionReset);
        spoke_no_tls && hop.key != HopKey::Anyone && !self.accounts.is_strict()
    }

    /// For a while the node is dialled without TLS; those who waited go that way.
    pub(crate) fn go_without_tls(&mut self, id: ConnId, hop: Hop) {
        let Some(node) = hop.node else { return };
        let state = self.nodes.get_mut(node);
        state.plain_until = self.now + PLAIN_FOR;
        state.forget_hop(hop.key, id);
        for exchange in hop.waiting {
            let Some(call) = self.exchanges.get(exchange) else { continue };
            if call.target == Target::Waiting(id) {
                self.place_again(exchange);
            } else if call.late.is_some() {
                self.reserve(exchange);
            }
        }
    }

    /// Who dialled a hop is known. A node is taken for itself only: whoever has another one's certificate has stolen it.
    pub(crate) fn hop_identified(&mut self, id: ConnId, party: Party, until: Time) {
        let Some(peer) = self.net.get(id).map(|conn| conn.peer.ip().to_canonical()) else { return };
        // An address that is no node's may be one that a node dials from and no Node lists: that is not held against it here.
        let of_address = self.snapshot.node_at(peer);
        let is_another =
            matches!((&party, of_address), (Party::Node(node), Some(of_address)) if node != of_address);
        if is_another || until <= self.now {
            let refusal = if is_another { Refusal::AnotherNode } else { Refusal::CertificateEnded };
            self.refuse_hop(peer, refusal);
            self.is_no_stranger(id);
            return self.hop_lost(id, refusal.word());
        }
        let until = until.min(self.now + PARTY_MAX);
        if let Some(hop) = self.net.hop(id) {
            // Its handshake may have begun under roots that have gone meanwhile.
            (hop.party, hop.party_until) = (party, until.min(hop.party_until));
        }
        self.is_no_stranger(id);
    }

    /// Roots by which peers were known have gone. Whoever has dialled has to prove anew who it is, on another hop: calls that
    /// come on these are sent back unserved, so that none is lost, and those that are open have some time to end.
    pub(crate) fn distrust_hops(&mut self) {
        let (now, ends_at) = (self.now, self.now + DISTRUSTED_FOR);
        let ids: Vec<ConnId> = self.net.table.iter().map(|(id, _)| id).collect();
        for id in ids {
            let Some(hop) = self.net.hop(id).filter(|hop| hop.node.is_none()) else { continue };
            if hop.party == Party::Anyone && hop.stranger.is_none() {
                continue;
            }
            (hop.party_until, hop.ends_at) = (now, ends_at.min(hop.ends_at));
            if !std::mem::replace(&mut hop.is_draining, true) {
                self.tell_draining(id);
            }
        }
    }

    /// No new streams on this hop; it closes with its last one.
    pub(crate) fn retire_hop(&mut self, id: ConnId) {
        let Some(hop) = self.net.hop(id) else { return };
        hop.is_draining = true;
        let is_unused = hop.is_unused();
        if let Some(node) = hop.node {
            let key = hop.key;
            self.nodes.get_mut(node).forget_hop(key, id);
        }
        if is_unused {
            self.net.close_flushed(id);
        }
    }

    /// The machine of the peer has taken the connection, which says nothing of the proxy there.
    pub(crate) fn hop_reached(&mut self, id: ConnId) {
        let until = self.now + self.config.hop_hello_timeout;
        if let Some(hop) = self.net.hop(id).filter(|hop| hop.state == HopState::Connecting) {
            (hop.state, hop.hello_until) = (HopState::Handshake, until);
        }
    }

    pub(crate) fn hop_connected(&mut self, id: ConnId) {
        self.hop_reached(id);
        let Some(hop) = self.net.hop(id) else { return };
        hop.state = HopState::Hello;
        hop.heard = self.now;
        self.say_hello(id);
    }

    /// The peer's HELLO came: those who waited go.
    fn hop_opened(&mut self, id: ConnId, hello: &Hello<'_>) {
        let now = self.now;
        let Some(conn) = self.net.get_mut(id) else { return };
        let address = conn.peer;
        let Some(hop) = conn.hop() else { return };
        hop.state = HopState::Open;
        hop.peer = Peer {
            max_streams: hello.max_streams,
            initial_window: hello.initial_window,
            max_frame: hello.max_frame,
            binds_late: hello.binds_late,
        };
        hop.peer_node = hello.node.into();
        hop.idle_since = now;
        let waiting = std::mem::take(&mut hop.waiting);
        let node = hop.node;
        if node.is_none() {
            self.tally.hops_by_party[hop.party.kind()].add(1);
        }
        let peer_node = Arc::clone(&hop.peer_node);
        self.is_no_stranger(id);
        self.net.set_due(id, now + self.config.hop_idle_timeout);
        if let Some(node) = node {
            self.nodes.get_mut(node).succeeded();
            self.event(Event::HopUp { node: peer_node, address });
        }
        for exchange in waiting {
            let Some(call) = self.exchanges.get(exchange) else { continue };
            if call.target == Target::Waiting(id) {
                if !self.open_stream(id, exchange) {
                    self.requeue(exchange, Reason::Overloaded, true);
                }
            } else if call.late.is_some() {
                self.reserve(exchange);
            }
        }
    }

    /// Puts a call on a hop, or in the line for it. False when the hop takes no more.
    pub(crate) fn open_stream(&mut self, id: ConnId, exchange: ExchangeId) -> bool {
        let Some(hop) = self.net.hop(id) else { return false };
        if hop.state != HopState::Open {
            return hop.wait(exchange);
        }
        if hop.streams.len() >= hop.peer.max_streams as usize || hop.last_stream == u32::MAX {
            return false;
        }
        let stream = hop.last_stream + 1;
        hop.last_stream = stream;
        let window = hop.peer.initial_window;
        self.add_stream(id, stream, exchange);
        self.send_on_stream(exchange, id, stream, window);
        true
    }

    pub(crate) fn add_stream(&mut self, id: ConnId, stream: u32, exchange: ExchangeId) {
        let Some(hop) = self.net.hop(id) else { return };
        if hop.streams.is_empty() {
            // Silence counts from here: nothing was to be heard before.
            hop.heard = self.now;
            hop.silent_looks = 0;
            self.net.table.set_due(id, self.now + self.config.hop_ping_after);
        }
        if let Some(hop) = self.net.hop(id) {
            hop.streams.insert(stream, exchange);
            self.tally.streams.add(1);
            self.tally.streams_open.add(1);
        }
    }

    /// Takes a stream off a hop. Whether it was there.
    pub(crate) fn remove_stream(&mut self, id: ConnId, stream: u32) -> bool {
        let Some(hop) = self.net.hop(id) else { return false };
        if hop.streams.remove(&stream).is_none() {
            return false;
        }
        self.tally.streams_open.sub(1);
        if hop.streams.is_empty() {
            hop.idle_since = self.now;
            let is_over = hop.is_draining && hop.node.is_some() && hop.waiting.is_empty();
            self.net.set_due(id, self.now + self.config.hop_idle_timeout);
            if is_over {
                self.net.close_flushed(id);
            }
        }
        true
    }

    /// How many bytes may be put on a hop; 0 when its socket has to take some first.
    pub(crate) fn hop_room(&self, id: ConnId) -> usize {
        self.net.get(id).map_or(usize::MAX, |conn| OUTPUT_BYTES_MAX.saturating_sub(conn.pending()))
    }

    /// The socket of a connection that calls share took bytes: whoever waited for that goes on.
    pub(crate) fn shared_wrote(&mut self, id: ConnId) {
        let is_hop = self.net.hop(id).is_some();
        let bytes_max = if is_hop { OUTPUT_BYTES_MAX } else { self.config.output_bytes_max };
        if self.net.get(id).is_some_and(|conn| conn.pending() <= bytes_max / 2) {
            self.unblock_lanes(id);
        }
    }

    /// A hop's deadline: connecting, HELLO, silence or idleness.
    pub(crate) fn hop_due(&mut self, id: ConnId) {
        let now = self.now;
        let Some(hop) = self.net.hop(id) else { return };
        match hop.state {
            HopState::Connecting => {
                let address = self.net.get(id).map(|conn| conn.peer);
                self.tally.hops_dialed.refused.add(1);
                if let Some(address) = address {
                    self.event(Event::DialFailed { address, kind: ErrorKind::TimedOut });
                }
                return self.hop_lost(id, "connect-timeout");
            }
            HopState::Handshake | HopState::Hello if now < hop.hello_until => return self.hop_is_slow(id),
            HopState::Handshake | HopState::Hello => return self.hop_lost(id, "no-hello"),
            HopState::Open => {}
        }
        if hop.ends_at <= now {
            return self.hop_lost(id, "distrusted");
        }
        if hop.streams.is_empty() {
            // Whoever accepted waits longer, so that the dialler, who knows of no race, is the one to close.
            let factor = if hop.node.is_some() { 1 } else { 2 };
            let until = hop.idle_since + self.config.hop_idle_timeout * factor;
            return if until <= now { self.hop_lost(id, "idle") } else { self.net.set_due(id, until) };
        }
        let look_at = hop.heard + self.config.hop_ping_after;
        if look_at > now {
            return self.net.set_due(id, look_at);
        }
        // Silence is counted in looks and not by the clock, since a clock also runs while this process stands still (stopped,
        // paused with its machine, out of processor time), and then it is not the peer that was silent.
        hop.silent_looks += 1;
        if self.config.hop_ping_after * hop.silent_looks >= self.config.hop_dead_after {
            return self.hop_lost(id, "silent");
        }
        let is_first = hop.silent_looks == 1;
        self.net.set_due(id, now + self.config.hop_ping_after);
        if is_first && let Some(out) = self.net.out(id) {
            encode_ping(out, now.0);
        }
    }

    /// The peer's machine is there and its proxy does not answer: it may be stopped for a while. Calls that have a better place
    /// go there; for the others this is the only one, and they wait on.
    fn hop_is_slow(&mut self, id: ConnId) {
        let Core { nodes, net, .. } = self;
        let Some(hop) = net.hop(id) else { return };
        let (until, node) = (hop.hello_until, hop.node);
        let waiting = std::mem::take(&mut hop.waiting);
        net.set_due(id, until);
        if let Some(node) = node {
            nodes.get_mut(node).avoid_until(until);
        }
        let (leave, stay): (Vec<_>, Vec<_>) = waiting.into_iter().partition(|call| {
            let exchange = self.exchanges.get(*call);
            exchange.is_some_and(|e| e.target == Target::Waiting(id)) && self.has_better_place(*call)
        });
        if let Some(hop) = self.net.hop(id) {
            hop.waiting = stay;
        }
        for call in leave {
            self.requeue(call, Reason::ConnectFailed, true);
        }
    }

    /// A hop is given up: its calls are placed again where that is safe.
    pub(crate) fn hop_lost(&mut self, id: ConnId, reason: &'static str) {
        if let Some((Kind::Hop(hop), _)) = self.net.forget(id) {
            self.net.commands.push(Command::Close { id });
            self.hop_is_gone(id, *hop, reason);
        }
    }

    /// What follows from a hop that the driver knows is gone.
    pub(crate) fn hop_is_gone(&mut self, id: ConnId, hop: Hop, reason: &'static str) {
        let Hop { node, key, stranger, state, streams, waiting, peer_node, written, .. } = hop;
        if let Some(stranger) = stranger {
            self.stranger_is_gone(stranger);
        }
        self.tally.streams_open.sub(streams.len() as u64);
        if let Some(node) = node {
            let Core { nodes, random, now, .. } = self;
            let known = nodes.get_mut(node);
            known.forget_hop(key, id);
            if reason != "idle" && !(reason == "ended" && streams.is_empty()) {
                known.failed(*now, random);
            }
            let name = Arc::clone(&known.name);
            if matches!(state, HopState::Hello | HopState::Open) {
                self.event(Event::HopDown { node: name, reason, streams: streams.len() as u32 });
            }
        } else if state == HopState::Open && !streams.is_empty() {
            self.event(Event::HopDown { node: peer_node, reason, streams: streams.len() as u32 });
        }
        for exchange in waiting {
            if self.exchanges.get(exchange).is_some_and(|e| e.target == Target::Waiting(id)) {
                self.requeue(exchange, Reason::ConnectFailed, true);
            }
        }
        for (stream, exchange) in streams {
            if self.is_reservation_stream(exchange, id, stream) {
                self.reservation_lost(exchange, id, stream);
            } else {
                self.stream_lost(exchange, written);
            }
        }
    }

    /// Whether the application saw a call that had left nobody knows: then only what may be done twice is placed again. Not
    /// excluded is the node: its proxy may be there again at once, and if not, its back-off puts every other node first.
    fn stream_lost(&mut self, id: ExchangeId, written: u64) {
        let Some(exchange) = self.exchanges.get(id) else { return };
        let has_left = exchange.request.hop_offset < written;
        match () {
            () if !exchange.origin.is_caller() => self.abandon(id),
            () if has_left && exchange.method == Method::Other => self.fail(id, Reason::HopLost),
            () => self.requeue(id, Reason::HopLost, false),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::table::Id;

    #[test]
    fn no_more_calls_wait_for_a_hop_than_there_is_room_for() {
        let mut hop = Hop::new(None, HopState::Connecting, Time::default());
        let waits = (0..20_000).filter(|slot| hop.wait(ExchangeId::new(*slot, 0))).count();
        assert_eq!((waits, hop.waiting.len()), (WAITING_MAX, WAITING_MAX));
    }
}
