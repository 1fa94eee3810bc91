//! What the cores are told of the simulated cluster, and its addresses.

use std::collections::{BTreeMap, BTreeSet, HashMap};
use std::net::{IpAddr, SocketAddr};
use std::sync::Arc;
use std::time::Duration;

use super::{L2_PORT, Listener, World};
use crate::affinity::Affinity;
use crate::balance::Algorithm;
use crate::breaker::Breaker;
use crate::egress::Egress;
use crate::policy::Policies;
use crate::rate::{Buckets, RateLimit};
use crate::retry::{Hedge, Retry};
use crate::rules::Rules;
use crate::snapshot::{
    Backend, Concurrency, Edits, EndpointSet, NamedPod, Neighbour, Node, NodeEndpoints, PodSlot,
    PortEndpoints, Protocol, RuleBackends, Service, ServiceName, ServicePort, Snapshot, Times,
};

/// Services and their weights.
pub(crate) type Weighted = Vec<(String, u32)>;

/// What the cores are told of the cluster; [`World::publish`] makes snapshots of it.
#[derive(Clone, Debug)]
pub(crate) struct SnapshotSpec {
    pub(crate) version: u64,
    /// Service → port's backends (Service, weight). All in namespace `demo`, port 80.
    pub(crate) services: BTreeMap<String, Weighted>,
    /// Service → its rules, and the backends of each.
    pub(crate) rules: BTreeMap<String, (Rules, Vec<Weighted>)>,
    /// Service → pods: node, address.
    pub(crate) endpoints: BTreeMap<String, Vec<(usize, SocketAddr)>>,
    /// Callers: node, address.
    pub(crate) callers: Vec<(usize, IpAddr)>,
    /// UID and service account of callers that are not of UID "" and `default`.
    pub(crate) pods: BTreeMap<IpAddr, (String, String)>,
    /// Who may call what.
    pub(crate) policies: Arc<Policies>,
    /// What may be called outside.
    pub(crate) egress: Arc<Egress>,
    /// Services take nothing over hops without TLS.
    pub(crate) is_strict: bool,
    /// Nodes whose L2 takes TLS.
    pub(crate) secure: BTreeSet<usize>,
    pub(crate) not_ready: BTreeSet<usize>,
    /// Services whose endpoints are meant for callers of these nodes; of others, all are meant for all.
    pub(crate) near: BTreeMap<String, BTreeSet<usize>>,
    /// Services that speak no HTTP.
    pub(crate) protocols: BTreeMap<String, Protocol>,
    /// Services with `internalTrafficPolicy: Local`.
    pub(crate) node_local: BTreeSet<String>,
    /// Cores that are workers of another node's proxy: they share its pods and their counts.
    pub(crate) twins: BTreeMap<usize, usize>,
    /// Nodes whose L2 listens elsewhere.
    pub(crate) l2_ports: BTreeMap<usize, u16>,
    pub(crate) request_timeout: Duration,
    pub(crate) idle_timeout: Duration,
    pub(crate) connect_timeout: Duration,
    pub(crate) requeues: u32,
    pub(crate) retry: Option<Retry>,
    pub(crate) concurrency: Option<Concurrency>,
    pub(crate) breaker: Option<Breaker>,
    pub(crate) rate_limit: Option<RateLimit>,
    pub(crate) buckets: BTreeMap<usize, Arc<Buckets>>,
    pub(crate) affinity: Option<Affinity>,
    pub(crate) affinity_load_percent: u32,
    pub(crate) algorithm: Algorithm,
    pub(crate) hedge: Option<Hedge>,
    /// Changes to heads, by backend.
    pub(crate) edits: BTreeMap<String, Arc<Edits>>,
    /// What calls to any Service may ask for.
    pub(crate) overrides: Weighted,
    /// Where every rule of a Service sends copies.
    pub(crate) mirrors: BTreeMap<String, String>,
}

pub(crate) fn node_name(node: usize) -> String {
    format!("node-{node}")
}

pub(crate) fn node_ip(node: usize) -> IpAddr {
    IpAddr::from([10, 0, 0, node as u8 + 1])
}

/// The address of pod number `i` of a node.
pub(crate) fn pod_address(node: usize, i: u8) -> SocketAddr {
    SocketAddr::from(([10, 1, node as u8, i], 8080))
}

/// The address of a caller of a node.
pub(crate) fn caller_ip(node: usize) -> IpAddr {
    IpAddr::from([10, 1, node as u8, 200])
}

fn services(spec: &SnapshotSpec) -> HashMap<Arc<str>, Arc<Service>> {
    let name = |name: &str| ServiceName { namespace: "demo".into(), name: name.into() };
    let backends = |all: &[(String, u32)]| {
        let backend = |(to, weight): &(String, u32)| Backend {
            service: name(to),
            port: 80,
            port_name: "http".into(),
            weight: *weight,
            is_node_local: spec.node_local.contains(to),
            edits: spec.edits.get(to).cloned(),
        };
        all.iter().map(backend).collect::<Vec<_>>()
    };
    let service = |(service, all): (&String, &Weighted)| {
        let (rules, of_rules) = spec.rules.get(service).cloned().unwrap_or_default();
        let mirror = spec.mirrors.get(service).map(|to| backends(&[(to.clone(), 1)]).remove(0));
        let of_rule = |all: &Weighted| RuleBackends { backends: backends(all), mirror: mirror.clone() };
        let of_rules = of_rules.iter().map(of_rule).collect();
        let service = Service {
            name: name(service),
            ports: vec![ServicePort {
                port: 80,
                protocol: spec.protocols.get(service).copied().unwrap_or_default(),
                backends: backends(all),
                of_rules,
                overrides: backends(&spec.overrides),
            }],
            rules,
            retry: spec.retry.clone(),
            hedge: spec.hedge,
            concurrency: spec.concurrency,
            affinity: spec.affinity.clone(),
            affinity_load_percent: spec.affinity_load_percent,
            algorithm: spec.algorithm,
            rate_limit: spec.rate_limit.clone(),
            breaker: spec.breaker.clone(),
            times: Times {
                connect_ns: spec.connect_timeout.as_nanos() as u64,
                request_ns: spec.request_timeout.as_nanos() as u64,
                idle_ns: spec.idle_timeout.as_nanos() as u64,
            },
            requeues: spec.requeues,
            is_strict: spec.is_strict,
        };
        (Arc::clone(&service.name.name), Arc::new(service))
    };
    spec.services.iter().map(service).collect()
}

fn neighbours(spec: &SnapshotSpec, own: usize) -> HashMap<IpAddr, Arc<Neighbour>> {
    let of_node = spec.callers.iter().filter(|(node, _)| *node == own);
    let neighbour = |(_, ip): &(usize, IpAddr)| {
        let (uid, account) = spec.pods.get(ip).map_or(("", "default"), |(uid, of)| (uid, of));
        let pod = Neighbour {
            uid: uid.into(),
            namespace: "demo".into(),
            name: "caller".into(),
            service_account: account.into(),
        };
        (*ip, Arc::new(pod))
    };
    of_node.map(neighbour).collect()
}

impl World {
    /// Adds a pod that serves `service`, which is made when there is none.
    pub(crate) fn pod(&mut self, service: &str, node: usize, i: u8) -> SocketAddr {
        let address = pod_address(node, i);
        self.listeners.insert(address, Listener::Pod);
        self.snapshot.endpoints.entry(service.to_owned()).or_default().push((node, address));
        let backends = vec![(service.to_owned(), 1)];
        self.snapshot.services.entry(service.to_owned()).or_insert(backends);
        address
    }

    /// Gives all cores the snapshot of now.
    pub(crate) fn publish(&mut self) {
        self.publish_to(0..self.nodes.len());
    }

    /// Gives some cores the snapshot of now; the others go on with what they have.
    pub(crate) fn publish_to(&mut self, nodes: impl IntoIterator<Item = usize>) {
        self.snapshot.version += 1;
        for node in nodes {
            let snapshot = self.snapshot_of(node);
            let now = self.now;
            self.nodes[node].core.swap(Arc::new(snapshot), now);
            self.turn(node);
        }
    }

    fn snapshot_of(&mut self, own: usize) -> Snapshot {
        let spec = self.snapshot.clone();
        let namespace: Arc<str> = "demo".into();
        let place = spec.twins.get(&own).copied().unwrap_or(own);
        let buckets = Arc::clone(self.snapshot.buckets.entry(own).or_default());
        let mut snapshot = Snapshot {
            buckets,
            version: spec.version,
            node: node_name(place).into(),
            node_addresses: vec![node_ip(place)],
            cluster_domain: "cluster.local".into(),
            trust_domain: "cluster.local".into(),
            policies: Arc::clone(&spec.policies),
            egress: Arc::clone(&spec.egress),
            ..Snapshot::default()
        };
        snapshot.services.insert(Arc::clone(&namespace), services(&spec));
        let sets = snapshot.endpoints.entry(namespace).or_default();
        for (service, pods) in &spec.endpoints {
            let queue = self.queues.entry((place, service.clone())).or_default();
            let queue = Arc::clone(queue);
            let mut port = PortEndpoints { listed: pods.len() as u32, queue, ..PortEndpoints::default() };
            for node in 0..self.nodes.len() {
                let count = pods.iter().filter(|(n, _)| *n == node).count() as u32;
                if count > 0 {
                    let is_near = spec.near.get(service).is_none_or(|near| near.contains(&node));
                    let near = if is_near { count } else { 0 };
                    port.nodes.push(NodeEndpoints { node: node_name(node).into(), pods: count, near });
                }
            }
            // As a StatefulSet names its pods.
            port.named = (0..)
                .zip(pods)
                .map(|(i, (node, address))| {
                    let at =
                        NamedPod { node: node_name(*node).into(), address: address.ip(), is_usable: true };
                    (format!("{service}-{i}").into(), at)
                })
                .collect();
            for (_, address) in pods.iter().filter(|(node, _)| *node == place) {
                let new = || Arc::new(PodSlot::new(*address, "".into()));
                port.local.push(Arc::clone(self.slots.entry(*address).or_insert_with(new)));
            }
            sets.insert(
                service.as_str().into(),
                Arc::new(EndpointSet { ports: [("http".into(), port)].into() }),
            );
        }
        for node in 0..self.nodes.len() {
            let ip = node_ip(node);
            let port = spec.l2_ports.get(&node).copied().unwrap_or(L2_PORT);
            let addresses = vec![SocketAddr::new(ip, port)];
            let ready = !spec.not_ready.contains(&node);
            let name: Arc<str> = node_name(node).into();
            let known = Node {
                name: Arc::clone(&name),
                addresses,
                zone: "".into(),
                ready,
                secure: spec.secure.contains(&node),
            };
            snapshot.nodes.insert(Arc::clone(&name), Arc::new(known));
            if node != place {
                snapshot.foreign_addresses.insert(ip, name);
            }
        }
        snapshot.neighbours = neighbours(&spec, own);
        snapshot
    }
}
