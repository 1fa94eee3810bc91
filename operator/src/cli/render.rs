//! `vicino render`: what the operator would apply for a set of manifests; the pipeline is the operator's own.

use std::collections::BTreeMap;
use std::path::PathBuf;

use k8s_openapi::apimachinery::pkg::apis::meta::v1::Time;
use k8s_openapi::jiff::Timestamp;
use kube::core::DynamicObject;
use serde_json::{Value, json};
use vicino_crds::names;

use super::arguments::{FileOptions, Global, RenderOptions};
use super::cluster::{self, Cluster, Live};
use super::manifests::{self, Manifest};
use super::output::{self, Format};
use super::{Answer, Error};
use crate::apply::Change;
use crate::plan::Plan;
use crate::render::Rendered;
use crate::validate::Problem;
use crate::world::{Kind, ObjectId, Settings, World};

/// Runs `vicino render`.
pub async fn run(global: &Global, options: &RenderOptions) -> Result<Answer, Error> {
    let (mut world, mut notes) = if options.files.filename.is_empty() {
        let cluster = Cluster::connect(global).await?;
        let settings = settings(&options.files, Some(&cluster)).await?;
        (world_of(settings, cluster::live(&cluster).await?)?, Vec::new())
    } else {
        from_files(global, &options.files).await?
    };
    let plan = settle(&mut world, now()).plan;
    let problems = problems(&plan);
    let found = !problems.is_empty();
    notes.extend(problems);
    Ok(Answer { text: show(&plan, global.output), notes, found })
}

/// What files alone say, as if they were all that there is besides `config/default`.
pub(super) fn files_alone(paths: &[PathBuf], namespace: &str) -> Result<Vec<Manifest>, Error> {
    Ok(alone(manifests::read(paths)?, namespace))
}

/// See [`files_alone`].
pub(super) fn alone(mut found: Vec<Manifest>, namespace: &str) -> Vec<Manifest> {
    manifests::place(&mut found, namespace);
    let installed =
        json!({ "apiVersion": "v1", "kind": "Namespace", "metadata": { "name": names::PROXY_NAMESPACE } });
    let base = vec![Manifest { source: "config/default".to_owned(), object: installed }];
    manifests::overlay(base, found)
}

/// The World of a cluster.
pub(super) fn world_of(settings: Settings, live: Live) -> Result<World, Error> {
    let (mut world, _) = manifests::world(settings, live.inputs)?;
    for (kind, object) in live.written {
        world.take_written(kind, object);
    }
    Ok(world)
}

/// A World of files alone.
async fn from_files(global: &Global, files: &FileOptions) -> Result<(World, Vec<String>), Error> {
    let inputs = files_alone(&files.filename, global.namespace.as_deref().unwrap_or("default"))?;
    let (world, ignored) = manifests::world(settings(files, None).await?, inputs)?;
    let mut notes = Vec::new();
    if !ignored.is_empty() {
        let kinds: Vec<_> = ignored.iter().map(|(kind, count)| format!("{count} {kind}")).collect();
        notes.push(format!("not of interest to the mesh: {}", kinds.join(", ")));
    }
    if world.meshes.is_empty() {
        notes.push("there is no ServiceMesh among the files, so nothing is rendered".to_owned());
    }
    Ok((world, notes))
}

/// What the operator renders with: the flag, else what the cluster's operator was told, else the release's own.
pub(super) async fn settings(files: &FileOptions, cluster: Option<&Cluster>) -> Result<Settings, Error> {
    match (&files.proxy_image, cluster) {
        (Some(image), _) => Ok(Settings { proxy_image: image.clone() }),
        (None, Some(cluster)) => Ok(cluster.settings().await?),
        (None, None) => Ok(Settings::default()),
    }
}

/// The time for conditions.
pub(super) fn now() -> Timestamp {
    Timestamp::now()
}

/// Where the operator comes to rest.
#[derive(Clone, Debug)]
pub(super) struct Settled {
    /// The plan once missing MeshRoutes exist.
    pub(super) plan: Plan,
    /// These MeshRoutes, which are no longer among its changes.
    pub(super) created: BTreeMap<ObjectId, Value>,
}

/// The operator creates missing MeshRoutes first, since what proxies are told carries the generation that they get: 1.
pub(super) fn settle(world: &mut World, now: Timestamp) -> Settled {
    let time = Time(now);
    let plan = crate::plan::plan(world, &time);
    let is_new = |change: &&Change| matches!(change, Change::Apply(id, None) if id.kind == Kind::MeshRoute);
    let new = plan.changes.iter().filter(is_new).filter_map(|change| plan.objects.get(change.id()));
    let created: BTreeMap<_, _> = new.map(|object| (object.id.clone(), object.manifest())).collect();
    if created.is_empty() {
        return Settled { plan, created };
    }
    for manifest in created.values() {
        let mut manifest = manifests::created(manifest.clone());
        manifest["metadata"]["managedFields"] = json!([{ "manager": names::FIELD_MANAGER, "operation": "Apply", "fieldsV1": { "f:metadata": {} } }]);
        let object: DynamicObject =
            serde_json::from_value(manifest).expect("a rendered manifest has metadata and types");
        world.take_written(Kind::MeshRoute, object);
    }
    Settled { plan: crate::plan::plan(world, &time), created }
}

/// What is not accepted, one line each: object, field, what would be right.
pub(super) fn problems(plan: &Plan) -> Vec<String> {
    let validated = &plan.validated;
    let mut lines = Vec::new();
    let mut say = |object: String, problem: &Problem| lines.push(format!("{object}: {}", problem.text()));
    for (name, verdict) in &validated.meshes {
        if let Some(problem) = verdict.problem() {
            say(format!("ServiceMesh {name}"), problem);
        }
    }
    for (name, problem) in &validated.namespaces {
        say(format!("Namespace {name}"), problem);
    }
    for (key, verdict) in &validated.policies {
        if let Some(problem) = verdict.outcome.problem().or(verdict.missing.as_ref()) {
            say(format!("MeshPolicy {key}"), problem);
        }
    }
    for (key, verdict) in &validated.routes {
        if let Some(problem) = verdict.outcome.problem() {
            say(format!("MeshRoute {key}"), problem);
        }
    }
    for (mesh, faults) in &plan.faults {
        lines.extend(faults.iter().map(|fault| {
            format!("{}: {}; nothing of ServiceMesh {mesh} is written", fault.object, fault.problem)
        }));
    }
    lines
}

fn show(plan: &Plan, format: Format) -> String {
    // A MeshRoute that is its user's has nothing of the operator's in it.
    let applied = |object: &&Rendered| object.owner.is_some();
    let manifests = || plan.objects.values().filter(applied).map(manifest);
    match format {
        Format::Table | Format::Wide | Format::Yaml => output::documents(manifests()),
        Format::Json => {
            let items: Vec<Value> = manifests().collect();
            output::json(&json!({ "apiVersion": "v1", "kind": "List", "items": items }))
        }
        Format::Name => {
            output::lines(plan.objects.values().filter(applied).map(|object| reference(&object.id)))
        }
    }
}

/// The object as it is sent; without the owner where that comes from a file and has no UID yet.
fn manifest(object: &Rendered) -> Value {
    let mut manifest = object.manifest();
    if object.owner.as_ref().is_some_and(|owner| owner.uid.is_empty())
        && let Some(metadata) = manifest["metadata"].as_object_mut()
    {
        metadata.remove("ownerReferences");
    }
    manifest
}

/// `kind.group/name` as kubectl prints it, with the namespace where there is one.
pub(super) fn reference(id: &ObjectId) -> String {
    let resource = id.kind.resource();
    let kind = resource.kind.to_lowercase();
    let typed = if resource.group.is_empty() { kind } else { format!("{kind}.{}", resource.group) };
    if id.key.namespace.is_empty() {
        format!("{typed}/{}", id.key.name)
    } else {
        format!("{typed}/{} -n {}", id.key.name, id.key.namespace)
    }
}

#[cfg(test)]
mod tests;
