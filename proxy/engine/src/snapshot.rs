//! The one immutable picture that a request is served by: Services, endpoints, neighbourhoods, neighbours; plain data, swapped whole.

use std::collections::{BTreeMap, HashMap};
use std::net::{IpAddr, SocketAddr};
use std::sync::Arc;
use std::sync::atomic::{AtomicU32, Ordering};

use crate::adaptive::{Adaptive, AdaptiveLimit};
use crate::affinity::Affinity;
use crate::balance::Algorithm;
use crate::breaker::{Breaker, Health};
use crate::egress::Egress;
use crate::latency::SharedLatency;
use crate::policy::Policies;
use crate::queue::Queue;
use crate::rate::{Buckets, RateLimit};
use crate::retry::{Hedge, Retry};
use crate::rules::{HeaderEdit, Rules};

/// A name that stands for one that stands for another, and so on, is followed so far, as resolvers of DNS do with CNAME.
const ALIASES_MAX: usize = 8;

/// Name of a Service with its namespace.
#[derive(Clone, Debug, Default, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct ServiceName {
    /// Namespace of the Service.
    pub namespace: Arc<str>,
    /// Name of the Service.
    pub name: Arc<str>,
}

/// Everything that a request can ask for. Built off the workers, shared by them, never changed.
#[derive(Debug, Default)]
pub struct Snapshot {
    /// Grows by one with every swap in this process.
    pub version: u64,
    /// Name of the own node; empty in a snapshot that has not heard of it yet.
    pub node: Arc<str>,
    /// Addresses of the own node.
    pub node_addresses: Vec<IpAddr>,
    /// DNS domain of the cluster, for example `cluster.local`.
    pub cluster_domain: Arc<str>,
    /// Trust domain of the mesh's identities.
    pub trust_domain: Arc<str>,
    /// Hops without TLS are neither made nor taken.
    pub is_strict: bool,
    /// Routes by namespace, then Service name (two levels, so that a lookup needs no allocation).
    pub services: HashMap<Arc<str>, HashMap<Arc<str>, Arc<Service>>>,
    /// Services that others are another name for (type ExternalName), by namespace, then name.
    pub aliases: HashMap<Arc<str>, HashMap<Arc<str>, ServiceName>>,
    /// Endpoints by namespace, then Service name.
    pub endpoints: HashMap<Arc<str>, HashMap<Arc<str>, Arc<EndpointSet>>>,
    /// The other neighbourhoods and the own one, by name.
    pub nodes: HashMap<Arc<str>, Arc<Node>>,
    /// The pods of the own neighbourhood by address: who may call L1, and as whom.
    pub neighbours: HashMap<IpAddr, Arc<Neighbour>>,
    /// Addresses of every other node, to tell a foreign caller at once.
    pub foreign_addresses: HashMap<IpAddr, Arc<str>>,
    /// What limits have let through so far. The same object in all snapshots of a process.
    pub buckets: Arc<Buckets>,
    /// Who may call what.
    pub policies: Arc<Policies>,
    /// What may be called outside the mesh.
    pub egress: Arc<Egress>,
    /// Services by cluster IP, for calls that name one instead of a Service.
    pub cluster_ips: HashMap<IpAddr, ServiceName>,
}

/// A compiled route.
#[derive(Debug, Default, PartialEq)]
pub struct Service {
    /// Whose route this is.
    pub name: ServiceName,
    /// Ports that may be called.
    pub ports: Vec<ServicePort>,
    /// How long things may take.
    pub times: Times,
    /// How often a call of which nothing was sent to an application may be placed again.
    pub requeues: u32,
    /// Which calls are repeated; None: none.
    pub retry: Option<Retry>,
    /// Which calls are sent once more when their answer takes long; None: none.
    pub hedge: Option<Hedge>,
    /// Which calls go to the same pod; None: each goes where there is room.
    pub affinity: Option<Affinity>,
    /// A pod that has more calls than this percentage of the average has no further ones by affinity; 0: whatever it has.
    pub affinity_load_percent: u32,
    /// By what its nodes and pods are chosen.
    pub algorithm: Algorithm,
    /// How many calls its pods take at a time; None: as many as come.
    pub concurrency: Option<Concurrency>,
    /// How many calls a second each node lets through to it; None: all.
    pub rate_limit: Option<RateLimit>,
    /// When its pods are left out; None: never.
    pub breaker: Option<Breaker>,
    /// What some of the calls get instead.
    pub rules: Rules,
    /// Its pods take nothing over hops without TLS, whatever the mesh says.
    pub is_strict: bool,
}

/// How long things may take, in nanoseconds; 0 is no limit, but for connections.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Times {
    /// For a connection to open.
    pub connect_ns: u64,
    /// From head to the end of the response.
    pub request_ns: u64,
    /// Without anything of the call from either side, also in tunnels and after a switch of protocols.
    pub idle_ns: u64,
}

/// How many calls a pod takes at a time, and how the others wait, on the pod's node.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Concurrency {
    /// Calls that one pod has at most.
    pub per_pod: u32,
    /// Calls that wait on one node for one port of the Service.
    pub queue_length: u32,
    /// Nanoseconds that a call waits there.
    pub queue_timeout_ns: u64,
    /// Nanoseconds that a call waits once there has been a line for as long as `queue_timeout_ns`; 0: as ever.
    pub standing_timeout_ns: u64,
    /// Each pod's limit is found out, between a least one and `per_pod`; None: it is `per_pod`.
    pub adaptive: Option<Adaptive>,
}

/// A port of a Service.
#[derive(Debug, Default, PartialEq)]
pub struct ServicePort {
    /// The Service's port number.
    pub port: u16,
    /// What is spoken on it.
    pub protocol: Protocol,
    /// Where calls go; weights not all 0.
    pub backends: Vec<Backend>,
    /// Where calls go that ask for it themselves, by `vicino-route`; of weight 0.
    pub overrides: Vec<Backend>,
    /// Where calls that fall under a rule go, for each rule of the route.
    pub of_rules: Vec<RuleBackends>,
}

impl ServicePort {
    /// Every backend that calls to this port may go to.
    pub fn all_backends(&self) -> impl Iterator<Item = &Backend> {
        let of_rules = self.of_rules.iter().flat_map(|rule| rule.backends.iter().chain(&rule.mirror));
        self.backends.iter().chain(&self.overrides).chain(of_rules)
    }
}

/// Where calls that fall under a rule go.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct RuleBackends {
    /// Weights not all 0; empty when the rule answers by itself.
    pub backends: Vec<Backend>,
    /// Where copies go.
    pub mirror: Option<Backend>,
}

/// What is spoken on a port.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Protocol {
    /// HTTP, in the version that the caller speaks.
    #[default]
    Http,
    /// HTTP/1.1.
    Http1,
    /// HTTP/2 with prior knowledge.
    Http2,
    /// Something else: a tunnel to it is passed through without a look at its first bytes.
    Opaque,
}

/// Pods behind one port of one Service.
#[derive(Clone, Debug, PartialEq)]
pub struct Backend {
    /// The Service whose endpoints are meant.
    pub service: ServiceName,
    /// Its port number.
    pub port: u16,
    /// Name of that port in EndpointSlices; empty when unnamed.
    pub port_name: Arc<str>,
    /// Relative share.
    pub weight: u32,
    /// Only pods of the own node are meant (`internalTrafficPolicy: Local`).
    pub is_node_local: bool,
    /// What changes in heads of calls that go there.
    pub edits: Option<Arc<Edits>>,
}

/// Changes to heads on the way to one backend and back.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Edits {
    /// To the request's.
    pub request: HeaderEdit,
    /// To the response's.
    pub response: HeaderEdit,
}

/// Endpoints of all ports of one Service.
#[derive(Debug, Default, PartialEq)]
pub struct EndpointSet {
    /// By port name.
    pub ports: BTreeMap<Arc<str>, PortEndpoints>,
}

/// Usable endpoints of one Service port: the ready ones, or, while there is none, those that still serve while they
/// terminate (as kube-proxy does, KEP-1669).
#[derive(Debug, Default, PartialEq)]
pub struct PortEndpoints {
    /// Nodes that have usable endpoints, in order of name. Includes the own node.
    pub nodes: Vec<NodeEndpoints>,
    /// Usable pods of the own node, in order of address.
    pub local: Vec<Arc<PodSlot>>,
    /// Pods that can be called by a name of their own, as those of a StatefulSet, usable or not.
    pub named: BTreeMap<Arc<str>, NamedPod>,
    /// All endpoints that the slices list, for error messages.
    pub listed: u32,
    /// Calls that wait for one of the local pods, when these have a limit. The same object while the port lives.
    pub queue: Arc<Queue>,
}

/// A pod with a name of its own within its Service.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct NamedPod {
    /// Name of its node.
    pub node: Arc<str>,
    /// Its address.
    pub address: IpAddr,
    /// Whether it may be called.
    pub is_usable: bool,
}

/// How many usable pods a node has.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct NodeEndpoints {
    /// Name of the node.
    pub node: Arc<str>,
    /// Usable pods there, at least 1.
    pub pods: u32,
    /// Those of them that are meant for calls that begin here (`hints` of EndpointSlices); as many as `pods` where nothing
    /// is said. Calls go elsewhere only when no node that has such pods can take them.
    pub near: u32,
}

/// One pod port of the own node. The same object lives on through snapshots while the pod does, so that its count stays exact.
#[derive(Debug)]
pub struct PodSlot {
    /// Where it is dialled.
    pub address: SocketAddr,
    /// UID of the pod: an address that is reused is another slot. Empty when the slice does not name the pod.
    pub uid: Arc<str>,
    /// Calls that this proxy, all workers together, has open to it.
    in_flight: AtomicU32,
    /// How its calls went.
    pub(crate) health: Health,
    /// How long they took.
    pub(crate) latency: SharedLatency,
    /// How many it takes, where that is found out.
    pub(crate) adaptive: AdaptiveLimit,
}

impl PodSlot {
    /// A slot with nothing in flight.
    pub fn new(address: SocketAddr, uid: Arc<str>) -> Self {
        Self {
            address,
            uid,
            in_flight: AtomicU32::new(0),
            health: Health::default(),
            latency: SharedLatency::default(),
            adaptive: AdaptiveLimit::default(),
        }
    }

    /// Calls in flight now.
    pub fn in_flight(&self) -> u32 {
        self.in_flight.load(Ordering::SeqCst)
    }

    /// Counts a call in; the caller owes one [`PodSlot::release`].
    pub fn acquire(&self) {
        self.in_flight.fetch_add(1, Ordering::SeqCst);
    }

    /// Counts a call in when fewer than `limit` are. False: it was not counted.
    pub fn acquire_below(&self, limit: u32) -> bool {
        let more = |count: u32| (count < limit).then_some(count + 1);
        self.in_flight.fetch_update(Ordering::SeqCst, Ordering::SeqCst, more).is_ok()
    }

    /// Counts a call out.
    pub fn release(&self) {
        let before = self.in_flight.fetch_sub(1, Ordering::SeqCst);
        debug_assert!(before > 0, "every release follows an acquire");
    }
}

impl PartialEq for PodSlot {
    fn eq(&self, other: &Self) -> bool {
        self.address == other.address && self.uid == other.uid
    }
}

/// A neighbourhood.
#[derive(Debug, PartialEq)]
pub struct Node {
    /// Name of the node.
    pub name: Arc<str>,
    /// Where its L2 listens, in order of preference.
    pub addresses: Vec<SocketAddr>,
    /// Zone; empty when unknown.
    pub zone: Arc<str>,
    /// Whether its proxy is ready.
    pub ready: bool,
    /// Whether its L2 takes TLS.
    pub secure: bool,
}

/// A pod of the own neighbourhood.
#[derive(Debug, PartialEq)]
pub struct Neighbour {
    /// UID of the pod.
    pub uid: Arc<str>,
    /// Namespace: short names resolve there.
    pub namespace: Arc<str>,
    /// Name of the pod.
    pub name: Arc<str>,
    /// Service account that it runs as.
    pub service_account: Arc<str>,
}

impl Snapshot {
    /// The route of a Service.
    pub fn service(&self, namespace: &str, name: &str) -> Option<&Arc<Service>> {
        self.services.get(namespace)?.get(name)
    }

    /// The route that calls to a name get: the Service's of that name, or of the one that it is another name for.
    pub fn service_or_alias(&self, namespace: &str, name: &str) -> Option<&Arc<Service>> {
        let (mut namespace, mut name) = (namespace, name);
        for _ in 0..=ALIASES_MAX {
            if let Some(service) = self.service(namespace, name) {
                return Some(service);
            }
            let alias = self.alias(namespace, name)?;
            (namespace, name) = (&alias.namespace, &alias.name);
        }
        None
    }

    /// The node that has an address, as far as that is known.
    pub fn node_at(&self, address: IpAddr) -> Option<&Arc<str>> {
        let own = || self.node_addresses.contains(&address).then_some(&self.node);
        self.foreign_addresses.get(&address).or_else(own)
    }

    /// The Service that one of this name is another name for.
    pub fn alias(&self, namespace: &str, name: &str) -> Option<&ServiceName> {
        self.aliases.get(namespace)?.get(name)
    }

    /// Whether a Service has a route, or is a backend of one.
    pub fn carries(&self, namespace: &str, name: &str) -> bool {
        let is_it =
            |backend: &Backend| *backend.service.name == *name && *backend.service.namespace == *namespace;
        let names_it = |services: &HashMap<Arc<str>, Arc<Service>>| {
            services.values().flat_map(|service| &service.ports).any(|port| port.all_backends().any(is_it))
        };
        let own = self.services.get(namespace);
        // Most are found at once; the others are looked for once under each snapshot.
        own.is_some_and(|services| services.contains_key(name) || names_it(services))
            || self.services.values().any(names_it)
    }

    /// The number of a Service's port of this name in EndpointSlices, as far as a route says it.
    pub fn port_number(&self, namespace: &str, name: &str, port_name: &str) -> Option<u16> {
        let is_it = |backend: &&Backend| {
            *backend.service.name == *name
                && *backend.service.namespace == *namespace
                && *backend.port_name == *port_name
        };
        let of = |service: &Arc<Service>| {
            service.ports.iter().flat_map(ServicePort::all_backends).find(is_it).map(|backend| backend.port)
        };
        let own = self.service(namespace, name).and_then(of);
        own.or_else(|| self.services.values().flat_map(HashMap::values).find_map(of))
    }

    /// Usable endpoints of one port of a Service.
    pub fn endpoints(&self, namespace: &str, service: &str, port_name: &str) -> Option<&PortEndpoints> {
        self.endpoints.get(namespace)?.get(service)?.ports.get(port_name)
    }
}
