//! What is kept of an object of the API: one function for each kind, object in, row out; no decisions about meshes.

use std::collections::BTreeMap;

use k8s_openapi::api::core::v1 as core;
use k8s_openapi::api::discovery::v1::EndpointSlice;
use k8s_openapi::apimachinery::pkg::apis::meta::v1::{ManagedFieldsEntry, ObjectMeta, OwnerReference};
use k8s_openapi::jiff::Timestamp;
use kube::core::DynamicObject;
use serde::de::DeserializeOwned;
use serde_json::Value;
use vicino_crds::node::PlainPorts;
use vicino_crds::route::PortProtocol;
use vicino_crds::{MeshNodeStatus, names};

use super::{
    Body, Child, Grant, Key, Kind, Mesh, Namespace, Neighbourhood, Node, Owner, Pod, Policy, Rollout, Route,
    Row, Service,
};
use super::{ServicePort, Slice, Step};

/// The label that names the Service of an EndpointSlice.
const LABEL_SERVICE_NAME: &str = "kubernetes.io/service-name";
/// The condition of a Pod whose sandbox stands and has its network (KEP-3085).
const CONDITION_NETWORK: &str = "PodReadyToStartContainers";

/// Longest labels of a pod, names and values together. A thousand pods of a node are then below what the API server takes in a request (3 MiB) as long as most have ordinary ones.
const LABELS_BYTES_MAX: usize = 8 * 1024;

/// Name and identity of an object.
pub(crate) fn key(meta: &ObjectMeta) -> Key {
    Key { namespace: meta.namespace.clone().unwrap_or_default(), name: meta.name.clone().unwrap_or_default() }
}

/// The step that an object as it is now stands for: `None` of `value` means that it is of no interest (any more).
pub(crate) fn put<T>(meta: &ObjectMeta, value: Option<T>) -> Step<T> {
    let uid = meta.uid.clone().unwrap_or_default();
    match value {
        Some(value) => Step::Put(key(meta), row(meta, value)),
        None => Step::Gone(key(meta), uid),
    }
}

/// A row of the object that `meta` belongs to.
pub(crate) fn row<T>(meta: &ObjectMeta, value: T) -> Row<T> {
    let version = meta.resource_version.as_deref().and_then(|v| v.parse().ok()).unwrap_or(0);
    Row { uid: meta.uid.clone().unwrap_or_default(), version, value }
}

pub(crate) fn mesh(object: &DynamicObject) -> Mesh {
    let meta = &object.metadata;
    Mesh {
        generation: meta.generation.unwrap_or(0),
        created: meta.creation_timestamp.as_ref().map_or(Timestamp::UNIX_EPOCH, |time| time.0),
        deleting: meta.deletion_timestamp.is_some(),
        spec: part(&object.data, "spec"),
        status: part(&object.data, "status").unwrap_or_default(),
    }
}

pub(crate) fn route(object: &DynamicObject) -> Route {
    let meta = &object.metadata;
    let labels = meta.labels.as_ref();
    let managed =
        labels.and_then(|l| l.get(names::LABEL_MANAGED_BY)).is_some_and(|by| by == names::MANAGED_BY);
    let managers = meta.managed_fields.as_deref().unwrap_or_default();
    let (ours, others) = managers.iter().filter(|entry| outside_status(entry)).fold(
        (false, false),
        |(ours, others), entry| match entry.manager.as_deref() {
            Some(names::FIELD_MANAGER) => (true, others),
            _ => (ours, true),
        },
    );
    Route {
        generation: meta.generation.unwrap_or(0),
        deleting: meta.deletion_timestamp.is_some(),
        labelled: labels.filter(|_| managed).and_then(|l| l.get(names::LABEL_MESH)).cloned(),
        owners: owners(meta),
        ours,
        // An object from a file has no managers: it is its author's.
        others: others || managers.is_empty(),
        spec: part(&object.data, "spec"),
        status: part(&object.data, "status").unwrap_or_default(),
    }
}

pub(crate) fn policy(object: &DynamicObject) -> Policy {
    let meta = &object.metadata;
    Policy {
        generation: meta.generation.unwrap_or(0),
        deleting: meta.deletion_timestamp.is_some(),
        spec: part(&object.data, "spec"),
        status: part(&object.data, "status").unwrap_or_default(),
    }
}

/// Whether an entry of `managedFields` is about anything but the status.
fn outside_status(entry: &ManagedFieldsEntry) -> bool {
    let fields = entry.fields_v1.as_ref().and_then(|fields| fields.0.as_object());
    entry.subresource.as_deref() != Some("status")
        && fields.is_some_and(|fields| fields.keys().any(|field| field != "f:status"))
}

pub(crate) fn neighbourhood(object: &DynamicObject) -> Neighbourhood {
    let mut status: MeshNodeStatus = part(&object.data, "status").unwrap_or_default();
    if let Some(certificates) = &mut status.certificates {
        certificates.identities.clear();
    }
    Neighbourhood {
        deleting: object.metadata.deletion_timestamp.is_some(),
        labels: object.metadata.labels.clone().unwrap_or_default(),
        owners: owners(&object.metadata),
        spec: part(&object.data, "spec").unwrap_or_default(),
        status,
    }
}

/// One field of an object; absent is as good as empty, so that it gets the schema's defaults. Objects of ours are read
/// leniently: one that this version cannot read must not end the watch of all the others.
fn part<T: DeserializeOwned>(data: &Value, field: &str) -> Result<T, String> {
    let empty = Value::Object(serde_json::Map::new());
    let value = data.get(field).filter(|value| !value.is_null()).unwrap_or(&empty);
    T::deserialize(value).map_err(|error| error.to_string())
}

pub(crate) fn namespace(object: &core::Namespace) -> Namespace {
    let meta = &object.metadata;
    Namespace {
        mesh: meta.labels.as_ref().and_then(|labels| labels.get(names::LABEL_MESH)).cloned(),
        deleting: meta.deletion_timestamp.is_some(),
    }
}

/// What is no HTTP: names of the IANA registry as `appProtocol` has them (KEP-1507), and the prefixes of port names that meshes go by (`mysql-primary`).
const OPAQUE: [&str; 24] = [
    "amqp",
    "amqps",
    "cassandra",
    "ftp",
    "https",
    "imap",
    "kafka",
    "ldap",
    "ldaps",
    "memcached",
    "mongo",
    "mongodb",
    "mqtt",
    "mysql",
    "nats",
    "pop3",
    "postgres",
    "postgresql",
    "redis",
    "smtp",
    "ssh",
    "tcp",
    "tls",
    "wss",
];

/// HTTP/2 with prior knowledge: `kubernetes.io/h2c` is KEP-3726's word.
const HTTP2: [&str; 3] = ["grpc", "h2c", "http2"];
/// Only an `appProtocol` says that a port speaks nothing else: a port named `http` may as well serve gRPC. `ws` is WebSocket, which begins with HTTP/1.1.
const HTTP1: [&str; 2] = ["http", "ws"];

fn protocol(app_protocol: Option<&str>, name: &str) -> PortProtocol {
    let said = match app_protocol {
        Some(protocol) => protocol.strip_prefix("kubernetes.io/").unwrap_or(protocol),
        // Its clients speak HTTP/1.1.
        None if name.starts_with("grpc-web") => "",
        None => name.split('-').next().unwrap_or_default(),
    };
    let said = said.to_ascii_lowercase();
    match said.as_str() {
        said if OPAQUE.contains(&said) => PortProtocol::Tcp,
        said if HTTP2.contains(&said) => PortProtocol::Http2,
        said if HTTP1.contains(&said) && app_protocol.is_some() => PortProtocol::Http1,
        _ => PortProtocol::Http,
    }
}

pub(crate) fn service(object: &core::Service) -> Service {
    let meta = &object.metadata;
    let spec = object.spec.as_ref();
    let ports = spec.and_then(|s| s.ports.as_deref()).unwrap_or_default();
    let ips = spec.and_then(|s| s.cluster_ips.clone().or_else(|| s.cluster_ip.clone().map(|ip| vec![ip])));
    Service {
        ports: ports
            .iter()
            .filter(|port| port.protocol.as_deref().unwrap_or("TCP") == "TCP")
            .filter_map(|port| {
                let name = port.name.clone().unwrap_or_default();
                let protocol = protocol(port.app_protocol.as_deref(), &name);
                u16::try_from(port.port).ok().map(|port| ServicePort { port, name, protocol })
            })
            .collect(),
        cluster_ips: ips
            .unwrap_or_default()
            .into_iter()
            .filter(|ip| ip != "None" && !ip.is_empty())
            .collect(),
        node_local: spec.and_then(|s| s.internal_traffic_policy.as_deref()) == Some("Local"),
        external_name: spec
            .filter(|s| s.type_.as_deref() == Some("ExternalName"))
            .map(|s| s.external_name.clone().unwrap_or_default()),
        skip: meta
            .annotations
            .as_ref()
            .and_then(|a| a.get(names::ANNOTATION_SKIP))
            .is_some_and(|v| v == "true"),
        deleting: meta.deletion_timestamp.is_some(),
    }
}

pub(crate) fn slice(object: &EndpointSlice) -> Option<Slice> {
    let service = object.metadata.labels.as_ref()?.get(LABEL_SERVICE_NAME)?.clone();
    let endpoints = object.endpoints.as_deref().unwrap_or_default();
    let ready = |e: &&k8s_openapi::api::discovery::v1::Endpoint| {
        e.conditions.as_ref().and_then(|conditions| conditions.ready).unwrap_or(true)
    };
    Some(Slice {
        service,
        address_type: object.address_type.clone(),
        ready: endpoints.iter().filter(ready).count(),
        total: endpoints.len(),
    })
}

pub(crate) fn grant(object: &DynamicObject) -> Option<Grant> {
    let list = |name: &str| object.data["spec"][name].as_array().cloned().unwrap_or_default();
    let is = |entry: &Value, group: &str, kind: &str| {
        entry["group"].as_str().unwrap_or_default() == group && entry["kind"] == kind
    };
    let from = list("from").into_iter().filter(|entry| is(entry, names::GROUP, "MeshRoute"));
    let to = list("to").into_iter().filter(|entry| is(entry, "", "Service"));
    let name = |entry: &Value| entry["name"].as_str().filter(|name| !name.is_empty()).map(str::to_owned);
    let grant = Grant {
        from: from.filter_map(|entry| entry["namespace"].as_str().map(str::to_owned)).collect(),
        to: to.map(|entry| name(&entry)).collect(),
    };
    (!grant.from.is_empty() && !grant.to.is_empty()).then_some(grant)
}

pub(crate) fn node(object: &core::Node) -> Node {
    let addresses = object.status.as_ref().and_then(|s| s.addresses.as_deref()).unwrap_or_default();
    let of_type = |kind: &str| {
        addresses.iter().filter(|a| a.type_ == kind).map(|a| a.address.clone()).collect::<Vec<_>>()
    };
    let spec = object.spec.as_ref();
    let blocks = spec.and_then(|s| s.pod_cidrs.clone()).filter(|blocks| !blocks.is_empty());
    Node {
        labels: object.metadata.labels.clone().unwrap_or_default(),
        addresses: of_type("InternalIP"),
        external_addresses: of_type("ExternalIP"),
        pod_cidrs: blocks.unwrap_or_else(|| spec.and_then(|s| s.pod_cidr.clone()).into_iter().collect()),
    }
}

pub(crate) fn pod(object: &core::Pod) -> Option<Pod> {
    let spec = object.spec.as_ref()?;
    let node = spec.node_name.clone().filter(|node| !node.is_empty())?;
    let status = object.status.as_ref();
    let ended = matches!(status.and_then(|s| s.phase.as_deref()), Some("Succeeded" | "Failed"));
    let shared = spec.host_network.unwrap_or(false);
    let mut ips: Vec<String> = status
        .and_then(|s| s.pod_ips.as_deref())
        .unwrap_or_default()
        .iter()
        .map(|ip| ip.ip.clone())
        .collect();
    if ips.is_empty() {
        ips.extend(status.and_then(|s| s.pod_ip.clone()));
    }
    if ended || shared {
        ips.clear();
    }
    let proxy_of = proxy_of(&object.metadata);
    let conditions = status.and_then(|s| s.conditions.as_deref()).unwrap_or_default();
    let ready = proxy_of.is_some()
        && object.metadata.deletion_timestamp.is_none()
        && conditions.iter().any(|c| c.type_ == "Ready" && c.status == "True");
    let service_account = spec.service_account_name.clone().unwrap_or_default();
    let plain_ports = plain_ports(&object.metadata);
    let labels = object.metadata.labels.clone().filter(|_| !ips.is_empty()).unwrap_or_default();
    let (labels, labels_problem) = bounded(labels);
    let network = conditions.iter().find(|c| c.type_ == CONDITION_NETWORK && c.status == "True");
    let network_since = network.filter(|_| !ips.is_empty()).and_then(|c| c.last_transition_time.clone());
    Some(Pod {
        node,
        service_account,
        ips,
        labels,
        labels_problem,
        proxy_of,
        ready,
        plain_ports,
        network_since,
    })
}

/// The API bounds each label of a pod and not how many there are, while all pods of a node have to fit into one MeshNode.
fn bounded(labels: BTreeMap<String, String>) -> (BTreeMap<String, String>, Option<String>) {
    let bytes: usize = labels.iter().map(|(name, value)| name.len() + value.len()).sum();
    if bytes <= LABELS_BYTES_MAX {
        return (labels, None);
    }
    let problem = format!(
        "labels: have {bytes} bytes, at most {LABELS_BYTES_MAX} fit into the MeshNode of a node, so the mesh does not know the pod, and refuses its calls (not-a-neighbour): give it fewer or shorter ones"
    );
    (BTreeMap::new(), Some(problem))
}

fn plain_ports(meta: &ObjectMeta) -> PlainPorts {
    let text = meta.annotations.as_ref().and_then(|all| all.get(names::ANNOTATION_PLAIN_PORTS));
    text.map(|text| PlainPorts::read(text)).unwrap_or_default()
}

fn proxy_of(meta: &ObjectMeta) -> Option<String> {
    let labels = meta.labels.as_ref()?;
    let ours = meta.namespace.as_deref() == Some(names::PROXY_NAMESPACE)
        && labels.get(names::LABEL_MANAGED_BY).is_some_and(|by| by == names::MANAGED_BY);
    labels.get(names::LABEL_MESH).filter(|_| ours).cloned()
}

pub(crate) fn child(kind: Kind, object: DynamicObject) -> Child {
    let DynamicObject { metadata: meta, data, .. } = object;
    let rollout = (kind == Kind::DaemonSet).then(|| rollout(&meta, &data));
    let annotations = meta.annotations.clone().unwrap_or_default();
    Child {
        owners: owners(&meta),
        deleting: meta.deletion_timestamp.is_some(),
        labels: meta.labels.unwrap_or_default(),
        annotations: annotations.into_iter().filter(|(name, _)| name.starts_with(names::GROUP)).collect(),
        body: body(kind, data),
        rollout,
    }
}

fn body(kind: Kind, data: Value) -> Body {
    let Value::Object(mut fields) = data else { return Body::Fields(Value::Null) };
    if kind == Kind::ConfigMap {
        let entries: BTreeMap<String, String> =
            fields.remove("data").and_then(|data| serde_json::from_value(data).ok()).unwrap_or_default();
        return Body::Data(entries);
    }
    fields.remove("status");
    Body::Fields(Value::Object(fields))
}

fn rollout(meta: &ObjectMeta, data: &Value) -> Rollout {
    let status = data.get("status");
    let number = |field: &str| status.and_then(|s| s.get(field)).and_then(Value::as_i64).unwrap_or(0);
    let count = |field: &str| usize::try_from(number(field)).unwrap_or(0);
    Rollout {
        observed: number("observedGeneration") >= meta.generation.unwrap_or(0),
        desired: count("desiredNumberScheduled"),
        updated: count("updatedNumberScheduled"),
        ready: count("numberReady"),
    }
}

fn owners(meta: &ObjectMeta) -> Vec<Owner> {
    let owner = |o: &OwnerReference| Owner { kind: o.kind.clone(), name: o.name.clone(), uid: o.uid.clone() };
    meta.owner_references.as_deref().unwrap_or_default().iter().map(owner).collect()
}
