//! Snapshot and inputs as JSON, for people; not a contract, may change with every version.

use std::collections::BTreeMap;

use serde_json::{Value, json};
use vicino_engine::snapshot::{EndpointSet, Service, Snapshot};

use crate::config::gather::Edition;

/// What is served.
pub(super) fn snapshot(snapshot: &Snapshot) -> Value {
    let services = snapshot.services.iter().flat_map(|(namespace, services)| {
        services.iter().map(move |(name, route)| (format!("{namespace}/{name}"), service(route)))
    });
    let endpoints = snapshot.endpoints.iter().flat_map(|(namespace, sets)| {
        sets.iter().map(move |(name, set)| (format!("{namespace}/{name}"), endpoint_set(set)))
    });
    let nodes = snapshot.nodes.values().map(|node| {
        let facts = json!({ "addresses": node.addresses, "zone": &*node.zone, "ready": node.ready });
        (node.name.to_string(), facts)
    });
    let neighbours = snapshot.neighbours.iter().map(|(ip, pod)| {
        let facts = json!({
            "pod": format!("{}/{}", pod.namespace, pod.name),
            "uid": &*pod.uid,
            "serviceAccount": &*pod.service_account,
        });
        (ip.to_string(), facts)
    });
    json!({
        "version": snapshot.version,
        "node": &*snapshot.node,
        "nodeAddresses": snapshot.node_addresses,
        "clusterDomain": &*snapshot.cluster_domain,
        "trustDomain": &*snapshot.trust_domain,
        "services": services.collect::<BTreeMap<_, _>>(),
        "endpoints": endpoints.collect::<BTreeMap<_, _>>(),
        "nodes": nodes.collect::<BTreeMap<_, _>>(),
        "neighbours": neighbours.collect::<BTreeMap<_, _>>(),
    })
}

fn service(service: &Service) -> Value {
    let ports = service.ports.iter().map(|port| {
        let backends = port.backends.iter().map(|backend| {
            json!({
                "namespace": &*backend.service.namespace,
                "service": &*backend.service.name,
                "port": backend.port,
                "portName": &*backend.port_name,
                "weight": backend.weight,
            })
        });
        json!({ "port": port.port, "backends": backends.collect::<Vec<_>>() })
    });
    json!({
        "ports": ports.collect::<Vec<_>>(),
        "connectTimeoutMilliseconds": service.times.connect_ns / 1_000_000,
        "idleTimeoutMilliseconds": service.times.idle_ns / 1_000_000,
        "requestTimeoutMilliseconds": service.times.request_ns / 1_000_000,
        "requeues": service.requeues,
        "leavesOutAfter": service.breaker.as_ref().map(|breaker| breaker.consecutive_failures),
        "perPod": service.concurrency.map(|concurrency| concurrency.per_pod),
    })
}

fn endpoint_set(set: &EndpointSet) -> Value {
    let ports = set.ports.iter().map(|(name, port)| {
        let nodes: BTreeMap<_, _> = port.nodes.iter().map(|n| (n.node.to_string(), n.pods)).collect();
        let local = port
            .local
            .iter()
            .map(|slot| json!({ "address": slot.address, "uid": &*slot.uid, "inFlight": slot.in_flight() }));
        (
            name.to_string(),
            json!({ "nodes": nodes, "local": local.collect::<Vec<_>>(), "listed": port.listed }),
        )
    });
    Value::Object(ports.collect())
}

/// What it was made of.
pub(super) fn config(edition: &Edition) -> Value {
    let bundles = edition.bundles.iter().map(|bundle| {
        let refused: BTreeMap<_, _> = bundle.refused.iter().cloned().collect();
        (bundle.name.to_string(), json!({ "digest": bundle.digest, "refused": refused }))
    });
    let refused: BTreeMap<_, _> =
        edition.refused.iter().map(|(place, why)| (place.to_string(), why.clone())).collect();
    json!({
        "missing": edition.missing.iter().map(|part| part.name()).collect::<Vec<_>>(),
        "bootstrap": edition.bootstrap.as_ref().map(|good| &good.value),
        "bundles": bundles.collect::<BTreeMap<_, _>>(),
        "refused": refused,
        "meshNodeGeneration": edition.mesh_node_generation,
        "endpointsWithoutNode": edition.without_node,
    })
}
