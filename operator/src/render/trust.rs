//! The ConfigMap with the roots of the mesh's certificates, and where proxies ask for certificates: both only where the Service of the authority is installed, or was.

use std::net::{IpAddr, SocketAddr};

use vicino_crds::names;

use super::Rendered;
use crate::validate::AcceptedMesh;
use crate::world::{Authority, Body, Key, Kind, World};

/// The variable of a proxy's environment that says where the authority is.
pub(super) const ADDRESS_VARIABLE: &str = "VICINO_AUTHORITY";

/// Where the authority is, by address: a proxy needs it whether or not the cluster's DNS answers.
pub(crate) fn authority(world: &World) -> Option<SocketAddr> {
    let key = Key::new(names::SYSTEM_NAMESPACE, names::AUTHORITY_SERVICE);
    let service = &world.services.get(&key)?.value;
    let ip: IpAddr = service.cluster_ips.first().filter(|_| !service.deleting)?.parse().ok()?;
    Some(SocketAddr::new(ip, service.ports.first()?.port))
}

/// Where the mesh's proxies ask for certificates. While the Service is away that is what they were told last: with no address in its
/// template the DaemonSet would replace every proxy by one that has no certificate.
pub(super) fn address(world: &World, mesh: &AcceptedMesh) -> Option<SocketAddr> {
    authority(world).or_else(|| told_address(world, &mesh.name))
}

/// Where the mesh's proxies were told last that the authority is.
pub(crate) fn told_address(world: &World, mesh: &str) -> Option<SocketAddr> {
    let key = Key::new(names::PROXY_NAMESPACE, &names::mesh_object(mesh));
    let Body::Fields(fields) = &world.children.of(Kind::DaemonSet).get(&key)?.value.body else { return None };
    let containers = fields.pointer("/spec/template/spec/containers")?.as_array()?;
    let variables = containers.iter().filter_map(|container| container["env"].as_array()).flatten();
    let mut told = variables.filter(|variable| variable["name"] == ADDRESS_VARIABLE);
    told.next()?["value"].as_str()?.parse().ok()
}

/// What the authority says, or, while it is not known here, what proxies were told last.
pub(super) fn render(world: &World, mesh: &AcceptedMesh) -> Option<Rendered> {
    address(world, mesh)?;
    let key = Key::new(names::PROXY_NAMESPACE, &names::trust_config_map(&mesh.name));
    let told = || match &world.children.of(Kind::ConfigMap).get(&key)?.value.body {
        Body::Data(data) => Some(data.clone()),
        _ => None,
    };
    let known = world.authority.as_ref().filter(|authority| !authority.roots.is_empty());
    let known = known.map(|Authority { roots, chain, .. }| {
        let issuer = (names::TRUST_ISSUER_KEY, chain);
        let data =
            [(names::TRUST_KEY, roots)].into_iter().chain(Some(issuer).filter(|(_, pem)| !pem.is_empty()));
        data.map(|(key, pem)| (key.to_owned(), pem.clone())).collect()
    });
    let data = known.or_else(told)?;
    let config_map = Rendered::new(mesh, Kind::ConfigMap, key, Body::Data(data));
    Some(config_map.label(names::LABEL_CONFIG, names::CONFIG_TRUST))
}
