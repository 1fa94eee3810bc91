//! World → what is accepted and what is wrong with the rest; pure. After this step nothing can fail for a reason that a user could fix.

use std::collections::BTreeMap;

use vicino_crds::ServiceMeshSpec;
use vicino_crds::contract::{CompiledAlias, CompiledPolicy, CompiledRoute};

use crate::world::{Key, World};

mod mesh;
mod policy;
mod route;

/// What is wrong, for the person who can put it right.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Problem {
    /// CamelCase, bounded set: the reason of the condition and of the event.
    pub reason: &'static str,
    /// Path of the field that is wrong; empty when it is not a field of the object.
    pub field: String,
    /// What is wrong and what would be right.
    pub message: String,
}

impl Problem {
    pub(crate) fn new(reason: &'static str, field: &str, message: String) -> Self {
        Self { reason, field: field.to_owned(), message }
    }

    /// Whether the field names something that is not there, or that may not be named.
    pub(crate) fn is_of_reference(&self) -> bool {
        matches!(
            self.reason,
            "BackendNotFound" | "BackendPortNotFound" | "RefNotPermitted" | "UnsupportedBackend"
        )
    }

    /// Field and message, as a condition says them.
    pub fn text(&self) -> String {
        if self.field.is_empty() { self.message.clone() } else { format!("{}: {}", self.field, self.message) }
    }
}

/// What became of a ServiceMesh.
#[derive(Clone, Debug, PartialEq)]
pub enum MeshVerdict {
    /// It is rendered.
    Accepted(Box<AcceptedMesh>),
    /// It is not rendered, and what was rendered earlier stays as it is.
    Rejected(Problem),
    /// It is valid, but what it needs of the cluster is missing; nothing is written until it is there.
    Blocked(Problem),
    /// It is being deleted: garbage collection takes what it owns.
    Deleting,
}

impl MeshVerdict {
    /// What is wrong, if anything is.
    pub fn problem(&self) -> Option<&Problem> {
        match self {
            Self::Accepted(mesh) => mesh.contested.as_ref().or(mesh.egress_problem.as_ref()),
            Self::Rejected(problem) | Self::Blocked(problem) => Some(problem),
            Self::Deleting => None,
        }
    }
}

/// A mesh with all that rendering needs of it.
#[derive(Clone, Debug, PartialEq)]
pub struct AcceptedMesh {
    /// Its name.
    pub name: String,
    /// Its UID, for owner references.
    pub uid: String,
    /// Its spec.
    pub spec: ServiceMeshSpec,
    /// Nodes that it selects and that are no other mesh's, sorted.
    pub nodes: Vec<String>,
    /// Namespaces that name it, sorted; without those that are being deleted.
    pub namespaces: Vec<String>,
    /// What is wrong with `spec.proxy.nodeSelector`, when it has come to select nodes of another mesh: a label of one node must not keep
    /// a mesh that serves from all of its own.
    pub contested: Option<Problem>,
    /// What is wrong with `spec.egress`: then proxies go on with what they were told of it last, and have everything else.
    pub egress_problem: Option<Problem>,
}

/// What became of a Service of a meshed namespace, or of a MeshRoute that belongs to none.
#[derive(Clone, Debug, PartialEq)]
pub struct RouteVerdict {
    /// The mesh that the namespace names, when it exists.
    pub mesh: Option<String>,
    /// Whether there is a Service that wants this route, so that the MeshRoute has to exist.
    pub wanted: bool,
    /// What proxies are told, or why nothing new.
    pub outcome: Outcome,
}

/// What became of a MeshPolicy.
#[derive(Clone, Debug, PartialEq)]
pub struct PolicyVerdict {
    /// The mesh that the namespace names, when it exists.
    pub mesh: Option<String>,
    /// What proxies are told, or why nothing new.
    pub outcome: Outcome<CompiledPolicy>,
    /// What it is about and is not there. Proxies are told all the same: it is in force from the moment that it is.
    pub missing: Option<Problem>,
    /// Services without a policy to which routes send calls that are meant for what it is about: none of these calls is judged by it.
    pub unjudged: Vec<Key>,
    /// What it is about, in words.
    pub target: String,
    /// Services that it is about now, or pods when it selects pods.
    pub targets: usize,
}

/// What proxies are told about a Service, or of a policy.
#[derive(Clone, Debug, PartialEq)]
pub enum Outcome<D = CompiledRoute> {
    /// This.
    Compiled(Box<D>),
    /// What they were told last, since the object is wrong.
    Kept(Problem),
    /// Nothing.
    Nothing(Problem),
}

impl<D> Outcome<D> {
    /// What is wrong, if anything is.
    pub fn problem(&self) -> Option<&Problem> {
        match self {
            Self::Compiled(_) => None,
            Self::Kept(problem) | Self::Nothing(problem) => Some(problem),
        }
    }
}

/// The verdict on everything.
#[derive(Clone, Debug, Default)]
pub struct Validated {
    /// Every ServiceMesh by name.
    pub meshes: BTreeMap<String, MeshVerdict>,
    /// Every Service of a meshed namespace and every MeshRoute.
    pub routes: BTreeMap<Key, RouteVerdict>,
    /// Every MeshPolicy.
    pub policies: BTreeMap<Key, PolicyVerdict>,
    /// Services that are another name for one of the cluster (type ExternalName), the mesh of each, and what it stands for.
    pub aliases: BTreeMap<Key, (String, CompiledAlias)>,
    /// Namespaces whose label names no mesh, and what to do about it.
    pub namespaces: BTreeMap<String, Problem>,
}

impl Validated {
    /// Meshes that are rendered.
    pub fn accepted(&self) -> impl Iterator<Item = &AcceptedMesh> {
        self.meshes.values().filter_map(|verdict| match verdict {
            MeshVerdict::Accepted(mesh) => Some(mesh.as_ref()),
            _ => None,
        })
    }
}

/// Judges everything in `world`.
pub fn validate(world: &World) -> Validated {
    let meshes = mesh::all(world);
    let routes = route::all(world, &meshes);
    let aliases = route::aliases(world, &meshes);
    let policies = policy::all(world, &meshes, &routes);
    Validated { namespaces: unknown_meshes(world), meshes, routes, policies, aliases }
}

fn unknown_meshes(world: &World) -> BTreeMap<String, Problem> {
    let known = |mesh: &str| world.meshes.get(&Key::cluster(mesh)).is_some();
    let label = vicino_crds::names::LABEL_MESH;
    let mut problems = BTreeMap::new();
    for (key, row) in world.namespaces.iter() {
        let Some(mesh) = row.value.mesh.as_deref().filter(|mesh| !row.value.deleting && !known(mesh)) else {
            continue;
        };
        let field = format!("metadata.labels[{label}]");
        let message = format!(
            "there is no ServiceMesh {mesh:?}: create it, or label the namespace with one of {}",
            list(world.meshes.iter().map(|(key, _)| key.name.as_str()))
        );
        problems.insert(key.name.clone(), Problem::new("MeshNotFound", &field, message));
    }
    problems
}

/// Names for a message: quoted, at most ten.
pub(crate) fn list<'a>(names: impl IntoIterator<Item = &'a str>) -> String {
    const SHOWN: usize = 10;
    let names: Vec<_> = names.into_iter().collect();
    if names.is_empty() {
        return "(none exists)".to_owned();
    }
    let shown: Vec<_> = names.iter().take(SHOWN).map(|name| format!("{name:?}")).collect();
    let more = if names.len() > SHOWN { format!(" and {} more", names.len() - SHOWN) } else { String::new() };
    format!("{}{more}", shown.join(", "))
}

#[cfg(test)]
mod tests;
