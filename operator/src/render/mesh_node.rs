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
        nodes.entry(&row.value.node).or_default().push(Neighbour {
            uid: row.uid.clone(),
            namespace: key.namespace.clone(),
            name: key.name.clone(),
            service_account: row.value.service_account.clone(),
            ips: row.value.ips.clone(),
        });
    }
    for pods in nodes.values_mut() {
        pods.sort();
    }
    nodes
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
            pods: neighbours.get(name.as_str()).cloned().unwrap_or_default(),
        };
        objects.push(Rendered::new(mesh, Kind::MeshNode, key, Body::Neighbours(spec)));
    }
    objects
}
