//! Any bytes from callers, other proxies and applications, in any parts and order, with time and closing in between: a core breaks nowhere, and when all are gone no call is
//! left. Reaches what a parser alone does not: detection of protocols, bodies, tunnels, HTTP/2 sessions, hops.
#![no_main]

use std::collections::{BTreeMap, HashMap};
use std::io::ErrorKind;
use std::net::{IpAddr, SocketAddr};
use std::sync::Arc;
use std::time::Duration;

use libfuzzer_sys::fuzz_target;
use vicino_engine::egress::Egress;
use vicino_engine::snapshot::{
    Backend, EndpointSet, Neighbour, Node, NodeEndpoints, PodSlot, PortEndpoints, Service, ServiceName,
    ServicePort, Snapshot, Times,
};
use vicino_engine::{Command, ConnId, Core, CoreConfig, Role, Time};

const CALLER: [u8; 4] = [10, 2, 0, 1];
const OTHER_NODE: [u8; 4] = [10, 0, 0, 2];
const OUTSIDE: [u8; 4] = [198, 51, 100, 7];
const POD: ([u8; 4], u16) = ([10, 1, 0, 1], 8080);

/// `web` has a pod here and one on another node; everything outside may be called.
fn snapshot() -> Snapshot {
    let name = ServiceName { namespace: "demo".into(), name: "web".into() };
    let backend = Backend {
        service: name.clone(),
        port: 80,
        port_name: "http".into(),
        weight: 1,
        is_node_local: false,
        edits: None,
    };
    let service = Service {
        name: name.clone(),
        ports: vec![ServicePort { port: 80, backends: vec![backend], ..ServicePort::default() }],
        times: Times { connect_ns: 1_000_000_000, request_ns: 5_000_000_000, idle_ns: 2_000_000_000 },
        requeues: 1,
        ..Service::default()
    };
    let on = |node: &str| NodeEndpoints { node: node.into(), pods: 1, near: 1 };
    let port = PortEndpoints {
        nodes: vec![on("here"), on("there")],
        local: vec![Arc::new(PodSlot::new(SocketAddr::from(POD), "".into()))],
        listed: 2,
        ..PortEndpoints::default()
    };
    let there = Node {
        name: "there".into(),
        addresses: vec![SocketAddr::from((OTHER_NODE, 4141))],
        zone: "".into(),
        ready: true,
        secure: false,
    };
    let neighbour = Neighbour {
        uid: "".into(),
        namespace: "demo".into(),
        name: "caller".into(),
        service_account: "default".into(),
    };
    let set = EndpointSet { ports: BTreeMap::from([("http".into(), port)]) };
    Snapshot {
        egress: Arc::new(Egress { is_open: true, ..Egress::default() }),
        version: 1,
        node: "here".into(),
        node_addresses: vec![IpAddr::from([10, 0, 0, 1])],
        cluster_domain: "cluster.local".into(),
        services: HashMap::from([("demo".into(), HashMap::from([("web".into(), Arc::new(service))]))]),
        endpoints: HashMap::from([("demo".into(), HashMap::from([("web".into(), Arc::new(set))]))]),
        nodes: HashMap::from([("there".into(), Arc::new(there))]),
        neighbours: HashMap::from([(IpAddr::from(CALLER), Arc::new(neighbour))]),
        ..Snapshot::default()
    }
}

struct World {
    core: Core,
    now: Time,
    /// Connections in the order in which they came about.
    open: Vec<ConnId>,
}

impl World {
    fn accept(&mut self, role: Role) {
        let ip = if role == Role::L1 { CALLER } else { OTHER_NODE };
        let local = SocketAddr::from(([10, 0, 0, 1], 4140));
        self.open.extend(self.core.accepted(role, SocketAddr::from((ip, 40_000)), local, self.now));
    }

    /// What a driver does: everything dialled stands at once, everything written is taken.
    fn drive(&mut self) {
        for _ in 0..64 {
            let (mut commands, mut dirty, mut ignored) = (Vec::new(), Vec::new(), Vec::new());
            self.core.take_commands(&mut commands);
            self.core.take_dirty(&mut dirty);
            self.core.take_resumed(&mut ignored);
            self.core.take_events(&mut Vec::new());
            if commands.is_empty() && dirty.is_empty() {
                return;
            }
            for id in dirty {
                let count = self.core.output(id).len();
                if count > 0 {
                    self.core.wrote(id, count, self.now);
                }
            }
            for command in commands {
                match command {
                    Command::Connect { id, .. } => {
                        self.open.push(id);
                        self.core.connected(id, SocketAddr::from(([10, 0, 0, 1], 40_001)), self.now);
                    }
                    Command::Close { id, .. } => self.open.retain(|one| *one != id),
                    Command::Resolve { names } => {
                        let found = vec![IpAddr::from(OUTSIDE)];
                        self.core.resolved(&names, Ok((found, Duration::from_secs(5))), self.now);
                    }
                    Command::ShutdownWrite { .. } => {}
                }
            }
        }
    }
}

fuzz_target!(|bytes: &[u8]| {
    let mut core = Core::new(CoreConfig::default(), 1);
    core.swap(Arc::new(snapshot()), Time(1));
    let mut world = World { core, now: Time(1), open: Vec::new() };
    let mut rest = bytes;
    while let [op, more @ ..] = rest {
        rest = more;
        let which = usize::from(op >> 3);
        let id = world.open.get(which % world.open.len().max(1)).copied();
        match (op & 7, id) {
            (0, _) => world.accept(Role::L1),
            (1, _) => world.accept(Role::L2),
            (2, _) => {
                world.now = world.now + Duration::from_millis(1 << (which % 16));
                world.core.fire(world.now, world.now);
            }
            (3, Some(id)) => world.core.ended(id, world.now),
            (4, Some(id)) => {
                world.open.retain(|one| *one != id);
                world.core.failed(id, ErrorKind::ConnectionReset, world.now);
            }
            (_, Some(id)) => {
                let [len, more @ ..] = rest else { break };
                let (part, more) = more.split_at(usize::from(*len).min(more.len()));
                rest = more;
                if world.core.wants_read(id) && !part.is_empty() {
                    world.core.received(id, part, world.now);
                }
            }
            (_, None) => {}
        }
        world.drive();
    }
    for _ in 0..1000 {
        let Some(id) = world.open.pop() else { break };
        world.core.failed(id, ErrorKind::ConnectionReset, world.now);
        world.drive();
    }
    for service in world.core.tally().services() {
        assert_eq!(service.open.get(), 0, "calls are left: {service:?}");
    }
});
