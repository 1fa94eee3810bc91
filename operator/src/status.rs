//! What every ServiceMesh, MeshRoute and MeshPolicy should say of itself: from what is live, what is still to be written, and what proxies report; pure.

use std::collections::{BTreeMap, BTreeSet};

use k8s_openapi::apimachinery::pkg::apis::meta::v1::Time;
use vicino_crds::condition::{Wanted, kind};
use vicino_crds::policy::PolicyDenials;
use vicino_crds::route::PlainCallers;
use vicino_crds::{MeshPolicyStatus, MeshRouteStatus, ServiceMeshStatus, names};

use crate::apply::Change;
use crate::check::Fault;
use crate::render::{Rendered, parts};
use crate::validate::Validated;
use crate::world::{Body, Key, Kind, ObjectId, Route, World};

mod egress;
mod identity;
mod mesh;
mod policy;
mod programmed;
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
    /// MeshPolicies.
    pub policies: BTreeMap<Key, MeshPolicyStatus>,
}

/// Derives all statuses. The transition time of a condition whose status changes is `now`.
pub fn derive(input: &Input<'_>, now: &Time) -> Statuses {
    let context = Context::new(input);
    let routes: BTreeMap<_, _> = input
        .world
        .routes
        .iter()
        .filter(|(key, row)| !context.is_leaving(key, &row.value))
        .map(|(key, row)| (key.clone(), route::status(&context, key, &row.value, now)))
        .collect();
    let meshes = input
        .world
        .meshes
        .iter()
        .map(|(key, row)| (key.name.clone(), mesh::status(&context, &key.name, &row.value, &routes, now)))
        .collect();
    let policies = input.world.policies.iter().filter(|(_, row)| !row.value.deleting);
    let policies =
        policies.map(|(key, row)| (key.clone(), policy::status(&context, key, &row.value, now))).collect();
    Statuses { meshes, routes, policies }
}

/// Lookups that every status needs, made once.
struct Context<'a> {
    input: &'a Input<'a>,
    /// Objects that are still to be written.
    pending: BTreeSet<&'a ObjectId>,
    /// Where each compiled route was rendered to.
    placed: BTreeMap<(&'a str, &'a str), Placed<'a>>,
    /// Where each compiled policy was rendered to.
    placed_policies: BTreeMap<(&'a str, &'a str), Placed<'a>>,
    /// What the proxies of meshes that are not in force go on with.
    live: parts::Live<'a>,
    /// Endpoints of each Service: ready and all.
    endpoints: BTreeMap<(&'a str, &'a str), (usize, usize)>,
    /// Connections around the mesh to pods of each Service, of all nodes.
    plain: BTreeMap<(&'a str, &'a str), PlainCallers>,
    /// Calls that each policy was against, on all nodes.
    denials: BTreeMap<(&'a str, &'a str), PolicyDenials>,
    /// What proxies report, by mesh.
    reports: BTreeMap<&'a str, reports::Reports<'a>>,
}

/// A compiled document in its ConfigMap.
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
            placed: placed(input.objects, names::LABEL_ROUTES_NAMESPACE),
            placed_policies: placed(input.objects, names::LABEL_POLICIES_NAMESPACE),
            live: parts::Live::new(input.world),
            endpoints: endpoints(input.world),
            plain: plain(input.world),
            denials: denials(input.world),
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
    /// Whether a MeshRoute is about to go, by our own hand or with its mesh: then nobody needs to know how it is. One that stays, since
    /// its mesh is not in force, has to say so.
    fn is_leaving(&self, key: &Key, route: &Route) -> bool {
        let is_wanted = self.input.validated.routes.get(key).is_some_and(|verdict| verdict.wanted);
        let is_deleted = || !is_wanted && self.pending.contains(&ObjectId::new(Kind::MeshRoute, key.clone()));
        let meshes = &self.input.world.meshes;
        let is_collected = || {
            let mut owners = route.owners.iter().filter(|owner| owner.kind == "ServiceMesh");
            owners.any(|owner| {
                let mesh = meshes.get(&Key::cluster(&owner.name)).filter(|mesh| mesh.uid == owner.uid);
                mesh.is_none_or(|mesh| mesh.value.deleting)
            })
        };
        route.deleting || is_deleted() || (!is_wanted && is_collected())
    }

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

/// By namespace, which the ConfigMap's `label` says, and key.
fn placed<'a>(
    objects: &'a BTreeMap<ObjectId, Rendered>,
    label: &str,
) -> BTreeMap<(&'a str, &'a str), Placed<'a>> {
    let mut all = BTreeMap::new();
    for (id, object) in objects {
        let namespace = object.labels.get(label);
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

/// By namespace and name: two counts, and when the last one came.
type Counts<'a> = BTreeMap<(&'a str, &'a str), ([i64; 2], &'a Time)>;

/// What all nodes say of the same together.
fn sums<'a>(said: impl Iterator<Item = ((&'a str, &'a str), [i64; 2], &'a Time)>) -> Counts<'a> {
    let mut all = Counts::new();
    for (name, counts, last_seen) in said {
        let sum = all.entry(name).or_insert(([0; 2], last_seen));
        sum.0 = std::array::from_fn(|i| sum.0[i].saturating_add(counts[i]));
        sum.1 = sum.1.max(last_seen);
    }
    all
}

fn plain(world: &World) -> BTreeMap<(&str, &str), PlainCallers> {
    let calls = world.neighbourhoods.iter().flat_map(|(_, row)| &row.value.status.plain_calls);
    let said = calls.map(|of| ((&*of.namespace, &*of.service), [of.passed, of.refused], &of.last_seen));
    let sums = sums(said).into_iter();
    sums.map(|(name, ([passed, refused], last_seen))| {
        (name, PlainCallers { passed, refused, last_seen: last_seen.clone() })
    })
    .collect()
}

fn denials(world: &World) -> BTreeMap<(&str, &str), PolicyDenials> {
    let calls = world.neighbourhoods.iter().flat_map(|(_, row)| &row.value.status.policy_calls);
    let said = calls.map(|of| ((&*of.namespace, &*of.policy), [of.denied, of.audited], &of.last_seen));
    let sums = sums(said).into_iter();
    sums.map(|(name, ([denied, audited], last_seen))| {
        (name, PolicyDenials { denied, audited, last_seen: last_seen.clone() })
    })
    .collect()
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
