//! One worker's state and the API towards whoever owns its sockets and its clock; what a call gets is decided in the modules beside it.
//!
//! # What the driver does in a turn
//!
//! 1. For every socket that is readable and [`Core::wants_read`]: read once into a scratch buffer, [`Core::received`] (or [`Core::ended`],
//!    [`Core::failed`]). Read again while a read filled the scratch buffer and `wants_read` holds.
//! 2. For every new connection: [`Core::accepted`].
//! 3. When [`Core::next_deadline`] has come: [`Core::fire`].
//! 4. [`Core::take_commands`], obeyed in order; then [`Core::take_resumed`]: read these again, since nobody looked while they were paused.
//! 5. [`Core::take_dirty`]; each of these is written once: `write(output(id))`, [`Core::wrote`]. What a full socket does not take is
//!    written when it is writable again.
//! 6. `wrote` may free what waited: while commands, resumed or dirty connections are left, go to 4. Then sleep until a socket is
//!    ready or the next deadline.
//!
//! An event for a connection that the core has given up (its `Close` command may still be in the list) is ignored, since a
//! [`ConnId`] is never used twice.

mod command;

use std::net::{IpAddr, SocketAddr};
use std::sync::Arc;
use std::time::Duration;

use vicino_wire::http1::Slots;
use vicino_wire::http2;

pub use command::{Command, ConnId, Event, Role, SecureDial};

use crate::account::{Accounts, Credentials, Party};
use crate::breaker::EjectedElsewhere;
use crate::config::CoreConfig;
use crate::connection::{Conn, Kind};
use crate::connections::Connections;
use crate::deadline::Time;
use crate::downstream::{ClientState, ServersFirst};
use crate::exchange::{Exchange, ExchangeId, Half, Loads, Target};
use crate::hop::node::Nodes;
use crate::hop::strangers::Strangers;
use crate::identify::Doubts;
use crate::latency::Latencies;
use crate::outside::Known;
use crate::plan::Plans;
use crate::queue::Mailbox;
use crate::random::Random;
use crate::reply::Reason;
use crate::retry::Budgets;
use crate::snapshot::{Neighbour, Snapshot};
use crate::table::Table;
use crate::tally::{Refusal, Tally};
use crate::told::Told;
use crate::upstream::Pools;

/// Events that are kept between two calls of [`Core::take_events`]; further ones are dropped.
const EVENTS_MAX: usize = 1024;
/// Looking at all buffers costs time in proportion to connections, so it is done this often.
const COUNT_EVERY: Duration = Duration::from_secs(1);

/// Everything of one worker's connections. Not shared between threads.
#[derive(Debug)]
pub struct Core {
    pub(crate) config: CoreConfig,
    pub(crate) snapshot: Arc<Snapshot>,
    pub(crate) doubts: Arc<Doubts>,
    /// Grows with each change of these two, by which it is told who calls.
    pub(crate) judges: u64,
    pub(crate) tally: Arc<Tally>,
    pub(crate) random: Random,
    /// The time of the turn.
    pub(crate) now: Time,
    pub(crate) net: Connections,
    pub(crate) exchanges: Table<ExchangeId, Exchange>,
    pub(crate) nodes: Nodes,
    pub(crate) strangers: Strangers,
    pub(crate) told: Told,
    pub(crate) accounts: Accounts,
    pub(crate) pools: Pools,
    pub(crate) loads: Loads,
    pub(crate) latencies: Latencies,
    pub(crate) ejected: EjectedElsewhere,
    pub(crate) servers_first: ServersFirst,
    /// Hosts that are no Services.
    pub(crate) outside: Known,
    /// Copies of calls that are open.
    pub(crate) mirrors: u32,
    pub(crate) budgets: Budgets,
    pub(crate) mailbox: Arc<Mailbox>,
    pub(crate) plans: Plans,
    pub(crate) plans_inbound: Plans,
    pub(crate) slots: Slots,
    pub(crate) fields: http2::Slots,
    /// Connections of callers that wait to be known.
    pub(crate) held: Vec<ConnId>,
    /// Calls whose answer's head is not passed on before all that came with it was looked at.
    pub(crate) held_heads: Vec<ExchangeId>,
    /// When what is left is cut; None while not draining.
    pub(crate) draining: Option<Time>,
    /// That time has come.
    pub(crate) is_cut: bool,
    events: Vec<Event>,
    /// When buffers are counted next.
    count_at: Time,
}

impl Core {
    /// A core without connections, without a snapshot (callers are held until there is one). `seed` makes its random choices.
    pub fn new(config: CoreConfig, seed: u64) -> Core {
        let tally = Arc::<Tally>::default();
        Core {
            net: Connections::new(Arc::clone(&tally), config.output_bytes_max),
            config,
            snapshot: Arc::default(),
            doubts: Arc::default(),
            judges: 0,
            tally,
            random: Random::new(seed),
            now: Time::default(),
            exchanges: Table::new(),
            nodes: Nodes::default(),
            strangers: Strangers::default(),
            told: Told::default(),
            accounts: Accounts::default(),
            pools: Pools::default(),
            loads: Loads::default(),
            latencies: Latencies::default(),
            ejected: EjectedElsewhere::default(),
            servers_first: ServersFirst::default(),
            outside: Known::default(),
            mirrors: 0,
            budgets: Budgets::default(),
            mailbox: Arc::default(),
            plans: Plans::default(),
            plans_inbound: Plans::default(),
            slots: Slots::default(),
            fields: http2::Slots::default(),
            held: Vec::new(),
            held_heads: Vec::new(),
            draining: None,
            is_cut: false,
            events: Vec::new(),
            count_at: Time::default(),
        }
    }

    /// The configuration from now on. Requests that are being served keep what they were routed by.
    pub fn swap(&mut self, snapshot: Arc<Snapshot>, now: Time) {
        self.now = now;
        let before = std::mem::replace(&mut self.snapshot, snapshot);
        self.judges += 1;
        self.cut_replaced(&before);
        self.latencies.forget(now);
        self.ejected.forget(now);
        self.plans.clear();
        self.plans_inbound.clear();
        self.budgets.update(&self.snapshot);
        self.serve_queues();
        for hop in self.nodes.update(&self.snapshot) {
            self.retire_hop(hop);
        }
        let gone = self.pools.update(&self.snapshot, self.outside.slots());
        for idle in gone.idle {
            self.net.close(idle);
        }
        for session in gone.sessions {
            self.retire_session(session);
        }
        self.unhold_all();
        self.settle();
    }

    /// The certificates from now on: hops that were made with others take no new calls.
    pub fn certify(&mut self, credentials: Arc<Credentials>, now: Time) {
        self.now = now;
        self.accounts.certify(credentials);
        self.retire_stale_hops();
        self.unhold_all();
        self.settle();
    }

    /// Roots have gone by which diallers of hops were known: they have to prove anew who they are.
    pub fn distrust(&mut self, now: Time) {
        self.now = now;
        self.distrust_hops();
        self.settle();
    }

    /// Whom the snapshot is not to be believed about, from now on; older doubts than those in force are passed over. Connections of
    /// pods that it newly is not to be believed about are closed.
    pub fn doubt(&mut self, doubts: Arc<Doubts>, now: Time) {
        self.now = now;
        if doubts.version <= self.doubts.version {
            return;
        }
        self.doubts = doubts;
        self.judges += 1;
        let doubts = Arc::clone(&self.doubts);
        self.cut(|address, pod| doubts.hold(address, pod));
        self.unhold_all();
        self.settle();
    }

    /// Lets all held requests be judged again.
    fn unhold_all(&mut self) {
        for id in std::mem::take(&mut self.held) {
            self.unhold(id);
        }
    }

    /// Who is at the other end of a hop that was accepted, and until when that is proved; said before its first bytes.
    pub fn identified(&mut self, id: ConnId, party: Party, until: Time, now: Time) {
        self.now = now;
        self.hop_identified(id, party, until);
        self.settle();
    }

    /// The version of the snapshot in force; 0 before the first.
    pub fn version(&self) -> u64 {
        self.snapshot.version
    }

    /// A listener took a connection. None: over a limit, close it.
    pub fn accepted(&mut self, role: Role, peer: SocketAddr, local: SocketAddr, now: Time) -> Option<ConnId> {
        let _ = local;
        self.now = now;
        let ip = peer.ip().to_canonical();
        match role {
            Role::L1 if self.tally.clients.open.get() >= self.config.connections_max as u64 => {
                self.tally.clients.refused.add(1);
                self.limited(ip, Refusal::Connections.word());
                None
            }
            Role::L1 => Some(self.accept_client(peer)),
            Role::L2 => match self.admit(ip) {
                Ok(stranger) => Some(self.accept_hop(peer, stranger)),
                Err(refusal) => {
                    self.refuse_hop(ip, refusal);
                    None
                }
            },
        }
    }

    /// Bytes that were read, at least one, at most 64 KiB.
    pub fn received(&mut self, id: ConnId, bytes: &[u8], now: Time) {
        self.now = now;
        let Some(conn) = self.net.get(id) else { return };
        let is_direct = conn.input.is_empty() && !conn.is_paused;
        self.net.count_received(id, bytes.len());
        if is_direct {
            let used = self.consume(id, bytes);
            self.net.keep_input(id, &bytes[used..]);
            self.net.update_wants_read(id);
        } else {
            self.net.keep_input(id, bytes);
            self.pump(id);
        }
        self.settle();
    }

    /// Whether the connection is to be read now. False for one that is paused, or gone.
    pub fn wants_read(&self, id: ConnId) -> bool {
        self.net.wants_read(id)
    }

    /// The peer sends no more (FIN).
    pub fn ended(&mut self, id: ConnId, now: Time) {
        self.now = now;
        if let Some(conn) = self.net.get_mut(id) {
            conn.is_ended = true;
            self.pump(id);
        }
        self.settle();
    }

    /// Reading or writing failed: the connection is gone. The driver forgets the id; no `Close` follows.
    pub fn failed(&mut self, id: ConnId, kind: std::io::ErrorKind, now: Time) {
        self.now = now;
        let _ = kind;
        self.is_gone(id);
        self.settle();
    }

    /// What follows from a connection that the driver knows is gone.
    fn is_gone(&mut self, id: ConnId) {
        match self.net.forget(id) {
            None => {}
            Some((kind, Some(session))) => self.session_is_gone(id, &session, &kind),
            Some((Kind::Client(client), _)) => {
                if client.state == ClientState::Held {
                    self.tally.held.sub(1);
                }
                if let Some(exchange) = client.exchange {
                    self.abandon(exchange);
                }
            }
            Some((Kind::Pod(pod), _)) => self.pod_failed(id, &pod),
            Some((Kind::Hop(hop), _)) => self.hop_is_gone(id, *hop, "failed"),
        }
    }

    /// Connections of pods whose addresses are other pods' now are closed: nothing of theirs goes under the name of these.
    fn cut_replaced(&mut self, before: &Snapshot) {
        let is_new = |(ip, pod): &(&IpAddr, &Arc<Neighbour>)| {
            before.neighbours.get(ip).is_none_or(|old| old.uid != pod.uid)
        };
        if !self.snapshot.neighbours.iter().any(|pod| is_new(&pod)) {
            return;
        }
        let snapshot = Arc::clone(&self.snapshot);
        self.cut(|address, old| snapshot.neighbours.get(&address).is_some_and(|pod| *pod.uid != *old));
    }

    /// Closes callers' connections by their address and the UID of the pod that they are of.
    fn cut(&mut self, is_cut: impl Fn(IpAddr, &str) -> bool) {
        let is_cut = |conn: &Conn| match &conn.kind {
            Kind::Client(client) => {
                client.pod().is_some_and(|pod| is_cut(conn.peer.ip().to_canonical(), pod))
            }
            _ => false,
        };
        let ids = self.net.table.iter().filter(|(_, conn)| is_cut(conn)).map(|(id, _)| id);
        for id in ids.collect::<Vec<_>>() {
            self.net.commands.push(Command::Close { id });
            self.is_gone(id);
        }
    }

    /// A [`Command::Connect`] succeeded.
    pub fn connected(&mut self, id: ConnId, local: SocketAddr, now: Time) {
        let _ = local;
        self.now = now;
        let Some(conn) = self.net.get(id) else { return };
        let is_hop = matches!(conn.kind, Kind::Hop(_));
        self.net.connected(id);
        if is_hop {
            self.hop_connected(id);
        } else {
            self.pod_connected(id);
        }
        self.settle();
    }

    /// The machine that a [`Command::Connect`] with `secure` dials has taken the connection; the handshake is to come. Said
    /// once at most, before [`Core::connected`], which can do without.
    pub fn reached(&mut self, id: ConnId, now: Time) {
        self.now = now;
        self.hop_reached(id);
    }

    /// A [`Command::Connect`] failed. The driver forgets the id; no `Close` follows.
    pub fn connect_failed(&mut self, id: ConnId, kind: std::io::ErrorKind, now: Time) {
        self.now = now;
        let address = self.net.get(id).map(|conn| conn.peer);
        match self.net.forget(id) {
            Some((Kind::Pod(pod), session)) => self.pod_connect_failed(id, (&pod, session.as_deref()), kind),
            Some((Kind::Hop(hop), _)) => {
                self.tally.hops_dialed.refused.add(1);
                if let Some(address) = address {
                    self.event(Event::DialFailed { address, kind });
                }
                if self.may_go_without_tls(&hop, kind) {
                    self.go_without_tls(id, *hop);
                } else {
                    self.hop_is_gone(id, *hop, "connect-failed");
                }
            }
            Some((Kind::Client(_), _)) | None => {}
        }
        self.settle();
    }

    /// Does what was due by `until`, up to when the driver has served whatever had come. What came later, before `now`, is still to be
    /// read: somebody whose time seems to be over may have spoken in it.
    pub fn fire(&mut self, until: Time, now: Time) {
        self.now = now;
        while let Some(id) = self.net.table.pop_due(until) {
            match self.net.get(id).map(|conn| &conn.kind) {
                Some(Kind::Client(_)) => self.client_due(id),
                Some(Kind::Pod(_)) => self.pod_due(id),
                Some(Kind::Hop(_)) => self.hop_due(id),
                None => {}
            }
        }
        while let Some(id) = self.exchanges.pop_due(until) {
            self.exchange_due(id);
        }
        if !self.is_cut && self.draining.is_some_and(|deadline| deadline <= now) {
            self.cut_all();
        }
        if self.count_at <= now {
            self.count_at = now + COUNT_EVERY;
            self.count_buffered();
        }
        self.settle();
    }

    /// When [`Core::fire`] is to be called next. May be earlier than anything is due.
    pub fn next_deadline(&self) -> Option<Time> {
        let draining = self.draining.filter(|_| !self.is_cut && self.net.table.len() > 0);
        [self.net.table.next_due(), self.exchanges.next_due(), draining].into_iter().flatten().min()
    }

    /// Moves the connections that got output since the last call to the end of `into`, each once.
    pub fn take_dirty(&mut self, into: &mut Vec<ConnId>) {
        self.net.take_dirty(into);
    }

    /// Moves the connections that were paused and may be read again to the end of `into`.
    pub fn take_resumed(&mut self, into: &mut Vec<ConnId>) {
        into.append(&mut self.net.resumed);
    }

    /// What waits to be written to a connection; empty when nothing does or it is gone.
    pub fn output(&self, id: ConnId) -> &[u8] {
        self.net.output(id)
    }

    /// The first `n` bytes of [`Core::output`] were written.
    pub fn wrote(&mut self, id: ConnId, n: usize, now: Time) {
        self.now = now;
        let Some(written) = self.net.wrote(id, n) else { return };
        if written.released > 0
            && let Some(exchange) = self.exchange_of(id)
        {
            let is_client = self.net.client(id).is_some();
            let half = if is_client { Half::Response } else { Half::Request };
            self.give_credit(exchange, half, written.released);
        }
        if written.unblocks {
            self.unblock(id);
        }
        if self.net.get(id).is_some_and(|conn| conn.session.is_some() || matches!(conn.kind, Kind::Hop(_))) {
            self.shared_wrote(id);
        }
        self.settle();
    }

    /// Moves what the driver has to do to the end of `into`, in order.
    pub fn take_commands(&mut self, into: &mut Vec<Command>) {
        into.append(&mut self.net.commands);
    }

    /// Moves what is worth a log line to the end of `into`. At most 1,024 are kept between two calls.
    pub fn take_events(&mut self, into: &mut Vec<Event>) {
        into.append(&mut self.events);
    }

    /// The counters: keep the Arc on another thread and read it there.
    pub fn tally(&self) -> &Arc<Tally> {
        &self.tally
    }

    /// Begins to stop: idle callers' connections go after a moment in which a last request is answered, open requests are finished with
    /// `Connection: close`, other neighbourhoods are told to open no more streams. What is left at `deadline` is cut by [`Core::fire`].
    /// Connections that still arrive are served in the same way.
    pub fn drain(&mut self, now: Time, deadline: Time) {
        self.now = now;
        self.draining = Some(deadline);
        let ids: Vec<ConnId> = self.net.table.iter().map(|(id, _)| id).collect();
        for id in ids {
            match self.net.get(id).map(|conn| &conn.kind) {
                Some(Kind::Hop(hop)) if hop.node.is_none() => self.tell_draining(id),
                Some(Kind::Hop(hop)) if hop.streams() == 0 => self.retire_hop(id),
                Some(Kind::Client(_)) => self.client_drained(id),
                _ => {}
            }
        }
        self.settle();
    }

    /// While draining: whether nothing is left to wait for, so that the process may end. Otherwise: whether nothing is open at all.
    pub fn is_idle(&self) -> bool {
        // Nobody waits for copies, so stopping does not either.
        let unawaited = if self.draining.is_some() { self.mirrors as usize } else { 0 };
        self.exchanges.len() == unawaited
            && self.tally.clients.open.get() == 0
            && self.tally.hops_accepted.open.get() == 0
    }

    /// A connection has taken enough of its output: whoever waited for that goes on.
    fn unblock(&mut self, id: ConnId) {
        let is_client = self.net.client(id).is_some();
        let source = match self.exchange_of(id).and_then(|id| self.exchanges.get(id)) {
            Some(exchange) if is_client => exchange.response_source(),
            Some(exchange) => exchange.request_source(),
            // A caller that did not read its answers, and was not asked for more.
            None if is_client => Some(id),
            None => None,
        };
        if let Some(source) = source {
            self.net.resume(source);
        }
    }

    fn count_buffered(&self) {
        let conns = self.net.table.iter().map(|(_, conn)| conn.pending() + conn.input.len());
        let kept = self.exchanges.iter().map(|(_, e)| e.request.kept.len() + e.response.backlog.len());
        self.tally.buffered.set(conns.chain(kept).sum::<usize>() as u64);
    }

    /// The deadline of draining has come.
    fn cut_all(&mut self) {
        self.is_cut = true;
        let ids: Vec<ExchangeId> = self.exchanges.iter().map(|(id, _)| id).collect();
        for id in ids {
            // `draining` promises the other side that no application has seen the call.
            let reason = if self.has_reached_pod(id) { Reason::Cancelled } else { Reason::Draining };
            self.fail(id, reason);
        }
        let ids: Vec<(ConnId, bool)> =
            self.net.table.iter().map(|(id, conn)| (id, conn.is_open && conn.pending() > 0)).collect();
        for (id, has_output) in ids {
            // What a caller is told still leaves in this turn.
            if has_output { self.net.close_flushed(id) } else { self.net.close(id) }
        }
    }

    /// Whether something of a call that came over a hop may have been sent to an application.
    fn has_reached_pod(&self, id: ExchangeId) -> bool {
        self.exchanges.get(id).is_some_and(|exchange| {
            let is_open = |pod| self.net.get(pod).is_some_and(|conn| conn.is_open);
            let has_pod = match exchange.target {
                Target::Pod(pod) | Target::Session(pod, _) => is_open(pod),
                Target::None | Target::Waiting(_) | Target::Stream(..) => false,
            };
            !exchange.origin.is_caller() && (exchange.is_fresh_only || has_pod)
        })
    }

    /// Keeps an event, when there is room.
    pub(crate) fn event(&mut self, event: Event) {
        if self.events.len() < EVENTS_MAX {
            self.events.push(event);
        }
    }

    /// Looks at the input of all connections that may go on, until none is left.
    pub(crate) fn settle(&mut self) {
        loop {
            while let Some(id) = self.net.next_ready() {
                self.pump(id);
            }
            if !self.held_heads.is_empty() {
                self.pass_held_heads();
                continue;
            }
            if !self.mailbox.has_mail() {
                return;
            }
            self.read_mail();
        }
    }

    /// Looks at what a connection has in its input.
    fn pump(&mut self, id: ConnId) {
        let Some(conn) = self.net.get_mut(id) else { return };
        if conn.is_paused {
            return;
        }
        if !conn.input.is_empty() {
            let input = std::mem::take(&mut conn.input);
            let used = self.consume(id, &input);
            self.net.put_input_back(id, input, used);
        }
        let is_at_end = self.net.get(id).is_some_and(|conn| conn.is_ended && !conn.is_paused);
        if is_at_end {
            match self.net.get(id).map(|conn| &conn.kind) {
                Some(Kind::Client(_)) => self.client_ended(id),
                Some(Kind::Pod(_)) => self.pod_ended(id),
                Some(Kind::Hop(_)) => self.hop_lost(id, "ended"),
                None => {}
            }
        }
        self.net.update_wants_read(id);
    }

    #[inline]
    fn consume(&mut self, id: ConnId, bytes: &[u8]) -> usize {
        let used = match self.net.get(id).map(|conn| &conn.kind) {
            Some(Kind::Client(_)) => self.client_bytes(id, bytes),
            Some(Kind::Pod(_)) => self.pod_bytes(id, bytes),
            Some(Kind::Hop(_)) => self.hop_bytes(id, bytes),
            None => bytes.len(),
        };
        used.min(bytes.len())
    }
}
