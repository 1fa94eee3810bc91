//! What `check` says of each node's proxy: is it there, is it of this release, does it serve what it should; pure.

use k8s_openapi::api::core::v1::{ConfigMap, Pod};
use kube::ResourceExt;
use vicino_crds::contract::CONTRACT_VERSION;
use vicino_crds::names;
use vicino_crds::node::{MeshNode, MeshNodeStatus, ProxyReport};

use super::super::super::cluster::is_ready;
use super::super::super::version::OWN;
use super::super::Finding;
use super::super::facts::Facts;
use super::unread;

/// ConfigMaps that a line names.
const CONFIGS_SHOWN: usize = 3;

pub(super) fn all(facts: &Facts) -> Vec<Finding> {
    let (nodes, pods, config_maps) = match (&facts.nodes, &facts.pods, &facts.config_maps) {
        (Ok(nodes), Ok(pods), Ok(config_maps)) => (nodes, pods, config_maps),
        (Err(problem), _, _) => return vec![unread("nodes", "MeshNodes", problem)],
        (_, Err(problem), _) => return vec![unread("nodes", "proxies' Pods", problem)],
        (_, _, Err(problem)) => return vec![unread("nodes", "ConfigMaps", problem)],
    };
    nodes.iter().map(|node| one(node, pods, config_maps)).collect()
}

fn one(node: &MeshNode, pods: &[Pod], config_maps: &[ConfigMap]) -> Finding {
    let name = node.name_any();
    let status = node.status.clone().unwrap_or_default();
    let finding = Finding::ok("nodes", &name, "");
    let here: Vec<_> = pods.iter().filter(|pod| runs_on(pod, &name)).collect();
    let look = format!("kubectl get pods -n vicino-proxy -o wide --field-selector spec.nodeName={name}");
    if here.is_empty() {
        return finding.failure("no proxy runs there", "kubectl describe daemonset -n vicino-proxy");
    }
    if !here.iter().any(|pod| is_ready(pod)) {
        return finding.failure("its proxy is not ready", look);
    }
    let Some(report) = &status.proxy else { return finding.failure("its proxy has not reported yet", look) };
    let logs = format!("kubectl logs -n vicino-proxy {}", report.pod);
    if report.state != "Ready" {
        return finding.failure(format!("its proxy says {}", report.state), logs);
    }
    if let Some(finding) = rejected(&finding, &status, &logs) {
        return finding;
    }
    let behind = behind(&node.spec.mesh, &status, config_maps);
    if !behind.is_empty() {
        let more = behind.len().saturating_sub(CONFIGS_SHOWN);
        let more = if more > 0 { format!(" and {more} more") } else { String::new() };
        let shown: Vec<_> = behind.into_iter().take(CONFIGS_SHOWN).collect();
        return finding.failure(format!("does not serve the newest {}{more}", shown.join(", ")), logs);
    }
    versions(finding, report, &status)
}

fn versions(finding: Finding, report: &ProxyReport, status: &MeshNodeStatus) -> Finding {
    let version = &report.version;
    let detail = format!("ready, {} routes, version {version}", status.routes);
    // Each document is written in the lowest version that it can do with, and what a proxy cannot read it refuses, which is told above.
    if report.contract < CONTRACT_VERSION {
        let problem = format!(
            "{detail}, reads contract {} and would refuse what needs {CONTRACT_VERSION}",
            report.contract
        );
        return finding.warning(problem, "upgrade the proxies");
    }
    if *version != OWN {
        return finding.warning(
            format!("{detail}, this command has {OWN}"),
            "kubectl rollout status -n vicino-proxy daemonset, or use the command of that release",
        );
    }
    Finding { detail, ..finding }
}

fn rejected(finding: &Finding, status: &MeshNodeStatus, logs: &str) -> Option<Finding> {
    if status.rejected_count == 0 {
        return None;
    }
    let mut named =
        status.configs.iter().flat_map(|config| config.rejected.iter().map(move |key| (config, key)));
    let first =
        named.next().map(|(config, key)| format!(": {} of {}: {}", key.key, config.name, key.message));
    let problem = format!("refuses {} configs{}", status.rejected_count, first.unwrap_or_default());
    let todo = format!("the last good ones stay in force; has somebody edited the ConfigMap? {logs}");
    Some(finding.clone().failure(problem, todo))
}

/// Generated ConfigMaps of which the proxy does not serve the newest content. The bootstrap is read once, at start.
fn behind<'a>(mesh: &str, status: &MeshNodeStatus, config_maps: &'a [ConfigMap]) -> Vec<&'a str> {
    let label =
        |config: &ConfigMap, label: &str, value: &str| config.labels().get(label).is_some_and(|v| v == value);
    config_maps
        .iter()
        .filter(|config| label(config, names::LABEL_MESH, mesh))
        .filter(|config| !label(config, names::LABEL_CONFIG, names::CONFIG_BOOTSTRAP))
        .filter(|config| {
            let digest = config.annotations().get(names::ANNOTATION_DIGEST);
            let served =
                status.configs.iter().find(|served| Some(&served.name) == config.metadata.name.as_ref());
            digest.is_some() && served.map(|served| &served.digest) != digest
        })
        .filter_map(|config| config.metadata.name.as_deref())
        .collect()
}

fn runs_on(pod: &Pod, node: &str) -> bool {
    pod.spec.as_ref().and_then(|spec| spec.node_name.as_deref()) == Some(node)
}
