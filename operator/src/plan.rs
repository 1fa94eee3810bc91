//! The pure half of the pipeline in one call: World in, everything that follows from it out.

use std::collections::{BTreeMap, BTreeSet};

use k8s_openapi::apimachinery::pkg::apis::meta::v1::Time;

use crate::apply::{self, Change};
use crate::check::{self, Fault};
use crate::render::{self, Rendered};
use crate::status::{self, Statuses};
use crate::validate::{self, MeshVerdict, Validated};
use crate::world::{ObjectId, World};

/// What follows from a World.
#[derive(Clone, Debug)]
pub struct Plan {
    /// What is accepted, and what is wrong with the rest.
    pub validated: Validated,
    /// Every object that the accepted meshes need.
    pub objects: BTreeMap<ObjectId, Rendered>,
    /// Faults by mesh; nothing of these meshes is written.
    pub faults: BTreeMap<String, Vec<Fault>>,
    /// What has to be written so that the cluster is as rendered.
    pub changes: Vec<Change>,
    /// What every ServiceMesh, MeshRoute and MeshPolicy should say of itself.
    pub statuses: Statuses,
}

impl Plan {
    /// Objects that are not as they should be.
    pub fn pending(&self) -> BTreeSet<ObjectId> {
        self.changes.iter().map(|change| change.id().clone()).collect()
    }
}

/// `watch → World → validate → render → check → diff → status`, without the watch. `now` enters conditions only, as
/// the time at which one changed.
pub fn plan(world: &World, now: &Time) -> Plan {
    let validated = validate::validate(world);
    let rendered = render::render(world, &validated);
    let faults = check::check(&rendered);
    let objects: BTreeMap<_, _> = rendered.into_iter().map(|object| (object.id.clone(), object)).collect();
    let in_force = |mesh: &str| {
        matches!(validated.meshes.get(mesh), Some(MeshVerdict::Accepted(_))) && !faults.contains_key(mesh)
    };
    let changes = apply::diff(world, &objects, in_force);
    let statuses = status::derive(
        &status::Input {
            world,
            validated: &validated,
            objects: &objects,
            faults: &faults,
            changes: &changes,
        },
        now,
    );
    Plan { validated, objects, faults, changes, statuses }
}

#[cfg(test)]
mod tests;
