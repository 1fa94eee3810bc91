//! What is accepted → the objects that say so; pure, infallible, and the same for the same input in whatever order it came.
//!
//! No PodDisruptionBudget is rendered for the proxies: `kubectl drain` and rollouts of a DaemonSet do not evict its
//! pods, the disruption controller cannot compute `maxUnavailable` for a DaemonSet (it has no scale subresource), and a
//! fixed `minAvailable` would have to follow the number of nodes and block whoever evicts from a node that is going away.

use std::collections::BTreeMap;

use serde_json::{Map, Value, json};
use sha2::{Digest, Sha256};
use vicino_crds::names;

use crate::validate::{AcceptedMesh, Validated};
use crate::world::{Body, Key, Kind, ObjectId, Owner, World};

mod access;
mod bootstrap;
mod daemon_set;
mod egress;
mod mesh_node;
mod mesh_route;
mod nodes;
pub(crate) mod parts;
mod policies;
mod routes;
mod service_account;
pub(crate) mod trust;

/// A generated object.
#[derive(Clone, Debug, PartialEq)]
pub struct Rendered {
    /// What it is called.
    pub id: ObjectId,
    /// The mesh that it belongs to.
    pub mesh: String,
    /// Its labels; none for a MeshRoute that somebody else manages.
    pub labels: BTreeMap<String, String>,
    /// Its annotations.
    pub annotations: BTreeMap<String, String>,
    /// The ServiceMesh; none for a MeshRoute that somebody else manages.
    pub owner: Option<Owner>,
    /// What it says.
    pub body: Body,
}

impl Rendered {
    /// An object of `mesh`, with the labels and the owner that all of them have.
    pub(crate) fn new(mesh: &AcceptedMesh, kind: Kind, key: Key, body: Body) -> Self {
        Self {
            id: ObjectId::new(kind, key),
            mesh: mesh.name.clone(),
            labels: labels(&mesh.name),
            annotations: BTreeMap::new(),
            owner: Some(Owner {
                kind: "ServiceMesh".to_owned(),
                name: mesh.name.clone(),
                uid: mesh.uid.clone(),
            }),
            body,
        }
    }

    fn label(mut self, name: &str, value: &str) -> Self {
        self.labels.insert(name.to_owned(), value.to_owned());
        self
    }

    fn annotation(mut self, name: &str, value: String) -> Self {
        self.annotations.insert(name.to_owned(), value);
        self
    }

    /// Adds the digest of all that is rendered, by which a field that is no longer rendered is noticed.
    fn stamped(self) -> Self {
        let digest = self.digest();
        self.annotation(names::ANNOTATION_RENDERED, digest)
    }

    /// 16 hexadecimal digits of the SHA-256 of the manifest.
    pub fn digest(&self) -> String {
        let bytes = Sha256::digest(self.manifest().to_string().as_bytes());
        format!("{:016x}", u64::from_be_bytes(*bytes.first_chunk::<8>().expect("SHA-256 has 32 bytes")))
    }

    /// The object as it is sent.
    pub fn manifest(&self) -> Value {
        let mut metadata = Map::new();
        metadata.insert("name".to_owned(), json!(self.id.key.name));
        if !self.id.key.namespace.is_empty() {
            metadata.insert("namespace".to_owned(), json!(self.id.key.namespace));
        }
        if !self.labels.is_empty() {
            metadata.insert("labels".to_owned(), json!(self.labels));
        }
        if !self.annotations.is_empty() {
            metadata.insert("annotations".to_owned(), json!(self.annotations));
        }
        if let Some(owner) = &self.owner {
            metadata.insert("ownerReferences".to_owned(), json!([reference(owner)]));
        }
        let mut object = Map::new();
        object.insert("apiVersion".to_owned(), json!(self.id.kind.api_version()));
        object.insert("kind".to_owned(), json!(self.id.kind.as_str()));
        object.insert("metadata".to_owned(), Value::Object(metadata));
        match &self.body {
            Body::Data(data) => {
                object.insert("data".to_owned(), json!(data));
            }
            Body::Neighbours(spec) => {
                object.insert("spec".to_owned(), json!(spec));
            }
            Body::Nothing => {}
            Body::Fields(fields) => object.extend(fields.as_object().cloned().unwrap_or_default()),
        }
        Value::Object(object)
    }
}

fn reference(owner: &Owner) -> Value {
    json!({
        "apiVersion": format!("{}/{}", names::GROUP, names::VERSION),
        "kind": owner.kind,
        "name": owner.name,
        "uid": owner.uid,
        "controller": true,
    })
}

fn labels(mesh: &str) -> BTreeMap<String, String> {
    [(names::LABEL_MANAGED_BY, names::MANAGED_BY), (names::LABEL_MESH, mesh)]
        .map(|(name, value)| (name.to_owned(), value.to_owned()))
        .into()
}

/// Everything that the accepted meshes need, sorted by kind and name.
pub fn render(world: &World, validated: &Validated) -> Vec<Rendered> {
    let live = parts::Live::new(world);
    let neighbours = mesh_node::by_node(world);
    let mut objects = Vec::new();
    for mesh in validated.accepted() {
        let bootstrap = bootstrap::render(mesh);
        objects.push(service_account::render(mesh));
        objects.extend(access::render(mesh));
        objects.extend(mesh_route::render(world, validated, mesh));
        objects.extend(mesh_node::render(world, mesh, &neighbours));
        objects.extend(nodes::render(world, mesh, &live));
        objects.extend(routes::render(validated, mesh, &live));
        objects.extend(policies::render(validated, mesh, &live));
        objects.extend(egress::render(world, mesh));
        objects.push(daemon_set::render(mesh, world, &bootstrap));
        objects.push(bootstrap);
        objects.extend(trust::render(world, mesh));
    }
    objects.sort_by(|a, b| (&a.id, &a.mesh).cmp(&(&b.id, &b.mesh)));
    objects
}

#[cfg(test)]
mod tests;
