//! `vicino version`: which releases are at work, and whether they fit together.

use std::collections::BTreeMap;

use k8s_openapi::api::apps::v1::Deployment;
use serde::Serialize;
use vicino_crds::contract::CONTRACT_VERSION;
use vicino_crds::{MeshNode, names};

use super::arguments::{Global, VersionOptions};
use super::cluster::{Cluster, Only};
use super::output::{self, Format};
use super::{Answer, Error, chain};

/// Version of this command.
pub const OWN: &str = env!("CARGO_PKG_VERSION");
/// The label by which the operator's pods say their version.
const LABEL_VERSION: &str = "app.kubernetes.io/version";

/// What `-o json` prints.
#[derive(Clone, Debug, Serialize)]
#[serde(rename_all = "camelCase")]
struct Versions {
    client: String,
    /// Highest version of the contract between operator and proxies that this release knows.
    contract: i32,
    #[serde(skip_serializing_if = "Option::is_none")]
    operator: Option<Operator>,
    /// How many proxies report each version.
    #[serde(skip_serializing_if = "Option::is_none")]
    proxies: Option<BTreeMap<String, usize>>,
}

/// The operator's Deployment, in short.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "camelCase")]
pub struct Operator {
    /// Its version; empty when its manifest does not say it.
    pub version: String,
    /// Its image.
    pub image: String,
}

/// Runs `vicino version`.
pub async fn run(global: &Global, options: &VersionOptions) -> Result<Answer, Error> {
    let mut versions =
        Versions { client: OWN.to_owned(), contract: CONTRACT_VERSION, operator: None, proxies: None };
    if options.client {
        return Ok(Answer { text: show(&versions, global.output), ..Answer::default() });
    }
    // What is known without a cluster is said all the same.
    let problem = ask(global, &mut versions).await.err();
    let notes: Vec<_> = problem.iter().map(|error| format!("error: {}", chain(error))).collect();
    Ok(Answer { text: show(&versions, global.output), found: problem.is_some(), notes })
}

async fn ask(global: &Global, versions: &mut Versions) -> Result<(), Error> {
    let cluster = Cluster::connect(global).await?;
    let deployment = cluster.operator().await?;
    let nodes = cluster.list_as(MESH_NODES, Only::default()).await;
    versions.proxies = Some(match nodes {
        // The kinds are not installed.
        Err(error) if error.is_not_found() => BTreeMap::new(),
        nodes => proxies(&nodes?),
    });
    versions.operator = deployment.as_ref().map(operator);
    Ok(())
}

/// Where the API serves MeshNodes.
pub(super) const MESH_NODES: (&str, &str, &str, &str) =
    (names::GROUP, names::VERSION, "MeshNode", "meshnodes");

/// What the operator's Deployment says of itself.
pub(super) fn operator(deployment: &Deployment) -> Operator {
    let template = &deployment.spec.template;
    let labels = template.metadata.as_ref().and_then(|meta| meta.labels.as_ref());
    let container = template.spec.as_ref().and_then(|spec| spec.containers.first());
    Operator {
        version: labels.and_then(|labels| labels.get(LABEL_VERSION)).cloned().unwrap_or_default(),
        image: container.and_then(|container| container.image.clone()).unwrap_or_default(),
    }
}

fn proxies(nodes: &[MeshNode]) -> BTreeMap<String, usize> {
    let mut counts = BTreeMap::new();
    let reports = nodes.iter().filter_map(|node| node.status.as_ref()?.proxy.as_ref());
    for report in reports {
        *counts.entry(report.version.clone()).or_insert(0) += 1;
    }
    counts
}

fn show(versions: &Versions, format: Format) -> String {
    match format {
        Format::Json => output::json(versions),
        Format::Yaml => output::yaml(versions),
        Format::Table | Format::Wide | Format::Name => {
            let client = format!("client     {} (contract {})\n", versions.client, versions.contract);
            let Some(proxies) = &versions.proxies else { return client };
            let operator = versions.operator.as_ref().map_or_else(
                || "not installed".to_owned(),
                |operator| format!("{} ({})", known(&operator.version), operator.image),
            );
            let each: Vec<_> =
                proxies.iter().map(|(version, n)| format!("{} on {n} nodes", known(version))).collect();
            let proxies = if each.is_empty() { "none".to_owned() } else { each.join(", ") };
            format!("{client}operator   {operator}\nproxies    {proxies}\n")
        }
    }
}

fn known(version: &str) -> &str {
    if version.is_empty() { "unknown" } else { version }
}

#[cfg(test)]
mod tests {
    use expect_test::expect;
    use serde_json::json;

    use super::*;

    fn versions() -> Versions {
        let node = |version: &str| -> MeshNode {
            let report = json!({ "pod": "p", "version": version, "contract": 1, "state": "Ready" });
            let node = json!({ "apiVersion": "vicino.dev/v1alpha1", "kind": "MeshNode", "metadata": { "name": "n" },
                "spec": { "mesh": "default" }, "status": { "proxy": report } });
            serde_json::from_value(node).unwrap()
        };
        Versions {
            client: "1.2.3".to_owned(),
            contract: 1,
            operator: Some(Operator {
                version: String::new(),
                image: "localhost/vicino-operator:dev".to_owned(),
            }),
            proxies: Some(proxies(&[node("1.2.3"), node("1.2.2"), node("1.2.3")])),
        }
    }

    #[test]
    fn people_see_three_lines() {
        expect![[r"
            client     1.2.3 (contract 1)
            operator   unknown (localhost/vicino-operator:dev)
            proxies    1.2.2 on 1 nodes, 1.2.3 on 2 nodes
        "]]
        .assert_eq(&show(&versions(), Format::Table));
        let missing = Versions { operator: None, proxies: Some(BTreeMap::new()), ..versions() };
        expect![[r"
            client     1.2.3 (contract 1)
            operator   not installed
            proxies    none
        "]]
        .assert_eq(&show(&missing, Format::Table));
    }

    #[test]
    fn programs_see_stable_fields() {
        expect![[r#"
            {
              "client": "1.2.3",
              "contract": 1,
              "operator": {
                "version": "",
                "image": "localhost/vicino-operator:dev"
              },
              "proxies": {
                "1.2.2": 1,
                "1.2.3": 2
              }
            }
        "#]]
        .assert_eq(&show(&versions(), Format::Json));
    }

    #[test]
    fn the_manifest_says_this_version() {
        let manifest = include_str!("../../../config/operator/deployment.yaml");
        let deployment: Deployment = serde_saphyr::from_str(manifest).unwrap();
        assert_eq!(
            operator(&deployment).version,
            OWN,
            "config/operator/deployment.yaml: label {LABEL_VERSION}"
        );
    }
}
