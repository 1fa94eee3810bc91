//! Verdicts on ServiceMeshes: which nodes and namespaces are whose; looks at no route.

use std::collections::BTreeMap;

use vicino_crds::contract::{self, CompiledEgress, DOCUMENT_BYTES_MAX};
use vicino_crds::egress::{self, EgressSpec};
use vicino_crds::identity::is_trust_domain;
use vicino_crds::rule::Flaw;
use vicino_crds::{ServiceMeshSpec, names};

use super::{AcceptedMesh, MeshVerdict, Problem, list};
use crate::world::{Key, Mesh, Node, Row, World};

/// The label by which a node says its operating system.
pub(crate) const LABEL_OS: &str = "kubernetes.io/os";

/// Longest list of what may be called outside; the rest of the document is for addresses of nodes.
const EGRESS_BYTES_MAX: usize = DOCUMENT_BYTES_MAX / 2;

/// Every mesh. Of two that want the same node, the one that has it keeps it, so that no change of one mesh ever takes a node from
/// another that serves there; of two newcomers, the older one gets it (then the lower name). A mesh that serves goes on with the nodes
/// that nobody else has; one that serves nowhere yet does not begin before its selector is right.
pub(super) fn all(world: &World) -> BTreeMap<String, MeshVerdict> {
    let mut by_age: Vec<_> = world.meshes.iter().collect();
    by_age.sort_by_key(|(key, row)| (row.value.created, key.name.clone()));
    let mut owners = incumbents(world);
    let mut verdicts = BTreeMap::new();
    for (key, row) in by_age {
        verdicts.insert(key.name.clone(), verdict(world, &key.name, row, &mut owners));
    }
    verdicts
}

/// Nodes whose MeshNode names a mesh that selects them still.
fn incumbents(world: &World) -> BTreeMap<&str, &str> {
    let mut owners = BTreeMap::new();
    for (key, row) in world.neighbourhoods.iter() {
        let mesh = row.value.spec.mesh.as_str();
        let spec = world.meshes.get(&Key::cluster(mesh)).filter(|mesh| !mesh.value.deleting);
        let spec = spec.and_then(|mesh| mesh.value.spec.as_ref().ok());
        let node = world.nodes.get(&Key::cluster(&key.name));
        if let (Some(spec), Some(node)) = (spec, node)
            && selects(spec, &node.value)
        {
            owners.insert(key.name.as_str(), mesh);
        }
    }
    owners
}

fn verdict<'a>(
    world: &'a World,
    name: &'a str,
    row: &Row<Mesh>,
    owners: &mut BTreeMap<&'a str, &'a str>,
) -> MeshVerdict {
    if row.value.deleting {
        return MeshVerdict::Deleting;
    }
    let spec = match &row.value.spec {
        Ok(spec) => spec,
        Err(problem) => {
            let message = format!("cannot be read by this version of the operator: {problem}");
            return MeshVerdict::Rejected(Problem::new("InvalidSpec", "spec", message));
        }
    };
    if let Some(problem) = trust_domain(spec) {
        return MeshVerdict::Rejected(problem);
    }
    let mut nodes: Vec<&str> = world
        .nodes
        .iter()
        .filter(|(_, node)| selects(spec, &node.value))
        .map(|(key, _)| key.name.as_str())
        .collect();
    let contested = overlap(name, &nodes, owners);
    let serves = owners.values().any(|owner| *owner == name);
    if let Some(problem) = contested.clone().filter(|_| !serves) {
        return MeshVerdict::Rejected(problem);
    }
    nodes.retain(|node| owners.get(node).is_none_or(|owner| *owner == name));
    owners.extend(nodes.iter().map(|node| (*node, name)));
    if let Some(problem) = proxy_namespace(world) {
        return MeshVerdict::Blocked(problem);
    }
    MeshVerdict::Accepted(Box::new(AcceptedMesh {
        name: name.to_owned(),
        uid: row.uid.clone(),
        spec: spec.clone(),
        nodes: nodes.into_iter().map(str::to_owned).collect(),
        namespaces: namespaces(world, name),
        contested,
        egress_problem: egress(&spec.egress),
    }))
}

/// What is wrong with the trust domain, where the schema that is installed let it through: proxies would refuse all that they are told.
fn trust_domain(spec: &ServiceMeshSpec) -> Option<Problem> {
    let trust_domain = spec.trust_domain();
    let field = match spec.identity.trust_domain {
        Some(_) => "spec.identity.trustDomain",
        None => "spec.clusterDomain",
    };
    let message = || {
        format!(
            "{trust_domain:?} is no trust domain: write 1 to 255 lower-case letters, digits, '.', '-' and '_'"
        )
    };
    (!is_trust_domain(trust_domain)).then(|| Problem::new("InvalidTrustDomain", field, message()))
}

/// What is wrong with what pods may call outside. A mesh that stood still for that would not even know its new pods.
fn egress(spec: &EgressSpec) -> Option<Problem> {
    const REASON: &str = "InvalidEgress";
    if let Err(Flaw { field, problem }) = egress::check(&spec.allow) {
        return Some(Problem::new(REASON, &format!("spec.egress.{field}"), problem));
    }
    let bytes = contract::write(&CompiledEgress::new("", spec)).len();
    let message = || {
        format!(
            "has {bytes} bytes when it is written for proxies, at most {EGRESS_BYTES_MAX} are accepted: write patterns (*.example.com) and blocks of addresses instead of many names"
        )
    };
    (bytes > EGRESS_BYTES_MAX).then(|| Problem::new(REASON, "spec.egress.allow", message()))
}

/// Whether the mesh's proxies run on a node.
fn selects(spec: &ServiceMeshSpec, node: &Node) -> bool {
    node.labels.get(LABEL_OS).is_some_and(|os| os == "linux")
        && spec.proxy.node_selector.iter().all(|(label, value)| node.labels.get(label) == Some(value))
}

fn overlap(mesh: &str, nodes: &[&str], owners: &BTreeMap<&str, &str>) -> Option<Problem> {
    let owned = nodes.iter().filter_map(|node| owners.get(node).map(|owner| (*node, *owner)));
    let taken: Vec<_> = owned.filter(|(_, owner)| *owner != mesh).collect();
    let (_, owner) = taken.first()?;
    let message = format!(
        "selects {} of the mesh {owner:?}, and a node belongs to one mesh: choose labels that only nodes without a mesh have",
        list(taken.iter().filter(|(_, other)| other == owner).map(|(node, _)| *node)),
    );
    Some(Problem::new("NodesBelongToAnotherMesh", "spec.proxy.nodeSelector", message))
}

fn proxy_namespace(world: &World) -> Option<Problem> {
    let namespace = names::PROXY_NAMESPACE;
    let problem = |reason, message: String| Some(Problem::new(reason, "", message));
    match world.namespaces.get(&Key::cluster(namespace)) {
        None => problem(
            "ProxyNamespaceMissing",
            format!(
                "proxies run in the namespace {namespace:?}, which does not exist: create it with `kubectl apply -k config/default`"
            ),
        ),
        Some(row) if row.value.deleting => problem(
            "ProxyNamespaceTerminating",
            format!(
                "proxies run in the namespace {namespace:?}, which is being deleted: create it again with `kubectl apply -k config/default` once it is gone"
            ),
        ),
        Some(_) => None,
    }
}

fn namespaces(world: &World, mesh: &str) -> Vec<String> {
    world
        .namespaces
        .iter()
        .filter(|(_, row)| !row.value.deleting && row.value.mesh.as_deref() == Some(mesh))
        .map(|(key, _)| key.name.clone())
        .collect()
}
