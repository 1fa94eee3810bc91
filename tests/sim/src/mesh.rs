//! The product: a `Core` for each node, joined by pipes that have a latency; callers and applications speak HTTP/1.1 at its edges.

use std::collections::{BTreeMap, HashMap, VecDeque};
use std::io::ErrorKind;
use std::net::{IpAddr, SocketAddr};
use std::sync::Arc;

use anyhow::ensure;
use vicino_engine::snapshot::{
    Backend, Concurrency, EndpointSet, Neighbour, Node, NodeEndpoints, PodSlot, PortEndpoints, Service,
    ServiceName, ServicePort, Snapshot, Times,
};
use vicino_engine::{Command, ConnId, Core, CoreConfig, Role, Time};

use crate::events::Events;
use crate::scenario::{Call, LOCAL_NS, NET_NS, Scenario};

const L1_PORT: u16 = 4140;
const L2_PORT: u16 = 4141;
/// Lines are not what is measured: what others queue without bound is queued here as well.
const QUEUE_LENGTH: u32 = 100_000;
const QUEUE_TIMEOUT_NS: u64 = 600_000_000_000;
const ANSWER: &[u8] = b"HTTP/1.1 200 OK\r\ncontent-length: 0\r\n\r\n";
const HEAD_END: &[u8] = b"\r\n\r\n";
/// Most bytes that a core takes in one go.
const READ_BYTES_MAX: usize = 64 * 1024;

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum End {
    Core(usize, ConnId),
    Caller(usize),
    Pod(usize),
    Nobody,
}

#[derive(Debug)]
enum Event {
    Arrive(usize),
    Bytes { link: usize, side: usize, bytes: Vec<u8> },
    Dialled { link: usize, address: SocketAddr },
    Done { pod: usize, link: usize },
    Timer { node: usize },
}

/// A connection; the one who dialled is side 0.
#[derive(Debug)]
struct Link {
    ends: [End; 2],
    way_ns: u64,
}

#[derive(Debug)]
struct NodeState {
    core: Core,
    links: HashMap<ConnId, usize>,
    timer_at: u64,
    idle_callers: Vec<usize>,
}

/// A caller's connection, and the call that it has open.
#[derive(Debug)]
struct Caller {
    node: usize,
    link: usize,
    call: Option<usize>,
    got: Vec<u8>,
}

/// An application that works on some calls at a time.
#[derive(Debug, Default)]
struct PodState {
    busy: u32,
    line: VecDeque<(usize, usize)>,
}

struct Mesh<'a> {
    scenario: &'a Scenario,
    calls: &'a [Call],
    now: u64,
    events: Events<Event>,
    nodes: Vec<NodeState>,
    links: Vec<Link>,
    callers: Vec<Caller>,
    pods: Vec<PodState>,
    /// What a pod has read of a head, by link.
    heads: HashMap<usize, Vec<u8>>,
    at: HashMap<SocketAddr, usize>,
    latencies: Vec<u64>,
    bad: usize,
}

fn node_ip(node: usize) -> IpAddr {
    IpAddr::from([10, 0, 0, node as u8 + 1])
}

fn caller_ip(node: usize) -> IpAddr {
    IpAddr::from([10, 2, 0, node as u8 + 1])
}

fn pod_address(pod: usize) -> SocketAddr {
    SocketAddr::from(([10, 1, (pod / 250) as u8, (pod % 250) as u8 + 1], 8080))
}

fn node_name(node: usize) -> Arc<str> {
    format!("node-{node}").into()
}

fn snapshot(scenario: &Scenario, own: usize) -> Snapshot {
    let name = ServiceName { namespace: "demo".into(), name: "web".into() };
    let backend = Backend {
        service: name.clone(),
        port: 80,
        port_name: "http".into(),
        weight: 1,
        is_node_local: false,
        edits: None,
    };
    let limit = Concurrency {
        per_pod: scenario.slots,
        queue_length: QUEUE_LENGTH,
        queue_timeout_ns: QUEUE_TIMEOUT_NS,
        standing_timeout_ns: 0,
        adaptive: None,
    };
    let service = Service {
        name: name.clone(),
        ports: vec![ServicePort { port: 80, backends: vec![backend], ..ServicePort::default() }],
        times: Times { connect_ns: 1_000_000_000, ..Times::default() },
        requeues: 1,
        concurrency: scenario.is_limited.then_some(limit),
        ..Service::default()
    };
    let of_node = |node: usize| (0..scenario.pods.len()).filter(move |pod| scenario.pods[*pod].node == node);
    let mut port = PortEndpoints { listed: scenario.pods.len() as u32, ..PortEndpoints::default() };
    for node in 0..scenario.nodes {
        let pods = of_node(node).count() as u32;
        if pods > 0 {
            port.nodes.push(NodeEndpoints { node: node_name(node), pods, near: pods });
        }
    }
    port.local = of_node(own).map(|pod| Arc::new(PodSlot::new(pod_address(pod), "".into()))).collect();
    let set = EndpointSet { ports: BTreeMap::from([("http".into(), port)]) };
    let node = |node: usize| {
        let addresses = vec![SocketAddr::new(node_ip(node), L2_PORT)];
        let known = Node { name: node_name(node), addresses, zone: "".into(), ready: true, secure: false };
        (node_name(node), Arc::new(known))
    };
    let neighbour = Neighbour {
        uid: "".into(),
        namespace: "demo".into(),
        name: "caller".into(),
        service_account: "default".into(),
    };
    Snapshot {
        version: 1,
        node: node_name(own),
        node_addresses: vec![node_ip(own)],
        cluster_domain: "cluster.local".into(),
        services: HashMap::from([(
            Arc::clone(&name.namespace),
            HashMap::from([(Arc::clone(&name.name), Arc::new(service))]),
        )]),
        endpoints: HashMap::from([(name.namespace, HashMap::from([(name.name, Arc::new(set))]))]),
        nodes: (0..scenario.nodes).map(node).collect(),
        neighbours: HashMap::from([(caller_ip(own), Arc::new(neighbour))]),
        ..Snapshot::default()
    }
}

/// Latencies in nanoseconds, in order of the calls.
pub(crate) fn run(scenario: &Scenario, calls: &[Call], seed: u64) -> anyhow::Result<Vec<u64>> {
    let node = |node: usize| {
        let config = CoreConfig { own_ports: vec![L1_PORT, L2_PORT], ..CoreConfig::default() };
        let mut core = Core::new(config, seed ^ (node as u64 + 1));
        core.swap(Arc::new(snapshot(scenario, node)), Time(1));
        NodeState { core, links: HashMap::new(), timer_at: u64::MAX, idle_callers: Vec::new() }
    };
    let mut mesh = Mesh {
        scenario,
        calls,
        now: 1,
        events: Events::of(calls, Event::Arrive),
        nodes: (0..scenario.nodes).map(node).collect(),
        links: Vec::new(),
        callers: Vec::new(),
        pods: scenario.pods.iter().map(|_| PodState::default()).collect(),
        heads: HashMap::new(),
        at: (0..scenario.pods.len()).map(|pod| (pod_address(pod), pod)).collect(),
        latencies: vec![0; calls.len()],
        bad: 0,
    };
    let mut open = calls.len();
    while open > 0 {
        let Some((at, event)) = mesh.events.next() else { break };
        mesh.now = at;
        open -= mesh.happens(event);
    }
    ensure!(open == 0, "{}: {open} calls are not answered", scenario.name);
    ensure!(mesh.bad == 0, "{}: {} calls are not answered with 200", scenario.name, mesh.bad);
    Ok(mesh.latencies)
}

impl Mesh<'_> {
    /// Returns how many calls were answered.
    fn happens(&mut self, event: Event) -> usize {
        match event {
            Event::Arrive(call) => self.arrive(call),
            Event::Dialled { link, address } => self.dialled(link, address),
            Event::Done { pod, link } => self.done(pod, link),
            Event::Timer { node } => {
                self.nodes[node].timer_at = u64::MAX;
                self.nodes[node].core.fire(Time(self.now), Time(self.now));
                self.turn(node);
            }
            Event::Bytes { link, side, bytes } => match self.links[link].ends[side] {
                End::Core(node, id) => {
                    for part in bytes.chunks(READ_BYTES_MAX) {
                        self.nodes[node].core.received(id, part, Time(self.now));
                    }
                    self.turn(node);
                }
                End::Caller(caller) => return self.answered(caller, &bytes),
                End::Pod(pod) => self.asked(pod, link, &bytes),
                End::Nobody => {}
            },
        }
        0
    }

    fn arrive(&mut self, call: usize) {
        let node = self.calls[call].from;
        let caller = self.nodes[node].idle_callers.pop().unwrap_or_else(|| self.new_caller(node));
        self.callers[caller].call = Some(call);
        let link = self.callers[caller].link;
        self.send(link, 1, format!("GET /{call} HTTP/1.1\r\nhost: web\r\n\r\n").into_bytes());
    }

    fn new_caller(&mut self, node: usize) -> usize {
        let (caller, link) = (self.callers.len(), self.links.len());
        let (peer, local) =
            (SocketAddr::new(caller_ip(node), 50_000), SocketAddr::new(node_ip(node), L1_PORT));
        let taken = self.nodes[node].core.accepted(Role::L1, peer, local, Time(self.now));
        let end = taken.map_or(End::Nobody, |id| End::Core(node, id));
        self.links.push(Link { ends: [End::Caller(caller), end], way_ns: LOCAL_NS });
        if let Some(id) = taken {
            self.nodes[node].links.insert(id, link);
        }
        self.callers.push(Caller { node, link, call: None, got: Vec::new() });
        caller
    }

    fn answered(&mut self, caller: usize, bytes: &[u8]) -> usize {
        let Caller { node, call, got, .. } = &mut self.callers[caller];
        got.extend_from_slice(bytes);
        if !got.ends_with(HEAD_END) {
            return 0;
        }
        self.bad += usize::from(!got.starts_with(b"HTTP/1.1 200 "));
        got.clear();
        let Some(call) = call.take() else { return 0 };
        self.latencies[call] = self.now - self.calls[call].at;
        self.nodes[*node].idle_callers.push(caller);
        1
    }

    fn asked(&mut self, pod: usize, link: usize, bytes: &[u8]) {
        let head = self.heads.entry(link).or_default();
        head.extend_from_slice(bytes);
        if !head.ends_with(HEAD_END) {
            return;
        }
        let number = head.iter().skip_while(|b| **b != b'/').skip(1).take_while(|b| b.is_ascii_digit());
        let call = number.fold(0, |number, digit| number * 10 + usize::from(digit - b'0'));
        head.clear();
        let state = &mut self.pods[pod];
        if state.busy < self.scenario.slots {
            state.busy += 1;
            self.works(pod, link, call);
        } else {
            state.line.push_back((link, call));
        }
    }

    fn works(&mut self, pod: usize, link: usize, call: usize) {
        let service_ns = self.scenario.service_ns(pod, &self.calls[call]);
        self.events.put(self.now + service_ns, Event::Done { pod, link });
    }

    fn done(&mut self, pod: usize, link: usize) {
        self.send(link, 0, ANSWER.to_vec());
        match self.pods[pod].line.pop_front() {
            Some((link, call)) => self.works(pod, link, call),
            None => self.pods[pod].busy -= 1,
        }
    }

    /// Bytes on their way to that side.
    fn send(&mut self, link: usize, side: usize, bytes: Vec<u8>) {
        self.events.put(self.now + self.links[link].way_ns, Event::Bytes { link, side, bytes });
    }

    fn dialled(&mut self, link: usize, address: SocketAddr) {
        let End::Core(from, id) = self.links[link].ends[0] else { return };
        let now = Time(self.now);
        let local = SocketAddr::new(node_ip(from), 50_000);
        let to =
            (address.port() == L2_PORT).then(|| (0..self.nodes.len()).find(|n| node_ip(*n) == address.ip()));
        self.links[link].ends[1] = match (to.flatten(), self.at.get(&address)) {
            (Some(node), _) => {
                let taken = self.nodes[node].core.accepted(Role::L2, local, address, now);
                if let Some(id) = taken {
                    self.nodes[node].links.insert(id, link);
                }
                self.turn(node);
                taken.map_or(End::Nobody, |id| End::Core(node, id))
            }
            (None, Some(pod)) => End::Pod(*pod),
            (None, None) => End::Nobody,
        };
        // What the one who accepted said at once is on its way behind the dial.
        if let End::Core(node, _) = self.links[link].ends[1] {
            self.turn(node);
        }
        self.nodes[from].core.connected(id, local, now);
        self.turn(from);
    }

    /// What a core's driver does after each call.
    fn turn(&mut self, node: usize) {
        let (mut commands, mut ids) = (Vec::new(), Vec::new());
        loop {
            let core = &mut self.nodes[node].core;
            core.take_commands(&mut commands);
            core.take_dirty(&mut ids);
            if commands.is_empty() && ids.is_empty() {
                break;
            }
            for command in commands.drain(..) {
                self.obey(node, &command);
            }
            for id in ids.drain(..) {
                self.write(node, id);
            }
        }
        let NodeState { core, timer_at, .. } = &mut self.nodes[node];
        core.take_resumed(&mut ids);
        core.take_events(&mut Vec::new());
        if let Some(due) = core.next_deadline().map(|due| due.0.max(self.now + 1))
            && due < *timer_at
        {
            *timer_at = due;
            self.events.put(due, Event::Timer { node });
        }
    }

    fn write(&mut self, node: usize, id: ConnId) {
        let state = &mut self.nodes[node];
        let Some(link) = state.links.get(&id).copied() else { return };
        let bytes = state.core.output(id).to_vec();
        if bytes.is_empty() {
            return;
        }
        state.core.wrote(id, bytes.len(), Time(self.now));
        let side = usize::from(self.links[link].ends[0] == End::Core(node, id));
        self.send(link, side, bytes);
    }

    fn obey(&mut self, node: usize, command: &Command) {
        match *command {
            Command::Connect { id, address, .. } => {
                let is_local = self.at.get(&address).is_some_and(|pod| self.scenario.pods[*pod].node == node);
                let way_ns = if is_local { LOCAL_NS } else { NET_NS };
                let link = self.links.len();
                self.nodes[node].links.insert(id, link);
                self.links.push(Link { ends: [End::Core(node, id), End::Nobody], way_ns });
                self.events.put(self.now + 2 * way_ns, Event::Dialled { link, address });
            }
            Command::Close { id } => {
                if let Some(link) = self.nodes[node].links.remove(&id) {
                    self.closed(node, link);
                }
            }
            // Nobody calls out of the mesh here.
            Command::ShutdownWrite { .. } | Command::Resolve { .. } => {}
        }
    }

    /// A node has closed a connection, an idle one: nobody is busy with a call on it.
    fn closed(&mut self, node: usize, link: usize) {
        for end in std::mem::replace(&mut self.links[link].ends, [End::Nobody; 2]) {
            match end {
                End::Core(other, id) if other != node => {
                    self.nodes[other].links.remove(&id);
                    self.nodes[other].core.failed(id, ErrorKind::ConnectionReset, Time(self.now));
                    self.turn(other);
                }
                End::Caller(caller) => self.nodes[node].idle_callers.retain(|idle| *idle != caller),
                End::Core(..) | End::Pod(_) | End::Nobody => {}
            }
        }
    }
}
