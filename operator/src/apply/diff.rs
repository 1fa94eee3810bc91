//! Which rendered objects differ from the live ones, and which live ones are rendered no longer; pure.

use std::collections::BTreeMap;

use serde_json::Value;
use vicino_crds::names;

use crate::render::Rendered;
use crate::world::{Body, Child, Key, Kind, ObjectId, Owner, Row, World};

/// One write.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Change {
    /// Apply the rendered object of this name. The live one, if there is one, has this UID.
    Apply(ObjectId, Option<String>),
    /// Delete this incarnation, at this version.
    Delete {
        /// The object.
        id: ObjectId,
        /// Its UID.
        uid: String,
        /// Its version.
        version: u64,
        /// The mesh whose it was.
        mesh: String,
    },
}

impl Change {
    /// The object that is written.
    pub fn id(&self) -> &ObjectId {
        match self {
            Self::Apply(id, _) | Self::Delete { id, .. } => id,
        }
    }
}

/// What has to be written so that the cluster is as rendered. `in_force` says of a mesh whether it was rendered now:
/// what belongs to any other is left as it is.
pub fn diff(
    world: &World,
    objects: &BTreeMap<ObjectId, Rendered>,
    in_force: impl Fn(&str) -> bool,
) -> Vec<Change> {
    let mut changes: Vec<_> = objects
        .values()
        .filter(|object| in_force(&object.mesh) && differs(world, object))
        .map(|object| {
            let uid = world.identity(&object.id).map(|(_, uid)| uid.to_owned());
            Change::Apply(object.id.clone(), uid)
        })
        .collect();
    changes.extend(ours(world, &in_force).into_iter().filter(|change| !objects.contains_key(change.id())));
    changes
}

/// Deletions of the live objects that the operator may delete: they carry its labels, their mesh is in force, and nobody else manages them.
fn ours(world: &World, in_force: impl Fn(&str) -> bool) -> Vec<Change> {
    fn delete<T>(kind: Kind, key: &Key, row: &Row<T>, mesh: &str) -> Change {
        Change::Delete {
            id: ObjectId::new(kind, key.clone()),
            uid: row.uid.clone(),
            version: row.version,
            mesh: mesh.to_owned(),
        }
    }
    fn mesh(labels: &BTreeMap<String, String>) -> Option<&str> {
        let is_ours = labels.get(names::LABEL_MANAGED_BY).is_some_and(|by| by == names::MANAGED_BY);
        labels.get(names::LABEL_MESH).filter(|_| is_ours).map(String::as_str)
    }
    let owned = |owners: &[Owner]| owners.iter().any(|owner| owner.kind == "ServiceMesh");
    let mut found = Vec::new();
    for (key, row) in world.routes.iter() {
        let route = &row.value;
        let mesh = route.labelled.as_deref().filter(|mesh| in_force(mesh));
        if let Some(mesh) = mesh
            && route.ours
            && !route.others
            && !route.deleting
        {
            found.push(delete(Kind::MeshRoute, key, row, mesh));
        }
    }
    for (key, row) in world.neighbourhoods.iter() {
        if let Some(mesh) = mesh(&row.value.labels).filter(|mesh| in_force(mesh))
            && owned(&row.value.owners)
            && !row.value.deleting
        {
            found.push(delete(Kind::MeshNode, key, row, mesh));
        }
    }
    for kind in Kind::CHILDREN {
        for (key, row) in world.children.of(kind).iter() {
            let child = &row.value;
            if let Some(mesh) = mesh(&child.labels).filter(|mesh| in_force(mesh))
                && owned(&child.owners)
                && !child.deleting
            {
                found.push(delete(kind, key, row, mesh));
            }
        }
    }
    found
}

/// Whether applying `object` would change something.
pub(super) fn differs(world: &World, object: &Rendered) -> bool {
    let Some((version, _)) = world.identity(&object.id) else { return true };
    let key = &object.id.key;
    let differs = match object.id.kind {
        Kind::MeshRoute => world.routes.get(key).is_some_and(|row| {
            let (route, released) = (&row.value, object.owner.is_none());
            let marked =
                route.labelled.as_deref() == Some(object.mesh.as_str()) && owns(object, &route.owners);
            !route.deleting && if released { route.ours } else { !marked }
        }),
        Kind::MeshNode => world.neighbourhoods.get(key).is_some_and(|row| {
            let node = &row.value;
            let same = matches!(&object.body, Body::Neighbours(spec) if *spec == node.spec);
            let as_rendered = same && within(&object.labels, &node.labels) && owns(object, &node.owners);
            !node.deleting && !as_rendered
        }),
        kind => world.children.of(kind).get(key).is_some_and(|row| child_differs(object, &row.value)),
    };
    differs && world.settled.get(&object.id).is_none_or(|settled| *settled != (version, object.digest()))
}

fn child_differs(object: &Rendered, child: &Child) -> bool {
    let same = match (&object.body, &child.body) {
        (Body::Data(want), Body::Data(have)) => want == have,
        (Body::Fields(want), Body::Fields(have)) => contained(want, have),
        _ => false,
    };
    let metadata = within(&object.labels, &child.labels) && within(&object.annotations, &child.annotations);
    let as_rendered = same && metadata && owns(object, &child.owners);
    !child.deleting && !as_rendered
}

fn within(want: &BTreeMap<String, String>, have: &BTreeMap<String, String>) -> bool {
    want.iter().all(|(name, value)| have.get(name) == Some(value))
}

fn owns(object: &Rendered, owners: &[Owner]) -> bool {
    object.owner.as_ref().is_none_or(|owner| owners.contains(owner))
}

/// Whether everything that `want` says is in `have`, which may say more: the API server adds defaults, admission adds
/// elements to lists. A list of objects is compared as a set, since the API server keeps most of them by key.
fn contained(want: &Value, have: &Value) -> bool {
    match (want, have) {
        (Value::Object(want), Value::Object(have)) => {
            want.iter().all(|(name, value)| contained(value, have.get(name).unwrap_or(&Value::Null)))
        }
        (Value::Array(want), Value::Array(have)) if want.iter().all(Value::is_object) => {
            want.iter().all(|want| have.iter().any(|have| contained(want, have)))
        }
        (Value::Object(want), Value::Null) => want.values().all(|value| contained(value, &Value::Null)),
        (Value::Array(want), Value::Null) => want.is_empty(),
        _ => want == have,
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[test]
    fn what_others_add_is_no_difference_and_what_is_missing_is() {
        let want = json!({"spec": {"items": [{"name": "a", "command": ["x"]}], "empty": {}, "on": true}});
        let have = json!({"spec": {"items": [{"name": "z"}, {"name": "a", "command": ["x"], "defaulted": 1}], "on": true}, "more": 1});
        assert!(contained(&want, &have));
        for changed in [
            json!({"spec": {"items": [{"name": "a", "command": ["x", "y"]}], "on": true}}),
            json!({"spec": {"items": [], "on": true}}),
            json!({"spec": {"items": [{"name": "a", "command": ["x"]}]}}),
        ] {
            assert!(!contained(&want, &changed), "{changed}");
        }
    }
}
