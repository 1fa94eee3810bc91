//! What the mesh allows to call outside of it, and what nobody calls → the engine's list; what did not change is taken over as it is.

use std::net::IpAddr;
use std::sync::Arc;

use vicino_crds::contract::CompiledEgress;
use vicino_crds::egress::{EgressMode, EgressRule};
use vicino_engine::egress::{Allowed, Egress, HostTest};

use super::policy::{block, network, number, source};
use super::{Newest, addresses, trust_domain};
use crate::config::inputs::Inputs;

/// The Service whose endpoints are API servers.
const API_SERVERS: (&str, &str) = ("default", "kubernetes");

/// Without a document nothing is allowed.
pub(super) fn egress(inputs: &Inputs, documents: &Newest<'_>, previous: &Arc<Egress>) -> Arc<Egress> {
    let now = documents.egress.map_or_else(Egress::default, |good| {
        let CompiledEgress { mode, allow, node_addresses, version: _, mesh: _ } = &good.value;
        let mut never = addresses(node_addresses);
        never.extend(inputs.never_called());
        never.extend(api_servers(inputs));
        let blocks = documents.nodes.values().flat_map(|good| &good.value.pod_cidrs);
        Egress {
            is_open: *mode == EgressMode::Allow,
            allow: allow.iter().map(allowed).collect(),
            trust_domain: Arc::from(inputs.bootstrap().map_or("", |good| trust_domain(&good.value))),
            never: never.iter().map(IpAddr::to_canonical).collect(),
            pod_blocks: blocks.map(|text| network(text)).collect(),
        }
    });
    if **previous == now { previous.clone() } else { Arc::new(now) }
}

fn api_servers(inputs: &Inputs) -> impl Iterator<Item = IpAddr> {
    let (namespace, service) = API_SERVERS;
    let slices = inputs.services().get(&(namespace.into(), service.into()));
    let slices = slices.into_iter().flat_map(|slices| slices.values());
    slices.flat_map(|slice| &slice.endpoints).map(|endpoint| endpoint.address)
}

fn allowed(of: &EgressRule) -> Allowed {
    let EgressRule { hosts, ip_blocks, ports, from } = of;
    Allowed {
        hosts: hosts.iter().map(|host| host_test(host)).collect(),
        ip_blocks: ip_blocks.iter().map(block).collect(),
        ports: ports.iter().copied().map(number).collect(),
        // A mesh has no namespace of its own: the document's check has each service account say one.
        from: from.iter().map(|one| source(one, "")).collect(),
    }
}

fn host_test(pattern: &str) -> HostTest {
    match pattern.strip_prefix('*') {
        Some(end) => HostTest::Below(end.into()),
        None => HostTest::Exact(pattern.into()),
    }
}
