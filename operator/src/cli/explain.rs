//! `vicino explain`: what one call would get, and why. Manifests go through the operator's pipeline, its documents through the
//! proxies' reader, and the call through the function that serves calls; nothing here decides.

use k8s_openapi::api::discovery::v1::EndpointSlice;
use serde_json::Value;
use vicino_crds::names;
use vicino_engine::route::decide;
use vicino_engine::snapshot::Snapshot;
use vicino_proxy::config::build::{Built, build};
use vicino_proxy::config::bundle::BundleKind;
use vicino_proxy::config::inputs::{Identity, Notice};
use vicino_proxy::config::{Change, Inputs, RawBundle, Slice};
use vicino_wire::http1::{Slots, parse_request};

use super::arguments::{ExplainOptions, Global};
use super::cluster::{self, Cluster, Live};
use super::manifests;
use super::output::{self, Format};
use super::render::{files_alone, now, settings, settle, world_of};
use super::{Answer, Error};
use crate::world::{Body, Key, Kind, Settings, World};

mod explanation;
mod text;

use explanation::Explanation;

/// The call that is asked about.
#[derive(Clone, Debug, PartialEq, Eq)]
struct Call {
    method: String,
    host: String,
    /// Path and query.
    path: String,
    /// `Name: value`.
    fields: Vec<String>,
    /// Namespace of the caller.
    from: String,
}

/// Runs `vicino explain`.
pub async fn run(global: &Global, options: &ExplainOptions) -> Result<Answer, Error> {
    let named = options.from.as_deref().map(|from| from.split('/').next().unwrap_or_default().to_owned());
    if options.files.filename.is_empty() || options.compare {
        let cluster = Cluster::connect(global).await?;
        let call = call(options, named.unwrap_or_else(|| cluster.namespace.clone()))?;
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
        let after = explain(settings, live, &call, mesh)?;
        return Ok(compared(global.output, &before, &after));
    }
    let here = global.namespace.clone().unwrap_or_else(|| "default".to_owned());
    let live = Live { inputs: files_alone(&options.files.filename, &here)?, written: Vec::new() };
    let call = call(options, named.unwrap_or(here))?;
    let explanation = explain(settings(&options.files, None).await?, live, &call, options.mesh.as_deref())?;
    Ok(answer(global.output, &explanation))
}

/// The call of the command line, its URL taken apart.
fn call(options: &ExplainOptions, from: String) -> Result<Call, Error> {
    let (method, url) = match &options.request[..] {
        [method, url] => (method.as_str(), url.as_str()),
        [url] => ("GET", url.as_str()),
        _ => return Err(Error::Usage("give a method and a URL, or a URL".to_owned())),
    };
    if url.starts_with("https://") {
        let message = "https is end to end: the mesh passes it through and sees neither path nor header; ask for http://";
        return Err(Error::Usage(message.to_owned()));
    }
    let rest = url.strip_prefix("http://").unwrap_or(url);
    let (host, path) = rest.find(['/', '?']).map_or((rest, ""), |at| rest.split_at(at));
    let path = if path.starts_with('/') { path.to_owned() } else { format!("/{path}") };
    let path = path.split('#').next().unwrap_or_default().to_owned();
    if host.is_empty() {
        return Err(Error::Usage(format!("{url:?} names no host: write http://<service>/<path>")));
    }
    if let Some(field) = options.header.iter().find(|field| !field.contains(':')) {
        return Err(Error::Usage(format!("{field:?} is no header field: write -H 'name: value'")));
    }
    Ok(Call { method: method.to_owned(), host: host.to_owned(), path, fields: options.header.clone(), from })
}

fn explain(settings: Settings, live: Live, call: &Call, mesh: Option<&str>) -> Result<Explanation, Error> {
    let slices = live.inputs.iter().filter(|manifest| manifest.object["kind"] == "EndpointSlice");
    let slices = slices.map(|manifest| slice(&manifest.object)).collect::<Result<Vec<_>, _>>()?;
    let mut world = world_of(settings, live)?;
    let mesh = mesh_of(&world, call, mesh)?;
    let plan = settle(&mut world, now()).plan;
    let mut inputs = Inputs::new(Identity { node: "".into(), mesh: (*mesh).into(), mesh_uid: "".into() });
    let mut notices: Vec<Notice> = Vec::new();
    for object in
        plan.objects.values().filter(|object| object.mesh == mesh && object.id.kind == Kind::ConfigMap)
    {
        let Body::Data(data) = &object.body else { continue };
        let namespace = object.labels.get(names::LABEL_ROUTES_NAMESPACE);
        if let Some(namespace) = namespace {
            let kind = BundleKind::Routes { namespace: (**namespace).into() };
            let bundle = RawBundle { name: (*object.id.key.name).into(), kind, data: data.clone() };
            inputs.apply(Change::Bundle(bundle), &mut notices);
        } else if let Some(text) = data.get(names::BOOTSTRAP_KEY) {
            inputs.apply(Change::Bootstrap(text.clone().into_bytes()), &mut notices);
        }
    }
    inputs.apply(Change::AllSlices(slices), &mut notices);
    let built = build(&inputs, &Built::default());
    let mut explanation = of_call(&plan.validated, &built.snapshot, call)?;
    explanation.refused = notices.iter().filter_map(refused).collect();
    Ok(explanation)
}

fn slice(object: &Value) -> Result<Slice, Error> {
    let slice: EndpointSlice = serde_json::from_value(object.clone())
        .map_err(|error| Error::Usage(format!("an EndpointSlice cannot be read: {error}")))?;
    Ok(Slice::trim(&slice))
}

/// What a proxy of this release would not take.
fn refused(notice: &Notice) -> Option<String> {
    match notice {
        Notice::Refused { place, message, .. } => Some(format!("a proxy refuses {place}: {message}")),
        Notice::UnknownField { .. } => None,
    }
}

/// The mesh by whose routes the call goes: that of the caller's node, which is that of its namespace as a rule.
fn mesh_of(world: &World, call: &Call, named: Option<&str>) -> Result<String, Error> {
    let all: Vec<String> = world.meshes.iter().map(|(key, _)| key.name.clone()).collect();
    if let Some(named) = named {
        let exists = all.iter().any(|mesh| mesh == named);
        let problem =
            || Error::Usage(format!("there is no ServiceMesh {named:?}; there are: {}", all.join(", ")));
        return exists.then(|| named.to_owned()).ok_or_else(problem);
    }
    let namespace = world.namespaces.get(&Key::cluster(&call.from)).and_then(|row| row.value.mesh.clone());
    match (namespace.filter(|mesh| all.contains(mesh)), &all[..]) {
        (Some(mesh), _) => Ok(mesh),
        (None, [mesh]) => Ok(mesh.clone()),
        (None, []) => Err(Error::Usage("there is no ServiceMesh".to_owned())),
        (None, _) => {
            Err(Error::Usage(format!("there are several meshes: say --mesh with one of {}", all.join(", "))))
        }
    }
}

/// What the data path makes of the call, after it was read as the data path reads it.
fn of_call(
    validated: &crate::validate::Validated,
    snapshot: &Snapshot,
    call: &Call,
) -> Result<Explanation, Error> {
    let Call { method, host, path, fields, from } = call;
    let mut bytes = format!("{method} {path} HTTP/1.1\r\nHost: {host}\r\n");
    for field in fields {
        bytes.extend([field, "\r\n"]);
    }
    bytes.push_str("\r\n");
    let mut slots = Slots::default();
    let request = match parse_request(bytes.as_bytes(), &mut slots) {
        Ok(Some(request)) if request.len == bytes.len() => request,
        Ok(_) => {
            return Err(Error::Usage(
                "the call is not one request: has a header field a line break?".to_owned(),
            ));
        }
        Err(reject) => {
            return Err(Error::Usage(format!(
                "a proxy refuses such a request with {} {}: {reject}",
                reject.status(),
                reject.reason()
            )));
        }
    };
    let decision = decide(snapshot, from, &request.head);
    Ok(explanation::of(validated, snapshot, (call, &request.head), &decision))
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
