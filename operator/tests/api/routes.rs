//! MeshRoutes between operator and user: who owns which field, what a mistake does, how the default comes back.

use kube::api::{DeleteParams, Patch, PatchParams};
use kube::core::DynamicObject;
use serde_json::json;

use crate::cluster::{Cluster, SOON, condition, until};
use crate::operator::Operator;

fn marked(route: Option<&DynamicObject>) -> bool {
    route.is_some_and(|route| {
        route.metadata.labels.as_ref().is_some_and(|labels| labels.contains_key("vicino.dev/mesh"))
            && route.metadata.owner_references.as_ref().is_some_and(|owners| owners.len() == 1)
    })
}

fn bare(route: Option<&DynamicObject>) -> bool {
    route.is_some_and(|route| route.metadata.labels.is_none() && route.metadata.owner_references.is_none())
}

#[tokio::test]
async fn a_users_route_is_the_users_and_without_it_the_default_is_back() {
    let cluster = Cluster::new("owner").await;
    cluster.shop().await;
    let operator = Operator::start(&cluster).await;
    until("the default is there", SOON, async || marked(cluster.route("web").await.as_ref())).await;

    cluster.users_route("web", "{requeues: 2}").await;
    until("the operator lets go, and obeys", SOON, async || {
        bare(cluster.route("web").await.as_ref())
            && cluster.routes().await.get("web.yaml").is_some_and(|text| text.contains("requeues: 2"))
    })
    .await;
    operator.settle().await;
    let version = cluster.route("web").await.unwrap().metadata.resource_version;
    cluster.users_route("web", "{requeues: 2}").await;
    operator.settle().await;
    assert_eq!(
        cluster.route("web").await.unwrap().metadata.resource_version,
        version,
        "applying again is no drift"
    );

    cluster.api("MeshRoute", &cluster.name).delete("web", &DeleteParams::default()).await.unwrap();
    until("the default is back", SOON, async || {
        marked(cluster.route("web").await.as_ref())
            && cluster.routes().await.get("web.yaml").is_some_and(|text| text.contains("requeues: 1"))
    })
    .await;
}

#[tokio::test]
async fn a_condition_that_somebody_adds_stays_and_makes_no_writes() {
    let cluster = Cluster::new("reviewed").await;
    cluster.shop().await;
    let operator = Operator::start(&cluster).await;
    until("it is accepted", SOON, async || {
        condition(cluster.route("web").await.as_ref(), "Accepted") == "True/Accepted"
    })
    .await;
    let reviewed = json!({
        "apiVersion": "vicino.dev/v1alpha1", "kind": "MeshRoute", "metadata": { "name": "web" },
        "status": { "conditions": [{ "type": "Reviewed", "status": "True", "reason": "Looked", "message": "",
            "lastTransitionTime": "2026-01-01T00:00:00Z" }] },
    });
    let routes = cluster.api("MeshRoute", &cluster.name);
    routes.patch_status("web", &PatchParams::apply("reviewer"), &Patch::Apply(&reviewed)).await.unwrap();
    until("the operator sees it", SOON, async || {
        condition(cluster.route("web").await.as_ref(), "Reviewed") == "True/Looked"
    })
    .await;
    operator.settle().await;
    let written = || operator.metric("vicino_operator_writes_total", "kind=\"MeshRoute\",verb=\"status\"");
    let before = written();
    // Each of them is a pass, and concerns no route.
    for number in 0..4 {
        let name = format!("{}-{number}", cluster.name);
        let service = json!({ "apiVersion": "v1", "kind": "Service", "metadata": { "name": name },
            "spec": { "ports": [{ "port": 80 }] } });
        let services = cluster.api("Service", "default");
        services.patch(&name, &PatchParams::apply("tests"), &Patch::Apply(&service)).await.unwrap();
        operator.settle().await;
        services.delete(&name, &DeleteParams::default()).await.unwrap();
    }
    operator.settle().await;
    assert_eq!(written(), before);
    assert_eq!(condition(cluster.route("web").await.as_ref(), "Reviewed"), "True/Looked");
}

#[tokio::test]
async fn leaving_the_mesh_takes_the_defaults_and_leaves_the_users() {
    let cluster = Cluster::new("leave").await;
    cluster.shop().await;
    cluster.users_route("web", "{requeues: 2}").await;
    let operator = Operator::start(&cluster).await;
    until("both are written", SOON, async || cluster.routes().await.len() == 2).await;
    let unlabel = json!({"metadata": {"labels": {"vicino.dev/mesh": null}}});
    let namespaces = cluster.api("Namespace", "");
    namespaces.patch(&cluster.name, &PatchParams::default(), &Patch::Merge(&unlabel)).await.unwrap();
    until("the default is gone, the user's says why it does nothing", SOON, async || {
        let users = cluster.route("web").await;
        cluster.route("quotes").await.is_none()
            && cluster.routes().await.is_empty()
            && condition(users.as_ref(), "Accepted") == "False/NamespaceNotMeshed"
    })
    .await;
    drop(operator);
}

#[tokio::test]
async fn a_mistake_is_named_and_changes_nothing_while_everything_else_goes_on() {
    let cluster = Cluster::new("mistake").await;
    cluster.shop().await;
    let operator = Operator::start(&cluster).await;
    until("both are written", SOON, async || {
        cluster.routes().await.values().filter(|text| text.contains("generation: 1")).count() == 2
    })
    .await;
    let before = cluster.routes().await["web.yaml"].clone();
    cluster.users_route("web", "{backends: [{name: nobody}]}").await;
    until("it is refused", SOON, async || {
        let route = cluster.route("web").await;
        condition(route.as_ref(), "Accepted") == "False/BackendNotFound"
            && condition(route.as_ref(), "Stalled") == "True/BackendNotFound"
    })
    .await;
    let message = cluster.route("web").await.unwrap().data["status"]["conditions"][1]["message"].to_string();
    assert!(message.contains("spec.backends[0].name") && message.contains("quotes"), "{message}");
    cluster.service("quotes", 81).await;
    until("another Service goes on", SOON, async || {
        cluster.routes().await["quotes.yaml"].contains("port: 81")
    })
    .await;
    assert_eq!(cluster.routes().await["web.yaml"], before);

    cluster.service("nobody", 80).await;
    until("it is accepted once its backend exists", SOON, async || {
        condition(cluster.route("web").await.as_ref(), "Accepted") == "True/Accepted"
            && cluster.routes().await["web.yaml"].contains("service: nobody")
    })
    .await;
    drop(operator);
}
