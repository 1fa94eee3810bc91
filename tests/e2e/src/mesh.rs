//! Waits for what the kinds promise, and reads them; promises themselves are the operator's and the proxies'.

use std::time::Duration;

use anyhow::{Context, Result};
use k8s_openapi::api::core::v1::Pod;
use k8s_openapi::apimachinery::pkg::apis::meta::v1::Condition;
use kube::api::Api;
use vicino_crds::condition::kind;
use vicino_crds::{MeshNode, MeshRoute, ServiceMesh};
use vicino_wire::hop::{Hello, encode_hello};

use crate::fixture::Fixture;
use crate::workload::{EFFECT_MAX, PODS_READY_MAX, is_ready};

/// One MeshRoute.
pub async fn route(fixture: &Fixture, namespace: &str, name: &str) -> Result<MeshRoute> {
    let api = Api::<MeshRoute>::namespaced(fixture.client.clone(), namespace);
    api.get(name).await.with_context(|| format!("get MeshRoute {namespace}/{name}"))
}

/// One ServiceMesh.
pub async fn mesh(fixture: &Fixture, name: &str) -> Result<ServiceMesh> {
    let api = Api::<ServiceMesh>::all(fixture.client.clone());
    api.get(name).await.with_context(|| format!("get ServiceMesh {name}"))
}

/// One MeshNode.
pub async fn node(fixture: &Fixture, name: &str) -> Result<MeshNode> {
    let api = Api::<MeshNode>::all(fixture.client.clone());
    api.get(name).await.with_context(|| format!("get MeshNode {name}"))
}

/// The condition of a type, when it is about `generation`.
pub fn condition<'a>(conditions: &'a [Condition], kind: &str, generation: i64) -> Option<&'a Condition> {
    conditions.iter().find(|c| c.type_ == kind && c.observed_generation == Some(generation))
}

/// Whether a MeshRoute says that every ready proxy serves its current generation.
pub fn is_programmed(route: &MeshRoute) -> bool {
    let generation = route.metadata.generation.unwrap_or(0);
    let conditions = route.status.as_ref().map(|status| status.conditions.as_slice()).unwrap_or_default();
    condition(conditions, kind::PROGRAMMED, generation).is_some_and(|c| c.status == "True")
}

/// Waits until a MeshRoute is there and Programmed at its current generation.
pub async fn programmed(fixture: &Fixture, namespace: &str, name: &str) -> Result<()> {
    programmed_within(fixture, namespace, name, EFFECT_MAX).await
}

/// Waits until so many endpoints of a Service are ready by its MeshRoute: pods are ready some time before they are endpoints.
pub async fn endpoints(fixture: &Fixture, namespace: &str, name: &str, count: u32) -> Result<()> {
    let what = format!("{count} endpoints of {namespace}/{name}");
    let count = i32::try_from(count).context("a count of pods")?;
    let ready = |route: MeshRoute| route.status?.endpoints.map(|tally| tally.ready);
    fixture
        .until(&what, EFFECT_MAX, async || Ok(ready(route(fixture, namespace, name).await?) == Some(count)))
        .await
}

/// As [`programmed`], with another bound.
pub async fn programmed_within(
    fixture: &Fixture,
    namespace: &str,
    name: &str,
    bound: Duration,
) -> Result<()> {
    let what = format!("MeshRoute {namespace}/{name} to be Programmed");
    let api = Api::<MeshRoute>::namespaced(fixture.client.clone(), namespace);
    let holds = async || Ok(api.get_opt(name).await?.is_some_and(|route| is_programmed(&route)));
    fixture.until(&what, bound, holds).await
}

/// Waits until a MeshRoute's condition has this status and reason and a message that contains `part`.
pub async fn route_says(
    fixture: &Fixture,
    (namespace, name): (&str, &str),
    (kind, status): (&str, &str),
    part: &str,
) -> Result<Condition> {
    let api = Api::<MeshRoute>::namespaced(fixture.client.clone(), namespace);
    let (mut seen, what) = (String::new(), format!("{kind}={status}"));
    let said = vicino_cluster::wait::until_some(&what, EFFECT_MAX, async || {
        let Some(route) = api.get_opt(name).await? else { return Ok(None) };
        let generation = route.metadata.generation.unwrap_or(0);
        let conditions = route.status.map(|status| status.conditions).unwrap_or_default();
        seen = format!("{conditions:?}");
        let found = condition(&conditions, kind, generation);
        Ok(found.filter(|c| c.status == status && c.message.contains(part)).cloned())
    });
    let said = said.await;
    said.with_context(|| {
        format!("MeshRoute {namespace}/{name} should say {kind}={status} with {part:?}: {seen}")
    })
}

/// Waits until a ServiceMesh's condition has this status and a message that contains `part`.
pub async fn mesh_says(fixture: &Fixture, name: &str, kind: &str, status: &str, part: &str) -> Result<()> {
    let (mut seen, what) = (String::new(), format!("{kind}={status}"));
    let api = Api::<ServiceMesh>::all(fixture.client.clone());
    let said = vicino_cluster::wait::until(&what, EFFECT_MAX, async || {
        let Some(mesh) = api.get_opt(name).await? else { return Ok(false) };
        let generation = mesh.metadata.generation.unwrap_or(0);
        let conditions = mesh.status.map(|status| status.conditions).unwrap_or_default();
        seen = format!("{conditions:?}");
        Ok(condition(&conditions, kind, generation)
            .is_some_and(|c| c.status == status && c.message.contains(part)))
    });
    let said = said.await;
    said.with_context(|| format!("ServiceMesh {name} should say {kind}={status} with {part:?}: {seen}"))
}

/// The proxies' pods, in order of name.
pub async fn proxies(fixture: &Fixture) -> Result<Vec<Pod>> {
    fixture.pods(vicino_crds::names::PROXY_NAMESPACE, "").await
}

/// Waits until there are exactly `count` proxies and all are ready.
pub async fn proxies_ready(fixture: &Fixture, count: usize, bound: Duration) -> Result<()> {
    fixture
        .until(&format!("{count} ready proxies"), bound, async || {
            let pods = proxies(fixture).await?;
            Ok(pods.len() == count && pods.iter().all(is_ready))
        })
        .await
}

/// The ready proxy on a node, once there is one.
pub async fn proxy_on(fixture: &Fixture, node: &str) -> Result<Pod> {
    fixture
        .until_some(&format!("a ready proxy on {node}"), PODS_READY_MAX, async || {
            let mut pods = proxies(fixture).await?.into_iter();
            let is_there = |pod: &Pod| pod.spec.as_ref().and_then(|s| s.node_name.as_deref()) == Some(node);
            Ok(pods.find(|pod| is_ready(pod) && is_there(pod)))
        })
        .await
}

/// What a node's proxy says to scrapers.
pub async fn metrics(fixture: &Fixture, node: &str) -> Result<String> {
    let arguments = ["--silent", "--fail", "--max-time", "30", "http://127.0.0.1:9991/metrics"];
    let output = fixture.cluster.in_node(node, "curl", arguments).await?;
    Ok(String::from_utf8_lossy(&output.stdout).into_owned())
}

/// One of these: `name` with its labels.
pub async fn metric(fixture: &Fixture, node: &str, name: &str) -> Result<f64> {
    let text = metrics(fixture, node).await?;
    let value = text.lines().find_map(|line| line.strip_prefix(name)?.strip_prefix(' ')?.parse().ok());
    value.with_context(|| format!("{node} has no metric {name}: {text}"))
}

/// With what somebody who speaks the hop's protocol begins.
pub fn hello() -> Result<Vec<u8>> {
    let mut bytes = Vec::new();
    let own = Hello { max_streams: 1, initial_window: 65_535, max_frame: 1024, binds_late: false, node: "a" };
    encode_hello(&mut bytes, &own)?;
    Ok(bytes)
}
