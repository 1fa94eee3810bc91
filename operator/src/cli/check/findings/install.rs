//! What `check` says of the installation: the cluster, the kinds, the operator, the admission policies; pure.

use k8s_openapi::api::apps::v1::Deployment;
use k8s_openapi::api::coordination::v1::Lease;
use k8s_openapi::apiextensions_apiserver::pkg::apis::apiextensions::v1::CustomResourceDefinition;
use k8s_openapi::jiff::Timestamp;
use kube::CustomResourceExt;
use vicino_crds::{MeshNode, MeshPolicy, MeshRoute, ServiceMesh, names};

use super::super::super::version::{self, OWN};
use super::super::Finding;
use super::super::facts::{Facts, POLICIES};
use super::unread;

/// The first minor version that has ValidatingAdmissionPolicy and the node's name in tokens.
const MINOR_MIN: u32 = 30;
/// What puts an installation right.
const INSTALL: &str = "kubectl apply -k config/default";
/// A lease that was not renewed for longer than its own duration and this is nobody's; clocks may differ by as much.
const CLOCKS_DIFFER_SECONDS: i64 = 15;

pub(super) fn kubernetes(facts: &Facts) -> Vec<Finding> {
    let subject = "API server";
    let version = match &facts.server {
        Ok(version) => version,
        Err(problem) => {
            let todo = "start the cluster, or name the right one with --kubeconfig or --context";
            return vec![Finding::ok("kubernetes", subject, "").failure(problem, todo)];
        }
    };
    let finding = Finding::ok("kubernetes", subject, version);
    let mut numbers = version.trim_start_matches('v').split('.').map(|part| part.parse::<u32>().ok());
    let enough = match (numbers.next().flatten(), numbers.next().flatten()) {
        (Some(1), Some(minor)) => minor >= MINOR_MIN,
        // An unknown scheme is not a reason to refuse.
        _ => true,
    };
    let todo = format!("use Kubernetes 1.{MINOR_MIN} or newer");
    vec![if enough { finding } else { finding.failure(format!("{version} is too old"), todo) }]
}

pub(super) fn kinds(facts: &Facts) -> Vec<Finding> {
    let crds = match &facts.crds {
        Ok(crds) => crds,
        Err(problem) => return vec![unread("kinds", "CustomResourceDefinitions", problem)],
    };
    let own = [ServiceMesh::crd(), MeshRoute::crd(), MeshPolicy::crd(), MeshNode::crd()];
    own.iter()
        .map(|own| one_kind(own, crds.iter().find(|crd| crd.metadata.name == own.metadata.name)))
        .collect()
}

fn one_kind(own: &CustomResourceDefinition, live: Option<&CustomResourceDefinition>) -> Finding {
    let name = own.metadata.name.clone().unwrap_or_default();
    let version = names::VERSION;
    let finding = Finding::ok("kinds", &name, format!("served as {version}"));
    let Some(live) = live else { return finding.failure("is not installed", INSTALL) };
    let conditions = live.status.as_ref().and_then(|status| status.conditions.as_deref()).unwrap_or_default();
    let established = conditions.iter().any(|c| c.type_ == "Established" && c.status == "True");
    let served = live.spec.versions.iter().find(|v| v.name == version && v.served);
    let (true, Some(served)) = (established, served) else {
        return finding.failure(format!("does not serve {version}"), INSTALL);
    };
    let fields =
        |schema: Option<&_>| serde_json::to_value(schema).map(|value| paths(&value)).unwrap_or_default();
    let schema =
        |crd: &CustomResourceDefinition| fields(crd.spec.versions.first().and_then(|v| v.schema.as_ref()));
    if fields(served.schema.as_ref()) == schema(own) {
        finding
    } else {
        finding.warning(
            "has other fields than this command knows: they are of different releases",
            "apply config/crd of the operator's release, or use the command of that release",
        )
    }
}

/// The fields of a schema, by path: what makes two releases differ for whoever reads objects.
fn paths(schema: &serde_json::Value) -> std::collections::BTreeSet<String> {
    fn collect(schema: &serde_json::Value, path: &str, paths: &mut std::collections::BTreeSet<String>) {
        for (name, field) in schema["properties"].as_object().into_iter().flatten() {
            let path = format!("{path}.{name}");
            collect(field, &path, paths);
            paths.insert(path);
        }
        if schema["items"].is_object() {
            collect(&schema["items"], &format!("{path}[]"), paths);
        }
    }
    let mut found = std::collections::BTreeSet::new();
    collect(&schema["openAPIV3Schema"], "", &mut found);
    found
}

pub(super) fn operator(facts: &Facts, now: Timestamp) -> Vec<Finding> {
    let deployment = match &facts.operator {
        Ok(Some(deployment)) => deployment,
        Ok(None) => {
            let missing = Finding::ok("operator", "Deployment", "");
            return vec![missing.failure("is not installed", INSTALL)];
        }
        Err(problem) => return vec![unread("operator", "Deployment", problem)],
    };
    let lease = match &facts.lease {
        Ok(lease) => leader(lease.as_ref(), now),
        Err(problem) => unread("operator", "leader", problem),
    };
    vec![replicas(deployment), lease, operator_version(deployment)]
}

fn replicas(deployment: &Deployment) -> Finding {
    let wanted = deployment.spec.replicas.unwrap_or(1);
    let ready = deployment.status.as_ref().and_then(|status| status.ready_replicas).unwrap_or(0);
    let detail = format!("{ready}/{wanted} replicas ready");
    let finding = Finding::ok("operator", "Deployment", &detail);
    let todo = "kubectl describe pods -n vicino-system -l app.kubernetes.io/name=vicino-operator";
    match ready {
        0 if wanted == 0 => finding.failure(
            "is scaled to 0",
            "kubectl scale -n vicino-system deployment/vicino-operator --replicas=2",
        ),
        0 => finding.failure(detail, todo),
        ready if ready < wanted => finding.warning(detail, todo),
        _ => finding,
    }
}

fn leader(lease: Option<&Lease>, now: Timestamp) -> Finding {
    let finding = Finding::ok("operator", "leader", "");
    let todo = "kubectl logs -n vicino-system deployment/vicino-operator";
    let spec = lease.and_then(|lease| lease.spec.as_ref());
    let holder = spec.and_then(|spec| spec.holder_identity.clone()).filter(|holder| !holder.is_empty());
    let (Some(spec), Some(holder)) = (spec, holder) else { return finding.failure("nobody leads", todo) };
    let seconds = i64::from(spec.lease_duration_seconds.unwrap_or(15)) + CLOCKS_DIFFER_SECONDS;
    let renewed = spec.renew_time.as_ref().map_or(0, |time| time.0.as_second());
    if now.as_second() - renewed > seconds {
        let ago = now.as_second() - renewed;
        return finding.failure(format!("{holder} led and has not renewed its lease for {ago} s"), todo);
    }
    Finding { detail: holder, ..finding }
}

fn operator_version(deployment: &Deployment) -> Finding {
    let operator = version::operator(deployment);
    let finding = Finding::ok("operator", "version", format!("{} ({})", operator.version, operator.image));
    if operator.version == OWN {
        return finding;
    }
    let version = if operator.version.is_empty() { "unknown" } else { &operator.version };
    finding.warning(
        format!("{version} ({}), this command has {OWN}", operator.image),
        "use the command of the operator's release",
    )
}

pub(super) fn admission(facts: &Facts) -> Vec<Finding> {
    let (policies, bindings) = match &facts.policies {
        Ok(found) => found,
        Err(problem) => return vec![unread("admission", "policies", problem)],
    };
    let one = |name: &str| {
        let finding = Finding::ok("admission", name, "in force");
        let named = |found: &Option<String>| found.as_deref() == Some(name);
        let todo = "kubectl apply -k config/admission";
        if !policies.iter().any(|policy| named(&policy.metadata.name)) {
            return finding.failure("the policy is missing, so nothing limits who writes what", todo);
        }
        let denies = bindings
            .iter()
            .filter(|binding| named(&binding.metadata.name))
            .any(|binding| binding.spec.validation_actions.iter().any(|action| action == "Deny"));
        if denies { finding } else { finding.failure("no binding makes the policy deny anything", todo) }
    };
    POLICIES.into_iter().map(one).collect()
}
