//! The kind `MeshRoute`: the routing of the Service of the same name; schema only.

use k8s_openapi::apimachinery::pkg::apis::meta::v1::{Condition, Time};
use kube::{CustomResource, KubeSchema};
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use crate::mesh::{IdentityMode, Tally};
use crate::rule::{HeaderModifier, RouteRule};

mod check;

pub use check::check;
pub(crate) use check::{check_affinity, check_rule};

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
    printcolumn(name = "Plain", type_ = "date", json_path = ".status.plainCallers.lastSeen", priority = "1", description = "How long ago the last connection came around the mesh"),
    printcolumn(name = "Age", type_ = "date", json_path = ".metadata.creationTimestamp")
)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct MeshRouteSpec {
    /// Where calls go, by weight. Empty: to the Service itself, at the port that was called. A call goes to the pods of the backend that is picked, whatever backends, rules and overrides that Service has in its own MeshRoute: two
    /// Services may name each other, and no call goes round in a loop.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    #[schemars(length(max = 16))]
    #[x_kube(
        validation = Rule::new("self.size() == 0 || self.exists(b, b.weight > 0)").message("at least one of spec.backends must have a weight above 0")
    )]
    pub backends: Vec<Backend>,
    /// What ports of the Service speak, where neither their `appProtocol` nor their name says so, or not rightly, as in a Service that others write.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    #[schemars(length(max = 64))]
    #[x_kube(merge_strategy = ListMerge::Map(vec!["port".into()]))]
    pub ports: Vec<RoutePort>,
    /// Services that a call may ask for instead of the backends, whichever rule it falls under, by the header field `vicino-route: <this Service>=<other>`; pairs for several Services are separated by commas, and a
    /// Service of another namespace is `<name>.<namespace>`. The application sees the field, and passes it on with calls of its own. A call that asks for another Service is answered with 403.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    #[schemars(length(max = 16))]
    pub overrides: Vec<Override>,
    /// What some of the calls get instead. With rules, a call that none of them matches is answered with 404; without, every
    /// call goes to the backends. Rules are about HTTP; other protocols go to the backends.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    #[schemars(length(max = 16))]
    pub rules: Vec<RouteRule>,
    /// How long things may take.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub timeouts: Option<Timeouts>,
    /// Which calls go to the same pod, for applications that keep something in it. Absent: each call goes where there is room.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub affinity: Option<Affinity>,
    /// By what the pod is chosen that gets a call, where `affinity` does not say so already. Absent: `LeastRequest`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub load_balancer: Option<LoadBalancer>,
    /// How many calls the pods of this Service take at a time, and how the others wait. Absent: as many as come.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub concurrency: Option<Concurrency>,
    /// How many calls each node lets through to this Service. Absent: all.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub rate_limit: Option<RateLimit>,
    /// When a pod whose calls fail is left out for a while. Absent: never.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub circuit_breaker: Option<CircuitBreaker>,
    /// Which failed calls are repeated. Absent: none.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub retry: Option<Retry>,
    /// Which calls are sent once more when their answer takes long. Absent: none.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub hedge: Option<Hedge>,
    /// How often a call of which nothing was sent to an application may go to another endpoint. Absent: the mesh's default.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(range(min = 0, max = 5))]
    pub requeues: Option<i32>,
    /// What is asked of whoever calls this Service, otherwise than the mesh asks: for the time in which callers move into the mesh.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub identity: Option<RouteIdentity>,
}

/// What is asked of whoever calls a Service.
#[derive(KubeSchema, Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct RouteIdentity {
    /// `Permissive`: connections around the mesh to the ports that this Service has at its pods are taken, and counted. `Strict`: they are refused.
    /// Where Services that share a port of a pod differ, Permissive holds, and the MeshNode's condition `Guarded` says so. `Strict` refuses calls over hops without TLS, too; `Permissive` does not let them in where the mesh is Strict.
    pub mode: IdentityMode,
}

/// What one port of the Service speaks.
#[derive(KubeSchema, Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct RoutePort {
    /// Number of the port, as the Service says it.
    #[schemars(range(min = 1, max = 65_535))]
    pub port: i32,
    /// What is spoken there: `HTTP`, in the version that the caller speaks, or in a tunnel whatever the first bytes say; `HTTP/1.1` or `HTTP/2` (with prior knowledge; gRPC is), whatever the caller speaks; `TCP`: something
    /// else, TLS too, so that a tunnel is passed through at once, whoever speaks first.
    pub protocol: PortProtocol,
}

/// What is spoken on a port.
#[derive(JsonSchema, Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum PortProtocol {
    /// HTTP in the version that the caller speaks, or in a tunnel whatever the first bytes say.
    #[serde(rename = "HTTP")]
    Http,
    /// HTTP/1.1, also for callers that speak HTTP/2.
    #[serde(rename = "HTTP/1.1")]
    Http1,
    /// HTTP/2 with prior knowledge, also for callers that speak HTTP/1.1; gRPC is.
    #[serde(rename = "HTTP/2")]
    Http2,
    /// Something else, TLS too: a tunnel to it is passed through at once, whoever speaks first.
    #[serde(rename = "TCP")]
    Tcp,
}

impl PortProtocol {
    /// The word in documents and statuses.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Http => "HTTP",
            Self::Http1 => "HTTP/1.1",
            Self::Http2 => "HTTP/2",
            Self::Tcp => "TCP",
        }
    }
}

/// One Service that calls go to.
#[derive(KubeSchema, Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct Backend {
    /// Name of a Service.
    #[schemars(length(min = 1, max = 63), regex(pattern = crate::pattern::SERVICE))]
    pub name: String,
    /// Its namespace. Absent: that of the MeshRoute. Another one has to say by a `ReferenceGrant` (`gateway.networking.k8s.io`) that MeshRoutes of this namespace may refer to its Services.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(length(min = 1, max = 63), regex(pattern = crate::pattern::LABEL))]
    pub namespace: Option<String>,
    /// Port of that Service. Absent: the port that was called.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(range(min = 1, max = 65_535))]
    pub port: Option<i32>,
    /// Share of the calls, relative to the other backends' weights.
    #[serde(default = "weight")]
    #[schemars(range(min = 0, max = 1_000_000))]
    pub weight: i32,
    /// Changes to the request's header on the way to this backend, after those of the rule.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub request_header_modifier: Option<HeaderModifier>,
    /// Changes to the response's header on the way back from it, before those of the rule.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub response_header_modifier: Option<HeaderModifier>,
}

/// One Service that a call may ask for.
#[derive(KubeSchema, Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct Override {
    /// Name of a Service.
    #[schemars(length(min = 1, max = 63), regex(pattern = crate::pattern::SERVICE))]
    pub name: String,
    /// Its namespace, as for a backend.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(length(min = 1, max = 63), regex(pattern = crate::pattern::LABEL))]
    pub namespace: Option<String>,
    /// Port of that Service. Absent: the port that was called; where it has none, calls to that port cannot ask for it.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(range(min = 1, max = 65_535))]
    pub port: Option<i32>,
}

fn weight() -> i32 {
    1
}

/// How long things may take. Absent fields take the mesh's defaults.
#[derive(JsonSchema, Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
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
    /// Milliseconds without anything of a call from either side, also in tunnels and WebSockets; 0, as it is by default, is no limit. A call for which an application is silent for longer is answered with 504.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(range(min = 0, max = 86_400_000))]
    pub idle_milliseconds: Option<i32>,
}

/// Calls with the same key go to the same pod while it is ready and below its limit; when pods come or go, only the keys that led to those move. A call without the key goes where there is room.
#[derive(KubeSchema, Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
#[x_kube(
    validation = Rule::new("self.type == 'Source' ? !has(self.name) : has(self.name)").message("name says which header, cookie or query parameter; type Source has no name"),
    validation = Rule::new("!has(self.setCookie) || (self.type == 'Cookie' && has(self.name) && self.name.matches('^[A-Za-z0-9_.-]+$'))")
        .message("setCookie goes with type Cookie, and with a name of letters, digits, '_', '.' and '-'")
)]
pub struct Affinity {
    /// What the key is.
    #[serde(rename = "type")]
    pub kind: AffinityType,
    /// Name of the header field, cookie or query parameter.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(length(min = 1, max = 128))]
    pub name: Option<String>,
    /// Gives a caller that comes without the cookie one of its own, with a random value, for the path `/` and out of reach of scripts. Absent: only the application sets it.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub set_cookie: Option<SetCookie>,
    /// A pod that has more calls at a time than this percentage of the average of all has no further ones of its keys: they go to the next in the order that belongs to the key, so that one busy key does not
    /// lie on one pod. Absent: only `concurrency` bounds what a pod has.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(range(min = 101, max = 1000))]
    pub max_load_percent: Option<i32>,
}

impl Affinity {
    /// Whether `setCookie` is absent, or goes with the other fields.
    pub fn may_set_cookie(&self) -> bool {
        let is_plain = |name: &String| {
            !name.is_empty() && name.bytes().all(|b| b.is_ascii_alphanumeric() || b"_.-".contains(&b))
        };
        self.set_cookie.is_none()
            || (self.kind == AffinityType::Cookie && self.name.as_ref().is_some_and(is_plain))
    }
}

/// The cookie that the mesh sets.
#[derive(KubeSchema, Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct SetCookie {
    /// Seconds that it lives. Absent: as long as the browser is open.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(range(min = 1, max = 31_536_000))]
    pub max_age_seconds: Option<i32>,
}

/// What calls that belong together have in common.
#[derive(JsonSchema, Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum AffinityType {
    /// The value of a header field.
    Header,
    /// A cookie.
    Cookie,
    /// A query parameter.
    QueryParam,
    /// The address of the calling pod.
    Source,
}

/// By what the proxy of the callers' node chooses a node that has pods of this Service, and that node's proxy one of them. Whichever route leads to the Service, this holds.
#[derive(KubeSchema, Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct LoadBalancer {
    /// The algorithm.
    #[serde(default, rename = "type")]
    pub kind: LoadBalancerType,
}

/// By what a pod is chosen.
#[derive(JsonSchema, Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub enum LoadBalancerType {
    /// The one with the least calls in flight, of which its node's proxy knows the exact number; of two nodes drawn by lot the one with less in flight for each pod.
    #[default]
    LeastRequest,
    /// As `LeastRequest`, but with the calls in flight weighed by the time that calls have lately taken there: for pods that are not equally fast.
    PeakEwma,
    /// One after the other.
    RoundRobin,
    /// By lot.
    Random,
}

/// How many calls a pod takes at a time. The proxy of the pod's node knows exactly how many there are, since all calls of the mesh come through it; whoever comes when all of its pods are
/// at the limit waits there in one line and gets the first pod that is free. Whichever route leads to the Service, this limit holds.
#[derive(KubeSchema, Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
#[x_kube(
    validation = Rule::new("!has(self.adaptive) || self.adaptive.minPerPod <= self.perPod").message("adaptive.minPerPod must not be above perPod")
)]
pub struct Concurrency {
    /// Calls that one pod has at most.
    #[schemars(range(min = 1, max = 100_000))]
    pub per_pod: i32,
    /// Finds out for each pod how many calls it takes, up to `perPod`: one more while they are as quick as they should be, fewer when they are not. Absent: as many as `perPod`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub adaptive: Option<AdaptiveConcurrency>,
    /// How calls wait.
    #[serde(default)]
    pub queue: Queue,
}

/// When calls take too long.
#[derive(KubeSchema, Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct AdaptiveConcurrency {
    /// Milliseconds that calls should take on average, from the pod's being given one to the beginning of its answer; twice what they take when the pod has nothing else to do is a good start.
    #[schemars(range(min = 1, max = 600_000))]
    pub target_milliseconds: i32,
    /// A pod has at least so many, however long they take.
    #[serde(default = "min_per_pod")]
    #[schemars(range(min = 1, max = 100_000))]
    pub min_per_pod: i32,
}

fn min_per_pod() -> i32 {
    1
}

/// How calls wait for a pod, on each node that has some.
#[derive(KubeSchema, Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct Queue {
    /// Calls that wait on one node for one port. The next one goes to another node, or is answered with 503 `queue-full`.
    #[serde(default = "queue_length")]
    #[schemars(range(min = 0, max = 100_000))]
    pub length: i32,
    /// Milliseconds that a call waits; then it goes to another node, or is answered with 503 `queue-timeout`.
    #[serde(default = "queue_timeout")]
    #[schemars(range(min = 1, max = 60_000))]
    pub timeout_milliseconds: i32,
    /// Milliseconds that a call waits at most once there has been a line for all of `timeoutMilliseconds`, which is then no burst: calls that are served are served soon, and the others are told soon. Absent: as long as ever.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(range(min = 1, max = 60_000))]
    pub standing_timeout_milliseconds: Option<i32>,
}

impl Default for Queue {
    fn default() -> Self {
        Self {
            length: queue_length(),
            timeout_milliseconds: queue_timeout(),
            standing_timeout_milliseconds: None,
        }
    }
}

fn queue_length() -> i32 {
    100
}
fn queue_timeout() -> i32 {
    1000
}

/// How many calls the proxy of the callers' node lets through; the others are answered with 429 `rate-limited` and `Retry-After`, or to gRPC clients with UNAVAILABLE. Every node counts by itself.
#[derive(KubeSchema, Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct RateLimit {
    /// Calls a second, in the long run.
    #[schemars(range(min = 1, max = 1_000_000))]
    pub requests_per_second: i32,
    /// Calls that may come at once after a rest. Absent: as many as there may be in a second.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(range(min = 1, max = 1_000_000))]
    pub burst: Option<i32>,
    /// Which calls share the limit. Absent: all of them.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub key: Option<RateLimitKey>,
}

/// What calls that share a limit have in common.
#[derive(KubeSchema, Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
#[x_kube(
    validation = Rule::new("self.type == 'Header' ? has(self.name) : !has(self.name)").message("name says which header; with another type than Header it must be absent")
)]
pub struct RateLimitKey {
    /// What it is.
    #[serde(rename = "type")]
    pub kind: RateLimitKeyType,
    /// Name of the header field.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(length(min = 1, max = 128), regex(pattern = crate::pattern::FIELD))]
    pub name: Option<String>,
}

/// What calls that share a limit have in common.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub enum RateLimitKeyType {
    /// The value of a header field; calls without it share a limit as well.
    Header,
    /// The calling pod.
    Source,
    /// The calling pod's service account.
    ServiceAccount,
}

/// When a pod of this Service is left out, for how long, and how it comes back: after that time one call tries it; when that one is served well the pod has its share again, else it is left out for
/// twice as long. The proxy of the pod's node judges it by all of its calls, whichever route leads to the Service. While every pod is left out, calls go to them all the same.
#[derive(KubeSchema, Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
#[x_kube(
    validation = Rule::new("self.maxEjectionMilliseconds >= self.ejectionMilliseconds").message("maxEjectionMilliseconds must not be below ejectionMilliseconds")
)]
pub struct CircuitBreaker {
    /// Statuses that are failures, whether the pod answers so or the mesh has to, as with 502 when the pod closes before it has answered. gRPC's statuses count as what they mean in HTTP:
    /// UNAVAILABLE as 503, INTERNAL and UNKNOWN as 500, `DEADLINE_EXCEEDED` as 504.
    #[serde(default = "failures")]
    #[schemars(length(min = 1, max = 16), inner(range(min = 400, max = 599)))]
    pub codes: Vec<i32>,
    /// So many failures in a row put a pod out.
    #[serde(default = "consecutive_failures")]
    #[schemars(range(min = 1, max = 1000))]
    pub consecutive_failures: i32,
    /// So many failures of a hundred calls put it out, too, however they lie. Absent: their share does not matter.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(range(min = 1, max = 100))]
    pub failure_percent: Option<i32>,
    /// The share is looked at when a pod had so many calls within ten seconds.
    #[serde(default = "minimum_calls")]
    #[schemars(range(min = 1, max = 100_000))]
    pub minimum_calls: i32,
    /// Milliseconds that a pod is out for the first time.
    #[serde(default = "ejection")]
    #[schemars(range(min = 100, max = 3_600_000))]
    pub ejection_milliseconds: i32,
    /// Milliseconds that it is out at most, however often it has failed.
    #[serde(default = "max_ejection")]
    #[schemars(range(min = 100, max = 3_600_000))]
    pub max_ejection_milliseconds: i32,
    /// Of the Service's pods, and of those on each node, at most this share is out, in percent, but one may always be.
    #[serde(default = "max_ejected_percent")]
    #[schemars(range(min = 1, max = 100))]
    pub max_ejected_percent: i32,
}

fn failures() -> Vec<i32> {
    vec![500, 502, 503, 504]
}
fn consecutive_failures() -> i32 {
    5
}
fn minimum_calls() -> i32 {
    20
}
fn ejection() -> i32 {
    10_000
}
fn max_ejection() -> i32 {
    300_000
}
fn max_ejected_percent() -> i32 {
    50
}

/// Calls whose answer has not begun after a while are sent to another pod, too; the answer that begins first counts, and the other attempt is given up. Only calls whose method is idempotent, whose request is at hand (bodies up
/// to 64 KiB), and which no `affinity` binds to a pod. An application may have to do such a call twice.
#[derive(KubeSchema, Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
#[x_kube(
    validation = Rule::new("self.budgetPercent > 0 || self.minPerSecond > 0").message("without a budget nothing is hedged: budgetPercent or minPerSecond must be above 0, or hedge be left out")
)]
pub struct Hedge {
    /// Milliseconds after which a call is sent once more; a little above what 95 of 100 calls take is a good start.
    #[schemars(range(min = 1, max = 60_000))]
    pub delay_milliseconds: i32,
    /// Of a hundred calls to the Service so many may be sent once more, in the long run.
    #[serde(default = "hedge_percent")]
    #[schemars(range(min = 0, max = 100))]
    pub budget_percent: i32,
    /// And so many each second, however few calls there are.
    #[serde(default = "hedge_per_second")]
    #[schemars(range(min = 0, max = 10_000))]
    pub min_per_second: i32,
}

fn hedge_percent() -> i32 {
    5
}
fn hedge_per_second() -> i32 {
    1
}

/// Which failed calls are repeated. A call is repeated only while nothing of its response has been passed on, its request is still at hand (bodies up to 64 KiB), its
/// time allows another attempt, and the budget does.
#[derive(KubeSchema, Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
#[x_kube(
    validation = Rule::new("self.budgetPercent > 0 || self.minPerSecond > 0").message("without a budget nothing is repeated: budgetPercent or minPerSecond must be above 0, or retry be left out")
)]
pub struct Retry {
    /// How often one call may be repeated.
    #[serde(default = "attempts")]
    #[schemars(range(min = 1, max = 5))]
    pub attempts: i32,
    /// Statuses that are worth another attempt, whether an application answers so or the mesh could not reach one. A gRPC call that fails at once, without a message before, counts as what its status
    /// means in HTTP: UNAVAILABLE as 503, INTERNAL and UNKNOWN as 500, `DEADLINE_EXCEEDED` as 504; gRPC calls are not idempotent.
    #[serde(default = "codes")]
    #[schemars(length(min = 1, max = 16), inner(range(min = 400, max = 599)))]
    pub codes: Vec<i32>,
    /// Also repeats calls whose method is not idempotent, such as POST: an application may then do twice what it was asked once.
    #[serde(default)]
    pub non_idempotent: bool,
    /// Milliseconds that the head of a response may take before the attempt is given up, which counts as 504. Absent: as long as the call may take.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(range(min = 1, max = 86_400_000))]
    pub attempt_milliseconds: Option<i32>,
    /// Milliseconds before the first repetition. The pause doubles with each further one, up to ten times this; half of it is by chance.
    #[serde(default = "backoff")]
    #[schemars(range(min = 0, max = 10_000))]
    pub backoff_milliseconds: i32,
    /// Budget: of a hundred calls to the Service so many may be repeated …
    #[serde(default = "budget_percent")]
    #[schemars(range(min = 0, max = 100))]
    pub budget_percent: i32,
    /// … and so many in each second, however few calls there are. Each worker thread of a proxy has a budget of its own.
    #[serde(default = "min_per_second")]
    #[schemars(range(min = 0, max = 1000))]
    pub min_per_second: i32,
}

fn attempts() -> i32 {
    1
}
fn codes() -> Vec<i32> {
    vec![502, 503, 504]
}
fn backoff() -> i32 {
    25
}
fn budget_percent() -> i32 {
    20
}
fn min_per_second() -> i32 {
    10
}

/// What the operator saw, and what the proxies reported.
#[derive(KubeSchema, Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct MeshRouteStatus {
    /// The generation of the spec that this status is about.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub observed_generation: Option<i64>,
    /// `Ready`, `Accepted`, `ResolvedRefs`, `Programmed`, and while they apply `Reconciling` and `Stalled`.
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
    /// Connections around the mesh to pods of this Service, of all nodes. Absent: none was seen, so that `Strict` would refuse nobody. Nodes whose condition `Guarded` is not True see none.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub plain_callers: Option<PlainCallers>,
}

/// Connections that came around the mesh to pods of one Service.
#[derive(KubeSchema, Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct PlainCallers {
    /// Attempts to connect that were let pass (Permissive).
    pub passed: i64,
    /// Attempts to connect that were refused (Strict).
    pub refused: i64,
    /// When the last one came, to five minutes.
    pub last_seen: Time,
}
