//! Where calls go, in words: of what the backend's own route says all that holds whichever route leads to it.

use serde::{Deserialize, Serialize};
use vicino_engine::affinity::{Affinity, SetCookie};
use vicino_engine::balance::Algorithm;
use vicino_engine::breaker::Breaker;
use vicino_engine::route::{Pod, Route};
use vicino_engine::snapshot::{Backend, Concurrency, Protocol, Service, ServiceName, Snapshot};
use vicino_wire::head::RequestHead;

use super::explanation::{Limits, changes, milliseconds};

/// Where calls go.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Target {
    /// Name of the Service, before it the namespace when it is another one.
    pub service: String,
    /// Its port.
    pub port: u16,
    /// Of a million calls.
    pub per_million: u64,
    /// Only pods of the caller's node are meant.
    pub node_local: bool,
    /// Changes to heads on the way there and back, one by one.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub changes: Vec<String>,
    /// What its pods are spoken to in, where the port that was called says otherwise.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub protocol: Option<String>,
    /// Calls that each of its pods takes at a time.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub per_pod: Option<u32>,
    /// Where that is found out for each pod: what it is at least.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub per_pod_min: Option<u32>,
    /// And how long calls take on average while it grows.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub per_pod_target_milliseconds: Option<u64>,
    /// How calls beyond that wait.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub queue: Option<String>,
    /// When a pod is left out.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub breaker: Option<String>,
    /// By what a pod is chosen; absent: by the least calls in flight.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub balancing: Option<String>,
    /// Which calls go to the same pod of a node, where it is another Service than the one that was called.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub affinity: Option<String>,
    /// How the pod's node places a call, where it does so otherwise than the caller's.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub placing: Option<String>,
    /// Calls without TLS are refused there.
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    pub strict: bool,
    /// Nodes with ready pods, and how many.
    pub nodes: Vec<(String, u32)>,
}

/// A pod that is called by its own name, to which limits hold and nothing else.
pub(super) fn only(pod: &Pod, route: &Route) -> Target {
    Target {
        service: format!("{}.{}", pod.name, route.service.name.name),
        port: route.port().port,
        per_million: 1_000_000,
        strict: route.service.is_strict,
        nodes: pod.at.is_usable.then(|| (pod.at.node.to_string(), 1)).into_iter().collect(),
        ..limited(Target::default(), &route.service)
    }
}

/// With the limit that a Service has for its pods.
fn limited(target: Target, service: &Service) -> Target {
    let Some(concurrency) = &service.concurrency else { return target };
    Target {
        per_pod: Some(concurrency.per_pod),
        per_pod_min: concurrency.adaptive.map(|adaptive| adaptive.per_pod_min),
        per_pod_target_milliseconds: concurrency.adaptive.map(|adaptive| milliseconds(adaptive.target_ns)),
        queue: Some(queue(concurrency)),
        ..target
    }
}

/// Where calls of a route go that are placed by these limits.
pub(super) fn targets(
    snapshot: &Snapshot,
    backends: &[Backend],
    (route, limits): (&Route, &Limits),
    head: &RequestHead<'_>,
) -> Vec<Target> {
    let sum: u64 = backends.iter().map(|backend| u64::from(backend.weight)).sum();
    let target = |backend: &Backend| {
        let Backend { service: name, port, port_name, weight, is_node_local, edits } = backend;
        let endpoints = snapshot.endpoints(&name.namespace, &name.name, port_name);
        let nodes = endpoints.map(|endpoints| &endpoints.nodes[..]).unwrap_or_default();
        let target = Target {
            service: named(name, &route.service.name.namespace),
            port: *port,
            per_million: u64::from(*weight) * 1_000_000 / sum.max(1),
            node_local: *is_node_local,
            changes: edits.as_ref().map(|edits| changes(edits)).unwrap_or_default(),
            nodes: nodes.iter().map(|node| (node.node.to_string(), node.pods)).collect(),
            ..Target::default()
        };
        match snapshot.service(&name.namespace, &name.name) {
            None => target,
            Some(own) => with_own(target, own, (route, limits), head),
        }
    };
    backends.iter().map(target).collect()
}

fn named(service: &ServiceName, own: &str) -> String {
    match &*service.namespace {
        namespace if namespace == own => service.name.to_string(),
        namespace => format!("{namespace}/{}", service.name),
    }
}

/// What the backend's own route says.
fn with_own(
    target: Target,
    own: &Service,
    (route, limits): (&Route, &Limits),
    head: &RequestHead<'_>,
) -> Target {
    let is_other = own.name != route.service.name;
    let spoken = own.ports.iter().find(|port| port.port == target.port).map(|port| port.protocol);
    let connect = milliseconds(own.times.connect_ns);
    let is_placed_otherwise = (connect, own.requeues) != (limits.connect_milliseconds, limits.requeues);
    Target {
        protocol: spoken.filter(|spoken| *spoken != route.port().protocol).map(|of| protocol(of).to_owned()),
        breaker: own.breaker.as_ref().map(breaker),
        balancing: balancing(own.algorithm).map(str::to_owned),
        affinity: own
            .affinity
            .as_ref()
            .filter(|_| is_other)
            .map(|affinity| self::affinity(affinity, own.affinity_load_percent, head)),
        placing: (is_other && is_placed_otherwise)
            .then(|| format!("{connect} ms to connect, requeued {} times at most", own.requeues)),
        strict: own.is_strict,
        ..limited(target, own)
    }
}

/// The word of a MeshRoute.
pub(super) fn protocol(of: Protocol) -> &'static str {
    match of {
        Protocol::Http => "HTTP",
        Protocol::Http1 => "HTTP/1.1",
        Protocol::Http2 => "HTTP/2",
        Protocol::Opaque => "TCP",
    }
}

fn balancing(algorithm: Algorithm) -> Option<&'static str> {
    match algorithm {
        Algorithm::LeastRequest => None,
        Algorithm::PeakEwma => Some("the least calls in flight, weighed by the time that calls take"),
        Algorithm::RoundRobin => Some("one after the other"),
        Algorithm::Random => Some("by lot"),
    }
}

fn queue(of: &Concurrency) -> String {
    let Concurrency { per_pod: _, queue_length, queue_timeout_ns, standing_timeout_ns, adaptive: _ } = of;
    let timeout = milliseconds(*queue_timeout_ns);
    let standing = match milliseconds(*standing_timeout_ns) {
        0 => String::new(),
        short => format!(", {short} ms once there has been a line for so long"),
    };
    format!("{queue_length} calls wait on each node at most, for {timeout} ms{standing}")
}

fn breaker(of: &Breaker) -> String {
    let Breaker {
        codes,
        consecutive_failures,
        failure_percent,
        minimum_calls,
        ejection_ns,
        ejection_max_ns,
        ejected_percent,
    } = of;
    let codes: Vec<_> = codes.iter().map(u16::to_string).collect();
    let share = match failure_percent {
        0 => String::new(),
        percent => format!(" or {percent} % of {minimum_calls} calls and more in ten seconds"),
    };
    format!(
        "after {consecutive_failures} failures in a row{share} ({}), for {} ms at first and {} ms at most, {ejected_percent} % of the pods at a time",
        codes.join(", "),
        milliseconds(*ejection_ns),
        milliseconds(*ejection_max_ns)
    )
}

/// Which calls go to the same pod, and whether this one does.
pub(super) fn affinity(of: &Affinity, load_percent: u32, head: &RequestHead<'_>) -> String {
    let (same, may_lack) = match of {
        Affinity::Header(name) => (format!("with the same header {name}"), true),
        Affinity::Cookie(name, _) => (format!("with the same cookie {name}"), true),
        Affinity::Query(name) => (format!("with the same query parameter {name}"), true),
        Affinity::Source => ("from the same address".to_owned(), false),
    };
    let set = match of {
        Affinity::Cookie(_, Some(SetCookie { max_age_s: Some(seconds) })) => {
            format!("; whoever has none is given one for {seconds} s")
        }
        Affinity::Cookie(_, Some(SetCookie { max_age_s: None })) => {
            "; whoever has none is given one until the browser is closed".to_owned()
        }
        _ => String::new(),
    };
    let lacks = if may_lack && of.key(head, None).is_none() { ", which this call has not," } else { "" };
    let bound = match load_percent {
        0 => String::new(),
        percent => format!("; a pod above {percent} % of the average load has no further ones"),
    };
    format!("calls {same}{lacks} go to the same pod{set}{bound}")
}
