//! One compiled document → the engine's plain data; units and types change, meaning does not.

use std::net::SocketAddr;
use std::sync::Arc;

use vicino_crds::contract::{CompiledNode, CompiledPort, CompiledRoute};
use vicino_engine::snapshot::{Backend, Node, Service, ServiceName, ServicePort};

const NANOSECONDS_PER_MILLISECOND: u64 = 1_000_000;

/// The route of a Service.
pub(super) fn service(route: &CompiledRoute) -> Service {
    let namespace: Arc<str> = Arc::from(&*route.namespace);
    let name = ServiceName { namespace: namespace.clone(), name: Arc::from(&*route.service) };
    Service {
        ports: route.ports.iter().map(|port| service_port(port, &name)).collect(),
        name,
        connect_timeout_ns: u64::from(route.connect_timeout_milliseconds) * NANOSECONDS_PER_MILLISECOND,
        request_timeout_ns: u64::from(route.request_timeout_milliseconds) * NANOSECONDS_PER_MILLISECOND,
        requeues: route.requeues,
    }
}

fn service_port(port: &CompiledPort, owner: &ServiceName) -> ServicePort {
    let backends = port.backends.iter().map(|backend| {
        let own = *backend.service == *owner.name;
        let name = if own { owner.name.clone() } else { Arc::from(&*backend.service) };
        Backend {
            service: ServiceName { namespace: owner.namespace.clone(), name },
            port: backend.port,
            port_name: Arc::from(&*backend.port_name),
            weight: backend.weight,
            is_node_local: backend.node_local,
        }
    });
    ServicePort { port: port.port, backends: backends.collect() }
}

/// A neighbourhood.
pub(super) fn node(node: &CompiledNode) -> Node {
    let addresses = node.addresses.iter().filter_map(|text| text.parse().ok());
    Node {
        name: Arc::from(&*node.name),
        addresses: addresses.map(|ip| SocketAddr::new(ip, node.port)).collect(),
        zone: Arc::from(&*node.zone),
        ready: node.ready,
    }
}
