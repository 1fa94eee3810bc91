//! The ConfigMap with what pods may call outside the mesh; none while that is nothing.

use std::collections::BTreeSet;
use std::net::IpAddr;

use vicino_crds::contract::{self, CompiledEgress};
use vicino_crds::names;

use super::Rendered;
use crate::validate::AcceptedMesh;
use crate::world::{Body, Key, Kind, World};

pub(super) fn render(world: &World, mesh: &AcceptedMesh) -> Option<Rendered> {
    let key = Key::new(names::PROXY_NAMESPACE, &names::egress_config_map(&mesh.name));
    let text = match &mesh.egress_problem {
        None if mesh.spec.egress.is_closed() => return None,
        None => written(world, mesh, CompiledEgress::new(&mesh.name, &mesh.spec.egress)),
        Some(_) => {
            let Body::Data(live) = &world.children.of(Kind::ConfigMap).get(&key)?.value.body else {
                return None;
            };
            let live = live.get(names::EGRESS_KEY)?;
            match contract::read::<CompiledEgress>(live.as_bytes()) {
                // Nodes come and go all the same.
                Ok(read) => written(world, mesh, read.document),
                Err(_) => live.clone(),
            }
        }
    };
    let data = [(names::EGRESS_KEY.to_owned(), text)].into();
    let digest = contract::digest(&data);
    let config_map = Rendered::new(mesh, Kind::ConfigMap, key, Body::Data(data))
        .label(names::LABEL_CONFIG, names::CONFIG_EGRESS)
        .annotation(names::ANNOTATION_DIGEST, digest);
    Some(config_map)
}

fn written(world: &World, mesh: &AcceptedMesh, document: CompiledEgress) -> String {
    contract::write(&CompiledEgress { node_addresses: other_addresses(world, mesh), ..document })
}

/// Addresses of the cluster's nodes that proxies do not know from the nodes of their mesh, sorted.
fn other_addresses(world: &World, mesh: &AcceptedMesh) -> Vec<String> {
    let parsed = |address: &String| address.parse::<IpAddr>().ok();
    let of_mesh = mesh.nodes.iter().filter_map(|name| world.nodes.get(&Key::cluster(name)));
    let of_mesh: BTreeSet<_> = of_mesh.flat_map(|row| &row.value.addresses).filter_map(parsed).collect();
    let all = world.nodes.iter().map(|(_, row)| &row.value);
    let all = all.flat_map(|node| node.addresses.iter().chain(&node.external_addresses));
    let all: BTreeSet<_> = all.filter_map(parsed).collect();
    all.difference(&of_mesh).map(IpAddr::to_string).collect()
}
