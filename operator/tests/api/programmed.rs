//! `Programmed` with proxies that are played by the test: the promise is kept to the node and the generation.

use std::time::Duration;

use kube::api::{Patch, PatchParams};
use serde_json::json;

use crate::cluster::{Cluster, SOON, condition, until};
use crate::operator::Operator;

/// How soon a report is heeded on a busy machine: it is not what the operator looks at from time to time.
const PROMPT: Duration = Duration::from_secs(15);

/// A ready proxy pod on a node of the test.
pub(crate) async fn proxy(cluster: &Cluster, number: usize) -> String {
    let (mesh, pod) = (&cluster.name, format!("vicino-{}-{number}", cluster.name));
    cluster
        .apply(&format!(
            "
apiVersion: v1
kind: Pod
metadata:
  name: {pod}
  namespace: vicino-proxy
  labels: {{app.kubernetes.io/managed-by: vicino-operator, vicino.dev/mesh: {mesh}}}
spec:
  nodeName: {mesh}-{number}
  hostNetwork: true
  automountServiceAccountToken: false
  tolerations: [{{operator: Exists}}]
  containers: [{{name: proxy, image: example.invalid/proxy}}]
"
        ))
        .await;
    let ready = json!({"status": {"phase": "Running", "conditions": [{"type": "Ready", "status": "True"}]}});
    let pods = cluster.api("Pod", "vicino-proxy");
    pods.patch_status(&pod, &PatchParams::default(), &Patch::Merge(&ready)).await.unwrap();
    pod
}

/// The proxy says that it serves what is in the ConfigMap now.
pub(crate) async fn report(cluster: &Cluster, number: usize, pod: &str) {
    let map = format!("vicino-{0}-routes-{0}", cluster.name);
    let live = cluster.get("ConfigMap", "vicino-proxy", &map).await.unwrap();
    let digest = live.metadata.annotations.unwrap()["vicino.dev/digest"].clone();
    let status = json!({
        "apiVersion": "vicino.dev/v1alpha1", "kind": "MeshNode",
        "metadata": {"name": format!("{}-{number}", cluster.name)},
        "status": {
            "proxy": {"pod": pod, "version": "1", "contract": 1, "state": "Ready"},
            "configs": [{"name": map, "digest": digest}], "routes": 2, "rejectedCount": 0,
        },
    });
    let node = format!("{}-{number}", cluster.name);
    let params = PatchParams::apply("vicino-proxy").force();
    cluster.api("MeshNode", "").patch_status(&node, &params, &Patch::Apply(&status)).await.unwrap();
}

pub(crate) async fn programmed(cluster: &Cluster, name: &str) -> String {
    let route = cluster.route(name).await;
    let summary = route.as_ref().and_then(|route| route.data.pointer("/status/programmed/summary").cloned());
    format!("{} {}", condition(route.as_ref(), "Programmed"), summary.unwrap_or_default())
}

#[tokio::test]
async fn programmed_is_true_when_every_ready_proxy_serves_this_generation() {
    let cluster = Cluster::new("gate").await;
    cluster.shop().await;
    let operator = Operator::start(&cluster).await;
    until("there are routes and nodes", SOON, async || {
        cluster.routes().await.len() == 2 && cluster.generated().await.len() == 13
    })
    .await;
    operator.settle().await;
    let pods = [proxy(&cluster, 1).await, proxy(&cluster, 2).await];
    report(&cluster, 1, &pods[0]).await;
    until("one of two serves", SOON, async || {
        programmed(&cluster, "web").await == "False/Programming \"1/2\""
    })
    .await;
    report(&cluster, 2, &pods[1]).await;
    let took =
        until("both serve", SOON, async || programmed(&cluster, "web").await == "True/Programmed \"2/2\"")
            .await;
    assert!(took < PROMPT, "a report took {took:?} to become Programmed");

    cluster.service("web", 81).await;
    until("a changed Service is not programmed, another one still is", SOON, async || {
        programmed(&cluster, "web").await == "False/Programming \"0/2\""
            && programmed(&cluster, "quotes").await == "True/Programmed \"2/2\""
    })
    .await;
    report(&cluster, 1, &pods[0]).await;
    report(&cluster, 2, &pods[1]).await;
    until("it is again", SOON, async || programmed(&cluster, "web").await == "True/Programmed \"2/2\"").await;
}
