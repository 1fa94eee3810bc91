//! A mesh from its first write to its last: what is made, kept, repaired and taken away.

use kube::api::{DeleteParams, ListParams, Patch, PatchParams};
use serde_json::json;

use crate::cluster::{Cluster, SOON, condition, until};
use crate::operator::Operator;

#[tokio::test]
async fn a_mesh_is_written_and_then_nothing_is_also_by_the_next_operator() {
    let cluster = Cluster::new("steady").await;
    cluster.shop().await;
    let operator = Operator::start(&cluster).await;
    until("routes are compiled from the MeshRoutes", SOON, async || {
        let routes = cluster.routes().await;
        routes.len() == 2 && routes.values().all(|text| text.contains("generation: 1"))
    })
    .await;
    cluster.waits_for_proxies().await;
    operator.settle().await;
    let generated = cluster.generated().await;
    let kinds = |kind: &str| generated.keys().filter(|name| name.starts_with(kind)).count();
    assert_eq!(
        (kinds("MeshRoute "), kinds("MeshNode "), kinds("ConfigMap "), kinds("DaemonSet ")),
        (2, 2, 3, 1)
    );
    assert_eq!(generated.len(), 13, "{generated:?}");

    assert!(operator.terminate(), "SIGTERM ends it with success");
    let next = Operator::start(&cluster).await;
    cluster.apply("apiVersion: v1\nkind: Service\nmetadata: {name: noise, namespace: default}\nspec: {clusterIP: None, ports: [{port: 9}]}\n").await;
    next.settle().await;
    // A new leader says once what is wrong; that changes no object.
    let events = next.metric("vicino_operator_writes_total", "kind=\"Event\"");
    assert_eq!(next.writes() - events, 0, "{}", next.get("/metrics"));
    cluster.api("Service", "default").delete("noise", &DeleteParams::default()).await.unwrap();
}

#[tokio::test]
async fn what_somebody_breaks_is_put_right_and_what_leaves_is_deleted() {
    let cluster = Cluster::new("repair").await;
    cluster.shop().await;
    let operator = Operator::start(&cluster).await;
    until("both routes are written", SOON, async || cluster.routes().await.len() == 2).await;
    operator.settle().await;
    let before = cluster.routes().await;

    let map = format!("vicino-{0}-routes-{0}", cluster.name);
    let maps = cluster.api("ConfigMap", "vicino-proxy");
    let broken = json!({"data": {"web.yaml": "half", "foreign.yaml": null}});
    maps.patch(&map, &PatchParams::default(), &Patch::Merge(&broken)).await.unwrap();
    until("the ConfigMap is as it was", SOON, async || cluster.routes().await == before).await;
    maps.delete(&map, &DeleteParams::default()).await.unwrap();
    until("the ConfigMap is there again", SOON, async || cluster.routes().await == before).await;

    let sets = cluster.api("DaemonSet", "vicino-proxy");
    let set = format!("vicino-{}", cluster.name);
    let slower = json!({"spec": {"template": {"spec": {"terminationGracePeriodSeconds": 1}}}});
    sets.patch(&set, &PatchParams::default(), &Patch::Merge(&slower)).await.unwrap();
    until("the DaemonSet is as it was", SOON, async || {
        let set = sets.get(&set).await.unwrap();
        set.data["spec"]["template"]["spec"]["terminationGracePeriodSeconds"] == 35
    })
    .await;

    let gone = format!("{}-2", cluster.name);
    cluster.api("Node", "").delete(&gone, &DeleteParams::default()).await.unwrap();
    cluster.api("Service", &cluster.name).delete("quotes", &DeleteParams::default()).await.unwrap();
    until("node and Service have left", SOON, async || {
        cluster.get("MeshNode", "", &gone).await.is_none()
            && cluster.route("quotes").await.is_none()
            && cluster.routes().await.len() == 1
    })
    .await;
}

#[tokio::test]
async fn an_operator_that_is_killed_over_and_over_ends_where_one_that_lives_does() {
    let cluster = Cluster::new("killed").await;
    cluster.shop().await;
    for _ in 0..4 {
        let operator = Operator::start(&cluster).await;
        cluster.service(&format!("more-{}", operator.pid()), 80).await;
        drop(operator);
    }
    let operator = Operator::start(&cluster).await;
    until("all six Services have routes", SOON, async || cluster.routes().await.len() == 6).await;
    operator.settle().await;
    let generated = cluster.generated().await;
    assert_eq!(generated.keys().filter(|name| name.starts_with("MeshRoute ")).count(), 6);
    assert_eq!(generated.len(), 17, "{generated:?}");
}

#[tokio::test]
async fn of_two_meshes_the_younger_stalls_and_a_label_that_names_none_is_told() {
    let cluster = Cluster::new("two").await;
    cluster.shop().await;
    let operator = Operator::start(&cluster).await;
    until("the elder is accepted", SOON, async || {
        condition(cluster.get("ServiceMesh", "", &cluster.name).await.as_ref(), "Accepted") == "True/Accepted"
    })
    .await;
    let (name, younger, nowhere) =
        (&cluster.name, format!("{}-b", cluster.name), format!("{}-nowhere", cluster.name));
    // Creation times have whole seconds, and of two equal ones the lower name is older: this one's is higher.
    cluster
        .apply(&format!(
            "
apiVersion: vicino.dev/v1alpha1
kind: ServiceMesh
metadata: {{name: {younger}, labels: {{vicino.dev/api-test: '1'}}}}
spec: {{proxy: {{nodeSelector: {{vicino.dev/api-test: {name}}}}}}}
---
apiVersion: v1
kind: Namespace
metadata: {{name: {nowhere}, labels: {{vicino.dev/api-test: '1', vicino.dev/mesh: no-such-mesh}}}}
"
        ))
        .await;
    until("the younger stalls", SOON, async || {
        let mesh = cluster.get("ServiceMesh", "", &younger).await;
        condition(mesh.as_ref(), "Stalled") == "True/NodesBelongToAnotherMesh"
            && condition(mesh.as_ref(), "Accepted") == "False/NodesBelongToAnotherMesh"
    })
    .await;
    until("the namespace has an event", SOON, async || {
        let events = cluster.api("Event", &nowhere).list(&ListParams::default()).await.unwrap();
        events.items.iter().any(|event| event.data["reason"] == "MeshNotFound")
    })
    .await;
    cluster.api("ServiceMesh", "").delete(name, &DeleteParams::default()).await.unwrap();
    until("the younger has the nodes", SOON, async || {
        condition(cluster.get("ServiceMesh", "", &younger).await.as_ref(), "Accepted") == "True/Accepted"
    })
    .await;
    drop(operator);
}
