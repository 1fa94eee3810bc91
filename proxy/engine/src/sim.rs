//! A cluster in one thread: cores, callers and pods over simulated sockets and time, from a seed. It drives a core exactly as `core`'s
//! documentation says a driver must, and is as mean as a network may be: any latency, any segmentation, short writes, resets, refusals, silence.

mod caller;
mod cluster;
mod mux;
mod pipe;
mod pod;
mod tests;

use std::collections::{BTreeMap, BTreeSet};
use std::io::ErrorKind;
use std::net::{IpAddr, SocketAddr};
use std::sync::Arc;
use std::time::Duration;

pub(crate) use self::caller::ClientSim;
pub(crate) use self::cluster::{SnapshotSpec, caller_ip, node_ip, node_name, pod_address};
pub(crate) use self::mux::{Mux, Said, fields};
use self::pipe::Pipe;
pub(crate) use self::pod::{ILL_CALLS, PodConn, Seen};
use crate::CoreConfig;
use crate::account::Party;
use crate::core::{Command, ConnId, Core, Event, Role, SecureDial};
use crate::deadline::Time;
use crate::outside::Unresolved;
use crate::queue::Queue;
use crate::random::Random;
use crate::snapshot::{PodSlot, Protocol};

pub(crate) const L1_PORT: u16 = 4140;
pub(crate) const L2_PORT: u16 = 4141;
/// A world that has not come to what was waited for by then never will.
const PATIENCE: Duration = Duration::from_mins(2);

/// Who holds one end of a link.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum End {
    Core(usize, ConnId),
    Client(usize),
    Pod(usize),
    /// Not taken yet, or gone.
    Nobody,
}

/// A TCP connection: `ends[0]` dialled, `pipes[i]` is written by `ends[i]`.
#[derive(Debug)]
struct Link {
    ends: [End; 2],
    pipes: [Pipe; 2],
    /// When the dialled end learns what came of it.
    connects_at: Option<Time>,
    /// When the handshake is over, once the peer's proxy has taken part in it.
    opens_at: Option<Time>,
    is_told_end: [bool; 2],
    address: SocketAddr,
    /// With TLS, as whom.
    secure: Option<SecureDial>,
}

/// When, to which node, for which names, what.
type Answer = (Time, usize, Arc<[Box<str>]>, Result<(Vec<IpAddr>, Duration), Unresolved>);

/// What DNS knows.
#[derive(Debug, Default)]
pub(crate) struct Dns {
    /// Hosts outside, by name with a final dot.
    pub(crate) hosts: BTreeMap<String, Vec<IpAddr>>,
    /// It never answers.
    pub(crate) is_silent: bool,
    /// What it will have said, when and to which node.
    answers: Vec<Answer>,
}

/// One neighbourhood.
#[derive(Debug)]
pub(crate) struct NodeSim {
    pub(crate) core: Core,
    pub(crate) ip: IpAddr,
    links: BTreeMap<ConnId, usize>,
    unwritten: BTreeSet<ConnId>,
    pub(crate) events: Vec<Event>,
    /// The process stands still (SIGSTOP); its kernel goes on taking bytes and connections.
    pub(crate) is_frozen: bool,
    /// Links that its kernel has taken and the process has not, and at which listener.
    backlog: Vec<(usize, Role)>,
}

/// What answers at an address.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Listener {
    Core(usize, Role),
    Pod,
    Refuses,
    /// Nothing ever comes back.
    Silent,
    /// What comes back is what the test says.
    Scripted,
}

/// How the network behaves.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Net {
    /// One way, microseconds: least and most.
    pub(crate) latency_us: (u64, u64),
    /// Most bytes in one read or write; 0 is no bound.
    pub(crate) segment_max: usize,
}

#[derive(Debug)]
pub(crate) struct World {
    pub(crate) now: Time,
    pub(crate) random: Random,
    pub(crate) net: Net,
    pub(crate) nodes: Vec<NodeSim>,
    pub(crate) clients: Vec<ClientSim>,
    pub(crate) pods: Vec<PodConn>,
    pub(crate) listeners: BTreeMap<SocketAddr, Listener>,
    /// What pods saw.
    pub(crate) seen: Vec<Seen>,
    pub(crate) dns: Dns,
    /// Nodes that do not speak TLS, whatever is said of them.
    pub(crate) without_tls: BTreeSet<usize>,
    /// What diallers with TLS show instead of whom they dial for, and until when it is good.
    pub(crate) claims: Option<Party>,
    pub(crate) proved_until: Time,
    links: Vec<Link>,
    /// Grows when a caller or a pod sees something.
    news: u64,
    pub(crate) snapshot: SnapshotSpec,
    slots: BTreeMap<SocketAddr, Arc<PodSlot>>,
    /// Lines by node and Service.
    queues: BTreeMap<(usize, String), Arc<Queue>>,
}

impl World {
    /// `nodes` neighbourhoods with one caller each, and no Service.
    pub(crate) fn new(nodes: usize, seed: u64) -> World {
        World::with(nodes, seed, &CoreConfig::default())
    }

    pub(crate) fn with(nodes: usize, seed: u64, config: &CoreConfig) -> World {
        let mut world = World {
            now: Time(1_000_000_000),
            random: Random::new(seed),
            net: Net { latency_us: (50, 500), segment_max: 0 },
            nodes: Vec::new(),
            clients: Vec::new(),
            pods: Vec::new(),
            listeners: BTreeMap::new(),
            seen: Vec::new(),
            dns: Dns::default(),
            without_tls: BTreeSet::new(),
            claims: None,
            proved_until: Time::NEVER,
            links: Vec::new(),
            news: 0,
            snapshot: SnapshotSpec {
                version: 0,
                services: BTreeMap::new(),
                rules: BTreeMap::new(),
                endpoints: BTreeMap::new(),
                callers: (0..nodes).map(|node| (node, caller_ip(node))).collect(),
                near: BTreeMap::new(),
                protocols: BTreeMap::new(),
                node_local: BTreeSet::new(),
                pods: BTreeMap::new(),
                policies: Arc::default(),
                egress: Arc::default(),
                is_strict: false,
                secure: BTreeSet::new(),
                not_ready: BTreeSet::new(),
                twins: BTreeMap::new(),
                l2_ports: BTreeMap::new(),
                request_timeout: Duration::from_secs(30),
                idle_timeout: Duration::ZERO,
                connect_timeout: Duration::from_secs(1),
                requeues: 2,
                retry: None,
                hedge: None,
                concurrency: None,
                affinity: None,
                affinity_load_percent: 0,
                edits: BTreeMap::new(),
                mirrors: BTreeMap::new(),
                overrides: Vec::new(),
                algorithm: crate::balance::Algorithm::default(),
                breaker: None,
                rate_limit: None,
                buckets: BTreeMap::new(),
            },
            slots: BTreeMap::new(),
            queues: BTreeMap::new(),
        };
        for node in 0..nodes {
            let mut config = config.clone();
            config.own_ports = vec![L1_PORT, L2_PORT];
            let core = Core::new(config, seed ^ (node as u64 + 1));
            let ip = node_ip(node);
            world.nodes.push(NodeSim {
                core,
                ip,
                links: BTreeMap::new(),
                unwritten: BTreeSet::new(),
                events: Vec::new(),
                is_frozen: false,
                backlog: Vec::new(),
            });
            world.listeners.insert(SocketAddr::new(ip, L1_PORT), Listener::Core(node, Role::L1));
            world.listeners.insert(SocketAddr::new(ip, L2_PORT), Listener::Core(node, Role::L2));
        }
        world
    }

    pub(crate) fn latency(&mut self) -> Duration {
        let (least, most) = self.net.latency_us;
        // In steps, so that some things happen at the same moment.
        Duration::from_micros((least + self.random.below(most - least + 1)) / 50 * 50)
    }

    fn segment(&mut self, len: usize) -> usize {
        match self.net.segment_max {
            0 => len.min(64 * 1024),
            max => (1 + self.random.below(max as u64) as usize).min(len),
        }
    }

    /// Lets time pass until `is_so`. Panics, with `what`, when it never comes to that.
    pub(crate) fn until(&mut self, what: &str, mut is_so: impl FnMut(&World) -> bool) {
        let end = self.now + PATIENCE;
        let mut turns = 0_u32;
        while !is_so(self) {
            // Looking is dear: only when a caller or a pod has seen something new, or now and then.
            let seen = self.news;
            while self.news == seen {
                turns += 1;
                assert!(self.now < end && turns < 3_000_000, "{what}: not by {:?}", self.now);
                if !self.step() {
                    assert!(is_so(self), "{what}: nothing more happens at {:?}", self.now);
                    return;
                }
                self.news += u64::from(turns.is_multiple_of(64));
            }
        }
    }

    /// Lets some time pass.
    pub(crate) fn run(&mut self, time: Duration) {
        let end = self.now + time;
        while self.next_time().is_some_and(|next| next <= end) && self.step() {}
        self.now = end;
    }

    fn next_time(&self) -> Option<Time> {
        let pipes = self.links.iter().flat_map(|link| link.pipes.iter().filter_map(|p| p.next(self.now)));
        let connects = self.links.iter().flat_map(|link| [link.connects_at, link.opens_at]).flatten();
        let connects = connects.chain(self.dns.answers.iter().map(|(at, ..)| *at));
        let live = self.nodes.iter().filter(|node| !node.is_frozen);
        let deadlines = live.filter_map(|node| node.core.next_deadline());
        let pods = self.pods.iter().filter_map(PodConn::next);
        // Whoever waited for room may write at once.
        let clients = self
            .clients
            .iter()
            .filter(|c| !c.is_closed && c.has_output() && self.links[c.link].pipes[0].has_room());
        let blocked =
            self.nodes.iter().enumerate().filter(|(_, node)| !node.is_frozen).flat_map(|(i, node)| {
                node.unwritten.iter().filter(move |id| {
                    let link = node.links.get(id).copied();
                    link.is_some_and(|link| self.links[link].pipes[self.side(link, i, **id)].has_room())
                })
            });
        // So may whoever reads again what has come meanwhile.
        let readers = self
            .clients
            .iter()
            .filter(|c| !c.is_closed && !c.is_stalled && self.links[c.link].pipes[1].readable() > 0);
        let writers = clients.map(|_| self.now).chain(blocked.map(|_| self.now));
        let writers = writers.chain(readers.map(|_| self.now));
        let bells = self.nodes.iter().filter(|node| node.core.mailbox.has_mail()).map(|_| self.now);
        let pipes = pipes.chain(writers).chain(bells);
        pipes.chain(connects).chain(deadlines).chain(pods).min().map(|next| next.max(self.now))
    }

    /// One moment: everything that happens at the next time at which anything does. False when nothing ever will.
    pub(crate) fn step(&mut self) -> bool {
        let Some(next) = self.next_time() else { return false };
        // Something may be due that its owner does not take now (a paused reader): time has to move all the same.
        self.now = if next == self.now { Time(self.now.0 + 1000) } else { next };
        for link in 0..self.links.len() {
            let now = self.now;
            for pipe in &mut self.links[link].pipes {
                pipe.arrive(now);
            }
            if self.links[link].connects_at.is_some_and(|at| at <= now) {
                self.links[link].connects_at = None;
                self.connect(link);
            }
            if self.links[link].opens_at.is_some_and(|at| at <= now) {
                self.links[link].opens_at = None;
                if let End::Core(node, id) = self.links[link].ends[0] {
                    let local = SocketAddr::new(self.nodes[node].ip, 50_000);
                    self.nodes[node].core.connected(id, local, now);
                }
            }
        }
        let now = self.now;
        for (_, node, names, found) in self.dns.answers.extract_if(.., |(at, ..)| *at <= now) {
            self.nodes[node].core.resolved(&names, found, now);
        }
        for client in 0..self.clients.len() {
            self.client_turn(client);
        }
        for pod in 0..self.pods.len() {
            self.pod_turn(pod);
        }
        for node in 0..self.nodes.len() {
            self.turn(node);
        }
        true
    }

    fn pod_turn(&mut self, pod: usize) {
        if self.pods[pod].is_closed {
            return;
        }
        let link = self.pods[pod].link;
        let now = self.now;
        let segment = self.net.segment_max;
        let pipe = &mut self.links[link].pipes[0];
        if pipe.is_reset() {
            self.pods[pod].is_closed = true;
            return;
        }
        if !self.pods[pod].is_stalled {
            let n = pipe.readable();
            let bytes = pipe.read(n);
            let is_end = pipe.is_at_end();
            self.news += u64::from(n > 0 || is_end);
            self.pods[pod].serve(&bytes, is_end, now, &mut self.seen);
        }
        let latency = self.latency();
        let pod = &mut self.pods[pod];
        let pipe = &mut self.links[link].pipes[1];
        let n = if segment == 0 { pod.out.len() } else { pod.out.len().min(segment) };
        let n = pipe.write(&pod.out[..n], now + latency);
        pod.out.drain(..n);
        if pod.resets {
            pipe.reset();
            pod.is_closed = true;
        } else if pod.out.is_empty() && pod.closes {
            pipe.shut(now + latency);
            pod.is_closed = true;
        }
    }

    /// What a dial comes to.
    fn connect(&mut self, link: usize) {
        let address = self.links[link].address;
        let End::Core(node, id) = self.links[link].ends[0] else { return };
        let now = self.now;
        let local = SocketAddr::new(self.nodes[node].ip, 50_000);
        match self.listeners.get(&address).copied().unwrap_or(Listener::Refuses) {
            Listener::Silent => {}
            Listener::Refuses => {
                self.nodes[node].links.remove(&id);
                self.links[link].ends[0] = End::Nobody;
                self.nodes[node].core.connect_failed(id, ErrorKind::ConnectionRefused, now);
            }
            listener @ (Listener::Pod | Listener::Scripted) => {
                self.links[link].ends[1] = End::Pod(self.pods.len());
                let mut pod = PodConn::new(link, address);
                pod.is_scripted = listener == Listener::Scripted;
                self.pods.push(pod);
                self.nodes[node].core.connected(id, local, now);
            }
            Listener::Core(to, _) if self.links[link].secure.is_some() && self.without_tls.contains(&to) => {
                self.nodes[node].links.remove(&id);
                self.links[link].ends[0] = End::Nobody;
                self.nodes[node].core.connect_failed(id, ErrorKind::Unsupported, now);
            }
            Listener::Core(to, role) => {
                self.nodes[to].backlog.push((link, role));
                // A kernel takes connections for a process that stands still; who that is only the process can prove.
                let core = &mut self.nodes[node].core;
                match self.links[link].secure {
                    Some(_) => core.reached(id, now),
                    None => core.connected(id, local, now),
                }
                if !self.nodes[to].is_frozen {
                    self.accept(to);
                }
            }
        }
    }

    /// A core takes the connections that its kernel has taken for it.
    fn accept(&mut self, node: usize) {
        let now = self.now;
        for (link, role) in std::mem::take(&mut self.nodes[node].backlog) {
            let address = self.links[link].address;
            let End::Core(from, _) = self.links[link].ends[0] else { continue };
            let peer = SocketAddr::new(self.nodes[from].ip, 50_000);
            let taken = self.nodes[node].core.accepted(role, peer, address, now).expect("below the limit");
            self.nodes[node].links.insert(taken, link);
            self.links[link].ends[1] = End::Core(node, taken);
            if let Some(dial) = &self.links[link].secure {
                let own = || Party::Node(node_name(from).into());
                let party = self
                    .claims
                    .clone()
                    .unwrap_or_else(|| dial.caller.clone().map_or_else(own, Party::Workload));
                self.nodes[node].core.identified(taken, party, self.proved_until, now);
                self.links[link].opens_at = Some(now + self.latency());
            }
        }
    }

    /// One turn of a core, as its driver makes it.
    pub(crate) fn turn(&mut self, node: usize) {
        if self.nodes[node].is_frozen {
            return;
        }
        if self.nodes[node].core.mailbox.has_mail() {
            let now = self.now;
            self.nodes[node].core.granted(now);
        }
        let now = self.now;
        self.accept(node);
        let ids: Vec<ConnId> = self.nodes[node].links.keys().copied().collect();
        for id in ids {
            self.read(node, id);
        }
        if self.nodes[node].core.next_deadline().is_some_and(|due| due <= now) {
            self.nodes[node].core.fire(now, now);
        }
        let mut blocked: Vec<ConnId> = std::mem::take(&mut self.nodes[node].unwritten).into_iter().collect();
        loop {
            let (mut commands, mut resumed, mut dirty) =
                (Vec::new(), Vec::new(), std::mem::take(&mut blocked));
            let core = &mut self.nodes[node].core;
            core.take_commands(&mut commands);
            core.take_resumed(&mut resumed);
            core.take_dirty(&mut dirty);
            if commands.is_empty() && resumed.is_empty() && dirty.is_empty() {
                break;
            }
            for command in commands {
                self.obey(node, &command);
            }
            for id in resumed {
                self.read(node, id);
            }
            for id in dirty {
                self.write(node, id);
            }
        }
        let NodeSim { core, events, .. } = &mut self.nodes[node];
        core.take_events(events);
    }

    /// A process that stood still goes on. It hears of its timers before it hears of its sockets: what ends a wait for both
    /// is EINTR, and the time is over.
    pub(crate) fn thaw(&mut self, node: usize) {
        self.nodes[node].is_frozen = false;
        let now = self.now;
        self.nodes[node].core.fire(now, now);
        self.turn(node);
    }

    /// Which end of its link a core has.
    fn side(&self, link: usize, node: usize, id: ConnId) -> usize {
        usize::from(self.links[link].ends[0] != End::Core(node, id))
    }

    fn read(&mut self, node: usize, id: ConnId) {
        let now = self.now;
        while let Some(link) = self.nodes[node].links.get(&id).copied() {
            let side = self.side(link, node, id);
            if self.links[link].pipes[1 - side].is_reset() {
                self.nodes[node].links.remove(&id);
                self.nodes[node].core.failed(id, ErrorKind::ConnectionReset, now);
                return;
            }
            let readable = self.links[link].pipes[1 - side].readable();
            if !self.nodes[node].core.wants_read(id) {
                return;
            }
            if readable > 0 {
                let n = self.segment(readable);
                let bytes = self.links[link].pipes[1 - side].read(n);
                self.nodes[node].core.received(id, &bytes, now);
            } else if self.links[link].pipes[1 - side].is_at_end() && !self.links[link].is_told_end[side] {
                self.links[link].is_told_end[side] = true;
                self.nodes[node].core.ended(id, now);
            } else {
                return;
            }
        }
    }

    fn write(&mut self, node: usize, id: ConnId) {
        let now = self.now;
        let Some(link) = self.nodes[node].links.get(&id).copied() else { return };
        let side = self.side(link, node, id);
        let latency = self.latency();
        let len = self.nodes[node].core.output(id).len();
        if len == 0 {
            return;
        }
        let n = if self.net.segment_max == 0 { len } else { self.segment(len) };
        let NodeSim { core, unwritten, .. } = &mut self.nodes[node];
        let n = self.links[link].pipes[side].write(&core.output(id)[..n], now + latency);
        if n > 0 {
            core.wrote(id, n, now);
        }
        if !core.output(id).is_empty() {
            unwritten.insert(id);
        }
    }

    fn obey(&mut self, node: usize, command: &Command) {
        let now = self.now;
        let latency = self.latency();
        match command.clone() {
            Command::Connect { id, address, secure } => {
                self.nodes[node].links.insert(id, self.links.len());
                let silent = matches!(self.listeners.get(&address), Some(Listener::Silent));
                self.links.push(Link {
                    ends: [End::Core(node, id), End::Nobody],
                    pipes: Default::default(),
                    connects_at: (!silent).then(|| now + latency + latency),
                    opens_at: None,
                    is_told_end: [false; 2],
                    address,
                    secure,
                });
            }
            Command::Resolve { .. } if self.dns.is_silent => {}
            Command::Resolve { names } => {
                let mut known = names.iter().map(|name| self.dns.hosts.get(&**name));
                let found = match known.find_map(|found| found) {
                    Some(addresses) => Ok((addresses.clone(), Duration::from_secs(30))),
                    None => Err(Unresolved::NoSuchName),
                };
                self.dns.answers.push((now + latency + latency, node, names, found));
            }
            Command::ShutdownWrite { id } => {
                let Some(link) = self.nodes[node].links.get(&id).copied() else { return };
                assert!(self.nodes[node].core.output(id).is_empty(), "FIN behind output");
                let side = self.side(link, node, id);
                self.links[link].pipes[side].shut(now + latency);
            }
            Command::Close { id } => {
                let Some(link) = self.nodes[node].links.remove(&id) else { return };
                let side = self.side(link, node, id);
                let has_unread = self.links[link].pipes[1 - side].readable() > 0;
                self.links[link].ends[side] = End::Nobody;
                self.links[link].connects_at = None;
                let pipe = &mut self.links[link].pipes[side];
                if has_unread { pipe.reset() } else { pipe.shut(now + latency) }
            }
        }
    }

    /// Breaks all hops between two nodes.
    pub(crate) fn reset_hops(&mut self, from: usize, to: usize) {
        for link in &mut self.links {
            if matches!(link.ends, [End::Core(a, _), End::Core(b, _)] if (a, b) == (from, to)) {
                link.pipes.iter_mut().for_each(Pipe::reset);
            }
        }
    }

    /// No call is counted anywhere any more.
    pub(crate) fn assert_nothing_left(&self) {
        for (address, slot) in &self.slots {
            assert_eq!(slot.in_flight(), 0, "{address} has calls in flight");
        }
        for (i, node) in self.nodes.iter().enumerate() {
            assert_eq!(node.core.exchanges.len(), 0, "node {i} has exchanges");
            assert_eq!(node.core.mirrors, 0, "node {i} counts copies");
            assert!(node.core.loads.is_empty(), "node {i} counts calls in flight");
            assert_eq!(node.core.tally().streams_open.get(), 0, "node {i} has streams");
            assert_eq!(node.core.tally().held.get(), 0, "node {i} holds callers");
            assert_eq!(node.core.tally().queued.get(), 0, "node {i} has calls in line");
            for service in node.core.tally().services() {
                assert_eq!(service.open.get(), 0, "node {i}: {service:?}");
            }
            for (id, conn) in node.core.net.table.iter() {
                assert!(conn.pending() == 0 || !conn.is_open, "node {i} has output for {id:?}: {conn:?}");
            }
        }
    }
}
