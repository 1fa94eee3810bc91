//! Watches with gaps: told that their version is gone, cut off, silent about some events; and listings that fail. What was missed is found.

use std::time::Duration;

use kube::api::DeleteParams;
use tokio_util::sync::CancellationToken;

use crate::cluster::{Cluster, SOON, until};
use crate::fault::{Break, Fault, FaultProxy, Record, Verb};
use crate::operator::Operator;

/// The operator's own first pause after a failed listing or watch.
const FIRST_PAUSE: Duration = Duration::from_millis(250);

/// A cluster with an operator that has converged behind a proxy.
async fn converged(test: &str) -> (Cluster, FaultProxy, Operator) {
    let cluster = Cluster::new(test).await;
    cluster.shop().await;
    let proxy = FaultProxy::start(&cluster).await;
    let operator = Operator::launch(proxy.kubeconfig());
    until("the operator converges", SOON, async || cluster.converged().await).await;
    (cluster, proxy, operator)
}

fn lists(proxy: &FaultProxy, resource: &str) -> usize {
    proxy.count(|record| record.asked.is(Verb::List, resource) && record.succeeded())
}

/// Breaks the watch of a kind; the moment between two watches is waited out.
async fn break_watch(proxy: &FaultProxy, resource: &str, how: Break) {
    until(&format!("{resource} are watched"), SOON, async || {
        proxy.break_watches(|kind| kind == resource, how) == 1
    })
    .await;
}

async fn says(cluster: &Cluster, route: &str, text: &str) -> bool {
    cluster.routes().await.get(&format!("{route}.yaml")).is_some_and(|yaml| yaml.contains(text))
}

#[tokio::test]
async fn a_version_that_is_gone_is_listed_anew_and_that_changes_nothing() {
    let (cluster, proxy, operator) = converged("gone").await;
    cluster.waits_for_proxies().await;
    operator.settle().await;
    let writes = operator.writes();
    let kinds = [
        "servicemeshes",
        "meshroutes",
        "meshnodes",
        "namespaces",
        "services",
        "nodes",
        "configmaps",
        "daemonsets",
    ];
    for kind in kinds {
        let before = lists(&proxy, kind);
        break_watch(&proxy, kind, Break::Gone).await;
        until(&format!("{kind} are listed again"), SOON, async || lists(&proxy, kind) == before + 1).await;
    }
    operator.settle().await;
    assert_eq!(operator.writes(), writes, "a listing is no change: {}", operator.get("/metrics"));

    cluster.service("web", 81).await;
    until("the next change is followed", SOON, async || says(&cluster, "web", "port: 81").await).await;
}

#[tokio::test]
async fn a_gone_that_comes_instead_of_a_watch_is_listed_anew_too() {
    let (cluster, proxy, _operator) = converged("refused-gone").await;
    let mut listed = false;
    proxy.script(move |asked| {
        listed |= asked.is(Verb::List, "services");
        if asked.is(Verb::Watch, "services") && !listed { Fault::Refuse(410) } else { Fault::None }
    });
    break_watch(&proxy, "services", Break::Cut).await;
    cluster.service("web", 81).await;
    until("a change since then is followed", SOON, async || says(&cluster, "web", "port: 81").await).await;
}

#[tokio::test]
async fn a_watch_that_is_cut_goes_on_where_it_was() {
    let (cluster, proxy, _operator) = converged("cut").await;
    let (back, before) = (CancellationToken::new(), lists(&proxy, "services"));
    let until_then = back.clone();
    proxy.script(move |asked| {
        if asked.is(Verb::Watch, "services") { Fault::Hold(until_then.clone()) } else { Fault::None }
    });
    break_watch(&proxy, "services", Break::Cut).await;
    cluster.service("web", 81).await;
    cluster.service("late", 80).await;
    cluster.api("Service", &cluster.name).delete("quotes", &DeleteParams::default()).await.unwrap();
    back.cancel();
    until("what happened while it was cut is followed", SOON, async || {
        says(&cluster, "web", "port: 81").await
            && says(&cluster, "late", "port: 80").await
            && cluster.routes().await.len() == 2
    })
    .await;
    assert_eq!(lists(&proxy, "services"), before, "everything was listed again, for nothing");
}

#[tokio::test]
async fn events_that_were_swallowed_are_made_up_for_by_the_next_listing() {
    let (cluster, proxy, operator) = converged("swallowed").await;
    let kinds = ["services", "meshroutes", "configmaps", "nodes"];
    for kind in kinds {
        break_watch(&proxy, kind, Break::Swallow).await;
    }
    let (namespace, node) = (&cluster.name, format!("{}-2", cluster.name));
    let delete = async |kind: &str, namespace: &str, name: &str| {
        cluster.api(kind, namespace).delete(name, &DeleteParams::default()).await.unwrap();
    };
    cluster.service("web", 81).await;
    cluster.service("late", 80).await;
    delete("Service", namespace, "quotes").await;
    cluster.users_route("web", "{requeues: 2}").await;
    delete("ConfigMap", "vicino-proxy", &format!("vicino-{namespace}-routes-{namespace}")).await;
    delete("Node", "", &node).await;
    for (kind, at_least) in kinds.into_iter().zip([3, 1, 1, 1]) {
        until(&format!("events of {kind} are swallowed"), SOON, async || {
            proxy.events(kind).swallowed >= at_least
        })
        .await;
    }
    for kind in kinds {
        break_watch(&proxy, kind, Break::Gone).await;
    }
    until("everything is as if it had been watched", SOON, async || {
        let routes = cluster.routes().await;
        routes.len() == 2
            && says(&cluster, "web", "port: 81").await
            && says(&cluster, "web", "requeues: 2").await
            && says(&cluster, "late", "port: 80").await
            && cluster.route("quotes").await.is_none()
            && cluster.route("web").await.is_some_and(|web| web.metadata.labels.is_none())
            && cluster.get("MeshNode", "", &node).await.is_none()
    })
    .await;
    operator.settle().await;
    assert_eq!(cluster.generated().await.len(), 11, "12 less a MeshNode and a user's route, more a late one");
}

#[tokio::test]
async fn nothing_is_written_before_everything_is_seen_and_what_is_missing_is_told() {
    let (cluster, proxy, operator) = converged("unseen").await;
    drop(operator);
    let generated = cluster.generated().await;
    let begun = proxy.log().len();
    proxy.script(|asked| if asked.is(Verb::List, "services") { Fault::Refuse(503) } else { Fault::None });
    let operator = Operator::launch(proxy.kubeconfig());
    until("failures are counted", SOON, async || {
        operator.metric("vicino_operator_errors_total", "step=\"watch\"") >= 2
    })
    .await;
    assert!(operator.get("/readyz").contains("not listed yet"));
    proxy.pass();
    cluster.service("web", 81).await;
    until("it leads after all", SOON, async || says(&cluster, "web", "port: 81").await).await;

    let log = &proxy.log()[begun..];
    let first = |holds: &dyn Fn(&Record) -> bool| log.iter().position(holds).unwrap();
    let seen = first(&|record| record.asked.is(Verb::List, "services") && record.succeeded());
    assert!(seen < first(&|record| record.asked.changes()), "it wrote before it knew the Services");
    let refused: Vec<_> =
        log.iter().filter(|record| record.code == Some(503)).map(|record| record.at).collect();
    let shortest = refused.windows(2).map(|pair| pair[1] - pair[0]).min().unwrap();
    assert!(shortest >= FIRST_PAUSE / 2, "{shortest:?} between two attempts");
    let kept: Vec<_> = cluster.generated().await.into_keys().collect();
    assert_eq!(kept, generated.into_keys().collect::<Vec<_>>());
}
