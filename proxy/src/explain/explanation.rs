//! A decision with everything that a person wants to know of it, as data.

use serde::{Deserialize, Serialize};
use vicino_engine::rate::{RateKey, RateLimit};
use vicino_engine::reply::Reason;
use vicino_engine::retry::{Hedge, Retry};
use vicino_engine::route::{Decision, Route, service_name};
use vicino_engine::rules::{
    Action, Cors, HeaderEdit, Mismatch, NotAllowed, OVERRIDE_FIELD, OriginTest, PathTest, Rule, Test,
    ValueTest, overridden,
};
use vicino_engine::snapshot::{Backend, Edits, Protocol, ServiceName, Snapshot, Times};
use vicino_wire::head::{Authority, RequestHead};

use super::Call;
use super::egress::Egress;
use super::node::Node;
use super::policy::Judged;
use super::target::{Target, affinity, only, protocol, targets};

const NANOSECONDS_PER_MILLISECOND: u64 = 1_000_000;

/// What a call gets. Fields that do not apply are absent.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Explanation {
    /// Method of the call.
    pub method: String,
    /// Its URL, or the authority of a tunnel.
    pub url: String,
    /// Namespace of the caller.
    pub from: String,
    /// `namespace/name` of the Service.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub service: Option<String>,
    /// The Service of type ExternalName that was called; without `service`, it leads to none of the mesh.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub alias: Option<String>,
    /// Port of the Service.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub port: Option<u16>,
    /// What is spoken on the port, when it is no HTTP.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub protocol: Option<String>,
    /// The node that was asked, and what only it knows; absent unless one was.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub node: Option<Node>,
    /// Which nodes serve the MeshRoute as it is explained, by their own reports; absent for what is in files alone, and
    /// where a node was asked.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub in_force: Option<String>,
    /// Why its MeshRoute is not in force as it is.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub problem: Option<String>,
    /// The rule that the call falls under.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub rule: Option<Tested>,
    /// Tests that would have been more specific, or as much so and earlier, and were not met.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub passed_over: Vec<Tested>,
    /// Of a host that is no Service: whether it may be called all the same.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub egress: Option<Egress>,
    /// What a proxy answers by itself.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub answer: Option<OwnAnswer>,
    /// What is made slow or fails on purpose.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub fault: Option<Faults>,
    /// Changes to the request, one by one.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub request: Vec<String>,
    /// Changes to the response, one by one.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub response: Vec<String>,
    /// How long it may take.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub limits: Option<Limits>,
    /// How many such calls each node lets through.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub rate_limit: Option<String>,
    /// Which calls go to the same pod.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub affinity: Option<String>,
    /// Which failed calls are repeated.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub retries: Option<String>,
    /// Which calls are sent once more.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub hedge: Option<String>,
    /// Which answers are failures of a pod, when the rule says so.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub failures: Option<String>,
    /// Where it goes.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub backends: Vec<Target>,
    /// Services that a call may ask for by `vicino-route`.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub overrides: Vec<String>,
    /// Where copies of the request go.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub mirror: Option<String>,
    /// Which pages of other origins may call.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub cors: Option<String>,
    /// What policies make of it, for each backend; empty when there are none.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub policy: Vec<Judged>,
    /// Documents that a proxy would not take.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub refused: Vec<String>,
}

/// A test of a rule.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Tested {
    /// Index in `spec.rules`.
    pub index: usize,
    /// Name of the rule; empty when it has none.
    #[serde(default, skip_serializing_if = "String::is_empty")]
    pub name: String,
    /// Index in its `matches`.
    pub r#match: usize,
    /// What it asks for, or what was not so.
    pub because: String,
}

/// What a proxy answers by itself.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct OwnAnswer {
    /// Its status.
    pub status: u16,
    /// The word in `vicino-error`; empty when it is no error.
    #[serde(default, skip_serializing_if = "String::is_empty")]
    pub error: String,
    /// Its body, or what it says.
    pub text: String,
}

/// What is made slow or fails on purpose.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Faults {
    /// 0 is none.
    pub delay_milliseconds: u64,
    /// Of a hundred calls.
    pub delay_percent: u8,
    /// 0 is none.
    pub abort_status: u16,
    /// Of a hundred calls.
    pub abort_percent: u8,
}

/// How long a call may take, and how often it is placed.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Limits {
    /// For a connection to open.
    pub connect_milliseconds: u64,
    /// From head to end; 0 is none.
    pub request_milliseconds: u64,
    /// Without anything from either side; 0 is none.
    pub idle_milliseconds: u64,
    /// How often it may be placed again, at most.
    pub requeues: u32,
}

impl From<Reason> for OwnAnswer {
    fn from(reason: Reason) -> Self {
        Self { status: reason.status(), error: reason.word().to_owned(), text: reason.text().to_owned() }
    }
}

impl Explanation {
    /// In a word: where it goes, or what it is answered with.
    pub fn outcome(&self) -> String {
        match &self.answer {
            Some(answer) if answer.error.is_empty() => answer.status.to_string(),
            Some(answer) => format!("{} {}", answer.status, answer.error),
            None if !self.policy.is_empty() && !self.policy.iter().any(|judged| judged.is_allowed) => {
                "denied".to_owned()
            }
            None if self.egress.is_some() => self.egress.iter().map(|egress| egress.host.clone()).collect(),
            None => {
                let names =
                    self.backends.iter().map(|backend| format!("{}:{}", backend.service, backend.port));
                names.collect::<Vec<_>>().join(",")
            }
        }
    }
}

/// Puts a decision into words.
pub(super) fn of(
    snapshot: &Snapshot,
    (call, head): (&Call, &RequestHead<'_>),
    decision: &Result<Decision, Reason>,
) -> Explanation {
    let mut all = Explanation {
        method: call.method.clone(),
        url: if call.is_tunnel() { call.host.clone() } else { format!("http://{}{}", call.host, call.path) },
        from: call.namespace().to_owned(),
        ..Explanation::default()
    };
    let route = match decision {
        Ok(decision) => Ok(decision.route.clone()),
        Err(_) => vicino_engine::route::route(snapshot, call.namespace(), head.authority),
    };
    if let Ok(route) = &route {
        let name = &route.service.name;
        all.alias = alias(snapshot, call, head);
        all.service = Some(format!("{}/{}", name.namespace, name.name));
        all.port = Some(route.port().port);
        let spoken = Some(route.port().protocol).filter(|spoken| *spoken != Protocol::Http);
        all.protocol = spoken.map(|spoken| protocol(spoken).to_owned());
        if route.pod.is_none() {
            passed_over(&mut all, &route.service.rules, head, decision);
        }
    }
    if let Err(Reason::NoSuchService) = &route {
        all.alias = alias(snapshot, call, head);
    }
    match decision {
        Err(reason) => {
            all.answer = Some(OwnAnswer::from(*reason));
        }
        Ok(Decision { route, pick: None }) => {
            let service = &route.service;
            all.retries = service.retry.as_ref().map(retries);
            all.hedge = service.hedge.filter(|_| route.pod.is_none()).map(hedge);
            all.rate_limit = service.rate_limit.as_ref().map(rate);
            let limits = limits(service.times, service.requeues);
            all.backends = match &route.pod {
                Some(pod) => vec![only(pod, route)],
                None => targets(snapshot, &route.port().backends, (route, &limits), head),
            };
            all.limits = Some(limits);
        }
        Ok(Decision { route, pick: Some(pick) }) => {
            let rule = &route.service.rules.list()[pick.rule];
            of_rule(&mut all, rule, head, *pick);
            all.rate_limit = rule.rate_limit.as_ref().or(route.service.rate_limit.as_ref()).map(rate);
            if rule.action == Action::Forward {
                let limits = limits(rule.times, route.service.requeues);
                all.retries = rule.retry.as_ref().map(retries);
                all.hedge = rule.hedge.map(hedge);
                all.failures = rule.failures.as_deref().map(failures);
                if let Some(of_rule) = route.port().of_rules.get(pick.rule) {
                    all.backends = targets(snapshot, &of_rule.backends, (route, &limits), head);
                    all.mirror = of_rule.mirror.as_ref().map(|to| mirror(to, rule.mirror_percent));
                }
                all.limits = Some(limits);
            }
        }
    }
    if let Ok(route) = &route {
        wishes(&mut all, snapshot, route, head);
    }
    all
}

/// The Service that was called, when it is another name for the one whose route holds, or would be if there were one.
fn alias(snapshot: &Snapshot, call: &Call, head: &RequestHead<'_>) -> Option<String> {
    let host = Authority::parse(head.authority)?.host.to_ascii_lowercase();
    let (namespace, name) =
        service_name(snapshot, call.namespace(), host.strip_suffix('.').unwrap_or(&host))?;
    let is_alias = snapshot.service(namespace, name).is_none() && snapshot.alias(namespace, name).is_some();
    is_alias.then(|| format!("{namespace}/{name}"))
}

/// What binds a call to a pod, what it may ask for, and what becomes of one that does.
fn wishes(all: &mut Explanation, snapshot: &Snapshot, route: &Route, head: &RequestHead<'_>) {
    let (own, overrides) = (&route.service.name, &route.port().overrides);
    if all.backends.is_empty() || route.pod.is_some() {
        return;
    }
    if let Some(affinity) = &route.service.affinity {
        all.affinity = Some(self::affinity(affinity, route.service.affinity_load_percent, head));
    }
    let services = || overrides.iter().map(|backend| &backend.service);
    all.overrides = services().map(|to| qualified(to, &own.namespace)).collect();
    let wish = head.headers.get(OVERRIDE_FIELD).and_then(|value| overridden(value, own, services()));
    match wish {
        None => {}
        Some(Ok(index)) => {
            let only = [Backend { weight: 1, ..overrides[index].clone() }];
            if let Some(limits) = &all.limits {
                all.backends = targets(snapshot, &only, (route, limits), head);
            }
        }
        Some(Err(NotAllowed)) => {
            all.answer = Some(OwnAnswer::from(Reason::OverrideNotAllowed));
            all.affinity = None;
            all.backends.clear();
        }
    }
}

fn qualified(service: &ServiceName, own: &str) -> String {
    match &*service.namespace {
        namespace if namespace == own => service.name.to_string(),
        namespace => format!("{}.{namespace}", service.name),
    }
}

/// The tests that were looked at before one was met, and that one.
fn passed_over(
    all: &mut Explanation,
    rules: &vicino_engine::rules::Rules,
    head: &RequestHead<'_>,
    decision: &Result<Decision, Reason>,
) {
    let pick = decision.as_ref().ok().and_then(|decision| decision.pick);
    for (index, test_index, test) in rules.tests() {
        let tested = |because| Tested {
            index,
            name: rules.list()[index].name.to_string(),
            r#match: test_index,
            because,
        };
        if pick.is_some_and(|pick| (pick.rule, pick.test) == (index, test_index)) {
            all.rule = Some(tested(said(test)));
            return;
        }
        if let Some(mismatch) = test.mismatch(head) {
            all.passed_over.push(tested(why_not(test, mismatch)));
        }
    }
}

fn of_rule(all: &mut Explanation, rule: &Rule, head: &RequestHead<'_>, pick: vicino_engine::rules::Pick) {
    all.answer = match &rule.action {
        Action::Forward => None,
        Action::Redirect(redirect) => Some(OwnAnswer {
            status: redirect.status,
            error: String::new(),
            text: format!("location: {}", redirect.location(head, pick.prefix)),
        }),
        Action::Respond { status, body } => {
            Some(OwnAnswer { status: *status, error: String::new(), text: body.to_string() })
        }
    };
    if rule.edits_request() {
        let (mut fields, mut path) = (Vec::new(), String::new());
        let edited = rule.edit_request(*head, pick, (&mut fields, &mut path));
        if edited.path != head.path {
            all.request.push(format!("path becomes {}", edited.path));
        }
        if edited.authority != head.authority {
            all.request.push(format!("host becomes {}", edited.authority));
        }
    }
    all.request.extend(edits(&rule.request));
    all.response.extend(edits(&rule.response));
    all.cors = rule.cors.as_ref().map(cors);
    let fault = rule.fault;
    if fault.delay_ns > 0 || fault.abort_status > 0 {
        all.fault = Some(Faults {
            delay_milliseconds: milliseconds(fault.delay_ns),
            delay_percent: fault.delay_percent,
            abort_status: fault.abort_status,
            abort_percent: fault.abort_percent,
        });
    }
}

fn edits(edit: &HeaderEdit) -> Vec<String> {
    let removed = edit.remove.iter().map(|name| format!("{name} is removed"));
    let set = edit.set.iter().map(|(name, value)| format!("{name} becomes {value:?}"));
    let added = edit.add.iter().map(|(name, value)| format!("{name} {value:?} is added"));
    removed.chain(set).chain(added).collect()
}

pub(super) fn changes(of: &Edits) -> Vec<String> {
    let request = edits(&of.request).into_iter().map(|edit| format!("request: {edit}"));
    request.chain(edits(&of.response).into_iter().map(|edit| format!("response: {edit}"))).collect()
}

pub(super) fn milliseconds(ns: u64) -> u64 {
    ns / NANOSECONDS_PER_MILLISECOND
}

fn limits(times: Times, requeues: u32) -> Limits {
    let Times { connect_ns, request_ns, idle_ns } = times;
    Limits {
        connect_milliseconds: milliseconds(connect_ns),
        request_milliseconds: milliseconds(request_ns),
        idle_milliseconds: milliseconds(idle_ns),
        requeues,
    }
}

fn rate(limit: &RateLimit) -> String {
    let RateLimit { per_second, burst, key } = limit;
    let of = match key {
        None => "of all callers together".to_owned(),
        Some(RateKey::Header(name)) => format!("of each value of the header {name}"),
        Some(RateKey::Source) => "of each pod".to_owned(),
        Some(RateKey::ServiceAccount) => "of each service account".to_owned(),
    };
    format!("{per_second} calls a second {of}, {burst} at once, on each node")
}

fn hedge(hedge: Hedge) -> String {
    let Hedge { delay_ns, budget_percent, min_per_second } = hedge;
    format!(
        "once more after {} ms without an answer (idempotent methods); budget {budget_percent} % of the calls and {min_per_second} per second",
        milliseconds(delay_ns)
    )
}

fn failures(codes: &[u16]) -> String {
    if codes.is_empty() {
        return "no answer counts as a failure of its pod".to_owned();
    }
    let codes: Vec<_> = codes.iter().map(u16::to_string).collect();
    format!("answers with {} count as failures of their pod", codes.join(", "))
}

fn retries(retry: &Retry) -> String {
    let Retry { attempts, codes, is_for_any_method, attempt_ns, backoff_ns, budget_percent, min_per_second } =
        retry;
    let codes: Vec<_> = codes.iter().map(u16::to_string).collect();
    let methods = if *is_for_any_method { "any method" } else { "idempotent methods" };
    let attempt = match milliseconds(*attempt_ns) {
        0 => String::new(),
        milliseconds => format!(", each attempt at most {milliseconds} ms"),
    };
    format!(
        "{attempts} at most on {} ({methods}), first after {} ms{attempt}; budget {budget_percent} % of the calls and {min_per_second} per second",
        codes.join(", "),
        milliseconds(*backoff_ns)
    )
}

fn mirror(to: &Backend, percent: u8) -> String {
    let ServiceName { namespace, name } = &to.service;
    format!("{percent} % of the calls, copied to {namespace}/{name}:{}", to.port)
}

fn cors(of: &Cors) -> String {
    let Cors { origins, methods, headers, expose, is_with_credentials, max_age_s } = of;
    let origin = |test: &OriginTest| match test {
        OriginTest::Any => "every origin".to_owned(),
        OriginTest::Exact(origin) => origin.to_string(),
        OriginTest::Between(before, after) => format!("{before}*{after}"),
    };
    let origins: Vec<_> = origins.iter().map(origin).collect();
    let credentials = if *is_with_credentials { ", with credentials" } else { "" };
    let list = |before: &str, names: &[Box<str>]| match names {
        [] => String::new(),
        names => format!("{before}{}", names.join(", ")),
    };
    format!(
        "pages of {} may call{credentials}, by GET, HEAD, POST{}{}{}; what a preflight is told holds for {max_age_s} s",
        origins.join(", "),
        list(", ", methods),
        list("; with the fields ", headers),
        list("; and read the fields ", expose)
    )
}

fn path(test: &PathTest) -> Option<String> {
    match test {
        PathTest::Exact(text) => Some(format!("path is {text}")),
        PathTest::Prefix(text) if text.is_empty() => None,
        PathTest::Prefix(text) => Some(format!("path begins with {text}")),
        PathTest::Regex(pattern) => Some(format!("path matches {}", pattern.text)),
    }
}

fn value(what: &str, (name, test): &(Box<str>, ValueTest)) -> String {
    match test {
        ValueTest::Exact(text) => format!("{what} {name} is {text:?}"),
        ValueTest::Regex(pattern) => format!("{what} {name} matches {}", pattern.text),
    }
}

/// All that a test asks for.
fn said(test: &Test) -> String {
    let mut parts: Vec<String> = path(&test.path).into_iter().collect();
    parts.extend(test.method.as_ref().map(|method| format!("method is {method}")));
    parts.extend(test.headers.iter().map(|header| value("header", header)));
    parts.extend(test.query.iter().map(|parameter| value("query parameter", parameter)));
    if parts.is_empty() { "it is about every call".to_owned() } else { parts.join(", ") }
}

/// What a test asks for and did not find.
fn why_not(test: &Test, mismatch: Mismatch) -> String {
    let wanted = match mismatch {
        Mismatch::Path => path(&test.path).unwrap_or_default(),
        Mismatch::Method => format!("method is {}", test.method.as_deref().unwrap_or_default()),
        Mismatch::Header(i) => value("header", &test.headers[i]),
        Mismatch::Query(i) => value("query parameter", &test.query[i]),
    };
    format!("not so: {wanted}")
}
