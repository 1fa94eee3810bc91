//! The kind `ServiceMesh`: where proxies run and what every route of the mesh gets by default; schema only.

use std::collections::BTreeMap;
use std::time::Duration;

use k8s_openapi::api::core::v1::{ResourceRequirements, Toleration};
use k8s_openapi::apimachinery::pkg::apis::meta::v1::Condition;
use kube::{CustomResource, KubeSchema};
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use crate::egress::EgressSpec;
use crate::policy::PolicyAction;

/// What a user asks of a mesh. Every field has a default, so `spec: {}` is a working mesh.
#[derive(CustomResource, KubeSchema, Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
#[kube(
    group = "vicino.dev",
    version = "v1alpha1",
    kind = "ServiceMesh",
    plural = "servicemeshes",
    singular = "servicemesh",
    shortname = "mesh",
    category = "vicino",
    status = "ServiceMeshStatus",
    derive = "PartialEq",
    derive = "Default",
    doc = "ServiceMesh runs one proxy per node and meshes every namespace that carries the label vicino.dev/mesh with its name.",
    validation = Rule::new("self.metadata.name.size() <= 40 && self.metadata.name.matches('^[a-z0-9]([-a-z0-9]*[a-z0-9])?$')")
        .message("metadata.name must be at most 40 lower-case letters, digits and '-', since it becomes part of ConfigMap and DaemonSet names and a label value"),
    validation = Rule::new("!self.metadata.name.matches('-(nodes|policies|routes)(-|$)')")
        .message("metadata.name must not have '-nodes', '-policies' or '-routes' in it as a word, since generated ConfigMaps of other meshes are called so: vicino-<mesh>-nodes, vicino-<mesh>-routes-<namespace>"),
    validation = Rule::new("(has(self.spec.identity.trustDomain) ? self.spec.identity.trustDomain : self.spec.clusterDomain) == (has(oldSelf.spec.identity.trustDomain) ? oldSelf.spec.identity.trustDomain : oldSelf.spec.clusterDomain)")
        .message("spec.identity.trustDomain, or spec.clusterDomain where that is absent, cannot be changed: proxies with certificates of one trust domain refuse those of another, so calls between nodes would fail; write the trust domain that the mesh has, or delete the mesh and make it anew"),
    printcolumn(name = "Ready", type_ = "string", json_path = ".status.conditions[?(@.type=='Ready')].status", description = "Whether every selected node's proxy is ready and the mesh is as its spec says"),
    printcolumn(name = "Proxies", type_ = "string", json_path = ".status.proxies.summary", description = "Ready proxies of those that should run"),
    printcolumn(name = "Services", type_ = "integer", json_path = ".status.services", description = "Services that have a route"),
    printcolumn(name = "Programmed", type_ = "string", json_path = ".status.routes.summary", description = "Routes that every ready proxy serves, of all"),
    printcolumn(name = "Namespaces", type_ = "integer", json_path = ".status.namespaces", priority = "1", description = "Meshed namespaces"),
    printcolumn(name = "Reason", type_ = "string", json_path = ".status.conditions[?(@.type=='Ready')].reason", priority = "1", description = "Why Ready is what it is"),
    printcolumn(name = "Age", type_ = "date", json_path = ".metadata.creationTimestamp")
)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct ServiceMeshSpec {
    /// The proxies: image, where they run, what they may use.
    #[serde(default)]
    pub proxy: ProxySpec,
    /// How calls of applications reach the proxy of their node.
    #[serde(default)]
    pub interception: InterceptionSpec,
    /// Who workloads are, and what proxies ask of each other.
    #[serde(default)]
    pub identity: IdentitySpec,
    /// What every route of this mesh gets unless its MeshRoute says otherwise.
    #[serde(default)]
    pub defaults: RouteDefaults,
    /// What becomes of calls that no MeshPolicy is about.
    #[serde(default)]
    pub policy: PolicyDefaults,
    /// What pods may call outside the mesh, through their node's proxy.
    #[serde(default, skip_serializing_if = "EgressSpec::is_closed")]
    pub egress: EgressSpec,
    /// DNS domain of the cluster, the part after `svc.` in a Service's full name.
    #[serde(default = "cluster_domain")]
    #[schemars(length(min = 1, max = 253), regex(pattern = crate::pattern::DOTTED))]
    pub cluster_domain: String,
}

/// The proxies: one per selected node.
#[derive(KubeSchema, Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct ProxySpec {
    /// Container image of the proxy; when absent, the one that the operator was released with.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(length(min = 1, max = 512))]
    pub image: Option<String>,
    /// When the kubelet pulls the image.
    #[serde(default)]
    pub image_pull_policy: PullPolicy,
    /// Worker threads of each proxy; 0 is one per core of the node.
    #[serde(default)]
    #[schemars(range(min = 0, max = 64))]
    pub workers: i32,
    /// How much the proxies log.
    #[serde(default)]
    pub log_level: LogLevel,
    /// Seconds that a stopping proxy gives open requests before it closes them.
    #[serde(default = "drain_seconds")]
    #[schemars(range(min = 1, max = 3600))]
    pub drain_seconds: i32,
    /// Nodes that get a proxy: those with all of these labels. Empty selects every Linux node.
    #[serde(default, skip_serializing_if = "BTreeMap::is_empty")]
    #[x_kube(
        validation = Rule::new("self.size() <= 20").message("spec.proxy.nodeSelector may have at most 20 labels"),
        validation = Rule::new("!('kubernetes.io/os' in self) || self['kubernetes.io/os'] == 'linux'")
            .message("spec.proxy.nodeSelector: kubernetes.io/os can only be linux, on which proxies run")
    )]
    pub node_selector: BTreeMap<String, String>,
    /// Taints that proxies tolerate. Absent: all of them, because a node without a proxy is outside the mesh.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(length(max = 64))]
    pub tolerations: Option<Vec<Toleration>>,
    /// Compute resources of each proxy. Absent: requests of 100m CPU and 64Mi memory, no limits.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub resources: Option<ResourceRequirements>,
    /// PriorityClass of the proxies.
    #[serde(default = "priority_class")]
    #[schemars(length(min = 1, max = 253))]
    pub priority_class_name: String,
}

impl Default for ProxySpec {
    fn default() -> Self {
        Self {
            image: None,
            image_pull_policy: PullPolicy::default(),
            workers: 0,
            log_level: LogLevel::default(),
            drain_seconds: drain_seconds(),
            node_selector: BTreeMap::new(),
            tolerations: None,
            resources: None,
            priority_class_name: priority_class(),
        }
    }
}

/// When the kubelet pulls the proxies' image.
#[derive(JsonSchema, Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub enum PullPolicy {
    /// Only when the node does not have it.
    #[default]
    IfNotPresent,
    /// At every start of a proxy.
    Always,
    /// Never; the node must have it.
    Never,
}

impl PullPolicy {
    /// The word of the core API.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::IfNotPresent => "IfNotPresent",
            Self::Always => "Always",
            Self::Never => "Never",
        }
    }
}

/// How much the proxies log.
#[derive(JsonSchema, Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub enum LogLevel {
    /// Failures only.
    Error,
    /// And what may need attention.
    Warn,
    /// And what changes: configuration, connections to other nodes.
    #[default]
    Info,
    /// And each connection.
    Debug,
}

impl LogLevel {
    /// The word that the proxy's `--log-level` takes.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Error => "error",
            Self::Warn => "warn",
            Self::Info => "info",
            Self::Debug => "debug",
        }
    }
}

/// How calls of applications reach the proxy of their node.
#[derive(KubeSchema, Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct InterceptionSpec {
    /// `Explicit`: applications name the proxy themselves, with `http_proxy=http://$(NODE_IP):4140` or by calling it with a Host header.
    #[serde(default)]
    pub mode: InterceptionMode,
}

/// How calls reach the proxy.
#[derive(JsonSchema, Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub enum InterceptionMode {
    /// Applications send to port 4140 of their node.
    #[default]
    Explicit,
}

/// Who workloads are: SPIFFE IDs, `spiffe://<trust domain>/ns/<namespace>/sa/<service account>`, proven by certificates of the operator's authority.
#[derive(KubeSchema, Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct IdentitySpec {
    /// `Permissive`: nodes use mutual TLS between each other where both have certificates, and calls that come otherwise are taken and counted.
    /// `Strict`: only calls that come by mutual TLS are taken; connections around the mesh to its pods are refused.
    #[serde(default)]
    pub mode: IdentityMode,
    /// The trust domain of all identities; when absent, the cluster's domain. Certificates of one trust domain are of no use in another, so it
    /// stays as it is as long as the mesh exists.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(length(min = 1, max = 255), regex(pattern = r"^[a-z0-9._-]+$"))]
    pub trust_domain: Option<String>,
    /// Seconds that a certificate is good for; it is renewed when two thirds of them are over.
    #[serde(default = "certificate_lifetime_seconds")]
    #[schemars(range(min = 600, max = 7_776_000))]
    pub certificate_lifetime_seconds: i32,
}

impl Default for IdentitySpec {
    fn default() -> Self {
        Self {
            mode: IdentityMode::default(),
            trust_domain: None,
            certificate_lifetime_seconds: certificate_lifetime_seconds(),
        }
    }
}

impl IdentitySpec {
    /// How long a certificate is good for.
    pub fn lifetime(&self) -> Duration {
        Duration::from_secs(u64::try_from(self.certificate_lifetime_seconds).unwrap_or_default())
    }
}

/// What is asked of whoever calls.
#[derive(JsonSchema, Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
pub enum IdentityMode {
    /// Certificates where there are some.
    #[default]
    Permissive,
    /// Nothing without certificates.
    Strict,
}

/// What becomes of calls that no rule of a MeshPolicy is about.
#[derive(KubeSchema, Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct PolicyDefaults {
    /// `Allow`: they go on. `Deny`: only calls go on that some policy allows; recommended once every Service has one.
    #[serde(default)]
    pub default_action: PolicyAction,
}

impl ServiceMeshSpec {
    /// The trust domain of the mesh's identities.
    pub fn trust_domain(&self) -> &str {
        self.identity.trust_domain.as_deref().unwrap_or(&self.cluster_domain)
    }
}

/// Defaults of routes. Units are in the names.
#[derive(KubeSchema, Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct RouteDefaults {
    /// Milliseconds that a connection to another node or to a pod may take to open.
    #[serde(default = "connect_timeout_milliseconds")]
    #[schemars(range(min = 1, max = 60_000))]
    pub connect_timeout_milliseconds: i32,
    /// Milliseconds from the request's head to the end of the response; 0 is no limit.
    #[serde(default)]
    #[schemars(range(min = 0, max = 86_400_000))]
    pub request_timeout_milliseconds: i32,
    /// How often a call of which nothing was sent to an application may go to another endpoint.
    #[serde(default = "requeues")]
    #[schemars(range(min = 0, max = 5))]
    pub requeues: i32,
}

impl Default for RouteDefaults {
    fn default() -> Self {
        Self {
            connect_timeout_milliseconds: connect_timeout_milliseconds(),
            request_timeout_milliseconds: 0,
            requeues: requeues(),
        }
    }
}

fn certificate_lifetime_seconds() -> i32 {
    24 * 60 * 60
}
fn cluster_domain() -> String {
    "cluster.local".to_owned()
}
fn drain_seconds() -> i32 {
    30
}
fn priority_class() -> String {
    "system-node-critical".to_owned()
}
fn connect_timeout_milliseconds() -> i32 {
    1000
}
fn requeues() -> i32 {
    1
}

/// What the operator saw and did.
#[derive(KubeSchema, Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct ServiceMeshStatus {
    /// The generation of the spec that this status is about.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub observed_generation: Option<i64>,
    /// `Ready`, `Accepted`, `IdentityReady`, and while they apply `EgressProgrammed`, `Reconciling` and `Stalled`.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    #[x_kube(merge_strategy = ListMerge::Map(vec!["type".into()]))]
    pub conditions: Vec<Condition>,
    /// Proxies: ready and wanted.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub proxies: Option<Tally>,
    /// Routes: programmed and all.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub routes: Option<Tally>,
    /// Services that have a route.
    #[serde(default)]
    pub services: i32,
    /// Namespaces in the mesh.
    #[serde(default)]
    pub namespaces: i32,
}

/// A count of something out of all of it.
#[derive(KubeSchema, Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Tally {
    /// Those that are as they should be.
    pub ready: i32,
    /// All of them.
    pub total: i32,
    /// `ready/total`, for the columns of kubectl.
    pub summary: String,
}

impl Tally {
    /// Counts saturate at `i32::MAX`.
    pub fn new(ready: usize, total: usize) -> Self {
        let clamp = |n: usize| i32::try_from(n).unwrap_or(i32::MAX);
        Self { ready: clamp(ready), total: clamp(total), summary: format!("{ready}/{total}") }
    }
}
