//! An operator that is shown the past when it starts: it must not take what exists now for what existed then.
//!
//! An API server answers so only by mistake, as long as it is asked for the newest. What is written is guarded by UID and
//! version all the same.

use kube::api::DeleteParams;
use tokio_util::sync::CancellationToken;

use crate::cluster::{Cluster, SOON, condition, until};
use crate::fault::{Fault, FaultProxy, Record, Verb};
use crate::operator::Operator;

/// What users want in these tests, and no default has.
const USERS: &str = "{requeues: 2}";

/// An operator that has converged is killed; what it was told about a kind is kept.
async fn history(cluster: &Cluster, proxy: &FaultProxy, resource: &'static str) -> hyper::body::Bytes {
    let first = Operator::launch(proxy.kubeconfig());
    until("the first operator converges", SOON, async || cluster.converged().await).await;
    drop(first);
    // The first one was told of a cluster without its own objects.
    let second = Operator::launch(proxy.kubeconfig());
    second.leads(SOON).await;
    assert_eq!(cluster.generated().await.len(), 13);
    drop(second);
    proxy.listed(resource)
}

/// An operator that is told `past` as the present of a kind. No watch of any kind tells it more until the token is cancelled.
fn start_in(
    past: hyper::body::Bytes,
    proxy: &FaultProxy,
    resource: &'static str,
) -> (Operator, CancellationToken) {
    let present = CancellationToken::new();
    let until_then = present.clone();
    let mut first = true;
    proxy.script(move |asked| {
        if asked.is(Verb::List, resource) && std::mem::take(&mut first) {
            return Fault::Answer(past.clone());
        }
        if asked.verb == Verb::Watch { Fault::Hold(until_then.clone()) } else { Fault::None }
    });
    (Operator::launch(proxy.kubeconfig()), present)
}

/// The status of the last answer about an object.
fn answered(proxy: &FaultProxy, verb: Verb, resource: &str, name: &str) -> Option<u16> {
    let about = |record: &&Record| {
        let asked = &record.asked;
        asked.is(verb, resource) && asked.name == name && asked.subresource.is_empty()
    };
    proxy.log().iter().filter(about).filter_map(|record| record.code).next_back()
}

async fn delete(cluster: &Cluster, kind: &str, namespace: &str, name: &str) {
    cluster.api(kind, namespace).delete(name, &DeleteParams::default()).await.unwrap();
    until(&format!("{kind} {name} is gone"), SOON, async || {
        cluster.get(kind, namespace, name).await.is_none()
    })
    .await;
}

/// The user's route, and whether it is as the user made it.
async fn is_users(cluster: &Cluster, name: &str, uid: &str) -> bool {
    let Some(route) = cluster.route(name).await else { return false };
    assert_eq!(route.metadata.uid.as_deref(), Some(uid), "the user's {name} was deleted and made again");
    assert_eq!(route.data["spec"]["requeues"], 2, "the user's {name} was overwritten");
    route.metadata.labels.is_none() && route.metadata.owner_references.is_none()
}

#[tokio::test]
async fn routes_that_users_made_since_then_are_neither_deleted_nor_forgotten() {
    let cluster = Cluster::new("past-users").await;
    cluster.shop().await;
    let proxy = FaultProxy::start(&cluster).await;
    let past = history(&cluster, &proxy, "meshroutes").await;

    // Both defaults have been replaced by users since, and of one the Service is gone.
    delete(&cluster, "MeshRoute", &cluster.name, "web").await;
    delete(&cluster, "MeshRoute", &cluster.name, "quotes").await;
    delete(&cluster, "Service", &cluster.name, "quotes").await;
    let (web, quotes) = (cluster.users_route("web", USERS).await, cluster.users_route("quotes", USERS).await);
    let (operator, present) = start_in(past, &proxy, "meshroutes");
    operator.leads(SOON).await;
    assert_eq!(answered(&proxy, Verb::Delete, "meshroutes", "quotes"), Some(409), "the default that was");

    present.cancel();
    until("it has seen what happened since", SOON, async || {
        let routes = cluster.routes().await;
        routes.len() == 1
            && routes["web.yaml"].contains("requeues: 2")
            && condition(cluster.route("web").await.as_ref(), "Accepted") == "True/Accepted"
            && condition(cluster.route("quotes").await.as_ref(), "Accepted").starts_with("False/")
    })
    .await;
    assert!(is_users(&cluster, "web", &web).await && is_users(&cluster, "quotes", &quotes).await);
}

#[tokio::test]
async fn a_users_route_that_was_taken_for_missing_is_let_go_at_once() {
    let cluster = Cluster::new("past-missing").await;
    cluster.shop().await;
    let proxy = FaultProxy::start(&cluster).await;
    let past = history(&cluster, &proxy, "meshroutes").await;

    cluster.service("late", 80).await;
    let late = cluster.users_route("late", USERS).await;
    let (operator, present) = start_in(past, &proxy, "meshroutes");
    operator.leads(SOON).await;
    assert_eq!(
        answered(&proxy, Verb::Write, "meshroutes", "late"),
        Some(200),
        "it was not taken for missing"
    );
    // The answer to its own write is all that tells it.
    until("the user's route is the user's, and obeyed", SOON, async || {
        is_users(&cluster, "late", &late).await
            && cluster.routes().await.get("late.yaml").is_some_and(|text| text.contains("requeues: 2"))
    })
    .await;

    present.cancel();
    operator.settle().await;
    assert!(is_users(&cluster, "late", &late).await);
}

#[tokio::test]
async fn a_users_route_that_was_taken_for_missing_keeps_the_labels_that_ours_would_have() {
    let cluster = Cluster::new("past-labels").await;
    cluster.shop().await;
    let proxy = FaultProxy::start(&cluster).await;
    let past = history(&cluster, &proxy, "meshroutes").await;

    cluster.service("late", 80).await;
    cluster
        .apply(&format!(
            "
apiVersion: vicino.dev/v1alpha1
kind: MeshRoute
metadata: {{name: late, namespace: {}, labels: {{app.kubernetes.io/managed-by: Helm}}}}
spec: {USERS}
",
            cluster.name
        ))
        .await;
    let made = cluster.route("late").await.unwrap().metadata;
    let (operator, present) = start_in(past, &proxy, "meshroutes");
    operator.leads(SOON).await;
    assert_eq!(answered(&proxy, Verb::Write, "meshroutes", "late"), Some(409), "taken for missing");

    present.cancel();
    until("the user's route is obeyed", SOON, async || {
        cluster.routes().await.get("late.yaml").is_some_and(|text| text.contains("requeues: 2"))
    })
    .await;
    operator.settle().await;
    let now = cluster.route("late").await.unwrap().metadata;
    assert_eq!((now.uid, now.labels, now.owner_references), (made.uid, made.labels, None));
}

#[tokio::test]
async fn a_config_map_that_was_made_again_is_written_once_its_maker_is_known() {
    let cluster = Cluster::new("past-maps").await;
    cluster.shop().await;
    let proxy = FaultProxy::start(&cluster).await;
    let past = history(&cluster, &proxy, "configmaps").await;

    let map = format!("vicino-{0}-routes-{0}", cluster.name);
    delete(&cluster, "ConfigMap", "vicino-proxy", &map).await;
    let again = Operator::launch(proxy.kubeconfig());
    until("it is made again", SOON, async || cluster.routes().await.len() == 2).await;
    drop(again);
    let now = cluster.get("ConfigMap", "vicino-proxy", &map).await.unwrap().metadata.uid;
    cluster.service("web", 81).await;

    let (operator, present) = start_in(past, &proxy, "configmaps");
    operator.leads(SOON).await;
    let refused = answered(&proxy, Verb::Write, "configmaps", &map);
    assert!(matches!(refused, Some(409 | 422)), "an incarnation that is gone was written: {refused:?}");
    until(
        "the mesh says that it is being worked on, which it is, not that somebody has to act",
        SOON,
        async || {
            let mesh = cluster.get("ServiceMesh", "", &cluster.name).await;
            condition(mesh.as_ref(), "Ready") == "False/ApplyFailed"
                && condition(mesh.as_ref(), "Reconciling") == "True/ApplyFailed"
                && condition(mesh.as_ref(), "Stalled") == "absent"
        },
    )
    .await;

    present.cancel();
    until("it is written, and the mesh is as well as before", SOON, async || {
        let mesh = cluster.get("ServiceMesh", "", &cluster.name).await;
        cluster.routes().await["web.yaml"].contains("port: 81")
            && condition(mesh.as_ref(), "Ready").starts_with("False/Proxies")
    })
    .await;
    assert_eq!(cluster.get("ConfigMap", "vicino-proxy", &map).await.unwrap().metadata.uid, now);
}

#[tokio::test]
async fn somebody_elses_config_map_of_the_same_name_is_left_alone() {
    let cluster = Cluster::new("past-names").await;
    cluster.shop().await;
    let proxy = FaultProxy::start(&cluster).await;
    let past = history(&cluster, &proxy, "configmaps").await;

    // The namespace has left the mesh, its ConfigMap is gone, and somebody uses the name.
    let map = format!("vicino-{0}-routes-{0}", cluster.name);
    let (namespace, label) = (&cluster.name, "vicino.dev/api-test: '1'");
    cluster
        .apply(&format!(
            "apiVersion: v1\nkind: Namespace\nmetadata: {{name: {namespace}, labels: {{{label}}}}}\n"
        ))
        .await;
    delete(&cluster, "ConfigMap", "vicino-proxy", &map).await;
    let owner = format!("ownerReferences: [{{apiVersion: v1, kind: Node, name: {namespace}-1, uid: {}}}]", {
        cluster.get("Node", "", &format!("{namespace}-1")).await.unwrap().metadata.uid.unwrap()
    });
    cluster
        .apply(&format!(
            "apiVersion: v1\nkind: ConfigMap\nmetadata: {{name: {map}, namespace: vicino-proxy, {owner}}}\ndata: {{mine: '1'}}\n"
        ))
        .await;

    let (operator, present) = start_in(past, &proxy, "configmaps");
    operator.leads(SOON).await;
    assert_eq!(answered(&proxy, Verb::Delete, "configmaps", &map), Some(409), "by name it would be deleted");
    present.cancel();
    operator.settle().await;
    let theirs =
        cluster.get("ConfigMap", "vicino-proxy", &map).await.expect("somebody else's is still there");
    assert_eq!(theirs.data["data"], serde_json::json!({"mine": "1"}));
    let failed = proxy.count(|record| record.asked.is(Verb::Delete, "configmaps") && record.succeeded());
    assert_eq!(failed, 0);
}

#[tokio::test]
async fn a_service_that_was_not_there_yet_gets_back_its_default_and_keeps_the_users() {
    let cluster = Cluster::new("past-services").await;
    cluster.shop().await;
    let proxy = FaultProxy::start(&cluster).await;
    let past = history(&cluster, &proxy, "services").await;

    cluster.service("default-late", 80).await;
    cluster.service("users-late", 80).await;
    let uid = cluster.users_route("users-late", USERS).await;
    let before = Operator::launch(proxy.kubeconfig());
    until("both are compiled", SOON, async || cluster.routes().await.len() == 4).await;
    drop(before);
    let routes = cluster.routes().await;

    let (operator, present) = start_in(past, &proxy, "services");
    operator.leads(SOON).await;
    until("the user's is said to have no Service, and is left alone", SOON, async || {
        let users = cluster.route("users-late").await;
        condition(users.as_ref(), "Accepted").starts_with("False/")
            && is_users(&cluster, "users-late", &uid).await
    })
    .await;
    present.cancel();
    until("everything is as it was", SOON, async || {
        cluster.routes().await == routes
            && condition(cluster.route("default-late").await.as_ref(), "Accepted") == "True/Accepted"
            && is_users(&cluster, "users-late", &uid).await
    })
    .await;
    operator.settle().await;

    // What keeps an operator from such a past is that it asks for the newest.
    let cached = proxy.count(|record| {
        record.asked.verb == Verb::List && record.asked.parameter("resourceVersion").is_some()
    });
    assert_eq!(cached, 0, "a listing that may come from a cache");
}
