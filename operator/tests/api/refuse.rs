//! Writes that the API server refuses, or whose answers are lost: told in statuses, and forgotten once they succeed.

use std::collections::{BTreeMap, BTreeSet};

use crate::cluster::{Cluster, SOON, condition, until};
use crate::fault::{Break, Fault, FaultProxy};
use crate::operator::Operator;
use crate::programmed::{programmed, proxy as ready_proxy, report};

/// Refuses all writes of a kind.
fn refuse(proxy: &FaultProxy, resource: &'static str) {
    proxy.script(move |asked| {
        if asked.resource == resource && asked.changes() { Fault::Refuse(500) } else { Fault::None }
    });
}

async fn apply_failed(cluster: &Cluster) -> bool {
    let mesh = cluster.get("ServiceMesh", "", &cluster.name).await;
    condition(mesh.as_ref(), "Ready") == "False/ApplyFailed"
        && condition(mesh.as_ref(), "Reconciling") == "True/ApplyFailed"
}

#[tokio::test]
async fn a_mesh_says_what_cannot_be_written_until_it_can() {
    let cluster = Cluster::new("told").await;
    cluster.shop().await;
    let proxy = FaultProxy::start(&cluster).await;
    refuse(&proxy, "clusterrolebindings");
    let operator = Operator::launch(proxy.kubeconfig());
    until("the mesh says what is missing", SOON, async || apply_failed(&cluster).await).await;
    operator.leads(SOON).await;
    // What puts it right is the write alone; no event may help.
    assert!(proxy.break_watches(|_| true, Break::Swallow) > 10);
    proxy.pass();
    until("the mesh says that nothing is missing", SOON, async || cluster.converged().await).await;
}

#[tokio::test]
async fn a_route_whose_change_cannot_be_written_is_not_programmed() {
    let cluster = Cluster::new("unwritten").await;
    cluster.shop().await;
    let proxy = FaultProxy::start(&cluster).await;
    let _operator = Operator::launch(proxy.kubeconfig());
    until("the operator converges", SOON, async || cluster.converged().await).await;
    let pods = [ready_proxy(&cluster, 1).await, ready_proxy(&cluster, 2).await];
    let serve = async || {
        report(&cluster, 1, &pods[0]).await;
        report(&cluster, 2, &pods[1]).await;
    };
    let served = async |name| programmed(&cluster, name).await == "True/Programmed \"2/2\"";
    serve().await;
    until("all is served", SOON, async || served("web").await && served("quotes").await).await;

    refuse(&proxy, "configmaps");
    cluster.service("web", 81).await;
    until("mesh and route say that a change cannot be written", SOON, async || {
        apply_failed(&cluster).await && programmed(&cluster, "web").await == "False/ApplyFailed \"0/2\""
    })
    .await;

    proxy.pass();
    until("it is written", SOON, async || {
        !apply_failed(&cluster).await && programmed(&cluster, "web").await == "False/Programming \"0/2\""
    })
    .await;
    serve().await;
    until("all is served again", SOON, async || served("web").await && served("quotes").await).await;
}

#[tokio::test]
async fn a_write_whose_answer_is_lost_is_found_to_have_happened() {
    let cluster = Cluster::new("lost").await;
    cluster.shop().await;
    let proxy = FaultProxy::start(&cluster).await;
    let mut lost = BTreeSet::new();
    proxy.script(move |asked| {
        // Of each thing the first answer.
        let what = (asked.resource.clone(), asked.name.clone(), asked.subresource.clone());
        let first = asked.changes() && lost.insert(what);
        if first { Fault::Lose } else { Fault::None }
    });
    let operator = Operator::launch(proxy.kubeconfig());
    until("the operator converges all the same", SOON, async || {
        cluster.converged().await && cluster.generated().await.len() == 13
    })
    .await;
    operator.settle().await;
    let mut writes: BTreeMap<_, usize> = BTreeMap::new();
    for record in proxy.log().into_iter().filter(|record| record.asked.changes_object()) {
        *writes.entry((record.asked.resource, record.asked.name)).or_default() += 1;
    }
    assert_eq!(writes.len(), 13);
    assert!(writes.values().all(|times| *times <= 2), "{writes:?}");
}
