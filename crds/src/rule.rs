//! The rules of a MeshRoute: which calls they are about, and what those get. Names and meaning are the Gateway API's
//! (`HTTPRouteRule`) where it has the same thing. The contract carries these types as they are.

use kube::KubeSchema;
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use crate::route::{Backend, Hedge, RateLimit, Retry, Timeouts};

mod check;

pub(crate) use check::is_reserved_for_rules;
pub use check::{Flaw, REGEXES_MAX, check_all, check_modifiers, matcher};

/// What the calls that it matches get.
#[derive(KubeSchema, Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
#[x_kube(
    validation = Rule::new("!has(self.requestRedirect) || !has(self.directResponse)")
        .message("a rule answers with requestRedirect or with directResponse, not with both"),
    validation = Rule::new("!(has(self.requestRedirect) || has(self.directResponse)) || (!has(self.backends) && !has(self.urlRewrite) && !has(self.fault))")
        .message("a rule that answers by itself (requestRedirect, directResponse) has neither backends nor urlRewrite nor fault")
)]
pub struct RouteRule {
    /// For people, in `vicino explain` and in messages; unique in the route.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(length(min = 1, max = 63), regex(pattern = crate::pattern::LABEL))]
    pub name: Option<String>,
    /// The calls that it is about: those that at least one of these matches. Empty: every call.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    #[schemars(length(max = 8))]
    pub matches: Vec<RouteMatch>,
    /// Where these calls go, by weight. Empty: to the backends of the route.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    #[schemars(length(max = 16))]
    #[x_kube(
        validation = Rule::new("self.size() == 0 || self.exists(b, b.weight > 0)").message("at least one backend of a rule must have a weight above 0")
    )]
    pub backends: Vec<Backend>,
    /// How long things may take. Absent fields take the route's.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub timeouts: Option<Timeouts>,
    /// How many of these calls each node lets through. Absent: as the route says, together with its other calls.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub rate_limit: Option<RateLimit>,
    /// Which failed calls are repeated. Absent: as the route says.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub retry: Option<Retry>,
    /// Which calls are sent once more when their answer takes long. Absent: as the route says.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub hedge: Option<Hedge>,
    /// Statuses of answers that are failures of a pod to its `circuitBreaker`, in place of the `codes` there; none of them is when the list is empty. gRPC's statuses count as what they mean in HTTP, as there.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(length(max = 16), inner(range(min = 400, max = 599)))]
    pub failure_codes: Option<Vec<i32>>,
    /// Changes to the request's header on its way to the application.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub request_header_modifier: Option<HeaderModifier>,
    /// Changes to the response's header on its way to the caller.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub response_header_modifier: Option<HeaderModifier>,
    /// Sends copies of calls to another Service, too; what that answers, and whether it does, no caller notices. Calls with a body of more than 64 KiB, and those that switch protocols, are not copied.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub request_mirror: Option<RequestMirror>,
    /// Which pages of other origins may call (the CORS protocol of browsers): preflights are answered, which have to match the rule, too, and answers say who may read them, instead of what the application says of it.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub cors: Option<Cors>,
    /// What host and path the application sees.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub url_rewrite: Option<UrlRewrite>,
    /// Answers with a redirect; no application is asked.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub request_redirect: Option<RequestRedirect>,
    /// Answers by itself; no application is asked.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub direct_response: Option<DirectResponse>,
    /// Makes calls slow or fail, to see how their callers take it.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub fault: Option<Fault>,
}

impl RouteRule {
    /// Whether it answers by itself, so that no application is asked.
    pub fn answers(&self) -> bool {
        self.request_redirect.is_some() || self.direct_response.is_some()
    }
}

/// Calls for which everything that is said holds. Of several matches that a call has, over all rules, the most specific one
/// decides: an Exact path before a `RegularExpression` before a `PathPrefix`, of two of these the longer one; then one with a
/// method; then the one with more headers; then the one with more query parameters; then the one that is listed first.
#[derive(KubeSchema, Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
#[x_kube(
    validation = Rule::new("!has(self.grpc) || (!has(self.path) && !has(self.method))")
        .message("a match says which gRPC calls it is about, or which path and method, not both: a gRPC call is POST /service/method")
)]
pub struct RouteMatch {
    /// Calls of gRPC, by service and method. They are POST with the path `/service/method`, and are matched as such.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub grpc: Option<GrpcMatch>,
    /// The path, without the query. Absent: any.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub path: Option<PathMatch>,
    /// Header fields, all of which the call must have.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    #[schemars(length(max = 16))]
    #[x_kube(merge_strategy = ListMerge::Map(vec!["name".into()]))]
    pub headers: Vec<HeaderMatch>,
    /// Query parameters, all of which the call must have. Of a parameter that is given twice the first counts.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    #[schemars(length(max = 16))]
    #[x_kube(merge_strategy = ListMerge::Map(vec!["name".into()]))]
    pub query_params: Vec<QueryParamMatch>,
    /// The method; case matters, as in HTTP. Absent: any.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(length(min = 1, max = 32), regex(pattern = crate::pattern::METHOD))]
    pub method: Option<String>,
}

/// A test of a gRPC call.
#[derive(KubeSchema, Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct GrpcMatch {
    /// The service with its package, for example `helloworld.Greeter`.
    #[schemars(
        length(min = 1, max = 512),
        regex(pattern = r"^[A-Za-z_][A-Za-z0-9_]*(\.[A-Za-z_][A-Za-z0-9_]*)*$")
    )]
    pub service: String,
    /// The method, for example `SayHello`. Absent: any.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(length(min = 1, max = 256), regex(pattern = r"^[A-Za-z_][A-Za-z0-9_]*$"))]
    pub method: Option<String>,
}

/// A test of a path. Case matters; percent-encoding is compared as it is written.
#[derive(KubeSchema, Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
#[x_kube(
    validation = Rule::new("self.type == 'RegularExpression' || self.value.startsWith('/')")
        .message("value must be an absolute path: it begins with '/'"),
    validation = Rule::new("self.type == 'RegularExpression' || !self.value.matches('[?#\\\\s]')")
        .message("value is a path alone: '?', '#' and blanks are not part of one; queryParams matches the query")
)]
pub struct PathMatch {
    /// How it is compared.
    #[serde(default, rename = "type")]
    pub kind: PathMatchType,
    /// What it is compared with.
    #[serde(default = "root")]
    #[schemars(length(min = 1, max = 1024))]
    pub value: String,
}

fn root() -> String {
    "/".to_owned()
}

/// How a path is compared.
#[derive(JsonSchema, Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub enum PathMatchType {
    /// The same.
    Exact,
    /// Begins with it, element by element: `/v1` matches `/v1` and `/v1/quotes`, not `/v10`.
    #[default]
    PathPrefix,
    /// All of it matches the expression (RE2 syntax without Unicode classes, look-around and back-references, so that matching takes linear time).
    RegularExpression,
}

/// How a value is compared.
#[derive(JsonSchema, Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub enum ValueMatchType {
    /// The same.
    #[default]
    Exact,
    /// All of it matches the expression (as in a path).
    RegularExpression,
}

/// A test of a header field: a field of that name has such a value.
#[derive(KubeSchema, Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct HeaderMatch {
    /// How it is compared.
    #[serde(default, rename = "type")]
    pub kind: ValueMatchType,
    /// Name of the field; case does not matter.
    #[schemars(length(min = 1, max = 128), regex(pattern = crate::pattern::FIELD))]
    pub name: String,
    /// What its value is compared with.
    #[schemars(length(min = 1, max = 1024))]
    pub value: String,
}

/// A test of a query parameter, percent-decoded.
#[derive(KubeSchema, Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct QueryParamMatch {
    /// How it is compared.
    #[serde(default, rename = "type")]
    pub kind: ValueMatchType,
    /// Name of the parameter; case matters.
    #[schemars(length(min = 1, max = 128))]
    pub name: String,
    /// What its value is compared with.
    #[schemars(length(max = 1024))]
    pub value: String,
}

/// Changes to a header, in this order: removed, set (whatever was there before), added.
#[derive(KubeSchema, Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct HeaderModifier {
    /// Fields that there is one of afterwards, with this value.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    #[schemars(length(max = 16))]
    #[x_kube(merge_strategy = ListMerge::Map(vec!["name".into()]))]
    pub set: Vec<HeaderField>,
    /// Fields that are there once more.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    #[schemars(length(max = 16))]
    #[x_kube(merge_strategy = ListMerge::Map(vec!["name".into()]))]
    pub add: Vec<HeaderField>,
    /// Names of fields that are taken out.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    #[schemars(length(max = 16))]
    pub remove: Vec<String>,
}

/// A header field.
#[derive(KubeSchema, Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct HeaderField {
    /// Its name. Fields that frame a message, belong to one connection, or that only proxies may say cannot be changed.
    #[schemars(length(min = 1, max = 128), regex(pattern = r"^[A-Za-z0-9!#$%&'*+.^|~-]+$"))]
    pub name: String,
    /// Its value: visible characters, blanks between them.
    #[schemars(length(max = 1024), regex(pattern = r"^([!-~]([ -~\t]*[!-~])?)?$"))]
    pub value: String,
}

/// Where copies of calls go.
#[derive(KubeSchema, Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct RequestMirror {
    /// Name of a Service.
    #[schemars(length(min = 1, max = 63), regex(pattern = crate::pattern::SERVICE))]
    pub name: String,
    /// Its namespace, as for a backend.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(length(min = 1, max = 63), regex(pattern = crate::pattern::LABEL))]
    pub namespace: Option<String>,
    /// Port of that Service. Absent: the port that was called.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(range(min = 1, max = 65_535))]
    pub port: Option<i32>,
    /// Of a hundred calls so many.
    #[serde(default = "all")]
    #[schemars(range(min = 0, max = 100))]
    pub percent: i32,
}

/// Which pages of other origins may call, and how.
#[derive(KubeSchema, Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct Cors {
    /// Origins: `https://shop.example`, `https://*.shop.example` for everything below it, or `*` for every one.
    #[schemars(
        length(min = 1, max = 32),
        inner(
            length(min = 1, max = 253),
            regex(pattern = r"^(\*|[a-z][a-z0-9+.-]*://(\*\.)?[a-zA-Z0-9.\[\]:-]+)$")
        )
    )]
    pub allow_origins: Vec<String>,
    /// Methods beyond GET, HEAD and POST; `*` is every one.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    #[schemars(
        length(max = 16),
        inner(length(min = 1, max = 32), regex(pattern = r"^(\*|[A-Z]+(-[A-Z]+)*)$"))
    )]
    pub allow_methods: Vec<String>,
    /// Header fields of requests; `*` is every one.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    #[schemars(
        length(max = 64),
        inner(length(min = 1, max = 128), regex(pattern = crate::pattern::FIELD))
    )]
    pub allow_headers: Vec<String>,
    /// Header fields of answers that pages may read; `*` is every one.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    #[schemars(
        length(max = 64),
        inner(length(min = 1, max = 128), regex(pattern = crate::pattern::FIELD))
    )]
    pub expose_headers: Vec<String>,
    /// Whether calls may carry cookies and the like.
    #[serde(default)]
    pub allow_credentials: bool,
    /// Seconds that a browser may remember the answer to a preflight.
    #[serde(default = "max_age")]
    #[schemars(range(min = 0, max = 86_400))]
    pub max_age_seconds: i32,
}

fn max_age() -> i32 {
    5
}

/// What the application sees instead of what the caller asked for.
#[derive(KubeSchema, Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct UrlRewrite {
    /// The `Host`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(
        length(min = 1, max = 253),
        regex(pattern = crate::pattern::HOST)
    )]
    pub hostname: Option<String>,
    /// The path; the query stays.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub path: Option<PathModifier>,
}

/// Another path.
#[derive(KubeSchema, Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
#[x_kube(
    validation = Rule::new("self.type == 'ReplaceFullPath' ? has(self.replaceFullPath) && !has(self.replacePrefixMatch) : has(self.replacePrefixMatch) && !has(self.replaceFullPath)")
        .message("type ReplaceFullPath goes with the field replaceFullPath alone, ReplacePrefixMatch with replacePrefixMatch alone")
)]
pub struct PathModifier {
    /// Which part of the path is replaced.
    #[serde(rename = "type")]
    pub kind: PathModifierType,
    /// Instead of the whole path.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(length(min = 1, max = 1024), regex(pattern = crate::pattern::PATH))]
    pub replace_full_path: Option<String>,
    /// Instead of the prefix that matched; for that, every match of the rule has a path of type `PathPrefix`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(length(min = 1, max = 1024), regex(pattern = crate::pattern::PATH))]
    pub replace_prefix_match: Option<String>,
}

/// Which part of a path is replaced.
#[derive(JsonSchema, Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum PathModifierType {
    /// All of it.
    ReplaceFullPath,
    /// The prefix that matched.
    ReplacePrefixMatch,
}

/// A redirect. What is absent stays as the caller asked for it.
#[derive(KubeSchema, Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
#[x_kube(
    validation = Rule::new("self.statusCode in [301, 302, 303, 307, 308]").message("statusCode must be 301, 302, 303, 307 or 308")
)]
pub struct RequestRedirect {
    /// Scheme of the location.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub scheme: Option<Scheme>,
    /// Host of the location.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(
        length(min = 1, max = 253),
        regex(pattern = crate::pattern::HOST)
    )]
    pub hostname: Option<String>,
    /// Path of the location; the query stays.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub path: Option<PathModifier>,
    /// Port of the location. Absent: the scheme's own when there is a scheme, else the one that was called.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(range(min = 1, max = 65_535))]
    pub port: Option<i32>,
    /// Status of the answer.
    #[serde(default = "found")]
    #[schemars(range(min = 301, max = 308))]
    pub status_code: i32,
}

fn found() -> i32 {
    302
}

/// Scheme of a location.
#[derive(JsonSchema, Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Scheme {
    /// http
    Http,
    /// https
    Https,
}

/// An answer that asks no application.
#[derive(KubeSchema, Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
#[x_kube(
    validation = Rule::new("!(self.statusCode in [204, 205, 304]) || !has(self.body)").message("an answer with status 204, 205 or 304 has no body")
)]
pub struct DirectResponse {
    /// Its status.
    #[schemars(range(min = 200, max = 599))]
    pub status_code: i32,
    /// Its body, of type `text/plain`, or what responseHeaderModifier sets.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(length(max = 4096))]
    pub body: Option<String>,
}

/// Faults on purpose. The dice are thrown for each call.
#[derive(KubeSchema, Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
#[x_kube(
    validation = Rule::new("has(self.delay) || has(self.abort)").message("a fault is a delay, an abort, or both")
)]
pub struct Fault {
    /// Makes calls wait before they go on their way. The route's timeouts go on meanwhile.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub delay: Option<FaultDelay>,
    /// Answers calls with an error, after their delay.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub abort: Option<FaultAbort>,
}

/// A delay.
#[derive(KubeSchema, Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct FaultDelay {
    /// How long, in milliseconds.
    #[schemars(range(min = 1, max = 60_000))]
    pub milliseconds: i32,
    /// Of a hundred calls so many.
    #[serde(default = "all")]
    #[schemars(range(min = 0, max = 100))]
    pub percent: i32,
}

/// An error.
#[derive(KubeSchema, Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct FaultAbort {
    /// The status of the answer.
    #[schemars(range(min = 400, max = 599))]
    pub status_code: i32,
    /// Of a hundred calls so many.
    #[serde(default = "all")]
    #[schemars(range(min = 0, max = 100))]
    pub percent: i32,
}

fn all() -> i32 {
    100
}
