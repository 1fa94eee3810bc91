//! What `check` says of MeshRoutes and MeshPolicies: which are refused, and which are not in force everywhere yet; pure.

use k8s_openapi::apimachinery::pkg::apis::meta::v1::Condition;
use kube::ResourceExt;
use vicino_crds::condition::{is_true, kind};
use vicino_crds::{MeshPolicy, MeshRoute};

use super::super::Finding;
use super::super::facts::{Fact, Facts};
use super::unread;

/// How many MeshRoutes proxies serve, and one line for each other one.
pub(super) fn routes(facts: &Facts) -> Vec<Finding> {
    let conditions = |route: &MeshRoute| route.status.clone().map(|status| status.conditions);
    all(("routes", "MeshRoutes", "meshroute"), &facts.routes, conditions, "vicino routes -A -o wide")
}

/// How many MeshPolicies proxies enforce, and one line for each other one.
pub(super) fn policies(facts: &Facts) -> Vec<Finding> {
    let conditions = |policy: &MeshPolicy| policy.status.clone().map(|status| status.conditions);
    let names = ("policies", "MeshPolicies", "meshpolicy");
    all(names, &facts.mesh_policies, conditions, "vicino policy list -A -o wide")
}

fn all<K: ResourceExt>(
    (area, plural, singular): (&'static str, &str, &str),
    objects: &Fact<Vec<K>>,
    conditions: impl Fn(&K) -> Option<Vec<Condition>>,
    todo: &str,
) -> Vec<Finding> {
    let objects = match objects {
        Ok(objects) => objects,
        Err(problem) => return vec![unread(area, plural, problem)],
    };
    let (mut findings, mut programmed) = (Vec::new(), 0);
    for object in objects {
        let (name, namespace) = (object.name_any(), object.namespace().unwrap_or_default());
        let conditions = conditions(object).unwrap_or_default();
        let all = [kind::ACCEPTED, kind::PROGRAMMED];
        let Some(wanted) = all.into_iter().find(|kind| !is_true(&conditions, kind)) else {
            programmed += 1;
            continue;
        };
        let why = conditions.iter().find(|condition| condition.type_ == wanted);
        let why = why.map_or_else(
            || "the operator has not seen it".to_owned(),
            |c| format!("not {wanted}: {}: {}", c.reason, c.message),
        );
        findings.push(
            Finding::ok(area, format!("{namespace}/{name}"), "")
                .warning(why, format!("kubectl describe {singular} -n {namespace} {name}")),
        );
    }
    let all = Finding::ok(area, "programmed", format!("{programmed} of {}", objects.len()));
    let detail = all.detail.clone();
    findings.insert(0, if findings.is_empty() { all } else { all.warning(detail, todo) });
    findings
}
