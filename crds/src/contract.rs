//! The contract between operator and proxy: what a mesh compiles into, and how it is written and read; no decisions.
//!
//! A ConfigMap (or a directory) holds one document per key. A document is YAML and ends with the line `...`, YAML's own
//! end-of-document marker, without which a reader takes it for half-written and refuses it. Fields that a reader does
//! not know are reported and tolerated, so that operator and proxy may differ by one minor version in either direction;
//! a document whose `version` is above [`CONTRACT_VERSION`] is refused, since its meaning may have changed. A [`CompiledPolicy`]
//! or [`CompiledEgress`] with a field that a reader does not know is refused whole: half a policy is another policy.
//!
//! | document | ConfigMap | key | file under `--config-dir` |
//! |---|---|---|---|
//! | [`Bootstrap`] | `vicino-<mesh>` | `bootstrap.yaml` | `bootstrap.yaml` |
//! | [`CompiledRoute`] | `vicino-<mesh>-routes-<namespace>[.n]` | `<service>.yaml` | `routes/<namespace>/<service>.yaml` |
//! | [`CompiledPolicy`] | `vicino-<mesh>-policies-<namespace>[.n]` | `<policy>.yaml` | `policies/<namespace>/<policy>.yaml` |
//! | [`CompiledEgress`] | `vicino-<mesh>.egress` | `egress.yaml` | `egress/egress.yaml` |
//! | [`CompiledNode`] | `vicino-<mesh>-nodes[.n]` | `<node>.yaml` | `nodes/<node>.yaml` |

use std::collections::BTreeMap;

use serde::de::DeserializeOwned;
use serde::{Deserialize, Serialize};
use sha2::{Digest, Sha256};

use crate::egress::{self, EgressMode, EgressRule, EgressSpec};
use crate::identity::is_trust_domain;
use crate::mesh::IdentityMode;
use crate::policy::{self, PolicyAction, PolicyMode, PolicyRule, PolicySource, PolicyTarget};
use crate::route::{Affinity, LoadBalancer, PortProtocol, RateLimit, check_affinity};
use crate::rule::{HeaderModifier, RouteRule, check_all, check_modifiers};

/// The highest version that this code reads. A document is written with the lowest version that has everything it says, so
/// that proxies of the version before refuse only what they cannot do.
pub const CONTRACT_VERSION: i32 = 5;
/// The version that a route without rules, and every other document, is written with.
pub const VERSION_PLAIN: i32 = 1;
/// The version of a route with rules, or with a port of another protocol: who does not know them would do something else with calls.
const VERSION_RULES: i32 = 2;
/// The version of a route with a backend of another namespace, or with one that changes heads.
const VERSION_BACKENDS: i32 = 3;
/// The version of what closes something: who does not know it would leave it open.
const VERSION_STRICT: i32 = 4;
/// The version of a policy that selects pods by `matchExpressions` or callers by `notIpBlocks`.
const VERSION_SELECTORS: i32 = 5;

/// One document longer than this is refused, in bytes.
pub const DOCUMENT_BYTES_MAX: usize = 256 * 1024;

/// The proxy's bootstrap: what it must know before it reads anything else.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Bootstrap {
    /// See [`CONTRACT_VERSION`].
    pub version: i32,
    /// Name of the mesh.
    pub mesh: String,
    /// DNS domain of the cluster.
    pub cluster_domain: String,
    /// Worker threads; 0 is one per core.
    pub workers: u32,
    /// `error`, `warn`, `info` or `debug`.
    pub log_level: String,
    /// Seconds that a stopping proxy gives open requests.
    pub drain_seconds: u32,
    /// Who proxies are for each other. A proxy that does not know this field takes hops with and without TLS.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub identity: Option<CompiledIdentity>,
    /// What becomes of calls that no policy is about. `Deny` needs version 4.
    #[serde(default, skip_serializing_if = "PolicyAction::is_allow")]
    pub default_action: PolicyAction,
}

impl Bootstrap {
    /// The version that a bootstrap with these has to say.
    pub fn version_of(identity: Option<&CompiledIdentity>, default_action: PolicyAction) -> i32 {
        let is_strict = identity.is_some_and(|identity| identity.strict);
        if is_strict || default_action == PolicyAction::Deny { VERSION_STRICT } else { VERSION_PLAIN }
    }
}

/// Who proxies are for each other.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct CompiledIdentity {
    /// The trust domain of all identities.
    pub trust_domain: String,
    /// Hops without TLS are neither made nor taken. Needs version 4.
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    pub strict: bool,
}

/// What calls to one Service get.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct CompiledRoute {
    /// See [`CONTRACT_VERSION`].
    pub version: i32,
    /// Namespace of the Service.
    pub namespace: String,
    /// Name of the Service.
    pub service: String,
    /// Generation of the MeshRoute that this was compiled from; 0 while there is none yet.
    pub generation: i64,
    /// The Service that this one is another name for (type ExternalName); calls to it are calls to that. A proxy that does not know this field finds no port here.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub alias: Option<CompiledAlias>,
    /// Cluster IPs of the Service, empty for a headless one.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub cluster_ips: Vec<String>,
    /// One entry per TCP port of the Service, in the Service's order.
    pub ports: Vec<CompiledPort>,
    /// Milliseconds for a connection to open.
    pub connect_timeout_milliseconds: u32,
    /// Milliseconds from head to the end of the response; 0 is no limit.
    pub request_timeout_milliseconds: u32,
    /// Milliseconds without anything of a call from either side; 0 is no limit, as a proxy has it that does not know this field.
    #[serde(default, skip_serializing_if = "is_zero")]
    pub idle_timeout_milliseconds: u32,
    /// How often a call of which nothing was sent to an application may go to another endpoint.
    pub requeues: u32,
    /// Which calls go to the same pod. A proxy that does not know this field sends each where there is room.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub affinity: Option<Affinity>,
    /// By what a pod is chosen. A proxy that does not know this field goes by the least calls in flight.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub load_balancer: Option<LoadBalancer>,
    /// How many calls each pod takes. A proxy that does not know this field sends as many as come.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub concurrency: Option<CompiledConcurrency>,
    /// How many calls each node lets through. A proxy that does not know this field lets all through.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub rate_limit: Option<RateLimit>,
    /// When a pod is left out for a while. A proxy that does not know this field leaves none out.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub circuit_breaker: Option<CompiledBreaker>,
    /// Which failed calls are repeated. A proxy that does not know this field repeats none.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub retry: Option<CompiledRetry>,
    /// Which calls are sent once more. A proxy that does not know this field sends none.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub hedge: Option<CompiledHedge>,
    /// What some of the calls get instead, in the order of the MeshRoute. Needs version 2.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub rules: Vec<CompiledRule>,
    /// What becomes of connections around the mesh to its pods, otherwise than the mesh says. `Strict` needs version 4.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub inbound: Option<IdentityMode>,
}

impl CompiledRoute {
    /// What says of a Service that it is another name for one.
    pub fn of_alias(namespace: &str, service: &str, alias: CompiledAlias) -> Self {
        CompiledRoute {
            version: VERSION_PLAIN,
            namespace: namespace.to_owned(),
            service: service.to_owned(),
            generation: 0,
            alias: Some(alias),
            cluster_ips: Vec::new(),
            ports: Vec::new(),
            connect_timeout_milliseconds: 0,
            request_timeout_milliseconds: 0,
            idle_timeout_milliseconds: 0,
            requeues: 0,
            affinity: None,
            load_balancer: None,
            concurrency: None,
            rate_limit: None,
            circuit_breaker: None,
            retry: None,
            hedge: None,
            rules: Vec::new(),
            inbound: None,
        }
    }

    /// The version of this route, which is at least what it has to say, for what `inbound` needs.
    pub fn version_for(version: i32, inbound: Option<IdentityMode>) -> i32 {
        if inbound == Some(IdentityMode::Strict) { version.max(VERSION_STRICT) } else { version }
    }

    /// The version that a route with these ports and rules has to say.
    pub fn version_of(ports: &[CompiledPort], rules: &[CompiledRule]) -> i32 {
        let is_plain = rules.is_empty() && ports.iter().all(|port| port.protocol == PortProtocol::Http);
        match () {
            () if all_backends(ports, rules).any(|backend| !backend.is_plain()) => VERSION_BACKENDS,
            () if is_plain => VERSION_PLAIN,
            () => VERSION_RULES,
        }
    }

    /// Every backend of every port and rule, and where copies go.
    pub fn backends(&self) -> impl Iterator<Item = &CompiledBackend> {
        all_backends(&self.ports, &self.rules)
    }

    /// What neither types nor ports say.
    fn check_limits(&self) -> Result<(), ContractError> {
        if let Some(affinity) = &self.affinity {
            check_affinity(affinity)
                .map_err(|flaw| ContractError::Invalid { field: flaw.field, problem: flaw.problem })?;
        }
        let bound = self.affinity.as_ref().and_then(|affinity| affinity.max_load_percent);
        if bound.is_some_and(|percent| percent <= 100) {
            return Err(invalid(
                "affinity.maxLoadPercent".to_owned(),
                "must be above 100, or there would be calls that no pod may have",
            ));
        }
        if self.concurrency.as_ref().is_some_and(|concurrency| concurrency.per_pod == 0) {
            return Err(invalid(
                "concurrency.perPod".to_owned(),
                "must be at least 1, or no call would ever be served",
            ));
        }
        if self.rate_limit.as_ref().is_some_and(|limit| limit.requests_per_second < 1) {
            return Err(invalid(
                "rateLimit.requestsPerSecond".to_owned(),
                "must be at least 1, or no call would ever be served",
            ));
        }
        if self.circuit_breaker.as_ref().is_some_and(|breaker| breaker.consecutive_failures == 0) {
            return Err(invalid(
                "circuitBreaker.consecutiveFailures".to_owned(),
                "must be at least 1, or every pod would be left out before its first call",
            ));
        }
        Ok(())
    }
}

fn all_backends<'a>(
    ports: &'a [CompiledPort],
    rules: &'a [CompiledRule],
) -> impl Iterator<Item = &'a CompiledBackend> {
    let of_rules = rules.iter().flat_map(|rule| &rule.ports);
    let of_rules = of_rules.flat_map(|port| port.backends.iter().chain(&port.mirror));
    ports.iter().flat_map(|port| port.backends.iter().chain(&port.overrides)).chain(of_rules)
}

/// A Service that another one stands for.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct CompiledAlias {
    /// Its namespace.
    pub namespace: String,
    /// Its name.
    pub service: String,
}

/// A rule of a route.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct CompiledRule {
    /// Matches, changes and answers, as the MeshRoute has them; its backends and timeouts are compiled apart.
    pub rule: RouteRule,
    /// One entry for each port of the route, in its order; none when the rule answers by itself.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub ports: Vec<CompiledRulePort>,
    /// As the route's.
    pub connect_timeout_milliseconds: u32,
    /// As the route's.
    pub request_timeout_milliseconds: u32,
    /// As the route's.
    #[serde(default, skip_serializing_if = "is_zero")]
    pub idle_timeout_milliseconds: u32,
    /// As the route's.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub retry: Option<CompiledRetry>,
    /// As the route's.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub hedge: Option<CompiledHedge>,
}

/// How many calls each pod of the Service takes at a time.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct CompiledConcurrency {
    /// At least 1.
    pub per_pod: u32,
    /// Calls that wait on one node for one port.
    pub queue_length: u32,
    /// Milliseconds that a call waits.
    pub queue_timeout_milliseconds: u32,
    /// Milliseconds that it waits once there has been a line for so long; 0: as long as ever, as a proxy has it that does not know this field.
    #[serde(default, skip_serializing_if = "is_zero")]
    pub queue_standing_timeout_milliseconds: u32,
    /// Each pod's limit is found out. A proxy that does not know this field lets each have `perPod`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub adaptive: Option<CompiledAdaptive>,
}

/// When calls take too long for a pod to be given as many.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct CompiledAdaptive {
    /// Milliseconds that they should take on average.
    pub target_milliseconds: u32,
    /// At least 1.
    pub min_per_pod: u32,
}

#[expect(clippy::trivially_copy_pass_by_ref, reason = "serde asks so")]
fn is_zero(number: &u32) -> bool {
    *number == 0
}

/// When a pod is left out for a while.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct CompiledBreaker {
    /// Statuses that are failures.
    pub codes: Vec<u16>,
    /// So many failures in a row put a pod out; at least 1.
    pub consecutive_failures: u32,
    /// So many failures of a hundred calls do, too; 0: their share does not matter.
    pub failure_percent: u32,
    /// The share of fewer calls than these in ten seconds says nothing.
    pub minimum_calls: u32,
    /// Milliseconds that a pod is out for the first time; the time doubles.
    pub ejection_milliseconds: u32,
    /// Milliseconds that it is out at most.
    pub max_ejection_milliseconds: u32,
    /// Of a node's pods at most this share is out, but one may always be.
    pub max_ejected_percent: u32,
}

/// Which failed calls are repeated.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct CompiledRetry {
    /// How often one call may be repeated.
    pub attempts: u32,
    /// Statuses that are worth another attempt.
    pub codes: Vec<u16>,
    /// Whatever the method.
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    pub non_idempotent: bool,
    /// Milliseconds for the head of a response; 0 is no limit.
    pub attempt_milliseconds: u32,
    /// Milliseconds before the first repetition.
    pub backoff_milliseconds: u32,
    /// Of a hundred calls so many.
    pub budget_percent: u32,
    /// And so many each second.
    pub min_per_second: u32,
}

/// Which calls are sent once more when their answer takes long.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct CompiledHedge {
    /// Milliseconds after which they are.
    pub delay_milliseconds: u32,
    /// Of a hundred calls so many.
    pub budget_percent: u32,
    /// And so many each second.
    pub min_per_second: u32,
}

/// Where a rule's calls to one port of the Service go.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct CompiledRulePort {
    /// The Service's port number.
    pub port: u16,
    /// By weight; at least one, and at least one weight above 0.
    pub backends: Vec<CompiledBackend>,
    /// Where copies go. A proxy that does not know this field sends none.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub mirror: Option<CompiledBackend>,
}

/// A port of a Service, and where calls to it go.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct CompiledPort {
    /// The Service's port number.
    pub port: u16,
    /// What is spoken on it. All but HTTP in the version that the caller speaks needs version 2.
    pub protocol: PortProtocol,
    /// By weight; at least one, and at least one weight above 0.
    pub backends: Vec<CompiledBackend>,
    /// What calls may ask for by `vicino-route`. A proxy that does not know this field does not listen to that.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub overrides: Vec<CompiledBackend>,
}

/// Endpoints that calls go to: the pods behind one port of one Service.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct CompiledBackend {
    /// Its namespace; empty when it is the route's. Needs version 3.
    #[serde(default, skip_serializing_if = "String::is_empty")]
    pub namespace: String,
    /// Name of the Service whose EndpointSlices are meant.
    pub service: String,
    /// Its port number, for people and metrics.
    pub port: u16,
    /// Name of that port, as EndpointSlices carry it; empty for the only, unnamed port.
    #[serde(default)]
    pub port_name: String,
    /// Relative share of the calls.
    pub weight: u32,
    /// Calls go to endpoints of the caller's own node only, since the Service says `internalTrafficPolicy: Local`. A proxy that
    /// does not know this field balances over all nodes.
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    pub node_local: bool,
    /// Changes to the request's header. Needs version 3.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub request_header_modifier: Option<HeaderModifier>,
    /// Changes to the response's header. Needs version 3.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub response_header_modifier: Option<HeaderModifier>,
}

impl CompiledBackend {
    /// Whether it says nothing that needs version 3.
    fn is_plain(&self) -> bool {
        let Self { namespace, request_header_modifier: request, response_header_modifier: response, .. } =
            self;
        namespace.is_empty() && request.is_none() && response.is_none()
    }
}

/// Who may call what in one namespace, as one MeshPolicy says it.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct CompiledPolicy {
    /// See [`CONTRACT_VERSION`]; at least what [`CompiledPolicy::version_of`] says.
    pub version: i32,
    /// Namespace of the policy, and of all that it is about.
    pub namespace: String,
    /// Name of the policy.
    pub name: String,
    /// Generation of the MeshPolicy that this was compiled from.
    pub generation: i64,
    /// What it is about.
    #[serde(default)]
    pub target: PolicyTarget,
    /// Whether it decides.
    pub mode: PolicyMode,
    /// At least one.
    pub rules: Vec<PolicyRule>,
}

impl CompiledPolicy {
    /// The lowest version that a policy says: who does not know it would leave open what it closes.
    pub const VERSION: i32 = VERSION_STRICT;

    /// The version that a policy with these has to say.
    pub fn version_of(target: &PolicyTarget, rules: &[PolicyRule]) -> i32 {
        let has_expressions = target.pods.as_ref().is_some_and(|pods| !pods.match_expressions.is_empty());
        let leaves_out = |source: &PolicySource| !source.not_ip_blocks.is_empty();
        if has_expressions || rules.iter().flat_map(|rule| &rule.from).any(leaves_out) {
            VERSION_SELECTORS
        } else {
            Self::VERSION
        }
    }
}

/// What pods of a mesh may call outside of it; nothing where there is no such document.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct CompiledEgress {
    /// See [`CONTRACT_VERSION`]; at least 4, the version that policies have, since it is one.
    pub version: i32,
    /// Name of the mesh.
    pub mesh: String,
    /// What becomes of calls that nothing allows.
    pub mode: EgressMode,
    /// What is allowed.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub allow: Vec<EgressRule>,
    /// Addresses of nodes of the cluster that are not in the mesh.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub node_addresses: Vec<String>,
}

impl CompiledEgress {
    /// What a mesh says.
    pub fn new(mesh: &str, EgressSpec { mode, allow }: &EgressSpec) -> Self {
        Self {
            version: VERSION_STRICT,
            mesh: mesh.to_owned(),
            mode: *mode,
            allow: allow.clone(),
            node_addresses: Vec::new(),
        }
    }
}

/// One neighbourhood, as the others need to know it.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct CompiledNode {
    /// See [`CONTRACT_VERSION`].
    pub version: i32,
    /// Name of the node.
    pub name: String,
    /// Addresses of its proxy, IPv4 and IPv6; the first one that is reachable is used.
    pub addresses: Vec<String>,
    /// Port of its L2.
    pub port: u16,
    /// Zone; empty when unknown.
    #[serde(default)]
    pub zone: String,
    /// Whether its proxy is ready; calls go to nodes that are not ready only when no other has an endpoint.
    pub ready: bool,
    /// Whether its proxy takes hops with TLS. A proxy that does not know this field dials without.
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    pub secure: bool,
    /// Blocks of addresses that its pods have, as far as the Node says. A proxy that does not know this field calls nothing outside the mesh.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub pod_cidrs: Vec<String>,
}

/// Why a document is refused.
#[derive(Debug, thiserror::Error)]
pub enum ContractError {
    /// Longer than [`DOCUMENT_BYTES_MAX`].
    #[error("document has {0} bytes, at most {DOCUMENT_BYTES_MAX} are read")]
    TooLong(usize),
    /// The end-of-document marker is missing.
    #[error("document does not end with a line `...`: it is half-written")]
    HalfWritten,
    /// Not YAML, or a field is missing or of another type.
    #[error("document is not valid: {0}")]
    Malformed(String),
    /// From a newer operator.
    #[error(
        "document has contract version {found}, this proxy reads up to {CONTRACT_VERSION}: upgrade the proxy first"
    )]
    Newer {
        /// The version that it says.
        found: i64,
    },
    /// Well-formed, but it contradicts itself.
    #[error("{field}: {problem}")]
    Invalid {
        /// Path of the field.
        field: String,
        /// What is wrong and what would be right.
        problem: String,
    },
}

/// A document that can be written and read.
pub trait Document: Serialize + DeserializeOwned {
    /// What the types alone cannot say; called by [`read`].
    fn check(&self) -> Result<(), ContractError>;
}

impl Document for Bootstrap {
    fn check(&self) -> Result<(), ContractError> {
        not_empty("mesh", &self.mesh)?;
        not_empty("clusterDomain", &self.cluster_domain)?;
        let identity = self.identity.as_ref();
        if identity.is_some_and(|identity| !is_trust_domain(&identity.trust_domain)) {
            return Err(invalid(
                "identity.trustDomain".to_owned(),
                "must have 1 to 255 lower-case letters, digits, '.', '-' and '_'",
            ));
        }
        if self.version < Self::version_of(identity, self.default_action) {
            return Err(invalid(
                "version".to_owned(),
                "must be 4 or above, since identity.strict is true or defaultAction is Deny",
            ));
        }
        Ok(())
    }
}

impl Document for CompiledRoute {
    fn check(&self) -> Result<(), ContractError> {
        not_empty("namespace", &self.namespace)?;
        not_empty("service", &self.service)?;
        if let Some(alias) = &self.alias {
            not_empty("alias.namespace", &alias.namespace)?;
            not_empty("alias.service", &alias.service)?;
            if !self.ports.is_empty() || !self.rules.is_empty() {
                return Err(invalid(
                    "alias".to_owned(),
                    "must be absent where there are ports or rules: calls get what the other Service's route says",
                ));
            }
        }
        for (i, port) in self.ports.iter().enumerate() {
            if port.port == 0 {
                return Err(invalid(format!("ports[{i}].port"), "must be 1 to 65535"));
            }
            if self.ports[..i].iter().any(|p| p.port == port.port) {
                return Err(invalid(format!("ports[{i}].port"), "must not be listed twice"));
            }
            if port.backends.iter().all(|b| b.weight == 0) {
                return Err(invalid(
                    format!("ports[{i}].backends"),
                    "must have a backend with a weight above 0",
                ));
            }
        }
        self.check_limits()?;
        let rules: Vec<_> = self.rules.iter().map(|compiled| &compiled.rule).collect();
        check_all(&rules)
            .map_err(|flaw| ContractError::Invalid { field: flaw.field, problem: flaw.problem })?;
        for (i, compiled) in self.rules.iter().enumerate() {
            check_ports(&format!("rules[{i}].ports"), compiled, &self.ports)?;
        }
        for (i, port) in self.ports.iter().enumerate() {
            check_backends(&format!("ports[{i}].backends"), &port.backends)?;
        }
        match Self::version_for(Self::version_of(&self.ports, &self.rules), self.inbound) {
            version if self.version >= version => Ok(()),
            VERSION_STRICT => Err(invalid(
                "version".to_owned(),
                "must be 4 or above, since connections around the mesh are refused",
            )),
            VERSION_BACKENDS => Err(invalid(
                "version".to_owned(),
                "must be 3 or above, since there are backends of another namespace or that change heads",
            )),
            _ => Err(invalid(
                "version".to_owned(),
                "must be 2 or above, since there are rules, or ports of another protocol than HTTP",
            )),
        }
    }
}

impl Document for CompiledPolicy {
    fn check(&self) -> Result<(), ContractError> {
        not_empty("namespace", &self.namespace)?;
        not_empty("name", &self.name)?;
        let problem = match Self::version_of(&self.target, &self.rules) {
            needed if needed <= self.version => None,
            VERSION_SELECTORS => Some("must be 5 or above, since it has matchExpressions or notIpBlocks"),
            _ => Some("must be 4 or above, since it is a policy"),
        };
        if let Some(problem) = problem {
            return Err(invalid("version".to_owned(), problem));
        }
        policy::check(&self.target, &self.rules)
            .map_err(|flaw| ContractError::Invalid { field: flaw.field, problem: flaw.problem })
    }
}

impl Document for CompiledEgress {
    fn check(&self) -> Result<(), ContractError> {
        not_empty("mesh", &self.mesh)?;
        if self.version < VERSION_STRICT {
            return Err(invalid("version".to_owned(), "must be 4 or above, since it is a policy"));
        }
        check_addresses("nodeAddresses", &self.node_addresses)?;
        egress::check(&self.allow)
            .map_err(|flaw| ContractError::Invalid { field: flaw.field, problem: flaw.problem })
    }
}

impl Document for CompiledNode {
    fn check(&self) -> Result<(), ContractError> {
        not_empty("name", &self.name)?;
        check_addresses("addresses", &self.addresses)?;
        for (i, block) in self.pod_cidrs.iter().enumerate() {
            if block.parse::<ipnet::IpNet>().is_err() {
                return Err(invalid(format!("podCidrs[{i}]"), "must be a block of addresses"));
            }
        }
        Ok(())
    }
}

/// A rule that does not answer by itself says for every port where its calls go.
fn check_ports(field: &str, compiled: &CompiledRule, ports: &[CompiledPort]) -> Result<(), ContractError> {
    let expected = if compiled.rule.answers() { &[] } else { ports };
    let numbers = |of: &CompiledRulePort| of.port;
    if !compiled.ports.iter().map(numbers).eq(expected.iter().map(|port| port.port)) {
        return Err(invalid(
            field.to_owned(),
            "must be the ports of the route in its order, or none when the rule answers by itself",
        ));
    }
    for (i, port) in compiled.ports.iter().enumerate() {
        if port.backends.iter().all(|b| b.weight == 0) {
            return Err(invalid(
                format!("{field}[{i}].backends"),
                "must have a backend with a weight above 0",
            ));
        }
        check_backends(&format!("{field}[{i}].backends"), &port.backends)?;
    }
    Ok(())
}

fn check_backends(field: &str, backends: &[CompiledBackend]) -> Result<(), ContractError> {
    for (i, backend) in backends.iter().enumerate() {
        let (request, response) = (&backend.request_header_modifier, &backend.response_header_modifier);
        check_modifiers(&format!("{field}[{i}]"), request.as_ref(), response.as_ref())
            .map_err(|flaw| ContractError::Invalid { field: flaw.field, problem: flaw.problem })?;
    }
    Ok(())
}

fn check_addresses(field: &str, addresses: &[String]) -> Result<(), ContractError> {
    match addresses.iter().position(|address| address.parse::<std::net::IpAddr>().is_err()) {
        Some(i) => Err(invalid(format!("{field}[{i}]"), "must be an IPv4 or IPv6 address")),
        None => Ok(()),
    }
}

fn not_empty(field: &str, value: &str) -> Result<(), ContractError> {
    if value.is_empty() { Err(invalid(field.to_owned(), "must not be empty")) } else { Ok(()) }
}

fn invalid(field: String, problem: &str) -> ContractError {
    ContractError::Invalid { field, problem: problem.to_owned() }
}

/// Writes a document with its end marker.
pub fn write<D: Document>(document: &D) -> String {
    let mut text = serde_saphyr::to_string(document).expect("the contract's types are plain data");
    if !text.ends_with('\n') {
        text.push('\n');
    }
    text.push_str("...\n");
    text
}

/// What [`read`] found.
#[derive(Debug)]
pub struct Read<D> {
    /// The document.
    pub document: D,
    /// Paths of fields that this version does not know, in order; to be reported, not refused.
    pub unknown: Vec<String>,
}

/// Reads a document that [`write()`] (of this or a neighbouring version) wrote.
pub fn read<D: Document>(bytes: &[u8]) -> Result<Read<D>, ContractError> {
    if bytes.len() > DOCUMENT_BYTES_MAX {
        return Err(ContractError::TooLong(bytes.len()));
    }
    let text = std::str::from_utf8(bytes).map_err(|e| ContractError::Malformed(e.to_string()))?;
    let body = text.trim_end().strip_suffix("...").filter(|body| body.is_empty() || body.ends_with('\n'));
    let body = body.ok_or(ContractError::HalfWritten)?;
    let raw: serde_json::Value =
        serde_saphyr::from_str(body).map_err(|e| ContractError::Malformed(e.to_string()))?;
    if let Some(found) = raw.get("version").and_then(serde_json::Value::as_i64)
        && found > i64::from(CONTRACT_VERSION)
    {
        return Err(ContractError::Newer { found });
    }
    let document: D = serde_saphyr::from_str(body).map_err(|e| ContractError::Malformed(e.to_string()))?;
    document.check()?;
    let known = serde_json::to_value(&document).expect("the contract's types are plain data");
    let mut unknown = Vec::new();
    collect_unknown(&raw, &known, "", &mut unknown);
    Ok(Read { document, unknown })
}

/// Fields of `raw` that `known` does not have. A field that is skipped when empty is known only when it is not empty,
/// so an empty one is never called unknown.
fn collect_unknown(raw: &serde_json::Value, known: &serde_json::Value, path: &str, out: &mut Vec<String>) {
    use serde_json::Value;
    match (raw, known) {
        (Value::Object(raw), Value::Object(known)) => {
            for (name, value) in raw {
                let path = if path.is_empty() { name.clone() } else { format!("{path}.{name}") };
                let empty = matches!(value, Value::Null | Value::Bool(false))
                    || value.as_array().is_some_and(Vec::is_empty);
                match known.get(name) {
                    Some(known) => collect_unknown(value, known, &path, out),
                    None if empty => {}
                    None => out.push(path),
                }
            }
        }
        (Value::Array(raw), Value::Array(known)) => {
            for (i, (raw, known)) in raw.iter().zip(known).enumerate() {
                collect_unknown(raw, known, &format!("{path}[{i}]"), out);
            }
        }
        _ => {}
    }
}

/// Digest of a ConfigMap's data: the first 16 hexadecimal digits of SHA-256 over keys and values, each preceded by its
/// length. The operator annotates it, the proxy computes it over what it took in and reports it.
pub fn digest(data: &BTreeMap<String, String>) -> String {
    let mut hash = Sha256::new();
    for (key, value) in data {
        for part in [key, value] {
            hash.update((part.len() as u64).to_be_bytes());
            hash.update(part.as_bytes());
        }
    }
    let bytes = hash.finalize();
    let head = bytes.first_chunk::<8>().expect("SHA-256 has 32 bytes");
    format!("{:016x}", u64::from_be_bytes(*head))
}

#[cfg(test)]
mod tests;
