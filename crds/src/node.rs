//! The kind `MeshNode`: one neighbourhood; the operator writes who lives there, that node's proxy what it serves.

use k8s_openapi::apimachinery::pkg::apis::meta::v1::Condition;
use kube::{CustomResource, KubeSchema};
use serde::{Deserialize, Serialize};

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
}

/// What this node's proxy reports.
#[derive(KubeSchema, Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct MeshNodeStatus {
    /// The generation of the spec that the proxy has taken in.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub observed_generation: Option<i64>,
    /// `Ready`: the proxy listens and has a configuration.
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
    /// How many entries all `configs[].rejected` have.
    #[serde(default)]
    pub rejected_count: i32,
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
