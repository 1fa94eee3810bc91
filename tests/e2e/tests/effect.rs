//! How soon a change is in force everywhere: figures, measured with calls on every node and with the route's status.

use std::time::Duration;

use anyhow::{Context, Result};
use k8s_openapi::api::discovery::v1::EndpointSlice;
use kube::ResourceExt;
use kube::api::{Api, Patch, PatchParams};
use serde_json::{Value, json};
use tokio::time::{Instant, sleep};
use vicino_crds::MeshRoute;
use vicino_e2e::figures::{self, Durations};
use vicino_e2e::watcher::Watcher;
use vicino_e2e::workload::{App, EFFECT_MAX, Space};
use vicino_e2e::{Fixture, mesh, scenario};

/// Changes of each kind.
const CHANGES: usize = 100;
/// Between two looks at a status.
const LOOK: Duration = Duration::from_millis(5);

fn watchers(space: &Space<'_>, url: &str) -> Result<Vec<Watcher>> {
    space.callers.iter().map(|caller| Watcher::start(caller, url)).collect()
}

/// The last of all nodes to be answered by `who`, counted from `start`.
async fn everywhere(watchers: &mut [Watcher], who: &str, start: Instant) -> Result<Duration> {
    let mut last = start;
    for watcher in watchers {
        last = last.max(watcher.answered_by(who, EFFECT_MAX).await?);
    }
    Ok(last - start)
}

#[test]
fn a_changed_route_is_in_force_on_every_node() {
    scenario("effect-route", async |fixture| {
        let apps = [App::new("switch", 1), App::new("green", 3), App::new("blue", 3)];
        let space = Space::new(fixture, "effect", &apps).await?;
        let api = Api::<MeshRoute>::namespaced(fixture.client.clone(), &space.name);
        let mut nodes = watchers(&space, "http://switch/status?code=200")?;
        let (mut effective, mut programmed) = (Durations::default(), Durations::default());
        for change in 0..CHANGES {
            let to = ["green", "blue"][change % 2];
            let patch = json!({ "spec": { "backends": [{ "name": to }] } });
            let start = Instant::now();
            let patched = api.patch("switch", &PatchParams::default(), &Patch::Merge(&patch)).await;
            let generation = patched.context("change the route")?.metadata.generation;
            let (in_force, told) =
                tokio::join!(everywhere(&mut nodes, to, start), told(&api, "switch", generation, start));
            effective.add(in_force.with_context(|| format!("change {change}"))?);
            programmed.add(told?);
        }
        figures::print(format!("MeshRoute changed -> in force on every node: {effective}"));
        figures::print(format!("MeshRoute changed -> Programmed: {programmed}"));
        space.leave().await
    });
}

/// Until the status says Programmed at `generation`.
async fn told(api: &Api<MeshRoute>, name: &str, generation: Option<i64>, start: Instant) -> Result<Duration> {
    let look = async {
        loop {
            let route = api.get(name).await?;
            if route.metadata.generation == generation && mesh::is_programmed(&route) {
                return anyhow::Ok(start.elapsed());
            }
            sleep(LOOK).await;
        }
    };
    tokio::time::timeout(EFFECT_MAX, look).await.context("Programmed")?
}

#[test]
fn an_endpoint_that_comes_or_goes_is_in_force_on_every_node() {
    scenario("effect-endpoint", async |fixture| {
        let apps = [App::new("green", 1), App::new("blue", 1)];
        let space = Space::new(fixture, "endpoint", &apps).await?;
        // A Service whose endpoints are ours to write: what is measured is the mesh, not how long a pod takes to start.
        space.apply(&hand_made_service().to_string()).await?;
        let endpoints = [endpoint(fixture, &space, "green").await?, endpoint(fixture, &space, "blue").await?];
        let api = Api::<EndpointSlice>::namespaced(fixture.client.clone(), &space.name);
        space.apply(&slice(&endpoints[1]).to_string()).await?;
        mesh::programmed(fixture, &space.name, "hand-made").await?;
        space.reachable("hand-made").await?;
        let mut nodes = watchers(&space, "http://hand-made/status?code=200")?;
        let (mut swapped, mut gone, mut back) =
            (Durations::default(), Durations::default(), Durations::default());
        for change in 0..CHANGES {
            let to = ["green", "blue"][change % 2];
            let start = replace(&api, std::slice::from_ref(&endpoints[change % 2])).await?;
            swapped.add(everywhere(&mut nodes, to, start).await?);
            if change % 4 == 0 {
                let start = replace(&api, &[]).await?;
                gone.add(everywhere(&mut nodes, "no-endpoint", start).await?);
                let start = replace(&api, std::slice::from_ref(&endpoints[change % 2])).await?;
                back.add(everywhere(&mut nodes, to, start).await?);
            }
        }
        figures::print(format!("one endpoint came and another went -> in force on every node: {swapped}"));
        figures::print(format!("the last endpoint went -> in force on every node: {gone}"));
        figures::print(format!("the first endpoint came -> in force on every node: {back}"));
        space.leave().await
    });
}

fn hand_made_service() -> Value {
    json!({
        "apiVersion": "v1", "kind": "Service", "metadata": { "name": "hand-made" },
        "spec": { "ports": [{ "name": "http", "port": 80, "targetPort": 8080 }] },
    })
}

fn slice(endpoint: &Value) -> Value {
    json!({
        "apiVersion": "discovery.k8s.io/v1", "kind": "EndpointSlice",
        "metadata": { "name": "hand-made-1", "labels": { "kubernetes.io/service-name": "hand-made" } },
        "addressType": "IPv4", "endpoints": [endpoint],
        "ports": [{ "name": "http", "port": 8080, "protocol": "TCP" }],
    })
}

/// The endpoint that a pod of `app` is.
async fn endpoint(fixture: &Fixture, space: &Space<'_>, app: &str) -> Result<Value> {
    let pods = fixture.pods(&space.name, &format!("app={app}")).await?;
    let pod = pods.first().with_context(|| format!("no pod of {app}"))?;
    let target = json!({ "kind": "Pod", "name": pod.name_any(), "namespace": space.name, "uid": pod.uid() });
    Ok(json!({
        "addresses": [pod.status.as_ref().and_then(|s| s.pod_ip.clone())],
        "conditions": { "ready": true, "serving": true, "terminating": false },
        "nodeName": pod.spec.as_ref().and_then(|s| s.node_name.clone()),
        "targetRef": target,
    }))
}

/// Writes the slice's endpoints; the time just before.
async fn replace(api: &Api<EndpointSlice>, endpoints: &[Value]) -> Result<Instant> {
    let start = Instant::now();
    let patch = json!({ "endpoints": endpoints });
    api.patch("hand-made-1", &PatchParams::default(), &Patch::Merge(&patch))
        .await
        .context("change the slice")?;
    Ok(start)
}
