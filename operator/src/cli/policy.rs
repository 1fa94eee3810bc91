//! `vicino policy test`: expectations in files, judged as the data path judges calls, by policies in the same files; asks no cluster.
//!
//! Expectations are documents beside the manifests, which no cluster has a kind for:
//!
//! ```yaml
//! apiVersion: vicino.dev/v1alpha1
//! kind: PolicyTest
//! cases:
//! - {from: demo/web, to: quotes, path: /today, expect: allow, rule: readers}
//! - {name: nobody writes, from: unidentified, to: quotes.demo:80, method: POST, expect: deny}
//! ```
//!
//! A folder needs no more than policies and Services: without a ServiceMesh one with defaults is assumed, and namespaces that no
//! manifest is of are in it.

use std::collections::{BTreeMap, BTreeSet};
use std::fmt::Write as _;
use std::net::IpAddr;

use serde::{Deserialize, Serialize};
use serde_json::{Value, json};
use vicino_crds::names;
use vicino_crds::node::Neighbour;
use vicino_engine::route::{Decision, decide};
use vicino_engine::snapshot::Snapshot;
use vicino_proxy::config::Change;
use vicino_proxy::config::build::{Built, build};
use vicino_proxy::explain::policy::{Caller, Judged, Pods, judged};
use vicino_wire::http1::{Slots, parse_request};

use super::arguments::{Global, PolicyTestOptions};
use super::cluster::Live;
use super::explain::{inputs_of, neighbours, refused};
use super::manifests::{self, Manifest, POLICY_TEST as KIND};
use super::output::{self, Format};
use super::render::{alone, now, problems, settle, world_of};
use super::{Answer, Error};
use crate::world::Settings;

pub mod list;

/// A caller of whom nothing is proven.
const UNIDENTIFIED: &str = "unidentified";
/// The mesh that is assumed.
const MESH: &str = "default";

/// A document with expectations.
#[derive(Clone, Debug, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
struct PolicyTest {
    #[serde(rename = "apiVersion")]
    _version: String,
    #[serde(rename = "kind")]
    _kind: String,
    #[serde(default, rename = "metadata")]
    _metadata: Value,
    cases: Vec<Case>,
}

/// One expectation.
#[derive(Clone, Debug, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
struct Case {
    /// For people.
    #[serde(default)]
    name: String,
    /// `namespace/service account`, a SPIFFE ID, or `unidentified`.
    from: String,
    /// The caller's address.
    #[serde(default)]
    address: Option<IpAddr>,
    /// Service and port, as an application names them.
    to: String,
    #[serde(default = "get")]
    method: String,
    #[serde(default = "root")]
    path: String,
    #[serde(default)]
    headers: BTreeMap<String, String>,
    /// Labels of the pod that takes the call; absent: what the Service selects by.
    #[serde(default)]
    pod_labels: Option<BTreeMap<String, String>>,
    expect: Expected,
    /// Name or index (`rules[0]`) of the rule that decides, before it `policy/` when that matters.
    #[serde(default)]
    rule: Option<String>,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "lowercase")]
enum Expected {
    Allow,
    Deny,
}

fn get() -> String {
    "GET".to_owned()
}

fn root() -> String {
    "/".to_owned()
}

/// How one case went.
#[derive(Clone, Debug, Serialize)]
#[serde(rename_all = "camelCase")]
struct Outcome {
    source: String,
    index: usize,
    #[serde(skip_serializing_if = "String::is_empty")]
    name: String,
    holds: bool,
    /// What was expected and is not so; empty when it holds.
    #[serde(skip_serializing_if = "String::is_empty")]
    problem: String,
}

/// Runs `vicino policy test`.
pub fn run(global: &Global, options: &PolicyTestOptions) -> Result<Answer, Error> {
    let (tests, rest): (Vec<_>, Vec<_>) =
        manifests::read(&options.filename)?.into_iter().partition(|manifest| manifest.object["kind"] == KIND);
    let mut cases = Vec::new();
    for Manifest { source, object } in tests {
        let test: PolicyTest = serde_json::from_value(object)
            .map_err(|error| Error::Usage(format!("{source}: a {KIND} cannot be read: {error}")))?;
        cases.extend(test.cases.into_iter().enumerate().map(|(index, case)| (source.clone(), index, case)));
    }
    if cases.is_empty() {
        let message = format!("there is no case: write a document with `kind: {KIND}` and `cases`");
        return Err(Error::Usage(message));
    }
    let here = global.namespace.as_deref().unwrap_or("default");
    let mut files = alone(rest, here);
    assume(&mut files);
    let selectors = selectors(&files);
    let mut world = world_of(Settings::default(), Live { inputs: files, written: Vec::new() })?;
    let plan = settle(&mut world, now()).plan;
    let mut notes = problems(&plan);
    let mut meshes = BTreeMap::new();
    for (key, _) in world.meshes.iter() {
        let (inputs, notices) = inputs_of(&plan, &key.name);
        notes.extend(notices.iter().filter_map(refused));
        meshes.insert(key.name.clone(), inputs);
    }
    let mut outcomes = Vec::new();
    for (source, index, case) in cases {
        let mesh = super::explain::mesh_of(&world, namespace_of(&case), None)?;
        let inputs = meshes.get_mut(&mesh).expect("every mesh has inputs");
        let plain = build(inputs, &Built::default());
        let problem = match decided(&plain.snapshot, &case) {
            Err(problem) => problem,
            Ok(decision) => {
                let uid = "pod".to_owned();
                let (pod, pods) = pod_of(&decision, &case, &selectors, &uid);
                inputs.apply(Change::MeshNode(neighbours(&mesh, pod)), &mut Vec::new());
                let built = build(inputs, &plain);
                difference(&built.snapshot, &case, &pods)
            }
        };
        outcomes.push(Outcome { source, index, name: case.name, holds: problem.is_empty(), problem });
    }
    let found = !notes.is_empty() || outcomes.iter().any(|outcome| !outcome.holds);
    Ok(Answer { text: show(global.output, &outcomes), notes, found })
}

/// A mesh, and namespaces in it, where the files say nothing of that.
fn assume(files: &mut Vec<Manifest>) {
    let has = |kind: &str, name: Option<&str>| {
        files.iter().any(|Manifest { object, .. }| {
            object["kind"] == kind && name.is_none_or(|name| object["metadata"]["name"] == name)
        })
    };
    let assumed = |object| Manifest { source: "assumed".to_owned(), object };
    let mut more = Vec::new();
    let mesh = if has("ServiceMesh", None) { None } else { Some(MESH) };
    if let Some(mesh) = mesh {
        let version = format!("{}/{}", names::GROUP, names::VERSION);
        more.push(assumed(json!({ "apiVersion": version, "kind": "ServiceMesh", "metadata": { "name": mesh, "generation": 1 } })));
    }
    let namespaces: BTreeSet<&str> =
        files.iter().filter_map(|manifest| manifest.object["metadata"]["namespace"].as_str()).collect();
    let only = files.iter().filter(|manifest| manifest.object["kind"] == "ServiceMesh");
    let only: Vec<&str> = only.filter_map(|manifest| manifest.object["metadata"]["name"].as_str()).collect();
    let joins = mesh.or(if let [one] = &only[..] { Some(*one) } else { None });
    for namespace in namespaces.into_iter().filter(|name| !has("Namespace", Some(name))) {
        let labels = joins.map(|mesh| json!({ names::LABEL_MESH: mesh })).unwrap_or_default();
        more.push(assumed(json!({ "apiVersion": "v1", "kind": "Namespace", "metadata": { "name": namespace, "labels": labels } })));
    }
    files.extend(more);
}

type Selectors = BTreeMap<(String, String), BTreeMap<String, String>>;

/// What each Service selects its pods by.
fn selectors(files: &[Manifest]) -> Selectors {
    let services = files.iter().map(|manifest| &manifest.object).filter(|object| object["kind"] == "Service");
    services
        .map(|object| {
            let text =
                |path: &str| object.pointer(path).and_then(Value::as_str).unwrap_or_default().to_owned();
            let selector = serde_json::from_value(object["spec"]["selector"].clone()).unwrap_or_default();
            ((text("/metadata/namespace"), text("/metadata/name")), selector)
        })
        .collect()
}

fn bytes_of(case: &Case) -> String {
    let Case { method, path, to, headers, .. } = case;
    let mut bytes = format!("{method} {path} HTTP/1.1\r\nHost: {to}\r\n");
    for (name, value) in headers {
        // A String takes everything.
        let _ = write!(bytes, "{name}: {value}\r\n");
    }
    bytes.push_str("\r\n");
    bytes
}

/// Namespace in which the case's names are looked up.
fn namespace_of(case: &Case) -> &str {
    match case.from.strip_prefix("spiffe://") {
        Some(rest) => rest.split('/').nth(2).unwrap_or_default(),
        None if case.from == UNIDENTIFIED => "default",
        None => case.from.split('/').next().unwrap_or_default(),
    }
}

fn caller(snapshot: &Snapshot, case: &Case) -> Result<Caller, String> {
    let address = case.address;
    let wrong = || {
        format!(
            "from: {:?} is nobody: write namespace/service-account, spiffe://trust.domain/ns/namespace/sa/account or {UNIDENTIFIED}",
            case.from
        )
    };
    if case.from == UNIDENTIFIED {
        return Ok(Caller { identity: None, address });
    }
    let parts = match case.from.strip_prefix("spiffe://") {
        Some(rest) => match rest.split('/').collect::<Vec<_>>()[..] {
            [trust_domain, "ns", namespace, "sa", account] => [trust_domain, namespace, account],
            _ => return Err(wrong()),
        },
        None => match case.from.split('/').collect::<Vec<_>>()[..] {
            [namespace, account] if !namespace.is_empty() && !account.is_empty() => {
                [&*snapshot.trust_domain, namespace, account]
            }
            _ => return Err(wrong()),
        },
    };
    Ok(Caller { identity: Some(parts.map(str::to_owned)), address })
}

/// Reads the call as the data path does, and says what it gets; or why it gets nothing.
fn decided(snapshot: &Snapshot, case: &Case) -> Result<Decision, String> {
    let bytes = bytes_of(case);
    let mut slots = Slots::default();
    let request = match parse_request(bytes.as_bytes(), &mut slots) {
        Ok(Some(request)) if request.len == bytes.len() => request,
        Ok(_) => return Err("the call is not one request: has a header field a line break?".to_owned()),
        Err(reject) => {
            return Err(format!("a proxy refuses such a request with {}: {reject}", reject.status()));
        }
    };
    decide(snapshot, namespace_of(case), &request.head)
        .map_err(|reason| format!("to: {:?} gets {} {}", case.to, reason.status(), reason.word()))
}

/// The pod that takes the call, for every Service that it may go to.
fn pod_of(decision: &Decision, case: &Case, selectors: &Selectors, uid: &str) -> (Vec<Neighbour>, Pods) {
    let mut pods = Pods::new();
    let mut all = Vec::new();
    for backend in decision.route.port().all_backends() {
        let key = (backend.service.namespace.to_string(), backend.service.name.to_string());
        let uid = format!("{uid}-{}", pods.len());
        let labels = case.pod_labels.clone().or_else(|| selectors.get(&key).cloned()).unwrap_or_default();
        all.push(Neighbour {
            uid: uid.clone(),
            namespace: key.0.clone(),
            name: uid.clone(),
            service_account: String::new(),
            ips: Vec::new(),
            labels,
            inbound: None,
            plain_ports: Vec::new(),
            plain_ports_problem: None,
            network_since: None,
        });
        pods.insert(key, vec![uid]);
    }
    (all, pods)
}

/// What is not as expected; empty when everything is.
fn difference(snapshot: &Snapshot, case: &Case, pods: &Pods) -> String {
    let all = match verdicts(snapshot, case, pods) {
        Ok(all) => all,
        Err(problem) => return problem,
    };
    let expected = if case.expect == Expected::Allow { "allow" } else { "deny" };
    if all.is_empty() {
        // No policy, and the mesh allows what no policy is about.
        return match (case.expect, &case.rule) {
            (Expected::Allow, None) => String::new(),
            _ => format!("expected {expected}, but there is no policy, and the mesh's default is Allow"),
        };
    }
    let is_rule = |judged: &Judged, wanted: &str| {
        let (Some(policy), Some(rule)) = (&judged.policy, &judged.rule) else { return false };
        let name = policy.split('/').next_back().unwrap_or_default();
        [rule.clone(), format!("{name}/{rule}"), format!("{policy}/{rule}")].iter().any(|one| one == wanted)
    };
    let other = all.iter().find(|judged| {
        judged.is_allowed != (case.expect == Expected::Allow)
            || case.rule.as_ref().is_some_and(|wanted| !is_rule(judged, wanted))
    });
    match (other, &case.rule) {
        (None, _) => String::new(),
        (Some(judged), None) => format!("expected {expected}, but {judged}"),
        (Some(judged), Some(rule)) => format!("expected {expected} by rule {rule}, but {judged}"),
    }
}

fn verdicts(snapshot: &Snapshot, case: &Case, pods: &Pods) -> Result<Vec<Judged>, String> {
    let caller = caller(snapshot, case)?;
    let decision = decided(snapshot, case)?;
    let bytes = bytes_of(case);
    let mut slots = Slots::default();
    match parse_request(bytes.as_bytes(), &mut slots) {
        Ok(Some(request)) => Ok(judged(snapshot, &decision, (&request.head, &caller), pods)),
        _ => Err("the call is not one request".to_owned()),
    }
}

fn show(format: Format, outcomes: &[Outcome]) -> String {
    let failed = || outcomes.iter().filter(|outcome| !outcome.holds);
    let title = |outcome: &Outcome| match &*outcome.name {
        "" => format!("{} cases[{}]", outcome.source, outcome.index),
        name => format!("{} cases[{}] {name:?}", outcome.source, outcome.index),
    };
    match format {
        Format::Table | Format::Wide => {
            let mut text = String::new();
            for outcome in failed() {
                text.extend(["FAILED  ", &title(outcome), ": ", &outcome.problem, "\n"]);
            }
            let holding = outcomes.len() - failed().count();
            // A String takes everything.
            let _ = writeln!(text, "{holding} of {} cases hold", outcomes.len());
            text
        }
        Format::Name => failed().flat_map(|outcome| [title(outcome), "\n".to_owned()]).collect(),
        Format::Json => output::json(&json!(outcomes)),
        Format::Yaml => output::documents(outcomes.iter().map(|outcome| json!(outcome))),
    }
}

#[cfg(test)]
mod tests;
