//! Slices of one Service → usable endpoints by port: each pod once, ready ones first, those meant for this node, local ones with their counter.

use std::collections::{BTreeMap, HashMap};
use std::net::{IpAddr, SocketAddr};
use std::sync::Arc;

use vicino_engine::snapshot::{EndpointSet, NamedPod, NodeEndpoints, PodSlot, PortEndpoints};

use crate::config::inputs::ServiceSlices;
use crate::config::slice::{Condition, Hints, SliceEndpoint};

type Slots = HashMap<(SocketAddr, Arc<str>), Arc<PodSlot>>;

/// What is dialled for one pod port.
#[derive(Clone, Debug, PartialEq, Eq)]
struct Candidate {
    address: SocketAddr,
    condition: Condition,
    node: Arc<str>,
    uid: Arc<str>,
    hostname: Box<str>,
    hints: Hints,
}

/// Where this proxy is.
#[derive(Clone, Copy, Debug)]
pub(super) struct Here<'a> {
    /// Name of the own node.
    pub(super) node: &'a str,
    /// Its zone; empty when unknown.
    pub(super) zone: &'a str,
}

impl Candidate {
    /// Whether this is to be preferred to another entry of the same pod: the better condition (while a pod moves from one
    /// slice to another, the older one may be behind), then IPv4, then the lower address. A total order, so that the order
    /// of slices does not matter.
    fn better_than(&self, other: &Self) -> bool {
        let rank =
            |c: &Self| (c.condition, c.address.is_ipv4(), std::cmp::Reverse(c.address), c.node.clone());
        rank(self) > rank(other)
    }
}

/// The endpoints of a Service, and how many were left out because their node is unknown.
pub(super) fn of_service(slices: &ServiceSlices, here: Here<'_>, slots: &mut Slots) -> (EndpointSet, u32) {
    let mut without_node = 0;
    let mut ports: BTreeMap<Arc<str>, HashMap<PodKey, Candidate>> = BTreeMap::new();
    for slice in slices.values() {
        for port in &slice.ports {
            let pods = ports.entry(Arc::from(&*port.name)).or_default();
            for endpoint in &slice.endpoints {
                if endpoint.node.is_empty() {
                    without_node += 1;
                    continue;
                }
                add(pods, endpoint, port.port);
            }
        }
    }
    let ports = ports.into_iter().map(|(name, pods)| (name, of_port(pods, here, slots))).collect();
    (EndpointSet { ports }, without_node)
}

/// One pod: by UID, so that its IPv4 and its IPv6 address are one; an endpoint without a pod by its address.
#[derive(Debug, PartialEq, Eq, Hash)]
enum PodKey {
    Uid(Arc<str>),
    Address(IpAddr),
}

fn add(pods: &mut HashMap<PodKey, Candidate>, endpoint: &SliceEndpoint, port: u16) {
    let key = match &*endpoint.uid {
        "" => PodKey::Address(endpoint.address),
        _ => PodKey::Uid(endpoint.uid.clone()),
    };
    let candidate = Candidate {
        address: SocketAddr::new(endpoint.address, port),
        condition: endpoint.condition,
        node: endpoint.node.clone(),
        uid: endpoint.uid.clone(),
        hostname: endpoint.hostname.clone(),
        hints: endpoint.hints.clone(),
    };
    match pods.entry(key) {
        std::collections::hash_map::Entry::Vacant(entry) => {
            entry.insert(candidate);
        }
        std::collections::hash_map::Entry::Occupied(mut entry) if candidate.better_than(entry.get()) => {
            entry.insert(candidate);
        }
        std::collections::hash_map::Entry::Occupied(_) => {}
    }
}

/// Which endpoints are meant for calls that begin here.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Reach {
    All,
    /// Those hinted for the own node.
    Node,
    /// Those hinted for the own zone.
    Zone,
}

/// As kube-proxy decides (KEP-2433, KEP-3015): hints count when every ready endpoint has them and at least one is meant for
/// here; the node's before the zone's. That is how a Service's `trafficDistribution` arrives. Else they all are meant.
fn reach<'a>(ready: &(impl Iterator<Item = &'a Hints> + Clone), here: Here<'_>) -> Reach {
    let is_meant = |pick: fn(&Hints) -> &[Box<str>], name: &str| {
        ready.clone().all(|hints| !pick(hints).is_empty())
            && ready.clone().any(|hints| pick(hints).iter().any(|one| **one == *name))
    };
    match () {
        () if is_meant(|hints| &hints.nodes, here.node) => Reach::Node,
        () if is_meant(|hints| &hints.zones, here.zone) => Reach::Zone,
        () => Reach::All,
    }
}

fn of_port(pods: HashMap<PodKey, Candidate>, here: Here<'_>, slots: &mut Slots) -> PortEndpoints {
    let listed = u32::try_from(pods.len()).unwrap_or(u32::MAX);
    let named = named(&pods);
    let best = pods.values().map(|pod| pod.condition).max().unwrap_or(Condition::Down);
    if best == Condition::Down {
        return PortEndpoints { listed, named, ..PortEndpoints::default() };
    }
    let usable = pods.values().filter(|pod| pod.condition == best);
    let reach = match best {
        Condition::Ready => reach(&usable.map(|pod| &pod.hints), here),
        // What still serves is taken where it is.
        Condition::Ending | Condition::Down => Reach::All,
    };
    let mut nodes: BTreeMap<Arc<str>, (u32, u32)> = BTreeMap::new();
    let mut local = Vec::new();
    for pod in pods.into_values().filter(|pod| pod.condition == best) {
        if &*pod.node == here.node {
            let slot = slots.entry((pod.address, pod.uid.clone()));
            local.push(slot.or_insert_with(|| Arc::new(PodSlot::new(pod.address, pod.uid.clone()))).clone());
        }
        let is_near = match reach {
            Reach::All => true,
            Reach::Node => pod.hints.nodes.iter().any(|node| **node == *here.node),
            Reach::Zone => pod.hints.zones.iter().any(|zone| **zone == *here.zone),
        };
        let (pods, near) = nodes.entry(pod.node).or_default();
        *pods += 1;
        *near += u32::from(is_near);
    }
    local.sort_by_key(|slot| slot.address);
    let nodes = nodes.into_iter().map(|(node, (pods, near))| NodeEndpoints { node, pods, near });
    PortEndpoints { nodes: nodes.collect(), local, listed, named, ..PortEndpoints::default() }
}

/// The pods that have a name of their own, by that; where two have the same, the better one.
fn named(pods: &HashMap<PodKey, Candidate>) -> BTreeMap<Arc<str>, NamedPod> {
    let mut named: BTreeMap<Arc<str>, &Candidate> = BTreeMap::new();
    for pod in pods.values().filter(|pod| !pod.hostname.is_empty()) {
        let place = named.entry(Arc::from(&*pod.hostname)).or_insert(pod);
        if pod.better_than(place) {
            *place = pod;
        }
    }
    let of = |pod: &Candidate| NamedPod {
        node: pod.node.clone(),
        address: pod.address.ip(),
        is_usable: pod.condition != Condition::Down,
    };
    named.into_iter().map(|(name, pod)| (name, of(pod))).collect()
}
