//! `vicino explain`: what one call would get, and why. Manifests go through the operator's pipeline, its documents through the
//! proxies' reader, and the call through the function that serves calls; or a proxy is asked what it would do. Nothing here decides.

use std::path::PathBuf;

use k8s_openapi::api::discovery::v1::EndpointSlice;
use serde_json::Value;
use vicino_crds::condition;
use vicino_crds::node::Neighbour;
use vicino_crds::{MeshNodeSpec, names};
use vicino_proxy::config::build::{Built, build};
use vicino_proxy::config::bundle::BundleKind;
use vicino_proxy::config::inputs::{Identity, Notice};
use vicino_proxy::config::{Change, Inputs, OwnNode, RawBundle, Slice};
use vicino_proxy::explain::{Call, Explanation, Wrong};
use vicino_wire::head::Authority;

use super::arguments::{ExplainOptions, Global};
use super::cluster::{self, Cluster, Live};
use super::manifests::{self, Manifest};
use super::output::{self, Format};
use super::render::{files_alone, now, settings, settle, world_of};
use super::{Answer, Error};
use crate::plan::Plan;
use crate::validate::{Outcome, Validated};
use crate::world::{Body, Key, Kind, Settings, World};

mod caller;
mod node;
mod text;

pub use node::NodeError;

/// Port of an https:// URL that says none.
const PORT_TLS: u16 = 443;

/// Runs `vicino explain`.
pub async fn run(global: &Global, options: &ExplainOptions) -> Result<Answer, Error> {
    let is_of_files = !options.files.filename.is_empty();
    if let Some(node) = &options.node {
        if is_of_files || options.compare || !options.compare_with.is_empty() || options.mesh.is_some() {
            let message = "--node asks the proxy of a node what it serves by now: files, --compare and --mesh have no part in that, leave them out";
            return Err(Error::Usage(message.to_owned()));
        }
        let cluster = Cluster::connect(global).await?;
        let call = call(options, &cluster.namespace)?;
        return Ok(answer(global.output, &node::ask(&cluster, node, &call).await?));
    }
    if !is_of_files || options.compare {
        let cluster = Cluster::connect(global).await?;
        let call = call(options, &cluster.namespace)?;
        let settings = settings(&options.files, Some(&cluster)).await?;
        let live = cluster::live(&cluster).await?;
        let mesh = options.mesh.as_deref();
        let before = explain(settings.clone(), live.clone(), &call, mesh)?;
        if !options.compare {
            return Ok(answer(global.output, &before));
        }
        let mut files = manifests::read(&options.files.filename)?;
        manifests::place(&mut files, &cluster.namespace);
        let live = Live { inputs: manifests::overlay(live.inputs, files), written: live.written };
        let mut after = explain(settings, live, &call, mesh)?;
        // Of what is not applied nodes know nothing.
        after.in_force.clone_from(&before.in_force);
        return Ok(compared(global.output, &before, &after));
    }
    let here = global.namespace.clone().unwrap_or_else(|| "default".to_owned());
    let call = call(options, &here)?;
    let settings = settings(&options.files, None).await?;
    let of = |paths: &[PathBuf]| {
        let live = Live { inputs: files_alone(paths, &here)?, written: Vec::new() };
        explain(settings.clone(), live, &call, options.mesh.as_deref())
    };
    let explanation = of(&options.files.filename)?;
    if options.compare_with.is_empty() {
        return Ok(answer(global.output, &explanation));
    }
    Ok(compared(global.output, &of(&options.compare_with)?, &explanation))
}

/// The call of the command line, its URL taken apart; `here` is the caller's namespace when none is named.
fn call(options: &ExplainOptions, here: &str) -> Result<Call, Error> {
    let from = options.from.clone().unwrap_or_else(|| here.to_owned());
    let (method, url) = match &options.request[..] {
        [method, url] => (method.as_str(), url.as_str()),
        [url] => ("GET", url.as_str()),
        _ => return Err(Error::Usage("give a method and a URL, or a URL".to_owned())),
    };
    let tls = url.strip_prefix("https://");
    let rest = tls.or(url.strip_prefix("http://")).unwrap_or(url);
    let (host, path) = rest.find(['/', '?']).map_or((rest, ""), |at| rest.split_at(at));
    let path = if path.starts_with('/') { path.to_owned() } else { format!("/{path}") };
    let path = path.split('#').next().unwrap_or_default().to_owned();
    if host.is_empty() {
        return Err(Error::Usage(format!("{url:?} names no host: write http://<service>/<path>")));
    }
    if let Some(field) = options.header.iter().find(|field| !field.contains(':')) {
        return Err(Error::Usage(format!("{field:?} is no header field: write -H 'name: value'")));
    }
    if tls.is_some() {
        let has_port = Authority::parse(host).is_some_and(|authority| authority.port.is_some());
        let host = if has_port { host.to_owned() } else { format!("{host}:{PORT_TLS}") };
        let (method, path) = ("CONNECT".to_owned(), String::new());
        return Ok(Call { method, host, path, headers: Vec::new(), from });
    }
    let (method, host, headers) = (method.to_owned(), host.to_owned(), options.header.clone());
    Ok(Call { method, host, path, headers, from })
}

fn explain(settings: Settings, live: Live, call: &Call, mesh: Option<&str>) -> Result<Explanation, Error> {
    let slices = slices(&live.inputs)?;
    let mut world = world_of(settings, live)?;
    let mesh = mesh_of(&world, call.namespace(), mesh)?;
    let plan = settle(&mut world, now()).plan;
    let (mut inputs, mut notices) = inputs_of(&plan, &mesh);
    inputs.apply(Change::AllSlices(slices), &mut notices);
    inputs.apply(Change::MeshNode(neighbours(&mesh, all_pods(&plan, &mesh))), &mut notices);
    let built = build(&inputs, &Built::default());
    let caller = caller::of(&world, &built.snapshot, call);
    let pods = caller::pods(&inputs);
    let mut explanation = vicino_proxy::explain::explain(&built.snapshot, call, (&caller, &pods))?;
    explanation.problem = problem(&plan.validated, &explanation, call);
    explanation.refused = notices.iter().filter_map(refused).collect();
    explanation.in_force = in_force(&world, explanation.service.as_deref());
    Ok(explanation)
}

/// Why the MeshRoute of the Service that is called is not in force as it is.
fn problem(validated: &Validated, explanation: &Explanation, call: &Call) -> Option<String> {
    let mut labels = call.host.split([':', '.']);
    let (name, namespace) = (labels.next().unwrap_or_default(), labels.next());
    let namespace = namespace.filter(|_| call.host.contains('.')).unwrap_or(call.namespace());
    let found = explanation.service.as_deref().and_then(|service| service.split_once('/'));
    let (namespace, name) = found.unwrap_or((namespace, name));
    let verdict = validated.routes.get(&Key::new(namespace, name))?;
    match &verdict.outcome {
        Outcome::Kept(problem) | Outcome::Nothing(problem) => Some(problem.text()),
        Outcome::Compiled(_) => None,
    }
}

/// Which nodes serve the Service's MeshRoute at its newest generation, as they have reported; None where nobody has.
fn in_force(world: &World, service: Option<&str>) -> Option<String> {
    let (namespace, name) = service?.split_once('/')?;
    let route = &world.routes.get(&Key::new(namespace, name))?.value;
    let said = route.status.conditions.iter().find(|said| said.type_ == condition::kind::PROGRAMMED)?;
    let generation = route.generation;
    Some(match (said.observed_generation == Some(generation), said.status == "True") {
        (true, true) => format!("generation {generation}: {}", said.message),
        (true, false) => format!("generation {generation} not everywhere yet: {}", said.message),
        (false, _) => format!("of generation {generation} nothing is known yet"),
    })
}

/// What the proxies of a mesh would be told, as they take it in.
pub(super) fn inputs_of(plan: &Plan, mesh: &str) -> (Inputs, Vec<Notice>) {
    let mut inputs = Inputs::new(Identity { node: "".into(), mesh: mesh.into(), mesh_uid: "".into() });
    let mut notices: Vec<Notice> = Vec::new();
    for object in
        plan.objects.values().filter(|object| object.mesh == mesh && object.id.kind == Kind::ConfigMap)
    {
        let Body::Data(data) = &object.body else { continue };
        let label = |name: &str| object.labels.get(name).map(|namespace| (**namespace).into());
        let routes = label(names::LABEL_ROUTES_NAMESPACE).map(|namespace| BundleKind::Routes { namespace });
        let policies = label(names::LABEL_POLICIES_NAMESPACE);
        let policies = policies.map(|namespace| BundleKind::Policies { namespace });
        let whole = match object.labels.get(names::LABEL_CONFIG).map(String::as_str) {
            Some(names::CONFIG_NODES) => Some(BundleKind::Nodes),
            Some(names::CONFIG_EGRESS) => Some(BundleKind::Egress),
            _ => None,
        };
        if let Some(kind) = routes.or(policies).or(whole) {
            let bundle = RawBundle { name: (*object.id.key.name).into(), kind, data: data.clone() };
            inputs.apply(Change::Bundle(bundle), &mut notices);
        } else if let Some(text) = data.get(names::BOOTSTRAP_KEY) {
            inputs.apply(Change::Bootstrap(text.clone().into_bytes()), &mut notices);
        }
    }
    (inputs, notices)
}

/// The pods of every node, as if all were one, since the call may be delivered on any.
fn all_pods(plan: &Plan, mesh: &str) -> Vec<Neighbour> {
    let nodes = plan.objects.values().filter(|object| object.mesh == mesh);
    let pods = nodes.flat_map(|object| match &object.body {
        Body::Neighbours(spec) => &spec.pods[..],
        _ => &[],
    });
    pods.map(|pod| Neighbour { uid: caller::uid(&pod.uid, pod.ips.first()), ..pod.clone() }).collect()
}

pub(super) fn neighbours(mesh: &str, pods: Vec<Neighbour>) -> OwnNode {
    OwnNode { generation: 0, spec: MeshNodeSpec { mesh: mesh.to_owned(), pods, ..MeshNodeSpec::default() } }
}

fn slices(manifests: &[Manifest]) -> Result<Vec<Slice>, Error> {
    let slices = manifests.iter().filter(|manifest| manifest.object["kind"] == "EndpointSlice");
    slices.map(|manifest| slice(&manifest.object)).collect()
}

fn slice(object: &Value) -> Result<Slice, Error> {
    let slice: EndpointSlice = serde_json::from_value(object.clone())
        .map_err(|error| Error::Usage(format!("an EndpointSlice cannot be read: {error}")))?;
    Ok(Slice::trim(&slice))
}

/// What a proxy of this release would not take.
pub(super) fn refused(notice: &Notice) -> Option<String> {
    match notice {
        Notice::Refused { place, message, .. } => Some(format!("a proxy refuses {place}: {message}")),
        Notice::UnknownField { .. } => None,
    }
}

/// The mesh by whose routes the call goes: that of the caller's node, which is that of its namespace as a rule.
pub(super) fn mesh_of(world: &World, from: &str, named: Option<&str>) -> Result<String, Error> {
    let all: Vec<String> = world.meshes.iter().map(|(key, _)| key.name.clone()).collect();
    if let Some(named) = named {
        let exists = all.iter().any(|mesh| mesh == named);
        let problem =
            || Error::Usage(format!("there is no ServiceMesh {named:?}; there are: {}", all.join(", ")));
        return exists.then(|| named.to_owned()).ok_or_else(problem);
    }
    let namespace = world.namespaces.get(&Key::cluster(from)).and_then(|row| row.value.mesh.clone());
    match (namespace.filter(|mesh| all.contains(mesh)), &all[..]) {
        (Some(mesh), _) => Ok(mesh),
        (None, [mesh]) => Ok(mesh.clone()),
        (None, []) => Err(Error::Usage("there is no ServiceMesh".to_owned())),
        (None, _) => {
            Err(Error::Usage(format!("there are several meshes: say --mesh with one of {}", all.join(", "))))
        }
    }
}

impl From<Wrong> for Error {
    fn from(wrong: Wrong) -> Self {
        Self::Usage(wrong.to_string())
    }
}

fn answer(format: Format, explanation: &Explanation) -> Answer {
    Answer { text: show(format, explanation), notes: explanation.refused.clone(), found: false }
}

fn show(format: Format, explanation: &Explanation) -> String {
    match format {
        Format::Table | Format::Wide => text::show(explanation),
        Format::Yaml => output::documents([serde_json::json!(explanation)].into_iter()),
        Format::Json => output::json(&serde_json::json!(explanation)),
        Format::Name => format!("{}\n", explanation.outcome()),
    }
}

fn compared(format: Format, before: &Explanation, after: &Explanation) -> Answer {
    if before == after {
        let notes = vec!["the files change nothing about this call".to_owned()];
        return Answer { notes, ..answer(format, before) };
    }
    let text = match format {
        Format::Table | Format::Wide => format!("NOW\n{}\nTHEN\n{}", text::show(before), text::show(after)),
        Format::Json => output::json(&serde_json::json!({ "now": before, "then": after })),
        Format::Yaml => output::documents([serde_json::json!({ "now": before, "then": after })].into_iter()),
        Format::Name => format!("{}\n{}\n", before.outcome(), after.outcome()),
    };
    Answer { text, notes: Vec::new(), found: true }
}

#[cfg(test)]
mod tests;
