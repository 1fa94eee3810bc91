//! One MeshNode for each node of a mesh, with the pods that live there.

use std::collections::BTreeMap;

use vicino_crds::MeshNodeSpec;
use vicino_crds::node::Neighbour;

use super::Rendered;
use crate::validate::AcceptedMesh;
use crate::world::{Body, Key, Kind, World};

/// The label by which a node says its zone.
pub(super) const LABEL_ZONE: &str = "topology.kubernetes.io/zone";

/// Pods with addresses of their own, by the node that they are bound to, sorted by UID.
pub(super) fn by_node(world: &World) -> BTreeMap<&str, Vec<Neighbour>> {
    let mut nodes: BTreeMap<&str, Vec<Neighbour>> = BTreeMap::new();
    for (key, row) in world.pods.iter().filter(|(_, row)| !row.value.ips.is_empty()) {
        let is_meshed = is_meshed(world, &key.namespace);
        // A pod that policies cannot select is not to be taken for one that they do not select.
        if is_meshed && row.value.labels_problem.is_some() {
            continue;
        }
        nodes.entry(&row.value.node).or_default().push(Neighbour {
            uid: row.uid.clone(),
            namespace: key.namespace.clone(),
            name: key.name.clone(),
            service_account: row.value.service_account.clone(),
            ips: row.value.ips.clone(),
            labels: if is_meshed { row.value.labels.clone() } else { BTreeMap::new() },
            inbound: None,
            plain_ports: row.value.plain_ports.ports.clone(),
            plain_ports_problem: row.value.plain_ports.problem.clone(),
            network_since: row.value.network_since.clone(),
        });
    }
    for pods in nodes.values_mut() {
        pods.sort();
    }
    nodes
}

/// Whether policies of a namespace, which are about its own pods, can be in force.
fn is_meshed(world: &World, namespace: &str) -> bool {
    world.namespaces.get(&Key::cluster(namespace)).is_some_and(|row| row.value.mesh.is_some())
}

pub(super) fn render(
    world: &World,
    mesh: &AcceptedMesh,
    neighbours: &BTreeMap<&str, Vec<Neighbour>>,
) -> Vec<Rendered> {
    let mut objects = Vec::with_capacity(mesh.nodes.len());
    for name in &mesh.nodes {
        let key = Key::cluster(name);
        let Some(node) = world.nodes.get(&key) else { continue };
        let spec = MeshNodeSpec {
            mesh: mesh.name.clone(),
            addresses: node.value.addresses.clone(),
            zone: node.value.labels.get(LABEL_ZONE).cloned().unwrap_or_default(),
            pods: neighbours.get(name.as_str()).map(|pods| of_mesh(pods, mesh)).unwrap_or_default(),
        };
        objects.push(Rendered::new(mesh, Kind::MeshNode, key, Body::Neighbours(spec)));
    }
    objects
}

/// Pods as the mesh has them: those of its namespaces are called by its mode, others are their own affair.
fn of_mesh(pods: &[Neighbour], mesh: &AcceptedMesh) -> Vec<Neighbour> {
    let mut pods = pods.to_vec();
    for pod in &mut pods {
        if mesh.namespaces.binary_search(&pod.namespace).is_ok() {
            pod.inbound = Some(mesh.spec.identity.mode);
        } else {
            pod.plain_ports.clear();
            pod.plain_ports_problem = None;
        }
    }
    pods
}
