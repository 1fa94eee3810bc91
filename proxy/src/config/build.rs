//! Inputs → snapshot, pure; parts of the previous snapshot that would come out the same are taken over as they are.

use std::collections::hash_map::Entry;
use std::collections::{BTreeMap, BTreeSet, HashMap};
use std::net::{IpAddr, SocketAddr};
use std::sync::Arc;

use vicino_crds::contract::{
    Bootstrap, CompiledAlias, CompiledEgress, CompiledNode, CompiledPolicy, CompiledRoute,
};
use vicino_engine::snapshot::{EndpointSet, Neighbour, PodSlot, Service, ServiceName, Snapshot};

use super::bundle::Documents;
use super::document::Good;
use super::inputs::{Inputs, ServiceKey, ServiceSlices};

mod egress;
mod endpoints;
mod policy;
mod route;

pub use policy::selector;

/// A snapshot, and what it was made of, so that the next one costs only what changed.
#[derive(Debug, Default)]
pub struct Built {
    /// What the workers get.
    pub snapshot: Arc<Snapshot>,
    /// Endpoints that were left out, because the slice does not say on which node they run.
    pub without_node: u32,
    /// Zone of the own node, which says for which endpoints its calls are meant.
    zone: Arc<str>,
    services: HashMap<ServiceKey, (Arc<Good<CompiledRoute>>, Arc<Service>)>,
    endpoints: HashMap<ServiceKey, MadeEndpoints>,
    slots: HashMap<(SocketAddr, Arc<str>), Arc<PodSlot>>,
    policies: policy::Made,
}

#[derive(Debug)]
struct MadeEndpoints {
    from: ServiceSlices,
    set: Arc<EndpointSet>,
    without_node: u32,
}

/// Makes the next snapshot. The result depends on `inputs` alone; `previous` only makes it cheaper, and lends the counters
/// of pods that live on.
pub fn build(inputs: &Inputs, previous: &Built) -> Built {
    let identity = inputs.identity();
    let bootstrap = inputs.bootstrap().map(|good| &good.value);
    let mut built = Built { slots: previous.slots.clone(), ..Built::default() };
    let mut snapshot = Snapshot {
        version: previous.snapshot.version + 1,
        node: identity.node.clone(),
        cluster_domain: bootstrap.map_or_else(|| Arc::from(""), |b| Arc::from(&*b.cluster_domain)),
        trust_domain: bootstrap.map_or_else(|| Arc::from(""), |b| Arc::from(trust_domain(b))),
        is_strict: bootstrap.and_then(|b| b.identity.as_ref()).is_some_and(|identity| identity.strict),
        buckets: Arc::clone(&previous.snapshot.buckets),
        ..Snapshot::default()
    };
    let documents = newest(inputs);
    services(&documents.routes, previous, &mut built, &mut snapshot);
    endpoints(inputs, previous, &mut built, &mut snapshot);
    nodes(inputs, &documents.nodes, previous, &mut snapshot);
    neighbours(inputs, previous, &mut snapshot);
    built.policies = policy::policies(inputs, &documents.policies, &previous.policies);
    snapshot.policies = built.policies.all.clone();
    snapshot.egress = egress::egress(inputs, &documents, &previous.snapshot.egress);
    // A counter that no snapshot and no call holds any more reads 0, so nobody can tell a new one from it.
    built.slots.retain(|key, slot| {
        let in_tables = 1 + usize::from(previous.slots.contains_key(key));
        Arc::strong_count(slot) > in_tables
    });
    built.snapshot = Arc::new(snapshot);
    built
}

/// The routes in force.
pub fn routes(inputs: &Inputs) -> impl Iterator<Item = &CompiledRoute> {
    newest(inputs).routes.into_values().map(|good| &good.value)
}

/// An operator that says none means the cluster's.
fn trust_domain(bootstrap: &Bootstrap) -> &str {
    bootstrap.identity.as_ref().map_or(&bootstrap.cluster_domain, |identity| &identity.trust_domain)
}

struct Newest<'a> {
    routes: BTreeMap<(&'a str, &'a str), &'a Arc<Good<CompiledRoute>>>,
    policies: BTreeMap<(&'a str, &'a str), &'a Arc<Good<CompiledPolicy>>>,
    egress: Option<&'a Arc<Good<CompiledEgress>>>,
    nodes: BTreeMap<&'a str, &'a Arc<Good<CompiledNode>>>,
}

/// One document per Service, policy and node. While the operator moves one to another ConfigMap both have it: the higher generation
/// wins, then the later name.
fn newest(inputs: &Inputs) -> Newest<'_> {
    let mut all =
        Newest { routes: BTreeMap::new(), policies: BTreeMap::new(), egress: None, nodes: BTreeMap::new() };
    for bundle in inputs.bundles().values() {
        match &bundle.documents {
            Documents::Routes(slots) => {
                for good in slots.values().filter_map(|slot| slot.good()) {
                    let key = (&*good.value.namespace, &*good.value.service);
                    let older =
                        all.routes.get(&key).is_some_and(|o| o.value.generation > good.value.generation);
                    if !older {
                        all.routes.insert(key, good);
                    }
                }
            }
            Documents::Policies(slots) => {
                for good in slots.values().filter_map(|slot| slot.good()) {
                    let key = (&*good.value.namespace, &*good.value.name);
                    let older =
                        all.policies.get(&key).is_some_and(|o| o.value.generation > good.value.generation);
                    if !older {
                        all.policies.insert(key, good);
                    }
                }
            }
            Documents::Egress(slots) => {
                let mut goods = slots.values().filter_map(|slot| slot.good());
                all.egress = goods.next_back().or(all.egress);
            }
            Documents::Nodes(slots) => {
                let goods = slots.values().filter_map(|slot| slot.good());
                all.nodes.extend(goods.map(|good| (&*good.value.name, good)));
            }
        }
    }
    all
}

fn services(
    routes: &BTreeMap<(&str, &str), &Arc<Good<CompiledRoute>>>,
    previous: &Built,
    built: &mut Built,
    snapshot: &mut Snapshot,
) {
    for ((namespace, name), good) in routes {
        if let Some(CompiledAlias { namespace: of, service }) = &good.value.alias {
            let to = ServiceName { namespace: Arc::from(&**of), name: Arc::from(&**service) };
            let of_namespace = snapshot.aliases.entry(Arc::from(*namespace)).or_default();
            of_namespace.insert(Arc::from(*name), to);
            continue;
        }
        let key: ServiceKey = ((*namespace).into(), (*name).into());
        let service = match previous.services.get(&key) {
            Some((from, service)) if Arc::ptr_eq(from, good) => service.clone(),
            _ => Arc::new(route::service(&good.value)),
        };
        let names = &service.name;
        let ips = good.value.cluster_ips.iter().filter_map(|ip| ip.parse().ok());
        snapshot.cluster_ips.extend(ips.map(|ip| (ip, names.clone())));
        let of_namespace = snapshot.services.entry(names.namespace.clone()).or_default();
        of_namespace.insert(names.name.clone(), service.clone());
        built.services.insert(key, ((*good).clone(), service));
    }
}

fn endpoints(inputs: &Inputs, previous: &Built, built: &mut Built, snapshot: &mut Snapshot) {
    built.zone = inputs.mesh_node().map_or_else(|| Arc::from(""), |node| Arc::from(&*node.spec.zone));
    let is_same_zone = built.zone == previous.zone;
    for (key, slices) in inputs.services().iter().filter(|((_, service), _)| !service.is_empty()) {
        let made = match previous.endpoints.get(key) {
            Some(made) if is_same_zone && Arc::ptr_eq(&made.from, slices) => {
                MadeEndpoints { from: slices.clone(), set: made.set.clone(), without_node: made.without_node }
            }
            _ => {
                let here = endpoints::Here { node: &inputs.identity().node, zone: &built.zone };
                let (mut set, without_node) = endpoints::of_service(slices, here, &mut built.slots);
                if let Some(before) = previous.endpoints.get(key) {
                    keep_queues(&mut set, &before.set);
                }
                MadeEndpoints { from: slices.clone(), set: Arc::new(set), without_node }
            }
        };
        built.without_node += made.without_node;
        let (namespace, name) = known_names(snapshot, key);
        snapshot.endpoints.entry(namespace).or_default().insert(name, made.set.clone());
        built.endpoints.insert(key.clone(), made);
    }
}

/// Whoever waits in line goes on waiting there.
fn keep_queues(set: &mut EndpointSet, before: &EndpointSet) {
    for (name, port) in &mut set.ports {
        if let Some(before) = before.ports.get(name) {
            port.queue = Arc::clone(&before.queue);
        }
    }
}

/// The names as the route already holds them, so that they lie in memory once.
fn known_names(snapshot: &Snapshot, (namespace, name): &ServiceKey) -> (Arc<str>, Arc<str>) {
    match snapshot.service(namespace, name) {
        Some(service) => (service.name.namespace.clone(), service.name.name.clone()),
        None => match snapshot.endpoints.get_key_value(&**namespace) {
            Some((known, _)) => (known.clone(), Arc::from(&**name)),
            None => (Arc::from(&**namespace), Arc::from(&**name)),
        },
    }
}

fn nodes(
    inputs: &Inputs,
    documents: &BTreeMap<&str, &Arc<Good<CompiledNode>>>,
    previous: &Built,
    snapshot: &mut Snapshot,
) {
    let own = inputs.identity().node.clone();
    let mesh_node = inputs.mesh_node();
    snapshot.node_addresses = mesh_node.map(|n| addresses(&n.spec.addresses)).unwrap_or_default();
    for (name, good) in documents {
        let node = route::node(&good.value);
        if *name == &*own {
            let more = node.addresses.iter().map(SocketAddr::ip);
            let new: Vec<IpAddr> = more.filter(|ip| !snapshot.node_addresses.contains(ip)).collect();
            snapshot.node_addresses.extend(new);
        } else {
            snapshot
                .foreign_addresses
                .extend(node.addresses.iter().map(|address| (address.ip(), node.name.clone())));
        }
        let node = match previous.snapshot.nodes.get(*name) {
            Some(before) if **before == node => before.clone(),
            _ => Arc::new(node),
        };
        snapshot.nodes.insert(node.name.clone(), node);
    }
}

fn neighbours(inputs: &Inputs, previous: &Built, snapshot: &mut Snapshot) {
    let Some(mesh_node) = inputs.mesh_node() else { return };
    let mut doubtful = BTreeSet::new();
    // The one whose network is younger comes later, and so do, of two that don't say, those that sort last; the order in which they are listed does not matter.
    let mut pods: Vec<_> = mesh_node.spec.pods.iter().collect();
    pods.sort_by_key(|pod| (&pod.network_since, &pod.uid));
    for pod in pods {
        let ips = addresses(&pod.ips);
        let neighbour = Neighbour {
            uid: Arc::from(&*pod.uid),
            namespace: Arc::from(&*pod.namespace),
            name: Arc::from(&*pod.name),
            service_account: Arc::from(&*pod.service_account),
        };
        let before = ips.first().and_then(|ip| previous.snapshot.neighbours.get(ip));
        let neighbour = match before {
            Some(before) if **before == neighbour => before.clone(),
            _ => Arc::new(neighbour),
        };
        for ip in ips {
            // Two pods with one address: one has ended, and the operator has not heard yet.
            match snapshot.neighbours.entry(ip) {
                Entry::Vacant(entry) => {
                    entry.insert(neighbour.clone());
                }
                Entry::Occupied(mut entry) => {
                    let is_same = |other: &Neighbour| {
                        (&other.namespace, &other.service_account)
                            == (&neighbour.namespace, &neighbour.service_account)
                    };
                    doubtful.extend((!is_same(entry.get())).then_some(ip));
                    entry.insert(neighbour.clone());
                }
            }
        }
    }
    // Whose it is will be known soon; until then it is nobody's, rather than that of the pod that had it. And no pod has its node's.
    let Snapshot { neighbours, node_addresses, .. } = snapshot;
    neighbours.retain(|ip, _| !doubtful.contains(ip) && !node_addresses.contains(ip));
}

fn addresses(texts: &[String]) -> Vec<IpAddr> {
    texts.iter().filter_map(|text| text.parse().ok()).collect()
}

#[cfg(test)]
mod tests;
