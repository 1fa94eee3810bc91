//! What `check` says of connections around the mesh: whether every node sees them, and whether `Strict` would refuse anybody; pure.

use std::collections::BTreeMap;

use k8s_openapi::apimachinery::pkg::apis::meta::v1::Condition;
use k8s_openapi::jiff::{SignedDuration, Timestamp};
use kube::ResourceExt;
use vicino_crds::mesh::IdentityMode;
use vicino_crds::{MeshNode, ServiceMesh, names};

use super::super::Finding;
use super::super::facts::Facts;

/// Whoever calls once a day is seen.
const QUIET: SignedDuration = SignedDuration::from_hours(24);
/// Services that a line names.
const SERVICES_SHOWN: usize = 3;

/// One line for each mesh, and one for each of its nodes that does not see what comes around it.
pub(super) fn all(facts: &Facts, now: Timestamp) -> Vec<Finding> {
    let (Ok(meshes), Ok(nodes)) = (&facts.meshes, &facts.nodes) else { return Vec::new() };
    let mut findings = Vec::new();
    for mesh in meshes {
        let name = mesh.name_any();
        let own: Vec<_> = nodes.iter().filter(|node| node.spec.mesh == name).collect();
        let unseen: Vec<_> = own.iter().filter_map(|node| unguarded(node, mesh)).collect();
        if unseen.is_empty() && !own.is_empty() {
            findings.push(callers(&name, mesh.spec.identity.mode, &own, now));
        }
        findings.extend(unseen);
        findings.extend(annotations(&name, &own));
    }
    findings
}

fn unguarded(node: &MeshNode, mesh: &ServiceMesh) -> Option<Finding> {
    let why = match guarded(node) {
        Some(guarded) if guarded.status == "True" => return None,
        Some(guarded) => format!("{}: {}", guarded.reason, guarded.message),
        None => "its proxy has not said so".to_owned(),
    };
    let finding = Finding::ok("identity", node.name_any(), "");
    let todo = format!("kubectl describe meshnode {}", node.name_any());
    Some(match mesh.spec.identity.mode {
        IdentityMode::Strict => finding.failure(format!("Strict does not hold around the mesh: {why}"), todo),
        IdentityMode::Permissive => {
            finding.warning(format!("connections around the mesh are not counted: {why}"), todo)
        }
    })
}

/// Pods of a workload have the same annotation: one line for each mistake in a namespace.
fn annotations(mesh: &str, nodes: &[&MeshNode]) -> Vec<Finding> {
    let mut all: BTreeMap<(&str, &str), Vec<&str>> = BTreeMap::new();
    for pod in nodes.iter().flat_map(|node| &node.spec.pods) {
        if let Some(problem) = &pod.plain_ports_problem {
            all.entry((&pod.namespace, problem)).or_default().push(&pod.name);
        }
    }
    let finding = |((namespace, problem), mut pods): ((&str, &str), Vec<&str>)| {
        pods.sort_unstable();
        let more = if pods.len() > 1 { format!(" and {} more", pods.len() - 1) } else { String::new() };
        let annotation = names::ANNOTATION_PLAIN_PORTS;
        Finding::ok("identity", format!("ports of {mesh}"), "").warning(
            format!("annotation {annotation} of pod {namespace}/{}{more}: {problem}", pods[0]),
            format!("put {annotation} right in the pod template of its workload"),
        )
    };
    all.into_iter().map(finding).collect()
}

fn guarded(node: &MeshNode) -> Option<&Condition> {
    let conditions = node.status.as_ref().map(|status| status.conditions.as_slice()).unwrap_or_default();
    conditions.iter().find(|condition| condition.type_ == names::CONDITION_GUARDED)
}

fn callers(mesh: &str, mode: IdentityMode, nodes: &[&MeshNode], now: Timestamp) -> Finding {
    let statuses = nodes.iter().filter_map(|node| node.status.as_ref());
    let recent =
        statuses.flat_map(|status| &status.plain_calls).filter(|calls| calls.last_seen.0 >= now - QUIET);
    let name = |namespace: &str, service: &str| match service {
        "" => format!("{namespace} (ports without a Service)"),
        service => format!("{namespace}/{service}"),
    };
    let mut called: Vec<_> = recent.map(|calls| name(&calls.namespace, &calls.service)).collect();
    called.sort();
    called.dedup();
    let more = called.len().saturating_sub(SERVICES_SHOWN);
    called.truncate(SERVICES_SHOWN);
    let more = if more > 0 { format!(" and {more} more") } else { String::new() };
    let called = (!called.is_empty()).then(|| called.join(", ") + &more);
    let since =
        nodes.iter().filter_map(|node| guarded(node)).map(|guarded| guarded.last_transition_time.0).max();
    let detail = match (mode, called) {
        (IdentityMode::Permissive, None) => match since.filter(|since| *since > now - QUIET) {
            None => "Strict is safe: nobody has called around the mesh for a day".to_owned(),
            Some(since) => {
                format!("nobody has called around the mesh since {since}; Strict is safe when that is a day")
            }
        },
        (IdentityMode::Permissive, Some(called)) => {
            format!("Strict is not safe yet: called around the mesh within a day: {called}")
        }
        (IdentityMode::Strict, None) => {
            "Strict: nobody has tried to call around the mesh for a day".to_owned()
        }
        (IdentityMode::Strict, Some(called)) => {
            format!("Strict: tried or allowed around the mesh within a day: {called}")
        }
    };
    Finding::ok("identity", format!("calls around {mesh}"), detail)
}
