//! The kind `MeshPolicy`: who may call what in its namespace; schema only. The contract carries these types as they are.
//!
//! What a policy says is written so that whatever is not known counts against the call: a caller without identity is none of
//! the named ones, bytes that are no HTTP have no method that an `Allow` could find, a path that can be read in several
//! ways is allowed only when every reading of it is.

use k8s_openapi::apimachinery::pkg::apis::meta::v1::{Condition, Time};
use kube::{CustomResource, KubeSchema};
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use crate::mesh::Tally;
use crate::rule::{GrpcMatch, HeaderMatch, PathMatch};

mod check;
mod selector;

pub use check::check;
pub(crate) use check::{check_block, check_ports, check_source, flaw};
pub use selector::{LabelOperator, LabelRequirement, PodTarget};

/// Nodes that a status names; more are counted.
pub const PENDING_NODES_MAX: usize = 20;

/// Who may call what. A rule with `Deny` of any policy wins; then one with `Allow`; a call that no rule is about gets what the mesh says (`spec.policy.defaultAction` of the ServiceMesh).
#[derive(CustomResource, KubeSchema, Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
#[kube(
    group = "vicino.dev",
    version = "v1alpha1",
    kind = "MeshPolicy",
    plural = "meshpolicies",
    singular = "meshpolicy",
    shortname = "mpol",
    category = "vicino",
    namespaced,
    status = "MeshPolicyStatus",
    derive = "PartialEq",
    derive = "Default",
    doc = "MeshPolicy says who may call what in its namespace: by identity, namespace or address of the caller, and by port, method, path, header or gRPC method of the call. Deny wins over Allow, and calls that no rule is about get what the ServiceMesh says.",
    validation = Rule::new("self.metadata.name.size() <= 63").message("metadata.name must have at most 63 characters"),
    printcolumn(name = "Target", type_ = "string", json_path = ".status.target", description = "What it is about"),
    printcolumn(name = "Mode", type_ = "string", json_path = ".spec.mode", description = "Enforce refuses calls, Audit only says which it would refuse"),
    printcolumn(name = "Programmed", type_ = "string", json_path = ".status.programmed.summary", description = "Ready proxies that serve this generation, of all ready proxies"),
    printcolumn(name = "Denied", type_ = "integer", json_path = ".status.denials.denied", priority = "1", description = "Calls that it refused"),
    printcolumn(name = "Audited", type_ = "integer", json_path = ".status.denials.audited", priority = "1", description = "Calls that it would have refused, had its mode not been Audit"),
    printcolumn(name = "Accepted", type_ = "string", json_path = ".status.conditions[?(@.type=='Accepted')].status", priority = "1", description = "Whether the spec is valid"),
    printcolumn(name = "Reason", type_ = "string", json_path = ".status.conditions[?(@.type=='Ready')].reason", priority = "1", description = "Why Ready is what it is"),
    printcolumn(name = "Targets", type_ = "integer", json_path = ".status.targets", priority = "1", description = "Services that it is about, or pods when it selects pods"),
    printcolumn(name = "Age", type_ = "date", json_path = ".metadata.creationTimestamp")
)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct MeshPolicySpec {
    /// What it is about, always in its own namespace. Empty: every Service.
    #[serde(default)]
    pub target: PolicyTarget,
    /// `Enforce`: it decides. `Audit`: what it would change is reported, and it decides nothing.
    #[serde(default)]
    pub mode: PolicyMode,
    /// Which calls are allowed or denied. Their order does not matter.
    #[schemars(length(min = 1, max = 16))]
    pub rules: Vec<PolicyRule>,
}

/// What a policy is about.
#[derive(KubeSchema, Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
#[x_kube(
    validation = Rule::new("!has(self.service) || !has(self.pods)")
        .message("a policy is about a service or about pods, not about both: write two policies")
)]
pub struct PolicyTarget {
    /// A Service: calls that are delivered to its endpoints, under whichever name they were made. A pod that is behind another Service as well can be called by that one: where this matters, select `pods`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub service: Option<ServiceTarget>,
    /// Pods, by whichever Service they are called.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub pods: Option<PodTarget>,
}

/// A Service that a policy is about.
#[derive(KubeSchema, Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct ServiceTarget {
    /// Its name.
    #[schemars(length(min = 1, max = 63), regex(pattern = crate::pattern::SERVICE))]
    pub name: String,
    /// One of its ports. Absent: all of them.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(range(min = 1, max = 65_535))]
    pub port: Option<i32>,
}

/// Whether a policy decides.
#[derive(JsonSchema, Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub enum PolicyMode {
    /// It does.
    #[default]
    Enforce,
    /// It only says what it would change.
    Audit,
}

/// What becomes of a call.
#[derive(JsonSchema, Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub enum PolicyAction {
    /// It goes on.
    #[default]
    Allow,
    /// It is answered with 403.
    Deny,
}

impl PolicyAction {
    #[expect(clippy::trivially_copy_pass_by_ref, reason = "serde asks so")]
    pub(crate) fn is_allow(&self) -> bool {
        *self == Self::Allow
    }
}

/// Calls, and what becomes of them.
#[derive(KubeSchema, Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct PolicyRule {
    /// For people, in answers, logs and messages; unique in the policy.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(length(min = 1, max = 63), regex(pattern = crate::pattern::LABEL))]
    pub name: Option<String>,
    /// What becomes of calls that it is about.
    pub action: PolicyAction,
    /// Who calls: at least one of these. Empty: anybody.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    #[schemars(length(max = 16))]
    pub from: Vec<PolicySource>,
    /// What is called: at least one of these. Empty: anything.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    #[schemars(length(max = 16))]
    pub to: Vec<PolicyOperation>,
}

/// Callers for whom everything holds that is said; of a list one element.
#[derive(KubeSchema, Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
#[schemars(extend("minProperties" = 1))]
#[x_kube(
    validation = Rule::new("!has(self.unidentified) || !self.unidentified || (!has(self.serviceAccounts) && !has(self.namespaces) && !has(self.trustDomains) && !has(self.notServiceAccounts) && !has(self.notNamespaces))")
        .message("a caller that is unidentified has no service account, namespace or trust domain: give it an entry of its own in from")
)]
pub struct PolicySource {
    /// Service accounts.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    #[schemars(length(max = 32))]
    pub service_accounts: Vec<ServiceAccountName>,
    /// Namespaces of service accounts.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    #[schemars(
        length(max = 32),
        inner(length(min = 1, max = 63), regex(pattern = crate::pattern::LABEL))
    )]
    pub namespaces: Vec<String>,
    /// Trust domains; one `*` stands for any text. Absent: that of the mesh, where anything is said of the identity at all.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    #[schemars(
        length(max = 8),
        inner(length(min = 1, max = 255), regex(pattern = r"^[a-z0-9._-]*\*?[a-z0-9._-]*$"))
    )]
    pub trust_domains: Vec<String>,
    /// All but these. A caller without identity is none of them: a rule with `Deny` is about it, one with `Allow` is not.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    #[schemars(length(max = 32))]
    pub not_service_accounts: Vec<ServiceAccountName>,
    /// All but those of these namespaces, likewise.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    #[schemars(
        length(max = 32),
        inner(length(min = 1, max = 63), regex(pattern = crate::pattern::LABEL))
    )]
    pub not_namespaces: Vec<String>,
    /// Addresses of calling pods, as the proxy of their node saw them (one that is taken over can say others).
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    #[schemars(length(max = 32))]
    pub ip_blocks: Vec<IpBlock>,
    /// All addresses but these. Of a caller whose address nobody saw it takes the worse: a rule with `Deny` is about it, one with `Allow` is not.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    #[schemars(length(max = 32))]
    pub not_ip_blocks: Vec<IpBlock>,
    /// Callers of whom nothing is proven: those without certificate, and processes of a node itself.
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    pub unidentified: bool,
}

/// A service account.
#[derive(KubeSchema, Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct ServiceAccountName {
    /// Its namespace. Absent: that of the MeshPolicy; in a ServiceMesh it has to be said.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(length(min = 1, max = 63), regex(pattern = crate::pattern::LABEL))]
    pub namespace: Option<String>,
    /// Its name.
    #[schemars(length(min = 1, max = 253), regex(pattern = crate::pattern::DOTTED))]
    pub name: String,
}

/// A block of addresses.
#[derive(KubeSchema, Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct IpBlock {
    /// The block, for example `10.1.0.0/16` or `fd00::/64`.
    #[schemars(length(min = 1, max = 49), regex(pattern = crate::pattern::BLOCK))]
    pub cidr: String,
    /// Blocks within it that are left out.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    #[schemars(
        length(max = 16),
        inner(length(min = 1, max = 49), regex(pattern = crate::pattern::BLOCK))
    )]
    pub except: Vec<String>,
}

/// Calls for which everything holds that is said; of a list one element. Of bytes that are no HTTP, and of paths that cannot be read, it takes the worse: a condition on method, path or header holds in a rule with `Deny`, and does not in one with `Allow`.
#[derive(KubeSchema, Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
#[schemars(extend("minProperties" = 1))]
#[x_kube(
    validation = Rule::new("!has(self.grpc) || (!has(self.methods) && !has(self.paths) && !has(self.notMethods) && !has(self.notPaths))")
        .message("an entry of to says gRPC methods, or HTTP methods and paths, not both: a gRPC call is POST /service/method")
)]
pub struct PolicyOperation {
    /// Ports of the Service.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    #[schemars(length(max = 16), inner(range(min = 1, max = 65_535)))]
    pub ports: Vec<i32>,
    /// Methods; case matters, as in HTTP.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    #[schemars(length(max = 16), inner(length(min = 1, max = 32), regex(pattern = crate::pattern::METHOD)))]
    pub methods: Vec<String>,
    /// Paths, without the query, of the call as it is forwarded. They are compared with every way in which an application may read the path: with percent-encoding decoded or not, `.` and `..` resolved, slashes merged, parameters (`;`) taken out or not. Case matters.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    #[schemars(length(max = 16))]
    pub paths: Vec<PathMatch>,
    /// Header fields, all of which the call must have. Of a field that is there twice, one value is enough for `Deny`; `Allow` wants it of every value.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    #[schemars(length(max = 16))]
    #[x_kube(merge_strategy = ListMerge::Map(vec!["name".into()]))]
    pub headers: Vec<HeaderMatch>,
    /// gRPC methods.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    #[schemars(length(max = 16))]
    pub grpc: Vec<GrpcMatch>,
    /// All ports but these.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    #[schemars(length(max = 16), inner(range(min = 1, max = 65_535)))]
    pub not_ports: Vec<i32>,
    /// All methods but these.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    #[schemars(length(max = 16), inner(length(min = 1, max = 32), regex(pattern = crate::pattern::METHOD)))]
    pub not_methods: Vec<String>,
    /// All paths but these.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    #[schemars(length(max = 16))]
    pub not_paths: Vec<PathMatch>,
}

/// What the operator saw, and what the proxies reported.
#[derive(KubeSchema, Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct MeshPolicyStatus {
    /// The generation of the spec that this status is about.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub observed_generation: Option<i64>,
    /// `Ready`, `Accepted`, `Programmed`, and while they apply `Reconciling` and `Stalled`.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    #[x_kube(merge_strategy = ListMerge::Map(vec!["type".into()]))]
    pub conditions: Vec<Condition>,
    /// The mesh whose proxies enforce it.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub mesh: Option<String>,
    /// What it is about, in words.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub target: Option<String>,
    /// Services that it is about now, or pods when it selects pods.
    #[serde(default)]
    pub targets: i32,
    /// Ready proxies: those that serve this generation, and all.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub programmed: Option<Tally>,
    /// Nodes with a ready proxy that does not serve it yet; the first 20 by name.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub pending_nodes: Vec<String>,
    /// Calls that it was against, as the proxies of all nodes reported them. Absent while there was none.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub denials: Option<PolicyDenials>,
}

/// Calls that a policy was against, on all nodes. Exact figures are metrics of the proxies (`vicino_proxy_policy_denied_total`); these are some minutes behind.
#[derive(KubeSchema, Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct PolicyDenials {
    /// Calls that it refused.
    #[serde(default)]
    pub denied: i64,
    /// Calls that it would have refused, had its mode not been `Audit`.
    #[serde(default)]
    pub audited: i64,
    /// When the last one came, to five minutes.
    pub last_seen: Time,
}
