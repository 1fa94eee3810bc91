//! `vicino diff`: what the operator would write on the live cluster, now or once files were applied; writes nothing.

use std::collections::BTreeMap;
use std::fmt::Write;

use kube::core::DynamicObject;
use serde_json::{Value, json};
use similar::TextDiff;

use super::arguments::{DiffOptions, Global};
use super::cluster::{self, Cluster, Live};
use super::manifests::{self, Manifest};
use super::output::{self, Format};
use super::render::{Settled, now, problems, reference, settings, settle, world_of};
use super::{Answer, Error};
use crate::apply::Change;
use crate::plan::Plan;
use crate::world::{Key, Kind, ObjectId, Settings};

mod fields;

/// Lines around a difference.
const CONTEXT: usize = 3;

/// One object that the operator would write.
#[derive(Clone, Debug, PartialEq)]
struct Difference {
    id: ObjectId,
    /// `create`, `change` or `delete`.
    action: &'static str,
    /// What is live, as far as the operator says anything of it; nothing when it is to be created.
    old: Option<Value>,
    /// What it would be; nothing when it is to be deleted.
    new: Option<Value>,
}

/// Runs `vicino diff`.
pub async fn run(global: &Global, options: &DiffOptions) -> Result<Answer, Error> {
    let mut files = manifests::read(&options.files.filename)?;
    let cluster = Cluster::connect(global).await?;
    manifests::place(&mut files, &cluster.namespace);
    let settings = settings(&options.files, Some(&cluster)).await?;
    let live = cluster::live(&cluster).await?;
    let Compared { differences, notes, worse } = compare(settings, live, files)?;
    Ok(Answer { found: worse || !differences.is_empty(), text: show(&differences, global.output), notes })
}

/// How the cluster and what it would become differ.
#[derive(Debug)]
struct Compared {
    /// What would be written.
    differences: Vec<Difference>,
    /// What would not be accepted.
    notes: Vec<String>,
    /// Whether some of that is accepted now, or is not there yet: nothing is written for it, and that is what is to be found out.
    worse: bool,
}

fn compare(settings: Settings, live: Live, files: Vec<Manifest>) -> Result<Compared, Error> {
    let mut old = objects(&live);
    let now = now();
    let before = if files.is_empty() {
        None
    } else {
        Some(problems(&settle(&mut world_of(settings.clone(), live.clone())?, now).plan))
    };
    let live = Live { inputs: manifests::overlay(live.inputs, files), written: live.written };
    let mut world = world_of(settings, live)?;
    let Settled { plan, created } = settle(&mut world, now);
    let creation = |(id, manifest)| Difference { id, action: "create", old: None, new: Some(manifest) };
    let mut differences: Vec<_> = created.into_iter().map(creation).collect();
    differences.extend(plan.changes.iter().map(|change| difference(&plan, change, &mut old)));
    differences.sort_by(|a, b| a.id.cmp(&b.id));
    let notes = problems(&plan);
    let worse = before.is_some_and(|before| notes.iter().any(|note| !before.contains(note)));
    Ok(Compared { differences, notes, worse })
}

fn difference(plan: &Plan, change: &Change, old: &mut BTreeMap<ObjectId, Value>) -> Difference {
    let id = change.id().clone();
    let live = old.remove(&id);
    match change {
        Change::Apply(..) => {
            let new = plan.objects.get(&id).expect("a plan changes what it renders").manifest();
            let old = live.map(|live| fields::said(&live, &new));
            Difference { id, action: if old.is_some() { "change" } else { "create" }, old, new: Some(new) }
        }
        Change::Delete { .. } => {
            let old = live.map(|live| fields::said(&live, &json!({})));
            Difference { id, action: "delete", old, new: None }
        }
    }
}

/// Live objects of the kinds that the operator generates.
fn objects(live: &Live) -> BTreeMap<ObjectId, Value> {
    let value =
        |object: &DynamicObject| serde_json::to_value(object).expect("what came as JSON goes as JSON");
    let mut objects: BTreeMap<ObjectId, Value> = live
        .written
        .iter()
        .map(|(kind, object)| {
            let meta = &object.metadata;
            let key = Key::new(
                meta.namespace.as_deref().unwrap_or_default(),
                meta.name.as_deref().unwrap_or_default(),
            );
            (ObjectId::new(*kind, key), value(object))
        })
        .collect();
    for Manifest { object, .. } in &live.inputs {
        let kind = match object["kind"].as_str() {
            Some("MeshRoute") => Kind::MeshRoute,
            Some("MeshNode") => Kind::MeshNode,
            _ => continue,
        };
        let text = |field: &str| object["metadata"][field].as_str().unwrap_or_default();
        objects.insert(ObjectId::new(kind, Key::new(text("namespace"), text("name"))), object.clone());
    }
    objects
}

fn show(differences: &[Difference], format: Format) -> String {
    match format {
        Format::Table | Format::Wide => differences.iter().map(unified).collect(),
        Format::Name => output::lines(differences.iter().map(|d| reference(&d.id))),
        Format::Json => output::json(&structured(differences)),
        Format::Yaml => output::yaml(&structured(differences)),
    }
}

fn structured(differences: &[Difference]) -> Value {
    let one = |d: &Difference| {
        json!({
            "action": d.action, "kind": d.id.kind.as_str(), "namespace": d.id.key.namespace, "name": d.id.key.name,
            "old": d.old, "new": d.new,
        })
    };
    json!({ "differences": differences.iter().map(one).collect::<Vec<_>>() })
}

/// A unified diff of two YAML texts, with the object for a file name.
fn unified(difference: &Difference) -> String {
    let text = |value: &Option<Value>| value.as_ref().map(output::yaml).unwrap_or_default();
    let (old, new) = (text(&difference.old), text(&difference.new));
    let name = difference.id.to_string().replace(' ', "/");
    let side =
        |present: bool, side: &str| if present { format!("{side}/{name}") } else { "/dev/null".to_owned() };
    let mut shown = String::new();
    let _ = writeln!(shown, "{} {}", difference.action, difference.id);
    let diff = TextDiff::from_lines(&old, &new);
    let mut unified = diff.unified_diff();
    let (left, right) = (side(difference.old.is_some(), "live"), side(difference.new.is_some(), "rendered"));
    let _ = write!(shown, "{}", unified.context_radius(CONTEXT).header(&left, &right));
    shown
}

#[cfg(test)]
mod tests;
