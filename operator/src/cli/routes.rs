//! `vicino routes`: MeshRoutes as kubectl lists them, and which nodes serve them.

use std::collections::{BTreeMap, BTreeSet};

use futures::future::try_join3;
use k8s_openapi::api::core::v1::ConfigMap;
use k8s_openapi::jiff::Timestamp;
use kube::ResourceExt;
use serde::Serialize;
use vicino_crds::condition::{is_true, kind};
use vicino_crds::mesh::Tally;
use vicino_crds::node::REJECTED_MAX;
use vicino_crds::{MeshNode, MeshRoute, names};

use super::arguments::{Global, RoutesOptions};
use super::cluster::{Cluster, Only};
use super::output::Format;
use super::version::MESH_NODES;
use super::{Answer, Error, age, listing, table};

/// Where the API serves MeshRoutes.
pub(super) const MESH_ROUTES: (&str, &str, &str, &str) =
    (names::GROUP, names::VERSION, "MeshRoute", "meshroutes");
/// Where the API serves ConfigMaps.
pub(super) const CONFIG_MAPS: (&str, &str, &str, &str) = ("", "v1", "ConfigMap", "configmaps");
/// With more nodes than this the column names only those that do not serve a route.
const NODES_SHOWN: usize = 8;

/// One route; what `-o json` prints.
#[derive(Clone, Debug, PartialEq, Serialize)]
#[serde(rename_all = "camelCase")]
struct Row {
    namespace: String,
    name: String,
    mesh: String,
    protocol: String,
    backends: String,
    endpoints: Option<Tally>,
    programmed: Option<Tally>,
    accepted: bool,
    reason: String,
    message: String,
    nodes: Vec<NodeState>,
    #[serde(skip)]
    age: String,
}

impl listing::Row for Row {
    const KIND: &'static str = "MeshRoute";
    const LIST: &'static str = "routes";

    fn name(&self) -> &str {
        &self.name
    }

    fn table(rows: &[Self], wide: bool, all_namespaces: bool) -> String {
        let mut header = vec!["NAME", "MESH", "PROTOCOL", "BACKENDS", "ENDPOINTS", "PROGRAMMED", "AGE"];
        if wide {
            header.extend(["ACCEPTED", "REASON", "NODES"]);
        }
        if all_namespaces {
            header.insert(0, "NAMESPACE");
        }
        let tally = |tally: &Option<Tally>| tally.as_ref().map(|t| t.summary.clone()).unwrap_or_default();
        let cells = rows.iter().map(|row| {
            let mut cells = vec![
                row.name.clone(),
                row.mesh.clone(),
                row.protocol.clone(),
                row.backends.clone(),
                tally(&row.endpoints),
                tally(&row.programmed),
                row.age.clone(),
            ];
            if wide {
                cells.extend([
                    if row.accepted { "True" } else { "False" }.to_owned(),
                    row.reason.clone(),
                    named(&row.nodes),
                ]);
            }
            if all_namespaces {
                cells.insert(0, row.namespace.clone());
            }
            cells
        });
        table::table(&header, &cells.collect::<Vec<_>>())
    }
}

/// How far one route is on one node.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
struct NodeState {
    node: String,
    /// `programmed`, `pending`, `rejected` or `notReady`.
    state: &'static str,
    #[serde(skip_serializing_if = "String::is_empty")]
    message: String,
}

/// What rows are made of.
#[derive(Clone, Debug, Default)]
struct Facts {
    routes: Vec<MeshRoute>,
    nodes: Vec<MeshNode>,
    config_maps: Vec<ConfigMap>,
}

/// Runs `vicino routes`.
pub async fn run(global: &Global, options: &RoutesOptions) -> Result<Answer, Error> {
    let cluster = Cluster::connect(global).await?;
    let namespace = (!global.all_namespaces).then(|| cluster.namespace.clone());
    let here = Only { namespace: namespace.as_deref(), labels: None };
    let label = format!("{}={}", names::LABEL_CONFIG, names::CONFIG_ROUTES);
    let configs = Only { namespace: Some(names::PROXY_NAMESPACE), labels: Some(&label) };
    let routes = cluster.list_as(MESH_ROUTES, here);
    let facts = match global.output {
        // They say nothing of nodes, and are for whoever may see one namespace only.
        Format::Table | Format::Name => Facts { routes: routes.await?, ..Facts::default() },
        Format::Wide | Format::Json | Format::Yaml => {
            let nodes = cluster.list_as(MESH_NODES, Only::default());
            let (routes, nodes, config_maps) =
                try_join3(routes, nodes, cluster.list_as(CONFIG_MAPS, configs)).await?;
            Facts { routes, nodes, config_maps }
        }
    };
    let rows = rows(&facts, super::render::now());
    Ok(listing::answer(global, &options.names, rows, || nothing(namespace.as_deref())))
}

fn nothing(namespace: Option<&str>) -> String {
    let label = names::LABEL_MESH;
    match namespace {
        Some(namespace) => format!(
            "no route in namespace {namespace}; it joins a mesh with `kubectl label namespace {namespace} {label}=default` (-A lists all namespaces)"
        ),
        None => format!("no route at all; a namespace joins a mesh with the label {label}"),
    }
}

fn rows(facts: &Facts, now: Timestamp) -> Vec<Row> {
    let mut rows: Vec<_> = facts.routes.iter().map(|route| row(facts, route, now)).collect();
    rows.sort_by(|a, b| (&a.namespace, &a.name).cmp(&(&b.namespace, &b.name)));
    rows
}

fn row(facts: &Facts, route: &MeshRoute, now: Timestamp) -> Row {
    let status = route.status.clone().unwrap_or_default();
    let ready = status.conditions.iter().find(|condition| condition.type_ == kind::READY);
    let mesh = status.mesh.unwrap_or_default();
    let (namespace, name) = (route.namespace().unwrap_or_default(), route.name_any());
    Row {
        nodes: nodes(facts, &mesh, &namespace, &name),
        accepted: is_true(&status.conditions, kind::ACCEPTED),
        reason: ready.map(|condition| condition.reason.clone()).unwrap_or_default(),
        message: ready.map(|condition| condition.message.clone()).unwrap_or_default(),
        age: age::age(route.metadata.creation_timestamp.as_ref().map(|time| time.0), now),
        protocol: status.protocol.unwrap_or_default(),
        backends: status.backends.unwrap_or_default(),
        endpoints: status.endpoints,
        programmed: status.programmed,
        namespace,
        name,
        mesh,
    }
}

/// The nodes of `mesh`, by name, and how far each is with one route.
fn nodes(facts: &Facts, mesh: &str, namespace: &str, name: &str) -> Vec<NodeState> {
    if mesh.is_empty() {
        return Vec::new();
    }
    let key = names::data_key(name);
    let config = facts.config_maps.iter().find(|config| {
        let label = |label: &str| config.labels().get(label).map(String::as_str);
        label(names::LABEL_MESH) == Some(mesh)
            && label(names::LABEL_ROUTES_NAMESPACE) == Some(namespace)
            && config.data.as_ref().is_some_and(|data| data.contains_key(&key))
    });
    let of_mesh: BTreeMap<String, &MeshNode> = facts
        .nodes
        .iter()
        .filter(|node| node.spec.mesh == mesh)
        .map(|node| (node.name_any(), node))
        .collect();
    of_mesh.into_iter().map(|(node, object)| state(node, object, config, &key)).collect()
}

fn state(node: String, object: &MeshNode, config: Option<&ConfigMap>, key: &str) -> NodeState {
    let say = |state, message: &str| NodeState { node, state, message: message.to_owned() };
    let status = object.status.as_ref();
    if status.and_then(|s| s.proxy.as_ref()).is_none_or(|proxy| proxy.state != "Ready") {
        return say("notReady", "");
    }
    let Some(config) = config else { return say("pending", "not written to the proxies' configuration yet") };
    let name = config.name_any();
    let served = status.into_iter().flat_map(|s| &s.configs).find(|served| served.name == name);
    let Some(served) = served else { return say("pending", "") };
    if let Some(rejected) = served.rejected.iter().find(|rejected| rejected.key == key) {
        return say("rejected", &rejected.message);
    }
    // A full list does not say which other keys were refused.
    let certain = served.rejected.len() < REJECTED_MAX;
    let current = config.annotations().get(names::ANNOTATION_DIGEST) == Some(&served.digest);
    say(if certain && current { "programmed" } else { "pending" }, "")
}

/// Nodes in one cell: those that serve the route by name, others with what keeps them.
fn named(nodes: &[NodeState]) -> String {
    let serves = |node: &&NodeState| node.state == "programmed";
    let others =
        nodes.iter().filter(|node| !serves(node)).map(|node| format!("{}({})", node.node, node.state));
    if nodes.len() <= NODES_SHOWN {
        let serving = nodes.iter().filter(serves).map(|node| node.node.clone());
        return serving.chain(others).collect::<Vec<_>>().join(",");
    }
    let others: Vec<_> = others.collect();
    let shown = others.iter().take(NODES_SHOWN).cloned().collect::<BTreeSet<_>>();
    let mut parts = vec![format!("{} of {}", nodes.len() - others.len(), nodes.len())];
    parts.extend(shown);
    if others.len() > NODES_SHOWN {
        parts.push(format!("and {} more", others.len() - NODES_SHOWN));
    }
    parts.join(",")
}

#[cfg(test)]
mod tests;
