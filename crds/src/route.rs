//! The kind `MeshRoute`: the routing of the Service of the same name; schema only.

use k8s_openapi::apimachinery::pkg::apis::meta::v1::Condition;
use kube::{CustomResource, KubeSchema};
use serde::{Deserialize, Serialize};

use crate::mesh::Tally;
use crate::rule::RouteRule;

/// What calls to one Service get. Every field is optional; absent ones take the mesh's defaults.
#[derive(CustomResource, KubeSchema, Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
#[kube(
    group = "vicino.dev",
    version = "v1alpha1",
    kind = "MeshRoute",
    plural = "meshroutes",
    singular = "meshroute",
    shortname = "mroute",
    category = "vicino",
    namespaced,
    status = "MeshRouteStatus",
    derive = "PartialEq",
    derive = "Default",
    doc = "MeshRoute says what calls to the Service of the same name get. The operator creates one for every Service of a meshed namespace; add to its spec to change the routing.",
    validation = Rule::new("self.metadata.name.size() <= 63")
        .message("metadata.name must be the name of a Service of this namespace, which has at most 63 characters"),
    printcolumn(name = "Mesh", type_ = "string", json_path = ".status.mesh", description = "The mesh that serves it"),
    printcolumn(name = "Protocol", type_ = "string", json_path = ".status.protocol", description = "Protocol in force"),
    printcolumn(name = "Backends", type_ = "string", json_path = ".status.backends", description = "Services and ports that calls go to"),
    printcolumn(name = "Endpoints", type_ = "string", json_path = ".status.endpoints.summary", description = "Ready endpoints of all"),
    printcolumn(name = "Programmed", type_ = "string", json_path = ".status.programmed.summary", description = "Ready proxies that serve this generation, of all ready proxies"),
    printcolumn(name = "Accepted", type_ = "string", json_path = ".status.conditions[?(@.type=='Accepted')].status", priority = "1", description = "Whether the spec is valid"),
    printcolumn(name = "Reason", type_ = "string", json_path = ".status.conditions[?(@.type=='Ready')].reason", priority = "1", description = "Why Ready is what it is"),
    printcolumn(name = "Age", type_ = "date", json_path = ".metadata.creationTimestamp")
)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct MeshRouteSpec {
    /// Where calls go, by weight. Empty: to the Service itself, at the port that was called.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    #[schemars(length(max = 16))]
    #[x_kube(
        merge_strategy = ListMerge::Map(vec!["name".into()]),
        validation = Rule::new("self.size() == 0 || self.exists(b, b.weight > 0)").message("at least one of spec.backends must have a weight above 0")
    )]
    pub backends: Vec<Backend>,
    /// What some of the calls get instead. With rules, a call that none of them matches is answered with 404; without, every
    /// call goes to the backends. Rules are about HTTP; other protocols go to the backends.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    #[schemars(length(max = 16))]
    pub rules: Vec<RouteRule>,
    /// How long things may take.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub timeouts: Option<Timeouts>,
    /// How often a call of which nothing was sent to an application may go to another endpoint. Absent: the mesh's default.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(range(min = 0, max = 5))]
    pub requeues: Option<i32>,
}

/// One Service that calls go to.
#[derive(KubeSchema, Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct Backend {
    /// Name of a Service in the same namespace.
    #[schemars(length(min = 1, max = 63), regex(pattern = r"^[a-z]([-a-z0-9]*[a-z0-9])?$"))]
    pub name: String,
    /// Port of that Service. Absent: the port that was called.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(range(min = 1, max = 65_535))]
    pub port: Option<i32>,
    /// Share of the calls, relative to the other backends' weights.
    #[serde(default = "weight")]
    #[schemars(range(min = 0, max = 1_000_000))]
    pub weight: i32,
}

fn weight() -> i32 {
    1
}

/// How long things may take. Absent fields take the mesh's defaults.
#[derive(KubeSchema, Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct Timeouts {
    /// Milliseconds that a connection to another node or to a pod may take to open.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(range(min = 1, max = 60_000))]
    pub connect_milliseconds: Option<i32>,
    /// Milliseconds from the request's head to the end of the response; 0 is no limit.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(range(min = 0, max = 86_400_000))]
    pub request_milliseconds: Option<i32>,
}

/// What the operator saw, and what the proxies reported.
#[derive(KubeSchema, Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct MeshRouteStatus {
    /// The generation of the spec that this status is about.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub observed_generation: Option<i64>,
    /// `Ready`, `Accepted`, `Programmed`, and while they apply `Reconciling` and `Stalled`.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    #[x_kube(merge_strategy = ListMerge::Map(vec!["type".into()]))]
    pub conditions: Vec<Condition>,
    /// The mesh that serves it.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub mesh: Option<String>,
    /// Protocol in force.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub protocol: Option<String>,
    /// Services and ports that calls go to, `name:port`, comma-separated.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub backends: Option<String>,
    /// Endpoints of the backends: ready and all.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub endpoints: Option<Tally>,
    /// Ready proxies: those that serve this generation, and all.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub programmed: Option<Tally>,
}
