//! What `check` makes of the facts; pure. The order is that of dependence: what fails first explains what follows.

use std::cmp::Reverse;

use k8s_openapi::jiff::Timestamp;
use vicino_crds::ServiceMesh;
use vicino_crds::condition::{is_true, kind};

use super::facts::Facts;
use super::{Finding, Verdict};

mod identity;
mod install;
mod nodes;
mod plain;
mod programmed;
mod witness;

/// Lines about one area are cut after this many; the rest is counted.
const LINES_MAX: usize = 20;

/// Every finding.
pub(super) fn judge(facts: &Facts, now: Timestamp) -> Vec<Finding> {
    let mut findings = install::kubernetes(facts);
    if facts.server.is_err() {
        return findings;
    }
    findings.extend(install::kinds(facts));
    findings.extend(install::operator(facts, now));
    findings.extend(install::admission(facts));
    findings.extend(meshes(facts));
    findings.extend(cut("nodes", nodes::all(facts)));
    let identity = identity::all(facts, now).into_iter().chain(plain::all(facts, now));
    let identity = identity.chain(witness::all(facts));
    findings.extend(cut("identity", identity.collect()));
    findings.extend(cut("namespaces", namespaces(facts)));
    findings.extend(cut("routes", programmed::routes(facts)));
    findings.extend(cut("policies", programmed::policies(facts)));
    findings
}

/// A finding about a request that failed.
fn unread(area: &'static str, subject: &str, problem: &str) -> Finding {
    Finding::ok(area, subject, "").failure(problem, "repeat the check once this can be read")
}

/// At most [`LINES_MAX`] findings, the worst first; the line for the rest is as bad as the worst of them.
fn cut(area: &'static str, mut findings: Vec<Finding>) -> Vec<Finding> {
    if findings.len() <= LINES_MAX {
        return findings;
    }
    findings.sort_by_key(|finding| Reverse(finding.verdict));
    let rest = findings.split_off(LINES_MAX);
    let wrong = rest.iter().filter(|finding| finding.verdict != Verdict::Ok).count();
    let more = Finding::ok(area, format!("{} more", rest.len()), "as they should be");
    let (detail, todo) = (format!("{wrong} of them not as they should be"), "put the ones above right first");
    findings.push(match rest.iter().map(|finding| finding.verdict).max() {
        None | Some(Verdict::Ok) => more,
        Some(Verdict::Warning) => more.warning(detail, todo),
        Some(Verdict::Failure) => more.failure(detail, todo),
    });
    findings
}

fn meshes(facts: &Facts) -> Vec<Finding> {
    let meshes = match &facts.meshes {
        Ok(meshes) => meshes,
        Err(problem) => return vec![unread("meshes", "ServiceMeshes", problem)],
    };
    if meshes.is_empty() {
        let none = Finding::ok("meshes", "ServiceMeshes", "");
        return vec![none.warning("there is none", "kubectl apply -f config/samples/servicemesh.yaml")];
    }
    meshes.iter().map(mesh).chain(meshes.iter().filter_map(egress)).collect()
}

/// Of a mesh whose proxies do not go by its `spec.egress`.
fn egress(mesh: &ServiceMesh) -> Option<Finding> {
    let name = mesh.metadata.name.clone().unwrap_or_default();
    let conditions = &mesh.status.as_ref()?.conditions;
    let condition = conditions.iter().find(|condition| condition.type_ == kind::EGRESS_PROGRAMMED)?;
    let why = || format!("not {}: {}: {}", kind::EGRESS_PROGRAMMED, condition.reason, condition.message);
    (condition.status != "True").then(|| {
        Finding::ok("egress", &name, "").warning(why(), format!("kubectl describe servicemesh {name}"))
    })
}

fn mesh(mesh: &ServiceMesh) -> Finding {
    let name = mesh.metadata.name.clone().unwrap_or_default();
    let status = mesh.status.clone().unwrap_or_default();
    let summary =
        |tally: Option<vicino_crds::mesh::Tally>| tally.map_or_else(|| "0/0".to_owned(), |t| t.summary);
    let detail =
        format!("{} proxies ready, {} routes programmed", summary(status.proxies), summary(status.routes));
    let finding = Finding::ok("meshes", &name, detail);
    if status.observed_generation != mesh.metadata.generation {
        return finding.failure(
            "the operator has not seen its newest spec",
            "kubectl logs -n vicino-system deployment/vicino-operator",
        );
    }
    if is_true(&status.conditions, kind::READY) {
        return finding;
    }
    let ready = status.conditions.iter().find(|condition| condition.type_ == kind::READY);
    let why = ready.map_or_else(|| "not ready".to_owned(), |c| format!("{}: {}", c.reason, c.message));
    finding.failure(why, format!("kubectl describe servicemesh {name}"))
}

fn namespaces(facts: &Facts) -> Vec<Finding> {
    let (namespaces, meshes) = match (&facts.namespaces, &facts.meshes) {
        (Ok(namespaces), Ok(meshes)) => (namespaces, meshes),
        (Err(problem), _) => return vec![unread("namespaces", "labelled Namespaces", problem)],
        (_, Err(_)) => return Vec::new(),
    };
    let label = vicino_crds::names::LABEL_MESH;
    let exists = |name: &str| meshes.iter().any(|mesh| mesh.metadata.name.as_deref() == Some(name));
    let (mut findings, mut known) = (Vec::new(), 0);
    for namespace in namespaces {
        let name = namespace.metadata.name.clone().unwrap_or_default();
        let labels = namespace.metadata.labels.as_ref();
        let mesh = labels.and_then(|labels| labels.get(label)).cloned().unwrap_or_default();
        if exists(&mesh) {
            known += 1;
            continue;
        }
        findings.push(Finding::ok("namespaces", &name, "").failure(
            format!("its label {label} names the mesh {mesh:?}, which does not exist"),
            format!("create that ServiceMesh, or kubectl label --overwrite namespace {name} {label}=<mesh>"),
        ));
    }
    findings.insert(0, Finding::ok("namespaces", "in a mesh", known.to_string()));
    findings
}

#[cfg(test)]
mod tests {
    use super::{Finding, LINES_MAX, Verdict, cut};

    #[test]
    fn many_warnings_stay_warnings_and_a_failure_among_them_comes_first() {
        let warnings = || (0..30).map(|i| Finding::ok("routes", format!("r{i}"), "").warning("late", "wait"));
        let few = cut("routes", warnings().collect());
        assert_eq!(few.len(), LINES_MAX + 1);
        assert!(few.iter().all(|finding| finding.verdict == Verdict::Warning));
        let failure = Finding::ok("routes", "lost", "").failure("gone", "look");
        let with_failure = cut("routes", warnings().chain([failure]).collect());
        assert_eq!((with_failure[0].subject.as_str(), with_failure[0].verdict), ("lost", Verdict::Failure));
        assert_eq!(with_failure[LINES_MAX].verdict, Verdict::Warning);
    }
}
