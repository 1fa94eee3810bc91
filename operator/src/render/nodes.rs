//! The ConfigMaps with what each proxy has to know of the other neighbourhoods.

use std::collections::{BTreeMap, BTreeSet};

use vicino_crds::contract::{self, CompiledNode, VERSION_PLAIN};
use vicino_crds::mesh::IdentityMode;
use vicino_crds::names;

use super::{Rendered, mesh_node, parts};
use crate::validate::AcceptedMesh;
use crate::world::{Body, Key, Kind, World};

pub(super) fn render(world: &World, mesh: &AcceptedMesh, live: &parts::Live<'_>) -> Vec<Rendered> {
    let ready = ready_nodes(world, &mesh.name);
    let is_strict = mesh.spec.identity.mode == IdentityMode::Strict;
    let mut documents = BTreeMap::new();
    for name in &mesh.nodes {
        let Some(node) = world.nodes.get(&Key::cluster(name)) else { continue };
        let document = CompiledNode {
            version: VERSION_PLAIN,
            name: name.clone(),
            addresses: node.value.addresses.clone(),
            port: names::PORT_L2,
            zone: node.value.labels.get(mesh_node::LABEL_ZONE).cloned().unwrap_or_default(),
            ready: ready.contains(name.as_str()),
            secure: is_strict || takes_tls(world, name),
            pod_cidrs: node.value.pod_cidrs.clone(),
        };
        documents.insert(names::data_key(name), contract::write(&document));
    }
    let assigned = parts::assign(documents, &live.nodes(&mesh.name), names::CONFIG_MAP_BYTES_MAX);
    assigned.into_iter().map(|(part, data)| config_map(mesh, part, data)).collect()
}

/// Whether a node's proxy says that it takes hops with TLS; one that is restarted has its certificates before it listens.
fn takes_tls(world: &World, node: &str) -> bool {
    let neighbourhood = world.neighbourhoods.get(&Key::cluster(node));
    let proxy = neighbourhood.and_then(|row| row.value.status.proxy.as_ref());
    proxy.is_some_and(|proxy| proxy.secure)
}

/// Nodes that have a ready proxy of the mesh.
fn ready_nodes<'a>(world: &'a World, mesh: &str) -> BTreeSet<&'a str> {
    let proxies = world.pods.in_namespace(names::PROXY_NAMESPACE);
    proxies
        .filter(|(_, row)| row.value.ready && row.value.proxy_of.as_deref() == Some(mesh))
        .map(|(_, row)| row.value.node.as_str())
        .collect()
}

fn config_map(mesh: &AcceptedMesh, part: usize, data: BTreeMap<String, String>) -> Rendered {
    let key = Key::new(names::PROXY_NAMESPACE, &names::nodes_config_map(&mesh.name, part));
    let digest = contract::digest(&data);
    Rendered::new(mesh, Kind::ConfigMap, key, Body::Data(data))
        .label(names::LABEL_CONFIG, names::CONFIG_NODES)
        .annotation(names::ANNOTATION_DIGEST, digest)
}
