//! What the proxy keeps of an EndpointSlice: TCP ports, addresses, nodes, conditions; trimmed on arrival, nothing resolved.

use std::net::IpAddr;
use std::sync::Arc;

use k8s_openapi::api::discovery::v1::{Endpoint as ApiEndpoint, EndpointSlice};
use serde::{Deserialize, Serialize};

/// The label that names the Service of a slice.
const LABEL_SERVICE: &str = "kubernetes.io/service-name";

/// Namespace and name of an EndpointSlice.
#[derive(Clone, Debug, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize, Deserialize)]
pub struct SliceKey {
    /// Namespace.
    pub namespace: Box<str>,
    /// Name.
    pub name: Box<str>,
}

/// An EndpointSlice, trimmed.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Slice {
    /// Which it is.
    pub key: SliceKey,
    /// The Service in the same namespace that it belongs to; empty when none.
    pub service: Box<str>,
    /// Its TCP ports.
    pub ports: Vec<SlicePort>,
    /// Its endpoints, those that have an address that can be read.
    pub endpoints: Vec<SliceEndpoint>,
}

/// A TCP port of every endpoint of a slice.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct SlicePort {
    /// Name; empty when unnamed.
    pub name: Box<str>,
    /// Port number at the pod.
    pub port: u16,
}

/// An address of a pod.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct SliceEndpoint {
    /// The first address; the others are, as the API says, to be ignored.
    pub address: IpAddr,
    /// UID of the pod; empty when the slice names none.
    pub uid: Arc<str>,
    /// Name of the node; empty when absent.
    pub node: Arc<str>,
    /// The pod's own name within the Service (`hostname`), as pods of a StatefulSet have; empty when it has none.
    #[serde(default)]
    pub hostname: Box<str>,
    /// How usable it is.
    pub condition: Condition,
    /// For whom it is meant.
    #[serde(default)]
    pub hints: Hints,
}

/// For whose callers an endpoint is meant (`hints`; KEP-2433, and KEP-3015 for nodes). No names: the slice does not say.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Hints {
    /// Names of nodes.
    pub nodes: Box<[Box<str>]>,
    /// Names of zones.
    pub zones: Box<[Box<str>]>,
}

/// How usable an endpoint is, best last, so that the greater of two wins.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
pub enum Condition {
    /// Not to be called.
    Down,
    /// Terminates, but still serves: usable while there is nothing better (KEP-1669).
    Ending,
    /// Usable.
    Ready,
}

impl SliceKey {
    /// A key.
    pub fn new(namespace: &str, name: &str) -> Self {
        Self { namespace: namespace.into(), name: name.into() }
    }

    /// The key of an object of the API.
    pub fn of(slice: &EndpointSlice) -> Self {
        let part = |part: &Option<String>| part.as_deref().unwrap_or_default().into();
        Self { namespace: part(&slice.metadata.namespace), name: part(&slice.metadata.name) }
    }
}

impl Slice {
    /// Keeps what matters. Slices of domain names (`addressType: FQDN`) have no addresses, so nothing of them remains.
    pub fn trim(slice: &EndpointSlice) -> Self {
        let labels = slice.metadata.labels.as_ref();
        Self {
            key: SliceKey::of(slice),
            service: labels.and_then(|l| l.get(LABEL_SERVICE)).map(String::as_str).unwrap_or_default().into(),
            ports: slice.ports.iter().flatten().filter_map(port).collect(),
            endpoints: slice.endpoints.iter().flatten().filter_map(endpoint).collect(),
        }
    }
}

fn port(port: &k8s_openapi::api::discovery::v1::EndpointPort) -> Option<SlicePort> {
    let tcp = port.protocol.as_deref().is_none_or(|p| p == "TCP");
    let number = u16::try_from(port.port?).ok().filter(|number| *number != 0)?;
    tcp.then(|| SlicePort { name: port.name.as_deref().unwrap_or_default().into(), port: number })
}

fn endpoint(endpoint: &ApiEndpoint) -> Option<SliceEndpoint> {
    let uid = endpoint.target_ref.as_ref().and_then(|r| r.uid.as_deref());
    Some(SliceEndpoint {
        address: endpoint.addresses.first()?.parse().ok()?,
        uid: Arc::from(uid.unwrap_or_default()),
        node: Arc::from(endpoint.node_name.as_deref().unwrap_or_default()),
        hostname: endpoint.hostname.as_deref().unwrap_or_default().into(),
        condition: condition(endpoint),
        hints: hints(endpoint),
    })
}

fn hints(endpoint: &ApiEndpoint) -> Hints {
    let Some(hints) = &endpoint.hints else { return Hints::default() };
    Hints {
        nodes: hints.for_nodes.iter().flatten().map(|node| Box::from(&*node.name)).collect(),
        zones: hints.for_zones.iter().flatten().map(|zone| Box::from(&*zone.name)).collect(),
    }
}

/// As the API documents them: an absent `ready` or `serving` is true, an absent `terminating` is false.
fn condition(endpoint: &ApiEndpoint) -> Condition {
    let says = |pick: fn(&k8s_openapi::api::discovery::v1::EndpointConditions) -> Option<bool>| {
        endpoint.conditions.as_ref().and_then(pick)
    };
    if says(|c| c.ready).unwrap_or(true) {
        Condition::Ready
    } else if says(|c| c.serving).unwrap_or(true) && says(|c| c.terminating).unwrap_or(false) {
        Condition::Ending
    } else {
        Condition::Down
    }
}

#[cfg(test)]
mod tests {
    use super::{Condition, Hints, Slice};

    fn slice(yaml: &str) -> Slice {
        let head = "metadata: {name: web-a, namespace: demo, labels: {kubernetes.io/service-name: web}}\naddressType: IPv4\n";
        Slice::trim(&serde_saphyr::from_str(&format!("{head}{yaml}")).unwrap())
    }

    #[test]
    fn conditions_mean_what_the_api_says() {
        for (conditions, expected) in [
            ("{}", Condition::Ready),
            ("{ready: true}", Condition::Ready),
            ("{ready: true, terminating: true}", Condition::Ready),
            ("{ready: false}", Condition::Down),
            ("{ready: false, serving: true}", Condition::Down),
            ("{ready: false, serving: true, terminating: true}", Condition::Ending),
            ("{ready: false, terminating: true}", Condition::Ending),
            ("{ready: false, serving: false, terminating: true}", Condition::Down),
        ] {
            let slice = slice(&format!(
                "endpoints: [{{addresses: [10.0.0.1], conditions: {conditions}}}]\nports: []\n"
            ));
            assert_eq!(slice.endpoints[0].condition, expected, "{conditions}");
        }
    }

    #[test]
    fn hints_are_kept_and_read_from_a_copy_that_has_none() {
        let slice = slice(
            "endpoints:\n- {addresses: [10.0.0.1], hints: {forZones: [{name: a}, {name: b}], forNodes: [{name: n1}]}}\n\
             - {addresses: [10.0.0.2]}\nports: []\n",
        );
        let [hinted, other] = &slice.endpoints[..] else { panic!("two endpoints: {:?}", slice.endpoints) };
        assert_eq!(*hinted.hints.zones, ["a".into(), "b".into()]);
        assert_eq!(*hinted.hints.nodes, ["n1".into()]);
        assert_eq!(other.hints, Hints::default());
        let mut copy = serde_json::to_value(hinted).unwrap();
        copy.as_object_mut().unwrap().remove("hints");
        let read: super::SliceEndpoint = serde_json::from_value(copy).unwrap();
        assert_eq!(read.hints, Hints::default());
    }

    #[test]
    fn only_tcp_ports_and_readable_addresses_remain() {
        let slice = slice(
            "endpoints:\n- {addresses: [example.com]}\n- {addresses: []}\n- {addresses: [10.0.0.1, 10.0.0.9], nodeName: n1, targetRef: {uid: u1}}\n\
             ports:\n- {name: a, port: 80}\n- {name: dns, port: 53, protocol: UDP}\n- {port: 8080, protocol: TCP}\n- {name: none}\n",
        );
        let ports: Vec<_> = slice.ports.iter().map(|p| (&*p.name, p.port)).collect();
        assert_eq!(ports, [("a", 80), ("", 8080)]);
        let [endpoint] = &slice.endpoints[..] else { panic!("one endpoint: {:?}", slice.endpoints) };
        assert_eq!(
            (endpoint.address.to_string(), &*endpoint.node, &*endpoint.uid),
            ("10.0.0.1".into(), "n1", "u1")
        );
    }
}
