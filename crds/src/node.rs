//! The kind `MeshNode`: one neighbourhood; the operator writes who lives there, that node's proxy what it serves.

use std::collections::BTreeMap;

use k8s_openapi::apimachinery::pkg::apis::meta::v1::{Condition, Time};
use kube::{CustomResource, KubeSchema};
use serde::{Deserialize, Serialize};

use crate::mesh::IdentityMode;

mod plain;

pub use plain::PlainPorts;

/// One neighbourhood: a node, named as this object, and the pods on it.
#[derive(CustomResource, KubeSchema, Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
#[kube(
    group = "vicino.dev",
    version = "v1alpha1",
    kind = "MeshNode",
    plural = "meshnodes",
    singular = "meshnode",
    shortname = "mnode",
    category = "vicino",
    status = "MeshNodeStatus",
    derive = "PartialEq",
    derive = "Default",
    doc = "MeshNode is one neighbourhood: a node and its pods, as the operator sees them (spec), and what the node's proxy serves, as it reports (status). People read it; nobody needs to write it.",
    printcolumn(name = "Mesh", type_ = "string", json_path = ".spec.mesh"),
    printcolumn(
        name = "Proxy",
        type_ = "string",
        json_path = ".status.proxy.state",
        description = "Ready, Draining or Starting, as the proxy says"
    ),
    printcolumn(name = "Version", type_ = "string", json_path = ".status.proxy.version"),
    printcolumn(
        name = "Routes",
        type_ = "integer",
        json_path = ".status.routes",
        description = "Compiled routes that the proxy serves"
    ),
    printcolumn(
        name = "Rejected",
        type_ = "integer",
        json_path = ".status.rejectedCount",
        description = "Configs that the proxy refused; the last good ones stay in force"
    ),
    printcolumn(name = "Address", type_ = "string", json_path = ".spec.addresses[0]", priority = "1"),
    printcolumn(name = "Zone", type_ = "string", json_path = ".spec.zone", priority = "1"),
    printcolumn(name = "Age", type_ = "date", json_path = ".metadata.creationTimestamp")
)]
#[serde(rename_all = "camelCase")]
pub struct MeshNodeSpec {
    /// The mesh whose proxy runs here.
    pub mesh: String,
    /// Addresses of the node (InternalIP), IPv4 or IPv6.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub addresses: Vec<String>,
    /// `topology.kubernetes.io/zone` of the node; empty when it has none.
    #[serde(default, skip_serializing_if = "String::is_empty")]
    pub zone: String,
    /// The neighbours: pods of this node that have an address of their own and have not ended.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    #[x_kube(merge_strategy = ListMerge::Map(vec!["uid".into()]))]
    pub pods: Vec<Neighbour>,
}

/// A pod of this node.
#[derive(KubeSchema, Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Neighbour {
    /// UID of the pod: an address that is reused belongs to another pod.
    pub uid: String,
    /// Namespace of the pod; short names in its calls resolve there.
    pub namespace: String,
    /// Name of the pod.
    pub name: String,
    /// Service account that it runs as.
    pub service_account: String,
    /// Its addresses, IPv4 and IPv6.
    pub ips: Vec<String>,
    /// Its labels, when its namespace is in the mesh: by these a MeshPolicy selects pods.
    #[serde(default, skip_serializing_if = "BTreeMap::is_empty")]
    #[x_kube(merge_strategy = MapMerge::Atomic)]
    pub labels: BTreeMap<String, String>,
    /// What becomes of TCP connections that come to it around the mesh. Absent for a pod whose namespace is not in the mesh: they are its own affair.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub inbound: Option<IdentityMode>,
    /// Its ports where such connections are taken whatever the mode is, and not counted, as its annotation `vicino.dev/plain-ports` says.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub plain_ports: Vec<i32>,
    /// What is wrong with that annotation, and what would be right.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub plain_ports_problem: Option<String>,
    /// Since when it has its network, as the kubelet says (the pod's condition `PodReadyToStartContainers`). A network link that is younger is not this pod's. Absent while the kubelet does not say.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub network_since: Option<Time>,
}

/// The ports that a pod's annotation `vicino.dev/plain-ports` names are cut after this many.
pub const PLAIN_PORTS_MAX: usize = 64;

/// What this node's proxy reports.
#[derive(KubeSchema, Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct MeshNodeStatus {
    /// The generation of the spec that the proxy has taken in.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub observed_generation: Option<i64>,
    /// `Ready`: the proxy listens and has a configuration. `Guarded`: connections around the mesh to pods of this node are seen, so that they can be counted and refused. `Witnessed`: links of pods are found behind their addresses, so that an address that another pod got is noticed before `spec.pods` says so.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    #[x_kube(merge_strategy = ListMerge::Map(vec!["type".into()]))]
    pub conditions: Vec<Condition>,
    /// The proxy itself.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub proxy: Option<ProxyReport>,
    /// The ConfigMaps that it serves, and at which digest.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    #[x_kube(merge_strategy = ListMerge::Map(vec!["name".into()]))]
    pub configs: Vec<ServedConfig>,
    /// Compiled routes that it serves.
    #[serde(default)]
    pub routes: i32,
    /// The certificates that it has: one for each service account of its pods, and the node's own. Absent while it has neither certificates nor roots.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub certificates: Option<CertificatesReport>,
    /// How many entries all `configs[].rejected` have.
    #[serde(default)]
    pub rejected_count: i32,
    /// Connections that came around the mesh to pods of this node, by Service. At most [`PLAIN_CALLS_MAX`], those that were seen last. Exact figures are metrics of the proxy; this is renewed for a Service when `lastSeen` moves.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub plain_calls: Vec<PlainCalls>,
    /// Calls to pods of this node that MeshPolicies were against. At most [`PLAIN_CALLS_MAX`], those that were seen last, and renewed likewise.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub policy_calls: Vec<PolicyCalls>,
}

/// Services with connections around the mesh that one MeshNode lists.
pub const PLAIN_CALLS_MAX: usize = 100;
/// Whole multiples of so many seconds are what `lastSeen` says, so that status is not written at each connection.
pub const LAST_SEEN_GRAIN_SECONDS: i64 = 300;

/// Connections that came around the mesh to pods of one Service on one node. A pod of several Services counts for each.
#[derive(KubeSchema, Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct PlainCalls {
    /// Namespace of the pods.
    pub namespace: String,
    /// The Service; empty for ports that no Service of the mesh has.
    #[serde(default, skip_serializing_if = "String::is_empty")]
    pub service: String,
    /// Attempts to connect that were let pass (Permissive).
    #[serde(default)]
    pub passed: i64,
    /// Attempts to connect that were refused (Strict).
    #[serde(default)]
    pub refused: i64,
    /// When the last one came, to five minutes.
    pub last_seen: Time,
}

/// Calls that one MeshPolicy was against on one node.
#[derive(KubeSchema, Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct PolicyCalls {
    /// Namespace of the policy.
    pub namespace: String,
    /// Its name.
    pub policy: String,
    /// Calls that it refused.
    #[serde(default)]
    pub denied: i64,
    /// Calls that it would have refused, had its mode not been `Audit`.
    #[serde(default)]
    pub audited: i64,
    /// When the last one came, to five minutes.
    pub last_seen: Time,
}

/// Certificates of a node, and the roots by which it knows those of others.
#[derive(KubeSchema, Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct CertificatesReport {
    /// How many.
    #[serde(default)]
    pub count: i32,
    /// When the first of them ends, which is long after it was to be renewed. Absent while there is none.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub expires: Option<Time>,
    /// Roots that the proxy takes certificates of others by: see [`crate::identity::fingerprint`]; sorted, at most [`ROOTS_REPORTED_MAX`].
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    #[schemars(length(max = ROOTS_REPORTED_MAX))]
    pub roots: Vec<String>,
    /// What is wrong with the roots that it was given last; those in `roots` stay in force. Absent when they are the same.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub roots_problem: Option<String>,
    /// Authorities that have signed the certificates: see [`crate::identity::key_id`]; sorted, at most [`ROOTS_REPORTED_MAX`].
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    #[schemars(length(max = ROOTS_REPORTED_MAX))]
    pub issuers: Vec<String>,
    /// The certificates, the first to end first. At most [`IDENTITIES_REPORTED_MAX`]; `count` says how many there are.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    #[x_kube(merge_strategy = ListMerge::Map(vec!["name".into()]))]
    #[schemars(length(max = IDENTITIES_REPORTED_MAX))]
    pub identities: Vec<HeldCertificate>,
    /// Seconds that the authority's clock was ahead of this node's when it last answered, negative when it was behind. Absent when they agree within [`CLOCK_SKEW_SECONDS_MIN`].
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub clock_skew_seconds: Option<i32>,
}

/// Roots, and issuers, that a report has at most.
pub const ROOTS_REPORTED_MAX: usize = 8;
/// Certificates that a report lists at most.
pub const IDENTITIES_REPORTED_MAX: usize = 64;
/// Clocks that differ by less are not said to differ.
pub const CLOCK_SKEW_SECONDS_MIN: u64 = 10;

/// A certificate that a node has.
#[derive(KubeSchema, Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct HeldCertificate {
    /// Whose it is: a SPIFFE ID.
    pub name: String,
    /// When it ends.
    pub expires: Time,
    /// The authority that has signed it, see [`crate::identity::key_id`].
    #[serde(default, skip_serializing_if = "String::is_empty")]
    pub issuer: String,
}

/// The proxy process that reports.
#[derive(KubeSchema, Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct ProxyReport {
    /// Name of its pod.
    pub pod: String,
    /// Version of the binary.
    pub version: String,
    /// Highest contract version that it understands, see [`crate::contract::CONTRACT_VERSION`].
    pub contract: i32,
    /// `Starting`, `Ready` or `Draining`.
    pub state: String,
    /// Whether it takes hops with TLS.
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    pub secure: bool,
}

/// One generated ConfigMap as this proxy serves it.
#[derive(KubeSchema, Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct ServedConfig {
    /// Name of the ConfigMap.
    pub name: String,
    /// Digest of the data that the proxy took in, see [`crate::contract::digest`].
    pub digest: String,
    /// Keys that it refused; for these the last good content stays in force. At most [`REJECTED_MAX`].
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub rejected: Vec<RejectedKey>,
}

/// More refused keys of one ConfigMap than this are not listed (they are counted).
pub const REJECTED_MAX: usize = 20;

/// A key that the proxy refused.
#[derive(KubeSchema, Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct RejectedKey {
    /// The data key, for example `web.yaml`.
    pub key: String,
    /// Where it is wrong and what would be right.
    pub message: String,
}
