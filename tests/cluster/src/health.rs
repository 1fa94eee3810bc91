//! Owns judging a cluster from outside: which programs run, whether the API server answers, which nodes are Ready.

use std::time::Duration;

use futures::future::join_all;
use k8s_openapi::api::apps::v1::Deployment;
use k8s_openapi::api::coordination::v1::Lease;
use k8s_openapi::api::core::v1::Node;
use k8s_openapi::jiff::Timestamp;
use kube::Client;
use kube::api::Api;

use crate::cluster::Cluster;
use crate::role::Role;

/// One question's patience: a frozen API server must not hang its asker.
const ASK_BOUND: Duration = Duration::from_secs(3);

/// What can be seen of a cluster.
#[derive(Debug, Clone)]
pub struct Health {
    /// Whether `up` came to its end.
    pub complete: bool,
    /// Every program's role and whether it runs.
    pub programs: Vec<(String, bool)>,
    /// Whether the API server says that it is ready.
    pub api: bool,
    /// Every node and whether it is Ready; unknown without the API server.
    pub nodes: Vec<(String, Option<bool>)>,
}

/// What the API server knows of a node.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct NodeState {
    /// Whether its Ready condition is True.
    pub ready: bool,
    /// When its kubelet last renewed its lease.
    pub renewed: Option<Timestamp>,
}

impl Health {
    /// What is wrong, in a few words; none when all is well.
    pub fn trouble(&self) -> Option<String> {
        if !self.complete {
            return Some("was never complete".to_owned());
        }
        let lacks = |what: &str, names: Vec<&str>| {
            (!names.is_empty()).then(|| format!("{} {what}", names.join(", ")))
        };
        let dead = self.programs.iter().filter(|(_, runs)| !runs).map(|(role, _)| role.as_str()).collect();
        let lost = self.nodes.iter().filter(|(_, ready)| *ready != Some(true)).map(|(node, _)| node.as_str());
        lacks("does not run", dead)
            .or_else(|| (!self.api).then(|| "its API server does not answer".to_owned()))
            .or_else(|| lacks("is not Ready", lost.collect()))
    }
}

/// Looks at a cluster, within a few seconds whatever its state.
pub async fn of(cluster: &Cluster) -> Health {
    let layout = cluster.layout();
    let nodes = layout.node_list();
    let mut roles = vec![Role::Etcd, Role::ApiServer, Role::ControllerManager, Role::Scheduler];
    roles.extend(nodes.iter().flat_map(Role::of_node));
    let programs = roles.iter().map(|role| (role.to_string(), role.running(&cluster.store).is_some()));
    let programs = programs.collect();
    let client = cluster.client().await.ok();
    let api = match &client {
        Some(client) => api_ready(client).await,
        None => false,
    };
    let nodes = join_all(nodes.iter().map(async |node| {
        let state = match &client {
            Some(client) if api => node_ready(client, &node.name).await,
            _ => None,
        };
        (node.name.clone(), state.map(|state| state.ready))
    }));
    let complete = cluster.store.state().complete;
    Health { complete, programs, api, nodes: nodes.await }
}

/// Whether the API server says that it is ready.
pub async fn api_ready(client: &Client) -> bool {
    let request = hyper::Request::get("/readyz").body(Vec::new()).expect("a constant request is valid");
    let answer = tokio::time::timeout(ASK_BOUND, client.request_text(request)).await;
    answer.is_ok_and(|answer| answer.is_ok_and(|text| text.trim() == "ok"))
}

/// What the API server knows of a node; none when it does not say.
pub async fn node_ready(client: &Client, name: &str) -> Option<NodeState> {
    let ask = async {
        let node = Api::<Node>::all(client.clone()).get(name).await.ok()?;
        let conditions = node.status.and_then(|status| status.conditions).unwrap_or_default();
        let ready = conditions.iter().any(|each| each.type_ == "Ready" && each.status == "True");
        let lease = Api::<Lease>::namespaced(client.clone(), "kube-node-lease").get_opt(name).await.ok()?;
        let renewed = lease.and_then(|lease| lease.spec?.renew_time).map(|time| time.0);
        Some(NodeState { ready, renewed })
    };
    tokio::time::timeout(ASK_BOUND, ask).await.ok()?
}

/// Whether all replicas of a Deployment's current generation are available.
pub async fn deployment_ready(client: &Client, namespace: &str, name: &str) -> bool {
    let api = Api::<Deployment>::namespaced(client.clone(), namespace);
    let Ok(Ok(Some(deployment))) = tokio::time::timeout(ASK_BOUND, api.get_opt(name)).await else {
        return false;
    };
    let wanted = deployment.spec.replicas.unwrap_or(1);
    let generation = deployment.metadata.generation;
    deployment.status.is_some_and(|status| {
        status.observed_generation == generation && status.available_replicas.unwrap_or(0) >= wanted
    })
}
