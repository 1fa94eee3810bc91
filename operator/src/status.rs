//! What every ServiceMesh and MeshRoute should say of itself: from what is live, what is still to be written, and what proxies report; pure.

use std::collections::{BTreeMap, BTreeSet};

use k8s_openapi::apimachinery::pkg::apis::meta::v1::Time;
use vicino_crds::condition::{Wanted, kind};
use vicino_crds::{MeshRouteStatus, ServiceMeshStatus, names};

use crate::apply::Change;
use crate::check::Fault;
use crate::render::{Rendered, parts};
use crate::validate::Validated;
use crate::world::{Body, Key, ObjectId, Route, World};

mod mesh;
mod reports;
mod route;

/// What statuses derive from.
#[derive(Clone, Copy, Debug)]
pub struct Input<'a> {
    /// The cluster.
    pub world: &'a World,
    /// The verdicts on it.
    pub validated: &'a Validated,
    /// What was rendered.
    pub objects: &'a BTreeMap<ObjectId, Rendered>,
    /// What must not be written.
    pub faults: &'a BTreeMap<String, Vec<Fault>>,
    /// What is still to be written.
    pub changes: &'a [Change],
}

/// The status of every object of ours that a user sees.
#[derive(Clone, Debug, Default)]
pub struct Statuses {
    /// ServiceMeshes by name.
    pub meshes: BTreeMap<String, ServiceMeshStatus>,
    /// MeshRoutes.
    pub routes: BTreeMap<Key, MeshRouteStatus>,
}

/// Derives all statuses. The transition time of a condition whose status changes is `now`.
pub fn derive(input: &Input<'_>, now: &Time) -> Statuses {
    let context = Context::new(input);
    let routes: BTreeMap<_, _> = input
        .world
        .routes
        .iter()
        .filter(|(key, row)| !is_leaving(input, key, &row.value))
        .map(|(key, row)| (key.clone(), route::status(&context, key, &row.value, now)))
        .collect();
    let meshes = input
        .world
        .meshes
        .iter()
        .map(|(key, row)| (key.name.clone(), mesh::status(&context, &key.name, &row.value, &routes, now)))
        .collect();
    Statuses { meshes, routes }
}

/// Whether a MeshRoute is about to go, by our own hand or with its mesh: then nobody needs to know how it is.
fn is_leaving(input: &Input<'_>, key: &Key, route: &Route) -> bool {
    let wanted = input.validated.routes.get(key).is_some_and(|verdict| verdict.wanted);
    route.deleting || (route.ours && !route.others && !wanted)
}

/// Lookups that every status needs, made once.
struct Context<'a> {
    input: &'a Input<'a>,
    /// Objects that are still to be written.
    pending: BTreeSet<&'a ObjectId>,
    /// Where each compiled route was rendered to.
    placed: BTreeMap<(&'a str, &'a str), Placed<'a>>,
    /// What the proxies of meshes that are not in force go on with.
    live: parts::Live<'a>,
    /// Endpoints of each Service: ready and all.
    endpoints: BTreeMap<(&'a str, &'a str), (usize, usize)>,
    /// What proxies report, by mesh.
    reports: BTreeMap<&'a str, reports::Reports<'a>>,
}

/// A compiled route in its ConfigMap.
#[derive(Clone, Copy)]
struct Placed<'a> {
    config_map: &'a ObjectId,
    data_key: &'a str,
    text: &'a str,
}

impl<'a> Context<'a> {
    fn new(input: &'a Input<'a>) -> Self {
        Self {
            input,
            pending: input.changes.iter().map(Change::id).collect(),
            placed: placed(input.objects),
            live: parts::Live::new(input.world),
            endpoints: endpoints(input.world),
            reports: input
                .world
                .meshes
                .iter()
                .map(|(key, _)| (key.name.as_str(), reports::Reports::new(input.world, &key.name)))
                .collect(),
        }
    }
}

impl Context<'_> {
    /// Whose an object is that is rendered, or that is to be deleted.
    fn mesh_of(&self, id: &ObjectId) -> Option<&str> {
        self.input.objects.get(id).map(|object| object.mesh.as_str()).or_else(|| {
            self.input.changes.iter().find_map(|change| match change {
                Change::Delete { id: deleted, mesh, .. } if deleted == id => Some(mesh.as_str()),
                Change::Delete { .. } | Change::Apply(..) => None,
            })
        })
    }
}

fn placed(objects: &BTreeMap<ObjectId, Rendered>) -> BTreeMap<(&str, &str), Placed<'_>> {
    let mut all = BTreeMap::new();
    for (id, object) in objects {
        let namespace = object.labels.get(names::LABEL_ROUTES_NAMESPACE);
        let (Some(namespace), Body::Data(data)) = (namespace, &object.body) else { continue };
        for (data_key, text) in data {
            all.insert((namespace.as_str(), data_key.as_str()), Placed { config_map: id, data_key, text });
        }
    }
    all
}

/// A dual-stack pod is in one slice of each family: the family with more endpoints counts.
fn endpoints(world: &World) -> BTreeMap<(&str, &str), (usize, usize)> {
    let mut by_family: BTreeMap<(&str, &str, &str), (usize, usize)> = BTreeMap::new();
    for (key, row) in world.slices.iter() {
        let slice = &row.value;
        let count = by_family.entry((&key.namespace, &slice.service, &slice.address_type)).or_default();
        *count = (count.0 + slice.ready, count.1 + slice.total);
    }
    let mut all: BTreeMap<(&str, &str), (usize, usize)> = BTreeMap::new();
    for ((namespace, service, _), count) in by_family {
        let most = all.entry((namespace, service)).or_default();
        *most = (*most).max(count);
    }
    all
}

fn wanted(kind: &'static str, status: bool, reason: &'static str, message: impl Into<String>) -> Wanted {
    Wanted { kind, status: Some(status), reason, message: message.into() }
}

/// kstatus: work is under way.
fn reconciling(reason: &'static str, message: &str) -> Wanted {
    wanted(kind::RECONCILING, true, reason, message)
}

/// kstatus: somebody has to do something.
fn stalled(reason: &'static str, message: &str) -> Wanted {
    wanted(kind::STALLED, true, reason, message)
}

#[cfg(test)]
mod tests;
