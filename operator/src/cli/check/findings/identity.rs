//! What `check` says of certificates: how long the roots are good, and whether each node's are renewed; pure. Where hops do without them, nothing of this is more than a warning.

use k8s_openapi::api::core::v1::ConfigMap;
use k8s_openapi::jiff::{SignedDuration, Timestamp};
use kube::ResourceExt;
use vicino_crds::condition::kind;
use vicino_crds::mesh::IdentityMode;
use vicino_crds::{MeshNode, ServiceMesh, names};
use x509_parser::prelude::{FromDer, X509Certificate};

use super::super::Finding;
use super::super::facts::Facts;

/// Roots are renewed by people, who want to know long before.
const ROOT_LEFT_MIN: SignedDuration = SignedDuration::from_hours(90 * 24);
/// A proxy renews a certificate when a third of its life is left: with less left than a quarter something keeps it from that.
const LEFT_SHARE: i32 = 4;
/// Clocks that differ by this much are said to differ: a certificate is good from five minutes before it is issued.
const SKEW_MAX: u32 = 60;

const MEND_SECRET: &str = "put the Secret vicino-system/vicino-authority right";
const LOGS: &str = "kubectl logs -n vicino-system deployment/vicino-operator";

/// One line for the roots of each mesh that has some, and one for each node whose certificates are not as they should be.
pub(super) fn all(facts: &Facts, now: Timestamp) -> Vec<Finding> {
    let (Ok(config_maps), Ok(nodes)) = (&facts.config_maps, &facts.nodes) else { return Vec::new() };
    let is_trust = |config: &&ConfigMap| {
        config.labels().get(names::LABEL_CONFIG).is_some_and(|kind| kind == names::CONFIG_TRUST)
    };
    let mut findings: Vec<_> = facts.meshes.iter().flatten().filter_map(authority).collect();
    for config in config_maps.iter().filter(is_trust) {
        let mesh = config.labels().get(names::LABEL_MESH).cloned().unwrap_or_default();
        let of_mesh = facts.meshes.iter().flatten().find(|one| one.name_any() == mesh);
        let mode = of_mesh.map(|mesh| mesh.spec.identity.mode).unwrap_or_default();
        findings.push(roots(config, &mesh, (mode, now)));
        let lifetime = of_mesh.map(|mesh| mesh.spec.identity.lifetime()).unwrap_or_default();
        let lifetime = SignedDuration::try_from(lifetime).unwrap_or_default();
        let nodes = nodes.iter().filter(|node| node.spec.mesh == mesh);
        findings.extend(nodes.flat_map(|node| one(node, mode, (lifetime, now))));
    }
    findings
}

/// What the operator says of the authority, where somebody has to do something.
fn authority(mesh: &ServiceMesh) -> Option<Finding> {
    let conditions = &mesh.status.as_ref()?.conditions;
    let said = conditions.iter().find(|condition| condition.type_ == kind::IDENTITY_READY)?;
    let finding = Finding::ok("identity", format!("authority of {}", mesh.name_any()), "");
    let detail = format!("{}: {}", said.reason, said.message);
    let todo = match said.reason.as_str() {
        "Ready" | "NoAuthority" | "Starting" => return None,
        "Rotating" => "vicino identity",
        "AuthorityAway" => "kubectl apply -k config/default",
        "LifetimeCut" => "renew the authority, or ask for certificates that live shorter",
        _ => MEND_SECRET,
    };
    Some(finding.warning(detail, todo))
}

/// What a mesh in this mode cannot use: in Strict, calls fail by it.
fn unusable(mode: IdentityMode, finding: Finding, (detail, todo): (&str, &str)) -> Finding {
    match mode {
        IdentityMode::Strict => finding.failure(detail, todo),
        IdentityMode::Permissive => finding.warning(detail, todo),
    }
}

fn roots(config: &ConfigMap, mesh: &str, (mode, now): (IdentityMode, Timestamp)) -> Finding {
    let finding = Finding::ok("identity", format!("roots of {mesh}"), "");
    let text = config.data.as_ref().and_then(|data| data.get(names::TRUST_KEY));
    let Some(ends) = text.and_then(|text| ends(text)).filter(|ends| !ends.is_empty()) else {
        return unusable(mode, finding, ("cannot be read", LOGS));
    };
    let todo = "renew the authority in the Secret vicino-system/vicino-authority";
    // One that is replaced may end before the other.
    let Some(first) = ends.into_iter().filter(|end| *end >= now).min() else {
        return unusable(mode, finding, ("have ended, and no certificate is good any more", todo));
    };
    let when = format!("good until {}", first.strftime("%Y-%m-%d"));
    if first.duration_since(now) < ROOT_LEFT_MIN {
        return finding.warning(when, todo);
    }
    Finding { detail: when, ..finding }
}

/// When each of these certificates ends.
fn ends(text: &str) -> Option<Vec<Timestamp>> {
    let end = |pem: &pem::Pem| {
        let (_, certificate) = X509Certificate::from_der(pem.contents()).ok()?;
        Timestamp::from_second(certificate.validity().not_after.timestamp()).ok()
    };
    pem::parse_many(text).ok()?.iter().map(end).collect()
}

fn one(node: &MeshNode, mode: IdentityMode, (lifetime, now): (SignedDuration, Timestamp)) -> Vec<Finding> {
    let Some(status) = &node.status else { return Vec::new() };
    let Some(proxy) = &status.proxy else { return Vec::new() };
    let finding = || Finding::ok("identity", node.name_any(), "");
    let logs = format!("kubectl logs -n vicino-proxy {}", proxy.pod);
    let certificates = status.certificates.clone().unwrap_or_default();
    let mut findings = Vec::new();
    match certificates.expires.map(|expires| expires.0.duration_since(now)) {
        None => findings.push(unusable(mode, finding(), ("its proxy has no certificates", &logs))),
        Some(left) if left.is_negative() => {
            let detail = "a certificate has ended and is not renewed";
            findings.push(unusable(mode, finding(), (detail, &logs)));
        }
        Some(left) if left < lifetime / LEFT_SHARE => {
            let detail = format!("a certificate ends in {} min and is not renewed", left.as_mins());
            findings.push(finding().warning(detail, &logs));
        }
        Some(_) => {}
    }
    if let Some(problem) = &certificates.roots_problem {
        let detail =
            format!("cannot use the roots that it was given last, and goes on by those before: {problem}");
        findings.push(finding().warning(detail, MEND_SECRET));
    }
    if let Some(skew) = certificates.clock_skew_seconds.filter(|skew| skew.unsigned_abs() >= SKEW_MAX) {
        let seconds = skew.unsigned_abs();
        let way = if skew > 0 { "behind" } else { "ahead of" };
        let detail = format!(
            "its clock is {seconds} s {way} the authority's: certificates seem to begin, and to end, at other times"
        );
        findings.push(finding().warning(detail, "set the node's clock (NTP)"));
    }
    findings
}
